package memory_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/memory"
)

func recall(t *testing.T, s *memory.Store, k copilot.SessionKey) []copilot.Turn {
	t.Helper()
	turns, err := s.Recall(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return turns
}

func remember(t *testing.T, s *memory.Store, k copilot.SessionKey, q string) {
	t.Helper()
	if err := s.Remember(t.Context(), k, copilot.Turn{Question: q, IDs: []string{"o_1"}}); err != nil {
		t.Fatal(err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(memory.Config{Sessions: 3})
		if err != nil {
			t.Fatal(err)
		}
		k := copilot.SessionKey{Tenant: "acme", Subject: "a", Session: "1"}
		for i := range 25 {
			remember(t, s, k, fmt.Sprint(i))
		}
		if got := recall(t, s, k); len(got) != 20 || got[0].Question != "5" || got[19].Question != "24" {
			t.Errorf("%d turns, first %q", len(got), got[0].Question)
		}
		time.Sleep(59 * time.Minute)
		if len(recall(t, s, k)) != 20 {
			t.Error("forgotten before the hour")
		}
		time.Sleep(time.Minute)
		if len(recall(t, s, k)) != 0 {
			t.Error("remembered after the hour")
		}
		remember(t, s, k, "again")
		if got := recall(t, s, k); len(got) != 1 {
			t.Errorf("%d turns after expiry", len(got))
		}
		for i := range 5 {
			time.Sleep(time.Second)
			remember(t, s, copilot.SessionKey{Tenant: "acme", Subject: "a", Session: fmt.Sprint("x", i)}, "q")
		}
		if len(recall(t, s, k)) != 0 {
			t.Error("the longest unused session was not the first to go")
		}
		if len(recall(t, s, copilot.SessionKey{Tenant: "acme", Subject: "a", Session: "x4"})) != 1 {
			t.Error("the newest session is gone")
		}
	})
}

// TestKeys: neither another tenant nor another subject reaches a session by its name, and a
// recalled slice is the caller's own.
func TestKeys(t *testing.T) {
	t.Parallel()
	s, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	k := copilot.SessionKey{Tenant: "acme", Subject: "a", Session: "1"}
	remember(t, s, k, "q")
	for _, other := range []copilot.SessionKey{{Tenant: "globex", Subject: "a", Session: "1"}, {Tenant: "acme", Subject: "b", Session: "1"}, {Tenant: "acme", Subject: "a", Session: "2"}} {
		if got := recall(t, s, other); len(got) > 0 {
			t.Errorf("%+v sees %v", other, got)
		}
	}
	recall(t, s, k)[0].Question = "changed"
	if recall(t, s, k)[0].Question != "q" {
		t.Error("the store's own slice was handed out")
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				remember(t, s, k, "x")
				recall(t, s, k)
			}
		})
	}
	wg.Wait()
}
