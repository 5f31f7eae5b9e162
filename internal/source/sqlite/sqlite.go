package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/base64"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sqlitefile"
)

// A DB is an open source. It implements source.Querier and source.Loader.
type DB struct {
	cfg   Config
	rules *rules
	store *sqlitefile.Store
}

// Ping asks whether the store can answer.
func (d *DB) Ping(ctx context.Context) error { return sqlitefile.Failure(ctx, d.store.Ping(ctx)) }

// Close closes all files.
func (d *DB) Close() error { return d.store.Close() }

// view runs fn on the tenant's file, or on a database without tables if the tenant has none, for
// at most the source's own limit of time.
func (d *DB) view(ctx context.Context, tenant atlas.TenantID, fn func(context.Context, *sqlitefile.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	run := func(c *sqlitefile.Conn) error { return fn(ctx, c) }
	err := d.store.View(ctx, tenant, run)
	if errors.Is(err, sqlitefile.ErrAbsent) {
		err = d.store.Empty(ctx, run)
	}
	return sqlitefile.Failure(ctx, err)
}

// Query implements source.Querier. Besides invalid_query its codes are invalid_arguments for
// parameters that do not fit the statement, and too_large for a statement, or a single row or
// value, above the limits. Rows are counted as they come, so nothing in the statement's text can
// change how many there are; the answer is cut, and marked as truncated, at the limits of rows and
// of bytes.
func (d *DB) Query(ctx context.Context, tenant atlas.TenantID, q source.Query) (source.Rows, error) {
	st, args, err := d.prepare(q)
	if err != nil {
		return source.Rows{}, err
	}
	maxRows := d.cfg.MaxRows
	if q.MaxRows > 0 {
		maxRows = min(maxRows, q.MaxRows)
	}
	out := source.Rows{Rows: [][]any{}}
	err = d.view(ctx, tenant, func(ctx context.Context, c *sqlitefile.Conn) error {
		g, err := d.guard(c, st)
		if err != nil {
			return err
		}
		if err := d.weigh(c, st, args); err != nil {
			return d.explain(ctx, c, st, g, err)
		}
		bytes := 0
		columns, err := c.Query(st.text, args, func(vals []driver.Value) (bool, error) {
			if len(out.Rows) == maxRows {
				out.Truncated = true
				return false, nil
			}
			row := make([]any, len(vals))
			for i, v := range vals {
				var size int
				row[i], size = value(v)
				bytes += size
			}
			if bytes > d.cfg.MaxResultBytes {
				if len(out.Rows) == 0 {
					return false, atlas.Errorf(atlas.CodeTooLarge, nil, "a row of the answer is larger than the limit").
						With("limit_bytes", d.cfg.MaxResultBytes)
				}
				out.Truncated = true
				return false, nil
			}
			out.Rows = append(out.Rows, row)
			return true, nil
		})
		out.Columns = columns
		return d.explain(ctx, c, st, g, err)
	})
	if err != nil {
		return source.Rows{}, err
	}
	return out, nil
}

// Inspect implements source.Querier: it compiles the statement, which is when SQLite asks what may
// be read. Parameters need not have values.
func (d *DB) Inspect(ctx context.Context, tenant atlas.TenantID, q source.Query) (atlas.Facts, error) {
	st, err := d.split(q.SQL)
	if err != nil {
		return atlas.Facts{}, err
	}
	facts := atlas.Facts{SQL: q.SQL}
	err = d.view(ctx, tenant, func(ctx context.Context, c *sqlitefile.Conn) error {
		g, err := d.guard(c, st)
		if err != nil {
			return err
		}
		if err := d.explain(ctx, c, st, g, c.Prepare(st.text)); err != nil {
			return err
		}
		facts.Tables, facts.Columns = sorted(g.tables), sorted(g.columns)
		return nil
	})
	if err != nil {
		return atlas.Facts{}, err
	}
	return facts, nil
}

// Schema implements source.Querier: the configured tables that the tenant has, by name, without
// hidden columns.
func (d *DB) Schema(ctx context.Context, tenant atlas.TenantID) ([]source.Table, error) {
	var out []source.Table
	err := d.view(ctx, tenant, func(_ context.Context, c *sqlitefile.Conn) (err error) {
		out, err = d.schema(c)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (d *DB) schema(c *sqlitefile.Conn) ([]source.Table, error) {
	out := []source.Table{}
	_, err := c.Query(`SELECT m.name, p.name, p.type FROM sqlite_schema m JOIN pragma_table_info(m.name) p
		WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY lower(m.name), p.cid`, nil,
		func(v []driver.Value) (bool, error) {
			table, _ := v[0].(string)
			column, _ := v[1].(string)
			typ, _ := v[2].(string)
			lower := strings.ToLower(table)
			if !d.rules.tables[lower] || d.rules.hidden[lower][strings.ToLower(column)] {
				return true, nil
			}
			if n := len(out); n == 0 || out[n-1].Name != table {
				out = append(out, source.Table{Name: table})
			}
			last := &out[len(out)-1]
			last.Columns = append(last.Columns, source.Column{Name: column, Type: typ})
			return true, nil
		})
	return out, err
}

func (d *DB) split(sql string) (statement, error) {
	if limit := min(d.cfg.MaxSQLBytes, d.cfg.MaxValueBytes); len(sql) > limit {
		return statement{}, atlas.Errorf(atlas.CodeTooLarge, nil, "the query is longer than the limit").With("limit_bytes", limit)
	}
	return split(sql)
}

// prepare checks q as far as can be done without the database.
func (d *DB) prepare(q source.Query) (statement, []driver.NamedValue, error) {
	fail := func(err error) (statement, []driver.NamedValue, error) { return statement{}, nil, err }
	if q.MaxRows < 0 {
		return fail(atlas.Errorf(atlas.CodeInvalidArguments, nil, "max_rows is negative").With("argument", "max_rows"))
	}
	st, err := d.split(q.SQL)
	if err != nil {
		return fail(err)
	}
	var missing []string
	args := make([]driver.NamedValue, 0, len(st.params))
	for _, name := range st.params {
		v, ok := q.Args[name]
		if !ok {
			missing = append(missing, name)
			continue
		}
		if v != nil {
			if v, ok = source.Scalar(v); !ok {
				return fail(atlas.Errorf(atlas.CodeInvalidArguments, nil, "a parameter must be a string, a number, a boolean or null").With("parameter", name))
			}
		}
		if s, ok := v.(string); ok && len(s) > d.cfg.MaxValueBytes {
			return fail(atlas.Errorf(atlas.CodeTooLarge, nil, "a parameter is longer than the limit").
				With("parameter", name).With("limit_bytes", d.cfg.MaxValueBytes))
		}
		args = append(args, driver.NamedValue{Name: name, Ordinal: len(args) + 1, Value: v})
	}
	if len(missing) > 0 {
		return fail(atlas.Errorf(atlas.CodeInvalidArguments, nil, "parameters of the query have no value").With("missing", missing))
	}
	if len(q.Args) > len(st.params) {
		surplus := slices.DeleteFunc(slices.Sorted(maps.Keys(q.Args)), func(n string) bool { return slices.Contains(st.params, n) })
		return fail(atlas.Errorf(atlas.CodeInvalidArguments, nil, "the query has no parameters of these names").With("surplus", surplus))
	}
	return st, args, nil
}

// value returns a column's value as callers get it, and its size in bytes.
func value(v driver.Value) (any, int) {
	switch v := v.(type) {
	case string:
		s := strings.ToValidUTF8(v, "\uFFFD")
		return s, len(s)
	case []byte:
		s := base64.StdEncoding.EncodeToString(v)
		return s, len(s)
	case float64:
		if math.IsInf(v, 0) { // JSON has no word for it
			return nil, 8
		}
		return v, 8
	case time.Time:
		// The library parses columns of the types DATE, DATETIME and TIMESTAMP.
		layout := time.RFC3339Nano
		if v.Equal(v.Truncate(24*time.Hour)) && v.Location() == time.UTC {
			layout = time.DateOnly
		}
		return v.Format(layout), len(layout)
	}
	return v, 8
}
