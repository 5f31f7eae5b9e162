package fts_test

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/fts"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ source.Config   = (*fts.Config)(nil)
	_ source.Searcher = (*fts.Index)(nil)
	_ source.Loader   = (*fts.Index)(nil)
)

func openWith(t testing.TB, cfg fts.Config, dir string) source.Source {
	t.Helper()
	src, err := cfg.Open(t.Context(), source.Deps{Name: "tickets", DataDir: dir})
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
	return sourcetest.Load(t, openWith(t, fts.Config{}, filepath.Join(t.TempDir(), sourcetest.Marker)), data)
}

func TestContract(t *testing.T) {
	sourcetest.Run(t, sourcetest.Harness{Open: open}, sourcetest.Searcher)
}
