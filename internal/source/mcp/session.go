package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A session is one identity's connection to the upstream: its own HTTP connections, its own protocol
// session, its own listing. It connects when it is first used and again when it has broken. It is safe
// for concurrent use.
type session struct {
	cfg    *Config // with defaults
	from   string  // the source's name
	log    *slog.Logger
	http   *http.Client
	epoch  *atomic.Int64 // grows when the upstream says that its tools have changed, to whomever
	notify func()        // is told of that, too; may be nil
	listen bool          // keep a stream open on which the upstream says it

	gate    *source.Gate
	listing chan struct{} // holds one: who lists

	mu     sync.Mutex
	client *sdk.ClientSession // nil unless connected
	tools  map[string]*tool   // of the last listing, by name
	broken map[string]string  // names whose definitions cannot be read, and why
	listed time.Time
	seen   int64 // epoch before the last listing

	closing sync.WaitGroup // connections that are being given up

	// Of the pool, and guarded by it.
	used  time.Time // when it was last asked for
	calls int       // that use it now
}

// version that Atlas tells the upstream. It says nothing of the build.
const version = "1"

func newSession(cfg *Config, from string, base http.RoundTripper, auth *authorizer, epoch *atomic.Int64, log *slog.Logger) (*session, error) {
	where, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	s := &session{
		cfg: cfg, from: from, log: log, epoch: epoch, listing: make(chan struct{}, 1),
		http: &http.Client{
			Transport:     &transport{base: base, where: where, auth: auth, most: cfg.MaxAnswerBytes},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	s.gate = source.NewGate(cfg.ConnectTimeout, s.connect)
	return s, nil
}

// connect opens a protocol session and lists the tools.
func (s *session) connect(ctx context.Context) error {
	s.drop(nil)
	client := sdk.NewClient(&sdk.Implementation{Name: "atlas", Version: version}, s.options())
	client.AddSendingMiddleware(neverCached)
	client.AddReceivingMiddleware(s.refuse)
	cs, err := client.Connect(ctx, &sdk.StreamableClientTransport{
		Endpoint: s.cfg.URL, HTTPClient: s.http, DisableStandaloneSSE: !s.listen, MaxRetries: -1, MaxEventSize: int(s.cfg.MaxAnswerBytes),
	}, nil)
	if err != nil {
		return s.failure(ctx, err, nil)
	}
	s.mu.Lock()
	s.client, s.listed = cs, time.Time{}
	s.mu.Unlock()
	if err := s.list(ctx, cs); err != nil {
		s.drop(cs)
		return s.failure(ctx, err, nil)
	}
	return nil
}

func (s *session) options() *sdk.ClientOptions {
	o := &sdk.ClientOptions{
		Capabilities:   &sdk.ClientCapabilities{}, // no roots, no sampling, no elicitation
		MultiRoundTrip: &sdk.MultiRoundTripOptions{Disabled: true},
		Logger:         slog.New(slog.DiscardHandler), // it would log what the upstream wrote
	}
	if s.listen { // the handler makes the SDK open subscriptions/listen; refuse has done the work
		o.ToolListChangedHandler = func(context.Context, *sdk.ToolListChangedRequest) {}
	}
	return o
}

// neverCached takes away how long the upstream says its list may be kept: the SDK would answer the next
// listing from memory, and a change would go unseen for as long as the upstream likes.
func neverCached(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		res, err := next(ctx, method, req)
		if list, ok := res.(*sdk.ListToolsResult); ok && list != nil {
			list.TTLMs = 0
		}
		return res, err
	}
}

var errUnwanted = &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: "not supported"}

// refuse answers what the upstream asks: nothing. Its notifications are dropped but one.
func (s *session) refuse(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		switch {
		case method == "notifications/tools/list_changed":
			s.epoch.Add(1)
			if s.notify != nil {
				s.notify()
			}
			return next(ctx, method, req)
		case method == "ping", strings.HasPrefix(method, "notifications/"):
			return next(ctx, method, req)
		}
		s.log.WarnContext(ctx, "an upstream asked for something of Atlas, and was refused", "source", s.from, "method", shown(method))
		return nil, errUnwanted
	}
}

// maxPages bounds a listing whose pages never end.
const maxPages = 64

var errTooMany = errors.New("the upstream lists more tools than max_tools")

// list asks for all tools.
func (s *session) list(outer context.Context, cs *sdk.ClientSession) error {
	ctx, noted := noting(outer)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout)
	defer cancel()
	seen := s.epoch.Load()
	tools, broken := map[string]*tool{}, map[string]string{}
	params := &sdk.ListToolsParams{}
	for page := 0; ; page++ {
		res, err := cs.ListTools(ctx, params)
		if err != nil {
			return s.failure(outer, err, noted)
		}
		for _, t := range res.Tools {
			if len(tools)+len(broken) >= s.cfg.MaxTools {
				return atlas.Errorf(atlas.CodeSourceError, errTooMany, "")
			}
			name := strings.ToValidUTF8(t.Name, "\uFFFD")
			parsed, err := asTool(t)
			switch _, twice := tools[name]; {
			case err != nil:
				broken[name] = err.Error()
			case twice: // which of them would be called?
				delete(tools, name)
				broken[name] = "it is listed twice"
			case broken[name] == "":
				tools[name] = parsed
			}
		}
		if res.NextCursor == "" {
			break
		}
		if page == maxPages {
			return atlas.Errorf(atlas.CodeSourceError, errors.New("the upstream's list of tools has no end"), "")
		}
		params = &sdk.ListToolsParams{Cursor: res.NextCursor}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tools, s.broken, s.listed, s.seen = tools, broken, time.Now(), seen
	return nil
}

// current returns the connection, and whether its listing is young enough to rely on.
func (s *session) current(age time.Duration) (cs *sdk.ClientSession, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client, s.client != nil && !s.listed.IsZero() && s.seen == s.epoch.Load() && time.Since(s.listed) <= age
}

// maxRelists is how often one call lists again because the upstream says that its tools have changed
// meanwhile.
const maxRelists = 10

// fresh returns a connection whose listing is at most age old and which the upstream has not called
// changed since. Zero means a listing that was begun after the call of fresh.
func (s *session) fresh(ctx context.Context, age time.Duration) (*sdk.ClientSession, error) {
	begun := time.Now()
	for range maxRelists {
		if err := s.gate.Pass(ctx); err != nil {
			return nil, err
		}
		if cs, ok := s.current(max(age, time.Since(begun))); ok {
			return cs, nil
		}
		if err := s.relist(ctx, max(age, time.Since(begun))); err != nil {
			return nil, err
		}
	}
	return nil, atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("the upstream keeps changing its tools"), "")
}

// relist lists again, one at a time, unless somebody else has just done so.
func (s *session) relist(ctx context.Context, age time.Duration) error {
	select {
	case s.listing <- struct{}{}:
	case <-ctx.Done():
		return atlas.ErrorOf(ctx.Err())
	}
	defer func() { <-s.listing }()
	cs, ok := s.current(age)
	if ok || cs == nil { // connected anew by the next Pass
		return nil
	}
	err := s.list(ctx, cs)
	if err != nil && ctx.Err() == nil && errors.Is(err, errBroken) {
		s.lost(cs)
		return nil // once more, over a new connection
	}
	if err != nil && !isAnswer(err) {
		s.lost(cs)
	}
	return err
}

// lookup returns what the last listing said of a tool.
func (s *session) lookup(name string) (t *tool, broken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tools[name], s.broken[name]
}

// snapshot returns the last listing.
func (s *session) snapshot() (tools map[string]*tool, broken map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tools, s.broken // replaced, never changed
}

// errBroken marks failures after which the connection is of no more use, and before which nothing was
// done: the upstream did not take the request.
var errBroken = errors.New("the connection to the upstream is lost")

// codeRejected is what the SDK says of a request that did not leave its transport.
const codeRejected = -32005

// failure turns an error of the SDK into one for the caller. What the upstream wrote stays out of both
// hint and code.
func (s *session) failure(ctx context.Context, err error, noted *exchange) error {
	if e, ok := errors.AsType[*atlas.Error](err); ok {
		return e
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.failure()
	}
	if noted != nil && noted.tooLarge.Load() {
		return atlas.Errorf(atlas.CodeTooLarge, errTooLarge, "the upstream's answer is larger than the limit; ask for less")
	}
	if e := ctx.Err(); e != nil {
		return atlas.ErrorOf(e)
	}
	if errors.Is(err, sdk.ErrSessionMissing) {
		return atlas.Errorf(atlas.CodeSourceUnavailable, fmt.Errorf("%w: %w", errBroken, sdk.ErrSessionMissing), "")
	}
	if wire, ok := errors.AsType[*jsonrpc.Error](err); ok && wire.Code != codeRejected {
		return atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("the upstream refused the request with %d: %.200q", wire.Code, wire.Message), "")
	}
	return atlas.Errorf(atlas.CodeSourceUnavailable, fmt.Errorf("upstream: %.300s", err.Error()), "")
}

// call runs one tool. The caller has made sure that its definition is the approved one.
func (s *session) call(ctx context.Context, cs *sdk.ClientSession, name string, args json.RawMessage, traceparent string) (*sdk.CallToolResult, error) {
	ctx, noted := noting(ctx)
	params := &sdk.CallToolParams{Name: name, Arguments: args}
	if traceparent != "" {
		params.Meta = sdk.Meta{"traceparent": traceparent}
	}
	res, err := cs.CallTool(ctx, params)
	if err == nil {
		return res, nil
	}
	err = s.failure(ctx, err, noted)
	if ctx.Err() == nil && !isAnswer(err) {
		s.lost(cs)
	}
	return nil, err
}

// isAnswer reports a failure that the upstream answered with: the connection works.
func isAnswer(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	return refused || atlas.CodeOf(err) == atlas.CodeSourceError
}

// lost closes a connection that has broken, so that the next call makes another.
func (s *session) lost(cs *sdk.ClientSession) {
	if s.drop(cs) {
		s.gate.Doubt()
	}
}

// drop gives the connection up; cs, if not nil, must be the current one. The SDK waits for its calls to
// end, so nobody waits for the SDK but close.
func (s *session) drop(cs *sdk.ClientSession) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.client
	if old == nil || cs != nil && old != cs {
		return false
	}
	s.client = nil
	s.closing.Go(func() { _ = old.Close() }) // it is given up either way
	return true
}

// close ends the session for good. Its calls must have been told to end.
func (s *session) close() {
	s.gate.Close()
	s.drop(nil)
	s.closing.Wait()
	s.http.CloseIdleConnections()
}
