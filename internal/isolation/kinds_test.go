package isolation_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/isolation"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A kindRow says how a proof meets a kind of driver: the configuration that has it, and the name of the source that it is there.
type kindRow struct {
	source  string
	overlay func(t *testing.T) string         // laid over the shipped configuration; may be nil
	honest  func(source.Source) source.Source // what the driver is put into in both runs; may be nil
}

// kindRows has a row for every kind of driver.
func kindRows() map[string]kindRow {
	return map[string]kindRow{
		"sqlite": {source: demo.CRM},
		"fts":    {source: demo.Tickets},
		"vec":    {source: demo.KB},
		"folder": {source: demo.Files},
		"http":   {source: "http", honest: withPages},

		"postgres":      {source: demo.CRM, overlay: inPostgres},
		"elasticsearch": {source: demo.Tickets, overlay: inOpenSearch},
		"qdrant":        {source: demo.KB, overlay: inQdrant},
		"pgvector":      {source: demo.KB, overlay: inPgvector},
		"s3":            {source: demo.Files, overlay: inS3},
		"mcp":           inUpstream(),
	}
}

func TestEveryKindHasARow(t *testing.T) {
	rows := kindRows()
	for kind := range app.Kinds {
		if _, ok := rows[kind]; !ok {
			t.Errorf("the driver %s has no row: nobody knows whether a proof would see that its tenant filter is gone", kind)
		}
	}
}

// With the tenant filter of one driver taken out, the proof finds the leak and names that driver's source; with it, there is none.
func TestEveryKindLeaksIfItsFilterIsGone(t *testing.T) {
	rows := kindRows()
	for _, kind := range slices.Sorted(maps.Keys(rows)) {
		row := rows[kind]
		t.Run(kind, func(t *testing.T) {
			overlay := limits
			if row.overlay != nil {
				overlay += row.overlay(t)
			}
			honest := func(s source.Source) source.Source { return s }
			if row.honest != nil {
				honest = row.honest
			}
			for _, broken := range []bool{false, true} {
				r := proveKind(t, kind, row.source, overlay, honest, broken)
				var want []string
				if broken {
					want = []string{row.source}
				}
				if diff := cmp.Diff(want, sourcesOf(r.Leaks())); diff != "" {
					t.Errorf("filter gone %t: %s", broken, diff)
					dump(t, r)
				}
				if !proves(r, row.source) {
					t.Errorf("no tool of %s is proven", row.source)
					dump(t, r)
				}
			}
		})
	}
}

// proveKind runs a proof with the source's driver, or with a leaky one.
func proveKind(t *testing.T, kind, name, overlay string, honest func(source.Source) source.Source, broken bool) isolation.Report {
	t.Helper()
	w := watch(t)
	w.change = func(at string, s source.Source) (plant, use source.Source) {
		if at != name {
			return s, s
		}
		s = honest(s)
		if broken {
			return s, leaky(s)
		}
		return s, s
	}
	if err := app.Migrate(t.Context(), app.Options{Overlay: []byte(overlay), DataDir: t.TempDir()}, func(app.Step) {}); err != nil {
		t.Fatal(err)
	}
	a := openApp(t, app.Options{Overlay: []byte(overlay)})
	if got := a.Config().Sources[name].Kind; got != kind {
		t.Fatalf("the source %s is of kind %s", name, got)
	}
	canaries := isolation.Plant(t.Context(), isolation.Field{Sources: w.sources, Samples: demo.Companies()[demo.Acme]}, tenants, isolation.NewKey())
	for _, p := range canaries.Plants {
		if p.Failed != "" {
			t.Errorf("%s: %s", p.Source, p.Failed)
		}
	}
	return prove(t, isolation.Config{Storm: 3}, isolation.Deps{Target: direct(t, a), Canaries: canaries})
}

// proves reports whether a tool of the source is proven.
func proves(r isolation.Report, name string) bool {
	return slices.ContainsFunc(r.Controls, func(c isolation.Control) bool { return c.Source == name && c.Status == isolation.Proven })
}
