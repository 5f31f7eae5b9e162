package postgres_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	for name, bouncer := range map[string]bool{"direct": false, "pgbouncer": true} {
		t.Run(name, func(t *testing.T) {
			d := pgrlstest.New(t)
			sourcetest.Run(t, sourcetest.Harness{
				Open: func(t *testing.T, data map[atlas.TenantID]source.Data) source.Source {
					return loaded(t, config(d, bouncer), data)
				},
				SlowSQL: []string{
					`SELECT 1 UNION ALL SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f, orders g`,
					`SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f, orders g`,
					`SELECT id FROM orders UNION ALL SELECT a.id FROM orders a, orders b, orders c, orders d, orders e, orders f, orders g WHERE a.total_cents + b.total_cents + c.total_cents + d.total_cents + e.total_cents + f.total_cents + g.total_cents < 0`,
				},
			}, sourcetest.Querier)
		})
	}
}
