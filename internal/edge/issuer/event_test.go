package issuer_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

// What decides who may act for whom is told, in the order in which it happens, and without anything that
// would let its reader act.
func TestEvents(t *testing.T) {
	var told []issuer.Event
	i := newInstall(t, quickUser, otherClient, func(_ *issuer.ServerConfig, d *issuer.ServerDeps) {
		d.Recorded = func(_ context.Context, e issuer.Event) { told = append(told, e) }
	})
	_, c := i.register(`{"redirect_uris":["https://app.example/cb"]}`, "192.0.2.1")
	b := i.browser()
	page := b.signIn(authorize(), "ann@acme")
	form := fields(page.Body.String())
	b.do(http.MethodPost, "/oauth/consent", with(form, "decision", "deny"))
	code := b.allow(b.get(authorize())).Get("code")
	first := i.redeem(code).must(t)
	i.refresh(first.RefreshToken).must(t)
	i.refresh(first.RefreshToken).refused(t, "invalid_grant")
	i.redeem(code).refused(t, "invalid_grant")
	last := i.redeem(i.code("gus@globex")).must(t)
	i.post("/oauth/revoke", url.Values{"token": {last.RefreshToken}, "client_id": {webClient}})
	i.post("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"nobody"}})
	for _, name := range []string{"uma", "eve"} {
		i.browser().guess(name)
	}
	b.do(http.MethodPost, "/oauth/logout", form)
	want := []string{
		"oauth.register false   " + c["client_id"].(string),
		"oauth.login false acme ann@acme web",
		"oauth.consent true acme ann@acme web",
		"oauth.consent false acme ann@acme web tool:crm:read",
		"oauth.reuse true acme ann@acme web GRANT", "oauth.refuse true   web invalid_grant",
		"oauth.reuse true acme ann@acme web GRANT", "oauth.refuse true   web invalid_grant",
		"oauth.login false globex gus@globex web",
		"oauth.consent false globex gus@globex web tool:crm:read",
		"oauth.revoke false globex gus@globex web GRANT",
		"oauth.refuse true   invalid_client",
		"oauth.login true acme uma web",
		"oauth.login true   web",
		"oauth.logout false acme ann@acme web",
	}
	var got []string
	grant := strings.NewReplacer(
		strings.Split(part(t, first.AccessToken, 1)["jti"].(string), ".")[0], "GRANT",
		strings.Split(part(t, last.AccessToken, 1)["jti"].(string), ".")[0], "GRANT",
	)
	for _, e := range told {
		line := fmt.Sprintf("%s %v %s %s %s", e.Action, e.Denied, e.Tenant, e.Subject, e.Target())
		got = append(got, grant.Replace(line))
		for _, secret := range []string{code, strings.Split(code, ".")[1], first.AccessToken, first.RefreshToken, last.RefreshToken, verifier, "guess"} {
			if strings.Contains(line, secret) {
				t.Errorf("%q holds %q", line, secret)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
