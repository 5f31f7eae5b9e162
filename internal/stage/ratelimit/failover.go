package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A SharedStore is a [Store] of several replicas, which may be away.
type SharedStore interface {
	Store
	// Probe does what Take does, to a bucket of nobody's, and reports whether that works. It returns
	// soon, whether or not it works.
	Probe(ctx context.Context) error
}

// FailoverDeps are what a [Failover] works with.
type FailoverDeps struct {
	Shared SharedStore
	Local  Store // for [FailLocal]
	Log    *slog.Logger
	// Fallback is told of each call that did without the shared store, and how. May be nil.
	Fallback func(mode FailMode)
}

// Failover is a [Store] that charges the shared one, and does as [Charge.OnFailure] says while that
// is away. Only a few calls ever wait for a store that does not answer: then, or when a probe
// fails, calls leave it alone until a probe succeeds. The shared limit applies again from then on.
//
// A call whose own time is up says nothing about the store, or callers with tiny budgets could
// lift everybody's shared limit.
type Failover struct {
	deps     FailoverDeps
	failures atomic.Int32 // of charges, in a row
	down     atomic.Bool
	kick     chan struct{} // asks for a probe now
}

const (
	// probeEvery is how often the store is probed, up or down.
	probeEvery = time.Second
	// probeGap is the least time between probes that failing charges ask for.
	probeGap = 100 * time.Millisecond
	// tripAfter charges failing in a row, calls leave the store alone. It is not one, so that the loss of
	// one node of a cluster does not take the limits of tenants on the others away.
	tripAfter = 3
)

// NewFailover makes a Failover. Its Run must be running, or a store that was away stays so.
func NewFailover(deps FailoverDeps) (*Failover, error) {
	if deps.Shared == nil || deps.Local == nil {
		return nil, errors.New("ratelimit: failover needs a shared and a local store")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Fallback == nil {
		deps.Fallback = func(FailMode) {}
	}
	return &Failover{deps: deps, kick: make(chan struct{}, 1)}, nil
}

// Take implements [Store]. It fails with the error of ctx, or with state_unavailable.
func (f *Failover) Take(ctx context.Context, c Charge) (Decision, error) {
	var cause error
	if !f.down.Load() {
		d, err := f.deps.Shared.Take(ctx, c)
		if err == nil {
			if f.failures.Load() != 0 { // spares callers a write to one place
				f.failures.Store(0)
			}
			return d, nil
		}
		if gone := ctx.Err(); gone != nil {
			return Decision{}, gone
		}
		cause = err
		f.failed(ctx, err)
	}
	switch c.OnFailure {
	case FailLocal:
		f.deps.Fallback(FailLocal)
		return f.deps.Local.Take(ctx, c)
	case FailAllow:
		f.deps.Fallback(FailAllow)
		return Decision{Allowed: true}, nil
	case FailRefuse:
	}
	f.deps.Fallback(FailRefuse)
	if cause == nil {
		cause = errors.New("the shared store is away")
	}
	e := atlas.Errorf(atlas.CodeStateUnavailable, fmt.Errorf("ratelimit: %w", cause), "")
	e.RetryAfter = probeEvery
	return Decision{}, e
}

func (f *Failover) failed(ctx context.Context, err error) {
	if f.failures.Add(1) >= tripAfter {
		f.set(ctx, err)
	}
	select {
	case f.kick <- struct{}{}:
	default: // one is asked for
	}
}

// set tells once of each change.
func (f *Failover) set(ctx context.Context, err error) {
	switch {
	case err != nil && !f.down.Swap(true):
		f.deps.Log.WarnContext(ctx, "the limiter's shared store is away; limits are held as on_store_failure says", "err", err)
	case err == nil && f.down.Load():
		f.failures.Store(0)
		f.down.Store(false)
		f.deps.Log.InfoContext(ctx, "the limiter's shared store is back")
	}
}

// Down reports whether calls do without the shared store.
func (f *Failover) Down() bool { return f.down.Load() }

// Run probes the shared store until ctx ends.
func (f *Failover) Run(ctx context.Context) error {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		case <-f.kick:
		}
		err := f.deps.Shared.Probe(ctx)
		if ctx.Err() != nil {
			return nil
		}
		f.set(ctx, err)
		gap := time.NewTimer(probeGap)
		select {
		case <-ctx.Done():
		case <-gap.C:
		}
		gap.Stop()
		next.Reset(probeEvery - probeGap)
	}
}
