package issuer_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/MicahParks/jwkset"

	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

// The whole way of a person and a client: to a token that the resource server accepts, on to the
// next one, and to the end of both.
func TestCodeFlow(t *testing.T) {
	i := newInstall(t)
	b := i.browser()
	page := b.signIn(authorize(), "ann@acme")
	for _, want := range []string{"Web App", "app.example", "ann@acme", "acme", "Read from “crm”", resource, "registered by your administrator"} {
		if !strings.Contains(page.Body.String(), want) {
			t.Errorf("the consent page does not show %q", want)
		}
	}
	back := b.allow(page)
	if back.Get("state") != "st" || back.Get("iss") != base { // RFC 9207
		t.Errorf("answered %v", back)
	}
	res := i.redeem(back.Get("code")).must(t)
	if res.TokenType != "Bearer" || res.Scope != "tool:crm:read" || res.ExpiresIn != 600 || res.RefreshToken == "" {
		t.Errorf("got %+v", res)
	}
	v, err := auth.New(auth.Config{Issuers: []auth.Issuer{{Issuer: i.iss.URL(), Audience: []string{i.iss.Audience()}}}},
		auth.Deps{Keys: map[string]jwkset.Storage{i.iss.URL(): i.iss.Keys()}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := v.Verify(t.Context(), res.AccessToken, "")
	if err != nil {
		t.Fatal(err)
	}
	if p.Subject != "ann@acme" || p.Tenant != "acme" || len(p.Roles) != 1 || p.Roles[0] != "support" || len(p.Scopes) != 1 {
		t.Errorf("principal %+v", p)
	}
	claims := part(t, res.AccessToken, 1)
	if claims["client_id"] != webClient || part(t, res.AccessToken, 0)["typ"] != "at+jwt" {
		t.Errorf("claims %v", claims)
	}

	next := i.refresh(res.RefreshToken).must(t)
	if next.RefreshToken == res.RefreshToken || next.AccessToken == res.AccessToken || i.revokedToken(res.AccessToken) {
		t.Error("the refresh gave nothing new, or took too much")
	}
	// The client signs off.
	if r := i.post("/oauth/revoke", map[string][]string{"token": {next.RefreshToken}, "client_id": {webClient}}); r.Status != http.StatusOK {
		t.Errorf("revoke: %+v", r)
	}
	if !i.revokedToken(next.AccessToken) || !i.revokedToken(res.AccessToken) {
		t.Error("access tokens outlive their grant")
	}
	i.refresh(next.RefreshToken).refused(t, "invalid_grant")
}

// Nothing is named that does not answer, and all that the MCP profile asks for is named.
func TestMetadata(t *testing.T) {
	for name, tt := range map[string]struct {
		change   change
		register bool
	}{
		"as it comes":  {func(*issuer.ServerConfig, *issuer.ServerDeps) {}, true},
		"registration": {func(c *issuer.ServerConfig, _ *issuer.ServerDeps) { c.Registration.Disabled = true }, false},
	} {
		i := newInstall(t, tt.change)
		w := i.browser().get("/.well-known/oauth-authorization-server")
		var m map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil || w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Fatal(err, w.Header())
		}
		if m["issuer"] != base || m["authorization_response_iss_parameter_supported"] != true || m["client_id_metadata_document_supported"] != nil {
			t.Errorf("%s: %v", name, m)
		}
		if got := m["code_challenge_methods_supported"].([]any); len(got) != 1 || got[0] != "S256" {
			t.Errorf("%s: challenge methods %v", name, got)
		}
		if _, ok := m["registration_endpoint"]; ok != tt.register {
			t.Errorf("%s: registration %v", name, ok)
		}
		for key, v := range m {
			u, ok := v.(string)
			if !ok || key == "issuer" {
				continue
			}
			if w := i.browser().get(strings.TrimPrefix(u, base)); w.Code == http.StatusNotFound {
				t.Errorf("%s: %s does not exist", name, u)
			}
		}
	}
}
