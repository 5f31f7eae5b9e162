package issuer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

const someHash = "$pbkdf2-sha256$i=600000$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func TestServerConfig(t *testing.T) {
	key := newSigner(t, "k").set()
	secretKey := strings.Replace(key, `"kty"`, `"d":"AAAA","kty"`, 1)
	client := func(c issuer.Client) issuer.ServerConfig { return issuer.ServerConfig{Clients: []issuer.Client{c}} }
	user := func(u issuer.User) issuer.ServerConfig { return issuer.ServerConfig{Users: []issuer.User{u}} }
	provider := func(p issuer.IdentityProvider) issuer.ServerConfig {
		return issuer.ServerConfig{Providers: []issuer.IdentityProvider{p}}
	}
	good := []issuer.ServerConfig{
		{},
		client(issuer.Client{ID: "a", RedirectURIs: []string{webBack}}),
		client(issuer.Client{ID: "a", JWKS: key, GrantTypes: []string{"client_credentials"}, Tenant: "acme"}),
		client(issuer.Client{ID: "a", SecretSHA256: sha("x"), Introspect: true}),
		user(issuer.User{Subject: "u", Tenant: "acme", PasswordHash: someHash}),
		provider(issuer.IdentityProvider{Issuer: idp, JWKSURL: idp + "/keys", Tenant: "acme"}),
		provider(issuer.IdentityProvider{Issuer: idp, JWKS: key, TenantClaim: "org", Tenants: []string{"acme"}}),
	}
	for n, c := range good {
		if err := c.Validate(); err != nil {
			t.Errorf("good %d: %v", n, err)
		}
	}
	for name, c := range map[string]issuer.ServerConfig{
		"resources[0]":                      {Resources: []string{"/mcp"}},
		"trusted_proxies[0]":                {TrustedProxies: []string{"0.0.0.0/0"}},
		"trusted_proxies[1]":                {TrustedProxies: []string{"10.0.0.1", "proxy.example"}},
		"must be an https URL":              provider(issuer.IdentityProvider{Issuer: idp, JWKSURL: "http://idp.example/keys", Tenant: "acme"}),
		"scopes[0]":                         {Scopes: []string{"a b"}},
		"access_ttl":                        {AccessTTL: 2 * time.Hour},
		"refresh_ttl":                       {RefreshTTL: -1},
		"grant_ttl":                         {GrantTTL: time.Second},
		"login_ttl":                         {LoginTTL: 48 * time.Hour},
		"registration.max":                  {Registration: issuer.Registration{Max: 1 << 20}},
		"client_id_documents.max":           {Documents: issuer.Documents{Max: -1}},
		"users[0].subject":                  user(issuer.User{Tenant: "acme", PasswordHash: someHash}),
		"users[0].tenant":                   user(issuer.User{Subject: "u", Tenant: "A", PasswordHash: someHash}),
		"users[0].password_hash":            user(issuer.User{Subject: "u", Tenant: "acme", PasswordHash: "hunter2"}),
		"users[1].subject":                  {Users: []issuer.User{{Subject: "u", Tenant: "acme", PasswordHash: someHash}, {Subject: "u", Tenant: "globex", PasswordHash: someHash}}},
		"clients[0].client_id":              client(issuer.Client{ID: "https://a.example/x", RedirectURIs: []string{webBack}}),
		"clients[0].client_secret_sha256":   client(issuer.Client{ID: "a", SecretSHA256: "secret", RedirectURIs: []string{webBack}}),
		"one way":                           client(issuer.Client{ID: "a", SecretSHA256: sha("x"), JWKS: key, RedirectURIs: []string{webBack}}),
		"holds a secret key":                client(issuer.Client{ID: "a", JWKS: secretKey, RedirectURIs: []string{webBack}}),
		"clients[0].redirect_uris":          client(issuer.Client{ID: "a", RedirectURIs: []string{"http://app.example/cb"}}),
		"needs a client that authenticates": client(issuer.Client{ID: "a", GrantTypes: []string{"client_credentials"}, Tenant: "acme"}),
		"needs redirect_uris":               client(issuer.Client{ID: "a", GrantTypes: []string{"authorization_code"}}),
		"needs the client's tenant":         client(issuer.Client{ID: "a", SecretSHA256: sha("x"), GrantTypes: []string{"client_credentials"}}),
		"is not a grant type":               client(issuer.Client{ID: "a", SecretSHA256: sha("x"), GrantTypes: []string{"password"}}),
		"there are none":                    client(issuer.Client{ID: "a", SecretSHA256: sha("x")}),
		"is a user's subject":               {Users: good[4].Users, Clients: []issuer.Client{{ID: "u", RedirectURIs: []string{webBack}}}},
		"is there twice":                    {Clients: append(good[1].Clients, good[1].Clients...)},
		"needs one of jwks":                 provider(issuer.IdentityProvider{Issuer: idp, Tenant: "acme"}),
		"needs one of tenant":               provider(issuer.IdentityProvider{Issuer: idp, JWKS: key}),
		"vouches for its own tenants":       provider(issuer.IdentityProvider{Issuer: idp, JWKS: key, TenantClaim: "org"}),
		"roles_known":                       provider(issuer.IdentityProvider{Issuer: idp, JWKS: key, Tenant: "acme", RolesClaim: "groups"}),
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// All mistakes at once.
	err := issuer.ServerConfig{AccessTTL: -1, GrantTTL: -1, Scopes: []string{""}}.Validate()
	for _, want := range []string{"access_ttl", "grant_ttl", "scopes[0]"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
	for name, c := range map[string]issuer.Config{
		"rotate_after":  {KeyFile: "k", RotateAfter: time.Minute},
		"publish_ahead": {KeyFile: "k", PublishAhead: time.Second},
		"less than":     {KeyFile: "k", RotateAfter: time.Hour, PublishAhead: time.Hour},
		"issuer":        {KeyFile: "k", Issuer: "https://u:p@a.example"},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	i := newInstall(t)
	for name, c := range map[string]change{
		"no store":         func(_ *issuer.ServerConfig, d *issuer.ServerDeps) { d.Store = nil },
		"no issuer":        func(_ *issuer.ServerConfig, d *issuer.ServerDeps) { d.Issuer = nil },
		"no scopes":        func(_ *issuer.ServerConfig, d *issuer.ServerDeps) { d.Scopes = nil },
		"a persona's name": func(c *issuer.ServerConfig, _ *issuer.ServerDeps) { c.Clients[0].ID = "ann@acme" },
		"keys out of reach": func(c *issuer.ServerConfig, _ *issuer.ServerDeps) {
			c.Providers = []issuer.IdentityProvider{{Issuer: idp, JWKSURL: idp + "/keys", Tenant: "acme"}}
		},
	} {
		cfg := issuer.ServerConfig{Clients: []issuer.Client{{ID: webClient, RedirectURIs: []string{webBack}}}}
		deps := issuer.ServerDeps{Issuer: i.iss, Store: i.store, Personas: personas, Scopes: scopesOf}
		c(&cfg, &deps)
		if _, err := issuer.Open(t.Context(), cfg, deps); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
