// Package sqlite is the SQL source of the embedded profile: one SQLite file per tenant, read
// through connections that cannot write and on which an authorizer allows SELECT on the configured
// tables and a list of functions, and nothing else.
package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sqlitefile"
)

// Config are the driver's settings.
type Config struct {
	Dir            string        `yaml:"dir"`              // holds a file for each tenant; default: the source's name in the data directory
	Tables         []string      `yaml:"tables"`           // tables and views that may be read; a view needs its tables here too
	HiddenColumns  []string      `yaml:"hidden_columns"`   // "table.column": columns of them that may not
	MaxRows        int           `yaml:"max_rows"`         // most rows of one answer; 0 means 1000
	MaxResultBytes int           `yaml:"max_result_bytes"` // most bytes of one answer; 0 means 4 MiB
	MaxValueBytes  int           `yaml:"max_value_bytes"`  // largest value or row, also in between; 0 means 128 KiB
	MaxSQLBytes    int           `yaml:"max_sql_bytes"`    // longest statement; 0 means 32 KiB
	Timeout        time.Duration `yaml:"timeout"`          // of one statement; 0 means 5s
	MaxTenants     int           `yaml:"max_tenants"`      // tenants' files open at once; 0 means 64
	MaxConns       int           `yaml:"max_conns"`        // statements of one tenant at once; 0 means 4
}

func (c Config) withDefaults(deps source.Deps) Config {
	c.Dir = cmp.Or(c.Dir, filepath.Join(deps.DataDir, deps.Name))
	c.MaxRows = cmp.Or(c.MaxRows, 1000)
	c.MaxResultBytes = cmp.Or(c.MaxResultBytes, 4<<20)
	c.MaxValueBytes = cmp.Or(c.MaxValueBytes, 128<<10)
	c.MaxSQLBytes = cmp.Or(c.MaxSQLBytes, 32<<10)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	return c
}

// Validate reports all mistakes, joined.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(len(c.Tables) > 0, "tables is empty: name the tables that may be read")
	for _, t := range c.Tables {
		check(tableName(t), "tables: %q is not the name of a table that may be read", t)
	}
	for _, h := range c.HiddenColumns {
		table, column, ok := strings.Cut(h, ".")
		check(ok && column != "", "hidden_columns: write %q as table.column", h)
		check(!ok || containsFold(c.Tables, table), "hidden_columns: %q is of a table that is not in tables", h)
	}
	check(c.MaxRows >= 0 && c.MaxRows <= 100_000, "max_rows must be between 1 and 100000, is %d", c.MaxRows)
	check(c.MaxResultBytes >= 0 && c.MaxResultBytes <= 64<<20, "max_result_bytes must be between 1 and 67108864, is %d", c.MaxResultBytes)
	// SQLite needs some room for its own; above 1 MiB a single instr() runs for many seconds.
	check(c.MaxValueBytes == 0 || c.MaxValueBytes >= 1024 && c.MaxValueBytes <= 1<<20, "max_value_bytes must be between 1024 and 1048576, is %d", c.MaxValueBytes)
	check(c.MaxSQLBytes >= 0 && c.MaxSQLBytes <= 1<<20, "max_sql_bytes must be between 1 and 1048576, is %d", c.MaxSQLBytes)
	check(c.Timeout >= 0, "timeout is negative")
	check(c.MaxTenants >= 0, "max_tenants is negative")
	check(c.MaxConns >= 0, "max_conns is negative")
	return errors.Join(errs...)
}

// tableName reports whether s can name a table for callers: a plain name, and none of SQLite's own.
func tableName(s string) bool {
	lower := strings.ToLower(s)
	return validName(s) && !strings.HasPrefix(lower, "sqlite_") && !strings.HasPrefix(lower, "pragma_") && !tableFunctions[lower]
}

func containsFold(list []string, s string) bool {
	for _, e := range list {
		if strings.EqualFold(e, s) {
			return true
		}
	}
	return false
}

// Open opens the store, making its directory if it is missing. Files are opened when a tenant is
// first asked for.
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return nil, err
	}
	cfg := c.withDefaults(deps)
	store, err := sqlitefile.New(sqlitefile.Options{
		Dir: cfg.Dir, MaxTenants: cfg.MaxTenants, MaxConns: cfg.MaxConns, Limits: limits(cfg),
	})
	if err != nil {
		return nil, err
	}
	r := &rules{tables: map[string]bool{}, hidden: map[string]map[string]bool{}}
	for _, t := range cfg.Tables {
		r.tables[strings.ToLower(t)] = true
	}
	for _, h := range cfg.HiddenColumns {
		table, column, _ := strings.Cut(strings.ToLower(h), ".")
		if r.hidden[table] == nil {
			r.hidden[table] = map[string]bool{}
		}
		r.hidden[table][column] = true
	}
	return &DB{cfg: cfg, rules: r, store: store}, nil
}

// limits keep one step of a statement, which is what cannot be interrupted, short.
func limits(cfg Config) []sqlitefile.Limit {
	return []sqlitefile.Limit{
		{ID: sqlite3.SQLITE_LIMIT_LENGTH, Value: cfg.MaxValueBytes},
		{ID: sqlite3.SQLITE_LIMIT_SQL_LENGTH, Value: min(cfg.MaxSQLBytes, cfg.MaxValueBytes)},
		{ID: sqlite3.SQLITE_LIMIT_COLUMN, Value: 256},
		{ID: sqlite3.SQLITE_LIMIT_EXPR_DEPTH, Value: 100},
		{ID: sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, Value: 32},
		{ID: sqlite3.SQLITE_LIMIT_VDBE_OP, Value: 250_000},
		{ID: sqlite3.SQLITE_LIMIT_FUNCTION_ARG, Value: 32},
		{ID: sqlite3.SQLITE_LIMIT_ATTACHED, Value: 0},
		{ID: sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, Value: 256},
		{ID: sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, Value: 256},
		{ID: sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, Value: 1},
		{ID: sqlite3.SQLITE_LIMIT_WORKER_THREADS, Value: 0},
	}
}
