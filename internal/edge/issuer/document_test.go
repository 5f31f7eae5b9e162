package issuer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

const docClient = "https://client.example/oauth/metadata.json"

// A web answers fetches.
type web struct {
	mu      sync.Mutex
	pages   map[string]string
	header  http.Header
	fetched atomic.Int32
	slow    chan struct{}
}

func (w *web) fetch(ctx context.Context, u string) ([]byte, http.Header, error) {
	w.fetched.Add(1)
	if w.slow != nil {
		select {
		case <-w.slow:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	page, ok := w.pages[u]
	if !ok {
		return nil, nil, errors.New("no such page at 10.0.0.8")
	}
	h := w.header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	return []byte(page), h, nil
}

func fetching(w *web) change {
	return func(_ *issuer.ServerConfig, d *issuer.ServerDeps) { d.Fetch = w.fetch }
}

func doc(kv ...any) string {
	m := map[string]any{
		"client_id": docClient, "client_name": "Doc Client", "redirect_uris": []string{webBack, "http://127.0.0.1/cb"},
		"grant_types": []string{"authorization_code", "refresh_token"}, "token_endpoint_auth_method": "none",
	}
	for n := 0; n < len(kv); n += 2 {
		if kv[n+1] == nil {
			delete(m, kv[n].(string))
		} else {
			m[kv[n].(string)] = kv[n+1]
		}
	}
	data, _ := json.Marshal(m)
	return string(data)
}

func TestClientDocument(t *testing.T) {
	w := &web{pages: map[string]string{docClient: doc()}}
	i := newInstall(t, fetching(w))
	b := i.browser()
	page := b.signIn(authorize("client_id", docClient, "redirect_uri", "http://127.0.0.1:41000/cb"), "ann@acme")
	for _, want := range []string{"Doc Client", "described at client.example", "127.0.0.1:41000", "a program on this computer"} {
		if !strings.Contains(page.Body.String(), want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	r := i.redeem(b.allow(page).Get("code"), "client_id", docClient, "redirect_uri", "http://127.0.0.1:41000/cb").must(t)
	i.refresh(r.RefreshToken, "client_id", docClient).must(t)
	if n := w.fetched.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	if part(t, r.AccessToken, 1)["client_id"] != docClient {
		t.Error("another client")
	}
	for _, off := range []change{
		func(c *issuer.ServerConfig, d *issuer.ServerDeps) { d.Fetch, c.Documents.Disabled = w.fetch, true },
		func(*issuer.ServerConfig, *issuer.ServerDeps) {},
	} {
		if w := newInstall(t, off).browser().get(authorize("client_id", docClient)); w.Code != http.StatusBadRequest {
			t.Errorf("documents are off: %d", w.Code)
		}
	}
	if got := i.browser().get("/.well-known/oauth-authorization-server").Body.String(); !strings.Contains(got, `"client_id_metadata_document_supported":true`) {
		t.Error(got)
	}
}

func TestClientDocumentAttacks(t *testing.T) {
	for name, page := range map[string]string{
		"of another client":        doc("client_id", "https://client.example/oauth/other.json"),
		"in another spelling":      doc("client_id", docClient+"/"),
		"without id":               doc("client_id", nil),
		"with a secret":            doc("client_secret", "s"),
		"with a secret to use":     doc("token_endpoint_auth_method", "client_secret_basic"),
		"with another redirect":    doc("redirect_uris", []string{"https://evil.example/cb"}),
		"with no redirect":         doc("redirect_uris", nil),
		"with a script redirect":   doc("redirect_uris", []string{webBack, "javascript:alert(1)"}),
		"with a wildcard redirect": doc("redirect_uris", []string{"https://*.example/cb", webBack}),
		"with plain http":          doc("redirect_uris", []string{"http://app.example/cb", webBack}),
		"too large":                doc("client_name", strings.Repeat("x", 20_000)),
		"a list":                   "[]",
		"no JSON":                  "<html>",
		"empty":                    "",
		"for machines":             doc("grant_types", []string{"client_credentials"}),
		"a key without keys":       doc("token_endpoint_auth_method", "private_key_jwt"),
		"keys of another host":     doc("token_endpoint_auth_method", "private_key_jwt", "jwks_uri", "https://else.example/jwks"),
	} {
		i := newInstall(t, fetching(&web{pages: map[string]string{docClient: page}}))
		if w := i.browser().get(authorize("client_id", docClient)); w.Code != http.StatusBadRequest || w.Header().Get("Location") != "" {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	// URLs that are never fetched, wherever the client id comes in.
	w := &web{}
	i := newInstall(t, fetching(w))
	for _, id := range []string{
		"http://client.example/x", "https://client.example", "https://client.example/", "https://u:p@client.example/x", "https://client.example/x#f",
		"https://client.example/a/../x", "https://client.example/./x", "https://client.example//x", "file:///etc/passwd", "https:///x",
		"https://client.example/x?y", "https://client.example/%2e%2e/x", "https://CLIENT.example/x", "https://client.example:0/x",
		"https://client.example\\@evil.example/x", "gopher://client.example/x", "https://client.example/x y",
	} {
		if w := i.browser().get(authorize("client_id", id)); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", id, w.Code)
		}
		i.post("/oauth/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {id}}).refused(t, "invalid_client")
	}
	if n := w.fetched.Load(); n != 0 {
		t.Errorf("%d fetches", n)
	}
	// The answer does not tell why there is no document: it would tell what is reachable from here.
	seen := map[string]bool{}
	w.pages = map[string]string{"https://a.example/html": "<html>", "https://a.example/other": doc()}
	for _, u := range []string{"https://10.0.0.8/x", "https://a.example/html", "https://a.example/other"} {
		seen[i.browser().get(authorize("client_id", u)).Body.String()] = true
	}
	if len(seen) != 1 {
		t.Errorf("%d different answers", len(seen))
	}
}

func TestClientDocumentCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for control, want := range map[string]time.Duration{
			"":                    10 * time.Minute,
			"max-age=120":         2 * time.Minute,
			"public, max-age=120": 2 * time.Minute,
			"max-age=99999999":    24 * time.Hour,
			"max-age=0":           30 * time.Second,
			"no-store":            30 * time.Second,
			"max-age=x":           30 * time.Second,
		} {
			w := &web{pages: map[string]string{docClient: doc()}, header: http.Header{"Cache-Control": {control}}}
			i := newInstall(t, fetching(w))
			get := func() int32 {
				i.browser().get(authorize("client_id", docClient))
				return w.fetched.Load()
			}
			get()
			time.Sleep(want - time.Second)
			if n := get(); n != 1 {
				t.Errorf("%q: fetched %d times before %s", control, n, want)
			}
			time.Sleep(2 * time.Second)
			if n := get(); n != 2 {
				t.Errorf("%q: fetched %d times after %s", control, n, want)
			}
		}
		// What failed is not tried again for a minute, and many who ask are one fetch.
		w := &web{slow: make(chan struct{})}
		i := newInstall(t, fetching(w))
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { i.browser().get(authorize("client_id", docClient)) })
		}
		synctest.Wait()
		close(w.slow)
		wg.Wait()
		i.browser().get(authorize("client_id", docClient))
		if n := w.fetched.Load(); n != 1 {
			t.Errorf("fetched %d times", n)
		}
		w.mu.Lock()
		w.pages = map[string]string{docClient: doc()}
		w.mu.Unlock()
		time.Sleep(61 * time.Second)
		if got := i.browser().get(authorize("client_id", docClient)); got.Code != http.StatusOK {
			t.Errorf("after a minute: %d", got.Code)
		}
		// A fetch that hangs does not hang the request for ever.
		i = newInstall(t, fetching(&web{slow: make(chan struct{})}))
		start := time.Now()
		i.browser().get(authorize("client_id", docClient))
		if d := time.Since(start); d > 6*time.Second {
			t.Errorf("waited %s", d)
		}
	})
}

// Nobody can make the server fetch at will.
func TestFetchFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &web{}
		i := newInstall(t, fetching(w))
		b := i.browser()
		for n := range 200 {
			b.get(authorize("client_id", fmt.Sprintf("https://victim.example/%d", n)))
			i.post("/oauth/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {fmt.Sprintf("https://victim.example/t%d", n)}})
		}
		if n := w.fetched.Load(); n != 2*30 {
			t.Errorf("%d fetches for two addresses", n)
		}
		// Clients that are known are not held up by that.
		w.pages = map[string]string{docClient: doc()}
		b.remote = "192.0.2.3:1"
		for n := range 100 {
			if w := b.get(authorize("client_id", docClient)); w.Code != http.StatusOK {
				t.Fatalf("request %d of a known client: %d", n, w.Code)
			}
		}
	})
}

// A client with a key in its document, and one with a key set beside it.
func TestClientDocumentWithKey(t *testing.T) {
	key := newSigner(t, "k1")
	keys := "https://client.example/jwks.json"
	for name, page := range map[string]string{
		"inline": doc("token_endpoint_auth_method", "private_key_jwt", "jwks", json.RawMessage(key.set())),
		"beside": doc("token_endpoint_auth_method", "private_key_jwt", "jwks_uri", keys),
	} {
		w := &web{pages: map[string]string{docClient: page, keys: key.set()}}
		i := newInstall(t, fetching(w))
		redeem := func(kv ...string) reply {
			return i.redeem(i.code("ann@acme", "client_id", docClient), append([]string{"client_id", docClient}, kv...)...)
		}
		assert := func(s signer, jti string) []string {
			now := time.Now()
			return []string{"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", s.sign(map[string]any{"kid": "k1"}, jwt.MapClaims{
				"iss": docClient, "sub": docClient, "aud": base, "jti": jti, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
			})}
		}
		redeem(assert(key, "1")...).must(t)
		redeem().refused(t, "invalid_client")
		redeem(assert(newSigner(t, "k1"), "2")...).refused(t, "invalid_client")
		if n := w.fetched.Load(); n > 3 {
			t.Errorf("%s: %d fetches", name, n)
		}
	}
}
