package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/atlas-mcp/atlas/internal/app"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

type serveCmd struct {
	identity
	Listen string `help:"Address to listen on (default: http.listen of the configuration)." placeholder:"HOST:PORT"`
	Stdio  bool   `help:"Speak MCP over stdin and stdout as one fixed caller (see --as), for clients that start their servers."`
}

// Run serves until the context ends, and then lets running calls finish.
func (c serveCmd) Run(ctx context.Context, p *Program, g *globals) error {
	o := p.options(g)
	o.Listen = c.Listen
	a, err := app.Open(ctx, o)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	stop := p.reloadOnHangup(ctx, a)
	defer stop()
	if c.Stdio {
		who, err := c.principal(a, app.PersonaCopilot)
		if err != nil {
			return err
		}
		return a.ServeStdio(ctx, who, p.Stdin, p.Stdout)
	}
	ln, err := a.Listen(ctx)
	if err != nil {
		return err
	}
	p.notef("Atlas %s serves MCP at %s/mcp (configuration: %s)\n", p.Version, a.BaseURL(), a.ConfigName())
	if err := a.Serve(ctx, ln); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
