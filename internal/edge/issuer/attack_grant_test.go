package issuer_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

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
	theirs, posing := newSigner(t, "k").sign(nil, jwt.MapClaims{"iss": idp}), newSigner(t, "k").sign(nil, jwt.MapClaims{"iss": idp})
	foreign := func(_ context.Context, token string) (*atlas.Principal, error) {
		if token == theirs {
			return &atlas.Principal{
				Subject: "kim", Tenant: "globex", Scopes: []string{"a", "b"}, Issuer: idp, TokenID: "x.y", Expiry: time.Now().Add(time.Minute),
				Claims: map[string]any{"toolsets": "few", "tenant": "acme", "email": "kim@idp.example"},
			}, nil
		}
		if token == posing {
			return &atlas.Principal{Subject: "root@acme", Tenant: "globex", Scopes: []string{"a"}, Issuer: idp, TokenID: "x.z", Expiry: time.Now().Add(time.Minute)}, nil
		}
		return nil, errors.New("not accepted")
	}
	i := newInstall(t, confidential(key), func(_ *issuer.ServerConfig, d *issuer.ServerDeps) {
		d.SubjectToken, d.Kept = foreign, []string{"toolsets", "tenant"}
	})
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
	root := i.redeem(i.code("root@acme", "scope", "tool:*:admin tool:crm:read")).must(t).AccessToken
	if r := i.exchange(root).must(t); r.Scope != "tool:crm:read" {
		t.Errorf("a privileged scope by default: %q", r.Scope)
	}
	if r := i.exchange(root, "scope", "tool:*:admin").must(t); r.Scope != "tool:*:admin" {
		t.Errorf("scope %q", r.Scope)
	}
	// A token of an issuer that the program trusts. What narrows it, narrows what comes of it.
	r = i.exchange(theirs).must(t)
	for _, token := range []string{r.AccessToken, i.exchange(r.AccessToken).must(t).AccessToken} {
		if c := part(t, token, 1); c["toolsets"] != "few" || c["email"] != nil || c["tenant"] != "globex" {
			t.Errorf("claims %v", c)
		}
	}
	if c := part(t, r.AccessToken, 1); c["sub"] != "kim" || c["tenant"] != "globex" || r.ExpiresIn > 60 || strings.HasPrefix(c["jti"].(string), "x.") {
		t.Errorf("claims %v, lives %d s", c, r.ExpiresIn)
	}
	i.exchange(theirs, asRobot...).refused(t, "invalid_request") // another tenant
	i.exchange(posing).refused(t, "invalid_request")             // about somebody of ours
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
			{Issuer: idp, JWKS: key.set(), TenantClaim: "org", Tenants: []string{"acme"}, RolesClaim: "groups", RolesKnown: []string{"support", "admin"}},
			{Issuer: "https://globex.example", JWKS: other.set(), Tenant: "globex", Roles: []string{"support"}, Clients: []string{"nobody"}},
		}
	})
	now := time.Now()
	head := map[string]any{"kid": "k1", "typ": "oauth-id-jag+jwt"}
	claims := jwt.MapClaims{
		"iss": idp, "sub": "kim", "aud": base, "client_id": "gateway", "resource": resource, "jti": "1", "scope": "tool:crm:read chat",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "org": "acme", "groups": []string{"support", "root"},
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
		"for a person of ours":    key.sign(head, claims, "jti", "23", "sub", "root@acme"),
		"for a client of ours":    key.sign(head, claims, "jti", "24", "sub", "robot"),
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
	// What makes an administrator is given to those who ask for it by name.
	boss := key.sign(head, claims, "jti", "40", "org", "acme", "groups", []string{"admin"}, "scope", nil)
	if r := post(boss).must(t); r.Scope != "tool:crm:read" {
		t.Errorf("scope %q", r.Scope)
	}
	boss = key.sign(head, claims, "jti", "41", "org", "acme", "groups", []string{"admin"}, "scope", nil)
	if r := post(boss, "scope", "tool:*:admin").must(t); r.Scope != "tool:*:admin" {
		t.Errorf("scope %q", r.Scope)
	}
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
