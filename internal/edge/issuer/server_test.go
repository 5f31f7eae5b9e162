package issuer_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/memory"
)

const (
	base      = "http://127.0.0.1:8080"
	resource  = base + "/mcp"
	webClient = "web"
	webBack   = "https://app.example/cb"
	verifier  = "verifier-verifier-verifier-verifier-verifier-1"
)

// roleScopes are what the roles of the tests may do.
var roleScopes = map[string][]string{
	"support": {"tool:crm:read", "tool:kb:read"},
	"admin":   {atlas.ScopeAdmin, "tool:crm:read"},
	"robot":   {"tool:crm:read"},
}

func scopesOf(roles []string) []string {
	var out []string
	for _, r := range roles {
		out = append(out, roleScopes[r]...)
	}
	return out
}

func personas() []issuer.Persona {
	return []issuer.Persona{
		{Subject: "ann@acme", Tenant: "acme", Roles: []string{"support"}, About: "asks questions"},
		{Subject: "root@acme", Tenant: "acme", Roles: []string{"admin"}, About: "may do all"},
		{Subject: "gus@globex", Tenant: "globex", Roles: []string{"support"}, About: "asks elsewhere"},
	}
}

// An install is a server with what it stands on.
type install struct {
	t      testing.TB
	server *issuer.Server
	iss    *issuer.Issuer
	store  state.Store
	h      http.Handler
}

type change func(*issuer.ServerConfig, *issuer.ServerDeps)

func newInstall(t testing.TB, changes ...change) *install {
	t.Helper()
	iss, err := issuer.New(issuer.Config{KeyFile: filepath.Join(t.TempDir(), "issuer.pem")})
	if err != nil {
		t.Fatal(err)
	}
	store, err := memory.New(state.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return openInstall(t, iss, store, changes...)
}

func openInstall(t testing.TB, iss *issuer.Issuer, store state.Store, changes ...change) *install {
	t.Helper()
	cfg := issuer.ServerConfig{Clients: []issuer.Client{{ID: webClient, Name: "Web App", RedirectURIs: []string{webBack}}}}
	deps := issuer.ServerDeps{Issuer: iss, Store: store, Personas: personas, Scopes: scopesOf}
	for _, c := range changes {
		c(&cfg, &deps)
	}
	s, err := issuer.Open(t.Context(), cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return &install{t: t, server: s, iss: iss, store: store, h: s.Handler()}
}

// A browser keeps cookies and shows one page.
type browser struct {
	*install
	jar    http.CookieJar
	remote string
}

func (i *install) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		i.t.Fatal(err)
	}
	return &browser{install: i, jar: jar, remote: "127.0.0.1:4000"}
}

func (b *browser) do(method, path string, form url.Values, headers ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), method, base+path, strings.NewReader(form.Encode()))
	r.RemoteAddr = b.remote
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Header.Set("Origin", base)
	}
	for n := 0; n < len(headers); n += 2 {
		r.Header.Set(headers[n], headers[n+1])
	}
	u, _ := url.Parse(base + path)
	for _, c := range b.jar.Cookies(u) {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	b.jar.SetCookies(u, w.Result().Cookies())
	return w
}

func (b *browser) get(path string) *httptest.ResponseRecorder { return b.do(http.MethodGet, path, nil) }

// authorize returns the query of a good request, changed by kv pairs; an empty value removes one.
func authorize(kv ...string) string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"response_type": {"code"}, "client_id": {webClient}, "redirect_uri": {webBack}, "state": {"st"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
		"resource": {resource}, "scope": {"tool:crm:read"},
	}
	for n := 0; n < len(kv); n += 2 {
		if kv[n+1] == "" {
			q.Del(kv[n])
		} else {
			q.Set(kv[n], kv[n+1])
		}
	}
	return "/oauth/authorize?" + q.Encode()
}

var hidden = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`)

// fields returns the hidden fields of a page.
func fields(page string) url.Values {
	f := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(page, -1) {
		f.Set(m[1], html.UnescapeString(m[2]))
	}
	return f
}

func with(f url.Values, kv ...string) url.Values {
	c := url.Values{}
	for k, v := range f {
		c[k] = slices.Clone(v)
	}
	for n := 0; n < len(kv); n += 2 {
		c.Set(kv[n], kv[n+1])
	}
	return c
}

// signIn gets past the sign-in page, as a persona, and returns what the server shows then.
func (b *browser) signIn(request, persona string) *httptest.ResponseRecorder {
	b.t.Helper()
	w := b.get(request)
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Sign in") {
		b.t.Fatalf("no sign-in page: %d %s", w.Code, w.Body)
	}
	w = b.do(http.MethodPost, "/oauth/login", with(fields(w.Body.String()), "persona", persona))
	if w.Code != http.StatusSeeOther || !strings.HasPrefix(w.Header().Get("Location"), "/oauth/authorize?") {
		b.t.Fatalf("sign-in: %d %s %s", w.Code, w.Header().Get("Location"), w.Body)
	}
	return b.get(w.Header().Get("Location"))
}

// allow consents on the page, and returns what the client is answered.
func (b *browser) allow(page *httptest.ResponseRecorder) url.Values {
	b.t.Helper()
	if !strings.Contains(page.Body.String(), "Allow") || page.Code != http.StatusOK {
		b.t.Fatalf("no consent page: %d %s", page.Code, page.Body)
	}
	return answered(b.t, b.do(http.MethodPost, "/oauth/consent", with(fields(page.Body.String()), "decision", "allow")))
}

// answered returns the parameters that a redirection takes to the client.
func answered(t testing.TB, w *httptest.ResponseRecorder) url.Values {
	t.Helper()
	u, err := url.Parse(w.Header().Get("Location"))
	if err != nil || w.Code != http.StatusSeeOther || u.Host == "" && u.Scheme == "" {
		t.Fatalf("not answered: %d %q %s", w.Code, w.Header().Get("Location"), w.Body)
	}
	return u.Query()
}

// code goes the whole way to a code.
func (i *install) code(persona string, kv ...string) string {
	i.t.Helper()
	b := i.browser()
	w := b.signIn(authorize(kv...), persona)
	var code string
	if w.Code == http.StatusSeeOther { // consented before
		code = answered(i.t, w).Get("code")
	} else {
		code = b.allow(w).Get("code")
	}
	if code == "" {
		i.t.Fatal("no code")
	}
	return code
}

// A reply is an answer of the endpoints for programs.
type reply struct {
	Status       int
	Header       http.Header
	Error        string
	Description  string `json:"error_description"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	TokenType    string `json:"token_type"`
	Scope        string
	ExpiresIn    int `json:"expires_in"`
	Active       bool
	Issued       string `json:"issued_token_type"`
}

func (i *install) post(path string, form url.Values, headers ...string) reply {
	i.t.Helper()
	r := httptest.NewRequestWithContext(i.t.Context(), http.MethodPost, base+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = "203.0.113.7:5000"
	for n := 0; n < len(headers); n += 2 {
		r.Header.Add(headers[n], headers[n+1])
	}
	w := httptest.NewRecorder()
	i.h.ServeHTTP(w, r)
	out := reply{Status: w.Code, Header: w.Header()}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			i.t.Fatalf("%s: %v: %s", path, err, w.Body)
		}
	}
	if cc := w.Header().Get("Cache-Control"); cc != "no-store" {
		i.t.Errorf("%s: Cache-Control %q", path, cc)
	}
	return out
}

// redeem hands a code in; kv pairs change the form, an empty value removes a field.
func (i *install) redeem(code string, kv ...string) reply {
	i.t.Helper()
	f := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "client_id": {webClient}, "redirect_uri": {webBack},
		"code_verifier": {verifier}, "resource": {resource},
	}
	for n := 0; n < len(kv); n += 2 {
		if kv[n+1] == "" {
			f.Del(kv[n])
		} else {
			f.Set(kv[n], kv[n+1])
		}
	}
	return i.post("/oauth/token", f)
}

func (i *install) refresh(token string, kv ...string) reply {
	i.t.Helper()
	return i.post("/oauth/token", with(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {webClient}}, kv...))
}

func (i *install) revokedToken(token string) bool {
	return i.server.Revoked(part(i.t, token, 1)["jti"].(string))
}

func (r reply) must(t testing.TB) reply {
	t.Helper()
	if r.Status != http.StatusOK || r.Error != "" {
		t.Fatalf("refused: %d %s %s", r.Status, r.Error, r.Description)
	}
	return r
}

func (r reply) refused(t testing.TB, want string) {
	t.Helper()
	if r.Error != want || r.AccessToken != "" || r.RefreshToken != "" || r.Status < 400 {
		t.Errorf("got %d %q %s, want %s", r.Status, r.Error, r.Description, want)
	}
}

var errDown = errors.New("down")

// down is a store that cannot be reached.
type down struct{ state.Store }

func (down) Get(context.Context, string, string) ([]byte, int64, error) {
	return nil, 0, atlas.Errorf(atlas.CodeStateUnavailable, errDown, "")
}

// switched answers what is revoked, and nothing else.
type switched struct{ state.Store }

func (s *switched) Get(ctx context.Context, space, key string) ([]byte, int64, error) {
	if strings.HasPrefix(space, "oauth.revoked") {
		return s.Store.Get(ctx, space, key)
	}
	return down{}.Get(ctx, space, key)
}
