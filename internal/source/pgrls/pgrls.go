// Package pgrls is the one way of the source drivers into Postgres. It opens a pool as a role that
// row-level security binds, refuses any other role and any table that is not under forced row-level
// security (with the statement that mends it), and runs each query for one tenant in one round
// trip: a pipelined BEGIN READ ONLY, SET LOCAL of the tenant and of the time that is left, the query,
// and COMMIT. Nothing of it outlives the transaction, so nothing leaks to the next user of the
// connection, not after an error, a cancellation or a lost connection either.
//
// A driver uses it so:
//
//	type Config struct {
//		pgrls.Connection `yaml:",inline"` // dsn, schema, tenant_setting, pgbouncer, …
//		…
//	}
//	db, err := pgrls.Open(ctx, cfg.Connection, pgrls.Options{Name: deps.Name, Tables: […], Log: deps.Log})
//	cols, err := db.Query(ctx, tenant, pgrls.Statement{SQL: "SELECT … WHERE id = $1", Args: []any{id}},
//		func(row pgrls.Row) (more bool, err error) { …row.Value(0)… })
//	err = db.Ping(ctx)  // also checks role and tables again
//	err = db.Close()
//
// Errors are *[atlas.Error]; see [Failure]. Writing is not for callers: [Connection.Own] connects as
// the owner (load_dsn), for `atlas seed`, migrations and tests, and [Connection.Secure] gives the statements
// that put a table under row-level security.
package pgrls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A Connection says how to reach a database, for drivers to embed into their Config.
type Connection struct {
	DSN            string        `yaml:"dsn"`             // postgres:// URL or key=value pairs of the role that owns nothing; TLS as in sslmode
	LoadDSN        string        `yaml:"load_dsn"`        // of the tables' owner; used by seeding and migrations only, never while serving
	Schema         string        `yaml:"schema"`          // holds the tables; default public
	Extensions     string        `yaml:"extensions"`      // schema of extensions' types and operators, if it is another one
	TenantSetting  string        `yaml:"tenant_setting"`  // what the policies read; default app.tenant_id
	TenantColumn   string        `yaml:"tenant_column"`   // of the tables; default tenant_id
	PgBouncer      bool          `yaml:"pgbouncer"`       // a pooler in transaction mode is between: no prepared statements, no startup parameters
	MaxConns       int           `yaml:"max_conns"`       // connections at most; 0 means 10
	ConnectTimeout time.Duration `yaml:"connect_timeout"` // 0 means 5s
	LockTimeout    time.Duration `yaml:"lock_timeout"`    // of one wait for a lock; 0 means 1s
	CheckInterval  time.Duration `yaml:"check_interval"`  // between checks of role and tables; 0 means 15s
}

// The names of settings, schemas and tables that can be configured.
var (
	settingName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})+$`)
	plainName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)
)

// ValidName reports whether s may name a schema, a table or a column in the configuration: letters,
// digits and underscores.
func ValidName(s string) bool { return plainName.MatchString(s) }

// WithDefaults returns c with what was left out filled in.
func (c Connection) WithDefaults() Connection {
	c.Schema = cmp.Or(c.Schema, "public")
	c.TenantSetting = cmp.Or(c.TenantSetting, "app.tenant_id")
	c.TenantColumn = cmp.Or(c.TenantColumn, "tenant_id")
	c.MaxConns = cmp.Or(c.MaxConns, 10)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 5*time.Second)
	c.LockTimeout = cmp.Or(c.LockTimeout, time.Second)
	c.CheckInterval = cmp.Or(c.CheckInterval, 15*time.Second)
	return c
}

// Validate reports all mistakes, joined. None of them quotes a connection string, which may hold a
// password.
func (c Connection) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.DSN != "", "dsn is empty: give the connection string of a role that owns no table")
	for name, dsn := range map[string]string{"dsn": c.DSN, "load_dsn": c.LoadDSN} {
		if dsn != "" {
			_, err := pgx.ParseConfig(dsn)
			check(err == nil, "%s is not a connection string of Postgres (postgres://USER@HOST/DATABASE?sslmode=verify-full)", name)
		}
	}
	d := c.WithDefaults()
	check(ValidName(d.Schema), "schema: %q is not a plain name", c.Schema)
	check(d.Extensions == "" || ValidName(d.Extensions), "extensions: %q is not a plain name", c.Extensions)
	check(settingName.MatchString(d.TenantSetting), "tenant_setting: %q is not the name of a custom setting, such as app.tenant_id", c.TenantSetting)
	check(ValidName(d.TenantColumn), "tenant_column: %q is not a plain name", c.TenantColumn)
	check(d.MaxConns >= 1 && d.MaxConns <= 1000, "max_conns must be between 1 and 1000, is %d", c.MaxConns)
	for name, v := range map[string]time.Duration{
		"connect_timeout": c.ConnectTimeout, "lock_timeout": c.LockTimeout, "check_interval": c.CheckInterval,
	} {
		check(v >= 0, "%s is negative", name)
	}
	return errors.Join(errs...)
}

// Options are what a driver says of itself.
type Options struct {
	Name       string   // the source's; part of application_name
	Tables     []string // tables and views of the schema that callers may read through the driver
	MaxMessage int      // largest row or value that is read from the server, in bytes; 0 means 4 MiB
	Log        *slog.Logger
}

// A DB is an open database. It is safe for concurrent use. It refuses every query while its last
// check found something, or while none has succeeded yet.
type DB struct {
	conn Connection
	opt  Options
	pool *pgxpool.Pool
	set  settings
	gate *source.Gate

	life    context.Context // until Close
	stop    context.CancelFunc
	closed  atomic.Bool
	done    chan struct{} // closed when watch has ended
	closing sync.Once

	report  atomic.Pointer[Report] // nil before the first check that reached the server
	mu      sync.Mutex
	refused string // why queries are refused, as it was logged
}

// Open connects, checks role and tables, and keeps checking them until Close. It fails with
// source_misconfigured, with all findings and what mends each in the cause, if the role or a table
// would let tenants see each other; and if the server refuses the role or the database. A server
// that cannot be reached is no failure: queries are refused with source_unavailable until a check
// has succeeded.
func Open(ctx context.Context, c Connection, o Options) (*DB, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return nil, err
	}
	c = c.WithDefaults()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.MaxMessage = cmp.Or(o.MaxMessage, 4<<20)
	db := &DB{conn: c, opt: o, set: newSettings(c), done: make(chan struct{})}
	pc, err := poolConfig(c, o)
	if err != nil {
		return nil, err
	}
	// The pool lives until Close, not until ctx ends.
	db.life, db.stop = context.WithCancel(context.WithoutCancel(ctx))
	if db.pool, err = pgxpool.NewWithConfig(db.life, pc); err != nil {
		db.stop()
		return nil, errors.New("the pool of connections cannot be made")
	}
	db.gate = source.NewGate(c.ConnectTimeout+checkTime, db.check)
	go db.watch()
	if err := db.gate.Check(ctx); err != nil && !unavailable(err) {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// Close ends the checks and closes all connections, waiting for queries that are running.
func (db *DB) Close() error {
	db.closing.Do(func() {
		db.closed.Store(true)
		db.stop()
		<-db.done
		db.gate.Close()
		db.pool.Close()
	})
	return nil
}

func errClosed() error {
	return atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("source is closed"), "")
}
