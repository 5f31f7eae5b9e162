package auth

import (
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

const (
	maxReplays = 1 << 20 // proofs remembered of one tenant, at most
	// allReplays is how many are remembered in all before tenants that have more than an equal share
	// must wait. At most twice as many are held, each in some 60 bytes.
	allReplays = 2 << 20
)

// replays remembers proofs for as long as they could be replayed. It forgets none before: where there is
// no room, the tenant whose proofs take it up waits, and no other.
type replays struct {
	window    time.Duration // a proof is remembered for at least this long, and at most twice
	perTenant int
	all       int

	mu      sync.Mutex // guards the rest
	tenants map[atlas.TenantID]*remembered
	total   int
	swept   time.Time
}

// remembered are the proofs of one tenant: young since the time given, old from before.
type remembered struct {
	since      time.Time
	young, old map[[32]byte]struct{}
}

type verdict uint8

const (
	fresh verdict = iota
	replayed
	noRoom
)

func newReplays(window time.Duration, perTenant int) *replays {
	return &replays{window: window, perTenant: perTenant, all: allReplays, tenants: make(map[atlas.TenantID]*remembered)}
}

// first remembers a proof by its hash and reports whether it is the first time.
func (r *replays) first(tenant atlas.TenantID, proof [32]byte, now time.Time) verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.swept) >= r.window { // so that tenants who have gone leave nothing behind
		r.swept = now
		for name, t := range r.tenants {
			if r.age(t, now); len(t.young)+len(t.old) == 0 {
				delete(r.tenants, name)
			}
		}
	}
	t := r.tenants[tenant]
	if t == nil {
		t = &remembered{since: now, young: make(map[[32]byte]struct{})}
		r.tenants[tenant] = t
	}
	r.age(t, now)
	if _, ok := t.young[proof]; ok {
		return replayed
	}
	if _, ok := t.old[proof]; ok {
		return replayed
	}
	held := len(t.young) + len(t.old)
	if held >= r.perTenant || r.total >= r.all && held >= r.all/len(r.tenants) {
		return noRoom
	}
	t.young[proof] = struct{}{}
	r.total++
	return fresh
}

// age drops what was remembered a window ago or longer.
func (r *replays) age(t *remembered, now time.Time) {
	switch passed := now.Sub(t.since); {
	case passed < r.window:
		return
	case passed < 2*r.window:
		r.total -= len(t.old)
		t.old = t.young
	default:
		r.total -= len(t.old) + len(t.young)
		t.old = nil
	}
	t.young, t.since = make(map[[32]byte]struct{}), now
}
