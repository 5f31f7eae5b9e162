package sqlitefile_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/sqlitefile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStore(t testing.TB, opt sqlitefile.Options) *sqlitefile.Store {
	t.Helper()
	s, err := sqlitefile.New(opt)
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

// write makes the tenant's file hold one text.
func write(t testing.TB, s *sqlitefile.Store, tenant atlas.TenantID, text string) {
	t.Helper()
	err := s.Update(t.Context(), tenant, func(c *sqlitefile.Conn) error {
		return errors.Join(c.Exec(`CREATE TABLE IF NOT EXISTS t (x TEXT)`), c.Exec(`DELETE FROM t`), c.Exec(`INSERT INTO t VALUES (?)`, text))
	})
	if err != nil {
		t.Fatalf("%s: %v", tenant, err)
	}
}

func read(ctx context.Context, s *sqlitefile.Store, tenant atlas.TenantID) (text string, err error) {
	err = s.View(ctx, tenant, func(c *sqlitefile.Conn) error {
		_, err := c.Query(`SELECT x FROM t`, nil, func(v []driver.Value) (bool, error) {
			text, _ = v[0].(string)
			return true, nil
		})
		return err
	})
	return text, err
}

func TestViewsCannotWriteAndCreateNothing(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, sqlitefile.Options{Dir: dir})
	if _, err := read(t.Context(), s, "acme"); !errors.Is(err, sqlitefile.ErrAbsent) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("asking left %v, %v", entries, err)
	}
	write(t, s, "acme", "x")
	for _, stmt := range []string{`DELETE FROM t`, `CREATE TABLE u (y)`, `PRAGMA query_only = 0; DELETE FROM t`, `CREATE TEMP TABLE u (y)`} {
		if err := s.View(t.Context(), "acme", func(c *sqlitefile.Conn) error { return c.Exec(stmt) }); err == nil {
			// A temporary table of one call must not be there for the next: query_only forbids it.
			t.Errorf("%s: allowed", stmt)
		}
	}
	if got, err := read(t.Context(), s, "acme"); got != "x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	info, err := os.Stat(filepath.Join(dir, "acme.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestFewFilesAreOpen(t *testing.T) {
	s := newStore(t, sqlitefile.Options{Dir: t.TempDir(), MaxTenants: 2, MaxConns: 1})
	tenants := []atlas.TenantID{"a", "b", "c", "d", "e"}
	for _, tenant := range tenants {
		write(t, s, tenant, "of "+string(tenant))
	}
	var wg sync.WaitGroup
	for g := range 10 {
		wg.Go(func() {
			for i := range 20 {
				tenant := tenants[(g+i)%len(tenants)]
				if got, err := read(t.Context(), s, tenant); err != nil || got != "of "+string(tenant) {
					t.Errorf("%s: got %q, %v", tenant, got, err)
				}
			}
		})
	}
	wg.Wait()

	// With all places in use the next one waits, until its context ends or a place is free.
	in, out := make(chan struct{}), make(chan struct{})
	for _, tenant := range tenants[:2] {
		wg.Go(func() {
			err := s.View(t.Context(), tenant, func(*sqlitefile.Conn) error {
				in <- struct{}{}
				<-out
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	<-in
	<-in
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := read(ctx, s, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	got := make(chan string)
	go func() {
		text, err := read(context.Background(), s, "c")
		got <- fmt.Sprint(text, err)
	}()
	close(out)
	if text := <-got; text != "of c<nil>" {
		t.Errorf("got %s", text)
	}
	wg.Wait()
}

func TestReplacedFilesAreSeen(t *testing.T) {
	dir := t.TempDir()
	s, other := newStore(t, sqlitefile.Options{Dir: dir}), newStore(t, sqlitefile.Options{Dir: t.TempDir()})
	write(t, s, "acme", "old")
	if got, _ := read(t.Context(), s, "acme"); got != "old" {
		t.Fatalf("got %q", got)
	}
	if err := os.Remove(filepath.Join(dir, "acme.db")); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t.Context(), s, "acme"); !errors.Is(err, sqlitefile.ErrAbsent) {
		t.Errorf("removed: got %q, %v", got, err)
	}
	write(t, s, "acme", "new")
	if got, err := read(t.Context(), s, "acme"); got != "new" || err != nil {
		t.Errorf("replaced: got %q, %v", got, err)
	}
	// A link could lead to another tenant's file.
	write(t, other, "globex", "secret")
	for _, target := range []string{filepath.Join(dir, "acme.db"), "acme.db"} {
		link := filepath.Join(dir, "globex.db")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if got, err := read(t.Context(), s, "globex"); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("link: got %q, %v", got, err)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
	// A writer that has just begun.
	if err := os.WriteFile(filepath.Join(dir, "initech.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t.Context(), s, "initech"); !errors.Is(err, sqlitefile.ErrAbsent) {
		t.Errorf("empty file: %v", err)
	}
	// What is no database.
	if err := os.WriteFile(filepath.Join(dir, "broken.db"), []byte("this is no database, but long enough to be read as one …"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := read(t.Context(), s, "broken")
	if got := atlas.CodeOf(sqlitefile.Failure(t.Context(), err)); got != atlas.CodeSourceError {
		t.Errorf("broken file: %s (%v)", got, err)
	}
}

// A writer that dies in the middle leaves a journal. Readers cannot roll it back, so the store does.
func TestDeadWriter(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, sqlitefile.Options{Dir: dir})
	write(t, s, "acme", "committed")
	path := filepath.Join(dir, "acme.db")
	boom := errors.New("boom")
	var db, journal []byte
	err := s.Update(t.Context(), "acme", func(c *sqlitefile.Conn) error {
		// A small cache makes SQLite write to the file before the commit.
		if err := errors.Join(c.Exec(`PRAGMA cache_size = 1`), c.Exec(`UPDATE t SET x = 'half'`),
			c.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO t SELECT hex(randomblob(50)) FROM n`)); err != nil {
			return err
		}
		var e1, e2 error
		db, e1 = os.ReadFile(path)
		journal, e2 = os.ReadFile(path + "-journal")
		return errors.Join(boom, e1, e2)
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	for _, open := range []bool{false, true} { // before and after the file is first opened
		if open {
			if got, err := read(t.Context(), s, "acme"); got != "committed" || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		if err := errors.Join(os.WriteFile(path, db, 0o600), os.WriteFile(path+"-journal", journal, 0o600)); err != nil {
			t.Fatal(err)
		}
		got, err := read(t.Context(), s, "acme")
		if open && err != nil { // the open connection finds the journal; the next call mends it
			if c := atlas.CodeOf(sqlitefile.Failure(t.Context(), err)); c != atlas.CodeSourceUnavailable {
				t.Errorf("code %s: %v", c, err)
			}
			got, err = read(t.Context(), s, "acme")
		}
		if got != "committed" || err != nil {
			t.Errorf("open %v: got %q, %v", open, got, err)
		}
	}
}

func TestUpdateIsWholeOrNotAtAll(t *testing.T) {
	s := newStore(t, sqlitefile.Options{Dir: t.TempDir()})
	write(t, s, "acme", "before")
	boom := errors.New("boom")
	err := s.Update(t.Context(), "acme", func(c *sqlitefile.Conn) error {
		return errors.Join(c.Exec(`UPDATE t SET x = 'half'`), boom)
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = s.Update(ctx, "acme", func(c *sqlitefile.Conn) error {
		err := c.Exec(`UPDATE t SET x = 'half'`)
		cancel()
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got, err := read(t.Context(), s, "acme"); got != "before" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// A panic in the callback passes through SQLite without leaving its locks behind.
func TestPanic(t *testing.T) {
	s := newStore(t, sqlitefile.Options{Dir: t.TempDir(), MaxConns: 1})
	write(t, s, "acme", "x")
	func() {
		defer func() {
			if r := recover(); r != "boom" {
				t.Errorf("recovered %v", r)
			}
		}()
		_ = s.View(t.Context(), "acme", func(*sqlitefile.Conn) error { panic("boom") })
	}()
	if got, err := read(t.Context(), s, "acme"); got != "x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func BenchmarkView(b *testing.B) {
	s := newStore(b, sqlitefile.Options{Dir: b.TempDir()})
	write(b, s, "acme", "x")
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := read(ctx, s, "acme"); err != nil {
			b.Fatal(err)
		}
	}
}
