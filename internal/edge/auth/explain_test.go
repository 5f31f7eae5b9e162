package auth_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
)

func failures(e auth.Explanation) []string {
	var out []string
	for _, c := range e.Checks {
		if c.Status == auth.StatusFailed {
			out = append(out, c.Name)
		}
	}
	return out
}

// The debugger says of every attack what the server does with it, gives a remedy for each fault, and does
// not show the signature.
func TestExplanationAgreesWithTheServer(t *testing.T) {
	for _, tt := range badTokens(t) {
		if tt.token == "" {
			continue // there is nothing to explain
		}
		v := newVerifier(t, nil)
		e := v.Explain(t.Context(), tt.token, nil)
		if tt.name == "bound to a key" { // good, if it is sent with a proof; this verifier has DPoP off
			if !slices.Equal(failures(e), []string{"binding"}) {
				t.Errorf("%s: %v", tt.name, failures(e))
			}
		}
		if e.Accepted || e.Code != tt.want || e.Identity != nil {
			t.Errorf("%s: %+v, want %s", tt.name, e, tt.want)
		}
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if parts := strings.Split(tt.token, "."); len(parts) == 3 && len(parts[2]) > 40 && strings.Contains(string(raw), parts[2]) {
			t.Errorf("%s: the signature is shown", tt.name)
		}
		if strings.Contains(string(raw), tt.token) {
			t.Errorf("%s: the token is shown", tt.name)
		}
		for _, c := range e.Checks {
			if c.Name == "" || c.Place == "" || c.Status == auth.StatusFailed && (c.Remedy == "" || c.Found == "") {
				t.Errorf("%s: %+v", tt.name, c)
			}
		}
	}
}

// Each attack is refused for what is wrong with it and for nothing else.
func TestAttacksFailWhereTheyShould(t *testing.T) {
	want := map[string][]string{
		"alg none": {"form"}, "HS256 with the public key as secret": {"algorithm", "signature"}, "payload exchanged": {"signature"}, "another's key": {"signature"},
		"issuer B's key for issuer A": {"key"}, "issuer A's key for issuer B": {"key"}, "issuer B for a tenant that is not its own": {"tenant"},
		"unknown issuer": {"issuer"}, "no kid": {"key"}, "unknown kid": {"key"}, "critical extension": {"critical"}, "an id token": {"type"}, "no typ": {"type"}, "typ is JWT": {"type"},
		"other audience": {"audience"}, "audience that begins like ours": {"audience"}, "no exp": {"expiry"}, "from the future": {"issued_at"}, "not yet": {"not_before"},
		"expired": {"expiry"}, "expired and for others": {"audience", "expiry"}, "no tenant": {"tenant"}, "no jti": {"token_id"}, "no sub": {"subject"},
		"issuer twice": {"form"}, "tenant twice": {"form"}, "tenant twice, once escaped": {"form"}, "a name twice deep inside": {"form"}, "alg twice": {"form"}, "kid twice": {"form"},
		"something behind the claims": {"form"}, "bytes that are not UTF-8": {"form"}, "nested very deeply": {"form"}, "huge": {"form"}, "encrypted": {"form"}, "padded": {"form"},
		"signature in another spelling": {"form"}, "key in the header": {"signature"}, "key set in the header": {"signature"}, "certificate URL in the header": {"signature"},
		"kid is a path": {"key"}, "kid is a URL": {"key"}, "kid is SQL": {"key"}, "kid with a NUL": {"key"}, "algorithm of another kind of key": {"signature"}, "algorithm of another curve": {"signature"},
		"bound to a certificate": {"binding"},
	}
	v := newVerifier(t, nil)
	for _, tt := range badTokens(t) {
		names, ok := want[tt.name]
		if !ok {
			continue
		}
		delete(want, tt.name)
		if d := cmp.Diff(names, failures(v.Explain(t.Context(), tt.token, nil))); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
	if len(want) > 0 {
		t.Errorf("there is no attack for %v", want)
	}
}

func TestExplainGoodToken(t *testing.T) {
	v := newVerifier(t, func(_ *auth.Config, d *auth.Deps) {
		d.Tools = func(p *atlas.Principal) []string { return []string{"for_" + p.Subject} }
	})
	c := claims()
	for _, tok := range []string{sign(t, jwt.SigningMethodES256, keyA(), kidA, c), " Bearer " + sign(t, jwt.SigningMethodES256, keyA(), kidA, c) + "\n"} {
		e := v.Explain(t.Context(), tok, nil)
		want := &auth.Identity{
			Issuer: issA, Subject: "ann", Tenant: "acme", Roles: []string{"support", "lead"}, Scopes: []string{"tool:crm:read", "tool:kb:read"},
			Delegator: "agent:copilot", TokenID: "t1", Expires: time.Unix(c["exp"].(int64), 0),
		}
		if d := cmp.Diff(want, e.Identity); d != "" || !e.Accepted || e.Code != "" || e.Form != "jwt" || len(failures(e)) > 0 {
			t.Errorf("%+v %s", e, d)
		}
		if !slices.Equal(e.Tools, []string{"for_ann"}) || e.Header["kid"] != "ka" || e.Claims["sub"] != "ann" {
			t.Errorf("%+v", e)
		}
		var names []string
		for _, ch := range e.Checks {
			names = append(names, ch.Name)
		}
		if got := strings.Join(names, " "); got != "form issuer algorithm type critical key signature audience expiry not_before issued_at kind subject token_id delegation binding tenant roles scopes introspection revocation" {
			t.Errorf("the names of the checks have changed: %s", got)
		}
	}
}

// It goes on after a fault, so that all are seen at once, with amounts and what to do.
func TestExplainNamesAllFaults(t *testing.T) { synctest.Test(t, explainAllFaults) }

func explainAllFaults(t *testing.T) {
	v := newVerifier(t, nil)
	e := v.Explain(t.Context(), good(t, "aud", "https://else.example", "exp", time.Now().Add(-90*time.Minute).Unix(), "tenant", nil, "jti", nil), nil)
	if d := cmp.Diff([]string{"audience", "expiry", "token_id", "tenant"}, failures(e)); d != "" {
		t.Error(d)
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"accepted":false`, `resource=` + aud, `aud is \"https://else.example\"; this server is ` + aud, "it expired 1h30m0s ago", "tenant is missing", "require_jti: false"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	e = v.Explain(t.Context(), good(t, "iss", "https://c.example"), nil)
	if d := cmp.Diff([]string{"issuer"}, failures(e)); d != "" {
		t.Error(d)
	}
	for token, want := range map[string]string{
		"eyJh.b.c.d.e": "no audience or resource was asked for",
		"eyJh.b":       "whole and once",
		good(t)[:40]:   "whole and once",
	} {
		if e := v.Explain(t.Context(), token, nil); !strings.Contains(e.Checks[0].Remedy, want) {
			t.Errorf("%s: %+v", token, e.Checks[0])
		}
	}
	skipped := 0
	for _, c := range e.Checks {
		if c.Status == auth.StatusSkipped {
			skipped++
		}
		if c.Name == "issuer" && !strings.Contains(c.Found, issA+", "+issB) {
			t.Errorf("the issuers are not named: %+v", c)
		}
	}
	if skipped == 0 || e.Claims["sub"] != "ann" {
		t.Errorf("%+v", e)
	}
}

func TestExplainSending(t *testing.T) {
	p := newProver(t)
	v := dpopVerifier(t, nil)
	bound, plain := p.token(t), good(t)
	query := sent(t, "Bearer "+plain)
	query.URL.RawQuery = "access_token=x"
	twice := sent(t, "Bearer "+plain)
	twice.Header.Add("Authorization", "Bearer "+plain)
	for name, tt := range map[string]struct {
		token string
		r     *http.Request
		want  bool
		found string
	}{
		"bearer":           {plain, sent(t, "Bearer "+plain), true, "bearer"},
		"proof":            {bound, p.request(t, bound), true, "good DPoP proof"},
		"bound as bearer":  {bound, sent(t, "Bearer "+bound), false, "bound to a key"},
		"plain as DPoP":    {plain, p.request(t, plain), false, "bound to no key"},
		"stale proof":      {bound, p.request(t, bound, "iat", 1000), false, "iat is more than"},
		"another scheme":   {plain, sent(t, "Basic "+plain), false, "neither"},
		"in the query":     {plain, query, false, "query"},
		"two headers":      {plain, twice, false, "exactly one"},
		"no authorization": {plain, func() *http.Request { r := sent(t, ""); r.Header.Del("Authorization"); return r }(), false, "exactly one"},
	} {
		e := v.Explain(t.Context(), tt.token, tt.r)
		last := e.Checks[len(e.Checks)-1]
		if e.Accepted != tt.want || last.Name != "sending" || !strings.Contains(last.Found, tt.found) || !tt.want && e.Code != atlas.CodeInvalidToken {
			t.Errorf("%s: %v %s %+v", name, e.Accepted, e.Code, last)
		}
	}
	// Looking at a proof does not use it up.
	r := p.request(t, bound)
	v.Explain(t.Context(), bound, r)
	if w := serve(v, r); w.Code != http.StatusOK {
		t.Error(w.Body)
	}
}

func TestExplainOpaqueAndDevelopmentTokens(t *testing.T) {
	w := newWeb()
	w.knows(t, askA, map[string]jwt.MapClaims{"opaque": active(), "foreign": active("aud", "x", "tenant", nil)})
	v := verifierOf(t, w, asking())
	e := v.Explain(t.Context(), "opaque", nil)
	if !e.Accepted || e.Form != "opaque" || e.Identity.Subject != "ann" || e.Claims["active"] != true {
		t.Errorf("%+v", e)
	}
	if e := v.Explain(t.Context(), "foreign", nil); e.Accepted || !slices.Equal(failures(e), []string{"audience", "tenant"}) {
		t.Errorf("%+v", e)
	}
	if e := v.Explain(t.Context(), "unknown", nil); e.Accepted || !slices.Equal(failures(e), []string{"introspection"}) {
		t.Errorf("%+v", e)
	}
	dev := newVerifier(t, func(c *auth.Config, d *auth.Deps) {
		c.Development, d.DevTokens = true, map[string]*atlas.Principal{"dev-token": {Subject: "ann", Tenant: "acme"}}
	})
	if e := dev.Explain(t.Context(), "dev-token", nil); !e.Accepted || e.Form != "development" || e.Identity.Subject != "ann" {
		t.Errorf("%+v", e)
	}
	if e := dev.Explain(t.Context(), "opaque", nil); e.Accepted || e.Code != atlas.CodeInvalidToken {
		t.Errorf("%+v", e)
	}
}

func TestExplainSaysWhereItLooked(t *testing.T) {
	v := mapped(t, func(i *auth.Issuer) {
		i.Claims = auth.Claims{Tenant: "https://x.example/t", Roles: []string{"realm_access.roles", "/resource_access/a.b/roles"}, Scope: "scp"}
	})
	places := map[string]string{}
	for _, c := range v.Explain(t.Context(), good(t), nil).Checks {
		places[c.Name] = c.Place
	}
	for name, want := range map[string]string{
		"tenant": "claims https://x.example/t", "roles": "claims realm_access.roles, /resource_access/a.b/roles", "scopes": "claims scp", "subject": "claims sub", "audience": "claims.aud",
	} {
		if places[name] != want {
			t.Errorf("%s: %q", name, places[name])
		}
	}
}

func TestExplainGroupsThatWereLeftOut(t *testing.T) {
	v := mapped(t, func(i *auth.Issuer) { i.Claims.Roles = []string{"groups"} })
	e := v.Explain(t.Context(), good(t, "_claim_names", object("groups", "src1")), nil)
	for _, c := range e.Checks {
		if c.Name == "roles" && !strings.Contains(c.Found, "left claims out") {
			t.Errorf("%+v", c)
		}
	}
}

func FuzzExplain(f *testing.F) {
	v := newVerifier(f, nil)
	tok := good(f)
	f.Add(tok)
	f.Add("opaque")
	f.Add("eyJ.e30.")
	f.Fuzz(func(t *testing.T, s string) {
		e := v.Explain(t.Context(), s, nil)
		_, err := v.Verify(t.Context(), strings.TrimSpace(s), "")
		if s != "" && !strings.Contains(s, " ") && strings.TrimSpace(s) == s && e.Accepted != (err == nil) {
			t.Errorf("%q: explained as %v, verified as %v", s, e.Accepted, err)
		}
		if _, err := json.Marshal(e); err != nil {
			t.Error(err)
		}
	})
}
