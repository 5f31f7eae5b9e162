// Package statetest is the contract of [state.Store] as tests: each driver's own test calls [Run].
package statetest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

// An Opener opens an empty store for one test. Calling again for a durable driver returns a
// second handle on the same store, where again is what it returned beside the first; a driver
// that has no second handle returns nil for it.
type Opener func(t *testing.T, limits state.Limits) (s state.Store, again func() state.Store)

// Run checks everything that [state.Store] promises.
func Run(t *testing.T, open Opener) {
	t.Run("approvals", func(t *testing.T) { approvals(t, open) })
	t.Run("memories", func(t *testing.T) { memories(t, open) })
	t.Run("kv", func(t *testing.T) { kv(t, open) })
	t.Run("life", func(t *testing.T) { life(t, open) })
}

func life(t *testing.T, open Opener) {
	methods := func(s state.Store) map[string]func(context.Context) error {
		a := Approval("acme", "alice", "d")
		return map[string]func(context.Context) error{
			"Ping":           s.Ping,
			"FindApproval":   func(ctx context.Context) error { _, _, err := s.FindApproval(ctx, a); return err },
			"AddApproval":    func(ctx context.Context) error { _, err := s.AddApproval(ctx, a, 1, 1); return err },
			"GetApproval":    func(ctx context.Context) error { _, err := s.GetApproval(ctx, "acme", a.ID); return err },
			"ListApprovals":  func(ctx context.Context) error { _, err := s.ListApprovals(ctx, "acme", "", 1); return err },
			"SwapApproval":   func(ctx context.Context) error { _, err := s.SwapApproval(ctx, a, a); return err },
			"AddMemory":      func(ctx context.Context) error { return s.AddMemory(ctx, Memory("acme", "CUST-1", "m")) },
			"FindMemories":   func(ctx context.Context) error { _, err := s.FindMemories(ctx, "acme", "CUST-1", 1); return err },
			"ListMemories":   func(ctx context.Context) error { _, err := s.ListMemories(ctx, "acme", 1); return err },
			"DeleteMemory":   func(ctx context.Context) error { _, err := s.DeleteMemory(ctx, "acme", "m"); return err },
			"ForgetCustomer": func(ctx context.Context) error { _, err := s.ForgetCustomer(ctx, "acme", "CUST-1"); return err },
			"Get":            func(ctx context.Context) error { _, _, err := s.Get(ctx, "a", "k"); return err },
			"CompareAndSet": func(ctx context.Context) error {
				_, err := s.CompareAndSet(ctx, "a", "k", 0, nil, time.Time{})
				return err
			},
			"CompareAndDelete": func(ctx context.Context) error { _, err := s.CompareAndDelete(ctx, "a", "k", 1); return err },
		}
	}
	t.Run("cancelled", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for name, call := range methods(s) {
			if err := call(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%s with a cancelled context: %v", name, err)
			}
		}
		if err := s.Ping(t.Context()); err != nil {
			t.Errorf("Ping afterwards: %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
		}
		for name, call := range methods(s) {
			err := call(t.Context())
			if atlas.CodeOf(err) != atlas.CodeStateUnavailable {
				t.Errorf("%s after Close: %v", name, err)
				continue
			}
			Discreet(t, err)
		}
	})
	t.Run("two handles", func(t *testing.T) {
		s, again := open(t, state.Limits{})
		if again == nil {
			return // the driver has none, and says so
		}
		a, err := s.AddApproval(t.Context(), Approval("acme", "alice", "d"), 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.CompareAndSet(t.Context(), "a", "k", 0, []byte("x"), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s2 := again()
		if got, err := s2.GetApproval(t.Context(), "acme", a.ID); err != nil || got != a {
			t.Errorf("the second handle sees %+v, %v", got, err)
		}
		if got, n, err := s2.Get(t.Context(), "a", "k"); err != nil || n != v || string(got) != "x" {
			t.Errorf("the second handle gets %q, %d, %v", got, n, err)
		}
	})
}

// Discreet checks that what a caller sees of err tells nothing of the store.
func Discreet(t *testing.T, err error) {
	t.Helper()
	data, jerr := json.Marshal(atlas.ErrorOf(err).Failure("r"))
	if jerr != nil {
		t.Fatal(jerr)
	}
	for _, word := range []string{"/", "sql", "SQL", "database", "closed", ".db"} {
		if strings.Contains(string(data), word) {
			t.Errorf("the caller sees %q in %s", word, data)
		}
	}
}
