package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

func TestResourcesInBothEras(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h, _ := withLibrary(t, mcp.Config{})
			cs := h.client(t, era, h.token(t, acme), nil)
			list, err := cs.ListResources(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var uris []string
			for _, r := range list.Resources {
				uris = append(uris, r.URI+" "+r.Name+" "+r.MIMEType)
			}
			want := []string{
				"atlas://docs/pay pay text/plain", "atlas://docs/plan plan text/plain", "atlas://docs/shared shared text/plain",
				"atlas://logo logo image/png", "atlas://schema/crm schema application/json",
			}
			if diff := cmp.Diff(want, uris); diff != "" {
				t.Error("resources (-want +got):", diff)
			}
			templates, err := cs.ListResourceTemplates(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(templates.ResourceTemplates) != 1 {
				t.Fatalf("%d templates", len(templates.ResourceTemplates))
			}
			if tpl := templates.ResourceTemplates[0]; tpl.URITemplate != "atlas://docs/{id}" || tpl.Name != "docs" || tpl.Title != "Documents" || len(tpl.Icons) != 1 {
				t.Errorf("template %+v", tpl)
			}
			for uri, want := range map[string]*sdk.ResourceContents{
				"atlas://docs/plan":  {URI: "atlas://docs/plan", MIMEType: "text/plain", Text: "acme's plan"},
				"atlas://schema/crm": {URI: "atlas://schema/crm", MIMEType: "application/json", Text: `{"tables":["customers"]}`},
				"atlas://logo":       {URI: "atlas://logo", MIMEType: "image/png", Blob: []byte{0x89, 'P'}},
			} {
				res, err := cs.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri})
				if err != nil {
					t.Fatal(uri, err)
				}
				if diff := cmp.Diff([]*sdk.ResourceContents{want}, res.Contents); diff != "" {
					t.Errorf("%s (-want +got): %s", uri, diff)
				}
				if res.CacheScope != "private" || res.Meta["atlas/request_id"] == nil {
					t.Errorf("%s: %+v", uri, res)
				}
			}
			// The caller with the scope has more, at URIs that are the other's error.
			all, err := h.client(t, era, h.token(t, keeper), nil).ListResources(t.Context(), nil)
			if err != nil || len(all.Resources) != 6 {
				t.Errorf("with the scope: %v, %v", all, err)
			}
		})
	}
}

// What is another tenant's, what is hidden, what nothing matches and what tries to get out of a
// template are, but for the URI that was asked for, byte for byte the same.
func TestWhatMayNotBeReadIsNotThere(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h, _ := withLibrary(t, mcp.Config{})
			tok := h.token(t, globex)
			uris := []string{
				"atlas://docs/plan", "atlas://docs/pay", // acme's
				"atlas://docs/never", "atlas://nothing", "other://x", "no uri at all", "docs", "echo", "vault_key",
				"atlas://vault/plan", "atlas://vault/key", // hidden
				"atlas://docs/../docs/plan", "atlas://docs/..%2fdocs%2fplan", "atlas://docs/%2e%2e/plan", "atlas://docs/plan/", "atlas://docs//plan",
				"atlas://docs/plan%00", "atlas://docs/plan\x00", "atlas://docs/pl\nan", "atlas://docs/{id}", "atlas://docs/", "ATLAS://docs/plan",
				"atlas://docs/plan?tenant=acme", "atlas://docs/plan#x", "atlas://acme@docs/plan", "atlas://docs/" + strings.Repeat("a", 1<<17),
			}
			answers := make(map[string]bool)
			for _, uri := range uris {
				q, _ := json.Marshal(uri)
				status, hd, body := h.post(t, era, tok, message(era, "resources/read", `"uri":`+string(q), ""), nil)
				answers[fmt.Sprint(status, hd.Get("Content-Type"), strings.Replace(body, string(q), "URI", 1))] = true
				if !strings.Contains(body, `"error":{"code":-32602,"message":"Resource not found","data":{"uri":`+string(q)+`}}`) {
					t.Errorf("%.60q: %d %.300s", uri, status, body)
				}
			}
			if len(answers) != 1 {
				t.Errorf("answers differ: %.2000v", answers)
			}
			calls := h.seen()
			if len(calls) != len(uris)+1 { // the hidden key is also what the hidden template matches
				t.Errorf("the pipeline saw %d calls for %d URIs", len(calls), len(uris))
			}
			for _, c := range calls {
				if c.Kind != atlas.KindResource || c.Tenant != "globex" || len(c.Name) > 128 {
					t.Errorf("call %+v", c)
				}
			}
			// The URI that both have is each one's own.
			for who, want := range map[*issuer.Claims]string{&acme: "acme's own", &globex: "globex's own"} {
				var res struct{ Contents []struct{ Text string } }
				h.result(t, era, h.token(t, *who), "resources/read", `"uri":"atlas://docs/shared"`, &res)
				if len(res.Contents) != 1 || res.Contents[0].Text != want {
					t.Errorf("%s reads %+v", who.Tenant, res)
				}
			}
		})
	}
}

// A hidden resource does not take a URI away from one that the caller may see.
func TestHiddenResourceGivesWay(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	open := &atlas.Tool{
		Name: "zz_open", Kind: atlas.KindResource, URI: "atlas://{+path}",
		Match: func(uri string) (json.RawMessage, bool) {
			return json.RawMessage(`{}`), strings.HasPrefix(uri, "atlas://vault/")
		},
		Run: func(context.Context, atlas.Call) (atlas.Result, error) {
			return atlas.Result{Structured: json.RawMessage(`{"open":true}`)}, nil
		},
	}
	h.setTools(append(l.tools(), open)...)
	for claims, want := range map[*issuer.Claims]string{&acme: `{"open":true}`, &keeper: `{"key":1}`} {
		var res struct{ Contents []struct{ Text string } }
		h.result(t, modern, h.token(t, *claims), "resources/read", `"uri":"atlas://vault/key"`, &res)
		if len(res.Contents) != 1 || res.Contents[0].Text != want {
			t.Errorf("%v reads %+v, want %s", claims.Scopes, res, want)
		}
	}
}

func TestReadFailuresAreErrors(t *testing.T) {
	for _, era := range eras {
		h, l := withLibrary(t, mcp.Config{})
		fail := error(nil)
		h.setTools(append(l.tools(), &atlas.Tool{
			Name: "zz", Kind: atlas.KindResource, URI: "zz://x", Match: exactly("zz://x"),
			Run: func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, fail },
		})...)
		for err, want := range map[error]string{
			atlas.Errorf(atlas.CodeNotFound, nil, ""):         `"code":-32602,"message":"Resource not found"`,
			atlas.Errorf(atlas.CodeInvalidArguments, nil, ""): `"code":-32602,"message":"Resource not found"`,
			atlas.Errorf(atlas.CodeDeniedByPolicy, nil, ""):   `"code":"denied_by_policy"`,
			atlas.Errorf(atlas.CodeRateLimited, nil, ""):      `"code":"rate_limited"`,
			errors.New("10.0.0.7 said no"):                    `"code":"internal_error"`,
		} {
			fail = err
			_, _, body := h.post(t, era, h.token(t, acme), message(era, "resources/read", `"uri":"zz://x"`, ""), nil)
			if !strings.Contains(body, want) || !strings.Contains(body, `"error":{`) || strings.Contains(body, "10.0.0.7") {
				t.Errorf("%s %v: %s", era, err, body)
			}
		}
	}
}

// What a template says that there is behind it is checked: it must be its own, and be readable.
func TestListedBehindATemplate(t *testing.T) {
	var logs strings.Builder
	var mu sync.Mutex
	h := newHouse(t, options{deps: func(d *mcp.Deps) { d.Log = slog.New(slog.NewTextHandler(writer{&mu, &logs}, nil)) }})
	l := newLibrary()
	bad := func(name string, list func(context.Context, atlas.Call) ([]atlas.Content, error)) *atlas.Tool {
		return &atlas.Tool{Name: name, Kind: atlas.KindResource, URI: name + "://{id}", Match: func(uri string) (json.RawMessage, bool) {
			return nil, strings.HasPrefix(uri, name+"://")
		}, List: list}
	}
	h.setTools(append(l.tools(),
		bad("foreign", func(context.Context, atlas.Call) ([]atlas.Content, error) {
			return []atlas.Content{{URI: "atlas://docs/foreign"}, {URI: ""}, {URI: "foreign://mine"}, {URI: "foreign://" + strings.Repeat("x", 4000)}, {URI: "foreign://mine"}}, nil
		}),
		bad("failing", func(context.Context, atlas.Call) ([]atlas.Content, error) { return nil, errors.New("down") }),
		bad("panics", func(context.Context, atlas.Call) ([]atlas.Content, error) { panic("oops") }),
		bad("endless", func(ctx context.Context, c atlas.Call) ([]atlas.Content, error) {
			if c.Principal == nil || c.Tenant != "acme" || c.Name != "endless" {
				return nil, fmt.Errorf("call %+v", c)
			}
			out := make([]atlas.Content, 20_000)
			for i := range out {
				out[i].URI = fmt.Sprintf("endless://%05d", i)
			}
			return out, nil
		}),
	)...)
	n, foreign := 0, 0
	for r, err := range h.client(t, modern, h.token(t, acme), nil).Resources(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if strings.Contains(r.URI, "foreign") {
			foreign++
			if r.URI != "foreign://mine" || r.Name != "foreign://mine" {
				t.Errorf("listed %+v", r)
			}
		}
	}
	if foreign != 1 || n > 10_100 || n < 9_900 {
		t.Errorf("%d resources, %d of the bad template", n, foreign)
	}
	mu.Lock()
	defer mu.Unlock()
	if got := logs.String(); !strings.Contains(got, "failing") || !strings.Contains(got, "panics") || strings.Contains(got, "endless") {
		t.Errorf("log %s", got)
	}
}

type writer struct {
	mu *sync.Mutex
	b  *strings.Builder
}

func (w writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func TestResourceAsksItsClient(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	h.setTools(append(l.tools(), &atlas.Tool{Name: "zz", Kind: atlas.KindResource, URI: "zz://x", Match: exactly("zz://x"), Run: asking})...)
	cs := h.client(t, modern, h.token(t, acme), &sdk.ClientOptions{ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
		return &sdk.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ann"}}, nil
	}})
	res, err := cs.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "zz://x"})
	if err != nil || len(res.Contents) != 1 || res.Contents[0].Text != "Hello Ann" {
		t.Errorf("got %+v, %v", res, err)
	}
	calls := h.seen()
	if c := calls[len(calls)-1]; !c.Client.Elicit || c.Client.Sample || c.Reply == nil {
		t.Errorf("call %+v", c)
	}
}

// Every answer of many callers at once is the caller's own.
func TestReadersNeverCross(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			tenant := []atlas.TenantID{"acme", "globex"}[i%2]
			era := eras[i/2%2]
			tok := h.token(t, issuer.Claims{Tenant: tenant, Subject: fmt.Sprint("user-", i)})
			_, _, read := h.post(t, era, tok, message(era, "resources/read", `"uri":"atlas://docs/shared"`, ""), nil)
			_, _, list := h.post(t, era, tok, message(era, "resources/list", "", ""), nil)
			_, _, got := h.post(t, era, tok, message(era, "prompts/get", `"name":"summarise","arguments":{"id":"x"}`, ""), nil)
			_, _, values := h.post(t, era, tok, message(era, "completion/complete", `"ref":{"type":"ref/prompt","name":"summarise"},"argument":{"name":"id","value":"p"}`, ""), nil)
			if !strings.Contains(read, string(tenant)+"'s own") || !strings.Contains(got, " of "+string(tenant)) ||
				strings.Contains(list, "docs/plan") != (tenant == "acme") || strings.Contains(values, "plan") != (tenant == "acme") {
				t.Errorf("%s: %s %s %s %s", tenant, read, list, got, values)
			}
		})
	}
	wg.Wait()
}
