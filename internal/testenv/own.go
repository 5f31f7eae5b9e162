//go:build unix

package testenv

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// Start starts a server that is the test's own, which it may kill, pause and restart on its port, and
// removes it at the test's end. It needs no other server to run, only its files: see [Files].
func Start(tb testing.TB, s Server, opts servers.Options) *servers.Server {
	tb.Helper()
	cache := Files(tb, s)
	kind, _ := lookup(s)
	own, err := servers.Start(tb.Context(), cache, kind, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := own.Close(); err != nil {
			tb.Errorf("stop %s: %v", kind.Name, err)
		}
	})
	return own
}

// Files returns the cache with the files of the servers. If those of one are missing, the test is skipped, or
// fails with CI set, as with [URL].
func Files(tb testing.TB, all ...Server) *servers.Cache {
	tb.Helper()
	cache, err := servers.OpenCache(cacheDir(tb), os.Environ()) //nolint:forbidigo // programs are looked for there
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range all {
		kind, found := lookup(s)
		if !found {
			tb.Fatalf("%s is no server that can be started", s)
		}
		if _, err := cache.Find(kind); err != nil {
			absent(tb, err.Error())
		}
	}
	return cache
}

func lookup(s Server) (servers.Kind, bool) {
	for _, k := range servers.Table() {
		if k.Env == string(s) {
			return k, true
		}
	}
	return servers.Kind{}, false
}

// cacheDir returns the folder with the servers' files.
func cacheDir(tb testing.TB) string {
	tb.Helper()
	if dir := os.Getenv(Cache); dir != "" { //nolint:forbidigo // as above
		return dir
	}
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".cache")
		}
		up := filepath.Dir(dir)
		if up == dir {
			tb.Fatal("there is no go.mod above the test")
		}
		dir = up
	}
}
