package app

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

// Personas that commands act as when they are told nothing else.
const (
	PersonaCopilot = "copilot@acme"
	PersonaLead    = "lead@acme"
)

// Principal returns a principal for the operator's own machine, with the scopes that the
// configuration gives to the roles.
func (a *App) Principal(subject string, tenant atlas.TenantID, roles []string) (*atlas.Principal, error) {
	scopes, err := a.scopes(roles)
	if err != nil {
		return nil, err
	}
	return &atlas.Principal{
		Subject: subject, Tenant: tenant, Roles: slices.Clone(roles), Scopes: scopes, Issuer: "local",
		Expiry: time.Now().Add(12 * time.Hour),
	}, nil
}

// scopes returns what the roles may do at most, sorted.
func (a *App) scopes(roles []string) ([]string, error) {
	var scopes []string
	for _, role := range roles {
		s, ok := a.cfg.Roles[role]
		if !ok {
			return nil, fmt.Errorf("role %q is not in the configuration; there are %s", role,
				strings.Join(slices.Sorted(maps.Keys(a.cfg.Roles)), ", "))
		}
		scopes = append(scopes, s...)
	}
	slices.Sort(scopes)
	return slices.Compact(scopes), nil
}

// personas returns the personas that there are: none in production mode or without the demo company.
func (a *App) personas() []demo.Persona {
	if a.cfg.Mode != Development || !a.cfg.DemoData {
		return nil
	}
	return demo.Personas()
}

// Persona returns a persona of the demo company.
func (a *App) Persona(name string) (*atlas.Principal, bool) {
	for _, p := range a.personas() {
		if p.Subject != name {
			continue
		}
		who, err := a.Principal(p.Subject, p.Tenant, p.Roles)
		return who, err == nil
	}
	return nil, false
}

// PersonaNames lists the personas.
func (a *App) PersonaNames() []string {
	var names []string
	for _, p := range a.personas() {
		names = append(names, p.Subject)
	}
	return names
}

// A PersonaToken is a persona with a token.
type PersonaToken struct {
	Subject string         `json:"subject"`
	Tenant  atlas.TenantID `json:"tenant"`
	Roles   []string       `json:"roles"`
	About   string         `json:"about"`
	Token   string         `json:"token"`
}

// PersonaTokens signs a token of twelve hours for each persona.
func (a *App) PersonaTokens() ([]PersonaToken, error) {
	var out []PersonaToken
	for _, p := range a.personas() {
		token, err := a.Token(TokenRequest{Tenant: string(p.Tenant), Subject: p.Subject, Roles: p.Roles, TTL: 12 * time.Hour})
		if err != nil {
			return nil, err
		}
		out = append(out, PersonaToken{p.Subject, p.Tenant, p.Roles, p.About, token})
	}
	return out, nil
}

// A TokenRequest says what a token of the development issuer holds.
type TokenRequest struct {
	Tenant, Subject string
	Roles, Scopes   []string // roles bring the scopes that the configuration gives them
	Audience        string   // empty: this server
	TTL             time.Duration
	Delegator       string
}

// Token signs a token with the development issuer.
func (a *App) Token(r TokenRequest) (string, error) {
	if a.issuer == nil {
		return "", errors.New("there is a development issuer in development mode only; get a token from your issuer")
	}
	tenant, err := atlas.ParseTenantID(r.Tenant)
	if err != nil {
		return "", fmt.Errorf("tenant: %w", err)
	}
	scopes, err := a.scopes(r.Roles)
	if err != nil {
		return "", err
	}
	claims := issuer.Claims{
		Tenant: tenant, Subject: r.Subject, Roles: r.Roles, Scopes: append(scopes, r.Scopes...), TTL: r.TTL, Delegator: r.Delegator,
	}
	if r.Audience != "" {
		claims.Audience = []string{r.Audience}
	}
	return a.issuer.Sign(claims)
}
