package issuer

import (
	"errors"
	"net/http"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// serveRevoke ends a token (RFC 7009). A refresh token ends its whole grant, and so does an access
// token of a grant: who no longer wants the one has no use for the other (section 2.1).
func (s *Server) serveRevoke(_ http.ResponseWriter, r *http.Request) *oauthError {
	f, err := form(r)
	if err != nil {
		return err
	}
	c, err := s.authenticate(r, f)
	if err != nil {
		return err
	}
	token := f.Get("token")
	if token == "" {
		return refuse("invalid_request", "token is missing")
	}
	ctx := r.Context()
	if tenant, id, _, ok := s.parseRefresh(token); ok {
		g, version, gerr := get[grant](ctx, s.deps.Store, spaceGrant+string(tenant), id)
		switch {
		case gerr != nil:
			return failed(gerr)
		case version == 0:
			return nil
		case g.Client != c.ID && g.Client != "":
			return foreignToken()
		}
		if gerr := s.endGrant(ctx, tenant, id); gerr != nil {
			return failed(gerr)
		}
		s.record(ctx, Event{Action: EventRevoke, Tenant: tenant, Subject: g.Subject, Client: c.ID, Detail: id})
		return nil
	}
	claims, perr := s.own(ctx, token)
	if perr != nil {
		return nil //nolint:nilerr // a token that is not good is as good as revoked (section 2.2)
	}
	if str(claims, "client_id") != c.ID {
		return foreignToken()
	}
	exp, perr := claims.GetExpirationTime()
	tenant, terr := atlas.ParseTenantID(str(claims, "tenant"))
	if perr = errors.Join(perr, terr); perr != nil {
		return failed(perr)
	}
	jti := str(claims, "jti")
	// A token that was exchanged stands in somebody else's grant, which is not its client's to end.
	if id := grantOf(jti); id != "" && claims["act"] == nil {
		perr = s.endGrant(ctx, tenant, id)
	} else {
		perr = s.revoked.add(ctx, jti, exp.Time)
	}
	if perr != nil {
		return failed(perr)
	}
	s.record(ctx, Event{Action: EventRevoke, Tenant: tenant, Subject: str(claims, "sub"), Client: c.ID, Detail: jti})
	return nil
}

func foreignToken() *oauthError {
	return refuse("invalid_grant", "the token was issued to another client")
}

// introspection is the answer about a good token (RFC 7662 section 2.2).
type introspection struct {
	Active    bool     `json:"active"`
	Issuer    string   `json:"iss,omitempty"`
	Subject   string   `json:"sub,omitempty"`
	Audience  any      `json:"aud,omitempty"`
	Client    string   `json:"client_id,omitempty"`
	Scope     string   `json:"scope,omitempty"`
	TokenType string   `json:"token_type,omitempty"`
	Tenant    string   `json:"tenant,omitempty"`
	Roles     []string `json:"roles,omitempty"`
	ID        string   `json:"jti,omitempty"`
	Issued    any      `json:"iat,omitempty"`
	Expires   any      `json:"exp,omitempty"`
	Actor     any      `json:"act,omitempty"`
	Binding   any      `json:"cnf,omitempty"`
}

// serveIntrospect tells a client about an access token: one of its own, or any of its tenant if it
// may introspect. All other tokens are inactive to it, whatever they are.
func (s *Server) serveIntrospect(w http.ResponseWriter, r *http.Request) *oauthError {
	f, err := form(r)
	if err != nil {
		return err
	}
	c, err := s.authenticate(r, f)
	if err != nil {
		return err
	}
	if c.public() { // RFC 7662 section 2.1
		return &oauthError{code: "invalid_client", desc: "the client must authenticate"}
	}
	inactive := func() *oauthError { return writeJSON(w, http.StatusOK, introspection{}) }
	claims, perr := s.own(r.Context(), f.Get("token"))
	if perr != nil {
		return inactive()
	}
	mine := str(claims, "client_id") == c.ID
	if !mine && (!c.introspect || !c.sameTenant(atlas.TenantID(str(claims, "tenant")))) {
		return inactive()
	}
	res := introspection{
		Active: true, Issuer: s.iss.cfg.Issuer, Subject: str(claims, "sub"), Audience: claims["aud"], Client: str(claims, "client_id"),
		Scope: str(claims, "scope"), TokenType: "Bearer", Tenant: str(claims, "tenant"), Roles: stringsOf(claims["roles"]),
		ID: str(claims, "jti"), Issued: claims["iat"], Expires: claims["exp"], Actor: claims["act"], Binding: claims["cnf"],
	}
	if thumbprintOf(claims) != "" {
		res.TokenType = "DPoP"
	}
	return writeJSON(w, http.StatusOK, res)
}

// isJSON reports whether a content type is JSON.
func isJSON(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	t = strings.ToLower(strings.TrimSpace(t))
	return t == "application/json" || strings.HasPrefix(t, "application/") && strings.HasSuffix(t, "+json")
}
