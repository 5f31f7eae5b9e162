package auth_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
)

const (
	issA = "https://a.example"
	issB = "https://b.example"
	aud  = "https://atlas.example/mcp"
)

// keys of the two issuers; making RSA keys is slow, so they are shared.
var (
	keyA = sync.OnceValue(newEC)
	keyB = sync.OnceValue(func() *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return k
	})
)

func newEC() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func jwk(t testing.TB, key any, kid string) jwkset.JWK {
	t.Helper()
	j, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid, USE: jwkset.UseSig}})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func store(t testing.TB, keys ...jwkset.JWK) jwkset.Storage {
	t.Helper()
	s := jwkset.NewMemoryStorage()
	for _, k := range keys {
		if err := s.KeyWrite(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// claims returns those of a good token of issuer A, changed by kv pairs; a nil value removes one.
func claims(kv ...any) jwt.MapClaims {
	now := time.Now()
	c := jwt.MapClaims{
		"iss": issA, "aud": []string{"other", aud}, "sub": "ann", "jti": "t1", "tenant": "acme",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"roles": []string{"role:support", "lead"}, "scope": "tool:crm:read tool:kb:read",
		"act": map[string]any{"sub": "agent:copilot"}, "big": json.Number("9007199254740993"),
	}
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] == nil {
			delete(c, kv[i].(string))
		} else {
			c[kv[i].(string)] = kv[i+1]
		}
	}
	return c
}

func sign(t testing.TB, m jwt.SigningMethod, key any, header map[string]any, c jwt.MapClaims) string {
	t.Helper()
	tok := jwt.NewWithClaims(m, c)
	tok.Header["typ"] = "at+jwt"
	for k, v := range header {
		if v == nil {
			delete(tok.Header, k)
		} else {
			tok.Header[k] = v
		}
	}
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var es256 = jwt.SigningMethodES256

var kidA = map[string]any{"kid": "ka"}

func good(t testing.TB, kv ...any) string {
	return sign(t, jwt.SigningMethodES256, keyA(), kidA, claims(kv...))
}

func newVerifier(t testing.TB, change func(*auth.Config, *auth.Deps)) *auth.Verifier {
	t.Helper()
	cfg := auth.Config{Issuers: []auth.Issuer{
		{Issuer: issA, Audience: []string{aud}},
		{Issuer: issB, Audience: []string{aud}, Tenants: []string{"globex"}},
	}}
	deps := auth.Deps{Keys: map[string]jwkset.Storage{
		issA: store(t, jwk(t, &keyA().PublicKey, "ka")),
		issB: store(t, jwk(t, &keyB().PublicKey, "kb")),
	}}
	if change != nil {
		change(&cfg, &deps)
	}
	v, err := auth.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGoodToken(t *testing.T) {
	v := newVerifier(t, nil)
	c := claims()
	tok := sign(t, jwt.SigningMethodES256, keyA(), kidA, c)
	want := &atlas.Principal{
		Subject: "ann", Tenant: "acme", Roles: []string{"support", "lead"}, Scopes: []string{"tool:crm:read", "tool:kb:read"},
		Delegator: "agent:copilot", Issuer: issA, TokenID: "t1", Expiry: time.Unix(c["exp"].(int64), 0),
	}
	for range 2 { // from scratch, and from the cache
		got, err := v.Verify(t.Context(), tok, "203.0.113.9:1")
		if err != nil {
			t.Fatal(err)
		}
		if got.Claims["big"] != json.Number("9007199254740993") {
			t.Errorf("a large number became %v", got.Claims["big"])
		}
		copied := *got
		copied.Claims = nil
		if diff := cmp.Diff(want, &copied); diff != "" {
			t.Error("(-want +got):", diff)
		}
	}
	got, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, keyB(), map[string]any{"kid": "kb", "typ": "application/AT+JWT"},
		claims("iss", issB, "tenant", "globex", "aud", aud, "scope", []string{"a", "b"}, "roles", "one", "act", nil)), "")
	if err != nil {
		t.Fatal(err)
	}
	if got.Issuer != issB || !slices.Equal(got.Scopes, []string{"a", "b"}) || !slices.Equal(got.Roles, []string{"one"}) || got.Delegator != "" {
		t.Errorf("got %+v", got)
	}
}

// A badToken must be refused, always with the same code.
type badToken struct {
	name, token string
	want        atlas.Code
}

// badTokens is the list of attacks on a token's form, header, signature and claims.
func badTokens(t testing.TB) []badToken {
	t.Helper()
	pub, err := x509.MarshalPKIXPublicKey(&keyB().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pubPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub})
	now := time.Now()
	es := jwt.SigningMethodES256
	bClaims := claims("iss", issB, "tenant", "globex")
	none := sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kidA, claims())
	parts := strings.Split(good(t), ".")
	forged, _ := json.Marshal(claims("tenant", "globex"))
	raw := func(header, payload string) string { // signed as it stands
		signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
		sig, err := es.Sign(signed, keyA())
		if err != nil {
			t.Fatal(err)
		}
		return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
	}
	const header = `{"alg":"ES256","kid":"ka","typ":"at+jwt"}`
	goodClaims, err := json.Marshal(claims())
	if err != nil {
		t.Fatal(err)
	}
	payload := string(goodClaims)
	// RFC 7518 section 3.4 binds ES384 to P-384; a signature of a P-256 key can be padded to its size.
	long := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES384","kid":"ka","typ":"at+jwt"}`)) + "." + base64.RawURLEncoding.EncodeToString(goodClaims)
	hash := sha512.Sum384([]byte(long))
	sigR, sigS, err := ecdsa.Sign(rand.Reader, keyA(), hash[:])
	if err != nil {
		t.Fatal(err)
	}
	padded := make([]byte, 96)
	sigR.FillBytes(padded[:48])
	sigS.FillBytes(padded[48:])
	own := newEC()
	ownJWK := map[string]any{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "ka"}
	signedByOwn := func(h map[string]any) string { h["kid"] = "ka"; return sign(t, es, own, h, claims()) }
	return []badToken{
		{"empty", "", atlas.CodeMissingToken},
		{"garbage", "x.y.z", atlas.CodeInvalidToken},
		{"very long", strings.Repeat("x", 9000), atlas.CodeInvalidToken},
		{"alg none", none, atlas.CodeInvalidToken},
		{"alg none, spelt otherwise", strings.Replace(none, parts[0], base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"NoNe","typ":"at+jwt","kid":"ka"}`)), 1), atlas.CodeInvalidToken},
		{"HS256 with the public key as secret", sign(t, jwt.SigningMethodHS256, pubPEM, map[string]any{"kid": "kb"}, bClaims), atlas.CodeInvalidToken},
		{"HS256 with the raw public key", sign(t, jwt.SigningMethodHS256, pub, map[string]any{"kid": "kb"}, bClaims), atlas.CodeInvalidToken},
		{"algorithm that is not allowed", sign(t, jwt.SigningMethodRS512, keyB(), map[string]any{"kid": "kb"}, bClaims), atlas.CodeInvalidToken},
		{"payload exchanged", parts[0] + "." + base64.RawURLEncoding.EncodeToString(forged) + "." + parts[2], atlas.CodeInvalidToken},
		{"no signature", parts[0] + "." + parts[1] + ".", atlas.CodeInvalidToken},
		{"signature in another spelling", respell(good(t)), atlas.CodeInvalidToken},
		{"another's key", sign(t, es, newEC(), kidA, claims()), atlas.CodeInvalidToken},
		{"issuer B's key for issuer A", sign(t, jwt.SigningMethodRS256, keyB(), map[string]any{"kid": "kb"}, claims()), atlas.CodeInvalidToken},
		{"issuer A's key for issuer B", sign(t, es, keyA(), kidA, bClaims), atlas.CodeInvalidToken},
		{"issuer B for a tenant that is not its own", sign(t, jwt.SigningMethodRS256, keyB(), map[string]any{"kid": "kb"}, claims("iss", issB, "tenant", "acme")), atlas.CodeInvalidToken},
		{"unknown issuer", good(t, "iss", "https://c.example"), atlas.CodeInvalidToken},
		{"issuer with a slash more", good(t, "iss", issA+"/"), atlas.CodeInvalidToken},
		{"no issuer", good(t, "iss", nil), atlas.CodeInvalidToken},
		{"issuer is a list", good(t, "iss", []string{issA}), atlas.CodeInvalidToken},
		{"no kid", sign(t, es, keyA(), nil, claims()), atlas.CodeInvalidToken},
		{"kid is a number", sign(t, es, keyA(), map[string]any{"kid": 1}, claims()), atlas.CodeInvalidToken},
		{"unknown kid", sign(t, es, keyA(), map[string]any{"kid": "../../ka"}, claims()), atlas.CodeInvalidToken},
		{"critical extension", sign(t, es, keyA(), map[string]any{"kid": "ka", "crit": []string{"b64"}, "b64": false}, claims()), atlas.CodeInvalidToken},
		{"an id token", sign(t, es, keyA(), map[string]any{"kid": "ka", "typ": "id+jwt"}, claims()), atlas.CodeInvalidToken},
		{"no typ", sign(t, es, keyA(), map[string]any{"kid": "ka", "typ": nil}, claims()), atlas.CodeInvalidToken},
		{"other audience", good(t, "aud", "https://else.example"), atlas.CodeInvalidToken},
		{"audience that begins like ours", good(t, "aud", aud+"/x"), atlas.CodeInvalidToken},
		{"audience with a number in it", good(t, "aud", []any{1, aud}), atlas.CodeInvalidToken},
		{"audience is an object", good(t, "aud", map[string]any{aud: true}), atlas.CodeInvalidToken},
		{"no audience", good(t, "aud", nil), atlas.CodeInvalidToken},
		{"no exp", good(t, "exp", nil), atlas.CodeInvalidToken},
		{"no iat", good(t, "iat", nil), atlas.CodeInvalidToken},
		{"no jti", good(t, "jti", nil), atlas.CodeInvalidToken},
		{"no sub", good(t, "sub", nil), atlas.CodeInvalidToken},
		{"empty sub", good(t, "sub", ""), atlas.CodeInvalidToken},
		{"from the future", good(t, "iat", now.Add(time.Minute).Unix()), atlas.CodeInvalidToken},
		{"not yet", good(t, "nbf", now.Add(time.Minute).Unix()), atlas.CodeInvalidToken},
		{"exp is text", good(t, "exp", "tomorrow"), atlas.CodeInvalidToken},
		{"expired", good(t, "exp", now.Add(-31*time.Second).Unix()), atlas.CodeTokenExpired},
		{"expired and forged", sign(t, es, newEC(), kidA, claims("exp", now.Add(-time.Hour).Unix())), atlas.CodeInvalidToken},
		{"expired and for others", good(t, "exp", now.Add(-time.Hour).Unix(), "aud", "x"), atlas.CodeInvalidToken},
		{"no tenant", good(t, "tenant", nil), atlas.CodeNoTenant},
		{"empty tenant", good(t, "tenant", ""), atlas.CodeNoTenant},
		{"tenant is a list", good(t, "tenant", []string{"acme"}), atlas.CodeNoTenant},
		{"tenant that cannot be", good(t, "tenant", "../acme"), atlas.CodeNoTenant},
		{"tenant in capitals", good(t, "tenant", "Acme"), atlas.CodeNoTenant},
		{"expired, and without a tenant", good(t, "exp", now.Add(-time.Hour).Unix(), "tenant", nil), atlas.CodeTokenExpired},
		{"without a tenant, for others", good(t, "aud", "x", "tenant", nil), atlas.CodeInvalidToken},
		{"issuer twice", raw(header, `{"iss":"https://c.example",`+payload[1:]), atlas.CodeInvalidToken},
		{"tenant twice", raw(header, strings.TrimSuffix(payload, "}")+`,"tenant":"globex"}`), atlas.CodeInvalidToken},
		{"tenant twice, once escaped", raw(header, strings.TrimSuffix(payload, "}")+`,"t\u0065nant":"globex"}`), atlas.CodeInvalidToken},
		{"a name twice deep inside", raw(header, strings.TrimSuffix(payload, "}")+`,"x":[{"a":1,"a":2}]}`), atlas.CodeInvalidToken},
		{"alg twice", raw(`{"alg":"none",`+header[1:], payload), atlas.CodeInvalidToken},
		{"kid twice", raw(strings.TrimSuffix(header, "}")+`,"kid":"kb"}`, payload), atlas.CodeInvalidToken},
		{"something behind the claims", raw(header, payload+"{}"), atlas.CodeInvalidToken},
		{"claims are a list", raw(header, "["+payload+"]"), atlas.CodeInvalidToken},
		{"claims are null", raw(header, "null"), atlas.CodeInvalidToken},
		{"bytes that are not UTF-8", raw(header, strings.Replace(payload, "ann", "a\xffn", 1)), atlas.CodeInvalidToken},
		{"nested very deeply", raw(header, strings.TrimSuffix(payload, "}")+`,"x":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+"}"), atlas.CodeInvalidToken},
		{"huge", good(t, "x", strings.Repeat("x", 20<<10)), atlas.CodeInvalidToken},
		{"exp beyond all years", good(t, "exp", json.Number("1e300")), atlas.CodeInvalidToken},
		{"exp is negative", good(t, "exp", -1), atlas.CodeInvalidToken},
		{"subject is very long", good(t, "sub", strings.Repeat("x", 300)), atlas.CodeInvalidToken},
		{"encrypted", "eyJhbGciOiJkaXIifQ." + parts[1] + "." + parts[1] + "." + parts[1] + "." + parts[2], atlas.CodeInvalidToken},
		{"padded", good(t) + "=", atlas.CodeInvalidToken},
		{"two tokens", good(t) + "," + good(t), atlas.CodeInvalidToken},
		{"a part more", good(t) + ".x", atlas.CodeInvalidToken},
		{"key in the header", signedByOwn(map[string]any{"jwk": ownJWK}), atlas.CodeInvalidToken},
		{"key set in the header", signedByOwn(map[string]any{"jku": "https://evil.example/jwks"}), atlas.CodeInvalidToken},
		{"certificate URL in the header", signedByOwn(map[string]any{"x5u": "https://evil.example/cert"}), atlas.CodeInvalidToken},
		{"certificate in the header", signedByOwn(map[string]any{"x5c": []string{"MII="}}), atlas.CodeInvalidToken},
		{"kid is a path", sign(t, es, keyA(), map[string]any{"kid": "/dev/null"}, claims()), atlas.CodeInvalidToken},
		{"kid is a URL", sign(t, es, keyA(), map[string]any{"kid": "https://evil.example/jwks"}, claims()), atlas.CodeInvalidToken},
		{"kid is SQL", sign(t, es, keyA(), map[string]any{"kid": "x' OR '1'='1"}, claims()), atlas.CodeInvalidToken},
		{"kid with a NUL", sign(t, es, keyA(), map[string]any{"kid": "ka\x00"}, claims()), atlas.CodeInvalidToken},
		{"kid is empty", sign(t, es, keyA(), map[string]any{"kid": ""}, claims()), atlas.CodeInvalidToken},
		{"algorithm of another kind of key", sign(t, jwt.SigningMethodRS256, keyB(), kidA, claims()), atlas.CodeInvalidToken},
		{"algorithm of another curve", long + "." + base64.RawURLEncoding.EncodeToString(padded), atlas.CodeInvalidToken},
		{"alg is a list", raw(`{"alg":["ES256"],"kid":"ka","typ":"at+jwt"}`, payload), atlas.CodeInvalidToken},
		{"typ is JWT", sign(t, es, keyA(), map[string]any{"kid": "ka", "typ": "JWT"}, claims()), atlas.CodeInvalidToken},
		{"a logout token", sign(t, es, keyA(), map[string]any{"kid": "ka", "typ": "logout+jwt"}, claims()), atlas.CodeInvalidToken},
		{"bound to a key", good(t, "cnf", map[string]any{"jkt": newProver(t).jkt}), atlas.CodeInvalidToken},
		{"bound to a certificate", good(t, "cnf", map[string]any{"x5t#S256": "x"}), atlas.CodeInvalidToken},
	}
}

func TestBadTokens(t *testing.T) {
	for _, tt := range badTokens(t) {
		t.Run(tt.name, func(t *testing.T) {
			v := newVerifier(t, nil)
			for range 2 { // a refusal must not become a cached acceptance
				p, err := v.Verify(t.Context(), tt.token, "127.0.0.1:1")
				if p != nil || atlas.CodeOf(err) != tt.want {
					t.Fatalf("got %v, %v; want %s", p, err, tt.want)
				}
				if f := atlas.ErrorOf(err).Failure("r"); tt.want == atlas.CodeInvalidToken && f.Hint != atlas.Codes[tt.want].Hint {
					t.Errorf("the hint says why: %s", f.Hint)
				}
			}
		})
	}
}

// respell sets a bit behind the last byte of the signature, which a lenient decoder drops.
func respell(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(token) - 1
	return token[:last] + string(alphabet[strings.IndexByte(alphabet, token[last])|1])
}

func TestClockSkewAndCacheEndWithTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(t, nil)
		tok := good(t, "exp", time.Now().Add(10*time.Second).Unix(), "iat", time.Now().Add(20*time.Second).Unix())
		verify := func() atlas.Code {
			_, err := v.Verify(t.Context(), tok, "")
			return atlas.CodeOf(err)
		}
		if code := verify(); code != "" {
			t.Fatalf("issuer's clock ahead by 20 s: %s", code)
		}
		time.Sleep(35 * time.Second) // past exp, within the skew
		if code := verify(); code != "" {
			t.Errorf("expired for 25 s: %s", code)
		}
		time.Sleep(6 * time.Second)
		if code := verify(); code != atlas.CodeTokenExpired {
			t.Errorf("expired for 31 s: %q", code)
		}
	})
}

func TestWithdrawnKeyIsNoticedWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store(t, jwk(t, &keyA().PublicKey, "ka"))
		v := newVerifier(t, func(_ *auth.Config, d *auth.Deps) { d.Keys[issA] = s })
		tok := good(t)
		if _, err := v.Verify(t.Context(), tok, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := s.KeyDelete(t.Context(), "ka"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		if _, err := v.Verify(t.Context(), tok, ""); err != nil {
			t.Errorf("the cache did not answer: %v", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := v.Verify(t.Context(), tok, ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
			t.Errorf("after a minute: %v", err)
		}
	})
}

func TestCacheIsBoundedAndStaysRight(t *testing.T) {
	v := newVerifier(t, func(c *auth.Config, _ *auth.Deps) { c.CacheSize = 4 })
	tokens := make([]string, 20)
	for i := range tokens {
		tokens[i] = good(t, "sub", fmt.Sprint("u", i), "tenant", []string{"acme", "globex"}[i%2])
	}
	for range 3 {
		for i, tok := range tokens {
			p, err := v.Verify(t.Context(), tok, "")
			if err != nil || p.Subject != fmt.Sprint("u", i) || p.Tenant != []atlas.TenantID{"acme", "globex"}[i%2] {
				t.Fatalf("token %d: %+v %v", i, p, err)
			}
		}
	}
}

func TestDevelopmentTokens(t *testing.T) {
	ann := &atlas.Principal{Subject: "ann", Tenant: "acme"}
	dev := func(on bool) *auth.Verifier {
		return newVerifier(t, func(c *auth.Config, d *auth.Deps) {
			c.Development, d.DevTokens = on, map[string]*atlas.Principal{"dev-token": ann}
		})
	}
	for _, tt := range []struct {
		on     bool
		remote string
		want   bool
	}{
		{true, "127.0.0.1:5", true},
		{true, "[::1]:5", true},
		{true, "127.8.9.10:5", true},
		{true, "[::ffff:127.0.0.1]:5", true},
		{true, "10.0.0.1:5", false},
		{true, "127.0.0.1.evil.example:5", false},
		{true, "localhost:5", false},
		{true, "@", false},
		{true, "", false},
		{false, "127.0.0.1:5", false},
	} {
		p, err := dev(tt.on).Verify(t.Context(), "dev-token", tt.remote)
		if got := p == ann; got != tt.want || !tt.want && atlas.CodeOf(err) != atlas.CodeInvalidToken {
			t.Errorf("development %v from %q: %v, %v", tt.on, tt.remote, p, err)
		}
	}
	// Behind a proxy on the same machine everybody seems to be on loopback.
	h := dev(true).Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for header, want := range map[string]int{"": 200, "X-Forwarded-For": 401, "Forwarded": 401, "X-Real-Ip": 401, "Via": 401} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/mcp", nil)
		r.RemoteAddr = "127.0.0.1:5"
		r.Header.Set("Authorization", "Bearer dev-token")
		if header != "" {
			r.Header.Set(header, "for=203.0.113.9")
		}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%s: %d, want %d", header, w.Code, want)
		}
	}
	if _, err := auth.New(auth.Config{Development: true}, auth.Deps{DevTokens: map[string]*atlas.Principal{"dev-token": {Subject: "x"}}}); err == nil {
		t.Error("accepted a development token without a tenant")
	}
}

func TestMiddleware(t *testing.T) {
	v := newVerifier(t, func(_ *auth.Config, d *auth.Deps) {
		d.Challenge = edge.Challenge{MetadataURL: "https://atlas.example/.well-known/oauth-protected-resource/mcp", Scopes: []string{"a", "b"}}
	})
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := edge.CallerOf(r.Context())
		_, _ = io.WriteString(w, string(c.Tenant)+" "+c.Principal.Subject)
	}))
	const rest = `, scope="a b", resource_metadata="https://atlas.example/.well-known/oauth-protected-resource/mcp"`
	for _, tt := range []struct {
		name, authorization string
		status              int
		body, challenge     string
	}{
		{"good", "Bearer " + good(t), 200, "acme ann", ""},
		{"lower case", "bearer  " + good(t), 200, "acme ann", ""},
		{"none", "", 401, `"error":"missing_token"`, `Bearer realm="atlas"` + rest},
		{"no token", "Bearer ", 401, `"error":"missing_token"`, `Bearer realm="atlas"` + rest},
		{"bad", "Bearer x", 401, `"error":"invalid_token"`, `Bearer realm="atlas", error="invalid_token", error_description="the token was not accepted; get a new one for this server"` + rest},
		{"expired", "Bearer " + good(t, "exp", 1000), 401, `"error":"token_expired"`, `Bearer realm="atlas", error="invalid_token", error_description="the token has expired; get a new one"` + rest},
		{"no tenant", "Bearer " + good(t, "tenant", nil), 403, `"error":"no_tenant"`, `Bearer realm="atlas", error="invalid_token", error_description="the token names no tenant; ask your administrator for a tenant claim"` + rest},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/mcp", nil)
		if tt.authorization != "" {
			r.Header.Set("Authorization", tt.authorization)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) || w.Header().Get("WWW-Authenticate") != tt.challenge {
			t.Errorf("%s: %d %s\n%s", tt.name, w.Code, w.Body, w.Header().Get("WWW-Authenticate"))
		}
		var f atlas.Failure
		if tt.status != 200 && (json.Unmarshal(w.Body.Bytes(), &f) != nil || f.Category != atlas.PermissionDenied || f.RequestID == "") {
			t.Errorf("%s: body is no failure: %s", tt.name, w.Body)
		}
	}
}

// A stranger is refused at once, however slowly he sends what nobody wants to read.
func TestRefusalDoesNotWaitForTheBody(t *testing.T) {
	srv := httptest.NewServer(newVerifier(t, nil).Middleware(http.NotFoundHandler()))
	defer srv.Close()
	for _, length := range []string{"Content-Length: 10", "Transfer-Encoding: chunked"} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil { // rather than hang
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "POST /mcp HTTP/1.1\r\nHost: x\r\n"+length+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: no answer: %v", length, err)
		} else if resp.StatusCode != http.StatusUnauthorized || !resp.Close {
			t.Errorf("%s: %d, close %v", length, resp.StatusCode, resp.Close)
		}
		if resp != nil {
			_ = resp.Body.Close()
		}
		_ = conn.Close()
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusUnauthorized || resp.Close {
		t.Errorf("without a body: %d, close %v", resp.StatusCode, resp.Close)
	}
}

// Each refusal is reported once by its code and the peer's address. Nobody has been found to be the
// caller by then, and neither the token nor anything else of the request is handed on.
func TestRefusalsAreReported(t *testing.T) {
	var got []edge.Refusal
	v := newVerifier(t, func(_ *auth.Config, d *auth.Deps) {
		d.Challenge.Refused = func(_ context.Context, r edge.Refusal) { got = append(got, r) }
	})
	h := v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, tt := range []struct {
		authorization string
		want          atlas.Code
	}{
		{"Bearer " + good(t), ""},
		{"", atlas.CodeMissingToken},
		{"Bearer secret-token", atlas.CodeInvalidToken},
		{"Bearer " + good(t, "exp", 1000), atlas.CodeTokenExpired},
		{"Bearer " + good(t, "tenant", nil), atlas.CodeNoTenant},
	} {
		got = nil
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/mcp", nil)
		r.Header.Set("Authorization", tt.authorization)
		h.ServeHTTP(httptest.NewRecorder(), r)
		var want []edge.Refusal
		if tt.want != "" {
			want = []edge.Refusal{{Code: tt.want, RemoteAddr: r.RemoteAddr}}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: reported (-want +got):\n%s", tt.want, diff)
		}
	}

	down := auth.Config{Issuers: []auth.Issuer{{Issuer: issA, JWKSURL: "https://a.example/jwks", Audience: []string{aud}}}}
	v, err := auth.New(down, auth.Deps{
		Client:    &http.Client{Transport: &jwksServer{}},
		Challenge: edge.Challenge{Refused: func(_ context.Context, r edge.Refusal) { got = append(got, r) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/mcp", nil)
	r.Header.Set("Authorization", "Bearer "+good(t))
	v.Middleware(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
	if len(got) != 1 || got[0].Code != atlas.CodeStateUnavailable {
		t.Errorf("without keys: reported %+v", got)
	}
}

// jwksServer is an issuer's key endpoint in memory: a transport, so that it works in synctest.
type jwksServer struct {
	asked atomic.Int32
	body  atomic.Pointer[string] // nil: down
}

func (s *jwksServer) set(t testing.TB, keys ...jwkset.JWK) {
	raw, err := store(t, keys...).JSONPublic(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body := string(raw)
	s.body.Store(&body)
}

func (s *jwksServer) RoundTrip(*http.Request) (*http.Response, error) {
	s.asked.Add(1)
	b := s.body.Load()
	if b == nil {
		return nil, fmt.Errorf("connection refused")
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(*b))}, nil
}

func remoteVerifier(t testing.TB, s *jwksServer) *auth.Verifier {
	t.Helper()
	cfg := auth.Config{Issuers: []auth.Issuer{{Issuer: issA, JWKSURL: "https://a.example/jwks", Audience: []string{aud}}}}
	v, err := auth.New(cfg, auth.Deps{Client: &http.Client{Transport: s}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &jwksServer{}
		s.set(t, jwk(t, &keyA().PublicKey, "ka"))
		v := remoteVerifier(t, s)
		if err := v.Ready(t.Context()); err == nil {
			t.Error("ready without keys")
		}
		if _, err := v.Verify(t.Context(), good(t), ""); err != nil {
			t.Fatal(err)
		}
		if err := v.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		next := newEC()
		s.set(t, jwk(t, &next.PublicKey, "kn"))
		tok := sign(t, jwt.SigningMethodES256, next, map[string]any{"kid": "kn"}, claims())
		time.Sleep(11 * time.Second)
		if _, err := v.Verify(t.Context(), tok, ""); err != nil {
			t.Errorf("new key: %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := v.Verify(t.Context(), good(t), ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
			t.Errorf("withdrawn key: %v", err)
		}
	})
}

func TestUnknownKeysDoNotHammerTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &jwksServer{}
		s.set(t, jwk(t, &keyA().PublicKey, "ka"))
		v := remoteVerifier(t, s)
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 300 {
			tok := sign(t, jwt.SigningMethodES256, keyA(), map[string]any{"kid": fmt.Sprint("k", i)}, claims())
			wg.Go(func() {
				if _, err := v.Verify(t.Context(), tok, ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if n := s.asked.Load(); n != 1 {
			t.Errorf("the issuer was asked %d times", n)
		}
		if _, err := v.Verify(t.Context(), good(t), ""); err != nil {
			t.Errorf("a good token in the flood: %v", err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the flood waited %s", d)
		}
	})
}

func TestOutageKeepsTheLastKeysForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &jwksServer{}
		v := remoteVerifier(t, s)
		_, err := v.Verify(t.Context(), good(t), "")
		if e := atlas.ErrorOf(err); e.Code != atlas.CodeStateUnavailable || e.RetryAfter == 0 {
			t.Errorf("without any keys: %v", err)
		}
		s.set(t, jwk(t, &keyA().PublicKey, "ka"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		synctest.Wait()
		if _, err := v.Verify(t.Context(), good(t), ""); err != nil {
			t.Fatal(err)
		}
		for name, broken := range map[string]*string{"down": nil, "empty": new(`{"keys":[]}`), "nonsense": new(`<html>`), "shared secret": new(`{"keys":[{"kty":"oct","kid":"ka","k":"c2VjcmV0"}]}`)} {
			s.body.Store(broken)
			time.Sleep(2 * time.Hour)
			if _, err := v.Verify(t.Context(), good(t), ""); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		time.Sleep(24 * time.Hour)
		if _, err := v.Verify(t.Context(), good(t), ""); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
			t.Errorf("after a day: %v", err)
		}
		s.set(t, jwk(t, &keyA().PublicKey, "ka"))
		time.Sleep(time.Minute)
		if _, err := v.Verify(t.Context(), good(t), ""); err != nil {
			t.Errorf("back again: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWeakAndOddKeysAreLeftOut(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	s := &jwksServer{}
	enc, err := jwkset.NewJWKFromKey(&keyB().PublicKey, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "enc", USE: jwkset.UseEnc}})
	if err != nil {
		t.Fatal(err)
	}
	s.set(t, jwk(t, &weak.PublicKey, "weak"), enc, jwk(t, &keyA().PublicKey, "ka"))
	v := remoteVerifier(t, s)
	for kid, key := range map[string]crypto.Signer{"weak": weak, "enc": keyB()} {
		tok := sign(t, jwt.SigningMethodRS256, key, map[string]any{"kid": kid}, claims())
		if _, err := v.Verify(t.Context(), tok, ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
			t.Errorf("%s: %v", kid, err)
		}
	}
	if _, err := v.Verify(t.Context(), good(t), ""); err != nil {
		t.Error(err)
	}
}

func TestCallerMayLeaveWhileKeysAreRead(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &jwksServer{}
	v := remoteVerifier(t, s)
	cancel()
	if _, err := v.Verify(ctx, good(t), ""); err == nil {
		t.Error("verified without keys")
	}
	if s.asked.Load() > 1 {
		t.Error("asked more than once")
	}
}

func TestConfigMistakesAreAllNamed(t *testing.T) {
	err := auth.Config{
		Issuers:    []auth.Issuer{{}, {Issuer: "x", Audience: []string{""}, JWKSURL: "file:///etc/passwd", Tenants: []string{"No"}}, {Issuer: "x", Audience: []string{"a"}}},
		Algorithms: []string{"HS256", "none"}, ClockSkew: time.Hour, CacheTTL: time.Hour, CacheSize: -1, KeysRefresh: 1,
	}.Validate()
	err = errors.Join(err, auth.Config{KeysMaxAge: time.Second}.Validate())
	for _, want := range []string{
		"issuers[0].issuer", "issuers[0].audience", "issuers[1].audience", "issuers[1].jwks_url", "issuers[1].tenants", "issuers[2].issuer",
		`"HS256"`, `"none"`, "clock_skew", "cache_ttl", "cache_size", "keys_refresh", "keys_max_age",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	for name, is := range map[string]auth.Issuer{
		"no keys, not discovered": {Issuer: issA, Discover: new(false)},
		"a name that is no URL":   {Issuer: "corp"},
		"a name in clear text":    {Issuer: "http://a.example"},
		"DPoP without own URL":    {Issuer: issA, DPoP: "required"},
	} {
		is.Audience = []string{aud}
		if _, err := auth.New(auth.Config{Issuers: []auth.Issuer{is}}, auth.Deps{}); err == nil {
			t.Errorf("accepted %s", name)
		}
	}
}

func FuzzVerify(f *testing.F) {
	v := newVerifier(f, nil)
	tok := good(f)
	f.Add(tok)
	f.Add("a.b.c")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"ka","typ":"JWT"}`)) + ".e30.")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := v.Verify(t.Context(), s, "")
		if err == nil && (s != tok || p.Subject != "ann") {
			t.Errorf("accepted %q", s)
		}
	})
}
