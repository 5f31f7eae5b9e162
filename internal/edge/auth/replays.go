package auth

import (
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

const (
	maxReplays = 1 << 20 // proofs remembered of one tenant, at most
	// allReplays is how many are remembered in all before tenants that have more than an equal share
	// must wait. At most twice as many are held, each in some 120 bytes.
	allReplays = 2 << 20
)

// replays remembers proofs for as long as they could be replayed. It forgets none before: where there is
// no room, the tenant whose proofs take it up waits, and no other.
type replays struct {
	window    time.Duration // how long a proof is remembered
	perTenant int
	all       int

	mu      sync.Mutex // guards the rest
	tenants map[atlas.TenantID]*remembered
	total   int
	swept   time.Time
}

// remembered are the proofs of one tenant, and in which order they came.
type remembered struct {
	proofs map[[32]byte]struct{}
	order  []stamped
}

type stamped struct {
	proof [32]byte
	at    time.Time
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

// first remembers a proof by its hash and reports whether it is the first time. Where there is no room, the
// duration says when there will be.
func (r *replays) first(tenant atlas.TenantID, proof [32]byte, now time.Time) (verdict, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.swept) >= r.window { // so that tenants who have gone leave nothing behind
		r.swept = now
		for name, t := range r.tenants {
			if r.forget(t, now); len(t.order) == 0 {
				delete(r.tenants, name)
			}
		}
	}
	t := r.tenants[tenant]
	if t == nil {
		t = &remembered{proofs: make(map[[32]byte]struct{})}
		r.tenants[tenant] = t
	}
	r.forget(t, now)
	if _, ok := t.proofs[proof]; ok {
		return replayed, 0
	}
	if held := len(t.order); held >= r.perTenant || r.total >= r.all && held > 0 && held >= r.all/len(r.tenants) {
		return noRoom, t.order[0].at.Add(r.window).Sub(now)
	}
	t.proofs[proof] = struct{}{}
	t.order = append(t.order, stamped{proof, now})
	r.total++
	return fresh, 0
}

// forget drops the proofs that are too old to be taken once more.
func (r *replays) forget(t *remembered, now time.Time) {
	n := 0
	for n < len(t.order) && now.Sub(t.order[n].at) > r.window {
		delete(t.proofs, t.order[n].proof)
		n++
	}
	t.order = t.order[n:]
	r.total -= n
}
