// Package cache answers repeated reads from memory, and from a second tier that all replicas share.
// Only tools that are read-only and declare a cache time are cached. What may be shared is decided
// by the key (see key.go); when an answer is loaded, by how many and for whose account, by flight.go;
// what is kept here and for how long, by store.go; what the second tier promises stands in shared.go,
// how answers are sealed for it in envelope.go, and how it is used, and done without while it is away,
// in tier.go. Which calls are allowed is left to the policy stage, which every call passes before
// it comes here; redaction is left to the guard stage, which every answer passes afterwards.
//
// A purge reaches this replica at once and the others within the time that a message takes. A replica
// that could not be told (the second tier was away, which whoever purged is told) answers from its
// memory for at most the tool's own cache time, and forgets everything when it can listen again.
package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Config is the cache's settings. Sizes are fixed when the store is made; all else changes with
// each configuration.
type Config struct {
	TenantBytes int64         `yaml:"tenant_bytes"`  // memory for one tenant's answers; default 8 MiB
	MaxTenants  int           `yaml:"max_tenants"`   // tenants with answers in memory; beyond, the one idle for longest loses its own. Default 1,000
	MaxEntry    int           `yaml:"max_entry"`     // bytes of an answer that is kept; default 512 KiB
	NegativeTTL time.Duration `yaml:"negative_ttl"`  // how long "there is nothing by this name" is kept, at most the tool's own time; negative: not at all. Default 5s
	Beta        float64       `yaml:"early_refresh"` // eagerness of the early refresh; 1 is right for most, more is earlier, negative is never. Default 1

	// Of the tier that replicas share, where there is one. Read at the start only, as the sizes.

	SharedTimeout time.Duration `yaml:"shared_timeout"` // how long a call waits for it before it goes on without; default 250ms
	Lease         time.Duration `yaml:"lease"`          // after which a load whose replica died is taken over by another; default 5s
	// OnStoreFailure says what happens while the shared tier is away. The one way there is, and the
	// default, is local: each replica caches for itself.
	OnStoreFailure string `yaml:"on_store_failure"`
}

const onFailureLocal = "local"

func (c Config) withDefaults() Config {
	c.TenantBytes = cmp.Or(c.TenantBytes, 8<<20)
	c.MaxTenants = cmp.Or(c.MaxTenants, 1000)
	c.MaxEntry = cmp.Or(c.MaxEntry, 512<<10)
	c.NegativeTTL = cmp.Or(c.NegativeTTL, 5*time.Second)
	c.Beta = cmp.Or(c.Beta, 1)
	c.SharedTimeout = cmp.Or(c.SharedTimeout, 250*time.Millisecond)
	c.Lease = cmp.Or(c.Lease, 5*time.Second)
	c.OnStoreFailure = cmp.Or(c.OnStoreFailure, onFailureLocal)
	return c
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if c.TenantBytes != 0 && c.TenantBytes < 64<<10 {
		errs = append(errs, errors.New("tenant_bytes must be 65536 or more"))
	}
	if c.MaxTenants < 0 {
		errs = append(errs, errors.New("max_tenants must not be negative"))
	}
	if c.MaxEntry < 0 {
		errs = append(errs, errors.New("max_entry must not be negative"))
	}
	if math.IsNaN(c.Beta) || math.IsInf(c.Beta, 0) {
		errs = append(errs, errors.New("early_refresh must be a number"))
	}
	if t := c.SharedTimeout; t != 0 && (t < time.Millisecond || t > 5*time.Second) {
		errs = append(errs, errors.New("shared_timeout must be 1ms to 5s"))
	}
	// Below, a busy process would lose its leases; above, a dead one would keep them for too long.
	if l := c.Lease; l != 0 && (l < 100*time.Millisecond || l > time.Minute) {
		errs = append(errs, errors.New("lease must be 100ms to 1m"))
	}
	if f := c.OnStoreFailure; f != "" && f != onFailureLocal {
		errs = append(errs, fmt.Errorf("on_store_failure: %q is not known; there is %s", f, onFailureLocal))
	}
	return errors.Join(errs...)
}

// defaultTimeout bounds a load for a tool that declares no timeout.
const defaultTimeout = 30 * time.Second

// A Cache is the stage over a store. The store outlives it: a reloaded configuration makes a new
// Cache over the same store, and what the old one kept under another tool version or policy
// version is out of reach by its key.
type Cache struct {
	cfg        Config
	store      *Store
	policyHash func() string
	log        *slog.Logger
}

// New returns the stage. policyHash returns the version of the policy in force.
func New(cfg Config, store *Store, policyHash func() string, log *slog.Logger) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if store == nil || policyHash == nil {
		return nil, errors.New("cache: a store and the policy's version are needed")
	}
	return &Cache{cfg: cfg.withDefaults(), store: store, policyHash: policyHash, log: log}, nil
}

// The values of Notes.Cache.
const (
	hit    = "hit"    // answered without a run of the tool for this call
	miss   = "miss"   // the tool was run for this call
	bypass = "bypass" // not for the cache
)

// Stage answers from the store where it may. Callers cannot ask to bypass it: freshness is the
// tool's to declare, and Result.AsOf tells how old an answer is.
func (c *Cache) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Op != atlas.OpCall {
			return next(ctx, call)
		}
		k, ok := keyOf(call, c.policyHash)
		if !ok {
			res, err := next(ctx, call)
			res.Notes.Cache = bypass
			return res, err
		}
		now := time.Now()
		if e := c.store.get(k, now); e != nil {
			if c.early(e, now) && !e.refreshed.Swap(true) {
				c.refresh(ctx, k, call, next, e)
			}
			return e.answer()
		}
		return c.load(ctx, k, call, next)
	}
}

// early decides whether to refresh an answer before it expires, so that its expiry does not hit
// all its readers at once: XFetch, refresh when now − Δ·β·ln(rand) ≥ expiry, where Δ is how long
// the last load took (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede
// Prevention, VLDB 2015).
func (c *Cache) early(e *entry, now time.Time) bool {
	if c.cfg.Beta < 0 {
		return false
	}
	left := float64(e.expires.Sub(now))
	if left > float64(e.delta)*c.cfg.Beta*40 {
		return false // −ln of a 53-bit random number is below 37: spare the hot path the logarithm
	}
	u := 1 - rand.Float64() //nolint:gosec // spreads refreshes; nothing to guess. In (0, 1]
	return -math.Log(u)*float64(e.delta)*c.cfg.Beta >= left
}
