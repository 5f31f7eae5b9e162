package statetest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

// Memory returns a memory that ends in an hour, for tests.
func Memory(tenant atlas.TenantID, customer, id string) state.Memory {
	now := time.Now().UTC().Round(0)
	return state.Memory{
		ID: id, Tenant: tenant, Customer: customer, Text: "prefers refunds to a card; Zürich", Call: "req_" + id,
		Created: now, Expires: now.Add(time.Hour),
	}
}

func memories(t *testing.T, open Opener) {
	add := func(t *testing.T, s state.Store, m state.Memory) state.Memory {
		t.Helper()
		if err := s.AddMemory(t.Context(), m); err != nil {
			t.Fatalf("AddMemory: %v", err)
		}
		return m
	}
	ids := func(t *testing.T, list []state.Memory, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, m := range list {
			out = append(out, m.ID)
		}
		return strings.Join(out, " ")
	}
	of := func(t *testing.T, s state.Store, tenant atlas.TenantID, customer string) string {
		t.Helper()
		list, err := s.FindMemories(t.Context(), tenant, customer, 100)
		return ids(t, list, err)
	}
	all := func(t *testing.T, s state.Store, tenant atlas.TenantID, limit int) string {
		t.Helper()
		list, err := s.ListMemories(t.Context(), tenant, limit)
		return ids(t, list, err)
	}

	t.Run("keeps every field", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		want := []state.Memory{Memory("acme", "CUST-1001", "m1"), Memory("acme", "CUST-1001", "m2")}
		want[1].Expires = time.Time{}
		want[1].Created = want[0].Created.Add(-time.Nanosecond)
		add(t, s, want[0])
		add(t, s, want[1])
		got, err := s.FindMemories(t.Context(), "acme", "CUST-1001", 10)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("FindMemories differs (-want +got):\n%s", diff)
		}
	})

	t.Run("newest first, up to the limit", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		for i, customer := range []string{"CUST-1", "CUST-2", "CUST-1", "CUST-1"} {
			m := Memory("acme", customer, fmt.Sprintf("m%d", i))
			m.Created = m.Created.Add(time.Duration(i) * time.Second)
			add(t, s, m)
		}
		if got := of(t, s, "acme", "CUST-1"); got != "m3 m2 m0" {
			t.Errorf("of CUST-1: %s", got)
		}
		if got := all(t, s, "acme", 3); got != "m3 m2 m1" {
			t.Errorf("list: %s", got)
		}
		list, err := s.FindMemories(t.Context(), "acme", "CUST-1", 1)
		if got := ids(t, list, err); got != "m3" {
			t.Errorf("one of CUST-1: %s", got)
		}
	})

	t.Run("adding again changes nothing", func(t *testing.T) {
		s, _ := open(t, state.Limits{MaxMemories: 1})
		m := add(t, s, Memory("acme", "CUST-1", "m"))
		changed := m
		changed.Text, changed.Customer = "other", "CUST-2"
		add(t, s, changed)
		got, err := s.ListMemories(t.Context(), "acme", 10)
		if err != nil || len(got) != 1 || got[0] != m {
			t.Errorf("got %+v, %v", got, err)
		}
	})

	t.Run("expiry", func(t *testing.T) {
		s, _ := open(t, state.Limits{MaxMemories: 1})
		old := Memory("acme", "CUST-1", "m")
		old.Expires = time.Now().UTC().Add(-time.Nanosecond)
		add(t, s, old)
		if got := of(t, s, "acme", "CUST-1") + all(t, s, "acme", 10); got != "" {
			t.Errorf("past expiry: %s", got)
		}
		if ok, err := s.DeleteMemory(t.Context(), "acme", "m"); ok || err != nil {
			t.Errorf("delete past expiry: %v, %v", ok, err)
		}
		add(t, s, Memory("acme", "CUST-1", "m")) // the id and the place are free
		if got := of(t, s, "acme", "CUST-1"); got != "m" {
			t.Errorf("the id is held by an expired one: %s", got)
		}
	})

	t.Run("limits", func(t *testing.T) {
		s, _ := open(t, state.Limits{MaxMemories: 2, MaxMemory: 10})
		short := func(tenant atlas.TenantID, id string) state.Memory {
			m := Memory(tenant, "CUST-1", id)
			m.Text = strings.Repeat("x", 10)
			return m
		}
		long := short("acme", "long")
		long.Text += "x"
		if err := s.AddMemory(t.Context(), long); atlas.CodeOf(err) != atlas.CodeTooLarge {
			t.Errorf("a text over the limit: %v", err)
		}
		add(t, s, short("acme", "m1"))
		add(t, s, short("acme", "m2"))
		if err := s.AddMemory(t.Context(), short("acme", "m3")); atlas.CodeOf(err) != atlas.CodeRateLimited {
			t.Errorf("one over the limit: %v", err)
		}
		add(t, s, short("globex", "m3")) // has its own
		if ok, err := s.DeleteMemory(t.Context(), "acme", "m1"); !ok || err != nil {
			t.Fatalf("delete: %v, %v", ok, err)
		}
		if ok, err := s.DeleteMemory(t.Context(), "acme", "m1"); ok || err != nil {
			t.Errorf("second delete: %v, %v", ok, err)
		}
		add(t, s, short("acme", "m3"))
		if n, err := s.ForgetCustomer(t.Context(), "acme", "CUST-1"); n != 2 || err != nil {
			t.Errorf("forget: %d, %v", n, err)
		}
		add(t, s, short("acme", "m4"))
		add(t, s, short("acme", "m5"))
	})

	t.Run("forget", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		add(t, s, Memory("acme", "CUST-1", "m1"))
		add(t, s, Memory("acme", "CUST-1", "m2"))
		add(t, s, Memory("acme", "CUST-10", "m3"))
		gone := Memory("acme", "CUST-1", "m4")
		gone.Expires = gone.Created.Add(-time.Hour)
		add(t, s, gone)
		add(t, s, Memory("globex", "CUST-1", "m1"))
		if n, err := s.ForgetCustomer(t.Context(), "acme", "CUST-1"); n != 3 || err != nil {
			t.Errorf("forget: %d, %v; want 3, expired ones too", n, err)
		}
		if n, err := s.ForgetCustomer(t.Context(), "acme", "CUST-1"); n != 0 || err != nil {
			t.Errorf("forget again: %d, %v", n, err)
		}
		if got := of(t, s, "acme", "CUST-1"); got != "" {
			t.Errorf("still there: %s", got)
		}
		if got := all(t, s, "acme", 10) + " " + all(t, s, "globex", 10); got != "m3 m1" {
			t.Errorf("left: %s", got)
		}
	})

	t.Run("tenants", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		add(t, s, Memory("acme", "CUST-1", "m"))
		m := Memory("globex", "CUST-1", "m")
		m.Text = "globex's"
		add(t, s, m) // the same id
		list, err := s.FindMemories(t.Context(), "globex", "CUST-1", 10)
		if err != nil || len(list) != 1 || list[0] != m {
			t.Errorf("globex finds %+v, %v", list, err)
		}
		if ok, err := s.DeleteMemory(t.Context(), "initech", "m"); ok || err != nil {
			t.Errorf("a third tenant deleted it: %v, %v", ok, err)
		}
		if n, err := s.ForgetCustomer(t.Context(), "initech", "CUST-1"); n != 0 || err != nil {
			t.Errorf("a third tenant forgot it: %d, %v", n, err)
		}
		if got := all(t, s, "initech", 10); got != "" {
			t.Errorf("a third tenant lists %s", got)
		}
		if got := of(t, s, "acme", "CUST-1"); got != "m" {
			t.Errorf("acme's: %q", got)
		}
	})

	t.Run("races", func(t *testing.T) {
		s, again := open(t, state.Limits{MaxMemories: 10})
		handles := []state.Store{s, s}
		if again != nil {
			handles[1] = again()
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 5 {
					err := handles[i%2].AddMemory(t.Context(), Memory("acme", "CUST-1", fmt.Sprintf("m%d-%d", i, n)))
					if code := atlas.CodeOf(err); err != nil && code != atlas.CodeRateLimited {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := strings.Fields(all(t, s, "acme", 100)); len(got) != 10 {
			t.Errorf("%d are kept, want 10", len(got))
		}
	})
}
