package issuer

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"time"

	"github.com/atlas-mcp/atlas"
)

// exchangeCode gives tokens for an authorization code (RFC 6749 section 4.1.3, RFC 7636 section
// 4.6). A code is tried once: whoever fails with one has it from somewhere else, so it ends. A second
// try ends the tokens of the first (RFC 9700 section 4.5).
func (s *Server) exchangeCode(ctx context.Context, req tokenRequest) (tokenResponse, *oauthError) {
	var none tokenResponse
	tenant, key, ok := parseHandle(req.form.Get("code"))
	if !ok {
		return none, invalidGrant(nil)
	}
	space := spaceCode + string(tenant)
	code, version, err := get[authCode](ctx, s.deps.Store, space, key)
	if err != nil {
		return none, failed(err)
	}
	if version == 0 {
		return none, invalidGrant(nil)
	}
	first := !code.Used
	if first {
		used := code
		used.Used = true
		if first, err = put(ctx, s.deps.Store, space, key, version, used, time.Now().Add(codeKept+s.cfg.AccessTTL)); err != nil {
			return none, failed(err)
		}
	}
	if !first {
		if err := s.endGrant(ctx, tenant, code.Grant); err != nil {
			return none, failed(err)
		}
		s.record(ctx, Event{Action: EventReuse, Denied: true, Tenant: tenant, Subject: code.Subject, Client: req.client.ID, Detail: code.Grant})
		return none, invalidGrant(errors.New("a code was used twice; its tokens are revoked"))
	}
	if err := code.check(req, time.Now()); err != nil {
		return none, invalidGrant(err)
	}
	// RFC 8707 section 2.2: the token's resource is the code's, whether it is named again or not.
	if named := req.form["resource"]; len(named) > 0 && s.resource(named) != code.Resource {
		return none, refuse("invalid_target", "resource must be that of the authorization request")
	}
	who, ok := s.person(code.Subject)
	if !ok || who.Tenant != code.Tenant || who.mark != code.Mark || !req.client.serves(who) {
		return none, invalidGrant(errors.New("the person is no longer known"))
	}
	return s.startGrant(ctx, req, grant{
		ID: code.Grant, Client: req.client.ID, Subject: who.Subject, Tenant: who.Tenant, Resource: code.Resource, Scopes: code.Scopes, Mark: code.Mark,
	}, who)
}

// check reports why the request may not have the code.
func (c authCode) check(req tokenRequest, now time.Time) error {
	verifier := req.form.Get("code_verifier")
	sum := sha256.Sum256([]byte(verifier))
	switch {
	case !now.Before(c.Expires):
		return errors.New("the code has expired")
	case c.Client != req.client.ID:
		return errors.New("the code was given to another client")
	case req.form.Get("redirect_uri") != "" && req.form.Get("redirect_uri") != c.Redirect:
		// OAuth 2.1 has dropped the parameter in favour of PKCE; a client that sends it must mean the same.
		return errors.New("redirect_uri is not that of the authorization request")
	case len(verifier) < 43 || len(verifier) > 128: // RFC 7636 section 4.1
		return errors.New("code_verifier is missing or malformed")
	case subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(c.Challenge)) != 1:
		return errors.New("code_verifier does not fit")
	case c.JKT != "" && c.JKT != req.jkt: // RFC 9449 section 10
		return errors.New("the code is bound to another key")
	}
	return nil
}

// A grant is what a person has consented to, from the first token to the last refresh. The store
// keeps it under its id, in the person's tenant.
type grant struct {
	ID       string         `json:"id"`
	Client   string         `json:"client"`
	Subject  string         `json:"subject"`
	Tenant   atlas.TenantID `json:"tenant"`
	Resource string         `json:"resource"`
	Scopes   []string       `json:"scopes"`
	JKT      string         `json:"jkt,omitempty"` // refresh tokens work with this key only
	Seq      int            `json:"seq"`           // of the only refresh token that is good
	Ends     time.Time      `json:"ends"`          // no refresh after
	Revoked  bool           `json:"revoked,omitempty"`
	Mark     string         `json:"mark,omitempty"` // of the password that it began with
}

// startGrant stores the grant, and gives its first tokens.
func (s *Server) startGrant(ctx context.Context, req tokenRequest, g grant, who Persona) (tokenResponse, *oauthError) {
	now := time.Now()
	g.Ends = now.Add(s.cfg.GrantTTL)
	if req.client.public() {
		g.JKT = req.jkt // RFC 9449 section 5: of a client that authenticates, the client itself is the binding
	}
	done, err := put(ctx, s.deps.Store, spaceGrant+string(g.Tenant), g.ID, 0, g, s.grantExpiry(g, now))
	if err != nil {
		return tokenResponse{}, failed(err)
	}
	if !done { // ended before it began: its code was used twice at once
		return tokenResponse{}, invalidGrant(errors.New("the grant is revoked"))
	}
	return s.grantTokens(req, g, who, "")
}

// grantTokens gives an access token, and a refresh token if the client is registered for that.
func (s *Server) grantTokens(req tokenRequest, g grant, who Persona, scope string) (tokenResponse, *oauthError) {
	// What the person and the client may now, not only then.
	has := intersect(g.Scopes, req.client.allowed(s.deps.Scopes(who.Roles)))
	scopes, oerr := narrowed(scope, has)
	if oerr != nil {
		return tokenResponse{}, oerr
	}
	res, oerr := s.token(req, g.Resource, Claims{
		Tenant: g.Tenant, Subject: g.Subject, Roles: who.Roles, Scopes: scopes, TokenID: newTokenID(g.ID),
	})
	if oerr == nil && req.client.may(grantRefresh) {
		res.RefreshToken = s.refreshToken(g)
	}
	return res, oerr
}

// grantExpiry is when the store may forget the grant: when its refresh token is no longer good.
func (s *Server) grantExpiry(g grant, now time.Time) time.Time {
	idle := now.Add(max(s.cfg.RefreshTTL, s.cfg.AccessTTL+codeKept))
	if g.Ends.Before(idle) {
		return g.Ends
	}
	return idle
}

// endGrant revokes everything that came from a consent: access tokens at once, refresh tokens for
// good. It also stops a grant that is just about to begin.
func (s *Server) endGrant(ctx context.Context, tenant atlas.TenantID, id string) error {
	now := time.Now()
	// Tokens signed until now, also under an earlier configuration, and by a request that is under way.
	if err := s.revoked.add(ctx, id, now.Add(maxAccessTTL+time.Minute)); err != nil {
		return err
	}
	return update(ctx, s.deps.Store, spaceGrant+string(tenant), id, func(g *grant, found bool) (time.Time, bool) {
		if g.Revoked {
			return time.Time{}, false
		}
		g.ID, g.Tenant, g.Revoked = id, tenant, true
		if !found {
			return now.Add(codeKept + s.cfg.AccessTTL), true
		}
		// So long that every refresh token of it is known to be revoked, and not only unknown.
		return s.grantExpiry(*g, now), true
	})
}
