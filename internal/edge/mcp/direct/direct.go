// Package direct answers tools/call and tools/list over HTTP, in both eras of the protocol, without
// the SDK's JSON machinery: each message is read in one pass and its answer appended to a buffer. What
// else comes goes to the handler behind it, with its body restored. Direct also holds what lets a
// client of the older era be asked something without a session in memory: its session id is a sealed
// token that any replica can open.
//
// The bytes of a request are never pooled: a stage may keep them beyond the answer, and in a pooled
// buffer another tenant's request would then show through. Buffers of answers are; nobody but this
// package holds them.
package direct

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// Config sets up a Server.
type Config struct {
	PageSize     int           // tools on one page of tools/list
	ListTTL      time.Duration // how long a client may keep a list
	MaxBody      int64         // bytes of a request
	WriteTimeout time.Duration // for one part of a stream
	KeepAlive    time.Duration // between two signs of life on a silent stream
	AskTimeout   time.Duration // for a client of the older era to answer what it was asked
	MaxAsks      int           // calls of one caller that wait for their client at once
	SessionTTL   time.Duration // of a session of the older era
}

// A Sealer makes tokens that only it can open, for what they are bound to: the key ring.
type Sealer interface {
	Seal(plain, bound []byte) string
	Open(text string, bound []byte) ([]byte, error)
}

// Revocations remember the sessions that were ended before their time. Errors mean that they cannot
// be asked.
type Revocations interface {
	Revoke(ctx context.Context, id string, until time.Time) error
	Revoked(ctx context.Context, id string) (bool, error)
}

// A Mailbox passes the answers of clients of the older era from the replica that they reach to the one
// whose call waits for them.
type Mailbox interface {
	// Put leaves an answer under the key until then, and reports false if there is one already.
	Put(ctx context.Context, key string, answer []byte, until time.Time) (bool, error)
	// Take returns and removes the answer under the key. It is nil if there is none.
	Take(ctx context.Context, key string) ([]byte, error)
}

// Deps are what a Server works with. Sealer and Revocations may be nil: without the first there are no
// sessions, without the second the process remembers for itself.
type Deps struct {
	// Call answers a call: the pipeline, or what makes tasks of its calls.
	Call func(context.Context, atlas.Call) (tasks.Answer, error)
	List atlas.Handler // the pipeline
	// Listing returns all tools as they are listed now.
	Listing func() *message.Listing
	// Rest answers what is not for this package. Its request's context ends when nobody waits for the
	// answer, in the older era too.
	Rest func(w http.ResponseWriter, r *http.Request, session Session)
	// Listen serves the stream on which a session of the older era is told what it did not ask for. It
	// may be nil: then there is none.
	Listen func(w http.ResponseWriter, r *http.Request, session Session)
	// Ended hears of sessions that their client ended. It may be nil.
	Ended func(caller *edge.Caller, session Session)

	Implementation []byte // names the server in results, as JSON
	Challenge      edge.Challenge
	Sealer         Sealer
	Revocations    Revocations
	Mailbox        Mailbox         // nil: what a client is asked, it must answer to the same replica
	Draining       context.Context // ends when the server stops: nobody is waited for any more
	Log            *slog.Logger
}

// A Server is the handler of the protocol's endpoint, behind authentication. It is safe for
// concurrent use, and lives as long as the process.
type Server struct {
	cfg      Config
	deps     Deps
	dialects [2]message.Dialect // older, newer
	replica  string             // names this process in the ids of requests to clients
	pages    pages
	calls    inflight
	asks     asks
}

// New returns a Server. It starts nothing.
func New(cfg Config, deps Deps) (*Server, error) {
	if deps.Call == nil || deps.List == nil || deps.Listing == nil || deps.Rest == nil {
		return nil, errors.New("direct: needs a pipeline, a listing, and somebody for the rest")
	}
	if deps.Sealer != nil && deps.Revocations == nil {
		deps.Revocations = newRevoked()
	}
	if deps.Draining == nil {
		deps.Draining = context.Background()
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	cfg.PageSize = cmp.Or(cfg.PageSize, 1000)
	cfg.ListTTL = cmp.Or(cfg.ListTTL, 10*time.Second)
	cfg.MaxBody = cmp.Or(cfg.MaxBody, 1<<20)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, 30*time.Second)
	cfg.KeepAlive = cmp.Or(cfg.KeepAlive, 15*time.Second)
	cfg.AskTimeout = cmp.Or(cfg.AskTimeout, 5*time.Minute)
	cfg.MaxAsks = cmp.Or(cfg.MaxAsks, 8)
	cfg.SessionTTL = cmp.Or(cfg.SessionTTL, 24*time.Hour)
	s := &Server{cfg: cfg, deps: deps, replica: rand.Text()}
	s.dialects[1] = message.Dialect{Modern: true, Server: deps.Implementation}
	s.calls.running = make(map[callKey]map[*inflightCall]struct{})
	s.asks.waiting = make(map[string]map[string]*waiter)
	s.pages.held = make(map[pageKey]*page)
	return s, nil
}

// requests holds what messages were read into. They are cleared before they are put back.
var requests = sync.Pool{New: func() any { return new(message.Request) }}

// ServeHTTP answers one message.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller := edge.CallerOf(r.Context())
	if caller == nil {
		edge.WriteFailure(w, atlas.Errorf(atlas.CodeMissingToken, nil, ""))
		return
	}
	if r.Method == http.MethodDelete && s.deps.Sealer != nil {
		s.endSession(w, r, caller)
		return
	}
	if r.Method == http.MethodGet && s.listen(w, r, caller) {
		return
	}
	stream, ok := s.acceptable(w, r)
	if !ok {
		return
	}
	body, ok := s.readBody(w, r)
	if !ok {
		return
	}
	m := requests.Get().(*message.Request)
	defer func() {
		m.Reset()
		requests.Put(m)
	}()
	if err := m.Parse(body); err != nil {
		s.refuse(w, nil, err, true)
		return
	}
	revision, err := message.Revision(r.Header)
	if err != nil {
		s.refuse(w, m.ID, err, true)
		return
	}
	x := exchange{server: s, w: w, r: r, m: m, caller: caller, revision: revision, modern: revision >= message.FirstModern, stream: stream}
	if !x.modern && !x.openSession() {
		return
	}
	x.serve(body)
}

// refuse writes an error that concerns the message, not a call.
func (s *Server) refuse(w http.ResponseWriter, id []byte, e *message.Error, modern bool) {
	b := buffers.Get().(*buffer)
	b.data = message.AppendError(b.data, id, e)
	writeJSON(w, b.data, e.HTTPStatus(modern))
	b.free()
}

// An exchange is one message and how it is answered.
type exchange struct {
	server   *Server
	w        http.ResponseWriter
	r        *http.Request
	m        *message.Request
	caller   *edge.Caller
	revision string
	modern   bool
	stream   bool // the client reads event streams
	session  session
}

func (x *exchange) serve(body []byte) {
	m := x.m
	switch {
	case m.Response:
		x.takeAnswer()
		return
	case m.Method != message.MethodCall && m.Method != message.MethodList:
		x.pass(body)
		return
	case m.ID == nil:
		x.refuse(&message.Error{Code: message.CodeInvalidRequest, Message: `"id" is required`, Status: http.StatusBadRequest})
		return
	}
	if err := m.Check(x.r.Header, x.revision); err != nil {
		x.refuse(err)
		return
	}
	ctx := x.r.Context()
	if !x.modern {
		var done func()
		ctx, done = x.server.calls.track(ctx, x.caller, m)
		defer done()
	}
	if m.Method == message.MethodList {
		x.list(ctx)
		return
	}
	x.call(ctx)
}

func (x *exchange) refuse(e *message.Error) { x.server.refuse(x.w, x.m.ID, e, x.modern) }

func (x *exchange) dialect() message.Dialect {
	if x.modern {
		return x.server.dialects[1]
	}
	return x.server.dialects[0]
}

// pass gives the message to the handler behind, with its body.
func (x *exchange) pass(body []byte) {
	r, m := x.r, x.m
	if x.modern {
		if err := m.CheckHeader(r.Header); err != nil {
			x.refuse(err)
			return
		}
		if target, ok := m.Target(); ok { // the SDK takes the field as it is written
			r.Header[message.HeaderName] = []string{string(target)}
		}
	} else {
		switch m.Method {
		case message.MethodCancelled:
			if key, ok := m.ReadCancelled(); ok {
				x.server.calls.cancel(callKey{User(x.caller), key})
			}
		case message.MethodInitialize:
			x.beginSession()
		}
		if m.ID != nil {
			ctx, done := x.server.calls.track(r.Context(), x.caller, m)
			defer done()
			r = r.WithContext(ctx)
		}
	}
	r.Body = newBody(body)
	r.ContentLength = int64(len(body))
	x.server.deps.Rest(x.w, r, x.session.public())
}

// newCall returns the call that the message makes.
func (x *exchange) newCall(op atlas.Op) (call atlas.Call) {
	call.ID, call.Op, call.Received = edge.NewRequestID(), op, time.Now()
	call.Principal, call.Tenant, call.Transport = x.caller.Principal, x.caller.Tenant, "http"
	if fault := x.m.Fill(&call); fault != nil {
		call.Fault = fault // for the pipeline to refuse and to record
	}
	if !x.modern {
		call.Client, call.Reply = x.session.client, nil
		if !x.stream {
			call.Client = atlas.Client{} // there is nowhere to ask it
		}
	}
	return call
}

// Values of header fields that do not change. They are shared: nobody may append to them.
var (
	jsonType   = []string{"application/json"}
	streamType = []string{"text/event-stream"}
	noBuffer   = []string{"no"}
)

// bufferBeforeChunking is how much of an answer net/http holds back, and so how long one may be for it
// to find out the length by itself.
const bufferBeforeChunking = 2048

func writeJSON(w http.ResponseWriter, data []byte, status int) {
	h := w.Header()
	h["Content-Type"] = jsonType
	if len(data) > bufferBeforeChunking {
		h["Content-Length"] = []string{strconv.Itoa(len(data))}
	}
	if status != http.StatusOK {
		w.WriteHeader(status)
	}
	_, _ = w.Write(data) // the client may have gone
}

// A buffer is where an answer is written before it is sent.
type buffer struct{ data []byte }

var buffers = sync.Pool{New: func() any { return &buffer{data: make([]byte, 0, 4096)} }}

// maxKept bounds a buffer that is kept for the next answer.
const maxKept = 64 << 10

func (b *buffer) free() {
	if cap(b.data) <= maxKept {
		b.data = b.data[:0]
		buffers.Put(b)
	}
}
