// Package places bounds what callers may have at once: of one caller, of all callers of one home
// tenant, and of all.
package places

import (
	"sync"

	"github.com/atlas-mcp/atlas"
)

// A Bound is how many of something there may be: of one caller, of all callers of one home tenant, and
// of all.
type Bound struct{ User, Tenant, Total int }

// A Holder is who takes a place. The tenant is the caller's own, not the one acted for: who may act for
// others must not use up their places, nor multiply his own.
type Holder struct {
	User   string // unique among all tenants
	Tenant atlas.TenantID
}

// Taken counts what is bounded: of each caller, of each tenant, and of all. The zero value is ready to
// use, and safe for concurrent use.
type Taken struct {
	mu     sync.Mutex
	user   map[string]int
	tenant map[atlas.TenantID]int
	total  int
}

// Enter takes a place if caller, tenant and server have one left, and reports whether it did. It does
// not wait for one.
func (p *Taken) Enter(h Holder, most Bound) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.user[h.User] >= most.User || p.tenant[h.Tenant] >= most.Tenant || p.total >= most.Total {
		return false
	}
	if p.user == nil {
		p.user, p.tenant = make(map[string]int), make(map[atlas.TenantID]int)
	}
	p.user[h.User]++
	p.tenant[h.Tenant]++
	p.total++
	return true
}

// Leave gives back a place that h took.
func (p *Taken) Leave(h Holder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	release(p.user, h.User)
	release(p.tenant, h.Tenant)
	p.total--
}

func release[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
