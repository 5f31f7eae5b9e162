package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/audit"
	"github.com/atlas-mcp/atlas/internal/stage/policy"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// What the command line asks without serving anything.

// AuditReport is what a verification of the audit log found.
type AuditReport = audit.Report

// AuditFilter picks records of the audit log.
type AuditFilter = audit.Filter

// Explanation tells how the policy decides a call.
type Explanation = policy.Explanation

// AuditPath returns where the configured audit log is, without opening anything.
func AuditPath(o Options) (string, error) {
	cfg, err := loadConfig(o, OpenFiles(o.ConfigFile))
	return cfg.Audit.Path, err
}

// VerifyAudit checks the hash chain of a log, which may lack its oldest files or its head if so said.
func VerifyAudit(ctx context.Context, path string, missingStart, missingHead bool) (AuditReport, error) {
	return verifyAudit(ctx, path, nil, missingStart, missingHead)
}

// VerifyConfigured checks the configured log, also against what the state remembers of it where that is
// kept elsewhere.
func VerifyConfigured(ctx context.Context, o Options, missingStart, missingHead bool) (_ AuditReport, err error) {
	files := OpenFiles(o.ConfigFile)
	cfg, err := loadConfig(o, files)
	if err != nil {
		return AuditReport{}, err
	}
	a := &App{opts: o, files: files, cfg: cfg, log: slog.New(slog.DiscardHandler)}
	driver, err := a.stateConfig()
	if err != nil {
		return AuditReport{}, &ConfigError{err}
	}
	if !driver.Elsewhere() {
		return VerifyAudit(ctx, cfg.Audit.Path, missingStart, missingHead)
	}
	if a.state, err = driver.Open(ctx, cfg.DataDir, a.log); err != nil {
		return AuditReport{}, err
	}
	defer func() { err = errors.Join(err, a.state.Close()) }()
	head, err := a.auditHead()
	if err != nil {
		return AuditReport{}, err
	}
	return verifyAudit(ctx, cfg.Audit.Path, head, missingStart, missingHead)
}

func verifyAudit(ctx context.Context, path string, head audit.Head, missingStart, missingHead bool) (AuditReport, error) {
	return audit.Verify(ctx, path, head, audit.VerifyOptions{AllowMissingStart: missingStart, AllowMissingHead: missingHead})
}

// QueryAudit yields the matching records of a log, oldest first.
func QueryAudit(ctx context.Context, path string, f AuditFilter) iter.Seq2[atlas.AuditRecord, error] {
	return audit.Query(ctx, path, f)
}

// A ToolCost is what a tool's definition costs a model.
type ToolCost struct {
	Name   string
	Tokens int // estimated
}

// Costs estimates the tokens of each definition, the dearest first, and of all together.
func Costs(tools []*atlas.Tool) ([]ToolCost, int) {
	costs := make([]ToolCost, len(tools))
	total := 0
	for i, t := range tools {
		costs[i] = ToolCost{t.Name, tool.Cost(t)}
		total += costs[i].Tokens
	}
	sortCosts(costs)
	return costs, total
}

// Explain tells how the policy decides a call that p makes, without making it.
func (a *App) Explain(ctx context.Context, p *atlas.Principal, name string, args []byte) (Explanation, error) {
	g := a.current.use()
	if g == nil {
		return Explanation{}, errClosed
	}
	defer g.lease.leave()
	t, ok := g.registry.Lookup(name)
	if !ok {
		return Explanation{}, atlas.Errorf(atlas.CodeToolNotFound, nil, fmt.Sprintf("there is no tool %q", name))
	}
	call := a.NewCall(p, name, args)
	call.Tool = t
	// The arguments are validated as they would be in a call; what the policy would say is then asked
	// instead of calling on.
	var explanation Explanation
	var failed error
	asked := false
	_, err := g.validation.Stage(func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		asked = true
		explanation, failed = g.policy.Explain(ctx, call)
		return atlas.Result{}, failed
	})(ctx, call)
	if asked { // whatever validation makes of the empty answer: no tool ran
		return explanation, failed
	}
	return explanation, err
}

// CheckPolicy reads a policy file against the configured tools. The error is a *PolicyError with every
// mistake.
func (a *App) CheckPolicy(name string, data []byte) (rules int, warnings string, err error) {
	e, err := policy.Load(name, data, policy.Deps{Tools: a.Tools(), Scopes: tool.MemoryScopes(), PII: func([]byte) []string { return nil }})
	if err != nil {
		return 0, "", err
	}
	if w := e.Warnings(); len(w) > 0 {
		warnings = policy.Detail(name, w)
	}
	return e.Len(), warnings, nil
}

// PolicyError holds every mistake of a policy file.
type PolicyError = policy.LoadError

func sortCosts(costs []ToolCost) {
	slices.SortFunc(costs, func(a, b ToolCost) int {
		return cmp.Or(cmp.Compare(b.Tokens, a.Tokens), cmp.Compare(a.Name, b.Name))
	})
}
