package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A Step is one thing that Migrate or Seed did, for who watches.
type Step struct {
	What string        `json:"what"` // "migrated", "loaded" or "there already"
	Name string        `json:"name"` // state, or a source with the tenant whose data it is
	Took time.Duration `json:"took_ns"`
}

// Migrate prepares the stores that Atlas needs: the schema of its own state, and tables, roles,
// indexes and collections of the sources whose drivers know how. It needs the rights of the stores'
// owners, which the configuration gives for this alone. Doing it twice is fine.
func Migrate(ctx context.Context, o Options, report func(Step)) error {
	files := OpenFiles(o.ConfigFile)
	cfg, err := loadConfig(o, files)
	if err != nil {
		return err
	}
	a := &App{opts: o, files: files, cfg: cfg, log: slog.New(slog.DiscardHandler)}
	step := func(name string, do func() error) error {
		start := time.Now()
		if err := do(); err != nil {
			return fmt.Errorf("migrate %s: %s", name, cause(err))
		}
		report(Step{"migrated", name, time.Since(start)})
		return nil
	}
	driver, err := a.stateConfig()
	if err != nil {
		return &ConfigError{err}
	}
	if m, ok := driver.(interface{ Migrate(context.Context) error }); ok {
		if err := step("state", func() error { return m.Migrate(ctx) }); err != nil {
			return err
		}
	}
	embedder, err := a.embedder(ctx, cfg.Embedder)
	if err != nil {
		return &ConfigError{err}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Sources)) {
		kind, err := a.sourceConfig(name, cfg.Sources[name])
		if err != nil {
			return &ConfigError{err}
		}
		m, ok := kind.(source.Migrator)
		if !ok {
			continue
		}
		deps := source.Deps{Name: name, DataDir: cfg.DataDir, Embed: embedder, Log: a.log}
		if err := step(name, func() error { return m.Migrate(ctx, deps) }); err != nil {
			return err
		}
	}
	return nil
}

// cause is what is behind an error, for the operator: hints are for callers, and say too little here.
func cause(err error) string {
	if e, ok := errors.AsType[*atlas.Error](err); ok && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

// Seed prepares the stores and loads the demo company into the sources that can take it, where it is
// not there already; again loads it in any case.
func Seed(ctx context.Context, o Options, again bool, report func(Step)) error {
	if err := Migrate(ctx, o, report); err != nil {
		return err
	}
	o.seeding = true
	a, err := Open(ctx, o)
	if err != nil {
		return err
	}
	g := a.current.use()
	err = a.demoData(ctx, g, again, report)
	g.lease.leave()
	return errors.Join(err, a.Close())
}

// demoData loads the demo company into the sources that can take it, once.
func (a *App) demoData(ctx context.Context, g *generation, again bool, report func(Step)) error {
	const space = "demo"
	companies := demo.Companies()
	for _, id := range slices.Sorted(maps.Keys(companies)) {
		for _, name := range slices.Sorted(maps.Keys(companies[id])) {
			loader, ok := g.loader(name)
			if !ok {
				continue
			}
			start := time.Now()
			// Another server or another embedder holds nothing yet.
			settings := version(g.cfg.Sources[name], []byte(version(SourceSpec{Kind: g.cfg.Embedder.Kind, With: g.cfg.Embedder.With}, nil)))
			key := name + "/" + string(id) + "/" + demo.Version + "/" + settings[:16]
			_, seen, err := a.state.Get(ctx, space, key)
			if err != nil {
				return err
			}
			if seen != 0 && !again {
				report(Step{"there already", name + " " + string(id), time.Since(start)})
				continue
			}
			if err := loader.Load(ctx, id, companies[id][name]); err != nil {
				return fmt.Errorf("load the demo company into %s: %s", name, cause(err))
			}
			if _, err := a.state.CompareAndSet(ctx, space, key, seen, []byte("loaded"), time.Time{}); err != nil {
				return err
			}
			report(Step{"loaded", name + " " + string(id), time.Since(start)})
		}
	}
	return nil
}

// loader returns the named source as what data can be loaded into.
func (g *generation) loader(name string) (source.Loader, bool) {
	l, ok := g.sources[name].Source.(source.Loader)
	return l, ok
}
