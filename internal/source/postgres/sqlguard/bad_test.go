package sqlguard_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
)

// bad are statements that are refused; the hint holds the words.
var bad = []struct{ sql, hint string }{
	// Not one SELECT.
	{``, "exactly one"},
	{`;`, "exactly one"},
	{`-- nothing`, "exactly one"},
	{`SELECT 1; SELECT 2`, "exactly one"},
	{`SELECT 1; DROP TABLE orders`, "exactly one"},
	{`SELECT ';' ; DELETE FROM orders`, "exactly one"},
	{"SELECT 1 -- x\n; DELETE FROM orders", "exactly one"},
	{`SELECT 1 /* /* */ ; DROP TABLE orders */; SELECT 2`, "exactly one"},
	{`COMMIT; DROP TABLE orders`, "exactly one"},
	{`INSERT INTO orders (id) VALUES ('x')`, "only SELECT"},
	{`UPDATE orders SET status = 'x'`, "only SELECT"},
	{`DELETE FROM orders`, "only SELECT"},
	{`MERGE INTO orders o USING items i ON o.id = i.order_id WHEN MATCHED THEN DELETE`, "only SELECT"},
	{`TRUNCATE orders`, "only SELECT"},
	{`CREATE TEMP TABLE x AS SELECT * FROM orders`, "only SELECT"},
	{`CREATE TEMP VIEW x AS SELECT * FROM orders`, "only SELECT"},
	{`CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'`, "only SELECT"},
	{`DROP TABLE orders`, "only SELECT"},
	{`ALTER TABLE orders DISABLE ROW LEVEL SECURITY`, "only SELECT"},
	{`GRANT ALL ON orders TO public`, "only SELECT"},
	{`DO $$ BEGIN PERFORM set_config('app.tenant_id', 'globex', true); END $$`, "only SELECT"},
	{`COPY orders TO '/tmp/x'`, "only SELECT"},
	{`COPY (SELECT * FROM orders) TO PROGRAM 'sh'`, "only SELECT"},
	{`COPY orders FROM STDIN`, "only SELECT"},
	{`PREPARE x AS SELECT 1`, "only SELECT"},
	{`EXECUTE x`, "only SELECT"},
	{`DEALLOCATE ALL`, "only SELECT"},
	{`DECLARE c CURSOR FOR SELECT * FROM orders`, "only SELECT"},
	{`FETCH ALL FROM c`, "only SELECT"},
	{`EXPLAIN SELECT 1`, "only SELECT"},
	{`EXPLAIN ANALYZE DELETE FROM orders`, "only SELECT"},
	{`SET app.tenant_id = 'globex'`, "only SELECT"},
	{`SET LOCAL app.tenant_id TO globex`, "only SELECT"},
	{`SET ROLE postgres`, "only SELECT"},
	{`RESET ALL`, "only SELECT"},
	{`RESET ROLE`, "only SELECT"},
	{`SHOW app.tenant_id`, "only SELECT"},
	{`SHOW ALL`, "only SELECT"},
	{`DISCARD ALL`, "only SELECT"},
	{`LISTEN x`, "only SELECT"},
	{`NOTIFY x, 'y'`, "only SELECT"},
	{`LOCK TABLE orders`, "only SELECT"},
	{`BEGIN`, "only SELECT"},
	{`ROLLBACK`, "only SELECT"},
	{`SAVEPOINT x`, "only SELECT"},
	{`VACUUM`, "only SELECT"},
	{`CALL f()`, "only SELECT"},
	{`LOAD 'x'`, "only SELECT"},
	{`CHECKPOINT`, "only SELECT"},
	{`IMPORT FOREIGN SCHEMA x FROM SERVER y INTO z`, "only SELECT"},
	// What changes something within a SELECT.
	{`WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x`, "must be a SELECT"},
	{"with x as (\ndelete\nfrom orders returning id) select * from x", "must be a SELECT"},
	{`WITH x AS (INSERT INTO orders (id) VALUES ('x') RETURNING id) SELECT * FROM x`, "must be a SELECT"},
	{`WITH x AS (UPDATE orders SET status = 'x' RETURNING id) SELECT * FROM x`, "must be a SELECT"},
	{`SELECT * FROM (WITH x AS (DELETE FROM orders RETURNING id) SELECT * FROM x) y`, "must be a SELECT"},
	{`WITH a AS (SELECT 1) DELETE FROM orders`, "only SELECT"},
	{`SELECT * INTO x FROM orders`, "INTO"},
	{`SELECT id INTO TEMP x FROM orders`, "INTO"},
	{`SELECT id FROM orders UNION SELECT id FROM orders FOR UPDATE`, "FOR UPDATE"},
	{`SELECT id FROM orders FOR UPDATE`, "FOR UPDATE"},
	{`SELECT id FROM orders FOR NO KEY UPDATE SKIP LOCKED`, "FOR UPDATE"},
	{`SELECT id FROM (SELECT id FROM orders FOR SHARE) x`, "FOR UPDATE"},
	// Settings, and SQL in texts.
	{`SELECT set_config('app.tenant_id', 'globex', true)`, "set_config"},
	{`SELECT SET_CONFIG('app.tenant_id', 'globex', true)`, "set_config"},
	{`SELECT pg_catalog.set_config('app.tenant_id', 'globex', true)`, "set_config"},
	{`SELECT "set_config"('app.tenant_id', 'globex', true)`, "set_config"},
	{`SELECT U&"set\005fconfig"('app.tenant_id', 'globex', true)`, "set_config"},
	{`SELECT U&"set!005fconfig" UESCAPE '!' ('app.tenant_id', 'globex', true)`, "set_config"},
	{`SELECT set_config /* x */ ('app.tenant_id', 'globex', true)`, "set_config"},
	{"SELECT set_config\n(\n'app.tenant_id', 'globex', true)", "set_config"},
	{`SELECT id FROM orders ORDER BY set_config('app.tenant_id', 'globex', true)`, "set_config"},
	{`SELECT id FROM orders LIMIT length(set_config('app.tenant_id', 'globex', true))`, "set_config"},
	{`SELECT id FROM orders WHERE id = ANY (ARRAY[set_config('a.b', 'x', true)])`, "set_config"},
	{`SELECT count(*) FILTER (WHERE set_config('a.b', 'x', true) = 'x') FROM orders`, "set_config"},
	{`SELECT sum(1) OVER (PARTITION BY set_config('a.b', 'x', true)) FROM orders`, "set_config"},
	{`SELECT sum(1) OVER w FROM orders WINDOW w AS (ORDER BY set_config('a.b', 'x', true))`, "set_config"},
	{`SELECT string_agg(id, '' ORDER BY set_config('a.b', 'x', true)) FROM orders`, "set_config"},
	{`SELECT CASE WHEN set_config('a.b', 'x', true) IS NULL THEN 1 END`, "set_config"},
	{`VALUES (set_config('a.b', 'x', true))`, "set_config"},
	{`SELECT (SELECT set_config('a.b', 'x', true))`, "set_config"},
	{`SELECT o.id FROM orders o JOIN items i ON set_config('a.b', 'x', true) = ''`, "set_config"},
	{`SELECT * FROM set_config('app.tenant_id', 'globex', true)`, "set_config"},
	{`SELECT * FROM ROWS FROM (set_config('app.tenant_id', 'globex', true))`, "one function"},
	{`WITH s AS MATERIALIZED (SELECT set_config('app.tenant_id', 'globex', true)) SELECT c.id FROM s, customers c`, "set_config"},
	{`SELECT DISTINCT ON (set_config('a.b', 'x', true)) id FROM orders`, "set_config"},
	{`SELECT id FROM orders GROUP BY id, set_config('a.b', 'x', true)`, "set_config"},
	{`SELECT 1 HAVING set_config('a.b', 'x', true) = ''`, "set_config"},
	{`SELECT ('x'::text COLLATE "C") || set_config('a.b', 'x', true)`, "set_config"},
	{`SELECT (ROW(1, set_config('a.b', 'x', true))) IS NULL`, "set_config"},
	{`SELECT make_interval(days => length(set_config('a.b', 'x', true)))`, "set_config"},
	{`SELECT (string_to_array('a', 'b'))[length(set_config('a.b', 'x', true))]`, "set_config"},
	{`SELECT current_setting('app.tenant_id')`, "current_setting"},
	{`SELECT query_to_xml('SELECT set_config(''app.tenant_id'', ''globex'', true)', true, true, '')`, "query_to_xml"},
	{`SELECT table_to_xml('customers', true, true, '')`, "table_to_xml"},
	{`SELECT cursor_to_xml('c', 1, true, true, '')`, "cursor_to_xml"},
	{`SELECT schema_to_xml('public', true, true, '')`, "schema_to_xml"},
	{`SELECT database_to_xml(true, true, '')`, "database_to_xml"},
	{`SELECT query_to_xml_and_xmlschema('SELECT 1', true, true, '')`, "query_to_xml"},
	{`SELECT xpath('/a', '<a/>')`, "xpath"},
	{`SELECT xmlelement(name a)`, "XML"},
	{`SELECT xmlparse(document '<a/>')`, "XML"},
	{`SELECT * FROM xmltable('/a' PASSING '<a/>' COLUMNS b text)`, "only tables"},
	{`SELECT * FROM json_table('{}', '$' COLUMNS (a int))`, "only tables"},
	{`SELECT json_value('{}', '$.a')`, "SQL/JSON"},
	{`SELECT json_object('a': 1)`, "SQL/JSON"},
	{`SELECT '1' IS JSON`, "SQL/JSON"},
	{`SELECT * FROM dblink('dbname=postgres', 'SELECT 1') AS t(a int)`, "dblink"},
	{`SELECT dblink_exec('x', 'y')`, "dblink_exec"},
	{`SELECT ts_stat('SELECT to_tsvector(secret) FROM vault')`, "ts_stat"},
	{`SELECT ts_rewrite('a'::tsquery, 'SELECT t, s FROM aliases')`, "ts_rewrite"},
	// Files, server, waiting, locks, large objects, sequences.
	{`SELECT pg_sleep(10)`, "pg_sleep"},
	{`SELECT pg_sleep_for('1 hour')`, "pg_sleep_for"},
	{`SELECT pg_read_file('/etc/passwd')`, "pg_read_file"},
	{`SELECT * FROM pg_ls_dir('/')`, "pg_ls_dir"},
	{`SELECT pg_stat_file('/etc/passwd')`, "pg_stat_file"},
	{`SELECT lo_import('/etc/passwd')`, "lo_import"},
	{`SELECT lo_get(1)`, "lo_get"},
	{`SELECT lo_from_bytea(0, 'x')`, "lo_from_bytea"},
	{`SELECT pg_terminate_backend(1)`, "pg_terminate_backend"},
	{`SELECT pg_advisory_lock(1)`, "pg_advisory_lock"},
	{`SELECT pg_notify('x', 'y')`, "pg_notify"},
	{`SELECT nextval('s')`, "nextval"},
	{`SELECT pg_logical_emit_message(true, 'a', 'b')`, "pg_logical_emit_message"},
	{`SELECT pg_export_snapshot()`, "pg_export_snapshot"},
	{`SELECT txid_current()`, "txid_current"},
	{`SELECT pg_get_viewdef('x')`, "pg_get_viewdef"},
	{`SELECT obj_description(1)`, "obj_description"},
	{`SELECT pg_relation_size('orders')`, "pg_relation_size"},
	{`SELECT to_regclass('vault')`, "to_regclass"},
	{`SELECT has_table_privilege('vault', 'SELECT')`, "has_table_privilege"},
	{`SELECT format_type(1, 1)`, "format_type"},
	// Who and where.
	{`SELECT version()`, "version"},
	{`SELECT inet_server_addr()`, "inet_server_addr"},
	{`SELECT current_user`, "user"},
	{`SELECT session_user`, "user"},
	{`SELECT user`, "user"},
	{`SELECT current_role`, "user"},
	{`SELECT current_catalog`, "user"},
	{`SELECT current_schema`, "user"},
	{`SELECT current_database()`, "current_database"},
	{`SELECT current_schemas(true)`, "current_schemas"},
	{`SELECT pg_backend_pid()`, "pg_backend_pid"},
	// The catalog.
	{`SELECT * FROM pg_stat_activity`, "no table"},
	{`SELECT * FROM pg_catalog.pg_class`, "no table"},
	{`SELECT * FROM pg_stats`, "no table"},
	{`SELECT * FROM pg_settings`, "no table"},
	{`SELECT * FROM information_schema.tables`, "no table"},
	{`SELECT * FROM postgres.pg_catalog.pg_class`, "without its database"},
	{`SELECT 'vault'::regclass`, "regclass"},
	{`SELECT CAST('set_config' AS regproc)`, "regproc"},
	{`SELECT regclass 'vault'`, "regclass"},
	{`SELECT 'postgres'::regrole`, "regrole"},
	{`SELECT '1'::oid`, "oid"},
	{`SELECT '1'::oidvector`, "oidvector"},
	{`SELECT ARRAY['vault']::regclass[]`, "regclass"},
	{`SELECT id::pg_catalog.regclass FROM customers`, "regclass"},
	{`SELECT x FROM jsonb_to_recordset('[]') AS x(a regclass)`, "regclass"},
	{`SELECT '1'::xid`, "xid"},
	{`SELECT 'x'::name`, "name"},
	{`SELECT ROW(1)::customers`, "customers"},
	{`SELECT '(1)'::public.vault`, "vault"},
	{`SELECT 'x'::"char"`, "char"},
	{`SELECT 'x'::cstring`, "cstring"},
	{`SELECT orders.id%TYPE FROM orders`, "no column"},
	// Tables that are not there, or not for agents: one answer.
	{`SELECT secret FROM vault`, "no table"},
	{`SELECT secret FROM absent`, "no table"},
	{`SELECT * FROM public.vault`, "no table"},
	{`SELECT * FROM other.customers`, "no table"},
	{`SELECT * FROM "CUSTOMERS"`, "no table"},
	{`SELECT (SELECT count(*) FROM vault)`, "no table"},
	{`WITH vault AS (SELECT 1 AS x) SELECT * FROM public.vault`, "no table"},
	{`SELECT (WITH vault AS (SELECT 1) SELECT 1 FROM vault), (SELECT count(*) FROM vault)`, "no table"},
	{`WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a`, "no table"},
	{`WITH vault AS (SELECT * FROM vault) SELECT * FROM vault`, "no table"},
	{`SELECT id FROM orders UNION SELECT secret FROM vault`, "no table"},
	{`TABLE vault`, "no table"},
	{`SELECT * FROM ONLY orders`, "ONLY"},
	{`SELECT id FROM orders TABLESAMPLE SYSTEM (50)`, "TABLESAMPLE"},
	// Hidden columns, by every way to them.
	{`SELECT ssn FROM customers`, "no column"},
	{`SELECT c.ssn FROM customers c`, "no column"},
	{`SELECT absent FROM customers`, "no column"},
	{`SELECT "SSN" FROM customers`, "no column"},
	{`SELECT id FROM customers WHERE ssn > 'a'`, "no column"},
	{`SELECT id FROM customers ORDER BY ssn`, "no column"},
	{`SELECT count(*) FROM customers GROUP BY ssn`, "no column"},
	{`SELECT id FROM customers JOIN (SELECT 'ssn-1' AS ssn) x USING (ssn)`, "no column"},
	{`SELECT x.ssn FROM customers NATURAL JOIN (SELECT 'ssn-1' AS ssn) x`, "NATURAL"},
	{`SELECT c FROM customers c`, "whole row"},
	{`SELECT customers FROM customers`, "whole row"},
	{`SELECT c::text FROM customers c`, "whole row"},
	{`SELECT row_to_json(c) FROM customers c`, "whole row"},
	{`SELECT row_to_json(c.*) FROM customers c`, "name the columns"},
	{`SELECT to_jsonb(customers) FROM customers`, "whole row"},
	{`SELECT count(c.*) FROM customers c`, "name the columns"},
	{`SELECT ROW(c.*) FROM customers c`, "name the columns"},
	{`SELECT (c).ssn FROM customers c`, "whole row"},
	{`SELECT (c.*).ssn FROM customers c`, "name the columns"},
	{`SELECT ssn(c) FROM customers c`, "ssn"},
	{`SELECT c.id FROM customers c WHERE c IS NOT NULL`, "whole row"},
	{`SELECT c.id FROM customers c WHERE c = ROW('a', 'b')`, "whole row"},
	{`SELECT e FROM customers AS c(a, b, d, e, f)`, "rename"},
	{`SELECT x FROM (SELECT ctid AS x FROM orders) s`, "no column"},
	{`SELECT xmin, tableoid FROM orders`, "no column"},
	{`SELECT c.tableoid FROM customers c`, "no column"},
	{`SELECT public.customers.ssn FROM customers`, "without the schema"},
	{`SELECT public.customers.id FROM customers`, "without the schema"},
	{`SELECT j.ssn FROM (customers c JOIN orders o ON true) AS j`, "alias of a whole join"},
	{`SELECT id FROM customers c JOIN items i USING (id) AS j`, "alias of a whole join"},
	{`SELECT (SELECT c.ssn) FROM customers c`, "no column"},
	{`SELECT l.x FROM customers c, LATERAL (SELECT c.ssn AS x) l`, "no column"},
	{`SELECT ('a'::text).upper`, "not allowed"},
	{`SELECT (id).pg_sleep FROM orders`, "not allowed"},
	{`SELECT id FROM orders a, items a`, "twice"},
	{`SELECT id FROM orders, items`, "more than one"},
	{`SELECT 1 FROM customers c FULL JOIN (SELECT id FROM orders) o USING (id)`, "FULL JOIN"},
	// Other constructs.
	{`WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r`, "RECURSIVE"},
	{`SELECT 1 OPERATOR(public.=) 1`, "operator"},
	{`SELECT 1 <-> 2`, "operator"},
	{`SELECT 1 = ANY (SELECT 1) AND 1 OPERATOR(evil.<) ALL (SELECT 2)`, "operator"},
	{`SELECT id FROM orders ORDER BY id USING <`, "USING"},
	{`SELECT public.lower('A')`, "lower"},
	{`SELECT evil.lower('A')`, "lower"},
	{`SELECT a.b.lower('A')`, "without its database"},
	{`SELECT name COLLATE "de-x-icu" FROM customers`, "COLLATE"},
	{`SELECT similarity('a', 'b')`, "similarity"},
	{`SELECT my_function(1)`, "my_function"},
	{`SELECT * FROM upper('a')`, "not allowed in FROM"},
	{`SELECT * FROM ROWS FROM (generate_series(1, 2), generate_series(1, 3))`, "one function"},
	{`SELECT $0`, "parameters"},
	{`SELECT :name`, "SQL"},
	{`SELECT ?`, "SQL"},
	{`SELEC 1`, "SQL"},
	{`SELECT 'open`, "SQL"},
	{`SELECT 1 /* open`, "SQL"},
	{"SELECT 1\x00; DROP TABLE orders", "zero byte"},
	{"SELECT '\xff'", "UTF-8"},
	{"SELECT id FROM\u00a0vault", ""},
	// Small texts of large values.
	{`SELECT repeat('x', 1000000000)`, "repeat"},
	{`SELECT lpad('x', 1000000000)`, "length"},
	{`SELECT rpad('x', length('abc') * 100000000)`, "length"},
	{`SELECT lpad('x', $1)`, "length"},
	{`SELECT format('%1000000000s', 'x')`, "format"},
	{`SELECT format('%*s', 1000000000, 'x')`, "format"},
	{`SELECT format(name, 1) FROM customers`, "format"},
	{`SELECT 'x'::char(10485760)`, "type"},
	{`SELECT array_fill(1, ARRAY[100000000])`, "array_fill"},
	{`SELECT factorial(100000)`, "factorial"},
}

func TestBad(t *testing.T) {
	g := open(t, config())
	for _, tc := range bad {
		v, err := g.Check(t.Context(), tenant, tc.sql)
		if atlas.CodeOf(err) != atlas.CodeInvalidQuery {
			t.Errorf("%q: got %v as %v, want invalid_query", tc.sql, err, v)
			continue
		}
		if hint := atlas.ErrorOf(err).Hint; !strings.Contains(hint, tc.hint) {
			t.Errorf("%q: the hint %q does not say %q", tc.sql, hint, tc.hint)
		}
	}
	if len(bad) < 120 {
		t.Errorf("only %d statements", len(bad))
	}
}

// A table or column that is there but not for agents is answered like one that is not there.
func TestHiddenIsAbsent(t *testing.T) {
	g := open(t, config())
	for hidden, absent := range map[string]string{
		`SELECT 1 FROM vault`:                                  `SELECT 1 FROM vautl`,
		`SELECT ssn FROM customers`:                            `SELECT snn FROM customers`,
		`SELECT c.note FROM customers c`:                       `SELECT c.tone FROM customers c`,
		`SELECT 1 FROM pg_class`:                               `SELECT 1 FROM pg_klass`,
		`SELECT 1 FROM customers c JOIN orders o USING (note)`: `SELECT 1 FROM customers c JOIN orders o USING (tone)`,
		`SELECT pg_sleep(1)`:                                   `SELECT pg_sleeb(1)`,
		`SELECT 'x'::regclass`:                                 `SELECT 'x'::regkrass`,
	} {
		_, a := g.Check(t.Context(), tenant, hidden)
		_, b := g.Check(t.Context(), tenant, absent)
		same := strings.NewReplacer("vautl", "vault", "snn", "ssn", "tone", "note", "klass", "class", "sleeb", "sleep", "regkrass", "regclass").Replace(fmt.Sprint(b))
		if fmt.Sprint(a) != same {
			t.Errorf("%s: %v\n%s: %v", hidden, a, absent, b)
		}
	}
}

// nested are statements of n levels.
var nested = map[string]func(n int) string{
	"parentheses": func(n int) string { return "SELECT " + strings.Repeat("(", n) + "1" + strings.Repeat(")", n) },
	"minus":       func(n int) string { return "SELECT " + strings.Repeat("- ", n) + "total_cents FROM orders" },
	"not":         func(n int) string { return "SELECT " + strings.Repeat("NOT ", n) + "true" },
	"subqueries":  func(n int) string { return strings.Repeat("SELECT (", n) + "SELECT 1" + strings.Repeat(")", n) },
	"exists": func(n int) string {
		return "SELECT " + strings.Repeat("EXISTS(SELECT ", n) + "1" + strings.Repeat(")", n)
	},
	"where": func(n int) string {
		return "SELECT 1" + strings.Repeat(" WHERE 1 IN (SELECT 1", n) + strings.Repeat(")", n)
	},
	"case": func(n int) string {
		return "SELECT " + strings.Repeat("CASE WHEN ", n) + "true" + strings.Repeat(" THEN true END", n)
	},
	"arrays":   func(n int) string { return "SELECT ARRAY" + strings.Repeat("[", n) + "1" + strings.Repeat("]", n) },
	"calls":    func(n int) string { return "SELECT " + strings.Repeat("abs(", n) + "1" + strings.Repeat(")", n) },
	"coalesce": func(n int) string { return "SELECT " + strings.Repeat("coalesce(", n) + "1" + strings.Repeat(")", n) },
	"filters": func(n int) string {
		return "SELECT " + strings.Repeat("count(*) FILTER (WHERE 1 = ", n) + "1" + strings.Repeat(")", n)
	},
	"windows": func(n int) string {
		return "SELECT " + strings.Repeat("sum(1) OVER (PARTITION BY ", n) + "1" + strings.Repeat(")", n)
	},
	"in":       func(n int) string { return "SELECT " + strings.Repeat("1 IN (", n) + "1" + strings.Repeat(")", n) },
	"rows":     func(n int) string { return "SELECT " + strings.Repeat("(1, ", n) + "1" + strings.Repeat(")", n) },
	"casts":    func(n int) string { return "SELECT 1" + strings.Repeat("::int", n) },
	"collates": func(n int) string { return "SELECT 'a'" + strings.Repeat(` COLLATE "C"`, n) },
	"is null":  func(n int) string { return "SELECT 1" + strings.Repeat(" ISNULL", n) },
	"sum":      func(n int) string { return "SELECT 1" + strings.Repeat("+1", n) },
	"json":     func(n int) string { return "SELECT meta" + strings.Repeat("->'a'", n) + " FROM orders" },
	"unions":   func(n int) string { return "SELECT 1" + strings.Repeat(" UNION SELECT 1", n) },
	"from": func(n int) string {
		return strings.Repeat("SELECT * FROM (", n) + "SELECT 1 AS a" + strings.Repeat(") x", n)
	},
	"with": func(n int) string {
		return strings.Repeat("WITH x AS (", n) + "SELECT 1 AS a" + strings.Repeat(") SELECT a FROM x", n)
	},
	"joins": func(n int) string {
		var b strings.Builder
		b.WriteString("SELECT 1 FROM orders")
		for i := range n {
			fmt.Fprintf(&b, " JOIN orders o%d ON true", i)
		}
		return b.String()
	},
	"joins of joins": func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "(orders o%d JOIN ", i)
		}
		return "SELECT 1 FROM " + b.String() + "items" + strings.Repeat(" ON true)", n)
	},
}

// Whatever is nested, as deeply as the guard lets it: what passes is written rightly, what is deeper
// is refused, and the parser works afterwards.
func TestNesting(t *testing.T) {
	cfg := config()
	cfg.MaxBytes = 64 << 10
	cfg.MaxTables = 1000
	g := open(t, cfg)
	for name, f := range nested {
		passed, tries := 0, []int{100, 300, 900, 3000}
		for n := 1; n < 60; n++ {
			tries = append(tries, n)
		}
		for _, n := range tries {
			_, err := g.Check(t.Context(), tenant, f(n))
			switch code := atlas.CodeOf(err); {
			case err == nil:
				passed = max(passed, n)
			case code != atlas.CodeTooLarge:
				t.Errorf("%d %s: %v", n, name, err)
			}
			const plain = "SELECT orders.id AS id FROM public.orders orders LIMIT %d"
			after := fmt.Sprintf(plain, n)
			if v, err := g.Check(t.Context(), tenant, after); err != nil || v.SQL != after {
				t.Fatalf("after %d %s: %q, %v", n, name, v.SQL, err)
			}
		}
		if passed < 10 {
			t.Errorf("%s: only %d levels pass", name, passed)
		}
	}
}

// What is too large in another way is refused, too.
func TestLarge(t *testing.T) {
	cfg := config()
	cfg.MaxBytes = 64 << 10
	g := open(t, cfg)
	for name, sql := range map[string]string{
		"cross":    "SELECT 1 FROM orders a0" + strings.Repeat(", orders", 60),
		"comments": strings.Repeat("/*", 30_000) + strings.Repeat("*/", 2),
		"quotes":   "SELECT " + strings.Repeat(`'`, 60_001),
		"long":     "SELECT '" + strings.Repeat("x", 64<<10) + "'",
		"list":     "SELECT 1 IN (1" + strings.Repeat(",1", 3000) + ")",
		"columns":  "SELECT 1" + strings.Repeat(",1", 600),
		"stars":    "SELECT *" + strings.Repeat(",*", 400) + " FROM orders",
	} {
		_, err := g.Check(t.Context(), tenant, sql)
		if code := atlas.CodeOf(err); code != atlas.CodeTooLarge && code != atlas.CodeInvalidQuery {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := g.Check(t.Context(), tenant, "SELECT id FROM orders -- after "+name); err != nil {
			t.Fatalf("after %s: %v", name, err)
		}
	}
	// What is long and flat is fine.
	if _, err := g.Check(t.Context(), tenant, "SELECT id FROM orders WHERE id IN ('o_1'"+strings.Repeat(",'o_1'", 1500)+")"); err != nil {
		t.Errorf("a long list: %v", err)
	}
	if _, err := g.Check(t.Context(), tenant, "SELECT id FROM orders WHERE id = 'o_1'"+strings.Repeat(" OR id = 'o_1' AND total_cents > 1", 100)); err != nil {
		t.Errorf("a long condition: %v", err)
	}
}
