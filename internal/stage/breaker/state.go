package breaker

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

const maxSources = 4096 // past it, the sources of old settings are dropped

// State holds circuits and bulkheads. Make one value and keep it across reloads. It is safe for
// concurrent use.
type State struct {
	mu sync.RWMutex
	m  map[sourceKey]*source // guarded by mu
}

// Circuits and slots belong to a source under given settings, so that the pipelines before and after
// a reload share them unless their rules differ.
type sourceKey struct {
	name string
	settings
}

// settings are the part of the configuration that circuits and bulkheads are made with.
type settings struct {
	threshold, perTenant    int
	period, recovery, probe time.Duration
	slots, slotShare        int
	queue, queueShare       int
}

func settingsOf(c Config) settings {
	share := func(n int) int { return max(1, int(float64(n)*c.TenantShare)) }
	return settings{
		threshold: c.FailureThreshold,
		// A tenant alone can contribute at most half of what opens a circuit that others share.
		perTenant: max(1, c.FailureThreshold-c.FailureThreshold/2),
		period:    c.Period, recovery: c.Recovery, probe: c.ProbeTimeout,
		slots: c.MaxConcurrent, slotShare: share(c.MaxConcurrent),
		queue: c.MaxQueue, queueShare: share(c.MaxQueue),
	}
}

// NewState returns a state in which every circuit is closed.
func NewState() *State { return &State{m: map[sourceKey]*source{}} }

func (s *State) source(name string, set settings) *source {
	k := sourceKey{name, set}
	s.mu.RLock()
	src := s.m[k]
	s.mu.RUnlock()
	if src != nil {
		return src
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if src = s.m[k]; src != nil {
		return src
	}
	// The first call under new settings: what the old ones left behind serves only calls that are
	// still running, and those hold it themselves.
	for old := range s.m {
		if old.name == name || len(s.m) >= maxSources {
			delete(s.m, old)
		}
	}
	src = newSource(set)
	s.m[k] = src
	return src
}

// A Status is how one circuit stands, with its source's bulkhead.
type Status struct {
	Source     string
	Class      string         // class of tenants; empty for a tenant's own circuit
	Tenant     atlas.TenantID // empty for a class's circuit
	State      string         // "closed", "half-open" or "open"
	Failures   int            // that count now
	RetryAfter time.Duration  // until the next probe, if open
	Running    int            // calls that hold a slot of the source
	Waiting    int            // calls that wait for one
}

// Snapshot lists the circuits, sorted by source, class and tenant. Tenants' own circuits are there
// only while they have something to tell.
func (s *State) Snapshot() []Status {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Status
	for k, src := range s.m {
		for _, st := range src.snapshot() {
			st.Source = k.name
			st.Running, st.Waiting = src.bulkhead.load()
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Class, b.Class), cmp.Compare(a.Tenant, b.Tenant))
	})
	return out
}
