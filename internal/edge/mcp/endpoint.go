package mcp

import (
	"context"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// endpoint returns the handler of /mcp, to be put behind authentication: package direct, and behind
// that the SDK.
//
// One stateless SDK handler serves both eras: the SDK tells them apart by the MCP-Protocol-Version
// header and, where a client forgot it, by the body, and refuses a message whose header and body
// disagree (SEP-2243, SEP-2575). What takes a session in the older era, direct does with sealed tokens.
func (s *Server) endpoint() (http.Handler, error) {
	inner := s.bridge()
	return direct.New(direct.Config{
		PageSize: s.cfg.PageSize, ListTTL: s.cfg.ListTTL, MaxBody: s.cfg.MaxBody, WriteTimeout: s.cfg.WriteTimeout,
		KeepAlive: s.cfg.KeepAlive, AskTimeout: s.cfg.AskTimeout, MaxAsks: s.cfg.MaxAsks, SessionTTL: s.cfg.SessionTTL,
	}, direct.Deps{
		Call: s.answer, List: s.deps.Handler,
		Listing: func() *message.Listing { return s.catalog.Load().listing },
		Rest: func(w http.ResponseWriter, r *http.Request, session direct.Session) {
			inner.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), sessionContextKey{}, session)))
		},
		Listen: func(w http.ResponseWriter, r *http.Request, session direct.Session) {
			s.hub.ServeSession(w, r, s.listening(newIdentity(edge.CallerOf(r.Context()), "http")), session)
		},
		Ended: func(c *edge.Caller, session direct.Session) {
			s.hub.EndSession(direct.User(c), session)
		},
		Implementation: s.self, Challenge: s.deps.Challenge, Sealer: s.deps.Sealer, Mailbox: s.deps.Mailbox,
		Draining: s.draining, Log: s.deps.Log,
	})
}

// bridge returns the SDK's handler, which it gives the caller's identity.
func (s *Server) bridge() http.Handler {
	h := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return s.sdk }, &sdk.StreamableHTTPOptions{
		Stateless:                    true,
		JSONResponse:                 true,
		PropagateRequestCancellation: true,
		MaxRequestBodyBytes:          s.cfg.MaxBody,
		Logger:                       s.sdkLog(),
		// guard checks Host, for every route and with a list.
		DisableLocalhostProtection: true,
	})
	// RequireBearerToken is the only way to hand an identity to the SDK. Ours has verified the token;
	// this one reads what ours found. It asks for a bearer token in the header; what came is not its
	// business.
	bridge := auth.RequireBearerToken(func(ctx context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
		id, _ := ctx.Value(identityContextKey{}).(*identity)
		if id == nil {
			return nil, auth.ErrInvalidToken
		}
		return &auth.TokenInfo{
			Scopes: id.caller.Principal.Scopes, Expiration: id.caller.Principal.Expiry, UserID: id.user,
			Extra: map[string]any{identityKey: id},
		}, nil
	}, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true, ClockSkew: maxSkew})
	inner := bridge(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := newIdentity(edge.CallerOf(r.Context()), "http")
		if r.Header.Get(message.HeaderVersion) < message.FirstModern {
			id.gone = r.Context()
			id.session, _ = r.Context().Value(sessionContextKey{}).(direct.Session)
		}
		r = r.WithContext(context.WithValue(r.Context(), identityContextKey{}, id))
		r.Header = r.Header.Clone()
		r.Header.Set("Authorization", "Bearer verified") // whatever its scheme was; the token goes no further
		if s.deps.Tasks != nil && r.Header.Get(message.HeaderMethod) == "subscriptions/listen" {
			follow(id, r)
		}
		sw := s.hub.NewStream(&stepUpWriter{ResponseWriter: w, id: id, challenge: s.deps.Challenge})
		defer sw.Close()
		id.tell = sw.Tell
		inner.ServeHTTP(sw, r)
	})
}

// maxSkew is above any clock skew of the verifier, which alone decides about expiry.
const maxSkew = time.Hour

type (
	identityContextKey struct{}
	sessionContextKey  struct{}
)

// A stepUpWriter gives an answer that refuses a call for want of scopes the status and the header that
// HTTP has for it (RFC 6750 section 3.1).
type stepUpWriter struct {
	http.ResponseWriter
	id        *identity
	challenge edge.Challenge
	wrote     bool
}

// Unwrap lets http.ResponseController reach the connection.
func (w *stepUpWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (w *stepUpWriter) WriteHeader(status int) {
	if e := w.id.stepUp.Load(); e != nil && !w.wrote {
		status = http.StatusForbidden
		w.Header().Set("WWW-Authenticate", w.challenge.Header(e))
	}
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *stepUpWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}
