// Package auth turns a bearer token into a principal, as an OAuth 2.1 resource server: JSON Web
// Tokens (RFC 9068, RFC 8725) checked against the key set of the issuer that they name. Issuing
// tokens is issuer's, choosing the acting tenant is tenant's, and what a principal may do is
// policy's.
package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// maxToken bounds what is parsed before anything is known about a token.
const maxToken = 8 << 10

// Deps are what the program gives to a Verifier.
type Deps struct {
	// Keys are key sets that the program holds itself, by issuer, such as the embedded issuer's.
	Keys map[string]jwkset.Storage
	// DevTokens are principals by token, for development mode.
	DevTokens map[string]*atlas.Principal
	// Client reads key sets; nil means a client of its own that follows no redirect.
	Client    *http.Client
	Challenge edge.Challenge
	Log       *slog.Logger
}

// A Verifier checks tokens. It is safe for concurrent use. Its cache of verified tokens and its
// key sets may be dropped at any time: it only costs time.
type Verifier struct {
	cfg       Config
	issuers   map[string]*trusted
	dev       map[[32]byte]*atlas.Principal // by SHA-256 of the token
	parser    *jwt.Parser
	verified  *verified
	challenge edge.Challenge
	log       *slog.Logger
}

// trusted is an issuer and its keys.
type trusted struct {
	Issuer
	keys   keyfunc.Keyfunc
	remote *remoteKeys // nil if the program holds the keys
}

// New returns a Verifier. It asks nobody for keys: [Verifier.Run] and the first token do.
func New(cfg Config, deps Deps) (*Verifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	cfg = cfg.withDefaults()
	client := deps.Client
	if client == nil {
		client = &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	v := &Verifier{
		cfg: cfg, challenge: deps.Challenge, log: deps.Log,
		issuers:  make(map[string]*trusted, len(cfg.Issuers)),
		dev:      make(map[[32]byte]*atlas.Principal),
		verified: newVerified(cfg.CacheSize),
		parser: jwt.NewParser(
			jwt.WithValidMethods(cfg.Algorithms), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
			jwt.WithLeeway(cfg.ClockSkew), jwt.WithStrictDecoding(), jwt.WithJSONNumber(),
		),
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	for _, is := range cfg.Issuers {
		t := &trusted{Issuer: is}
		store := deps.Keys[is.Issuer]
		switch {
		case store != nil && is.JWKSURL != "":
			return nil, fmt.Errorf("auth: issuer %q has both its own keys and a jwks_url", is.Issuer)
		case store == nil && is.JWKSURL == "":
			return nil, fmt.Errorf("auth: issuer %q needs a jwks_url", is.Issuer)
		case store == nil:
			t.remote = newRemoteKeys(is.JWKSURL, client, cfg)
			store = t.remote
		}
		var err error
		if t.keys, err = keyfunc.New(keyfunc.Options{Storage: store}); err != nil {
			return nil, fmt.Errorf("auth: issuer %q: %w", is.Issuer, err)
		}
		v.issuers[is.Issuer] = t
	}
	if cfg.Development {
		for token, p := range deps.DevTokens {
			if _, err := atlas.ParseTenantID(string(p.Tenant)); err != nil || p.Subject == "" || len(token) < 8 {
				return nil, errors.New("auth: a development token needs 8 characters, a tenant and a subject")
			}
			v.dev[sha256.Sum256([]byte(token))] = p
		}
	}
	return v, nil
}

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

// Ready returns an error while an issuer's keys are not known, for readiness checks.
func (v *Verifier) Ready(context.Context) error {
	for _, t := range v.issuers {
		if t.remote != nil && !t.remote.usable(time.Now()) {
			return fmt.Errorf("no keys of issuer %q", t.Issuer.Issuer)
		}
	}
	return nil
}

// Verify returns the principal of token. remote is the address of the peer, or "" if it is unknown
// or behind a proxy; only development tokens ask for it. The failures are missing_token,
// invalid_token, token_expired and no_tenant, whose hints do not say what else is wrong, and
// state_unavailable while the issuer's keys are not known.
func (v *Verifier) Verify(ctx context.Context, token, remote string) (*atlas.Principal, error) {
	if token == "" {
		return nil, atlas.Errorf(atlas.CodeMissingToken, nil, "")
	}
	if len(token) > maxToken {
		return nil, invalid(errors.New("longer than the limit"))
	}
	sum := sha256.Sum256([]byte(token))
	if p, ok := v.dev[sum]; ok && edge.IsLoopback(remote) {
		return p, nil
	}
	now := time.Now()
	if p := v.verified.get(sum, now); p != nil {
		return p, nil
	}
	p, err := v.verify(ctx, token)
	if err != nil {
		return nil, err
	}
	v.verified.put(sum, p, now, minTime(p.Expiry, now.Add(v.cfg.CacheTTL)))
	return p, nil
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func invalid(cause error) *atlas.Error { return atlas.Errorf(atlas.CodeInvalidToken, cause, "") }

// verify checks a token from scratch: header and issuer first, then the signature, then the claims.
func (v *Verifier) verify(ctx context.Context, token string) (*atlas.Principal, error) {
	var from *trusted
	claims := jwt.MapClaims{}
	_, err := v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		var err error
		if from, err = v.issuerOf(t, claims); err != nil {
			return nil, err
		}
		return from.keys.KeyfuncCtx(ctx)(t)
	})
	// Nothing but expiry may be said, and only of a token that was once good here.
	expired := err != nil && onlyExpired(err)
	if err != nil && !expired {
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		if errors.Is(err, errNoKeys) { // the token may be good; 401 would make the client throw it away
			return nil, &atlas.Error{
				Code: atlas.CodeStateUnavailable, RetryAfter: unknownPause, Err: err,
				Hint: "tokens cannot be checked at the moment; wait, then try again",
			}
		}
		return nil, invalid(err)
	}
	p, perr := v.principal(from, claims)
	switch {
	case expired && (perr == nil || atlas.CodeOf(perr) == atlas.CodeNoTenant):
		return nil, atlas.Errorf(atlas.CodeTokenExpired, err, "")
	case perr != nil:
		return nil, perr
	}
	return p, nil
}

// onlyExpired reports whether a token's signature is good and its expiry is all that is wrong.
func onlyExpired(err error) bool {
	if !errors.Is(err, jwt.ErrTokenExpired) {
		return false
	}
	for _, other := range []error{
		jwt.ErrTokenSignatureInvalid, jwt.ErrTokenUnverifiable, jwt.ErrTokenMalformed,
		jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenRequiredClaimMissing, jwt.ErrInvalidType,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// issuerOf checks a token's header and returns the issuer that its iss names. The token's signature
// is not checked yet; it will be, with a key of that issuer only.
func (v *Verifier) issuerOf(t *jwt.Token, claims jwt.MapClaims) (*trusted, error) {
	typ, _ := t.Header["typ"].(string)
	// RFC 7515 section 4.1.9: the "application/" prefix may be left out; media types have no case.
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	if !slices.ContainsFunc(v.cfg.Types, func(s string) bool { return strings.EqualFold(s, typ) }) {
		return nil, errors.New("typ is not accepted")
	}
	if kid, ok := t.Header["kid"].(string); !ok || kid == "" || len(kid) > 256 {
		return nil, errors.New("no kid") // without one, any key of the set would do
	}
	if _, ok := t.Header["crit"]; ok {
		return nil, errors.New("crit names extensions that are not understood") // RFC 7515 section 4.1.11
	}
	iss, err := claims.GetIssuer()
	if err != nil {
		return nil, err
	}
	from := v.issuers[iss]
	if from == nil {
		return nil, errors.New("unknown issuer")
	}
	return from, nil
}

// principal reads the claims of a token whose signature is good.
func (v *Verifier) principal(from *trusted, claims jwt.MapClaims) (*atlas.Principal, error) {
	aud, err := claims.GetAudience()
	if err != nil {
		return nil, invalid(err)
	}
	if !slices.ContainsFunc(aud, func(a string) bool { return slices.Contains(from.Audience, a) }) {
		return nil, invalid(jwt.ErrTokenInvalidAudience)
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil {
		return nil, invalid(errors.New("no exp"))
	}
	if iat, err := claims.GetIssuedAt(); err != nil || iat == nil {
		return nil, invalid(errors.New("no iat"))
	}
	sub, _ := claims["sub"].(string)
	jti, _ := claims["jti"].(string)
	if sub == "" || jti == "" {
		return nil, invalid(errors.New("no sub or no jti"))
	}
	tenant, _ := claims[v.cfg.TenantClaim].(string)
	if tenant == "" {
		return nil, atlas.Errorf(atlas.CodeNoTenant, nil, "")
	}
	id, err := atlas.ParseTenantID(tenant)
	if err != nil {
		return nil, atlas.Errorf(atlas.CodeNoTenant, err, "the token's tenant is not a tenant id; ask your administrator")
	}
	if len(from.Tenants) > 0 && !slices.Contains(from.Tenants, tenant) {
		return nil, invalid(errors.New("the issuer may not speak for the tenant"))
	}
	roles := words(claims[v.cfg.RolesClaim])
	for i, r := range roles {
		roles[i] = strings.TrimPrefix(r, "role:")
	}
	var delegator string
	if act, ok := claims["act"].(map[string]any); ok {
		delegator, _ = act["sub"].(string)
	}
	return &atlas.Principal{
		Subject: sub, Tenant: id, Roles: roles, Scopes: words(claims["scope"]), Delegator: delegator,
		Issuer: from.Issuer.Issuer, TokenID: jti, Expiry: exp.Time, Claims: claims,
	}, nil
}

// words reads a claim that is one string of words or an array of strings; all else is no words.
func words(claim any) []string {
	switch c := claim.(type) {
	case string:
		return strings.Fields(c)
	case []any:
		var out []string
		for _, e := range c {
			if s, ok := e.(string); ok && s != "" {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}
