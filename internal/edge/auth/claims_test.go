package auth_test

import (
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
)

// object nests maps: object("a", "b", v) is {"a": {"b": v}}.
func object(names ...any) map[string]any {
	v := names[len(names)-1]
	for i := len(names) - 2; i >= 0; i-- {
		v = map[string]any{names[i].(string): v}
	}
	return v.(map[string]any)
}

// mapped returns a verifier whose issuer A is changed.
func mapped(t testing.TB, change func(*auth.Issuer)) *auth.Verifier {
	t.Helper()
	return newVerifier(t, func(c *auth.Config, d *auth.Deps) {
		change(&c.Issuers[0])
		d.RoleScopes = func(role string) []string {
			return map[string][]string{"support": {"tool:crm:read", "tool:kb:read"}, "admin": {atlas.ScopeAdmin, atlas.ScopeImpersonate}}[role]
		}
	})
}

func TestClaimMapping(t *testing.T) {
	type who struct {
		Subject       string
		Tenant        atlas.TenantID
		Roles, Scopes []string
	}
	for _, tt := range []struct {
		name   string
		issuer func(*auth.Issuer)
		claims []any
		want   who
		code   atlas.Code
	}{
		{
			name: "Keycloak: nested roles",
			issuer: func(i *auth.Issuer) {
				i.Claims.Roles = []string{"realm_access.roles", "/resource_access/atlas.mcp/roles"}
			},
			claims: []any{"roles", nil, "realm_access", object("roles", []string{"support"}), "resource_access", object("atlas.mcp", "roles", []string{"lead", "support"})},
			want:   who{"ann", "acme", []string{"support", "lead"}, []string{"tool:crm:read", "tool:kb:read"}},
		},
		{
			name: "Auth0: names that are URLs, an organisation that is no tenant id",
			issuer: func(i *auth.Issuer) {
				i.Claims = auth.Claims{Tenant: "org_id", Roles: []string{"https://acme.example/roles"}}
				i.TenantMap = map[string]string{"org_9ybsU1dN2dKfDkBi": "acme"}
			},
			claims: []any{"tenant", nil, "org_id", "org_9ybsU1dN2dKfDkBi", "https://acme.example/roles", []string{"support"}, "roles", []string{"forged"}},
			want:   who{"ann", "acme", []string{"support"}, []string{"tool:crm:read", "tool:kb:read"}},
		},
		{
			name: "Entra: scp, oid, app roles that are mapped and bring scopes",
			issuer: func(i *auth.Issuer) {
				i.Claims = auth.Claims{Tenant: "tid", Scope: "scp", Subject: "oid"}
				i.RoleMap = map[string][]string{"Atlas.Support": {"support"}, "Atlas.Lead": {"support", "lead"}}
				i.ScopesFromRoles = true
			},
			claims: []any{"tenant", nil, "scope", "tool:*:admin", "tid", "72f988bf-86f1-41af-91ab-2d7cd011db47", "oid", "o-1", "scp", "access", "roles", []string{"Atlas.Lead", "support", "admin"}},
			want:   who{"o-1", "72f988bf-86f1-41af-91ab-2d7cd011db47", []string{"support", "lead"}, []string{"access", "tool:crm:read", "tool:kb:read"}},
		},
		{
			name: "Okta: scp is a list, groups",
			issuer: func(i *auth.Issuer) {
				i.Claims = auth.Claims{Scope: "scp", Roles: []string{"groups"}}
				i.Tenant = "acme"
			},
			claims: []any{"tenant", "globex", "scope", nil, "scp", []string{"tool:crm:read"}, "groups", []string{"support", "Everyone"}, "roles", nil},
			want:   who{"ann", "acme", []string{"support", "Everyone"}, []string{"tool:crm:read"}},
		},
		{
			name:   "a list of one tenant, where the issuer's setting says so",
			issuer: func(i *auth.Issuer) { i.Claims.Tenant = "organization" },
			claims: []any{"tenant", nil, "organization", []string{"acme"}},
			want:   who{"ann", "acme", []string{"support", "lead"}, []string{"tool:crm:read", "tool:kb:read"}},
		},
		{name: "a list of two", issuer: func(i *auth.Issuer) { i.Claims.Tenant = "organization" }, claims: []any{"organization", []string{"acme", "globex"}}, code: atlas.CodeNoTenant},
		{name: "a list of one, by default", issuer: func(*auth.Issuer) {}, claims: []any{"tenant", []string{"acme"}}, code: atlas.CodeNoTenant},
		{name: "not in the map", issuer: func(i *auth.Issuer) { i.TenantMap = map[string]string{"x": "acme"} }, claims: []any{"tenant", "acme"}, code: atlas.CodeNoTenant},
		{name: "the path leads past a text", issuer: func(i *auth.Issuer) { i.Claims.Tenant = "tenant.id" }, claims: []any{"tenant", "acme"}, code: atlas.CodeNoTenant},
		{name: "the path is no name with a dot", issuer: func(i *auth.Issuer) { i.Claims.Tenant = "a.b" }, claims: []any{"tenant", nil, "a.b", "acme"}, code: atlas.CodeNoTenant},
		{name: "no other claim is tried", issuer: func(i *auth.Issuer) { i.Claims.Tenant = "org" }, claims: []any{"tenant", "acme"}, code: atlas.CodeNoTenant},
		{name: "no subject there", issuer: func(i *auth.Issuer) { i.Claims.Subject = "oid" }, code: atlas.CodeInvalidToken},
		{name: "a required claim is missing", issuer: func(i *auth.Issuer) { i.Require = map[string]string{"token_use": "access"} }, code: atlas.CodeInvalidToken},
		{name: "a required claim differs", issuer: func(i *auth.Issuer) { i.Require = map[string]string{"token_use": "access"} }, claims: []any{"token_use", "id"}, code: atlas.CodeInvalidToken},
		{
			name:   "required claims are there",
			issuer: func(i *auth.Issuer) { i.Require = map[string]string{"token_use": "access", "a.ver": "2", "ok": "true"} },
			claims: []any{"token_use", "access", "a", object("ver", 2), "ok", true},
			want:   who{"ann", "acme", []string{"support", "lead"}, []string{"tool:crm:read", "tool:kb:read"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := mapped(t, tt.issuer).Verify(t.Context(), good(t, tt.claims...), "")
			if atlas.CodeOf(err) != tt.code {
				t.Fatalf("%v, want %q", err, tt.code)
			}
			if tt.code == "" {
				if d := cmp.Diff(tt.want, who{p.Subject, p.Tenant, p.Roles, p.Scopes}); d != "" {
					t.Error("(-want +got):", d)
				}
			}
		})
	}
}

// An issuer that speaks for certain tenants must not reach others, neither by a claim nor by the scope that
// lets a caller act for any tenant.
func TestIssuerCannotLeaveItsTenants(t *testing.T) {
	confine := map[string]func(*auth.Issuer){
		"tenants":    func(i *auth.Issuer) { i.Tenants = []string{"acme"} },
		"tenant":     func(i *auth.Issuer) { i.Tenant = "acme" },
		"tenant_map": func(i *auth.Issuer) { i.TenantMap = map[string]string{"acme": "acme"} },
	}
	for name, change := range confine {
		v := mapped(t, func(i *auth.Issuer) { change(i); i.ScopesFromRoles = true })
		p, err := v.Verify(t.Context(), good(t, "scope", "tool:crm:read tenant:*:impersonate tenant:globex:impersonate", "roles", "admin"), "")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"tool:crm:read", atlas.ScopeAdmin}, p.Scopes); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		p, err = v.Verify(t.Context(), good(t, "tenant", "globex"), "")
		if err == nil && p.Tenant != "acme" {
			t.Errorf("%s: acts for %s", name, p.Tenant)
		}
	}
	p, err := mapped(t, func(*auth.Issuer) {}).Verify(t.Context(), good(t, "scope", atlas.ScopeImpersonate), "")
	if err != nil || !p.HasScope(atlas.ScopeImpersonate) {
		t.Errorf("an issuer for all tenants: %v %v", p, err)
	}
	err = auth.Config{Issuers: []auth.Issuer{
		{Issuer: issA, Audience: []string{aud}, Tenants: []string{"acme"}, TenantMap: map[string]string{"g": "globex"}},
		{Issuer: issB, Audience: []string{aud}, Tenants: []string{"acme"}, Tenant: "globex"},
	}}.Validate()
	for _, want := range []string{"issuers[0].tenant_map.g", "issuers[1].tenant"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestTokenWithoutID(t *testing.T) {
	v := mapped(t, func(i *auth.Issuer) { i.RequireJTI = new(false) })
	ids := map[string]bool{}
	for _, sub := range []string{"ann", "bob"} {
		tok := good(t, "jti", nil, "sub", sub)
		p, err := v.Verify(t.Context(), tok, "")
		if err != nil || !strings.HasPrefix(p.TokenID, "sha256:") || len(p.TokenID) != 39 {
			t.Fatalf("%v %v", p, err)
		}
		ids[p.TokenID] = true
	}
	if len(ids) != 2 {
		t.Error("two tokens have one id")
	}
	if p, err := v.Verify(t.Context(), good(t), ""); err != nil || p.TokenID != "t1" {
		t.Errorf("a jti that is there: %v %v", p, err)
	}
}

func TestTypesOfAnIssuer(t *testing.T) {
	typed := func(typ any) string {
		return sign(t, jwt.SigningMethodES256, keyA(), map[string]any{"kid": "ka", "typ": typ}, claims())
	}
	for _, tt := range []struct {
		types []string
		typ   any
		want  bool
	}{
		{nil, "at+jwt", true},
		{nil, "application/at+jwt", true},
		{nil, "JWT", false},
		{nil, nil, false},
		{[]string{"JWT"}, "JWT", true},
		{[]string{"JWT"}, "jwt", true},
		{[]string{"JWT"}, "at+jwt", false},
		{[]string{"JWT"}, nil, false},
		{[]string{"JWT", ""}, nil, true},
		{[]string{"JWT", ""}, "", true},
		{[]string{"JWT", ""}, 7, false},
		{[]string{"JWT", ""}, "dpop+jwt", false},
		{[]string{"JWT", ""}, "logout+jwt", false},
	} {
		v := mapped(t, func(i *auth.Issuer) { i.Types = tt.types })
		if _, err := v.Verify(t.Context(), typed(tt.typ), ""); (err == nil) != tt.want {
			t.Errorf("types %q, typ %v: %v", tt.types, tt.typ, err)
		}
	}
	// Where the header does not tell, claims of other kinds of JWT do.
	v := mapped(t, func(i *auth.Issuer) { i.Types = []string{"JWT"} })
	for _, stranger := range []string{"at_hash", "c_hash", "events"} {
		tok := sign(t, jwt.SigningMethodES256, keyA(), map[string]any{"kid": "ka", "typ": "JWT"}, claims(stranger, "x"))
		if _, err := v.Verify(t.Context(), tok, ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
			t.Errorf("%s: %v", stranger, err)
		}
	}
}

// The current actor is the outermost one (RFC 8693 section 4.1).
func TestDelegation(t *testing.T) {
	chain := func(names ...string) any {
		var act any
		for _, name := range slices.Backward(names) {
			m := map[string]any{"sub": name}
			if act != nil {
				m["act"] = act
			}
			act = m
		}
		return act
	}
	v := newVerifier(t, nil)
	for _, tt := range []struct {
		act  any
		want string
		code atlas.Code
	}{
		{chain("agent"), "agent", ""},
		{chain("agent", "gateway", "app"), "agent", ""},
		{chain("a", "b", "c", "d", "e"), "a", ""},
		{chain("a", "b", "c", "d", "e", "f"), "", atlas.CodeInvalidToken},
		{"agent", "", atlas.CodeInvalidToken},
		{[]any{chain("agent")}, "", atlas.CodeInvalidToken},
		{map[string]any{}, "", atlas.CodeInvalidToken},
		{map[string]any{"sub": ""}, "", atlas.CodeInvalidToken},
		{map[string]any{"sub": 1}, "", atlas.CodeInvalidToken},
		{map[string]any{"sub": "agent", "act": "x"}, "", atlas.CodeInvalidToken},
		{map[string]any{"sub": "agent", "act": map[string]any{"iss": "x"}}, "", atlas.CodeInvalidToken},
	} {
		p, err := v.Verify(t.Context(), good(t, "act", tt.act, "may_act", chain("nobody")), "")
		if atlas.CodeOf(err) != tt.code || err == nil && p.Delegator != tt.want {
			t.Errorf("%v: %v %v", tt.act, p, err)
		}
	}
	c := claims()
	c["act"] = nil // not the same as no act: it was meant to name somebody
	if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodES256, keyA(), kidA, c), ""); atlas.CodeOf(err) != atlas.CodeInvalidToken {
		t.Errorf("null: %v", err)
	}
	if p, err := v.Verify(t.Context(), good(t, "act", nil, "may_act", chain("agent")), ""); err != nil || p.Delegator != "" {
		t.Errorf("may_act alone: %v %v", p, err)
	}
}

func TestPaths(t *testing.T) {
	var c map[string]any
	if err := json.Unmarshal([]byte(`{"a":{"b":{"c":"deep"},"x.y":"dot"},"https://e.example/t":"url","https://e.example":{"t":"no"},"l":[{"b":"no"}],"s/t":"slash","~":"tilde","":"empty"}`), &c); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]any{
		"a.b.c": "deep", "/a/b/c": "deep", "/a/x.y": "dot", "a.x.y": nil, "https://e.example/t": "url", "l.0.b": nil, "/l/0/b": nil,
		"a.b.c.d": nil, "none": nil, "/s~1t": "slash", "/~0": "tilde", "s/t": "slash",
	} {
		if got, err := auth.At(at, c); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", at, got, err, want)
		}
	}
	for _, at := range []string{"", ".", "a.", ".a", "a..b", "/", "/a/", "/~", "/~2", strings.Repeat("a", 257), strings.Repeat("a.", 20) + "a"} {
		if got, err := auth.At(at, c); err == nil {
			t.Errorf("%q was accepted and leads to %v", at, got)
		}
	}
}

func TestMappingMistakesAreAllNamed(t *testing.T) {
	err := auth.Config{
		TenantClaim: "a..b", RolesClaim: "/",
		Issuers: []auth.Issuer{
			{
				Issuer: issA, Audience: []string{aud}, Tenant: "acme", TenantMap: map[string]string{"x": "No"}, Claims: auth.Claims{Tenant: "t", Roles: []string{"ok", ".bad"}},
				RoleMap: map[string][]string{"r": {""}}, DPoP: "maybe", JWKSURL: "https://a.example/k", Discover: new(true),
				Introspection: &auth.Introspection{URL: "http://a.example/i", CacheTTL: time.Hour, Timeout: time.Hour},
			},
			{Issuer: issB, Audience: []string{aud}, Introspection: &auth.Introspection{
				URL: "https://b.example/i", ClientID: "c", ClientSecret: "s", PrivateKey: "nonsense", Prefix: "b_",
			}},
		},
		DPoP: auth.DPoP{MaxAge: -1, MaxAhead: 2 * time.Hour, NonceTTL: -1, Replays: -1},
	}.Validate()
	for _, want := range []string{
		"tenant_claim", "roles_claim", "issuers[0].tenant: is fixed", "issuers[0].tenant_map.x", `issuers[0].claims: ".bad"`, "issuers[0].role_map.r", `issuers[0].dpop: "maybe"`,
		"issuers[0].discover", "issuers[0].introspection.url: must be https", "issuers[0].introspection.client_id", "issuers[0].introspection.client_secret",
		"issuers[0].introspection.cache_ttl", "issuers[0].introspection.timeout", "issuers[1].introspection.private_key", "issuers[1].introspection.client_secret",
		"issuers[1].introspection.prefix", "dpop.max_age", "dpop.max_ahead", "dpop.nonce_ttl", "dpop.replays",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"realm_access.roles", "/a/b~1c", "https://x.example/y", "/~", "a..b", "/"} {
		f.Add(s)
	}
	c := map[string]any{"a": map[string]any{"b/c": "x"}, "b": []any{"y"}}
	f.Fuzz(func(_ *testing.T, s string) { _, _ = auth.At(s, c) })
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":1,"a":2}`, `{"a":{"b":[{"c":1,"c":2}]}}`, `[]`, `{}{}`, `{"a":"\ud800"}`, `{"a" 1}`, strings.Repeat(`{"a":`, 40), "{\"\xff\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := auth.Decode(raw)
		if err != nil {
			return
		}
		// What is accepted is JSON, and means the same to the standard library, which takes the last of two.
		var want map[string]any
		dec := json.NewDecoder(strings.NewReader(string(raw)))
		dec.UseNumber()
		if err := dec.Decode(&want); err != nil {
			t.Fatalf("%q is no JSON: %v", raw, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", raw, d)
		}
	})
}

// Who may speak for everybody beside others is told at the start, and by the probe.
func TestUnconfinedIssuerAmongSeveralIsTold(t *testing.T) {
	var log strings.Builder
	deps := auth.Deps{Log: slog.New(slog.NewTextHandler(&log, nil)), Client: newWeb().client()}
	free := auth.Issuer{Issuer: issA, Audience: []string{aud}}
	bound := auth.Issuer{Issuer: issB, Audience: []string{aud}, Tenants: []string{"globex", "acme"}, TenantMap: map[string]string{"x": "acme", "y": "acme"}}
	v, err := auth.New(auth.Config{Issuers: []auth.Issuer{free, bound}}, deps)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "issuer="+issA) || strings.Contains(log.String(), issB) {
		t.Errorf("log: %s", log.String())
	}
	s := v.Probe(t.Context())
	if d := cmp.Diff([][]string{nil, {"acme"}}, [][]string{s[0].Tenants, s[1].Tenants}); d != "" {
		t.Error(d)
	}
	log.Reset()
	if _, err := auth.New(auth.Config{Issuers: []auth.Issuer{free}}, deps); err != nil || log.Len() > 0 {
		t.Errorf("alone: %v %s", err, log.String())
	}
}
