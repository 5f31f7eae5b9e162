package sourcetest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

var querierSuite = suite{
	open: openCompany,
	has:  func(s source.Source) bool { _, ok := s.(source.Querier); return ok },
	call: func(ctx context.Context, src source.Source, tenant atlas.TenantID) error {
		_, err := src.(source.Querier).Query(ctx, tenant, source.Query{SQL: `SELECT 1 AS one`})
		return err
	},
	laws: []law{
		{"Rows", "a query gives its columns and rows, with values as strings, int64, float64, bool or nil", queryRows},
		{"Args", "values are bound to :name, as what they are, and never become part of the statement", queryArgs},
		{"BadArgs", "a parameter without a value, or a value without a parameter, is invalid_arguments", queryBadArgs},
		{"NoRows", "a query that finds nothing gives its columns and no rows", queryNone},
		{"Limit", "at most MaxRows rows come, whatever the statement says, and Truncated tells that there were more", queryLimit},
		{"Invalid", "a statement that is wrong or not allowed is invalid_query", queryInvalid},
		{"Hidden", "a table that may not be read is answered exactly like one that does not exist", queryHidden},
		{"ReadOnly", "no statement changes anything", queryReadOnly},
		{"Slow", "a statement that runs too long ends with its context, also after its first row", querySlow},
		{"Inspect", "Inspect tells the tables and columns that are read, lower case and sorted, and runs nothing", queryInspect},
		{"Schema", "Schema lists the tables and columns that may be read, and no others", querySchema},
		{"Quiet", "no failure tells SQL, values or names of the insides", queryQuiet},
		{"Isolation", "nothing of one tenant is read, counted or inferred by another, not even under the same ids", queryIsolation},
		{"Together", "two tenants at once each get their own", queryTogether},
		{"Nobody", "a tenant without data gets no rows of anyone, and asking creates nothing", queryNobody},
	},
}

func query(t *testing.T, src source.Source, tenant atlas.TenantID, sql string, args map[string]any) source.Rows {
	t.Helper()
	rows, err := src.(source.Querier).Query(t.Context(), tenant, source.Query{SQL: sql, Args: args})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

func queryErr(t *testing.T, src source.Source, tenant atlas.TenantID, sql string, args map[string]any) error {
	t.Helper()
	rows, err := src.(source.Querier).Query(t.Context(), tenant, source.Query{SQL: sql, Args: args})
	if err == nil {
		t.Errorf("%s: accepted, gave %s", sql, text(t, rows))
	}
	return err
}

func queryRows(t *testing.T, h Harness) {
	src := openCompany(t, h)
	got := query(t, src, A, `SELECT id, name, tier, score FROM customers ORDER BY id`, nil)
	want := source.Rows{Columns: []string{"id", "name", "tier", "score"}, Rows: [][]any{
		{"CUST-1001", "Shared " + mark(A), "gold", 0.5},
		{"CUST-only-acme", "Own " + mark(A), nil, 2.25},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	got = query(t, src, A, `SELECT count(*) AS n, sum(o.total_cents) AS total FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.tier = 'gold'; -- all`, nil)
	if diff := cmp.Diff([][]any{{int64(30), int64(43500)}}, got.Rows); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func queryArgs(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, tc := range []struct {
		sql  string
		args map[string]any
		want int64
	}{
		{`SELECT count(*) FROM orders WHERE id = :id`, map[string]any{"id": "o_9002"}, 1},
		{`SELECT count(*) FROM orders WHERE id = :id OR id = :id`, map[string]any{"id": "o_9002"}, 1},
		{`SELECT count(*) FROM orders WHERE id = :id`, map[string]any{"id": "o_9002' OR '1'='1"}, 0},
		{`SELECT count(*) FROM orders WHERE id = :id`, map[string]any{"id": "x'; DROP TABLE orders; --"}, 0},
		{`SELECT count(*) FROM orders WHERE total_cents >= :low AND total_cents < :high`, map[string]any{"low": json.Number("100"), "high": int64(300)}, 2},
		{`SELECT count(*) FROM customers WHERE score > :s`, map[string]any{"s": 1.5}, 1},
		{`SELECT count(*) FROM customers WHERE score > :s`, map[string]any{"s": json.Number("0.25")}, 2},
		{`SELECT count(*) FROM customers WHERE tier = :t`, map[string]any{"t": nil}, 0},
		{`SELECT count(*) FROM customers WHERE (tier IS NULL) = :t`, map[string]any{"t": true}, 1},
		{`SELECT count(*) FROM orders WHERE status = ':id' OR id = :id`, map[string]any{"id": "o_9001"}, 1},
	} {
		got := query(t, src, A, tc.sql, tc.args)
		if diff := cmp.Diff([][]any{{tc.want}}, got.Rows); diff != "" {
			t.Errorf("%s %v (-want +got)\n%s", tc.sql, tc.args, diff)
		}
	}
}

func queryBadArgs(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, tc := range []struct {
		sql  string
		args map[string]any
		name string
	}{
		{`SELECT id FROM orders WHERE id = :order_id`, nil, "order_id"},
		{`SELECT id FROM orders WHERE id = :order_id`, map[string]any{"ORDER_ID": "o_9001"}, "order_id"},
		{`SELECT id FROM orders WHERE id = :order_id`, map[string]any{"order_id": "o_9001", "extra_one": 1}, "extra_one"},
		{`SELECT id FROM orders`, map[string]any{"extra_one": "x"}, "extra_one"},
		{`SELECT id FROM orders WHERE id = :order_id`, map[string]any{"order_id": []any{"o_9001"}}, "order_id"},
		{`SELECT id FROM orders WHERE id = :order_id`, map[string]any{"order_id": map[string]any{}}, "order_id"},
	} {
		seen := refused(t, queryErr(t, src, A, tc.sql, tc.args), atlas.CodeInvalidArguments)
		if !strings.Contains(seen, tc.name) {
			t.Errorf("%s %v: %s does not name %q", tc.sql, tc.args, seen, tc.name)
		}
	}
}

func queryNone(t *testing.T, h Harness) {
	got := query(t, openCompany(t, h), A, `SELECT id, name FROM customers WHERE id = 'nobody'`, nil)
	if diff := cmp.Diff([]string{"id", "name"}, got.Columns); diff != "" || len(got.Rows) != 0 || got.Truncated {
		t.Errorf("got %s", text(t, got))
	}
}

func queryLimit(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, tc := range []struct {
		sql  string
		max  int
		rows int
		more bool
	}{
		{`SELECT id FROM orders`, 0, 30, false},
		{`SELECT id FROM orders`, 30, 30, false},
		{`SELECT id FROM orders`, 29, 29, true},
		{`SELECT id FROM orders`, 1, 1, true},
		{`SELECT id FROM orders LIMIT 20`, 7, 7, true},
		{`SELECT id FROM orders LIMIT 7`, 20, 7, false},
		{`SELECT id FROM orders LIMIT 20 --`, 7, 7, true},
		{`SELECT id FROM orders LIMIT 1000000 OFFSET 0 /* `, 7, 7, true},
		{`SELECT id FROM orders; -- LIMIT 1`, 7, 7, true},
		{`SELECT a.id FROM orders a, orders b, orders c`, 50, 50, true},
		{`SELECT id FROM orders`, 1 << 40, 30, false},
	} {
		got, err := src.(source.Querier).Query(t.Context(), A, source.Query{SQL: tc.sql, MaxRows: tc.max})
		if err != nil {
			t.Errorf("%s: %v", tc.sql, err)
			continue
		}
		if len(got.Rows) != tc.rows || got.Truncated != tc.more {
			t.Errorf("%s, at most %d: got %d rows, truncated %v; want %d, %v", tc.sql, tc.max, len(got.Rows), got.Truncated, tc.rows, tc.more)
		}
	}
	_, err := src.(source.Querier).Query(t.Context(), A, source.Query{SQL: `SELECT 1`, MaxRows: -1})
	refused(t, err, atlas.CodeInvalidArguments)
}

func queryInvalid(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, sql := range []string{
		``, `   `, `-- nothing`, `;`, `SELEC 1`, `SELECT`, `SELECT FROM`, `SELECT 'open`, `SELECT (1`, `hello`,
		`SELECT nosuchcolumn FROM orders`, `SELECT id FROM nosuchtable`, `SELECT nosuchfunction(1)`,
		`SELECT 1; SELECT 2`, `SELECT 1; DROP TABLE orders`, "SELECT 1\x00", "SELECT '\xff\xfe'",
		`INSERT INTO orders (id) VALUES ('x')`, `UPDATE orders SET status = 'x'`, `DELETE FROM orders`, `DROP TABLE orders`,
		`CREATE TABLE x (a TEXT)`, `ALTER TABLE orders ADD COLUMN x TEXT`, `BEGIN`, `COMMIT`, `EXPLAIN SELECT 1`,
	} {
		refused(t, queryErr(t, src, A, sql, nil), atlas.CodeInvalidQuery)
		if _, err := src.(source.Querier).Inspect(t.Context(), A, source.Query{SQL: sql}); err == nil {
			t.Errorf("Inspect accepted %q", sql)
		} else {
			refused(t, err, atlas.CodeInvalidQuery)
		}
	}
}

func queryHidden(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, format := range []string{
		`SELECT * FROM @`, `SELECT id FROM @`, `SELECT count(*) FROM @`, `SELECT nosuchcolumn FROM @`, `SELECT id FROM orders, @`,
		`SELECT id FROM orders UNION SELECT id FROM @`, `SELECT * FROM orders UNION SELECT * FROM @`,
		`SELECT (SELECT id FROM @) FROM orders`, `WITH x AS (SELECT * FROM @) SELECT * FROM x`, `SELECT 1 WHERE EXISTS (SELECT 1 FROM @)`,
		`SELECT o.id FROM orders o JOIN @ v ON v.id = o.id`, `SELECT id FROM orders WHERE id IN (SELECT secret FROM @)`,
		`SELECT g.secret FROM (SELECT '` + Vault + `' AS secret) AS g NATURAL JOIN @`, `SELECT g.id FROM (SELECT '1' AS id) AS g JOIN @ USING (id)`,
	} {
		hidden := queryErr(t, src, A, strings.ReplaceAll(format, "@", "vault"), nil)
		absent := queryErr(t, src, A, strings.ReplaceAll(format, "@", "vaylt"), nil)
		a := refused(t, hidden, atlas.CodeInvalidQuery)
		b := strings.ReplaceAll(refused(t, absent, atlas.CodeInvalidQuery), "vaylt", "vault")
		if a != b {
			t.Errorf("%s: hidden and absent differ:\n%s\n%s", format, a, b)
		}
	}
	for _, sql := range []string{
		`SELECT ssn FROM customers`, `SELECT * FROM customers`, `SELECT id FROM customers WHERE ssn LIKE 'ssn%'`,
		`SELECT c.ssn FROM customers c`, `SELECT "ssn" FROM customers`, `SELECT id FROM customers ORDER BY ssn`,
		`SELECT max(SSN) FROM customers`, `SELECT 1 FROM customers GROUP BY ssn`, `SELECT x FROM (SELECT ssn AS x FROM customers)`,
		`SELECT id FROM customers NATURAL JOIN (SELECT 'ssn-x' AS ssn) AS g`, `SELECT id FROM customers JOIN (SELECT 'ssn-x' AS ssn) AS g USING (ssn)`,
	} {
		refused(t, queryErr(t, src, A, sql, nil), atlas.CodeInvalidQuery)
	}
}

func queryReadOnly(t *testing.T, h Harness) {
	src := openCompany(t, h)
	before := text(t, query(t, src, A, `SELECT * FROM orders ORDER BY id`, nil))
	for _, sql := range []string{
		`WITH x AS (DELETE FROM orders RETURNING id) SELECT * FROM x`,
		`WITH x AS (SELECT 1) INSERT INTO orders (id) SELECT 'x'`,
		`WITH x AS (SELECT 1) DELETE FROM orders`,
		`INSERT INTO orders (id) VALUES ('x') RETURNING id`,
		`REPLACE INTO orders (id) VALUES ('o_9001')`,
		`SELECT id INTO copy FROM orders`,
	} {
		refused(t, queryErr(t, src, A, sql, nil), atlas.CodeInvalidQuery)
	}
	if after := text(t, query(t, src, A, `SELECT * FROM orders ORDER BY id`, nil)); after != before {
		t.Errorf("rows changed:\n%s\n%s", before, after)
	}
}

func querySlow(t *testing.T, h Harness) {
	if len(h.SlowSQL) == 0 {
		t.Fatal("the harness has no SlowSQL")
	}
	src := openCompany(t, h)
	for _, sql := range h.SlowSQL {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := src.(source.Querier).Query(ctx, A, source.Query{SQL: sql})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want the deadline", sql, err)
		}
		refused(t, err, atlas.CodeTimeout)

		ctx, cancel = context.WithCancel(t.Context())
		timer := time.AfterFunc(50*time.Millisecond, cancel)
		_, err = src.(source.Querier).Query(ctx, A, source.Query{SQL: sql})
		timer.Stop()
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want the cancellation", sql, err)
		}
		refused(t, err, atlas.CodeCanceled)
		if got := query(t, src, A, `SELECT count(*) FROM orders`, nil); !cmp.Equal(got.Rows, [][]any{{int64(30)}}) {
			t.Errorf("after it: %v", got.Rows)
		}
	}
}

func queryInspect(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, tc := range []struct {
		sql             string
		tables, columns []string
	}{
		{`SELECT 1`, nil, nil},
		{`SELECT ID, Status FROM Orders`, []string{"orders"}, []string{"id", "status"}},
		{`SELECT * FROM orders`, []string{"orders"}, []string{"customer_id", "id", "status", "total_cents"}},
		{`SELECT o.id AS name FROM orders AS o WHERE o.total_cents > :low`, []string{"orders"}, []string{"id", "total_cents"}},
		{`SELECT count(*) FROM customers`, []string{"customers"}, nil},
		{`WITH orders2 AS (SELECT tier AS ssn FROM customers) SELECT ssn FROM orders2`, []string{"customers"}, []string{"tier"}},
		{`SELECT (SELECT max(score) FROM customers) FROM orders`, []string{"customers", "orders"}, []string{"score"}},
		{`SELECT name FROM customers WHERE id IN (SELECT customer_id FROM orders) ORDER BY tier`, []string{"customers", "orders"}, []string{"customer_id", "id", "name", "tier"}},
	} {
		got, err := src.(source.Querier).Inspect(t.Context(), A, source.Query{SQL: tc.sql})
		if err != nil {
			t.Errorf("%s: %v", tc.sql, err)
			continue
		}
		if got.SQL != tc.sql {
			t.Errorf("%s: SQL is %q", tc.sql, got.SQL)
		}
		if text(t, append([]string{}, got.Tables...)) != text(t, append([]string{}, tc.tables...)) ||
			text(t, append([]string{}, got.Columns...)) != text(t, append([]string{}, tc.columns...)) {
			t.Errorf("%s: got tables %v, columns %v; want %v, %v", tc.sql, got.Tables, got.Columns, tc.tables, tc.columns)
		}
	}
	for _, sql := range h.SlowSQL { // would not come back if it ran
		if _, err := src.(source.Querier).Inspect(t.Context(), A, source.Query{SQL: sql}); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func querySchema(t *testing.T, h Harness) {
	src := openCompany(t, h)
	got, err := src.(source.Querier).Schema(t.Context(), A)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, table := range got {
		var columns []string
		for _, c := range table.Columns {
			columns = append(columns, c.Name)
			if c.Type == "" {
				t.Errorf("%s.%s has no type", table.Name, c.Name)
			}
		}
		names[table.Name] = strings.Join(columns, " ")
	}
	want := map[string]string{"customers": "id name tier score", "orders": "id customer_id status total_cents"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func queryQuiet(t *testing.T, h Harness) {
	src := openCompany(t, h)
	const literal = "literalinquery"
	for _, sql := range []string{
		`SELECT '` + literal + `' FROM nosuchtable`, `SELECT '` + literal + `' FROM vault`, `SELECT '` + literal + `' + FROM`,
		`SELECT CAST('` + literal + `' AS INTEGER) + nosuchfunction('` + literal + `')`,
		`SELECT abs(-9223372036854775807 - 1), '` + literal + `'`, `SELECT '` + literal + `' FROM customers JOIN orders USING (nosuchcolumn)`,
	} {
		if seen := quiet(t, queryErr(t, src, A, sql, nil)); strings.Contains(seen, literal) {
			t.Errorf("%s: callers are told %s", sql, seen)
		}
	}
}

func queryIsolation(t *testing.T, h Harness) {
	both, alone := openCompany(t, h), h.Open(t, map[atlas.TenantID]source.Data{B: data(B)})
	for _, sql := range []string{
		`SELECT id, name, tier, score FROM customers ORDER BY id`, `SELECT * FROM orders ORDER BY id`, `SELECT count(*) FROM customers`,
		`SELECT id, name FROM customers WHERE id = 'CUST-1001'`, `SELECT id, name FROM customers WHERE id = 'CUST-only-acme'`,
		`SELECT name FROM customers WHERE name LIKE '%` + mark(A) + `%'`, `SELECT id FROM customers UNION SELECT status FROM orders ORDER BY 1`,
		`SELECT count(*), min(status), max(status) FROM orders`,
	} {
		got := text(t, query(t, both, B, sql, nil))
		if strings.Contains(got, mark(A)) || strings.Contains(got, "only-acme") && !strings.Contains(sql, "only-acme") {
			t.Errorf("%s: B is given %s", sql, got)
		}
		// Whether A is there makes no difference to B.
		if without := text(t, query(t, alone, B, sql, nil)); got != without {
			t.Errorf("%s: B's answer depends on A:\n%s\n%s", sql, got, without)
		}
	}
	only := text(t, query(t, both, B, `SELECT id FROM customers WHERE id = :id`, map[string]any{"id": "CUST-only-acme"}))
	none := text(t, query(t, both, B, `SELECT id FROM customers WHERE id = :id`, map[string]any{"id": "CUST-nowhere"}))
	if only != none {
		t.Errorf("A's id and nobody's id differ for B:\n%s\n%s", only, none)
	}
	// Other tenants' stores cannot be named.
	for _, sql := range []string{`SELECT * FROM acme.customers`, `SELECT * FROM "acme.db".customers`, `SELECT * FROM main.acme`} {
		a := refused(t, queryErr(t, both, B, sql, nil), atlas.CodeInvalidQuery)
		b := refused(t, queryErr(t, both, B, strings.ReplaceAll(sql, "acme", "nope"), nil), atlas.CodeInvalidQuery)
		if a != strings.ReplaceAll(b, "nope", "acme") {
			t.Errorf("%s: A's name and nobody's name differ for B:\n%s\n%s", sql, a, b)
		}
	}
}

func queryTogether(t *testing.T, h Harness) {
	src := openCompany(t, h)
	together(t, func(tenant atlas.TenantID, i int) {
		sql := `SELECT id, name FROM customers WHERE id = :id`
		if i%5 == 4 {
			sql = `SELECT id, name FROM vault WHERE id = :id`
		}
		got, err := src.(source.Querier).Query(t.Context(), tenant, source.Query{SQL: sql, Args: map[string]any{"id": "CUST-1001"}})
		switch {
		case i%5 == 4:
			if atlas.CodeOf(err) != atlas.CodeInvalidQuery {
				t.Errorf("%s: got %v", tenant, err)
			}
		case err != nil:
			t.Errorf("%s: %v", tenant, err)
		case len(got.Rows) != 1 || got.Rows[0][1] != "Shared "+mark(tenant):
			t.Errorf("%s was given %v", tenant, got.Rows)
		}
	})
}

func queryNobody(t *testing.T, h Harness) {
	src := openCompany(t, h)
	q := src.(source.Querier)
	for range 2 {
		if got := query(t, src, Nobody, `SELECT 1 AS one`, nil); !cmp.Equal(got.Rows, [][]any{{int64(1)}}) {
			t.Errorf("got %v", got.Rows)
		}
		rows, err := q.Query(t.Context(), Nobody, source.Query{SQL: `SELECT id FROM customers`})
		if err != nil {
			refused(t, err, atlas.CodeInvalidQuery) // it has not even the table
		} else if len(rows.Rows) != 0 {
			t.Errorf("got %v", rows.Rows)
		}
		refused(t, queryErr(t, src, Nobody, `SELECT id FROM vault`, nil), atlas.CodeInvalidQuery)
	}
	schema, err := q.Schema(t.Context(), Nobody)
	if err != nil || strings.Contains(text(t, schema), "vault") {
		t.Errorf("Schema: %v, %v", schema, err)
	}
}
