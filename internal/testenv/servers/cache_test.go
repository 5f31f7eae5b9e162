//go:build unix

package servers

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// fetched is a kind whose files are made by fetch.
func fetched(name, version, pins string, fetch func(context.Context, *fetcher) error) Kind {
	return Kind{Name: name, Files: Package{name: name, version: version, pins: func() string { return pins }, fetch: fetch}}
}

func write(text string) func(context.Context, *fetcher) error {
	return func(_ context.Context, f *fetcher) error {
		return os.WriteFile(filepath.Join(f.files, "file"), []byte(text), 0o600)
	}
}

func TestFetchKeepsByVersionAndPins(t *testing.T) {
	cache := &Cache{dir: filepath.Join(t.TempDir(), "cache")}
	for _, k := range []Kind{
		fetched("a", "1", "p", write("1")), fetched("a", "2", "p", write("2")), fetched("a", "2", "q", write("3")), fetched("b", "2", "q", write("4")),
	} {
		if _, err := cache.Find(k); err == nil || !strings.Contains(err.Error(), "stack fetch") {
			t.Fatalf("%s was found before it was fetched: %v", k.Name, err)
		}
		if err := cache.Fetch(t.Context(), []Kind{k}, t.Output()); err != nil {
			t.Fatal(err)
		}
	}
	again := fetched("a", "2", "p", func(context.Context, *fetcher) error { return errors.New("fetched again") })
	if err := cache.Fetch(t.Context(), []Kind{again}, t.Output()); err != nil {
		t.Fatal(err)
	}
	dir, err := cache.Find(again)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "file")); string(data) != "2" {
		t.Errorf("it holds %q, %v", data, err)
	}
}

func TestFailedFetchLeavesNothing(t *testing.T) {
	cache := &Cache{dir: t.TempDir()}
	half := fetched("a", "1", "", func(ctx context.Context, f *fetcher) error {
		return errors.Join(write("half")(ctx, f), errors.New("the line is dead"))
	})
	err := cache.Fetch(t.Context(), []Kind{half}, t.Output())
	if err == nil || !strings.Contains(err.Error(), "fetch a: the line is dead") {
		t.Errorf("the error is %v", err)
	}
	if _, err := cache.Find(half); err == nil {
		t.Error("half of it is found")
	}
	entries, err := os.ReadDir(cache.Dir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestFetchOnceForAll(t *testing.T) {
	dir := t.TempDir()
	var count atomic.Int32
	k := fetched("a", "1", "", func(ctx context.Context, f *fetcher) error {
		count.Add(1)
		return write("x")(ctx, f)
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := (&Cache{dir: dir}).Fetch(t.Context(), []Kind{k}, t.Output()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// As of one that found it missing, and then had to wait for the lock.
	if err := (&Cache{dir: dir}).fetch(t.Context(), k, t.Output()); err != nil {
		t.Error(err)
	}
	if n := count.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
}

func TestFetchListsAllThatIsMissing(t *testing.T) {
	cache := &Cache{dir: t.TempDir()}
	never := func(context.Context, *fetcher) error { t.Error("fetched"); return nil }
	a, b := fetched("a", "1", "", never), fetched("b", "1", "", never)
	a.Files.needs = []need{
		{name: "atlas-no-such-program", remedy: "make one"},
		{name: "sh", remedy: "there is one"},
	}
	b.Files.needs = []need{{name: "fire", check: func(context.Context) error { return errors.New("it is out") }, remedy: "light it"}}
	err := cache.Fetch(t.Context(), []Kind{a, b}, t.Output())
	if err == nil {
		t.Fatal("nothing was missing")
	}
	want := "the servers need what is not here:\n  atlas-no-such-program is not on the PATH; make one\n  fire: it is out; light it"
	if err.Error() != want {
		t.Errorf("the error is\n%v\nnot\n%s", err, want)
	}
}

// Of one that was fetched, only what it takes to run it must be there.
func TestFetchedNeedsOnlyWhatRunsIt(t *testing.T) {
	cache := &Cache{dir: t.TempDir()}
	k := fetched("a", "1", "", write("x"))
	if err := cache.Fetch(t.Context(), []Kind{k}, t.Output()); err != nil {
		t.Fatal(err)
	}
	k.Files.needs = []need{{name: "atlas-no-such-program", remedy: "make one"}}
	if err := cache.Fetch(t.Context(), []Kind{k}, t.Output()); err != nil {
		t.Error(err)
	}
	k.Files.needs[0].toRun = true
	if err := cache.Fetch(t.Context(), []Kind{k}, t.Output()); err == nil {
		t.Error("it cannot be run")
	}
}

func TestInstalledIsNotFetched(t *testing.T) {
	k := fetched("a", "1", "", func(context.Context, *fetcher) error { return errors.New("fetched") })
	k.Files.installed = func() string { return "/there" }
	cache := &Cache{dir: t.TempDir()}
	if err := cache.Fetch(t.Context(), []Kind{k}, t.Output()); err != nil {
		t.Error(err)
	}
	if dir, err := cache.Find(k); dir != "/there" || err != nil {
		t.Errorf("it is found at %q, %v", dir, err)
	}
}

func TestFetcherSaysWhatWentWrong(t *testing.T) {
	for script, want := range map[string]string{
		"echo strange; exit 3": "sh: exit status 3\nstrange",
		"echo 'dial tcp: lookup example.invalid: no such host'; exit 1": "The package registry cannot be reached",
	} {
		err := fetched("a", "1", "", func(ctx context.Context, f *fetcher) error { return f.run(ctx, nil, "sh", "-c", script) }).
			Files.fetch(t.Context(), &fetcher{tmp: t.TempDir(), env: os.Environ()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v", script, err)
		}
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	marker := filepath.Join(t.TempDir(), "child")
	k := fetched("a", "1", "", func(ctx context.Context, f *fetcher) error {
		go func() {
			_ = until(t.Context(), func() bool { data, err := os.ReadFile(marker); return err == nil && len(data) > 1 })
			cancel()
		}()
		// The one that is started hears nothing; its child even less.
		return f.run(ctx, nil, "sh", "-c", `trap "" TERM INT; sleep 1000 & echo $! >"$0"; wait`, marker)
	})
	if err := (&Cache{dir: t.TempDir(), env: os.Environ()}).Fetch(ctx, []Kind{k}, t.Output()); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	data, err := os.ReadFile(marker)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	if err := until(t.Context(), func() bool { return identity(child) == "" }); err != nil {
		t.Errorf("process %d is left: %v", child, err)
	}
}

func TestLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Lock(ended, file); !errors.Is(err, context.Canceled) {
		t.Errorf("a second holder got %v", err)
	}
	got := make(chan error, 1)
	go func() {
		again, err := Lock(t.Context(), file)
		if err == nil {
			again()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Errorf("a second holder got %v", err)
	default:
	}
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if _, err := Lock(t.Context(), filepath.Join(file, "below a file")); err == nil {
		t.Error("locked what cannot be")
	}
}

func TestUnzip(t *testing.T) {
	for _, tc := range []struct {
		name, bad string
		entries   map[string]os.FileMode
		folders   []string
		want      []string
	}{
		{
			name:    "only what is asked for, with modes",
			entries: map[string]os.FileMode{"a/bin/x": 0o700, "a/y": 0o600, "a/z": 0o644, "bin/l": 0o755, "ya": 0o644},
			folders: []string{"bin/", "y"}, want: []string{"bin/x -rwxr--r--", "y -rw-r--r--"},
		},
		{name: "a folder that is not there", entries: map[string]os.FileMode{"a/x": 0o600}, folders: []string{"x", "b"}, bad: "there is no a/b"},
		{name: "a way out", entries: map[string]os.FileMode{"a/../x": 0o600}, folders: []string{".."}, bad: "a/../x"},
		{name: "a link", entries: map[string]os.FileMode{"a/x": 0o777 | os.ModeSymlink}, folders: []string{"x"}, bad: "there is no a/x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), "a.zip")
			f, err := os.Create(archive)
			if err != nil {
				t.Fatal(err)
			}
			z := zip.NewWriter(f)
			for name, mode := range tc.entries {
				h := &zip.FileHeader{Name: name}
				h.SetMode(mode)
				w, err := z.CreateHeader(h)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(w, "/etc/passwd")
			}
			if err := errors.Join(z.Close(), f.Close()); err != nil {
				t.Fatal(err)
			}
			to := t.TempDir()
			err = unzip(archive, to, "a/", tc.folders...)
			if tc.bad != "" {
				if err == nil || !strings.Contains(err.Error(), tc.bad) {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			err = filepath.Walk(to, func(p string, info os.FileInfo, err error) error {
				if err == nil && !info.IsDir() {
					rel, _ := filepath.Rel(to, p)
					got = append(got, rel+" "+info.Mode().String())
				}
				return err
			})
			if err != nil || strings.Join(got, ",") != strings.Join(tc.want, ",") {
				t.Errorf("it holds %v, %v; not %v", got, err, tc.want)
			}
		})
	}
}

func TestHashFolderSeesNamesAndContents(t *testing.T) {
	seen := map[string]string{}
	for _, files := range []map[string]string{{"a": "1", "b": "2"}, {"a": "2", "b": "1"}, {"a": "1", "c": "2"}, {"a": "1"}, {"a": "12", "b": ""}} {
		dir := t.TempDir()
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := hashFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		if other, twice := seen[sum]; twice {
			t.Errorf("%v hashes as %s", files, other)
		}
		seen[sum] = fmt.Sprint(files)
	}
}

func TestUnpackedProgram(t *testing.T) {
	system, debian := t.TempDir(), t.TempDir()
	for _, f := range []string{
		filepath.Join(system, "server"), filepath.Join(debian, "usr/sbin/server"), filepath.Join(debian, "usr/lib/x86_64-linux-gnu/libx.so.1"),
	} {
		if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if c := unpacked(Place{Files: system}, "server", "-x"); c.Path != filepath.Join(system, "server") || len(c.Env) != 0 || c.Args[0] != "-x" {
		t.Errorf("the system's is run as %+v", c)
	}
	c := unpacked(Place{Files: debian}, "server")
	if want := "LD_LIBRARY_PATH=" + filepath.Join(debian, "usr/lib/x86_64-linux-gnu"); c.Path != filepath.Join(debian, "usr/sbin/server") || c.Env[0] != want {
		t.Errorf("the unpacked one is run as %+v", c)
	}
}
