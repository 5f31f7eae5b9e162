// Package issuer is the embedded OAuth 2.1 authorization server, for development and small installs.
//
// An [Issuer] holds signing keys, signs access tokens and publishes the public halves; alone it is
// what the command line signs tokens with. A [Server] over it lets people sign in and consent, and
// gives tokens to MCP clients (MCP authorization, 2025-11-25 and 2026-07-28). Checking tokens is
// auth's; a production install with an identity provider of its own needs neither.
package issuer

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

const (
	defaultTTL = time.Hour
	maxTTL     = 12 * time.Hour
)

// Config sets up an Issuer.
type Config struct {
	Issuer       string        `yaml:"issuer"`        // iss of the tokens and base of the metadata; default http://127.0.0.1:8080
	Audience     string        `yaml:"audience"`      // aud of a token that names none; default the issuer and "/mcp"
	KeyFile      string        `yaml:"key_file"`      // PKCS #8 PEM, mode 0600; made at first use. Later keys lie beside it. Required
	RotateAfter  time.Duration `yaml:"rotate_after"`  // age at which a key stops signing; default 2160h, at least 1h
	PublishAhead time.Duration `yaml:"publish_ahead"` // how long a key is published before it signs; default 1h, at least 5m
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if c.KeyFile == "" {
		errs = append(errs, errors.New("key_file: is required"))
	}
	if c.Issuer != "" {
		u, err := url.Parse(c.Issuer)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			errs = append(errs, errors.New("issuer: must be an http or https URL without query or fragment")) // RFC 8414 section 2
		}
	}
	if c.RotateAfter != 0 && c.RotateAfter < time.Hour {
		errs = append(errs, errors.New("rotate_after: must be 1h or more"))
	}
	if c.PublishAhead != 0 && c.PublishAhead < 5*time.Minute {
		errs = append(errs, errors.New("publish_ahead: must be 5m or more"))
	}
	if d := c.withDefaults(); d.PublishAhead >= d.RotateAfter && len(errs) == 0 {
		errs = append(errs, errors.New("publish_ahead: must be less than rotate_after"))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.Issuer = strings.TrimSuffix(cmp.Or(c.Issuer, "http://127.0.0.1:8080"), "/")
	c.Audience = cmp.Or(c.Audience, c.Issuer+"/mcp")
	c.RotateAfter = cmp.Or(c.RotateAfter, 90*24*time.Hour)
	c.PublishAhead = cmp.Or(c.PublishAhead, time.Hour)
	return c
}

// An Issuer signs tokens. It is safe for concurrent use.
type Issuer struct {
	cfg  Config
	ring *ring
	meta []byte
}

// New reads the key files, or makes the first one.
func New(cfg Config) (*Issuer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	cfg = cfg.withDefaults()
	r, err := openRing(cfg)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	i := &Issuer{cfg: cfg, ring: r}
	if i.meta, err = signerMetadata(cfg.Issuer); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	return i, nil
}

// Run rotates the keys when they are old, and takes in those that other processes made, until ctx
// ends; then it returns nil. A failure to do so is told to failed, which may be nil, and tried again.
func (i *Issuer) Run(ctx context.Context, failed func(error)) error {
	i.ring.run(ctx, failed)
	return nil
}

// Rotate publishes a new signing key and returns when it begins to sign ([Config.PublishAhead] from
// now). If a new key is waiting already, it is that one. The old key stays published until the
// last token that it signed has expired.
func (i *Issuer) Rotate() (time.Time, error) {
	from, err := i.ring.rotate(time.Now())
	if err != nil {
		return time.Time{}, fmt.Errorf("rotate: %w", err)
	}
	return from, nil
}

// URL returns the issuer's name: iss of its tokens.
func (i *Issuer) URL() string { return i.cfg.Issuer }

// Audience returns the audience of a token that names none.
func (i *Issuer) Audience() string { return i.cfg.Audience }

// Keys returns the key set that verifies the issuer's tokens, so that a verifier in the same
// process needs no HTTP. It holds no private key, and follows rotations.
func (i *Issuer) Keys() jwkset.Storage { return i.ring.public }

// Claims are what a token says.
type Claims struct {
	Tenant    atlas.TenantID
	Subject   string
	Roles     []string
	Scopes    []string
	Audience  []string      // default [Config.Audience]
	TTL       time.Duration // default 1 h, at most 12 h
	Delegator string        // act.sub (RFC 8693 section 4.1): who acts for the subject; may be empty
	ClientID  string        // default atlas-cli
	TokenID   string        // jti; default a new one

	kept map[string]any // further claims; none of the above
	act  any            // act as a whole, instead of Delegator
	jkt  string         // cnf.jkt (RFC 9449 section 6.1)
}

func (c Claims) validate() error {
	var errs []error
	if _, err := atlas.ParseTenantID(string(c.Tenant)); err != nil {
		errs = append(errs, err)
	}
	if c.Subject == "" || len(c.Subject) > 256 {
		errs = append(errs, errors.New("subject must have 1 to 256 bytes"))
	}
	for _, s := range c.Scopes {
		if !isScope(s) {
			errs = append(errs, fmt.Errorf("scope %q is not a scope", s))
		}
	}
	if c.TTL < 0 || c.TTL > maxTTL {
		errs = append(errs, fmt.Errorf("lifetime must be at most %s", maxTTL))
	}
	return errors.Join(errs...)
}

// isScope reports whether s is a scope token (RFC 6749 section 3.3) of bearable length.
func isScope(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= 256
}

// Sign returns a signed access token (RFC 9068: typ at+jwt) for c.
func (i *Issuer) Sign(c Claims) (string, error) {
	if err := c.validate(); err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	aud := c.Audience
	if len(aud) == 0 {
		aud = []string{i.cfg.Audience}
	}
	now := time.Now()
	claims := jwt.MapClaims{
		"iss": i.cfg.Issuer, "sub": c.Subject, "aud": aud, "jti": cmp.Or(c.TokenID, rand.Text()),
		"iat": now.Unix(), "exp": now.Add(cmp.Or(c.TTL, defaultTTL)).Unix(),
		"tenant": string(c.Tenant), "client_id": cmp.Or(c.ClientID, "atlas-cli"),
	}
	for name, claim := range c.kept {
		if _, ours := claims[name]; !ours && !slices.Contains([]string{"roles", "scope", "act", "cnf"}, name) {
			claims[name] = claim
		}
	}
	if len(c.Roles) > 0 {
		claims["roles"] = c.Roles
	}
	if len(c.Scopes) > 0 {
		claims["scope"] = strings.Join(c.Scopes, " ")
	}
	switch {
	case c.act != nil:
		claims["act"] = c.act
	case c.Delegator != "":
		claims["act"] = map[string]any{"sub": c.Delegator}
	}
	if c.jkt != "" {
		claims["cnf"] = map[string]any{"jkt": c.jkt}
	}
	key := i.ring.signing(now)
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	t.Header["typ"] = typeAccessToken
	t.Header["kid"] = key.kid
	signed, err := t.SignedString(key.private)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

// ServeJWKS answers /.well-known/jwks.json.
func (i *Issuer) ServeJWKS(w http.ResponseWriter, r *http.Request) {
	serveJSON(w, r, i.ring.document())
}

// ServeMetadata answers /.well-known/oauth-authorization-server (RFC 8414) where there is no
// [Server]: with the issuer and its keys. It names no endpoint that does not exist.
func (i *Issuer) ServeMetadata(w http.ResponseWriter, r *http.Request) { serveJSON(w, r, i.meta) }

func serveJSON(w http.ResponseWriter, r *http.Request, body []byte) {
	h := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "use GET"), http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300") // far less than Config.PublishAhead
	h.Set("Access-Control-Allow-Origin", "*")     // public documents
	_, _ = w.Write(body)                          // the client may have gone
}
