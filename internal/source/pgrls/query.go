package pgrls

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/atlas-mcp/atlas"
)

const (
	// maxDrain is how many bytes of rows that nobody wants are read to keep a connection.
	maxDrain = 1 << 20
	// maxStatementTime bounds a statement whose context and Timeout set no bound.
	maxStatementTime = time.Minute
)

// A Statement is one SELECT.
type Statement struct {
	SQL   string   // parameters as $1, $2…; no other statement before or after it
	Args  []any    // string, []byte (text), json.Number, int, int64, float64, bool or nil; the server infers their types
	Types []uint32 // types of parameters that it cannot infer; 0, or a missing one, is inferred

	// Timeout bounds the statement beside its context; 0 means a minute.
	Timeout time.Duration
	// Once says that the text will hardly come again: it is not kept prepared on the connection.
	Once bool
	// Set are further run-time settings for this statement, by name; names and values come from
	// the program, never from a caller.
	Set []Setting
	// Trace is the call's W3C traceparent. If it is sampled it names the call in pg_stat_activity and
	// in the server's log: in a comment before the text (in the form of sqlcommenter), or, where the
	// text is prepared and must stay the same, as application_name.
	Trace string
}

// A Setting is a run-time setting of Postgres.
type Setting struct{ Name, Value string }

// A Column describes one column of an answer.
type Column struct {
	Name string
	OID  uint32 // of its type
}

// A Row is one row of an answer, valid until the function that was given it returns.
type Row struct {
	cols []Column
	raw  [][]byte
}

// Len returns how many columns there are.
func (r Row) Len() int { return len(r.raw) }

// Columns describes the columns.
func (r Row) Columns() []Column { return r.cols }

// Raw returns a value in Postgres's text form; nil is NULL.
func (r Row) Raw(i int) []byte { return r.raw[i] }

// Value returns a value as callers of a [source.Querier] get it, and about how many bytes it is.
func (r Row) Value(i int) (any, int) { return Value(r.cols[i].OID, r.raw[i]) }

// Query runs one statement for the tenant, read-only, in one round trip (two when a connection
// prepares it), and gives each row to row, which ends the query early by returning false. The
// columns are returned even if there are no rows; they must not be changed. The server stops the
// statement when ctx ends.
func (db *DB) Query(ctx context.Context, tenant atlas.TenantID, st Statement, row func(Row) (more bool, err error)) ([]Column, error) {
	// The id becomes part of a statement's text, so it is checked here too, whatever the caller did.
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return nil, atlas.Errorf(atlas.CodeInternal, err, "")
	}
	limit := st.Timeout
	if limit <= 0 {
		limit = maxStatementTime
	}
	if at, ok := ctx.Deadline(); !ok || time.Until(at) > limit {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return nil, Failure(ctx, err)
	}
	if err := db.gate.Pass(ctx); err != nil {
		return nil, err
	}
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return nil, db.failure(ctx, err)
	}
	defer conn.Release()
	cols, err := db.run(ctx, conn, tenant, &st, row)
	if err != nil {
		return nil, db.failure(ctx, err)
	}
	return cols, nil
}

// run runs st on conn. If the connection may not be used again, it closes it.
func (db *DB) run(ctx context.Context, conn *pgxpool.Conn, tenant atlas.TenantID, st *Statement, row func(Row) (bool, error)) ([]Column, error) {
	pc := conn.Conn().PgConn()
	s, err := sessionOf(pc)
	if err != nil {
		return nil, err
	}
	defer func() {
		if s.stray.Load() {
			cut(conn)
		}
	}()
	args, err := s.encode(st.Args)
	if err != nil {
		return nil, err
	}
	p, err := db.prepare(ctx, pc, s, st)
	if err != nil {
		return nil, err
	}
	cols, err := db.batch(ctx, conn, s, tenant, st, p, args, row)
	if stale(err, p != nil) && len(s.commands) > 0 {
		// The tables changed under the prepared statement, or somebody deallocated what was prepared.
		// No row has come yet: both are found before the first. DEALLOCATE of what is gone would fail.
		if _, e := pc.Exec(ctx, "DEALLOCATE ALL").ReadAll(); e != nil {
			return nil, errors.Join(err, e)
		}
		clear(s.prepared)
		clear(s.commands)
		cols, err = db.batch(ctx, conn, s, tenant, st, nil, args, row)
	}
	return cols, err
}

// cut closes a connection, so that the pool forgets it.
func cut(conn *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	_ = conn.Conn().Close(ctx) // it is gone either way
}

// A prepared statement is one that a connection keeps.
type prepared struct {
	key  string
	sd   *pgconn.StatementDescription
	cols []Column
}

// prepare returns st prepared on the connection, or nil if it is not to be.
func (db *DB) prepare(ctx context.Context, pc *pgconn.PgConn, s *session, st *Statement) (*prepared, error) {
	if st.Once || db.conn.PgBouncer {
		return nil, nil
	}
	key := st.SQL
	if len(st.Types) > 0 {
		key += fmt.Sprint("\x00", st.Types)
	}
	if p := s.prepared[key]; p != nil {
		return p, nil
	}
	if len(s.prepared) >= maxPrepared {
		return nil, nil
	}
	s.names++
	sd, err := pc.Prepare(ctx, "atlas_"+strconv.Itoa(s.names), st.SQL, st.Types)
	if err != nil {
		return nil, err
	}
	p := &prepared{key: key, sd: sd, cols: columns(sd.Fields)}
	s.prepared[key] = p
	return p, nil
}

func columns(fields []pgconn.FieldDescription) []Column {
	out := make([]Column, len(fields))
	for i, f := range fields {
		out[i] = Column{Name: f.Name, OID: f.DataTypeOID}
	}
	return out
}

// batch sends a whole transaction at once, and reads the answer.
//
// The transaction is opened by a command of its own. Without it the pipeline would be one
// transaction just as well, and SET LOCAL would hold in it, but Postgres would write a warning to its
// log for every SET LOCAL.
func (db *DB) batch(ctx context.Context, conn *pgxpool.Conn, s *session, tenant atlas.TenantID, st *Statement, p *prepared, args [][]byte, row func(Row) (bool, error)) ([]Column, error) {
	var (
		b  pgconn.Batch
		n  int // commands before the statement
		pc = conn.Conn().PgConn()
	)
	set := func(text string) {
		b.ExecParams(text, nil, nil, nil, nil)
		n++
	}
	add := func(text string) error {
		sd, err := s.command(ctx, pc, text)
		if err != nil || sd == nil {
			set(text)
			return err
		}
		b.ExecStatement(sd, nil, nil, nil)
		n++
		return nil
	}
	err := add("BEGIN READ ONLY")
	set(db.set.tenant + string(tenant) + "'") // never prepared: pg_prepared_statements would list tenants
	err = errors.Join(err, add("SET LOCAL statement_timeout = "+strconv.FormatInt(serverTime(ctx), 10)))
	if db.set.pooler {
		for _, nv := range db.set.session {
			err = errors.Join(err, add("SET LOCAL "+nv[0]+" = "+nv[1]))
		}
	}
	for _, nv := range st.Set {
		err = errors.Join(err, add("SET LOCAL "+nv.Name+" = "+Literal(nv.Value)))
	}
	traced := sampled(st.Trace)
	if p != nil {
		if traced {
			set("SET LOCAL application_name = '" + st.Trace + "'")
		}
		b.ExecStatement(p.sd, args, nil, nil)
	} else {
		text := st.SQL
		if traced {
			// Before it, for the server cuts long texts off.
			text = "/*traceparent='" + st.Trace + "'*/ " + text
		}
		b.ExecParams(text, args, st.Types, nil, nil)
	}
	last := n
	if err = errors.Join(err, add("COMMIT")); err != nil {
		return nil, err
	}
	mrr := pc.ExecBatch(ctx, &b)
	var cols []Column
	for i := 0; err == nil && mrr.NextResult(); i++ {
		if i != last {
			continue
		}
		rr := mrr.ResultReader()
		if p != nil {
			cols = p.cols
		} else {
			cols = columns(rr.FieldDescriptions())
		}
		err = read(rr, cols, row)
	}
	if errors.Is(err, errUnread) {
		cut(conn) // the server is still sending; it ends when it cannot
		return cols, nil
	}
	if e := mrr.Close(); e != nil && err == nil {
		err = e
	}
	if pc.TxStatus() == 'E' && !pc.IsClosed() && ctx.Err() == nil {
		if e := pc.Exec(ctx, "ROLLBACK").Close(); e != nil {
			err = errors.Join(err, e)
		}
	}
	return cols, err
}

// sampled reports whether s is a traceparent of version 0 whose sampled flag is set (W3C Trace
// Context, section 3.2). It becomes part of a statement, so nothing else is taken.
func sampled(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && c != '-' {
			return false
		}
	}
	return (s[54]-'0')%2 == 1 && s[54] <= '9' || s[54] == 'b' || s[54] == 'd' || s[54] == 'f'
}

// errUnread says that more rows came than are worth reading.
var errUnread = errors.New("rows are left unread")

// read gives the rows of one result to row, and reads those that it does not want.
func read(rr *pgconn.ResultReader, cols []Column, row func(Row) (bool, error)) error {
	var (
		failed error
		more   = true
		unread int
	)
	for rr.NextRow() {
		if !more {
			for _, v := range rr.Values() {
				unread += len(v)
			}
			if unread > maxDrain {
				return errors.Join(failed, errUnread)
			}
			continue
		}
		if more, failed = row(Row{cols: cols, raw: rr.Values()}); failed != nil {
			more = false
		}
	}
	if _, err := rr.Close(); err != nil && failed == nil {
		return err
	}
	return failed
}

// serverTime is how many milliseconds the server gives the statement: a little less than there is (a
// tenth, up to 100 ms), so that it usually is the server that ends it, and the connection stays good.
// It is rounded down to 32 steps between powers of two, so that the command that sets it comes again.
func serverTime(ctx context.Context) int64 {
	left := maxStatementTime
	if at, ok := ctx.Deadline(); ok {
		left = time.Until(at)
	}
	ms := max(1, (left - min(left/10, 100*time.Millisecond)).Milliseconds())
	if drop := bits.Len64(uint64(ms)) - 6; drop > 0 {
		ms = ms >> drop << drop
	}
	return ms
}

// stale reports whether a prepared statement must be prepared anew: its result type changed
// (feature_not_supported, which a text that is not prepared gets for reasons of its own), or it is not there
// (invalid_sql_statement_name).
func stale(err error, prepared bool) bool {
	state := SQLState(err)
	return state == "26000" || state == "0A000" && prepared
}

// encode returns args in Postgres's text form. The slices are the session's.
func (s *session) encode(args []any) ([][]byte, error) {
	s.args = slices.Grow(s.args[:0], len(args))
	s.scratch = s.scratch[:0]
	type span struct{ from, to int }
	var few [16]span
	spans := few[:0]
	for _, a := range args {
		from := len(s.scratch)
		var ok bool
		if s.scratch, ok = appendArg(s.scratch, a); !ok {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a parameter must be a string, a number, a boolean or null")
		}
		if a == nil {
			from = -1
		}
		spans = append(spans, span{from, len(s.scratch)})
	}
	for _, p := range spans {
		if p.from < 0 {
			s.args = append(s.args, nil)
		} else {
			s.args = append(s.args, s.scratch[p.from:p.to:p.to])
		}
	}
	return s.args, nil
}
