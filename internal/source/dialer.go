package source

import (
	"net/http"

	"github.com/atlas-mcp/atlas"
)

// A Dialer gives HTTP clients that reach only what a tenant may reach.
type Dialer interface {
	// Client returns the tenant's client. Its transport checks the host against the tenant's
	// allowlist and each resolved address when it connects.
	Client(tenant atlas.TenantID) *http.Client
	// Allowed reports nil, or why the URL is refused, as an *atlas.Error.
	Allowed(tenant atlas.TenantID, method, url string) error
}
