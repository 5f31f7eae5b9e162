package isolation_test

import (
	"context"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/isolation"
	"github.com/atlas-mcp/atlas/internal/source"
)

// opened are the sources that an app has opened.
type opened struct {
	mu      sync.Mutex
	sources map[string]source.Source // in which canaries are planted
	// change returns what canaries are planted in and what the app uses, for the named source. It may be nil.
	change func(name string, s source.Source) (plant, use source.Source)
}

// A watched Config is a driver's own, and notes what it opens.
type watched struct {
	source.Config
	into *opened
}

// UnmarshalYAML decodes the driver's own settings.
func (w *watched) UnmarshalYAML(decode func(any) error) error { return decode(w.Config) }

func (w *watched) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	s, err := w.Config.Open(ctx, deps)
	if err != nil {
		return nil, err
	}
	plant := s
	w.into.mu.Lock()
	defer w.into.mu.Unlock()
	if w.into.change != nil {
		plant, s = w.into.change(deps.Name, s)
	}
	w.into.sources[deps.Name] = plant
	return s, nil
}

// Migrate prepares the store, if the driver knows how.
func (w *watched) Migrate(ctx context.Context, deps source.Deps) error {
	if m, ok := w.Config.(source.Migrator); ok {
		return m.Migrate(ctx, deps)
	}
	return nil
}

// watch makes the drivers note what they open, until the test ends. Tests that use it do not run in parallel.
func watch(t *testing.T) *opened {
	t.Helper()
	into := &opened{sources: map[string]source.Source{}}
	before := maps.Clone(app.Kinds)
	t.Cleanup(func() { maps.Copy(app.Kinds, before) })
	for kind, make := range before {
		app.Kinds[kind] = func() source.Config { return &watched{make(), into} }
	}
	return into
}

// limits give the canary tenants room.
const limits = `
ratelimit:
  tenants:
    atlas-canary-a: {tenant: {rate: 1000000, burst: 100000}, tool: {rate: 1000000, burst: 100000}, caller: {rate: 1000000, burst: 100000}}
    atlas-canary-b: {tenant: {rate: 1000000, burst: 100000}, tool: {rate: 1000000, burst: 100000}, caller: {rate: 1000000, burst: 100000}}
flood: {rate: 1000000, burst: 100000}
`

func openApp(t *testing.T, o app.Options) *app.App {
	t.Helper()
	o.DataDir, o.LogLevel, o.LogTo = filepath.Join(t.TempDir(), "data"), "error", t.Output()
	a, err := app.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

var tenants = [2]atlas.TenantID{isolation.DefaultA, isolation.DefaultB}

func direct(t *testing.T, a *app.App) *isolation.Direct {
	t.Helper()
	d, err := isolation.NewDirect(isolation.Inside{
		Handle: a.Handle, Tools: a.Tools, NewID: edge.NewRequestID, Roles: a.Config().Roles,
	}, tenants)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func prove(t *testing.T, cfg isolation.Config, deps isolation.Deps) isolation.Report {
	t.Helper()
	p, err := isolation.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func dump(t *testing.T, r isolation.Report) {
	t.Helper()
	t.Logf("%s: %+v", r.Result, r.Summary)
	for _, p := range r.Planted {
		t.Logf("planted %+v", p)
	}
	for _, c := range r.Controls {
		t.Logf("%-10s %-22s %-8s %-10s %-16s %s", c.Status, c.Tool, c.Source, c.Kind, c.Role, c.Detail)
	}
	for _, a := range r.Attempts {
		t.Logf("%3d %-12s %-8s %-20s %-10s %s => %s", a.N, a.Area, a.Source, a.Tool, strings.ToUpper(string(a.Verdict)), a.Tried, a.Got)
		for _, e := range a.Evidence {
			t.Logf("        %s", e)
		}
	}
	for _, n := range r.Notes {
		t.Logf("note: %s", n)
	}
}

// On the demo profile nothing leaks, and every source that holds something is proven.
func TestTheDemoHolds(t *testing.T) {
	w := watch(t)
	a := openApp(t, app.Options{Overlay: []byte(limits)})
	canaries := isolation.Plant(t.Context(), isolation.Field{Sources: w.sources, Samples: demo.Companies()[demo.Acme]}, tenants, isolation.NewKey())
	r := prove(t, isolation.Config{}, isolation.Deps{Target: direct(t, a), Canaries: canaries})
	holds(t, r, 1000)
	for _, name := range []string{demo.CRM, demo.Tickets, demo.Docs, demo.KB, demo.Files} {
		if !proves(r, name) {
			t.Errorf("no tool of %s is proven", name)
		}
	}
	if err := a.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for rec, err := range app.QueryAudit(t.Context(), a.Config().Audit.Path, app.AuditFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Tenant != tenants[isolation.A] && rec.Tenant != tenants[isolation.B] || !strings.HasPrefix(rec.Caller, isolation.Subject+"/") ||
			rec.Transport != isolation.Transport && rec.Transport != "internal" {
			t.Fatalf("a record that does not show that it is the proof's: %+v", rec)
		}
	}
}

// holds checks that nothing leaked, of so many attempts at least, all of them different.
func holds(t *testing.T, r isolation.Report, least int) {
	t.Helper()
	if r.Result != isolation.ResultHeld || r.Summary.Inconclusive != 0 || r.Summary.Attempts < least {
		dump(t, r)
		t.Fatalf("got %s: %+v", r.Result, r.Summary)
	}
	seen := map[string]bool{}
	for _, a := range r.Attempts {
		seen[a.Area+"\x00"+a.Tool+"\x00"+a.Tried] = true
	}
	if len(seen) < least {
		t.Errorf("only %d of %d attempts are different", len(seen), len(r.Attempts))
	}
}
