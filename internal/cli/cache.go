package cli

import (
	"context"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

type cacheCmd struct {
	Purge cachePurgeCmd `cmd:"" help:"Forget cached answers of a tenant, on all replicas."`
}

type cachePurgeCmd struct {
	identity
	Tool string `help:"Only answers of this tool." placeholder:"TOOL"`
}

// Help tells whom it reaches.
func (cachePurgeCmd) Help() string {
	return `Reaches the running servers through the Redis of the configuration. A server without one keeps its cache to itself: ask
it over HTTP, with a token of the scope tool:*:admin:

  curl -X POST -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"tool":"crm_order"}' $URL/admin/v1/cache/purge`
}

// Run purges.
func (c cachePurgeCmd) Run(ctx context.Context, p *Program, g *globals) error {
	a, err := p.open(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	if !a.Replicas() {
		return usage("this configuration has no redis: the server keeps its cache to itself; see atlas cache purge --help")
	}
	who, err := c.principal(a, app.PersonaLead)
	if err != nil {
		return err
	}
	if c.Tool != "" && a.Tool(c.Tool) == nil {
		return usage("there is no tool %q; see atlas tools list", c.Tool)
	}
	if err := a.Purge(ctx, who, who.Tenant, c.Tool); err != nil {
		return err
	}
	if g.JSON {
		return p.printJSON(struct {
			Tenant atlas.TenantID `json:"tenant"`
			Tool   string         `json:"tool"`
		}{who.Tenant, c.Tool})
	}
	what := "all tools"
	if c.Tool != "" {
		what = c.Tool
	}
	p.printf("forgotten on all replicas: answers of %s for %s\n", what, who.Tenant)
	return nil
}
