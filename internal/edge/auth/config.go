package auth

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// Config sets up a Verifier. The zero Config accepts nothing.
type Config struct {
	Issuers     []Issuer `yaml:"issuers"`
	Development bool     `yaml:"development"` // accept the development tokens of Deps, from loopback only

	TenantClaim string   `yaml:"tenant_claim"` // where an issuer names no other; default tenant
	RolesClaim  string   `yaml:"roles_claim"`  // where an issuer names no other; default roles
	Types       []string `yaml:"types"`        // accepted typ headers where an issuer names no others; default at+jwt
	Algorithms  []string `yaml:"algorithms"`   // default RS256, PS256, ES256, ES384 and EdDSA; asymmetric only

	ClockSkew   time.Duration `yaml:"clock_skew"`   // default 30s, at most 5m
	CacheSize   int           `yaml:"cache_size"`   // verified tokens kept; default 10000
	CacheTTL    time.Duration `yaml:"cache_ttl"`    // default and most 60s: how late a withdrawn key is noticed
	KeysRefresh time.Duration `yaml:"keys_refresh"` // between two regular reads of a JWKS; default 15m
	KeysMaxAge  time.Duration `yaml:"keys_max_age"` // keys older than this are not trusted any more; default 24h

	DPoP DPoP `yaml:"dpop"`
}

// An Issuer is one authorization server whose tokens are accepted.
type Issuer struct {
	Issuer   string   `yaml:"issuer"`   // exact value of iss
	JWKSURL  string   `yaml:"jwks_url"` // of its keys; where it is left out, discovery finds it
	Audience []string `yaml:"audience"` // the token's aud must name one of them
	Tenants  []string `yaml:"tenants"`  // tenants that the issuer may speak for; empty: all

	// Discover reads jwks_uri from the issuer's metadata (OpenID Connect Discovery, RFC 8414). Default: true,
	// unless the program holds the keys or jwks_url names them. With false, an issuer with introspection has
	// opaque tokens only.
	Discover *bool `yaml:"discover"`

	Claims Claims `yaml:"claims"`
	// Tenant is the tenant of all tokens of the issuer, instead of a claim.
	Tenant string `yaml:"tenant"`
	// TenantMap gives the tenant for each value of the tenant claim; other values are refused.
	TenantMap map[string]string `yaml:"tenant_map"`
	// RoleMap gives the roles of Atlas for each role or group of the issuer; others give none.
	RoleMap map[string][]string `yaml:"role_map"`
	// ScopesFromRoles adds the scopes of the (mapped) roles to those of the token, for issuers that cannot
	// mint scopes such as tool:crm:read.
	ScopesFromRoles bool `yaml:"scopes_from_roles"`

	// Types are the accepted typ headers; "" accepts a header without typ. Default: those of Config.
	Types []string `yaml:"types"`
	// Require lists claims that must have exactly this text, such as token_use: access. By paths.
	Require map[string]string `yaml:"require"`
	// RequireJTI is true by default. With false, a token without jti is named by its hash.
	RequireJTI *bool `yaml:"require_jti"`

	// DPoP (RFC 9449) is "off", "optional" (the default: a token that is bound to a key needs a proof) or
	// "required" (every token must be bound). Without Deps.PublicURL it is off.
	DPoP string `yaml:"dpop"`

	Introspection *Introspection `yaml:"introspection"`
}

// Claims tell where an issuer's tokens carry what Atlas needs. Each is a path, see below; an empty one
// has its default.
//
// A path is a claim's name, or names from the outside in with dots between them (realm_access.roles).
// Whatever holds "://" is one name (https://atlas.example/tenant). For a name with a dot in it, write a
// JSON Pointer (/resource_access/my.client/roles).
type Claims struct {
	Tenant  string   `yaml:"tenant"`  // default Config.TenantClaim; one text, or with a path of its own a list of one
	Roles   []string `yaml:"roles"`   // all of them together; default Config.RolesClaim
	Scope   string   `yaml:"scope"`   // a text of words or a list; default scope
	Subject string   `yaml:"subject"` // default sub
}

// Introspection asks the issuer about tokens that are no JWT (RFC 7662).
type Introspection struct {
	URL      string `yaml:"url"` // https, or http on loopback
	ClientID string `yaml:"client_id"`
	// One of the two: ClientSecret is sent as client_secret_basic; PrivateKey, a PEM of PKCS #8, signs
	// assertions (private_key_jwt, RFC 7523) with KeyID as their kid.
	ClientSecret string `yaml:"client_secret"`
	PrivateKey   string `yaml:"private_key"`
	KeyID        string `yaml:"key_id"`

	// Prefix is how the issuer's opaque tokens begin. It is needed where several issuers are introspected:
	// a token is never shown to an issuer that did not issue it.
	Prefix string `yaml:"prefix"`
	// Always asks about JWTs too, after they were verified, so that a revoked one is noticed.
	Always bool `yaml:"always"`

	CacheTTL time.Duration `yaml:"cache_ttl"` // of a good answer; default and most 60s
	Timeout  time.Duration `yaml:"timeout"`   // of one question; default 5s, at most 30s
}

// DPoP bounds the proofs of possession (RFC 9449).
type DPoP struct {
	// MaxAge and MaxAhead are how far a proof's iat may lie back and ahead. Default 60s and 5s; with
	// nonces, which say themselves how old a proof is, 5m both.
	MaxAge   time.Duration `yaml:"max_age"`
	MaxAhead time.Duration `yaml:"max_ahead"`
	// Nonces asks for a nonce of the server in every proof (RFC 9449 section 9).
	Nonces   bool          `yaml:"nonces"`
	NonceTTL time.Duration `yaml:"nonce_ttl"` // default 5m, at most 1h
	// Replays is how many proofs are remembered per tenant until they are too old to be replayed; the
	// tenant's further calls wait. Default 50000.
	Replays int `yaml:"replays"`
}

// The values of Issuer.DPoP.
const (
	dpopOff      = "off"
	dpopOptional = "optional"
	dpopRequired = "required"
)

// asymmetric lists the algorithms that can be allowed. An algorithm with a shared secret would let
// whoever can verify a token sign one, and let a public key be used as the secret.
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	seen := make(map[string]bool)
	for i, is := range c.Issuers {
		if seen[is.Issuer] && is.Issuer != "" {
			add("issuers[%d].issuer: %q is there twice", i, is.Issuer)
		}
		seen[is.Issuer] = true
		is.validate(func(format string, args ...any) { add("issuers[%d]."+format, append([]any{i}, args...)...) })
	}
	errs = append(errs, c.validatePrefixes())
	for name, p := range map[string]string{"tenant_claim": c.TenantClaim, "roles_claim": c.RolesClaim} {
		if _, err := parsePath(p); p != "" && err != nil {
			add("%s: %q %w", name, p, err)
		}
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric, a) {
			add("algorithms: %q is not one of %v", a, asymmetric)
		}
	}
	within := func(name string, d, most time.Duration) {
		if d < 0 || d > most {
			add("%s: must be between 0 and %s", name, most)
		}
	}
	within("clock_skew", c.ClockSkew, 5*time.Minute)
	within("cache_ttl", c.CacheTTL, time.Minute)
	within("dpop.max_age", c.DPoP.MaxAge, time.Hour)
	within("dpop.max_ahead", c.DPoP.MaxAhead, time.Hour)
	within("dpop.nonce_ttl", c.DPoP.NonceTTL, time.Hour)
	if c.CacheSize < 0 {
		add("cache_size: must not be negative")
	}
	if c.DPoP.Replays < 0 || c.DPoP.Replays > maxReplays {
		add("dpop.replays: must be between 0 and %d", maxReplays)
	}
	if c.KeysRefresh < 0 || c.KeysRefresh != 0 && c.KeysRefresh < time.Second {
		add("keys_refresh: must be at least 1s")
	}
	if c.KeysMaxAge < 0 || c.KeysMaxAge != 0 && c.KeysMaxAge < c.withDefaults().KeysRefresh {
		add("keys_max_age: must be at least keys_refresh")
	}
	return errors.Join(errs...)
}

func (is Issuer) validate(add func(format string, args ...any)) {
	if is.Issuer == "" {
		add("issuer: is required")
	}
	if len(is.Audience) == 0 || slices.Contains(is.Audience, "") {
		add("audience: needs at least one name, none of them empty")
	}
	if is.JWKSURL != "" {
		u, err := url.Parse(is.JWKSURL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			add("jwks_url: must be an http or https URL without credentials")
		}
		if is.Discover != nil && *is.Discover {
			add("discover: jwks_url names the keys already; leave one of them out")
		}
	}
	for _, t := range is.Tenants {
		if _, err := atlas.ParseTenantID(t); err != nil {
			add("tenants: %w", err)
		}
	}
	is.validateMapping(add)
	if !slices.Contains([]string{"", dpopOff, dpopOptional, dpopRequired}, is.DPoP) {
		add("dpop: %q is not one of off, optional and required", is.DPoP)
	}
	if is.Introspection != nil {
		is.Introspection.validate(func(format string, args ...any) { add("introspection."+format, args...) })
	}
}

func (is Issuer) validateMapping(add func(format string, args ...any)) {
	tenant := func(field, t string) {
		if _, err := atlas.ParseTenantID(t); err != nil {
			add("%s: %w", field, err)
		} else if len(is.Tenants) > 0 && !slices.Contains(is.Tenants, t) {
			add("%s: %q is not one of tenants", field, t)
		}
	}
	if is.Tenant != "" {
		tenant("tenant", is.Tenant)
		if is.Claims.Tenant != "" || len(is.TenantMap) > 0 {
			add("tenant: is fixed; leave claims.tenant and tenant_map out")
		}
	}
	for _, from := range slices.Sorted(maps.Keys(is.TenantMap)) {
		tenant("tenant_map."+from, is.TenantMap[from])
	}
	paths := slices.Concat(is.Claims.Roles, slices.Sorted(maps.Keys(is.Require)))
	for _, p := range []string{is.Claims.Tenant, is.Claims.Scope, is.Claims.Subject} {
		if p != "" {
			paths = append(paths, p)
		}
	}
	if _, err := parsePaths(paths); err != nil {
		add("claims: %w", err)
	}
	for _, from := range slices.Sorted(maps.Keys(is.RoleMap)) {
		if slices.Contains(is.RoleMap[from], "") {
			add("role_map.%s: an empty role", from)
		}
	}
}

func (in *Introspection) validate(add func(format string, args ...any)) {
	if err := secureURL(in.URL); err != nil {
		add("url: %w", err)
	}
	if in.ClientID == "" {
		add("client_id: is required")
	}
	if (in.ClientSecret == "") == (in.PrivateKey == "") {
		add("client_secret: give either client_secret or private_key")
	}
	if in.PrivateKey != "" {
		if _, err := parseSigner(in.PrivateKey); err != nil {
			add("private_key: %w", err)
		}
	}
	if in.CacheTTL < 0 || in.CacheTTL > time.Minute {
		add("cache_ttl: must be between 0 and 60s")
	}
	if in.Timeout < 0 || in.Timeout > 30*time.Second {
		add("timeout: must be between 0 and 30s")
	}
}

// validatePrefixes sees to it that every opaque token belongs to at most one issuer.
func (c Config) validatePrefixes() error {
	var errs []error
	for i, a := range c.Issuers {
		for j, b := range c.Issuers[:i] {
			if a.Introspection != nil && b.Introspection != nil && overlap(a.Introspection.Prefix, b.Introspection.Prefix) {
				errs = append(errs, fmt.Errorf("issuers[%d].introspection.prefix: issuers[%d] is introspected too; give each a prefix that the other's does not begin with", i, j))
			}
		}
	}
	return errors.Join(errs...)
}

func overlap(a, b string) bool {
	n := min(len(a), len(b))
	return a[:n] == b[:n]
}

// secureURL reports whether what is sent to raw can be read by nobody on the way: https, or http to this
// machine.
func secureURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return errors.New("must be a URL without credentials or fragment")
	}
	if u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || edge.IsLoopback(u.Hostname())) {
		return nil
	}
	return errors.New("must be https (http on loopback only)")
}

func (c Config) withDefaults() Config {
	c.TenantClaim = cmp.Or(c.TenantClaim, "tenant")
	c.RolesClaim = cmp.Or(c.RolesClaim, "roles")
	if len(c.Types) == 0 {
		c.Types = []string{"at+jwt"} // RFC 9068 section 4: anything else could be an ID token
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"}
	}
	c.ClockSkew = cmp.Or(c.ClockSkew, 30*time.Second)
	c.CacheSize = cmp.Or(c.CacheSize, 10_000)
	c.CacheTTL = cmp.Or(c.CacheTTL, time.Minute)
	c.KeysRefresh = cmp.Or(c.KeysRefresh, 15*time.Minute)
	c.KeysMaxAge = cmp.Or(c.KeysMaxAge, 24*time.Hour)
	back, ahead := time.Minute, 5*time.Second
	if c.DPoP.Nonces {
		back, ahead = 5*time.Minute, 5*time.Minute
	}
	c.DPoP.MaxAge = cmp.Or(c.DPoP.MaxAge, back)
	c.DPoP.MaxAhead = cmp.Or(c.DPoP.MaxAhead, ahead)
	c.DPoP.NonceTTL = cmp.Or(c.DPoP.NonceTTL, 5*time.Minute)
	c.DPoP.Replays = cmp.Or(c.DPoP.Replays, 50_000)
	issuers := make([]Issuer, len(c.Issuers))
	for i, is := range c.Issuers {
		issuers[i] = is.withDefaults(c)
	}
	c.Issuers = issuers
	return c
}

func (is Issuer) withDefaults(c Config) Issuer {
	if len(is.Claims.Roles) == 0 {
		is.Claims.Roles = []string{c.RolesClaim}
	}
	is.Claims.Scope = cmp.Or(is.Claims.Scope, "scope")
	is.Claims.Subject = cmp.Or(is.Claims.Subject, "sub")
	if len(is.Types) == 0 {
		is.Types = c.Types
	}
	is.DPoP = cmp.Or(is.DPoP, dpopOptional)
	if is.Introspection != nil {
		in := *is.Introspection
		in.CacheTTL = cmp.Or(in.CacheTTL, c.CacheTTL)
		in.Timeout = cmp.Or(in.Timeout, fetchTimeout)
		is.Introspection = &in
	}
	return is
}
