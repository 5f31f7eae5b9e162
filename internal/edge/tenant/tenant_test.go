package tenant_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/tenant"
)

func TestResolve(t *testing.T) {
	r, err := tenant.New(tenant.Config{}, edge.Challenge{})
	if err != nil {
		t.Fatal(err)
	}
	plain := &atlas.Principal{Subject: "ann", Tenant: "acme", Scopes: []string{atlas.ScopeAdmin, "tenant:globex:impersonate"}}
	may := &atlas.Principal{Subject: "ops", Tenant: "acme", Scopes: []string{atlas.ScopeImpersonate}}
	for _, tt := range []struct {
		name   string
		p      *atlas.Principal
		values []string
		want   atlas.TenantID // empty: refused
	}{
		{"absent", plain, nil, "acme"},
		{"equal", plain, []string{"acme"}, "acme"},
		{"different", plain, []string{"globex"}, ""},
		{"in capitals", plain, []string{"ACME"}, ""},
		{"with a space", plain, []string{"acme "}, ""},
		{"empty", plain, []string{""}, ""},
		{"twice", plain, []string{"acme", "acme"}, ""},
		{"two in one", plain, []string{"acme, globex"}, ""},
		{"impersonating", may, []string{"globex"}, "globex"},
		{"impersonating nobody", may, nil, "acme"},
		{"impersonating what cannot be", may, []string{"../globex"}, ""},
		{"impersonating two", may, []string{"globex", "initech"}, ""},
	} {
		got, err := r.Resolve(tt.p, tt.values)
		if got != tt.want || (tt.want == "") != (atlas.CodeOf(err) == atlas.CodeTenantMismatch) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

func TestMiddleware(t *testing.T) {
	r, err := tenant.New(tenant.Config{Header: "x-org"}, edge.Challenge{})
	if err != nil {
		t.Fatal(err)
	}
	h := r.Middleware(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c := edge.CallerOf(req.Context())
		_, _ = io.WriteString(w, string(c.Tenant)+" of "+string(c.Principal.Tenant))
	}))
	caller := &edge.Caller{Principal: &atlas.Principal{Tenant: "acme", Scopes: []string{atlas.ScopeImpersonate}}, Tenant: "acme"}
	for _, tt := range []struct {
		caller *edge.Caller
		value  string
		want   string
	}{
		{caller, "", "acme of acme"},
		{caller, "globex", "globex of acme"},
		{caller, "?", `"error":"tenant_mismatch"`},
		{nil, "acme", `"error":"missing_token"`}, // somebody left out authentication
	} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/mcp", nil)
		if tt.value != "" {
			req.Header.Set("X-Org", tt.value)
		}
		if tt.caller != nil {
			req = req.WithContext(edge.WithCaller(req.Context(), tt.caller))
		}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, req); !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%q: %s, want %s", tt.value, w.Body, tt.want)
		}
	}
	if caller.Tenant != "acme" {
		t.Error("the shared caller was changed")
	}
}

// Refusals are reported with the tenant asked for, if that can be one; what else stands in the header
// is the client's text and goes nowhere. Nothing is reported of the others, nor allocated for it.
func TestRefusalsAreReported(t *testing.T) {
	var got []edge.Refusal
	r, err := tenant.New(tenant.Config{}, edge.Challenge{Refused: func(_ context.Context, f edge.Refusal) { got = append(got, f) }})
	if err != nil {
		t.Fatal(err)
	}
	h := r.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	caller := &edge.Caller{Principal: &atlas.Principal{Subject: "ann", Tenant: "acme"}, Tenant: "acme"}
	request := func(c *edge.Caller, values ...string) *http.Request {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/mcp", nil)
		req.Header["X-Tenant-Id"] = values
		if c != nil {
			req = req.WithContext(edge.WithCaller(req.Context(), c))
		}
		return req
	}
	refusal := func(c *edge.Caller, code atlas.Code, requested atlas.TenantID) []edge.Refusal {
		return []edge.Refusal{{Code: code, Caller: c, RemoteAddr: "192.0.2.1:1234", Requested: requested}}
	}
	for _, tt := range []struct {
		name string
		req  *http.Request
		want []edge.Refusal
	}{
		{"own tenant", request(caller, "acme"), nil},
		{"foreign tenant", request(caller, "globex"), refusal(caller, atlas.CodeTenantMismatch, "globex")},
		{"tenant that cannot be", request(caller, "glob\nex"), refusal(caller, atlas.CodeTenantMismatch, "")},
		{"two tenants", request(caller, "acme", "globex"), refusal(caller, atlas.CodeTenantMismatch, "")},
		{"nobody", request(nil, "acme"), refusal(nil, atlas.CodeMissingToken, "")},
	} {
		got = nil
		h.ServeHTTP(httptest.NewRecorder(), tt.req)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: reported (-want +got):\n%s", tt.name, diff)
		}
	}
	w, req := httptest.NewRecorder(), request(caller, "acme")
	if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(w, req) }); n != 0 {
		t.Errorf("%v allocations for a request that is let through", n)
	}
}

func TestConfig(t *testing.T) {
	for _, bad := range []string{"authorization", "X Tenant", "X-Tenant\r\nX"} {
		if _, err := tenant.New(tenant.Config{Header: bad}, edge.Challenge{}); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}
