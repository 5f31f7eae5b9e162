package issuer

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// Whatever is accepted as a redirect URI is read by a browser as we read it: it has no way to name
// another host than ours, and a client that registers it matches nothing else by it.
func FuzzRedirect(f *testing.F) {
	for _, s := range []string{
		"https://app.example/cb", "http://127.0.0.1:80/cb", "http://[::1]/cb", "com.example.app:/cb", "https://a@b/cb", "http://localhost:1\\@x/",
		"https://app.example/cb?x=1&y", "javascript:alert(1)", "https://app.example/%2e%2e/", "//x", "HTTPS://x/", "https://x:y/", "http://127.0.0.1:0/",
	} {
		f.Add(s, "https://app.example/cb")
		f.Add("http://127.0.0.1/cb", s)
	}
	f.Fuzz(func(t *testing.T, registered, given string) {
		err := checkRedirect(registered, "")
		if err == nil {
			u, perr := url.Parse(registered)
			if perr != nil || u.String() != registered || u.User != nil || strings.ContainsAny(registered, "#\\ \r\n\"<>") {
				t.Errorf("accepted %q", registered)
			}
			if u.Scheme == "http" && !isLoopbackHost(u) || strings.EqualFold(u.Scheme, "javascript") {
				t.Errorf("accepted %q", registered)
			}
			if !matchRedirect([]string{registered}, registered) {
				t.Errorf("%q does not match itself", registered)
			}
		}
		if !matchRedirect([]string{registered}, given) || given == registered {
			return
		}
		a, b := mustParse(t, registered), mustParse(t, given)
		if a.Scheme != "http" || b.Scheme != "http" || a.Hostname() != b.Hostname() || !isLoopbackHost(b) || a.EscapedPath() != b.EscapedPath() || a.RawQuery != b.RawQuery {
			t.Errorf("%q matches %q", given, registered)
		}
		if strings.ContainsAny(formTarget(given), ";,'\n") {
			t.Errorf("%q breaks the policy: %q", given, formTarget(given))
		}
	})
}

func mustParse(t *testing.T, s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// No token, key set, document or proof of anybody's makes the server stumble, and none but its own
// is accepted.
func FuzzForeignTokens(f *testing.F) {
	iss, err := New(Config{KeyFile: f.TempDir() + "/k.pem"})
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{iss: iss, secret: make([]byte, secretSize), revoked: newRevocations(nil), resources: []string{"http://127.0.0.1:8080/mcp"}}
	own, err := iss.Sign(Claims{Tenant: "acme", Subject: "ann"})
	if err != nil {
		f.Fatal(err)
	}
	good := s.refreshToken(grant{ID: "g", Tenant: "acme"})
	for _, seed := range []string{
		own, good, "a.b.c", "..", "acme.ABCDEFGHIJKLMNOPQRSTUVWXYZ", `{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`, `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`,
		`{"client_id":"https://a.example/x","redirect_uris":["https://a.example/cb"]}`, "$pbkdf2-sha256$i=1000$AAAAAAAAAAAAAAAAAAAAAA$AA", "dyn-1-abcdefghijklmnopqrstuvwxyz",
		"eyJhbGciOiJFUzI1NiIsInR5cCI6ImRwb3Arand0IiwiandrIjp7Imt0eSI6IkVDIn19.e30.AA",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if _, err := s.own(t.Context(), in); err == nil && in != own {
			t.Errorf("accepted as a token: %q", in)
		}
		if _, _, _, ok := s.parseRefresh(in); ok && in != good {
			t.Errorf("accepted as a refresh token: %q", in)
		}
		if _, _, _, err := s.checkProof(in); err == nil {
			t.Logf("a proof: %q", in) // anybody may make one, with a key of theirs
		}
		if keys, err := parseKeys([]byte(in)); err == nil && len(keys) == 0 {
			t.Error("a key set without keys")
		}
		if c, err := parseDocument("https://a.example/x", []byte(in)); err == nil && (c.ID != "https://a.example/x" || len(c.Redirects) == 0 || c.Secret != "") {
			t.Errorf("accepted as a document: %q", in)
		}
		_, _ = parseHash(in)
		_ = parseSlot(in)
		_, _, _ = parseHandle(in)
	})
}

// Looked at by every call.
func BenchmarkRevoked(b *testing.B) {
	r := newRevocations(nil)
	for range 10_000 {
		r.note(revocation{newGrantID(), time.Now().Add(time.Hour)})
	}
	id := newTokenID(newGrantID())
	b.ReportAllocs()
	for b.Loop() {
		if r.has(id) {
			b.Fatal("revoked")
		}
	}
}
