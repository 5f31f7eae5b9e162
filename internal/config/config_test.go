package config_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas/internal/config"
)

type inner struct {
	Every time.Duration `yaml:"every"`
	Name  string        `yaml:"name"`
	Size  int           `yaml:"size"`
}

type outer struct {
	In   inner             `yaml:"in"`
	With config.Node       `yaml:"with"`
	More map[string]string `yaml:"more"`
}

var resolver = config.Resolver{
	Env: func(name string) (string, bool) {
		v, ok := map[string]string{"HOST": "db.internal", "PORT": "5432"}[name]
		return v, ok
	},
	File: func(path string) ([]byte, error) {
		if path == "/run/secret" {
			return []byte("s3cret\n"), nil
		}
		return nil, errors.New("no such file")
	},
}

func TestDecode(t *testing.T) {
	var v outer
	err := config.Decode("a.yaml", []byte("in: {every: 30s, name: '${env:HOST}:${env:PORT}'}\nmore: {k: '${file:/run/secret}', d: '${env:NONE:-x y}'}\nwith: {size: 3}\n"), resolver, &v)
	if err != nil {
		t.Fatal(err)
	}
	if v.In.Every != 30*time.Second || v.In.Name != "db.internal:5432" || v.More["k"] != "s3cret" || v.More["d"] != "x y" {
		t.Errorf("got %+v", v)
	}
	var with inner
	if err := config.DecodeNode("a.yaml", v.With, &with); err != nil || with.Size != 3 {
		t.Errorf("with: %+v, %v", with, err)
	}
}

func TestMistakesNamePlaceAndRemedy(t *testing.T) {
	for name, test := range map[string]struct{ file, place, text string }{
		"unknown field":   {"in:\n  wrong: x\n", "a.yaml:2:3", `unknown field "wrong"`},
		"bad duration":    {"in:\n  every: 3 parsecs\n", "a.yaml:2:10", "write 500ms, 30s, 5m or 1h"},
		"bare number":     {"in:\n  every: 30\n", "a.yaml:2:10", "is not a duration"},
		"wrong type":      {"in:\n  size: many\n", "a.yaml:2:9", "cannot unmarshal"},
		"no such env":     {"in:\n  name: ${env:NONE}\n", "a.yaml:2:9", "NONE is not set"},
		"no such file":    {"in:\n  name: ${file:/nope}\n", "a.yaml:2:9", "no such file"},
		"odd reference":   {"in:\n  name: ${vault:x}\n", "a.yaml:2:9", "use ${env:NAME} or ${file:PATH}"},
		"syntax":          {"in:\n  name: [\n", "a.yaml:", ""},
		"empty":           {"", "a.yaml", "says nothing"},
		"comments":        {"# a\n# b\n", "a.yaml", "says nothing"},
		"null":            {"~\n", "a.yaml", "says nothing"},
		"two documents":   {"in: {}\n---\nin: {}\n", "a.yaml", "more than one"},
		"duplicate key":   {"in: {}\nin: {}\n", "a.yaml:2:1", "already defined"},
		"sequence at top": {"- 1\n", "a.yaml:1:", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var v outer
			err := config.Decode("a.yaml", []byte(test.file), resolver, &v)
			if err == nil {
				t.Fatalf("no error; got %+v", v)
			}
			if !strings.HasPrefix(err.Error(), test.place) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %q, want %q … %q", err, test.place, test.text)
			}
		})
	}
}

// What stands beside a mistake may be a secret, also one that was filled in.
func TestMistakesShowNoSecrets(t *testing.T) {
	for name, file := range map[string]string{
		"before":       "more:\n  secret: swordfish\nin:\n  size: many\n",
		"after":        "in:\n  size: many\nmore:\n  secret: swordfish\n",
		"in the place": "in:\n  name: [swordfish]\n",
		"syntax":       "more:\n  secret: swordfish\n bad: [swordfish\n",
		"duplicate":    "more:\n  secret: swordfish\n  secret: swordfish\n",
		"filled in":    "more:\n  secret: ${file:/run/secret}\nin:\n  size: many\n",
	} {
		t.Run(name, func(t *testing.T) {
			var v outer
			err := config.Decode("a.yaml", []byte(file), resolver, &v)
			if err == nil {
				t.Fatal("no error")
			}
			for _, secret := range []string{"swordfish", "s3cret"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the secret is in %q", err)
				}
			}
		})
	}
}

func TestShapeIsBounded(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"brackets":      {strings.Repeat("[", 500_000), "open brackets"},
		"braces":        {"in:\n  more: " + strings.Repeat("{a: ", 50_000), "open brackets"},
		"at the margin": {strings.Repeat("a: [\n", 15_000), "open brackets"},
		"and comments":  {strings.Repeat("[\n#\n", 9_000), "open brackets"},
		"lines":         {strings.Repeat("k: 1\n", 30_000), "lines; the limit"},
		"entries":       {"more: [" + strings.Repeat("*a,", 20_000) + "]", "too many fields"},
		"line":          {"in: " + strings.Repeat("x", 70_000), "line of more than"},
		"size":          {strings.Repeat("# comment\n", 200_000), "more than 1048576 bytes"},
	} {
		if err := config.CheckShape("a.yaml", []byte(test.file)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	open := "in: {name: '['}\n" // brackets in strings count; a file may have a few hundred
	if err := config.CheckShape("a.yaml", []byte(strings.Repeat(open, 400))); err != nil {
		t.Error(err)
	}
}

func TestReadFileRefusesWhatNeverEnds(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, config.MaxBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/dev/zero": "not a regular file", dir: "not a regular file", big: "more than", filepath.Join(dir, "none"): "no such file",
	} {
		if _, err := config.ReadFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestMistakeInNodeKeepsItsLine(t *testing.T) {
	var v outer
	if err := config.Decode("a.yaml", []byte("in: {}\nwith:\n  size: 1\n  szie: 2\n"), resolver, &v); err != nil {
		t.Fatal(err)
	}
	err := config.DecodeNode("a.yaml", v.With, new(inner))
	if err == nil || !strings.HasPrefix(err.Error(), "a.yaml:4:3") {
		t.Errorf("got %v", err)
	}
}

func TestOverlay(t *testing.T) {
	vars := []config.Variable{
		{Name: "T_EVERY", Path: "in.every"}, {Name: "T_NAME", Path: "in.name", Text: true}, {Name: "T_SIZE", Path: "in.size"},
	}
	env := func(m map[string]string) func(string) (string, bool) {
		return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
	}
	v := outer{In: inner{Name: "file", Size: 7}}
	if err := config.Overlay(vars, env(map[string]string{"T_EVERY": "2m", "T_NAME": "007: x"}), &v); err != nil {
		t.Fatal(err)
	}
	if want := (inner{2 * time.Minute, "007: x", 7}); v.In != want {
		t.Errorf("got %+v, want %+v", v.In, want)
	}
	err := config.Overlay(vars, env(map[string]string{"T_SIZE": "many"}), &v)
	if err == nil || !strings.Contains(err.Error(), "environment variable T_SIZE") {
		t.Errorf("got %v", err)
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan struct{}, 8), make(chan error, 1)
	go func() {
		done <- config.Watch(ctx, []string{file}, slog.New(slog.DiscardHandler), func() { changes <- struct{}{} })
	}()

	// The watcher starts in its own time: keep replacing the file, as editors do, until it sees it.
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for seen := false; !seen; {
		select {
		case <-changes:
			seen = true
		case <-tick.C:
			next := filepath.Join(dir, "next")
			if err := os.WriteFile(next, []byte("y"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(next, file); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("in: {every: 1s}\n"))
	f.Add([]byte("in: &a {name: x}\nmore: *a\n"))
	f.Add([]byte("with: ${env:HOST}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v outer
		if err := config.Decode("f.yaml", data, resolver, &v); err != nil && !strings.HasPrefix(err.Error(), "f.yaml") {
			t.Errorf("error without file name: %v", err)
		}
	})
}
