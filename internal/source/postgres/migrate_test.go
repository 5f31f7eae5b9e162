package postgres_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
	"github.com/atlas-mcp/atlas/internal/source/postgres"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// The demo company is migrated, loaded and read, by an owner without any right of a superuser, and
// a second time changes nothing.
func TestCompany(t *testing.T) {
	for name, load := range map[string]func(*pgrlstest.Database) string{
		"owner":     func(d *pgrlstest.Database) string { return d.DSN(d.Owner) },
		"superuser": func(d *pgrlstest.Database) string { return d.DSN("postgres") },
	} {
		t.Run(name, func(t *testing.T) {
			d := pgrlstest.New(t)
			c := &postgres.Config{Connection: d.Connection(false), Tables: []string{"customers", "orders", "order_items", "documents"}, Company: true}
			c.LoadDSN = load(d)
			if name == "superuser" { // what Migrate does itself
				d.Admin(`GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO PUBLIC`)
			}
			deps := source.Deps{Name: "crm", Log: slog.New(slog.DiscardHandler)}
			if _, err := c.Open(t.Context(), deps); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "table customers does not exist") {
				t.Errorf("before the migration: %v", err)
			}
			for range 2 {
				if err := c.Migrate(t.Context(), deps); err != nil {
					t.Fatal(err)
				}
				src, err := c.Open(t.Context(), deps)
				if err != nil {
					t.Fatal(err)
				}
				for tenant, company := range demo.Companies() {
					if err := src.(source.Loader).Load(t.Context(), tenant, company[demo.CRM]); err != nil {
						t.Fatal(err)
					}
				}
				for _, f := range src.(*postgres.DB).Report().Findings {
					if !strings.Contains(f.What, "temporary files") {
						t.Errorf("found: %s", f)
					}
				}
				for tenant, want := range map[atlas.TenantID][]any{demo.Acme: {"o_9002", "refund_pending", int64(4900)}, demo.Globex: nil} {
					got, err := src.(source.Querier).Query(t.Context(), tenant, source.Query{SQL: `SELECT id, status, total_cents FROM orders WHERE id = :id`, Args: map[string]any{"id": "o_9002"}, Agent: true})
					rows := [][]any{}
					if want != nil {
						rows = append(rows, want)
					}
					if err != nil || !cmp.Equal(got.Rows, rows) {
						t.Errorf("%s: got %v, %v", tenant, got.Rows, err)
					}
				}
				if err := src.Close(); err != nil {
					t.Error(err)
				}
			}
			if n := d.Ask(`SELECT count(*)::text FROM customers`); n != d.Ask(`SELECT count(DISTINCT (tenant_id, id))::text FROM customers`) || n == "0" {
				t.Errorf("%s customers", n)
			}
			// The keys hold a reference within its tenant.
			if n := d.Ask(`SELECT count(*)::text FROM pg_constraint WHERE contype = 'f' AND conrelid::regclass::text IN ('orders', 'order_items') AND array_length(conkey, 1) = 2`); n != "2" {
				t.Errorf("%s references", n)
			}
		})
	}
}

// The role that Atlas reads with is made by a superuser only; without one the operator is told how.
func TestMigrateMakesTheRole(t *testing.T) {
	d := pgrlstest.New(t)
	missing := d.App + "_x"
	c := &postgres.Config{Connection: d.Connection(false), Tables: []string{"customers"}}
	c.DSN = d.DSN(missing)
	if err := c.Migrate(t.Context(), source.Deps{}); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "deploy/sql/roles.sql") {
		t.Errorf("as the owner: %v", err)
	}
	c.LoadDSN = d.DSN("postgres")
	if err := c.Migrate(t.Context(), source.Deps{}); err != nil {
		t.Fatal(err)
	}
	defer d.Admin(`DROP OWNED BY `+missing, `DROP ROLE `+missing)
	if got := d.Ask(`SELECT rolsuper::text || rolbypassrls || rolinherit || rolcreaterole FROM pg_roles WHERE rolname = $1`, missing); got != "falsefalsefalsefalse" {
		t.Errorf("the role is %s", got)
	}
	c.LoadDSN = ""
	if err := c.Migrate(t.Context(), source.Deps{}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("without load_dsn: %v", err)
	}
}

// Load replaces rows of the same id, holds any text, and never touches another tenant's.
func TestLoad(t *testing.T) {
	src, _ := company(t, false)
	column := func(name, typ string) source.Column { return source.Column{Name: name, Type: typ} }
	table := source.TableData{Name: "orders", Columns: []source.Column{column("id", "TEXT"), column("status", "TEXT"), column("total_cents", "INTEGER")}}
	table.Rows = [][]any{{"o_9001", "a\tb\\c\nd\r\\N'", int64(1)}, {"new", nil, nil}, {"twice", "first", int64(1)}, {"twice", "last", int64(2)}}
	for range 2 {
		if err := src.Load(t.Context(), sourcetest.A, source.Data{Tables: []source.TableData{table}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT id, status, total_cents FROM orders WHERE id IN ('o_9001', 'new', 'twice') ORDER BY id`})
	want := [][]any{{"new", nil, nil}, {"o_9001", "a\tb\\c\nd\r\\N'", int64(1)}, {"twice", "last", int64(2)}}
	if err != nil || !cmp.Equal(got.Rows, want) {
		t.Errorf("got %v, %v", got.Rows, err)
	}
	other, err := src.Query(t.Context(), sourcetest.B, source.Query{SQL: `SELECT status FROM orders WHERE id IN ('o_9001', 'new', 'twice')`})
	if err != nil || !cmp.Equal(other.Rows, [][]any{{"status-belongstoglobex"}}) {
		t.Errorf("the other tenant: %v, %v", other.Rows, err)
	}
}

func TestLoadRefusesStrangeNames(t *testing.T) {
	src, _ := company(t, false)
	column := []source.Column{{Name: "id", Type: "TEXT"}}
	for _, table := range []source.TableData{
		{Name: `x"; DROP TABLE orders; --`, Columns: column},
		{Name: "pg_x", Columns: column},
		{Name: "Orders", Columns: column},
		{Name: "", Columns: column},
		{Name: "x"},
		{Name: "x", Columns: []source.Column{{Name: `a"b`, Type: "TEXT"}}},
		{Name: "x", Columns: []source.Column{{Name: "a", Type: "TEXT); DROP TABLE orders"}}},
		{Name: "x", Columns: column, Rows: [][]any{{"a", "b"}}},
		{Name: "x", Columns: column, Rows: [][]any{{[]int{1}}}},
	} {
		err := src.Load(t.Context(), "acme", source.Data{Tables: []source.TableData{table}})
		if atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("%+v: got %v", table, err)
		}
	}
}

func TestValidate(t *testing.T) {
	ok := postgres.Config{Connection: pgrls.Connection{DSN: "postgres://atlas_app:hush@db/crm"}, Tables: []string{"customers"}, HiddenColumns: []string{"customers.ssn"}}
	bad := ok
	bad.Tables = []string{"customers", "Orders", "pg_class", "x y", ""}
	bad.HiddenColumns = []string{"ssn", "vault.secret", `customers.a"b`}
	bad.MaxRows, bad.MaxResultBytes, bad.MaxSQLBytes, bad.Timeout = -1, 5, 2<<20, -1
	bad.Agents = postgres.AgentConfig{MaxCost: -1, WorkMem: 5, Timeout: -1}
	for _, tc := range []struct {
		cfg  postgres.Config
		want []string
	}{
		{ok, nil},
		{postgres.Config{}, []string{"dsn is empty", "tables is empty"}},
		{bad, []string{`"Orders"`, `"pg_class"`, `"x y"`, `""`, `"ssn"`, `"vault.secret"`, "max_rows", "max_result_bytes", "max_sql_bytes", "timeout is", "agents.max_cost", "agents.work_mem", "agents.timeout"}},
	} {
		err := tc.cfg.Validate()
		if (err != nil) != (len(tc.want) > 0) {
			t.Errorf("%+v: got %v", tc.cfg, err)
			continue
		}
		for _, w := range tc.want {
			if !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "hush") {
				t.Errorf("%v does not tell %q, or tells too much", err, w)
			}
		}
	}
}

func BenchmarkQuery(b *testing.B) {
	src, _ := company(b, false)
	if err := src.Warm(b.Context()); err != nil {
		b.Fatal(err)
	}
	q := source.Query{SQL: `SELECT id, customer_id, status, total_cents FROM orders WHERE id = :id`, Args: map[string]any{"id": "o_9002"}}
	for name, agent := range map[string]bool{"operator": false, "agent": true} {
		b.Run(name, func(b *testing.B) {
			q.Agent = agent
			b.ReportAllocs()
			for b.Loop() {
				if rows, err := src.Query(b.Context(), sourcetest.A, q); err != nil || len(rows.Rows) != 1 {
					b.Fatal(rows, err)
				}
			}
		})
	}
}

func BenchmarkInspect(b *testing.B) {
	src, _ := company(b, false)
	q := source.Query{SQL: `WITH x AS (SELECT * FROM orders) SELECT count(*), c.name FROM x JOIN customers c ON c.id = x.customer_id GROUP BY c.name`}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := src.Inspect(b.Context(), sourcetest.A, q); err != nil {
			b.Fatal(err)
		}
	}
}
