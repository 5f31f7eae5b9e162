package postgres_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// Postgres infers what a parameter is from how it is used; where it cannot, the value tells.
func TestParameters(t *testing.T) {
	for name, bouncer := range map[string]bool{"direct": false, "pgbouncer": true} {
		t.Run(name, func(t *testing.T) {
			src, _ := company(t, bouncer)
			for _, tc := range []struct {
				sql  string
				args map[string]any
				want any
			}{
				{`SELECT count(*) FROM orders WHERE id = :v`, map[string]any{"v": "o_9001"}, int64(1)},
				{`SELECT count(*) FROM orders WHERE total_cents = :v`, map[string]any{"v": "100"}, int64(1)},
				{`SELECT count(*) FROM orders WHERE total_cents = :v`, map[string]any{"v": json.Number("100")}, int64(1)},
				{`SELECT count(*) FROM orders WHERE total_cents = :v`, map[string]any{"v": 100.0}, int64(1)},
				{`SELECT count(*) FROM (SELECT 1 FROM orders LIMIT:n) AS q`, map[string]any{"n": int64(3)}, int64(3)},
				{`SELECT count(*) FROM orders WHERE :status IS NULL OR status = :status`, map[string]any{"status": nil}, int64(30)},
				{`SELECT count(*) FROM orders WHERE :status IS NULL OR status = :status`, map[string]any{"status": "none"}, int64(0)},
				{`SELECT count(*) FROM orders WHERE (:low IS NULL OR total_cents >= :low) AND (:high IS NULL OR total_cents < :high)`, map[string]any{"low": int64(2000), "high": nil}, int64(10)},
				{`SELECT count(*) FROM orders WHERE (:low IS NULL OR total_cents >= :low) AND (:high IS NULL OR total_cents < :high)`, map[string]any{"low": nil, "high": json.Number("500")}, int64(5)},
				{`SELECT :v IS NULL`, map[string]any{"v": nil}, true},
				{`SELECT :v IS NULL`, map[string]any{"v": int64(4)}, false},
				{`SELECT :a || '-' || :b`, map[string]any{"a": "x", "b": "y"}, "x-y"},
				{`SELECT :v::int + 1`, map[string]any{"v": "41"}, int64(42)},
				{`SELECT CAST(:v AS date)`, map[string]any{"v": "2026-11-10"}, "2026-11-10"},
				{`SELECT id FROM customers WHERE substr(id, 1, length(:typed)) = :typed ORDER BY id`, map[string]any{"typed": "CUST-1"}, "CUST-1001"},
				{`SELECT count(*) FROM orders WHERE id IN (:ids_0, :ids_1)`, map[string]any{"ids_0": "o_9001", "ids_1": "o_9002"}, int64(2)},
				{`SELECT E'it''s \' :v' || $x$ :v $x$ || :v -- :v`, map[string]any{"v": "!"}, "it's ' :v :v !"},
				{`SELECT (ARRAY[1,2,3])[2:3]`, nil, "{2,3}"},
				{`SELECT "id" FROM orders WHERE id = :v /* :w /* :x */ */`, map[string]any{"v": "o_9003"}, "o_9003"},
				{`SELECT '{"a": 1}'::jsonb ->> 'a'`, nil, "1"},
				{`SELECT '{"a": 1}'::jsonb ? 'a'`, nil, true},
				{`TABLE orders LIMIT 1`, nil, "globex or acme"},
			} {
				for range 2 { // the second time the way is known
					got, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: tc.sql, Args: tc.args})
					if err != nil || len(got.Rows) != 1 {
						t.Errorf("%s %v: got %v, %v", tc.sql, tc.args, got.Rows, err)
						break
					}
					if tc.want == "globex or acme" {
						tc.want = "acme" // the operator's * has the tenant's column, first
					}
					if diff := cmp.Diff(tc.want, got.Rows[0][0]); diff != "" {
						t.Errorf("%s %v (-want +got)\n%s", tc.sql, tc.args, diff)
					}
				}
			}
			for sql, args := range map[string]map[string]any{
				`SELECT count(*) FROM orders WHERE total_cents = :v`: {"v": "many"},
				`SELECT :v::int`: {"v": 1.5},
			} {
				if _, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: sql, Args: args}); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
					t.Errorf("%s: got %v", sql, err)
				}
			}
		})
	}
}

// A refusal names what is unknown to the caller, from the caller's own words.
func TestRefusalsHelp(t *testing.T) {
	src, _ := company(t, false)
	for _, tc := range []struct {
		sql, hint string
		context   map[string]any
	}{
		{`SELECT custmer_id, count(*) AS n FROM orders o GROUP BY 1`, "not available", map[string]any{"unknown_names": []string{"custmer_id"}}},
		{`SELECT id FROM order_s`, "not available", map[string]any{"unknown_names": []string{"order_s"}}},
		{`SELECT id FROM orders WHERE status = "shipped"`, "not available", map[string]any{"unknown_names": []string{"shipped"}}},
		{`SELECT * FROM customers`, "instead of *", nil},
		{`SELECT id FROM customers JOIN orders ON customers.id = customer_id`, "table.column", nil},
		{`SELECT id FROM orders WHERE`, "not valid SQL", nil},
		{`SELECT status, count(*) FROM orders`, "neither grouped", nil},
		{`SELECT id + 1 FROM orders`, "not available", nil},
		{`SELECT abs(:x, 2)`, "", nil},
	} {
		q := source.Query{SQL: tc.sql}
		if strings.Contains(tc.sql, ":x") {
			q.Args = map[string]any{"x": 1}
		}
		_, err := src.Query(t.Context(), sourcetest.A, q)
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
