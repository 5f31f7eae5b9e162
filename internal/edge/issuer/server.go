package issuer

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// A Store keeps values under compare-and-set, by the contract of internal/state.KV.
type Store interface {
	Get(ctx context.Context, space, key string) (value []byte, version int64, err error)
	CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error)
	CompareAndDelete(ctx context.Context, space, key string, version int64) (bool, error)
}

// ServerDeps are what the program gives to a Server.
type ServerDeps struct {
	Issuer *Issuer
	Store  Store
	// Personas lists those who may sign in without a password, from this machine only. It may be nil.
	Personas func() []Persona
	// Scopes returns what the roles may do at most. It is asked whenever a token is made, so that a
	// role that lost a scope loses it at the next refresh. Unknown roles have none.
	Scopes func(roles []string) []string
	// Fetch reads a document from the network: a client's description or a key set. It must follow no
	// redirect, refuse addresses that are not public, and bound size and time. Nil turns off
	// everything that needs it. It must be safe for concurrent use.
	Fetch func(ctx context.Context, url string) (body []byte, header http.Header, err error)
	// SubjectToken checks a token of another trusted issuer for token exchange. Nil means that only
	// the issuer's own tokens are exchanged.
	SubjectToken func(ctx context.Context, token string) (*atlas.Principal, error)
	// Kept names claims that narrow what a token may do. An exchanged token keeps those of the first.
	Kept []string
	// Recorded is told of what is worth an audit record, once it has happened and before it is answered. It must
	// be safe for concurrent use and soon return. It may be nil.
	Recorded func(ctx context.Context, e Event)
	Log      *slog.Logger
}

// A Persona is somebody who may sign in.
type Persona struct {
	Subject string
	Tenant  atlas.TenantID
	Roles   []string
	About   string // one line for people

	hash hash   // of the password; the zero hash: no password, but only from this machine
	mark string // changes with the password: a new one ends what the old one began
}

// A Server is an OAuth 2.1 authorization server over an [Issuer]. It is safe for concurrent use.
// What must outlive it lies in the store: it may be replaced at any time, and several processes
// may share a store and a key folder.
type Server struct {
	cfg  ServerConfig
	deps ServerDeps
	iss  *Issuer
	self *url.URL // the issuer's URL
	log  *slog.Logger

	resources []string // canonical; the first is the default
	clients   map[string]*client
	providers map[string]*provider
	documents *documents // nil: not supported
	remote    *remoteKeys
	secret    []byte
	revoked   *revocations
	limits    *limits
	proxies   []netip.Prefix // whose X-Forwarded-For is believed
	rounds    int            // of hashing that each try of a password costs
	hashing   chan struct{}  // slots for password hashing, which is slow on purpose
	origin    *http.CrossOriginProtection
	meta      []byte
	pages     *template.Template
	style     string // CSP source of the pages' style
}

// Open returns a Server, and reads from the store which tokens are revoked.
func Open(ctx context.Context, cfg ServerConfig, deps ServerDeps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("authorization server: %w", err)
	}
	if deps.Issuer == nil || deps.Store == nil || deps.Scopes == nil {
		return nil, errors.New("authorization server: an issuer, a store and the scopes of roles are needed")
	}
	cfg = cfg.withDefaults()
	s := &Server{
		cfg: cfg, deps: deps, iss: deps.Issuer, log: deps.Log,
		clients: map[string]*client{}, providers: map[string]*provider{},
		revoked: newRevocations(deps.Store), limits: newLimits(), hashing: make(chan struct{}, 2),
		origin: http.NewCrossOriginProtection(),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.configure(); err != nil {
		return nil, fmt.Errorf("authorization server: %w", err)
	}
	if err := s.revoked.load(ctx); err != nil {
		return nil, fmt.Errorf("authorization server: revoked tokens: %w", err)
	}
	return s, nil
}

func (s *Server) configure() (err error) {
	if s.self, err = url.Parse(s.iss.cfg.Issuer); err != nil {
		return err
	}
	for _, r := range append([]string{s.iss.cfg.Audience}, s.cfg.Resources...) {
		c := canonicalResource(r)
		if c == "" {
			return fmt.Errorf("audience %q is no http or https URL", r)
		}
		if !slices.Contains(s.resources, c) {
			s.resources = append(s.resources, c)
		}
	}
	for _, c := range s.cfg.Clients {
		if s.clients[c.ID], err = configured(c); err != nil {
			return err
		}
	}
	for _, p := range s.cfg.TrustedProxies {
		prefix, err := parsePrefix(p)
		if err != nil {
			return err
		}
		s.proxies = append(s.proxies, prefix)
	}
	s.rounds = mostRounds(s.cfg.Users)
	for _, p := range s.personas() {
		if s.clients[p.Subject] != nil { // RFC 9068 section 5: nobody can tell them apart
			return fmt.Errorf("client_id %q is a persona's subject", p.Subject)
		}
	}
	if s.deps.Fetch != nil {
		s.remote = newRemoteKeys(s.deps.Fetch)
		if !s.cfg.Documents.Disabled {
			s.documents = newDocuments(s.deps.Fetch, s.cfg.Documents.Max)
		}
	}
	for _, p := range s.cfg.Providers {
		if p.JWKSURL != "" && s.remote == nil {
			return fmt.Errorf("identity provider %q: jwks_url needs a way to fetch; give its jwks", p.Issuer)
		}
		if s.providers[p.Issuer], err = newProvider(p); err != nil {
			return err
		}
	}
	if s.secret, err = secret(s.iss.cfg.KeyFile); err != nil {
		return err
	}
	if s.pages, s.style, err = parsePages(); err != nil {
		return err
	}
	s.meta, err = s.metadata()
	return err
}

// Run takes in what other processes revoke, until ctx ends; then it returns nil. Without it, only
// revocations of this process are known.
func (s *Server) Run(ctx context.Context) error {
	s.revoked.run(ctx, s.log)
	return nil
}

// Revoked reports whether the token of that jti has been revoked, alone or with all tokens of its
// grant. It only reads memory: call it for every request, after verification.
func (s *Server) Revoked(tokenID string) bool { return s.revoked.has(tokenID) }

// Revoke ends the token of that jti, which expires at the given time.
func (s *Server) Revoke(ctx context.Context, tokenID string, expires time.Time) error {
	return s.revoked.add(ctx, tokenID, expires)
}

// Routes returns the handlers of all endpoints by path, for an [http.ServeMux].
func (s *Server) Routes() map[string]http.Handler {
	routes := map[string]http.Handler{
		pathMetadata:   http.HandlerFunc(s.serveMetadata),
		pathKeys:       http.HandlerFunc(s.iss.ServeJWKS),
		pathAuthorize:  s.page(s.serveAuthorize, http.MethodGet),
		pathLogin:      s.page(s.serveLogin, http.MethodPost),
		pathLogout:     s.page(s.serveLogout, http.MethodPost),
		pathConsent:    s.page(s.serveConsent, http.MethodPost),
		pathToken:      s.api(s.serveToken),
		pathRevoke:     s.api(s.serveRevoke),
		pathIntrospect: s.api(s.serveIntrospect),
	}
	if !s.cfg.Registration.Disabled {
		routes[pathRegister] = s.api(s.serveRegister)
	}
	// RFC 8414 section 3.1: the issuer's path comes after the well-known part.
	if p := strings.TrimSuffix(s.self.EscapedPath(), "/"); p != "" {
		for path, h := range routes {
			if strings.HasPrefix(path, "/oauth/") || path == pathKeys {
				routes[p+path] = h
			}
		}
		routes[pathMetadata+p] = routes[pathMetadata]
	}
	return routes
}

// Handler returns all endpoints as one handler.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, h := range s.Routes() {
		mux.Handle(path, h)
	}
	return mux
}

func (s *Server) serveMetadata(w http.ResponseWriter, r *http.Request) { serveJSON(w, r, s.meta) }

// maxForm bounds bodies and queries: an assertion and a proof fit.
const maxForm = 48 << 10

// api wraps an endpoint that programs call: POST only, never cached, open to web applications of
// every origin, since no cookie counts here.
func (s *Server) api(serve func(http.ResponseWriter, *http.Request) *oauthError) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Pragma", "no-cache") // RFC 6749 section 5.1
		h.Set("Access-Control-Allow-Origin", "*")
		switch r.Method {
		case http.MethodPost:
		case http.MethodOptions:
			h.Set("Access-Control-Allow-Methods", "POST")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, DPoP, MCP-Protocol-Version")
			h.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return
		default:
			h.Set("Allow", "POST, OPTIONS")
			(&oauthError{code: "invalid_request", desc: "use POST", status: http.StatusMethodNotAllowed}).write(w)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := serve(w, r); err != nil {
			if err.err != nil {
				s.log.WarnContext(r.Context(), "oauth request failed", "path", r.URL.Path, "code", err.code, "error", err.err)
			}
			err.write(w)
		}
	})
}

// person returns the one who signs in under the subject, as they are now.
func (s *Server) person(subject string) (Persona, bool) {
	for _, u := range s.cfg.Users {
		if u.Subject == subject {
			h, err := parseHash(u.PasswordHash)
			return Persona{Subject: u.Subject, Tenant: atlas.TenantID(u.Tenant), Roles: u.Roles, hash: h, mark: digest(u.PasswordHash)}, err == nil
		}
	}
	for _, p := range s.personas() {
		if p.Subject == subject {
			return p, true
		}
	}
	return Persona{}, false
}

func (s *Server) personas() []Persona {
	if s.deps.Personas == nil {
		return nil
	}
	out := slices.Clone(s.deps.Personas())
	for i := range out {
		out[i].hash, out[i].mark = hash{}, ""
	}
	return out
}

// local reports whether r comes from this machine, to the name that the issuer has: a web page that
// has pointed a name of its own here is not local.
func (s *Server) local(r *http.Request) bool {
	return edge.FromLoopback(r) && strings.EqualFold(r.Host, s.self.Host)
}

// resource returns the one that a request asks for (RFC 8707 section 2): the default if it names
// none, "" if it names more than one or one of somebody else's.
func (s *Server) resource(named []string) string {
	if len(named) == 0 {
		return s.resources[0]
	}
	c := canonicalResource(named[0])
	for _, other := range named[1:] {
		if canonicalResource(other) != c {
			return ""
		}
	}
	if !slices.Contains(s.resources, c) {
		return ""
	}
	return c
}

// audience returns the aud of a token for the resource: the spelling that the configuration has.
func (s *Server) audience(resource string) string {
	for _, r := range append([]string{s.iss.cfg.Audience}, s.cfg.Resources...) {
		if canonicalResource(r) == resource {
			return r
		}
	}
	return resource
}
