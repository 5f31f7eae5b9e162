package issuer

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// A consent says which scopes a person has given to a client before.
type consent struct {
	Scopes []string `json:"scopes"`
}

// consentKey binds a consent to the person, the client, where it is answered, and the resource: what
// was given to one client is never another's (confused deputy).
func consentKey(req *authRequest, who Persona) string {
	return digest(who.Subject + "\x00" + req.client.ID + "\x00" + req.redirect + "\x00" + req.resource)
}

// consented reports whether the person need not be asked again.
func (s *Server) consented(ctx context.Context, req *authRequest, who Persona, scopes []string) (bool, error) {
	if private(req.redirect) {
		return false, nil
	}
	c, version, err := get[consent](ctx, s.deps.Store, spaceConsent+string(who.Tenant), consentKey(req, who))
	if err != nil || version == 0 {
		return false, err
	}
	return len(intersect(scopes, c.Scopes)) == len(scopes), nil
}

// remember keeps a consent.
func (s *Server) remember(ctx context.Context, req *authRequest, who Persona, scopes []string) error {
	if private(req.redirect) {
		return nil
	}
	return update(ctx, s.deps.Store, spaceConsent+string(who.Tenant), consentKey(req, who), func(c *consent, _ bool) (time.Time, bool) {
		for _, scope := range scopes {
			if len(intersect([]string{scope}, c.Scopes)) == 0 {
				c.Scopes = append(c.Scopes, scope)
			}
		}
		return time.Now().Add(s.cfg.ConsentTTL), true
	})
}

func (s *Server) showConsent(w http.ResponseWriter, r *http.Request, req *authRequest, who Persona, scopes []string) {
	v := consentView{
		pageView: s.view("Allow access", req), Client: s.clientView(req), Who: who, Resource: req.resource,
		Action: s.path(pathConsent), Logout: s.path(pathLogout), Token: s.seal("consent", s.cookieOf(r, "login"), req.raw),
		Lasting: req.client.may(grantRefresh), Days: int(s.cfg.GrantTTL / (24 * time.Hour)),
	}
	for _, scope := range scopes {
		v.Scopes = append(v.Scopes, describe(scope))
	}
	s.show(w, r, http.StatusOK, "consent", v.redirect, v)
}

func (s *Server) serveConsent(w http.ResponseWriter, r *http.Request) {
	req, err := s.parseRequest(r, r.PostForm.Get("request"))
	if err != nil {
		s.refuseRequest(w, r, req, err)
		return
	}
	who, handle, ok, err := s.signedIn(r)
	if err != nil {
		s.refuseRequest(w, r, req, err)
		return
	}
	// The token is of this session and of this very request: nobody else can have made the form, and a
	// consent to one client cannot be handed in for another.
	if !ok || !req.client.serves(who) || !s.sealed(r.PostForm.Get("token"), "consent", handle, req.raw) {
		s.again(w, req) // to be asked properly
		return
	}
	event := Event{Action: EventConsent, Tenant: who.Tenant, Subject: who.Subject, Client: req.client.ID}
	if r.PostForm.Get("decision") != "allow" {
		event.Denied = true
		s.record(r.Context(), event)
		s.answer(w, req, refuse("access_denied", "the request was refused"), "")
		return
	}
	scopes := s.grantable(req.client, who, req.scopes)
	if len(scopes) == 0 && len(req.scopes) > 0 {
		s.refuseRequest(w, r, req, refuse("invalid_scope", "none of the scopes can be given"))
		return
	}
	if err := s.remember(r.Context(), req, who, scopes); err != nil {
		s.refuseRequest(w, r, req, failed(err))
		return
	}
	event.Detail = strings.Join(scopes, " ")
	s.record(r.Context(), event)
	s.grantCode(w, r, req, who, scopes)
}
