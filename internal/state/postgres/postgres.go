// Package postgres keeps Atlas's state in PostgreSQL 14 or later, for several replicas of the server
// and the command line at once, in a schema of its own, atlas. Each change is one statement, which
// the database runs as one transaction: there is no transaction that a lost connection could leave
// open, and PgBouncer in transaction mode may stand between. What changes several rows is a function
// of the schema, under the lock of one row of the tenant or space.
//
// A connection that is lost while a change is on its way leaves open whether it was made. Changes
// that can be asked for twice (all but SwapApproval, CompareAndDelete and DeleteMemory) are asked for
// again once; for the others the code is state_unavailable, and whoever asks again finds out by the
// record: compare-and-set and the state of an approval let no change happen twice.
//
// There is no row-level security here, as there is over tenants' data: no text of an agent comes near
// these tables, the spaces of KV belong to no one tenant, and expired records of all are swept. Every
// key begins with the tenant or space, every statement names it, and the role has no rights elsewhere.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

// Config is the store's settings.
type Config struct {
	DSN            string        `yaml:"dsn"`             // postgres:// URL or key=value pairs of the role that serves
	LoadDSN        string        `yaml:"load_dsn"`        // of the role that owns the schema; for `atlas migrate` only
	MaxConns       int           `yaml:"max_conns"`       // connections at most; 0 means 8
	PgBouncer      bool          `yaml:"pgbouncer"`       // a pooler in transaction mode is between: nothing is prepared
	ConnectTimeout time.Duration `yaml:"connect_timeout"` // 0 means 5s
	Timeout        time.Duration `yaml:"timeout"`         // of one call, beside its own deadline; 0 means 10s
	Limits         state.Limits  `yaml:"limits"`
}

func (c Config) withDefaults() Config {
	c.MaxConns = cmp.Or(c.MaxConns, 8)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 5*time.Second)
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.Limits = c.Limits.WithDefaults()
	return c
}

// Validate reports all mistakes. None quotes a connection string, which may hold a password.
func (c Config) Validate() error {
	var errs []error
	if c.DSN == "" {
		errs = append(errs, errors.New("dsn is missing"))
	}
	for _, d := range []struct{ name, dsn string }{{"dsn", c.DSN}, {"load_dsn", c.LoadDSN}} {
		if d.dsn == "" {
			continue
		}
		if _, err := pgx.ParseConfig(d.dsn); err != nil {
			errs = append(errs, fmt.Errorf("%s is not a connection string of Postgres (postgres://USER@HOST/DATABASE?sslmode=verify-full)", d.name))
		}
	}
	if c.MaxConns < 0 || c.MaxConns > 1000 {
		errs = append(errs, errors.New("max_conns must be between 1 and 1000"))
	}
	if c.ConnectTimeout < 0 {
		errs = append(errs, errors.New("connect_timeout must not be negative"))
	}
	if c.Timeout < 0 {
		errs = append(errs, errors.New("timeout must not be negative"))
	}
	if err := c.Limits.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("limits: %w", err))
	}
	return errors.Join(errs...)
}

// Where says for operators where the state is, without secrets.
func (c Config) Where() string {
	cc, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		return "Postgres"
	}
	return fmt.Sprintf("Postgres, database %s on %s, schema atlas", cc.Database, net.JoinHostPort(cc.Host, fmt.Sprint(cc.Port)))
}

const (
	sweepEvery = 10 * time.Minute // how often Run deletes what has expired
	sweepRows  = 1000             // rows deleted by one statement, so that others get their turn
	idleTime   = 30 * time.Second // between looks at connections that nobody uses
)

// A Store is an open state. It implements [state.Store].
type Store struct {
	cfg  Config
	log  *slog.Logger
	pool *pgxpool.Pool
}

var _ state.Store = (*Store)(nil)

// Open connects and checks that the schema is the one that this version of Atlas knows. The error is
// for the operator: it says what mends it.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s := &Store{cfg: cfg.withDefaults(), log: log}
	pc, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, errors.New("state: dsn cannot be parsed")
	}
	pc.MaxConns = int32(s.cfg.MaxConns) //nolint:gosec // at most 1000
	pc.ConnConfig.ConnectTimeout = s.cfg.ConnectTimeout
	pc.HealthCheckPeriod = idleTime
	if cfg.PgBouncer {
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		clear(pc.ConnConfig.RuntimeParams)
	} else {
		pc.ConnConfig.RuntimeParams["application_name"] = "atlas state"
	}
	// The pool lives until Close, not until ctx ends.
	if s.pool, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), pc); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	if err := s.checkSchema(ctx); err != nil {
		s.pool.Close()
		return nil, fmt.Errorf("open state in %s: %w", cfg.Where(), err)
	}
	return s, nil
}

// checkSchema compares the schema's version with this program's.
func (s *Store) checkSchema(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var version int64
	err := s.pool.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM atlas.migration WHERE is_applied`).Scan(&version)
	newest, nerr := newest()
	if nerr != nil {
		return nerr
	}
	switch code := sqlState(err); {
	case code == undefinedTable || code == invalidSchema:
		return errors.New("the schema atlas is not there; run `atlas migrate` (its role is that of load_dsn)")
	case code == noPrivilege:
		return fmt.Errorf("the role of dsn may not read the schema atlas: %w; run `atlas migrate`, which grants it", err)
	case err != nil:
		return fmt.Errorf("%w; check dsn, and that the server runs", err)
	case version < newest:
		return fmt.Errorf("the schema atlas has version %d, this program needs %d; run `atlas migrate`", version, newest)
	case version > newest:
		return fmt.Errorf("the schema atlas has version %d, this program knows %d: a newer version of Atlas made it; run that version (`atlas migrate` does not go back)", version, newest)
	}
	return nil
}

// Ping asks the server for the schema's version.
func (s *Store) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return atlas.ErrorOf(err)
	}
	if err := s.checkSchema(ctx); err != nil {
		return failed(ctx, "ping", err)
	}
	return nil
}

// Close closes all connections, waiting for calls that are running. Closing twice is fine.
func (s *Store) Close() error {
	s.pool.Close()
	return nil
}

// Run deletes what has expired, now and then, until ctx ends. A store works without it, but
// grows. Several replicas may run it.
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

// Sweep deletes values and memories past their expiry, and approvals that have been past theirs for
// as long as they are kept, a bounded number with each statement.
func (s *Store) Sweep(ctx context.Context) error {
	for _, q := range []string{
		`SELECT coalesce((SELECT atlas.kv_sweep(space, $1) FROM atlas.kv WHERE expires > 0 AND expires <= atlas.now_ns() LIMIT 1), 0)`,
		`SELECT coalesce((SELECT atlas.memory_delete(tenant, 'expiry', NULL, $1) FROM atlas.memory WHERE expires > 0 AND expires <= atlas.now_ns() LIMIT 1), 0)`,
		`WITH gone AS (DELETE FROM atlas.approval WHERE (tenant, id) IN
			(SELECT tenant, id FROM atlas.approval WHERE expires <= atlas.now_ns() - ` + fmt.Sprint(s.cfg.Limits.Keep.Nanoseconds()) + ` LIMIT $1) RETURNING 1)
			SELECT count(*) FROM gone`,
	} {
		for n := int64(1); n > 0; {
			err := s.do(ctx, "sweep", true, func(ctx context.Context) error {
				return s.pool.QueryRow(ctx, q, int64(sweepRows)).Scan(&n)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// attempts is how often a call is made at most, while it fails in a way that did nothing, or that
// may be repeated.
const attempts = 3

// do runs f, which is one statement. It runs it again where that cannot do harm: nothing was sent,
// the server undid it (a deadlock), or it may be repeated.
func (s *Store) do(ctx context.Context, what string, repeatable bool, f func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return atlas.ErrorOf(err)
	}
	bounded, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	for n := 1; ; n++ {
		err := f(bounded)
		if err == nil {
			return nil
		}
		if _, ok := errors.AsType[*atlas.Error](err); ok || errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		undone := pgconn.SafeToRetry(err) || sqlState(err) == deadlock
		if n == attempts || bounded.Err() != nil || !undone && !(repeatable && lost(err)) {
			return failed(ctx, what, err)
		}
	}
}

// failed returns err as callers may see it: without the server's text.
func failed(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return atlas.ErrorOf(ctx.Err())
	}
	return atlas.Errorf(atlas.CodeStateUnavailable, fmt.Errorf("state: %s: %w", what, err), "")
}

// SQLSTATEs that are told apart (PostgreSQL manual, appendix A).
const (
	undefinedTable  = "42P01"
	invalidSchema   = "3F000"
	noPrivilege     = "42501"
	uniqueViolation = "23505"
	deadlock        = "40P01"
)

func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// lost reports whether the connection ended before an answer came: what was asked may have happened.
func lost(err error) bool {
	if state := sqlState(err); state != "" {
		return strings.HasPrefix(state, "57P") || strings.HasPrefix(state, "08") // shut down, by the server or by a pooler
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "conn closed")
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

// plain reports whether Postgres can store s as it is.
func plain(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// key is s to be looked for: NULL, which equals nothing, if it cannot be stored.
func key(s string) any {
	if !plain(s) {
		return nil
	}
	return s
}

// text is s as Postgres can store it: valid UTF-8 without zero bytes.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
