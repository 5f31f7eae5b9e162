package sqlguard_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/postgres/sqlguard"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

const tenant atlas.TenantID = "acme"

func config() sqlguard.Config {
	return sqlguard.Config{
		Tables: map[string][]string{
			"customers": {"id", "name", "tier", "score"},
			"orders":    {"id", "customer_id", "status", "total_cents", "placed", "meta", "state"},
			"items":     {"id", "order_id", "sku"},
		},
		Types: []string{"order_state"},
	}
}

// schema has what config has, and more that is hidden.
const schema = `
CREATE TYPE order_state AS ENUM ('open', 'closed');
CREATE TABLE customers (id text PRIMARY KEY, name text, tier text, ssn text, score float8, note text);
CREATE TABLE orders (id text PRIMARY KEY, customer_id text, status text, total_cents bigint, placed timestamptz, meta jsonb, state order_state, margin int);
CREATE TABLE items (id int PRIMARY KEY, order_id text, sku text);
CREATE TABLE vault (id int, secret text);
INSERT INTO customers SELECT 'CUST-' || 1000 + n, CASE WHEN n = 3 THEN 'do not update a_x' ELSE 'Shared ' || n END, CASE WHEN n % 2 = 0 THEN 'gold' END, 'ssn-' || n, n / 2.0, 'n' FROM generate_series(1, 5) n;
INSERT INTO orders SELECT 'o_' || n, 'CUST-' || 1001 + n % 4, CASE n % 3 WHEN 0 THEN 'paid' ELSE 'refunded' END, n * 100, timestamptz '2026-01-01' + n * interval '1 day',
	jsonb_build_object('source', 'web', 'n', n, 'lines', jsonb_build_array(jsonb_build_object('sku', 's' || n))), 'open', 7 FROM generate_series(0, 11) n;
INSERT INTO items SELECT n, 'o_' || n / 2, 's' || n FROM generate_series(0, 23) n;
INSERT INTO vault VALUES (1, 'vault-secret-41');
`

func open(tb testing.TB, cfg sqlguard.Config) *sqlguard.Guard {
	tb.Helper()
	g, err := sqlguard.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = g.Close() })
	return g
}

// What agents write is allowed, stays allowed when it is checked as it was rewritten, and answers
// the same.
func TestGood(t *testing.T) {
	g := open(t, config())
	for _, sql := range good {
		v, err := g.Check(t.Context(), tenant, sql)
		if err != nil {
			t.Errorf("%.80s: %v", sql, err)
			continue
		}
		again, err := g.Check(t.Context(), tenant, v.SQL)
		if err != nil {
			t.Errorf("%.80s: its own %s: %v", sql, v.SQL, err)
			continue
		}
		again.SQL, v.SQL = "", ""
		if diff := cmp.Diff(v, again); diff != "" {
			t.Errorf("%.80s: its own text is not the same (-want +got):\n%s", sql, diff)
		}
	}
}

// The rewritten statements answer what the statements answer, on a real server.
func TestSameAnswers(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), testenv.URL(t, testenv.Postgres))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	name := fmt.Sprintf("guard_%d", conn.PgConn().PID())
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%.60s: %v", sql, err)
		}
	}
	exec("CREATE SCHEMA " + name)
	defer func() { _, _ = conn.Exec(context.WithoutCancel(t.Context()), "DROP SCHEMA "+name+" CASCADE") }()
	exec("SET search_path = " + name)
	exec(schema)
	// The statements as they were written see only what is configured; those of the guard see all.
	exec("CREATE SCHEMA " + name + "_plain")
	defer func() { _, _ = conn.Exec(context.WithoutCancel(t.Context()), "DROP SCHEMA "+name+"_plain CASCADE") }()
	for table, cols := range config().Tables {
		exec("CREATE VIEW " + name + "_plain." + table + " AS SELECT " + strings.Join(cols, ", ") + " FROM " + table)
	}
	exec("SET search_path = " + name + "_plain, " + name)
	cfg := config()
	cfg.Schema = name
	g := open(t, cfg)
	ask := func(sql string) string {
		t.Helper()
		rows, err := conn.Query(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err.Error()
		}
		var b strings.Builder
		for _, f := range rows.FieldDescriptions() {
			b.WriteString(f.Name + "|")
		}
		for rows.Next() {
			b.WriteString("\n")
			for _, v := range rows.RawValues() {
				fmt.Fprintf(&b, "%s|", v)
			}
		}
		if err := rows.Err(); err != nil {
			return err.Error()
		}
		return b.String()
	}
	for _, sql := range good {
		v, err := g.Check(t.Context(), tenant, strings.ReplaceAll(sql, "public.", name+"."))
		if err != nil {
			t.Errorf("%.80s: %v", sql, err)
			continue
		}
		want := ask(strings.ReplaceAll(sql, "public.", name+"_plain."))
		if strings.HasPrefix(want, "ERROR") {
			t.Errorf("%s: %s", sql, want)
		}
		if diff := cmp.Diff(want, ask(v.SQL)); diff != "" {
			t.Errorf("%s\n%s\nanswers differ (-want +got):\n%s", sql, v.SQL, diff)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	g := open(t, config())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 20 {
				v, err := g.Check(t.Context(), tenant, fmt.Sprintf("SELECT id, %d FROM customers", (i*n)%7))
				if err != nil || len(v.Tables) != 1 {
					t.Errorf("%v, %v", v, err)
				}
				v.Tables[0] = "changed" // the caller's own
			}
		})
	}
	wg.Wait()
}
