package issuer

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

const (
	tokenTypeAccess = "urn:ietf:params:oauth:token-type:access_token" //nolint:gosec // a name, no credential
	tokenTypeJWT    = "urn:ietf:params:oauth:token-type:jwt"          //nolint:gosec // a name, no credential
	maxActors       = 4                                               // parties that act for each other, one for the next
)

// exchangeToken gives a client a token with which it acts for the subject of another token (RFC
// 8693): never for longer, never with more scopes, never in another tenant, and never for whom the
// client is not registered to act.
func (s *Server) exchangeToken(ctx context.Context, req tokenRequest) (tokenResponse, *oauthError) {
	var none tokenResponse
	f, c := req.form, req.client
	if c.public() || !c.trusted {
		return none, refuse("unauthorized_client", "the client may not exchange tokens")
	}
	if !slices.Contains([]string{tokenTypeAccess, tokenTypeJWT}, f.Get("subject_token_type")) || f.Has("actor_token") {
		return none, refuse("invalid_request", "subject_token_type must be an access token; the actor is the client itself")
	}
	if t := f.Get("requested_token_type"); t != "" && t != tokenTypeAccess && t != tokenTypeJWT {
		return none, refuse("invalid_request", "only access tokens are issued")
	}
	resource := s.resource(append(slices.Clone(f["resource"]), f["audience"]...))
	if resource == "" {
		return none, refuse("invalid_target", "resource must be one resource of this server")
	}
	sub, err := s.subject(ctx, f.Get("subject_token"))
	if err != nil {
		if atlas.CodeOf(err) == atlas.CodeStateUnavailable {
			return none, failed(err)
		}
		return none, refuseSubject(err)
	}
	if !c.sameTenant(sub.Tenant) {
		return none, refuseSubject(errors.New("the token is of another tenant than the client"))
	}
	// A token that is bound to a key is of use only to who has the key, here too (RFC 9449).
	if jkt := thumbprintOf(sub.Claims); jkt != "" && jkt != req.jkt {
		return none, refuseSubject(errors.New("the token is bound to another key"))
	}
	actors, err := actorChain(c.ID, sub.Claims["act"])
	if err != nil {
		return none, refuseSubject(err)
	}
	has := c.allowed(sub.Scopes)
	if strings.TrimSpace(f.Get("scope")) == "" {
		has = unprivileged(has)
	}
	scopes, oerr := narrowed(f.Get("scope"), has)
	if oerr != nil {
		return none, oerr
	}
	left := time.Until(sub.Expiry).Truncate(time.Second)
	if left <= 0 {
		return none, refuseSubject(errors.New("expired"))
	}
	kept := map[string]any{}
	for _, name := range s.deps.Kept {
		if claim, there := sub.Claims[name]; there {
			kept[name] = claim
		}
	}
	grant := newGrantID()
	if sub.Issuer == s.iss.cfg.Issuer { // whoever revokes the first token revokes this one too
		grant = cmp.Or(grantOf(sub.TokenID), grant)
	}
	res, oerr := s.token(req, resource, Claims{
		Tenant: sub.Tenant, Subject: sub.Subject, Roles: sub.Roles, Scopes: scopes, act: actors,
		TTL: min(left, s.cfg.AccessTTL), TokenID: newTokenID(grant), kept: kept,
	})
	res.IssuedTokenType = tokenTypeAccess
	return res, oerr
}

func refuseSubject(cause error) *oauthError {
	return &oauthError{code: "invalid_request", desc: "the subject_token is not accepted", err: cause} // RFC 8693 section 2.2.2
}

// subject checks a subject token: one of our own, or of an issuer that the program trusts.
func (s *Server) subject(ctx context.Context, token string) (*atlas.Principal, error) {
	if token == "" || len(token) > maxAssertion {
		return nil, errors.New("no token, or longer than the limit")
	}
	if unverifiedIssuer(token) != s.iss.cfg.Issuer {
		if s.deps.SubjectToken == nil {
			return nil, errors.New("of another issuer")
		}
		p, err := s.deps.SubjectToken(ctx, token)
		switch {
		case err != nil:
		case p.Issuer == s.iss.cfg.Issuer: // it did not say so before
			err = errors.New("of an issuer that it does not name")
		case s.owns(p.Subject):
			err = errors.New("another issuer's, about an account of this server")
		}
		return p, err
	}
	claims, err := s.own(ctx, token)
	if err != nil {
		return nil, err
	}
	exp, err := claims.GetExpirationTime()
	if err != nil {
		return nil, err
	}
	tenant, err := atlas.ParseTenantID(str(claims, "tenant"))
	if err != nil {
		return nil, err
	}
	scopes, _ := parseScopes(str(claims, "scope"))
	return &atlas.Principal{
		Subject: str(claims, "sub"), Tenant: tenant, Roles: stringsOf(claims["roles"]), Scopes: scopes,
		Issuer: s.iss.cfg.Issuer, TokenID: str(claims, "jti"), Expiry: exp.Time, Claims: claims,
	}, nil
}

func stringsOf(claim any) []string {
	list, _ := claim.([]any)
	var out []string
	for _, e := range list {
		if v, ok := e.(string); ok && v != "" {
			out = append(out, v)
		}
	}
	return out
}

func thumbprintOf(claims map[string]any) string {
	cnf, _ := claims["cnf"].(map[string]any)
	return str(cnf, "jkt")
}

// actorChain returns the act claim for a client that acts in place of the earlier actors (RFC 8693
// section 4.1). Of those only their names are kept.
func actorChain(id string, earlier any) (any, error) {
	var names []string
	for m, ok := earlier.(map[string]any); ok; m, ok = m["act"].(map[string]any) {
		names = append(names, str(m, "sub"))
		if len(names) >= maxActors {
			return nil, errors.New("too many parties act for each other")
		}
	}
	var chain map[string]any
	for _, name := range slices.Backward(names) {
		next := map[string]any{"sub": name}
		if chain != nil {
			next["act"] = chain
		}
		chain = next
	}
	out := map[string]any{"sub": id}
	if chain != nil {
		out["act"] = chain
	}
	return out, nil
}
