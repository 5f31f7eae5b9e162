package issuer

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

// maxAccessTTL is the longest life of an access token that a Server gives, under any configuration.
const maxAccessTTL = time.Hour

// ServerConfig sets up a Server. The zero value serves the program's personas, if it has any, to
// clients that describe or register themselves.
type ServerConfig struct {
	Resources []string `yaml:"resources"` // that tokens may be asked for (RFC 8707) besides the issuer's own audience
	Scopes    []string `yaml:"scopes"`    // named in the metadata; those of a token come from roles

	AccessTTL  time.Duration `yaml:"access_ttl"`  // of access tokens; default 10m, at most 1h
	RefreshTTL time.Duration `yaml:"refresh_ttl"` // of a refresh token that is not used; default 168h
	GrantTTL   time.Duration `yaml:"grant_ttl"`   // from a sign-in to the last refresh; default 720h, at most 8760h
	LoginTTL   time.Duration `yaml:"login_ttl"`   // how long a browser stays signed in; default 8h, at most 24h
	ConsentTTL time.Duration `yaml:"consent_ttl"` // how long a consent is remembered; default 2160h

	// TrustedProxies are the addresses, or networks (10.0.0.0/8), of proxies in front of the server. Guesses and
	// floods are counted by address: behind a proxy that is not named here all callers have one, so that one of
	// them can keep the others out.
	TrustedProxies []string `yaml:"trusted_proxies"`

	Users        []User             `yaml:"users"`
	Clients      []Client           `yaml:"clients"`
	Providers    []IdentityProvider `yaml:"identity_providers"`
	Registration Registration       `yaml:"registration"`
	Documents    Documents          `yaml:"client_id_documents"`
}

// A User is somebody who signs in with a password.
type User struct {
	Subject      string   `yaml:"subject"`
	Tenant       string   `yaml:"tenant"`
	Roles        []string `yaml:"roles"`
	PasswordHash string   `yaml:"password_hash"` // as [HashPassword] makes it
}

// A Client is an application that the operator has registered.
type Client struct {
	ID           string   `yaml:"client_id"`
	Name         string   `yaml:"client_name"`
	SecretSHA256 string   `yaml:"client_secret_sha256"` // hex; the secret itself is random and only the client's
	JWKS         string   `yaml:"jwks"`                 // JSON Web Key Set, for private_key_jwt
	RedirectURIs []string `yaml:"redirect_uris"`
	GrantTypes   []string `yaml:"grant_types"` // default authorization_code and refresh_token if there are redirect_uris
	Scopes       []string `yaml:"scopes"`      // that it may have at most, whoever it acts for; what it has with client_credentials
	Tenant       string   `yaml:"tenant"`      // the only one whose tokens it gets; needed for client_credentials
	Roles        []string `yaml:"roles"`       // of its own, with client_credentials
	DPoP         bool     `yaml:"dpop_bound_access_tokens"`
	Introspect   bool     `yaml:"introspect"` // may ask about tokens of other clients
}

// An IdentityProvider vouches for its users in identity assertion grants (ID-JAG, SEP-990).
type IdentityProvider struct {
	Issuer      string   `yaml:"issuer"`       // exact value of iss
	JWKSURL     string   `yaml:"jwks_url"`     // its keys, fetched; or
	JWKS        string   `yaml:"jwks"`         // its keys, given
	Tenant      string   `yaml:"tenant"`       // of all its users; or
	TenantClaim string   `yaml:"tenant_claim"` // where it names the tenant, which is one of
	Tenants     []string `yaml:"tenants"`
	Roles       []string `yaml:"roles"`       // of all its users; or
	RolesClaim  string   `yaml:"roles_claim"` // where it names the roles, of which count those in
	RolesKnown  []string `yaml:"roles_known"`
	Clients     []string `yaml:"clients"` // that it may vouch to; empty: all
}

// Registration bounds dynamic client registration (RFC 7591), which is for old clients.
type Registration struct {
	Disabled bool          `yaml:"disabled"`
	Max      int           `yaml:"max"` // registrations kept; default 1000, at most 20000
	TTL      time.Duration `yaml:"ttl"` // after its last sign-in; default 2160h. One that was never used lives an hour
}

// Documents bounds Client ID Metadata Documents (SEP-991): client ids that are https URLs.
type Documents struct {
	Disabled bool `yaml:"disabled"`
	Max      int  `yaml:"max"` // kept in memory; default 500
}

func (c ServerConfig) withDefaults() ServerConfig {
	c.AccessTTL = cmp.Or(c.AccessTTL, 10*time.Minute)
	c.RefreshTTL = cmp.Or(c.RefreshTTL, 7*24*time.Hour)
	c.GrantTTL = cmp.Or(c.GrantTTL, 30*24*time.Hour)
	c.LoginTTL = cmp.Or(c.LoginTTL, 8*time.Hour)
	c.ConsentTTL = cmp.Or(c.ConsentTTL, 90*24*time.Hour)
	c.Registration.Max = cmp.Or(c.Registration.Max, 1000)
	c.Registration.TTL = cmp.Or(c.Registration.TTL, 90*24*time.Hour)
	c.Documents.Max = cmp.Or(c.Documents.Max, 500)
	return c
}

// Validate reports all mistakes.
func (c ServerConfig) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for i, r := range c.Resources {
		if canonicalResource(r) == "" {
			add("resources[%d]: must be an absolute http or https URL without fragment", i)
		}
	}
	for i, p := range c.TrustedProxies {
		if _, err := parsePrefix(p); err != nil {
			add("trusted_proxies[%d]: %w", i, err)
		}
	}
	for i, s := range c.Scopes {
		if !isScope(s) {
			add("scopes[%d]: %q is not a scope", i, s)
		}
	}
	for _, f := range []struct {
		name      string
		value     time.Duration
		min, most time.Duration
	}{
		{"access_ttl", c.AccessTTL, 10 * time.Second, maxAccessTTL},
		{"refresh_ttl", c.RefreshTTL, time.Minute, 8760 * time.Hour},
		{"grant_ttl", c.GrantTTL, time.Minute, 8760 * time.Hour},
		{"login_ttl", c.LoginTTL, time.Minute, 24 * time.Hour},
		{"consent_ttl", c.ConsentTTL, time.Minute, 8760 * time.Hour},
		{"registration.ttl", c.Registration.TTL, time.Minute, 8760 * time.Hour},
	} {
		if f.value != 0 && (f.value < f.min || f.value > f.most) {
			add("%s: must be between %s and %s", f.name, f.min, f.most)
		}
	}
	if c.Registration.Max < 0 || c.Registration.Max > 20_000 {
		add("registration.max: must be between 1 and 20000")
	}
	if c.Documents.Max < 0 || c.Documents.Max > 100_000 {
		add("client_id_documents.max: must be between 1 and 100000")
	}
	subjects := map[string]bool{}
	for i, u := range c.Users {
		errs = append(errs, u.validate(fmt.Sprintf("users[%d]", i))...)
		if subjects[u.Subject] { // one sign-in name, one person
			add("users[%d].subject: %q is there twice", i, u.Subject)
		}
		subjects[u.Subject] = true
	}
	ids := map[string]bool{}
	for i, cl := range c.Clients {
		errs = append(errs, cl.validate(fmt.Sprintf("clients[%d]", i))...)
		switch {
		case ids[cl.ID]:
			add("clients[%d].client_id: %q is there twice", i, cl.ID)
		case subjects[cl.ID]: // RFC 9068 section 5
			add("clients[%d].client_id: %q is a user's subject", i, cl.ID)
		}
		ids[cl.ID] = true
	}
	issuers := map[string]bool{}
	for i, p := range c.Providers {
		errs = append(errs, p.validate(fmt.Sprintf("identity_providers[%d]", i))...)
		if issuers[p.Issuer] {
			add("identity_providers[%d].issuer: %q is there twice", i, p.Issuer)
		}
		issuers[p.Issuer] = true
	}
	return errors.Join(errs...)
}

// parsePrefix reads an address or a network.
func parsePrefix(text string) (netip.Prefix, error) {
	if ip, ok := parseAddress(text); ok && !strings.ContainsAny(text, "[]/") {
		return ip.Prefix(ip.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() || p.Bits() == 0 { // everybody is no proxy
		return netip.Prefix{}, fmt.Errorf("%q is no IP address and no network such as 10.0.0.0/8", text)
	}
	return p.Masked(), nil
}

func (u User) validate(at string) (errs []error) {
	if u.Subject == "" || len(u.Subject) > 256 {
		errs = append(errs, fmt.Errorf("%s.subject: must have 1 to 256 bytes", at))
	}
	if _, err := atlas.ParseTenantID(u.Tenant); err != nil {
		errs = append(errs, fmt.Errorf("%s.tenant: %w", at, err))
	}
	if _, err := parseHash(u.PasswordHash); err != nil {
		errs = append(errs, fmt.Errorf("%s.password_hash: %w", at, err))
	}
	return errs
}

func (c Client) validate(at string) (errs []error) {
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(at+format, args...)) }
	if !isClientID(c.ID) || isDocumentURL(c.ID) || parseSlot(c.ID) >= 0 {
		add(".client_id: must have 1 to 256 visible ASCII characters and be no https URL and no id of a registration")
	}
	if sum, err := hex.DecodeString(c.SecretSHA256); c.SecretSHA256 != "" && (err != nil || len(sum) != 32) {
		add(".client_secret_sha256: must be 64 hexadecimal digits")
	}
	if c.SecretSHA256 != "" && c.JWKS != "" {
		add(": has both client_secret_sha256 and jwks; one way to authenticate is enough")
	}
	if c.JWKS != "" {
		if _, err := parseKeys([]byte(c.JWKS)); err != nil {
			add(".jwks: %w", err)
		}
	}
	for _, r := range c.RedirectURIs {
		if err := checkRedirect(r, ""); err != nil {
			add(".redirect_uris: %q %w", r, err)
		}
	}
	public := c.SecretSHA256 == "" && c.JWKS == ""
	for _, g := range c.grants() {
		switch {
		case !slices.Contains([]string{grantCode, grantRefresh, grantCredentials, grantExchange, grantAssertion}, g):
			add(".grant_types: %q is not a grant type of this server", g)
		case public && g != grantCode && g != grantRefresh:
			add(".grant_types: %s needs a client that authenticates", g)
		case g == grantCode && len(c.RedirectURIs) == 0:
			add(".grant_types: %s needs redirect_uris", g)
		case g == grantCredentials && c.Tenant == "":
			add(".grant_types: %s needs the client's tenant", g)
		}
	}
	if public && c.Introspect {
		add(".introspect: needs a client that authenticates")
	}
	if len(c.grants()) == 0 && !c.Introspect {
		add(".grant_types: there are none")
	}
	for _, s := range c.Scopes {
		if !isScope(s) {
			add(".scopes: %q is not a scope", s)
		}
	}
	if c.Tenant != "" {
		if _, err := atlas.ParseTenantID(c.Tenant); err != nil {
			add(".tenant: %w", err)
		}
	}
	return errs
}

func (c Client) grants() []string {
	if len(c.GrantTypes) == 0 && len(c.RedirectURIs) > 0 {
		return []string{grantCode, grantRefresh}
	}
	return c.GrantTypes
}

func (p IdentityProvider) validate(at string) (errs []error) {
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(at+format, args...)) }
	if p.Issuer == "" {
		add(".issuer: is required")
	}
	switch {
	case (p.JWKS == "") == (p.JWKSURL == ""):
		add(": needs one of jwks and jwks_url")
	case p.JWKS != "":
		if _, err := parseKeys([]byte(p.JWKS)); err != nil {
			add(".jwks: %w", err)
		}
	default:
		if u, err := url.Parse(p.JWKSURL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
			add(".jwks_url: must be an https URL without credentials and fragment") // what Fetch reads
		}
	}
	if (p.Tenant == "") == (p.TenantClaim == "") {
		add(": needs one of tenant and tenant_claim")
	}
	if p.TenantClaim != "" && len(p.Tenants) == 0 {
		add(".tenants: is required with tenant_claim: an identity provider vouches for its own tenants only")
	}
	for _, t := range append(slices.Clone(p.Tenants), cmp.Or(p.Tenant, "none")) {
		if _, err := atlas.ParseTenantID(t); err != nil {
			add(".tenant: %w", err)
		}
	}
	if p.RolesClaim != "" && (len(p.RolesKnown) == 0 || len(p.Roles) > 0) {
		add(".roles_claim: needs roles_known, and no roles")
	}
	return errs
}
