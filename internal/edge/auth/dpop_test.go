package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas/internal/edge/auth"
)

const public = "https://atlas.example"

var b64 = base64.RawURLEncoding

// A prover is a client with a key: it asks for tokens that are bound to it, and makes proofs.
type prover struct {
	method jwt.SigningMethod
	key    crypto.Signer
	jwk    map[string]any
	jkt    string
}

func newProver(t testing.TB) *prover {
	t.Helper()
	return proverOf(t, jwt.SigningMethodES256, newEC())
}

func proverOf(t testing.TB, m jwt.SigningMethod, key crypto.Signer) *prover {
	t.Helper()
	p := &prover{method: m, key: key}
	var canonical string
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		raw, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := (len(raw) - 1) / 2
		x, y, crv := b64.EncodeToString(raw[1:1+half]), b64.EncodeToString(raw[1+half:]), k.Curve.Params().Name
		p.jwk = map[string]any{"kty": "EC", "crv": crv, "x": x, "y": y}
		canonical = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, crv, x, y)
	case ed25519.PublicKey:
		x := b64.EncodeToString(k)
		p.jwk = map[string]any{"kty": "OKP", "crv": "Ed25519", "x": x}
		canonical = fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":%q}`, x)
	case *rsa.PublicKey:
		n, e := b64.EncodeToString(k.N.Bytes()), b64.EncodeToString(big.NewInt(int64(k.E)).Bytes())
		p.jwk = map[string]any{"kty": "RSA", "n": n, "e": e}
		canonical = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, e, n)
	}
	sum := sha256.Sum256([]byte(canonical))
	p.jkt = b64.EncodeToString(sum[:])
	return p
}

// token returns a token of issuer A that is bound to the prover's key.
func (p *prover) token(t testing.TB, kv ...any) string {
	t.Helper()
	return good(t, append([]any{"cnf", map[string]any{"jkt": p.jkt}}, kv...)...)
}

func ath(token string) string {
	sum := sha256.Sum256([]byte(token))
	return b64.EncodeToString(sum[:])
}

// proof returns a proof for one POST /mcp with the token, changed by kv pairs; a name with "header." before
// it changes the header, nil removes.
func (p *prover) proof(t testing.TB, token string, kv ...any) string {
	t.Helper()
	tok := jwt.NewWithClaims(p.method, nil)
	c := jwt.MapClaims{"htm": "POST", "htu": public + "/mcp", "iat": time.Now().Unix(), "jti": rand.Text(), "ath": ath(token)}
	tok.Claims = c
	tok.Header["typ"], tok.Header["jwk"] = "dpop+jwt", p.jwk
	for i := 0; i < len(kv); i += 2 {
		into, name := map[string]any(c), kv[i].(string)
		if h, ok := strings.CutPrefix(name, "header."); ok {
			into, name = tok.Header, h
		}
		if into[name] = kv[i+1]; kv[i+1] == nil {
			delete(into, name)
		}
	}
	s, err := tok.SignedString(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (p *prover) request(t testing.TB, token string, kv ...any) *http.Request {
	t.Helper()
	return sent(t, "DPoP "+token, p.proof(t, token, kv...))
}

func sent(t testing.TB, authorization string, proofs ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://10.1.2.3:8080/mcp?x=1", nil)
	r.Header.Set("Authorization", authorization)
	for _, p := range proofs {
		r.Header.Add("DPoP", p)
	}
	return r
}

func dpopVerifier(t testing.TB, change func(*auth.Config, *auth.Deps)) *auth.Verifier {
	t.Helper()
	return newVerifier(t, func(c *auth.Config, d *auth.Deps) {
		d.PublicURL = public
		if change != nil {
			change(c, d)
		}
	})
}

// serve sends one request through the middleware. The status is 200 if it came through.
func serve(v *auth.Verifier, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
	return w
}

func TestProofOfPossession(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*prover{
		newProver(t), proverOf(t, jwt.SigningMethodES384, p384), proverOf(t, jwt.SigningMethodEdDSA, ed),
		proverOf(t, jwt.SigningMethodRS256, keyB()), proverOf(t, jwt.SigningMethodPS256, keyB()),
	} {
		v := dpopVerifier(t, nil)
		tok := p.token(t)
		for range 2 { // the token is cached then; the proof is checked all the same
			if w := serve(v, p.request(t, tok)); w.Code != http.StatusOK {
				t.Fatalf("%s: %d %s", p.method.Alg(), w.Code, w.Body)
			}
			if w := serve(v, sent(t, "DPoP "+tok)); w.Code != http.StatusUnauthorized {
				t.Errorf("%s: without a proof: %d", p.method.Alg(), w.Code)
			}
			if w := serve(v, sent(t, "Bearer "+tok)); w.Code != http.StatusUnauthorized {
				t.Errorf("%s: as a bearer token: %d", p.method.Alg(), w.Code)
			}
			if w := serve(v, sent(t, "Bearer "+tok, p.proof(t, tok))); w.Code != http.StatusUnauthorized {
				t.Errorf("%s: as a bearer token, with a proof: %d", p.method.Alg(), w.Code)
			}
		}
	}
}

func TestThumbprintOfRFC7638(t *testing.T) {
	// The example of RFC 7638 section 3.1.
	jwk := map[string]any{
		"kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
		"n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
	}
	if got, err := auth.Thumbprint(jwk); err != nil || got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("%s %v", got, err)
	}
}

func TestKeysThatProveNothing(t *testing.T) {
	zero := strings.Repeat("A", 43)
	p := newProver(t).jwk
	for name, jwk := range map[string]map[string]any{
		"nothing":            nil,
		"a small modulus":    {"kty": "RSA", "n": b64.EncodeToString(append([]byte{0x80}, make([]byte, 127)...)), "e": "AQAB"},
		"a huge modulus":     {"kty": "RSA", "n": b64.EncodeToString(append([]byte{0x80}, make([]byte, 1100)...)), "e": "AQAB"},
		"exponent one":       {"kty": "RSA", "n": b64.EncodeToString(keyB().N.Bytes()), "e": "AQ"},
		"an even exponent":   {"kty": "RSA", "n": b64.EncodeToString(keyB().N.Bytes()), "e": "AQAC"},
		"a leading zero":     {"kty": "RSA", "n": b64.EncodeToString(append([]byte{0}, keyB().N.Bytes()...)), "e": "AQAB"},
		"the point zero":     {"kty": "EC", "crv": "P-256", "x": zero, "y": zero},
		"another curve":      {"kty": "EC", "crv": "P-384", "x": p["x"], "y": p["y"]},
		"an unknown curve":   {"kty": "EC", "crv": "secp256k1", "x": p["x"], "y": p["y"]},
		"a short coordinate": {"kty": "EC", "crv": "P-256", "x": "AQ", "y": p["y"]},
		"X25519":             {"kty": "OKP", "crv": "X25519", "x": zero},
		"a shared secret":    {"kty": "oct", "k": zero},
		"no kind":            {"crv": "P-256", "x": p["x"], "y": p["y"]},
	} {
		if thumb, err := auth.Thumbprint(jwk); err == nil {
			t.Errorf("%s: accepted as %s", name, thumb)
		}
	}
}

func TestBadProofs(t *testing.T) {
	p, thief := newProver(t), newProver(t)
	tok := p.token(t)
	now := time.Now()
	ec := p.key.(*ecdsa.PrivateKey)
	d, err := ec.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	private := map[string]any{"d": b64.EncodeToString(d)}
	symmetric := map[string]any{"kty": "oct", "k": "c2VjcmV0"}
	maps.Copy(private, p.jwk)
	padded := maps.Clone(p.jwk)
	padded["x"] = p.jwk["x"].(string) + "="
	hs := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"htm": "POST", "htu": public + "/mcp", "iat": now.Unix(), "jti": "1", "ath": ath(tok)})
	hs.Header["typ"], hs.Header["jwk"] = "dpop+jwt", symmetric
	shared, err := hs.SignedString([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(p.proof(t, tok), ".")
	twice := func(part, dup string) string {
		raw, err := b64.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		return b64.EncodeToString([]byte("{" + dup + "," + string(raw[1:])))
	}
	for _, tt := range []struct{ name, proof, why string }{
		{"of another key", thief.proof(t, tok), "another key"},
		{"of another key, with our jwk", thief.proof(t, tok, "header.jwk", p.jwk), "signature"},
		{"for another token", p.proof(t, tok, "ath", ath(p.token(t, "jti", "t2"))), "ath"},
		{"without ath", p.proof(t, tok, "ath", nil), "ath"},
		{"for another method", p.proof(t, tok, "htm", "GET"), "htm"},
		{"method in lower case", p.proof(t, tok, "htm", "post"), "htm"},
		{"for another path", p.proof(t, tok, "htu", public+"/admin/v1/approvals"), "htu"},
		{"for another host", p.proof(t, tok, "htu", "https://atlas.example.evil.example/mcp"), "htu"},
		{"for the address behind the proxy", p.proof(t, tok, "htu", "http://10.1.2.3:8080/mcp"), "htu"},
		{"in clear text", p.proof(t, tok, "htu", "http://atlas.example/mcp"), "htu"},
		{"with credentials", p.proof(t, tok, "htu", "https://x@atlas.example/mcp"), "htu"},
		{"with dot segments", p.proof(t, tok, "htu", public+"/x/../mcp"), "htu"},
		{"without htu", p.proof(t, tok, "htu", nil), "htu"},
		{"htu is a list", p.proof(t, tok, "htu", []string{public + "/mcp"}), "htu"},
		{"old", p.proof(t, tok, "iat", now.Add(-62*time.Second).Unix()), "ago"},
		{"from the future", p.proof(t, tok, "iat", now.Add(2*time.Minute).Unix()), "ahead"},
		{"without iat", p.proof(t, tok, "iat", nil), "iat"},
		{"iat is text", p.proof(t, tok, "iat", "now"), "iat"},
		{"without jti", p.proof(t, tok, "jti", nil), "jti"},
		{"jti too long", p.proof(t, tok, "jti", strings.Repeat("j", 257)), "jti"},
		{"typ of a token", p.proof(t, tok, "header.typ", "at+jwt"), "typ"},
		{"no typ", p.proof(t, tok, "header.typ", nil), "typ"},
		{"no jwk", p.proof(t, tok, "header.jwk", nil), "jwk"},
		{"private jwk", p.proof(t, tok, "header.jwk", private), "jwk"},
		{"shared secret", shared, "alg"},
		{"jwk in another spelling", p.proof(t, tok, "header.jwk", padded), "jwk"},
		{"a point off the curve", p.proof(t, tok, "header.jwk", map[string]any{"kty": "EC", "crv": "P-256", "x": p.jwk["x"], "y": p.jwk["x"]}), "jwk"},
		{"crit", p.proof(t, tok, "header.crit", []string{"x"}), "crit"},
		{"alg none", b64.EncodeToString([]byte(`{"alg":"none","typ":"dpop+jwt"}`)) + "." + parts[1] + ".", "JWT"},
		{"name twice in the header", twice(parts[0], `"typ":"x"`) + "." + parts[1] + "." + parts[2], "JWT"},
		{"name twice in the claims", parts[0] + "." + twice(parts[1], `"htm":"GET"`) + "." + parts[2], "JWT"},
		{"changed", parts[0] + "." + b64.EncodeToString([]byte(`{}`)) + "." + parts[2], "signature"},
		{"garbage", "x", "JWT"},
		{"empty", "", "JWT"},
		{"very long", strings.Repeat("x", 9000), "long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := dpopVerifier(t, nil)
			w := serve(v, sent(t, "DPoP "+tok, tt.proof))
			challenge := w.Header().Get("WWW-Authenticate")
			if w.Code != http.StatusUnauthorized || !strings.Contains(challenge, `DPoP realm="atlas", error="invalid_dpop_proof"`) || !strings.Contains(challenge, tt.why) {
				t.Errorf("%d %s", w.Code, challenge)
			}
			if bearer, _, _ := strings.Cut(challenge, "DPoP"); strings.Contains(bearer, "error") {
				t.Errorf("a bearer token is blamed: %s", challenge)
			}
			if strings.Contains(w.Body.String()+challenge, tok) {
				t.Error("the token comes back")
			}
		})
	}
	v := dpopVerifier(t, nil)
	if w := serve(v, sent(t, "DPoP "+tok, p.proof(t, tok), p.proof(t, tok))); w.Code != http.StatusUnauthorized {
		t.Errorf("two proofs: %d", w.Code)
	}
	if w := serve(v, p.request(t, good(t))); w.Code != http.StatusUnauthorized || !strings.Contains(w.Header().Get("WWW-Authenticate"), `DPoP realm="atlas", error="invalid_token"`) {
		t.Errorf("a token that is not bound: %d %v", w.Code, w.Header())
	}
	for _, cnf := range []any{nil, "x", map[string]any{}, map[string]any{"x5t#S256": p.jkt}, map[string]any{"jkt": p.jkt, "x5t#S256": p.jkt}, map[string]any{"jkt": 1}, map[string]any{"jkt": "short"}} {
		c := claims()
		c["cnf"] = cnf // nil stays: null is not nothing
		odd := sign(t, jwt.SigningMethodES256, keyA(), kidA, c)
		for _, r := range []*http.Request{sent(t, "Bearer "+odd), p.request(t, odd)} {
			if w := serve(v, r); w.Code != http.StatusUnauthorized {
				t.Errorf("cnf %v: %d", cnf, w.Code)
			}
		}
	}
}

func TestURLsAreComparedNormalised(t *testing.T) {
	p := newProver(t)
	tok := p.token(t)
	for htu, want := range map[string]int{
		"https://atlas.example/mcp":       200,
		"HTTPS://Atlas.Example/mcp":       200,
		"https://atlas.example:443/mcp":   200,
		"https://atlas.example/mcp?x=2":   200,
		"https://atlas.example/mcp#f":     200,
		"https://atlas.example/%6d%63p":   200,
		"https://atlas.example/mcp/":      401,
		"https://atlas.example/MCP":       401,
		"https://atlas.example:8443/mcp":  401,
		"https://atlas.example/mcp%2F":    401,
		"https://atlas.example//mcp":      401,
		"https://atlas.example\\@x/mcp":   401,
		"https://atlas.example%2Fmcp":     401,
		"//atlas.example/mcp":             401,
		"https:atlas.example/mcp":         401,
		"https://atlas.example/%zz/../..": 401,
		"?https://atlas.example/mcp":      401,
	} {
		if w := serve(dpopVerifier(t, nil), p.request(t, tok, "htu", htu)); w.Code != want {
			t.Errorf("%s: %d, want %d", htu, w.Code, want)
		}
	}
	prefixed := dpopVerifier(t, func(_ *auth.Config, d *auth.Deps) { d.PublicURL = "https://Atlas.example:443/tools/" })
	for htu, want := range map[string]int{"https://atlas.example/tools/mcp": 200, "https://atlas.example/mcp": 401} {
		if w := serve(prefixed, p.request(t, tok, "htu", htu)); w.Code != want {
			t.Errorf("behind a prefix, %s: %d, want %d", htu, w.Code, want)
		}
	}
}

func TestReplayedProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProver(t)
		v := dpopVerifier(t, nil)
		tok := p.token(t)
		proof := p.proof(t, tok, "iat", time.Now().Add(5*time.Second).Unix()) // good for as long as can be
		if w := serve(v, sent(t, "DPoP "+tok, proof)); w.Code != http.StatusOK {
			t.Fatal(w.Body)
		}
		for range 80 { // past the end of the window, with other proofs between
			if w := serve(v, sent(t, "DPoP "+tok, proof)); w.Code != http.StatusUnauthorized {
				t.Fatalf("replayed: %d", w.Code)
			}
			if w := serve(v, p.request(t, tok)); w.Code != http.StatusOK {
				t.Fatalf("another proof: %s", w.Body)
			}
			time.Sleep(time.Second)
		}
		// The jti is one client's own: another's may be the same.
		q := newProver(t)
		other := q.token(t)
		for _, r := range []*http.Request{p.request(t, tok, "jti", "same"), q.request(t, other, "jti", "same")} {
			if w := serve(v, r); w.Code != http.StatusOK {
				t.Error(w.Body)
			}
		}
		if w := serve(v, q.request(t, other, "jti", "same")); w.Code != http.StatusUnauthorized {
			t.Errorf("the second time: %d", w.Code)
		}
	})
}

func TestReplayRace(t *testing.T) {
	p := newProver(t)
	v := dpopVerifier(t, nil)
	tok := p.token(t)
	proof := p.proof(t, tok)
	var passed atomic.Int32
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if serve(v, sent(t, "DPoP "+tok, proof)).Code == http.StatusOK {
				passed.Add(1)
			}
		})
	}
	wg.Wait()
	if n := passed.Load(); n != 1 {
		t.Errorf("one proof was taken %d times", n)
	}
}

// A tenant that sends more proofs than are remembered waits. It neither pushes out its own proofs, which
// could then be replayed, nor keeps other tenants out.
func TestProofsOfOneTenantDoNotTouchAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProver(t)
		v := dpopVerifier(t, func(c *auth.Config, _ *auth.Deps) { c.DPoP.Replays = 10 })
		acme, globex := p.token(t), p.token(t, "tenant", "globex")
		first := p.proof(t, acme)
		if w := serve(v, sent(t, "DPoP "+acme, first)); w.Code != http.StatusOK {
			t.Fatal(w.Body)
		}
		for i := range 20 {
			w := serve(v, p.request(t, acme))
			if want := i < 9; (w.Code == http.StatusOK) != want || !want && (w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "") {
				t.Fatalf("proof %d: %d %s", i, w.Code, w.Body)
			}
		}
		if w := serve(v, p.request(t, globex)); w.Code != http.StatusOK {
			t.Errorf("another tenant: %s", w.Body)
		}
		if w := serve(v, sent(t, "DPoP "+acme, first)); w.Code != http.StatusUnauthorized {
			t.Errorf("replayed: %d", w.Code)
		}
		time.Sleep(66 * time.Second)
		if w := serve(v, p.request(t, acme)); w.Code != http.StatusOK {
			t.Errorf("later: %s", w.Body)
		}
	})
}

func TestReplaysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := auth.NewReplays(time.Minute, 100, 300)
		for i := range 5000 {
			s.First(fmt.Sprint("t", i%50), fmt.Sprint(i), time.Now())
		}
		if n := s.Held(); n > 600 || n < 300 {
			t.Errorf("%d proofs are held", n)
		}
		if !s.First("newcomer", "x", time.Now()) {
			t.Error("a tenant with nothing was kept out by the others")
		}
		time.Sleep(3 * time.Minute)
		s.First("t0", "y", time.Now())
		if n := s.Held(); n != 1 {
			t.Errorf("%d proofs are held after all have expired", n)
		}
		if n := s.Tenants(); n != 1 {
			t.Errorf("%d tenants are held", n)
		}
	})
}

func TestNonces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProver(t)
		key := []byte("0123456789abcdef0123456789abcdef")
		with := func(k []byte) *auth.Verifier {
			return dpopVerifier(t, func(c *auth.Config, d *auth.Deps) { c.DPoP.Nonces, d.NonceKey = true, k })
		}
		v, twin, foreign := with(key), with(key), with(nil)
		tok := p.token(t)
		w := serve(v, p.request(t, tok))
		nonce := w.Header().Get("DPoP-Nonce")
		if w.Code != http.StatusUnauthorized || nonce == "" || !strings.Contains(w.Header().Get("WWW-Authenticate"), `error="use_dpop_nonce"`) {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
		for name, tt := range map[string]struct {
			v     *auth.Verifier
			nonce string
			want  int
		}{
			"ours": {v, nonce, 200}, "of a server with the same key": {twin, nonce, 200}, "of a server with another": {foreign, nonce, 401},
			"changed": {v, nonce[:len(nonce)-1] + "!", 401}, "empty": {v, "", 401},
		} {
			if w := serve(tt.v, p.request(t, tok, "nonce", tt.nonce)); w.Code != tt.want || w.Header().Get("DPoP-Nonce") == "" {
				t.Errorf("%s: %d %v", name, w.Code, w.Header())
			}
		}
		// The client's clock may be off now; the nonce says how old the proof is.
		if w := serve(v, p.request(t, tok, "nonce", nonce, "iat", time.Now().Add(-4*time.Minute).Unix())); w.Code != http.StatusOK {
			t.Errorf("a slow clock: %s", w.Body)
		}
		time.Sleep(150 * time.Second)
		w = serve(v, p.request(t, tok, "nonce", nonce))
		next := w.Header().Get("DPoP-Nonce")
		if w.Code != http.StatusOK || next == nonce {
			t.Errorf("half way: %d, the same nonce %v", w.Code, next == nonce)
		}
		time.Sleep(151 * time.Second)
		if w := serve(v, p.request(t, tok, "nonce", nonce)); w.Code != http.StatusUnauthorized {
			t.Errorf("an old nonce: %d", w.Code)
		}
		if w := serve(v, p.request(t, tok, "nonce", next)); w.Code != http.StatusOK {
			t.Errorf("the next nonce: %s", w.Body)
		}
		// A bad token is not asked for a nonce, and a good bearer token needs none.
		if w := serve(v, sent(t, "DPoP x", p.proof(t, tok))); strings.Contains(w.Header().Get("WWW-Authenticate"), "nonce") {
			t.Error(w.Header())
		}
		if w := serve(v, sent(t, "Bearer "+good(t))); w.Code != http.StatusOK {
			t.Errorf("bearer: %s", w.Body)
		}
	})
}

func TestDPoPModes(t *testing.T) {
	p := newProver(t)
	bound, bearer := p.token(t), good(t)
	for _, tt := range []struct {
		mode                string
		boundOK, bearerOK   bool
		wantDPoP, wantPlain bool
	}{
		{"", true, true, true, true},
		{"optional", true, true, true, true},
		{"required", true, false, true, false},
		{"off", false, true, false, true},
	} {
		v := dpopVerifier(t, func(c *auth.Config, _ *auth.Deps) {
			for i := range c.Issuers {
				c.Issuers[i].DPoP = tt.mode
			}
		})
		if w := serve(v, p.request(t, bound)); (w.Code == http.StatusOK) != tt.boundOK {
			t.Errorf("%q, bound: %d %s", tt.mode, w.Code, w.Body)
		}
		w := serve(v, sent(t, "Bearer "+bearer))
		if (w.Code == http.StatusOK) != tt.bearerOK {
			t.Errorf("%q, bearer: %d %s", tt.mode, w.Code, w.Body)
		}
		if w := serve(v, sent(t, "Bearer "+bound)); w.Code != http.StatusUnauthorized {
			t.Errorf("%q, bound as bearer: %d", tt.mode, w.Code)
		}
		c := serve(v, sent(t, "")).Header().Get("WWW-Authenticate")
		if strings.Contains(c, `algs="ES256 ES384 EdDSA PS256 RS256"`) != tt.wantDPoP || strings.HasPrefix(c, "Bearer ") != tt.wantPlain {
			t.Errorf("%q: %s", tt.mode, c)
		}
	}
	// One issuer's setting is not another's.
	v := dpopVerifier(t, func(c *auth.Config, _ *auth.Deps) { c.Issuers[1].DPoP = "required" })
	if w := serve(v, sent(t, "Bearer "+bearer)); w.Code != http.StatusOK {
		t.Errorf("issuer A: %s", w.Body)
	}
	ofB := sign(t, jwt.SigningMethodRS256, keyB(), map[string]any{"kid": "kb"}, claims("iss", issB, "tenant", "globex"))
	if w := serve(v, sent(t, "Bearer "+ofB)); w.Code != http.StatusUnauthorized {
		t.Errorf("issuer B: %d", w.Code)
	}
}

func TestProofIsNoToken(t *testing.T) {
	v := dpopVerifier(t, nil)
	p := newProver(t)
	proof := p.proof(t, p.token(t), "iss", issA, "aud", aud, "sub", "ann", "tenant", "acme", "exp", time.Now().Add(time.Hour).Unix(), "header.kid", "ka")
	for _, scheme := range []string{"Bearer ", "DPoP "} {
		if w := serve(v, sent(t, scheme+proof, proof)); w.Code != http.StatusUnauthorized {
			t.Errorf("%s: %d", scheme, w.Code)
		}
	}
}

func FuzzProof(f *testing.F) {
	p := newProver(f)
	tok := good(f, "cnf", map[string]any{"jkt": p.jkt})
	v := dpopVerifier(f, nil)
	ours := p.proof(f, tok)
	f.Add(ours)
	f.Add("a.b.c")
	for _, header := range []string{
		`{"alg":"none","typ":"dpop+jwt"}`, `{"alg":"ES256","typ":"dpop+jwt","jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}`,
		`{"alg":"EdDSA","typ":"dpop+jwt","jwk":{"kty":"OKP","crv":"Ed25519","x":""}}`, `{"alg":"RS256","typ":"dpop+jwt","jwk":{"kty":"RSA","n":"AA","e":"AQAB"}}`,
	} {
		f.Add(b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(`{"htm":"POST","iat":1e300}`)) + ".AA")
	}
	f.Fuzz(func(t *testing.T, proof string) {
		if w := serve(v, sent(t, "DPoP "+tok, proof)); w.Code == http.StatusOK && proof != ours {
			t.Errorf("accepted %q", proof)
		}
	})
}

func FuzzJWK(f *testing.F) {
	raw, err := json.Marshal(newProver(f).jwk)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(raw))
	f.Add(`{"kty":"RSA","n":"AQAB","e":"AQAB"}`)
	f.Add(`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`)
	f.Fuzz(func(t *testing.T, s string) {
		var jwk map[string]any
		if json.Unmarshal([]byte(s), &jwk) != nil {
			return
		}
		if thumb, err := auth.Thumbprint(jwk); err == nil && len(thumb) != 43 {
			t.Errorf("thumbprint %q", thumb)
		}
	})
}
