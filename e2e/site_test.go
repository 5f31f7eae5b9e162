package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// files are a copy of the shipped configuration.
type files struct {
	t   *testing.T
	dir string
}

// site copies the shipped configuration, changes it, and returns the main file.
func site(t *testing.T, change func(files)) string {
	t.Helper()
	f := files{t, t.TempDir()}
	if err := os.CopyFS(f.dir, os.DirFS(filepath.Join("..", "config"))); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(f)
	}
	return filepath.Join(f.dir, "atlas.yaml")
}

func (f files) read(name string) string {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(data)
}

// write replaces a file whole, as an editor does.
func (f files) write(name, text string) {
	f.t.Helper()
	tmp := filepath.Join(f.dir, name+".new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f files) replace(name, old, with string) {
	f.t.Helper()
	text := f.read(name)
	if strings.Count(text, old) != 1 {
		f.t.Fatalf("%q does not stand once in %s", old, name)
	}
	f.write(name, strings.Replace(text, old, with, 1))
}
