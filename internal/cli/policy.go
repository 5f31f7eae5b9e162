package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/atlas-mcp/atlas/internal/app"
)

type policyCmd struct {
	Check   policyCheckCmd   `cmd:"" help:"Check a policy file against the configured tools."`
	Explain policyExplainCmd `cmd:"" help:"Tell how the policy decides a call, without making it."`
}

type policyCheckCmd struct {
	File string `arg:"" help:"Policy file." type:"path"`
}

// Run checks the file. Exit code 1 means that it has mistakes.
func (c policyCheckCmd) Run(ctx context.Context, p *Program, g *globals) error {
	data, err := p.ReadFile(c.File)
	if err != nil {
		return usage("%w", err)
	}
	// The tools are needed to check names and types; the configured policy itself may be the broken one.
	a, err := p.openWithoutPolicy(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	rules, warnings, err := a.CheckPolicy(c.File, data)
	if e, ok := errors.AsType[*app.PolicyError](err); ok {
		if g.JSON {
			if err := p.printJSON(e); err != nil {
				return err
			}
			return no()
		}
		p.notef("%s\n", e.Detail())
		return &exitError{exitNo, fmt.Errorf("%s: refused", c.File)}
	}
	if err != nil {
		return err
	}
	if g.JSON {
		return p.printJSON(map[string]any{"file": c.File, "rules": rules, "warnings": warnings})
	}
	if warnings != "" {
		p.notef("%s\n", warnings)
	}
	p.printf("%s: %d rules, ok\n", c.File, rules)
	return nil
}

type policyExplainCmd struct {
	identity
	Tool string   `help:"Name of the tool." required:"" placeholder:"TOOL"`
	Args string   `help:"Arguments as one JSON object." placeholder:"JSON"`
	Arg  []string `help:"Argument as name=value; may be repeated." placeholder:"NAME=VALUE" sep:"none"`
}

// Run explains. Exit code 1 means that the call would be refused.
func (c policyExplainCmd) Run(ctx context.Context, p *Program, g *globals) error {
	a, err := p.open(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	who, err := c.principal(a, app.PersonaCopilot)
	if err != nil {
		return err
	}
	args, err := arguments(c.Arg, c.Args, a.Tool(c.Tool))
	if err != nil {
		return err
	}
	e, err := a.Explain(ctx, who, c.Tool, args)
	if err != nil {
		return err
	}
	if g.JSON {
		if err := p.printJSON(e); err != nil {
			return err
		}
	} else {
		p.printf("%s\n", e.String())
	}
	if e.Decision != "allow" {
		return no()
	}
	return nil
}
