package pgrls

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// stopTime is how long a canceled statement may take to end before its connection is cut.
	stopTime = time.Second
	// maxPrepared is how many statements a connection keeps prepared.
	maxPrepared = 256
	// maxCommands is how many of the commands beside them it keeps.
	maxCommands = 128
)

func poolConfig(c Connection, o Options) (*pgxpool.Config, error) {
	pc, err := pgxpool.ParseConfig(c.DSN)
	if err != nil {
		return nil, errors.New("dsn is not a connection string of Postgres")
	}
	pc.MaxConns = int32(c.MaxConns) //nolint:gosec // Validate bounds it
	pc.MinConns, pc.MinIdleConns = 0, 0
	cc := pc.ConnConfig
	cc.ConnectTimeout = c.ConnectTimeout
	cc.DefaultQueryExecMode = pgx.QueryExecModeExec // for the checks; queries do without it
	cc.StatementCacheCapacity, cc.DescriptionCacheCapacity = 0, 0
	if cc.TLSConfig != nil {
		cc.TLSConfig.MinVersion = max(cc.TLSConfig.MinVersion, tls.VersionTLS12)
	}
	maps.Copy(cc.RuntimeParams, newSettings(c).startup(o.Name))
	cc.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		o.Log.LogAttrs(context.Background(), slog.LevelDebug, "notice of the server", slog.String("code", n.Code), slog.String("severity", n.Severity))
	}
	cc.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(&bounded{r: r, max: o.MaxMessage}, w)
	}
	cc.BuildContextWatcherHandler = func(pc *pgconn.PgConn) ctxwatch.Handler {
		s := &session{prepares: !c.PgBouncer, prepared: map[string]*prepared{}, commands: map[string]*pgconn.StatementDescription{}}
		pc.CustomData()[sessionKey] = s
		return &canceler{conn: pc, session: s}
	}
	return pc, nil
}

// settings are the run-time settings of a source's connections.
type settings struct {
	pooler  bool
	tenant  string // "SET LOCAL app.tenant_id = '"
	session [][2]string
}

func newSettings(c Connection) settings {
	path := `"` + c.Schema + `"`
	if c.Extensions != "" && c.Extensions != c.Schema {
		path += `, "` + c.Extensions + `"`
	}
	return settings{
		pooler: c.PgBouncer,
		tenant: "SET LOCAL " + c.TenantSetting + " = '",
		session: [][2]string{
			// Temporary tables come last: nothing can be put before the real ones.
			{"search_path", path + ", pg_temp"},
			{"lock_timeout", strconv.FormatInt(c.LockTimeout.Milliseconds(), 10)},
			{"row_security", "on"},
		},
	}
}

// startup are the parameters of a new connection. A pooler refuses all but a few; there the rest
// goes along with each query.
func (s settings) startup(name string) map[string]string {
	out := map[string]string{"application_name": "atlas/" + name, "DateStyle": "ISO", "TimeZone": "UTC", "client_encoding": "UTF8", "standard_conforming_strings": "on"}
	if s.pooler {
		return out
	}
	for _, nv := range s.session {
		out[nv[0]] = nv[1]
	}
	out["default_transaction_read_only"] = "on"
	out["idle_in_transaction_session_timeout"] = "10000"
	out["IntervalStyle"] = "iso_8601"
	out["bytea_output"] = "hex"
	out["extra_float_digits"] = "1"
	return out
}

const sessionKey = "atlas"

// A session is what is known of one connection. It belongs to who holds the connection, except for
// stray.
type session struct {
	prepared map[string]*prepared
	commands map[string]*pgconn.StatementDescription // by text
	names    int                                     // prepared so far
	prepares bool                                    // statements may be prepared
	args     [][]byte
	scratch  []byte
	// stray says that a request to cancel was sent. It may arrive late and end the next statement
	// on the connection, so there is none.
	stray atomic.Bool
}

// command returns the prepared form of a command that goes along with queries (BEGIN, COMMIT, SET
// LOCAL of what names no tenant), or nil if it is to be sent as text. It asks the server when it sees
// the text for the first time. It saves a sixth of the time of a short query. That the command is
// said to have a column, which it has not, keeps the library from asking for its columns each time.
func (s *session) command(ctx context.Context, pc *pgconn.PgConn, text string) (*pgconn.StatementDescription, error) {
	if sd, ok := s.commands[text]; ok || !s.prepares || len(s.commands) >= maxCommands {
		return sd, nil
	}
	s.names++
	sd := &pgconn.StatementDescription{Name: "atlas_" + strconv.Itoa(s.names), SQL: text, Fields: make([]pgconn.FieldDescription, 1)}
	if _, err := pc.Prepare(ctx, sd.Name, text, nil); err != nil {
		return nil, err
	}
	s.commands[text] = sd
	return sd, nil
}

func sessionOf(c *pgconn.PgConn) (*session, error) {
	s, ok := c.CustomData()[sessionKey].(*session)
	if !ok {
		return nil, fmt.Errorf("connection has no session")
	}
	return s, nil
}

// A canceler asks the server to stop the statement when a context ends, and cuts the connection if
// the server does not answer soon.
type canceler struct {
	conn    *pgconn.PgConn
	session *session
	sent    chan struct{}
}

// HandleCancel implements [ctxwatch.Handler].
func (c *canceler) HandleCancel(context.Context) {
	c.session.stray.Store(true)
	deadline := time.Now().Add(stopTime)
	_ = c.conn.Conn().SetDeadline(deadline) // fails only if the connection is closed already
	sent := make(chan struct{})
	c.sent = sent
	go func() { //nolint:gosec // the context that has ended is why this runs
		defer close(sent)
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		_ = c.conn.CancelRequest(ctx) // the deadline stands if it fails
	}()
}

// HandleUnwatchAfterCancel implements [ctxwatch.Handler].
func (c *canceler) HandleUnwatchAfterCancel() {
	<-c.sent
	_ = c.conn.Conn().SetDeadline(time.Time{})
}

// tooLarge is the SQLSTATE of the error that stands for a message that was longer than may be.
const tooLarge = "ATL01"

// refusal is that error as the server would send it: its fields, each ended by a zero byte.
var refusal = func() []byte {
	fields := "SERROR\x00VERROR\x00C" + tooLarge + "\x00Mmessage is longer than the limit\x00\x00"
	return append(binary.BigEndian.AppendUint32([]byte{'E'}, uint32(len(fields)+4)), fields...)
}()

// A bounded reader follows the messages that the server sends. One whose body is longer than max
// (a row of hundreds of megabytes) is read and dropped, so that it is never held, and an error is
// passed on in its place, which ends the query and keeps the connection.
type bounded struct {
	r       io.Reader
	max     int
	pending []byte // to be given before anything else is read
	header  [5]byte
	have    int // bytes of the header
	left    int // bytes of the body still to come
	skip    int // the same, of a body that is dropped
	err     error
}

func (b *bounded) Read(p []byte) (int, error) {
	for {
		if len(b.pending) > 0 {
			n := copy(p, b.pending)
			b.pending = b.pending[n:]
			return n, nil
		}
		if b.err != nil {
			return 0, b.err
		}
		// What is passed on is moved to the front of p, unless there is more of it than was read.
		aside := b.have > 0
		n, err := b.r.Read(p)
		b.err = err // told when all that came before it is
		out := 0
		pass := func(part []byte) {
			if aside {
				b.pending = append(b.pending, part...)
				return
			}
			out += copy(p[out:], part)
		}
		for rest := p[:n]; len(rest) > 0; {
			switch {
			case b.skip > 0:
				k := min(b.skip, len(rest))
				b.skip -= k
				rest = rest[k:]
			case b.left > 0:
				k := min(b.left, len(rest))
				b.left -= k
				pass(rest[:k])
				rest = rest[k:]
			default:
				k := copy(b.header[b.have:], rest)
				b.have += k
				rest = rest[k:]
				if b.have < len(b.header) {
					continue
				}
				b.have = 0
				size := int(binary.BigEndian.Uint32(b.header[1:])) - 4
				if size <= b.max {
					b.left = max(size, 0)
					pass(b.header[:])
					continue
				}
				b.skip, aside = size, true
				b.pending = append(b.pending, refusal...)
			}
		}
		if out > 0 {
			return out, nil
		}
	}
}
