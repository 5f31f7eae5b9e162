package app

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/memory"
	memoryredis "github.com/atlas-mcp/atlas/internal/copilot/memory/redis"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/seal"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	cacheredis "github.com/atlas-mcp/atlas/internal/stage/cache/redis"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
	limitredis "github.com/atlas-mcp/atlas/internal/stage/ratelimit/redis"
	"github.com/atlas-mcp/atlas/internal/state/redis"
)

// replicas is what several Atlas processes share through Redis. Without a Redis there is none of it:
// limits and cache are this process's own.
type replicas struct {
	client   *redis.Client
	bus      *redis.Bus
	failover *ratelimit.Failover
	reload   *seldom // what others ask for over the bus
	relist   *seldom
}

const (
	reloadPause = 2 * time.Second
	relistPause = 500 * time.Millisecond
)

// openReplicas connects to what replicas share, if a Redis is configured. It need not be there: each part
// does without it as its settings say.
func (a *App) openReplicas(ctx context.Context) error {
	if !a.cfg.Redis.Enabled() {
		return nil
	}
	messages, err := a.metrics.Counter("atlas_bus_messages_total", "Messages between replicas, by what became of them.", "outcome")
	if err != nil {
		return err
	}
	r := &replicas{}
	if r.client, err = redis.Open(ctx, a.cfg.Redis, redis.Deps{Log: a.log, Bus: messages}); err != nil {
		return &ConfigError{err}
	}
	a.onClose(r.client.Close)
	r.bus = redis.NewBus(r.client)
	shared, err := limitredis.New(limitredis.Deps{Client: r.client.Client(), Prefix: r.client.Prefix(), Timeout: a.cfg.RateLimit.OnStoreFailure.After})
	if err != nil {
		return &ConfigError{err}
	}
	fallbacks, err := a.metrics.Counter("atlas_limiter_fallback_total", "Calls whose rate limit was held without the store that replicas share, by how.", "mode")
	if err != nil {
		return err
	}
	r.failover, err = ratelimit.NewFailover(ratelimit.FailoverDeps{
		Shared: shared, Local: ratelimit.NewLocal(ratelimit.Bounds{}), Log: a.log,
		Fallback: func(m ratelimit.FailMode) { fallbacks(string(m)) },
	})
	if err != nil {
		return err
	}
	r.relist = newSeldom(relistPause, func(context.Context) { a.server.ToolsChanged() })
	a.limits, a.replicas = r.failover, r
	return errors.Join(
		a.metrics.GaugeFunc("atlas_limiter_store_up", "1 while the store of the limits that replicas share answers, 0 while it is done without.", func() float64 { return number(!r.failover.Down()) }),
		a.metrics.GaugeFunc("atlas_bus_listening", "1 while messages of other replicas arrive.", func() float64 { return number(r.bus.Listening()) }),
	)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// openCache makes the cache, over the tier that replicas share if there is one.
func (a *App) openCache(context.Context) (err error) {
	// What clients carry for Atlas (cursors, states, sessions) outlives a restart.
	if a.sealKey, err = a.key("cursor.key"); err != nil {
		return err
	}
	deps := cache.Deps{Log: a.log}
	if r := a.replicas; r != nil {
		if deps.Shared, err = cacheredis.New(r.client.Client(), r.client.Prefix(), a.log); err != nil {
			return err
		}
		if deps.Sealer, err = seal.New("atlas cache v1", seal.Key{ID: "1", Secret: a.sealKey}); err != nil {
			return err
		}
		if deps.Secret, err = a.derived("atlas cache names v1"); err != nil {
			return err
		}
	}
	if a.cache, err = cache.NewTiered(a.cfg.Cache, deps); err != nil {
		return err
	}
	a.onClose(a.cache.Close)
	return a.metrics.CounterFunc("atlas_cache_events_total", "What the cache did, by tier and event.", "event", func() map[string]float64 {
		s := a.cache.Stats()
		return map[string]float64{
			"memory_hit": float64(s.MemoryHits), "shared_hit": float64(s.SharedHits), "miss": float64(s.Misses),
			"fallback": float64(s.Fallbacks), "takeover": float64(s.Takeovers), "rejected": float64(s.Rejected),
			"lost": float64(s.Lost), "purged": float64(s.Purged), "gap": float64(s.Gaps),
		}
	})
}

// Memory returns where the copilot keeps the turns of its sessions: in what replicas share if there is a
// Redis, else in this process.
func (a *App) Memory(cfg memory.Config) (copilot.Memory, error) {
	r := a.replicas
	if r == nil {
		return memory.New(cfg)
	}
	ring, err := seal.New("atlas copilot memory v1", seal.Key{ID: "1", Secret: a.sealKey})
	if err != nil {
		return nil, err
	}
	return memoryredis.New(cfg, memoryredis.Deps{Client: r.client.Client(), Prefix: r.client.Prefix(), Seal: ring})
}

// runReplicas listens to the other replicas.
func (a *App) runReplicas(ctx context.Context, group *errgroup.Group) {
	r := a.replicas
	if r == nil {
		return
	}
	group.Go(func() error { return unlessDone(ctx, r.failover.Run(ctx)) })
	group.Go(func() error { return unlessDone(ctx, r.bus.Run(ctx, a.heard)) })
	group.Go(func() error { return r.relist.run(ctx) })
}

// heard does here what happened at another replica. It does not wait: what takes long is done beside, and
// seldom, however many messages there are.
func (a *App) heard(_ context.Context, m redis.Message) {
	switch m.Topic {
	case redis.TopicReload:
		if !a.files.Embedded() {
			a.renew.ask()
		}
	case redis.TopicResource:
		a.server.ResourceUpdated(m.Tenant, m.Name)
	case redis.TopicGap:
		// What was missed cannot be known. Clients may ask again for tools; a file that was changed is
		// seen by the watch on it; the cache listens for itself.
		a.replicas.relist.ask()
	}
}

// tell tells the other replicas. That they could not be told is logged: nothing that they must know
// depends on it.
func (a *App) tell(ctx context.Context, m redis.Message) {
	if a.replicas == nil {
		return
	}
	if err := a.replicas.bus.Publish(ctx, m); err != nil {
		a.log.WarnContext(ctx, "the other replicas could not be told", "topic", m.Topic, "error", err)
	}
}

// Purge forgets the tenant's cached answers of one tool, or of all if tool is empty, on all replicas, for
// the principal by, who is recorded. An error says that some replica may still answer from what it has,
// for at most the tool's cache time.
func (a *App) Purge(ctx context.Context, by *atlas.Principal, tenant atlas.TenantID, tool string) error {
	err := a.cache.Purge(ctx, tenant, tool)
	rec := atlas.AuditRecord{
		Kind: "admin", RequestID: edge.NewRequestID(), Tenant: tenant, Caller: by.Subject, Tool: tool, Action: "cache.purge", Status: "ok",
	}
	if err != nil {
		rec.Status, rec.ErrorCode = "error", atlas.CodeOf(err)
	}
	if aerr := a.auditLog.Record(context.WithoutCancel(ctx), rec); aerr != nil {
		a.log.WarnContext(ctx, "purge not audited", "error", aerr)
	}
	return err
}

// Replicas reports whether there is a Redis for what replicas share.
func (a *App) Replicas() bool { return a.replicas != nil }

// forget purges what a write may have changed: any cached answer of the tenant may show it.
func (a *App) forget(ctx context.Context, tenant atlas.TenantID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := a.cache.Purge(ctx, tenant, ""); err != nil {
		a.log.WarnContext(ctx, "cached answers may be older than a write until their time is over", "tenant", tenant, "error", err)
	}
}
