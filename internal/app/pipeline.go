package app

import (
	"context"
	"slices"

	"github.com/atlas-mcp/atlas"
)

// A NamedStage is a stage with the name that people know it by.
type NamedStage struct {
	Name  string
	Stage atlas.Stage
}

// pipeline is the way of every call, outermost first. The order is behaviour: ARCHITECTURE.md gives
// the reason for each place, and testdata/stages has a script for each stage that fails without it.
func (g *generation) pipeline() []NamedStage {
	return []NamedStage{
		{"telemetry", g.telemetry.Stage},     // span, metrics, panic to error: sees everything inside
		{"audit", g.audit.Stage},             // one record per call, refusals and cache hits too
		{"registry", g.registry.Stage},       // unknown and not visible answer alike
		{"guard", g.guard.Stage},             // on the way out: limits, pages, redaction
		{"rounds", g.rounds.Stage},           // what the client is asked completes the arguments
		{"validation", g.validation.Stage},   // the cheapest refusal first
		{"policy", g.policy.Stage},           // before the limiter: a denied call uses up nothing
		{"ratelimit", g.limiter.Stage},       // before the cache: a hit is a use, too
		{"approval", g.approval.Stage},       // a person decides before anything happens
		{"idempotency", g.idempotency.Stage}, // a repeated write answers from its first result
		{"cache", g.cache.Stage},             // before the breaker: a warm cache answers while the source is down
		{"budget", g.budget.Stage},           // gives the call its deadline
		{"breaker", g.breaker.Stage},         // leaves a failing source alone
		{"retry", g.retry.Stage},             // only what may succeed, inside the deadline
		{"invoke", g.invoke},                 // runs the tool
	}
}

// chain joins the stages. Behind the last one is nothing: without invoke no call is answered.
func chain(stages []NamedStage) atlas.Handler {
	list := make([]atlas.Stage, len(stages))
	for i, s := range stages {
		list[i] = s.Stage
	}
	return atlas.Chain(list...)(func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{}, atlas.Errorf(atlas.CodeInternal, nil, "")
	})
}

// invoke is the innermost stage: it runs the tool, and tells of the documents that it has changed.
func (g *generation) invoke(atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		res, err := call.Tool.Run(ctx, call)
		if call.Tool.Effects == atlas.EffectsWrite && res.Ask == nil && g.changed != nil {
			g.changed(ctx, call) // also if it failed: some of it may have been done
		}
		return res, err
	}
}

// StageNames returns the names of the stages, outermost first.
func StageNames() []string {
	stages := new(generation).pipeline()
	names := make([]string, len(stages))
	for i, s := range stages {
		names[i] = s.Name
	}
	return names
}

// Without returns an edit of the pipeline that takes the named stages off. It is for tests and
// benchmarks.
func Without(names ...string) func([]NamedStage) []NamedStage {
	return func(stages []NamedStage) []NamedStage {
		return slices.DeleteFunc(slices.Clone(stages), func(s NamedStage) bool { return slices.Contains(names, s.Name) })
	}
}
