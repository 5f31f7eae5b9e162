package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
	"github.com/atlas-mcp/atlas/internal/config"
	"github.com/atlas-mcp/atlas/internal/seal"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/egress"
	"github.com/atlas-mcp/atlas/internal/stage/approval"
	"github.com/atlas-mcp/atlas/internal/stage/audit"
	"github.com/atlas-mcp/atlas/internal/stage/breaker"
	"github.com/atlas-mcp/atlas/internal/stage/budget"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/guard"
	"github.com/atlas-mcp/atlas/internal/stage/idempotency"
	"github.com/atlas-mcp/atlas/internal/stage/policy"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
	"github.com/atlas-mcp/atlas/internal/stage/registry"
	"github.com/atlas-mcp/atlas/internal/stage/retry"
	"github.com/atlas-mcp/atlas/internal/stage/rounds"
	"github.com/atlas-mcp/atlas/internal/stage/telemetry"
	"github.com/atlas-mcp/atlas/internal/stage/validation"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// A generation is everything that one version of the configuration decides. It is built whole,
// swapped in, and closed when its last call has ended. It is immutable.
type generation struct {
	cfg        Config
	lease      *lease
	sources    map[string]tool.Source
	embed      source.Embedder
	tools      []*atlas.Tool
	egress     *egress.Guard
	handler    atlas.Handler
	watched    []string                          // files that it was made from
	changed    func(context.Context, atlas.Call) // is told of each write; may be nil
	attendants attendants

	telemetry   *telemetry.Telemetry
	audit       *audit.Auditor
	registry    *registry.Registry
	guard       *guard.Guard
	rounds      *rounds.Rounds
	validation  *validation.Validator
	policy      *policy.Engine
	limiter     *ratelimit.Limiter
	approval    *approval.Gate
	idempotency *idempotency.Keys
	cache       *cache.Cache
	budget      *budget.Budget
	breaker     *breaker.Breaker
	retry       *retry.Retry
}

// build makes a generation of the configuration. On an error nothing stays open.
func (a *App) build(ctx context.Context, cfg Config) (_ *generation, err error) {
	g := &generation{cfg: cfg, sources: map[string]tool.Source{}}
	g.lease = newLease(func() {
		if err := g.close(); err != nil {
			a.log.WarnContext(context.WithoutCancel(ctx), "close sources", "error", err)
		}
	})
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if err := a.openSources(ctx, g); err != nil {
		return nil, err
	}
	if cfg.DemoData && !cfg.Seeded && !a.opts.seeding {
		if err := a.demoData(ctx, g, false, func(Step) {}); err != nil {
			return nil, err
		}
	}
	if err := a.buildTools(g); err != nil {
		return nil, &ConfigError{err}
	}
	if err := a.buildStages(g); err != nil {
		return nil, &ConfigError{err}
	}
	g.changed = a.announce(g.tools)
	stages := g.pipeline()
	if a.opts.EditStages != nil {
		stages = a.opts.EditStages(stages)
	}
	g.handler = chain(stages)
	return g, nil
}

// openSources opens every source, and reports the mistakes of all of them.
func (a *App) openSources(ctx context.Context, g *generation) error {
	dialer, allowed, err := a.egress(g)
	if err != nil {
		return &ConfigError{err}
	}
	g.egress = dialer
	if g.embed, err = a.embedder(ctx, g.cfg.Embedder); err != nil {
		return &ConfigError{err}
	}
	dir := filepath.Join(g.cfg.DataDir, "sources") // each driver has a folder of the source's name there
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	deps := func(name string) source.Deps {
		return source.Deps{
			Name: name, DataDir: dir, Embed: g.embed, Egress: dialer, State: sourceState{a.state, "source." + name},
			Log: a.log, TraceParent: telemetry.TraceParent,
		}
	}
	var errs []error
	for name, spec := range g.cfg.Sources {
		kind, err := a.sourceConfig(name, spec)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s, err := kind.Open(ctx, deps(name))
		if err != nil {
			errs = append(errs, fmt.Errorf("sources.%s: %w", name, err))
			continue
		}
		g.sources[name] = tool.Source{Kind: spec.Kind, Version: version(spec, append(slices.Clip(allowed), g.embed.ID()...)), Source: s, Tools: spec.Tools}
	}
	if len(errs) > 0 {
		return &ConfigError{errors.Join(errs...)}
	}
	return nil
}

// sourceConfig reads the settings of a source.
func (a *App) sourceConfig(name string, spec SourceSpec) (source.Config, error) {
	main := a.files.Name(a.files.main)
	kind := Kinds[spec.Kind]() // validated
	if err := config.DecodeNode(main, spec.With, kind); err != nil {
		return nil, err
	}
	if err := kind.Validate(); err != nil {
		return nil, fmt.Errorf("%s: sources.%s.with: %w", main, name, err)
	}
	return kind, nil
}

// embedder opens the configured embedder.
func (a *App) embedder(ctx context.Context, spec KindSpec) (source.Embedder, error) {
	main := a.files.Name(a.files.main)
	kind := Embedders[spec.Kind]() // validated
	if err := config.DecodeNode(main, spec.With, kind); err != nil {
		return nil, err
	}
	if err := kind.Validate(); err != nil {
		return nil, fmt.Errorf("%s: embedder.with: %w", main, err)
	}
	return kind.Open(ctx, a.log)
}

// egress makes the guard of outbound requests from the allowlist. Without a file nothing is allowed.
// The file's content is returned, too.
func (a *App) egress(g *generation) (guard *egress.Guard, data []byte, err error) {
	file := g.cfg.Egress.File
	if file == "" {
		guard, err = egress.New(g.cfg.Egress.Config, nil, egress.Deps{})
		return guard, nil, err
	}
	if data, err = a.files.Read(file); err != nil {
		return nil, nil, fmt.Errorf("egress.file: %w", err)
	}
	g.watched = append(g.watched, a.files.path(file))
	list, err := egress.ParseAllowlist(a.files.Name(file), data)
	if err != nil {
		return nil, nil, err
	}
	guard, err = egress.New(g.cfg.Egress.Config, list, egress.Deps{})
	return guard, data, err
}

// version is a hash of what a source is: its driver's settings, and what stands beside them (where outbound
// requests may go, what makes its vectors). It
// becomes part of the versions of the source's tools, so that neither a cached answer nor an approval
// outlives a change of what stands behind the tool.
func version(spec SourceSpec, beside []byte) string {
	h := sha256.New()
	fmt.Fprintln(h, spec.Kind)
	if spec.With != nil {
		fmt.Fprintln(h, spec.With.String())
	}
	h.Write(beside)
	return hex.EncodeToString(h.Sum(nil))
}

func (a *App) buildTools(g *generation) error {
	names, err := a.files.Glob(g.cfg.Tools.Files)
	if err != nil {
		return fmt.Errorf("tools.files: %w", err)
	}
	var files []tool.File
	for _, name := range names {
		data, err := a.files.Read(name)
		if err != nil {
			return fmt.Errorf("tools.files: %w", err)
		}
		files = append(files, tool.File{Name: a.files.Name(name), Data: data})
		g.watched = append(g.watched, a.files.path(name))
	}
	// Children stay on their parent's generation, whatever is swapped in meanwhile. What a list or a
	// completion looks up comes after that has been answered: it enters by the front door.
	children := func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Parent != nil && call.Parent.List {
			return a.Handle(ctx, call)
		}
		return g.handler(ctx, call)
	}
	g.tools, err = tool.Build(g.sources, files, tool.Deps{Call: children, NewID: newID, CheckSchema: validation.CheckSchema, Log: a.log, Memories: a.memories(g.cfg.Memory)})
	if err == nil && a.opts.ExtraTools != nil {
		g.tools = append(g.tools, a.opts.ExtraTools(children)...)
	}
	return err
}

// buildStages makes the stages. What they share beyond one generation comes from the app.
func (a *App) buildStages(g *generation) (err error) {
	cfg, log := g.cfg, a.log
	if g.guard, err = guard.New(cfg.Guard, []seal.Key{{ID: "1", Secret: a.sealKey}}); err != nil {
		return err
	}
	if g.rounds, err = rounds.New(cfg.Rounds, []seal.Key{{ID: "1", Secret: a.sealKey}}, a.state); err != nil {
		return err
	}
	if g.validation, err = validation.New(cfg.Validation, g.tools); err != nil {
		return err
	}
	rules := []byte("rules: []\n")
	if !a.opts.NoPolicy {
		if rules, err = a.files.Read(cfg.Policy.File); err != nil {
			return fmt.Errorf("policy.file: %w", err)
		}
	}
	g.watched = append(g.watched, a.files.path(cfg.Policy.File))
	if g.policy, err = policy.Load(a.files.Name(cfg.Policy.File), rules, policy.Deps{Tools: g.tools, Scopes: tool.MemoryScopes(), PII: g.guard.PII, Log: log}); err != nil {
		return err
	}
	seen := cfg.Registry
	seen.Obtainable = a.obtainable
	if g.registry, err = registry.New(g.tools, g.policy, seen); err != nil {
		return err
	}
	names := make([]string, len(g.tools))
	for i, t := range g.tools {
		names[i] = t.Name
	}
	if g.telemetry, err = telemetry.New(a.tracing, a.metrics, names, log); err != nil {
		return err
	}
	if g.audit, err = audit.New(audit.Deps{
		Log: a.auditLog, Key: a.auditKey, Lookup: g.visible, Canonical: canonicalJSON, TraceID: telemetry.TraceID,
	}, log); err != nil {
		return err
	}
	if g.limiter, err = ratelimit.New(cfg.RateLimit, a.limits); err != nil {
		return err
	}
	if g.idempotency, err = idempotency.New(cfg.Idempotency, a.state, log); err != nil {
		return err
	}
	if g.approval, err = approval.New(cfg.Approval, a.state, approval.Deps{
		PolicyHash: g.policy.Hash, Replay: g.idempotency, Redact: g.guard.Redact,
	}, log); err != nil {
		return err
	}
	if g.cache, err = cache.New(cfg.Cache, a.cache, g.policy.Hash, log); err != nil {
		return err
	}
	if g.budget, err = budget.New(cfg.Budget, a.latencies, g.visible); err != nil {
		return err
	}
	if g.breaker, err = breaker.New(cfg.Breaker, a.breakers); err != nil {
		return err
	}
	g.retry, err = retry.New(cfg.Retry, a.retries)
	return err
}

// visible finds a tool that the caller of call may see.
func (g *generation) visible(call atlas.Call, name string) (*atlas.Tool, bool) {
	return g.registry.Find(call.Principal, call.Tenant, name)
}

func (g *generation) close() error {
	g.attendants.stop()
	var errs []error
	for name, s := range g.sources {
		if err := s.Source.Close(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if g.egress != nil {
		errs = append(errs, g.egress.Close())
	}
	if c, ok := g.embed.(io.Closer); ok {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func canonicalJSON(raw json.RawMessage) ([]byte, error) { return canonical.Text(raw) }
