package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/isolation"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// Inside is how a proof of isolation calls this app.
func (a *App) Inside() isolation.Inside {
	return isolation.Inside{Handle: a.Handle, Tools: a.Tools, NewID: edge.NewRequestID, Roles: a.cfg.Roles}
}

// Field is where a proof of isolation plants canaries: the open sources, and the demo company's records as
// samples where they are loaded. After a reload it is another one.
func (a *App) Field() isolation.Field {
	f := isolation.Field{Sources: map[string]source.Source{}}
	g := a.current.use()
	if g == nil {
		return f
	}
	defer g.lease.leave()
	for name, s := range g.sources {
		f.Sources[name] = s.Source
	}
	if g.cfg.DemoData {
		f.Samples = DemoSamples()
	}
	if g.cfg.Memory.Enabled {
		f.Sources[tool.MemorySource] = memoryCanaries{memories{a.state}}
		f.Samples = withMemories(f.Samples)
	}
	return f
}

// DemoSamples are records of the demo company, by source.
func DemoSamples() map[string]source.Data { return withMemories(demo.Companies()[demo.Acme]) }

// openProber makes what checks the isolation of tenants while the server runs.
func (a *App) openProber(context.Context) error {
	count, err := a.metrics.Counter("atlas_isolation_checks_total", "Attempts of one canary tenant to get another's data, by result.", "result")
	if err != nil {
		return err
	}
	target, err := isolation.NewDirect(a.Inside(), a.cfg.Isolation.Tenants())
	if err != nil { // no role may call a tool: there is nothing to check
		a.log.Info("the isolation of tenants is not checked", "reason", err)
		return nil
	}
	a.prober, err = isolation.NewProber(a.cfg.Isolation, isolation.ProberDeps{
		Target: target, Field: a.Field, Version: a.toolsVersion, Count: count, Log: a.log,
	})
	return err
}

// toolsVersion changes with every tool and every source behind one.
func (a *App) toolsVersion() string {
	h := sha256.New()
	for _, t := range a.Tools() {
		fmt.Fprintln(h, t.Name, t.Version)
	}
	return hex.EncodeToString(h.Sum(nil))
}
