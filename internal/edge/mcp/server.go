// Package mcp serves tools, prompts and resources over the Model Context Protocol: Streamable HTTP
// in the 2026-07-28 revision and the older ones on one URL, and stdio. It turns protocol messages
// into calls for the pipeline and results back, and assembles the HTTP routes around that. Who
// calls, what they may do and what a tool does are decided elsewhere.
//
// Any replica answers any request, in both eras: what a session of the older era is, its client carries,
// sealed (package direct). The calls and lists of tools, which are nearly all there is, are answered by
// package direct without the SDK; the SDK answers the rest, and everything over stdio. Both read and
// write by package message. What clients are told that they did not ask for is package listen's.
package mcp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/listen"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/places"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
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

	Routes  map[string]http.Handler                // further ones by path, before authentication: of the authorization server
	Metrics http.Handler                           // /metrics; may be nil
	Admin   http.Handler                           // /admin/v1/, behind authentication; may be nil
	Checks  map[string]func(context.Context) error // what /readyz asks, by name

	// Challenge tells how a client gets a better token, and is told of requests that are refused.
	Challenge edge.Challenge
	Tasks     *tasks.Manager // makes tasks of calls; may be nil
	// Sealer seals the sessions of clients of the older era, so that any replica knows what they can do.
	// Without one they have no sessions, and are asked nothing.
	Sealer direct.Sealer
	// Mailbox brings what clients of the older era answer to the replica that asked; nil: they must
	// reach it themselves.
	Mailbox direct.Mailbox

	Log *slog.Logger
}

// A Server answers MCP clients. It is safe for concurrent use.
type Server struct {
	cfg     Config
	deps    Deps
	sdk     *sdk.Server // of the HTTP endpoint
	handler http.Handler
	catalog atomic.Pointer[catalog]
	looks   places.Taken // requests that look into sources
	hub     *listen.Hub
	ready   readiness
	self    []byte // the server's name as results have it

	draining  context.Context // ends when the server stops: streams end with it
	stopDrain context.CancelFunc
}

// New returns a Server. It starts nothing.
func New(cfg Config, deps Deps) (*Server, error) {
	err := cfg.Validate()
	if err != nil {
		return nil, fmt.Errorf("mcp: %w", err)
	}
	if deps.Handler == nil || deps.Tools == nil {
		return nil, errors.New("mcp: needs a handler and tools")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	deps.Version = cmp.Or(deps.Version, "dev") // clients expect one
	s := &Server{cfg: cfg.withDefaults(), deps: deps}
	s.ready.checks = deps.Checks
	s.draining, s.stopDrain = context.WithCancel(context.Background())
	s.hub = listen.New(listen.Config{
		Bound:    places.Bound{User: s.cfg.MaxStreams, Tenant: s.cfg.MaxStreamsTenant, Total: s.cfg.MaxStreamsTotal},
		SightTTL: s.cfg.ListTTL, KeepAlive: s.cfg.KeepAlive, WriteTimeout: s.cfg.WriteTimeout, Draining: s.draining,
	})
	// Without its icons, which a client that wants them asks for once.
	if s.self, err = json.Marshal(sdk.Implementation{Name: serverName, Title: serverTitle, Version: deps.Version}); err != nil {
		return nil, fmt.Errorf("mcp: %w", err)
	}
	s.catalog.Store(newCatalog(deps.Tools()))
	s.sdk = s.newSDK(nil)
	endpoint, err := s.endpoint()
	if err != nil {
		return nil, fmt.Errorf("mcp: %w", err)
	}
	s.handler = s.routes(endpoint)
	return s, nil
}

// Handler returns the HTTP handler with all routes.
func (s *Server) Handler() http.Handler { return s.handler }

// ToolsChanged tells the server that the tools, prompts and resources are others now, and the server
// tells the clients that listen to the kinds that changed. Lists and calls need it not: they ask the
// pipeline each time.
func (s *Server) ToolsChanged() {
	after := newCatalog(s.deps.Tools())
	before := s.catalog.Swap(after)
	for kind := range kinds {
		// Also if they are the same: it may be the policy that changed, and with it who sees them.
		if before.has[kind] || after.has[kind] {
			s.hub.ListChanged(atlas.Kind(kind))
		}
	}
}

// ResourceUpdated tells the server that the resource at uri has other contents now, for one tenant.
// The clients that subscribed to it, act for that tenant and may see the resource are told. It does
// not wait for them.
func (s *Server) ResourceUpdated(tenant atlas.TenantID, uri string) { s.hub.Updated(tenant, uri) }

// newSDK returns an SDK server. With a fixed caller every request is that caller's (stdio); without
// one a request without an identity is refused.
//
// Nothing is registered with the SDK. It looks a registered tool up before anybody has asked who
// calls: a fault in a mirrored header (x-mcp-header) is answered differently for a tool that the
// caller may not see than for one that does not exist. And what it sends on a change goes to every
// session, whoever that is. So the middleware answers what is about tools, prompts and resources and
// sends what listeners are told, and the SDK does the protocol.
func (s *Server) newSDK(fixed *identity) *sdk.Server {
	srv := sdk.NewServer(s.implementation(), &sdk.ServerOptions{
		Instructions: s.cfg.Instructions,
		Logger:       s.sdkLog(),
		Capabilities: s.withTasks(capabilities(true)),
		// The SDK's default scope is public: shared between users.
		SetCacheable: func(_ context.Context, _ sdk.Request, c *sdk.Cacheable) {
			c.CacheScope, c.TTLMs = "private", ttlMs(s.cfg.ListTTL)
		},
	})
	srv.AddSendingMiddleware(acknowledge)
	srv.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler { return s.receive(fixed, next) })
	s.addTasks(srv)
	return srv
}

// implementation is how the server names itself.
func (s *Server) implementation() *sdk.Implementation {
	return &sdk.Implementation{
		Name: serverName, Title: serverTitle, Description: serverDescription, Version: s.deps.Version,
		WebsiteURL: websiteURL, Icons: sdkIcons(serverIcons()),
	}
}

// capabilities returns what the server can do. A client can be told of changes if there is a stream
// that may carry what no request asked for: a subscription, or stdio.
func capabilities(tells bool) *sdk.ServerCapabilities {
	return &sdk.ServerCapabilities{
		Tools:       &sdk.ToolCapabilities{ListChanged: tells},
		Prompts:     &sdk.PromptCapabilities{ListChanged: tells},
		Resources:   &sdk.ResourceCapabilities{ListChanged: tells, Subscribe: tells},
		Completions: &sdk.CompletionCapabilities{},
		Logging:     &sdk.LoggingCapabilities{}, //nolint:staticcheck // deprecated, and still how clients of all eras get log messages
	}
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
		answer := s.methods(next, method, req)
		if answer == nil {
			return next(ctx, method, req)
		}
		id := fixed
		if id == nil {
			if id = identityOf(req); id == nil {
				s.deps.Log.ErrorContext(ctx, "request without an identity behind authentication", "method", method)
				return nil, errInternal
			}
		}
		return answer(ctx, id)
	}
}

// methods returns how the server answers req, or nil if the SDK does.
func (s *Server) methods(next sdk.MethodHandler, method string, req sdk.Request) func(context.Context, *identity) (sdk.Result, error) {
	switch r := req.(type) {
	case *sdk.CallToolRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.callTool(ctx, id, r) }
	case *sdk.ListToolsRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.listTools(ctx, id, r) }
	case *sdk.ListPromptsRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.listPrompts(ctx, id, r) }
	case *sdk.GetPromptRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.getPrompt(ctx, id, r) }
	case *sdk.ListResourcesRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.listResources(ctx, id, r) }
	case *sdk.ListResourceTemplatesRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.listTemplates(ctx, id, r) }
	case *sdk.ReadResourceRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.readResource(ctx, id, r) }
	case *sdk.CompleteRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.complete(ctx, id, r) }
	case *sdk.SubscribeRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.subscribe(ctx, id, r) }
	case *sdk.UnsubscribeRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.unsubscribe(ctx, id, r) }
	case *sdk.ServerRequest[*taskParams]:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.task(ctx, id, method, r) }
	case *sdk.SubscriptionsListenRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.listen(ctx, id, r, next) }
	case *sdk.ServerRequest[*sdk.InitializeParams]:
		return func(ctx context.Context, id *identity) (sdk.Result, error) { return s.initialize(ctx, id, req, next) }
	case *sdk.InitializedRequest:
		return func(ctx context.Context, id *identity) (sdk.Result, error) {
			id.listener.WantLists() // clients of the older era hear of changed lists without asking
			return next(ctx, method, req)
		}
	}
	return nil
}

// initialize says to clients of the older era without a stream that they will not hear of changes.
func (s *Server) initialize(ctx context.Context, id *identity, req sdk.Request, next sdk.MethodHandler) (sdk.Result, error) {
	res, err := next(ctx, "initialize", req)
	if r, ok := res.(*sdk.InitializeResult); ok && err == nil {
		r.Capabilities = capabilities(id.listener != nil || id.session.ID != "")
	}
	return res, err
}

func ttlMs(d time.Duration) int { return int(d / time.Millisecond) }
