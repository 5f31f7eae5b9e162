package auth_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
)

// How a request must not carry its token.
func TestOddRequests(t *testing.T) {
	v := newVerifier(t, nil)
	tok := good(t)
	for _, tt := range []struct {
		name   string
		change func(*http.Request)
		want   int
	}{
		{"as it should be", func(*http.Request) {}, 200},
		{"in the query only", func(r *http.Request) { r.Header.Del("Authorization"); r.URL.RawQuery = "access_token=" + tok }, 401},
		{"in the query, too", func(r *http.Request) { r.URL.RawQuery = "access_token=" + tok }, 401},
		{"in a query that cannot be parsed", func(r *http.Request) { r.URL.RawQuery = "%zz;access_token=" + tok }, 401},
		{"two headers", func(r *http.Request) { r.Header.Add("Authorization", "Bearer "+tok) }, 401},
		{"two headers, one empty", func(r *http.Request) { r.Header.Add("Authorization", "") }, 401},
		{"two tokens in one header", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+tok+", Bearer "+tok) }, 401},
		{"another scheme", func(r *http.Request) { r.Header.Set("Authorization", "Basic "+tok) }, 401},
		{"no scheme", func(r *http.Request) { r.Header.Set("Authorization", tok) }, 401},
		{"a tab between", func(r *http.Request) { r.Header.Set("Authorization", "Bearer\t"+tok) }, 401},
		{"a tab behind", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+tok+"\t") }, 401},
		{"DPoP where it is off", func(r *http.Request) { r.Header.Set("Authorization", "DPoP "+tok) }, 401},
		{"in a cookie", func(r *http.Request) { r.Header.Set("Cookie", "Authorization="+tok); r.Header.Del("Authorization") }, 401},
		{"for the proxy", func(r *http.Request) {
			r.Header.Set("Proxy-Authorization", "Bearer "+tok)
			r.Header.Del("Authorization")
		}, 401},
	} {
		r := sent(t, "Bearer "+tok)
		tt.change(r)
		if w := serve(v, r); w.Code != tt.want || strings.Contains(w.Body.String()+w.Header().Get("WWW-Authenticate"), tok) {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
	}
}

// A revoked token is refused with the next request, though it was verified a moment ago.
func TestRevokedTokenInTheCache(t *testing.T) {
	var revoked atomic.Pointer[string]
	asked := map[[2]string]bool{}
	var mu sync.Mutex
	v := newVerifier(t, func(_ *auth.Config, d *auth.Deps) {
		d.Revoked = func(issuer, id string) bool {
			mu.Lock()
			defer mu.Unlock()
			asked[[2]string{issuer, id}] = true
			r := revoked.Load()
			return r != nil && *r == id
		}
	})
	ann, bob := good(t), good(t, "jti", "t2", "sub", "bob")
	verify := func(tok string) atlas.Code {
		_, err := v.Verify(t.Context(), tok, "")
		return atlas.CodeOf(err)
	}
	if a, b := verify(ann), verify(bob); a != "" || b != "" {
		t.Fatal(a, b)
	}
	revoked.Store(new("t1"))
	for range 2 {
		if a, b := verify(ann), verify(bob); a != atlas.CodeInvalidToken || b != "" {
			t.Errorf("revoked: %q, the other: %q", a, b)
		}
	}
	if w := serve(v, sent(t, "Bearer "+ann)); w.Code != http.StatusUnauthorized {
		t.Errorf("middleware: %d", w.Code)
	}
	if fresh := newVerifier(t, func(_ *auth.Config, d *auth.Deps) { d.Revoked = func(string, string) bool { return true } }); true {
		if _, err := fresh.Verify(t.Context(), ann, ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
			t.Errorf("not yet cached: %v", err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 2 || !asked[[2]string{issA, "t1"}] {
		t.Errorf("asked about %v", asked)
	}
}

// Many callers of two tenants at once: every answer is the caller's own.
func TestConcurrentCallersStayApart(t *testing.T) {
	v := newVerifier(t, func(c *auth.Config, _ *auth.Deps) { c.CacheSize = 16 })
	var wg sync.WaitGroup
	for i := range 64 {
		sub, tenant := "u"+string(rune('a'+i%26)), []string{"acme", "globex"}[i%2]
		tok := good(t, "sub", sub, "tenant", tenant, "jti", sub+tenant)
		wg.Go(func() {
			for range 50 {
				p, err := v.Verify(t.Context(), tok, "")
				if err != nil || p.Subject != sub || string(p.Tenant) != tenant {
					t.Errorf("%s of %s: %+v %v", sub, tenant, p, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
