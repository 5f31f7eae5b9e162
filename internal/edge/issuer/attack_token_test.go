package issuer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

const (
	secretText = "a-client-secret-of-the-tests"
	grantJAG   = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	grantSwap  = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAT     = "urn:ietf:params:oauth:token-type:access_token"
	idp        = "https://idp.example"
)

// A signer is somebody with a key.
type signer struct {
	t   testing.TB
	key *ecdsa.PrivateKey
	jwk jwkset.JWKMarshal
}

func newSigner(t testing.TB, kid string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jwkset.NewJWKFromKey(&key.PublicKey, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid}})
	if err != nil {
		t.Fatal(err)
	}
	return signer{t, key, jwk.Marshal()}
}

func (s signer) set() string {
	data, err := json.Marshal(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{s.jwk}})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

func (s signer) sign(header map[string]any, claims jwt.MapClaims, kv ...any) string {
	s.t.Helper()
	return signWith(s.t, jwt.SigningMethodES256, s.key, header, claims, kv...)
}

func signWith(t testing.TB, m jwt.SigningMethod, key any, header map[string]any, claims jwt.MapClaims, kv ...any) string {
	t.Helper()
	c := jwt.MapClaims{}
	maps.Copy(c, claims)
	for n := 0; n < len(kv); n += 2 {
		if kv[n+1] == nil {
			delete(c, kv[n].(string))
		} else {
			c[kv[n].(string)] = kv[n+1]
		}
	}
	tok := jwt.NewWithClaims(m, c)
	maps.Copy(tok.Header, header)
	out, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// A stolen refresh token: whoever comes second ends the grant for both.
func TestStolenRefreshToken(t *testing.T) {
	i := newInstall(t, otherClient)
	start := func() reply { return i.redeem(i.code("ann@acme")).must(t) }

	first := start()
	second := i.refresh(first.RefreshToken).must(t)
	i.refresh(first.RefreshToken).refused(t, "invalid_grant") // the thief, or the owner after the thief
	i.refresh(second.RefreshToken).refused(t, "invalid_grant")
	if !i.revokedToken(first.AccessToken) || !i.revokedToken(second.AccessToken) {
		t.Error("access tokens of a stolen grant are good")
	}

	third := start()
	i.refresh(third.RefreshToken, "client_id", "other").refused(t, "invalid_grant")
	if !i.revokedToken(third.AccessToken) {
		t.Error("a refresh token in the hands of another client did not end its grant")
	}

	// Made up: nobody's grant ends, for the grant's id is no secret.
	fourth := start()
	parts := strings.Split(fourth.RefreshToken, ".")
	for _, forged := range []string{
		parts[0] + "." + parts[1] + ".1." + parts[3], parts[0] + "." + parts[1] + ".0." + strings.Repeat("A", 43), "globex." + strings.Join(parts[1:], "."),
		strings.Join(parts[:3], "."), "", "....", parts[0] + "." + parts[1] + ".00." + parts[3],
	} {
		i.refresh(forged).refused(t, "invalid_grant")
	}
	if i.revokedToken(fourth.AccessToken) {
		t.Error("a forged refresh token ended a grant")
	}
	i.refresh(fourth.RefreshToken).must(t)

	// Eight at once.
	fifth := start()
	replies := make([]reply, 8)
	var wg sync.WaitGroup
	for n := range replies {
		wg.Go(func() { replies[n] = i.refresh(fifth.RefreshToken) })
	}
	wg.Wait()
	good := 0
	for _, r := range replies {
		if r.Status == http.StatusOK {
			good++
			i.refresh(r.RefreshToken).refused(t, "invalid_grant")
			if !i.revokedToken(r.AccessToken) {
				t.Error("the winner's access token is good")
			}
		}
	}
	if good > 1 {
		t.Errorf("%d tokens for one refresh token", good)
	}
}

func TestRefreshNeverWidens(t *testing.T) {
	now := []string{"tool:crm:read", "tool:kb:read"}
	i := newInstall(t, otherClient, func(_ *issuer.ServerConfig, d *issuer.ServerDeps) {
		d.Scopes = func([]string) []string { return now }
	})
	r := i.redeem(i.code("ann@acme", "scope", "tool:crm:read tool:kb:read")).must(t)
	i.refresh(r.RefreshToken, "scope", "tool:crm:read tool:*:admin").refused(t, "invalid_scope")
	i.refresh(r.RefreshToken, "resource", base+"/other").refused(t, "invalid_target")
	r = i.refresh(r.RefreshToken, "scope", "tool:crm:read").must(t) // what was refused has used nothing up
	if r.Scope != "tool:crm:read" {
		t.Errorf("narrowed to %q", r.Scope)
	}
	if r = i.refresh(r.RefreshToken).must(t); r.Scope != "tool:crm:read tool:kb:read" {
		t.Errorf("narrowing one token narrowed the grant: %q", r.Scope)
	}
	now = []string{"tool:kb:read", "tool:*:admin"}
	if r = i.refresh(r.RefreshToken).must(t); r.Scope != "tool:kb:read" {
		t.Errorf("after the role changed: %q", r.Scope)
	}
	// Those who leave, or move to another tenant under the same name, take nothing with them.
	for name, people := range map[string][]issuer.Persona{
		"left": nil, "moved": {{Subject: "ann@acme", Tenant: "globex", Roles: []string{"support"}}},
	} {
		later := openInstall(t, i.iss, i.store, func(_ *issuer.ServerConfig, d *issuer.ServerDeps) {
			d.Personas = func() []issuer.Persona { return people }
		})
		if got := later.refresh(r.RefreshToken); got.Error != "invalid_grant" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	i.refresh(r.RefreshToken).must(t)
}

func TestGrantsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstall(t, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
			c.RefreshTTL, c.GrantTTL = 24*time.Hour, 60*time.Hour
		})
		idle := i.redeem(i.code("ann@acme")).must(t)
		used := i.redeem(i.code("ann@acme")).must(t)
		time.Sleep(23 * time.Hour)
		used = i.refresh(used.RefreshToken).must(t)
		time.Sleep(2 * time.Hour)
		i.refresh(idle.RefreshToken).refused(t, "invalid_grant")
		time.Sleep(20 * time.Hour)
		used = i.refresh(used.RefreshToken).must(t)
		time.Sleep(16 * time.Hour)
		i.refresh(used.RefreshToken).refused(t, "invalid_grant")
	})
}

// confidential adds clients that authenticate.
func confidential(key signer) change {
	return func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
		c.Clients = append(c.Clients,
			issuer.Client{ID: "robot", SecretSHA256: sha(secretText), GrantTypes: []string{"client_credentials", grantSwap, grantJAG}, Tenant: "acme", Roles: []string{"robot"}},
			issuer.Client{ID: "gateway", SecretSHA256: sha(secretText + "2"), GrantTypes: []string{grantSwap, grantJAG}, Introspect: true},
			issuer.Client{ID: "keyed", JWKS: key.set(), GrantTypes: []string{"client_credentials"}, Tenant: "globex", Roles: []string{"robot"}},
			issuer.Client{ID: "watch", SecretSHA256: sha(secretText), Introspect: true, Tenant: "globex"},
		)
	}
}

func asBasic(secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("robot:"+url.QueryEscape(secret)))
}

func TestClientCredentials(t *testing.T) {
	key := newSigner(t, "k1")
	i := newInstall(t, confidential(key), func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
		c.Clients = append(c.Clients, issuer.Client{ID: "boss", SecretSHA256: sha("x"), GrantTypes: []string{"client_credentials"}, Tenant: "acme", Roles: []string{"admin"}})
	})
	f := url.Values{"grant_type": {"client_credentials"}}
	post := func(id, secret string) reply {
		return i.post("/oauth/token", with(f, "client_id", id, "client_secret", secret))
	}
	res := post("robot", secretText).must(t)
	c := part(t, res.AccessToken, 1)
	if c["tenant"] != "acme" || c["sub"] != "robot" || c["client_id"] != "robot" || res.Scope != "tool:crm:read" || res.RefreshToken != "" {
		t.Errorf("claims %v, %+v", c, res)
	}
	i.post("/oauth/token", f, "Authorization", asBasic(secretText)).must(t)
	// What a role brings to an administrator is given to who asks for it by name.
	if res := post("boss", "x").must(t); res.Scope != "tool:crm:read" {
		t.Errorf("scope %q", res.Scope)
	}
	if res := i.post("/oauth/token", with(f, "client_id", "boss", "client_secret", "x", "scope", "tool:*:admin")).must(t); res.Scope != "tool:*:admin" {
		t.Errorf("scope %q", res.Scope)
	}

	for name, r := range map[string]reply{
		"wrong secret":       post("robot", "wrong"),
		"empty secret":       post("robot", ""),
		"the digest":         post("robot", sha(secretText)),
		"no secret":          i.post("/oauth/token", with(f, "client_id", "robot")),
		"another's secret":   post("gateway", secretText),
		"unknown":            post("nobody", secretText),
		"a secret for a key": post("keyed", secretText),
		"two ways":           i.post("/oauth/token", with(f, "client_id", "robot", "client_secret", secretText), "Authorization", asBasic(secretText)),
		"two clients":        i.post("/oauth/token", with(f, "client_id", "gateway"), "Authorization", asBasic(secretText)),
		"bearer":             i.post("/oauth/token", with(f, "client_id", "robot"), "Authorization", "Bearer "+res.AccessToken),
	} {
		r.refused(t, "invalid_client")
		if r.Status != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, r.Status)
		}
	}
	if r := i.post("/oauth/token", f, "Authorization", asBasic("x")); r.Header.Get("WWW-Authenticate") == "" {
		t.Error("no challenge")
	}
	i.post("/oauth/token", with(f, "client_id", webClient)).refused(t, "unauthorized_client")
	i.post("/oauth/token", with(f, "client_id", "gateway", "client_secret", secretText+"2")).refused(t, "unauthorized_client")
	i.post("/oauth/token", with(f, "client_id", "robot", "client_secret", secretText, "scope", "tool:*:admin")).refused(t, "invalid_scope")
	i.post("/oauth/token", with(f, "client_id", "robot", "client_secret", secretText, "resource", "https://else.example")).refused(t, "invalid_target")
	i.post("/oauth/token", with(f, "grant_type", "password", "client_id", "robot", "client_secret", secretText)).refused(t, "unsupported_grant_type")
	twice := with(f, "client_id", "robot", "client_secret", secretText)
	twice["client_id"] = []string{"robot", "gateway"}
	i.post("/oauth/token", twice).refused(t, "invalid_request")
	i.post("/oauth/token?grant_type=client_credentials&client_id=robot&client_secret="+secretText, nil).refused(t, "unsupported_grant_type")
}

func TestClientAssertions(t *testing.T) {
	key, stranger := newSigner(t, "k1"), newSigner(t, "k1")
	i := newInstall(t, confidential(key))
	now := time.Now()
	claims := jwt.MapClaims{"iss": "keyed", "sub": "keyed", "aud": base, "jti": "1", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	head := map[string]any{"kid": "k1"}
	post := func(assertion string, kv ...string) reply {
		return i.post("/oauth/token", with(url.Values{
			"grant_type": {"client_credentials"}, "client_assertion": {assertion},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		}, kv...))
	}
	good := key.sign(head, claims)
	if tenant := part(t, post(good).must(t).AccessToken, 1)["tenant"]; tenant != "globex" {
		t.Errorf("tenant %v", tenant)
	}
	post(key.sign(head, claims, "jti", "2", "aud", base+"/oauth/token")).must(t)

	pub, err := x509.MarshalPKIXPublicKey(&key.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub})
	for name, assertion := range map[string]string{
		"used before":               good,
		"alg none":                  signWith(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, head, claims, "jti", "3"),
		"HMAC with the public key":  signWith(t, jwt.SigningMethodHS256, asPEM, head, claims, "jti", "4"),
		"HMAC with the key set":     signWith(t, jwt.SigningMethodHS256, []byte(key.set()), head, claims, "jti", "5"),
		"another's key":             stranger.sign(head, claims, "jti", "6"),
		"its own key in the header": stranger.sign(map[string]any{"kid": "k1", "jwk": stranger.jwk}, claims, "jti", "7"),
		"unknown kid":               key.sign(map[string]any{"kid": "k2"}, claims, "jti", "8"),
		"critical extension":        key.sign(map[string]any{"kid": "k1", "crit": []string{"x"}, "x": 1}, claims, "jti", "9"),
		"for another server":        key.sign(head, claims, "jti", "10", "aud", "https://else.example"),
		"for several servers":       key.sign(head, claims, "jti", "11", "aud", []string{base, "https://else.example"}),
		"no audience":               key.sign(head, claims, "jti", "12", "aud", nil),
		"of another client":         key.sign(head, claims, "jti", "13", "iss", "robot"),
		"for another client":        key.sign(head, claims, "jti", "14", "sub", "robot"),
		"expired":                   key.sign(head, claims, "jti", "15", "exp", now.Add(-time.Minute).Unix()),
		"for ever":                  key.sign(head, claims, "jti", "16", "exp", now.Add(24*time.Hour).Unix()),
		"without end":               key.sign(head, claims, "jti", "17", "exp", nil),
		"from the future":           key.sign(head, claims, "jti", "18", "iat", now.Add(5*time.Minute).Unix()),
		"without id":                key.sign(head, claims, "jti", nil),
		"garbage":                   "x.y.z",
		"too long":                  strings.Repeat("x", 20_000),
	} {
		if r := post(assertion); r.Status != http.StatusUnauthorized || r.Error != "invalid_client" {
			t.Errorf("%s: %d %s %s", name, r.Status, r.Error, r.AccessToken)
		}
	}
	post(key.sign(head, claims, "jti", "20"), "client_id", "robot").refused(t, "invalid_client")
	post(key.sign(head, claims, "jti", "21"), "client_secret", "x").refused(t, "invalid_client")
	post(key.sign(head, claims, "jti", "22"), "client_assertion_type", "urn:x").refused(t, "invalid_client")
}

func TestRevocationAndIntrospection(t *testing.T) {
	i := newInstall(t, confidential(newSigner(t, "k1")), otherClient)
	ann := i.redeem(i.code("ann@acme")).must(t)
	ask := func(token, id, secret string) reply {
		return i.post("/oauth/introspect", url.Values{"token": {token}, "client_id": {id}, "client_secret": {secret}})
	}
	if r := ask(ann.AccessToken, "gateway", secretText+"2").must(t); !r.Active || r.Scope != "tool:crm:read" {
		t.Errorf("gateway: %+v", r)
	}
	for name, r := range map[string]reply{
		"another tenant's client": ask(ann.AccessToken, "watch", secretText),
		"a client without right":  ask(ann.AccessToken, "robot", secretText),
		"a refresh token":         ask(ann.RefreshToken, "gateway", secretText+"2"),
		"garbage":                 ask("x", "gateway", secretText+"2"),
	} {
		if r.must(t); r.Active || r.Scope != "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	ask(ann.AccessToken, "gateway", "wrong").refused(t, "invalid_client")
	i.post("/oauth/introspect", url.Values{"token": {ann.AccessToken}, "client_id": {webClient}}).refused(t, "invalid_client")

	revoke := func(token, id string) reply {
		return i.post("/oauth/revoke", url.Values{"token": {token}, "client_id": {id}})
	}
	revoke(ann.AccessToken, "other").refused(t, "invalid_grant")
	revoke(ann.RefreshToken, "other").refused(t, "invalid_grant")
	revoke("", webClient).refused(t, "invalid_request")
	revoke("x", webClient).must(t) // RFC 7009 section 2.2
	if i.revokedToken(ann.AccessToken) {
		t.Fatal("another client ended the grant")
	}
	revoke(ann.AccessToken, webClient).must(t)
	if !i.revokedToken(ann.AccessToken) || ask(ann.AccessToken, "gateway", secretText+"2").Active {
		t.Error("still good")
	}
	i.refresh(ann.RefreshToken).refused(t, "invalid_grant")
	// A client's own token.
	own := i.post("/oauth/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {"robot"}, "client_secret": {secretText}}).must(t).AccessToken
	i.post("/oauth/revoke", url.Values{"token": {own}, "client_id": {"robot"}, "client_secret": {"wrong"}}).refused(t, "invalid_client")
	i.post("/oauth/revoke", url.Values{"token": {own}, "client_id": {"robot"}, "client_secret": {secretText}}).must(t)
	if !i.revokedToken(own) {
		t.Error("the client's token is still good")
	}
	// A token that was exchanged is its client's to end, the grant behind it is not.
	gus := i.redeem(i.code("gus@globex")).must(t)
	swapped := i.exchange(gus.AccessToken).must(t).AccessToken
	i.post("/oauth/revoke", url.Values{"token": {swapped}, "client_id": {"gateway"}, "client_secret": {secretText + "2"}}).must(t)
	if !i.revokedToken(swapped) || i.revokedToken(gus.AccessToken) {
		t.Error("an exchanged token's end is wrong")
	}
}

// What one process revokes, another knows within a second or so, and the next start at once.
func TestRevocationReachesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newInstall(t)
		b := openInstall(t, a.iss, a.store)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.server.Run(ctx) }()
		for n := range 300 {
			r := a.redeem(a.code("ann@acme")).must(t)
			if n%2 == 0 {
				a.post("/oauth/revoke", url.Values{"token": {r.AccessToken}, "client_id": {webClient}}).must(t)
			} else if err := b.server.Revoke(t.Context(), part(t, r.AccessToken, 1)["jti"].(string), time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if n%100 != 99 {
				continue
			}
			time.Sleep(2 * time.Second)
			if n%2 == 0 && !b.revokedToken(r.AccessToken) || !openInstall(t, a.iss, a.store).revokedToken(r.AccessToken) {
				t.Errorf("revocation %d is not known elsewhere", n)
			}
			time.Sleep(20 * time.Minute) // the log's beginning expires
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestStoreOutage(t *testing.T) {
	i := newInstall(t)
	code := i.code("ann@acme")
	r := i.redeem(i.code("ann@acme")).must(t)
	off := openInstall(t, i.iss, i.store, func(_ *issuer.ServerConfig, d *issuer.ServerDeps) { d.Store = &switched{Store: i.store} })
	i.t = t
	for name, got := range map[string]reply{"code": off.redeem(code), "refresh": off.refresh(r.RefreshToken), "revoke": off.post("/oauth/revoke", url.Values{"token": {r.RefreshToken}, "client_id": {webClient}})} {
		if got.Status != http.StatusServiceUnavailable || got.Error != "temporarily_unavailable" || got.Header.Get("Retry-After") == "" || strings.Contains(got.Description, "down") {
			t.Errorf("%s: %d %s %s", name, got.Status, got.Error, got.Description)
		}
	}
	i.redeem(code).must(t)
	i.refresh(r.RefreshToken).must(t)
	if _, err := issuer.Open(t.Context(), issuer.ServerConfig{}, issuer.ServerDeps{Issuer: i.iss, Store: down{i.store}, Scopes: scopesOf}); err == nil {
		t.Error("opened without knowing what is revoked")
	}
}
