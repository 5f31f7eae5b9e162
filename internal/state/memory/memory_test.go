package memory_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/memory"
	"github.com/atlas-mcp/atlas/internal/state/statetest"
)

func open(t *testing.T, limits state.Limits) (state.Store, func() state.Store) {
	t.Helper()
	s, err := memory.New(limits)
	if err != nil {
		t.Fatal(err)
	}
	return s, nil
}

func TestContract(t *testing.T) { statetest.Run(t, open) }

func TestBadLimits(t *testing.T) {
	if _, err := memory.New(state.Limits{MaxKeys: -1}); err == nil {
		t.Error("negative limits were accepted")
	}
}

func TestExpiryComesWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		a, err := s.AddApproval(t.Context(), statetest.Approval("acme", "alice", "d"), 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour - time.Nanosecond)
		if _, found, _ := s.FindApproval(t.Context(), a); !found {
			t.Error("expired too early")
		}
		time.Sleep(time.Nanosecond)
		if _, found, _ := s.FindApproval(t.Context(), a); found {
			t.Error("live at its expiry")
		}
	})
}

// The history of a tenant that asks for ever is bounded.
func TestHistoryIsBounded(t *testing.T) {
	s, _ := open(t, state.Limits{})
	for i := range 1500 {
		a := statetest.Approval("acme", "alice", fmt.Sprint(i))
		if _, err := s.AddApproval(t.Context(), a, 10, 10); err != nil {
			t.Fatal(err)
		}
		next := a
		next.State = atlas.ApprovalUsed
		if ok, err := s.SwapApproval(t.Context(), a, next); !ok || err != nil {
			t.Fatalf("swap: %v, %v", ok, err)
		}
	}
	list, err := s.ListApprovals(t.Context(), "acme", "", 10_000)
	if err != nil || len(list) != 1000 {
		t.Errorf("%d approvals are kept (%v), want 1000", len(list), err)
	}
}
