package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	pgquery "github.com/wasilibs/go-pgquery"

	"github.com/atlas-mcp/atlas"
)

func TestSplit(t *testing.T) {
	for _, tc := range []struct {
		sql, text string // text "" means refused
		params    []string
	}{
		{`SELECT 1`, `SELECT 1`, nil},
		{" select 1 ; -- all\n /* ; */ ;", " select 1", nil},
		{`SELECT 1 /* never closed`, `SELECT 1`, nil},
		{`SELECT 1 /* a /* b */ SELECT 2 */`, `SELECT 1`, nil},
		{`SELECT ';' ";", $$;$$, $a$;$$;$a$, E'\';' FROM x`, `SELECT ';' ";", $$;$$, $a$;$$;$a$, E'\';' FROM x`, nil},
		{`SELECT :a, :b_1::int, :a`, `SELECT :a, :b_1::int, :a`, []string{"a", "b_1"}},
		{`SELECT ':no', ":no", $$:no$$, /* :no */ E':no\':no' -- :no`, `SELECT ':no', ":no", $$:no$$, /* :no */ E':no\':no'`, []string{}},
		{`SELECT a[1:2], x::text, y:=3`, `SELECT a[1:2], x::text, y:=3`, []string{}},
		{`(SELECT 1) UNION (SELECT 2)`, `(SELECT 1) UNION (SELECT 2)`, nil},
		{`WITH x AS (SELECT 1) SELECT * FROM x`, `WITH x AS (SELECT 1) SELECT * FROM x`, nil},
		{`VALUES (1)`, `VALUES (1)`, nil},
		{`SELECT 'it''s', 'a\'`, `SELECT 'it''s', 'a\'`, nil},
		{`SELECT foo$bar, foo$$bar`, `SELECT foo$bar, foo$$bar`, nil}, // $ belongs to a name
		{`SELECT '{"a":1}'::jsonb ? 'a', x @> y, a <-> b`, `SELECT '{"a":1}'::jsonb ? 'a', x @> y, a <-> b`, nil},

		{``, ``, nil},
		{` ; `, ``, nil},
		{`-- SELECT 1`, ``, nil},
		{`SELECT`, ``, nil},
		{`SELECT 1; SELECT 2`, ``, nil},
		{`SELECT 1;; x`, ``, nil},
		{`DELETE FROM x`, ``, nil},
		{`EXPLAIN SELECT 1`, ``, nil},
		{`SET x = 1`, ``, nil},
		{`(DELETE FROM x)`, ``, nil},
		{`COPY x TO STDOUT`, ``, nil},
		{`SELECT 'x`, ``, nil},
		{`SELECT "x`, ``, nil},
		{`SELECT $$x$`, ``, nil},
		{`SELECT $a$x$b$`, ``, nil},
		{`SELECT E'x\'`, ``, nil},
		{`SELECT 1) FROM (SELECT 2`, ``, nil},
		{`SELECT (1`, ``, nil},
		{`SELECT 1) AS q; --`, ``, nil},
		{`SELECT 1) AS q --`, ``, nil},
		{`SELECT $1`, ``, nil},
		{`SELECT :a$1`, ``, nil},
		{`SELECT 1$1`, ``, nil},
		{`SELECT :ä`, `SELECT :ä`, nil},
		{`SELECT :aä`, ``, nil},
		{`SELECT U&'\0061'`, ``, nil},
		{`SELECT U&"\0061"`, ``, nil},
		{`SELECT u&'x' UESCAPE '!'`, ``, nil},
		{"SELECT E'a'\n'\\'", ``, nil},
		{"SELECT 'a' 'b'", ``, nil},
		{"SELECT 'a' -- c\n 'b'", ``, nil},
		{"SELECT 1\x00", ``, nil},
		{"SELECT '\xff'", ``, nil},
	} {
		st, err := split(tc.sql)
		if tc.text == "" {
			if atlas.CodeOf(err) != atlas.CodeInvalidQuery {
				t.Errorf("%q: got %q, %v; want it refused", tc.sql, st.text, err)
			}
			continue
		}
		if err != nil || st.text != tc.text {
			t.Errorf("%q: got %q, %v; want %q", tc.sql, st.text, err, tc.text)
		}
		if tc.params != nil && !cmp.Equal(st.names(), tc.params) {
			t.Errorf("%q: got the parameters %q, want %q", tc.sql, st.names(), tc.params)
		}
	}
}

func TestBind(t *testing.T) {
	st, err := split(`SELECT :a, :b WHERE :a IS NULL LIMIT:n`)
	if err != nil {
		t.Fatal(err)
	}
	for each, want := range map[bool]string{false: `SELECT $1, $2 WHERE $1 IS NULL LIMIT $3`, true: `SELECT $1, $2 WHERE $3 IS NULL LIMIT $4`} {
		if b := st.bind(each); b.text != want || len(b.names) != map[bool]int{false: 3, true: 4}[each] {
			t.Errorf("each %v: got %q for %q, want %q", each, b.text, b.names, want)
		}
	}
	if got, want := st.bind(false).limited(8), "SELECT * FROM (SELECT $1, $2 WHERE $1 IS NULL LIMIT $3\n) AS atlas_answer LIMIT 8"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever the text, it stays within its parentheses: to Postgres's own parser the whole is one
// SELECT from one subquery with our limit, or no SQL at all.
func FuzzLimit(f *testing.F) {
	for _, sql := range []string{
		`SELECT 1`, `SELECT id FROM orders LIMIT 5 --`, `SELECT 1 /* `, "SELECT 1 --\r) AS q; DROP TABLE x; --", `SELECT 1) AS q; SELECT * FROM (SELECT 2`,
		`SELECT 1 AS a) AS q, (SELECT 2`, `SELECT E'\') AS q; --'`, `SELECT '\') AS q; --'`, `SELECT $$) AS q; --$$`, `SELECT a$$) AS q, (SELECT $$ FROM x`,
		`SELECT /* /* */ ) AS q; -- */ 1`, "SELECT E'a'\n'\\') AS q; --'", `SELECT U&'\0027) AS q; --'`, `SELECT ":)" AS "q) --"`, `SELECT :a FROM x WHERE :a=:b`,
		`SELECT 1 UNION SELECT 2 LIMIT 1`, `WITH x AS (DELETE FROM y RETURNING *) SELECT * FROM x`, `VALUES (1), (2)`, `TABLE x`, `SELECT 1 INTO y`, `SELECT 1 FOR UPDATE`,
		"SELECT 1\v) AS q", "SELECT 1 -- \u2028) AS q", "SELECT \u00a0 1", `SELECT 1 LIMIT (SELECT 1)) AS q LIMIT (SELECT 2`, `SELECT b'1') --'`, `SELECT x'1''`, `SELECT n'\') --'`,
	} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		c, err := compile(sql)
		if err != nil || len(sql) > 2000 || strings.Count(sql, "(") > 100 {
			return
		}
		for _, each := range []bool{false, true} {
			whole := c.st.bind(each).limited(7)
			tree, err := pgquery.Parse(whole)
			if err != nil {
				continue
			}
			if len(tree.GetStmts()) != 1 {
				t.Fatalf("%q became %d statements: %q", sql, len(tree.GetStmts()), whole)
			}
			sel := tree.GetStmts()[0].GetStmt().GetSelectStmt()
			if sel == nil || len(sel.GetFromClause()) != 1 || sel.GetWithClause() != nil || sel.GetIntoClause() != nil || len(sel.GetLockingClause()) > 0 {
				t.Fatalf("%q left its parentheses: %q", sql, whole)
			}
			sub := sel.GetFromClause()[0].GetRangeSubselect()
			if sub == nil || sub.GetAlias().GetAliasname() != "atlas_answer" || sel.GetLimitCount().GetAConst().GetIval().GetIval() != 7 || sel.GetLimitOffset() != nil {
				t.Fatalf("%q left its parentheses: %q", sql, whole)
			}
		}
	})
}
