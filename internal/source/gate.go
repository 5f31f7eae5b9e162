package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Waits of a gate between checks that failed.
const (
	gateFirstWait = 250 * time.Millisecond
	gateMaxWait   = 5 * time.Second
)

// A Gate lets calls through once a check of the store has passed, and none before. There is one
// check at a time, all who wait get its answer, and after one that failed the next waits a little
// (a quarter of a second, doubling up to five), so that a dead server is not asked by every call.
// It is safe for concurrent use.
type Gate struct {
	check   func(context.Context) error
	timeout time.Duration
	life    context.Context // until Close
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	closed bool
	passed bool
	err    error // of the last check, if it failed
	next   time.Time
	wait   time.Duration
	flight *gateFlight
}

type gateFlight struct {
	done chan struct{}
	err  error // set before done is closed
}

// NewGate returns a closed gate. A check has timeout; one that takes longer counts as
// source_unavailable.
func NewGate(timeout time.Duration, check func(context.Context) error) *Gate {
	life, stop := context.WithCancel(context.Background())
	return &Gate{check: check, timeout: timeout, life: life, stop: stop}
}

// Pass returns nil if the last check passed, or else makes one, unless the last is too recent:
// then its failure is returned.
func (g *Gate) Pass(ctx context.Context) error {
	g.mu.Lock()
	if g.passed && !g.closed {
		g.mu.Unlock()
		return nil
	}
	if !g.closed && g.flight == nil && g.err != nil && time.Now().Before(g.next) {
		defer g.mu.Unlock()
		return g.err
	}
	return g.fly(ctx)
}

// Check makes a check now, or waits for the one that is running.
func (g *Gate) Check(ctx context.Context) error {
	g.mu.Lock()
	return g.fly(ctx)
}

// Doubt closes the gate until the next check: the store answered as if it had changed.
func (g *Gate) Doubt() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passed = false
}

// Close ends the check that is running. Calls after it fail.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.stop()
	g.wg.Wait()
}

// fly is called with g.mu held, and releases it.
func (g *Gate) fly(ctx context.Context) error {
	if g.closed {
		g.mu.Unlock()
		return atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("the source is closed"), "")
	}
	if err := ctx.Err(); err != nil {
		g.mu.Unlock()
		return atlas.ErrorOf(err)
	}
	f := g.flight
	if f == nil {
		f = &gateFlight{done: make(chan struct{})}
		g.flight = f
		g.wg.Go(func() { g.run(f) })
	}
	g.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return atlas.ErrorOf(ctx.Err())
	}
}

// run makes the check, on its own time: whoever waits for it may leave.
func (g *Gate) run(f *gateFlight) {
	ctx, cancel := context.WithTimeout(g.life, g.timeout)
	defer cancel()
	f.err = g.check(ctx)
	if f.err != nil && ctx.Err() != nil {
		f.err = atlas.Errorf(atlas.CodeSourceUnavailable, fmt.Errorf("check of the store: %w", errors.New(f.err.Error())), "")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flight, g.passed, g.err = nil, f.err == nil, f.err
	if f.err == nil {
		g.wait = 0
	} else {
		g.wait = min(max(2*g.wait, gateFirstWait), gateMaxWait)
		g.next = time.Now().Add(g.wait)
	}
	close(f.done)
}
