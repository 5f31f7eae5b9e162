package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite" // to make files as an operator would

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
	"github.com/atlas-mcp/atlas/internal/source/sqlite"
)

// brought opens a source over a file that was made elsewhere.
func brought(t testing.TB, cfg sqlite.Config, script string) source.Querier {
	t.Helper()
	root := t.TempDir()
	src := openWith(t, cfg, root)
	db, err := sql.Open("sqlite", filepath.Join(root, "crm", "acme.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), script); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return src.(source.Querier)
}

func TestValues(t *testing.T) {
	q := brought(t, sqlite.Config{Tables: []string{"t"}}, `
		CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB, d DATE, dt DATETIME, ts TIMESTAMP, bad DATETIME, inf REAL, broken TEXT, big INTEGER);
		INSERT INTO t VALUES (1, x'00ff', '2026-11-10', '2026-11-10 08:30:00', 1794299400, 'soon', 9e999, CAST(x'61ff' AS TEXT), 9223372036854775807);`)
	got, err := q.Query(t.Context(), "acme", source.Query{SQL: `SELECT b, d, dt, ts, bad, inf, broken, big, 0.5, NULL, 1 = 1 FROM t`})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]any{{"AP8=", "2026-11-10", "2026-11-10T08:30:00Z", int64(1794299400), "soon", nil, "a\uFFFD", int64(9223372036854775807), 0.5, nil, int64(1)}}
	if diff := cmp.Diff(want, got.Rows); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestViews(t *testing.T) {
	const script = `
		CREATE TABLE customers (id TEXT, ssn TEXT); INSERT INTO customers VALUES ('c', 's');
		CREATE TABLE vault (secret TEXT); INSERT INTO vault VALUES ('hush');
		CREATE VIEW open_view AS SELECT id AS who FROM customers;
		CREATE VIEW vault_view AS SELECT secret FROM vault;
		CREATE VIEW other_view AS SELECT id FROM customers;`
	q := brought(t, sqlite.Config{Tables: []string{"customers", "open_view", "vault_view"}}, script)
	facts, err := q.Inspect(t.Context(), "acme", source.Query{SQL: `SELECT WHO FROM open_view`})
	if err != nil || !cmp.Equal(facts.Tables, []string{"customers", "open_view"}) || !cmp.Equal(facts.Columns, []string{"id", "who"}) {
		t.Errorf("got %+v, %v", facts, err)
	}
	for sql, want := range map[string]atlas.Code{
		`SELECT who FROM open_view`:                                              "",
		`SELECT count(*) FROM open_view`:                                         "",
		`SELECT secret FROM vault_view`:                                          atlas.CodeInvalidQuery, // a view does not open its tables
		`SELECT count(*) FROM vault_view`:                                        atlas.CodeInvalidQuery,
		`SELECT id FROM other_view`:                                              atlas.CodeInvalidQuery,
		`WITH vault_view AS (SELECT secret FROM vault) SELECT * FROM vault_view`: atlas.CodeInvalidQuery,
	} {
		if got, err := q.Query(t.Context(), "acme", source.Query{SQL: sql}); atlas.CodeOf(err) != want {
			t.Errorf("%s: got %v, %v; want %q", sql, got.Rows, err, want)
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	cfg := config()
	cfg.MaxResultBytes, cfg.MaxRows = 1000, 20
	root := t.TempDir()
	src := openWith(t, cfg, root)
	if err := src.(source.Loader).Load(t.Context(), sourcetest.A, sourcetest.Company()[sourcetest.A]); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		sql  string
		max  int
		rows int
		more bool
		code atlas.Code
	}{
		{`SELECT id FROM orders`, 0, 20, true, ""},
		{`SELECT id FROM orders`, 100, 20, true, ""},
		{`SELECT printf('%.*c', 300, 'x') FROM orders`, 0, 3, true, ""},
		{`SELECT printf('%.*c', 1000, 'x') FROM orders`, 0, 1, true, ""},
		{`SELECT printf('%.*c', 1000, 'x') FROM orders LIMIT 1`, 0, 1, false, ""},
		{`SELECT printf('%.*c', 1001, 'x') FROM orders`, 0, 0, false, atlas.CodeTooLarge},
		{`SELECT zeroblob(900) FROM orders`, 0, 0, false, atlas.CodeTooLarge}, // base64 counts
	} {
		got, err := src.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: tc.sql, MaxRows: tc.max})
		if len(got.Rows) != tc.rows || got.Truncated != tc.more || atlas.CodeOf(err) != tc.code {
			t.Errorf("%s: got %d rows, truncated %v, %v; want %d, %v, %q", tc.sql, len(got.Rows), got.Truncated, err, tc.rows, tc.more, tc.code)
		}
	}
	_, err := src.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT :x`, Args: map[string]any{"x": strings.Repeat("x", 200<<10)}})
	if atlas.CodeOf(err) != atlas.CodeTooLarge {
		t.Errorf("a long parameter: %v", err)
	}
}

// A refusal names what is unknown to the caller, from the caller's own words.
func TestRefusalsHelp(t *testing.T) {
	src, _, _ := attacked(t)
	for _, tc := range []struct {
		sql, hint string
		context   map[string]any
	}{
		{`SELECT custmer_id, count(*) AS n FROM orders o GROUP BY 1`, "not available", map[string]any{"unknown_names": []string{"custmer_id"}}},
		{`SELECT id FROM order_s`, "not available", map[string]any{"unknown_names": []string{"order_s"}}},
		{`SELECT TOP(3), id FROM orders`, "not available", map[string]any{"unknown_functions": []string{"top"}}},
		{`SELECT id FROM orders WHERE status = "shipped"`, "not available", map[string]any{"unknown_names": []string{"shipped"}}},
		{`SELECT * FROM customers`, "instead of *", nil},
		{`SELECT id FROM customers JOIN orders ON customers.id = customer_id`, "table.column", nil},
		{`SELECT id FROM orders WHERE`, "not valid SQL", nil},
		{`SELECT id FROM orders JOIN customers USING (id)`, "ON", nil},
		{`SELECT abs(1, 2)`, "", nil},
	} {
		_, err := src.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: tc.sql})
		e := atlas.ErrorOf(err)
		if e == nil || e.Code != atlas.CodeInvalidQuery || !strings.Contains(e.Hint, tc.hint) {
			t.Errorf("%s: got %v, want %q", tc.sql, err, tc.hint)
			continue
		}
		if diff := cmp.Diff(tc.context, e.Context); diff != "" {
			t.Errorf("%s: context (-want +got)\n%s", tc.sql, diff)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		cfg  sqlite.Config
		want []string // in the error; none means valid
	}{
		{config(), nil},
		{sqlite.Config{}, []string{"tables is empty"}},
		{sqlite.Config{Tables: []string{"a", "sqlite_master", "pragma_x", "x y", "", "json_each"}}, []string{`"sqlite_master"`, `"pragma_x"`, `"x y"`, `""`, `"json_each"`}},
		{sqlite.Config{Tables: []string{"a"}, HiddenColumns: []string{"ssn", "b.c", "A.x"}}, []string{`"ssn"`, `"b.c"`}},
		{
			sqlite.Config{Tables: []string{"a"}, MaxRows: -1, MaxResultBytes: -1, MaxValueBytes: 5, MaxSQLBytes: 2 << 20, Timeout: -1, MaxTenants: -1, MaxConns: -1},
			[]string{"max_rows", "max_result_bytes", "max_value_bytes", "max_sql_bytes", "timeout", "max_tenants", "max_conns"},
		},
	} {
		err := tc.cfg.Validate()
		if (err != nil) != (len(tc.want) > 0) {
			t.Errorf("%+v: got %v", tc.cfg, err)
			continue
		}
		for _, w := range tc.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v does not tell %q", err, w)
			}
		}
	}
}

func TestLoadRefusesStrangeNames(t *testing.T) {
	src := openWith(t, config(), t.TempDir())
	column := []source.Column{{Name: "id", Type: "TEXT"}}
	for _, table := range []source.TableData{
		{Name: `x"; DROP TABLE orders; --`, Columns: column},
		{Name: "sqlite_x", Columns: column},
		{Name: "", Columns: column},
		{Name: "x"},
		{Name: "x", Columns: []source.Column{{Name: `a"b`, Type: "TEXT"}}},
		{Name: "x", Columns: []source.Column{{Name: "a", Type: "TEXT); DROP TABLE orders"}}},
		{Name: "x", Columns: column, Rows: [][]any{{"a", "b"}}},
		{Name: "x", Columns: column, Rows: [][]any{{[]int{1}}}},
	} {
		err := src.(source.Loader).Load(t.Context(), "acme", source.Data{Tables: []source.TableData{table}})
		if atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("%+v: got %v", table, err)
		}
	}
}

func BenchmarkQuery(b *testing.B) {
	src, _, _ := attacked(b)
	q := source.Query{SQL: `SELECT id, customer_id, status, total_cents FROM orders WHERE id = :id`, Args: map[string]any{"id": "o_9002"}}
	b.ReportAllocs()
	for b.Loop() {
		if rows, err := src.(source.Querier).Query(b.Context(), sourcetest.A, q); err != nil || len(rows.Rows) != 1 {
			b.Fatal(rows, err)
		}
	}
}

func BenchmarkInspect(b *testing.B) {
	src, _, _ := attacked(b)
	q := source.Query{SQL: `WITH x AS (SELECT * FROM orders) SELECT count(*), c.name FROM x JOIN customers c ON c.id = x.customer_id GROUP BY c.name`}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := src.(source.Querier).Inspect(b.Context(), sourcetest.A, q); err != nil {
			b.Fatal(err)
		}
	}
}
