package mcp_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/mcp"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// A tokens is a token endpoint: it gives each audience a token of its own.
type tokens struct {
	*httptest.Server
	mu     sync.Mutex
	forms  []url.Values
	basic  []string
	expire int // seconds
	answer func(w http.ResponseWriter, n int)
}

func newTokens(t *testing.T) *tokens {
	t.Helper()
	k := &tokens{expire: 3600}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			http.Error(w, "", http.StatusBadRequest)
			return
		}
		user, secret, _ := r.BasicAuth()
		k.mu.Lock()
		defer k.mu.Unlock()
		k.forms, k.basic = append(k.forms, r.Form), append(k.basic, user+":"+secret)
		if k.answer != nil {
			k.answer(w, len(k.forms))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"token-for-%s-%d","token_type":"Bearer","expires_in":%d}`, r.Form.Get("audience"), len(k.forms), k.expire)
	}))
	t.Cleanup(k.Close)
	return k
}

func (k *tokens) seen() []url.Values {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]url.Values(nil), k.forms...)
}

// byToken serves whoever shows a token that the endpoint gave, and records whose it was.
func (s *server) byToken(refuse func(token string) bool) (seen func() map[string]int) {
	var mu sync.Mutex
	got := map[string]int{}
	next := s.handler()
	s.instead(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		mu.Lock()
		got[token]++
		mu.Unlock()
		if !strings.HasPrefix(token, "token-for-") || refuse != nil && refuse(token) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

func TestClientCredentials(t *testing.T) {
	s, k := upstreamOf(t, modern, "get"), newTokens(t)
	seen := s.byToken(nil)
	c := settings(s)
	c.Tenants, c.DiscoverAs = nil, string(sourcetest.A)
	c.Credentials = mcp.Credentials{OAuth: &mcp.ClientGrant{
		TokenURL: k.URL, ClientID: "atlas", ClientSecret: "hush", Audience: "crm/{tenant}", Scopes: []string{"read", "tenant:{tenant}"},
	}}
	src := open(t, c, newMemory())
	done := make(chan error)
	for i := range 20 {
		tenant := sourcetest.A
		if i%2 == 1 {
			tenant = sourcetest.B
		}
		go func() {
			_, err := src.(source.Provider).Invoke(t.Context(), tenant, "get", json.RawMessage(`{}`))
			done <- err
		}()
	}
	for range 20 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	forms := k.seen()
	if len(forms) != 3 { // one for Atlas's look, one for each tenant
		t.Errorf("%d tokens were asked for: %v", len(forms), forms)
	}
	for _, f := range forms {
		tenant := strings.TrimPrefix(f.Get("audience"), "crm/")
		if f.Get("grant_type") != "client_credentials" || f.Get("resource") != s.url() || f.Get("scope") != "read tenant:"+tenant || f.Get("client_secret") != "" {
			t.Errorf("asked for %v", f)
		}
	}
	if k.basic[0] != "atlas:hush" {
		t.Errorf("as %q", k.basic[0])
	}
	for token := range seen() {
		if !strings.HasPrefix(token, "token-for-crm/acme") && !strings.HasPrefix(token, "token-for-crm/globex") {
			t.Errorf("the upstream was shown %q", token)
		}
	}
}

// A token that is about to end, or that the upstream no longer takes, is replaced; one that it never takes is
// not asked for again and again.
func TestTokenIsReplaced(t *testing.T) {
	s, k := upstreamOf(t, modern, "get"), newTokens(t)
	refused := "none"
	s.byToken(func(token string) bool { return token == refused || refused == "all" })
	c := settings(s)
	c.Tenants, c.Shared = nil, true
	c.Credentials = mcp.Credentials{OAuth: &mcp.ClientGrant{TokenURL: k.URL, ClientID: "atlas", ClientSecret: "hush", Auth: "post"}}
	src := open(t, c, newMemory())
	mustCall(t, src, sourcetest.A, "get")
	if f := k.seen()[0]; f.Get("client_secret") != "hush" || f.Get("client_id") != "atlas" {
		t.Errorf("asked for %v", f)
	}
	before := len(k.seen())
	mustCall(t, src, sourcetest.A, "get")
	if n := len(k.seen()); n != before {
		t.Errorf("%d tokens for the same identity", n-before)
	}
	refused = fmt.Sprintf("token-for--%d", before)
	mustCall(t, src, sourcetest.A, "get")
	if n := len(k.seen()); n != before+1 {
		t.Errorf("%d tokens after one that was refused", n-before)
	}
	refused = "all"
	before = len(k.seen())
	if _, err := call(t, src, sourcetest.A, "get"); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("got %v", err)
	}
	if n := len(k.seen()) - before; n > 2 {
		t.Errorf("%d tokens for one call that is refused", n)
	}
	refused = "none"
	k.mu.Lock()
	k.expire = 1 // second: too little to be used twice
	k.mu.Unlock()
	mustCall(t, src, sourcetest.B, "get")
	before = len(k.seen())
	mustCall(t, src, sourcetest.B, "get")
	if n := len(k.seen()); n == before {
		t.Error("a token was used that was about to end")
	}
}

func TestTokenExchange(t *testing.T) {
	s, k := upstreamOf(t, modern, "get"), newTokens(t)
	s.byToken(nil)
	dir := t.TempDir()
	for _, tenant := range []string{"acme", "globex"} {
		if err := os.WriteFile(filepath.Join(dir, tenant), []byte("workload-"+tenant+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := settings(s)
	c.Tenants, c.DiscoverAs = nil, "acme"
	c.Credentials = mcp.Credentials{Exchange: &mcp.Exchange{
		ClientGrant: mcp.ClientGrant{TokenURL: k.URL, Audience: "{tenant}"}, SubjectTokenFile: filepath.Join(dir, "{tenant}"),
	}}
	src := open(t, c, newMemory())
	for _, tenant := range []atlas.TenantID{sourcetest.A, sourcetest.B} {
		mustCall(t, src, tenant, "get")
	}
	for _, f := range k.seen() {
		if f.Get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" || f.Get("subject_token") != "workload-"+f.Get("audience") ||
			f.Get("subject_token_type") != "urn:ietf:params:oauth:token-type:jwt" || f.Get("requested_token_type") == "" || f.Has("client_id") {
			t.Errorf("asked for %v", f)
		}
	}
	if _, err := call(t, src, sourcetest.Nobody, "get"); atlas.CodeOf(err) != atlas.CodeSourceMisused { // no file
		t.Errorf("got %v", err)
	}
}

// What goes wrong with a token is the operator's to know.
func TestTokenFails(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter, n int)
		code   atlas.Code
	}{
		"refused": {func(w http.ResponseWriter, _ int) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_client","error_description":"`+sourcetest.Marker+` hush"}`)
		}, atlas.CodeSourceMisused},
		"down": {func(w http.ResponseWriter, _ int) { w.WriteHeader(http.StatusServiceUnavailable) }, atlas.CodeSourceUnavailable},
		"redirect": {func(w http.ResponseWriter, _ int) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, atlas.CodeSourceMisused},
		"no token": {func(w http.ResponseWriter, _ int) { fmt.Fprint(w, `{"token_type":"Bearer"}`) }, atlas.CodeSourceMisused},
		"not a bearer token": {func(w http.ResponseWriter, _ int) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"x","token_type":"N_A"}`)
		}, atlas.CodeSourceMisused},
		"header injection": {func(w http.ResponseWriter, _ int) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"x\r\nX-Tenant: globex","token_type":"Bearer"}`)
		}, atlas.CodeSourceMisused},
		"endless": {func(w http.ResponseWriter, _ int) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"`+strings.Repeat("x", 1<<20)+`"}`)
		}, atlas.CodeSourceMisused},
	} {
		t.Run(name, func(t *testing.T) {
			s, k := upstreamOf(t, modern, "get"), newTokens(t)
			state := newMemory()
			first := settings(s)
			first.Tenants, first.Shared, first.Credentials = nil, true, mcp.Credentials{Bearer: "look"}
			open(t, first, state) // pins
			k.answer = tc.answer
			c := *first
			c.Credentials = mcp.Credentials{OAuth: &mcp.ClientGrant{TokenURL: k.URL, ClientID: "atlas", ClientSecret: "hush"}}
			src := open(t, &c, state)
			_, err := call(t, src, sourcetest.A, "get")
			if atlas.CodeOf(err) != tc.code {
				t.Errorf("got %v", err)
			}
			if err != nil && (strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), sourcetest.Marker)) {
				t.Errorf("the error tells too much: %v", err)
			}
		})
	}
}

// Headers name the tenant that Atlas serves, and the caller's own arguments cannot.
func TestTenantHeader(t *testing.T) {
	s := upstreamOf(t, modern, "get")
	c := settings(s)
	c.Tenants, c.DiscoverAs = nil, string(sourcetest.A)
	c.Headers = map[string]string{"X-Tenant": "{tenant}", "X-Fixed": "yes"}
	src := open(t, c, newMemory())
	for _, tenant := range []atlas.TenantID{sourcetest.A, sourcetest.B} {
		s.mu.Lock()
		s.headers = nil
		s.mu.Unlock()
		mustCall(t, src, tenant, "get")
		s.mu.Lock()
		for _, h := range s.headers {
			if h.Get("X-Tenant") != string(tenant) || len(h.Values("X-Tenant")) != 1 || h.Get("X-Fixed") != "yes" {
				t.Errorf("%s: sent %v", tenant, h)
			}
		}
		s.mu.Unlock()
	}
}

func TestKeyInHeader(t *testing.T) {
	s := upstreamOf(t, modern, "get")
	c := settings(s)
	c.Tenants, c.Shared = nil, true
	c.Credentials = mcp.Credentials{Header: &mcp.HeaderSecret{Name: "authorization", Value: "Bearer look"}}
	mustCall(t, open(t, c, newMemory()), sourcetest.A, "get")
}
