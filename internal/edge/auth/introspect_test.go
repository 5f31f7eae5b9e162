package auth_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
)

const askA = "https://a.example/introspect"

// knows answers introspection requests: by token, what the issuer knows of it.
func (w *web) knows(t testing.TB, at string, tokens map[string]jwt.MapClaims) {
	w.serve(at, func(r *http.Request) (int, string) {
		if err := r.ParseForm(); err != nil || r.Method != http.MethodPost {
			t.Errorf("not a form: %v", err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		user, password, _ := r.BasicAuth()
		w.sent = append(w.sent, user+":"+password+" "+r.PostForm.Encode())
		c, ok := tokens[r.PostForm.Get("token")]
		if !ok {
			return http.StatusOK, `{"active":false}`
		}
		raw, err := json.Marshal(c)
		if err != nil {
			t.Error(err)
		}
		return http.StatusOK, string(raw)
	})
}

func asking(change ...func(*auth.Issuer)) auth.Issuer {
	is := auth.Issuer{Issuer: issA, Discover: new(false), Introspection: &auth.Introspection{URL: askA, ClientID: "atlas mcp", ClientSecret: "p&ss:word"}}
	for _, f := range change {
		f(&is)
	}
	return is
}

func active(kv ...any) jwt.MapClaims { return claims(append([]any{"active", true}, kv...)...) }

func TestOpaqueToken(t *testing.T) {
	w := newWeb()
	known := map[string]jwt.MapClaims{"opaque-1": active(), "opaque-2": active("iss", nil, "jti", nil, "act", nil)}
	w.knows(t, askA, known)
	v := verifierOf(t, w, asking())
	for range 3 {
		p, err := v.Verify(t.Context(), "opaque-1", "")
		if err != nil {
			t.Fatal(err)
		}
		copied := *p
		copied.Claims, copied.Expiry = nil, time.Time{}
		want := &atlas.Principal{
			Subject: "ann", Tenant: "acme", Roles: []string{"support", "lead"}, Scopes: []string{"tool:crm:read", "tool:kb:read"},
			Delegator: "agent:copilot", Issuer: issA, TokenID: "t1",
		}
		if d := cmp.Diff(want, &copied); d != "" {
			t.Error("(-want +got):", d)
		}
	}
	if n := w.times(askA); n != 1 {
		t.Errorf("asked %d times", n)
	}
	// RFC 6749 section 2.3.1: both are form-encoded first. The token is in the body.
	if want := "atlas+mcp:p%26ss%3Aword token=opaque-1&token_type_hint=access_token"; w.sent[0] != want {
		t.Errorf("sent %s", w.sent[0])
	}
	if p, err := v.Verify(t.Context(), "opaque-2", ""); err != nil || p.Issuer != issA || !strings.HasPrefix(p.TokenID, "sha256:") {
		t.Errorf("without iss and jti: %+v %v", p, err)
	}
	for name, tok := range map[string]string{
		"unknown": "opaque-3", "a JWT": good(t), "nearly a JWT": "eyJhbGciOiJub25lIn0.e30.", "spaces": "opaque-1 x", "a line break": "opaque-1\n", "quotes": `"opaque-1"`,
	} {
		if _, err := v.Verify(t.Context(), tok, ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range w.sent {
		if strings.Contains(s, "token=ey") {
			t.Error("a JWT was shown to the issuer")
		}
	}
}

func TestOpaqueAnswersAreChecked(t *testing.T) {
	now := time.Now()
	p := newProver(t)
	for _, tt := range []struct {
		name   string
		answer any
		want   atlas.Code
	}{
		{"another issuer", active("iss", issB), atlas.CodeInvalidToken},
		{"iss is a list", active("iss", []string{issA}), atlas.CodeInvalidToken},
		{"another audience", active("aud", "https://else.example"), atlas.CodeInvalidToken},
		{"no audience", active("aud", nil), atlas.CodeInvalidToken},
		{"expired", active("exp", now.Add(-time.Hour).Unix()), atlas.CodeTokenExpired},
		{"no exp", active("exp", nil), atlas.CodeInvalidToken},
		{"not yet", active("nbf", now.Add(time.Hour).Unix()), atlas.CodeInvalidToken},
		{"no subject", active("sub", nil), atlas.CodeInvalidToken},
		{"no tenant", active("tenant", nil), atlas.CodeNoTenant},
		{"bad act", active("act", "x"), atlas.CodeInvalidToken},
		{"bound", active("cnf", map[string]any{"jkt": p.jkt}), atlas.CodeInvalidToken}, // as a bearer token
		{"said to be bound", active("token_type", "DPoP"), atlas.CodeInvalidToken},
		{"inactive", active("active", false), atlas.CodeInvalidToken},
		{"active is text", active("active", "true"), atlas.CodeStateUnavailable},
		{"nothing said", claims(), atlas.CodeStateUnavailable},
		{"a list", []any{active()}, atlas.CodeStateUnavailable},
		{"good", active("token_type", "Bearer"), ""},
	} {
		w := newWeb()
		raw, err := json.Marshal(tt.answer)
		if err != nil {
			t.Fatal(err)
		}
		w.put(askA, string(raw))
		if _, err := verifierOf(t, w, asking()).Verify(t.Context(), "opaque", ""); atlas.CodeOf(err) != tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for name, page := range map[string]func(*http.Request) (int, string){
		"our client is refused": func(*http.Request) (int, string) { return http.StatusUnauthorized, `{"error":"invalid_client"}` },
		"an error":              func(*http.Request) (int, string) { return http.StatusInternalServerError, `{"active":true}` },
		"active twice":          func(*http.Request) (int, string) { return http.StatusOK, `{"active":false,"active":true}` },
		"no JSON":               func(*http.Request) (int, string) { return http.StatusOK, `<html>` },
		"very large": func(*http.Request) (int, string) {
			return http.StatusOK, `{"active":true,"x":"` + strings.Repeat("x", 300<<10) + `"}`
		},
		"down": nil,
	} {
		w := newWeb()
		w.serve(askA, page)
		_, err := verifierOf(t, w, asking()).Verify(t.Context(), "opaque", "")
		if e := atlas.ErrorOf(err); e == nil || e.Code != atlas.CodeStateUnavailable || e.RetryAfter == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A bound opaque token needs a proof, as a JWT does.
func TestOpaqueTokenWithProof(t *testing.T) {
	p, w := newProver(t), newWeb()
	w.knows(t, askA, map[string]jwt.MapClaims{"opaque": active("cnf", map[string]any{"jkt": p.jkt}, "token_type", "DPoP")})
	v := verifierOf(t, w, asking())
	for range 2 {
		if w := serve(v, p.request(t, "opaque")); w.Code != http.StatusOK {
			t.Error(w.Body)
		}
	}
	if n := w.times(askA); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestIntrospectionIsCachedAndShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		known := map[string]jwt.MapClaims{"good": active(), "short": active("jti", "t2", "exp", time.Now().Add(5*time.Second).Unix())}
		w.knows(t, askA, known)
		w.slow[askA] = time.Second
		v := verifierOf(t, w, asking())
		verify := func(tok string) atlas.Code {
			_, err := v.Verify(t.Context(), tok, "")
			return atlas.CodeOf(err)
		}
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				if c := verify("good"); c != "" {
					t.Error(c)
				}
			})
			wg.Go(func() {
				if c := verify("bad"); c != atlas.CodeInvalidToken {
					t.Error(c)
				}
			})
		}
		wg.Wait()
		if n := w.times(askA); n != 2 {
			t.Errorf("two tokens, asked %d times", n)
		}
		w.mu.Lock()
		delete(known, "good") // revoked at the issuer
		w.mu.Unlock()
		time.Sleep(58 * time.Second)
		if c := verify("good"); c != "" {
			t.Errorf("within a minute: %s", c)
		}
		time.Sleep(3 * time.Second)
		if c := verify("good"); c != atlas.CodeInvalidToken {
			t.Errorf("after a minute: %q", c)
		}
		// A token that was unknown may become known: the answer is kept for ten seconds only.
		w.mu.Lock()
		known["bad"] = active()
		w.mu.Unlock()
		if c := verify("bad"); c != "" {
			t.Errorf("known by now: %s", c)
		}
	})
}

func TestIntrospectionCacheCanBeShorter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		w.knows(t, askA, map[string]jwt.MapClaims{"good": active()})
		v := verifierOf(t, w, asking(func(is *auth.Issuer) { is.Introspection.CacheTTL = 5 * time.Second }))
		for range 4 {
			if _, err := v.Verify(t.Context(), "good", ""); err != nil {
				t.Error(err)
			}
			time.Sleep(3 * time.Second)
		}
		if n := w.times(askA); n != 2 {
			t.Errorf("asked %d times in 9 s", n)
		}
	})
}

func TestGarbageDoesNotHammerIntrospection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		known := map[string]jwt.MapClaims{}
		for i := range 300 {
			known[fmt.Sprint("good", i)] = active("jti", fmt.Sprint(i))
		}
		w.knows(t, askA, known)
		v := verifierOf(t, w, asking())
		for i := range 300 { // many good tokens use nothing up
			if _, err := v.Verify(t.Context(), fmt.Sprint("good", i), ""); err != nil {
				t.Fatal(err)
			}
		}
		refused := 0
		for i := range 3000 {
			switch _, err := v.Verify(t.Context(), fmt.Sprint("garbage", i), ""); atlas.CodeOf(err) {
			case atlas.CodeInvalidToken:
			case atlas.CodeStateUnavailable:
				refused++
			default:
				t.Fatal(err)
			}
		}
		if n := w.times(askA) - 300; n > 110 || refused < 2800 {
			t.Errorf("3000 made-up tokens, asked %d times, %d refused unasked", n, refused)
		}
		if _, err := v.Verify(t.Context(), "good7", ""); err != nil {
			t.Errorf("a known token in the flood: %v", err)
		}
		time.Sleep(2 * time.Second)
		w.mu.Lock()
		known["new"] = active()
		w.mu.Unlock()
		if _, err := v.Verify(t.Context(), "new", ""); err != nil {
			t.Errorf("a new token after the flood: %v", err)
		}
	})
}

func TestIntrospectionOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		known := map[string]jwt.MapClaims{"good": active(), "later": active("jti", "t2")}
		w.knows(t, askA, known)
		v := verifierOf(t, w, asking())
		if _, err := v.Verify(t.Context(), "good", ""); err != nil {
			t.Fatal(err)
		}
		w.serve(askA, nil)
		for range 50 {
			if _, err := v.Verify(t.Context(), "later", ""); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
				t.Errorf("down: %v", err)
			}
		}
		if n := w.times(askA); n > 2 {
			t.Errorf("an issuer that is down was asked %d times at once", n)
		}
		if _, err := v.Verify(t.Context(), "good", ""); err != nil {
			t.Errorf("a cached token: %v", err)
		}
		w.knows(t, askA, known)
		time.Sleep(2 * time.Second)
		if _, err := v.Verify(t.Context(), "later", ""); err != nil {
			t.Errorf("back again: %v", err)
		}
		// One caller leaves; the other gets his answer.
		w.slow[askA] = time.Second
		w.mu.Lock()
		known["third"] = active("jti", "t3")
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := v.Verify(ctx, "third", ""); err == nil {
				t.Error("an answer for who has left")
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := v.Verify(t.Context(), "third", ""); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		time.Sleep(time.Minute)
	})
}

// A token is shown to the issuer that its prefix names, and to no other.
func TestOpaqueTokensGoToTheirOwnIssuer(t *testing.T) {
	const askB = "https://b.example/introspect"
	w := newWeb()
	w.knows(t, askA, map[string]jwt.MapClaims{"a_1": active()})
	w.knows(t, askB, map[string]jwt.MapClaims{"b_1": active("iss", issB, "tenant", "globex"), "a_2": active("iss", issB)})
	b := asking(func(is *auth.Issuer) { is.Issuer, is.Introspection.URL, is.Introspection.Prefix = issB, askB, "b_" })
	v := verifierOf(t, w, asking(func(is *auth.Issuer) { is.Introspection.Prefix = "a_" }), b)
	for tok, want := range map[string]string{"a_1": issA, "b_1": issB, "a_2": "", "c_1": "", "": "", "a": ""} {
		p, err := v.Verify(t.Context(), tok, "")
		if (err == nil) != (want != "") || err == nil && p.Issuer != want {
			t.Errorf("%q: %v %v", tok, p, err)
		}
	}
	if a, b := w.times(askA), w.times(askB); a != 2 || b != 1 {
		t.Errorf("asked %d and %d times", a, b)
	}
	for _, prefixes := range [][2]string{{"", ""}, {"a_", ""}, {"a_", "a_"}, {"a_", "a_b"}} {
		x, y := asking(), asking(func(is *auth.Issuer) { is.Issuer = issB })
		x.Introspection.Prefix, y.Introspection.Prefix = prefixes[0], prefixes[1]
		x.Audience, y.Audience = []string{aud}, []string{aud}
		if err := (auth.Config{Issuers: []auth.Issuer{x, y}}).Validate(); err == nil {
			t.Errorf("prefixes %q were accepted", prefixes)
		}
	}
}

// With always, a JWT is verified first and then asked about: forged ones reach nobody.
func TestIntrospectionOfJWTs(t *testing.T) {
	w := newWeb()
	tok := good(t)
	w.put("https://a.example/jwks", jwks(t, jwk(t, &keyA().PublicKey, "ka")))
	w.knows(t, askA, map[string]jwt.MapClaims{tok: active("tenant", "globex")})
	v := verifierOf(t, w, asking(func(is *auth.Issuer) {
		is.Discover, is.JWKSURL, is.Introspection.Always = nil, "https://a.example/jwks", true
	}))
	if p, err := v.Verify(t.Context(), tok, ""); err != nil || p.Tenant != "acme" {
		t.Errorf("the signed claims count: %v %v", p, err)
	}
	if _, err := v.Verify(t.Context(), good(t, "jti", "revoked"), ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
		t.Errorf("revoked: %v", err)
	}
	if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodES256, newEC(), kidA, claims()), ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
		t.Errorf("forged: %v", err)
	}
	if n := w.times(askA); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestPrivateKeyAuthentication(t *testing.T) {
	key := newEC()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	w := newWeb()
	w.knows(t, askA, map[string]jwt.MapClaims{"opaque": active()})
	v := verifierOf(t, w, asking(func(is *auth.Issuer) {
		is.Introspection.ClientSecret, is.Introspection.KeyID = "", "k1"
		is.Introspection.PrivateKey = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}))
	if _, err := v.Verify(t.Context(), "opaque", ""); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(w.sent[0], " ")
	form, err := url.ParseQuery(body)
	if err != nil || form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || !strings.HasPrefix(w.sent[0], ": ") {
		t.Fatalf("%v %s", err, w.sent[0])
	}
	tok, err := jwt.Parse(form.Get("client_assertion"), func(tok *jwt.Token) (any, error) {
		if tok.Header["kid"] != "k1" {
			t.Errorf("header %v", tok.Header)
		}
		return &key.PublicKey, nil
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithAudience(issA), jwt.WithIssuer("atlas mcp"), jwt.WithSubject("atlas mcp"), jwt.WithExpirationRequired())
	if err != nil || tok.Claims.(jwt.MapClaims)["jti"] == "" {
		t.Error(err)
	}
}

func TestPrivateKeysThatCanBeUsed(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dh, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		key  any
		want bool
	}{"P-256": {newEC(), true}, "RSA": {weak, true}, "Ed25519": {ed, true}, "X25519": {dh, false}, "P-224": {p224, false}} {
		der, err := x509.MarshalPKCS8PrivateKey(tt.key)
		if err != nil {
			t.Fatal(err)
		}
		text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		is := asking(func(is *auth.Issuer) { is.Introspection.ClientSecret, is.Introspection.PrivateKey = "", text })
		is.Audience = []string{aud}
		if err := (auth.Config{Issuers: []auth.Issuer{is}}).Validate(); (err == nil) != tt.want {
			t.Errorf("%s: %v", name, err)
		} else if err != nil && strings.Contains(err.Error(), text[30:60]) {
			t.Errorf("%s: the key is told", name)
		}
		is.Introspection.PrivateKey += text
		if err := (auth.Config{Issuers: []auth.Issuer{is}}).Validate(); err == nil {
			t.Errorf("%s: two keys were accepted", name)
		}
	}
}

// Neither the token nor the secret gets into logs, errors or answers.
func TestIntrospectionTellsNoSecrets(t *testing.T) {
	var log bytes.Buffer
	w := newWeb()
	w.serve(askA, func(*http.Request) (int, string) { return http.StatusBadGateway, "secret-token p&ss:word" })
	is := asking()
	is.Audience = []string{aud}
	v, err := auth.New(auth.Config{Issuers: []auth.Issuer{is}}, auth.Deps{
		Client: w.client(), Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	rec := serve(v, sent(t, "Bearer secret-token"))
	_, verr := v.Verify(t.Context(), "secret-token", "")
	all := log.String() + rec.Body.String() + fmt.Sprint(rec.Header(), verr, v.Probe(t.Context()))
	if rec.Code != http.StatusServiceUnavailable || rec.Header().Get("WWW-Authenticate") != "" || log.Len() == 0 {
		t.Errorf("%d %v %s", rec.Code, rec.Header(), log.String())
	}
	for _, secret := range []string{"secret-token", "p&ss", "p%26ss"} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is told in %s", secret, all)
		}
	}
}
