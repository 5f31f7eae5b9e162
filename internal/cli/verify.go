package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/isolation"
)

// exitUnsure ends a verification that found nothing wrong and did not prove everything, or was broken off.
const exitUnsure = 3

type verifyCmd struct {
	Isolation verifyIsolationCmd `cmd:"" help:"Attack one tenant's data as another, through every tool and source, and say what was tried."`
}

type verifyIsolationCmd struct {
	Against    string   `help:"URL of a running server to attack over the network, in place of this configuration in this process." placeholder:"URL"`
	TenantA    string   `help:"Canary tenant that attacks." default:"atlas-canary-a" placeholder:"TENANT"`
	TenantB    string   `help:"Canary tenant that is attacked." default:"atlas-canary-b" placeholder:"TENANT"`
	TokenAFile []string `help:"File with a token of tenant A, for --against; may be repeated, once for each role (default: ATLAS_CANARY_TOKEN_A)." placeholder:"FILE" type:"path"`
	TokenBFile []string `help:"File with a token of tenant B with the same rights (default: ATLAS_CANARY_TOKEN_B)." placeholder:"FILE" type:"path"`
	Plant      bool     `help:"Only write the canaries into the sources of this configuration, for --against later."`
	NoPlant    bool     `help:"Write nothing: use the canaries of an earlier run, and what the tenants have already."`
	List       bool     `help:"List what would be tried, and do not try it. The tenants' own data are read for that."`
	Accept     []string `help:"Tool that need not be proven; may be repeated." placeholder:"TOOL"`
	Storm      int      `help:"Calls of each tenant and tool that run at once with those of all others." default:"12" placeholder:"N"`
	All        bool     `help:"Print every attempt, not only their counts."`
}

// Help tells what is proven and what the exit codes mean.
func (verifyIsolationCmd) Help() string {
	return `Two canary tenants get records whose texts and numbers say whose they are. B's own calls prove that the canaries can be
reached; then A tries to reach B's: by B's ids and keys, through caches, cursors, sessions and pools that B has
used, with SQL and searches that step out of the tenant, and, over HTTP, with header fields and changed tokens. Whatever A gets is
searched for what is B's.

Exit codes: 0 nothing leaked and every tool that gives out data is proven, 1 something leaked, 2 wrong flags or configuration,
3 nothing leaked, but a tool is not proven or the run was broken off.`
}

// Run verifies, plants or lists.
func (c verifyIsolationCmd) Run(ctx context.Context, p *Program, g *globals) error {
	switch {
	case c.Plant && (c.NoPlant || c.Against != "" || c.List):
		return usage("--plant goes with neither --no-plant, --against nor --list")
	case c.Storm < 1:
		return usage("--storm must be at least 1")
	}
	cfg := isolation.Config{Tenants: [2]atlas.TenantID{atlas.TenantID(c.TenantA), atlas.TenantID(c.TenantB)}, Accept: c.Accept, Storm: c.Storm}
	if err := cfg.Validate(); err != nil {
		return usage("%w", err)
	}
	if c.Against != "" {
		return c.against(ctx, p, g, cfg)
	}
	return c.inside(ctx, p, g, cfg)
}

// against attacks a running server.
func (c verifyIsolationCmd) against(ctx context.Context, p *Program, g *globals, cfg isolation.Config) error {
	over := isolation.Over{URL: c.Against}
	for side, files := range [2][]string{c.TokenAFile, c.TokenBFile} {
		tokens, err := p.tokens(files, "ATLAS_CANARY_TOKEN_"+isolation.Side(side).String())
		if err != nil {
			return err
		}
		over.Tokens[side] = tokens
	}
	if len(over.Tokens[0]) != len(over.Tokens[1]) {
		return usage("give as many --token-a-file as --token-b-file: the tokens are compared in pairs")
	}
	for i := range over.Tokens[0] {
		over.Roles = append(over.Roles, fmt.Sprintf("token %d", i+1))
	}
	target, err := isolation.NewHTTP(over)
	if err != nil {
		return usage("%w", err)
	}
	deps := isolation.Deps{
		Target: target, Door: target, Name: c.Against,
		Canaries: isolation.Expect(ctx, isolation.Field{Samples: app.DemoSamples()}, cfg.Tenants),
	}
	return c.prove(ctx, p, g, cfg, deps)
}

// tokens reads tokens from files, or the one of the environment.
func (p *Program) tokens(files []string, variable string) ([]string, error) {
	if len(files) == 0 {
		if token, _ := p.Env(variable); token != "" {
			return []string{strings.TrimSpace(token)}, nil
		}
		return nil, usage("a token of each canary tenant is needed: set %s, or give its file", variable)
	}
	var out []string
	for _, file := range files {
		data, err := p.ReadFile(file)
		if err != nil {
			return nil, usage("read a token: %w", err)
		}
		out = append(out, strings.TrimSpace(string(data)))
	}
	return out, nil
}

// room lets the canaries call as often as a proof has to; nobody else's limits change.
const room = `
isolation: {interval: 0s}
flood: {rate: 1000000, burst: 100000}
ratelimit:
  tenants:
    %[1]s: {tenant: {rate: 1000000, burst: 100000}, tool: {rate: 1000000, burst: 100000}, caller: {rate: 1000000, burst: 100000}}
    %[2]s: {tenant: {rate: 1000000, burst: 100000}, tool: {rate: 1000000, burst: 100000}, caller: {rate: 1000000, burst: 100000}}
`

// inside attacks this configuration in this process, and over HTTP on loopback where tokens can be made.
func (c verifyIsolationCmd) inside(ctx context.Context, p *Program, g *globals, cfg isolation.Config) error {
	ln, err := app.ListenLoopback(ctx)
	if err != nil {
		return err
	}
	defer ln.Close() //nolint:errcheck // closed by the server already, unless it did not start
	o := p.quietly(g)
	o.PublicURL = "http://" + ln.Addr().String()
	o.Overlay = fmt.Appendf(nil, room, c.TenantA, c.TenantB)
	a, err := app.Open(ctx, o)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	field := a.Field()
	var canaries *isolation.Canaries
	if c.NoPlant {
		canaries = isolation.Expect(ctx, field, cfg.Tenants)
	} else {
		canaries = isolation.Plant(ctx, field, cfg.Tenants, isolation.NewKey())
	}
	if c.Plant {
		return p.printPlanted(g, canaries)
	}
	target, err := isolation.NewDirect(a.Inside(), cfg.Tenants)
	if err != nil {
		return usage("%w", err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- a.Serve(serving, ln) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			p.notef("%s: the server on loopback: %v\n", p.Name, err)
		}
	}()
	deps := isolation.Deps{
		Target: target, Canaries: canaries, Name: a.ConfigName(),
		Look: func(name string) string {
			return fmt.Sprintf("the source %s: the driver %s, where it binds the tenant", name, cmp.Or(a.Config().Sources[name].Kind, a.Config().State.Kind)) // memories are in the state
		},
	}
	if over, ok := door(a, o.PublicURL, cfg.Tenants); ok {
		if deps.Door, err = isolation.NewHTTP(over); err != nil {
			return err
		}
	}
	return c.prove(ctx, p, g, cfg, deps)
}

// door returns the way over HTTP with a token for each role, if there is an issuer that signs them. Roles that may
// act for another tenant are left out: what they may do is no leak.
func door(a *app.App, url string, tenants [2]atlas.TenantID) (over isolation.Over, ok bool) {
	over.URL = url
	for _, role := range slices.Sorted(maps.Keys(a.Config().Roles)) {
		if scopes := a.Config().Roles[role]; len(scopes) == 0 || slices.Contains(scopes, atlas.ScopeImpersonate) {
			continue
		}
		for side, tenant := range tenants {
			token, err := a.Token(app.TokenRequest{Tenant: string(tenant), Subject: isolation.Subject + "/" + role, Roles: []string{role}})
			if err != nil {
				return over, false
			}
			over.Tokens[side] = append(over.Tokens[side], token)
		}
		over.Roles = append(over.Roles, role)
	}
	return over, len(over.Roles) > 0
}

// prove runs the proof and prints its report.
func (c verifyIsolationCmd) prove(ctx context.Context, p *Program, g *globals, cfg isolation.Config, deps isolation.Deps) error {
	if p.Terminal && !g.JSON {
		leaks := 0
		deps.Progress = func(a isolation.Attempt, total int) {
			if a.Verdict == isolation.Leaked {
				leaks++
			}
			p.notef("\r%d of %d attempts, %d leaks ", a.N, total, leaks)
		}
	}
	proof, err := isolation.New(cfg, deps)
	if err != nil {
		return usage("%w", err)
	}
	run := proof.Run
	if c.List {
		run = proof.List
	}
	report, err := run(ctx)
	if err != nil {
		return err
	}
	if deps.Progress != nil {
		p.notef("\r%-40s\r", "")
	}
	if g.JSON {
		if err := p.printJSON(report); err != nil {
			return err
		}
	} else if err := p.printProof(&report, c.All || c.List); err != nil {
		return err
	}
	switch {
	case c.List, report.Result == isolation.ResultHeld:
		return nil
	case report.Result == isolation.ResultLeak:
		return no()
	}
	return &exitError{exitUnsure, nil}
}

// printPlanted prints what was planted. Exit code 1 means that a source took nothing.
func (p *Program) printPlanted(g *globals, canaries *isolation.Canaries) error {
	failed := false
	for _, s := range canaries.Plants {
		failed = failed || s.Failed != ""
	}
	if g.JSON {
		if err := p.printJSON(canaries.Plants); err != nil {
			return err
		}
	} else {
		for _, s := range canaries.Plants {
			p.printf("%s\n", planted(s))
		}
	}
	if failed {
		return no()
	}
	return nil
}

func planted(s isolation.Planting) string {
	if s.Failed != "" {
		return fmt.Sprintf("%s: nothing was planted: %s", s.Source, s.Failed)
	}
	var parts []string
	for _, n := range []struct {
		n    int
		what string
	}{{s.Rows, "rows"}, {s.Documents, "documents"}, {s.Objects, "objects"}} {
		if n.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	return s.Source + ": " + cmp.Or(strings.Join(parts, ", "), "nothing")
}

// printProof prints a report for people.
func (p *Program) printProof(r *isolation.Report, all bool) error {
	p.printf("Can %s see what is %s's? Attacked: %s\n\n", r.Tenants[0], r.Tenants[1], shown(r.Target))
	for _, s := range r.Planted {
		p.printf("planted  %s\n", shown(planted(s)))
	}
	if len(r.Planted) > 0 {
		p.printf("\n")
	}
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOOL\tSOURCE\tSTATUS\tHOW IT IS KNOWN")
	for _, c := range r.Controls {
		status := string(c.Status)
		if c.Accept {
			status += " (accepted)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", shown(c.Tool), c.Source, status, shown(clip(c.Detail, 90)))
	}
	fmt.Fprintln(w)
	if all {
		fmt.Fprintln(w, "NO\tATTACK\tTOOL\tVERDICT\tTRIED\tCAME BACK")
		for _, a := range r.Attempts {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", a.N, a.Area, shown(a.Tool), a.Verdict, shown(a.Tried), shown(a.Got))
		}
	} else {
		fmt.Fprintln(w, "ATTACK\tATTEMPTS\tHELD\tLEAKS\tINCONCLUSIVE\tCAME BACK")
		for _, row := range byArea(r.Attempts) {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", row.area, row.n, row.verdicts[isolation.Held], row.verdicts[isolation.Leaked], row.verdicts[isolation.Inconclusive], shown(row.most()))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	p.printf("\n")
	for _, a := range r.Attempts {
		switch {
		case a.Verdict == isolation.Leaked:
			p.printf("LEAK %d  source %s, tool %s\n  tried    %s\n  got      %s\n", a.N, cmp.Or(a.Source, "(several)"), shown(a.Tool), shown(a.Tried), shown(a.Got))
			for _, e := range a.Evidence {
				p.printf("  evidence %s\n", shown(e))
			}
			p.printf("  look at  %s\n\n", shown(a.Look))
		case a.Verdict == isolation.Inconclusive && !all:
			p.printf("inconclusive %d  %s, %s: %s: %s\n", a.N, a.Area, shown(a.Tool), shown(a.Tried), shown(a.Got))
		}
	}
	for _, n := range r.Notes {
		p.printf("note: %s\n", shown(n))
	}
	s := r.Summary
	p.printf("%s: %d attempts, %d leaks, %d inconclusive; %d tools proven, %d not proven; %d calls in %.1f s, %d refused for quota and made again\n",
		strings.ToUpper(r.Result), s.Attempts, s.Leaks, s.Inconclusive, s.Proven, s.NotProven, s.Calls, r.Seconds, s.Refused)
	return nil
}

// An areaRow counts the attempts of one kind.
type areaRow struct {
	area     string
	n        int
	verdicts map[isolation.Verdict]int
	got      map[string]int
}

func byArea(attempts []isolation.Attempt) []*areaRow {
	var rows []*areaRow
	at := map[string]*areaRow{}
	for _, a := range attempts {
		row := at[a.Area]
		if row == nil {
			row = &areaRow{area: a.Area, verdicts: map[isolation.Verdict]int{}, got: map[string]int{}}
			at[a.Area] = row
			rows = append(rows, row)
		}
		row.n++
		row.verdicts[a.Verdict]++
		row.got[a.Got]++
	}
	return rows
}

// most are the three answers that came back most often.
func (r *areaRow) most() string {
	kinds := slices.SortedFunc(maps.Keys(r.got), func(a, b string) int { return cmp.Or(cmp.Compare(r.got[b], r.got[a]), strings.Compare(a, b)) })
	for i, k := range kinds {
		kinds[i] = clip(k, 40)
	}
	return strings.Join(kinds[:min(len(kinds), 3)], ", ")
}
