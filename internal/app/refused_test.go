package app_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/atlas-mcp/atlas/internal/app"
)

// What the edge refuses is counted; what it refuses to a known caller is recorded, both tenants named,
// and once a minute only.
func TestEdgeRefusalsAreCountedAndRecorded(t *testing.T) {
	s := openScript(t, &txtar.Archive{})
	server := httptest.NewServer(s.app.HTTPHandler())
	defer server.Close()
	token, err := s.app.Token(app.TokenRequest{Tenant: "acme", Subject: "ann", Roles: []string{"tester"}})
	if err != nil {
		t.Fatal(err)
	}
	post := func(token, tenant string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/mcp", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		if tenant != "" {
			req.Header.Set("X-Tenant-Id", tenant)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // nothing is lost
		return resp.StatusCode
	}
	for range 5 {
		if got := post(token, "globex"); got != http.StatusForbidden {
			t.Fatalf("foreign tenant: %d", got)
		}
		if got := post("nonsense", ""); got != http.StatusUnauthorized {
			t.Fatalf("bad token: %d", got)
		}
	}
	if err := s.run(`
metric atlas_edge_refused_total{code="tenant_mismatch"} 5
metric atlas_edge_refused_total{code="invalid_token"} 5
audited seq=1 kind=admin action=http.refused target=globex tenant=acme caller=ann error_code=tenant_mismatch status=denied
`); err != nil {
		t.Error(err)
	}
}
