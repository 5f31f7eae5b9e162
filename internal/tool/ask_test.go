package tool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/tool"
)

const asks = `
tools:
  asks:
    source: crm
    description: Gives one. Use it.
    input:
      id: {type: string, pattern: "^o_[0-9]+$", maxLength: 20, description: "an id, for example o_1"}
      n: {type: integer, minimum: 1, maximum: 9, description: "a number"}
      note: {type: string, description: "a note", default: none}
    sql: SELECT :id, :n, :note
    ask:
      message: Which one?
      when_missing: [id, n]
      fields:
        n: {type: integer, title: How many, minimum: 1, maximum: 5, default: 2}
  kinds:
    source: crm
    description: Gives one. Use it.
    input:
      mail: {type: string, format: email, description: "an address"}
      day: {type: string, format: date, description: "a day"}
      colour: {enum: [red, green], description: "a colour"}
      sizes: {type: array, minItems: 1, maxItems: 2, items: {type: string, enum: [s, m, l]}, description: "sizes"}
      sure: {type: boolean, description: "yes or no"}
      weight: {type: number, minimum: 0.5, description: "kilograms"}
    sql: SELECT :mail, :day, :colour, :sure, :weight WHERE 's' IN (:sizes)
    ask:
      when_missing: [mail, day, colour, sizes, sure, weight]
      fields:
        mail: {type: string, format: email}
        day: {type: string, format: date}
        colour: {type: string, oneOf: [{const: red, title: Red}, {const: green, title: Green}]}
        sizes: {type: array, minItems: 1, maxItems: 2, items: {type: string, enum: [s, m, l]}}
        sure: {type: boolean}
        weight: {type: number, minimum: 0.5}
  confirms:
    source: http
    description: Sends one. Use it.
    input:
      id: {type: string, description: "an id"}
      note: {type: string, description: "a note", default: none}
    ask: {when_missing: [id], confirm: "Send {{id}} with the note {{note}}?"}
    http: {method: POST, url: "https://api.example.com/{id}", body: {note: "{note}"}}
`

var person = atlas.Client{Elicit: true}

// put asks a tool to complete arguments.
func put(t *testing.T, tl *atlas.Tool, client atlas.Client, args string, reply *atlas.Reply) (string, *atlas.Ask, error) {
	t.Helper()
	got, ask, err := tl.Ask(t.Context(), atlas.Call{
		Name: tl.Name, Tool: tl, Tenant: "acme", Principal: by("acme", "x"), Args: atlas.Args{Raw: json.RawMessage(args)}, Client: client, Reply: reply,
	})
	if (ask != nil || err != nil) && got != nil {
		t.Errorf("%s: arguments %s beside %v, %v", tl.Name, got, ask, err)
	}
	return string(got), ask, err
}

// answers is a reply to an ask.
func answers(ask *atlas.Ask, key, result string) *atlas.Reply {
	return &atlas.Reply{State: ask.State, Answers: map[string]json.RawMessage{key: json.RawMessage(result)}}
}

func TestAskForMissingArguments(t *testing.T) {
	h := newHouse(t).build(yaml(asks))
	tl := h.tools["asks"]
	if strings.Contains(string(tl.Input), `"required":["`) {
		t.Errorf("what is asked for is required: %s", tl.Input)
	}
	for _, args := range []string{`{"id":"o_1","n":3}`, ` { "id":"o_1","n":3,"note":"x" } `} { // nothing is missing
		if got, ask, err := put(t, tl, atlas.Client{}, args, nil); got != args || ask != nil || err != nil {
			t.Errorf("%s became %s, %v, %v", args, got, ask, err)
		}
	}
	_, _, err := put(t, tl, atlas.Client{ElicitURL: true, Sample: true}, `{"note":"x"}`, nil)
	wantCode(t, err, atlas.CodeInvalidArguments)
	if d := cmp.Diff([]string{"id", "n"}, atlas.ErrorOf(err).Context["missing"]); d != "" {
		t.Error(d)
	}
	_, ask, err := put(t, tl, person, `{"note":"x"}`, nil)
	if err != nil || len(ask.Requests) != 1 || ask.Requests["fields"].Method != "elicitation/create" {
		t.Fatal(ask, err)
	}
	want := `{"message":"Which one?","mode":"form","requestedSchema":{"properties":{` +
		`"id":{"description":"an id, for example o_1","maxLength":20,"title":"Id","type":"string"},` +
		`"n":{"default":2,"maximum":5,"minimum":1,"title":"How many","type":"integer"}},"required":["id"],"type":"object"}}`
	if d := cmp.Diff(want, string(ask.Requests["fields"].Params)); d != "" {
		t.Error(d)
	}
	for _, c := range []struct{ args, result, want string }{
		{`{"note":"x"}`, `{"action":"accept","content":{"id":"o_7","n":4}}`, `{"id":"o_7","n":4,"note":"x"}`},
		{`{"note":"x"}`, `{"action":"accept","content":{"id":"o_7"}}`, `{"id":"o_7","n":2,"note":"x"}`},                  // the default
		{`{"note":"x"}`, `{"action":"accept","content":{"id":"o_7","note":"y","z":1}}`, `{"id":"o_7","n":2,"note":"x"}`}, // what was not asked
		{`{"id":"o_1"}`, `{"action":"accept","content":{"id":"o_7","n":1}}`, `{"n":1,"id":"o_1"}`},                       // what was given stays
		{``, `{"action":"accept","content":{"id":"o_7"}}`, `{"id":"o_7","n":2}`},
		{`null`, `{"action":"accept","content":{"id":"o_7"}}`, `{"id":"o_7","n":2}`},
		{` { } `, `{"action":"accept","content":{"id":"o_7"}}`, `{"id":"o_7","n":2}`},
	} {
		got, more, err := put(t, tl, person, c.args, answers(ask, "fields", c.result))
		if got != c.want || more != nil || err != nil {
			t.Errorf("%s with %s became %s, %v, %v", c.args, c.result, got, more, err)
		}
	}
	for _, result := range []string{ // clients check nothing
		`{"action":"accept","content":{"id":"o_7","n":6}}`, `{"action":"accept","content":{"id":"o_7","n":0}}`, `{"action":"accept","content":{"id":"o_7","n":1.5}}`,
		`{"action":"accept","content":{"id":"o_7","n":"3"}}`, `{"action":"accept","content":{"id":"o_7","n":null}}`, `{"action":"accept","content":{"id":"o_7","n":1e400}}`,
		`{"action":"accept","content":{"id":"x"}}`, `{"action":"accept","content":{"id":7}}`, `{"action":"accept","content":{"id":["o_7"]}}`,
		`{"action":"accept","content":{"id":"o_123456789012345678901"}}`, `{"action":"accept","content":{}}`, `{"action":"accept"}`,
		`{"action":"decline"}`, `{"action":"cancel"}`, `{"action":"decline","content":{"id":"o_7"}}`, `{"action":"yes","content":{"id":"o_7"}}`,
		`{"content":{"id":"o_7"}}`, `{}`, `7`, `"accept"`, `{"action":"accept","content":["o_7"]}`,
	} {
		got, _, err := put(t, tl, person, `{}`, answers(ask, "fields", result))
		if atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("%s gives %s, %v", result, got, err)
		}
	}
	for what, reply := range map[string]*atlas.Reply{ // asked again
		"no answer":      {State: ask.State},
		"another answer": answers(ask, "other", `{"action":"accept","content":{"id":"o_7"}}`),
		"no state":       {Answers: answers(ask, "fields", `{"action":"accept","content":{"id":"o_7"}}`).Answers},
	} {
		if got, again, err := put(t, tl, person, `{}`, reply); again == nil || err != nil {
			t.Errorf("%s: %s, %v", what, got, err)
		}
	}
	for _, state := range []string{`x`, `{}`, `{"asked":"other"}`, `[]`} {
		_, _, err := put(t, tl, person, `{}`, &atlas.Reply{State: []byte(state)})
		wantCode(t, err, atlas.CodeInvalidState)
	}
	for _, args := range []string{`[]`, `{`, `7`, `{"id":"o_1"} x`} {
		_, _, err := put(t, tl, person, args, nil)
		wantCode(t, err, atlas.CodeInvalidArguments)
	}
}

// Without the stage that asks, or called by another tool, a tool does not run without what it asks for.
func TestWhatIsAskedForIsNeeded(t *testing.T) {
	h := newHouse(t).build(yaml(asks))
	_, err := h.ask(t.Context(), "acme", "asks", `{"id":"o_1"}`)
	wantCode(t, err, atlas.CodeInvalidArguments)
	if len(h.crm.queries) != 0 {
		t.Error("the tool ran")
	}
	h.crm.answer = func(atlas.TenantID, source.Query) (source.Rows, error) { return source.Rows{}, nil }
	if _, err := h.ask(t.Context(), "acme", "asks", `{"id":"o_1","n":1}`); err != nil {
		t.Error(err)
	}
}

func TestFieldsOfAllKinds(t *testing.T) {
	h := newHouse(t).build(yaml(asks))
	tl := h.tools["kinds"]
	_, ask, err := put(t, tl, person, `{}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]string{"mail": `"a@b.c"`, "day": `"2026-11-23"`, "colour": `"red"`, "sizes": `["s","l"]`, "sure": `false`, "weight": `0.5`}
	try := func(name, value string) error {
		content := ""
		for k, v := range good {
			if k == name {
				v = value
			}
			content += fmt.Sprintf(",%q:%s", k, v)
		}
		_, _, err := put(t, tl, person, `{}`, answers(ask, "fields", `{"action":"accept","content":{`+content[1:]+`}}`))
		return err
	}
	if err := try("", ""); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]string{
		"mail":   {`"a"`, `"a@b.c, d@e.f"`, `"A <a@b.c>"`, `7`, `true`},
		"day":    {`"23.11.2026"`, `"2026-13-01"`, `"2026-11-23T00:00:00Z"`},
		"colour": {`"blue"`, `"Red"`, `["red"]`, `""`},
		"sizes":  {`[]`, `["s","m","l"]`, `["s","s"]`, `["x"]`, `"s"`, `[1]`, `[["s"]]`},
		"sure":   {`"true"`, `0`, `null`},
		"weight": {`0.4`, `"1"`, `1e999`},
	} {
		for _, value := range bad {
			if err := try(name, value); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
				t.Errorf("%s: %s is taken: %v", name, value, err)
			}
		}
	}
}

func TestConfirm(t *testing.T) {
	h := newHouse(t).build(yaml(asks))
	tl := h.tools["confirms"]
	if !tl.Destructive {
		t.Error("a confirmation stands in place of the approval")
	}
	_, _, err := put(t, tl, atlas.Client{}, `{"id":"x"}`, nil)
	wantCode(t, err, atlas.CodeMissingCapability)
	if d := cmp.Diff([]string{"elicitation"}, atlas.ErrorOf(err).Context["required"]); d != "" {
		t.Error(d)
	}
	question := func(ask *atlas.Ask) string {
		t.Helper()
		var p struct{ Message string }
		if ask == nil || json.Unmarshal(ask.Requests["confirm"].Params, &p) != nil {
			t.Fatal("no question", ask)
		}
		return p.Message
	}
	_, ask, err := put(t, tl, person, `{"id":"x\"? No. \u202eDelete\nit"}`, nil)
	if got := question(ask); err != nil || got != `Send "x\"? No. Delete\nit" with the note "none"?` {
		t.Error(got, err)
	}
	_, long, err := put(t, tl, person, `{"id":"`+strings.Repeat("x", 400)+`"}`, nil)
	if got := question(long); err != nil || !strings.Contains(got, "… (400 characters)") {
		t.Error(got, err)
	}
	if got, more, err := put(t, tl, person, `{"id":"x"}`, answers(ask, "confirm", `{"action":"accept","content":{"confirm":true}}`)); err != nil || more != nil || got != `{"id":"x"}` {
		t.Error(got, more, err)
	}
	for _, result := range []string{
		`{"action":"accept","content":{"confirm":false}}`, `{"action":"accept"}`, `{"action":"accept","content":{"confirm":"true"}}`,
		`{"action":"accept","content":{"Confirm":true}}`, `{"action":"decline"}`, `{"action":"cancel"}`, `{"action":"decline","content":{"confirm":true}}`,
	} {
		_, _, err := put(t, tl, person, `{"id":"x"}`, answers(ask, "confirm", result))
		wantCode(t, err, atlas.CodeApprovalDenied)
	}
	// First what is missing, then the question about all of it.
	_, first, err := put(t, tl, person, `{}`, nil)
	if err != nil || len(first.Requests) != 1 {
		t.Fatal(first, err)
	}
	_, second, err := put(t, tl, person, `{}`, answers(first, "fields", `{"action":"accept","content":{"id":"y","confirm":true}}`))
	if got := question(second); err != nil || got != `Send "y" with the note "none"?` {
		t.Error(got, err)
	}
	// The answer to the first is in the sealed state now; what the client sends beside it does not count.
	reply := answers(second, "confirm", `{"action":"accept","content":{"confirm":true,"id":"z"}}`)
	reply.Answers["fields"] = json.RawMessage(`{"action":"accept","content":{"id":"z"}}`)
	if got, more, err := put(t, tl, person, `{}`, reply); err != nil || more != nil || got != `{"id":"y"}` {
		t.Error(got, more, err)
	}
	// A yes to the form is none to the question.
	if _, more, err := put(t, tl, person, `{"id":"x"}`, answers(first, "fields", `{"action":"accept","content":{"confirm":true}}`)); err != nil || more == nil {
		t.Error(more, err)
	}
	_, _, err = put(t, tl, person, `[`, nil) // unreadable arguments do not go past the question
	wantCode(t, err, atlas.CodeInvalidArguments)
}

// A peer that remembers.
type peer struct {
	mu      sync.Mutex
	reports []string
}

func (p *peer) Progress(done, total float64, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reports = append(p.reports, fmt.Sprint(done, "/", total, " ", message))
}

func (p *peer) Log(atlas.LogLevel, string, any) {}

func TestProgress(t *testing.T) {
	h := filled(t)
	h.kb.answer = func(context.Context, atlas.TenantID, source.Nearest) (source.Hits, error) {
		return source.Hits{Hits: []source.Hit{hit("doc_refund_policy", 1)}}, nil
	}
	for _, c := range []struct {
		name, args string
		want       []string // without the order of what runs at the same time
	}{
		{"customer_context", context1001, []string{"profile", "orders", "tickets", "documents"}},
		{"hybrid_search", `{"query":"refund"}`, []string{"lexical", "dense"}},
		{"semantic_search", `{"query":"refund"}`, []string{"search", "documents"}},
	} {
		p := &peer{}
		_, err := h.call(t.Context(), atlas.Call{
			ID: "call-1", Name: c.name, Tenant: "acme", Principal: by("acme", "x"), Args: atlas.Args{Raw: json.RawMessage(c.args)}, Peer: p,
		})
		if err != nil || len(p.reports) != len(c.want) {
			t.Errorf("%s: %v, %v", c.name, p.reports, err)
			continue
		}
		for i, got := range p.reports {
			prefix := fmt.Sprintf("%d/%d %d of %d: ", i+1, len(c.want), i+1, len(c.want))
			if step, ok := strings.CutPrefix(got, prefix); !ok || !strings.Contains(" "+strings.Join(c.want, " ")+" ", " "+step+" ") {
				t.Errorf("%s: report %d is %q", c.name, i, got)
			}
		}
	}
	p := &peer{}
	h.fail["crm_customer"] = &atlas.Error{Code: atlas.CodeNotFound}
	_, err := h.call(t.Context(), atlas.Call{
		ID: "call-1", Name: "customer_context", Tenant: "acme", Principal: by("acme", "x"), Args: atlas.Args{Raw: json.RawMessage(context1001)}, Peer: p,
	})
	if err == nil || len(p.reports) > 3 {
		t.Errorf("a workflow that failed reports its end: %v, %v", p.reports, err)
	}
}

func TestTaskAndIcons(t *testing.T) {
	h := newHouse(t).build(yaml(`
tools:
  slow:
    source: crm
    description: Gives one. Use it.
    sql: SELECT 1
    task: {after: 2s, timeout: 10m}
    icons: [{src: "https://example.com/x.png", mime: image/png, sizes: [48x48, any], theme: dark}]
  always: {source: crm, description: Gives one. Use it., sql: SELECT 1, task: {timeout: 10m, required: true}}
`))
	got := h.tools["slow"]
	if got.Task.After.Seconds() != 2 || got.Task.Timeout.Minutes() != 10 || got.Task.Required || !h.tools["always"].Task.Required {
		t.Errorf("%+v", got.Task)
	}
	want := []atlas.Icon{{Src: "https://example.com/x.png", MIME: "image/png", Sizes: []string{"48x48", "any"}, Theme: "dark"}}
	if d := cmp.Diff(want, got.Icons); d != "" {
		t.Error(d)
	}
	if h.tools["crm_query"].Task != (atlas.TaskSpec{}) {
		t.Error("a tool is a task without being told")
	}
}

// Whatever a client sends, what comes of it is complete and fits, or there is an error.
func FuzzAsk(f *testing.F) {
	h := newHouse(f).build(yaml(asks))
	tl := h.tools["asks"]
	for _, args := range []string{``, `{}`, `null`, `{"id":"o_1"}`, `{"n":1,"n":2}`, `[`, `{"id":null}`, ` {"note":"\ud800"} `} {
		for _, result := range []string{
			`{"action":"accept","content":{"id":"o_7","n":4}}`, `{"action":"accept","content":{"id":"o_7","id":"x"}}`, `{"action":"decline"}`,
			`{"action":"accept","content":{"id":"o_7","n":1e2}}`, `7`, `{"action":"accept","content":{"id":{"a":1},"n":[2]}}`,
		} {
			f.Add(args, result)
		}
	}
	f.Fuzz(func(t *testing.T, args, result string) {
		call := atlas.Call{Name: "asks", Tenant: "acme", Args: atlas.Args{Raw: json.RawMessage(args)}, Client: person}
		call.Reply = &atlas.Reply{State: []byte(`{"asked":"fields"}`), Answers: map[string]json.RawMessage{"fields": json.RawMessage(result)}}
		got, ask, err := tl.Ask(t.Context(), call)
		if err != nil || ask != nil {
			if got != nil {
				t.Errorf("arguments %s beside %v, %v", got, ask, err)
			}
			return
		}
		var sent, v map[string]any
		if err := json.Unmarshal(got, &v); err != nil || v == nil {
			t.Fatalf("%q with %q became %q: %v", args, result, got, err)
		}
		if len(strings.TrimSpace(args)) > 0 {
			if err := json.Unmarshal([]byte(args), &sent); err != nil {
				t.Fatalf("%q is no object and went through", args)
			}
		}
		if id, ok := v["id"].(string); sent["id"] == nil && !strings.Contains(args, `id`) && (!ok || !strings.HasPrefix(id, "o_")) {
			t.Errorf("%q with %q became %q", args, result, got)
		}
	})
}

// An approval or a cached answer must not outlive a change of what is asked, shown or read.
func TestVersionsHoldWhatIsDeclared(t *testing.T) {
	const file = `
tools:
  a: {source: crm, description: Gives one. Use it., input: {x: {type: string, description: "an x"}}, sql: "SELECT :x", ask: {when_missing: [x], message: %s}, icons: [{src: "https://example.com/%s"}], task: {timeout: %s}}
resources:
  r: {uri: "atlas://x/%s", tool: crm_schema, description: One., text: %s}
prompts:
  p: {description: One., messages: [{role: user, text: %s}]}
`
	versions := func(args ...any) map[string]string {
		out := map[string]string{}
		for name, tl := range newHouse(t).build(yaml(file, args...)).tools {
			out[name] = tl.Version
		}
		return out
	}
	base := []any{"m", "i", "1m", "u", "tables.0.name", "text"}
	before := versions(base...)
	for i, change := range []struct{ to, name string }{{"n", "a"}, {"j", "a"}, {"2m", "a"}, {"v", "r"}, {"tables.1.name", "r"}, {"texts", "p"}} {
		args := append([]any{}, base...)
		args[i] = change.to
		if after := versions(args...); after[change.name] == before[change.name] {
			t.Errorf("%v and %v: %s is the same version", base[i], change.to, change.name)
		}
	}
}

func TestSourcesMayNotBeCalledPrompts(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"prompts", "composed", "workflow"} {
		h.sources = map[string]tool.Source{name: {Kind: "sqlite", Source: h.crm}}
		if _, err := tool.Build(h.sources, nil, h.deps()); err == nil || !strings.Contains(err.Error(), "taken by Atlas") {
			t.Errorf("%s: %v", name, err) // rules about prompts would hold for its tables
		}
	}
}
