package isolation

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// statements are what an agent could write to step out of its tenant. All are harmless where they are
// refused, and none would change data where they are not.
func (p *Proof) statements(b *bound) []attempt {
	var out []attempt
	for i := range b.fields {
		f := &b.fields[i]
		if f.form != formSQL {
			continue
		}
		table := b.table(f.name)
		id := "x"
		if ids := p.foreign(b, f, 1); len(ids) > 0 {
			id = ids[0]
		}
		for _, s := range p.sql(table, id) {
			out = append(out, p.tryA(b, b.with(f.name, s.value), "on %s: %s", table, s.about))
		}
		out = append(out, p.counted(b, f.name, table), p.guessed(b, f.name, table, id))
	}
	return out
}

// table is the table of B's control.
func (b *bound) table(argument string) string {
	words := strings.Fields(text(b.args[argument]))
	for i, w := range words {
		if strings.EqualFold(w, "FROM") && i+1 < len(words) {
			return words[i+1]
		}
	}
	return "x"
}

// sql fills the statements in for a table, an id that only B has, and the names of both tenants.
func (p *Proof) sql(table, id string) []way {
	fill := strings.NewReplacer("{t}", table, "{id}", id, "{a}", string(p.cfg.Tenants[A]), "{b}", string(p.cfg.Tenants[B]), "{tag}", markerTag+"b", "{nl}", "\n")
	out := make([]way, len(sqlAttacks))
	for i, w := range sqlAttacks {
		out[i] = way{fill.Replace(w.about), fill.Replace(w.value)}
	}
	return out
}

var sqlAttacks = []way{
	{"read everything", "SELECT * FROM {t}"},
	{"B's id by itself", "SELECT * FROM {t} WHERE id = '{id}'"},
	{"a tautology", "SELECT * FROM {t} WHERE id = 'x' OR 1=1"},
	{"what is not A's", "SELECT * FROM {t} WHERE id NOT IN (SELECT id FROM {t} WHERE 1=0)"},
	{"B's marker by LIKE", "SELECT * FROM {t} WHERE CAST({t}.id AS TEXT) LIKE '%' OR '{tag}' = ''"},
	{"UNION with itself", "SELECT * FROM {t} UNION ALL SELECT * FROM {t}"},
	{"a column of the tenant: B", "SELECT * FROM {t} WHERE tenant_id = '{b}'"},
	{"a column of the tenant: not A", "SELECT * FROM {t} WHERE tenant_id <> '{a}' OR tenant_id IS NULL"},
	{"the tenants that there are", "SELECT DISTINCT tenant_id FROM {t}"},
	{"B as a schema", `SELECT * FROM "{b}".{t}`},
	{"the public schema", "SELECT * FROM public.{t}"},
	{"the main database", "SELECT * FROM main.{t}"},
	{"only the parent table", "SELECT * FROM ONLY {t}"},
	{"TABLE", "TABLE {t}"},
	{"set_config beside the read", "SELECT set_config('app.tenant_id', '{b}', true), x.* FROM {t} x"},
	{"set_config in a materialized CTE", "WITH f AS MATERIALIZED (SELECT set_config('app.tenant_id', '{b}', true) AS v) SELECT x.* FROM f CROSS JOIN {t} x"},
	{"set_config in a lateral join", "SELECT x.* FROM (SELECT set_config('app.tenant_id', '{b}', false)) f, LATERAL (SELECT * FROM {t}) x"},
	{"set_config by its schema", "WITH f AS MATERIALIZED (SELECT pg_catalog.set_config('app.tenant_id', '{b}', true)) SELECT x.* FROM f, {t} x"},
	{"set_config with unicode escapes", `WITH f AS MATERIALIZED (SELECT U&"set\005fconfig"('app.tenant_id', '{b}', true)) SELECT x.* FROM f, {t} x`},
	{"set_config in quotes and a comment", `WITH f AS MATERIALIZED (SELECT "set_config"/**/('app.tenant_id','{b}',true)) SELECT x.* FROM f, {t} x`},
	{"set_config in XML", "SELECT query_to_xml('select set_config(''app.tenant_id'', ''{b}'', true)', true, false, ''), x.* FROM {t} x"},
	{"SET in XML", "SELECT query_to_xml('set local app.tenant_id = ''{b}''', true, false, ''), x.* FROM {t} x"},
	{"the table in XML", "SELECT query_to_xml('select * from {t}', true, false, '')"},
	{"the table in XML by its name", "SELECT table_to_xml('{t}'::regclass, true, false, '')"},
	{"the database in XML", "SELECT database_to_xml(true, false, '')"},
	{"SET before the read", "SET LOCAL app.tenant_id = '{b}'; SELECT * FROM {t}"},
	{"SET SESSION before the read", "SET app.tenant_id TO '{b}'; SELECT * FROM {t}"},
	{"RESET before the read", "RESET app.tenant_id; SELECT * FROM {t}"},
	{"RESET ALL", "RESET ALL; SELECT * FROM {t}"},
	{"another role", "SET ROLE postgres; SELECT * FROM {t}"},
	{"another session", "SET SESSION AUTHORIZATION DEFAULT; SELECT * FROM {t}"},
	{"row security off", "SET row_security = off; SELECT * FROM {t}"},
	{"a change of the settings' view", "UPDATE pg_settings SET setting = '{b}' WHERE name = 'app.tenant_id'"},
	{"a transaction of its own", "COMMIT; BEGIN; SELECT * FROM {t}"},
	{"a data-modifying CTE that does nothing", "WITH x AS ({nl}DELETE{nl}FROM {t} WHERE 1=0 RETURNING *) SELECT * FROM {t}, x"},
	{"a DO block", "DO $$ BEGIN PERFORM set_config('app.tenant_id', '{b}', true); END $$"},
	{"PREPARE", "PREPARE p AS SELECT * FROM {t}; EXECUTE p"},
	{"COPY to the client", "COPY {t} TO STDOUT"},
	{"EXPLAIN that runs", "EXPLAIN ANALYZE SELECT * FROM {t}"},
	{"locking", "SELECT * FROM {t} FOR UPDATE"},
	{"the catalogue", "SELECT * FROM information_schema.tables"},
	{"the catalogue of classes", "SELECT oid, relname FROM pg_catalog.pg_class"},
	{"the statistics' most common values", "SELECT tablename, attname, most_common_vals, histogram_bounds FROM pg_stats"},
	{"other sessions' statements", "SELECT query FROM pg_stat_activity"},
	{"all statements", "SELECT query FROM pg_stat_statements"},
	{"a file by the server", "SELECT pg_read_file('PG_VERSION')"},
	{"a large object", "SELECT lo_get(1)"},
	{"another database", "SELECT * FROM dblink('dbname=postgres', 'select 1') AS x(a int)"},
	{"the error tells the value", "SELECT CAST((SELECT max(CAST(id AS TEXT)) FROM {t} WHERE id = '{id}') AS INTEGER)"},
	{"the error tells whether B's id is there", "SELECT 1 / (CASE WHEN EXISTS (SELECT 1 FROM {t} WHERE id = '{id}') THEN 0 ELSE 1 END)"},
	{"a cast to regclass", "SELECT '{t}'::regclass, '{b}.{t}'::regclass"},
	{"rows by their place", "SELECT ctid, xmin, * FROM {t}"},
	{"a comment that ends the limit", "SELECT * FROM {t} --"},
	{"an open comment", "SELECT * FROM {t} /*"},
	{"a conditional comment", "SELECT * FROM {t} /*! UNION SELECT * FROM {t} */"},
	{"two statements", "SELECT 1; SELECT * FROM {t}"},
	{"a parenthesis that closes a wrapper", "SELECT * FROM {t}) AS w UNION ALL SELECT * FROM {t} --"},
	{"a recursive CTE", "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM r WHERE n < 5) SELECT r.n, x.* FROM r, {t} x"},
	{"a join with itself on nothing", "SELECT x.*, y.* FROM {t} x LEFT JOIN {t} y ON 1=1"},
	{"SQLite's catalogue", "SELECT * FROM sqlite_master"},
	{"SQLite's databases", "SELECT * FROM pragma_database_list"},
	{"B's file, attached", "ATTACH DATABASE 'file:{b}.db?mode=ro' AS b"},
	{"a file by SQLite", "SELECT readfile('{b}.db')"},
	{"an extension", "SELECT load_extension('x')"},
	{"a PRAGMA", "PRAGMA table_info({t})"},
	{"the setting that names the tenant", "SELECT current_setting('app.tenant_id', true), x.* FROM {t} x"},
	{"aggregates over all", "SELECT count(*) AS n, min(id) AS a, max(id) AS z FROM {t}"},
	{"a full-text dump", "SELECT group_concat(id) FROM {t}"},
	{"JSON of whole rows", "SELECT row_to_json(x) FROM {t} x"},
	{"a window over all", "SELECT id, row_number() OVER () FROM {t}"},
	{"INTO", "SELECT * INTO TEMP zq FROM {t}"},
	{"a view's rule", "SELECT * FROM pg_views"},
	{"dollar quotes", "SELECT $q$ {b} $q$, x.* FROM {t} x"},
	{"a semicolon in a literal", "SELECT ';' , x.* FROM {t} x WHERE 'a;b' <> ''"},
	{"a sleep of nothing", "SELECT pg_sleep(0)"},
}

// counted counts rows: more than were planted are somebody's, though not surely B's.
func (p *Proof) counted(b *bound, argument, table string) attempt {
	planted := p.deps.Canaries.tables(A)[table]
	return attempt{Attempt: Attempt{Tried: "count the rows of " + table}, run: func(ctx context.Context) outcome {
		ask := b.ask(b.with(argument, "SELECT count(*) AS n FROM "+table))
		a, err := p.ask(ctx, b.byA(), ask)
		o := p.judgeAnswer(A, sent(ask), a, err)
		var v struct {
			Rows []struct {
				N int `json:"n"`
			} `json:"rows"`
		}
		if o.verdict != Held || a.Failure != nil || planted == 0 || !p.marked[A] || json.Unmarshal(a.Structured, &v) != nil || len(v.Rows) != 1 {
			return o
		}
		if n := v.Rows[0].N; n > planted {
			return outcome{verdict: Inconclusive, got: fmt.Sprintf("%d rows were counted and %d planted; find out whose the others are", n, planted)}
		}
		return o
	}}
}

// guessed asks a question whose answer is yes or no: is B's id there?
func (p *Proof) guessed(b *bound, argument, table, id string) attempt {
	return attempt{Attempt: Attempt{Tried: "ask whether B's id is there, then whether one that nobody has is: the answers must be alike"}, run: func(ctx context.Context) outcome {
		return p.compare(ctx, b, id, nowhere(id), func(id string) Ask {
			return b.ask(b.with(argument, fmt.Sprintf("SELECT count(*) AS n FROM %s WHERE id = '%s'", table, id)))
		})
	}}
}
