package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

func TestCompletionInBothEras(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h, l := withLibrary(t, mcp.Config{})
			h.setTools(append(l.tools(),
				&atlas.Tool{Name: "many", Kind: atlas.KindPrompt, Complete: func(_ context.Context, c atlas.Call, _, _ string, known map[string]string) (out []string, _ error) {
					for i := range 250 {
						out = append(out, fmt.Sprint(known["of"], i, c.Tool.Name))
					}
					return out, nil
				}},
				&atlas.Tool{Name: "fails", Kind: atlas.KindPrompt, Complete: func(context.Context, atlas.Call, string, string, map[string]string) ([]string, error) {
					return nil, errors.New("10.0.0.7 said no")
				}},
				&atlas.Tool{Name: "panics", Kind: atlas.KindPrompt, Complete: func(context.Context, atlas.Call, string, string, map[string]string) ([]string, error) {
					panic("oops")
				}},
			)...)
			cs := h.client(t, era, h.token(t, acme), nil)
			ask := func(ref *sdk.CompleteReference, name, value string, known map[string]string) (*sdk.CompletionResultDetails, error) {
				p := &sdk.CompleteParams{Ref: ref, Argument: sdk.CompleteParamsArgument{Name: name, Value: value}}
				if known != nil {
					p.Context = &sdk.CompleteContext{Arguments: known}
				}
				res, err := cs.Complete(t.Context(), p)
				if err != nil {
					return nil, err
				}
				return &res.Completion, nil
			}
			prompt := func(name string) *sdk.CompleteReference {
				return &sdk.CompleteReference{Type: "ref/prompt", Name: name}
			}
			template := func(uri string) *sdk.CompleteReference { return &sdk.CompleteReference{Type: "ref/resource", URI: uri} }
			for name, tt := range map[string]struct {
				ref         *sdk.CompleteReference
				arg, prefix string
				want        sdk.CompletionResultDetails
			}{
				"prompt":               {prompt("summarise"), "id", "p", sdk.CompletionResultDetails{Values: []string{"pay", "plan"}, Total: 2}},
				"template":             {template("atlas://docs/{id}"), "id", "pl", sdk.CompletionResultDetails{Values: []string{"plan"}, Total: 1}},
				"nothing begins so":    {prompt("summarise"), "id", "z", sdk.CompletionResultDetails{Values: []string{}}},
				"no such argument":     {prompt("summarise"), "other", "p", sdk.CompletionResultDetails{Values: []string{}}},
				"no completion at all": {template("atlas://schema/crm"), "id", "", sdk.CompletionResultDetails{Values: []string{}}},
			} {
				got, err := ask(tt.ref, tt.arg, tt.prefix, nil)
				if err != nil {
					t.Fatal(name, err)
				}
				if diff := cmp.Diff(&tt.want, got); diff != "" {
					t.Errorf("%s (-want +got): %s", name, diff)
				}
			}
			got, err := ask(prompt("many"), "x", "", map[string]string{"of": "v"})
			if err != nil || len(got.Values) != 100 || !got.HasMore || got.Total != 250 || got.Values[0] != "v0many" {
				t.Errorf("many: %+v, %v", got, err)
			}
			for _, name := range []string{"fails", "panics"} {
				if _, err := ask(prompt(name), "x", "", nil); err == nil || strings.Contains(err.Error(), "10.0.0.7") || strings.Contains(err.Error(), "oops") || !strings.Contains(err.Error(), "internal_error") {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// What the caller may not see completes like what is not there.
func TestCompletionOfHiddenIsOfUnknown(t *testing.T) {
	for _, era := range eras {
		h, _ := withLibrary(t, mcp.Config{})
		answers := make(map[string]bool)
		for _, ref := range []string{
			`{"type":"ref/prompt","name":"whisper"}`, `{"type":"ref/prompt","name":"never"}`, `{"type":"ref/prompt","name":"docs"}`,
			`{"type":"ref/prompt","name":"echo"}`, `{"type":"ref/prompt"}`,
			`{"type":"ref/resource","uri":"atlas://vault/{id}"}`, `{"type":"ref/resource","uri":"atlas://never/{id}"}`, `{"type":"ref/resource","uri":"summarise"}`,
			`{"type":"ref/resource","uri":"atlas://docs/plan"}`,
		} {
			status, _, body := h.post(t, era, h.token(t, globex), message(era, "completion/complete", `"ref":`+ref+`,"argument":{"name":"id","value":"p"}`, ""), nil)
			answers[fmt.Sprint(status, body)] = true
			if !strings.Contains(body, `"code":-32602,"message":"Unknown prompt or resource template"`) {
				t.Errorf("%s %s: %s", era, ref, body)
			}
		}
		if len(answers) != 1 {
			t.Errorf("%s: answers differ: %v", era, answers)
		}
		if !slices.ContainsFunc(h.seen(), func(c atlas.Call) bool { return c.Op == atlas.OpList && c.Kind == atlas.KindPrompt }) {
			t.Error("the pipeline was not asked")
		}
		for _, c := range h.seen() {
			if c.Op == atlas.OpCall {
				t.Errorf("%s: completion ran %+v", era, c)
			}
		}
		// The same two that acme has and globex has not.
		for who, want := range map[string]string{h.token(t, acme): `["pay","plan"]`, h.token(t, globex): `[]`} {
			_, _, body := h.post(t, era, who, message(era, "completion/complete", `"ref":{"type":"ref/resource","uri":"atlas://docs/{id}"},"argument":{"name":"id","value":"p"}`, ""), nil)
			if !strings.Contains(body, `"values":`+want) {
				t.Errorf("%s: %s, want %s", era, body, want)
			}
		}
	}
}

// Who asks for completion faster than a source answers is told to wait, and holds up nobody else.
func TestCompletionsAreBounded(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	begun, release := make(chan struct{}, 100), make(chan struct{})
	slow := func(ctx context.Context, call atlas.Call, _, _ string, _ map[string]string) ([]string, error) {
		if call.Tenant == "acme" {
			begun <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return []string{"x"}, nil
	}
	h.setTools(append(l.tools(), &atlas.Tool{Name: "slow", Kind: atlas.KindPrompt, Complete: slow})...)
	const params = `"ref":{"type":"ref/prompt","name":"slow"},"argument":{"name":"id","value":""}`
	ann, gus := h.token(t, acme), h.token(t, globex)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, _, body := h.post(t, modern, ann, message(modern, "completion/complete", params, ""), nil); !strings.Contains(body, `"values":["x"]`) {
				t.Error(body)
			}
		})
	}
	for range 32 {
		<-begun
	}
	for _, method := range []string{"completion/complete", "resources/list"} {
		p := params
		if method == "resources/list" {
			p = ""
		}
		if _, _, body := h.post(t, modern, ann, message(modern, method, p, ""), nil); !strings.Contains(body, `"code":"rate_limited"`) {
			t.Errorf("%s: %s", method, body)
		}
		if _, _, body := h.post(t, modern, gus, message(modern, method, p, ""), nil); !strings.Contains(body, `"result":`) {
			t.Errorf("%s of another caller: %s", method, body)
		}
	}
	close(release)
	wg.Wait()
	if _, _, body := h.post(t, modern, ann, message(modern, "resources/list", "", ""), nil); !strings.Contains(body, `"result":`) {
		t.Errorf("afterwards: %s", body)
	}
}

func TestBadCompletions(t *testing.T) {
	for _, era := range eras {
		h, _ := withLibrary(t, mcp.Config{})
		var known strings.Builder
		for i := range 65 {
			fmt.Fprintf(&known, `"k%d":"v",`, i)
		}
		for _, params := range []string{
			`"argument":{"name":"id","value":"p"}`,
			`"ref":{"type":"ref/prompt","name":"summarise"}`,
			`"ref":{"type":"ref/prompt","name":"summarise"},"argument":{"value":"p"}`,
			`"ref":{"type":"ref/other","name":"summarise"},"argument":{"name":"id","value":"p"}`,
			`"ref":{"type":"ref/prompt","name":"summarise"},"argument":{"name":"id","value":"` + strings.Repeat("p", 2000) + `"}`,
			`"ref":{"type":"ref/prompt","name":"summarise"},"argument":{"name":"id","value":"p"},"context":{"arguments":{` + known.String() + `"k":"v"}}`,
		} {
			if _, _, body := h.post(t, era, h.token(t, acme), message(era, "completion/complete", params, ""), nil); !strings.Contains(body, `"code":-32602`) {
				t.Errorf("%s %.100s: %s", era, params, body)
			}
		}
	}
}
