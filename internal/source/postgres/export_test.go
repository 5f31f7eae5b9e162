package postgres

import (
	"context"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Seed is Load without an open source: a source whose tables are missing does not open.
func Seed(ctx context.Context, c Config, data map[atlas.TenantID]source.Data) error {
	for tenant, d := range data {
		if err := c.withDefaults().load(ctx, tenant, d); err != nil {
			return err
		}
	}
	return nil
}
