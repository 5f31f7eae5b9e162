// Package edge holds what the parts that face callers share: who an HTTP request comes from, how a
// refusal is written, and how a request is named. Verifying, routing and serving are the children's.
//
// It is the one place where an identity is kept in a context, and only between HTTP middleware and
// the handler behind it: past the edge, identity travels on [atlas.Call].
package edge

import (
	"context"
	"crypto/rand"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/atlas-mcp/atlas"
)

// A Caller is who an HTTP request comes from and for which tenant it acts. It is made by the
// authentication middleware and is read-only from then on.
type Caller struct {
	Principal *atlas.Principal
	Tenant    atlas.TenantID // Principal.Tenant unless impersonating
}

type callerKey struct{}

// WithCaller returns a context that carries c to the handler behind the middleware.
func WithCaller(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns the caller that the authentication middleware put into ctx, or nil. A handler
// that gets nil must refuse.
func CallerOf(ctx context.Context) *Caller {
	c, _ := ctx.Value(callerKey{}).(*Caller)
	return c
}

// NewRequestID returns an id for a request: "req_" and 100 random bits in base32. It is safe for
// concurrent use.
func NewRequestID() string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567" // RFC 4648 section 6, in lower case
	b := ids.Get().(*[4 + 20]byte)
	defer ids.Put(b)
	copy(b[:], "req_")
	_, _ = rand.Read(b[4:]) // never fails
	for i := 4; i < len(b); i++ {
		b[i] = alphabet[b[i]&31]
	}
	return string(b[:])
}

// ids are where request ids are written; every call needs one.
var ids = sync.Pool{New: func() any { return new([4 + 20]byte) }}

// FromLoopback reports whether r was sent from this machine: its peer has a loopback address and
// nothing says that a proxy passed it on. A proxy on this machine that says nothing of itself cannot be
// told from a client here.
func FromLoopback(r *http.Request) bool {
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded") || slices.Contains(passedOn, name) {
			return false
		}
	}
	return IsLoopback(r.RemoteAddr)
}

// passedOn are headers of proxies, beside those that begin with X-Forwarded.
var passedOn = []string{
	"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Forwarded-For", "X-Original-Host",
	"Cf-Connecting-Ip", "Cf-Ray", "True-Client-Ip", "Fastly-Client-Ip", "Fly-Client-Ip", "X-Envoy-External-Address",
}

// IsLoopback reports whether addr, an IP address with or without a port, is a loopback address.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = strings.Trim(addr, "[]")
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
