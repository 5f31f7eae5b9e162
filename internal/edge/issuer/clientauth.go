package issuer

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"time"
)

const (
	assertionType  = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 section 2.2
	maxAssertion   = 16 << 10
	maxAssertLives = 10 * time.Minute // from now to exp; how long its jti is remembered
)

// form reads the body of r as a form. Parameters may be there once (RFC 6749 section 3.2), except
// those of more than one resource or audience; the query does not count.
func form(r *http.Request) (url.Values, *oauthError) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return nil, refuse("invalid_request", "the body must be application/x-www-form-urlencoded")
	}
	if err := r.ParseForm(); err != nil {
		return nil, refuse("invalid_request", "the body cannot be read")
	}
	for name, values := range r.PostForm {
		if len(values) > 1 && name != "resource" && name != "audience" {
			return nil, refuse("invalid_request", "a parameter is there more than once")
		}
	}
	return r.PostForm, nil
}

// authenticate returns the client that makes the request (RFC 6749 section 2.3). A client that has a
// secret or a key must use it; nobody may use two ways at once.
func (s *Server) authenticate(r *http.Request, f url.Values) (*client, *oauthError) {
	key := s.peer(r)
	if wait := s.limits.failures.wait(key); wait > 0 {
		return nil, tooOften(wait)
	}
	c, basic, err := s.identify(r, f)
	if err == nil {
		return c, nil
	}
	if oe, ok := errors.AsType[*oauthError](err); ok {
		return nil, oe
	}
	s.limits.failures.take(key)
	s.record(r.Context(), Event{Action: EventRefuse, Denied: true, Detail: "invalid_client"})
	return nil, &oauthError{code: "invalid_client", desc: "the client is unknown or did not authenticate as it is registered", basic: basic, err: err}
}

// Error makes an oauthError an error among others; it is for logs.
func (e *oauthError) Error() string { return e.code + ": " + e.desc }

func (s *Server) identify(r *http.Request, f url.Values) (c *client, basic bool, err error) {
	id, secret, basic := r.BasicAuth()
	if !basic && r.Header.Get("Authorization") != "" {
		return nil, true, errors.New("the Authorization header is not Basic")
	}
	assertion := f.Get("client_assertion")
	if ways := count(basic, f.Has("client_secret"), f.Has("client_assertion") || f.Has("client_assertion_type")); ways > 1 {
		return nil, basic, errors.New("more than one way to authenticate") // RFC 6749 section 2.3
	}
	switch {
	case basic: // RFC 6749 section 2.3.1: both parts are form-encoded
		if id, err = url.QueryUnescape(id); err == nil {
			secret, err = url.QueryUnescape(secret)
		}
		if err != nil {
			return nil, true, errors.New("the Authorization header cannot be read")
		}
		if named := f.Get("client_id"); named != "" && named != id {
			return nil, true, errors.New("two clients are named")
		}
	case f.Has("client_secret"):
		id, secret = f.Get("client_id"), f.Get("client_secret")
	case assertion != "":
		if f.Get("client_assertion_type") != assertionType || len(assertion) > maxAssertion {
			return nil, false, errors.New("the client assertion is of another type")
		}
		if id, err = unverifiedSubject(assertion); err != nil {
			return nil, false, err
		}
		if named := f.Get("client_id"); named != "" && named != id {
			return nil, false, errors.New("two clients are named")
		}
	default:
		id = f.Get("client_id")
	}
	if wait := s.mayFetch(r, id); wait > 0 {
		return nil, basic, tooOften(wait)
	}
	if c, err = s.client(r.Context(), id); err != nil {
		if !errors.Is(err, errNoClient) {
			return nil, basic, failed(err)
		}
		return nil, basic, err
	}
	switch c.Auth {
	case authNone:
		if basic && secret == "" || count(basic, f.Has("client_secret"), assertion != "") == 0 {
			return c, basic, nil
		}
		return nil, basic, errors.New("the client is public and has no secret")
	case authKeyJWT:
		if assertion == "" {
			return nil, basic, errors.New("the client must authenticate with private_key_jwt")
		}
		return c, false, s.checkAssertion(r.Context(), c, assertion)
	}
	if assertion != "" || secret == "" || !c.rightSecret(secret) {
		return nil, basic, errors.New("wrong client secret")
	}
	return c, basic, nil
}

func count(conditions ...bool) (n int) {
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}

// checkAssertion checks a client's assertion of itself (RFC 7523 section 3; OpenID Connect Core
// section 9): signed by its key, for this server, recent, and used once.
func (s *Server) checkAssertion(ctx context.Context, c *client, assertion string) error {
	claims, err := s.parse(ctx, assertion, "", c.keys, c.keysURL)
	if err != nil {
		return err
	}
	if str(claims, "iss") != c.ID || str(claims, "sub") != c.ID {
		return errors.New("iss and sub must be the client")
	}
	aud, err := claims.GetAudience()
	// Exactly one audience, and it is us: an assertion for several servers can be passed on by each.
	if err != nil || len(aud) != 1 || aud[0] != s.iss.cfg.Issuer && aud[0] != s.iss.cfg.Issuer+pathToken {
		return errors.New("aud must be this issuer")
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || time.Until(exp.Time) > maxAssertLives {
		return errors.New("exp is too far away")
	}
	jti := str(claims, "jti")
	if jti == "" || len(jti) > 256 {
		return errors.New("no jti")
	}
	first, err := s.once(ctx, "client "+c.ID, jti, exp.Add(clockSkew))
	if err != nil {
		return failed(err)
	}
	if !first {
		return errors.New("the assertion was used before")
	}
	return nil
}

func str(claims map[string]any, name string) string {
	v, _ := claims[name].(string)
	return v
}
