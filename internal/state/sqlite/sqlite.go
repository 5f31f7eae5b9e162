// Package sqlite keeps Atlas's state in one SQLite file. Several processes may have the file open
// at the same time (the server and the command line): writes are immediate transactions in WAL
// mode and wait for each other. A commit is on the disk before it returns (synchronous=FULL),
// because an approval that was used must not come back after a power cut.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

// Config is the store's settings.
type Config struct {
	Path   string       `yaml:"path"` // of the file; its directory is made if need be
	Limits state.Limits `yaml:"limits"`
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if c.Path == "" {
		errs = append(errs, errors.New("path is missing"))
	}
	if err := c.Limits.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("limits: %w", err))
	}
	return errors.Join(errs...)
}

const (
	busyTimeout = 5 * time.Second  // how long a write waits for another process's
	sweepEvery  = 10 * time.Minute // how often Run deletes what has expired
	sweepRows   = 1000             // rows deleted in one transaction, so that other writers get their turn
	readers     = 4                // connections that read at the same time
)

var (
	errForeign = errors.New("this SQLite file belongs to another program")
	errNewer   = errors.New("a newer version of Atlas wrote this file")
)

// A Store is an open file. It implements [state.Store].
type Store struct {
	limits state.Limits
	log    *slog.Logger
	write  *sql.DB // one connection: writers of one process queue here and not in SQLite's busy loop
	read   *sql.DB
}

var _ state.Store = (*Store)(nil)

// Open opens the file, making it (mode 0600, in a directory of mode 0700) if it is not there, and
// brings it to the newest version. The error is for the operator: it names the file and what
// mends it.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", cfg.Path, err)
	}
	s, err := open(ctx, path, cfg, log)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("open state %s: %w", path, ctx.Err())
		}
		return nil, fmt.Errorf("open state %s: %w; %s", path, err, remedy(err))
	}
	return s, nil
}

func open(ctx context.Context, path string, cfg Config, log *slog.Logger) (*Store, error) {
	if err := makeFile(path); err != nil {
		return nil, err
	}
	dsn := func(extra string) string {
		u := url.URL{Scheme: "file", Path: filepath.ToSlash(path)}
		return u.String() + fmt.Sprintf("?_busy_timeout=%d&_synchronous=FULL&_txlock=immediate&_defensive=1&_dqs=0&_error_rc=1&_pragma=secure_delete(on)%s",
			busyTimeout.Milliseconds(), extra)
	}
	s := &Store{limits: cfg.Limits.WithDefaults(), log: log}
	var err error
	if s.write, err = sql.Open("sqlite", dsn("&_journal_mode=WAL")); err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", dsn("&_query_only=1")); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	if err := settle(ctx, func() error { return migrate(ctx, s.write) }); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// settle repeats f while the file is busy. SQLite does not wait in its busy handler when two
// processes switch a new file to WAL at the same moment, because each could wait for the other.
func settle(ctx context.Context, f func() error) error {
	end := time.Now().Add(busyTimeout)
	for {
		err := f()
		if primary(err) != sqlite3.SQLITE_BUSY || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// makeFile makes the file with its mode before SQLite does: the files beside it (-wal, -shm) take
// their modes from it. A file with a wider mode is narrowed.
func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return f.Chmod(0o600)
	}
	return nil
}

// remedy says what mends a failed Open.
func remedy(err error) string {
	switch {
	case errors.Is(err, errForeign):
		return "choose another path for Atlas's state"
	case errors.Is(err, errNewer):
		return "run that version, or choose another path"
	case errors.Is(err, fs.ErrPermission):
		return "let the user that runs Atlas read and write the file and its directory"
	}
	switch primary(err) {
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return "the file is damaged or is no SQLite file: restore it from a backup, or move it away to begin anew (approvals and kept results are lost then)"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return "let the user that runs Atlas read and write the file and its directory"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return "another process keeps the file locked: end it, or try again"
	case sqlite3.SQLITE_FULL:
		return "the disk is full: make room"
	}
	return "check the path, its directory and the disk"
}

// primary returns SQLite's primary result code, or 0 for another error.
func primary(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// failed returns err as callers may see it: without the store's text.
func failed(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return atlas.ErrorOf(ctx.Err())
	}
	return atlas.Errorf(atlas.CodeStateUnavailable, fmt.Errorf("state: %s: %w", what, err), "")
}

// Ping asks the file for its version.
func (s *Store) Ping(ctx context.Context) error {
	var version int
	if err := s.read.QueryRowContext(ctx, `SELECT max(version) FROM schema_version`).Scan(&version); err != nil {
		return failed(ctx, "ping", err)
	}
	return nil
}

// Close closes the file. Closing twice is fine.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Run deletes what has expired, now and then, until ctx ends. A store works without it, but
// grows.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "state could not be swept", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Sweep deletes values and memories past their expiry, and approvals that have been past theirs for as long as
// they are kept.
func (s *Store) Sweep(ctx context.Context) error {
	now := time.Now()
	for _, q := range []struct {
		sql    string
		before time.Time
	}{
		{`DELETE FROM kv WHERE rowid IN (SELECT rowid FROM kv WHERE expires > 0 AND expires <= ? LIMIT ?)`, now},
		{`DELETE FROM memory WHERE rowid IN (SELECT rowid FROM memory WHERE expires > 0 AND expires <= ? LIMIT ?)`, now},
		{`DELETE FROM approval WHERE rowid IN (SELECT rowid FROM approval WHERE expires <= ? LIMIT ?)`, now.Add(-s.limits.Keep)},
	} {
		for n := int64(sweepRows); n == sweepRows; {
			res, err := s.write.ExecContext(ctx, q.sql, q.before.UnixNano(), sweepRows)
			if err != nil {
				return failed(ctx, "sweep", err)
			}
			if n, err = res.RowsAffected(); err != nil {
				return failed(ctx, "sweep", err)
			}
		}
	}
	return nil
}

// update runs f in an immediate transaction. An *atlas.Error of f is returned as it is.
func (s *Store) update(ctx context.Context, what string, f func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return failed(ctx, what, err)
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	if err := f(tx); err != nil {
		if _, ok := errors.AsType[*atlas.Error](err); ok {
			return err
		}
		return failed(ctx, what, err)
	}
	if err := tx.Commit(); err != nil {
		return failed(ctx, what, err)
	}
	return nil
}

// nanos is how a time is stored.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// moment is nanos backwards.
func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
