package pgrls

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// A Level says what a finding stands against.
type Level string

// The levels.
const (
	Refuse Level = "refuse" // everything: tenants could see each other
	Agents Level = "agents" // SQL that agents write; the operator's own statements are unaffected
	Warn   Level = "warn"   // nothing, but it should be mended
)

// A Finding is something in the database that is not as it should be.
type Finding struct {
	Level  Level
	What   string   // one sentence, for operators
	Remedy []string // statements that mend it, to be run by the owner or a superuser
}

// String returns the finding as one line.
func (f Finding) String() string {
	if len(f.Remedy) == 0 {
		return f.What
	}
	return f.What + "; run: " + strings.Join(f.Remedy, "; ") + ";"
}

// A Report is what a check found.
type Report struct {
	Version  int // server_version_num, such as 150020; 0 if there was no check
	Role     string
	Findings []Finding

	agents error
}

// Agents returns what stands against agents' SQL, or nil. It is cheap.
func (r Report) Agents() error { return r.agents }

// Against returns the findings of a level, as one error for operators, or nil.
func (r Report) Against(l Level) error {
	var errs []error
	for _, f := range r.Findings {
		if f.Level == l {
			errs = append(errs, errors.New(f.String()))
		}
	}
	return errors.Join(errs...)
}

// refusal returns why nothing may be served, or nil.
func (r Report) refusal() error {
	if err := r.Against(Refuse); err != nil {
		return atlas.Errorf(atlas.CodeSourceMisused, err, "")
	}
	return nil
}

// catalog is what catalog.sql returns.
type catalog struct {
	Version     int    `json:"version"`
	Database    string `json:"database"`
	User        string `json:"user"`
	SessionUser string `json:"session_user"`
	Tenant      string `json:"tenant"`
	RowSecurity bool   `json:"row_security"`
	TempFiles   string `json:"temp_files"`
	Roles       []struct {
		Name        string `json:"name"`
		Self        bool   `json:"self"`
		Super       bool   `json:"super"`
		Bypass      bool   `json:"bypass"`
		CreateRole  bool   `json:"create_role"`
		Replication bool   `json:"replication"`
	} `json:"roles"`
	Schemas []struct {
		Name   string   `json:"name"`
		Owner  string   `json:"owner"`
		Usage  bool     `json:"usage"`
		Create []string `json:"create"`
	} `json:"schemas"`
	Tables    []table  `json:"tables"`
	Others    []string `json:"others"`
	Functions []struct {
		Name string   `json:"name"`
		From []string `json:"from"`
		Why  string   `json:"why"`
	} `json:"functions"`
}

type table struct {
	Schema   string   `json:"schema"`
	Name     string   `json:"name"`
	Kind     string   `json:"kind"`
	Named    bool     `json:"named"`
	Owner    string   `json:"owner"`
	Enabled  bool     `json:"enabled"`
	Forced   bool     `json:"forced"`
	Active   bool     `json:"active"`
	Readable bool     `json:"readable"`
	Invoker  bool     `json:"invoker"`
	Writes   []string `json:"writes"`
	Policies []policy `json:"policies"`
	Unique   []key    `json:"unique"`
	Foreign  []key    `json:"foreign"`
}

type policy struct {
	Name       string   `json:"name"`
	Permissive bool     `json:"permissive"`
	Using      string   `json:"using"`
	Columns    []string `json:"columns"`
	Calls      bool     `json:"calls"` // functions that are not Postgres's own
	Loose      []string `json:"loose"` // collations in it that take different texts for one
}

type key struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
}

// powers are predefined roles that reach out of the database, or into other sessions.
var powers = map[string]Level{
	"pg_execute_server_program": Refuse,
	"pg_read_server_files":      Refuse,
	"pg_write_server_files":     Refuse,
	"pg_signal_backend":         Agents,
	"pg_monitor":                Agents, // other sessions' statements, which name tenants
	"pg_read_all_stats":         Agents,
}

// forging are functions of pg_catalog that undo what binds an agent's statement to its tenant, or
// that pass things between tenants around the tables, and why.
var forging = map[string]string{
	"set_config":                   "can set the tenant in the middle of a query",
	"lo_creat":                     "large objects belong to the role, that is, to all tenants",
	"lo_create":                    "large objects belong to the role, that is, to all tenants",
	"lo_from_bytea":                "large objects belong to the role, that is, to all tenants",
	"lo_open":                      "large objects belong to the role, that is, to all tenants",
	"lo_get":                       "large objects belong to the role, that is, to all tenants",
	"lo_put":                       "large objects belong to the role, that is, to all tenants",
	"lowrite":                      "large objects belong to the role, that is, to all tenants",
	"lo_unlink":                    "large objects belong to the role, that is, to all tenants",
	"lo_import":                    "reads files of the server",
	"lo_export":                    "writes files of the server",
	"pg_read_file":                 "reads files of the server",
	"pg_read_binary_file":          "reads files of the server",
	"pg_ls_dir":                    "lists files of the server",
	"pg_stat_get_activity":         "tells the statements of other sessions, which name tenants",
	"pg_stat_get_backend_activity": "tells the statements of other sessions, which name tenants",
	"query_to_xml":                 "runs a text as SQL, which no guard has read",
	"query_to_xml_and_xmlschema":   "runs a text as SQL, which no guard has read",
	"query_to_xmlschema":           "runs a text as SQL, which no guard has read",
}

// findings judges what is in the catalog. Its order is that of the fields: the role first.
func (c *catalog) findings(o Options, conn Connection) []Finding {
	f := &finder{c: c, opt: o, conn: conn}
	f.roles()
	f.schemas()
	seen := map[string]bool{}
	for i := range c.Tables {
		seen[c.Tables[i].Name] = seen[c.Tables[i].Name] || c.Tables[i].Named
		f.table(&c.Tables[i])
	}
	for _, t := range o.Tables {
		if !seen[t] {
			f.add(Refuse, fmt.Sprintf("table %s does not exist, or not in schema %s", name(t), name(conn.Schema)))
		}
	}
	f.agents()
	return f.out
}

type finder struct {
	c     *catalog
	opt   Options
	conn  Connection
	super bool
	out   []Finding
}

func (f *finder) add(l Level, what string, remedy ...string) {
	f.out = append(f.out, Finding{Level: l, What: what, Remedy: remedy})
}

func (f *finder) roles() {
	self := role(f.c.SessionUser)
	for _, r := range f.c.Roles {
		if r.Self {
			f.super = f.super || r.Super
			for _, p := range []struct {
				has         bool
				what, alter string
			}{
				{r.Super, "is a superuser, whom row-level security does not bind", "NOSUPERUSER"},
				{r.Bypass, "has BYPASSRLS", "NOBYPASSRLS"},
				{r.CreateRole, "may create roles and give itself theirs", "NOCREATEROLE"},
				{r.Replication, "may read everything by replication", "NOREPLICATION"},
			} {
				if p.has {
					f.add(Refuse, "role "+role(r.Name)+" "+p.what, "ALTER ROLE "+role(r.Name)+" "+p.alter)
				}
			}
		}
	}
	if !f.super { // a superuser is a member of everything
		for _, r := range f.c.Roles {
			level, power := powers[r.Name]
			switch {
			case r.Self:
			case r.Super || r.Bypass || r.CreateRole || r.Replication:
				f.add(Refuse, fmt.Sprintf("role %s is a member of %s, which row-level security does not bind", self, role(r.Name)), "REVOKE "+role(r.Name)+" FROM "+self)
			case power:
				f.add(level, fmt.Sprintf("role %s is a member of %s", self, role(r.Name)), "REVOKE "+role(r.Name)+" FROM "+self)
			}
		}
	}
	if f.c.Tenant != "" {
		f.add(Refuse, fmt.Sprintf("setting %s has a value before any query; there is no default tenant", f.conn.TenantSetting),
			"ALTER ROLE "+self+" RESET "+f.conn.TenantSetting,
			"ALTER ROLE "+self+" IN DATABASE "+name(f.c.Database)+" RESET "+f.conn.TenantSetting,
			"ALTER DATABASE "+name(f.c.Database)+" RESET "+f.conn.TenantSetting)
	}
	if f.c.TempFiles == "-1" && !f.super {
		f.add(Warn, "one query may fill the server's disk with temporary files", "ALTER ROLE "+self+" SET temp_file_limit = '256MB'")
	}
	if !f.c.RowSecurity {
		f.add(Warn, "row_security is off for the role: queries under policies fail", "ALTER ROLE "+self+" RESET row_security")
	}
}

func (f *finder) schemas() {
	for _, s := range f.c.Schemas {
		if s.Owner != "" && !f.super {
			f.owned("schema "+name(s.Name), "ALTER SCHEMA "+name(s.Name), s.Owner)
		}
		if !s.Usage {
			f.add(Refuse, fmt.Sprintf("role %s may not use schema %s", role(f.c.User), name(s.Name)), "GRANT USAGE ON SCHEMA "+name(s.Name)+" TO "+role(f.c.User))
		}
		for _, g := range s.Create {
			if g != s.Owner || g == "" {
				f.add(Refuse, fmt.Sprintf("role %s may create tables and functions in schema %s", role(f.c.User), name(s.Name)), "REVOKE CREATE ON SCHEMA "+name(s.Name)+" FROM "+role(g))
			}
		}
	}
}

// owned says that something belongs to a role whose rights the role has. The best remedy for an owner
// is to log in as another role; the statement gives what it owns to the superuser who runs it.
func (f *finder) owned(what, alter, owner string) {
	if owner == f.c.User || owner == f.c.SessionUser {
		f.add(Refuse, fmt.Sprintf("%s belongs to role %s, which can switch row-level security off: put a role into dsn that owns nothing", what, role(owner)), alter+" OWNER TO CURRENT_USER")
		return
	}
	f.add(Refuse, fmt.Sprintf("%s belongs to %s, whose rights role %s has, and which can switch row-level security off", what, role(owner), role(f.c.SessionUser)),
		"REVOKE "+role(owner)+" FROM "+role(f.c.SessionUser))
}

func (f *finder) table(t *table) {
	n := name(t.Schema, t.Name)
	me := role(f.c.User)
	switch t.Kind {
	case "v":
		switch {
		case f.c.Version < 150000:
			f.add(Refuse, "view "+n+" reads with the rights of its owner, whom row-level security may not bind; before PostgreSQL 15 expose its tables instead")
		case !t.Invoker:
			f.add(Refuse, "view "+n+" reads with the rights of its owner, whom row-level security may not bind", "ALTER VIEW "+n+" SET (security_invoker = true)")
		}
	case "m":
		f.add(Refuse, "materialized view "+n+" holds the rows of all tenants, and cannot be under row-level security; expose a table or a view")
	case "f":
		f.add(Refuse, "foreign table "+n+" cannot be under row-level security; connect a source to the other database instead")
	default:
		f.rows(t, n)
	}
	if t.Owner != "" && !f.super {
		f.owned(n, "ALTER TABLE "+n, t.Owner)
	}
	if !t.Readable {
		f.add(Refuse, fmt.Sprintf("role %s may not read %s", me, n), "GRANT SELECT ON "+n+" TO "+me)
	}
	if f.super || t.Owner != "" {
		return
	}
	for _, w := range t.Writes {
		privilege, grantee, _ := strings.Cut(strings.Trim(w, `[]`), ", ")
		privilege, grantee = strings.Trim(privilege, `"`), strings.Trim(grantee, `"`)
		f.add(Warn, fmt.Sprintf("role %s has %s on %s; reading is all that Atlas does", me, privilege, n), "REVOKE "+privilege+" ON "+n+" FROM "+role(grantee))
	}
}

// rows looks at a table's row-level security.
func (f *finder) rows(t *table, n string) {
	switch {
	case !t.Enabled && !t.Forced:
		f.add(Refuse, "table "+n+" is not under row-level security", "ALTER TABLE "+n+" ENABLE ROW LEVEL SECURITY", "ALTER TABLE "+n+" FORCE ROW LEVEL SECURITY")
	case !t.Enabled:
		f.add(Refuse, "row-level security is switched off on table "+n, "ALTER TABLE "+n+" ENABLE ROW LEVEL SECURITY")
	case !t.Forced:
		f.add(Refuse, "row-level security on table "+n+" does not bind its owner", "ALTER TABLE "+n+" FORCE ROW LEVEL SECURITY")
	}
	tenantColumn := f.conn.TenantColumn
	bound, open := false, []policy{}
	told := false // some policy may know the tenant
	var columns []string
	for _, p := range t.Policies {
		columns = append(columns, p.Columns...)
		reads := strings.Contains(p.Using, "'"+f.conn.TenantSetting+"'")
		told = told || reads || p.Calls
		if len(p.Loose) > 0 {
			f.loose(n, p)
		}
		switch {
		case len(p.Columns) == 0 && p.Permissive && p.Using != "" && p.Using != "false":
			open = append(open, p) // true, or nothing that a row decides
		case reads && !p.Permissive:
			bound = true
		case p.Permissive && !reads:
			f.add(Warn, fmt.Sprintf("policy %s of table %s does not read the setting %s; make sure that the tenant decides what it shows", name(p.Name), n, f.conn.TenantSetting))
		}
	}
	if len(columns) > 0 {
		tenantColumn = columns[0]
	}
	if !bound {
		for _, p := range open {
			f.add(Refuse, fmt.Sprintf("policy %s of table %s shows every row to every tenant", name(p.Name), n), "DROP POLICY "+name(p.Name)+" ON "+n)
		}
	}
	if !slices.ContainsFunc(t.Policies, func(p policy) bool { return p.Permissive && (bound || len(p.Columns) > 0) }) {
		f.add(Refuse, fmt.Sprintf("no policy of table %s lets role %s read a tenant's rows", n, role(f.c.User)),
			fmt.Sprintf("CREATE POLICY tenant ON %s USING (%s)", n, condition(name(tenantColumn), f.conn.TenantSetting)))
	}
	if len(columns) == 0 {
		return
	}
	if !told && t.Enabled {
		f.add(Refuse, fmt.Sprintf("no policy of table %s reads the setting %s, so all tenants see the same rows", n, f.conn.TenantSetting),
			fmt.Sprintf("CREATE POLICY tenant ON %s AS RESTRICTIVE USING (%s)", n, condition(name(tenantColumn), f.conn.TenantSetting)))
	}
	for _, k := range t.Unique {
		if !overlap(k.Columns, columns) {
			f.add(Warn, fmt.Sprintf("unique index %s of table %s is across tenants: what one writes, another can notice, and ids of one exclude those of another; make it (%s, %s)",
				name(k.Name), n, name(tenantColumn), strings.Join(k.Columns, ", ")))
		}
	}
	for _, k := range t.Foreign {
		if !overlap(k.Columns, columns) {
			f.add(Warn, fmt.Sprintf("foreign key %s of table %s can refer to a row of another tenant; make it (%s, %s)",
				name(k.Name), n, name(tenantColumn), strings.Join(k.Columns, ", ")))
		}
	}
}

// loose says that a policy compares by a collation for which two tenants may be one: such as one that
// ignores signs, to which a-b and a_b are the same. A column's type cannot change under a policy.
func (f *finder) loose(table string, p policy) {
	column := f.conn.TenantColumn
	if len(p.Columns) > 0 {
		column = p.Columns[0]
	}
	f.add(Refuse, fmt.Sprintf("policy %s of table %s compares by collation %s, which takes different texts for one, so that one tenant may be given another's rows",
		name(p.Name), table, strings.Join(p.Loose, ", ")),
		"DROP POLICY "+name(p.Name)+" ON "+table,
		"ALTER TABLE "+table+" ALTER COLUMN "+name(column)+` TYPE text COLLATE "C"`,
		fmt.Sprintf("CREATE POLICY %s ON %s USING (%s)", name(p.Name), table, condition(name(column), f.conn.TenantSetting)))
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// agents looks at what a statement could do that no operator wrote.
func (f *finder) agents() {
	if f.super {
		return
	}
	for _, fn := range f.c.Functions {
		why := forging[fn.Why]
		switch fn.Why {
		case "definer":
			why = "runs with the rights of its owner"
		case "untrusted":
			why = "is written in a language that can do anything on the server"
		}
		if ext, ok := strings.CutPrefix(fn.Why, "extension "); ok {
			why = "of " + ext + " reaches out of the database"
		}
		qualified := fn.Name
		if _, ok := forging[fn.Why]; ok {
			qualified = "pg_catalog." + strings.TrimPrefix(fn.Name, "pg_catalog.")
		}
		var remedy []string
		for _, g := range fn.From {
			remedy = append(remedy, "REVOKE EXECUTE ON FUNCTION "+qualified+" FROM "+role(g))
		}
		f.add(Agents, "function "+qualified+" "+why, remedy...)
	}
	for _, o := range f.c.Others {
		f.add(Agents, fmt.Sprintf("role %s may read %s, which is not under row-level security", role(f.c.User), o),
			"REVOKE ALL ON "+o+" FROM "+role(f.c.User)+", PUBLIC")
	}
}

// condition is what a policy says.
func condition(column, setting string) string {
	return column + " = current_setting(" + Literal(setting) + ", true)"
}
