package folder_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/folder"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Links that somebody put into a tenant's folder lead nowhere outside of it.
func TestLinks(t *testing.T) {
	root := t.TempDir()
	src := openIn(t, root)
	s := src.(source.ObjectStore)
	for tenant, d := range sourcetest.Company() {
		must(t, src.(source.Loader).Load(t.Context(), tenant, d))
	}
	acme, secret := filepath.Join(root, "files", "acme"), filepath.Join(root, "secret")
	must(t, os.WriteFile(secret, []byte("hush"), 0o600),
		os.Symlink(secret, filepath.Join(acme, "absolute")),
		os.Symlink("../../secret", filepath.Join(acme, "relative")),
		os.Symlink("../globex", filepath.Join(acme, "neighbour")),
		os.Symlink("../globex/readme", filepath.Join(acme, "neighbours-file")),
		os.Symlink("..", filepath.Join(acme, "up")),
		os.Symlink(acme, filepath.Join(acme, "self")),
		os.Symlink("loop", filepath.Join(acme, "loop")),
		os.Symlink("acme", filepath.Join(root, "files", "initech")),
		syscall.Mkfifo(filepath.Join(acme, "pipe"), 0o600))
	for _, key := range []string{"absolute", "relative", "neighbour/readme", "neighbours-file", "up/globex/readme", "self/readme", "loop", "loop/x", "pipe"} {
		if o, err := s.Get(t.Context(), "acme", key, 0); atlas.CodeOf(err) != atlas.CodeNotFound {
			t.Errorf("get %s: got %q, %v", key, o.Content, err)
		}
	}
	for _, key := range []string{"neighbour/new", "up/new", "self/new", "neighbour/readme", "loop/new"} {
		if err := s.Put(t.Context(), "acme", key, source.Object{Content: []byte("evil")}); err == nil {
			t.Errorf("put %s: allowed", key)
		}
	}
	for _, key := range []string{"absolute", "relative", "neighbours-file"} { // replaces the link itself
		must(t, s.Put(t.Context(), "acme", key, source.Object{Content: []byte("new")}))
	}
	if data, err := os.ReadFile(secret); string(data) != "hush" {
		t.Errorf("outside: %q, %v", data, err)
	}
	if o, err := s.Get(t.Context(), "globex", "readme", 0); err != nil || !strings.Contains(string(o.Content), "belongstoglobex") {
		t.Errorf("neighbour: %q, %v", o.Content, err)
	}
	for _, prefix := range []string{"", "neighbour/", "up/", "up/globex/", "self/", "loop/", "pipe/"} {
		infos, err := s.List(t.Context(), "acme", prefix, 0)
		if err != nil {
			t.Errorf("list %s: %v", prefix, err)
		}
		for _, i := range infos {
			if strings.HasPrefix(i.Key, "neighbour/") || strings.HasPrefix(i.Key, "up/") || i.Key == "pipe" || i.Key == "loop" {
				t.Errorf("lists %s", i.Key)
			}
		}
	}
	if _, err := s.Get(t.Context(), "initech", "readme", 0); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("a tenant that is a link: %v", err)
	}
	if err := s.Put(t.Context(), "initech", "readme", source.Object{}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("a tenant that is a link: %v", err)
	}
}

func TestNothingHalfIsSeen(t *testing.T) {
	root := t.TempDir()
	s := openIn(t, root).(source.ObjectStore)
	must(t, s.Put(t.Context(), "acme", "a", source.Object{Content: []byte("x")}))
	staging := filepath.Join(root, "files", "acme", ".atlas-staging")
	must(t, os.WriteFile(filepath.Join(staging, "left-behind"), []byte("half"), 0o600))
	infos, err := s.List(t.Context(), "acme", "", 0)
	if err != nil || len(infos) != 1 || infos[0].Key != "a" {
		t.Errorf("got %v, %v", infos, err)
	}
	if _, err := s.List(t.Context(), "acme", ".atlas-staging/", 0); err != nil {
		t.Error(err)
	}
	for _, key := range []string{".atlas-staging", ".atlas-staging/left-behind", ".atlas-staging/a/b"} {
		if _, err := s.Get(t.Context(), "acme", key, 0); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("get %s: %v", key, err)
		}
		if err := s.Put(t.Context(), "acme", key, source.Object{}); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("put %s: %v", key, err)
		}
	}
	// A write that fails leaves nothing.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "acme", "b", source.Object{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for _, key := range []string{"a/b", "a/b/c"} { // "a" is in the way
		if err := s.Put(t.Context(), "acme", key, source.Object{}); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("put %s: %v", key, err)
		}
	}
	must(t, s.Put(t.Context(), "acme", "d/e", source.Object{}))
	if err := s.Put(t.Context(), "acme", "d", source.Object{}); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
		t.Errorf("put over a folder: %v", err)
	}
	entries, err := os.ReadDir(staging)
	if err != nil || len(entries) != 1 {
		t.Errorf("staging has %v, %v", entries, err)
	}
}

func TestSortedLikeKeys(t *testing.T) {
	s := openIn(t, t.TempDir()).(source.ObjectStore)
	want := []string{"a", "a!", "a-b", "a.txt", "b-1", "b/1", "b/1/x", "b0", "ü/x"}
	for _, key := range want {
		if key == "b/1/x" { // "b/1" is in the way
			continue
		}
		must(t, s.Put(t.Context(), "acme", key, source.Object{}))
	}
	want = append(want[:6:6], want[7:]...)
	infos, err := s.List(t.Context(), "acme", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range infos {
		got = append(got, i.Key)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestValidate(t *testing.T) {
	if err := (&folder.Config{}).Validate(); err != nil {
		t.Error(err)
	}
	err := (&folder.Config{MaxObjectBytes: -1, MaxList: -1}).Validate()
	for _, key := range []string{"max_object_bytes", "max_list"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
}

func FuzzKey(f *testing.F) {
	for _, key := range []string{"a", "a/b", "../x", "a/../../x", "/a", `a\..\b`, ".", "a//b", "\x00", "a/.atlas-staging", ".atlas-staging/x", "\xff", "ü", "a\u2215b", "CON", "a:b", "~", "..."} {
		f.Add(key)
	}
	root := f.TempDir()
	s := openIn(f, root).(source.ObjectStore)
	outside := filepath.Join(root, "canary")
	must(f, os.WriteFile(outside, []byte("x"), 0o600), s.Put(f.Context(), "globex", "canary", source.Object{Content: []byte("g")}))
	f.Fuzz(func(t *testing.T, key string) {
		_, gerr := s.Get(t.Context(), "acme", key, 0)
		perr := s.Put(t.Context(), "acme", key, source.Object{Content: []byte(key)})
		if perr == nil {
			o, err := s.Get(t.Context(), "acme", key, 0)
			if err != nil || string(o.Content) != key || !utf8.ValidString(key) {
				t.Errorf("%q: put, then got %q, %v", key, o.Content, err)
			}
			infos, err := s.List(t.Context(), "acme", key, 0)
			if err != nil || len(infos) == 0 || infos[0].Key != key {
				t.Errorf("%q: listed %v, %v", key, infos, err)
			}
		}
		for _, err := range []error{gerr, perr} {
			if c := atlas.CodeOf(err); c != "" && c != atlas.CodeInvalidArguments && c != atlas.CodeNotFound {
				t.Errorf("%q: code %s: %v", key, c, err)
			}
		}
		if entries, err := os.ReadDir(root); err != nil || len(entries) != 2 {
			t.Errorf("%q: outside are %v, %v", key, entries, err)
		}
		if o, err := s.Get(t.Context(), "globex", "canary", 0); err != nil || string(o.Content) != "g" {
			t.Errorf("%q: neighbour has %q, %v", key, o.Content, err)
		}
	})
}
