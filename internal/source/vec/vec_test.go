package vec_test

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
	"github.com/atlas-mcp/atlas/internal/source/vec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ source.Config      = (*vec.Config)(nil)
	_ source.VectorIndex = (*vec.Index)(nil)
	_ source.Loader      = (*vec.Index)(nil)
)

func openWith(t testing.TB, cfg vec.Config, embed source.Embedder, dir string) source.Source {
	t.Helper()
	src, err := cfg.Open(t.Context(), source.Deps{Name: "kb", DataDir: dir, Embed: embed})
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

func TestContract(t *testing.T) {
	sourcetest.Run(t, sourcetest.Harness{
		OpenEmbed: func(t *testing.T, embed source.Embedder, data map[atlas.TenantID]source.Data) source.Source {
			t.Helper()
			return sourcetest.Load(t, openWith(t, vec.Config{}, embed, filepath.Join(t.TempDir(), sourcetest.Marker)), data)
		},
	}, sourcetest.VectorIndex)
}
