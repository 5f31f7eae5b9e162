// Package app wires all parts of Atlas together and is the only package that knows them all:
// kinds.go is the table of source drivers, pipeline.go the order of the stages. What a part does is
// the part's; what they share, and how long it lives, is decided here.
package app

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/config"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/admin"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
	"github.com/atlas-mcp/atlas/internal/edge/tenant"
	"github.com/atlas-mcp/atlas/internal/isolation"
	"github.com/atlas-mcp/atlas/internal/seal"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/stage/approval"
	"github.com/atlas-mcp/atlas/internal/stage/audit"
	"github.com/atlas-mcp/atlas/internal/stage/breaker"
	"github.com/atlas-mcp/atlas/internal/stage/budget"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
	"github.com/atlas-mcp/atlas/internal/stage/retry"
	"github.com/atlas-mcp/atlas/internal/stage/telemetry"
)

// devToken is accepted in development mode from loopback, as the seed's was meant to be.
const devToken = "dev-token"

// An App is the whole program, open: what lives as long as the process, and the current generation of
// what the configuration decides. It is safe for concurrent use.
type App struct {
	opts    Options
	files   Files
	cfg     Config // as at the start; reloads read the file anew
	log     *slog.Logger
	current current
	reload  sync.Mutex // one reload at a time; guards serving
	serving bool
	renew   *seldom // builds a new generation when something else than the files asks for it

	tracing   *telemetry.Tracing
	metrics   *telemetry.Metrics
	auditLog  *audit.Log
	auditKey  []byte
	sealKey   []byte
	state     StateStore
	replicas  *replicas // nil without a Redis
	cache     *cache.Store
	limits    ratelimit.Store
	breakers  *breaker.State
	retries   *retry.Budgets
	latencies *budget.Latencies
	flood     *flood

	approvals *approval.Service
	issuer    *issuer.Issuer // nil if the embedded authorization server is off
	oauth     *issuer.Server // as issuer
	verifier  *auth.Verifier
	tasks     *tasks.Manager
	prober    *isolation.Prober // nil if there is nothing to check
	server    *mcp.Server

	closers []func() error // in the order of opening
}

// Open reads the configuration and opens everything. The caller closes the app.
func Open(ctx context.Context, o Options) (*App, error) {
	files := OpenFiles(o.ConfigFile)
	cfg, err := loadConfig(o, files)
	if err != nil {
		return nil, err
	}
	if o.LogTo == nil {
		o.LogTo = io.Discard
	}
	a := &App{
		opts: o, files: files, cfg: cfg, log: cfg.Log.logger(o.LogTo, o.LogLevel),
		limits: ratelimit.NewLocal(ratelimit.Bounds{}), breakers: breaker.NewState(), retries: retry.NewBudgets(), latencies: budget.NewLatencies(),
	}
	a.renew = newSeldom(reloadPause, func(ctx context.Context) {
		_ = a.reloadFiles(ctx) // logged and audited there; the old one keeps serving
	})
	if err := a.open(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *App) open(ctx context.Context) error {
	for _, step := range []func(context.Context) error{a.openState, a.openTelemetry, a.openAudit, a.openReplicas, a.openCache, a.openIdentity} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	g, err := a.build(ctx, a.cfg)
	if err != nil {
		return err
	}
	a.current.swap(g)
	if err := a.openProber(ctx); err != nil {
		return err
	}
	return a.openEdge()
}

func (a *App) onClose(f func() error) { a.closers = append(a.closers, f) }

func (a *App) openState(ctx context.Context) error {
	if err := os.MkdirAll(a.cfg.DataDir, 0o700); err != nil {
		return &ConfigError{fmt.Errorf("data_dir: %w; choose a folder that can be written", err)}
	}
	driver, err := a.stateConfig()
	if err != nil {
		return &ConfigError{err}
	}
	if a.state, err = driver.Open(ctx, a.cfg.DataDir, a.log); err != nil {
		return err // names the place and what to do
	}
	a.onClose(a.state.Close)
	return nil
}

// stateConfig reads the settings of the state.
func (a *App) stateConfig() (StateConfig, error) {
	main := a.files.Name(a.files.main)
	driver := States[a.cfg.State.Kind]() // validated
	if err := config.DecodeNode(main, a.cfg.State.With, driver); err != nil {
		return nil, err
	}
	if err := driver.Validate(); err != nil {
		return nil, fmt.Errorf("%s: state.with: %w", main, err)
	}
	return driver, nil
}

func (a *App) openTelemetry(ctx context.Context) (err error) {
	if a.tracing, err = telemetry.Open(ctx, a.cfg.Telemetry, a.opts.Version, a.log); err != nil {
		return err
	}
	a.onClose(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return a.tracing.Shutdown(ctx)
	})
	a.metrics, err = telemetry.NewMetrics(prometheus.NewRegistry())
	return err
}

// auditHead returns what remembers how far the audit log has come: nil for the head beside it alone.
func (a *App) auditHead() (audit.Head, error) {
	driver, err := a.stateConfig()
	if err != nil || !driver.Elsewhere() {
		return nil, err
	}
	id, err := seal.LoadKey(a.cfg.Audit.Path + ".id") // beside the log, whose it is: replicas may share keys, never this
	if err != nil {
		return nil, err
	}
	return newWitness(audit.FileHead(a.cfg.Audit.Path), a.state, id, a.log), nil
}

func (a *App) openAudit(context.Context) (err error) {
	if a.auditKey, err = a.key("audit.key"); err != nil {
		return err
	}
	head, err := a.auditHead()
	if err != nil {
		return err
	}
	if a.auditLog, err = audit.Open(a.cfg.Audit, head, a.log); err != nil {
		return &ConfigError{fmt.Errorf("audit.path: %w; choose a file that can be written", err)}
	}
	a.onClose(a.auditLog.Close)
	if err := a.metrics.GaugeFunc("atlas_audit_healthy", "1 while audit records can be stored, 0 while they cannot.", func() float64 {
		return number(a.auditLog.Healthy() == nil)
	}); err != nil {
		return err
	}
	a.flood = &flood{rate: a.cfg.Flood, buckets: ratelimit.NewLocal(ratelimit.Bounds{}), record: a.auditLog.Record}
	if err := a.metrics.GaugeFunc("atlas_flood_refused_calls", "Calls refused before the pipeline since the start, because one caller sent far too many.",
		func() float64 { return float64(a.flood.refused.Load()) }); err != nil {
		return err
	}
	a.approvals, err = approval.NewService(a.state, a.auditLog.Record, a.log)
	return err
}

// key returns one of the keys that are kept beside the data, made at the first start. Replicas need the
// same ones.
func (a *App) key(name string) ([]byte, error) {
	return seal.LoadKey(filepath.Join(a.cfg.DataDir, "keys", name))
}

// derived returns a key of its own for a purpose.
func (a *App) derived(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, a.sealKey, nil, purpose, 32)
}

func (a *App) openEdge() error {
	tenants, err := tenant.New(a.cfg.Tenant, a.verifier.Challenge())
	if err != nil {
		return err
	}
	sessions, err := seal.New("atlas session v1", seal.Key{ID: "1", Secret: a.sealKey})
	if err != nil {
		return err
	}
	api, err := admin.New(admin.Deps{Approvals: a.approvals, Cache: a, Challenge: a.verifier.Challenge(), Log: a.log})
	if err != nil {
		return err
	}
	if a.tasks, err = tasks.New(a.cfg.Tasks, tasks.Deps{
		Handler: a.Handle, Store: a.state, Tool: a.visible, Admit: a.flood.admit, Cancelled: a.taskCancelled, Log: a.log,
	}); err != nil {
		return err
	}
	a.onClose(func() error { a.tasks.Close(); return nil })
	deps := mcp.Deps{
		Handler: a.Handle, Tools: a.Tools, Version: a.opts.Version,
		Authenticate: a.verifier.Middleware, Tenant: tenants.Middleware,
		AuthServers: a.authServers(), Routes: a.routes(), Metrics: a.metrics.Handler(), Admin: api,
		Challenge: a.verifier.Challenge(), Tasks: a.tasks, Sealer: sessions, Mailbox: mailbox{a.state},
		Checks: a.checks(), Log: a.log,
	}
	if a.oauth != nil {
		deps.Scopes = a.publicScopes()
	}
	a.server, err = mcp.New(a.cfg.HTTP.Config, deps)
	return err
}

// checks are what /readyz asks.
func (a *App) checks() map[string]func(context.Context) error {
	checks := map[string]func(context.Context) error{
		"state":   a.state.Ping,
		"audit":   func(context.Context) error { return a.auditLog.Healthy() },
		"auth":    a.verifier.Ready,
		"sources": a.pingSources,
	}
	if a.prober != nil {
		checks["isolation"] = a.prober.Healthy
	}
	return checks
}

func (a *App) pingSources(ctx context.Context) error {
	g := a.current.use()
	if g == nil {
		return errClosed
	}
	defer g.lease.leave()
	var errs []error
	for name, s := range g.sources {
		if _, upstream := s.Source.(source.Provider); upstream {
			continue // somebody else's server must not take this one out of service
		}
		if err := s.Source.Ping(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Close ends the app: running calls are waited for, then everything is closed in reverse order.
// Closing twice is fine.
func (a *App) Close() error {
	a.reload.Lock()
	defer a.reload.Unlock()
	if old := a.current.swap(nil); old != nil {
		<-old.lease.closed
	}
	var errs []error
	for _, f := range slices.Backward(a.closers) {
		errs = append(errs, f())
	}
	a.closers = nil
	return errors.Join(errs...)
}

// Handle answers one call on the current generation: the one door for MCP clients, the copilot, the
// console and the command line.
func (a *App) Handle(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	g := a.current.use()
	if g == nil {
		return atlas.Result{}, errClosed
	}
	defer g.lease.leave()
	if err := a.flood.admit(ctx, call); err != nil {
		return atlas.Result{}, err
	}
	return g.handler(ctx, call)
}

// NewCall returns a call of the command line.
func (a *App) NewCall(p *atlas.Principal, name string, args []byte) atlas.Call {
	return atlas.Call{
		ID: edge.NewRequestID(), Op: atlas.OpCall, Name: name, Args: atlas.Args{Raw: args},
		Principal: p, Tenant: p.Tenant, Transport: "cli", Received: time.Now(),
	}
}

// List answers with the tools that p may use.
func (a *App) List(ctx context.Context, p *atlas.Principal) (atlas.Result, error) {
	call := a.NewCall(p, "", nil)
	call.Op = atlas.OpList
	return a.Handle(ctx, call)
}

// visible finds the tool that a call names, if its caller may see it.
func (a *App) visible(call atlas.Call) (*atlas.Tool, bool) {
	g := a.current.use()
	if g == nil {
		return nil, false
	}
	defer g.lease.leave()
	return g.visible(call, call.Name)
}

// Tools returns all tools of the current generation, of every kind and whoever may use them.
func (a *App) Tools() []*atlas.Tool {
	g := a.current.use()
	if g == nil {
		return nil
	}
	defer g.lease.leave()
	return g.tools
}

// Count returns how many of Tools are of the kind.
func (a *App) Count(k atlas.Kind) int {
	n := 0
	for _, t := range a.Tools() {
		if t.Kind == k {
			n++
		}
	}
	return n
}

// Tool returns one of Tools, or nil.
func (a *App) Tool(name string) *atlas.Tool {
	for _, t := range a.Tools() {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Config returns the configuration as it was at the start.
func (a *App) Config() Config { return a.cfg }

// ConfigName returns how messages call the configuration file.
func (a *App) ConfigName() string { return a.files.Name(a.files.main) }

// Metrics returns the server's metrics.
func (a *App) Metrics() *telemetry.Metrics { return a.metrics }

// HTTPHandler returns what Serve serves, for tests.
func (a *App) HTTPHandler() http.Handler { return a.server.Handler() }

// Approvals returns the approval service, for a caller on the operator's own machine.
func (a *App) Approvals() *approval.Service { return a.approvals }

// FlushAudit waits until the records of all answered calls are on disk.
func (a *App) FlushAudit(ctx context.Context) error { return a.auditLog.Flush(ctx) }

// newID returns an unguessable id for a child call.
func newID() string { return "req_" + strings.ToLower(rand.Text()[:20]) }
