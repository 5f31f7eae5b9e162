package issuer

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

const (
	codeTTL  = 60 * time.Second
	codeKept = 10 * time.Minute // used codes are remembered, so that a second use is noticed
	maxQuery = 8 << 10
	maxState = 4 << 10
)

// privileged scopes are given to those who ask for them by name, or are registered with them by name; never
// by default.
var privileged = []string{atlas.ScopeAdmin, atlas.ScopeImpersonate, atlas.ScopeApprove}

// An authRequest is an authorization request (RFC 6749 section 4.1.1) that may be answered at its
// redirect URI.
type authRequest struct {
	raw       string // the query as it came
	client    *client
	redirect  string
	state     string
	challenge string // S256
	resource  string // canonical
	scopes    []string
	jkt       string // RFC 9449 section 10
}

// An authCode is what the store holds of a code.
type authCode struct {
	Client    string         `json:"client"`
	Redirect  string         `json:"redirect"`
	Challenge string         `json:"challenge"`
	Resource  string         `json:"resource"`
	Scopes    []string       `json:"scopes"`
	Subject   string         `json:"subject"`
	Tenant    atlas.TenantID `json:"tenant"`
	JKT       string         `json:"jkt,omitempty"`
	Grant     string         `json:"grant"`
	Expires   time.Time      `json:"exp"`
	Used      bool           `json:"used,omitempty"`
	Mark      string         `json:"mark,omitempty"` // of the person's password
}

// parseRequest reads an authorization request. A request without a known client and a redirect URI
// of that client is refused to the browser's face: req is nil. Any other fault is for the client,
// at req.redirect.
func (s *Server) parseRequest(r *http.Request, raw string) (req *authRequest, err *oauthError) {
	if len(raw) > maxQuery {
		return nil, refuse("invalid_request", "The request is too long.")
	}
	q, perr := url.ParseQuery(raw)
	if perr != nil || strings.ContainsFunc(raw, func(r rune) bool { return r <= 0x20 || r >= 0x7f || r == '#' }) {
		return nil, refuse("invalid_request", "The request cannot be read.")
	}
	for _, name := range []string{"client_id", "redirect_uri"} {
		if len(q[name]) != 1 {
			return nil, refuse("invalid_request", "The request must name one "+name+".")
		}
	}
	// Whatever page leads here, whoever asks: it may cause a fetch.
	if wait := s.mayFetch(r, q.Get("client_id")); wait > 0 {
		return nil, tooOften(wait)
	}
	c, cerr := s.client(r.Context(), q.Get("client_id"))
	switch {
	case errors.Is(cerr, errNoClient):
		return nil, refuse("invalid_client", "This server does not know the application, or its description cannot be read.")
	case cerr != nil:
		return nil, failed(cerr)
	case !c.may(grantCode) || !matchRedirect(c.Redirects, q.Get("redirect_uri")):
		return nil, refuse("invalid_request", "The application asks to be answered at an address that it has not registered.")
	}
	// From here on the redirect URI is the client's own.
	req = &authRequest{raw: raw, client: c, redirect: q.Get("redirect_uri"), state: q.Get("state"), challenge: q.Get("code_challenge"), jkt: q.Get("dpop_jkt")}
	for name, values := range q {
		if len(values) > 1 && name != "resource" { // RFC 6749 section 3.1
			return req, refuse("invalid_request", "a parameter is there more than once")
		}
	}
	req.resource = s.resource(q["resource"])
	switch {
	case len(req.state) > maxState:
		req.state = ""
		return req, refuse("invalid_request", "state is too long")
	case q.Has("request"):
		return req, refuse("request_not_supported", "send the parameters themselves")
	case q.Has("request_uri"):
		return req, refuse("request_uri_not_supported", "send the parameters themselves")
	case q.Get("response_type") != "code":
		return req, refuse("unsupported_response_type", "response_type must be code")
	case q.Get("response_mode") != "" && q.Get("response_mode") != "query":
		return req, refuse("invalid_request", "response_mode must be query")
	case q.Get("code_challenge_method") != "S256" || !isDigest(req.challenge):
		// No method means plain (RFC 7636 section 4.3), which is refused too.
		return req, refuse("invalid_request", "PKCE with code_challenge_method S256 is required")
	case req.resource == "":
		return req, refuse("invalid_target", "resource must be one resource of this server") // RFC 8707 section 2
	case req.jkt != "" && !isDigest(req.jkt):
		return req, refuse("invalid_request", "dpop_jkt must be a SHA-256 thumbprint")
	}
	var ok bool
	if req.scopes, ok = parseScopes(q.Get("scope")); !ok {
		return req, refuse("invalid_scope", "scope is not well formed")
	}
	return req, nil
}

// parseScopes splits a scope parameter. offline_access is taken out: whether there are refresh
// tokens follows from the client's grant types.
func parseScopes(s string) ([]string, bool) {
	var out []string
	for w := range strings.SplitSeq(s, " ") {
		switch {
		case w == "" || w == "offline_access" || slices.Contains(out, w):
		case !isScope(w) || len(out) == 100:
			return nil, false
		default:
			out = append(out, w)
		}
	}
	return out, true
}

// isDigest reports whether s is a SHA-256 digest in base64url without padding.
func isDigest(s string) bool {
	if len(s) != 43 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// grantable returns the scopes that the client gets for the person: what it asks for, as far as both
// may have it; if it asks for nothing, all that are not privileged.
func (s *Server) grantable(c *client, p Persona, asked []string) []string {
	has := c.allowed(s.deps.Scopes(p.Roles))
	if len(asked) > 0 {
		return intersect(asked, has)
	}
	return unprivileged(has)
}

// unprivileged returns the scopes that need not be asked for by name.
func unprivileged(scopes []string) []string {
	var out []string
	for _, scope := range scopes {
		if isScope(scope) && !slices.Contains(privileged, scope) && !slices.Contains(out, scope) {
			out = append(out, scope)
		}
	}
	return out
}

func (s *Server) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	req, err := s.parseRequest(r, r.URL.RawQuery)
	if err != nil {
		s.refuseRequest(w, r, req, err)
		return
	}
	who, _, ok, err := s.signedIn(r)
	if err != nil {
		s.refuseRequest(w, r, req, err)
		return
	}
	if !ok || !req.client.serves(who) {
		notice := ""
		if ok {
			notice = "Your account cannot use this application. Sign in with another one."
		}
		s.showLogin(w, r, req, http.StatusOK, notice)
		return
	}
	scopes := s.grantable(req.client, who, req.scopes)
	if len(scopes) == 0 && len(req.scopes) > 0 {
		s.refuseRequest(w, r, req, refuse("invalid_scope", "none of the scopes can be given"))
		return
	}
	known, gerr := s.consented(r.Context(), req, who, scopes)
	if gerr != nil {
		s.refuseRequest(w, r, req, failed(gerr))
		return
	}
	if known {
		s.grantCode(w, r, req, who, scopes)
		return
	}
	s.showConsent(w, r, req, who, scopes)
}

// serves reports whether the client may have tokens of the person's tenant.
func (c *client) serves(p Persona) bool { return c.tenant == "" || c.tenant == p.Tenant }

// grantCode answers the client with a code.
func (s *Server) grantCode(w http.ResponseWriter, r *http.Request, req *authRequest, who Persona, scopes []string) {
	ctx := r.Context()
	code, key := newHandle(who.Tenant)
	now := time.Now()
	done, err := put(ctx, s.deps.Store, spaceCode+string(who.Tenant), key, 0, authCode{
		Client: req.client.ID, Redirect: req.redirect, Challenge: req.challenge, Resource: req.resource, Scopes: scopes,
		Subject: who.Subject, Tenant: who.Tenant, JKT: req.jkt, Grant: newGrantID(), Expires: now.Add(codeTTL), Mark: who.mark,
	}, now.Add(codeKept))
	if err == nil && !done {
		err = errors.New("a code is there already")
	}
	if err == nil {
		err = s.keepRegistered(ctx, req.client.ID)
	}
	if err != nil {
		s.refuseRequest(w, r, req, failed(err))
		return
	}
	s.answer(w, req, nil, code)
}

// refuseRequest tells the fault to the client, or to the browser where there is no client that could
// be told. Nobody has clicked yet: to a website that only says itself what it is, the browser is not sent
// without its person having agreed, or links to us could lead anywhere (RFC 9700 section 4.11.2).
func (s *Server) refuseRequest(w http.ResponseWriter, r *http.Request, req *authRequest, err *oauthError) {
	if err.err != nil {
		s.log.WarnContext(r.Context(), "oauth request failed", "path", r.URL.Path, "code", err.code, "error", err.err)
	}
	if req == nil || !req.client.trusted && !private(req.redirect) {
		s.showError(w, r, err)
		return
	}
	s.answer(w, req, err, "")
}

// answer sends the browser back to the client with a code or an error. Both name this issuer, so that
// the client cannot be made to take the code to another (RFC 9207).
func (s *Server) answer(w http.ResponseWriter, req *authRequest, err *oauthError, code string) {
	q := url.Values{"iss": {s.iss.cfg.Issuer}}
	if req.state != "" {
		q.Set("state", req.state)
	}
	if err != nil {
		q.Set("error", err.code)
		q.Set("error_description", err.desc)
	} else {
		q.Set("code", code)
	}
	sep := "?"
	if strings.Contains(req.redirect, "?") {
		sep = "&"
	}
	h := w.Header()
	h.Set("Location", req.redirect+sep+q.Encode())
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusSeeOther) // 307 would send the form with the password on (RFC 9700 section 4.12)
}
