package cli

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/atlas-mcp/atlas/internal/app"
)

type demoCmd struct {
	modelFlags
	identity
	Ask    *string `help:"Answer this question and exit, instead of serving." placeholder:"QUESTION"`
	Listen string  `help:"Address to serve on." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	Quiet  bool    `help:"No live progress of the agents."`
}

// Help tells what the demo company is.
func (demoCmd) Help() string {
	return `The demo company has two tenants, acme and globex, with customers, orders, tickets and documents, all generated
and the same every time. With --ask the four agents answer one question on it over MCP and the exit code says whether the
critic approved. Without, the server keeps running and prints its URL, the personas and a token for each.`
}

// Run answers or serves.
func (c demoCmd) Run(ctx context.Context, p *Program, g *globals) error {
	if c.Ask != nil {
		question := strings.TrimSpace(*c.Ask)
		if question == "" {
			return usage("--ask needs a question")
		}
		t, err := p.embedded(ctx, g, c.identity)
		if err != nil {
			return err
		}
		defer t.close()
		return p.ask(ctx, g, c.modelFlags, t, question, false, c.Quiet)
	}
	o := p.options(g)
	// The port comes first: it is a part of the URL that the tokens are made for.
	ln, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer ln.Close() //nolint:errcheck // closed by the server already, unless it did not start
	o.PublicURL = "http://" + reachable(ln.Addr())
	a, err := app.Open(ctx, o)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	personas, err := a.PersonaTokens()
	if err != nil {
		return err
	}
	url := a.BaseURL()
	if g.JSON {
		if err := p.printJSON(map[string]any{"url": url + "/mcp", "personas": personas}); err != nil {
			return err
		}
	} else {
		p.printf("%s", banner(url, a.ConfigName(), personas))
	}
	stop := p.reloadOnHangup(ctx, a)
	defer stop()
	return a.Serve(ctx, ln)
}

// listen opens the listener of a command.
func listen(ctx context.Context, address string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, usage("--listen %q: write HOST:PORT, such as 127.0.0.1:8080", address)
	}
	return app.Listen(ctx, address)
}

// reachable returns how a client on this machine reaches the address.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
}

// banner is what a newcomer sees first.
func banner(url, config string, personas []app.PersonaToken) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Atlas serves the demo company (configuration: %s). Stop it with Ctrl-C.\n\n", config)
	fmt.Fprintf(&b, "  MCP        %s/mcp\n  discovery  %s/.well-known/mcp-server\n  metrics    %s/metrics\n  health     %s/healthz, %s/readyz\n\n", url, url, url, url, url)
	b.WriteString("Clients that can open a browser need the MCP URL only: you sign in as one of the personas and consent.\n\n")
	fmt.Fprintf(&b, "In another terminal:\n\n  export ATLAS_MCP_URL=%s ATLAS_MCP_TOKEN=dev-token ATLAS_TENANT=acme\n", url)
	b.WriteString("  bin/atlas copilot \"Why was the refund on order o_9002 for CUST-1001 delayed?\"\n\n")
	b.WriteString("dev-token is copilot@acme, from this machine only. Tokens of the personas, for twelve hours:\n")
	for _, p := range personas {
		fmt.Fprintf(&b, "\n  %s (%s): %s\n  %s\n", p.Subject, strings.Join(p.Roles, ", "), p.About, p.Token)
	}
	b.WriteString("\n")
	return b.String()
}
