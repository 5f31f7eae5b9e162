package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
	"github.com/atlas-mcp/atlas/internal/source/postgres"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// Two walls stand round an agent's SQL, and each attack says what each does with it.
//
//   - guard: the code with which the source refuses it; "" if it may run, and shows nothing.
//   - database: the SQLSTATE with which the database alone refuses it, when the text goes to the
//     server as it is, as the role that Atlas logs in as, behind the settings that Atlas sends; "" if
//     it runs there and shows nothing of another tenant's: the role and row-level security hold it.
//     Several stand with "|" between them where it depends on the version, or on how busy the server is.
//
// "{s}" is the schema. The seed's numbers are those of the attacks that worked on the program that
// Atlas is modelled on.
type attack struct {
	name, sql string
	guard     atlas.Code
	database  string
}

const (
	refused  = atlas.CodeInvalidQuery
	denied   = "42501" // insufficient_privilege
	readOnly = "25006" // read_only_sql_transaction
	syntax   = "42601" // also: more than one command in one message
	inBlock  = "25001" // active_sql_transaction
	absent   = "42P01" // undefined_table
	noFunc   = "42883" // undefined_function
	noColumn = "42703" // undefined_column
	stopped  = "57014" // query_canceled: the statement's time is over
)

var attacks = []attack{
	// The seed's.
	{"seed 9: a parameter in SET", `SET LOCAL app.tenant_id = $1`, refused, syntax},
	{"seed 9: SET", `SET LOCAL app.tenant_id = 'globex'`, refused, ""},
	{"seed 10: all rows, by name", `SELECT id, name FROM {s}.customers`, "", ""},
	{"seed 10: all rows", `SELECT * FROM {s}.customers`, "", denied},
	{"seed 11: set_config in a CTE", `WITH s AS MATERIALIZED (SELECT set_config('app.tenant_id', 'globex', true) AS t) SELECT c.* FROM s, {s}.customers c WHERE s.t IS NOT NULL`, refused, denied},
	{"seed 11: query_to_xml of set_config", `SELECT query_to_xml('SELECT set_config(''app.tenant_id'', ''globex'', true)', true, true, ''), (SELECT string_agg(name, ',') FROM {s}.customers)`, refused, denied},
	{"seed 11: query_to_xml of set local", `SELECT query_to_xml('set local app.tenant_id = ''globex''', true, true, '')`, refused, denied},
	{"seed 11: pg_settings", `UPDATE pg_settings SET setting = 'globex' WHERE name = 'app.tenant_id'`, refused, readOnly},
	{"seed 11b: DELETE and a line break in a CTE", "with x as (\ndelete\nfrom {s}.orders returning id) select * from x", refused, readOnly},
	{"seed 11b: SELECT INTO", `SELECT * INTO stolen FROM {s}.customers`, refused, readOnly},
	{"seed 11b: a comment at the end", `SELECT id FROM {s}.orders --`, "", ""},
	{"seed 11b: a harmless literal", `SELECT id FROM {s}.orders WHERE status LIKE '% update %'`, "", ""},
	{"seed 11b: pg_sleep", `SELECT pg_sleep(30)`, refused, stopped},
	{"seed 11b: pg_read_file", `SELECT pg_read_file('/etc/passwd')`, refused, denied},

	// set_config in disguise.
	{"qualified", `SELECT pg_catalog.set_config('app.tenant_id', 'globex', true), (SELECT string_agg(name, ',') FROM {s}.customers)`, refused, denied},
	{"capitals", `SELECT SeT_CoNfIg('app.tenant_id', 'globex', true)`, refused, denied},
	{"in quotes", `SELECT "set_config"('app.tenant_id', 'globex', true)`, refused, denied},
	{"by unicode", `SELECT U&"set\005fconfig"('app.tenant_id', 'globex', true)`, refused, denied},
	{"by unicode with an escape of its own", `SELECT U&"set!005f!+000063onfig" UESCAPE '!' ('app.tenant_id', 'globex', true)`, refused, denied},
	{"behind a comment", "SELECT set_config/* ( */('app.tenant_id', 'globex', true)", refused, denied},
	{"behind nested comments", "SELECT /* /* */ '*/ set_config", refused, noColumn},
	{"after nested comments", "/* /* */ */ SELECT set_config --x\n ('app.tenant_id', 'globex', true)", refused, denied},
	{"with E strings", `SELECT set_config(E'app\x2etenant_id', E'glob\x65x', true)`, refused, denied},
	{"with dollar quotes", `SELECT set_config($q$app.tenant_id$q$, $$globex$$, true)`, refused, denied},
	{"named arguments", `SELECT set_config(setting_name => 'app.tenant_id', new_value => 'globex', is_local => true)`, refused, noFunc},
	{"VARIADIC", `SELECT set_config('app.tenant_id', VARIADIC ARRAY['globex'], true)`, refused, syntax},
	{"in FROM", `SELECT c.* FROM set_config('app.tenant_id', 'globex', true), {s}.customers c`, refused, denied},
	{"in ROWS FROM", `SELECT * FROM ROWS FROM (set_config('app.tenant_id', 'globex', true)) AS x, {s}.customers`, refused, denied},
	{"lateral", `SELECT c.* FROM (SELECT 'globex' AS t) g CROSS JOIN LATERAL set_config('app.tenant_id', g.t, true) x, LATERAL (SELECT * FROM {s}.customers) c`, refused, denied},
	{"in ORDER BY", `SELECT name FROM {s}.customers ORDER BY set_config('app.tenant_id', 'globex', true)`, refused, denied},
	{"in LIMIT", `SELECT name FROM {s}.customers LIMIT length(set_config('app.tenant_id', 'globex', true))`, refused, denied},
	{"in a default of lag", `SELECT lag(name, 1, set_config('app.tenant_id', 'globex', true)) OVER () FROM {s}.customers`, refused, denied},
	{"in FILTER", `SELECT count(*) FILTER (WHERE set_config('app.tenant_id', 'globex', true) = 'globex') FROM {s}.customers`, refused, denied},
	{"in a CASE that never happens", `SELECT CASE WHEN false THEN set_config('app.tenant_id', 'globex', true) END`, refused, ""},
	{"in an EXISTS", `SELECT name FROM {s}.customers WHERE EXISTS (SELECT set_config('app.tenant_id', 'globex', true)) AND EXISTS (SELECT 1 FROM (SELECT set_config('app.tenant_id', 'globex', true) OFFSET 0) x WHERE x IS NOT NULL)`, refused, denied},
	{"another setting: row_security", `SELECT set_config('row_security', 'off', true)`, refused, denied},
	{"another setting: the transaction's", `SELECT set_config('transaction_read_only', 'off', true)`, refused, denied},
	{"another setting: session_authorization", `SELECT set_config('session_authorization', 'postgres', true)`, refused, denied},
	{"another setting: search_path", `SELECT set_config('search_path', 'pg_temp', false)`, refused, denied},

	// SQL in texts, and SQL elsewhere.
	{"table_to_xml", `SELECT table_to_xml('{s}.customers', true, true, '')`, refused, denied},
	{"cursor_to_xml", `SELECT cursor_to_xml('c', 10, true, true, '')`, refused, denied},
	{"schema_to_xml", `SELECT schema_to_xml('{s}', true, true, '')`, refused, denied},
	{"database_to_xml", `SELECT database_to_xml(true, true, '')`, refused, denied},
	{"ts_stat", `SELECT * FROM ts_stat('SELECT to_tsvector(secret) FROM {s}.vault')`, refused, denied},
	{"ts_rewrite", `SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, to_tsquery(secret) FROM {s}.vault')`, refused, denied},
	{"dblink", `SELECT * FROM dblink('dbname=postgres', 'SELECT secret FROM {s}.vault') AS t(a text)`, refused, noFunc},
	{"DO", `DO $$ BEGIN SET LOCAL app.tenant_id = 'globex'; END $$`, refused, ""},
	{"PREPARE", `PREPARE x AS SELECT set_config('app.tenant_id', 'globex', true)`, refused, ""},
	{"EXECUTE", `EXECUTE x`, refused, "26000"},
	{"DECLARE", `DECLARE c CURSOR WITH HOLD FOR SELECT id, name FROM {s}.customers`, refused, ""},
	{"CREATE FUNCTION", `CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS 'SELECT set_config(''app.tenant_id'', ''globex'', true)'`, refused, readOnly},
	{"EXPLAIN", `EXPLAIN (VERBOSE) SELECT id FROM {s}.customers`, refused, ""},
	{"EXPLAIN ANALYZE", `EXPLAIN ANALYZE DELETE FROM {s}.orders`, refused, readOnly},

	// Several statements.
	{"a second statement", `SELECT 1; SET app.tenant_id = 'globex'`, refused, syntax},
	{"out of the parentheses", `SELECT 1) AS x; SET LOCAL app.tenant_id = 'globex'; SELECT * FROM (SELECT name FROM {s}.customers`, refused, syntax},
	{"out of the parentheses, unioned", `SELECT id FROM {s}.orders) AS x UNION ALL SELECT secret FROM ({s}.vault`, refused, syntax},
	{"COMMIT", `COMMIT; DELETE FROM {s}.orders`, refused, syntax},
	{"ROLLBACK", `ROLLBACK`, refused, ""},
	{"BEGIN", `BEGIN READ WRITE`, refused, ""},

	// Roles and settings.
	{"SET ROLE", `SET ROLE postgres`, refused, denied},
	{"SET SESSION AUTHORIZATION", `SET SESSION AUTHORIZATION postgres`, refused, denied},
	{"RESET ROLE", `RESET ROLE`, refused, ""},
	{"RESET", `RESET app.tenant_id`, refused, ""},
	{"SET read write", `SET TRANSACTION READ WRITE`, refused, ""},
	{"SET row_security", `SET LOCAL row_security = off`, refused, ""},
	{"DISCARD", `DISCARD ALL`, refused, inBlock},
	{"ALTER ROLE", `ALTER ROLE CURRENT_USER SET app.tenant_id = 'globex'`, refused, readOnly},
	{"current_setting", `SELECT current_setting('app.tenant_id'), current_setting('data_directory', true)`, refused, denied},
	{"SHOW", `SHOW app.tenant_id`, refused, ""},

	// Files, the server, other sessions.
	{"pg_ls_dir", `SELECT pg_ls_dir('.')`, refused, denied},
	{"pg_stat_file", `SELECT pg_stat_file('PG_VERSION')`, refused, denied},
	{"pg_current_logfile", `SELECT pg_current_logfile()`, refused, denied},
	{"lo_import", `SELECT lo_import('/etc/passwd')`, refused, denied},
	{"lo_export", `SELECT lo_export(1, '/tmp/x')`, refused, denied},
	{"lo_from_bytea", `SELECT lo_from_bytea(0, 'mailbox between tenants')`, refused, denied},
	{"lo_get", `SELECT lo_get(1)`, refused, denied},
	{"COPY TO a file", `COPY {s}.customers TO '/tmp/x'`, refused, denied},
	{"COPY TO a program", `COPY (SELECT 1) TO PROGRAM 'id'`, refused, denied},
	{"COPY FROM", `COPY {s}.customers FROM '/etc/passwd'`, refused, denied},
	{"pg_stat_activity", `SELECT query FROM pg_stat_activity`, refused, denied},
	{"pg_stat_statements", `SELECT query FROM pg_stat_statements`, refused, absent},
	{"pg_stats", `SELECT most_common_vals FROM pg_stats WHERE schemaname = '{s}'`, refused, ""},
	{"pg_statistic", `SELECT stavalues1 FROM pg_statistic`, refused, denied},
	{"pg_authid", `SELECT rolpassword FROM pg_authid`, refused, denied},
	{"pg_terminate_backend", `SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL) AS a`, refused, denied},
	{"advisory locks", `SELECT pg_advisory_lock(1)`, refused, denied},
	{"NOTIFY", `NOTIFY x, 'to another tenant'`, refused, ""},
	{"pg_notify", `SELECT pg_notify('x', 'to another tenant')`, refused, denied},
	{"LISTEN", `LISTEN x`, refused, ""},
	{"nextval", `SELECT nextval('{s}.shared')`, refused, denied},
	{"pg_logical_emit_message", `SELECT pg_logical_emit_message(false, 'a', 'b')`, refused, ""},

	// Names, types, the catalog.
	{"cast to regclass", `SELECT '{s}.vault'::regclass, 'pg_authid'::regclass::oid`, refused, ""},
	{"cast to regproc", `SELECT 'pg_catalog.pg_read_file'::regprocedure`, refused, "22P02"},
	{"to_regclass", `SELECT to_regclass('{s}.vault')`, refused, ""},
	{"pg_class", `SELECT relname, reltuples FROM pg_catalog.pg_class`, refused, ""},
	{"information_schema", `SELECT * FROM information_schema.columns`, refused, ""},
	{"pg_get_viewdef", `SELECT pg_get_viewdef('pg_stat_activity')`, refused, ""},
	{"another tenant's table", `SELECT secret FROM {s}.vault`, refused, denied},
	{"a table hidden by a CTE's name", `WITH a AS (SELECT * FROM vault), vault AS (SELECT 1) SELECT * FROM a`, refused, denied},
	{"a hidden column", `SELECT ssn FROM {s}.customers`, refused, denied},
	{"a hidden column by USING", `SELECT x.ssn FROM {s}.customers JOIN (SELECT 'ssn-belongstoacme' AS ssn) x USING (ssn)`, refused, denied},
	{"a hidden column by a whole row", `SELECT to_jsonb(c) FROM {s}.customers c`, refused, denied},
	{"a hidden column by position", `SELECT g FROM {s}.customers AS c(a, b, d, e, f, g)`, refused, denied},
	{"a hidden column of an outer query", `SELECT (SELECT c.ssn) FROM {s}.customers c`, refused, denied},
	{"system columns", `SELECT ctid, xmin, tableoid::regclass FROM {s}.customers`, refused, denied},
	{"a function of another schema", `SELECT evil.steal('globex')`, refused, denied},
	{"an overload on the path", `SELECT lower(ARRAY['a'])`, refused, noFunc},
	{"an operator of another schema", `SELECT name OPERATOR(evil.===) 'x' FROM {s}.customers`, refused, denied},
	{"OPERATOR of pg_catalog", `SELECT name FROM {s}.customers WHERE id OPERATOR(pg_catalog.=) 'CUST-only-globex'`, "", ""},
	{"functional notation", `SELECT ('app.tenant_id'::text).current_setting`, refused, ""},
	{"temporary tables", `CREATE TEMP TABLE customers AS SELECT 1 AS id`, refused, readOnly},
	{"temporary views", `CREATE TEMP VIEW orders AS SELECT * FROM {s}.vault`, refused, readOnly},

	// Errors and estimates that tell.
	{"division by another tenant's row", `SELECT 1 / (CASE WHEN name LIKE '%globex%' THEN 0 ELSE 1 END) FROM {s}.customers`, "", ""},
	{"cast of another tenant's value", `SELECT CAST(status AS int) FROM {s}.orders WHERE status LIKE '%globex%'`, "", ""},
	{"cast of a value, in the error", `SELECT CAST(status AS int) FROM {s}.orders`, atlas.CodeInvalidArguments, "22P02"},
	{"a function before the policy", `SELECT id FROM {s}.customers WHERE 1 / length(replace(name, 'belongstoglobex', '')) > 0 AND CAST(substr(name, 1, 1) AS int) IS NULL AND name LIKE '%globex%'`, "", ""},
	{"a regular expression before the policy", `SELECT id FROM {s}.customers WHERE name ~ 'globex' OR name ~ '(((((a*)*)*)*)*)*b$'`, "", ""},
	{"a range before the policy", `SELECT id FROM {s}.orders WHERE int4range(CASE WHEN status LIKE '%globex' THEN 2 ELSE 1 END, 1) IS NULL`, "", ""},
	{"json before the policy", `SELECT id FROM {s}.orders WHERE CASE WHEN status LIKE '%globex%' THEN CAST(status AS jsonb) END IS NOT NULL`, "", ""},
	{"row estimates", `EXPLAIN SELECT id FROM {s}.customers WHERE tenant_id = 'globex'`, refused, ""},
	{"the tenant's column", `SELECT tenant_id FROM {s}.customers`, refused, ""},
	{"the other tenant by its column", `SELECT name FROM {s}.customers WHERE tenant_id = 'globex' OR 1 = 1`, refused, ""},
	{"unique probing", `INSERT INTO {s}.customers (tenant_id, id) VALUES ('globex', 'CUST-only-globex') ON CONFLICT DO NOTHING`, refused, readOnly},
	{"foreign rows by id", `SELECT id, name FROM {s}.customers WHERE id = 'CUST-only-globex'`, "", ""},
	{"all rows by OR", `SELECT name FROM {s}.customers WHERE id = '' OR true`, "", ""},
	{"all rows by UNION", `SELECT name FROM {s}.customers WHERE false UNION ALL SELECT status FROM {s}.orders`, "", ""},
	{"all rows by an aggregate", `SELECT count(*), string_agg(name, ',') FROM {s}.customers`, "", ""},
	{"sampling", `SELECT name FROM {s}.customers TABLESAMPLE BERNOULLI (100)`, refused, ""},
	{"locking", `SELECT id FROM {s}.orders FOR UPDATE`, refused, readOnly},
	{"LOCK", `LOCK TABLE {s}.orders IN ACCESS EXCLUSIVE MODE`, refused, "25P01|42501"}, // what is looked at first depends on the version
	{"UPDATE", `UPDATE {s}.orders SET status = 'x'`, refused, readOnly},
	{"DELETE", `DELETE FROM {s}.orders`, refused, readOnly},
	{"TRUNCATE", `TRUNCATE {s}.orders`, refused, readOnly},
	{"DROP", `DROP TABLE {s}.orders`, refused, readOnly},
	{"the policy", `DROP POLICY tenant ON {s}.customers`, refused, readOnly},
	{"RLS off", `ALTER TABLE {s}.customers DISABLE ROW LEVEL SECURITY`, refused, readOnly},
	{"GRANT", `GRANT SELECT ON {s}.vault TO PUBLIC`, refused, readOnly},

	// Large and long.
	{"an inner LIMIT", `SELECT a.id FROM {s}.orders a, {s}.orders b, {s}.orders c LIMIT 1000000`, "", ""},
	{"FETCH ALL", `SELECT a.id FROM {s}.orders a, {s}.orders b FETCH FIRST 1000000 ROWS ONLY`, "", ""},
	{"generate_series", `SELECT generate_series(1, 1000000000)`, "", stopped},
	{"a counted series", `SELECT count(*) FROM generate_series(1, 100000000000)`, atlas.CodeTimeout, stopped},
	{"repeat", `SELECT repeat('x', 5000000)`, refused, ""},
	{"padding", `SELECT lpad('x', 5000000)`, refused, ""},
	{"format", `SELECT format('%5000000s', 'x')`, refused, ""},
	{"doubling", `WITH a AS (SELECT string_agg(status, '') AS x FROM {s}.orders), b AS (SELECT x||x||x||x||x||x||x||x AS x FROM a), c AS (SELECT x||x||x||x||x||x||x||x AS x FROM b), d AS (SELECT x||x||x||x||x||x||x||x AS x FROM c), e AS (SELECT x||x||x||x||x||x||x||x AS x FROM d), f AS (SELECT x||x||x||x AS x FROM e) SELECT x FROM f`, atlas.CodeTooLarge, "|57014"},
	{"recursion", `WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r`, refused, stopped},
	{"a cross join", `SELECT count(*) FROM {s}.orders a, {s}.orders b, {s}.orders c, {s}.orders d, {s}.orders e, {s}.orders f, {s}.orders g`, atlas.CodeTimeout, stopped},
	{"xml", `SELECT xmlparse(document '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>')`, refused, ""},
	{"SQL/JSON", `SELECT * FROM json_table('{}', '$' COLUMNS (a text PATH '$.a'))`, refused, syntax + "|"}, // known from Postgres 17 on, and harmless
}

// prepared is what the attacks may hope for: things in the database that an operator might well
// have there.
func prepared(t *testing.T) (*postgres.DB, *pgrlstest.Database, string) {
	t.Helper()
	d := pgrlstest.New(t)
	c := config(d, false)
	c.Timeout = 2 * time.Second
	c.MaxRows = 50
	src := loaded(t, c, sourcetest.Company())
	d.Own(
		`CREATE SCHEMA evil`,
		`CREATE FUNCTION evil.steal(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT ''vault-secret-41''::text'`,
		`CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'`,
		`CREATE OPERATOR evil.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same)`,
		`CREATE SEQUENCE `+c.Schema+`.shared`,
		`ANALYZE`,
	)
	return src, d, c.Schema
}

// others are in what other tenants or nobody may see.
var others = []string{"belongstoglobex", "only-globex", sourcetest.Vault, "ssn-belongs", "root:x:", "mailbox"}

// insides tell of the server; they are in no answer of the source.
var insides = []string{"atlas_app", "atlas_owner", "atlas_test_", "PostgreSQL 1", "SQLSTATE", "pg_catalog", "/var/lib", "evil"}

func found(text string, words []string) string {
	for _, w := range words {
		if strings.Contains(text, w) {
			return w
		}
	}
	return ""
}

// Through the source, no attack shows anything, in its answer or in its failure.
func TestAttacks(t *testing.T) {
	src, _, schema := prepared(t)
	for _, a := range attacks {
		sql := strings.ReplaceAll(a.sql, "{s}", schema)
		rows, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: sql, Agent: true})
		if got := atlas.CodeOf(err); got != a.guard {
			t.Errorf("%s: got %q (%v), want %q", a.name, got, err, a.guard)
		}
		if len(rows.Rows) > 50 {
			t.Errorf("%s: %d rows, at most 50 may be", a.name, len(rows.Rows))
		}
		answer := fmt.Sprint(rows)
		if w := found(answer, others); w != "" {
			t.Errorf("%s: the answer shows %s: %.300s", a.name, w, answer)
		}
		if w := found(answer, insides); w != "" {
			t.Errorf("%s: the answer tells of the server, %s: %.300s", a.name, w, answer)
		}
		if err != nil {
			failure, jerr := json.Marshal(atlas.ErrorOf(err).Failure(""))
			if jerr != nil {
				t.Fatal(jerr)
			}
			// What the attack itself says, the failure may repeat.
			said := strings.ToLower(a.sql)
			for _, w := range append(others, insides...) {
				if strings.Contains(string(failure), w) && !strings.Contains(said, strings.ToLower(w)) {
					t.Errorf("%s: the failure shows %s: %s", a.name, w, failure)
				}
			}
		}
		// Nothing outlives the statement.
		rows, err = src.Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT count(*), min(name) FROM customers WHERE name LIKE '%acme%'`, Agent: true})
		if err != nil || len(rows.Rows) != 1 || rows.Rows[0][0] != int64(2) {
			t.Fatalf("after %s: %v, %v", a.name, rows, err)
		}
	}
	if len(attacks) < 110 {
		t.Errorf("only %d attacks", len(attacks))
	}
}

// raw sends an attack as it is, as the role of Atlas, behind what Atlas sends before an agent's
// statement, and returns all that came back.
func raw(ctx context.Context, conn *pgx.Conn, schema, sql string) (answer, state string) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var b pgconn.Batch
	for _, s := range []string{
		"SET transaction_read_only = on", "SET LOCAL app.tenant_id = 'acme'", "SET LOCAL statement_timeout = 500",
		"SET LOCAL search_path = " + schema, "SET LOCAL work_mem = '16MB'",
	} {
		b.ExecParams(s, nil, nil, nil, nil)
	}
	b.ExecParams(strings.ReplaceAll(sql, "{s}", schema), nil, nil, nil, nil)
	// What the attack has set would hold for what comes after it in the same transaction.
	var text strings.Builder
	mrr := conn.PgConn().ExecBatch(ctx, &b)
	for mrr.NextResult() {
		rr := mrr.ResultReader()
		for n := 0; rr.NextRow(); n++ {
			for _, v := range rr.Values() {
				if n < 1000 {
					fmt.Fprintf(&text, "%.10000s|", v)
				}
			}
		}
		_, _ = rr.Close()
	}
	err := mrr.Close()
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		fmt.Fprintf(&text, "%s %s %s %s", e.Message, e.Detail, e.Hint, e.Where)
		return text.String(), e.Code
	}
	if err != nil {
		return text.String() + err.Error(), "lost"
	}
	return text.String(), ""
}

// The database alone stops every attack that could show another tenant's row: the guard is off, the
// text goes to the server as it is.
func TestDatabaseAloneHolds(t *testing.T) {
	_, d, schema := prepared(t)
	connect := func(role string) *pgx.Conn {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), d.DSN(role))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for _, a := range attacks {
		conn := connect(d.App)
		answer, state := raw(t.Context(), conn, schema, a.sql)
		if !slices.Contains(strings.Split(a.database, "|"), state) {
			t.Errorf("%s: got %q, want %q: %.200s", a.name, state, a.database, answer)
		}
		if w := found(answer, others); w != "" && !strings.Contains(a.sql, w) {
			t.Errorf("%s: shows %s: %.300s", a.name, w, answer)
		}
		// What runs next on the connection, for another tenant or for none, is not changed by it.
		if after, state := raw(t.Context(), conn, schema, `SELECT count(*), min(name), current_setting('transaction_read_only') FROM customers`); state != "" || after != "2|Own belongstoacme|on|" {
			t.Errorf("after %s: %q %s", a.name, after, state)
		}
		if conn.PgConn().TxStatus() != 'I' { // a pool closes it
			_ = conn.Close(t.Context())
			continue
		}
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM "+schema+".customers").Scan(&n); err != nil || n != 0 {
			t.Errorf("after %s, without a tenant: %d rows, %v", a.name, n, err)
		}
		_ = conn.Close(t.Context())
	}
	if got := d.Ask("SELECT count(*)::text FROM " + schema + ".orders"); got != "60" {
		t.Errorf("%s orders are left", got)
	}
	if got := d.Ask("SELECT count(*)::text FROM pg_largeobject_metadata"); got != "0" {
		t.Errorf("%s large objects were made", got)
	}
}

// The test above can fail: with the walls taken away one after the other, the seed's attacks show
// another tenant's rows, and the source refuses agents' SQL while the database would let it.
func TestAttacksWorkWithoutTheWalls(t *testing.T) {
	src, d, schema := prepared(t)
	const forged = `WITH s AS MATERIALIZED (SELECT set_config('app.tenant_id', 'globex', true) AS t) SELECT c.name FROM s, {s}.customers c WHERE s.t IS NOT NULL`
	app, err := pgx.Connect(t.Context(), d.DSN(d.App))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = app.Close(context.WithoutCancel(t.Context())) }()
	if answer, _ := raw(t.Context(), app, schema, forged); found(answer, others) != "" {
		t.Fatalf("it shows another tenant's rows with all walls up: %s", answer)
	}
	d.Admin(`GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO ` + d.App)
	if answer, _ := raw(t.Context(), app, schema, forged); found(answer, others) == "" {
		t.Errorf("seed 11 shows nothing although set_config may be called: %q", answer)
	}
	if _, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: strings.ReplaceAll(forged, "{s}", schema), Agent: true}); atlas.CodeOf(err) != refused {
		t.Errorf("the guard alone: %v", err)
	}
	_ = src.Ping(t.Context()) // it looks at the database again
	if _, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT id FROM orders`, Agent: true}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("agents' SQL runs although set_config may be called: %v", err)
	}
	if _, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT id FROM orders`}); err != nil {
		t.Errorf("the operator's does not: %v", err)
	}
	d.Admin(`REVOKE EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) FROM ` + d.App)

	// Seed 10: the owner, without FORCE.
	owner, err := pgx.Connect(t.Context(), d.DSN(d.Owner))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = owner.Close(context.WithoutCancel(t.Context())) }()
	const all = `SELECT name FROM {s}.customers`
	if answer, _ := raw(t.Context(), owner, schema, all); found(answer, others) != "" {
		t.Errorf("the owner sees another tenant's rows under FORCE: %s", answer)
	}
	d.Own(`ALTER TABLE ` + schema + `.customers NO FORCE ROW LEVEL SECURITY`)
	if answer, _ := raw(t.Context(), owner, schema, all); found(answer, others) == "" {
		t.Errorf("seed 10 shows nothing without FORCE: %q", answer)
	}
	if err := src.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "FORCE ROW LEVEL SECURITY") {
		t.Errorf("the source goes on without FORCE: %v", err)
	}
	if _, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT id FROM orders`, Agent: true}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("agents' SQL runs without FORCE: %v", err)
	}
}
