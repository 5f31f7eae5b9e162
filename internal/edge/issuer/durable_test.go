package issuer_test

import (
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/state/sqlite"
)

// Two processes over one store and one key folder are one server, and so is the one after a restart.
func TestProcessesAreOneServer(t *testing.T) {
	dir := t.TempDir()
	process := func() *install {
		store, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, "state.db")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		iss, err := issuer.New(issuer.Config{KeyFile: filepath.Join(dir, "keys", "issuer.pem")})
		if err != nil {
			t.Fatal(err)
		}
		return openInstall(t, iss, store)
	}
	a, b := process(), process()
	r := b.redeem(a.code("ann@acme")).must(t)
	r = a.refresh(r.RefreshToken).must(t)
	r = process().refresh(r.RefreshToken).must(t)

	// One refresh token, at both at once, many times: one answer at most.
	replies := make([]reply, 16)
	var wg sync.WaitGroup
	for n := range replies {
		wg.Go(func() { replies[n] = []*install{a, b}[n%2].refresh(r.RefreshToken) })
	}
	wg.Wait()
	good := 0
	for _, got := range replies {
		if got.Status == http.StatusOK {
			good++
		}
	}
	if good > 1 {
		t.Errorf("%d answers to one refresh token", good)
	}
	later := process()
	later.refresh(r.RefreshToken).refused(t, "invalid_grant")
	if !later.revokedToken(r.AccessToken) {
		t.Error("a start does not know what is revoked")
	}
	// A code at both at once.
	code := a.code("ann@acme")
	for n := range replies {
		wg.Go(func() { replies[n] = []*install{a, b}[n%2].redeem(code) })
	}
	wg.Wait()
	later = process()
	for _, got := range replies {
		if got.Status == http.StatusOK && !later.revokedToken(got.AccessToken) {
			t.Error("a token of a code that was used twice is good")
		}
	}
}

// An issuer below a path: the metadata lies where RFC 8414 section 3.1 wants it, and the pages lead
// to where the browser finds us.
func TestIssuerWithPath(t *testing.T) {
	iss, err := issuer.New(issuer.Config{Issuer: "https://x.example/atlas", KeyFile: filepath.Join(t.TempDir(), "k.pem")})
	if err != nil {
		t.Fatal(err)
	}
	i := openInstall(t, iss, newInstall(t).store)
	b := i.browser()
	if w := b.get("/.well-known/oauth-authorization-server/atlas"); !strings.Contains(w.Body.String(), `"token_endpoint":"https://x.example/atlas/oauth/token"`) {
		t.Errorf("metadata %s", w.Body)
	}
	page := b.get("/atlas" + authorize("resource", "https://x.example/atlas/mcp"))
	if !strings.Contains(page.Body.String(), "Nobody can sign in from here") { // another Host: nothing is local
		t.Errorf("page %s", page.Body)
	}
	if r := i.post("/atlas/oauth/token", url.Values{}); r.Error != "unsupported_grant_type" {
		t.Errorf("token endpoint: %+v", r)
	}
}
