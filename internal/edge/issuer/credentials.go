package issuer

import (
	"context"
	"strings"
)

// clientCredentials gives a token to a client for itself (RFC 6749 section 4.4, SEP-1046): in its
// own tenant, with its own roles and scopes, as the operator has registered them.
func (s *Server) clientCredentials(_ context.Context, req tokenRequest) (tokenResponse, *oauthError) {
	var none tokenResponse
	c := req.client
	if c.public() || !c.trusted || c.tenant == "" {
		return none, refuse("unauthorized_client", "the client has no tokens of its own")
	}
	resource := s.resource(req.form["resource"])
	if resource == "" {
		return none, refuse("invalid_target", "resource must be one resource of this server")
	}
	has := c.Scopes
	if len(has) == 0 {
		has = s.deps.Scopes(c.roles)
		if strings.TrimSpace(req.form.Get("scope")) == "" {
			has = unprivileged(has)
		}
	}
	scopes, err := narrowed(req.form.Get("scope"), has)
	if err != nil {
		return none, err
	}
	return s.token(req, resource, Claims{
		Tenant: c.tenant, Subject: c.ID, Roles: c.roles, Scopes: scopes, TokenID: newTokenID(newGrantID()),
	})
}
