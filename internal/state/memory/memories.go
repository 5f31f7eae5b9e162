package memory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

func past(m state.Memory, now time.Time) bool { return !m.Expires.IsZero() && !now.Before(m.Expires) }

// AddMemory implements [state.Memories].
func (s *Store) AddMemory(ctx context.Context, m state.Memory) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if len(m.Text) > s.limits.MaxMemory {
		return atlas.Errorf(atlas.CodeTooLarge, nil, "the text is too long to be kept")
	}
	now := time.Now()
	of := s.kept[m.Tenant]
	if there, ok := of[m.ID]; ok && !past(there, now) {
		return nil
	}
	if len(of) >= s.limits.MaxMemories {
		maps.DeleteFunc(of, func(_ string, m state.Memory) bool { return past(m, now) })
		if len(of) >= s.limits.MaxMemories {
			return atlas.Errorf(atlas.CodeRateLimited, nil, "too much is kept already; wait until some of it expires, or have customers forgotten")
		}
	}
	if of == nil {
		of = map[string]state.Memory{}
		s.kept[m.Tenant] = of
	}
	of[m.ID] = m
	return nil
}

// FindMemories implements [state.Memories].
func (s *Store) FindMemories(ctx context.Context, tenant atlas.TenantID, customer string, limit int) ([]state.Memory, error) {
	return s.memories(ctx, tenant, limit, func(m state.Memory) bool { return m.Customer == customer })
}

// ListMemories implements [state.Memories].
func (s *Store) ListMemories(ctx context.Context, tenant atlas.TenantID, limit int) ([]state.Memory, error) {
	return s.memories(ctx, tenant, limit, func(state.Memory) bool { return true })
}

func (s *Store) memories(ctx context.Context, tenant atlas.TenantID, limit int, want func(state.Memory) bool) ([]state.Memory, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	now := time.Now()
	var list []state.Memory
	for _, m := range s.kept[tenant] {
		if !past(m, now) && want(m) {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b state.Memory) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return list[:min(limit, len(list))], nil
}

// DeleteMemory implements [state.Memories].
func (s *Store) DeleteMemory(ctx context.Context, tenant atlas.TenantID, id string) (bool, error) {
	n, err := s.forget(ctx, tenant, func(m state.Memory) bool { return m.ID == id && !past(m, time.Now()) })
	return n > 0, err
}

// ForgetCustomer implements [state.Memories].
func (s *Store) ForgetCustomer(ctx context.Context, tenant atlas.TenantID, customer string) (int, error) {
	return s.forget(ctx, tenant, func(m state.Memory) bool { return m.Customer == customer })
}

func (s *Store) forget(ctx context.Context, tenant atlas.TenantID, what func(state.Memory) bool) (int, error) {
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	of := s.kept[tenant]
	before := len(of)
	maps.DeleteFunc(of, func(_ string, m state.Memory) bool { return what(m) })
	n := before - len(of)
	if len(of) == 0 {
		delete(s.kept, tenant)
	}
	return n, nil
}
