package ratelimit

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Bounds limit what a [Local] holds. Zero means the default.
type Bounds struct {
	Tenants int // tenants with a bucket that is not full; default 65536
	Buckets int // such buckets of tools and callers per tenant; default 65536
}

const (
	shards        = 64
	defaultBounds = 1 << 16
	// probes is how many buckets are looked at when one is added. At 8, full ones are at most
	// about an eighth of all.
	probes = 8
)

// Local is the in-process [Store]. All buckets of a tenant lie in one shard under one lock, which
// makes a charge one atomic step and keeps tenants out of each other's way.
//
// A bucket is one number: its theoretical arrival time. A bucket whose time has passed is full and
// thus equal to none, so dropping it changes nothing; only such buckets are ever dropped. Where
// the bounds are reached by buckets that are not full, new ones are refused: dropping one would
// lift somebody's limit.
type Local struct {
	start  time.Time
	bounds Bounds
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu      sync.Mutex // guards all below
	tenants map[atlas.TenantID]*buckets
}

// buckets are those of one tenant. Times are nanoseconds after Local.start.
type buckets struct {
	own    int64
	latest int64 // no time below is after it: once it has passed, all buckets are full
	named  map[bucketKey]int64
}

type bucketKey struct {
	scope Scope
	name  string
}

// NewLocal makes an empty store.
func NewLocal(b Bounds) *Local {
	if b.Tenants <= 0 {
		b.Tenants = defaultBounds
	}
	if b.Buckets <= 0 {
		b.Buckets = defaultBounds
	}
	return &Local{start: time.Now(), bounds: b, seed: maphash.MakeSeed()}
}

// Take implements [Store]. It never fails.
func (l *Local) Take(_ context.Context, c Charge) (Decision, error) {
	s := &l.shards[maphash.String(l.seed, string(c.Tenant))%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	// Under the lock, so that time does not run backwards within a shard.
	now := int64(time.Since(l.start))
	t := s.tenants[c.Tenant]
	if t == nil {
		if wait := s.makeRoom(now, max(1, l.bounds.Tenants/shards)); wait > 0 {
			return Decision{Scope: Tenant, RetryAfter: wait}, nil
		}
		t = &buckets{named: make(map[bucketKey]int64)}
		s.tenants[c.Tenant] = t
	}
	return t.take(c, now, l.bounds.Buckets), nil
}

// makeRoom drops some idle tenants before one is added. It returns how long to wait if there is no
// room.
func (s *shard) makeRoom(now int64, most int) time.Duration {
	if s.tenants == nil {
		s.tenants = make(map[atlas.TenantID]*buckets)
	}
	full := len(s.tenants) >= most
	wait := int64(longest)
	seen := 0
	for id, t := range s.tenants { // begins anywhere
		if t.latest <= now {
			delete(s.tenants, id)
			full = false
		} else {
			wait = min(wait, t.latest-now)
		}
		if seen++; seen >= probes && !full {
			return 0
		}
	}
	if full {
		return time.Duration(wait)
	}
	return 0
}

func (t *buckets) take(c Charge, now int64, most int) Decision {
	var times [scopes]int64
	d := Decision{Allowed: true}
	for i := range c.Cells {
		cell := &c.Cells[i]
		if cell.Cost <= 0 {
			continue
		}
		scope := Scope(i)
		at, wait := cell.take(t.at(scope, cell.Name), now)
		times[i] = at
		if wait > d.RetryAfter {
			d = Decision{Scope: scope, RetryAfter: wait}
		}
	}
	if d.RetryAfter > 0 {
		return d
	}
	if wait := t.makeRoom(c, now, most); wait > 0 {
		return Decision{Scope: Caller, RetryAfter: wait}
	}
	for i, at := range times {
		if at == 0 {
			continue
		}
		t.latest = max(t.latest, at)
		if scope := Scope(i); scope == Tenant {
			t.own = at
		} else {
			t.named[bucketKey{scope, c.Cells[i].Name}] = at
		}
	}
	return d
}

func (t *buckets) at(s Scope, name string) int64 {
	if s == Tenant {
		return t.own
	}
	return t.named[bucketKey{s, name}]
}

// take is GCRA: at is the theoretical arrival time of the next unit; a charge moves it on by its
// cost, and is refused if that puts it more than a burst ahead of now.
func (c *Cell) take(at, now int64) (moved int64, wait time.Duration) {
	ahead := c.Burst * int64(c.Interval)
	// A bucket that was charged under a slower rate, before a reload, is empty and no worse.
	at = min(max(at, now), now+ahead)
	moved = at + c.Cost*int64(c.Interval)
	return moved, time.Duration(moved - ahead - now)
}

// makeRoom drops some full buckets before the charge adds new ones. It returns how long to wait if
// there is no room.
func (t *buckets) makeRoom(c Charge, now int64, most int) time.Duration {
	added := 0
	for i, cell := range c.Cells {
		if s := Scope(i); s != Tenant && cell.Cost > 0 {
			if _, ok := t.named[bucketKey{s, cell.Name}]; !ok {
				added++
			}
		}
	}
	if added == 0 {
		return 0
	}
	wait := int64(longest)
	seen := 0
	for key, at := range t.named { // begins anywhere
		switch {
		case c.names(key): // about to be charged
		case at <= now:
			delete(t.named, key)
		default:
			wait = min(wait, at-now)
		}
		if seen++; seen >= probes && len(t.named)+added <= most {
			return 0
		}
	}
	if len(t.named)+added > most {
		return time.Duration(wait)
	}
	return 0
}

func (c *Charge) names(k bucketKey) bool { return c.Cells[k.scope].Name == k.name }

// Len returns how many buckets of tools and callers are held, for tests and metrics.
func (l *Local) Len() int {
	n := 0
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for _, t := range s.tenants {
			n += len(t.named)
		}
		s.mu.Unlock()
	}
	return n
}
