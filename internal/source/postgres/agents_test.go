package postgres_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
	"github.com/atlas-mcp/atlas/internal/source/postgres"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

func agent(t testing.TB, src *postgres.DB, sql string, args map[string]any) (source.Rows, error) {
	t.Helper()
	return src.Query(t.Context(), sourcetest.A, source.Query{SQL: sql, Args: args, Agent: true})
}

// While a function could undo the tenant's bound, agents' SQL is refused, the operator's is not, and
// only the operator is told why.
func TestAgentsNeedTheSecondWall(t *testing.T) {
	src, d := company(t, false)
	const sql = `SELECT name FROM customers WHERE id = :id`
	args := map[string]any{"id": "CUST-1001"}
	want := [][]any{{"Shared belongstoacme"}}
	if got, err := agent(t, src, sql, args); err != nil || !cmp.Equal(got.Rows, want) {
		t.Fatalf("before: %v, %v", got, err)
	}
	const mend = `REVOKE EXECUTE ON FUNCTION pg_catalog.set_config(text,text,boolean) FROM PUBLIC`
	d.Admin(`GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO PUBLIC`)
	if err := src.Ping(t.Context()); err != nil {
		t.Fatalf("Ping: %v", err)
	}
	_, err := agent(t, src, sql, args)
	e := atlas.ErrorOf(err)
	if e == nil || e.Code != atlas.CodeSourceMisused || e.Hint != "" || len(e.Context) > 0 {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), mend) {
		t.Errorf("operators are not told %q: %v", mend, err)
	}
	if f := e.Failure("r"); strings.Contains(f.Hint, "set_config") || strings.Contains(f.Hint, "REVOKE") {
		t.Errorf("callers are told %q", f.Hint)
	}
	if got, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: sql, Args: args}); err != nil || !cmp.Equal(got.Rows, want) {
		t.Errorf("the operator's own: %v, %v", got, err)
	}
	d.Admin(mend)
	if err := src.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := agent(t, src, sql, args); err != nil || !cmp.Equal(got.Rows, want) {
		t.Errorf("mended: %v, %v", got, err)
	}
}

// The forgery that works without the walls (seed-facts 11) is stopped by each of them alone.
func TestForgedTenant(t *testing.T) {
	const forgery = `WITH x AS MATERIALIZED (SELECT set_config('app.tenant_id', 'globex', true) AS t) SELECT c.name FROM x, customers c WHERE x.t IS NOT NULL`
	src, d := company(t, false)
	operator := func() (source.Rows, error) {
		return src.Query(t.Context(), sourcetest.A, source.Query{SQL: forgery})
	}
	if got, err := operator(); atlas.CodeOf(err) != atlas.CodeInvalidQuery {
		t.Errorf("the database alone: %v, %v", got, err)
	}
	d.Admin(`GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO PUBLIC`)
	// This is what the walls are for: without the REVOKE the text forges the tenant.
	if got, err := operator(); err != nil || len(got.Rows) != 2 || !strings.Contains(got.Rows[0][0].(string), "belongstoglobex") {
		t.Errorf("the forgery does not work any more, so this test shows nothing: %v, %v", got, err)
	}
	if _, err := agent(t, src, forgery, nil); atlas.CodeOf(err) != atlas.CodeInvalidQuery {
		t.Errorf("the guard alone: %v", err)
	}
	if err := src.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := agent(t, src, forgery, nil); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("with the check: %v", err)
	}
}

func TestAgentsAreBounded(t *testing.T) {
	d := pgrlstest.New(t)
	c := config(d, false)
	c.Agents = postgres.AgentConfig{MaxCost: 2000}
	c.MaxRows, c.MaxResultBytes = 20, 2000
	src := loaded(t, c, sourcetest.Company())
	for _, tc := range []struct {
		sql  string
		rows int
		more bool
		code atlas.Code
	}{
		{`SELECT id FROM orders`, 20, true, ""},
		{`SELECT id FROM orders LIMIT 1000 --`, 20, true, ""},
		{`SELECT id FROM orders LIMIT ALL /* x`, 20, true, ""},
		{`SELECT id FROM orders LIMIT 3`, 3, false, ""},
		{`SELECT id FROM orders FETCH FIRST 30 ROWS ONLY`, 20, true, ""},
		{`SELECT '` + strings.Repeat("x", 300) + `' FROM orders`, 6, true, ""},
		{`SELECT '` + strings.Repeat("x", 3000) + `' FROM orders`, 0, false, atlas.CodeTooLarge},
		{`SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e`, 0, false, atlas.CodeTooLarge},
		{`SELECT id FROM orders FOR UPDATE`, 0, false, atlas.CodeInvalidQuery},
		{`SELECT 1) AS q; DELETE FROM orders; SELECT * FROM (SELECT 1`, 0, false, atlas.CodeInvalidQuery},
		{`SELECT 1 AS a) AS q, (SELECT 1`, 0, false, atlas.CodeInvalidQuery},
		{`SELECT $1`, 0, false, atlas.CodeInvalidQuery},
	} {
		got, err := agent(t, src, tc.sql, nil)
		if len(got.Rows) != tc.rows || got.Truncated != tc.more || atlas.CodeOf(err) != tc.code {
			t.Errorf("%s: got %d rows, truncated %v, %v; want %d, %v, %q", tc.sql, len(got.Rows), got.Truncated, err, tc.rows, tc.more, tc.code)
		}
	}
	c.Agents.Disabled = true
	off := loaded(t, c, sourcetest.Company())
	if _, err := agent(t, off, `SELECT 1`, nil); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("switched off: %v", err)
	}
}

// A table that the role may read, and that is not configured, is not there for the operator's
// statements either.
func TestOnlyConfiguredTables(t *testing.T) {
	d := pgrlstest.New(t)
	c := config(d, false)
	loaded(t, c, sourcetest.Company())
	d.Own(`GRANT SELECT ON `+c.Schema+`.vault TO `+d.App, `CREATE TABLE public.extra (tenant_id text, id text)`)
	d.Own(d.Connection(false).Secure("extra", d.App)...)
	again, err := c.Open(t.Context(), source.Deps{Name: "crm"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close() //nolint:errcheck // it returns nil
	for _, sql := range []string{`SELECT secret FROM vault`, `TABLE vault`, `SELECT * FROM public.extra`, `SELECT id FROM orders UNION SELECT id FROM "extra"`, `SELECT (SELECT max(secret) FROM vault)`} {
		got, err := again.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: sql})
		if atlas.CodeOf(err) != atlas.CodeInvalidQuery {
			t.Errorf("%s: got %v, %v", sql, got.Rows, err)
		}
	}
	if got, err := again.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT count(*) AS vault FROM orders AS extra`}); err != nil || len(got.Rows) != 1 {
		t.Errorf("aliases: %v, %v", got, err)
	}
}

// An agent sees the columns that may be read, and not whose rows they are.
func TestAgentsSeeTheirColumns(t *testing.T) {
	src, _ := company(t, true)
	for sql, want := range map[string][]string{
		`SELECT * FROM customers`:                                {"id", "name", "tier", "score"},
		`SELECT o.* FROM orders o`:                               {"id", "customer_id", "status", "total_cents"},
		`SELECT id AS "Order", count(*) FROM orders GROUP BY id`: {"Order", "count"},
	} {
		got, err := agent(t, src, sql, nil)
		if err != nil || !cmp.Equal(got.Columns, want) {
			t.Errorf("%s: got %v, %v", sql, got.Columns, err)
		}
	}
	for _, sql := range []string{`SELECT tenant_id FROM orders`, `SELECT ssn FROM customers`, `SELECT * FROM vault`, `SELECT relname FROM pg_class`, `SELECT query FROM pg_stat_activity`} {
		if got, err := agent(t, src, sql, nil); atlas.CodeOf(err) != atlas.CodeInvalidQuery {
			t.Errorf("%s: got %v, %v", sql, got, err)
		}
	}
}

// The call's trace goes along to the server.
func TestTrace(t *testing.T) {
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	d := pgrlstest.New(t)
	c := config(d, false)
	loaded(t, c, sourcetest.Company())
	src, err := c.Open(t.Context(), source.Deps{Name: "crm", TraceParent: func(context.Context) string { return trace }})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close() //nolint:errcheck // it returns nil
	got, err := src.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT current_setting('application_name')`})
	if err != nil || !cmp.Equal(got.Rows, [][]any{{trace}}) {
		t.Errorf("got %v, %v", got.Rows, err)
	}
}
