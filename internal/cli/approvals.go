package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

type approvalsCmd struct {
	List    approvalsListCmd   `cmd:"" help:"List approvals."`
	Approve approvalsDecideYes `cmd:"" help:"Approve a call that somebody else asked for."`
	Deny    approvalsDecideNo  `cmd:"" help:"Refuse a call that somebody else asked for."`
}

type approvalsListCmd struct {
	identity
	State string `help:"Only approvals in this state: pending, approved, denied, used or expired." enum:"pending,approved,denied,used,expired," default:"" placeholder:"STATE"`
}

// Run lists the approvals of the caller's tenant.
func (c approvalsListCmd) Run(ctx context.Context, p *Program, g *globals) error {
	a, err := p.open(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	who, err := c.principal(a, app.PersonaLead)
	if err != nil {
		return err
	}
	list, err := a.Approvals().List(ctx, who.Tenant, atlas.ApprovalState(c.State))
	if err != nil {
		return err
	}
	if g.JSON {
		if list == nil {
			list = []atlas.Approval{}
		}
		return p.printJSON(list)
	}
	if len(list) == 0 {
		p.printf("no approvals\n")
		return nil
	}
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATE\tTOOL\tASKED BY\tEXPIRES\tEFFECT")
	for _, ap := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", ap.ID, ap.State, ap.Tool, ap.Subject, ap.Expires.Local().Format(time.DateTime), clip(ap.Preview, 60))
	}
	return w.Flush()
}

// decide are the flags of both decisions.
type decide struct {
	identity
	ID     string `arg:"" help:"Id of the approval, as the refused call names it."`
	Reason string `help:"Why; recorded in the audit log." placeholder:"TEXT"`
}

func (c decide) run(ctx context.Context, p *Program, g *globals, approve bool) error {
	a, err := p.open(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	who, err := c.principal(a, app.PersonaLead)
	if err != nil {
		return err
	}
	do := a.Approvals().Deny
	if approve {
		do = a.Approvals().Approve
	}
	ap, err := do(ctx, *who, c.ID, c.Reason)
	if err != nil {
		return err
	}
	if g.JSON {
		return p.printJSON(ap)
	}
	p.printf("%s: %s by %s\n  %s asked for %s: %s\n", ap.ID, ap.State, ap.Approver, ap.Subject, ap.Tool, ap.Preview)
	if approve {
		p.printf("  the identical call goes through once, until %s\n", ap.Expires.Local().Format(time.DateTime))
	}
	return nil
}

type (
	approvalsDecideYes struct{ decide }
	approvalsDecideNo  struct{ decide }
)

// Run approves.
func (c approvalsDecideYes) Run(ctx context.Context, p *Program, g *globals) error {
	return c.run(ctx, p, g, true)
}

// Run refuses.
func (c approvalsDecideNo) Run(ctx context.Context, p *Program, g *globals) error {
	if c.Reason == "" {
		return usage("--reason is needed: whoever asked reads it")
	}
	return c.run(ctx, p, g, false)
}
