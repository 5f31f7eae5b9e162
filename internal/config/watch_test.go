package config_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas/internal/config"
)

// soon bounds every wait of these tests; it says nothing about how long things take.
const soon = 20 * time.Second

// watching is a Watch that runs: what it told and logged.
type watching struct {
	changes chan struct{}
	mu      sync.Mutex
	logged  []slog.Level
	ready   chan struct{}
}

func (*watching) Enabled(context.Context, slog.Level) bool { return true }
func (w *watching) WithAttrs([]slog.Attr) slog.Handler     { return w }
func (w *watching) WithGroup(string) slog.Handler          { return w }

func (w *watching) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Level == slog.LevelDebug {
		close(w.ready) // once: a second one would panic
		return nil
	}
	w.logged = append(w.logged, r.Level)
	return nil
}

func (w *watching) levels() []slog.Level {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.logged)
}

// watch starts a Watch and returns when it watches.
func watch(t *testing.T, files ...string) *watching {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	w := &watching{changes: make(chan struct{}, 1024), ready: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- config.Watch(ctx, files, slog.New(w), func() { w.changes <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
		goleak.VerifyNone(t, leaks)
	})
	await(t, w.ready, "the watch to start")
	return w
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(soon):
		t.Fatalf("waited %v for %s", soon, what)
	}
}

// eventually polls until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(soon); !cond(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited %v for %s", soon, what)
		}
	}
}

func put(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// keepWriting writes path over and over, far faster than the watch settles, until the test ends.
func keepWriting(t *testing.T, path string) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

// Whoever may write into the folder must not be able to hold back a change, such as a revoked right.
func TestWatchIsNotStarved(t *testing.T) {
	for _, neighbour := range []string{"access.log", "other.yaml"} {
		t.Run(neighbour, func(t *testing.T) {
			dir := t.TempDir()
			policy := filepath.Join(dir, "policy.yaml")
			put(t, policy)
			put(t, filepath.Join(dir, neighbour))
			keepWriting(t, filepath.Join(dir, neighbour))
			w := watch(t, policy)
			for range 2 { // the second wait must be as bounded as the first
				put(t, policy)
				await(t, w.changes, "the change beside a busy neighbour")
			}
		})
	}
}

func TestWatchIgnoresOthers(t *testing.T) {
	root := t.TempDir()
	policy := filepath.Join(root, "k", "policy.yaml")
	put(t, policy)
	w := watch(t, policy)
	tick := time.NewTicker(400 * time.Millisecond) // longer than it takes to settle
	defer tick.Stop()
	for _, other := range []string{"k/access.log", "k/policy.yaml~", "k/sub/a.yaml", "beside.yaml", "..beside"} {
		put(t, filepath.Join(root, other))
		<-tick.C
	}
	if n := len(w.changes); n != 0 {
		t.Errorf("%d reloads for files that are none of the configuration", n)
	}
	put(t, policy)
	await(t, w.changes, "the change of the file itself")
}

func TestWatchSees(t *testing.T) {
	tests := []struct {
		name  string
		setup func(t *testing.T, root string) (file string)
		act   func(t *testing.T, root string)
	}{
		{
			"a file without the usual ending",
			func(t *testing.T, root string) string { put(t, root+"/k/token"); return root + "/k/token" },
			func(t *testing.T, root string) { put(t, root+"/k/token") },
		},
		{
			"a file replaced by renaming",
			func(t *testing.T, root string) string { put(t, root+"/k/a.yaml"); return root + "/k/a.yaml" },
			func(t *testing.T, root string) {
				put(t, root+"/next")
				do(t, os.Rename(root+"/next", root+"/k/a.yaml"))
			},
		},
		{
			"a new YAML file",
			func(t *testing.T, root string) string { put(t, root+"/k/a.yaml"); return root + "/k/a.yaml" },
			func(t *testing.T, root string) { put(t, root+"/k/b.yml") },
		},
		{
			"a removed YAML file",
			func(t *testing.T, root string) string {
				put(t, root+"/k/a.yaml")
				put(t, root+"/k/b.yaml")
				return root + "/k/a.yaml"
			},
			func(t *testing.T, root string) { do(t, os.Remove(root+"/k/b.yaml")) },
		},
		{
			"a Kubernetes volume", func(t *testing.T, root string) string { return volume(t, root, "k/a.conf") },
			swap,
		},
		{
			"a Kubernetes volume with folders", func(t *testing.T, root string) string { return volume(t, root, "k/tools/a.conf") },
			swap,
		},
		{
			"a file behind a link to another folder",
			func(t *testing.T, root string) string {
				put(t, root+"/far/real.conf")
				put(t, root+"/k/b.yaml")
				do(t, os.Symlink(root+"/far/real.conf", root+"/k/a.yaml"))
				return root + "/k/a.yaml"
			},
			func(t *testing.T, root string) { put(t, root+"/far/real.conf") },
		},
		{
			"a file in a folder behind a link",
			func(t *testing.T, root string) string {
				put(t, root+"/far/a.conf")
				do(t, os.Symlink("far", root+"/k"))
				return root + "/k/a.conf"
			},
			func(t *testing.T, root string) { put(t, root+"/far/a.conf") },
		},
		{
			"a link to a folder that is turned",
			func(t *testing.T, root string) string {
				put(t, root+"/v1/a.yaml")
				put(t, root+"/v2/a.yaml")
				do(t, os.Symlink("v1", root+"/k"))
				return root + "/k/a.yaml"
			},
			func(t *testing.T, root string) {
				do(t, os.Symlink("v2", root+"/k.next"))
				do(t, os.Rename(root+"/k.next", root+"/k"))
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			w := watch(t, tt.setup(t, root))
			tt.act(t, root)
			await(t, w.changes, "the change")
		})
	}
}

// volume lays files out as Kubernetes does: k/<first> links to ..data/<first>, and ..data to a version.
func volume(t *testing.T, root, file string) string {
	t.Helper()
	rel, err := filepath.Rel("k", file)
	do(t, err)
	for _, version := range []string{"..1", "..2"} {
		put(t, filepath.Join(root, "k", version, rel))
	}
	top := rel
	if dir := filepath.Dir(rel); dir != "." {
		top = dir
	}
	do(t, os.Symlink("..1", root+"/k/..data"))
	do(t, os.Symlink("..data/"+top, filepath.Join(root, "k", top)))
	return filepath.Join(root, file)
}

func swap(t *testing.T, root string) {
	t.Helper()
	do(t, os.Symlink("..2", root+"/k/..data_tmp"))
	do(t, os.Rename(root+"/k/..data_tmp", root+"/k/..data"))
	do(t, os.RemoveAll(root+"/k/..1"))
}

// A folder that is replaced, or one above it, is followed: what is written into the new one is seen.
func TestWatchFollowsReplacedFolder(t *testing.T) {
	for _, moved := range []string{"a/b/k", "a/b", "a"} {
		t.Run(moved, func(t *testing.T) {
			root := t.TempDir()
			file, top := filepath.Join(root, "a/b/k/policy.yaml"), filepath.Join(root, moved)
			put(t, file)
			w := watch(t, file)

			do(t, os.Rename(top, top+".old"))
			eventually(t, "the loss to be logged", func() bool { return slices.Equal(w.levels(), []slog.Level{slog.LevelError}) })
			if n := len(w.changes); n != 0 {
				t.Errorf("%d reloads while the folder is gone", n)
			}
			do(t, os.CopyFS(top, os.DirFS(top+".old")))
			await(t, w.changes, "the call after the folder is back")
			if got, want := w.levels(), []slog.Level{slog.LevelError, slog.LevelInfo}; !slices.Equal(got, want) {
				t.Errorf("logged %v, want %v", got, want)
			}
			written(t, w, file)
		})
	}
}

func TestWatchFollowsFolderSwappedAtOnce(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, k string){
		"moved": func(t *testing.T, k string) { do(t, os.Rename(k, k+".old")); put(t, k+"/policy.yaml") },
		// The identity is the same, but the kernel no longer tells.
		"moved away and back": func(t *testing.T, k string) { do(t, os.Rename(k, k+".old")); do(t, os.Rename(k+".old", k)) },
		// The new folder may well have the inode number of the old one.
		"removed": func(t *testing.T, k string) { do(t, os.RemoveAll(k)); put(t, k+"/policy.yaml") },
	} {
		t.Run(name, func(t *testing.T) {
			k := filepath.Join(t.TempDir(), "k")
			put(t, k+"/policy.yaml")
			w := watch(t, k+"/policy.yaml")
			for range 2 {
				replace(t, k)
				do(t, os.RemoveAll(k+".old"))
				await(t, w.changes, "the call after the swap")
				written(t, w, k+"/policy.yaml")
			}
		})
	}
}

// written fails unless writes of the file are seen. What is still under way from before may be told
// first, so it writes, each time after a call, more often than that could account for.
func written(t *testing.T, w *watching, file string) {
	t.Helper()
	for range 3 {
		put(t, file)
		await(t, w.changes, "a write into the new folder")
	}
}

func TestWatchRefusesMissingFolder(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	err := config.Watch(t.Context(), []string{filepath.Join(t.TempDir(), "no", "a.yaml")}, slog.New(slog.DiscardHandler), func() {})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that it does not exist", err)
	}
}
