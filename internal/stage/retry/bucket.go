package retry

import (
	"sync"
	"time"
)

const (
	maxBuckets = 4096 // sources; past it, retries of new ones share a bucket
	depth      = 100  // tokens that a bucket holds at most: a burst of retries after long health
)

// Budgets hold one token bucket per source: each call puts in a fraction of a token, each retry takes
// a whole one, and a trickle by time lets quiet sources retry too. So retries add at most that fraction
// to the load of a source that fails for everyone, where plain retries would triple it (Finagle's
// RetryBudget; Brooker, "Fixing retries with token buckets and circuit breakers", 2022; SRE book,
// chapter 21). Make one value and keep it across reloads. It is safe for concurrent use.
//
// A bucket is shared by the tenants: what one tenant can learn or take is that another's failing call
// is not tried again, and then it gets the source's own first error.
type Budgets struct {
	mu sync.RWMutex
	m  map[string]*bucket // guarded by mu; by source
}

// NewBudgets returns full buckets.
func NewBudgets() *Budgets { return &Budgets{m: map[string]*bucket{}} }

func (b *Budgets) bucket(source string) *bucket {
	b.mu.RLock()
	bk := b.m[source]
	b.mu.RUnlock()
	if bk != nil {
		return bk
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.m) >= maxBuckets {
		source = "" // no source has this name
	}
	if bk = b.m[source]; bk == nil {
		bk = &bucket{tokens: start, last: time.Now()}
		b.m[source] = bk
	}
	return bk
}

// start is what a new bucket holds, so that a server that just started can retry.
const start = 10

type bucket struct {
	mu     sync.Mutex // guards tokens and last
	tokens float64
	last   time.Time // of the last trickle
}

// deposit adds a fraction of a token for a call.
func (b *bucket) deposit(ratio float64) {
	b.mu.Lock()
	b.tokens = min(b.tokens+ratio, depth)
	b.mu.Unlock()
}

// withdraw takes a token for a retry and reports whether there was one. The trickle fills up to start
// only: it is a floor for quiet sources, not a store of retries.
func (b *bucket) withdraw(rate float64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.tokens < start {
		b.tokens = min(b.tokens+now.Sub(b.last).Seconds()*rate, start)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
