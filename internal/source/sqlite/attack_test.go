package sqlite_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// attacked opens a source over two tenants and returns a check that nothing on disk changed.
func attacked(t testing.TB) (src source.Source, dir string, unchanged func()) {
	root := t.TempDir()
	dir = filepath.Join(root, "crm")
	src = openWith(t, config(), root)
	for tenant, d := range sourcetest.Company() {
		if err := src.(source.Loader).Load(t.Context(), tenant, d); err != nil {
			t.Fatal(err)
		}
	}
	before := digest(t, root)
	return src, dir, func() {
		if diff := cmp.Diff(before, digest(t, root)); diff != "" {
			t.Errorf("files changed (-before +after)\n%s", diff)
		}
	}
}

func digest(t testing.TB, root string) map[string]string {
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		sum := sha256.Sum256(data)
		out[p] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// leaks reports what of v no caller of tenant A may see.
func leaks(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	for _, secret := range []string{sourcetest.Vault, "belongstoglobex", "ssn-", "CREATE TABLE", "sqlite_"} {
		if strings.Contains(string(data), secret) {
			return secret
		}
	}
	return ""
}

func TestAttacks(t *testing.T) {
	src, dir, unchanged := attacked(t)
	other := filepath.Join(dir, "globex.db")
	const ok = atlas.Code("") // harmless: allowed
	for _, tc := range []struct {
		sql  string
		code atlas.Code
	}{
		// Other files.
		{`ATTACH DATABASE '` + other + `' AS o`, atlas.CodeInvalidQuery},
		{`SELECT 1; ATTACH DATABASE '` + other + `' AS o; SELECT * FROM o.customers`, atlas.CodeInvalidQuery},
		{`SELECT * FROM o.customers`, atlas.CodeInvalidQuery},
		{`SELECT * FROM "file:` + other + `".customers`, atlas.CodeInvalidQuery},
		{`DETACH DATABASE main`, atlas.CodeInvalidQuery},
		{`VACUUM INTO '` + filepath.Join(dir, "copy.db") + `'`, atlas.CodeInvalidQuery},
		{`VACUUM`, atlas.CodeInvalidQuery},
		{`SELECT readfile('` + other + `')`, atlas.CodeInvalidQuery},
		{`SELECT writefile('` + filepath.Join(dir, "x") + `', 'x')`, atlas.CodeInvalidQuery},
		{`SELECT load_extension('x')`, atlas.CodeInvalidQuery},
		{`SELECT edit('x')`, atlas.CodeInvalidQuery},
		{`SELECT * FROM vec_npy_each(vec_npy_file('` + other + `'))`, atlas.CodeInvalidQuery},
		{`SELECT vec_version()`, atlas.CodeInvalidQuery},
		{`SELECT * FROM zipfile('` + other + `')`, atlas.CodeInvalidQuery},
		{`SELECT * FROM fsdir('/')`, atlas.CodeInvalidQuery},
		{`SELECT * FROM csv`, atlas.CodeInvalidQuery},

		// The schema and SQLite's own tables.
		{`SELECT * FROM sqlite_master`, atlas.CodeInvalidQuery},
		{`SELECT * FROM sqlite_schema`, atlas.CodeInvalidQuery},
		{`SELECT count(*) FROM sqlite_schema`, atlas.CodeInvalidQuery},
		{`SELECT sql FROM main.sqlite_master`, atlas.CodeInvalidQuery},
		{`SELECT * FROM "sqlite_master"`, atlas.CodeInvalidQuery},
		{`SELECT * FROM [sqlite_master]`, atlas.CodeInvalidQuery},
		{"SELECT * FROM `sqlite_master`", atlas.CodeInvalidQuery},
		{`SELECT * FROM SQLITE_MASTER`, atlas.CodeInvalidQuery},
		{`SELECT * FROM 'sqlite_master'`, atlas.CodeInvalidQuery},
		{`SELECT * FROM sqlite_temp_master`, atlas.CodeInvalidQuery},
		{`SELECT * FROM temp.sqlite_schema`, atlas.CodeInvalidQuery},
		{`SELECT * FROM sqlite_sequence`, atlas.CodeInvalidQuery},
		{`SELECT * FROM sqlite_stat1`, atlas.CodeInvalidQuery},
		{`SELECT * FROM sqlite_dbpage`, atlas.CodeInvalidQuery},
		{`SELECT count(*) FROM sqlite_dbpage('main')`, atlas.CodeInvalidQuery},
		{`SELECT * FROM dbstat`, atlas.CodeInvalidQuery},
		{`SELECT count(*) FROM dbstat`, atlas.CodeInvalidQuery},
		{`SELECT * FROM sqlite_stmt`, atlas.CodeInvalidQuery},
		{`SELECT * FROM bytecode('SELECT * FROM vault')`, atlas.CodeInvalidQuery},
		{`SELECT * FROM tables_used('SELECT * FROM vault')`, atlas.CodeInvalidQuery},
		{`SELECT * FROM pragma_table_info('vault')`, atlas.CodeInvalidQuery},
		{`SELECT count(*) FROM pragma_table_list`, atlas.CodeInvalidQuery},
		{`SELECT * FROM pragma_database_list`, atlas.CodeInvalidQuery},
		{`SELECT * FROM pragma_function_list`, atlas.CodeInvalidQuery},
		{`SELECT * FROM pragma_compile_options`, atlas.CodeInvalidQuery},
		{`SELECT sqlite_version(), sqlite_source_id()`, atlas.CodeInvalidQuery},
		{`SELECT sqlite_compileoption_get(1)`, atlas.CodeInvalidQuery},
		{`SELECT sqlite_offset(id) FROM customers`, atlas.CodeInvalidQuery},
		{`SELECT last_insert_rowid()`, atlas.CodeInvalidQuery},
		{`SELECT fts5(1)`, atlas.CodeInvalidQuery},
		{`SELECT fts3_tokenizer('simple')`, atlas.CodeInvalidQuery},
		{`SELECT * FROM fts5vocab`, atlas.CodeInvalidQuery},
		{`SELECT rtreecheck('vault')`, atlas.CodeInvalidQuery},
		{`SELECT atlas_within(1)`, atlas.CodeInvalidQuery},

		// Settings.
		{`PRAGMA query_only = 0`, atlas.CodeInvalidQuery},
		{`PRAGMA writable_schema = 1`, atlas.CodeInvalidQuery},
		{`PRAGMA trusted_schema = 1`, atlas.CodeInvalidQuery},
		{`PRAGMA database_list`, atlas.CodeInvalidQuery},
		{`SELECT 1 WHERE (PRAGMA table_list)`, atlas.CodeInvalidQuery},

		// Tables that are not configured, by every way to them.
		{`SELECT * FROM vault`, atlas.CodeInvalidQuery},
		{`SELECT * FROM VAULT`, atlas.CodeInvalidQuery},
		{`SELECT * FROM main.vault`, atlas.CodeInvalidQuery},
		{`SELECT * FROM "vault"`, atlas.CodeInvalidQuery},
		{`SELECT count(*) FROM vault`, atlas.CodeInvalidQuery},
		{`SELECT rowid FROM vault`, atlas.CodeInvalidQuery},
		{`SELECT 1 FROM vault`, atlas.CodeInvalidQuery},
		{`SELECT exists(SELECT 1 FROM vault)`, atlas.CodeInvalidQuery},
		{`WITH orders AS (SELECT secret FROM vault) SELECT * FROM orders`, atlas.CodeInvalidQuery},
		{`WITH customers(x) AS (SELECT secret FROM vault) SELECT x FROM customers`, atlas.CodeInvalidQuery},
		{`SELECT * FROM (SELECT secret AS id FROM vault) AS orders`, atlas.CodeInvalidQuery},
		{`WITH vault AS (SELECT 1 AS x) SELECT count(*) FROM main.vault`, atlas.CodeInvalidQuery},
		{`SELECT (WITH vault AS (SELECT 1) SELECT 1 FROM vault), (SELECT count(*) FROM vault)`, atlas.CodeInvalidQuery},
		{`WITH dbstat AS (SELECT 1) SELECT (SELECT count(*) FROM main.dbstat)`, atlas.CodeInvalidQuery},
		{`SELECT (WITH dbstat AS (SELECT 1) SELECT 1 FROM dbstat), (SELECT count(*) FROM dbstat)`, atlas.CodeInvalidQuery},
		{`SELECT (WITH sqlite_schema AS (SELECT 1) SELECT 1 FROM sqlite_schema), (SELECT count(*) FROM sqlite_schema)`, atlas.CodeInvalidQuery},
		{`SELECT id FROM orders WHERE id IN vault`, atlas.CodeInvalidQuery},
		{`SELECT id FROM orders NATURAL JOIN vault`, atlas.CodeInvalidQuery},
		{`SELECT id FROM orders ORDER BY (SELECT secret FROM vault)`, atlas.CodeInvalidQuery},
		{`SELECT id FROM orders LIMIT (SELECT length(secret) FROM vault)`, atlas.CodeInvalidQuery},
		{`SELECT json_group_array(secret) FROM vault`, atlas.CodeInvalidQuery},
		{`SELECT sum(length(secret)) OVER () FROM vault`, atlas.CodeInvalidQuery},
		{`VALUES ((SELECT secret FROM vault))`, atlas.CodeInvalidQuery},
		{`SELECT * FROM vault LIMIT 0`, atlas.CodeInvalidQuery},
		{`SELECT * FROM orders WHERE total_cents > 0 AND EXISTS (SELECT * FROM vault)`, atlas.CodeInvalidQuery},
		{`SELECT id FROM orders JOIN vault USING (id)`, atlas.CodeInvalidQuery},
		{`SELECT g.secret FROM (SELECT 'vault-secret-41' AS secret) g NATURAL JOIN vault`, atlas.CodeInvalidQuery},
		{"SELECT g.secret FROM (SELECT 'vault-secret-41' AS secret) g /**/Natural/**/ JOIN vault", atlas.CodeInvalidQuery},
		{"SELECT g.secret FROM (SELECT 'vault-secret-41' AS secret) g \ufeffNATURAL JOIN vault", atlas.CodeInvalidQuery},
		{`SELECT :a(') FROM orders NATURAL JOIN vault --')`, atlas.CodeInvalidQuery},
		{`SELECT g.secret FROM (SELECT 'vault-secret-41' AS secret) g RIGHT JOIN vault USING (secret)`, atlas.CodeInvalidQuery},
		{`SELECT ssn FROM customers`, atlas.CodeInvalidQuery},
		{`SELECT customers.* FROM customers`, atlas.CodeInvalidQuery},
		{`SELECT c."SSN" FROM customers c`, atlas.CodeInvalidQuery},
		{`SELECT id FROM customers WHERE ssn > 'a'`, atlas.CodeInvalidQuery},
		{`SELECT id FROM customers JOIN (SELECT 'ssn-belongstoacme' AS ssn) USING (ssn)`, atlas.CodeInvalidQuery},
		{`SELECT count(*) FROM customers a NATURAL JOIN (SELECT 'ssn-belongstoacme' AS ssn)`, atlas.CodeInvalidQuery},

		// Writing.
		{`INSERT INTO orders (id) VALUES ('x')`, atlas.CodeInvalidQuery},
		{`WITH x AS (INSERT INTO orders (id) VALUES ('x') RETURNING id) SELECT * FROM x`, atlas.CodeInvalidQuery},
		{`WITH x AS (SELECT 1) INSERT INTO orders (id) SELECT 'x'`, atlas.CodeInvalidQuery},
		{`WITH x AS (SELECT 1) UPDATE orders SET status = 'x'`, atlas.CodeInvalidQuery},
		{`WITH x AS (SELECT 1) DELETE FROM orders RETURNING *`, atlas.CodeInvalidQuery},
		{`CREATE TEMP TABLE x AS SELECT * FROM vault`, atlas.CodeInvalidQuery},
		{`CREATE TEMP VIEW orders AS SELECT * FROM vault`, atlas.CodeInvalidQuery},
		{`CREATE VIRTUAL TABLE x USING fts5(a)`, atlas.CodeInvalidQuery},
		{`REINDEX`, atlas.CodeInvalidQuery},
		{`ANALYZE`, atlas.CodeInvalidQuery},
		{`BEGIN EXCLUSIVE`, atlas.CodeInvalidQuery},
		{`SAVEPOINT x`, atlas.CodeInvalidQuery},
		{`RELEASE x`, atlas.CodeInvalidQuery},
		{`EXPLAIN SELECT 1`, atlas.CodeInvalidQuery},
		{`EXPLAIN QUERY PLAN SELECT * FROM orders`, atlas.CodeInvalidQuery},

		// More than one statement, and what hides it.
		{`SELECT 1; SELECT secret FROM vault`, atlas.CodeInvalidQuery},
		{`;SELECT secret FROM vault`, atlas.CodeInvalidQuery},
		{`SELECT 1 /* ; */; SELECT 2`, atlas.CodeInvalidQuery},
		{"SELECT 1 -- x\n; DELETE FROM orders", atlas.CodeInvalidQuery},
		{`SELECT ';' ; PRAGMA query_only = 0`, atlas.CodeInvalidQuery},
		{`SELECT 'it''s; fine'; DROP TABLE orders`, atlas.CodeInvalidQuery},
		{`SELECT 1 AS "a;""b"; DROP TABLE orders`, atlas.CodeInvalidQuery},
		{`SELECT 1 AS [a;'b]; DROP TABLE orders`, atlas.CodeInvalidQuery},
		{"SELECT 1\x00; DROP TABLE orders", atlas.CodeInvalidQuery},
		{"/* /* */ DELETE FROM orders", atlas.CodeInvalidQuery},
		{"/**/DELETE FROM orders", atlas.CodeInvalidQuery},
		{"\ufeffSELECT secret FROM vault", atlas.CodeInvalidQuery},
		{"SELECT secret FROM\u00a0vault", atlas.CodeInvalidQuery},
		{"SELECT secret FROM vau\u200blt", atlas.CodeInvalidQuery},
		{"ＳＥＬＥＣＴ 1", atlas.CodeInvalidQuery},
		{`SELECT ?1`, atlas.CodeInvalidQuery},
		{`SELECT ?`, atlas.CodeInvalidQuery},
		{`SELECT @x`, atlas.CodeInvalidQuery},
		{`SELECT $x`, atlas.CodeInvalidQuery},
		{`SELECT :1`, atlas.CodeInvalidQuery},
		{`SELECT #1`, atlas.CodeInvalidQuery},
		{`SELECT 1 'open`, atlas.CodeInvalidQuery},

		// Bombs.
		{`SELECT zeroblob(1000000000)`, atlas.CodeTooLarge},
		{`SELECT length(randomblob(1000000000))`, atlas.CodeTooLarge},
		{`SELECT printf('%1000000000d', 1)`, atlas.CodeTooLarge},
		{`SELECT length(replace(hex(zeroblob(50000)), '0', 'xxxxxxxxxxxxxxxx'))`, atlas.CodeTooLarge},
		{`SELECT group_concat(hex(zeroblob(10000))) FROM orders`, atlas.CodeTooLarge},
		{`SELECT json_group_array(id) FROM orders`, atlas.CodeInvalidQuery},
		{`SELECT json_group_object(id, id) FROM orders`, atlas.CodeInvalidQuery},
		{`SELECT jsonb_group_array(id) FROM orders`, atlas.CodeInvalidQuery},
		{`SELECT 1 WHERE 'a' LIKE '` + strings.Repeat("%a", 1000) + `'`, atlas.CodeInvalidQuery},
		{`SELECT unhex(hex(zeroblob(60000)), hex(zeroblob(60000)))`, atlas.CodeInvalidQuery},
		{`SELECT json_patch('{}', '{}')`, atlas.CodeInvalidQuery},
		{`SELECT ` + strings.Repeat("abs(", 500) + "1" + strings.Repeat(")", 500), atlas.CodeInvalidQuery},
		{`SELECT ` + strings.Repeat("-", 500) + "1", atlas.CodeInvalidQuery}, // a comment
		{`SELECT ` + strings.Repeat("- ", 500) + "1", atlas.CodeInvalidQuery},
		{`SELECT 1` + strings.Repeat(" UNION SELECT 1", 100), atlas.CodeInvalidQuery},
		{`SELECT 1` + strings.Repeat(", 1", 300), atlas.CodeInvalidQuery},
		{`SELECT '` + strings.Repeat("x", 40<<10) + `'`, atlas.CodeTooLarge},

		// What is fine.
		{`SELECT date('now'), random(), datetime(0, 'unixepoch'), upper('x')`, ok},
		{`SELECT id FROM orders -- ; DROP TABLE orders`, ok},
		{`SELECT id FROM orders; /* end */ ;`, ok},
		{`SELECT id AS "vault" FROM orders AS sqlite_master`, ok},
		{`WITH x AS (SELECT id FROM orders) SELECT count(*) FROM x`, ok},
		{`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT count(*) FROM n`, ok},
		{`SELECT value FROM json_each('[1,2,3]')`, ok},
		{`SELECT '{"a":1}' ->> 'a'`, ok},
		{`SELECT trim('  x '), trim('xxax', 'x'), ltrim(12), rtrim(NULL), trim(1.5, '1')`, ok},
		{`SELECT row_number() OVER (ORDER BY id) FROM orders`, ok},
	} {
		name := fmt.Sprintf("%.70q", tc.sql)
		rows, err := src.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: tc.sql})
		if got := atlas.CodeOf(err); got != tc.code {
			t.Errorf("%s: got %q (%v) %.200v, want %q", name, got, err, rows.Rows, tc.code)
		}
		if secret := leaks(rows); secret != "" {
			t.Errorf("%s: leaks %s: %.200v", name, secret, rows)
		}
		if err != nil {
			if secret := leaks(atlas.ErrorOf(err).Failure("")); secret != "" && secret != "sqlite_" {
				t.Errorf("%s: the failure leaks %s", name, secret)
			}
		}
	}
	unchanged()
}

// Statements that compute for ever, or for long in one step, end when the source's own limit of
// time is reached.
func TestBombsEnd(t *testing.T) {
	root := t.TempDir()
	cfg := config()
	cfg.Timeout = 50 * time.Millisecond
	src := openWith(t, cfg, root)
	if err := src.(source.Loader).Load(t.Context(), sourcetest.A, sourcetest.Company()[sourcetest.A]); err != nil {
		t.Fatal(err)
	}
	deep := `WITH a AS (SELECT 1 AS x)`
	for i := range 24 { // doubles with each step, while the statement is compiled
		deep += fmt.Sprintf(", %c AS (SELECT 1 AS x FROM %c, %c AS t)", 'b'+i, 'a'+i, 'a'+i)
	}
	for name, sql := range map[string]string{
		"endless":         `SELECT count(*) FROM ` + endless,
		"after a row":     `SELECT 1 UNION ALL SELECT count(*) FROM ` + endless,
		"sorted":          `SELECT x FROM ` + endless + ` ORDER BY -x`,
		"distinct":        `SELECT DISTINCT x FROM ` + endless + ` WHERE x < 0`,
		"grouped":         `SELECT x % 7, count(*) FROM ` + endless + ` GROUP BY 1`,
		"window":          `SELECT sum(x) OVER (ORDER BY x) FROM ` + endless,
		"in a subquery":   `SELECT (SELECT max(x) FROM ` + endless + `)`,
		"in a limit":      `SELECT 1 LIMIT (SELECT max(x) FROM ` + endless + `)`,
		"large values":    `SELECT count(*) FROM (SELECT hex(zeroblob(60000)) || x AS v FROM ` + endless + ` ORDER BY v)`,
		"searching":       `SELECT sum(instr(zeroblob(130000), CAST(zeroblob(65000) || x'01' AS BLOB)) + x) FROM ` + endless,
		"cross join":      `SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f, orders g`,
		"while compiling": deep + fmt.Sprintf(" SELECT count(*) FROM %c", 'b'+23),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := src.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: sql})
			if got := atlas.CodeOf(err); got != atlas.CodeTimeout && (name != "while compiling" || got != atlas.CodeInvalidQuery) {
				t.Errorf("got %v", err)
			}
			if _, err := src.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT 1`}); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	t.Run("trim", func(t *testing.T) { // SQLite's own takes minutes for this
		const sql = `SELECT length(ltrim(hex(zeroblob(60000)), replace(hex(zeroblob(59000)), '0', '1') || '0'))`
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		rows, err := openWith(t, config(), root).(source.Querier).Query(ctx, sourcetest.A, source.Query{SQL: sql})
		if err != nil || !cmp.Equal(rows.Rows, [][]any{{int64(0)}}) {
			t.Errorf("got %v, %v", rows.Rows, err)
		}
	})
}

func FuzzQuery(f *testing.F) {
	for _, sql := range []string{
		`SELECT id, name FROM customers WHERE id = :id`, `SELECT * FROM vault`, `WITH vault AS (SELECT 1) SELECT count(*) FROM vault`,
		`SELECT 1; SELECT 2`, `SELECT 'a''b', "c""d", [e], x'00' -- f`, "SELECT `a` /* b */", `VALUES (1), (2)`, `SELECT sql FROM sqlite_master`,
		`SELECT count(*) FROM pragma_table_list`, `SELECT ssn FROM customers`, `EXPLAIN SELECT 1`, `PRAGMA query_only`, `SELECT $a::b(c)`,
		`SELECT json_each.value FROM json_each('[1]')`, `SELECT trim('a', 'a') || printf('%d', 1)`,
	} {
		f.Add(sql)
	}
	src, _, unchanged := attacked(f)
	f.Fuzz(func(t *testing.T, sql string) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		q := source.Query{SQL: sql, Args: map[string]any{}, MaxRows: 5}
		if strings.Contains(sql, ":id") {
			q.Args["id"] = "CUST-1001"
		}
		rows, err := src.(source.Querier).Query(ctx, sourcetest.A, q)
		if secret := leaks(rows); secret != "" && !strings.Contains(sql, secret[:3]) {
			t.Errorf("leaks %s: %v", secret, rows)
		}
		if len(rows.Rows) > 5 {
			t.Errorf("%d rows", len(rows.Rows))
		}
		facts, ierr := src.(source.Querier).Inspect(ctx, sourcetest.A, q)
		for _, table := range facts.Tables {
			if table != "customers" && table != "orders" {
				t.Errorf("reads %s", table)
			}
		}
		for _, err := range []error{err, ierr} {
			if err == nil {
				continue
			}
			switch atlas.CodeOf(err) {
			case atlas.CodeInvalidQuery, atlas.CodeInvalidArguments, atlas.CodeTooLarge, atlas.CodeTimeout:
			default:
				t.Errorf("code %s: %v", atlas.CodeOf(err), err)
			}
		}
		unchanged()
	})
}
