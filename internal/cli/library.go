package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

type promptsCmd struct {
	List promptsListCmd `cmd:"" help:"List the prompts that a caller may use."`
	Get  promptsGetCmd  `cmd:"" help:"Fill in a prompt and print its messages."`
}

type resourcesCmd struct {
	List resourcesListCmd `cmd:"" help:"List the resources that a caller may read, and the templates of more."`
	Read resourcesReadCmd `cmd:"" help:"Read a resource by its URI."`
}

// listKind lists the tools of a kind that the caller may use.
func (i identity) listKind(ctx context.Context, p *Program, g *globals, k atlas.Kind) ([]*atlas.Tool, error) {
	a, err := p.open(ctx, g)
	if err != nil {
		return nil, err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	who, err := i.principal(a, app.PersonaCopilot)
	if err != nil {
		return nil, err
	}
	call := a.NewCall(who, "", nil)
	call.Op, call.Kind = atlas.OpList, k
	res, err := a.Handle(ctx, call)
	return res.Tools, err
}

// A libraryRow is a prompt or a resource as the lists print it.
type libraryRow struct {
	Name        string   `json:"name"`
	URI         string   `json:"uri,omitempty"`
	MIME        string   `json:"mime_type,omitempty"`
	Scopes      []string `json:"scopes"`
	Description string   `json:"description"`
}

func (p *Program) printLibrary(g *globals, tools []*atlas.Tool, first string, column func(libraryRow) string) error {
	rows := make([]libraryRow, len(tools))
	for i, t := range tools {
		rows[i] = libraryRow{t.Name, t.URI, t.MIME, t.Scopes, t.Description}
	}
	if g.JSON {
		return p.printJSON(rows)
	}
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tSCOPES\tABOUT\n", first)
	for _, r := range rows {
		about, _, _ := strings.Cut(r.Description, ". ")
		fmt.Fprintf(w, "%s\t%s\t%s\n", column(r), strings.Join(r.Scopes, " "), clip(strings.TrimSuffix(about, "."), 70))
	}
	return w.Flush()
}

type promptsListCmd struct{ identity }

// Run lists the prompts.
func (c promptsListCmd) Run(ctx context.Context, p *Program, g *globals) error {
	tools, err := c.listKind(ctx, p, g, atlas.KindPrompt)
	if err != nil {
		return err
	}
	return p.printLibrary(g, tools, "PROMPT", func(r libraryRow) string { return r.Name })
}

type resourcesListCmd struct{ identity }

// Run lists the resources.
func (c resourcesListCmd) Run(ctx context.Context, p *Program, g *globals) error {
	tools, err := c.listKind(ctx, p, g, atlas.KindResource)
	if err != nil {
		return err
	}
	return p.printLibrary(g, tools, "URI", func(r libraryRow) string { return r.URI })
}

type promptsGetCmd struct {
	identity
	Name string   `arg:"" help:"Name of the prompt."`
	Arg  []string `help:"Argument as name=value; may be repeated." placeholder:"NAME=VALUE" sep:"none"`
}

// Run prints the messages.
func (c promptsGetCmd) Run(ctx context.Context, p *Program, g *globals) error {
	return c.read(ctx, p, g, func(a *app.App, call *atlas.Call) error {
		args, err := arguments(c.Arg, "", nil) // the arguments of prompts are texts
		call.Name, call.Kind, call.Args.Raw = c.Name, atlas.KindPrompt, args
		return err
	})
}

type resourcesReadCmd struct {
	identity
	URI string `arg:"" help:"URI of the resource, such as atlas://crm/schema."`
}

// Run prints the resource.
func (c resourcesReadCmd) Run(ctx context.Context, p *Program, g *globals) error {
	return c.read(ctx, p, g, func(a *app.App, call *atlas.Call) error {
		for _, t := range a.Tools() {
			if t.Kind != atlas.KindResource || t.Match == nil {
				continue
			}
			if args, ok := t.Match(c.URI); ok {
				call.Name, call.Kind, call.Args.Raw = t.Name, atlas.KindResource, args
				return nil
			}
		}
		return atlas.Errorf(atlas.CodeNotFound, nil, fmt.Sprintf("no resource has the URI %s; see atlas resources list", c.URI))
	})
}

// read makes the call that aim describes and prints the blocks of its answer.
func (i identity) read(ctx context.Context, p *Program, g *globals, aim func(*app.App, *atlas.Call) error) error {
	a, err := p.open(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	who, err := i.principal(a, app.PersonaCopilot)
	if err != nil {
		return err
	}
	call := a.NewCall(who, "", nil)
	if err := aim(a, &call); err != nil {
		return err
	}
	res, err := a.Handle(ctx, call)
	if err != nil {
		return fmt.Errorf("%w", atlas.ErrorOf(err))
	}
	if g.JSON {
		return p.printJSON(blocks(res.Content))
	}
	p.printContent(res.Content)
	return nil
}

// A block is atlas.Content as --json prints it.
type block struct {
	Type string `json:"type"`
	Role string `json:"role,omitempty"`
	URI  string `json:"uri,omitempty"`
	MIME string `json:"mime_type,omitempty"`
	Text string `json:"text,omitempty"`
	Data []byte `json:"data,omitempty"` // in base64
}

func blocks(content []atlas.Content) []block {
	out := make([]block, len(content))
	for i, c := range content {
		out[i] = block{string(c.Type), c.Role, c.URI, c.MIME, c.Text, c.Data}
	}
	return out
}

// printContent prints the blocks for a person: texts as they are, of everything else what it is.
func (p *Program) printContent(content []atlas.Content) {
	for i, c := range content {
		if c.Role != "" {
			if i > 0 {
				p.printf("\n")
			}
			p.printf("[%s]\n", c.Role)
		}
		switch {
		case c.Text != "":
			p.printf("%s\n", strings.TrimSuffix(c.Text, "\n"))
		case c.URI != "":
			p.printf("(%s, %s, %d bytes)\n", c.URI, c.MIME, len(c.Data))
		default:
			p.printf("(%s, %s, %d bytes)\n", c.Type, c.MIME, len(c.Data))
		}
	}
}
