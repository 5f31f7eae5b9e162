// Package sqlitefile keeps one SQLite file per tenant for the drivers that are built on it: it
// opens files when they are first asked for, holds a bounded number open, never creates one to
// answer a question, and makes every statement end with its context. What the files hold, and what
// a caller may ask of them, is the drivers' business.
package sqlitefile

import (
	"cmp"
	"container/list"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/atlas-mcp/atlas"
)

// ErrAbsent says that the tenant has no file: there is nothing of it here.
var ErrAbsent = errors.New("tenant has no file")

// Options say where a store's files are and how much it may hold open.
type Options struct {
	Dir        string        // directory of the files; made if missing
	MaxTenants int           // files open at once; 0 means 64. Beyond, the one unused longest is closed
	MaxConns   int           // connections per file; 0 means 4
	Busy       time.Duration // how long to wait for a writer; 0 means 2 s
	Limits     []Limit       // set on every connection that reads
}

// A Limit is one run-time limit of SQLite (sqlite3_limit).
type Limit struct{ ID, Value int }

func (o Options) withDefaults() Options {
	o.MaxTenants = cmp.Or(o.MaxTenants, 64)
	o.MaxConns = cmp.Or(o.MaxConns, 4)
	o.Busy = cmp.Or(o.Busy, 2*time.Second)
	return o
}

// A Store is a directory with a file for each tenant. It is safe for concurrent use.
type Store struct {
	opt    Options
	runner *runner
	empty  *sql.DB // in-memory databases without tables, for those who have no file

	mu     sync.Mutex
	closed bool
	files  map[atlas.TenantID]*list.Element // of *file
	recent *list.List                       // most recently used first
	freed  chan struct{}                    // closed, and made anew, when a file is no longer used
}

// A file is a tenant's open file. Its fields belong to Store.mu.
type file struct {
	tenant atlas.TenantID
	info   os.FileInfo
	db     *sql.DB
	users  int
	stale  bool // another file has taken its place: close it when its last user is gone
}

// New makes a store over o.Dir.
func New(o Options) (*Store, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	r, err := process()
	if err != nil {
		return nil, fmt.Errorf("register functions: %w", err)
	}
	if err := spill(); err != nil {
		return nil, fmt.Errorf("bound temporary files: %w", err)
	}
	empty, err := open("file::memory:?"+readParams(o).Encode(), o.MaxConns)
	if err != nil {
		return nil, err
	}
	return &Store{
		opt: o, runner: r, empty: empty,
		files: map[atlas.TenantID]*list.Element{}, recent: list.New(), freed: make(chan struct{}),
	}, nil
}

// readParams make a connection harmless: it cannot write, fills the disk only up to [SpillLimit],
// trusts nothing in the schema, and takes a double-quoted unknown name for a mistake instead of a
// string.
func readParams(o Options) url.Values {
	return url.Values{
		"vfs":           {spillVFS},
		"_query_only":   {"1"},
		"_defensive":    {"1"},
		"_dqs":          {"0"},
		"_busy_timeout": {strconv.FormatInt(o.Busy.Milliseconds(), 10)},
		"_pragma":       {"trusted_schema(0)", "cell_size_check(1)"},
	}
}

// dsn names a file to SQLite. The path is escaped: a directory may have a '?' or '%' in its name.
func dsn(path string, params url.Values) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(abs), RawQuery: params.Encode()}
	return u.String(), nil
}

func (s *Store) path(tenant atlas.TenantID) (string, error) {
	// The id becomes a file name, so it is checked here too, whatever the caller did.
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return "", atlas.Errorf(atlas.CodeInternal, err, "")
	}
	return filepath.Join(s.opt.Dir, string(tenant)+".db"), nil
}

// View runs fn on a read-only connection to the tenant's file and ends it when ctx ends, even in
// the middle of a statement. It fails with [ErrAbsent] if the tenant has no file, with
// source_unavailable once the store is closed, and else with what fn returns; see [Failure].
func (s *Store) View(ctx context.Context, tenant atlas.TenantID, fn func(*Conn) error) error {
	f, err := s.acquire(ctx, tenant)
	if err != nil {
		return err
	}
	defer s.release(f)
	err = s.view(ctx, f.db, fn)
	if Code(err) == sqlite3.SQLITE_READONLY {
		s.forget(tenant) // a writer died; opening the file again mends it
	}
	return err
}

// Empty is View over a database without tables.
func (s *Store) Empty(ctx context.Context, fn func(*Conn) error) error {
	if s.isClosed() {
		return errClosed()
	}
	return s.view(ctx, s.empty, fn)
}

func (s *Store) view(ctx context.Context, db *sql.DB, fn func(*Conn) error) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if e := conn.Close(); err == nil {
			err = e
		}
	}()
	for _, l := range s.opt.Limits {
		if _, err := sqlite.Limit(conn, l.ID, l.Value); err != nil {
			return err
		}
	}
	return conn.Raw(func(dc any) error {
		c, err := newConn(context.WithoutCancel(ctx), dc)
		if err != nil {
			return err
		}
		err = s.runner.within(ctx, c.dc, func() error { return fn(c) })
		// What the next borrower may do is its own affair.
		return errors.Join(err, c.dc.RegisterAuthorizer(nil))
	})
}

func newConn(ctx context.Context, dc any) (*Conn, error) {
	c := &Conn{ctx: ctx}
	var ok bool
	if c.dc, ok = dc.(connection); !ok {
		return nil, fmt.Errorf("driver connection %T lacks a method", dc)
	}
	return c, nil
}

// Update runs fn in a transaction on the tenant's file, which it creates if needed, and rolls
// back if fn fails.
func (s *Store) Update(ctx context.Context, tenant atlas.TenantID, fn func(*Conn) error) (err error) {
	path, err := s.path(tenant)
	if err != nil {
		return err
	}
	if s.isClosed() {
		return errClosed()
	}
	// SQLite would create it readable for everybody.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the name is a checked tenant id
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return s.write(ctx, path, func(c *Conn) error {
		if err := c.Exec("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return err // closing the connection rolls back
		}
		return c.Exec("COMMIT")
	})
}

// write runs fn on a connection of its own that may write.
func (s *Store) write(ctx context.Context, path string, fn func(*Conn) error) (err error) {
	name, err := dsn(path, url.Values{
		"mode": {"rw"}, "_dqs": {"0"}, "_busy_timeout": {strconv.FormatInt(s.opt.Busy.Milliseconds(), 10)},
	})
	if err != nil {
		return err
	}
	db, err := open(name, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return conn.Raw(func(dc any) error {
		c, err := newConn(ctx, dc)
		if err != nil {
			return err
		}
		return fn(c)
	})
}

// recover rolls back what a writer that died has left: a reader may not.
func (s *Store) recover(ctx context.Context, path string) error {
	if _, err := os.Lstat(path + "-journal"); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return s.write(ctx, path, func(c *Conn) error { return c.Exec("SELECT count(*) FROM sqlite_schema") })
}

// Ping asks whether the directory is there.
func (s *Store) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.isClosed() {
		return errClosed()
	}
	info, err := os.Stat(s.opt.Dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("not a directory")
	}
	return s.Empty(ctx, func(c *Conn) error { return c.Exec("SELECT 1") })
}

// Close closes all files. Calls that are running end first on their own connection.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.freed)
	errs := []error{s.empty.Close()}
	for e := s.recent.Front(); e != nil; e = e.Next() {
		errs = append(errs, e.Value.(*file).db.Close())
	}
	s.recent.Init()
	clear(s.files)
	return errors.Join(errs...)
}

func errClosed() error {
	return atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("source is closed"), "")
}

// Code returns SQLite's primary result code of err, or 0.
func Code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// Failure returns err as an *[atlas.Error] for callers whose statements are Atlas's own. It says
// nothing about the cause but its kind; ctx is the call's.
func Failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*atlas.Error](err); ok {
		return err
	}
	if cause := ctx.Err(); cause != nil {
		return atlas.ErrorOf(cause)
	}
	code := atlas.CodeSourceError
	switch Code(err) {
	case sqlite3.SQLITE_INTERRUPT:
		code = atlas.CodeTimeout
	case sqlite3.SQLITE_TOOBIG:
		code = atlas.CodeTooLarge
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM:
		code = atlas.CodeSourceUnavailable
	case 0:
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, sql.ErrConnDone) {
			code = atlas.CodeSourceUnavailable
		}
	}
	return atlas.Errorf(code, err, "")
}
