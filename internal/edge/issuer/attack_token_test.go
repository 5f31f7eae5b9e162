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
	"errors"
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

	"github.com/atlas-mcp/atlas"
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
	i := newInstall(t, confidential(key))
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

// exchange swaps a token as the gateway or the robot.
func (i *install) exchange(token string, kv ...string) reply {
	i.t.Helper()
	return i.post("/oauth/token", with(url.Values{
		"grant_type": {grantSwap}, "subject_token": {token}, "subject_token_type": {typeAT},
		"client_id": {"gateway"}, "client_secret": {secretText + "2"},
	}, kv...))
}

var asRobot = []string{"client_id", "robot", "client_secret", secretText}

func TestTokenExchange(t *testing.T) {
	key := newSigner(t, "k1")
	theirs := newSigner(t, "k").sign(nil, jwt.MapClaims{"iss": idp})
	foreign := func(_ context.Context, token string) (*atlas.Principal, error) {
		if token == theirs {
			return &atlas.Principal{Subject: "kim", Tenant: "globex", Scopes: []string{"a", "b"}, Issuer: idp, TokenID: "x.y", Expiry: time.Now().Add(time.Minute)}, nil
		}
		return nil, errors.New("not accepted")
	}
	i := newInstall(t, confidential(key), func(_ *issuer.ServerConfig, d *issuer.ServerDeps) { d.SubjectToken = foreign })
	ann := i.redeem(i.code("ann@acme", "scope", "tool:crm:read tool:kb:read")).must(t)
	gus := i.redeem(i.code("gus@globex")).must(t)

	r := i.exchange(ann.AccessToken).must(t)
	c := part(t, r.AccessToken, 1)
	if c["sub"] != "ann@acme" || c["tenant"] != "acme" || c["client_id"] != "gateway" || r.Scope != "tool:crm:read tool:kb:read" ||
		r.Issued != typeAT || r.RefreshToken != "" || c["act"].(map[string]any)["sub"] != "gateway" {
		t.Errorf("claims %v, %+v", c, r)
	}
	// One acts for the other, who acts for ann.
	again := i.exchange(r.AccessToken, append(asRobot, "scope", "tool:crm:read")...).must(t)
	act := part(t, again.AccessToken, 1)["act"].(map[string]any)
	if act["sub"] != "robot" || act["act"].(map[string]any)["sub"] != "gateway" || again.Scope != "tool:crm:read" {
		t.Errorf("act %v", act)
	}
	chain := again
	for range 2 {
		chain = i.exchange(chain.AccessToken).must(t)
	}
	i.exchange(chain.AccessToken).refused(t, "invalid_request") // somebody goes round in circles

	for name, tt := range map[string]struct {
		token  string
		change []string
		want   string
	}{
		"more scopes":                {ann.AccessToken, []string{"scope", "tool:crm:read tool:*:admin"}, "invalid_scope"},
		"scopes back again":          {again.AccessToken, []string{"scope", "tool:kb:read"}, "invalid_scope"},
		"another tenant's client":    {gus.AccessToken, asRobot, "invalid_request"},
		"a foreign resource":         {ann.AccessToken, []string{"resource", "https://else.example"}, "invalid_target"},
		"a foreign audience":         {ann.AccessToken, []string{"audience", "https://else.example"}, "invalid_target"},
		"a refresh token":            {ann.RefreshToken, nil, "invalid_request"},
		"forged":                     {newSigner(t, "k").sign(map[string]any{"typ": "at+jwt", "kid": part(t, ann.AccessToken, 0)["kid"]}, part(t, ann.AccessToken, 1)), nil, "invalid_request"},
		"no token":                   {"", nil, "invalid_request"},
		"an id token is asked for":   {ann.AccessToken, []string{"requested_token_type", "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"},
		"another kind of token":      {ann.AccessToken, []string{"subject_token_type", "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"},
		"an actor of choice":         {ann.AccessToken, []string{"actor_token", gus.AccessToken}, "invalid_request"},
		"a client without the right": {ann.AccessToken, []string{"client_id", webClient, "client_secret", ""}, "invalid_client"},
	} {
		if r := i.exchange(tt.token, tt.change...); r.Error != tt.want || r.AccessToken != "" {
			t.Errorf("%s: %d %s %s", name, r.Status, r.Error, r.Description)
		}
	}
	// A token of an issuer that the program trusts.
	r = i.exchange(theirs).must(t)
	if c := part(t, r.AccessToken, 1); c["sub"] != "kim" || c["tenant"] != "globex" || r.ExpiresIn > 60 || strings.HasPrefix(c["jti"].(string), "x.") {
		t.Errorf("claims %v, lives %d s", c, r.ExpiresIn)
	}
	i.exchange(theirs, asRobot...).refused(t, "invalid_request") // another tenant
	// Whoever ends the grant ends what was exchanged for it.
	i.post("/oauth/revoke", url.Values{"token": {ann.AccessToken}, "client_id": {webClient}})
	for _, tok := range []string{ann.AccessToken, r.AccessToken, again.AccessToken} {
		if got := i.revokedToken(tok); got != (tok != r.AccessToken) {
			t.Errorf("revoked %v: %v", part(t, tok, 1), got)
		}
	}
	i.exchange(ann.AccessToken).refused(t, "invalid_request")
}

func TestIdentityAssertions(t *testing.T) {
	key, other := newSigner(t, "k1"), newSigner(t, "k1")
	i := newInstall(t, confidential(key), otherClient, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
		c.Providers = []issuer.IdentityProvider{
			{Issuer: idp, JWKS: key.set(), TenantClaim: "org", Tenants: []string{"acme"}, RolesClaim: "groups", RolesKnown: []string{"support"}},
			{Issuer: "https://globex.example", JWKS: other.set(), Tenant: "globex", Roles: []string{"support"}, Clients: []string{"nobody"}},
		}
	})
	now := time.Now()
	head := map[string]any{"kid": "k1", "typ": "oauth-id-jag+jwt"}
	claims := jwt.MapClaims{
		"iss": idp, "sub": "kim", "aud": base, "client_id": "gateway", "resource": resource, "jti": "1", "scope": "tool:crm:read chat",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "org": "acme", "groups": []string{"support", "admin"},
	}
	post := func(assertion string, kv ...string) reply {
		return i.post("/oauth/token", with(url.Values{
			"grant_type": {grantJAG}, "assertion": {assertion}, "client_id": {"gateway"}, "client_secret": {secretText + "2"},
		}, kv...))
	}
	good := key.sign(head, claims)
	r := post(good).must(t)
	c := part(t, r.AccessToken, 1)
	if c["sub"] != "kim" || c["tenant"] != "acme" || r.Scope != "tool:crm:read" || len(c["roles"].([]any)) != 1 || r.RefreshToken != "" || c["aud"].([]any)[0] != resource {
		t.Errorf("claims %v, %+v", c, r)
	}
	for name, assertion := range map[string]string{
		"used before":             good,
		"of another kind":         key.sign(map[string]any{"kid": "k1", "typ": "JWT"}, claims, "jti", "2"),
		"of no kind":              key.sign(map[string]any{"kid": "k1"}, claims, "jti", "3"),
		"for another server":      key.sign(head, claims, "jti", "4", "aud", "https://else.example"),
		"for several":             key.sign(head, claims, "jti", "5", "aud", []string{base, "https://else.example"}),
		"for the resource":        key.sign(head, claims, "jti", "6", "aud", resource),
		"for another resource":    key.sign(head, claims, "jti", "7", "resource", "https://else.example/mcp"),
		"for no resource":         key.sign(head, claims, "jti", "8", "resource", nil),
		"for another client":      key.sign(head, claims, "jti", "9", "client_id", "robot"),
		"for no client":           key.sign(head, claims, "jti", "10", "client_id", nil),
		"for another tenant":      key.sign(head, claims, "jti", "11", "org", "globex"),
		"for no tenant":           key.sign(head, claims, "jti", "12", "org", nil),
		"of the other provider":   other.sign(head, claims, "jti", "13"),
		"in the other's name":     key.sign(head, claims, "jti", "14", "iss", "https://globex.example"),
		"to a client not allowed": other.sign(head, claims, "jti", "15", "iss", "https://globex.example"),
		"of an unknown provider":  key.sign(head, claims, "jti", "16", "iss", "https://evil.example"),
		"of this server":          key.sign(head, claims, "jti", "17", "iss", base),
		"expired":                 key.sign(head, claims, "jti", "18", "exp", now.Add(-time.Minute).Unix()),
		"for ever":                key.sign(head, claims, "jti", "19", "exp", now.Add(48*time.Hour).Unix()),
		"without id":              key.sign(head, claims, "jti", nil),
		"without time":            key.sign(head, claims, "jti", "20", "iat", nil),
		"for nobody":              key.sign(head, claims, "jti", "21", "sub", ""),
		"alg none":                signWith(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, head, claims, "jti", "22"),
		"garbage":                 "a.b.c",
	} {
		if r := post(assertion); r.Error != "invalid_grant" || r.AccessToken != "" {
			t.Errorf("%s: %d %s %s", name, r.Status, r.Error, r.Description)
		}
	}
	post(key.sign(head, claims, "jti", "30"), "scope", "tool:kb:read").refused(t, "invalid_scope") // the provider did not agree
	post(key.sign(head, claims, "jti", "30"), "scope", "chat").refused(t, "invalid_scope")         // and the role has not
	post(key.sign(head, claims, "jti", "30"), "resource", base+"/other").refused(t, "invalid_target")
	post(key.sign(head, claims, "jti", "30")).must(t) // what was refused has used nothing up
	// A token of ours is no assertion, even though we trust it elsewhere.
	own := i.redeem(i.code("ann@acme")).must(t).AccessToken
	post(own).refused(t, "invalid_grant")
	post(key.sign(head, claims, "jti", "31"), "client_id", webClient, "client_secret", "").refused(t, "invalid_client")
	// Without a provider, there is no such grant.
	newInstall(t, confidential(key)).post("/oauth/token", url.Values{"grant_type": {grantJAG}, "assertion": {good}}).refused(t, "unsupported_grant_type")
}

// proof makes a DPoP proof of the key.
func (s signer) proof(jti string, kv ...any) string {
	return s.sign(map[string]any{"typ": "dpop+jwt", "jwk": map[string]any{"kty": "EC", "crv": "P-256", "x": s.jwk.X, "y": s.jwk.Y}},
		jwt.MapClaims{"jti": jti, "htm": "POST", "htu": base + "/oauth/token", "iat": time.Now().Unix()}, kv...)
}

func TestDPoP(t *testing.T) {
	key, thief := newSigner(t, ""), newSigner(t, "")
	i := newInstall(t, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
		c.Clients = append(c.Clients, issuer.Client{ID: "bound", RedirectURIs: []string{webBack}, DPoP: true})
	})
	redeem := func(code string, proofs ...string) reply {
		var headers []string
		for _, p := range proofs {
			headers = append(headers, "DPoP", p)
		}
		return i.post("/oauth/token", url.Values{
			"grant_type": {"authorization_code"}, "code": {code}, "client_id": {"bound"}, "redirect_uri": {webBack}, "code_verifier": {verifier},
		}, headers...)
	}
	refresh := func(token, proof string) reply {
		return i.post("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {"bound"}}, "DPoP", proof)
	}
	// Nothing is used up before the proof is good, so one code serves all these.
	code := i.code("ann@acme", "client_id", "bound")
	headless := key.sign(map[string]any{"typ": "dpop+jwt"}, jwt.MapClaims{"jti": "h", "htm": "POST", "htu": base + "/oauth/token", "iat": time.Now().Unix()})
	private := key.sign(map[string]any{"typ": "dpop+jwt", "jwk": map[string]any{"kty": "EC", "crv": "P-256", "x": key.jwk.X, "y": key.jwk.Y, "d": "AAAA"}},
		jwt.MapClaims{"jti": "p", "htm": "POST", "htu": base + "/oauth/token", "iat": time.Now().Unix()})
	confused := signWith(t, jwt.SigningMethodHS256, []byte("secret"), map[string]any{"typ": "dpop+jwt", "jwk": map[string]any{"kty": "oct", "k": "c2VjcmV0"}},
		jwt.MapClaims{"jti": "c", "htm": "POST", "htu": base + "/oauth/token", "iat": time.Now().Unix()})
	for name, proofs := range map[string][]string{
		"none":                    nil,
		"two":                     {key.proof("a"), key.proof("b")},
		"another method":          {key.proof("1", "htm", "GET")},
		"another endpoint":        {key.proof("2", "htu", base+"/mcp")},
		"another server":          {key.proof("3", "htu", "https://else.example/oauth/token")},
		"old":                     {key.proof("4", "iat", time.Now().Add(-6*time.Minute).Unix())},
		"from the future":         {key.proof("5", "iat", time.Now().Add(6*time.Minute).Unix())},
		"timeless":                {key.proof("6", "iat", nil)},
		"without id":              {key.proof("7", "jti", nil)},
		"without key":             {headless},
		"with a private key":      {private},
		"with a shared key":       {confused},
		"an access token":         {key.sign(map[string]any{"typ": "at+jwt"}, jwt.MapClaims{"jti": "x"})},
		"garbage":                 {"x.y.z"},
		"a key that did not sign": {strings.Join(append(strings.Split(key.proof("8"), ".")[:2], strings.Split(thief.proof("8"), ".")[2]), ".")},
	} {
		if r := redeem(code, proofs...); r.Error != "invalid_dpop_proof" {
			t.Errorf("%s: %d %s %s", name, r.Status, r.Error, r.Description)
		}
	}
	first := key.proof("first")
	r := redeem(code, first).must(t)
	if r.TokenType != "DPoP" {
		t.Errorf("type %s", r.TokenType)
	}
	jkt := part(t, r.AccessToken, 1)["cnf"].(map[string]any)["jkt"].(string)
	refresh(r.RefreshToken, first).refused(t, "invalid_dpop_proof") // used before
	refresh(r.RefreshToken, thief.proof("t")).refused(t, "invalid_grant")
	next := refresh(r.RefreshToken, key.proof("second")).must(t)
	if part(t, next.AccessToken, 1)["cnf"].(map[string]any)["jkt"] != jkt {
		t.Error("another key")
	}
	// A code that is bound to the key from the start.
	code = i.code("ann@acme", "client_id", "bound", "dpop_jkt", jkt)
	redeem(code, thief.proof("t2")).refused(t, "invalid_grant")
	redeem(i.code("ann@acme", "client_id", "bound", "dpop_jkt", jkt), key.proof("third")).must(t)
	// The answer to a client that need not, and does.
	if r := i.post("/oauth/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {i.code("ann@acme")}, "client_id": {webClient}, "code_verifier": {verifier},
	}, "DPoP", key.proof("fourth")).must(t); r.TokenType != "DPoP" {
		t.Errorf("type %s", r.TokenType)
	}
}

// A token that is bound to a key cannot be swapped for one that is not.
func TestExchangeKeepsTheBinding(t *testing.T) {
	key := newSigner(t, "")
	i := newInstall(t, confidential(newSigner(t, "k1")))
	bound := i.post("/oauth/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {i.code("ann@acme")}, "client_id": {webClient}, "code_verifier": {verifier},
	}, "DPoP", key.proof("1")).must(t).AccessToken
	i.exchange(bound).refused(t, "invalid_request")
	f := url.Values{"grant_type": {grantSwap}, "subject_token": {bound}, "subject_token_type": {typeAT}, "client_id": {"gateway"}, "client_secret": {secretText + "2"}}
	i.post("/oauth/token", f, "DPoP", newSigner(t, "").proof("2")).refused(t, "invalid_request")
	if r := i.post("/oauth/token", f, "DPoP", key.proof("3")).must(t); r.TokenType != "DPoP" {
		t.Errorf("type %s", r.TokenType)
	}
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
