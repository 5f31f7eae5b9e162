package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

type toolsCmd struct {
	List toolsListCmd `cmd:"" help:"List the tools that a caller may use."`
	Call toolsCallCmd `cmd:"" help:"Call a tool through the whole pipeline."`
	Cost toolsCostCmd `cmd:"" help:"Show how many tokens the tools' definitions cost a model."`
}

type toolsListCmd struct {
	identity
}

// A toolRow is a tool as `tools list` prints it.
type toolRow struct {
	Name        string   `json:"name"`
	Level       string   `json:"level"`
	Source      string   `json:"source,omitempty"`
	Scopes      []string `json:"scopes"`
	Destructive bool     `json:"destructive"`
	Description string   `json:"description"`
}

// Run lists the tools.
func (c toolsListCmd) Run(ctx context.Context, p *Program, g *globals) error {
	tools, err := c.list(ctx, p, g)
	if err != nil {
		return err
	}
	rows := make([]toolRow, len(tools))
	for i, t := range tools {
		rows[i] = toolRow{t.Name, string(t.Level), t.Source, t.Scopes, t.Destructive, t.Description}
	}
	if g.JSON {
		return p.printJSON(rows)
	}
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tLEVEL\tSOURCE\tSCOPES\tABOUT")
	for _, r := range rows {
		about, _, _ := strings.Cut(r.Description, ". ")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name, r.Level, r.Source, strings.Join(r.Scopes, " "), clip(strings.TrimSuffix(about, "."), 70))
	}
	return w.Flush()
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func (i identity) list(ctx context.Context, p *Program, g *globals) ([]*atlas.Tool, error) {
	a, err := p.open(ctx, g)
	if err != nil {
		return nil, err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	who, err := i.principal(a, app.PersonaCopilot)
	if err != nil {
		return nil, err
	}
	res, err := a.List(ctx, who)
	return res.Tools, err
}

type toolsCallCmd struct {
	identity
	Name           string   `arg:"" help:"Name of the tool."`
	Arg            []string `help:"Argument as name=value; may be repeated. A value that is JSON of the type that the tool wants is taken as such." placeholder:"NAME=VALUE" sep:"none"`
	Args           string   `help:"All arguments as one JSON object." placeholder:"JSON"`
	IdempotencyKey string   `help:"Key that makes a repeated write answer from its first result." placeholder:"KEY"`
}

// A callOutcome is what `tools call --json` prints.
type callOutcome struct {
	RequestID string          `json:"request_id"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *atlas.Failure  `json:"error,omitempty"`
	Cache     string          `json:"cache,omitempty"`
	Rule      string          `json:"rule,omitempty"`
	Partial   bool            `json:"partial,omitempty"`
}

// Run calls the tool.
func (c toolsCallCmd) Run(ctx context.Context, p *Program, g *globals) error {
	a, err := p.open(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	who, err := c.principal(a, app.PersonaCopilot)
	if err != nil {
		return err
	}
	args, err := arguments(c.Arg, c.Args, a.Tool(c.Name))
	if err != nil {
		return err
	}
	call := a.NewCall(who, c.Name, args)
	call.IdempotencyKey = c.IdempotencyKey
	res, err := a.Handle(ctx, call)
	if g.JSON {
		out := callOutcome{
			RequestID: call.ID, Cache: res.Notes.Cache, Rule: res.Notes.Rule, Partial: res.Partial, Result: res.Structured,
		}
		if err != nil {
			f := atlas.ErrorOf(err).Failure(call.ID)
			out.Error, out.Result = &f, nil
		}
		if perr := p.printJSON(out); perr != nil {
			return perr
		}
		if err != nil {
			return no()
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w", atlas.ErrorOf(err))
	}
	if len(res.Structured) == 0 {
		p.printContent(res.Content)
		return nil
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, res.Structured, "", "  "); err != nil {
		return err
	}
	p.printf("%s\n", pretty.String())
	if res.NextCursor != "" {
		p.notef("more: call again with --arg cursor=%s\n", res.NextCursor)
	}
	return nil
}

// arguments makes the JSON object of arguments from name=value pairs, or takes the one given. A value
// is taken as JSON where the tool's schema wants anything but a string.
func arguments(pairs []string, whole string, tool *atlas.Tool) (json.RawMessage, error) {
	if whole != "" {
		if len(pairs) > 0 {
			return nil, usage("give --args or --arg, not both")
		}
		if !json.Valid([]byte(whole)) {
			return nil, usage("--args is not JSON")
		}
		return json.RawMessage(whole), nil
	}
	var schema struct {
		Properties map[string]struct {
			Type any `json:"type"`
		} `json:"properties"`
	}
	if tool != nil {
		if err := json.Unmarshal(tool.Input, &schema); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", tool.Name, err)
		}
	}
	object := map[string]json.RawMessage{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usage("--arg %q: write NAME=VALUE", pair)
		}
		if _, twice := object[name]; twice {
			return nil, usage("--arg %s is given twice", name)
		}
		if prop, known := schema.Properties[name]; known && prop.Type != "string" && json.Valid([]byte(value)) {
			object[name] = json.RawMessage(value)
			continue
		}
		quoted, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		object[name] = quoted
	}
	return json.Marshal(object)
}

type toolsCostCmd struct {
	identity
}

// A costRow is one tool's price.
type costRow struct {
	Name   string `json:"name"`
	Tokens int    `json:"tokens"`
}

// Run prints the estimated tokens of each definition, the dearest first, and of the whole list.
func (c toolsCostCmd) Run(ctx context.Context, p *Program, g *globals) error {
	tools, err := c.list(ctx, p, g)
	if err != nil {
		return err
	}
	rows, total := app.Costs(tools)
	out := make([]costRow, len(rows))
	for i, r := range rows {
		out[i] = costRow{r.Name, r.Tokens}
	}
	if g.JSON {
		return p.printJSON(map[string]any{"tools": out, "total": total, "estimated": true})
	}
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, r := range out {
		fmt.Fprintf(w, "%d\t  %s\t\n", r.Tokens, r.Name)
	}
	fmt.Fprintf(w, "%d\t  the whole list (estimated tokens)\t\n", total)
	return w.Flush()
}
