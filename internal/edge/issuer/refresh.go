package issuer

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A refresh token is "<tenant>.<grant>.<number>.<seal>": only this server can make one, so a token
// whose seal is right and whose number is old was given out once and has been used.
func (s *Server) refreshToken(g grant) string {
	n := strconv.Itoa(g.Seq)
	return string(g.Tenant) + "." + g.ID + "." + n + "." + s.seal("refresh", string(g.Tenant), g.ID, n)
}

// parseRefresh returns where the grant of a refresh token lies, and the token's number.
func (s *Server) parseRefresh(token string) (tenant atlas.TenantID, id string, seq int, ok bool) {
	parts := strings.Split(token, ".")
	if len(token) > 256 || len(parts) != 4 || !s.sealed(parts[3], "refresh", parts[0], parts[1], parts[2]) {
		return "", "", 0, false
	}
	tenant, err := atlas.ParseTenantID(parts[0])
	if err != nil {
		return "", "", 0, false
	}
	seq, err = strconv.Atoi(parts[2])
	return tenant, parts[1], seq, err == nil
}

// refresh gives new tokens for a refresh token, which is then used up (RFC 9700 section 4.14.2).
// Whoever comes with one that is used up already shows that two have it: neither keeps anything.
func (s *Server) refresh(ctx context.Context, req tokenRequest) (tokenResponse, *oauthError) {
	var none tokenResponse
	tenant, id, seq, ok := s.parseRefresh(req.form.Get("refresh_token"))
	if !ok {
		return none, invalidGrant(nil)
	}
	space := spaceGrant + string(tenant)
	g, version, err := get[grant](ctx, s.deps.Store, space, id)
	if err != nil {
		return none, failed(err)
	}
	now := time.Now()
	if version == 0 || g.Revoked || !now.Before(g.Ends) {
		return none, invalidGrant(nil)
	}
	reused := func() (tokenResponse, *oauthError) {
		if err := s.endGrant(ctx, tenant, id); err != nil {
			return none, failed(err)
		}
		s.record(ctx, Event{Action: EventReuse, Denied: true, Tenant: tenant, Subject: g.Subject, Client: req.client.ID, Detail: id})
		return none, invalidGrant(errors.New("a refresh token was used twice; its grant is revoked"))
	}
	switch {
	case seq != g.Seq:
		return reused()
	case g.Client != req.client.ID:
		// It has leaked to another client; the thief has not used it up, and will not.
		if err := s.endGrant(ctx, tenant, id); err != nil {
			return none, failed(err)
		}
		s.record(ctx, Event{Action: EventReuse, Denied: true, Tenant: tenant, Subject: g.Subject, Client: req.client.ID, Detail: id})
		return none, invalidGrant(errors.New("a refresh token of another client; its grant is revoked"))
	case g.JKT != "" && g.JKT != req.jkt:
		return none, invalidGrant(errors.New("the refresh token is bound to another key"))
	}
	if named := req.form["resource"]; len(named) > 0 && s.resource(named) != g.Resource {
		return none, refuse("invalid_target", "resource must be that of the authorization request")
	}
	who, ok := s.person(g.Subject)
	if !ok || who.Tenant != g.Tenant || who.mark != g.Mark || !req.client.serves(who) {
		return none, invalidGrant(errors.New("the person is no longer known"))
	}
	// Before anything is used up: a client that asks for too much may ask again.
	if _, oerr := narrowed(req.form.Get("scope"), intersect(g.Scopes, req.client.allowed(s.deps.Scopes(who.Roles)))); oerr != nil {
		return none, oerr
	}
	g.Seq++
	done, err := put(ctx, s.deps.Store, space, id, version, g, s.grantExpiry(g, now))
	if err != nil {
		return none, failed(err)
	}
	if !done { // somebody else came with the same token at the same time
		return reused()
	}
	return s.grantTokens(req, g, who, req.form.Get("scope"))
}
