package egress

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"github.com/atlas-mcp/atlas"
)

// Everyone is the key of an allowlist whose entries are for all tenants.
const Everyone = "*"

// An Allowlist holds the hosts that each tenant may reach, by tenant or [Everyone]. It is made by
// [ParseAllowlist] and is read-only. The zero Allowlist allows nothing.
type Allowlist map[string][]Entry

// An Entry allows requests to a host.
type Entry struct {
	host    string   // normalised; for a suffix, what follows "*."
	suffix  bool     // all names below host, not host itself
	methods []string // upper case
	paths   []string // prefixes by whole segments; empty for all
}

var methodsKnown = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
}

// NewEntry checks and normalises an entry: an exact host name or address, or "*." and a domain.
// Without methods it allows GET and HEAD: to read is what most entries are for, and a host that may
// be read from must not become one to send to.
func NewEntry(host string, methods, paths []string) (Entry, error) {
	var e Entry
	var errs []error
	name, suffix := strings.CutPrefix(host, "*.")
	normal, err := normalHost(name)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("%q is not a host: %w", host, err))
	case suffix && !strings.Contains(normal, "."):
		errs = append(errs, fmt.Errorf("%q covers a whole top-level domain; name a domain below it", host))
	case suffix && isPublicSuffix(normal):
		errs = append(errs, fmt.Errorf("%q covers a domain under which anyone may register; name one below it", host))
	case suffix && isAddress(normal):
		errs = append(errs, fmt.Errorf("%q is an address; an address has no names below it", host))
	}
	e.host, e.suffix = normal, suffix
	for _, m := range methods {
		if m = strings.ToUpper(m); !slices.Contains(methodsKnown, m) {
			errs = append(errs, fmt.Errorf("method %q is not supported; use %s", m, strings.Join(methodsKnown, ", ")))
		}
		e.methods = append(e.methods, m)
	}
	if len(methods) == 0 {
		e.methods = []string{http.MethodGet, http.MethodHead}
	}
	for _, p := range paths {
		if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "?#%\\") || path.Clean(p) != strings.TrimSuffix(p, "/") && p != "/" {
			errs = append(errs, fmt.Errorf("path %q is not a plain prefix such as /v1/items", p))
		}
		e.paths = append(e.paths, strings.TrimSuffix(p, "/"))
	}
	return e, errors.Join(errs...)
}

// isPublicSuffix reports whether registries give out names directly below domain, as under co.uk or
// github.io. A domain under no known suffix, such as a company's own ".internal", is none.
func isPublicSuffix(domain string) bool {
	suffix, icann := publicsuffix.PublicSuffix(domain)
	return suffix == domain && (icann || strings.Contains(suffix, "."))
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// normalHost returns the one form of a host: lower case, ASCII (IDNA), without a trailing dot;
// addresses in their shortest form. Names that some resolvers take for addresses (a last label of
// digits or 0x…, as in 0177.1 or 2130706433) are refused.
func normalHost(host string) (string, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", errors.New("it names a zone of this machine")
		}
		return addr.Unmap().String(), nil
	}
	host = strings.TrimSuffix(host, ".")
	ascii, err := idna.Lookup.ToASCII(host)
	if err != nil {
		return "", err
	}
	ascii = strings.ToLower(ascii)
	if ascii == "" || len(ascii) > 253 || strings.HasSuffix(ascii, ".") {
		return "", errors.New("it is empty or too long")
	}
	last := ascii[strings.LastIndexByte(ascii, '.')+1:]
	if _, err := strconv.ParseUint(last, 0, 64); err == nil || strings.HasPrefix(last, "0x") || allDigits(last) {
		return "", errors.New("it ends in a number but is not an address in its usual form")
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			return "", errors.New("it has a label that is empty, too long or holds other than letters, digits and hyphens")
		}
	}
	return ascii, nil
}

func allDigits(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// Allowed reports nil, or why the URL is refused, as an *atlas.Error. The address that the host
// resolves to is checked later, when the connection is made.
func (g *Guard) Allowed(tenant atlas.TenantID, method, raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return refused(err)
	}
	return g.check(tenant, method, u)
}

func (g *Guard) check(tenant atlas.TenantID, method string, u *url.URL) error {
	_, err := g.match(tenant, method, u)
	return err
}

// match returns the normalised host and port of a URL that the tenant may ask for.
func (g *Guard) match(tenant atlas.TenantID, method string, u *url.URL) (string, error) {
	if method == "" {
		method = http.MethodGet
	}
	no := func(why string) (string, error) { return "", refused(errors.New(why)) }
	switch {
	case u.Scheme != "https":
		return no("the scheme is not https")
	case u.User != nil:
		return no("the URL holds a user name or password")
	case u.Opaque != "" || u.Host == "":
		return no("the URL names no host")
	}
	host, err := normalHost(u.Hostname())
	if err != nil {
		return no(err.Error())
	}
	port := uint64(443)
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil {
			return no("the port is not a number")
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return no("the port is empty")
	}
	if !slices.Contains(g.cfg.Ports, uint16(port)) {
		return no("the port is not allowed")
	}
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil { // "*" is for every tenant, not for anything
		return no(err.Error())
	}
	for _, key := range []string{string(tenant), Everyone} {
		for _, e := range g.list[key] {
			if e.allows(host, method, u) {
				if strings.Contains(host, ":") {
					host = "[" + host + "]"
				}
				if port != 443 {
					host += ":" + strconv.FormatUint(port, 10)
				}
				return host, nil
			}
		}
	}
	return no("no entry of the allowlist covers the request")
}

func (e Entry) allows(host, method string, u *url.URL) bool {
	if e.suffix {
		if isAddress(host) || !strings.HasSuffix(host, "."+e.host) {
			return false
		}
	} else if host != e.host {
		return false
	}
	return slices.Contains(e.methods, method) && e.allowsPath(u)
}

// allowsPath compares whole segments, and only of paths that every server reads alike: without dot
// segments, empty segments, backslashes or escaped slashes and dots.
func (e Entry) allowsPath(u *url.URL) bool {
	if len(e.paths) == 0 {
		return true
	}
	p := u.Path
	escaped := strings.ToLower(u.EscapedPath())
	for _, odd := range []string{"%2f", "%5c", "%2e", "%25", "\\", ";"} {
		if strings.Contains(escaped, odd) {
			return false
		}
	}
	if p == "" {
		p = "/"
	}
	if clean := path.Clean(p); clean != p && clean+"/" != p {
		return false
	}
	return slices.ContainsFunc(e.paths, func(prefix string) bool {
		return p == prefix || strings.HasPrefix(p, prefix+"/")
	})
}
