package issuer_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

func otherClient(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
	c.Clients = append(c.Clients,
		issuer.Client{ID: "other", RedirectURIs: []string{"https://other.example/cb", webBack}},
		issuer.Client{ID: "native", RedirectURIs: []string{"http://127.0.0.1/cb", "http://localhost:9/cb", "http://[::1]/cb", "com.example.app:/cb"}},
		issuer.Client{ID: "once", RedirectURIs: []string{webBack}, GrantTypes: []string{"authorization_code"}},
	)
	c.Resources = []string{"http://127.0.0.1:8080/other"}
}

// A code is of use only to the client, the PKCE verifier, the redirect URI and the resource that it
// was asked for with; and whoever fails with it has ended it.
func TestCodeInjection(t *testing.T) {
	i := newInstall(t, otherClient)
	for name, tt := range map[string]struct {
		change []string
		want   string
	}{
		"another client":               {[]string{"client_id", "other"}, "invalid_grant"},
		"another verifier":             {[]string{"code_verifier", strings.Repeat("x", 43)}, "invalid_grant"},
		"no verifier":                  {[]string{"code_verifier", ""}, "invalid_grant"},
		"the challenge as verifier":    {[]string{"code_verifier", "xNf3yGgMfQ6vJ6rGmUP1HqUTiQ0Sb6A8y6lC1kYqO3c"}, "invalid_grant"},
		"a verifier that is too short": {[]string{"code_verifier", verifier[:42]}, "invalid_grant"},
		"another redirect URI":         {[]string{"redirect_uri", webBack + "/"}, "invalid_grant"},
		"another resource":             {[]string{"resource", base + "/other"}, "invalid_target"},
		"a foreign resource":           {[]string{"resource", "https://else.example/mcp"}, "invalid_target"},
	} {
		code := i.code("ann@acme")
		i.redeem(code, tt.change...).refused(t, tt.want)
		if r := i.redeem(code); r.Status == http.StatusOK {
			t.Errorf("%s: the code is good after that", name)
		}
	}
	for name, code := range map[string]string{
		"empty": "", "another's form": "acme", "unknown": "acme.ABCDEFGHIJKLMNOPQRSTUVWXYZ", "of another tenant": "",
	} {
		if name == "of another tenant" {
			code = strings.Replace(i.code("ann@acme"), "acme.", "globex.", 1)
		}
		i.redeem(code).refused(t, "invalid_grant")
	}
	// What may be left out.
	code := i.code("ann@acme")
	i.redeem(code, "resource", "").must(t)
}

func TestCodeReplayEndsItsTokens(t *testing.T) {
	i := newInstall(t)
	code := i.code("ann@acme")
	first := i.redeem(code).must(t)
	if i.revokedToken(first.AccessToken) {
		t.Fatal("revoked from the start")
	}
	i.redeem(code).refused(t, "invalid_grant")
	if !i.revokedToken(first.AccessToken) {
		t.Error("the access token of a replayed code is still good")
	}
	i.refresh(first.RefreshToken).refused(t, "invalid_grant")

	// At once: at most one gets tokens, and if the others came in time they end those.
	code = i.code("ann@acme")
	replies := make([]reply, 8)
	var wg sync.WaitGroup
	for n := range replies {
		wg.Go(func() { replies[n] = i.redeem(code) })
	}
	wg.Wait()
	for _, r := range replies {
		if r.Status == http.StatusOK && !i.revokedToken(r.AccessToken) {
			t.Error("a token of a code that was used eight times is good")
		}
		if r.Status == http.StatusOK {
			i.refresh(r.RefreshToken).refused(t, "invalid_grant")
		}
	}
}

func TestCodeExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstall(t)
		early, late := i.code("ann@acme"), i.code("ann@acme")
		time.Sleep(59 * time.Second)
		i.redeem(early).must(t)
		time.Sleep(2 * time.Second)
		i.redeem(late).refused(t, "invalid_grant")
	})
}

// Faults of a request are told to its client only where its redirect URI is the client's.
func TestRedirectMismatch(t *testing.T) {
	i := newInstall(t, otherClient)
	for uri, want := range map[string]bool{
		webBack:                                       true,
		"https://app.example/cb/":                     false,
		"https://app.example/cb/../evil":              false,
		"https://app.example/%63b":                    false,
		"https://app.example/CB":                      false,
		"https://app.example/cb?x=1":                  false,
		"https://app.example/cb?":                     false,
		"https://app.example/cb#f":                    false,
		"https://app.example/cb#":                     false,
		"https://app.example:443/cb":                  false,
		"https://APP.example/cb":                      false,
		"https://app.example.evil.example/cb":         false,
		"https://app.example@evil.example/cb":         false,
		"https://evil.example/https://app.example/cb": false,
		"https://user:pw@app.example/cb":              false,
		"https://app.example\\@evil.example/cb":       false,
		"https://app.example/cb\n":                    false,
		" https://app.example/cb":                     false,
		"http://app.example/cb":                       false,
		"//app.example/cb":                            false,
		"/cb":                                         false,
		"javascript:alert(1)":                         false,
		"https://other.example/cb":                    false,
		"":                                            false,
	} {
		w := i.browser().get(authorize("redirect_uri", uri))
		if got := w.Code == http.StatusOK; got != want {
			t.Errorf("%q: %d", uri, w.Code)
		}
		if w.Header().Get("Location") != "" {
			t.Errorf("%q: sent to %s", uri, w.Header().Get("Location"))
		}
	}
	for uri, want := range map[string]bool{
		"http://127.0.0.1/cb":                 true,
		"http://127.0.0.1:51234/cb":           true,
		"http://localhost:51234/cb":           true,
		"http://[::1]:51234/cb":               true,
		"com.example.app:/cb":                 true,
		"http://127.0.0.1:51234/cb2":          false,
		"http://127.0.0.1:51234/cb?x":         false,
		"http://127.0.0.1:0/cb":               false,
		"http://127.0.0.1:99999/cb":           false,
		"http://127.0.0.1:/cb":                false,
		"http://127.0.0.1:80@evil.example/cb": false,
		"http://127.0.0.1.evil.example/cb":    false,
		"http://127.0.0.2:51234/cb":           false,
		"http://127.1:51234/cb":               false,
		"http://0.0.0.0:51234/cb":             false,
		"http://LOCALHOST:51234/cb":           false,
		"https://127.0.0.1:51234/cb":          false,
		"http://[::ffff:127.0.0.1]:1/cb":      false,
		"com.example.app:/cb2":                false,
		"com.example.app://evil/cb":           false,
	} {
		w := i.browser().get(authorize("client_id", "native", "redirect_uri", uri))
		if got := w.Code == http.StatusOK; got != want || w.Header().Get("Location") != "" {
			t.Errorf("%q: %d %s", uri, w.Code, w.Header().Get("Location"))
		}
	}
	// A redirect URI is one client's, not any client's.
	if w := i.browser().get(authorize("client_id", "web", "redirect_uri", "com.example.app:/cb")); w.Code != http.StatusBadRequest {
		t.Errorf("another client's redirect URI: %d", w.Code)
	}
	for _, q := range []string{authorize("client_id", "nobody"), authorize("client_id", ""), authorize() + "&client_id=web", authorize() + "&redirect_uri=https%3A%2F%2Fevil.example"} {
		if w := i.browser().get(q); w.Code != http.StatusBadRequest || w.Header().Get("Location") != "" {
			t.Errorf("%s: %d %s", q, w.Code, w.Header().Get("Location"))
		}
	}
}

// Faults after that go to the client, with its state and our name.
func TestRequestFaults(t *testing.T) {
	i := newInstall(t, otherClient)
	for name, tt := range map[string]struct {
		query, want string
	}{
		"no PKCE":              {authorize("code_challenge", "", "code_challenge_method", ""), "invalid_request"},
		"plain":                {authorize("code_challenge_method", "plain"), "invalid_request"},
		"plain by default":     {authorize("code_challenge_method", ""), "invalid_request"},
		"S256 in lower case":   {authorize("code_challenge_method", "s256"), "invalid_request"},
		"short challenge":      {authorize("code_challenge", "abc"), "invalid_request"},
		"two challenges":       {authorize() + "&code_challenge=x", "invalid_request"},
		"implicit":             {authorize("response_type", "token"), "unsupported_response_type"},
		"hybrid":               {authorize("response_type", "code token"), "unsupported_response_type"},
		"fragment":             {authorize("response_mode", "fragment"), "invalid_request"},
		"foreign resource":     {authorize("resource", "https://else.example/mcp"), "invalid_target"},
		"resource with more":   {authorize("resource", resource+"/x"), "invalid_target"},
		"two resources":        {authorize() + "&resource=" + url.QueryEscape(base+"/other"), "invalid_target"},
		"request object":       {authorize("request", "x.y.z"), "request_not_supported"},
		"request by reference": {authorize("request_uri", "https://evil.example"), "request_uri_not_supported"},
		"malformed scope":      {authorize("scope", "a\"b"), "invalid_scope"},
		"malformed key":        {authorize("dpop_jkt", "x"), "invalid_request"},
	} {
		w := i.browser().get(tt.query)
		back := answered(t, w)
		if back.Get("error") != tt.want || back.Get("state") != "st" || back.Get("iss") != base || back.Has("code") {
			t.Errorf("%s: %v", name, back)
		}
		if !strings.HasPrefix(w.Header().Get("Location"), webBack+"?") {
			t.Errorf("%s: sent to %s", name, w.Header().Get("Location"))
		}
	}
	// The resource is spelt in the usual ways, and is the token's audience in ours.
	for _, spelling := range []string{"", resource + "/", "HTTP://127.0.0.1:8080/mcp"} {
		tok := i.redeem(i.code("ann@acme", "resource", spelling), "resource", spelling).must(t).AccessToken
		if aud := part(t, tok, 1)["aud"].([]any); len(aud) != 1 || aud[0] != resource {
			t.Errorf("resource %q: aud %v", spelling, aud)
		}
	}
	tok := i.redeem(i.code("ann@acme", "resource", base+"/other"), "resource", base+"/other").must(t).AccessToken
	if aud := part(t, tok, 1)["aud"].([]any); len(aud) != 1 || aud[0] != base+"/other" {
		t.Errorf("aud %v", aud)
	}
	if r := i.redeem(i.code("ann@acme", "client_id", "once"), "client_id", "once").must(t); r.RefreshToken != "" {
		t.Error("a refresh token for a client that is not registered for it")
	}
}

// Scopes are what is asked for, as far as the person has it; great ones are never given unasked.
func TestScopes(t *testing.T) {
	i := newInstall(t, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
		c.Clients = append(c.Clients, issuer.Client{ID: "narrow", RedirectURIs: []string{webBack}, Scopes: []string{"tool:kb:read"}})
	})
	for name, tt := range map[string]struct {
		persona string
		request []string
		want    string
	}{
		"asked for":             {"ann@acme", []string{"scope", "tool:kb:read offline_access"}, "tool:kb:read"},
		"more than the person":  {"ann@acme", []string{"scope", "tool:kb:read tool:*:admin"}, "tool:kb:read"},
		"nothing asked for":     {"ann@acme", []string{"scope", ""}, "tool:crm:read tool:kb:read"},
		"great ones by default": {"root@acme", []string{"scope", ""}, "tool:crm:read"},
		"great ones by name":    {"root@acme", []string{"scope", "tool:*:admin"}, "tool:*:admin"},
		"more than the client":  {"ann@acme", []string{"client_id", "narrow", "scope", ""}, "tool:kb:read"},
	} {
		id := webClient
		if len(tt.request) > 2 {
			id = tt.request[1]
		}
		if got := i.redeem(i.code(tt.persona, tt.request...), "client_id", id).must(t).Scope; got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	b := i.browser()
	if back := answered(t, b.signIn(authorize("scope", "tool:*:admin"), "ann@acme")); back.Get("error") != "invalid_scope" {
		t.Errorf("only what the person has not: %v", back)
	}
}
