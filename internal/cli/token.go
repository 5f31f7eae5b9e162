package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas/internal/app"
)

type tokenCmd struct {
	Sign    tokenSignCmd    `cmd:"" default:"withargs" help:"Sign a token with the embedded issuer (the default)."`
	Inspect tokenInspectCmd `cmd:"" help:"Say what a token holds, and why this server accepts it or not."`
}

type tokenSignCmd struct {
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
func (c tokenSignCmd) Run(ctx context.Context, p *Program, g *globals) error {
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

type tokenInspectCmd struct {
	Token  string `arg:"" optional:"" help:"The token; without it, or with -, it is read from the standard input, which keeps it out of the shell's history."`
	Server string `help:"Base URL of the server that refuses the token (default: http.public_url of the configuration)." placeholder:"URL"`
}

// Run explains a token. Exit code 1 means that it is refused.
func (c tokenInspectCmd) Run(ctx context.Context, p *Program, g *globals) error {
	token := c.Token
	if token == "" || token == "-" {
		data, err := io.ReadAll(io.LimitReader(p.Stdin, maxTokenInput))
		if err != nil {
			return err
		}
		token = string(data)
	}
	if token = strings.TrimSpace(token); token == "" {
		return usage("give a token as the argument or on the standard input")
	}
	o := p.quietly(g)
	o.PublicURL = strings.TrimSuffix(c.Server, "/")
	a, err := app.Open(ctx, o)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	e := a.InspectToken(ctx, token)
	if g.JSON {
		err = p.printJSON(e)
	} else {
		p.printExplanation(e)
	}
	if err == nil && !e.Accepted {
		return no()
	}
	return err
}

// maxTokenInput is more than any server takes in a header.
const maxTokenInput = 64 << 10

func (p *Program) printExplanation(e app.TokenExplanation) {
	for _, part := range []struct {
		name   string
		fields map[string]any
	}{{"header", e.Header}, {"claims", e.Claims}} {
		if len(part.fields) == 0 {
			continue
		}
		p.printf("%s (as the token says, true or not)\n", part.name)
		for _, k := range slices.Sorted(maps.Keys(part.fields)) {
			p.printf("  %-12s %s\n", shown(k), shown(claimText(k, part.fields[k])))
		}
	}
	p.printf("checks\n")
	var skipped []string
	for _, c := range e.Checks {
		if c.Status == "skipped" {
			skipped = append(skipped, c.Name)
			continue
		}
		p.printf("  %s  %-16s %s\n", checkMarks[c.Status], c.Name, shown(c.Found))
		if c.Remedy != "" {
			p.printf("        %-16s → %s\n", "", shown(c.Remedy))
		}
	}
	if len(skipped) > 0 {
		p.printf("  not looked at: %s\n", strings.Join(skipped, ", "))
	}
	if !e.Accepted {
		p.printf("\nREFUSED: %s\n", e.Code)
		return
	}
	i := e.Identity
	p.printf("\nACCEPTED as %s of tenant %s until %s\n", shown(i.Subject), i.Tenant, i.Expires.UTC().Format(time.RFC3339))
	p.printf("  roles   %s\n  scopes  %s\n  tools   %s\n", shown(strings.Join(i.Roles, " ")), shown(strings.Join(i.Scopes, " ")), strings.Join(e.Tools, " "))
}

// shown writes what a stranger has chosen so that it cannot move the cursor, colour, turn or break the lines of
// a terminal, and so pass for what we say.
func shown(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return text
	}
	return strconv.QuoteToASCII(text)
}

// checkMarks are how the outcomes of checks are printed.
var checkMarks = map[string]string{"ok": "ok  ", "failed": "FAIL"}

// claimText prints a claim; times as dates, too.
func claimText(name string, v any) string {
	text := fmt.Sprint(v)
	if data, err := json.Marshal(v); err == nil {
		text = string(data)
	}
	if n, ok := v.(float64); ok && slices.Contains([]string{"exp", "iat", "nbf", "auth_time"}, name) {
		text = fmt.Sprintf("%.0f (%s)", n, time.Unix(int64(n), 0).UTC().Format(time.RFC3339))
	}
	return text
}
