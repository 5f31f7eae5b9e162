package issuer

import (
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const maxURI = 2048

// loopbackHosts are the hosts of a native application's own listener. RFC 8252 section 8.3 advises
// against localhost; many MCP clients use it.
var loopbackHosts = []string{"127.0.0.1", "[::1]", "localhost"}

// forbiddenSchemes are never an application's own: a browser runs, shows or opens them itself.
var forbiddenSchemes = []string{
	"about", "blob", "chrome", "chrome-extension", "data", "file", "filesystem", "ftp", "http", "https", "intent", "jar",
	"javascript", "mailto", "resource", "sms", "tel", "urn", "vbscript", "view-source", "ws", "wss",
}

// application types (OpenID Connect Registration section 2, SEP-837).
const (
	applicationWeb    = "web"
	applicationNative = "native"
)

// parseRedirect parses a redirect URI that means the same to every parser: ASCII without white
// space, quotes or backslashes, no user information, no fragment, and itself when it is written
// again.
func parseRedirect(s string) (*url.URL, error) {
	if s == "" || len(s) > maxURI {
		return nil, errors.New("must have 1 to 2048 characters")
	}
	for i := range len(s) {
		if c := s[i]; c <= 0x20 || c >= 0x7f || strings.IndexByte("\"'<>\\^`{|}#*", c) >= 0 {
			return nil, errors.New("has a character that a redirect URI cannot have")
		}
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Opaque != "" || u.String() != s {
		return nil, errors.New("must be an absolute URI in its usual spelling")
	}
	if u.User != nil || strings.Contains(u.Host, "@") {
		return nil, errors.New("must have no user information")
	}
	if slices.Contains(strings.Split(u.EscapedPath(), "/"), "..") || slices.Contains(strings.Split(u.Path, "/"), "..") {
		return nil, errors.New("must have no dot segments")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, errors.New("has no valid port")
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return nil, errors.New("has no valid port")
	}
	return u, nil
}

// checkRedirect reports why a client of the application type, which may be empty, may not register
// the URI.
func checkRedirect(s, application string) error {
	u, err := parseRedirect(s)
	if err != nil {
		return err
	}
	switch {
	case u.Scheme == "https":
		if u.Hostname() == "" || application == applicationWeb && isLoopbackHost(u) {
			return errors.New("must name a host that is not the user's own machine")
		}
	case u.Scheme == "http":
		if !isLoopbackHost(u) {
			return errors.New("must be https, unless it is a loopback address")
		}
		if application == applicationWeb {
			return errors.New("must be https for a web application")
		}
	case slices.Contains(forbiddenSchemes, u.Scheme):
		return errors.New("has a scheme that no application may claim")
	case application == applicationWeb:
		return errors.New("must be https for a web application")
	}
	return nil
}

func isLoopbackHost(u *url.URL) bool {
	host := u.Host
	if p := u.Port(); p != "" {
		host = strings.TrimSuffix(host, ":"+p)
	}
	return slices.Contains(loopbackHosts, host)
}

// matchRedirect reports whether given is one of the registered URIs: character for character
// (RFC 9700 section 2.1), except that the port of a loopback http URI is free (RFC 8252 section 7.3).
func matchRedirect(registered []string, given string) bool {
	u, err := parseRedirect(given)
	if err != nil {
		return false
	}
	if slices.Contains(registered, given) {
		return true
	}
	if u.Scheme != "http" || !isLoopbackHost(u) {
		return false
	}
	return slices.ContainsFunc(registered, func(r string) bool {
		v, err := parseRedirect(r)
		return err == nil && v.Scheme == "http" && isLoopbackHost(v) && withoutPort(v) == withoutPort(u)
	})
}

func withoutPort(u *url.URL) string {
	c := *u
	if p := u.Port(); p != "" {
		c.Host = strings.TrimSuffix(u.Host, ":"+p)
	}
	return c.String()
}

// private reports whether a redirect URI leads to whatever program runs on the user's machine: then
// nobody can say who asks, and a consent is asked for anew each time (RFC 8252 section 8.6).
func private(redirect string) bool {
	u, err := url.Parse(redirect)
	return err != nil || u.Scheme != "https"
}

// canonicalResource returns a resource indicator (RFC 8707 section 2) in the spelling in which they
// are compared: scheme and host in lower case, no slash at the end. It is empty for what is none.
func canonicalResource(s string) string {
	if len(s) > maxURI || strings.ContainsAny(s, "# \\\"<>") {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Opaque != "" {
		return ""
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	return strings.TrimSuffix(u.String(), "/")
}
