package tool_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/config"
	"github.com/atlas-mcp/atlas/internal/tool"
)

func TestShippedToolsAreComplete(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	var names []string
	for name, tl := range h.tools {
		names = append(names, name)
		if tl.Description == "" || tl.Version == "" || tl.Timeout == 0 || tl.Reads == "" || tl.Title == "" ||
			tl.Resource == nil || tl.Run == nil || len(tl.Scopes) == 0 {
			t.Errorf("%s lacks something: %+v", name, tl)
		}
		if n := strings.Count(tl.Description, ". ") + 1; n < 2 || n > 5 {
			t.Errorf("%s: description has %d sentences", name, n)
		}
		schemas := map[string]json.RawMessage{"input": tl.Input, "output": tl.Output}
		if tl.Kind != atlas.KindTool {
			delete(schemas, "output") // it answers with content
		}
		for what, s := range schemas {
			if _, err := compile(s); err != nil {
				t.Errorf("%s: %s schema: %v", name, what, err)
			}
		}
		var in struct {
			AdditionalProperties *bool `json:"additionalProperties"`
			Properties           map[string]struct{ Description string }
		}
		if err := json.Unmarshal(tl.Input, &in); err != nil || in.AdditionalProperties == nil || *in.AdditionalProperties {
			t.Errorf("%s: input allows further properties (%v)", name, err)
		}
		for p, s := range in.Properties {
			if s.Description == "" {
				t.Errorf("%s: input %s has no description", name, p)
			}
		}
		if tl.Items != "" {
			var out struct{ Properties map[string]json.RawMessage }
			if err := json.Unmarshal(tl.Output, &out); err != nil || out.Properties["truncated"] == nil ||
				out.Properties["next_cursor"] == nil || out.Properties[tl.Items] == nil {
				t.Errorf("%s: output does not allow what the guard stage adds", name)
			}
		}
		if tl.ReadOnly == tl.Destructive {
			t.Errorf("%s: read-only %v, destructive %v", name, tl.ReadOnly, tl.Destructive)
		}
		if !tl.ReadOnly && tl.CacheTTL != 0 {
			t.Errorf("%s writes and is cached", name)
		}
	}
	slices.Sort(names)
	want := []string{
		"critic", "crm_customer", "crm_customer_orders", "crm_documents", "crm_order", "crm_order_items", "crm_order_totals", "crm_query",
		"crm_schema", "crm_schema_doc", "customer_context", "customer_record", "docs_search", "files_documents", "files_get",
		"files_list", "files_put", "help_document", "http_fetch", "hybrid_search", "investigate_refund", "kb_search", "order_record",
		"planner", "retriever", "semantic_search", "synthesizer", "ticket", "tickets_of_customer", "tickets_search",
	}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

func TestLabels(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	for name, want := range map[string]atlas.Reads{
		"crm_query": "private", "tickets_search": "untrusted", "http_fetch": "untrusted", "docs_search": "private",
		"kb_search": "private", "ticket": "untrusted", "customer_context": "untrusted", "semantic_search": "private",
	} {
		if got := h.tools[name].Reads; got != want {
			t.Errorf("%s reads %s, want %s", name, got, want)
		}
	}
	if got := h.tools["files_put"]; got.Effects != atlas.EffectsWrite || !got.Destructive || !got.Idempotent {
		t.Errorf("files_put: %+v", got)
	}
	want := []string{"tool:crm:read", "tool:docs:read", "tool:kb:read", "tool:tickets:read"}
	if d := cmp.Diff(want, h.tools["customer_context"].Scopes); d != "" {
		t.Errorf("scopes of customer_context: %s", d)
	}
}

func TestVerbsCanBeSwitchedOffAndChanged(t *testing.T) {
	h := newHouse(t)
	s := h.sources["crm"]
	s.Tools = tool.Verbs{
		Expose: []string{"query"}, Toolsets: []string{"analytics"},
		Override: map[string]tool.Override{"query": {Description: "Answers questions. Use it last."}},
	}
	h.sources["crm"] = s
	none := h.sources["files"]
	none.Tools.Expose = []string{}
	h.sources["files"] = none
	web := h.sources["http"]
	web.Tools.Expose = []string{"send"}
	h.sources["http"] = web
	h.build()
	for name, want := range map[string]bool{
		"crm_query": true, "crm_schema": false, "files_get": false, "http_fetch": false, "http_send": true, "kb_search": true,
	} {
		if got := h.tools[name] != nil; got != want {
			t.Errorf("%s: offered %v, want %v", name, got, want)
		}
	}
	if got := h.tools["crm_query"].Description; got != "Answers questions. Use it last." {
		t.Errorf("description %q", got)
	}
	if send := h.tools["http_send"]; !send.Destructive || send.ReadOnly || send.Scopes[0] != "tool:http:write" {
		t.Errorf("http_send: %+v", send)
	}
}

func TestVerbMistakes(t *testing.T) {
	h := newHouse(t)
	for name, v := range map[string]tool.Verbs{
		`"querry" is not a verb`:   {Expose: []string{"querry"}},
		"cannot put":               {Expose: []string{"query", "put"}},
		"use private or untrusted": {Reads: "secret"},
		"is too short":             {Override: map[string]tool.Override{"query": {Description: "Short"}}},
		"cannot search":            {Override: map[string]tool.Override{"search": {}}},
	} {
		s := h.sources["crm"]
		s.Tools = v
		_, err := tool.Build(map[string]tool.Source{"crm": s}, nil, h.deps())
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: got %v, want %q", v, err, name)
		}
	}
}

func TestResources(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	for name, want := range map[string]string{
		"crm_query": "crm/crm_query", "crm_order": "crm/crm_order", "ticket": "tickets/ticket", "files_list": "files/",
		"customer_context": "workflow/customer_context", "hybrid_search": "composed/hybrid_search",
	} {
		if got := h.tools[name].Resource(atlas.Call{}); got != want {
			t.Errorf("%s is the resource %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"workflow", "composed", "CRM", "a-b", ""} {
		if _, err := tool.Build(map[string]tool.Source{name: h.sources["crm"]}, nil, h.deps()); err == nil {
			t.Errorf("a source named %q was accepted", name)
		}
	}
}

func TestVersionFollowsTheDefinition(t *testing.T) {
	const text = "tools:\n  one:\n    source: crm\n    description: %s\n    sql: %s\n"
	version := func(description, sql string) string {
		return newHouse(t).build(yaml(text, description, sql)).tools["one"].Version
	}
	first := version("Gives one. Use it.", "SELECT 1")
	if version("Gives one. Use it.", "SELECT 1") != first {
		t.Error("the same definition has two versions")
	}
	if version("Gives one. Use it now.", "SELECT 1") == first {
		t.Error("another description, the same version")
	}
	if version("Gives one. Use it.", "SELECT 2") == first {
		t.Error("another statement, the same version")
	}
}

func TestCostGrowsWithTheDefinition(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	small, large := tool.Cost(h.tools["crm_schema"]), tool.Cost(h.tools["crm_query"])
	if small < 50 || large <= small || large > 1000 {
		t.Errorf("cost of crm_schema %d, of crm_query %d", small, large)
	}
}

func TestBuildNeedsAPipeline(t *testing.T) {
	if _, err := tool.Build(nil, nil, tool.Deps{}); err == nil {
		t.Error("tools without a pipeline were built")
	}
}

func TestVerbsInYAML(t *testing.T) {
	var got struct {
		None tool.Verbs `yaml:"none"`
		All  tool.Verbs `yaml:"all"`
		Some tool.Verbs `yaml:"some"`
	}
	err := config.Decode("atlas.yaml", []byte(`
none: {expose: []}
all: {reads: private}
some:
  expose: [query]
  toolsets: [support]
  override:
    query: {cache: 0s, timeout: 2s, description: "Answers. Use it.", reads: untrusted}
`), config.Resolver{}, &got)
	if err != nil {
		t.Fatal(err)
	}
	if got.None.Expose == nil || got.All.Expose != nil {
		t.Errorf("[] and nothing are not told apart: %#v, %#v", got.None.Expose, got.All.Expose)
	}
	h := newHouse(t)
	s := h.sources["crm"]
	s.Tools = got.Some
	h.sources["crm"] = s
	query := h.build().tools["crm_query"]
	if query.CacheTTL != 0 || query.Timeout != 2*time.Second || query.Reads != atlas.ReadsUntrusted || query.Toolsets[0] != "support" {
		t.Errorf("%+v", query)
	}
}

// An approval and a cached answer are bound to the tool's version: what stands behind a tool is part
// of it, so that neither outlives a change of the source's settings.
func TestVersionFollowsTheSource(t *testing.T) {
	versions := func(crm string) map[string]string {
		h := newHouse(t)
		s := h.sources["crm"]
		s.Version = crm
		h.sources["crm"] = s
		h.build(shipped(t)...)
		out := map[string]string{}
		for name, tl := range h.tools {
			out[name] = tl.Version
		}
		return out
	}
	before, after := versions("1"), versions("2")
	for _, name := range []string{"crm_query", "crm_schema", "crm_order", "semantic_search", "customer_context"} {
		if before[name] == "" || before[name] == after[name] {
			t.Errorf("%s keeps its version %q though its source changed", name, before[name])
		}
	}
	for _, name := range []string{"tickets_search", "files_put"} {
		if before[name] != after[name] {
			t.Errorf("%s changed its version though its source did not", name)
		}
	}
	if again := versions("1"); again["customer_context"] != before["customer_context"] {
		t.Error("a version changes without a reason")
	}
}

// A list touches its prefix: the rule for docs/* covers listing docs/, not docs-secret, nor everything.
func TestListTouchesItsPrefix(t *testing.T) {
	list := newHouse(t).build(shipped(t)...).tools["files_list"]
	for prefix, want := range map[string]string{
		"": "files/", "docs/": "files/docs/", "docs": "files/docs", "docs/a": "files/docs/a", "../": "files//", "/docs": "files//", "a//": "files//",
	} {
		call := atlas.Call{Args: atlas.Args{Values: map[string]any{"prefix": prefix}}}
		if got := list.Resource(call); got != want {
			t.Errorf("prefix %q: resource %q, want %q", prefix, got, want)
		}
	}
}
