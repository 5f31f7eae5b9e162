package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
	"github.com/atlas-mcp/atlas/internal/source/postgres/sqlguard"
)

var errDisabled = errors.New("agents.disabled is set")

// readable is what callers may read, and the guard that holds agents to it, which is made when it is
// first needed: that takes a process some seconds of one core, once, and a command that asks one
// question should not wait for it at its end. It is read-only.
type readable struct {
	at     time.Time
	tables []source.Table
	guard  func() (*sqlguard.Guard, error)
	known  map[string]bool // names of tables and columns
	types  []string        // the schema's own types that columns have
	closed map[string]bool // names of tables that the role may read, and callers may not
}

// schemaSQL lists what the role may read: the schema's columns, and, with no column, all other
// tables that are not the system's.
const schemaSQL = `
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
	CASE WHEN t.typtype IN ('e', 'd') AND t.typnamespace = n.oid THEN t.typname END, a.attnum
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
WHERE n.nspname = $1::text AND c.relkind IN ('r', 'p', 'v') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
UNION ALL
SELECT DISTINCT c.relname, NULL, NULL, NULL, 0
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
	AND NOT (n.nspname = $1::text AND c.relname = ANY (string_to_array($2::text, ' '))) AND has_any_column_privilege(c.oid, 'SELECT')
ORDER BY 1, 5`

// ask reads the catalog. It returns old with a new time if nothing has changed.
func (d *DB) ask(ctx context.Context, tenant atlas.TenantID, old *readable) (*readable, error) {
	r := &readable{at: time.Now(), tables: []source.Table{}, known: map[string]bool{}, closed: map[string]bool{}}
	_, err := d.db.Query(ctx, tenant, pgrls.Statement{SQL: schemaSQL, Args: []any{d.cfg.Schema, strings.Join(d.cfg.Tables, " ")}, Timeout: d.cfg.Timeout}, func(row pgrls.Row) (bool, error) {
		table, column, typ := string(row.Raw(0)), string(row.Raw(1)), string(row.Raw(2))
		if row.Raw(1) == nil {
			r.closed[table] = true
			return true, nil
		}
		if !slices.Contains(d.cfg.Tables, table) || column == d.cfg.TenantColumn || slices.Contains(d.cfg.HiddenColumns, table+"."+column) || !pgrls.ValidName(column) {
			return true, nil
		}
		if n := len(r.tables); n == 0 || r.tables[n-1].Name != table {
			r.tables = append(r.tables, source.Table{Name: table})
		}
		last := &r.tables[len(r.tables)-1]
		last.Columns = append(last.Columns, source.Column{Name: column, Type: typ})
		r.known[table], r.known[column] = true, true
		if own := string(row.Raw(3)); own != "" && pgrls.ValidName(own) && !slices.Contains(r.types, own) {
			r.types = append(r.types, own)
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	if old != nil && slices.Equal(old.types, r.types) && slices.EqualFunc(old.tables, r.tables, func(a, b source.Table) bool {
		return a.Name == b.Name && slices.Equal(a.Columns, b.Columns)
	}) {
		r.guard = old.guard
		return r, nil
	}
	cfg := sqlguard.Config{Schema: d.cfg.Schema, Tables: map[string][]string{}, Functions: d.cfg.Functions, Types: r.types, MaxBytes: min(d.cfg.MaxSQLBytes, 64<<10)}
	for _, t := range r.tables {
		for _, c := range t.Columns {
			cfg.Tables[t.Name] = append(cfg.Tables[t.Name], c.Name)
		}
	}
	r.guard = sync.OnceValues(func() (*sqlguard.Guard, error) {
		g, err := sqlguard.New(cfg)
		if err != nil {
			return nil, atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("guard of agents' SQL: %w", err), "")
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.guards = append(d.guards, g)
		return g, nil
	})
	return r, nil
}
