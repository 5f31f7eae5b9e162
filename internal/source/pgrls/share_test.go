package pgrls_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// A tenant that wants more than its share waits for itself, and others do not wait for it.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pgrls.NewShare(2)
		for range 2 {
			if err := s.Take(t.Context(), "acme"); err != nil {
				t.Fatal(err)
			}
		}
		var order []int
		for i := range 3 {
			go func() {
				if err := s.Take(t.Context(), "acme"); err != nil {
					t.Error(err)
				}
				order = append(order, i)
			}()
			synctest.Wait()
		}
		if len(order) != 0 {
			t.Fatal("more than its share")
		}
		if err := s.Take(t.Context(), "globex"); err != nil { // at once: a bubble in which all wait is a failure
			t.Fatal(err)
		}
		s.Give("globex")
		for i := range 3 {
			s.Give("acme")
			synctest.Wait()
			if len(order) != i+1 || order[i] != i {
				t.Fatalf("after %d: %v, want those who came first", i+1, order)
			}
		}
		s.Give("acme")
		s.Give("acme")
		if n := s.Tenants(); n != 0 {
			t.Errorf("%d tenants are kept", n)
		}
	})
}

// Who gives up waiting takes nothing with it, even if its turn comes in that moment.
func TestShareGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pgrls.NewShare(1)
		if err := s.Take(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Take(ctx, "acme"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		s.Give("acme")
		for range 100 { // the turn and the end at the same time
			if err := s.Take(t.Context(), "acme"); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				if s.Take(ctx, "acme") == nil {
					s.Give("acme")
				}
			})
			synctest.Wait()
			wg.Go(cancel)
			wg.Go(func() { s.Give("acme") })
			wg.Wait()
		}
		if n := s.Tenants(); n != 0 {
			t.Errorf("%d tenants are kept", n)
		}
	})
}

// However many ask, no tenant holds more than its share.
func TestShareHolds(t *testing.T) {
	const most = 3
	s := pgrls.NewShare(most)
	var held [2]atomic.Int64
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			side := i % 2
			tenant := []atlas.TenantID{"acme", "globex"}[side]
			for range 200 {
				if err := s.Take(t.Context(), tenant); err != nil {
					t.Error(err)
					return
				}
				if n := held[side].Add(1); n > most {
					t.Errorf("%s holds %d", tenant, n)
				}
				held[side].Add(-1)
				s.Give(tenant)
			}
		})
	}
	wg.Wait()
	if n := s.Tenants(); n != 0 {
		t.Errorf("%d tenants are kept", n)
	}
}
