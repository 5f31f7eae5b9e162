package issuer_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

func newIssuer(t *testing.T, file string) *issuer.Issuer {
	t.Helper()
	i, err := issuer.New(issuer.Config{KeyFile: file})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func part(t testing.TB, token string, n int) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[n])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// The verifier is the judge of what the issuer signs.
func TestVerifierAcceptsTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "issuer.pem")
	i := newIssuer(t, file)
	tok, err := i.Sign(issuer.Claims{
		Tenant: "acme", Subject: "ann", Roles: []string{"support"}, Scopes: []string{"tool:crm:read", "tool:kb:read"}, Delegator: "agent:x",
	})
	if err != nil {
		t.Fatal(err)
	}
	again := newIssuer(t, file) // as after a restart: the same key
	v, err := auth.New(auth.Config{Issuers: []auth.Issuer{{Issuer: i.URL(), Audience: []string{i.Audience()}}}},
		auth.Deps{Keys: map[string]jwkset.Storage{i.URL(): again.Keys()}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := v.Verify(t.Context(), tok, "")
	if err != nil {
		t.Fatal(err)
	}
	if p.TokenID == "" || time.Until(p.Expiry) > time.Hour || time.Until(p.Expiry) < 59*time.Minute {
		t.Errorf("jti %q, exp %s", p.TokenID, p.Expiry)
	}
	p.TokenID, p.Expiry, p.Claims = "", time.Time{}, nil
	want := &atlas.Principal{Subject: "ann", Tenant: "acme", Roles: []string{"support"}, Scopes: []string{"tool:crm:read", "tool:kb:read"}, Delegator: "agent:x", Issuer: i.URL()}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error("(-want +got):", diff)
	}
	if h := part(t, tok, 0); h["typ"] != "at+jwt" || h["alg"] != "ES256" {
		t.Errorf("header %v", h)
	}
	// Another installation's issuer of the same name has another key.
	foreign, err := newIssuer(t, filepath.Join(t.TempDir(), "k")).Sign(issuer.Claims{Tenant: "acme", Subject: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), foreign, ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
		t.Errorf("foreign key: %v", err)
	}
}

func TestSignRefuses(t *testing.T) {
	i := newIssuer(t, filepath.Join(t.TempDir(), "k"))
	for name, c := range map[string]issuer.Claims{
		"no tenant":      {Subject: "ann"},
		"bad tenant":     {Tenant: "A", Subject: "ann"},
		"no subject":     {Tenant: "acme"},
		"long life":      {Tenant: "acme", Subject: "ann", TTL: 12*time.Hour + 1},
		"negative life":  {Tenant: "acme", Subject: "ann", TTL: -1},
		"two scopes":     {Tenant: "acme", Subject: "ann", Scopes: []string{"a tenant:*:impersonate"}},
		"an empty scope": {Tenant: "acme", Subject: "ann", Scopes: []string{""}},
	} {
		if tok, err := i.Sign(c); err == nil {
			t.Errorf("%s: signed %s", name, tok)
		}
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "k")
	// Two processes that start at once end up with one key.
	var wg sync.WaitGroup
	kids := make([]string, 8)
	for n := range kids {
		wg.Go(func() {
			i, err := issuer.New(issuer.Config{KeyFile: file})
			if err != nil {
				t.Error(err)
				return
			}
			tok, err := i.Sign(issuer.Claims{Tenant: "acme", Subject: "ann"})
			if err != nil {
				t.Error(err)
				return
			}
			kids[n] = part(t, tok, 0)["kid"].(string)
		})
	}
	wg.Wait()
	for _, kid := range kids {
		if kid != kids[0] || kid == "" {
			t.Errorf("kids %v", kids)
		}
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	for name, spoil := range map[string]func(string) error{
		"readable by others": func(f string) error { return os.Chmod(f, 0o644) },
		"no PEM":             func(f string) error { return os.WriteFile(f, []byte("hello"), 0o600) },
		"no key": func(f string) error {
			return os.WriteFile(f, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600)
		},
		"directory": func(f string) error { return os.Mkdir(f, 0o700) },
	} {
		f := filepath.Join(t.TempDir(), "k")
		if name == "readable by others" {
			newIssuer(t, f)
		}
		if err := spoil(f); err != nil {
			t.Fatal(err)
		}
		if _, err := issuer.New(issuer.Config{KeyFile: f}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDocuments(t *testing.T) {
	i := newIssuer(t, filepath.Join(t.TempDir(), "k"))
	get := func(h http.HandlerFunc, method string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h(w, httptest.NewRequestWithContext(t.Context(), method, "/", nil))
		return w
	}
	var set struct{ Keys []map[string]any }
	w := get(i.ServeJWKS, http.MethodGet)
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%s", w.Body)
	}
	key := set.Keys[0]
	tok, err := i.Sign(issuer.Claims{Tenant: "acme", Subject: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	if key["d"] != nil || key["kty"] != "EC" || key["alg"] != "ES256" || key["use"] != "sig" || key["kid"] != part(t, tok, 0)["kid"] {
		t.Errorf("key %v", key)
	}
	if got, want := get(i.ServeMetadata, http.MethodGet).Body.String(), `{"issuer":"http://127.0.0.1:8080","jwks_uri":"http://127.0.0.1:8080/.well-known/jwks.json"}`; got != want {
		t.Errorf("metadata %s", got)
	}
	if w := get(i.ServeJWKS, http.MethodPost); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
		t.Errorf("POST: %d", w.Code)
	}
}
