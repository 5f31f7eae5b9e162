package cli

import (
	"context"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

type memoryCmd struct {
	List   memoryListCmd   `cmd:"" help:"List what is remembered of a tenant's customers, newest first."`
	Find   memoryFindCmd   `cmd:"" help:"List what is remembered of one customer, newest first."`
	Forget memoryForgetCmd `cmd:"" help:"Delete all that is remembered of one customer, for good."`
}

// memoryFlags say for whom an operator acts.
type memoryFlags struct {
	Tenant string `required:"" help:"Tenant whose customers they are." placeholder:"TENANT"`
	By     string `help:"Who acts, for the audit log." default:"operator" placeholder:"NAME"`
}

// Help tells what the operator should know.
func (memoryFlags) Help() string {
	return `Reads and changes Atlas's own state, on the machine that holds it and without asking the policy: callers use the tools
memory_find, memory_save and memory_forget instead. Each act is recorded in the audit log.`
}

func (f memoryFlags) open(ctx context.Context, p *Program, g *globals) (*app.App, atlas.TenantID, error) {
	tenant, err := atlas.ParseTenantID(f.Tenant)
	if err != nil {
		return nil, "", usage("--tenant: %w", err)
	}
	if f.By == "" {
		return nil, "", usage("--by: say who acts")
	}
	a, err := p.open(ctx, g)
	return a, tenant, err
}

// A memoryRow is a memory as it is printed.
type memoryRow struct {
	ID       string     `json:"id"`
	Customer string     `json:"customer_id"`
	Text     string     `json:"text"`
	Call     string     `json:"request_id"` // of the call that saved it, as in the audit log
	Created  time.Time  `json:"created_at"`
	Expires  *time.Time `json:"expires_at,omitempty"`
}

func (f memoryFlags) show(ctx context.Context, p *Program, g *globals, customer string, limit int) error {
	if limit < 1 || limit > 100_000 {
		return usage("--limit must be from 1 to 100000")
	}
	a, tenant, err := f.open(ctx, p, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	list, err := a.Memories(ctx, f.By, tenant, customer, limit)
	if err != nil {
		return err
	}
	rows := make([]memoryRow, len(list))
	for i, m := range list {
		rows[i] = memoryRow{ID: m.ID, Customer: m.Customer, Text: m.Text, Call: m.Call, Created: m.Created}
		if !m.Expires.IsZero() {
			rows[i].Expires = &m.Expires
		}
	}
	if g.JSON {
		return p.printJSON(rows)
	}
	if len(rows) == 0 {
		p.printf("nothing is remembered\n")
		return nil
	}
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tCUSTOMER\tSAVED\tEXPIRES\tTEXT")
	for _, r := range rows {
		expires := "never"
		if r.Expires != nil {
			expires = r.Expires.Format(time.DateOnly)
		}
		// Quoted: a text must not act on the terminal.
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.ID, printable(r.Customer), r.Created.Local().Format(time.DateTime), expires, strconv.Quote(clip(r.Text, 100)))
	}
	return w.Flush()
}

// printable is s as it is, or quoted if it could act on the terminal.
func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}

type memoryListCmd struct {
	memoryFlags
	Limit int `help:"At most this many." default:"100" placeholder:"N"`
}

// Run lists.
func (c memoryListCmd) Run(ctx context.Context, p *Program, g *globals) error {
	return c.show(ctx, p, g, "", c.Limit)
}

type memoryFindCmd struct {
	memoryFlags
	Customer string `required:"" help:"Id of the customer, exactly." placeholder:"ID"`
	Limit    int    `help:"At most this many." default:"100" placeholder:"N"`
}

// Run lists one customer's.
func (c memoryFindCmd) Run(ctx context.Context, p *Program, g *globals) error {
	if c.Customer == "" {
		return usage("--customer is empty")
	}
	return c.show(ctx, p, g, c.Customer, c.Limit)
}

type memoryForgetCmd struct {
	memoryFlags
	Customer string `required:"" help:"Id of the customer, exactly." placeholder:"ID"`
}

// Run forgets.
func (c memoryForgetCmd) Run(ctx context.Context, p *Program, g *globals) error {
	if c.Customer == "" {
		return usage("--customer is empty")
	}
	a, tenant, err := c.open(ctx, p, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	n, err := a.ForgetCustomer(ctx, c.By, tenant, c.Customer)
	if err != nil {
		return err
	}
	if g.JSON {
		return p.printJSON(struct {
			Tenant    atlas.TenantID `json:"tenant"`
			Customer  string         `json:"customer_id"`
			Forgotten int            `json:"forgotten"`
		}{tenant, c.Customer, n})
	}
	p.printf("forgotten of %s: %d\n", printable(c.Customer), n)
	return nil
}
