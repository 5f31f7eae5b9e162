package issuer

import (
	"crypto/rand"
	"net/http"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A session says who is signed in in a browser.
type session struct {
	Subject string         `json:"subject"`
	Tenant  atlas.TenantID `json:"tenant"`
	Mark    string         `json:"mark,omitempty"` // of the password
}

// cookie returns a cookie for this site alone, out of reach of scripts. Lax: clients lead here by a
// link from elsewhere, and the browser must still be known.
func (s *Server) cookie(name, value string, maxAge time.Duration) *http.Cookie {
	c := &http.Cookie{
		Name: "atlas_" + name, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(maxAge / time.Second),
	}
	if s.self.Scheme == "https" {
		c.Name, c.Secure = "__Host-"+c.Name, true // no other host or unencrypted page can set it
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

// cookieOf returns the value of the cookie, or "" if there is none or more than one: then somebody
// else may have set one of them.
func (s *Server) cookieOf(r *http.Request, name string) string {
	found := r.CookiesNamed(s.cookie(name, "", 0).Name)
	if len(found) != 1 || len(found[0].Value) > 128 {
		return ""
	}
	return found[0].Value
}

// signedIn returns who is signed in in the browser that r comes from, and the handle of the session.
// A persona is signed in on this machine only.
func (s *Server) signedIn(r *http.Request) (who Persona, handle string, ok bool, err *oauthError) {
	handle = s.cookieOf(r, "login")
	tenant, key, ok := parseHandle(handle)
	if !ok {
		return Persona{}, "", false, nil
	}
	in, version, gerr := get[session](r.Context(), s.deps.Store, spaceSession+string(tenant), key)
	if gerr != nil {
		return Persona{}, "", false, failed(gerr)
	}
	if version == 0 {
		return Persona{}, "", false, nil
	}
	who, ok = s.person(in.Subject)
	// The configuration may have changed since.
	if !ok || who.Tenant != in.Tenant || who.mark != in.Mark || who.hash.rounds == 0 && !s.local(r) {
		return Persona{}, "", false, nil
	}
	return who, handle, true, nil
}

// formToken returns the value of the cookie that ties the sign-in form to the browser, setting it if
// there is none. It keeps others from signing a browser in to an account of theirs.
func (s *Server) formToken(w http.ResponseWriter, r *http.Request) string {
	if v := s.cookieOf(r, "form"); v != "" {
		return v
	}
	v := rand.Text()
	http.SetCookie(w, s.cookie("form", v, time.Hour))
	return v
}

func (s *Server) showLogin(w http.ResponseWriter, r *http.Request, req *authRequest, status int, notice string) {
	v := loginView{
		pageView: s.view("Sign in", req), Notice: notice, Client: s.clientView(req),
		Action: s.path(pathLogin), Token: s.seal("login", s.formToken(w, r), req.raw),
		Passwords: len(s.cfg.Users) > 0,
	}
	if s.local(r) {
		for _, p := range s.personas() {
			if req.client.serves(p) {
				v.Personas = append(v.Personas, p)
			}
		}
	}
	s.show(w, r, status, "login", v.redirect, v)
}

func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	req, err := s.parseRequest(r, r.PostForm.Get("request"))
	if err != nil {
		s.refuseRequest(w, r, req, err)
		return
	}
	browser := s.cookieOf(r, "form")
	if browser == "" || !s.sealed(r.PostForm.Get("token"), "login", browser, req.raw) {
		s.showLogin(w, r, req, http.StatusForbidden, "This page was too old, or your browser keeps no cookies. Please try again.")
		return
	}
	who, status, notice := s.checkLogin(r, r.PostForm.Get("persona"), r.PostForm.Get("subject"), r.PostForm.Get("password"))
	if notice != "" {
		s.record(r.Context(), Event{Action: EventLogin, Denied: true, Tenant: who.Tenant, Subject: who.Subject, Client: req.client.ID})
		s.showLogin(w, r, req, status, notice)
		return
	}
	// Always a new session: one that was there before may be somebody else's (session fixation).
	s.endSession(r)
	handle, key := newHandle(who.Tenant)
	done, perr := put(r.Context(), s.deps.Store, spaceSession+string(who.Tenant), key, 0,
		session{who.Subject, who.Tenant, who.mark}, time.Now().Add(s.cfg.LoginTTL))
	if perr != nil || !done {
		s.refuseRequest(w, r, req, failed(perr))
		return
	}
	s.record(r.Context(), Event{Action: EventLogin, Tenant: who.Tenant, Subject: who.Subject, Client: req.client.ID})
	http.SetCookie(w, s.cookie("login", handle, s.cfg.LoginTTL))
	http.SetCookie(w, s.cookie("form", "", 0))
	s.again(w, req)
}

// again sends the browser back to the authorization request: always one of ours, whatever was asked.
func (s *Server) again(w http.ResponseWriter, req *authRequest) {
	w.Header().Set("Location", s.path(pathAuthorize)+"?"+req.raw)
	w.WriteHeader(http.StatusSeeOther)
}

const wrongPassword = "The name or the password is wrong."

// checkLogin returns who may sign in, or a notice why nobody may, which does not tell whether there is such a
// user; who is then whom somebody has tried to be, if there is one.
func (s *Server) checkLogin(r *http.Request, persona, subject, password string) (who Persona, status int, notice string) {
	if persona != "" {
		p, ok := s.person(persona)
		if !ok || p.hash.rounds > 0 || !s.local(r) {
			return p, http.StatusForbidden, "This account cannot be used from here."
		}
		return p, 0, ""
	}
	if subject == "" || password == "" || len(subject) > 256 {
		return Persona{}, http.StatusUnauthorized, wrongPassword
	}
	p, ok := s.person(subject)
	if !s.limits.mayTry(s.peer(r), subject) {
		return p, http.StatusTooManyRequests, "Too many attempts. Wait a few minutes, then try again."
	}
	right, err := s.rightPassword(r.Context(), p.hash, password)
	if err != nil {
		return p, http.StatusServiceUnavailable, "Signing in does not work at the moment. Please try again."
	}
	if !ok || !right {
		return p, http.StatusUnauthorized, wrongPassword
	}
	s.limits.logins.giveBack(s.peer(r)) // a whole office may have one address
	return p, 0, ""
}

// endSession forgets the session of the browser that r comes from.
func (s *Server) endSession(r *http.Request) {
	tenant, key, ok := parseHandle(s.cookieOf(r, "login"))
	if !ok {
		return
	}
	space := spaceSession + string(tenant)
	_, version, err := s.deps.Store.Get(r.Context(), space, key)
	if err == nil && version != 0 {
		_, err = s.deps.Store.CompareAndDelete(r.Context(), space, key, version)
	}
	if err != nil {
		s.log.WarnContext(r.Context(), "sign-in not ended", "error", err)
	}
}

// serveLogout ends the session, for those who want to answer a request as somebody else.
func (s *Server) serveLogout(w http.ResponseWriter, r *http.Request) {
	req, err := s.parseRequest(r, r.PostForm.Get("request"))
	if err != nil {
		s.refuseRequest(w, r, req, err)
		return
	}
	if s.sealed(r.PostForm.Get("token"), "consent", s.cookieOf(r, "login"), req.raw) {
		if who, _, ok, _ := s.signedIn(r); ok {
			s.record(r.Context(), Event{Action: EventLogout, Tenant: who.Tenant, Subject: who.Subject, Client: req.client.ID})
		}
		s.endSession(r)
		http.SetCookie(w, s.cookie("login", "", 0))
	}
	s.again(w, req)
}
