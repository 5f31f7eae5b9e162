package sqlitefile

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"

	"modernc.org/sqlite"
)

// A Conn is one tenant's connection for the time of one call. It belongs to the goroutine that
// runs the call and must not be kept.
type Conn struct {
	dc connection
	// ctx is what statements run under. In a View it has no deadline of its own, for the
	// statement around them is what is interrupted; a second watcher would take the first one's
	// progress handler away.
	ctx context.Context
}

// A connection is what the driver's connections can do.
type connection interface {
	driver.QueryerContext
	driver.ExecerContext
	driver.ConnPrepareContext
	sqlite.AuthorizerRegisterer
}

// Authorize makes fn decide what the statements may do that are prepared from now on, until the
// end of the call.
func (c *Conn) Authorize(fn sqlite.AuthorizerFn) error { return c.dc.RegisterAuthorizer(fn) }

// Prepare compiles a statement without running it.
func (c *Conn) Prepare(query string) error {
	st, err := c.dc.PrepareContext(c.ctx, query)
	if err != nil {
		return err
	}
	return st.Close()
}

// Query runs a statement and gives each row to row, which must not keep vals and ends the query
// early by returning false. It returns the names of the columns.
func (c *Conn) Query(query string, args []driver.NamedValue, row func(vals []driver.Value) (more bool, err error)) (columns []string, err error) {
	rows, err := c.dc.QueryContext(c.ctx, query, args)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeRows(rows, err)) }()
	columns = rows.Columns()
	vals := make([]driver.Value, len(columns))
	for {
		switch err := rows.Next(vals); {
		case errors.Is(err, io.EOF):
			return columns, nil
		case err != nil:
			return columns, err
		}
		if more, err := row(vals); err != nil || !more {
			return columns, err
		}
	}
}

// closeRows closes rows. After a failed step SQLite reports the same failure again.
func closeRows(rows driver.Rows, failed error) error {
	if err := rows.Close(); failed == nil {
		return err
	}
	return nil
}

// Exec runs statements that return nothing. Args are bound by position.
func (c *Conn) Exec(query string, args ...any) error {
	_, err := c.dc.ExecContext(c.ctx, query, Positional(args...))
	return err
}

// Positional returns args to be bound to ?, in order. They must be int64, float64, bool, string,
// []byte or nil.
func Positional(args ...any) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, a := range args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return out
}
