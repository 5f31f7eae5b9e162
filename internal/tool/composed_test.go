package tool_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

func hit(id string, score float64, fields ...string) source.Hit {
	h := source.Hit{ID: id, Score: score, Fields: map[string]any{}}
	for i := 0; i < len(fields); i += 2 {
		h.Fields[fields[i]] = fields[i+1]
	}
	return h
}

func TestHybridSearch(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	h.docs.answer = func(atlas.TenantID, source.Search) (source.Hits, error) {
		first := hit("a", 9, "title", "A", "kind", "policy")
		first.Snippet = "…A…"
		return source.Hits{Total: 2, Hits: []source.Hit{first, hit("b", 5, "title", "B")}}, nil
	}
	h.kb.answer = func(context.Context, atlas.TenantID, source.Nearest) (source.Hits, error) {
		return source.Hits{Total: -1, Hits: []source.Hit{hit("b", .9, "body", "b b"), hit("c", .8), hit("c", .7), hit("d", .6)}}, nil
	}
	got := h.get("hybrid_search", `{"query":"x","top_k":3,"filter":{"kind":"policy"}}`)
	want := map[string]any{
		"query": "x", "partial_errors": map[string]any{}, "fused_from": map[string]any{"lexical": 2.0, "dense": 4.0},
		"results": []any{
			map[string]any{"id": "b", "title": "B", "body": "b b", "lexical_rank": 2.0, "dense_rank": 1.0, "rrf_score": 0.032522},
			map[string]any{
				"id": "a", "title": "A", "snippet": "…A…", "fields": map[string]any{"kind": "policy"}, "lexical_rank": 1.0, "rrf_score": 0.016393,
			},
			map[string]any{"id": "c", "dense_rank": 2.0, "rrf_score": 0.016129},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if a := h.docs.asked[0]; a.Size != 6 || a.Filter["kind"] != "policy" || h.kb.asked[0].K != 6 {
		t.Errorf("asked %+v and %+v", a, h.kb.asked[0])
	}

	h.fail["kb_search"] = atlas.Errorf(atlas.CodeCircuitOpen, errors.New("10.0.0.7:6333"), "")
	res, err := h.ask(t.Context(), "acme", "hybrid_search", `{"query":"x"}`)
	if err != nil || !res.Partial || !strings.Contains(string(res.Structured), `"partial_errors":{"dense":"circuit_open"}`) {
		t.Errorf("%s, partial %v, %v", res.Structured, res.Partial, err)
	}
	if strings.Contains(string(res.Structured), "10.0.0.7") {
		t.Error("the cause came out")
	}
	h.fail["docs_search"] = &atlas.Error{Code: atlas.CodeTimeout}
	_, err = h.ask(t.Context(), "acme", "hybrid_search", `{"query":"x"}`)
	wantCode(t, err, atlas.CodeTimeout)
}

func TestSemanticSearch(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	h.kb.answer = func(context.Context, atlas.TenantID, source.Nearest) (source.Hits, error) {
		return source.Hits{Total: -1, Hits: []source.Hit{
			hit("doc_a", .9, "title", "Old title", "body", "old", "kind", "policy"), hit("doc_gone", .8, "title", "Gone"), hit("doc_b", .7),
		}}, nil
	}
	h.crm.answer = func(_ atlas.TenantID, q source.Query) (source.Rows, error) {
		if q.Args["ids_0"] != "doc_a" || q.Args["ids_2"] != "doc_b" {
			t.Errorf("asked for %v", q.Args)
		}
		return source.Rows{Columns: []string{"id", "title", "body", "url"}, Rows: [][]any{
			{"doc_b", "B", "b", nil}, {"doc_a", "A", "a", "https://acme.example/a"},
		}}, nil
	}
	got := h.get("semantic_search", `{"query":"x"}`)
	want := map[string]any{
		"query": "x", "partial_errors": map[string]any{}, "results": []any{
			map[string]any{
				"id": "doc_a", "score": .9, "title": "A", "body": "a", "url": "https://acme.example/a",
				"fields": map[string]any{"kind": "policy"},
			},
			map[string]any{"id": "doc_b", "score": .7, "title": "B", "body": "b"},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error("a document that its owner no longer has must go; the owner's text wins:", d)
	}

	h.fail["crm_documents"] = &atlas.Error{Code: atlas.CodeSourceUnavailable}
	res, err := h.ask(t.Context(), "acme", "semantic_search", `{"query":"x"}`)
	if err != nil || !res.Partial || !strings.Contains(string(res.Structured), `"hydrate":"source_unavailable"`) ||
		!strings.Contains(string(res.Structured), "Old title") {
		t.Errorf("%s, partial %v, %v", res.Structured, res.Partial, err)
	}
	h.fail["kb_search"] = &atlas.Error{Code: atlas.CodeDeniedByPolicy}
	_, err = h.ask(t.Context(), "acme", "semantic_search", `{"query":"x"}`)
	wantCode(t, err, atlas.CodeDeniedByPolicy)
}

// filled fills a house with what customer_context asks for.
func filled(t testing.TB) *house {
	h := newHouse(t).build(shipped(t)...)
	h.crm.answer = func(tenant atlas.TenantID, q source.Query) (source.Rows, error) {
		mine := tenant == "acme" && q.Args["customer_id"] == "CUST-1001"
		switch {
		case strings.Contains(q.SQL, "FROM customers"):
			rows := source.Rows{Columns: []string{"id", "name", "email", "tier", "created_at"}}
			if mine {
				rows.Rows = [][]any{{"CUST-1001", "Alicia Rivera", "alicia@example.com", "gold", "2023-02-14"}}
			}
			return rows, nil
		case strings.Contains(q.SQL, "FROM orders") && mine:
			return source.Rows{Columns: []string{"id", "status"}, Rows: [][]any{{"o_9002", "refund_pending"}}, Truncated: true}, nil
		}
		return source.Rows{}, nil
	}
	h.tickets.answer = func(tenant atlas.TenantID, s source.Search) (source.Hits, error) {
		if tenant != "acme" || s.Filter["customer_id"] != "CUST-1001" {
			return source.Hits{}, nil
		}
		return source.Hits{Total: 1, Hits: []source.Hit{hit("t_7301", 1, "title", "Refund on hold")}}, nil
	}
	h.kb.answer = func(_ context.Context, _ atlas.TenantID, n source.Nearest) (source.Hits, error) {
		if n.Text != "refund?" || n.K != 10 {
			t.Errorf("documents: %+v", n)
		}
		return source.Hits{Hits: []source.Hit{hit("doc_refund_policy", 1, "title", "Refund policy")}}, nil
	}
	return h
}

const context1001 = `{"customer_id":"CUST-1001","question":"refund?"}`

func TestCustomerContext(t *testing.T) {
	h := filled(t)
	got := h.get("customer_context", context1001)
	want := map[string]any{
		"customer_id": "CUST-1001", "question": "refund?", "partial_errors": map[string]any{}, "incomplete": []any{"orders"},
		"profile": map[string]any{
			"id": "CUST-1001", "name": "Alicia Rivera", "email": "alicia@example.com", "tier": "gold", "created_at": "2023-02-14",
		},
		"orders":    []any{map[string]any{"id": "o_9002", "status": "refund_pending"}},
		"tickets":   []any{map[string]any{"id": "t_7301", "title": "Refund on hold"}},
		"documents": []any{map[string]any{"id": "doc_refund_policy", "title": "Refund policy", "dense_rank": 1.0, "rrf_score": 0.016393}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Children go by the pipeline, as their parent's principal and tenant and no other.
func TestChildrenCarryTheirParent(t *testing.T) {
	h := filled(t)
	h.get("customer_context", context1001)
	seen := map[string]bool{}
	for _, c := range h.calls[1:] {
		if c.ID == "" || seen[c.ID] {
			t.Errorf("%s: id %q is not unique", c.Name, c.ID)
		}
		seen[c.ID] = true
		depth, parent := 1, "customer_context"
		if c.Name == "kb_search" || c.Name == "docs_search" {
			depth, parent = 2, "hybrid_search"
		}
		if c.Parent == nil || c.Parent.Tool != parent || c.Parent.Depth != depth || c.Tenant != "acme" ||
			c.Principal != h.calls[0].Principal || c.TraceParent != "00-trace" || c.Transport != "internal" {
			t.Errorf("%s: %+v (parent %+v)", c.Name, c, c.Parent)
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d children, want 6", len(seen))
	}
}

func TestAnotherTenantsCustomerIsNotFound(t *testing.T) {
	h := filled(t)
	_, foreign := h.ask(t.Context(), "globex", "customer_context", context1001)
	_, missing := h.ask(t.Context(), "globex", "customer_context", `{"customer_id":"CUST-9","question":"refund?"}`)
	wantCode(t, foreign, atlas.CodeNotFound)
	if d := cmp.Diff(atlas.ErrorOf(missing).Failure("r"), atlas.ErrorOf(foreign).Failure("r")); d != "" {
		t.Error(d)
	}
}

func TestFailedBranchIsNamed(t *testing.T) {
	h := filled(t)
	h.fail["tickets_of_customer"] = atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("host db7"), "")
	h.fail["hybrid_search"] = errors.New("panic: host db7")
	res, err := h.ask(t.Context(), "acme", "customer_context", context1001)
	if err != nil || !res.Partial {
		t.Fatalf("partial %v, %v", res.Partial, err)
	}
	var got map[string]any
	if err := json.Unmarshal(res.Structured, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"tickets": "source_unavailable", "documents": "internal_error"}
	if d := cmp.Diff(want, got["partial_errors"]); d != "" {
		t.Error(d)
	}
	if _, there := got["tickets"]; there {
		t.Error("a failed branch is there, as if there were no tickets")
	}
	if strings.Contains(string(res.Structured), "db7") {
		t.Error("a cause came out")
	}
	h.fail["crm_customer"] = &atlas.Error{Code: atlas.CodeDeniedByPolicy}
	_, err = h.ask(t.Context(), "acme", "customer_context", context1001)
	wantCode(t, err, atlas.CodeDeniedByPolicy)
}

// A degraded child makes its parent degraded: else the parent's answer would be cached as good.
func TestPartialSpreads(t *testing.T) {
	h := filled(t)
	h.fail["docs_search"] = &atlas.Error{Code: atlas.CodeTimeout}
	res, err := h.ask(t.Context(), "acme", "customer_context", context1001)
	if err != nil || !res.Partial {
		t.Errorf("partial %v, %v", res.Partial, err)
	}
}

func TestSlowBranchIsGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := filled(t)
		h.hook = func(ctx context.Context, c atlas.Call) error {
			if c.Name == "hybrid_search" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		res, err := h.ask(ctx, "acme", "customer_context", context1001)
		if err != nil || !strings.Contains(string(res.Structured), `"documents":"timeout"`) || !strings.Contains(string(res.Structured), "o_9002") {
			t.Errorf("%s, %v", res.Structured, err)
		}
		if took := time.Since(start); took != 9*time.Second {
			t.Errorf("took %v of 10s", took)
		}
	})
}

func TestCancelEndsAWorkflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := filled(t)
		h.hook = func(ctx context.Context, c atlas.Call) error {
			if c.Parent != nil {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := h.ask(ctx, "acme", "customer_context", context1001)
		wantCode(t, err, atlas.CodeCanceled)
	})
}

// When a required step fails, the others are told to stop, and its error is the one that comes out.
func TestRequiredFailureStopsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := filled(t)
		h.hook = func(ctx context.Context, c atlas.Call) error {
			if c.Parent != nil && c.Name != "crm_customer" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		h.fail["crm_customer"] = &atlas.Error{Code: atlas.CodeNotFound}
		_, err := h.ask(t.Context(), "acme", "customer_context", context1001)
		wantCode(t, err, atlas.CodeNotFound)
	})
}

func TestStepsRunTogetherOrInTurn(t *testing.T) {
	const text = `
tools:
  item:
    source: crm
    description: Gives an item. Use it.
    input: {id: {type: string, description: "an id"}}
    sql: SELECT 1 WHERE id = :id
    single: true
    output: {id: {type: string}, next: {type: string}}
  chain:
    description: Follows a chain. Use it.
    input: {id: {type: string, description: "an id"}}
    steps:
      - {id: third, tool: item, args: {id: "{second.next}!"}, pick: next, optional: true}
      - {id: second, tool: item, args: {id: "{first.next}"}, optional: true}
      - {id: first, tool: item, args: {id: "{id}"}}
`
	h := newHouse(t).build(yaml(text))
	h.crm.answer = func(_ atlas.TenantID, q source.Query) (source.Rows, error) {
		id := q.Args["id"].(string)
		if id == "axx" {
			return source.Rows{Columns: []string{"id"}}, nil
		}
		return source.Rows{Columns: []string{"id", "next"}, Rows: [][]any{{id, id + "x"}}}, nil
	}
	got := h.get("chain", `{"id":"b"}`)
	want := map[string]any{
		"first": map[string]any{"id": "b", "next": "bx"}, "second": map[string]any{"id": "bx", "next": "bxx"}, "third": "bxx!x",
		"partial_errors": map[string]any{},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// A step whose predecessor failed is not run.
	h.fail["item"] = &atlas.Error{Code: atlas.CodeTimeout}
	before := h.called("item")
	_, err := h.ask(t.Context(), "acme", "chain", `{"id":"b"}`)
	wantCode(t, err, atlas.CodeTimeout)
	if n := h.called("item") - before; n != 1 {
		t.Errorf("%d items were asked for", n)
	}
}

func TestFanOutIsBounded(t *testing.T) {
	text := "tools:\n  wide:\n    description: Is wide. Use it.\n    steps:\n"
	for i := range 16 {
		text += "      - {id: s" + string(rune('a'+i)) + ", tool: crm_schema}\n"
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t).build(yaml("%s", text))
		var mu sync.Mutex
		running, most := 0, 0
		h.hook = func(_ context.Context, c atlas.Call) error {
			if c.Parent == nil {
				return nil
			}
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			return nil
		}
		if _, err := h.ask(t.Context(), "acme", "wide", `{}`); err != nil || most != 8 {
			t.Errorf("%d at the same time, %v", most, err)
		}
	})
}

// A pipeline that was reloaded may give a child's name to another tool; calls still do not nest for ever.
func TestDepthIsBounded(t *testing.T) {
	h := filled(t)
	flow := h.tools["customer_context"]
	flow.Input = json.RawMessage(`{}`) // as a child it is called without a question
	h.tools["crm_customer"] = flow
	_, err := h.ask(t.Context(), "acme", "customer_context", context1001)
	wantCode(t, err, atlas.CodeInternal)
	if n := h.called("crm_customer"); n != 4 {
		t.Errorf("nested %d deep", n)
	}
}

func TestOldestReadingCounts(t *testing.T) {
	h := filled(t)
	old := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	run := h.tools["crm_customer_orders"].Run
	h.tools["crm_customer_orders"].Run = func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		res, err := run(ctx, c)
		res.AsOf = old // answered by the cache
		return res, err
	}
	res, err := h.ask(t.Context(), "acme", "customer_context", context1001)
	if err != nil || !res.AsOf.Equal(old) {
		t.Errorf("as of %v, %v", res.AsOf, err)
	}
}
