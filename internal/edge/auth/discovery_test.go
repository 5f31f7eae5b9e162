package auth_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
)

// web is what issuers serve, in memory: a transport, so that it works in synctest. It counts requests.
type web struct {
	mu    sync.Mutex
	pages map[string]func(*http.Request) (int, string) // by URL
	asked map[string]int
	slow  map[string]time.Duration
	ahead time.Duration // of its clock
	sent  []string      // Authorization headers and bodies
}

func newWeb() *web {
	return &web{pages: map[string]func(*http.Request) (int, string){}, asked: map[string]int{}, slow: map[string]time.Duration{}}
}

func (w *web) put(url, body string) {
	w.serve(url, func(*http.Request) (int, string) { return http.StatusOK, body })
}

func (w *web) serve(url string, page func(*http.Request) (int, string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pages[url] = page; page == nil {
		delete(w.pages, url)
	}
}

func (w *web) times(url string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[url]
}

func (w *web) RoundTrip(r *http.Request) (*http.Response, error) {
	url := r.URL.String()
	w.mu.Lock()
	page, slow := w.pages[url], w.slow[url]
	w.asked[url]++
	w.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if page == nil {
		return nil, fmt.Errorf("connection refused")
	}
	status, body := page(r)
	h := http.Header{"Date": {time.Now().Add(w.ahead).UTC().Format(http.TimeFormat)}}
	if at, ok := strings.CutPrefix(body, "Location: "); ok {
		h.Set("Location", at)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (w *web) client() *http.Client { return &http.Client{Transport: w} }

func jwks(t testing.TB, keys ...jwkset.JWK) string {
	t.Helper()
	raw, err := store(t, keys...).JSONPublic(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func verifierOf(t testing.TB, w *web, issuers ...auth.Issuer) *auth.Verifier {
	t.Helper()
	for i := range issuers {
		issuers[i].Audience = []string{aud}
	}
	v, err := auth.New(auth.Config{Issuers: issuers}, auth.Deps{Client: w.client(), PublicURL: public})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDiscovery(t *testing.T) {
	const realm = "https://idp.example/realms/acme"
	for _, tt := range []struct {
		name, issuer, at, doc string
		want                  atlas.Code
	}{
		{"OpenID Connect", realm, realm + "/.well-known/openid-configuration", `{"issuer":"` + realm + `","jwks_uri":"https://idp.example/keys"}`, ""},
		{"RFC 8414", realm, "https://idp.example/.well-known/oauth-authorization-server/realms/acme", `{"issuer":"` + realm + `","jwks_uri":"https://idp.example/keys"}`, ""},
		{"without a path", issA, issA + "/.well-known/oauth-authorization-server", `{"issuer":"` + issA + `","jwks_uri":"https://idp.example/keys"}`, ""},
		{"with a slash", issA + "/", issA + "/.well-known/openid-configuration", `{"issuer":"` + issA + `/","jwks_uri":"https://idp.example/keys"}`, ""},
		{"of another issuer", realm, realm + "/.well-known/openid-configuration", `{"issuer":"https://idp.example/realms/globex","jwks_uri":"https://idp.example/keys"}`, atlas.CodeStateUnavailable},
		{"a slash more", realm, realm + "/.well-known/openid-configuration", `{"issuer":"` + realm + `/","jwks_uri":"https://idp.example/keys"}`, atlas.CodeStateUnavailable},
		{"no issuer", realm, realm + "/.well-known/openid-configuration", `{"jwks_uri":"https://idp.example/keys"}`, atlas.CodeStateUnavailable},
		{"issuer twice", realm, realm + "/.well-known/openid-configuration", `{"issuer":"x","issuer":"` + realm + `","jwks_uri":"https://idp.example/keys"}`, atlas.CodeStateUnavailable},
		{"keys in clear text", realm, realm + "/.well-known/openid-configuration", `{"issuer":"` + realm + `","jwks_uri":"http://idp.example/keys"}`, atlas.CodeStateUnavailable},
		{"keys in a file", realm, realm + "/.well-known/openid-configuration", `{"issuer":"` + realm + `","jwks_uri":"file:///etc/passwd"}`, atlas.CodeStateUnavailable},
		{"no keys", realm, realm + "/.well-known/openid-configuration", `{"issuer":"` + realm + `"}`, atlas.CodeStateUnavailable},
		{"very large", realm, realm + "/.well-known/openid-configuration", `{"issuer":"` + realm + `","jwks_uri":"https://idp.example/keys","x":"` + strings.Repeat("x", 300<<10) + `"}`, atlas.CodeStateUnavailable},
		{"down", realm, "https://else.example/", "", atlas.CodeStateUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWeb()
			w.put(tt.at, tt.doc)
			w.put("https://idp.example/keys", jwks(t, jwk(t, &keyA().PublicKey, "ka")))
			w.put("http://idp.example/keys", jwks(t, jwk(t, &keyA().PublicKey, "ka")))
			v := verifierOf(t, w, auth.Issuer{Issuer: tt.issuer})
			p, err := v.Verify(t.Context(), good(t, "iss", tt.issuer), "")
			if atlas.CodeOf(err) != tt.want {
				t.Fatalf("%v %v, want %q", p, err, tt.want)
			}
			if tt.want != "" && w.times("https://idp.example/keys")+w.times("http://idp.example/keys") > 0 {
				t.Error("the keys were read all the same")
			}
		})
	}
}

// A client of our own follows no redirect: the issuer's name says where its keys are.
func TestDiscoveryFollowsNoRedirect(t *testing.T) {
	w := newWeb()
	w.serve(issA+"/.well-known/openid-configuration", func(*http.Request) (int, string) {
		return http.StatusFound, "Location: https://evil.example/metadata"
	})
	w.put("https://evil.example/metadata", `{"issuer":"`+issA+`","jwks_uri":"https://evil.example/keys"}`)
	client := w.client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	v, err := auth.New(auth.Config{Issuers: []auth.Issuer{{Issuer: issA, Audience: []string{aud}}}}, auth.Deps{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), good(t), ""); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
		t.Error(err)
	}
	if n := w.times("https://evil.example/metadata"); n != 0 {
		t.Error("the redirect was followed")
	}
}

// The key set moves; the metadata says where to; an outage of the metadata does not lose the keys.
func TestDiscoveredKeysMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		meta := issA + "/.well-known/openid-configuration"
		at := func(n string) { w.put(meta, `{"issuer":"`+issA+`","jwks_uri":"https://a.example/keys`+n+`"}`) }
		at("1")
		w.put("https://a.example/keys1", jwks(t, jwk(t, &keyA().PublicKey, "ka")))
		v := verifierOf(t, w, auth.Issuer{Issuer: issA})
		if _, err := v.Verify(t.Context(), good(t), ""); err != nil {
			t.Fatal(err)
		}
		w.serve(meta, nil)
		next := newEC()
		w.put("https://a.example/keys1", jwks(t, jwk(t, &next.PublicKey, "kn")))
		tok := sign(t, jwt.SigningMethodES256, next, map[string]any{"kid": "kn"}, claims())
		time.Sleep(11 * time.Second)
		if _, err := v.Verify(t.Context(), tok, ""); err != nil {
			t.Errorf("rotated while the metadata was down: %v", err)
		}
		at("2")
		last := newEC()
		w.put("https://a.example/keys2", jwks(t, jwk(t, &last.PublicKey, "kl")))
		tok = sign(t, jwt.SigningMethodES256, last, map[string]any{"kid": "kl"}, claims())
		time.Sleep(11 * time.Second)
		if _, err := v.Verify(t.Context(), tok, ""); err != nil {
			t.Errorf("moved: %v", err)
		}
	})
}

// One issuer that is slow or down costs the others nothing: no time, no readiness, no keys.
func TestOneIssuersOutageDoesNotTouchAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		w.put("https://a.example/jwks", jwks(t, jwk(t, &keyA().PublicKey, "ka")))
		w.slow["https://b.example/jwks"] = time.Minute
		v := verifierOf(t, w, auth.Issuer{Issuer: issA, JWKSURL: "https://a.example/jwks"}, auth.Issuer{Issuer: issB, JWKSURL: "https://b.example/jwks"})
		ofB := sign(t, jwt.SigningMethodRS256, keyB(), map[string]any{"kid": "kb"}, claims("iss", issB))
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := v.Verify(t.Context(), ofB, ""); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
					t.Errorf("issuer B: %v", err)
				}
			})
			wg.Go(func() {
				start := time.Now()
				if _, err := v.Verify(t.Context(), good(t), ""); err != nil || time.Since(start) != 0 {
					t.Errorf("issuer A: %v after %s", err, time.Since(start))
				}
			})
		}
		wg.Wait()
		if a, b := w.times("https://a.example/jwks"), w.times("https://b.example/jwks"); a != 1 || b != 1 {
			t.Errorf("asked %d and %d times", a, b)
		}
		if err := v.Ready(t.Context()); err != nil {
			t.Errorf("not ready, though issuer A's tokens are accepted: %v", err)
		}
		// While B is down, its tokens do not make A be asked either.
		start := time.Now()
		for range 100 {
			time.Sleep(time.Second)
			_, _ = v.Verify(t.Context(), ofB, "")
		}
		most := int(time.Since(start)/(10*time.Second)) + 2
		if a, b := w.times("https://a.example/jwks"), w.times("https://b.example/jwks"); a != 1 || b > most {
			t.Errorf("asked %d and %d times", a, b)
		}
	})
}

// Garbage, forged and foreign tokens cost an issuer at most one request in ten seconds, discovery included.
func TestGarbageDoesNotHammerTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		v := verifierOf(t, w, auth.Issuer{Issuer: issA, JWKSURL: "https://a.example/jwks"}, auth.Issuer{Issuer: issB})
		stranger := newEC()
		flood := func(n int) {
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					for _, tok := range []string{
						fmt.Sprint("garbage", i), fmt.Sprint("eyJhbGciOiJFUzI1NiJ9.e30.", i),
						sign(t, jwt.SigningMethodES256, stranger, map[string]any{"kid": fmt.Sprint(i)}, claims("iss", "https://c.example")),
						sign(t, jwt.SigningMethodES256, stranger, map[string]any{"kid": fmt.Sprint(i)}, claims()),
						sign(t, jwt.SigningMethodES256, stranger, map[string]any{"kid": "ka"}, claims("jti", fmt.Sprint(i))),
						sign(t, jwt.SigningMethodES256, stranger, map[string]any{"kid": fmt.Sprint(i)}, claims("iss", issB)),
					} {
						if _, err := v.Verify(t.Context(), tok, ""); err == nil {
							t.Error("accepted")
						}
					}
				})
			}
			wg.Wait()
		}
		flood(20) // the issuers are down
		w.put("https://a.example/jwks", jwks(t, jwk(t, &keyA().PublicKey, "ka")))
		w.put(issB+"/.well-known/openid-configuration", `{"issuer":"`+issB+`","jwks_uri":"https://b.example/keys"}`)
		w.put("https://b.example/keys", jwks(t, jwk(t, &keyB().PublicKey, "kb")))
		for range 60 {
			time.Sleep(time.Second)
			flood(5)
		}
		for _, url := range []string{"https://a.example/jwks", issB + "/.well-known/openid-configuration", "https://b.example/keys"} {
			if n := w.times(url); n == 0 || n > 7 {
				t.Errorf("%s was asked %d times in a minute", url, n)
			}
		}
		if _, err := v.Verify(t.Context(), good(t), ""); err != nil {
			t.Errorf("a good token in the flood: %v", err)
		}
	})
}

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		w.ahead = 40 * time.Second
		w.put(issA+"/.well-known/openid-configuration", `{"issuer":"`+issA+`","jwks_uri":"https://a.example/keys"}`)
		w.put("https://a.example/keys", jwks(t, jwk(t, &keyA().PublicKey, "ka"), jwk(t, &keyB().PublicKey, "kb")))
		v := verifierOf(t, w, auth.Issuer{Issuer: issA}, auth.Issuer{Issuer: issB, JWKSURL: "https://b.example/jwks"})
		s := v.Probe(t.Context())
		if len(s) != 2 {
			t.Fatal(s)
		}
		a, b := s[0], s[1]
		if a.Issuer != issA || a.Source != "discovery" || a.JWKSURL != "https://a.example/keys" || !a.Reachable || a.Keys != 2 || !a.Usable || a.ClockSkew != 40*time.Second || !a.Skewed {
			t.Errorf("%+v", a)
		}
		if b.Issuer != issB || b.Source != "jwks_url" || b.Reachable || b.Usable || b.Keys != 0 || !strings.Contains(b.Error, "connection refused") {
			t.Errorf("%+v", b)
		}
		time.Sleep(time.Hour)
		w.serve("https://a.example/keys", nil)
		if a = v.Probe(t.Context())[0]; a.Reachable || !a.Usable || a.Age != time.Hour || a.Keys != 2 {
			t.Errorf("later: %+v", a)
		}
	})
	for _, s := range newVerifier(t, nil).Probe(t.Context()) {
		if s.Source != "program" || !s.Usable || s.Keys != 1 {
			t.Errorf("%+v", s)
		}
	}
}
