package issuer

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas"
)

// A tokenResponse is a successful answer of the token endpoint (RFC 6749 section 5.1, RFC 8693
// section 2.2.1).
type tokenResponse struct {
	AccessToken     string `json:"access_token"`
	TokenType       string `json:"token_type"` // Bearer or DPoP
	ExpiresIn       int64  `json:"expires_in"` // seconds
	RefreshToken    string `json:"refresh_token,omitempty"`
	Scope           string `json:"scope,omitempty"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
}

// A tokenRequest is what a grant is asked for.
type tokenRequest struct {
	form   url.Values
	client *client
	jkt    string // thumbprint of the key that the request proves to have; may be empty
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) *oauthError {
	f, err := form(r)
	if err != nil {
		return err
	}
	// The table of grants. Each answers for what it gives: to whom, for what, how long.
	grants := map[string]func(context.Context, tokenRequest) (tokenResponse, *oauthError){
		grantCode:        s.exchangeCode,
		grantRefresh:     s.refresh,
		grantCredentials: s.clientCredentials,
		grantExchange:    s.exchangeToken,
		grantAssertion:   s.assertIdentity,
	}
	name := f.Get("grant_type")
	grant := grants[name]
	if grant == nil || name == grantAssertion && len(s.providers) == 0 {
		return refuse("unsupported_grant_type", "grant_type is none that this server has")
	}
	c, err := s.authenticate(r, f)
	if err != nil {
		return err
	}
	if !c.may(name) {
		return refuse("unauthorized_client", "the client is not registered for this grant_type")
	}
	throttled := s.peer(r) + " " + c.ID
	if wait := s.limits.failures.wait(throttled); wait > 0 {
		return tooOften(wait)
	}
	req := tokenRequest{form: f, client: c}
	if req.jkt, err = s.proof(r, c); err == nil {
		var res tokenResponse
		if res, err = grant(r.Context(), req); err == nil {
			return writeJSON(w, http.StatusOK, res)
		}
	}
	if err.status == 0 {
		s.limits.failures.take(throttled)
		s.record(r.Context(), Event{Action: EventRefuse, Denied: true, Tenant: c.tenant, Client: c.ID, Detail: err.code})
	}
	return err
}

// newGrantID names what tokens come from one consent, or one request: the id is the part before the
// dot of their jti, so that all of them can be revoked at once. It is no secret.
func newGrantID() string { return strings.ToLower(rand.Text()[:20]) }

func newTokenID(grant string) string { return grant + "." + strings.ToLower(rand.Text()[:16]) }

// grantOf returns the grant that a token belongs to, or "" for one that stands alone.
func grantOf(tokenID string) string {
	grant, _, ok := strings.Cut(tokenID, ".")
	if !ok {
		return ""
	}
	return grant
}

// token signs an access token for the client.
func (s *Server) token(req tokenRequest, resource string, c Claims) (tokenResponse, *oauthError) {
	c.Audience, c.ClientID, c.jkt = []string{s.audience(resource)}, req.client.ID, req.jkt
	c.TTL = cmp.Or(c.TTL, s.cfg.AccessTTL)
	signed, err := s.iss.Sign(c)
	if err != nil {
		return tokenResponse{}, failed(err)
	}
	res := tokenResponse{AccessToken: signed, TokenType: "Bearer", ExpiresIn: int64(c.TTL / time.Second), Scope: strings.Join(c.Scopes, " ")}
	if req.jkt != "" {
		res.TokenType = "DPoP" // RFC 9449 section 5
	}
	return res, nil
}

// own checks an access token of this issuer for this server's resources, and returns its claims. A
// revoked token is none.
func (s *Server) own(ctx context.Context, token string) (jwt.MapClaims, error) {
	if len(token) > maxAssertion {
		return nil, errors.New("longer than the limit")
	}
	claims := jwt.MapClaims{}
	t, err := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithIssuer(s.iss.cfg.Issuer), jwt.WithLeeway(5*time.Second), jwt.WithStrictDecoding()).ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		jwk, err := s.iss.ring.public.KeyRead(ctx, kid)
		if err != nil {
			return nil, err
		}
		return jwk.Key(), nil
	})
	if err != nil {
		return nil, err
	}
	if !hasType(t, typeAccessToken) {
		return nil, errors.New("typ is not " + typeAccessToken)
	}
	aud, err := claims.GetAudience()
	if err != nil || !slices.ContainsFunc(aud, func(a string) bool { return slices.Contains(s.resources, canonicalResource(a)) }) {
		return nil, errors.New("aud is another's")
	}
	if jti := str(claims, "jti"); jti == "" || s.Revoked(jti) {
		return nil, errors.New("revoked")
	}
	return claims, nil
}

// unverifiedSubject reads the sub of a token whose signature cannot be checked yet.
func unverifiedSubject(token string) (string, error) {
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(token, claims); err != nil {
		return "", err
	}
	return str(claims, "sub"), nil
}

func unverifiedIssuer(token string) string {
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(token, claims); err != nil {
		return ""
	}
	return str(claims, "iss")
}

// narrowed returns the scopes of a token for a request with a scope parameter: those asked for, all
// of which must be had.
func narrowed(asked string, has []string) ([]string, *oauthError) {
	want, ok := parseScopes(asked)
	if !ok {
		return nil, refuse("invalid_scope", "scope is not well formed")
	}
	if len(want) == 0 {
		return has, nil
	}
	if got := intersect(want, has); len(got) == len(want) {
		return got, nil
	}
	return nil, refuse("invalid_scope", "more is asked for than was granted") // RFC 6749 section 6
}

// sameTenant reports whether the client may have tokens of the tenant.
func (c *client) sameTenant(t atlas.TenantID) bool { return c.tenant == "" || c.tenant == t }
