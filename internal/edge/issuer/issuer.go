// Package issuer is the embedded development issuer: it signs access tokens with a key of its own
// and publishes the public half. Deciding who may have a token is the operator's, at the command
// line; a full authorization server can take over the same key and the same metadata.
package issuer

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
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
	Issuer   string `yaml:"issuer"`   // iss of the tokens and base of the metadata; default http://127.0.0.1:8080
	Audience string `yaml:"audience"` // aud of a token that names none; default the issuer and "/mcp"
	KeyFile  string `yaml:"key_file"` // PKCS #8 PEM, mode 0600; made at first use. Required
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if c.KeyFile == "" {
		errs = append(errs, errors.New("key_file: is required"))
	}
	if c.Issuer != "" {
		u, err := url.Parse(c.Issuer)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			errs = append(errs, errors.New("issuer: must be an http or https URL without query or fragment")) // RFC 8414 section 2
		}
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.Issuer = strings.TrimSuffix(cmp.Or(c.Issuer, "http://127.0.0.1:8080"), "/")
	c.Audience = cmp.Or(c.Audience, c.Issuer+"/mcp")
	return c
}

// An Issuer signs tokens. It is immutable and safe for concurrent use.
type Issuer struct {
	cfg  Config
	key  *ecdsa.PrivateKey
	kid  string
	keys jwkset.Storage // the public key only
	jwks []byte
	meta []byte
}

// New reads the key file, or makes it if there is none.
func New(cfg Config) (*Issuer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	cfg = cfg.withDefaults()
	key, err := loadOrCreate(cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	kid, err := thumbprint(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	jwk, err := jwkset.NewJWKFromKey(&key.PublicKey, jwkset.JWKOptions{
		Metadata: jwkset.JWKMetadataOptions{ALG: jwkset.AlgES256, KID: kid, USE: jwkset.UseSig},
	})
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	keys := jwkset.NewMemoryStorage()
	ctx := context.Background() // a store in memory ignores it
	if err := keys.KeyWrite(ctx, jwk); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	jwks, err := keys.JSONPublic(ctx)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	i := &Issuer{cfg: cfg, key: key, kid: kid, keys: keys, jwks: jwks}
	if i.meta, err = metadata(cfg.Issuer); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	return i, nil
}

// URL returns the issuer's name: iss of its tokens.
func (i *Issuer) URL() string { return i.cfg.Issuer }

// Audience returns the audience of a token that names none.
func (i *Issuer) Audience() string { return i.cfg.Audience }

// Keys returns the key set that verifies the issuer's tokens, so that a verifier in the same
// process needs no HTTP. It holds no private key.
func (i *Issuer) Keys() jwkset.Storage { return i.keys }

// Claims are what a token says.
type Claims struct {
	Tenant    atlas.TenantID
	Subject   string
	Roles     []string
	Scopes    []string
	Audience  []string      // default [Config.Audience]
	TTL       time.Duration // default 1 h, at most 12 h
	Delegator string        // act.sub (RFC 8693 section 4.1): who acts for the subject; may be empty
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
		if s == "" || strings.ContainsAny(s, " \t\r\n\"\\") {
			errs = append(errs, fmt.Errorf("scope %q is not a scope", s)) // RFC 6749 section 3.3
		}
	}
	if c.TTL < 0 || c.TTL > maxTTL {
		errs = append(errs, fmt.Errorf("lifetime must be at most %s", maxTTL))
	}
	return errors.Join(errs...)
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
		"iss": i.cfg.Issuer, "sub": c.Subject, "aud": aud, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(cmp.Or(c.TTL, defaultTTL)).Unix(),
		"tenant": string(c.Tenant), "client_id": "atlas-cli",
	}
	if len(c.Roles) > 0 {
		claims["roles"] = c.Roles
	}
	if len(c.Scopes) > 0 {
		claims["scope"] = strings.Join(c.Scopes, " ")
	}
	if c.Delegator != "" {
		claims["act"] = map[string]any{"sub": c.Delegator}
	}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	t.Header["typ"] = "at+jwt"
	t.Header["kid"] = i.kid
	signed, err := t.SignedString(i.key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

// ServeJWKS answers /.well-known/jwks.json.
func (i *Issuer) ServeJWKS(w http.ResponseWriter, r *http.Request) { serveJSON(w, r, i.jwks) }

// ServeMetadata answers /.well-known/oauth-authorization-server (RFC 8414) with what is served:
// the issuer and its keys. It names no endpoint that does not exist.
func (i *Issuer) ServeMetadata(w http.ResponseWriter, r *http.Request) { serveJSON(w, r, i.meta) }

func serveJSON(w http.ResponseWriter, r *http.Request, body []byte) {
	h := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "use GET"), http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Access-Control-Allow-Origin", "*") // public keys
	_, _ = w.Write(body)                      // the client may have gone
}
