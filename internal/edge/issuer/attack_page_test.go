package issuer_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

// Nobody but the person who sees the page can consent, and only to what the page shows.
func TestConsentForgery(t *testing.T) {
	i := newInstall(t, otherClient)
	victim := i.browser()
	page := victim.signIn(authorize(), "ann@acme")
	good := with(fields(page.Body.String()), "decision", "allow")

	attacker := i.browser()
	theirs := with(fields(attacker.signIn(authorize(), "ann@acme").Body.String()), "decision", "allow")
	elsewhere := strings.TrimPrefix(authorize("client_id", "other", "redirect_uri", "https://other.example/cb"), "/oauth/authorize?")

	for name, form := range map[string]url.Values{
		"no token":                    with(good, "token", ""),
		"another session's token":     with(good, "token", theirs.Get("token")),
		"the token of another page":   with(good, "request", elsewhere),
		"more scopes than shown":      with(good, "request", strings.TrimPrefix(authorize("scope", "tool:crm:read tool:kb:read"), "/oauth/authorize?")),
		"another state than shown":    with(good, "request", strings.TrimPrefix(authorize("state", "evil"), "/oauth/authorize?")),
		"the token of the first page": with(good, "token", fields(i.browser().get(authorize()).Body.String()).Get("token")),
	} {
		w := victim.do(http.MethodPost, "/oauth/consent", form)
		if loc := w.Header().Get("Location"); strings.Contains(loc, "code=") || w.Code == http.StatusSeeOther && !strings.HasPrefix(loc, "/oauth/authorize?") {
			t.Errorf("%s: sent to %s", name, loc)
		}
	}
	for name, headers := range map[string][]string{
		"from another site":   {"Sec-Fetch-Site", "cross-site"},
		"from a sister host":  {"Sec-Fetch-Site", "same-site"},
		"from another origin": {"Sec-Fetch-Site", "", "Origin", "https://evil.example"},
		"from a sandbox":      {"Sec-Fetch-Site", "", "Origin", "null"},
	} {
		for _, path := range []string{"/oauth/consent", "/oauth/login", "/oauth/logout"} {
			if w := victim.do(http.MethodPost, path, good, headers...); w.Code != http.StatusForbidden || w.Header().Get("Location") != "" {
				t.Errorf("%s, %s: %d %s", path, name, w.Code, w.Header().Get("Location"))
			}
		}
	}
	// A stranger's browser, with the whole form.
	if w := i.browser().do(http.MethodPost, "/oauth/consent", good); strings.Contains(w.Header().Get("Location"), "code=") {
		t.Error("a form counted without its session")
	}
	// By link.
	if w := victim.get("/oauth/consent?" + good.Encode()); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
	// Cancel.
	back := answered(t, victim.do(http.MethodPost, "/oauth/consent", with(good, "decision", "deny")))
	if back.Get("error") != "access_denied" || back.Get("state") != "st" || back.Get("iss") != base {
		t.Errorf("cancel: %v", back)
	}
	// And the good form is good.
	if code := answered(t, victim.do(http.MethodPost, "/oauth/consent", good)).Get("code"); code == "" {
		t.Error("the page's own form was refused")
	}
}

// A consent is remembered for one person, client, redirect URI, resource and no more scopes; and not
// at all where any program of the machine could be asking.
func TestConsentIsRememberedNarrowly(t *testing.T) {
	i := newInstall(t, otherClient)
	b := i.browser()
	b.allow(b.signIn(authorize(), "ann@acme"))
	if code := answered(t, b.get(authorize("state", "2"))).Get("code"); code == "" {
		t.Error("asked again for the same")
	}
	for name, q := range map[string]string{
		"more scopes":           authorize("scope", "tool:crm:read tool:kb:read"),
		"another client":        authorize("client_id", "other"),
		"another redirect URI":  authorize("client_id", "other", "redirect_uri", "https://other.example/cb"),
		"another resource":      authorize("resource", base+"/other"),
		"a program on the host": authorize("client_id", "native", "redirect_uri", "http://127.0.0.1:5/cb"),
	} {
		if w := b.get(q); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Allow") {
			t.Errorf("%s: not asked: %d %s", name, w.Code, w.Header().Get("Location"))
		}
	}
	native := authorize("client_id", "native", "redirect_uri", "http://127.0.0.1:5/cb")
	b.allow(b.get(native))
	if w := b.get(native); w.Code != http.StatusOK {
		t.Error("a consent to whatever program asks was remembered")
	}
	for _, other := range []string{"root@acme", "gus@globex"} { // another person of the tenant, and of another
		o := i.browser()
		if w := o.signIn(authorize(), other); w.Code != http.StatusOK {
			t.Errorf("%s: not asked", other)
		}
	}
}

func TestSessionFixation(t *testing.T) {
	i := newInstall(t)
	// The attacker signs in and plants the session in the victim's browser, who then signs in.
	attacker, victim := i.browser(), i.browser()
	attacker.signIn(authorize(), "gus@globex")
	u, _ := url.Parse(base + "/")
	planted := attacker.jar.Cookies(u)
	login := victim.get(authorize())
	victim.jar.SetCookies(u, planted)
	victim.do(http.MethodPost, "/oauth/login", with(fields(login.Body.String()), "persona", "ann@acme"))
	for _, c := range victim.jar.Cookies(u) {
		for _, p := range planted {
			if c.Name == p.Name && c.Value == p.Value {
				t.Errorf("the planted session %s lives on", c.Name)
			}
		}
	}
	// The session that was planted has ended: whoever has it is nobody.
	if w := attacker.get(authorize()); !strings.Contains(w.Body.String(), "Sign in") {
		t.Error("the attacker's session was taken over, not ended")
	}
	// Two cookies of one name: one of them was tossed in. Neither counts.
	w := victim.do(http.MethodGet, authorize(), nil, "Cookie", "atlas_login=x")
	if !strings.Contains(w.Body.String(), "Sign in") {
		t.Error("one of two sessions was chosen")
	}
	for _, c := range w.Result().Cookies() {
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("cookie %v", c)
		}
	}
	// Signing a browser in to the attacker's account takes the browser's own form.
	form := with(fields(attacker.get(authorize()).Body.String()), "persona", "gus@globex")
	if w := i.browser().do(http.MethodPost, "/oauth/login", form); w.Code != http.StatusForbidden || strings.Contains(w.Header().Get("Set-Cookie"), "atlas_login") {
		t.Errorf("login forgery: %d", w.Code)
	}
}

func TestSecureCookies(t *testing.T) {
	iss, err := issuer.New(issuer.Config{Issuer: "https://auth.example", KeyFile: t.TempDir() + "/k.pem"})
	if err != nil {
		t.Fatal(err)
	}
	i := openInstall(t, iss, newInstall(t).store)
	for _, c := range i.browser().get(authorize("resource", "https://auth.example/mcp")).Result().Cookies() {
		if !c.Secure || !strings.HasPrefix(c.Name, "__Host-") || !c.HttpOnly || c.Path != "/" {
			t.Errorf("cookie %v", c)
		}
	}
}

// Personas have no password, so they are for this machine only.
func TestPersonasAreLocal(t *testing.T) {
	i := newInstall(t)
	local := i.browser()
	form := with(fields(local.get(authorize()).Body.String()), "persona", "ann@acme")
	for name, tt := range map[string]struct {
		remote  string
		headers []string
	}{
		"another machine":   {"203.0.113.9:4000", nil},
		"through a proxy":   {"127.0.0.1:4000", []string{"X-Forwarded-For", "203.0.113.9"}},
		"through a proxy 2": {"127.0.0.1:4000", []string{"Via", "1.1 x"}},
	} {
		local.remote = tt.remote
		if w := local.do(http.MethodPost, "/oauth/login", form, tt.headers...); w.Code != http.StatusForbidden || w.Header().Get("Location") != "" {
			t.Errorf("%s: %d", name, w.Code)
		}
		if w := local.do(http.MethodGet, authorize(), nil, tt.headers...); strings.Contains(w.Body.String(), "ann@acme") {
			t.Errorf("%s: personas are shown", name)
		}
	}
	// A session that was made here is of no use elsewhere.
	local.remote = "127.0.0.1:4000"
	local.signIn(authorize(), "ann@acme")
	local.remote = "203.0.113.9:4000"
	if w := local.get(authorize()); !strings.Contains(w.Body.String(), "Sign in") {
		t.Error("a persona's session works from elsewhere")
	}
}

var styleTag = regexp.MustCompile(`(?s)<style>(.*?)</style>`)

// Whoever names a client or makes a request chooses text that is shown; none of it becomes a page.
func TestPagesShowTextAsText(t *testing.T) {
	const evil = `<script>alert(1)</script>"'><img src=x onerror=alert(1)>`
	i := newInstall(t, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
		c.Clients = append(c.Clients, issuer.Client{ID: "evil", Name: evil + "\u202egnp.exe\u200b\n", RedirectURIs: []string{"https://evil.example/cb?x=1;script-src", webBack}})
	})
	b := i.browser()
	q := authorize("client_id", "evil", "state", evil, "scope", "tool:crm:read", "login_hint", evil)
	pages := map[string]string{"login": b.get(q).Body.String()}
	page := b.signIn(q, "ann@acme")
	pages["consent"] = page.Body.String()
	w := b.get(authorize("client_id", evil))
	pages["error"] = w.Body.String()
	for name, p := range pages {
		if strings.Contains(p, "<script") || strings.Contains(p, "<img") || strings.Contains(p, "\u202e") || strings.Contains(p, "\u200b") {
			t.Errorf("%s: %s", name, p)
		}
	}
	if !strings.Contains(pages["consent"], "&lt;script&gt;") {
		t.Error("the name is not shown")
	}
	if got := b.allow(page).Get("state"); got != evil {
		t.Errorf("state came back as %q", got)
	}
	// The headers that keep a page from being framed, scripted or sent elsewhere; the style is the only
	// thing that is let in, and it is let in.
	for _, w := range []http.Header{page.Header(), w.Header(), i.browser().get(authorize()).Header()} {
		csp := w.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("CSP %q lacks %s", csp, want)
			}
		}
		if strings.Contains(csp, "script-src") || strings.Contains(csp, "unsafe") || w.Get("X-Frame-Options") != "DENY" ||
			w.Get("Cache-Control") != "no-store" || w.Get("Referrer-Policy") != "same-origin" || w.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("headers %v", w)
		}
	}
	sum := sha256.Sum256([]byte(styleTag.FindStringSubmatch(pages["consent"])[1]))
	if want := "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(page.Header().Get("Content-Security-Policy"), want) {
		t.Error("the page's own style is not let in")
	}
	if !strings.HasSuffix(strings.Split(page.Header().Get("Content-Security-Policy"), "; ")[2], "form-action 'self' https://app.example") {
		t.Errorf("form-action: %s", page.Header().Get("Content-Security-Policy"))
	}
}

// No parameter of ours leads away from here.
func TestOpenRedirect(t *testing.T) {
	i := newInstall(t)
	b := i.browser()
	form := fields(b.get(authorize()).Body.String())
	for _, request := range []string{
		"https://evil.example", "//evil.example", "client_id=web&redirect_uri=https://evil.example", "", "\r\nLocation: https://evil.example",
		form.Get("request") + "#\r\nSet-Cookie: x=y", form.Get("request") + "\nX: y",
	} {
		for _, path := range []string{"/oauth/login", "/oauth/consent", "/oauth/logout"} {
			w := b.do(http.MethodPost, path, with(form, "request", request, "persona", "ann@acme"))
			if w.Code != http.StatusBadRequest || w.Header().Get("Location") != "" {
				t.Errorf("%s %q: %d %s", path, request, w.Code, w.Header().Get("Location"))
			}
		}
	}
}

func TestPasswords(t *testing.T) {
	hash, err := issuer.HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	users := func(c *issuer.ServerConfig, d *issuer.ServerDeps) {
		d.Personas = nil
		c.Users = []issuer.User{{Subject: "uma", Tenant: "acme", Roles: []string{"support"}, PasswordHash: hash}}
	}
	i := newInstall(t, users)
	b := i.browser()
	b.remote = "203.0.113.9:4000"
	try := func(subject, password string) int {
		form := fields(b.get(authorize()).Body.String())
		w := b.do(http.MethodPost, "/oauth/login", with(form, "subject", subject, "password", password))
		if w.Code == http.StatusUnauthorized && !strings.Contains(w.Body.String(), "The name or the password is wrong.") {
			t.Errorf("%s: says %s", subject, w.Body)
		}
		return w.Code
	}
	for _, wrong := range [][2]string{{"uma", "wrong horse"}, {"uma", ""}, {"nobody", "correct horse"}, {"", ""}, {"uma", strings.Repeat("x", 300)}} {
		if code := try(wrong[0], wrong[1]); code != http.StatusUnauthorized {
			t.Errorf("%q: %d", wrong, code)
		}
	}
	form := fields(b.get(authorize()).Body.String())
	if w := b.do(http.MethodPost, "/oauth/login", with(form, "persona", "uma")); w.Code != http.StatusForbidden {
		t.Errorf("a user without a password: %d", w.Code)
	}
	if code := try("uma", "correct horse"); code != http.StatusSeeOther {
		t.Fatalf("right password: %d", code)
	}
	if tok := i.redeem(b.allow(b.get(authorize())).Get("code")).must(t).AccessToken; part(t, tok, 1)["tenant"] != "acme" {
		t.Error("another tenant")
	}
	for _, short := range []string{"", "1234567", strings.Repeat("x", 257)} {
		if _, err := issuer.HashPassword(short); err == nil {
			t.Errorf("hashed %d bytes", len(short))
		}
	}
}

func TestGuessingIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hash = "$pbkdf2-sha256$i=1000$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
		i := newInstall(t, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
			c.Users = []issuer.User{{Subject: "uma", Tenant: "acme", PasswordHash: hash}}
		})
		b := i.browser()
		tries := func(subject string) (n int) {
			for range 60 {
				form := fields(b.get(authorize()).Body.String())
				if w := b.do(http.MethodPost, "/oauth/login", with(form, "subject", subject, "password", "guess")); w.Code != http.StatusUnauthorized {
					return n
				}
				n++
			}
			return n
		}
		if n := tries("uma"); n != 10 {
			t.Errorf("%d tries in a row", n)
		}
		if n := tries("eve"); n != 0 { // the address is known by now
			t.Errorf("%d tries on another account", n)
		}
		time.Sleep(31 * time.Second)
		if n := tries("uma"); n != 1 {
			t.Errorf("%d tries after half a minute", n)
		}
		b.remote = "203.0.113.9:1"
		if n := tries("uma"); n != 10 {
			t.Errorf("%d tries from another address", n)
		}
	})
}

func TestSignInsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstall(t)
		b := i.browser()
		page := b.signIn(authorize(), "ann@acme")
		// Another account: the session ends, the request stays.
		w := b.do(http.MethodPost, "/oauth/logout", fields(page.Body.String()))
		if w = b.get(w.Header().Get("Location")); !strings.Contains(w.Body.String(), "Sign in") {
			t.Error("still signed in")
		}
		b.signIn(authorize(), "ann@acme")
		time.Sleep(8*time.Hour - time.Minute)
		if w := b.get(authorize()); strings.Contains(w.Body.String(), "Sign in") {
			t.Error("signed out early")
		}
		time.Sleep(2 * time.Minute)
		if w := b.get(authorize()); !strings.Contains(w.Body.String(), "Sign in") {
			t.Error("signed in for ever")
		}
	})
}
