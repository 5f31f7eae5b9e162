package issuer_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

// Nobody of one tenant gets, refreshes, or is shown anything of another.
func TestTenantsStayApart(t *testing.T) {
	i := newInstall(t, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
		c.Clients = append(c.Clients, issuer.Client{ID: "globex-app", RedirectURIs: []string{webBack}, Tenant: "globex"})
	})
	// A client of one tenant: the other's people are not offered, and not let in by force.
	b := i.browser()
	request := authorize("client_id", "globex-app")
	page := b.get(request)
	if strings.Contains(page.Body.String(), "acme") || !strings.Contains(page.Body.String(), "gus@globex") {
		t.Error("the sign-in page shows another tenant's people")
	}
	b.do(http.MethodPost, "/oauth/login", with(fields(page.Body.String()), "persona", "ann@acme"))
	again := b.get(request)
	if again.Code != http.StatusOK || !strings.Contains(again.Body.String(), "Your account cannot use this application.") {
		t.Errorf("ann at globex's application: %d %s", again.Code, again.Body)
	}
	w := b.do(http.MethodPost, "/oauth/consent", with(fields(again.Body.String()), "decision", "allow"))
	if strings.Contains(w.Header().Get("Location"), "code=") {
		t.Error("ann has a code for globex's application")
	}
	// Whatever is renamed in what was given to ann, it stays acme's or becomes nothing.
	code := i.code("ann@acme")
	i.redeem(strings.Replace(code, "acme", "globex", 1)).refused(t, "invalid_grant")
	r := i.redeem(code).must(t)
	i.refresh(strings.Replace(r.RefreshToken, "acme", "globex", 1)).refused(t, "invalid_grant")
	if c := part(t, i.refresh(r.RefreshToken).must(t).AccessToken, 1); c["tenant"] != "acme" || c["sub"] != "ann@acme" {
		t.Errorf("claims %v", c)
	}
	// A code of acme, handed in by globex's client.
	i.redeem(i.code("ann@acme"), "client_id", "globex-app").refused(t, "invalid_grant")
	// A client that is moved to another tenant loses its grants.
	g := i.redeem(i.code("gus@globex", "client_id", "globex-app"), "client_id", "globex-app").must(t)
	moved := openInstall(t, i.iss, i.store, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
		c.Clients = append(c.Clients, issuer.Client{ID: "globex-app", RedirectURIs: []string{webBack}, Tenant: "acme"})
	})
	moved.refresh(g.RefreshToken, "client_id", "globex-app").refused(t, "invalid_grant")
}

// A new password ends what the old one began.
func TestNewPassword(t *testing.T) {
	hash := func(password string) string {
		h, err := issuer.HashPassword(password)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	users := func(h string) change {
		return func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
			c.Users = []issuer.User{{Subject: "uma", Tenant: "acme", Roles: []string{"support"}, PasswordHash: h}}
		}
	}
	i := newInstall(t, users(hash("correct horse")))
	b := i.browser()
	b.do(http.MethodPost, "/oauth/login", with(fields(b.get(authorize()).Body.String()), "subject", "uma", "password", "correct horse"))
	r := i.redeem(b.allow(b.get(authorize())).Get("code")).must(t)
	r = i.refresh(r.RefreshToken).must(t)
	pending := answered(t, b.get(authorize())).Get("code")

	b.install = openInstall(t, i.iss, i.store, users(hash("battery staple")))
	b.refresh(r.RefreshToken).refused(t, "invalid_grant")
	b.redeem(pending).refused(t, "invalid_grant")
	if w := b.get(authorize()); !strings.Contains(w.Body.String(), "Sign in") {
		t.Error("still signed in")
	}
}
