package postgres_test

import (
	"crypto/rand"
	"log/slog"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
	"github.com/atlas-mcp/atlas/internal/source/postgres"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

var (
	_ source.Config   = (*postgres.Config)(nil)
	_ source.Migrator = (*postgres.Config)(nil)
	_ source.Querier  = (*postgres.DB)(nil)
	_ source.Loader   = (*postgres.DB)(nil)
)

// config is a source over the suites' company in a schema of its own of the database, directly or
// through PgBouncer. Its tables customers and orders may be read without customers.ssn; vault may not.
func config(d *pgrlstest.Database, bouncer bool) postgres.Config {
	c := postgres.Config{
		Connection: d.Connection(bouncer),
		Tables:     []string{"customers", "orders"}, HiddenColumns: []string{"customers.ssn"},
	}
	c.Schema = "s_" + strings.ToLower(rand.Text()[:8])
	return c
}

// loaded opens a source over data: it makes schema and tables as the owner, then connects as the
// role that owns nothing. The test's end closes it.
func loaded(t testing.TB, c postgres.Config, data map[atlas.TenantID]source.Data) *postgres.DB {
	t.Helper()
	deps := source.Deps{Name: "crm " + sourcetest.Marker, Log: slog.New(slog.DiscardHandler)}
	if err := c.Migrate(t.Context(), deps); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Seed(t.Context(), c, data); err != nil {
		t.Fatal(err)
	}
	src, err := c.Open(t.Context(), deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return src.(*postgres.DB)
}

// company opens a source over the two tenants of the contract suites, sourcetest.A and
// sourcetest.B, in a fresh database that is hardened as deploy/sql does it.
func company(t testing.TB, bouncer bool) (*postgres.DB, *pgrlstest.Database) {
	t.Helper()
	d := pgrlstest.New(t)
	return loaded(t, config(d, bouncer), sourcetest.Company()), d
}
