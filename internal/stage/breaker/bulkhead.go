package breaker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A bulkhead bounds how many calls of a source run at once, and how many of them are one tenant's. A
// call that finds no slot waits its turn for a short while; a tenant that holds its share does not keep
// the tenants behind it in the queue from running.
type bulkhead struct {
	set settings

	mu      sync.Mutex             // guards what follows
	running map[atlas.TenantID]int // at most slots in all
	total   int                    // sum of running
	queue   []*waiter              // at most set.queue
	queued  map[atlas.TenantID]int // in queue
}

type waiter struct {
	tenant atlas.TenantID
	ready  chan struct{} // closed when the slot is the waiter's
}

func newBulkhead(set settings) *bulkhead {
	return &bulkhead{set: set, running: map[atlas.TenantID]int{}, queued: map[atlas.TenantID]int{}}
}

// acquire takes a slot, or fails with overloaded, or with the context's end.
func (b *bulkhead) acquire(ctx context.Context, tenant atlas.TenantID, wait time.Duration) error {
	b.mu.Lock()
	if b.total < b.set.slots && b.running[tenant] < b.set.slotShare {
		b.take(tenant)
		b.mu.Unlock()
		return nil
	}
	if wait <= 0 || len(b.queue) >= b.set.queue || b.queued[tenant] >= b.set.queueShare {
		b.mu.Unlock()
		return overloaded()
	}
	w := &waiter{tenant: tenant, ready: make(chan struct{})}
	b.queue = append(b.queue, w)
	b.queued[tenant]++
	b.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case <-w.ready:
		return nil
	case <-timer.C:
		err = overloaded()
	case <-ctx.Done():
		err = atlas.ErrorOf(ctx.Err())
	}
	if !b.leave(w) { // the slot came at the same moment
		if ctx.Err() == nil {
			return nil
		}
		b.release(tenant)
	}
	return err
}

func overloaded() error {
	return &atlas.Error{Code: atlas.CodeOverloaded, RetryAfter: time.Second}
}

// take books a slot. The caller holds mu.
func (b *bulkhead) take(tenant atlas.TenantID) {
	b.running[tenant]++
	b.total++
}

// leave takes w out of the queue and reports whether it was still there.
func (b *bulkhead) leave(w *waiter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.queue, w)
	if i < 0 {
		return false
	}
	b.unqueue(i)
	return true
}

// unqueue removes the waiter at i. The caller holds mu.
func (b *bulkhead) unqueue(i int) {
	w := b.queue[i]
	b.queue = slices.Delete(b.queue, i, i+1)
	if b.queued[w.tenant]--; b.queued[w.tenant] == 0 {
		delete(b.queued, w.tenant)
	}
}

// release gives a slot back, to the first waiter whose tenant is below its share.
func (b *bulkhead) release(tenant atlas.TenantID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total--
	if b.running[tenant]--; b.running[tenant] == 0 {
		delete(b.running, tenant)
	}
	for i, w := range b.queue {
		if b.running[w.tenant] < b.set.slotShare {
			b.take(w.tenant)
			b.unqueue(i)
			close(w.ready)
			return
		}
	}
}

func (b *bulkhead) load() (running, waiting int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total, len(b.queue)
}
