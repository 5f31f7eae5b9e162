package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Check the configuration, its tools and its policy, without serving."`
	Env   configEnvCmd   `cmd:"" help:"List the environment variables that change settings, in the form of .env.example."`
}

type configCheckCmd struct{}

// Run opens everything that the configuration names and closes it again.
func (configCheckCmd) Run(ctx context.Context, p *Program, g *globals) error {
	a, err := p.open(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	if g.JSON {
		return p.printJSON(map[string]any{
			"config": a.ConfigName(), "tools": a.Count(atlas.KindTool), "prompts": a.Count(atlas.KindPrompt),
			"resources": a.Count(atlas.KindResource), "sources": len(a.Config().Sources),
		})
	}
	p.printf("%s: %d tools, %d prompts and %d resources from %d sources, ok\n", a.ConfigName(),
		a.Count(atlas.KindTool), a.Count(atlas.KindPrompt), a.Count(atlas.KindResource), len(a.Config().Sources))
	return nil
}

type configEnvCmd struct{}

// A variableRow is a variable as `config env --json` prints it.
type variableRow struct {
	Name      string `json:"name"`
	Setting   string `json:"setting"` // its path in the configuration file
	Component string `json:"component"`
	Default   string `json:"default"`
	About     string `json:"about"`
}

// Run prints the table of variables.
func (configEnvCmd) Run(p *Program, g *globals) error {
	if g.JSON {
		rows := make([]variableRow, len(app.Variables))
		for i, v := range app.Variables {
			rows[i] = variableRow{v.Name, v.Path, v.Component, v.Default, v.Doc}
		}
		return p.printJSON(rows)
	}
	p.printf("%s", EnvExample())
	return nil
}

// clientVariables are read by the copilot, not by the server.
const clientVariables = `
# --- The copilot (a client) ---
# where the server is; without it the copilot starts one inside its own process
#ATLAS_MCP_URL=http://127.0.0.1:8080
# bearer token; dev-token works in development mode on the same machine
#ATLAS_MCP_TOKEN=dev-token
# sent as X-Tenant-Id; must repeat the token's tenant
#ATLAS_TENANT=acme
# without it the offline model answers
#ANTHROPIC_API_KEY=
#ANTHROPIC_BASE_URL=

# --- The command line ---
# configuration file; default config/atlas.yaml if it is there
#ATLAS_CONFIG=
`

// EnvExample returns the content of .env.example.
func EnvExample() string {
	var b strings.Builder
	b.WriteString("# Settings of Atlas by component, all commented out at their defaults. They are laid over the\n" +
		"# configuration file. This file is made from the table in internal/app/env.go: make gen\n")
	component := ""
	for _, v := range app.Variables {
		if v.Component != component {
			component = v.Component
			fmt.Fprintf(&b, "\n# --- %s ---\n", component)
		}
		fmt.Fprintf(&b, "# %s (%s)\n#%s=%s\n", v.Doc, v.Path, v.Name, exampleValue(v.Default))
	}
	b.WriteString(clientVariables)
	return b.String()
}

// exampleValue leaves out defaults that are prose.
func exampleValue(s string) string {
	if strings.Contains(s, " ") && !strings.HasPrefix(s, "{") && !strings.HasPrefix(s, "[") {
		return ""
	}
	return s
}
