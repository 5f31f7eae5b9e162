package mcp

import (
	"sync"

	"github.com/atlas-mcp/atlas"
)

// A bound is how many of something there may be: of one caller, of all callers of one home tenant, and
// of all.
type bound struct{ user, tenant, total int }

// streamBound bounds what is kept open for listeners.
func (c *Config) streamBound() bound {
	return bound{c.MaxStreams, c.MaxStreamsTenant, c.MaxStreamsTotal}
}

// lookBound bounds the requests that look into sources beside the pipeline's own limits.
var lookBound = bound{user: 32, tenant: 64, total: 256}

// places counts what is bounded: of each caller, of each tenant, and of all.
type places struct {
	mu     sync.Mutex
	user   map[string]int
	tenant map[atlas.TenantID]int
	total  int
}

// enter takes a place if caller, tenant and server have one left. The tenant is the caller's own, not
// the one acted for: who may act for others must not use up their places, nor multiply his own.
func (p *places) enter(id *identity, most bound) bool {
	tenant := id.caller.Principal.Tenant
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.user[id.user] >= most.user || p.tenant[tenant] >= most.tenant || p.total >= most.total {
		return false
	}
	if p.user == nil {
		p.user, p.tenant = make(map[string]int), make(map[atlas.TenantID]int)
	}
	p.user[id.user]++
	p.tenant[tenant]++
	p.total++
	return true
}

func (p *places) leave(id *identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	release(p.user, id.user)
	release(p.tenant, id.caller.Principal.Tenant)
	p.total--
}

func release[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
