// Package postgres is the SQL source for PostgreSQL: each query runs as a role that owns nothing,
// under forced row-level security, bound to its tenant and read-only in one implicit transaction
// (see pgrls). What callers may read is held by the database's own rights, and again by a list of
// tables and columns that every parsed statement is compared with.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// Config are the driver's settings.
type Config struct {
	pgrls.Connection `yaml:",inline"`

	Tables         []string      `yaml:"tables"`           // tables and views of the schema that may be read; a view needs its tables here too
	HiddenColumns  []string      `yaml:"hidden_columns"`   // "table.column": columns of them that may not
	MaxRows        int           `yaml:"max_rows"`         // most rows of one answer; 0 means 1000
	MaxResultBytes int           `yaml:"max_result_bytes"` // most bytes of one answer, and of one row; 0 means 4 MiB
	MaxSQLBytes    int           `yaml:"max_sql_bytes"`    // longest statement; 0 means 32 KiB
	Timeout        time.Duration `yaml:"timeout"`          // of one statement; 0 means 5s
	Functions      []string      `yaml:"functions"`        // functions that agents may call beside the guard's list: "name" of pg_catalog or "schema.name"
	Agents         AgentConfig   `yaml:"agents"`           // SQL that agents write
	Company        bool          `yaml:"company"`          // `atlas migrate` makes the demo company's tables here
}

// AgentConfig bounds the SQL that agents write, beyond what bounds all SQL.
type AgentConfig struct {
	Disabled bool          `yaml:"disabled"` // refuse it
	MaxCost  float64       `yaml:"max_cost"` // most that the planner may expect, in its units; 0 means no limit
	WorkMem  int           `yaml:"work_mem"` // bytes of memory of one sort or hash; 0 means 16 MiB
	Timeout  time.Duration `yaml:"timeout"`  // of one statement; 0 means the source's
	AtOnce   int           `yaml:"at_once"`  // statements of one tenant that run at once; 0 means a third of max_conns
}

func (c Config) withDefaults() Config {
	c.Connection = c.WithDefaults()
	c.MaxRows = cmp.Or(c.MaxRows, 1000)
	c.MaxResultBytes = cmp.Or(c.MaxResultBytes, 4<<20)
	c.MaxSQLBytes = cmp.Or(c.MaxSQLBytes, 32<<10)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	c.Agents.WorkMem = cmp.Or(c.Agents.WorkMem, 16<<20)
	c.Agents.AtOnce = cmp.Or(c.Agents.AtOnce, max(1, c.MaxConns/3))
	c.Agents.Timeout = min(cmp.Or(c.Agents.Timeout, c.Timeout), c.Timeout)
	return c
}

// Validate reports all mistakes, joined.
func (c *Config) Validate() error {
	errs := []error{c.Connection.Validate()}
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
		check(ok && pgrls.ValidName(column), "hidden_columns: write %q as table.column", h)
		check(!ok || slices.Contains(c.Tables, table), "hidden_columns: %q is of a table that is not in tables", h)
	}
	check(c.MaxRows >= 0 && c.MaxRows <= 100_000, "max_rows must be between 1 and 100000, is %d", c.MaxRows)
	check(c.MaxResultBytes == 0 || c.MaxResultBytes >= 1024 && c.MaxResultBytes <= 64<<20, "max_result_bytes must be between 1024 and 67108864, is %d", c.MaxResultBytes)
	check(c.MaxSQLBytes >= 0 && c.MaxSQLBytes <= 1<<20, "max_sql_bytes must be between 1 and 1048576, is %d", c.MaxSQLBytes)
	check(c.Timeout >= 0, "timeout is negative")
	check(c.Agents.MaxCost >= 0, "agents.max_cost is negative")
	check(c.Agents.WorkMem == 0 || c.Agents.WorkMem >= 64<<10 && c.Agents.WorkMem <= 1<<30, "agents.work_mem must be between 65536 and 1073741824, is %d", c.Agents.WorkMem)
	check(c.Agents.Timeout >= 0, "agents.timeout is negative")
	check(c.Agents.AtOnce >= 0 && c.Agents.AtOnce <= 1000, "agents.at_once must be between 1 and 1000, is %d", c.Agents.AtOnce)
	return errors.Join(errs...)
}

// tableName reports whether s can name a table for callers: a plain name that needs no quotes, and
// none of Postgres's own.
func tableName(s string) bool {
	return plainName.MatchString(s) && !strings.HasPrefix(s, "pg_") && s != "information_schema"
}

// plainName is what Postgres does not fold. Names in quotes would let two tables differ by case
// only, and what callers write without quotes would be the other one.
var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Open connects and checks role and tables (see [pgrls.Open]).
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return nil, err
	}
	cfg := c.withDefaults()
	db, err := pgrls.Open(ctx, cfg.Connection, pgrls.Options{
		Name: deps.Name, Tables: cfg.Tables, MaxMessage: cfg.MaxResultBytes, Log: deps.Log,
	})
	if err != nil {
		return nil, err
	}
	return newDB(cfg, deps, db), nil
}
