package breaker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/atlas-mcp/atlas"
)

const maxTenants = 1024 // own circuits of tenants per source

// A source has a bulkhead, a circuit per class of tenants, and one per tenant that has met failures.
//
// A failure counts in the tenant's own circuit, and in the class's only up to half of its threshold
// per tenant and period. So a source that is down closes itself off after the usual number of failures,
// to everyone once two tenants have met it; but a tenant that makes a shared source fail for itself (a
// query that never ends, a host that is down) is cut off alone. What a tenant learns about others
// through an open class circuit is just that: calls to this source fail for more than one tenant.
type source struct {
	set      settings
	bulkhead *bulkhead
	troubled atomic.Int32 // number of own circuits

	mu      sync.RWMutex
	classes map[string]*circuit           // guarded by mu; bounded by the configuration
	tenants map[atlas.TenantID]*tenantOwn // guarded by mu; at most maxTenants
}

// tenantOwn is a tenant's own circuit, and what it has contributed to its class's.
type tenantOwn struct {
	*circuit
	mu    sync.Mutex // guards what follows
	since time.Time
	given int
}

func newSource(set settings) *source {
	return &source{
		set: set, bulkhead: newBulkhead(set),
		classes: map[string]*circuit{}, tenants: map[atlas.TenantID]*tenantOwn{},
	}
}

func (s *source) class(name string) *circuit {
	s.mu.RLock()
	c := s.classes[name]
	s.mu.RUnlock()
	if c != nil {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c = s.classes[name]; c == nil {
		c = newCircuit(s.set)
		s.classes[name] = c
	}
	return c
}

// own returns the tenant's own circuit, or nil if it has none.
func (s *source) own(tenant atlas.TenantID) *tenantOwn {
	if s.troubled.Load() == 0 {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tenants[tenant]
}

// ensure returns the tenant's own circuit, made if need be. It returns nil when there are too many.
func (s *source) ensure(tenant atlas.TenantID, now time.Time) *tenantOwn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if own := s.tenants[tenant]; own != nil {
		return own
	}
	if len(s.tenants) >= maxTenants {
		for id, own := range s.tenants {
			if own.forgettable(now) {
				delete(s.tenants, id)
			}
		}
		if len(s.tenants) >= maxTenants {
			return nil
		}
	}
	own := &tenantOwn{circuit: newCircuit(s.set), since: now}
	s.tenants[tenant] = own
	s.troubled.Store(int32(len(s.tenants))) //nolint:gosec // at most maxTenants
	return own
}

// forgettable reports whether the circuit is closed and its failures are of a period gone by.
func (o *tenantOwn) forgettable(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state() == circuitbreaker.ClosedState && now.Sub(o.since) > o.set.period
}

// contribute reports whether one more failure of the tenant counts for its class.
func (o *tenantOwn) contribute(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Sub(o.since) > o.set.period {
		o.since, o.given = now, 0
	}
	o.given++
	return o.given <= o.set.perTenant
}

// A pass lets one call through to the source.
type pass struct {
	src    *source
	tenant atlas.TenantID
	class  *circuit
	own    *tenantOwn // nil if the tenant has no circuit of its own yet
	mine   permit     // of own
	shared permit     // of class
	closed bool       // the outcome is taken in
}

// admit lets the call through both circuits, or refuses it with circuit_open.
func (s *source) admit(class string, tenant atlas.TenantID) (pass, error) {
	now := time.Now()
	p := pass{src: s, tenant: tenant, class: s.class(class), own: s.own(tenant)}
	if p.own != nil {
		mine, wait, ok := p.own.admit(now)
		if !ok {
			return p, refuse(wait)
		}
		p.mine = mine
	}
	shared, wait, ok := p.class.admit(now)
	if !ok {
		if p.own != nil {
			p.own.done(p.mine, neutral)
		}
		return p, refuse(wait)
	}
	p.shared = shared
	return p, nil
}

func refuse(wait time.Duration) error {
	return &atlas.Error{Code: atlas.CodeCircuitOpen, RetryAfter: max(wait, time.Millisecond)}
}

// done takes in the outcome, the first time that it is called.
func (p *pass) done(v verdict) {
	if p.closed {
		return
	}
	p.closed = true
	if v == failing && !p.shared.probe {
		now := time.Now()
		if p.own == nil {
			if p.own = p.src.ensure(p.tenant, now); p.own != nil {
				p.mine.epoch = p.own.epoch()
			}
		}
		if p.own != nil {
			p.own.done(p.mine, v)
			if !p.own.contribute(now) {
				v = neutral
			}
		}
	} else if p.own != nil {
		p.own.done(p.mine, v)
	}
	p.class.done(p.shared, v)
}

// state returns the worse state of the two circuits.
func (p *pass) state() string {
	s := p.class.state()
	if p.own != nil {
		if o := p.own.state(); severity(o) > severity(s) {
			s = o
		}
	}
	return s.String()
}

func severity(s circuitbreaker.State) int {
	switch s {
	case circuitbreaker.OpenState:
		return 2
	case circuitbreaker.HalfOpenState:
		return 1
	case circuitbreaker.ClosedState:
	}
	return 0
}

// closed refuses a call for which a circuit is certainly open, changing nothing.
func (s *source) closed(class string, tenant atlas.TenantID) (string, error) {
	wait := s.class(class).wait()
	if own := s.own(tenant); own != nil {
		wait = max(wait, own.wait())
	}
	if wait > 0 {
		return circuitbreaker.OpenState.String(), refuse(wait)
	}
	return "", nil
}

// peek returns the state of a class's circuit.
func (s *source) peek(class string) string {
	return s.class(class).state().String()
}

func (s *source) snapshot() []Status {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Status
	for name, c := range s.classes {
		out = append(out, Status{Class: name, State: c.state().String(), RetryAfter: c.wait(), Failures: c.failures()})
	}
	for id, c := range s.tenants {
		if n := c.failures(); n > 0 || c.state() != circuitbreaker.ClosedState {
			out = append(out, Status{Tenant: id, State: c.state().String(), RetryAfter: c.wait(), Failures: n})
		}
	}
	return out
}
