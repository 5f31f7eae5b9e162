package cli

import (
	"context"
	"strings"

	"github.com/atlas-mcp/atlas/internal/app"
)

type doctorCmd struct{}

// marks are how the states of findings are printed.
var marks = map[string]string{app.Healthy: "ok  ", app.Warning: "WARN", app.Failed: "FAIL"}

// Run prints the findings. Exit code 1 means that something failed.
func (doctorCmd) Run(ctx context.Context, p *Program, g *globals) error {
	findings := app.Doctor(ctx, p.quietly(g))
	count := map[string]int{}
	for _, f := range findings {
		count[f.Status]++
	}
	healthy := count[app.Failed] == 0
	if g.JSON {
		if err := p.printJSON(struct {
			OK       bool          `json:"ok"`
			Findings []app.Finding `json:"findings"`
		}{healthy, findings}); err != nil {
			return err
		}
	} else {
		width := 0
		for _, f := range findings {
			width = max(width, len(f.Area)+1+len(f.Name))
		}
		for _, f := range findings {
			p.printf("%s  %-*s  %s\n", marks[f.Status], width, f.Area+" "+f.Name, f.Detail)
			if f.Remedy != "" {
				p.printf("      %s  → %s\n", strings.Repeat(" ", width), f.Remedy)
			}
		}
		p.printf("\n%d ok, %d warnings, %d failed\n", count[app.Healthy], count[app.Warning], count[app.Failed])
	}
	if !healthy {
		return no()
	}
	return nil
}
