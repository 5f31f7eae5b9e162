package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/sqlite"
	"github.com/atlas-mcp/atlas/internal/state/statetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openFile(t *testing.T, path string, limits state.Limits) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Limits: limits}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	statetest.Run(t, func(t *testing.T, limits state.Limits) (state.Store, func() state.Store) {
		// The name holds what a URI would take for its own.
		path := filepath.Join(t.TempDir(), "a dir #1?x=%41", "state.db")
		return openFile(t, path, limits), func() state.Store { return openFile(t, path, limits) }
	})
}

func TestFileModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "state.db")
	s := openFile(t, path, state.Limits{})
	if _, err := s.CompareAndSet(t.Context(), "a", "k", 0, []byte("v"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"": 0o700, "state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600} {
		info, err := os.Stat(filepath.Join(filepath.Dir(path), name))
		if err != nil {
			t.Error(err)
		} else if got := info.Mode().Perm(); got != want {
			t.Errorf("%q has mode %o, want %o", name, got, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	openFile(t, path, state.Limits{})
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("a file of mode 644 was left at %o", info.Mode().Perm())
	}
}

func TestOpenTellsWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	statement := func(name, sqlText string) string {
		path := filepath.Join(dir, name)
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if _, err := db.ExecContext(t.Context(), sqlText); err != nil {
			t.Fatal(err)
		}
		return path
	}
	newer := filepath.Join(dir, "newer.db")
	if err := openFile(t, newer, state.Limits{}).Close(); err != nil {
		t.Fatal(err)
	}
	statement("newer.db", `INSERT INTO schema_version VALUES (99, 0)`)
	damaged := filepath.Join(dir, "damaged.db")
	if err := openFile(t, damaged, state.Limits{}).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(damaged, 5000); err != nil {
		t.Fatal(err)
	}

	for _, tc := range []struct{ name, path, want string }{
		{"no path", "", "path is missing"},
		{"garbage", file("garbage.db", strings.Repeat("not a database ", 100)), "restore it from a backup"},
		{"damaged", damaged, "restore it from a backup"},
		{"foreign", statement("foreign.db", `CREATE TABLE orders (id)`), "belongs to another program"},
		{"newer", newer, "newer version of Atlas"},
		{"directory", dir, "check the path"},
		{"below a file", filepath.Join(file("plain", ""), "state.db"), "check the path"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := sqlite.Open(t.Context(), sqlite.Config{Path: tc.path}, slog.New(slog.DiscardHandler))
			if err == nil {
				_ = s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.path) {
				t.Errorf("got %q, want it to hold %q and the path", err, tc.want)
			}
		})
	}
	t.Run("the foreign file is untouched", func(t *testing.T) {
		db, err := sql.Open("sqlite", filepath.Join(dir, "foreign.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		var n int
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM sqlite_schema`).Scan(&n); err != nil || n != 1 {
			t.Errorf("it has %d tables (%v), want 1", n, err)
		}
	})
}

// A file that is damaged under a running server fails calls with state_unavailable and tells
// callers nothing about the file.
func TestDamagedWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openFile(t, path, state.Limits{})
	a := statetest.Approval("acme", "alice", "d")
	if _, err := s.AddApproval(t.Context(), a, 10, 10); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if _, err := other.ExecContext(t.Context(), `DROP TABLE approval; DROP TABLE kv`); err != nil {
		t.Fatal(err)
	}
	_, _, findErr := s.FindApproval(t.Context(), a)
	_, addErr := s.AddApproval(t.Context(), a, 10, 10)
	_, setErr := s.CompareAndSet(t.Context(), "a", "k", 0, nil, time.Time{})
	for _, err := range []error{findErr, addErr, setErr} {
		if atlas.CodeOf(err) != atlas.CodeStateUnavailable {
			t.Errorf("got %v, want state_unavailable", err)
			continue
		}
		statetest.Discreet(t, err)
	}
}

// Many handles open one new file at the same moment: each finds it whole.
func TestOpenTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = s.Close() }()
			if err := s.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// The same from several processes, which also race for one compare-and-set.
func TestProcesses(t *testing.T) {
	const variable = "ATLAS_TEST_STATE"
	if path := os.Getenv(variable); path != "" {
		s := openFile(t, path, state.Limits{})
		n, err := s.CompareAndSet(t.Context(), "a", "k", 0, fmt.Append(nil, os.Getpid()), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if n != 0 {
			fmt.Println("process won")
		}
		return
	}
	path := filepath.Join(t.TempDir(), "state.db")
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		wins int
	)
	for range 4 {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcesses$", "-test.v")
			cmd.Env = append(os.Environ(), variable+"="+path)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			mu.Lock()
			defer mu.Unlock()
			wins += strings.Count(string(out), "process won")
		})
	}
	wg.Wait()
	if wins != 1 {
		t.Errorf("%d of 4 processes won, want 1", wins)
	}
}

func TestSweep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openFile(t, path, state.Limits{Keep: time.Hour})
	now := time.Now()
	for i := range 3 {
		// One expired and past keeping, one expired, one not.
		expires := now.Add(time.Duration(i-1)*30*time.Minute - 31*time.Minute)
		a := statetest.Approval("acme", "alice", fmt.Sprint(i))
		a.Expires = expires
		if _, err := s.AddApproval(t.Context(), a, 10, 10); err != nil {
			t.Fatal(err)
		}
		if _, err := s.CompareAndSet(t.Context(), "a", fmt.Sprint(i), 0, nil, expires.Add(30*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), `PRAGMA busy_timeout = 5000`); err != nil {
		t.Fatal(err)
	}
	for approvals, values := -1, -1; approvals != 2 || values != 1; {
		if err := t.Context().Err(); err != nil {
			t.Fatalf("%d approvals and %d values are left: %v", approvals, values, err)
		}
		if err := db.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM approval), (SELECT count(*) FROM kv)`).Scan(&approvals, &values); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func BenchmarkFindApproval(b *testing.B) {
	s, err := sqlite.Open(b.Context(), sqlite.Config{Path: filepath.Join(b.TempDir(), "state.db")}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	a := statetest.Approval("acme", "alice", "d")
	if _, err := s.AddApproval(b.Context(), a, 10, 10); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, found, err := s.FindApproval(b.Context(), a); !found || err != nil {
			b.Fatal(found, err)
		}
	}
}

func BenchmarkCompareAndSet(b *testing.B) {
	s, err := sqlite.Open(b.Context(), sqlite.Config{Path: filepath.Join(b.TempDir(), "state.db")}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var version int64
	b.ReportAllocs()
	for b.Loop() {
		if version, err = s.CompareAndSet(b.Context(), "a", "k", version, []byte("value"), time.Time{}); version == 0 || err != nil {
			b.Fatal(version, err)
		}
	}
}
