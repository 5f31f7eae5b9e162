package folder_test

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/folder"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ source.Config      = (*folder.Config)(nil)
	_ source.ObjectStore = (*folder.Folder)(nil)
	_ source.Loader      = (*folder.Folder)(nil)
)

func openIn(t testing.TB, dir string) source.Source {
	t.Helper()
	src, err := (&folder.Config{MaxObjectBytes: 64 << 10}).Open(t.Context(), source.Deps{Name: "files", DataDir: dir})
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
		MaxObjectBytes: 64 << 10,
		Open: func(t *testing.T, data map[atlas.TenantID]source.Data) source.Source {
			t.Helper()
			return sourcetest.Load(t, openIn(t, filepath.Join(t.TempDir(), sourcetest.Marker)), data)
		},
	}, sourcetest.ObjectStore)
}
