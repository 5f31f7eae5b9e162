package statetest

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

// Approval returns a pending approval that ends in an hour, for tests.
func Approval(tenant atlas.TenantID, subject, args string) atlas.Approval {
	now := time.Now().UTC().Round(0)
	return atlas.Approval{
		ID: "apr_" + rand.Text(), Tenant: tenant, HomeTenant: "home", Issuer: "https://login.example", Subject: subject, Delegator: "agent", Tool: "files_put", Version: "v1",
		PolicyHash: "p1", ArgsDigest: args, Preview: "overwrite a file", State: atlas.ApprovalPending,
		Created: now, Expires: now.Add(time.Hour),
	}
}

func approvals(t *testing.T, open Opener) {
	const many = 1000
	add := func(t *testing.T, s state.Store, a atlas.Approval) atlas.Approval {
		t.Helper()
		got, err := s.AddApproval(t.Context(), a, many, many)
		if err != nil {
			t.Fatalf("AddApproval: %v", err)
		}
		return got
	}
	swap := func(t *testing.T, s state.Store, a atlas.Approval, to atlas.ApprovalState) bool {
		t.Helper()
		next := a
		next.State, next.Approver, next.Decided = to, "bob", time.Now().UTC().Round(0)
		ok, err := s.SwapApproval(t.Context(), a, next)
		if err != nil {
			t.Fatalf("SwapApproval to %s: %v", to, err)
		}
		return ok
	}
	find := func(t *testing.T, s state.Store, b atlas.Approval) (atlas.Approval, bool) {
		t.Helper()
		a, found, err := s.FindApproval(t.Context(), b)
		if err != nil {
			t.Fatalf("FindApproval: %v", err)
		}
		return a, found
	}

	t.Run("keeps every field", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		a := Approval("acme", "alice", "d1")
		add(t, s, a)
		got, err := s.GetApproval(t.Context(), "acme", a.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(a, got); diff != "" {
			t.Errorf("GetApproval differs (-want +got):\n%s", diff)
		}
		next := a
		next.State, next.Approver, next.Reason, next.Decided = atlas.ApprovalApproved, "bob", "fine", time.Now().UTC().Round(0)
		if ok, err := s.SwapApproval(t.Context(), a, next); !ok || err != nil {
			t.Fatalf("SwapApproval: %v, %v", ok, err)
		}
		got, _ = find(t, s, Approval("acme", "alice", "d1"))
		if diff := gocmp.Diff(next, got); diff != "" {
			t.Errorf("FindApproval after a decision differs (-want +got):\n%s", diff)
		}
	})

	t.Run("one live approval for a binding", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		a := add(t, s, Approval("acme", "alice", "d1"))
		if b := add(t, s, Approval("acme", "alice", "d1")); b.ID != a.ID {
			t.Errorf("the same binding got a second approval")
		}
		for name, change := range map[string]func(*atlas.Approval){
			"tenant":    func(a *atlas.Approval) { a.Tenant = "globex" },
			"home":      func(a *atlas.Approval) { a.HomeTenant = "globex" },
			"issuer":    func(a *atlas.Approval) { a.Issuer = "https://other.example" },
			"subject":   func(a *atlas.Approval) { a.Subject = "mallory" },
			"delegator": func(a *atlas.Approval) { a.Delegator = "" },
			"tool":      func(a *atlas.Approval) { a.Tool = "files_delete" },
			"version":   func(a *atlas.Approval) { a.Version = "v2" },
			"policy":    func(a *atlas.Approval) { a.PolicyHash = "p2" },
			"args":      func(a *atlas.Approval) { a.ArgsDigest = "d2" },
		} {
			b := Approval("acme", "alice", "d1")
			change(&b)
			if _, found := find(t, s, b); found {
				t.Errorf("found the approval with another %s", name)
			}
			if got := add(t, s, b); got.ID != b.ID {
				t.Errorf("another %s did not get its own approval", name)
			}
		}
	})

	t.Run("moves", func(t *testing.T) {
		for _, tc := range []struct {
			path []atlas.ApprovalState
			live bool
		}{
			{[]atlas.ApprovalState{atlas.ApprovalApproved}, true},
			{[]atlas.ApprovalState{atlas.ApprovalDenied}, true},
			{[]atlas.ApprovalState{atlas.ApprovalApproved, atlas.ApprovalUsed}, false},
			{[]atlas.ApprovalState{atlas.ApprovalApproved, atlas.ApprovalUsed, atlas.ApprovalApproved}, true},
			{[]atlas.ApprovalState{atlas.ApprovalApproved, atlas.ApprovalUsed, atlas.ApprovalApproved, atlas.ApprovalUsed}, false},
		} {
			s, _ := open(t, state.Limits{})
			a := add(t, s, Approval("acme", "alice", "d1"))
			for _, to := range tc.path {
				if !swap(t, s, a, to) {
					t.Fatalf("%v: the move to %s was refused", tc.path, to)
				}
				if swap(t, s, a, to) {
					t.Errorf("%v: a move from a state that was left succeeded", tc.path)
				}
				a.State = to
			}
			if _, found := find(t, s, a); found != tc.live {
				t.Errorf("%v: live is %v, want %v", tc.path, found, tc.live)
			}
			if b := add(t, s, Approval("acme", "alice", "d1")); (b.ID == a.ID) != tc.live {
				t.Errorf("%v: asking again gave the same approval: %v, want %v", tc.path, b.ID == a.ID, tc.live)
			}
		}
	})

	t.Run("no second live approval by giving back", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		a := add(t, s, Approval("acme", "alice", "d1"))
		swap(t, s, a, atlas.ApprovalApproved)
		a.State = atlas.ApprovalApproved
		swap(t, s, a, atlas.ApprovalUsed)
		a.State = atlas.ApprovalUsed
		b := add(t, s, Approval("acme", "alice", "d1"))
		if swap(t, s, a, atlas.ApprovalApproved) {
			t.Error("a used approval came back beside a pending one")
		}
		if got, _ := find(t, s, a); got.ID != b.ID || got.State != atlas.ApprovalPending {
			t.Errorf("live is %s %s, want the pending one", got.ID, got.State)
		}
	})

	t.Run("expiry", func(t *testing.T) {
		for _, st := range []atlas.ApprovalState{atlas.ApprovalPending, atlas.ApprovalApproved, atlas.ApprovalDenied} {
			s, _ := open(t, state.Limits{})
			a := Approval("acme", "alice", "d1")
			a.Created, a.Expires, a.State = a.Created.Add(-2*time.Hour), a.Created.Add(-time.Nanosecond), st
			add(t, s, a)
			want := cmp.Or(map[atlas.ApprovalState]atlas.ApprovalState{atlas.ApprovalDenied: atlas.ApprovalDenied}[st], atlas.ApprovalExpired)
			check := func(when string) {
				t.Helper()
				if got, err := s.GetApproval(t.Context(), "acme", a.ID); err != nil || got.State != want {
					t.Errorf("%s past expiry %s: shown as %s, %v; want %s", st, when, got.State, err, want)
				}
				list, err := s.ListApprovals(t.Context(), "acme", want, 10)
				if err != nil || len(list) != 1 || list[0].State != want {
					t.Errorf("%s past expiry %s: list of %s: %v, %v", st, when, want, list, err)
				}
			}
			check("before it is noticed")
			if _, found := find(t, s, a); found {
				t.Errorf("%s past expiry is live", st)
			}
			if swap(t, s, a, atlas.ApprovalUsed) {
				t.Errorf("%s past expiry moved", st)
			}
			if b := add(t, s, Approval("acme", "alice", "d1")); b.ID == a.ID {
				t.Errorf("%s past expiry was given out again", st)
			}
			check("after another took its place")
		}
	})

	t.Run("pending ones are bounded", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		ask := func(tenant atlas.TenantID, subject, args string) error {
			_, err := s.AddApproval(t.Context(), Approval(tenant, subject, args), 2, 3)
			return err
		}
		for _, step := range []struct {
			tenant        atlas.TenantID
			subject, args string
			want          atlas.Code
		}{
			{"acme", "alice", "1", ""},
			{"acme", "alice", "2", ""},
			{"acme", "alice", "3", atlas.CodeRateLimited},
			{"acme", "alice", "2", ""}, // the identical one
			{"globex", "alice", "3", ""},
			{"acme", "carol", "1", ""},
			{"acme", "dave", "1", atlas.CodeRateLimited},
			{"globex", "dave", "1", ""},
		} {
			if err := ask(step.tenant, step.subject, step.args); atlas.CodeOf(err) != step.want {
				t.Errorf("%s %s %s: %v, want %q", step.tenant, step.subject, step.args, err, step.want)
			}
		}
		namesake := Approval("initech", "alice", "1")
		for i, change := range []func(*atlas.Approval){
			func(*atlas.Approval) {}, func(a *atlas.Approval) { a.HomeTenant = "globex" },
			func(a *atlas.Approval) { a.Issuer = "https://other.example" },
		} {
			b := namesake
			b.ID += fmt.Sprint(i)
			change(&b)
			if _, err := s.AddApproval(t.Context(), b, 1, 10); err != nil {
				t.Errorf("namesake %d: counted against another: %v", i, err)
			}
		}
		a, _ := find(t, s, Approval("acme", "alice", "1"))
		swap(t, s, a, atlas.ApprovalApproved)
		if err := ask("acme", "alice", "3"); err != nil {
			t.Errorf("a decided approval still counts: %v", err)
		}
	})

	t.Run("tenants", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		a := add(t, s, Approval("acme", "alice", "d1"))
		_, foreign := s.GetApproval(t.Context(), "globex", a.ID)
		_, missing := s.GetApproval(t.Context(), "globex", "apr_"+rand.Text())
		if atlas.CodeOf(foreign) != atlas.CodeApprovalNotFound {
			t.Errorf("another tenant's approval: %v, want approval_not_found", foreign)
		}
		if f, m := fmt.Sprint(foreign), fmt.Sprint(missing); f != m {
			t.Errorf("a foreign approval answers %q, a missing one %q", f, m)
		}
		if list, err := s.ListApprovals(t.Context(), "globex", "", 10); err != nil || len(list) > 0 {
			t.Errorf("globex lists %v, %v", list, err)
		}
		stolen := a
		stolen.Tenant = "globex"
		if swap(t, s, stolen, atlas.ApprovalApproved) {
			t.Error("another tenant moved the approval")
		}
		if got, _ := s.GetApproval(t.Context(), "acme", a.ID); got.State != atlas.ApprovalPending {
			t.Errorf("the approval is %s", got.State)
		}
	})

	t.Run("list", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		var ids []string
		for i := range 5 {
			a := Approval("acme", "alice", fmt.Sprint(i))
			a.Created = a.Created.Add(time.Duration(i) * time.Second)
			ids = append(ids, add(t, s, a).ID)
			if i == 0 {
				swap(t, s, a, atlas.ApprovalDenied)
			}
		}
		for _, tc := range []struct {
			state atlas.ApprovalState
			limit int
			want  []string
		}{
			{"", 10, []string{ids[4], ids[3], ids[2], ids[1], ids[0]}},
			{atlas.ApprovalPending, 2, []string{ids[4], ids[3]}},
			{atlas.ApprovalDenied, 10, []string{ids[0]}},
			{atlas.ApprovalUsed, 10, nil},
		} {
			list, err := s.ListApprovals(t.Context(), "acme", tc.state, tc.limit)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range list {
				got = append(got, a.ID)
			}
			if diff := gocmp.Diff(tc.want, got); diff != "" {
				t.Errorf("list of %q (-want +got):\n%s", tc.state, diff)
			}
		}
	})

	t.Run("races", func(t *testing.T) {
		s, again := open(t, state.Limits{})
		handles := []state.Store{s, s}
		if again != nil {
			handles[1] = again()
		}
		for round := range 5 {
			var (
				wg    sync.WaitGroup
				ids   sync.Map
				wins  [3]atomic.Int32
				first atlas.Approval
			)
			all := func(f func(s state.Store, i int)) {
				for i := range 8 {
					wg.Go(func() { f(handles[i%2], i) })
				}
				wg.Wait()
			}
			all(func(s state.Store, _ int) {
				a, err := s.AddApproval(t.Context(), Approval("acme", "alice", fmt.Sprint(round)), many, many)
				if err != nil {
					t.Error(err)
				}
				ids.Store(a.ID, a)
			})
			n := 0
			ids.Range(func(_, v any) bool { n++; first = v.(atlas.Approval); return true })
			if n != 1 {
				t.Fatalf("8 identical requests made %d approvals", n)
			}
			move := func(k int, from, to atlas.ApprovalState) func(state.Store, int) {
				return func(s state.Store, _ int) {
					old, next := first, first
					old.State, next.State = from, to
					ok, err := s.SwapApproval(t.Context(), old, next)
					if err != nil {
						t.Error(err)
					}
					if ok {
						wins[k].Add(1)
					}
				}
			}
			all(func(s state.Store, i int) {
				to := []atlas.ApprovalState{atlas.ApprovalApproved, atlas.ApprovalDenied}[i/2%2]
				move(0, atlas.ApprovalPending, to)(s, i)
			})
			if got, _ := s.GetApproval(t.Context(), "acme", first.ID); got.State == atlas.ApprovalDenied {
				wins[1].Add(1)
			} else {
				all(move(1, atlas.ApprovalApproved, atlas.ApprovalUsed))
			}
			for k, what := range []string{"decisions", "uses"} {
				if wins[k].Load() != 1 {
					t.Errorf("round %d: %d %s won, want 1", round, wins[k].Load(), what)
				}
			}
		}
	})
}
