package auth_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/config"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

// Every piece of YAML in docs/identity.md is a configuration that is taken.
func TestRecipesAreValid(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "identity.md"))
	if err != nil {
		t.Fatal(err)
	}
	issuers := 0
	for i, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
		text := m[1]
		switch {
		case strings.HasPrefix(text, "    - issuer:"):
			text = "auth:\n  issuers:\n" + text
		case strings.HasPrefix(text, "      introspection:"):
			text = "auth:\n  issuers:\n    - issuer: https://idp.example\n      audience: [https://atlas.example/mcp]\n" + text
		}
		var c struct {
			Auth   auth.Config `yaml:"auth"`
			Issuer struct {
				Enabled             *bool `yaml:"enabled"`
				issuer.ServerConfig `yaml:",inline"`
			} `yaml:"issuer"`
		}
		if err := config.Decode("identity.md", []byte(text), config.Resolver{Env: filledIn}, &c); err != nil {
			t.Errorf("block %d: %v\n%s", i, err, text)
			continue
		}
		if err := c.Issuer.Validate(); err != nil {
			t.Errorf("block %d: %v\n%s", i, err, text)
		}
		issuers += len(c.Auth.Issuers)
		if _, err := auth.New(c.Auth, auth.Deps{PublicURL: "https://atlas.example"}); err != nil {
			t.Errorf("block %d: %v\n%s", i, err, text)
		}
	}
	if issuers < 8 {
		t.Errorf("only %d issuers were found", issuers)
	}
}

// filledIn gives each secret of the recipes a value of its form.
func filledIn(name string) (string, bool) {
	switch {
	case strings.HasSuffix(name, "_HASH"):
		return "$pbkdf2-sha256$i=1000$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", true
	case strings.HasSuffix(name, "_SHA256"):
		return strings.Repeat("ab", 32), true
	}
	return "secret", true
}

// The tokens that the providers document are accepted with their recipes' settings.
func TestProviderTokens(t *testing.T) {
	for _, tt := range []struct {
		name   string
		issuer auth.Issuer
		header map[string]any
		claims []any
	}{
		{
			"Entra",
			auth.Issuer{Types: []string{"JWT"}, Require: map[string]string{"ver": "2.0", "scp": "access"}, RequireJTI: new(false), Tenant: "acme", Claims: auth.Claims{Subject: "oid", Scope: "scp"}},
			map[string]any{"typ": "JWT"},
			[]any{"jti", nil, "act", nil, "tenant", nil, "ver", "2.0", "scp", "access", "oid", "o1", "tid", "x", "uti", "u"},
		},
		{
			"Okta",
			auth.Issuer{Types: []string{"at+jwt", "JWT", ""}, Tenant: "acme", Claims: auth.Claims{Roles: []string{"groups"}, Scope: "scp"}},
			map[string]any{"typ": nil},
			[]any{"act", nil, "tenant", nil, "ver", 1, "cid", "c", "uid", "u", "scp", []string{"tool:crm:read"}, "groups", []string{"atlas-support"}},
		},
		{
			"Keycloak without at+jwt",
			auth.Issuer{Types: []string{"JWT"}, Require: map[string]string{"typ": "Bearer"}, Tenant: "acme", Claims: auth.Claims{Roles: []string{"realm_access.roles"}}},
			map[string]any{"typ": "JWT"},
			[]any{"act", nil, "typ", "Bearer", "azp", "client", "realm_access", object("roles", []string{"atlas-support"})},
		},
	} {
		v := mapped(t, func(i *auth.Issuer) {
			tt.issuer.Issuer, tt.issuer.Audience = i.Issuer, i.Audience
			*i = tt.issuer
		})
		tt.header["kid"] = "ka"
		tok := sign(t, es256, keyA(), tt.header, claims(tt.claims...))
		if e := v.Explain(t.Context(), tok, nil); !e.Accepted {
			t.Errorf("%s: %+v", tt.name, e.Checks)
		}
		// Their ID tokens, which differ in little, are not.
		for name, change := range map[string][]any{"its own audience": {"aud", "client-id"}, "a hash of the access token": {"at_hash", "x"}} {
			id := sign(t, es256, keyA(), tt.header, claims(append(tt.claims, change...)...))
			if e := v.Explain(t.Context(), id, nil); e.Accepted {
				t.Errorf("%s: an ID token with %s was accepted", tt.name, name)
			}
		}
	}
}
