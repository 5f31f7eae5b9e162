package pgrls_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
)

// try opens a source and closes it again.
func try(t *testing.T, c pgrls.Connection, tables ...string) (pgrls.Report, error) {
	t.Helper()
	if len(tables) == 0 {
		tables = []string{"notes"}
	}
	db, err := pgrls.Open(t.Context(), c, pgrls.Options{Name: "test", Tables: tables, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return pgrls.Report{}, err
	}
	r := db.Report()
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	return r, nil
}

// A bad role or table is refused with the statements that mend it; run, they do.
func TestRefusals(t *testing.T) {
	const (
		open = `CREATE POLICY open ON notes USING (true)`
		// a-b, a_b and ab are the same to it, and all are ids of tenants.
		loose = `CREATE COLLATION loose (provider = icu, locale = 'und-u-ka-shifted', deterministic = false)`
	)
	for _, tc := range []struct {
		name    string
		spoil   func(d *pgrlstest.Database)
		app     func(d *pgrlstest.Database) string // who logs in; nil means d.App
		tables  []string
		remedy  []string // each is in the error; @APP and @OWNER stand for the roles
		before  string   // what must be run before it
		another []string // what must be run after it
	}{
		{
			name:   "superuser",
			spoil:  func(d *pgrlstest.Database) { d.Admin(`ALTER ROLE ` + d.App + ` SUPERUSER`) },
			remedy: []string{"ALTER ROLE @APP NOSUPERUSER"},
		}, {
			name:   "bypassrls",
			spoil:  func(d *pgrlstest.Database) { d.Admin(`ALTER ROLE ` + d.App + ` BYPASSRLS`) },
			remedy: []string{"ALTER ROLE @APP NOBYPASSRLS"},
		}, {
			name:   "createrole and replication",
			spoil:  func(d *pgrlstest.Database) { d.Admin(`ALTER ROLE ` + d.App + ` CREATEROLE REPLICATION`) },
			remedy: []string{"ALTER ROLE @APP NOCREATEROLE", "ALTER ROLE @APP NOREPLICATION"},
		}, {
			name:   "member of the owner",
			spoil:  func(d *pgrlstest.Database) { d.Admin(`GRANT ` + d.Owner + ` TO ` + d.App) },
			remedy: []string{"REVOKE @OWNER FROM @APP"},
		}, {
			name: "member of one with BYPASSRLS",
			spoil: func(d *pgrlstest.Database) {
				d.Admin(`ALTER ROLE `+d.Owner+` BYPASSRLS`, `CREATE TABLE x (a int)`, `GRANT `+d.Owner+` TO `+d.App, `ALTER TABLE notes OWNER TO CURRENT_USER`, `ALTER SCHEMA public OWNER TO CURRENT_USER`,
					`GRANT SELECT ON notes TO `+d.App, `GRANT USAGE ON SCHEMA public TO `+d.App)
			},
			remedy: []string{"REVOKE @OWNER FROM @APP"},
		}, {
			name:   "reads files",
			spoil:  func(d *pgrlstest.Database) { d.Admin(`GRANT pg_read_server_files TO ` + d.App) },
			remedy: []string{"REVOKE pg_read_server_files FROM @APP"},
		}, {
			name:   "owner",
			spoil:  func(*pgrlstest.Database) {},
			app:    func(d *pgrlstest.Database) string { return d.Owner },
			remedy: []string{"ALTER TABLE public.notes OWNER TO CURRENT_USER", "ALTER SCHEMA public OWNER TO CURRENT_USER"},
			another: []string{
				`GRANT USAGE ON SCHEMA public TO @OWNER`, `GRANT SELECT ON notes TO @OWNER`,
			},
		}, {
			name:   "default tenant",
			spoil:  func(d *pgrlstest.Database) { d.Admin(`ALTER ROLE ` + d.App + ` SET app.tenant_id = 'acme'`) },
			remedy: []string{"ALTER ROLE @APP RESET app.tenant_id"},
		}, {
			name:   "creates in the schema",
			spoil:  func(d *pgrlstest.Database) { d.Admin(`GRANT CREATE ON SCHEMA public TO ` + d.App) },
			remedy: []string{"REVOKE CREATE ON SCHEMA public FROM @APP"},
		}, {
			name:   "everybody creates in the schema",
			spoil:  func(d *pgrlstest.Database) { d.Admin(`GRANT CREATE ON SCHEMA public TO PUBLIC`) },
			remedy: []string{"REVOKE CREATE ON SCHEMA public FROM PUBLIC"},
		}, {
			name:   "may not use the schema",
			spoil:  func(d *pgrlstest.Database) { d.Admin(`REVOKE ALL ON SCHEMA public FROM PUBLIC, ` + d.App) },
			remedy: []string{"GRANT USAGE ON SCHEMA public TO @APP"},
		}, {
			name: "no row-level security",
			spoil: func(d *pgrlstest.Database) {
				d.Own(`ALTER TABLE notes DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY`)
			},
			remedy: []string{"ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY", "ALTER TABLE public.notes FORCE ROW LEVEL SECURITY"},
		}, {
			name:   "switched off",
			spoil:  func(d *pgrlstest.Database) { d.Own(`ALTER TABLE notes DISABLE ROW LEVEL SECURITY`) },
			remedy: []string{"ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY"},
		}, {
			name:   "not forced",
			spoil:  func(d *pgrlstest.Database) { d.Own(`ALTER TABLE notes NO FORCE ROW LEVEL SECURITY`) },
			remedy: []string{"ALTER TABLE public.notes FORCE ROW LEVEL SECURITY"},
		}, {
			name:   "no policy",
			spoil:  func(d *pgrlstest.Database) { d.Own(`DROP POLICY tenant ON notes`) },
			remedy: []string{"CREATE POLICY tenant ON public.notes USING (tenant_id = current_setting('app.tenant_id', true))"},
		}, {
			name: "a policy for others",
			spoil: func(d *pgrlstest.Database) {
				d.Own(`ALTER POLICY tenant ON notes TO `+d.Owner, `ALTER POLICY tenant ON notes RENAME TO "of Owner"`)
			},
			remedy: []string{"CREATE POLICY tenant ON public.notes USING (tenant_id = current_setting('app.tenant_id', true))"},
		}, {
			name: "a policy for another command",
			spoil: func(d *pgrlstest.Database) {
				d.Own(`DROP POLICY tenant ON notes`, `CREATE POLICY put ON notes FOR INSERT WITH CHECK (tenant_id = 'x')`)
			},
			remedy: []string{"CREATE POLICY tenant ON public.notes"},
		}, {
			name:   "a policy that is true",
			spoil:  func(d *pgrlstest.Database) { d.Own(open) },
			remedy: []string{"DROP POLICY open ON public.notes"},
		}, {
			name:   "a policy that no row decides",
			spoil:  func(d *pgrlstest.Database) { d.Own(`CREATE POLICY "Open" ON notes USING (1 + 1 = 2)`) },
			remedy: []string{`DROP POLICY "Open" ON public.notes`},
		}, {
			name:   "only a policy that is true",
			spoil:  func(d *pgrlstest.Database) { d.Own(`DROP POLICY tenant ON notes`, open) },
			remedy: []string{"DROP POLICY open ON public.notes", "CREATE POLICY tenant ON public.notes"},
		}, {
			name: "a policy that does not know the tenant",
			spoil: func(d *pgrlstest.Database) {
				d.Own(`DROP POLICY tenant ON notes`, `CREATE POLICY anyone ON notes USING (tenant_id IS NOT NULL)`)
			},
			remedy: []string{"CREATE POLICY tenant ON public.notes AS RESTRICTIVE USING (tenant_id = current_setting('app.tenant_id', true))"},
		}, {
			name: "tenants that are one by the column's collation",
			spoil: func(d *pgrlstest.Database) {
				d.Own(loose, `DROP POLICY tenant ON notes`, `ALTER TABLE notes ALTER COLUMN tenant_id TYPE text COLLATE loose`)
				d.Own(d.Connection(false).Secure("notes", d.App)...)
			},
			remedy: []string{`ALTER TABLE public.notes ALTER COLUMN tenant_id TYPE text COLLATE "C"`, "DROP POLICY tenant ON public.notes", "CREATE POLICY tenant ON public.notes"},
		}, {
			name: "tenants that are one by the policy's collation",
			spoil: func(d *pgrlstest.Database) {
				d.Own(loose, `ALTER POLICY tenant ON notes USING (tenant_id COLLATE loose = current_setting('app.tenant_id', true))`)
			},
			remedy: []string{"DROP POLICY tenant ON public.notes", "CREATE POLICY tenant ON public.notes USING (tenant_id = current_setting('app.tenant_id', true))"},
		}, {
			name:   "no right to read",
			spoil:  func(d *pgrlstest.Database) { d.Own(`REVOKE ALL ON notes FROM ` + d.App) },
			remedy: []string{"GRANT SELECT ON public.notes TO @APP"},
		}, {
			name: "a view with its owner's rights",
			spoil: func(d *pgrlstest.Database) {
				d.Own(`CREATE VIEW titles AS SELECT id FROM notes`, `GRANT SELECT ON titles TO `+d.App)
			},
			tables: []string{"notes", "titles"},
			remedy: []string{"ALTER VIEW public.titles SET (security_invoker = true)"},
		}, {
			name: "a table under a view",
			spoil: func(d *pgrlstest.Database) {
				d.Own(`CREATE TABLE plain (id text)`, `GRANT SELECT ON plain TO `+d.App,
					`CREATE VIEW pairs WITH (security_invoker = true) AS SELECT n.id FROM notes n JOIN plain p ON p.id = n.id`, `GRANT SELECT ON pairs TO `+d.App)
			},
			tables: []string{"pairs"},
			remedy: []string{"ALTER TABLE public.plain ENABLE ROW LEVEL SECURITY", "ALTER TABLE public.plain FORCE ROW LEVEL SECURITY"},
			before: `ALTER TABLE plain ADD COLUMN tenant_id text`,
		}, {
			name: "a part that can be read by itself",
			spoil: func(d *pgrlstest.Database) {
				d.Own(`CREATE TABLE parts (tenant_id text, id text) PARTITION BY LIST (id)`, `CREATE TABLE part1 PARTITION OF parts FOR VALUES IN ('1')`, `GRANT SELECT ON part1 TO `+d.App)
				d.Own(d.Connection(false).Secure("parts", d.App)...)
			},
			tables: []string{"parts"},
			remedy: []string{"ALTER TABLE public.part1 ENABLE ROW LEVEL SECURITY", "CREATE POLICY tenant ON public.part1"},
		}, {
			name: "many at once",
			spoil: func(d *pgrlstest.Database) {
				d.Admin(`ALTER ROLE ` + d.App + ` BYPASSRLS CREATEROLE`)
				d.Own(open, `ALTER TABLE notes NO FORCE ROW LEVEL SECURITY`)
			},
			remedy: []string{"ALTER ROLE @APP NOBYPASSRLS", "ALTER ROLE @APP NOCREATEROLE", "DROP POLICY open ON public.notes", "ALTER TABLE public.notes FORCE ROW LEVEL SECURITY"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := notes(t)
			tc.spoil(d)
			c := d.Connection(false)
			if tc.app != nil {
				c.DSN = d.DSN(tc.app(d))
			}
			roles := strings.NewReplacer("@APP", d.App, "@OWNER", d.Owner)
			_, err := try(t, c, tc.tables...)
			if e := atlas.ErrorOf(err); e == nil || e.Code != atlas.CodeSourceMisused || e.Hint != "" || e.Context != nil {
				t.Fatalf("got %v, want source_misconfigured and nothing for callers", err)
			}
			for _, r := range tc.remedy {
				if r = roles.Replace(r); !strings.Contains(err.Error(), r) {
					t.Errorf("%v\ndoes not tell %q", err, r)
				}
			}
			remedies := statements(err)
			if len(remedies) < len(tc.remedy) {
				t.Fatalf("found only %q", remedies)
			}
			if tc.before != "" {
				d.Admin(tc.before)
			}
			d.Admin(remedies...)
			for _, s := range tc.another {
				d.Admin(roles.Replace(s))
			}
			if _, err := try(t, c, tc.tables...); err != nil {
				t.Errorf("mended with %q, but %v", remedies, err)
			}
		})
	}
}

// statements returns the remedies in an error.
func statements(err error) []string {
	var out []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if _, run, ok := strings.Cut(line, "; run: "); ok {
			for s := range strings.SplitSeq(strings.TrimSuffix(run, ";"), "; ") {
				if !slices.Contains(out, s) {
					out = append(out, s)
				}
			}
		}
	}
	return out
}

// What cannot be mended by a statement is refused, too.
func TestNeverExposed(t *testing.T) {
	d := notes(t)
	d.Own(`CREATE MATERIALIZED VIEW all_notes AS SELECT * FROM notes`, `GRANT SELECT ON all_notes TO `+d.App)
	for table, want := range map[string]string{"all_notes": "materialized view public.all_notes", "nowhere": "table nowhere does not exist"} {
		if _, err := try(t, d.Connection(false), "notes", table); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", table, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	d := notes(t)
	d.Own(
		`CREATE TABLE tags (tenant_id text, id text PRIMARY KEY, note text UNIQUE, UNIQUE (tenant_id, id))`,
		`CREATE TABLE marks (tenant_id text, id text, tag text REFERENCES tags (note), PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, tag) REFERENCES tags (tenant_id, id))`,
		`GRANT INSERT ON tags TO `+d.App, `GRANT UPDATE ON marks TO PUBLIC`,
	)
	c := d.Connection(false)
	d.Own(c.Secure("tags", d.App)...)
	d.Own(c.Secure("marks", d.App)...)
	d.Own(`CREATE POLICY shared ON marks USING (id LIKE 'public%')`)
	r, err := try(t, c, "tags", "marks")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range r.Findings {
		what, _, _ := strings.Cut(f.What, ";")
		got = append(got, string(f.Level)+": "+strings.ReplaceAll(what, d.App, "APP"))
	}
	want := []string{
		"warn: one query may fill the server's disk with temporary files",
		"warn: policy shared of table public.marks does not read the setting app.tenant_id",
		"warn: foreign key marks_tag_fkey of table public.marks can refer to a row of another tenant",
		"warn: role APP has UPDATE on public.marks",
		"warn: unique index tags_pkey of table public.tags is across tenants: what one writes, another can notice, and ids of one exclude those of another",
		"warn: unique index tags_note_key of table public.tags is across tenants: what one writes, another can notice, and ids of one exclude those of another",
		"warn: role APP has INSERT on public.tags",
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// What stands against agents' SQL refuses nothing else; mended, it is gone.
func TestAgainstAgents(t *testing.T) {
	for name, spoil := range map[string]func(d *pgrlstest.Database) []string{
		"set_config for all": func(*pgrlstest.Database) []string {
			return []string{`GRANT EXECUTE ON FUNCTION set_config(text, text, boolean) TO PUBLIC`}
		},
		"set_config for the role": func(d *pgrlstest.Database) []string {
			return []string{`GRANT EXECUTE ON FUNCTION set_config(text, text, boolean) TO ` + d.App}
		},
		"large objects": func(*pgrlstest.Database) []string { return []string{`GRANT EXECUTE ON FUNCTION lo_get(oid) TO PUBLIC`} },
		"texts as SQL": func(*pgrlstest.Database) []string {
			return []string{`GRANT EXECUTE ON FUNCTION query_to_xml(text, boolean, boolean, text) TO PUBLIC`}
		},
		"other sessions": func(d *pgrlstest.Database) []string { return []string{`GRANT pg_read_all_stats TO ` + d.App} },
		"files": func(d *pgrlstest.Database) []string {
			return []string{`GRANT EXECUTE ON FUNCTION pg_read_file(text) TO ` + d.App}
		},
		"an open table": func(*pgrlstest.Database) []string {
			return []string{`CREATE TABLE public.open (a int)`, `GRANT SELECT ON public.open TO PUBLIC`}
		},
		"an owner's right": func(*pgrlstest.Database) []string {
			return []string{`CREATE FUNCTION public.peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM public.notes'`}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := notes(t)
			c := d.Connection(false)
			if r, err := try(t, c); err != nil || r.Agents() != nil {
				t.Fatalf("before: %v, %v", err, r.Agents())
			}
			d.Admin(spoil(d)...)
			r, err := try(t, c)
			if err != nil || r.Agents() == nil {
				t.Fatalf("got %v, %v", err, r.Agents())
			}
			d.Admin(statements(r.Agents())...)
			if r, err := try(t, c); err != nil || r.Agents() != nil {
				t.Errorf("mended, but %v, %v", err, r.Agents())
			}
		})
	}
}

// A pooler that was not configured as one is told of, instead of failing later.
func TestUnexpectedPooler(t *testing.T) {
	d := notes(t)
	c := d.Connection(true)
	c.PgBouncer = false
	if _, err := try(t, c); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "pgbouncer: true") {
		t.Errorf("got %v", err)
	}
}
