package sqlitefile

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite"
)

// The SQL functions that the driver adds.
const (
	withinFunc = "atlas_within" // runs the Go function pending under its argument
)

// process is the driver of all stores. Functions registered with the library live as long as the
// process does, so they are registered once and hold no store.
var process = sync.OnceValues(newRunner)

// A runner makes Go code run inside a statement of SQLite.
//
// The library watches the context of a query only until its first row: a query that is quick to
// find one row and slow to find the next would run on for hours, with the deadline long past. It
// does watch the context of an Exec until its end, and so we run everything inside one: "SELECT
// atlas_within(id)" calls back into Go, which prepares and steps statements on the same connection
// while SQLite's interrupt and progress handler are armed. They act on all statements of a
// connection, also while one is being prepared (since SQLite 3.41).
type runner struct {
	driver  *sqlite.Driver
	next    atomic.Int64
	pending sync.Map // int64 -> func() error; an entry lives as long as its call
}

func newRunner() (*runner, error) {
	r := &runner{driver: &sqlite.Driver{}}
	scalar := func(name string, args int32, pure bool, fn func([]driver.Value) (driver.Value, error)) error {
		return r.driver.RegisterFunction(name, &sqlite.FunctionImpl{
			NArgs: args, Deterministic: pure,
			Scalar: func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) { return fn(args) },
		})
	}
	return r, errors.Join(
		scalar(withinFunc, 1, false, r.call),
		// SQLite's own take time in proportion to the product of both arguments' lengths, in one
		// step that cannot be interrupted: 18 s for two arguments of 64 KiB.
		scalar("trim", -1, true, trimmer(strings.TrimFunc)),
		scalar("ltrim", -1, true, trimmer(strings.TrimLeftFunc)),
		scalar("rtrim", -1, true, trimmer(strings.TrimRightFunc)),
	)
}

func (r *runner) call(args []driver.Value) (driver.Value, error) {
	id, _ := args[0].(int64)
	fn, ok := r.pending.Load(id)
	if !ok {
		return nil, errors.New("nothing is pending")
	}
	return nil, fn.(func() error)()
}

// within runs fn inside a statement on dc, under ctx. A panic of fn passes through here, not
// through SQLite, which would keep its locks.
func (r *runner) within(ctx context.Context, dc driver.ExecerContext, fn func() error) error {
	var (
		failure  error
		panicked any
		ran      bool
	)
	id := r.next.Add(1)
	r.pending.Store(id, func() error {
		ran = true
		defer func() {
			if panicked = recover(); panicked != nil {
				failure = errors.New("panic")
			}
		}()
		failure = fn()
		return nil
	})
	defer r.pending.Delete(id)
	_, err := dc.ExecContext(ctx, "SELECT "+withinFunc+"(?)", []driver.NamedValue{{Ordinal: 1, Value: id}})
	switch {
	case panicked != nil:
		panic(panicked)
	case ran && failure != nil:
		return failure
	case ctx.Err() != nil && err != nil:
		return ctx.Err()
	case !ran && err == nil:
		return errors.New("the statement did not run")
	}
	return err
}

// A connector opens connections with the process's driver.
type connector struct {
	driver *sqlite.Driver
	dsn    string
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return c.driver.Open(c.dsn)
}

func (c connector) Driver() driver.Driver { return c.driver }

func open(dsn string, conns int) (*sql.DB, error) {
	r, err := process()
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector{r.driver, dsn})
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// trimmer makes trim(X) or trim(X, Y): cut removes spaces, or the characters of Y.
func trimmer(cut func(string, func(rune) bool) string) func([]driver.Value) (driver.Value, error) {
	return func(args []driver.Value) (driver.Value, error) {
		if len(args) == 0 || len(args) > 2 {
			return nil, errors.New("wrong number of arguments")
		}
		s, ok := text(args[0])
		if !ok {
			return nil, nil
		}
		if len(args) == 1 {
			return cut(s, func(r rune) bool { return r == ' ' }), nil
		}
		chars, ok := text(args[1])
		if !ok {
			return nil, nil
		}
		set := make(map[rune]struct{}, min(len(chars), 256))
		for _, r := range chars {
			set[r] = struct{}{}
		}
		return cut(s, func(r rune) bool { _, in := set[r]; return in }), nil
	}
}

// text is SQLite's cast to TEXT; false for NULL.
func text(v driver.Value) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case []byte:
		return string(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		s := strconv.FormatFloat(v, 'g', 15, 64)
		if v == math.Trunc(v) && !strings.ContainsAny(s, ".eIN") {
			s += ".0"
		}
		return s, true
	}
	return "", false
}
