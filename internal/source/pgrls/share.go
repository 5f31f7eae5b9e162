package pgrls

import (
	"context"
	"slices"
	"sync"

	"github.com/atlas-mcp/atlas"
)

// A Share bounds what each tenant holds at once of something that all tenants use, so that none can hold
// all of it. Who asks for more waits for its own, in the order of asking; others do not wait for it. It is
// safe for concurrent use, and keeps nothing of tenants that hold nothing.
type Share struct {
	most    int
	mu      sync.Mutex
	held    map[atlas.TenantID]int
	waiting map[atlas.TenantID][]chan struct{} // each is closed when its turn has come
}

// NewShare returns a share of which each tenant may hold most.
func NewShare(most int) *Share {
	return &Share{most: most, held: map[atlas.TenantID]int{}, waiting: map[atlas.TenantID][]chan struct{}{}}
}

// Take takes one for the tenant, who gives it back with Give. It fails with ctx only.
func (s *Share) Take(ctx context.Context, tenant atlas.TenantID) error {
	s.mu.Lock()
	if s.held[tenant] < s.most {
		s.held[tenant]++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	s.waiting[tenant] = append(s.waiting[tenant], turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting[tenant], turn); i >= 0 {
		s.leave(tenant, i)
	} else { // its turn came just now
		s.give(tenant)
	}
	return ctx.Err()
}

// Give gives one back.
func (s *Share) Give(tenant atlas.TenantID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.give(tenant)
}

func (s *Share) give(tenant atlas.TenantID) {
	if list := s.waiting[tenant]; len(list) > 0 {
		close(list[0]) // who waited longest holds it now
		s.leave(tenant, 0)
		return
	}
	if s.held[tenant]--; s.held[tenant] <= 0 {
		delete(s.held, tenant)
	}
}

func (s *Share) leave(tenant atlas.TenantID, i int) {
	if s.waiting[tenant] = slices.Delete(s.waiting[tenant], i, i+1); len(s.waiting[tenant]) == 0 {
		delete(s.waiting, tenant)
	}
}
