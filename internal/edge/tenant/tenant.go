// Package tenant decides for which tenant an HTTP request acts: the one of its token, unless a
// caller who may impersonate names another in a header. Binding the tenant inside the stores is
// the drivers' work.
package tenant

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// Config sets up a Resolver.
type Config struct {
	Header string `yaml:"header"` // name of the header; default X-Tenant-Id
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	if c.Header != "" && http.CanonicalHeaderKey(c.Header) == "Authorization" {
		return fmt.Errorf("header: %q carries the token", c.Header)
	}
	for i := range len(c.Header) {
		ch := c.Header[i]
		if !('a' <= ch && ch <= 'z' || 'A' <= ch && ch <= 'Z' || '0' <= ch && ch <= '9' || ch == '-') {
			return fmt.Errorf("header: %q is not a header name", c.Header)
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Header = cmp.Or(c.Header, "X-Tenant-Id")
	return c
}

// A Resolver finds the acting tenant. It is immutable and safe for concurrent use.
type Resolver struct {
	header    string
	challenge edge.Challenge
}

// New returns a Resolver that refuses with the given challenge.
func New(cfg Config, challenge edge.Challenge) (*Resolver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tenant: %w", err)
	}
	cfg = cfg.withDefaults()
	return &Resolver{header: http.CanonicalHeaderKey(cfg.Header), challenge: challenge}, nil
}

// Resolve returns the tenant for which p acts when the request's header has the given values. The
// only failure is tenant_mismatch, the same one whether the named tenant exists, does not, or
// could not: nothing is looked up.
func (r *Resolver) Resolve(p *atlas.Principal, values []string) (atlas.TenantID, error) {
	switch len(values) {
	case 0:
		return p.Tenant, nil
	case 1:
	default: // which one a proxy in front read is anybody's guess
		return "", mismatch()
	}
	t, err := atlas.ParseTenantID(values[0])
	if err != nil {
		return "", mismatch()
	}
	if t == p.Tenant || p.HasScope(atlas.ScopeImpersonate) {
		return t, nil
	}
	return "", mismatch()
}

// requested returns the tenant that the header names, or "" if it names none or not one.
func requested(values []string) atlas.TenantID {
	if len(values) != 1 {
		return ""
	}
	t, err := atlas.ParseTenantID(values[0])
	if err != nil {
		return ""
	}
	return t
}

func mismatch() *atlas.Error { return atlas.Errorf(atlas.CodeTenantMismatch, nil, "") }

// Middleware sets the acting tenant of the request's caller. It belongs right behind the
// authentication middleware; a request without a caller is refused. Refusals are
// reported through the challenge.
func (r *Resolver) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c := edge.CallerOf(req.Context())
		if c == nil {
			r.challenge.Refuse(w, req, atlas.Errorf(atlas.CodeMissingToken, nil, ""))
			return
		}
		t, err := r.Resolve(c.Principal, req.Header[r.header])
		if err != nil {
			e := atlas.ErrorOf(err)
			r.challenge.Report(req, e.Code, requested(req.Header[r.header]))
			edge.WriteFailure(w, e)
			return
		}
		if t != c.Tenant {
			req = req.WithContext(edge.WithCaller(req.Context(), &edge.Caller{Principal: c.Principal, Tenant: t}))
		}
		next.ServeHTTP(w, req)
	})
}
