package httpfetch_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/egress"
	httpfetch "github.com/atlas-mcp/atlas/internal/source/http"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// A lent is the real guard, but for the connection, which the contract suite makes itself: its
// server has no address that the guard could resolve and no port 443. What the guard does when it
// connects is tested in its own package.
type lent struct {
	*egress.Guard
	transport http.RoundTripper
}

func (l lent) Client(tenant atlas.TenantID) *http.Client {
	c := l.Guard.Client(tenant)
	c.Transport = lentTransport{l, tenant}
	return c
}

type lentTransport struct {
	lent
	tenant atlas.TenantID
}

func (l lentTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := l.Allowed(l.tenant, r.Method, r.URL.String()); err != nil {
		return nil, err
	}
	return l.transport.RoundTrip(r)
}

func TestContract(t *testing.T) {
	sourcetest.Run(t, sourcetest.Harness{
		OpenFetch: func(t *testing.T, target sourcetest.FetchTarget) source.Source {
			var list strings.Builder
			for tenant, hosts := range target.Hosts {
				fmt.Fprintf(&list, "%s:\n", tenant)
				for _, h := range hosts {
					fmt.Fprintf(&list, "  - {host: %s, methods: [GET, HEAD, POST]}\n", h)
				}
			}
			allowed, err := egress.ParseAllowlist("allow.yaml", []byte(list.String()))
			if err != nil {
				t.Fatal(err)
			}
			guard, err := egress.New(egress.Config{}, allowed, egress.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = guard.Close() })
			cfg := httpfetch.Config{MaxBytes: int64(target.MaxBytes)}
			s, err := cfg.Open(t.Context(), source.Deps{Name: "http", Egress: lent{guard, target.Client.Transport}})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	}, sourcetest.Fetcher)
}
