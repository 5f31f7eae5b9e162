package issuer_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

// Of few rounds, so that tests are quick.
const quickHash = "$pbkdf2-sha256$i=1000$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func quickUser(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
	c.Users = []issuer.User{{Subject: "uma", Tenant: "acme", PasswordHash: quickHash}}
}

// guess tries a password of the subject, from where b is.
func (b *browser) guess(subject string, headers ...string) int {
	form := with(fields(b.get(authorize()).Body.String()), "subject", subject, "password", "guess")
	return b.do(http.MethodPost, "/oauth/login", form, headers...).Code
}

// Guesses at many names at the same time are counted before any of them is known to be wrong.
func TestManyGuessesAtOnce(t *testing.T) {
	i := newInstall(t, quickUser)
	var tried atomic.Int32
	var wg sync.WaitGroup
	for n := range 100 {
		b := i.browser()
		form := with(fields(b.get(authorize()).Body.String()), "subject", fmt.Sprintf("user%d", n), "password", "guess")
		wg.Go(func() {
			if w := b.do(http.MethodPost, "/oauth/login", form); w.Code == http.StatusUnauthorized {
				tried.Add(1)
			}
		})
	}
	wg.Wait()
	if n := tried.Load(); n != 10 {
		t.Errorf("%d passwords were tried at once", n)
	}
}

// The work of a try does not tell who exists, whatever hashes the others have.
func TestEveryTryCostsTheSame(t *testing.T) {
	i := newInstall(t, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
		c.Users = []issuer.User{
			{Subject: "old", Tenant: "acme", PasswordHash: quickHash},
			{Subject: "new", Tenant: "acme", PasswordHash: strings.Replace(quickHash, "i=1000", "i=600000", 1)},
		}
	})
	for _, who := range []string{"old", "new", "nobody", "ann@acme"} {
		if n := i.server.Cost(who); n != 600_000 {
			t.Errorf("%s: %d rounds", who, n)
		}
	}
}

// Somebody who sends the forms himself, without the pages, is counted like one who opens the pages.
func TestFetchFloodByForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &web{}
		i := newInstall(t, fetching(w))
		b := i.browser()
		for n := range 100 {
			for _, path := range []string{"/oauth/login", "/oauth/consent", "/oauth/logout"} {
				request := strings.TrimPrefix(authorize("client_id", fmt.Sprintf("https://victim.example%s/%d", path, n)), "/oauth/authorize?")
				b.do(http.MethodPost, path, url.Values{"request": {request}})
			}
		}
		if n := w.fetched.Load(); n != 30 {
			t.Errorf("%d fetches for one address", n)
		}
	})
}

// Behind a proxy that is named as trusted, callers are told apart by what it says of them, and not by
// what they say of themselves.
func TestTrustedProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstall(t, quickUser, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
			c.TrustedProxies = []string{"10.0.0.1", "fd00::/8"}
		})
		b := i.browser()
		tries := func(remote, forwarded string) (n int) {
			b.remote = remote
			for range 30 {
				if b.guess(fmt.Sprintf("user%d", n), "X-Forwarded-For", forwarded) != http.StatusUnauthorized {
					return n
				}
				n++
			}
			return n
		}
		const proxy = "10.0.0.1:999"
		for _, tt := range []struct {
			name, remote, forwarded string
			want                    int
		}{
			{"the first", proxy, "198.51.100.1", 10},
			{"the first again", proxy, "198.51.100.1", 0},
			{"the first, who says that he is another", proxy, "198.51.100.9, 198.51.100.1", 0},
			{"the first, through two proxies", "[fd00::1]:1", "198.51.100.1, 10.0.0.1", 0},
			{"the first, directly", "198.51.100.1:5", "198.51.100.8", 0},
			{"a second", proxy, "198.51.100.2:1234", 10},
			{"a stranger who names others", "203.0.113.9:1", "198.51.100.3", 10},
			{"the same, who names more", "203.0.113.9:1", "198.51.100.4", 0},
			{"nobody known", proxy, "unknown", 10},
			{"nobody", proxy, "", 0},
		} {
			if n := tries(tt.remote, tt.forwarded); n != tt.want {
				t.Errorf("%s: %d tries, want %d", tt.name, n, tt.want)
			}
		}
	})
}

// A page that somebody has open cannot use up what the programs of that machine have.
func TestPagesOfOthersUseUpTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstall(t)
		form := url.Values{"grant_type": {"refresh_token"}, "client_id": {"nobody"}}
		for range 500 {
			i.post("/oauth/token", form, "Origin", "https://evil.example")
		}
		if r := i.post("/oauth/token", form, "Origin", "https://evil.example"); r.Status != http.StatusTooManyRequests {
			t.Errorf("the page: %d", r.Status)
		}
		if r := i.post("/oauth/token", form); r.Status != http.StatusUnauthorized {
			t.Errorf("a program: %d", r.Status)
		}
	})
}

// A link to us leads to nobody's website but to that of a client that the operator knows, or whose person
// has agreed (RFC 9700 section 4.11.2).
func TestErrorsAreNoOpenRedirect(t *testing.T) {
	i := newInstall(t)
	body := `{"redirect_uris":["https://evil.example/cb","http://127.0.0.1/cb"],"token_endpoint_auth_method":"none"}`
	_, c := i.register(body, "192.0.2.1")
	id := c["client_id"].(string)
	const evil = "https://evil.example/cb"
	faults := map[string][]string{
		"no PKCE": {"code_challenge", ""}, "implicit": {"response_type", "token"}, "foreign resource": {"resource", "https://else.example"},
		"malformed scope": {"scope", "\""},
	}
	for name, fault := range faults {
		q := authorize(append([]string{"client_id", id, "redirect_uri", evil}, fault...)...)
		if w := i.browser().get(q); w.Code != http.StatusBadRequest || w.Header().Get("Location") != "" {
			t.Errorf("%s: %d %s", name, w.Code, w.Header().Get("Location"))
		}
		request := strings.TrimPrefix(q, "/oauth/authorize?")
		for _, path := range []string{"/oauth/login", "/oauth/consent", "/oauth/logout"} {
			if w := i.browser().do(http.MethodPost, path, url.Values{"request": {request}}); w.Code != http.StatusBadRequest || w.Header().Get("Location") != "" {
				t.Errorf("%s, %s: %d %s", name, path, w.Code, w.Header().Get("Location"))
			}
		}
		// A program on the user's machine is told.
		q = authorize(append([]string{"client_id", id, "redirect_uri", "http://127.0.0.1:7/cb"}, fault...)...)
		if back := answered(t, i.browser().get(q)); back.Get("error") == "" {
			t.Errorf("%s: %v", name, back)
		}
	}
	b := i.browser()
	page := b.signIn(authorize("client_id", id, "redirect_uri", evil), "ann@acme")
	if w := b.get(authorize("client_id", id, "redirect_uri", evil, "scope", "tool:nobody:has")); w.Code != http.StatusBadRequest || w.Header().Get("Location") != "" {
		t.Errorf("signed in, no scope: %d %s", w.Code, w.Header().Get("Location"))
	}
	if back := answered(t, b.do(http.MethodPost, "/oauth/consent", with(fields(page.Body.String()), "decision", "deny"))); back.Get("error") != "access_denied" {
		t.Errorf("who has clicked: %v", back)
	}
}

// A name shows what it is, and is never nothing.
func TestLabels(t *testing.T) {
	const unnamed = "an application without a name"
	for name, want := range map[string]string{
		"Claude": "Claude", "Überblick 2": "Überblick 2", "日本語": "日本語", "": unnamed, " \t": unnamed, "\u3164\u115f\u2800": unnamed, "\ufe0f\U000e0100": unnamed,
		"a\u202eb\u200b\u00adc\x1b[2J": "abc[2J", "x\u2028y\u0085": "xy", strings.Repeat("x", 90): strings.Repeat("x", 80) + "…",
	} {
		if got := issuer.Label(name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}
