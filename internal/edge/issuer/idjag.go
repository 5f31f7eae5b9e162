package issuer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas"
)

// maxVouch is how long an identity provider may vouch for somebody, and how long the id of the
// assertion is remembered.
const maxVouch = time.Hour

// A provider is an identity provider whose identity assertions are accepted.
type provider struct {
	IdentityProvider
	keys []publicKey // nil: fetched
}

func newProvider(p IdentityProvider) (*provider, error) {
	out := &provider{IdentityProvider: p}
	if p.JWKS == "" {
		return out, nil
	}
	var err error
	out.keys, err = parseKeys([]byte(p.JWKS))
	return out, err
}

// assertIdentity gives a token for an identity assertion (ID-JAG, SEP-990: enterprise-managed
// authorization; draft-ietf-oauth-identity-assertion-authz-grant section 4.4): an identity provider
// that the operator trusts has decided that this client may act for this person here. There is no
// refresh token: the client asks the provider again, which may have changed its mind.
func (s *Server) assertIdentity(ctx context.Context, req tokenRequest) (tokenResponse, *oauthError) {
	var none tokenResponse
	if req.client.public() || !req.client.trusted {
		return none, refuse("unauthorized_client", "the client must authenticate")
	}
	assertion := req.form.Get("assertion")
	if assertion == "" || len(assertion) > maxAssertion {
		return none, refuse("invalid_request", "assertion is missing or too long")
	}
	p := s.providers[unverifiedIssuer(assertion)]
	if p == nil {
		return none, invalidGrant(errors.New("the assertion is of an unknown issuer"))
	}
	claims, err := s.parse(ctx, assertion, typeIDJAG, p.keys, p.JWKSURL)
	if err != nil {
		return none, invalidGrant(err)
	}
	who, err := p.vouched(claims, req.client, s.iss.cfg.Issuer)
	if err != nil {
		return none, invalidGrant(err)
	}
	if s.owns(who.Subject) {
		return none, invalidGrant(errors.New("the assertion is about an account of this server"))
	}
	// The resource is named in the assertion, where the client cannot change it; the request may name
	// the same.
	resource := s.resource(audienceOf(claims["resource"]))
	if resource == "" || !claimed(claims, "resource") {
		return none, invalidGrant(errors.New("the assertion is for another resource"))
	}
	if named := req.form["resource"]; len(named) > 0 && s.resource(named) != resource {
		return none, refuse("invalid_target", "resource must be that of the assertion")
	}
	has := req.client.allowed(s.deps.Scopes(who.Roles))
	if vouched, ok := claims["scope"].(string); ok { // at most what the provider has agreed to
		has = intersect(has, strings.Fields(vouched))
	} else if strings.TrimSpace(req.form.Get("scope")) == "" { // nobody has named any
		has = unprivileged(has)
	}
	scopes, oerr := narrowed(req.form.Get("scope"), has)
	if oerr != nil {
		return none, oerr
	}
	exp, err := claims.GetExpirationTime()
	if err != nil {
		return none, invalidGrant(err)
	}
	first, err := s.once(ctx, "provider "+p.Issuer, str(claims, "jti"), exp.Add(clockSkew))
	if err != nil {
		return none, failed(err)
	}
	if !first {
		return none, invalidGrant(errors.New("the assertion was used before"))
	}
	return s.token(req, resource, Claims{
		Tenant: who.Tenant, Subject: who.Subject, Roles: who.Roles, Scopes: scopes, TokenID: newTokenID(newGrantID()),
	})
}

// owns reports whether the subject is a person or a client of this server: others cannot vouch for it, or
// their token would be its own (RFC 9068 section 5).
func (s *Server) owns(subject string) bool {
	_, person := s.person(subject)
	return person || s.clients[subject] != nil
}

// vouched returns whom the assertion is about, if it is for the client and for this issuer.
func (p *provider) vouched(claims jwt.MapClaims, c *client, self string) (who Persona, err error) {
	// One audience, and it is us: an assertion for several servers could be passed on by each.
	aud, err := claims.GetAudience()
	if err != nil || len(aud) != 1 || strings.TrimSuffix(aud[0], "/") != self {
		return who, errors.New("the assertion is for another authorization server")
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil || time.Until(exp.Time) > maxVouch {
		return who, errors.New("the assertion lives too long")
	}
	iat, err := claims.GetIssuedAt()
	jti := str(claims, "jti")
	switch {
	case err != nil || iat == nil:
		return who, errors.New("the assertion has no iat")
	case jti == "" || len(jti) > 256:
		return who, errors.New("the assertion has no jti")
	case str(claims, "client_id") != c.ID:
		return who, errors.New("the assertion is for another client")
	case len(p.Clients) > 0 && !slices.Contains(p.Clients, c.ID):
		return who, errors.New("the provider may not vouch to the client")
	}
	name := p.Tenant
	if p.TenantClaim != "" {
		if name = str(claims, p.TenantClaim); !slices.Contains(p.Tenants, name) {
			return who, errors.New("the provider may not vouch for the tenant")
		}
	}
	if who.Tenant, err = atlas.ParseTenantID(name); err != nil {
		return who, err
	}
	if !c.sameTenant(who.Tenant) {
		return who, errors.New("the client may not have tokens of the tenant")
	}
	if who.Subject = str(claims, "sub"); who.Subject == "" || len(who.Subject) > 256 {
		return who, errors.New("the assertion has no sub")
	}
	who.Roles = p.Roles
	if p.RolesClaim != "" {
		who.Roles = intersect(stringsOf(claims[p.RolesClaim]), p.RolesKnown)
	}
	return who, nil
}

// audienceOf returns a claim that is a string or a list of them.
func audienceOf(claim any) []string {
	if s, ok := claim.(string); ok {
		return []string{s}
	}
	return stringsOf(claim)
}

func claimed(claims jwt.MapClaims, name string) bool { return len(audienceOf(claims[name])) > 0 }
