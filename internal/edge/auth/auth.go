// Package auth turns an access token into a principal, as an OAuth 2.1 resource server: JSON Web
// Tokens (RFC 9068, RFC 8725) checked against the key set of the issuer that they name, opaque tokens
// by introspection (RFC 7662), and proofs of possession (DPoP, RFC 9449). Issuing tokens is issuer's,
// choosing the acting tenant is tenant's, and what a principal may do is policy's.
//
// A token goes nowhere else: not into a log, not to a source, and to no issuer but its own.
package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// Deps are what the program gives to a Verifier. Functions must be safe for concurrent use.
type Deps struct {
	// Keys are key sets that the program holds itself, by issuer, such as the embedded issuer's.
	Keys map[string]jwkset.Storage
	// DevTokens are principals by token, for development mode.
	DevTokens map[string]*atlas.Principal
	// Client reads key sets and metadata and asks about opaque tokens; nil means a client of its own that
	// follows no redirect.
	Client *http.Client
	// PublicURL is where clients find the server, such as https://atlas.example: what the htu of a DPoP
	// proof must say, before the request's path. Without it, DPoP is off.
	PublicURL string
	// NonceKey makes DPoP nonces; servers that share it accept each other's. Default: random.
	NonceKey []byte
	// Revoked reports whether a token was revoked. It is asked about every request. It may be nil.
	Revoked func(issuer, tokenID string) bool
	// RoleScopes returns the scopes of a role, for issuers with scopes_from_roles. It may be nil.
	RoleScopes func(role string) []string
	// Tools names the tools that a principal sees, for explanations. It may be nil.
	Tools func(*atlas.Principal) []string

	Challenge edge.Challenge // DPoP is added to it where it is on
	Log       *slog.Logger
}

// A Verifier checks tokens. It is safe for concurrent use. Its caches and key sets may be dropped at any
// time: it only costs time. What it remembers of DPoP proofs may not, see [DPoP].
type Verifier struct {
	cfg        Config
	issuers    map[string]*trusted
	names      []string                  // of the issuers, sorted
	opaque     []*trusted                // issuers that can be asked about opaque tokens
	dev        map[[32]byte]*edge.Caller // by SHA-256 of the token
	verified   *verified
	proofs     *proofs
	revoked    func(issuer, tokenID string) bool
	roleScopes func(role string) []string
	tools      func(*atlas.Principal) []string
	challenge  edge.Challenge
	client     *http.Client
	log        *slog.Logger
}

// trusted is an issuer, ready for use.
type trusted struct {
	Issuer
	keys   keyfunc.Keyfunc // nil if only introspection tells
	store  jwkset.Storage  // behind keys
	remote *remoteKeys     // nil if the program holds the keys
	asker  *introspector   // nil without introspection

	tenantAt, scope, subject path
	roleAt                   []path
	ownTenant                bool // claims.tenant is the issuer's own setting
	require                  []requirement
	requireJTI               bool
	dpop                     string
}

type requirement struct {
	at   path
	want string
}

// confined reports whether the issuer speaks for certain tenants only.
func (t *trusted) confined() bool {
	return len(t.Tenants) > 0 || t.Tenant != "" || len(t.TenantMap) > 0
}

// tenants lists them, sorted; none if it is not confined.
func (t *trusted) tenants() []string {
	out := slices.Concat(t.Tenants, slices.Collect(maps.Values(t.TenantMap)))
	if t.Tenant != "" {
		out = append(out, t.Tenant)
	}
	if len(t.Tenants) > 0 && len(t.TenantMap) > 0 {
		out = slices.Collect(maps.Values(t.TenantMap)) // the smaller set: Validate sees to it
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// New returns a Verifier. It asks nobody for keys: [Verifier.Run] and the first token do.
func New(cfg Config, deps Deps) (*Verifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	cfg = cfg.withDefaults()
	v := &Verifier{
		cfg: cfg, challenge: deps.Challenge, log: deps.Log, client: deps.Client,
		issuers:  make(map[string]*trusted, len(cfg.Issuers)),
		dev:      make(map[[32]byte]*edge.Caller),
		verified: newVerified(cfg.CacheSize),
		revoked:  deps.Revoked, roleScopes: deps.RoleScopes, tools: deps.Tools,
	}
	if v.client == nil {
		v.client = &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	if v.revoked == nil {
		v.revoked = func(string, string) bool { return false }
	}
	if v.roleScopes == nil {
		v.roleScopes = func(string) []string { return nil }
	}
	var err error
	if v.proofs, err = newProofs(cfg.DPoP, deps.PublicURL, deps.NonceKey); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	bound, bearer := false, cfg.Development
	for _, is := range cfg.Issuers {
		t, err := v.trust(is, deps)
		if err != nil {
			return nil, fmt.Errorf("auth: issuer %q: %w", is.Issuer, err)
		}
		v.issuers[is.Issuer] = t
		if t.asker != nil {
			v.opaque = append(v.opaque, t)
		}
		bound = bound || t.dpop != dpopOff
		bearer = bearer || t.dpop != dpopRequired
	}
	v.names = slices.Sorted(maps.Keys(v.issuers))
	for _, t := range v.issuers {
		if len(v.issuers) > 1 && t.remote != nil && !t.confined() {
			v.log.Warn("one of several issuers may speak for every tenant; give it tenants, or a tenant", "issuer", t.Issuer.Issuer)
		}
	}
	if bound {
		v.challenge.DPoPAlgs, v.challenge.DPoPOnly = proofAlgorithms, !bearer
	}
	if cfg.Development {
		for token, p := range deps.DevTokens {
			if _, err := atlas.ParseTenantID(string(p.Tenant)); err != nil || p.Subject == "" || len(token) < 8 {
				return nil, errors.New("auth: a development token needs 8 characters, a tenant and a subject")
			}
			v.dev[sha256.Sum256([]byte(token))] = &edge.Caller{Principal: p, Tenant: p.Tenant}
		}
	}
	return v, nil
}

// trust makes an issuer ready.
func (v *Verifier) trust(is Issuer, deps Deps) (*trusted, error) {
	t := &trusted{Issuer: is, store: deps.Keys[is.Issuer], dpop: is.DPoP, ownTenant: is.Claims.Tenant != ""}
	t.requireJTI = is.RequireJTI == nil || *is.RequireJTI
	if deps.PublicURL == "" {
		if is.DPoP == dpopRequired {
			return nil, errors.New("dpop: required needs the server's public URL")
		}
		t.dpop = dpopOff
	}
	discover := is.Discover == nil || *is.Discover
	switch {
	case t.store != nil && is.JWKSURL != "":
		return nil, errors.New("has both its own keys and a jwks_url")
	case t.store != nil:
	case is.JWKSURL != "":
		t.remote = newRemoteKeys(is.JWKSURL, v.client, v.cfg)
	case discover:
		if err := secureURL(is.Issuer); err != nil {
			return nil, fmt.Errorf("needs a jwks_url, or a URL as its name that can be discovered: %w", err)
		}
		t.remote = newRemoteKeys("", v.client, v.cfg)
		t.remote.issuer = is.Issuer
	case is.Introspection == nil:
		return nil, errors.New("needs a jwks_url, discover or introspection")
	}
	if t.remote != nil {
		t.store = t.remote
	}
	var err error
	if t.store != nil {
		if t.keys, err = keyfunc.New(keyfunc.Options{Storage: t.store}); err != nil {
			return nil, err
		}
	}
	if is.Introspection != nil {
		if t.asker, err = newIntrospector(*is.Introspection, is.Issuer, v.client, v.log.With("issuer", is.Issuer)); err != nil {
			return nil, err
		}
	}
	return t, t.paths(v.cfg)
}

// paths parses what Validate has checked.
func (t *trusted) paths(cfg Config) error {
	tenant := t.Claims.Tenant
	if tenant == "" {
		tenant = cfg.TenantClaim
	}
	single, err := parsePaths([]string{tenant, t.Claims.Scope, t.Claims.Subject})
	if err != nil {
		return err
	}
	t.tenantAt, t.scope, t.subject = single[0], single[1], single[2]
	if t.roleAt, err = parsePaths(t.Claims.Roles); err != nil {
		return err
	}
	for _, at := range slices.Sorted(maps.Keys(t.Require)) {
		p, err := parsePath(at)
		if err != nil {
			return err
		}
		t.require = append(t.require, requirement{p, t.Require[at]})
	}
	return nil
}

// Challenge returns the challenge that the verifier refuses with: that of Deps, with DPoP where it is on. Others
// who refuse requests behind the middleware should use the same.
func (v *Verifier) Challenge() edge.Challenge { return v.challenge }

// Run reads the key sets of all issuers now and from time to time until ctx ends; then it returns
// nil. An issuer that cannot be reached keeps its last keys.
func (v *Verifier) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, t := range v.issuers {
		if t.remote != nil {
			wg.Go(func() { t.remote.run(ctx, v.log.With("issuer", t.Issuer.Issuer)) })
		}
	}
	<-ctx.Done()
	wg.Wait()
	return nil
}

// Ready returns an error while no token of any issuer could be checked, for readiness checks. One
// issuer's outage does not take the server from the tenants of the others; [Verifier.Probe] tells it.
func (v *Verifier) Ready(context.Context) error {
	var without []string
	for name, t := range v.issuers {
		if t.remote == nil || t.remote.usable(time.Now()) {
			return nil
		}
		without = append(without, name)
	}
	if len(without) == 0 {
		return nil
	}
	slices.Sort(without)
	return fmt.Errorf("no keys of issuer %s", strings.Join(without, ", "))
}

// Verify returns the principal of a bearer token. remote is the address of the peer, or "" if it is
// unknown or behind a proxy; only development tokens ask for it. The failures are missing_token,
// invalid_token, token_expired and no_tenant, whose hints do not say what else is wrong, and
// state_unavailable while the issuer's keys are not known or the issuer cannot be asked. A token that is
// bound to a key is invalid as a bearer token.
func (v *Verifier) Verify(ctx context.Context, token, remote string) (*atlas.Principal, error) {
	e, err := v.accept(ctx, token, remote)
	if err != nil {
		return nil, err
	}
	if e.jkt != "" {
		return nil, invalid(errBoundAsBearer)
	}
	return e.caller.Principal, nil
}

// accept returns who the token is for and the key it is bound to, from the cache if it can.
func (v *Verifier) accept(ctx context.Context, token, remote string) (seen, error) {
	if token == "" {
		return seen{}, atlas.Errorf(atlas.CodeMissingToken, nil, "")
	}
	if len(token) > maxToken {
		return seen{}, invalid(errors.New("longer than the limit"))
	}
	sum := digest(token)
	if len(v.dev) > 0 {
		if c, ok := v.dev[sum]; ok && edge.IsLoopback(remote) {
			return seen{caller: c}, nil
		}
	}
	now := time.Now()
	if e, ok := v.verified.get(sum, now); ok {
		if p := e.caller.Principal; v.revoked(p.Issuer, p.TokenID) {
			return seen{}, invalid(errors.New("revoked"))
		}
		return e, nil
	}
	in := &inspection{v: v, token: token, sum: sum, now: now}
	if f := in.run(ctx); f != nil {
		return seen{}, in.refusal(ctx, f)
	}
	ttl := v.cfg.CacheTTL
	if in.from.asker != nil {
		ttl = min(ttl, in.from.asker.cfg.CacheTTL)
	}
	p := in.p // alone: the cache must not hold the token
	p.Claims = in.claims
	e := seen{caller: &edge.Caller{Principal: &p, Tenant: p.Tenant}, jkt: in.jkt, until: minTime(p.Expiry, now.Add(ttl))}
	v.verified.put(sum, e, now)
	return e, nil
}

// digest returns the SHA-256 of a token, for most tokens without an allocation.
func digest(token string) [32]byte {
	var buf [2 << 10]byte
	if len(token) > len(buf) {
		return sha256.Sum256([]byte(token))
	}
	return sha256.Sum256(buf[:copy(buf[:], token)])
}

// refusal is what the caller is told of a fault.
func (in *inspection) refusal(ctx context.Context, f *fault) error {
	switch f.code {
	case "":
		if err := ctx.Err(); err != nil && errors.Is(f, err) {
			return err
		}
		return invalid(f)
	case atlas.CodeStateUnavailable:
		if err := ctx.Err(); err != nil {
			return err
		}
		return &atlas.Error{
			Code: f.code, RetryAfter: unknownPause, Err: f,
			Hint: "tokens cannot be checked at the moment; wait, then try again",
		}
	default:
		return atlas.Errorf(f.code, f, "")
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func invalid(cause error) *atlas.Error { return atlas.Errorf(atlas.CodeInvalidToken, cause, "") }
