package cli

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas/internal/app"
)

type tokenCmd struct {
	Tenant   string        `help:"Tenant claim." required:"" placeholder:"TENANT"`
	Subject  string        `help:"Subject." required:"" placeholder:"SUBJECT"`
	Role     []string      `help:"Role; may be repeated. A role brings the scopes that the configuration gives it." placeholder:"ROLE"`
	Scope    []string      `help:"Further scope; may be repeated." placeholder:"SCOPE"`
	Server   string        `help:"Base URL of the server that is to take the token (default: http.public_url of the configuration)." placeholder:"URL"`
	Audience string        `help:"Audience (default: this server)." placeholder:"URL"`
	TTL      time.Duration `help:"Lifetime, at most 12h." default:"1h" placeholder:"DURATION"`
	Actor    string        `help:"Party that acts for the subject (act.sub, RFC 8693)." placeholder:"SUBJECT"`
}

// Run prints a token.
func (c tokenCmd) Run(ctx context.Context, p *Program, g *globals) error {
	if c.TTL <= 0 {
		return usage("--ttl must be more than zero")
	}
	o := p.options(g)
	o.PublicURL = strings.TrimSuffix(c.Server, "/")
	o.LogLevel = cmp.Or(o.LogLevel, slog.LevelWarn.String())
	a, err := app.Open(ctx, o)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	token, err := a.Token(app.TokenRequest{
		Tenant: c.Tenant, Subject: c.Subject, Roles: c.Role, Scopes: c.Scope, Audience: c.Audience, TTL: c.TTL, Delegator: c.Actor,
	})
	if err != nil {
		return usage("%w", err)
	}
	if g.JSON {
		return p.printJSON(map[string]any{"token": token, "expires_in_s": int(c.TTL.Seconds())})
	}
	p.printf("%s\n", token)
	return nil
}
