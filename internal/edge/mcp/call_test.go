package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
	"github.com/atlas-mcp/atlas/internal/stage/audit"
	"github.com/atlas-mcp/atlas/internal/stage/registry"
	"github.com/atlas-mcp/atlas/internal/stage/validation"
)

func TestCallInBothEras(t *testing.T) {
	asOf := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h := newHouse(t, options{serve: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
				res, err := whoami(ctx, c)
				res.AsOf, res.Partial = asOf, c.Name == "mail"
				if c.Name == "mail" {
					res.Truncated = true
				}
				return res, err
			}})
			cs := h.client(t, era, h.token(t, issuer.Claims{}), nil)
			if got := cs.InitializeResult().ProtocolVersion; got != era {
				t.Errorf("negotiated %q, want %q", got, era)
			}
			if got := cs.InitializeResult().Capabilities; got.Tools == nil || got.Prompts == nil || got.Resources == nil || got.Completions == nil {
				t.Errorf("capabilities %+v", got)
			}
			res, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "echo", Arguments: map[string]any{"x": "<&>"}})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]any{"tenant": "acme", "subject": "ann", "args": map[string]any{"x": "<&>"}}
			if diff := cmp.Diff(want, res.StructuredContent); diff != "" {
				t.Error("structured (-want +got):", diff)
			}
			var text any
			if err := json.Unmarshal([]byte(res.Content[0].(*sdk.TextContent).Text), &text); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(any(want), text); diff != "" {
				t.Error("text (-want +got):", diff)
			}
			id, _ := res.Meta["atlas/request_id"].(string)
			calls := h.seen()
			call := calls[len(calls)-1]
			if !strings.HasPrefix(id, "req_") || len(id) < 20 || call.ID != id {
				t.Errorf("request id %q, the pipeline has %q", id, call.ID)
			}
			if call.Transport != "http" || call.Op != atlas.OpCall || call.Received.IsZero() {
				t.Errorf("call %+v", call)
			}
			if res.Meta["atlas/as_of"] != "2026-11-20T09:00:00Z" || res.Meta["atlas/reads"] != "private" || res.Meta["atlas/partial"] != nil {
				t.Errorf("meta %v", res.Meta)
			}

			res, err = cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "mail"})
			if err != nil {
				t.Fatal(err)
			}
			if res.Meta["atlas/reads"] != "untrusted" || res.Meta["atlas/partial"] != true || res.Meta["atlas/truncated"] != true {
				t.Errorf("meta %v", res.Meta)
			}
		})
	}
}

func TestResultTypeBelongsToTheNewEra(t *testing.T) {
	fail := func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{}, atlas.Errorf(atlas.CodeTimeout, nil, "")
	}
	for _, era := range eras {
		for name, serve := range map[string]atlas.Handler{"success": whoami, "failure": fail} {
			t.Run(era+"/"+name, func(t *testing.T) {
				h := newHouse(t, options{serve: serve})
				tok := h.token(t, issuer.Claims{})
				for _, method := range []string{"tools/call", "tools/list"} {
					params := ""
					if method == "tools/call" {
						params = `"name":"echo"`
					}
					status, hd, body := h.post(t, era, tok, message(era, method, params, ""), nil)
					var msg struct {
						Result map[string]any `json:"result"`
					}
					if err := json.Unmarshal([]byte(body), &msg); err != nil || status != 200 {
						t.Fatalf("%d %s", status, body)
					}
					if got := msg.Result["resultType"] == "complete"; got != (era == modern) {
						t.Errorf("%s: resultType %v", method, msg.Result["resultType"])
					}
					if ct := hd.Get("Content-Type"); ct != "application/json" {
						t.Errorf("%s: content type %q", method, ct)
					}
					if method == "tools/list" && (msg.Result["cacheScope"] != "private" || msg.Result["ttlMs"] != 10000.) {
						t.Errorf("cache %v for %v", msg.Result["cacheScope"], msg.Result["ttlMs"])
					}
				}
			})
		}
	}
}

func TestFailureIsAResultThatTheModelCanRead(t *testing.T) {
	h := newHouse(t, options{serve: func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Structured: json.RawMessage(`{"half":"done"}`)}, fmt.Errorf("stage: %w", &atlas.Error{
			Code: atlas.CodeRateLimited, RetryAfter: 1500 * time.Millisecond, Err: errors.New("redis 10.0.0.7 said no"),
			Context: map[string]any{"limit": 60},
		})
	}})
	for _, era := range eras {
		res, err := h.client(t, era, h.token(t, issuer.Claims{}), nil).CallTool(t.Context(), &sdk.CallToolParams{Name: "echo"})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"code": "rate_limited", "category": "RESOURCE_EXHAUSTED", "retryable": true, "retry_after_ms": 1500.,
			"hint": "wait, then try again", "suggested_actions": []any{"wait_and_retry"},
			"context": map[string]any{"limit": 60.}, "request_id": res.Meta["atlas/request_id"],
		}
		if diff := cmp.Diff(any(want), res.StructuredContent); diff != "" {
			t.Error("structured (-want +got):", diff)
		}
		text := res.Content[0].(*sdk.TextContent).Text
		line, body, _ := strings.Cut(text, "\n")
		if line != "rate_limited: wait, then try again (retry after 1500 ms)" || !json.Valid([]byte(body)) {
			t.Errorf("text %q", text)
		}
		if !res.IsError || strings.Contains(text, "10.0.0.7") || strings.Contains(text, "half") {
			t.Errorf("isError %v, text %q", res.IsError, text)
		}
	}
}

// What a caller may not use, what was never there and what was just removed must be one and the
// same to it, in status, header and body; and the pipeline must have seen each call.
func TestUnknownHiddenAndRemovedToolsAreTheSame(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h := newHouse(t, options{})
			tok := h.token(t, issuer.Claims{})
			h.setTools(testTools()[1:]...) // echo is gone
			answers := make(map[string]bool)
			names := []string{"echo", "secret", "never", "atlas-tools-changed", strings.Repeat("n", 4000)}
			for _, name := range names {
				// The mirrored argument of the hidden tool is missing among the headers, which the SDK would
				// complain about if it knew the tool.
				q, _ := json.Marshal(name)
				status, hd, body := h.post(t, era, tok, message(era, "tools/call", `"name":`+string(q)+`,"arguments":{"x":"y"}`, ""), nil)
				answers[fmt.Sprint(status, hd.Get("Content-Type"), hd.Get("Content-Length"), body)] = true
				if !strings.Contains(body, `"code":-32602,"message":"Unknown tool"`) {
					t.Errorf("%.20s: %d %s", name, status, body)
				}
			}
			if len(answers) != 1 {
				t.Errorf("answers differ: %v", answers)
			}
			for _, want := range []string{"echo", "secret", "never"} {
				if !slices.ContainsFunc(h.seen(), func(c atlas.Call) bool { return c.Name == want }) {
					t.Errorf("the pipeline did not see the call of %s", want)
				}
			}
			for _, c := range h.seen() {
				if len(c.Name) > 128 {
					t.Errorf("a name of %d bytes reached the pipeline", len(c.Name))
				}
			}
		})
	}
}

func TestListIsThePipelines(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h := newHouse(t, options{cfg: mcp.Config{PageSize: 1}})
			names := func(c issuer.Claims) (out []string) {
				for tool, err := range h.client(t, era, h.token(t, c), nil).Tools(t.Context(), nil) {
					if err != nil {
						t.Fatal(err)
					}
					out = append(out, tool.Name)
				}
				return out
			}
			if diff := cmp.Diff([]string{"echo", "mail"}, names(issuer.Claims{})); diff != "" {
				t.Error("(-want +got):", diff)
			}
			if diff := cmp.Diff([]string{"echo", "mail", "secret"}, names(issuer.Claims{Scopes: []string{"tool:secret:read"}})); diff != "" {
				t.Error("with scope (-want +got):", diff)
			}
			for _, c := range h.seen() {
				if c.Op != atlas.OpList || c.ID == "" || c.Tenant != "acme" {
					t.Errorf("call %+v", c)
				}
			}
			status, _, body := h.post(t, era, h.token(t, issuer.Claims{}), message(era, "tools/list", `"cursor":"%%"`, ""), nil)
			if !strings.Contains(body, "-32602") {
				t.Errorf("bad cursor: %d %s", status, body)
			}
		})
	}
}

func TestListedForm(t *testing.T) {
	h := newHouse(t, options{})
	res, err := h.client(t, modern, h.token(t, issuer.Claims{Scopes: []string{atlas.ScopeAdmin}}), nil).ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	echo, mail, secret := res.Tools[0], res.Tools[1], res.Tools[2]
	props := func(tool *sdk.Tool) map[string]any {
		return tool.InputSchema.(map[string]any)["properties"].(map[string]any)
	}
	if props(mail)["cursor"] == nil || props(echo)["cursor"] != nil {
		t.Error("cursor belongs to tools with items, and to no other")
	}
	if x := props(secret)["x"].(map[string]any); x["x-mcp-header"] != "X" || x["type"] != "string" {
		t.Errorf("property %v", x)
	}
	if a := echo.Annotations; !a.ReadOnlyHint || *a.DestructiveHint || *a.OpenWorldHint || echo.Title != "Echo" || echo.Description == "" {
		t.Errorf("echo %+v %+v", echo, a)
	}
	if a := mail.Annotations; a.ReadOnlyHint || !*a.OpenWorldHint || mail.Meta["atlas/effects"] != "egress" || mail.Meta["atlas/reads"] != "untrusted" {
		t.Errorf("mail %+v %+v", mail.Meta, a)
	}
	out := echo.OutputSchema.(map[string]any)
	if out["type"] != "object" || len(out["anyOf"].([]any)) != 2 || out["$defs"] == nil {
		t.Errorf("output schema %v must allow a failure and keep its definitions", out)
	}
	if string(h.tools[0].Input) != `{"type":"object","properties":{"x":{"type":"string"}}}` {
		t.Error("listing changed the tool itself")
	}
}

func TestMetaReachesThePipeline(t *testing.T) {
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	h := newHouse(t, options{})
	tok := h.token(t, issuer.Claims{})
	for _, era := range eras {
		meta := `"traceparent":"` + traceparent + `","tracestate":"a=b","atlas/idempotency_key":"k-1","atlas/budget":{"total_ms":8000,"reserve_ms":500,"expected":["mail"]}`
		status, _, body := h.post(t, era, tok, message(era, "tools/call", `"name":"echo","arguments":null`, meta), nil)
		calls := h.seen()
		c := calls[len(calls)-1]
		if status != 200 || c.TraceParent != traceparent || c.TraceState != "a=b" || c.IdempotencyKey != "k-1" || c.Args.Raw != nil {
			t.Errorf("%d %s: %+v", status, body, c)
		}
		if diff := cmp.Diff(atlas.Budget{Total: 8 * time.Second, Reserve: 500 * time.Millisecond, Expected: []string{"mail"}}, c.Budget); diff != "" {
			t.Error("budget (-want +got):", diff)
		}
		// A broken tracer costs the trace, not the call.
		h.post(t, era, tok, message(era, "tools/call", `"name":"echo"`, `"traceparent":"00-zz","tracestate":"a=b"`), nil)
		calls = h.seen()
		if c := calls[len(calls)-1]; c.TraceParent != "" || c.TraceState != "" {
			t.Errorf("trace %q %q", c.TraceParent, c.TraceState)
		}
		// It travels on in header fields: what is none, or is too long, is left out.
		for _, state := range []string{`a=b\r\nx-tenant-id: globex`, `a=\u00e4`, strings.Repeat("a", 513)} {
			h.post(t, era, tok, message(era, "tools/call", `"name":"echo"`, `"traceparent":"`+traceparent+`","tracestate":"`+state+`"`), nil)
			calls = h.seen()
			if c := calls[len(calls)-1]; c.TraceParent != traceparent || c.TraceState != "" {
				t.Errorf("trace %q %q", c.TraceParent, c.TraceState)
			}
		}
	}
}

func TestBadMetaIsNamed(t *testing.T) {
	h := newHouse(t, options{})
	tok := h.token(t, issuer.Claims{})
	for _, bad := range []struct{ key, value string }{
		{"atlas/idempotency_key", `""`},
		{"atlas/idempotency_key", `5`},
		{"atlas/idempotency_key", `"a\nb"`},
		{"atlas/idempotency_key", `"` + strings.Repeat("k", 256) + `"`},
		{"atlas/budget", `"8s"`},
		{"atlas/budget", `{}`},
		{"atlas/budget", `{"total_ms":0}`},
		{"atlas/budget", `{"total_ms":-1}`},
		{"atlas/budget", `{"total_ms":1.5}`},
		{"atlas/budget", `{"total_ms":1e300}`},
		{"atlas/budget", `{"total_ms":1000,"reserve_ms":"1"}`},
		{"atlas/budget", `{"total_ms":1000,"expected":"mail"}`},
		{"atlas/budget", `{"total_ms":1000,"expected":[1]}`},
		{"atlas/budget", `{"total_ms":1000,"other":1}`},
	} {
		for _, era := range eras {
			_, _, body := h.post(t, era, tok, message(era, "tools/call", `"name":"echo"`, `"`+bad.key+`":`+bad.value), nil)
			if !strings.Contains(body, `"code":"invalid_arguments"`) || !strings.Contains(body, `"meta_key":"`+bad.key+`"`) {
				t.Errorf("%s=%s: %s", bad.key, bad.value, body)
			}
		}
		// A tool that is hidden is no other than one that does not exist, here either.
		var answers []string
		for _, tool := range []string{"secret", "never"} {
			_, _, body := h.post(t, modern, tok, message(modern, "tools/call", `"name":"`+tool+`"`, `"`+bad.key+`":`+bad.value), nil)
			answers = append(answers, body)
		}
		if answers[0] != answers[1] || !strings.Contains(answers[0], "Unknown tool") {
			t.Errorf("%s=%s: %q", bad.key, bad.value, answers)
		}
	}
	for _, c := range h.seen() {
		if c.Fault == nil || c.IdempotencyKey != "" || c.Budget.Total != 0 {
			t.Errorf("a call went through as if it were good: %+v", c)
		}
	}
}

// A call whose _meta is bad is answered by the pipeline's own stages, and leaves one audit record.
func TestBadMetaIsRecorded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	log, err := audit.Open(audit.Config{Path: path}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	tools := testTools()
	for _, tool := range tools {
		tool.Version = "v1"
		tool.Input = json.RawMessage(`{"type":"object","additionalProperties":false,"properties":{"x":{"type":"string"}}}`)
	}
	tools[0].Output = nil
	reg, err := registry.New(tools, everybody{}, registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	val, err := validation.New(validation.Config{}, tools)
	if err != nil {
		t.Fatal(err)
	}
	aud, err := audit.New(audit.Deps{
		Log: log, Key: make([]byte, 32),
		Lookup: func(c atlas.Call, name string) (*atlas.Tool, bool) { return reg.Find(c.Principal, c.Tenant, name) },
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	handler := atlas.Chain(aud.Stage, reg.Stage, val.Stage)(func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		ran++
		return whoami(ctx, c)
	})
	h := newHouse(t, options{deps: func(d *mcp.Deps) { d.Handler = handler }})
	tok := h.token(t, issuer.Claims{})

	const bad = `"atlas/budget":"x"`
	_, _, refused := h.post(t, modern, tok, message(modern, "tools/call", `"name":"echo","arguments":{"x":"a"}`, bad), nil)
	_, _, unknown := h.post(t, modern, tok, message(modern, "tools/call", `"name":"never"`, bad), nil)
	_, _, hidden := h.post(t, modern, tok, message(modern, "tools/call", `"name":"secret"`, bad), nil)
	if !strings.Contains(refused, `"meta_key":"atlas/budget"`) || !strings.Contains(refused, `"code":"invalid_arguments"`) {
		t.Errorf("bad _meta: %s", refused)
	}
	if unknown != hidden || !strings.Contains(unknown, "Unknown tool") {
		t.Errorf("unknown: %s\nhidden:  %s", unknown, hidden)
	}
	h.post(t, modern, tok, message(modern, "tools/call", `"name":"echo"`, ""), nil)
	for _, list := range []string{message(modern, "tools/list", "", bad), message(modern, "tools/list", `"cursor":"%%"`, "")} {
		if _, _, body := h.post(t, modern, tok, list, nil); !strings.Contains(body, `-32602`) || strings.Contains(body, `"tools"`) {
			t.Errorf("bad list: %s", body)
		}
	}
	if ran != 1 {
		t.Errorf("%d runs, want the one good call's", ran)
	}

	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(file)) {
		var rec atlas.AuditRecord
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s %s", rec.Kind, rec.Caller, rec.Tool, rec.Status, rec.ErrorCode))
	}
	want := []string{
		"call ann echo error invalid_arguments", "call ann never error tool_not_found",
		"call ann secret error tool_not_found", "call ann echo ok ",
		"list ann  error invalid_arguments", "list ann  error invalid_cursor",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
}

// everybody may see what their scopes allow.
type everybody struct{}

func (everybody) Visible(*atlas.Principal, atlas.TenantID, *atlas.Tool) bool { return true }

func TestCancelEndsTheCall(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			started, ended := make(chan struct{}), make(chan error, 1)
			h := newHouse(t, options{serve: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
				close(started)
				<-ctx.Done()
				ended <- ctx.Err()
				return atlas.Result{}, ctx.Err()
			}})
			ctx, cancel := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+"/mcp", strings.NewReader(message(era, "tools/call", `"name":"echo"`, "")))
			req.Header = http.Header{
				"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {era},
				"Mcp-Method": {"tools/call"}, "Mcp-Name": {"echo"}, "Authorization": {"Bearer " + h.token(t, issuer.Claims{})},
			}
			go func() {
				<-started
				cancel()
			}()
			if resp, err := h.Client().Do(req); err == nil {
				_ = resp.Body.Close()
				t.Error("the call was answered")
			}
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("call ended with %v", err)
			}
		})
	}
}

// In the older era a cancellation is a message of its own. It must reach the caller's own call and
// no other caller's, even one of the same id.
func TestLegacyCancellationIsTheCallersOwn(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	h := newHouse(t, options{serve: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
		close(started)
		<-ctx.Done()
		close(ended)
		return atlas.Result{}, ctx.Err()
	}})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _, body := h.post(t, legacy, h.token(t, issuer.Claims{}), message(legacy, "tools/call", `"name":"echo"`, ""), nil)
		if !strings.Contains(body, `"code":"canceled"`) {
			t.Errorf("answer %s", body)
		}
	})
	<-started
	const cancel = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`
	for _, other := range []issuer.Claims{{Tenant: "globex"}, {Subject: "bob"}} {
		if status, _, body := h.post(t, legacy, h.token(t, other), cancel, nil); status != http.StatusAccepted {
			t.Errorf("%d %s", status, body)
		}
	}
	// A namesake of another tenant acts for this one.
	namesake := h.token(t, issuer.Claims{Tenant: "globex", Scopes: []string{atlas.ScopeImpersonate}})
	if status, _, body := h.post(t, legacy, namesake, cancel, func(r *http.Request) { r.Header.Set("X-Tenant-Id", "acme") }); status != http.StatusAccepted {
		t.Errorf("%d %s", status, body)
	}
	select {
	case <-ended:
		t.Error("another caller cancelled the call")
	default:
	}
	h.post(t, legacy, h.token(t, issuer.Claims{}), cancel, nil)
	<-ended
	wg.Wait()
}

func TestPanicAndBadResultBecomeErrors(t *testing.T) {
	h := newHouse(t, options{
		serve: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			if c.Name == "mail" {
				return atlas.Result{Structured: json.RawMessage(`{"broken`)}, nil
			}
			panic("secret of the house")
		},
		deps: func(d *mcp.Deps) { d.Log = nil },
	})
	_, _, body := h.post(t, modern, h.token(t, issuer.Claims{}), message(modern, "tools/call", `"name":"echo"`, ""), nil)
	if !strings.Contains(body, "-32603") || strings.Contains(body, "secret of the house") {
		t.Errorf("panic: %s", body)
	}
	_, _, body = h.post(t, modern, h.token(t, issuer.Claims{}), message(modern, "tools/call", `"name":"mail"`, ""), nil)
	if !strings.Contains(body, "internal_error") {
		t.Errorf("broken result: %s", body)
	}
}

func TestListenersHearOfChangedTools(t *testing.T) {
	h := newHouse(t, options{})
	changed := make(chan struct{}, 10)
	opts := &sdk.ClientOptions{ToolListChangedHandler: func(context.Context, *sdk.ToolListChangedRequest) { changed <- struct{}{} }}
	cs := h.client(t, modern, h.token(t, issuer.Claims{}), opts)
	_ = cs
	eventually(t, "list_changed", func() bool {
		h.setTools(testTools()[:1]...)
		select {
		case <-changed:
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
}

// A thousand callers of two tenants at once, in both eras: each gets his own answers and his own list.
func TestThousandCallersOfTwoTenantsNeverCross(t *testing.T) {
	h := newHouse(t, options{})
	transport := h.Client().Transport.(*http.Transport)
	transport.MaxIdleConnsPerHost = 200
	var wg sync.WaitGroup
	places := make(chan struct{}, 200) // connections at once
	for i := range 1000 {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			who := issuer.Claims{Tenant: []atlas.TenantID{"acme", "globex"}[i%2], Subject: fmt.Sprintf("user-%d", i)}
			if i%3 == 0 {
				who.Scopes = []string{"tool:secret:read"}
			}
			tok := h.token(t, who)
			era := eras[i/2%2]
			for n := range 3 {
				arg := fmt.Sprintf("%d-%d", i, n)
				body := strings.Replace(message(era, "tools/call", `"name":"echo","arguments":{"x":"`+arg+`"}`, ""), `"id":7`, `"id":"`+arg+`"`, 1)
				status, _, answer := h.post(t, era, tok, body, nil)
				var msg struct {
					ID     string
					Result struct {
						StructuredContent struct {
							Tenant  atlas.TenantID
							Subject string
							Args    map[string]string
						}
					}
				}
				err := json.Unmarshal([]byte(answer), &msg)
				got := msg.Result.StructuredContent
				if err != nil || msg.ID != arg || got.Tenant != who.Tenant || got.Subject != who.Subject || got.Args["x"] != arg {
					t.Errorf("%s of %s asked with %s: %d %s", who.Subject, who.Tenant, arg, status, answer)
				}
			}
			_, _, list := h.post(t, era, tok, message(era, "tools/list", "", ""), nil)
			if strings.Contains(list, `"name":"secret"`) != (i%3 == 0) || !strings.Contains(list, `"name":"echo"`) {
				t.Errorf("%s with %v sees %s", who.Subject, who.Scopes, list)
			}
		})
	}
	wg.Wait()
}

// Who pipes requests into the program closes the pipe at once: the answers still come.
func TestStdioAnswersWhatWasSentBeforeTheEnd(t *testing.T) {
	h := newHouse(t, options{})
	var in strings.Builder
	in.WriteString(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}` + "\n")
	in.WriteString(`{"jsonrpc":"2.0","method":"notifications/initialized"}` + "\n")
	const calls = 20
	for i := range calls {
		fmt.Fprintf(&in, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"echo","arguments":{}}}`+"\n", i+1)
	}
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- h.mcp.RunStdio(t.Context(), io.NopCloser(strings.NewReader(in.String())), outW, &atlas.Principal{Subject: "ops", Tenant: "acme"})
	}()
	answered := map[string]bool{}
	dec := json.NewDecoder(outR)
	for range calls + 1 {
		var m struct {
			ID     json.Number     `json:"id"`
			Result json.RawMessage `json:"result"`
		}
		if err := dec.Decode(&m); err != nil {
			t.Fatalf("after %d answers: %v", len(answered), err)
		}
		answered[m.ID.String()] = len(m.Result) > 0
	}
	for i := range calls + 1 {
		if !answered[fmt.Sprint(i)] {
			t.Errorf("request %d has no result", i)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStdio(t *testing.T) {
	h := newHouse(t, options{})
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	p := &atlas.Principal{Subject: "ops", Tenant: "acme"}
	done := make(chan error, 1)
	go func() { done <- h.mcp.RunStdio(t.Context(), inR, outW, p) }()
	for _, era := range eras[1:] {
		cs, err := sdk.NewClient(&sdk.Implementation{Name: "test"}, nil).Connect(t.Context(), &sdk.IOTransport{Reader: outR, Writer: inW}, &sdk.ClientSessionOptions{ProtocolVersion: era})
		if err != nil {
			t.Fatal(err)
		}
		if caps := cs.InitializeResult().Capabilities; caps.Tools == nil || !caps.Tools.ListChanged {
			t.Errorf("capabilities %+v", caps)
		}
		res, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "echo"})
		if err != nil {
			t.Fatal(err)
		}
		if got := res.StructuredContent.(map[string]any); got["tenant"] != "acme" || got["subject"] != "ops" {
			t.Errorf("got %v", got)
		}
		if _, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "secret"}); err == nil || !strings.Contains(err.Error(), "Unknown tool") {
			t.Errorf("hidden tool: %v", err)
		}
		if calls := h.seen(); calls[len(calls)-1].Transport != "stdio" {
			t.Errorf("transport %q", calls[len(calls)-1].Transport)
		}
		if err := cs.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := h.mcp.RunStdio(t.Context(), inR, outW, &atlas.Principal{Subject: "ops"}); err == nil {
		t.Error("served a principal without a tenant")
	}
}
