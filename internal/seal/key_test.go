package seal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/atlas-mcp/atlas/internal/seal"
)

func TestLoadKey(t *testing.T) {
	p := filepath.Join(t.TempDir(), "state", "cursor.key")
	keys := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = seal.LoadKey(p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if len(k) != 32 || !bytes.Equal(k, keys[0]) {
			t.Fatalf("keys differ: %x, %x", k, keys[0])
		}
	}
	if names, err := os.ReadDir(filepath.Dir(p)); err != nil || len(names) != 1 {
		t.Errorf("files left: %v, %v", names, err)
	}
	if err := os.Chmod(p, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.LoadKey(p); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("a key that others may read: %v", err)
	}
	bad := filepath.Join(t.TempDir(), "k")
	if err := os.WriteFile(bad, []byte("xyz"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.LoadKey(bad); err == nil || strings.Contains(err.Error(), "xyz") {
		t.Errorf("a broken key: %v", err)
	}
}
