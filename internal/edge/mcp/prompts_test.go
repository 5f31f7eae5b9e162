package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

func TestPromptsInBothEras(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h, _ := withLibrary(t, mcp.Config{})
			cs := h.client(t, era, h.token(t, acme), nil)
			list, err := cs.ListPrompts(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Prompts) != 1 {
				t.Fatalf("%d prompts, want the one that is visible", len(list.Prompts))
			}
			p := list.Prompts[0]
			want := []*sdk.PromptArgument{{Name: "id", Title: "Id", Description: "of the document", Required: true}, {Name: "tone"}}
			if diff := cmp.Diff(want, p.Arguments); diff != "" {
				t.Error("arguments (-want +got):", diff)
			}
			if p.Name != "summarise" || p.Title != "Summarise" || p.Description == "" || len(p.Icons) != 1 || p.Meta["atlas/reads"] != "private" {
				t.Errorf("prompt %+v", p)
			}

			got, err := cs.GetPrompt(t.Context(), &sdk.GetPromptParams{Name: "summarise", Arguments: map[string]string{"id": "plan"}})
			if err != nil {
				t.Fatal(err)
			}
			messages := []*sdk.PromptMessage{
				{Role: "user", Content: &sdk.TextContent{Text: "Summarise plan of acme"}},
				{Role: "user", Content: &sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: "atlas://docs/plan", MIMEType: "text/plain", Text: "see here"}}},
				{Role: "assistant", Content: &sdk.ImageContent{MIMEType: "image/png", Data: []byte{1, 2}}},
			}
			if diff := cmp.Diff(messages, got.Messages); diff != "" {
				t.Error("messages (-want +got):", diff)
			}
			calls := h.seen()
			call := calls[len(calls)-1]
			if call.Kind != atlas.KindPrompt || call.Op != atlas.OpCall || got.Meta["atlas/request_id"] != call.ID || got.Meta["atlas/reads"] != "private" {
				t.Errorf("call %+v, meta %v", call, got.Meta)
			}
		})
	}
}

// A prompt that is hidden, one that never was, and a tool and a resource by their names are one and
// the same.
func TestUnknownAndHiddenPromptsAreTheSame(t *testing.T) {
	for _, era := range eras {
		h, _ := withLibrary(t, mcp.Config{})
		tok := h.token(t, acme)
		answers := make(map[string]bool)
		for _, name := range []string{"whisper", "never", "echo", "docs", "\x00", strings.Repeat("n", 4000)} {
			q, _ := json.Marshal(name)
			status, hd, body := h.post(t, era, tok, message(era, "prompts/get", `"name":`+string(q)+`,"arguments":{"id":"plan"}`, ""), nil)
			answers[fmt.Sprint(status, hd.Get("Content-Type"), body)] = true
			if !strings.Contains(body, `"code":-32602,"message":"Unknown prompt"`) {
				t.Errorf("%s %.20q: %d %s", era, name, status, body)
			}
		}
		if len(answers) != 1 {
			t.Errorf("%s: answers differ: %v", era, answers)
		}
		for _, c := range h.seen() {
			if c.Kind != atlas.KindPrompt || len(c.Name) > 128 {
				t.Errorf("call %+v", c)
			}
		}
	}
}

func TestPromptFaults(t *testing.T) {
	for _, era := range eras {
		h, _ := withLibrary(t, mcp.Config{})
		tok := h.token(t, acme)
		for _, params := range []string{
			`"name":"summarise"`, // without its argument
			`"name":"summarise","arguments":{"id":5}`,
			`"name":"summarise","arguments":[]`,
			`"name":"summarise","arguments":"id"`,
			`"name":5`,
			`"name":null`,
		} {
			_, _, body := h.post(t, era, tok, message(era, "prompts/get", params, ""), nil)
			if !strings.Contains(body, `"error":{"code":-32`) || strings.Contains(body, `"messages"`) {
				t.Errorf("%s %s: %s", era, params, body)
			}
		}
		_, _, body := h.post(t, era, tok, message(era, "prompts/get", `"name":"summarise","arguments":{"id":"x"}`, `"atlas/budget":"soon"`), nil)
		if !strings.Contains(body, `"code":-32602`) || !strings.Contains(body, `"meta_key":"atlas/budget"`) {
			t.Errorf("%s: %s", era, body)
		}
	}
}

// A token without the scopes of a prompt or a resource is told to step up, by status and header too.
func TestPromptsAndResourcesStepUp(t *testing.T) {
	for _, era := range eras {
		h, l := withLibrary(t, mcp.Config{})
		refuse := func(context.Context, atlas.Call) (atlas.Result, error) {
			return atlas.Result{}, atlas.Errorf(atlas.CodeInsufficientScope, nil, "").With("scopes", []string{"tool:vault:read"})
		}
		h.setTools(append(l.tools(), &atlas.Tool{Name: "step", Kind: atlas.KindPrompt, Run: refuse}, &atlas.Tool{
			Name: "zz", Kind: atlas.KindResource, URI: "zz://x", Match: exactly("zz://x"), Run: refuse,
		})...)
		for method, params := range map[string]string{"prompts/get": `"name":"step"`, "resources/read": `"uri":"zz://x"`} {
			status, hd, body := h.post(t, era, h.token(t, acme), message(era, method, params, ""), nil)
			challenge := hd.Get("WWW-Authenticate")
			if status != 403 || !strings.Contains(challenge, `error="insufficient_scope"`) || !strings.Contains(challenge, "tool:vault:read") || !strings.Contains(body, `"code":"insufficient_scope"`) {
				t.Errorf("%s %s: %d %q %s", era, method, status, challenge, body)
			}
		}
	}
}

// What a prompt asks goes to the client as the result, and the reply comes back in the next request.
func TestPromptAsksItsClient(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	tools := l.tools()
	h.setTools(append(tools, &atlas.Tool{Name: "ask", Kind: atlas.KindPrompt, Run: asking})...)
	tok := h.token(t, acme)
	var first struct {
		ResultType    string
		InputRequests map[string]struct {
			Method string
			Params struct{ Message string }
		}
		RequestState string
		Messages     json.RawMessage
	}
	h.result(t, modern, tok, "prompts/get", `"name":"ask"`, &first)
	req := first.InputRequests["who"]
	if first.ResultType != "input_required" || req.Method != "elicitation/create" || req.Params.Message != "Who?" || first.RequestState != "sealed" || first.Messages != nil {
		t.Fatalf("first round %+v", first)
	}
	var second struct {
		ResultType string
		Messages   []struct{ Content struct{ Text string } }
	}
	h.result(t, modern, tok, "prompts/get", `"name":"ask","requestState":"sealed","inputResponses":{"who":{"action":"accept","content":{"name":"Ann"}}}`, &second)
	if second.ResultType != "complete" || len(second.Messages) != 1 || second.Messages[0].Content.Text != "Hello Ann" {
		t.Errorf("second round %+v", second)
	}
	// The older era has no way to ask a client of a request without a session.
	_, _, body := h.post(t, legacy, tok, message(legacy, "prompts/get", `"name":"ask"`, ""), nil)
	if !strings.Contains(body, `"code":-32021`) || !strings.Contains(body, `"requiredCapabilities":{"elicitation":{}}`) {
		t.Errorf("older era: %s", body)
	}
}

func TestListsArePagedAndPrivate(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h, l := withLibrary(t, mcp.Config{PageSize: 1})
			tools := l.tools()
			for _, name := range []string{"a", "b", "c"} {
				tools = append(tools, &atlas.Tool{Name: "prompt_" + name, Kind: atlas.KindPrompt})
				tools = append(tools, &atlas.Tool{Name: "tpl_" + name, Kind: atlas.KindResource, URI: name + "://{x}", Match: exactly("")})
			}
			slices.SortFunc(tools, func(a, b *atlas.Tool) int { return strings.Compare(a.Name, b.Name) })
			h.setTools(tools...)
			tok := h.token(t, acme)
			for _, tt := range []struct {
				method, key, name string
				want              []string
			}{
				{"prompts/list", "prompts", "name", []string{"prompt_a", "prompt_b", "prompt_c", "summarise"}},
				{"resources/list", "resources", "uri", []string{"atlas://docs/pay", "atlas://docs/plan", "atlas://docs/shared", "atlas://logo", "atlas://schema/crm"}},
				{"resources/templates/list", "resourceTemplates", "uriTemplate", []string{"atlas://docs/{id}", "a://{x}", "b://{x}", "c://{x}"}},
			} {
				var got, cursors []string
				for cursor := ""; ; {
					params := ""
					if cursor != "" {
						params = fmt.Sprintf(`"cursor":%q`, cursor)
					}
					var page map[string]any
					h.result(t, era, tok, tt.method, params, &page)
					if page["cacheScope"] != "private" || page["ttlMs"] != 10000. || (page["resultType"] == "complete") != (era == modern) {
						t.Errorf("%s: %v", tt.method, page)
					}
					items := page[tt.key].([]any)
					if len(items) != 1 {
						t.Fatalf("%s: %d items on a page", tt.method, len(items))
					}
					got = append(got, items[0].(map[string]any)[tt.name].(string))
					next, _ := page["nextCursor"].(string)
					if next == "" {
						break
					}
					cursors = append(cursors, next)
					cursor = next
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("%s (-want +got): %s", tt.method, diff)
				}
				// A cursor of another caller selects from what this caller has; one of another list is none.
				status, _, body := h.post(t, era, h.token(t, globex), message(era, tt.method, fmt.Sprintf(`"cursor":%q`, cursors[0]), ""), nil)
				if strings.Contains(body, "plan") && tt.method == "resources/list" {
					t.Errorf("another tenant's page: %d %s", status, body)
				}
				for _, other := range []string{"prompts/list", "resources/list", "resources/templates/list"} {
					if other == tt.method {
						continue
					}
					if _, _, body := h.post(t, era, tok, message(era, other, fmt.Sprintf(`"cursor":%q`, cursors[0]), ""), nil); !strings.Contains(body, `"code":-32602,"message":"Invalid cursor"`) {
						t.Errorf("%s with a cursor of %s: %s", other, tt.method, body)
					}
				}
				for _, bad := range []string{"%%", "AAAA", "cHJvbXB0cw", strings.Repeat("A", 100_000), "cHJvbXB0czo"} {
					if _, _, body := h.post(t, era, tok, message(era, tt.method, fmt.Sprintf(`"cursor":%q`, bad), ""), nil); !strings.Contains(body, `"code":-32602,"message":"Invalid cursor"`) {
						t.Errorf("%s with cursor %.20s: %s", tt.method, bad, body)
					}
				}
			}
			faults := 0
			for _, c := range h.seen() {
				if c.Fault != nil {
					faults++
				}
			}
			if faults != 3*(2+5) {
				t.Errorf("the pipeline was told of %d bad cursors, want each", faults)
			}
		})
	}
}

// asking is a tool that asks who its person is.
func asking(_ context.Context, call atlas.Call) (atlas.Result, error) {
	if call.Reply == nil {
		return atlas.Result{Ask: &atlas.Ask{
			Requests: map[string]atlas.ClientRequest{"who": {
				Method: "elicitation/create",
				Params: json.RawMessage(`{"message":"Who?","requestedSchema":{"type":"object","properties":{"name":{"type":"string"}}}}`),
			}},
			State: []byte("sealed"),
		}}, nil
	}
	var answer struct {
		Action  string
		Content struct{ Name string }
	}
	if err := json.Unmarshal(call.Reply.Answers["who"], &answer); err != nil || string(call.Reply.State) != "sealed" {
		return atlas.Result{}, atlas.Errorf(atlas.CodeInvalidState, err, "")
	}
	if answer.Action != "accept" {
		return atlas.Result{}, atlas.Errorf(atlas.CodeCanceled, nil, "")
	}
	return atlas.Result{Content: []atlas.Content{{Type: atlas.ContentText, Text: "Hello " + answer.Content.Name}}}, nil
}
