package auth

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Config sets up a Verifier. The zero Config accepts nothing.
type Config struct {
	Issuers     []Issuer `yaml:"issuers"`
	Development bool     `yaml:"development"` // accept the development tokens of Deps, from loopback only

	TenantClaim string   `yaml:"tenant_claim"` // default tenant
	RolesClaim  string   `yaml:"roles_claim"`  // default roles
	Types       []string `yaml:"types"`        // accepted typ headers; default at+jwt and JWT
	Algorithms  []string `yaml:"algorithms"`   // default RS256, PS256, ES256, ES384 and EdDSA; asymmetric only

	ClockSkew   time.Duration `yaml:"clock_skew"`   // default 30s, at most 5m
	CacheSize   int           `yaml:"cache_size"`   // verified tokens kept; default 10000
	CacheTTL    time.Duration `yaml:"cache_ttl"`    // default and most 60s: how late a withdrawn key is noticed
	KeysRefresh time.Duration `yaml:"keys_refresh"` // between two regular reads of a JWKS; default 15m
	KeysMaxAge  time.Duration `yaml:"keys_max_age"` // keys older than this are not trusted any more; default 24h
}

// An Issuer is one authorization server whose tokens are accepted.
type Issuer struct {
	Issuer   string   `yaml:"issuer"`   // exact value of iss
	JWKSURL  string   `yaml:"jwks_url"` // unless the program holds the keys itself
	Audience []string `yaml:"audience"` // the token's aud must name one of them
	Tenants  []string `yaml:"tenants"`  // tenants that the issuer may speak for; empty: all
}

// asymmetric lists the algorithms that can be allowed. An algorithm with a shared secret would let
// whoever can verify a token sign one, and let a public key be used as the secret.
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	seen := make(map[string]bool)
	for i, is := range c.Issuers {
		switch {
		case is.Issuer == "":
			add("issuers[%d].issuer: is required", i)
		case seen[is.Issuer]:
			add("issuers[%d].issuer: %q is there twice", i, is.Issuer)
		}
		seen[is.Issuer] = true
		if len(is.Audience) == 0 || slices.Contains(is.Audience, "") {
			add("issuers[%d].audience: needs at least one name, none of them empty", i)
		}
		if is.JWKSURL != "" {
			u, err := url.Parse(is.JWKSURL)
			if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
				add("issuers[%d].jwks_url: must be an http or https URL without credentials", i)
			}
		}
		for _, t := range is.Tenants {
			if _, err := atlas.ParseTenantID(t); err != nil {
				add("issuers[%d].tenants: %w", i, err)
			}
		}
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric, a) {
			add("algorithms: %q is not one of %v", a, asymmetric)
		}
	}
	if c.ClockSkew < 0 || c.ClockSkew > 5*time.Minute {
		add("clock_skew: must be between 0 and 5m")
	}
	if c.CacheTTL < 0 || c.CacheTTL > time.Minute {
		add("cache_ttl: must be between 0 and 60s")
	}
	if c.CacheSize < 0 {
		add("cache_size: must not be negative")
	}
	if c.KeysRefresh < 0 || c.KeysRefresh != 0 && c.KeysRefresh < time.Second {
		add("keys_refresh: must be at least 1s")
	}
	if c.KeysMaxAge < 0 || c.KeysMaxAge != 0 && c.KeysMaxAge < c.withDefaults().KeysRefresh {
		add("keys_max_age: must be at least keys_refresh")
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.TenantClaim = cmp.Or(c.TenantClaim, "tenant")
	c.RolesClaim = cmp.Or(c.RolesClaim, "roles")
	if len(c.Types) == 0 {
		c.Types = []string{"at+jwt", "JWT"}
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"}
	}
	c.ClockSkew = cmp.Or(c.ClockSkew, 30*time.Second)
	c.CacheSize = cmp.Or(c.CacheSize, 10_000)
	c.CacheTTL = cmp.Or(c.CacheTTL, time.Minute)
	c.KeysRefresh = cmp.Or(c.KeysRefresh, 15*time.Minute)
	c.KeysMaxAge = cmp.Or(c.KeysMaxAge, 24*time.Hour)
	return c
}
