package cli

import (
	"context"
	"time"

	"github.com/atlas-mcp/atlas/internal/app"
)

type migrateCmd struct{}

// Help tells what is migrated.
func (migrateCmd) Help() string {
	return `Brings the schema of Atlas's own state, and the tables, roles, indexes and collections of the configured sources, to what
this version needs. It uses the owners' credentials of the configuration (load_dsn and the like), which the server itself
neither needs nor uses. Doing it twice is fine; do it before a new version of the server starts.`
}

// Run migrates.
func (migrateCmd) Run(ctx context.Context, p *Program, g *globals) error {
	steps := p.steps(g)
	if err := app.Migrate(ctx, p.options(g), steps.add); err != nil {
		return err
	}
	return steps.print("nothing needs to be migrated")
}

type seedCmd struct {
	Again bool `help:"Load what was loaded before, too: what is there under the same ids is replaced."`
}

// Help tells what is loaded.
func (seedCmd) Help() string {
	return `Prepares the stores as atlas migrate does, then loads the demo company (two tenants, acme and globex) into every
configured source that can take it. Meant for trying Atlas out, not for production: the server of the same
configuration needs seeded: true, or it loads the company by itself.`
}

// Run seeds.
func (c seedCmd) Run(ctx context.Context, p *Program, g *globals) error {
	steps := p.steps(g)
	if err := app.Seed(ctx, p.options(g), c.Again, steps.add); err != nil {
		return err
	}
	return steps.print("no source of this configuration takes the demo company")
}

// steps shows what is done as it is done, or all of it as JSON at the end.
type steps struct {
	p    *Program
	json bool
	done []app.Step
}

func (p *Program) steps(g *globals) *steps { return &steps{p: p, json: g.JSON, done: []app.Step{}} }

func (s *steps) add(step app.Step) {
	s.done = append(s.done, step)
	if !s.json {
		s.p.printf("%-14s %-20s %s\n", step.What, step.Name, step.Took.Round(time.Millisecond))
	}
}

func (s *steps) print(nothing string) error {
	if s.json {
		return s.p.printJSON(s.done)
	}
	if len(s.done) == 0 {
		s.p.printf("%s\n", nothing)
	}
	return nil
}
