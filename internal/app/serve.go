package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/config"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/state/redis"
)

// Listen opens the configured listener.
func (a *App) Listen(ctx context.Context) (net.Listener, error) {
	return Listen(ctx, a.cfg.HTTP.Listen)
}

// Listen opens a listener. The error names the remedy.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; choose another address with --listen or http.listen", address, err)
	}
	return ln, nil
}

// ListenLoopback opens a listener on a free port of this machine.
func ListenLoopback(ctx context.Context) (net.Listener, error) {
	return Listen(ctx, "127.0.0.1:0")
}

// BaseURL returns how clients reach the server: the public URL, without path.
func (a *App) BaseURL() string { return strings.TrimSuffix(a.cfg.HTTP.PublicURL, "/") }

// Serve serves HTTP until ctx ends, with what runs beside it: key refresh, clean-up of state, and
// the watch on the configuration's files.
func (a *App) Serve(ctx context.Context, ln net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := a.server.Run(ctx, ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	a.background(ctx, group)
	return group.Wait()
}

// ServeStdio serves one client over in and out as p.
func (a *App) ServeStdio(ctx context.Context, p *atlas.Principal, in io.Reader, out io.Writer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer stop() // the client is gone: nothing else to do
		return a.server.RunStdio(ctx, io.NopCloser(in), nopWriteCloser{out}, p)
	})
	a.background(ctx, group)
	return group.Wait()
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

// background starts what runs beside the server, under the group.
func (a *App) background(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return unlessDone(ctx, a.verifier.Run(ctx)) })
	group.Go(func() error { return unlessDone(ctx, a.state.Run(ctx)) })
	group.Go(func() error { return unlessDone(ctx, a.tasks.Run(ctx)) })
	if a.prober != nil {
		group.Go(func() error { return unlessDone(ctx, a.prober.Run(ctx)) })
	}
	a.runReplicas(ctx, group)
	a.runGenerations(ctx, group)
	if a.oauth != nil {
		group.Go(func() error { return unlessDone(ctx, a.oauth.Run(ctx)) })
		group.Go(func() error {
			return unlessDone(ctx, a.issuer.Run(ctx, func(err error) {
				a.log.WarnContext(ctx, "the issuer's keys could not be rotated; the old one keeps signing", "error", err)
			}))
		})
	}
	g := a.current.use()
	if g == nil {
		return // closed
	}
	defer g.lease.leave()
	if a.files.Embedded() {
		return // cannot change
	}
	watched := append(slices.Clone(g.watched), a.files.path(a.files.main))
	group.Go(func() error {
		return config.Watch(ctx, watched, a.log, func() {
			_ = a.reloadFiles(ctx) // logged and audited there; the old one keeps serving. Replicas watch theirs
		})
	})
}

// unlessDone drops the error that a part returns because it was told to stop.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// Reload reads the configuration anew, and tells the other replicas to do so, too. If that succeeds,
// calls from now on are answered by it; if not, the old one keeps serving and the error says why. Both
// are logged and audited.
func (a *App) Reload(ctx context.Context) error {
	if err := a.reloadFiles(ctx); err != nil {
		return err
	}
	a.tell(ctx, redis.Message{Topic: redis.TopicReload})
	return nil
}

func (a *App) reloadFiles(ctx context.Context) error {
	a.reload.Lock()
	defer a.reload.Unlock()
	old := a.current.use()
	if old == nil {
		return errClosed
	}
	defer old.lease.leave()

	cfg, err := loadConfig(a.opts, a.files)
	var g *generation
	if err == nil {
		g, err = a.build(ctx, cfg)
	}
	rec := atlas.AuditRecord{Kind: "admin", RequestID: edge.NewRequestID(), Caller: "atlas", Action: "config.reload", Status: "ok"}
	if err != nil {
		rec.Status, rec.ErrorCode = "error", atlas.CodeOf(err)
	} else {
		rec.Policy = g.policy.Hash()
	}
	if aerr := a.auditLog.Record(ctx, rec); aerr != nil {
		a.log.WarnContext(ctx, "reload not audited", "error", aerr)
	}
	if err != nil {
		a.log.ErrorContext(ctx, "configuration refused; the old one keeps serving", "error", err)
		return err
	}
	for _, name := range needRestart(a.cfg, cfg) {
		a.log.WarnContext(ctx, "this part of the configuration takes effect after a restart", "section", name)
	}
	if a.serving {
		g.attend(a)
	}
	a.current.swap(g)
	a.server.ToolsChanged()
	a.log.InfoContext(ctx, "configuration reloaded", "policy", g.policy.Hash(), "tools", len(g.tools))
	return nil
}

// needRestart names the sections that differ and are read at the start only.
func needRestart(old, next Config) []string {
	sections := map[string][2]any{
		"mode": {old.Mode, next.Mode}, "data_dir": {old.DataDir, next.DataDir}, "log": {old.Log, next.Log}, "flood": {old.Flood, next.Flood},
		"http": {old.HTTP, next.HTTP}, "auth": {old.Auth, next.Auth}, "issuer": {old.Issuer, next.Issuer}, "tasks": {old.Tasks, next.Tasks}, "tenant": {old.Tenant, next.Tenant},
		"telemetry": {old.Telemetry, next.Telemetry}, "audit": {old.Audit, next.Audit}, "roles": {old.Roles, next.Roles}, "isolation": {old.Isolation, next.Isolation}, "redis": {old.Redis, next.Redis}, "ratelimit.on_store_failure.after": {old.RateLimit.OnStoreFailure.After, next.RateLimit.OnStoreFailure.After},
		"cache.tenant_bytes": {old.Cache.TenantBytes, next.Cache.TenantBytes}, "cache.max_tenants": {old.Cache.MaxTenants, next.Cache.MaxTenants}, "cache.shared_timeout": {old.Cache.SharedTimeout, next.Cache.SharedTimeout}, "cache.lease": {old.Cache.Lease, next.Cache.Lease},
		"state": {version(SourceSpec{Kind: old.State.Kind, With: old.State.With}, nil), version(SourceSpec{Kind: next.State.Kind, With: next.State.With}, nil)},
	}
	maps.DeleteFunc(sections, func(_ string, v [2]any) bool { return reflect.DeepEqual(v[0], v[1]) })
	return slices.Sorted(maps.Keys(sections))
}

// announce returns what is done after a write: cached answers are forgotten, and clients told of the
// resource that it has changed, here and at the other replicas.
func (a *App) announce(tools []*atlas.Tool) func(context.Context, atlas.Call) {
	var documents []*atlas.Tool
	for _, t := range tools {
		if t.Changed != nil {
			documents = append(documents, t)
		}
	}
	return func(ctx context.Context, call atlas.Call) {
		a.forget(ctx, call.Tenant)
		if a.server == nil || call.Tool.Resource == nil {
			return
		}
		touched := call.Tool.Resource(call)
		for _, t := range documents {
			if uri, ok := t.Changed(touched); ok {
				a.server.ResourceUpdated(call.Tenant, uri)
				a.tell(context.WithoutCancel(ctx), redis.Message{Topic: redis.TopicResource, Tenant: call.Tenant, Name: uri})
			}
		}
	}
}
