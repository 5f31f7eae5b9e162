// Package mcp serves tools over the Model Context Protocol: Streamable HTTP in the 2026-07-28
// revision and the older ones on one URL, and stdio. It turns protocol messages into calls for the
// pipeline and results back, and assembles the HTTP routes around that. Who calls, what they may
// do and what a tool does are decided elsewhere.
//
// Both eras are served without sessions. What a session would add for clients of the older era,
// requests from the server (sampling, elicitation) and notifications on a GET stream, Atlas does
// not use; in return any replica answers any request, and there is no session to steal.
package mcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// Deps are what the program gives to a Server. Handler and Tools are needed; the rest serves HTTP.
type Deps struct {
	Handler atlas.Handler        // the pipeline
	Tools   func() []*atlas.Tool // all tools of the current configuration
	Version string               // of the program

	Authenticate Middleware // puts an [edge.Caller] into the context, or refuses
	Tenant       Middleware // sets the caller's acting tenant, or refuses

	AuthServers []string // issuers of tokens, for the resource metadata
	Scopes      []string // scopes that a client should ask for, for the resource metadata

	JWKS           http.Handler                           // /.well-known/jwks.json; nil if there is no embedded issuer
	IssuerMetadata http.Handler                           // /.well-known/oauth-authorization-server; as JWKS
	Metrics        http.Handler                           // /metrics; may be nil
	Admin          http.Handler                           // /admin/v1/, behind authentication; may be nil
	Checks         map[string]func(context.Context) error // what /readyz asks, by name

	Log *slog.Logger
}

// A Server answers MCP clients. It is safe for concurrent use.
type Server struct {
	cfg     Config
	deps    Deps
	sdk     *sdk.Server // of the HTTP endpoint
	handler http.Handler
	listed  atomic.Pointer[listing]
	calls   inflight
	streams streams
	ready   readiness

	draining  context.Context // ends when the server stops: streams end with it
	stopDrain context.CancelFunc

	mu   sync.Mutex // guards live
	live map[*sdk.Server]bool
}

// New returns a Server. It starts nothing.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("mcp: %w", err)
	}
	if deps.Handler == nil || deps.Tools == nil {
		return nil, errors.New("mcp: needs a handler and tools")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg.withDefaults(), deps: deps, live: make(map[*sdk.Server]bool)}
	s.calls.running = make(map[callKey]map[*inflightCall]struct{})
	s.streams.user, s.streams.tenant = make(map[string]int), make(map[atlas.TenantID]int)
	s.ready.checks = deps.Checks
	s.draining, s.stopDrain = context.WithCancel(context.Background())
	s.refreshListing()
	s.sdk = s.newSDK(nil)
	s.handler = s.routes()
	return s, nil
}

// Handler returns the HTTP handler with all routes.
func (s *Server) Handler() http.Handler { return s.handler }

// ToolsChanged tells the server that the tools are others now, and the server tells the clients
// that listen. Lists and calls need it not: they ask the pipeline each time.
func (s *Server) ToolsChanged() {
	s.refreshListing()
	s.mu.Lock()
	defer s.mu.Unlock()
	for srv := range s.live {
		announce(srv)
	}
}

// newSDK returns an SDK server. With a fixed caller every request is that caller's (stdio);
// without one a request without an identity is refused.
//
// Tools are not registered with the SDK. It looks a registered tool up before anybody has asked who
// calls: a fault in a mirrored header (x-mcp-header) is answered differently for a tool that the
// caller may not see than for one that does not exist. So the middleware answers tools/list and
// tools/call, and the SDK does the protocol.
func (s *Server) newSDK(fixed *identity) *sdk.Server {
	srv := sdk.NewServer(&sdk.Implementation{Name: "atlas-mcp", Title: "Atlas", Version: s.deps.Version}, &sdk.ServerOptions{
		Instructions: s.cfg.Instructions,
		Logger:       s.sdkLog(),
		// Set, because nil means logging too.
		Capabilities: &sdk.ServerCapabilities{Tools: &sdk.ToolCapabilities{ListChanged: true}},
		// The SDK's default scope is public: shared between users.
		SetCacheable: func(_ context.Context, _ sdk.Request, c *sdk.Cacheable) {
			c.CacheScope, c.TTLMs = "private", ttlMs(s.cfg.ListTTL)
		},
	})
	srv.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler { return s.receive(fixed, next) })
	s.mu.Lock()
	s.live[srv] = true
	s.mu.Unlock()
	return srv
}

func (s *Server) forget(srv *sdk.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, srv)
}

// announce makes the SDK send list_changed to whoever listens, which it does when a tool is added
// or removed. The name is never listed and cannot be called.
func announce(srv *sdk.Server) {
	const name = "atlas-tools-changed"
	srv.AddTool(&sdk.Tool{Name: name, InputSchema: emptySchema}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return nil, errUnknownTool
	})
	srv.RemoveTools(name)
}

// receive stands before the SDK's own methods.
func (s *Server) receive(fixed *identity, next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (res sdk.Result, err error) {
		// The SDK runs this on a goroutine of its own, where a panic would end the process.
		defer func() {
			if p := recover(); p != nil {
				s.deps.Log.ErrorContext(ctx, "panic while answering", "method", method, "panic", p)
				res, err = nil, errInternal
			}
		}()
		switch method {
		case "tools/call", "tools/list", "subscriptions/listen":
		case "initialize":
			return s.initialize(ctx, method, req, next, fixed != nil)
		default:
			return next(ctx, method, req)
		}
		id := fixed
		if id == nil {
			if id = identityOf(req); id == nil {
				s.deps.Log.ErrorContext(ctx, "request without an identity behind authentication", "method", method)
				return nil, errInternal
			}
		}
		switch r := req.(type) {
		case *sdk.CallToolRequest:
			return s.callTool(ctx, id, r)
		case *sdk.ListToolsRequest:
			return s.listTools(ctx, id, r)
		}
		return s.listen(ctx, id, method, req, next)
	}
}

// initialize says to clients of the older era over HTTP that they will not hear of changed lists:
// that takes a stream that the server opens, and there is no session to open it for.
func (s *Server) initialize(ctx context.Context, method string, req sdk.Request, next sdk.MethodHandler, stdio bool) (sdk.Result, error) {
	res, err := next(ctx, method, req)
	if r, ok := res.(*sdk.InitializeResult); ok && err == nil && !stdio {
		caps := *r.Capabilities
		caps.Tools = &sdk.ToolCapabilities{}
		r.Capabilities = &caps
	}
	return res, err
}

// listen lets a subscription live until the client ends it, its token expires or the server stops.
func (s *Server) listen(ctx context.Context, id *identity, method string, req sdk.Request, next sdk.MethodHandler) (sdk.Result, error) {
	if !s.streams.enter(id, &s.cfg) {
		// One text for all three bounds: which one it was would tell of the others' subscriptions.
		return nil, rpcFailure(atlas.Errorf(atlas.CodeRateLimited, nil, "too many subscriptions are open; close one, or try again later"), edge.NewRequestID())
	}
	defer s.streams.leave(id)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if exp := id.caller.Principal.Expiry; !exp.IsZero() {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, exp)
		defer stop()
	}
	defer context.AfterFunc(s.draining, cancel)()
	return next(ctx, method, req)
}

// streams counts the open subscriptions: of each caller, of each tenant, and of all.
type streams struct {
	mu     sync.Mutex
	user   map[string]int
	tenant map[atlas.TenantID]int
	total  int
}

// enter takes a place if caller, tenant and server have one left. The tenant is the caller's own, not
// the one acted for: who may act for others must not use up their places, nor multiply his own.
func (s *streams) enter(id *identity, cfg *Config) bool {
	tenant := id.caller.Principal.Tenant
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.user[id.user] >= cfg.MaxStreams || s.tenant[tenant] >= cfg.MaxStreamsTenant || s.total >= cfg.MaxStreamsTotal {
		return false
	}
	s.user[id.user]++
	s.tenant[tenant]++
	s.total++
	return true
}

func (s *streams) leave(id *identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	release(s.user, id.user)
	release(s.tenant, id.caller.Principal.Tenant)
	s.total--
}

func release[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

func ttlMs(d time.Duration) int { return int(d / time.Millisecond) }
