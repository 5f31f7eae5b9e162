package tool_test

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/folder"
	"github.com/atlas-mcp/atlas/internal/source/fts"
	"github.com/atlas-mcp/atlas/internal/source/lexical"
	"github.com/atlas-mcp/atlas/internal/source/sqlite"
	"github.com/atlas-mcp/atlas/internal/source/vec"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// demoHouse is a house whose stores are the embedded ones, with the demo company in them.
func demoHouse(t *testing.T) *house {
	t.Helper()
	h := newHouse(t)
	embed, err := lexical.New(lexical.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]source.Config{
		demo.CRM:     &sqlite.Config{Tables: []string{"customers", "orders", "order_items", "documents"}},
		demo.Tickets: &fts.Config{}, demo.Docs: &fts.Config{}, demo.KB: &vec.Config{}, demo.Files: &folder.Config{},
	} {
		dir := filepath.Join(t.TempDir(), name)
		s, err := cfg.Open(t.Context(), source.Deps{Name: name, DataDir: dir, Embed: embed, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(name, err)
		}
		t.Cleanup(func() { _ = s.Close() })
		for tenant, company := range demo.Companies() {
			if err := s.(source.Loader).Load(t.Context(), tenant, company[name]); err != nil {
				t.Fatal(name, err)
			}
		}
		h.sources[name] = tool.Source{Kind: name, Source: s, Tools: h.sources[name].Tools}
	}
	return h.build(shipped(t)...)
}

// The tools that Atlas ships with answer what they are for, on the demo company and its stores.
func TestShippedToolsOnTheDemoCompany(t *testing.T) {
	h := demoHouse(t)
	for _, c := range []struct {
		name, args string
		want       []string
	}{
		{"crm_customer", `{"customer_id":"CUST-1001"}`, []string{"Alicia Rivera", `"gold"`}},
		{"crm_order", `{"order_id":"o_9002"}`, []string{`"status":"refund_pending"`, `"total_cents":4900`, "2026-11-10"}},
		{"crm_order_items", `{"order_id":"o_9002"}`, []string{"Pour-over kettle", `"row_count":1`}},
		{"crm_customer_orders", `{"customer_id":"CUST-1001","limit":1}`, []string{`"orders":[{"id":"o_9002"`, `"row_count":1`}},
		{"crm_order_totals", `{}`, []string{`"status":"refund_pending"`}},
		{"crm_documents", `{"ids":["doc_refund_policy","doc_gx_refunds"]}`, []string{"five business days", `"row_count":1`}},
		{"ticket", `{"ticket_id":"t_7301"}`, []string{"card", `"customer_id":"CUST-1001"`}},
		{"tickets_of_customer", `{"customer_id":"CUST-1001","status":"pending"}`, []string{"t_7301"}},
		{"tickets_search", `{"query":"refund card closed"}`, []string{"t_7301"}},
		{"semantic_search", `{"query":"how long does a refund take"}`, []string{"doc_refund_policy", "five business days"}},
		{"hybrid_search", `{"query":"express shipping"}`, []string{"doc_shipping", `"lexical_rank"`, `"dense_rank"`}},
		{"crm_query", `{"sql":"SELECT name FROM customers WHERE id = :id","params":{"id":"CUST-1001"}}`, []string{"Alicia Rivera"}},
		{"crm_schema", `{}`, []string{"customers", "total_cents"}},
		{"files_list", `{"prefix":"docs/"}`, []string{"docs/returns-checklist.md"}},
		{"files_get", `{"key":"docs/returns-checklist.md"}`, []string{"# Returns checklist"}},
		{"customer_context", `{"customer_id":"CUST-1001","question":"Why was the refund on order o_9002 delayed?"}`, []string{
			"Alicia Rivera", "refund_pending", "t_7301", "doc_refund_policy", `"partial_errors":{}`,
		}},
	} {
		res, err := h.ask(t.Context(), demo.Acme, c.name, c.args)
		if err != nil {
			t.Errorf("%s(%s): %v", c.name, c.args, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(string(res.Structured), want) {
				t.Errorf("%s(%s) lacks %q:\n%.600s", c.name, c.args, want, res.Structured)
			}
		}
	}
}

// Asked by globex, every tool answers for acme's ids as it does for ids that nobody has.
func TestAnotherTenantsIDsLookLikeNobodys(t *testing.T) {
	h := demoHouse(t)
	for _, c := range []struct{ name, theirs, nobodys string }{
		{"crm_customer", `{"customer_id":"CUST-1001"}`, `{"customer_id":"CUST-9999"}`},
		{"crm_order", `{"order_id":"o_9002"}`, `{"order_id":"o_77777"}`},
		{"crm_order_items", `{"order_id":"o_9002"}`, `{"order_id":"o_77777"}`},
		{"crm_customer_orders", `{"customer_id":"CUST-1001"}`, `{"customer_id":"CUST-9999"}`},
		{"crm_documents", `{"ids":["doc_refund_policy"]}`, `{"ids":["doc_nobody"]}`},
		{"ticket", `{"ticket_id":"t_7301"}`, `{"ticket_id":"t_77777"}`},
		{"tickets_of_customer", `{"customer_id":"CUST-1001"}`, `{"customer_id":"CUST-9999"}`},
		{"files_get", `{"key":"docs/tone-of-voice.md"}`, `{"key":"docs/nobody.md"}`},
		{"files_list", `{"prefix":"tickets/t_7301"}`, `{"prefix":"tickets/t_9999"}`},
		{"customer_context", `{"customer_id":"CUST-1001","question":"x"}`, `{"customer_id":"CUST-9999","question":"x"}`},
	} {
		theirs, errTheirs := h.ask(t.Context(), demo.Globex, c.name, c.theirs)
		nobodys, errNobodys := h.ask(t.Context(), demo.Globex, c.name, c.nobodys)
		if string(theirs.Structured) != string(nobodys.Structured) {
			t.Errorf("%s tells acme's from nobody's:\n%s\n%s", c.name, theirs.Structured, nobodys.Structured)
		}
		if shown(errTheirs) != shown(errNobodys) {
			t.Errorf("%s tells acme's from nobody's:\n%s\n%s", c.name, shown(errTheirs), shown(errNobodys))
		}
		// The test means something only if acme's own call answers otherwise.
		own, err := h.ask(t.Context(), demo.Acme, c.name, c.theirs)
		if err != nil || string(own.Structured) == string(theirs.Structured) {
			t.Errorf("%s answers acme like globex: %s, %v", c.name, own.Structured, err)
		}
	}
}

func shown(err error) string {
	if err == nil {
		return ""
	}
	data, _ := json.Marshal(atlas.ErrorOf(err).Failure("r"))
	return string(data)
}
