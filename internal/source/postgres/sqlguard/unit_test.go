package sqlguard_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/postgres/sqlguard"
)

// A verdict is the tenant's own: nobody learns from the time of an answer what others asked.
func TestVerdictsAreKeptByTenant(t *testing.T) {
	g := open(t, config())
	const sql = "SELECT id FROM orders WHERE id = 'o_9002'"
	if _, err := g.Check(t.Context(), "globex", sql); err != nil {
		t.Fatal(err)
	}
	if g.Kept("acme", sql) {
		t.Error("acme finds what globex asked")
	}
	if !g.Kept("globex", sql) {
		t.Error("globex does not find what it asked")
	}
}

func TestCacheIsBounded(t *testing.T) {
	cfg := config()
	cfg.Cache = 10_000
	g := open(t, cfg)
	for i := range 100 {
		if _, err := g.Check(t.Context(), tenant, fmt.Sprintf("SELECT %d", i)); err != nil {
			t.Fatal(err)
		}
		if n := g.Used(); n > cfg.Cache {
			t.Fatalf("%d bytes are kept, at most %d may be", n, cfg.Cache)
		}
	}
	if g.Kept(tenant, "SELECT 0") || !g.Kept(tenant, "SELECT 99") {
		t.Error("not the oldest were forgotten")
	}
}

func TestContext(t *testing.T) {
	g := open(t, config())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Check(ctx, tenant, "SELECT 1"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// Who waits for the parser stops waiting.
	release := sqlguard.Hold()
	defer release()
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := g.Check(ctx, tenant, "SELECT 2")
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// After a panic of the parser nothing is allowed any more, for it may read one statement and answer
// about another.
func TestLostParserAllowsNothing(t *testing.T) {
	g := open(t, config())
	defer sqlguard.Break()()
	if _, err := g.Check(t.Context(), tenant, "SELECT 3"); atlas.CodeOf(err) != atlas.CodeInternal {
		t.Errorf("got %v", err)
	}
}

func TestParams(t *testing.T) {
	g := open(t, config())
	for sql, want := range map[string]int{
		"SELECT 1": 0, "SELECT id FROM orders WHERE id = $1 AND status = $3::text": 3, "SELECT $2 LIMIT $1": 2,
	} {
		if v, err := g.Check(t.Context(), tenant, sql); err != nil || v.Params != want {
			t.Errorf("%s: %d, %v; want %d", sql, v.Params, err, want)
		}
	}
}

// Names mean to the server what they mean to the guard, also where Postgres would find a hidden
// column first.
func TestVerdict(t *testing.T) {
	g := open(t, config())
	for _, tc := range []struct {
		sql  string
		want sqlguard.Verdict
	}{
		{
			"SELECT * FROM items -- all of them", sqlguard.Verdict{
				SQL:    "SELECT items.id AS id, items.order_id AS order_id, items.sku AS sku FROM public.items items",
				Tables: []string{"items"}, Columns: []string{"id", "order_id", "sku"},
			},
		},
		{
			// To Postgres, the inner ssn would be the column of customers.
			"SELECT (SELECT ssn FROM customers LIMIT 1) FROM (SELECT 1 AS ssn) o", sqlguard.Verdict{
				SQL:    "SELECT (SELECT o.ssn AS ssn FROM public.customers customers LIMIT 1) AS ssn FROM (SELECT 1 AS ssn) o",
				Tables: []string{"customers"}, Columns: []string{},
			},
		},
		{
			// Postgres would group by customers.ssn.
			"SELECT 1 AS ssn FROM customers GROUP BY ssn", sqlguard.Verdict{
				SQL:    "SELECT 1 AS ssn FROM public.customers customers GROUP BY 1",
				Tables: []string{"customers"}, Columns: []string{},
			},
		},
		{
			// A bare ssn would be the column of customers.
			"SELECT row_to_json(ssn) FROM customers, (SELECT id FROM orders) ssn", sqlguard.Verdict{
				SQL:    "SELECT pg_catalog.row_to_json(ssn.*) AS row_to_json FROM public.customers customers, (SELECT orders.id AS id FROM public.orders orders) ssn",
				Tables: []string{"customers", "orders"}, Columns: []string{"id"},
			},
		},
		{
			// The inner o is not lateral: to Postgres, o.id is the outer one's.
			"SELECT (SELECT x.a FROM (SELECT 1 AS id) o, (SELECT o.id AS a) x) FROM customers o", sqlguard.Verdict{
				SQL:    "SELECT (SELECT x.a AS a FROM (SELECT 1 AS id) o_2, (SELECT o.id AS a) x) AS a FROM public.customers o",
				Tables: []string{"customers"}, Columns: []string{"id"},
			},
		},
		{
			"WITH vault AS (SELECT id FROM orders) SELECT * FROM vault", sqlguard.Verdict{
				SQL:    "WITH q1_vault AS (SELECT orders.id AS id FROM public.orders orders) SELECT vault.id AS id FROM q1_vault vault",
				Tables: []string{"orders"}, Columns: []string{"id"},
			},
		},
	} {
		v, err := g.Check(t.Context(), tenant, tc.sql)
		if err != nil {
			t.Errorf("%s: %v", tc.sql, err)
			continue
		}
		if diff := cmp.Diff(tc.want, v); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.sql, diff)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for name, c := range map[string]sqlguard.Config{
		"system schema":     {Schema: "pg_catalog"},
		"quoted schema":     {Schema: `a"b`},
		"no columns":        {Tables: map[string][]string{"a": {}}},
		"system column":     {Tables: map[string][]string{"a": {"ctid"}}},
		"a column twice":    {Tables: map[string][]string{"a": {"b", "b"}}},
		"quoted table":      {Tables: map[string][]string{`a"`: {"b"}}},
		"set_config":        {Functions: []string{"set_config"}},
		"SET_CONFIG":        {Functions: []string{"pg_catalog.SET_CONFIG"}},
		"dblink":            {Functions: []string{"public.dblink_exec"}},
		"query_to_xml":      {Functions: []string{"query_to_xml"}},
		"pg_read_file":      {Functions: []string{"pg_read_file"}},
		"function's schema": {Functions: []string{"information_schema.x"}},
		"no function":       {Functions: []string{"a b"}},
		"type":              {Types: []string{"a.b"}},
		"negative":          {MaxBytes: -1},
		"too long":          {MaxBytes: 1 << 20},
		"too deep":          {MaxDepth: 1000},
	} {
		if _, err := sqlguard.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Added functions and types are called where they are, under their bare name too, and not elsewhere.
func TestAdditions(t *testing.T) {
	cfg := config()
	cfg.Functions = []string{"ext.similarity", "unistr"}
	g := open(t, cfg)
	for sql, want := range map[string]string{
		"SELECT similarity('a', 'b')":        "SELECT ext.similarity('a', 'b') AS similarity",
		"SELECT ext.similarity('a', 'b')":    "SELECT ext.similarity('a', 'b') AS similarity",
		"SELECT unistr('a')":                 "SELECT pg_catalog.unistr('a') AS unistr",
		"SELECT 'open'::public.order_state":  "SELECT 'open'::public.order_state AS order_state",
		"SELECT other.similarity('a', 'b')":  "",
		"SELECT 'a'::other.order_state":      "",
		"SELECT 'a'::pg_catalog.order_state": "",
	} {
		v, err := g.Check(t.Context(), tenant, sql)
		if v.SQL != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", sql, v.SQL, err, want)
		}
	}
}

// Every field of the nodes that are walked is known: a parser that has more must be looked at.
func TestFieldsOfNodes(t *testing.T) {
	for name, fields := range sqlguard.Fields() {
		if diff := cmp.Diff(known[name], fields); diff != "" {
			t.Errorf("%s (-known +parser's):\n%s", name, diff)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	const sql = `SELECT c.name, sum(o.total_cents) AS cents FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.status = 'refunded' GROUP BY c.name ORDER BY cents DESC LIMIT 10`
	for _, tc := range []struct {
		name, sql string
		cache     int
		code      atlas.Code
	}{
		{"hit", sql, 0, ""},
		{"miss", sql, 1, ""}, // nothing fits in
		{"refused hit", "SELECT secret FROM vault", 0, atlas.CodeInvalidQuery},
		{"refused miss", "SELECT secret FROM vault", 1, atlas.CodeInvalidQuery},
	} {
		b.Run(tc.name, func(b *testing.B) {
			cfg := config()
			cfg.Cache = tc.cache
			g := open(b, cfg)
			if err := g.Warm(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Check(b.Context(), tenant, tc.sql); atlas.CodeOf(err) != tc.code {
					b.Fatal(err)
				}
			}
		})
	}
}
