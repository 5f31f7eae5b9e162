package pgrls_test

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// notes makes the table notes with two rows for each of two tenants, under row-level security.
func notes(t testing.TB) *pgrlstest.Database {
	t.Helper()
	d := pgrlstest.New(t)
	d.Own(`CREATE TABLE notes (tenant_id text NOT NULL, id text NOT NULL, body text, n bigint, PRIMARY KEY (tenant_id, id))`)
	for _, tenant := range []string{"acme", "globex"} {
		d.Own(fmt.Sprintf(`INSERT INTO notes VALUES ('%[1]s', 'n1', 'of %[1]s', 1), ('%[1]s', 'n2', 'of %[1]s', 2)`, tenant))
	}
	d.Own(d.Connection(false).Secure("notes", d.App)...)
	return d
}

func open(t testing.TB, c pgrls.Connection) *pgrls.DB {
	t.Helper()
	db, err := pgrls.Open(t.Context(), c, pgrls.Options{Name: "test", Tables: []string{"notes"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return db
}

// ask runs a statement and returns its rows.
func ask(t testing.TB, db *pgrls.DB, tenant atlas.TenantID, sql string, args ...any) ([][]any, error) {
	t.Helper()
	var out [][]any
	_, err := db.Query(t.Context(), tenant, pgrls.Statement{SQL: sql, Args: args}, func(r pgrls.Row) (bool, error) {
		row := make([]any, r.Len())
		for i := range row {
			row[i], _ = r.Value(i)
		}
		out = append(out, row)
		return true, nil
	})
	return out, err
}

// each runs fn directly and through PgBouncer.
func each(t *testing.T, fn func(t *testing.T, bouncer bool)) {
	t.Run("direct", func(t *testing.T) { fn(t, false) })
	t.Run("pgbouncer", func(t *testing.T) { fn(t, true) })
}

func TestQueryIsBoundToTheTenant(t *testing.T) {
	each(t, func(t *testing.T, bouncer bool) {
		db := open(t, notes(t).Connection(bouncer))
		for range 3 {
			for _, tenant := range []atlas.TenantID{"acme", "globex"} {
				got, err := ask(t, db, tenant, `SELECT body, n, current_setting('transaction_read_only') FROM notes WHERE id = $1`, "n2")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([][]any{{"of " + string(tenant), int64(2), "on"}}, got); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			}
			got, err := ask(t, db, "nobody", `SELECT * FROM notes`)
			if err != nil || len(got) > 0 {
				t.Errorf("got %v, %v", got, err)
			}
		}
		for _, f := range db.Report().Findings {
			t.Log(f.Level, f)
		}
	})
}
