package source_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A store is what gates of these tests check.
type store struct {
	mu    sync.Mutex
	asked int
	takes time.Duration
	err   error
}

func (s *store) set(takes time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes, s.err = takes, err
}

func (s *store) count() int { s.mu.Lock(); defer s.mu.Unlock(); return s.asked }

func (s *store) check(ctx context.Context) error {
	s.mu.Lock()
	s.asked++
	takes := s.takes
	s.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func TestGateAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{takes: time.Second}
		g := source.NewGate(5*time.Second, s.check)
		defer g.Close()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := g.Pass(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := s.count(); n != 1 {
			t.Errorf("%d checks", n)
		}
		g.Doubt()
		if err := g.Pass(t.Context()); err != nil || s.count() != 2 {
			t.Errorf("after Doubt: %v, %d checks", err, s.count())
		}
		if err := g.Check(t.Context()); err != nil || s.count() != 3 {
			t.Errorf("Check: %v, %d checks", err, s.count())
		}
	})
}

func TestGateLeavesADeadStoreAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("refused"), "")
		s := &store{err: down}
		g := source.NewGate(5*time.Second, s.check)
		defer g.Close()
		begin := time.Now()
		for time.Since(begin) < time.Minute {
			if err := g.Pass(t.Context()); !errors.Is(err, down) {
				t.Fatalf("got %v", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		// 0, ¼, ¾, 1¾, 3¾, 7¾ and every five seconds.
		if n := s.count(); n < 10 || n > 17 {
			t.Errorf("%d checks in a minute", n)
		}
		s.set(0, nil)
		time.Sleep(5 * time.Second)
		if err := g.Pass(t.Context()); err != nil {
			t.Errorf("it is up: %v", err)
		}
	})
}

func TestGateWaitsNoLongerThanItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{takes: time.Hour}
		g := source.NewGate(5*time.Second, s.check)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Pass(ctx); atlas.CodeOf(err) != atlas.CodeTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the impatient: %v", err)
		}
		// The check goes on without him; who waits for it learns that the store did not answer.
		if err := g.Pass(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceUnavailable || errors.Is(err, context.DeadlineExceeded) || s.count() != 1 {
			t.Errorf("the patient: %v, %d checks", err, s.count())
		}
		time.Sleep(time.Second)
		go g.Close() // ends the check that the next call begins
		if err := g.Pass(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
			t.Errorf("closed: %v", err)
		}
		if err := g.Check(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
			t.Errorf("closed: %v", err)
		}
		s.set(0, nil)
		if err := g.Pass(t.Context()); err == nil {
			t.Error("a closed gate lets through")
		}
	})
}
