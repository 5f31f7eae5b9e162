package sqlite_test

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
	"github.com/atlas-mcp/atlas/internal/source/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ source.Config  = (*sqlite.Config)(nil)
	_ source.Querier = (*sqlite.DB)(nil)
	_ source.Loader  = (*sqlite.DB)(nil)
)

func config() sqlite.Config {
	return sqlite.Config{Tables: []string{"customers", "Orders"}, HiddenColumns: []string{"customers.ssn"}}
}

func openWith(t testing.TB, cfg sqlite.Config, dir string) source.Source {
	t.Helper()
	src, err := cfg.Open(t.Context(), source.Deps{Name: "crm", DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return src
}

func open(t *testing.T, data map[atlas.TenantID]source.Data) source.Source {
	t.Helper()
	return sourcetest.Load(t, openWith(t, config(), filepath.Join(t.TempDir(), sourcetest.Marker+" 100%?#")), data)
}

// endless is a statement that never ends.
const endless = `(WITH RECURSIVE n(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM n) SELECT x FROM n)`

func TestContract(t *testing.T) {
	sourcetest.Run(t, sourcetest.Harness{Open: open, SlowSQL: []string{
		`SELECT count(*) FROM ` + endless,
		`SELECT 1 UNION ALL SELECT count(*) FROM ` + endless,
		`SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f, orders g`,
		`SELECT id FROM orders UNION ALL SELECT a.id FROM orders a, orders b, orders c, orders d, orders e, orders f, orders g WHERE a.total_cents + b.total_cents + c.total_cents + d.total_cents + e.total_cents + f.total_cents + g.total_cents < 0`,
	}}, sourcetest.Querier)
}
