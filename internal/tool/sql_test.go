package tool_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

func TestQueryVerb(t *testing.T) {
	h := newHouse(t).build()
	h.crm.answer = func(atlas.TenantID, source.Query) (source.Rows, error) {
		return source.Rows{
			Columns: []string{"id", "id", "n", "f", "ok", "none"},
			Rows: [][]any{
				{"a\"<b>\n\x01\xffé", "z", int64(math.MaxInt64), 1.5, true, nil},
				{"", "", int64(-1), math.Inf(1), false, nil},
			},
			Truncated: true,
		}, nil
	}
	res, err := h.ask(t.Context(), "acme", "crm_query", `{"sql":"SELECT 1","params":{"a":1,"b":1.5,"c":"x","d":null,"e":true},"max_rows":7}`)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"columns":["id","id_2","n","f","ok","none"],"rows":[` +
		`{"id":"a\"<b>\n\u0001` + "\ufffd" + `é","id_2":"z","n":9223372036854775807,"f":1.5,"ok":true,"none":null},` +
		`{"id":"","id_2":"","n":-1,"f":null,"ok":false,"none":null}],"row_count":2,"truncated":true}`
	if d := cmp.Diff(want, string(res.Structured)); d != "" || !res.Truncated {
		t.Errorf("truncated %v: %s", res.Truncated, d)
	}
	q := h.crm.last(t)
	if d := cmp.Diff(source.Query{SQL: "SELECT 1", MaxRows: 7, Agent: true, Args: map[string]any{
		"a": int64(1), "b": 1.5, "c": "x", "d": nil, "e": true,
	}}, q); d != "" {
		t.Error(d)
	}
	if h.crm.tenants[0] != "acme" {
		t.Error("asked for", h.crm.tenants[0])
	}
}

func TestQueryFacts(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	for name, args := range map[string]string{"crm_query": `{"sql":"SELECT 2"}`, "crm_order": `{"order_id":"o_1"}`} {
		facts, err := h.tools[name].Facts(t.Context(), atlas.Call{Tenant: "acme", Args: atlas.Args{Raw: json.RawMessage(args)}})
		if err != nil || !strings.HasPrefix(facts.SQL, "SELECT") || len(facts.Tables) != 1 {
			t.Errorf("%s: %+v, %v", name, facts, err)
		}
	}
}

func TestQueryBounds(t *testing.T) {
	h := newHouse(t).build()
	for _, args := range []string{
		`{}`, `{"sql":""}`, `{"sql":7}`, `{"sql":"SELECT 1","max_rows":0}`, `{"sql":"SELECT 1","max_rows":1001}`,
		`{"sql":"SELECT 1","tenant":"globex"}`, `{"sql":"SELECT 1","params":{"a b":1}}`, `{"sql":"SELECT 1","params":{"a":{}}}`,
	} {
		_, err := h.ask(t.Context(), "acme", "crm_query", args)
		wantCode(t, err, atlas.CodeInvalidArguments)
	}
	h.get("crm_query", `{"sql":"SELECT 1"}`)
	if q := h.crm.last(t); q.MaxRows != 100 {
		t.Errorf("%d rows by default", q.MaxRows)
	}
}

func TestSchemaVerb(t *testing.T) {
	got := newHouse(t).build().get("crm_schema", `{}`)
	want := map[string]any{"tables": []any{
		map[string]any{"name": "orders", "columns": []any{map[string]any{"name": "id", "type": "TEXT"}}},
		map[string]any{"name": "empty", "columns": []any{}},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSingleRow(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	h.crm.answer = func(tenant atlas.TenantID, q source.Query) (source.Rows, error) {
		rows := source.Rows{Columns: []string{"id", "customer_id", "status", "total_cents", "currency", "created_at", "updated_at", "note"}}
		if tenant == "acme" && q.Args["order_id"] == "o_9002" {
			rows.Rows = [][]any{{"o_9002", "CUST-1001", "refund_pending", int64(4900), "USD", "2026-10-21", "2026-11-12", nil}}
		}
		return rows, nil
	}
	if got := h.get("crm_order", `{"order_id":"o_9002"}`); got["total_cents"] != 4900.0 || got["note"] != nil {
		t.Errorf("%v", got)
	}
	if q := h.crm.last(t); q.MaxRows != 1 || !strings.Contains(q.SQL, "WHERE id = :order_id") {
		t.Errorf("%+v", q)
	}
	// Another tenant's order is answered just like one that nobody has.
	_, foreign := h.ask(t.Context(), "globex", "crm_order", `{"order_id":"o_9002"}`)
	_, missing := h.ask(t.Context(), "globex", "crm_order", `{"order_id":"o_1"}`)
	wantCode(t, foreign, atlas.CodeNotFound)
	if d := cmp.Diff(atlas.ErrorOf(missing).Failure("r"), atlas.ErrorOf(foreign).Failure("r")); d != "" {
		t.Error(d)
	}
	for _, id := range []string{"o_9002' OR '1'='1", "o_9002\n", "", "9002"} {
		args, _ := json.Marshal(map[string]string{"order_id": id})
		_, err := h.ask(t.Context(), "acme", "crm_order", string(args))
		wantCode(t, err, atlas.CodeInvalidArguments)
	}
}

func TestOptionalArgumentIsNull(t *testing.T) {
	h := newHouse(t).build(yaml(`
tools:
  orders:
    source: crm
    description: Gives orders. Use it.
    input:
      status: {type: string, description: "a status"}
    required: []
    max_rows: 5
    items: orders
    sql: SELECT id FROM orders WHERE :status IS NULL OR status = :status
`))
	if got := h.get("orders", `{}`); got["row_count"] != 0.0 || got["orders"] == nil {
		t.Error(got)
	}
	q := h.crm.last(t)
	if v, ok := q.Args["status"]; !ok || v != nil || q.MaxRows != 5 {
		t.Errorf("%+v", q)
	}
}

func TestListsBecomeParameters(t *testing.T) {
	h := newHouse(t).build(yaml(`
tools:
  some:
    source: crm
    description: Gives some. Use it.
    input:
      ids: {type: array, items: {type: string}, maxItems: 3, description: "ids"}
      kind: {type: string, description: "a kind"}
    sql: SELECT id FROM t WHERE kind = :kind AND id IN (:ids) OR x IN (:ids)
`))
	h.get("some", `{"ids":["a","b') --"],"kind":"k"}`)
	want := source.Query{
		SQL:     "SELECT id FROM t WHERE kind = :kind AND id IN (:ids_0, :ids_1) OR x IN (:ids_0, :ids_1)",
		Args:    map[string]any{"ids_0": "a", "ids_1": "b') --", "kind": "k"},
		MaxRows: 100,
	}
	if d := cmp.Diff(want, h.crm.last(t)); d != "" {
		t.Error(d)
	}
	h.get("some", `{"ids":[],"kind":"k"}`)
	if got := h.crm.last(t).SQL; !strings.Contains(got, "id IN (NULL)") {
		t.Error(got)
	}
	_, err := h.ask(t.Context(), "acme", "some", `{"ids":["a","b","c","d"],"kind":"k"}`)
	wantCode(t, err, atlas.CodeInvalidArguments)
}

func TestParametersInStatements(t *testing.T) {
	for sql, want := range map[string]string{
		"SELECT :a":               "a",
		"SELECT ':b', :a":         "a",
		"SELECT 'it''s :b', :a":   "a",
		`SELECT ":b", :a`:         "a",
		"SELECT `:b`, :a":         "a",
		"SELECT :a -- :b":         "a",
		"SELECT /* :b */ :a":      "a",
		"SELECT :a::text":         "a",
		"SELECT $$ :b $$, :a":     "a",
		"SELECT $x$ :b $x$, :a":   "a",
		"SELECT a$1, :a":          "a",
		"SELECT x[1:2], :a":       "a",
		"SELECT :a, :a1 ,:a":      "a a1",
		"SELECT 1 -- :b\n, :a":    "a",
		"SELECT data @> :a":       "a",
		"SELECT 1":                "",
		"SELECT '":                "' is not closed",
		"SELECT /* x":             "/* is not closed",
		"SELECT $1":               "write :name",
		"SELECT ?":                "write :name",
		"SELECT @a":               "write :name",
		"SELECT $x$ never closed": "$x$ is not closed",
	} {
		names := ""
		for _, n := range []string{"a", "a1", "b"} {
			if strings.Contains(" "+want+" ", " "+n+" ") {
				names += "      " + n + ": {type: string, description: \"a value\"}\n"
			}
		}
		text := "tools:\n  one:\n    source: crm\n    description: Gives one. Use it.\n    sql: |\n      " +
			strings.ReplaceAll(sql, "\n", "\n      ") + "\n"
		if names != "" && !strings.Contains(want, "closed") && !strings.Contains(want, "write") {
			text += "    input:\n" + names
		}
		err := buildError(t, text)
		if wrong := strings.Contains(want, "closed") || strings.Contains(want, "write"); wrong {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", sql, err, want)
			}
		} else if err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func BenchmarkRows(b *testing.B) {
	h := newHouse(b).build()
	rows := source.Rows{Columns: []string{"id", "status", "total_cents"}}
	for range 100 {
		rows.Rows = append(rows.Rows, []any{"o_9002", "refund_pending", int64(4900)})
	}
	h.crm.answer = func(atlas.TenantID, source.Query) (source.Rows, error) { return rows, nil }
	call := atlas.Call{Tenant: "acme", Args: atlas.Args{Values: map[string]any{"sql": "SELECT 1"}}}
	run := h.tools["crm_query"].Run
	b.ReportAllocs()
	for b.Loop() {
		if _, err := run(b.Context(), call); err != nil {
			b.Fatal(err)
		}
		h.crm.queries, h.crm.tenants = h.crm.queries[:0], h.crm.tenants[:0]
	}
}

// How rows are written is remembered from call to call; columns that have changed meanwhile (a table's,
// of which a statement selects everything) are still written under their own names.
func TestColumnsChange(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	for _, columns := range [][]string{{"id", "status"}, {"id", "status"}, {"id", "note"}, {"id", "id"}, {"id"}, {"id", "status"}} {
		row := []any{"o_1", "open"}[:len(columns)]
		h.crm.answer = func(atlas.TenantID, source.Query) (source.Rows, error) {
			return source.Rows{Columns: columns, Rows: [][]any{row}}, nil
		}
		want := `{"id":"o_1"}`
		if len(columns) == 2 {
			name := strings.Replace(columns[1], "id", "id_2", 1)
			want = `{"id":"o_1","` + name + `":"open"}`
		}
		res, err := h.ask(t.Context(), "acme", "crm_order", `{"order_id":"o_1"}`)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(res.Structured); got != want {
			t.Errorf("columns %v: %s, want %s", columns, got, want)
		}
	}
}
