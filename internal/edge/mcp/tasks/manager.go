// Package tasks lets a call outlast the request that made it (SEP-2663, the Tasks extension of the
// 2026-07-28 revision): the client gets a handle and comes back for the answer. It runs the pipeline
// apart from the request, keeps what becomes of it in the store, and answers tasks/get, tasks/update
// and tasks/cancel. How the protocol is spoken is left to the edge around it; what a tool does and
// who may call it, to the pipeline.
//
// A task belongs to the caller that made the call. To everybody else it does not exist, whatever
// they know of it. It survives the process in the store: any process over the same store can show,
// answer and cancel it. A call that is cut off by the end of its process is reported as failed when
// the process's lease ends, and is never run a second time.
package tasks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Manager runs calls as tasks. It is safe for concurrent use, and lives as long as the process.
type Manager struct {
	cfg    Config
	deps   Deps
	worker string // names this process in records

	base    context.Context // of all runs; ends when the manager stops
	stop    context.CancelCauseFunc
	running sync.WaitGroup // goroutines that run or follow a call

	places places

	mu      sync.Mutex // guards what follows
	closing bool
	runs    map[place]map[*run]struct{} // of a task more than one for a moment: the round before, and updates that raced
	subs    map[place]map[*Subscription]struct{}

	leaseMu      sync.Mutex // guards what follows, and is held while the lease is renewed
	leaseVersion int64
	leaseUntil   time.Time
}

// New returns a Manager. It starts nothing; [Manager.Run] keeps it in order.
func New(cfg Config, deps Deps) (*Manager, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tasks: %w", err)
	}
	if deps.Handler == nil || deps.Store == nil || deps.Tool == nil {
		return nil, errors.New("tasks: needs a handler, a store and tools")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		cfg: cfg.withDefaults(), deps: deps, worker: rand.Text(),
		runs: make(map[place]map[*run]struct{}), subs: make(map[place]map[*Subscription]struct{}),
	}
	m.places.init(&m.cfg)
	m.base, m.stop = context.WithCancelCause(context.Background())
	return m, nil
}

// Run renews the process's lease, deletes tasks whose time has come and looks for what other
// processes did to tasks of this one, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	lease := time.NewTicker(m.cfg.Lease / 3)
	defer lease.Stop()
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lease.C:
			if m.places.busy() {
				if err := m.renew(ctx, true); err != nil && ctx.Err() == nil {
					m.deps.Log.WarnContext(ctx, "the lease of running tasks could not be renewed", "err", err)
				}
			}
		case <-watch.C:
			m.watch(ctx)
			m.sweep(ctx)
		}
	}
}

const watchInterval = 2 * time.Second

// Drain takes no new tasks, waits for those that run until ctx ends, and then reports the rest as
// failed. Tasks that wait for their client are left for the next process. It is called once, and
// before [Manager.Close].
func (m *Manager) Drain(ctx context.Context) {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	idle := make(chan struct{})
	go func() { m.running.Wait(); close(idle) }()
	lease := time.NewTicker(m.cfg.Lease / 3)
	defer lease.Stop()
	for waiting := true; waiting; {
		select {
		case <-idle:
			return
		case <-lease.C: // Run may have ended
			if err := m.renew(ctx, true); err != nil {
				m.deps.Log.WarnContext(ctx, "the lease of running tasks could not be renewed", "err", err)
			}
		case <-ctx.Done():
			waiting = false
		}
	}
	m.mu.Lock()
	left := make([]*run, 0, len(m.runs))
	for _, runs := range m.runs {
		left = slices.AppendSeq(left, maps.Keys(runs))
	}
	m.mu.Unlock()
	if len(left) > 0 {
		m.deps.Log.WarnContext(ctx, "tasks still running at the end of the drain timeout are cut off", "tasks", len(left))
	}
	m.stop(errInterrupted)
	<-idle
}

// Close cuts off what still runs, and waits for it. It is enough by itself where nothing needs to be
// saved.
func (m *Manager) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	m.Drain(ctx)
	m.stop(errInterrupted)
}

// Why a run was ended from outside.
var (
	errInterrupted = errors.New("tasks: the process stops")
	errCancelled   = errors.New("tasks: cancelled by the caller")
)

// leaseSpace holds one value for each process that runs tasks. It tells nothing of any tenant.
const leaseSpace = "tasks-workers"

// renew makes sure that this process's lease holds for a while, or, if forced, for as long as it can.
func (m *Manager) renew(ctx context.Context, force bool) error {
	m.leaseMu.Lock()
	defer m.leaseMu.Unlock()
	now := time.Now()
	if !force && m.leaseUntil.Sub(now) > m.cfg.Lease/2 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	until := now.Add(m.cfg.Lease)
	version, err := m.deps.Store.CompareAndSet(ctx, leaseSpace, m.worker, m.leaseVersion, json.RawMessage(`{}`), until)
	if err == nil && version == 0 { // it has expired, or an earlier answer was lost
		_, m.leaseVersion, err = m.deps.Store.Get(ctx, leaseSpace, m.worker)
		if err == nil {
			version, err = m.deps.Store.CompareAndSet(ctx, leaseSpace, m.worker, m.leaseVersion, json.RawMessage(`{}`), until)
		}
	}
	if err != nil {
		return err
	}
	if version == 0 {
		return atlas.Errorf(atlas.CodeStateUnavailable, errors.New("tasks: the lease is contended"), "")
	}
	m.leaseVersion, m.leaseUntil = version, until
	return nil
}

// alive reports whether the process that is named has a lease.
func (m *Manager) alive(ctx context.Context, worker string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	_, version, err := m.deps.Store.Get(ctx, leaseSpace, worker)
	return version != 0, err
}
