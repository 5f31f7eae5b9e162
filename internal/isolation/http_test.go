package isolation_test

import (
	"context"
	"testing"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/isolation"
)

// roles are those of the shipped configuration under which the tests over HTTP call.
var roles = []string{"analyst", "human_agent", "approver"}

// serve serves the app of the shipped configuration on loopback and returns its URL and a token of each side and role.
func serve(t *testing.T, overlay string) (a *app.App, w *opened, over isolation.Over) {
	t.Helper()
	w = watch(t)
	ln, err := app.ListenLoopback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	over.URL = "http://" + ln.Addr().String()
	a = openApp(t, app.Options{Overlay: []byte(limits + overlay), PublicURL: over.URL})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	over.Roles = roles
	for side, tenant := range tenants {
		for _, role := range roles {
			token, err := a.Token(app.TokenRequest{Tenant: string(tenant), Subject: role + "@canary", Roles: []string{role}})
			if err != nil {
				t.Fatal(err)
			}
			over.Tokens[side] = append(over.Tokens[side], token)
		}
	}
	return a, w, over
}

func TestTheDemoHoldsOverHTTP(t *testing.T) {
	_, w, over := serve(t, "")
	canaries := isolation.Plant(t.Context(), isolation.Field{Sources: w.sources, Samples: demo.Companies()[demo.Acme]}, tenants, isolation.NewKey())
	h, err := isolation.NewHTTP(over)
	if err != nil {
		t.Fatal(err)
	}
	r := prove(t, isolation.Config{Storm: 3}, isolation.Deps{Target: h, Door: h, Canaries: canaries})
	holds(t, r, 1000)
	areas := map[string]bool{}
	for _, a := range r.Attempts {
		areas[a.Area] = true
	}
	for _, area := range []string{"headers", "tokens", "sessions", "tasks", "approvals", "open paths"} {
		if !areas[area] {
			t.Errorf("nothing was tried on %s", area)
		}
	}
}

func TestWhereTokensGo(t *testing.T) {
	one := [2][]string{{"a"}, {"b"}}
	for name, over := range map[string]isolation.Over{
		"plain HTTP":     {URL: "http://atlas.example", Roles: []string{"x"}, Tokens: one},
		"another scheme": {URL: "ftp://127.0.0.1", Roles: []string{"x"}, Tokens: one},
		"a password":     {URL: "https://u:p@atlas.example", Roles: []string{"x"}, Tokens: one},
		"no URL":         {Roles: []string{"x"}, Tokens: one},
		"no token":       {URL: "http://127.0.0.1:1", Roles: []string{"x"}, Tokens: [2][]string{{"a"}, {""}}},
		"one side":       {URL: "http://127.0.0.1:1", Roles: []string{"x"}, Tokens: [2][]string{{"a"}, nil}},
		"white space":    {URL: "http://127.0.0.1:1", Roles: []string{"x"}, Tokens: [2][]string{{"a b"}, {"b"}}},
	} {
		if _, err := isolation.NewHTTP(over); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := isolation.NewHTTP(isolation.Over{URL: "http://127.0.0.1:1/mcp", Roles: []string{"x"}, Tokens: one}); err != nil {
		t.Error(err)
	}
}
