package pgrls

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/atlas-mcp/atlas"
)

// A meaning is what a class or code of Postgres's errors is to a caller.
type meaning struct {
	code atlas.Code
	hint string
}

// states are SQLSTATEs by code, or by their first two letters for the whole class (PostgreSQL
// manual, appendix A). No hint holds a word of the server's: its messages name tables, columns and
// values. What is missing is a source_error.
var states = map[string]meaning{
	"08": {atlas.CodeSourceUnavailable, ""}, // connection
	"53": {atlas.CodeSourceUnavailable, ""}, // too few resources, too many connections
	"57": {atlas.CodeSourceUnavailable, ""}, // shut down, starting
	"58": {atlas.CodeSourceUnavailable, ""}, // the system's own
	"40": {atlas.CodeSourceUnavailable, ""}, // deadlock, recovery conflict: the same again may succeed
	"55": {atlas.CodeSourceUnavailable, ""}, // lock not available
	"28": {atlas.CodeSourceMisused, ""},     // the role may not log in
	"3D": {atlas.CodeSourceMisused, ""},     // no such database

	tooLarge: {atlas.CodeTooLarge, "a row of the answer is larger than the limit"},
	"57014":  {atlas.CodeTimeout, ""}, // the statement was stopped
	"53400":  {atlas.CodeTooLarge, "the query needs more room for temporary files than it may have; filter more, or use fewer columns"},
	"53200":  {atlas.CodeTooLarge, "the query needs more memory than there is; filter more"},
	"54":     {atlas.CodeTooLarge, "the query is too complex"},

	"42":    {atlas.CodeInvalidQuery, ""},
	"42501": {atlas.CodeInvalidQuery, "the query uses tables, columns or functions that are not available; the schema lists what is"},
	"42P01": {atlas.CodeInvalidQuery, "the query uses tables, columns or functions that are not available; the schema lists what is"},
	"42703": {atlas.CodeInvalidQuery, "the query uses tables, columns or functions that are not available; the schema lists what is"},
	"42883": {atlas.CodeInvalidQuery, "the query uses tables, columns or functions that are not available; the schema lists what is"},
	"3F000": {atlas.CodeInvalidQuery, "the query uses tables, columns or functions that are not available; the schema lists what is"},
	"0A000": {atlas.CodeInvalidQuery, "the query uses something that is not allowed"},
	"25006": {atlas.CodeInvalidQuery, "the query would change something; only reading is allowed"},
	"42601": {atlas.CodeInvalidQuery, "the query is not valid SQL (PostgreSQL's dialect)"},
	"42702": {atlas.CodeInvalidQuery, "a column of the query is in more than one table; write table.column"},
	"42804": {atlas.CodeInvalidQuery, "types in the query do not fit; write a cast"},
	"42846": {atlas.CodeInvalidQuery, "types in the query do not fit; write a cast"},
	"42P18": {atlas.CodeInvalidQuery, "the type of a parameter cannot be told; write a cast, such as CAST(:name AS integer)"},
	"42P08": {atlas.CodeInvalidQuery, "the type of a parameter cannot be told; write a cast, such as CAST(:name AS integer)"},
	"42803": {atlas.CodeInvalidQuery, "a column of the query is neither grouped nor aggregated"},
	"21000": {atlas.CodeInvalidQuery, "a subquery of the query gives more than one row"},
	"22":    {atlas.CodeInvalidQuery, "a value in the query, or a parameter, does not fit its type or is out of range"},
	"22P02": {atlas.CodeInvalidArguments, "a value in the query, or a parameter, does not fit the type that it is used as"},
	"22021": {atlas.CodeInvalidArguments, "a text has characters that cannot be stored"},
	"2201":  {atlas.CodeInvalidQuery, ""},
}

// Failure returns err as an *[atlas.Error] that says nothing of the server's words; ctx is the
// call's.
func Failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*atlas.Error](err); ok {
		return err
	}
	if cause := ctx.Err(); cause != nil {
		return atlas.ErrorOf(cause)
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		if e.Code == "57014" {
			// The server's clock was a little faster than ours.
			return atlas.Errorf(atlas.CodeTimeout, errors.Join(context.DeadlineExceeded, err), "")
		}
		m, ok := states[e.Code]
		if !ok && len(e.Code) == 5 {
			m, ok = states[e.Code[:2]]
		}
		if !ok {
			m.code = atlas.CodeSourceError
		}
		return atlas.Errorf(m.code, err, m.hint)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return atlas.Errorf(atlas.CodeTimeout, errors.Join(context.DeadlineExceeded, err), "")
	case lost(err):
		return atlas.Errorf(atlas.CodeSourceUnavailable, withoutDSN(err), "")
	}
	return atlas.Errorf(atlas.CodeSourceError, withoutDSN(err), "")
}

// failure is Failure, which tells a closed source.
func (db *DB) failure(ctx context.Context, err error) error {
	if db.closed.Load() {
		return errClosed()
	}
	return Failure(ctx, err)
}

// lost reports whether the connection failed, or could not be made.
func lost(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(), "closed pool")
}

// withoutDSN keeps what a connection string holds out of logs: the library's message names user,
// host and database, which operators know, and no password.
func withoutDSN(err error) error {
	if e, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		_ = e
		return errors.New("connection string cannot be parsed")
	}
	return err
}

// SQLState returns Postgres's code of err, or "".
func SQLState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}
