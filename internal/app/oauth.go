package app

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
	"github.com/atlas-mcp/atlas/internal/source/egress"
)

// embeddedIssuer reports whether the embedded authorization server is on.
func (c Config) embeddedIssuer() bool {
	if c.Issuer.Enabled != nil {
		return *c.Issuer.Enabled
	}
	return c.Mode == Development
}

// openIdentity sets up who may call: the embedded authorization server, if it is on, and the
// verifier of all tokens.
func (a *App) openIdentity(ctx context.Context) error {
	cfg := a.cfg.Auth
	deps := auth.Deps{
		Keys: map[string]jwkset.Storage{}, PublicURL: a.BaseURL(), Challenge: a.challenge(), Log: a.log,
		RoleScopes: func(role string) []string { return a.cfg.Roles[role] },
		Tools:      a.toolNames,
	}
	var err error
	if deps.NonceKey, err = a.derived("atlas dpop nonce v1"); err != nil {
		return err
	}
	if a.cfg.embeddedIssuer() {
		if err := a.openIssuer(ctx); err != nil {
			return err
		}
		cfg.Issuers = append(slices.Clip(cfg.Issuers), auth.Issuer{Issuer: a.issuer.URL(), Audience: []string{a.issuer.Audience()}})
		deps.Keys[a.issuer.URL()] = a.issuer.Keys()
		deps.Revoked = func(iss, tokenID string) bool { return iss == a.issuer.URL() && a.oauth.Revoked(tokenID) }
	}
	if p, ok := a.Persona(PersonaCopilot); ok {
		deps.DevTokens = map[string]*atlas.Principal{devToken: p}
	}
	a.verifier, err = auth.New(cfg, deps)
	return err
}

// openIssuer opens the embedded authorization server.
func (a *App) openIssuer(ctx context.Context) (err error) {
	cfg := a.cfg.Issuer
	if a.issuer, err = issuer.New(issuer.Config{
		Issuer: a.BaseURL(), Audience: mcp.ResourceURL(a.BaseURL()), KeyFile: filepath.Join(a.cfg.DataDir, "keys", "issuer.pem"),
		RotateAfter: cfg.RotateAfter, PublishAhead: cfg.PublishAhead,
	}); err != nil {
		return err
	}
	guard, err := egress.New(forStrangers(a.cfg.Egress.Config), nil, egress.Deps{})
	if err != nil {
		return err
	}
	a.onClose(guard.Close)
	if len(cfg.Scopes) == 0 {
		cfg.Scopes = a.publicScopes()
	}
	a.oauth, err = issuer.Open(ctx, cfg.ServerConfig, issuer.ServerDeps{
		Issuer: a.issuer, Store: a.state, Personas: a.issuerPersonas, Fetch: guard.Fetch, Log: a.log,
		Scopes: func(roles []string) []string {
			var known []string
			for _, r := range roles {
				if _, ok := a.cfg.Roles[r]; ok {
					known = append(known, r)
				}
			}
			scopes, err := a.scopes(known)
			if err != nil {
				return nil
			}
			return scopes
		},
		Recorded: a.identityEvent, Kept: []string{a.cfg.Registry.ClaimName()},
		SubjectToken: func(ctx context.Context, token string) (*atlas.Principal, error) {
			return a.verifier.Verify(ctx, token, "")
		},
	})
	return err
}

// forStrangers is the guard of fetches where strangers say what is fetched, such as the description of a
// client. No tenant's allowlist holds them to hosts, so what the operator opened for such hosts stays shut.
func forStrangers(cfg egress.Config) egress.Config {
	cfg.AllowAddresses, cfg.Ports = nil, nil
	return cfg
}

// issuerPersonas are the demo company's people, who sign in without a password.
func (a *App) issuerPersonas() []issuer.Persona {
	var out []issuer.Persona
	for _, p := range a.personas() {
		out = append(out, issuer.Persona{Subject: p.Subject, Tenant: p.Tenant, Roles: p.Roles, About: p.About})
	}
	return out
}

// publicScopes are the scopes that the embedded authorization server's metadata and Atlas's own name,
// and that clients therefore ask for: those of tools that the roles bring. Which tool needs which is
// not said. What makes an administrator or an approver has to be asked for by name.
func (a *App) publicScopes() []string {
	var all []string
	for _, scopes := range a.cfg.Roles {
		for _, s := range scopes {
			if strings.HasPrefix(s, "tool:") && s != atlas.ScopeAdmin {
				all = append(all, s)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// obtainable reports whether the caller's roles may have a scope: what stepping up could bring.
func (a *App) obtainable(p *atlas.Principal, scope string) bool {
	for _, role := range p.Roles {
		own := a.cfg.Roles[role]
		if slices.Contains(own, scope) || strings.HasPrefix(scope, "tool:") && slices.Contains(own, atlas.ScopeAdmin) {
			return true
		}
	}
	return false
}

// toolNames are the tools that p may use.
func (a *App) toolNames(p *atlas.Principal) []string {
	g := a.current.use()
	if g == nil {
		return nil
	}
	defer g.lease.leave()
	var names []string
	for _, t := range g.registry.Visible(p, p.Tenant) {
		names = append(names, t.Name)
	}
	return names
}

func (a *App) challenge() edge.Challenge {
	return edge.Challenge{MetadataURL: mcp.MetadataURL(a.cfg.HTTP.PublicURL), Refused: a.refused}
}

// routes are the endpoints of the embedded authorization server.
func (a *App) routes() map[string]http.Handler {
	if a.oauth == nil {
		return nil
	}
	return a.oauth.Routes()
}

// authServers names the issuers whose tokens are accepted.
func (a *App) authServers() []string {
	var out []string
	for _, is := range a.cfg.Auth.Issuers {
		out = append(out, is.Issuer)
	}
	if a.issuer != nil {
		out = append(out, a.issuer.URL())
	}
	return out
}

// TokenExplanation says what a token holds, and how each check of it went.
type TokenExplanation = auth.Explanation

// InspectToken says what a token holds, and why this server accepts it or not.
func (a *App) InspectToken(ctx context.Context, token string) TokenExplanation {
	return a.verifier.Explain(ctx, token, nil)
}

// HashPassword returns what issuer.users holds of a password.
func HashPassword(password string) (string, error) { return issuer.HashPassword(password) }

// RotateIssuerKey makes the embedded authorization server sign with a new key, and returns when.
func (a *App) RotateIssuerKey() (string, error) {
	if a.issuer == nil {
		return "", fmt.Errorf("the embedded authorization server is off; set issuer.enabled")
	}
	at, err := a.issuer.Rotate()
	return at.UTC().Format("2006-01-02T15:04:05Z"), err
}
