// Package statetest is the contract of [state.Store] as tests: each driver's own test calls [Run].
package statetest

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

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
	t.Run("kv", func(t *testing.T) { kv(t, open) })
	t.Run("life", func(t *testing.T) { life(t, open) })
}

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

func kv(t *testing.T, open Opener) {
	set := func(t *testing.T, s state.Store, space, key string, version int64, v string, expires time.Time) int64 {
		t.Helper()
		n, err := s.CompareAndSet(t.Context(), space, key, version, []byte(v), expires)
		if err != nil {
			t.Fatalf("CompareAndSet: %v", err)
		}
		return n
	}
	get := func(t *testing.T, s state.Store, space, key string) (string, int64) {
		t.Helper()
		v, n, err := s.Get(t.Context(), space, key)
		if err != nil {
			t.Fatalf("Get: %v", err)
		}
		return string(v), n
	}
	never := time.Time{}

	t.Run("compare and set", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		if v, n := get(t, s, "a", "k"); v != "" || n != 0 {
			t.Errorf("Get of nothing: %q, %d", v, n)
		}
		if n := set(t, s, "a", "k", 7, "x", never); n != 0 {
			t.Error("set over a version that is not there")
		}
		v1 := set(t, s, "a", "k", 0, "one", never)
		if v1 == 0 {
			t.Fatal("set of a new key was refused")
		}
		if n := set(t, s, "a", "k", 0, "x", never); n != 0 {
			t.Error("set as new over a value")
		}
		v2 := set(t, s, "a", "k", v1, "two", never)
		if n := set(t, s, "a", "k", v1, "x", never); n != 0 || v2 == 0 {
			t.Error("set over an old version")
		}
		if v, n := get(t, s, "a", "k"); v != "two" || n != v2 {
			t.Errorf("Get: %q, %d; want two, %d", v, n, v2)
		}
		if ok, err := s.CompareAndDelete(t.Context(), "a", "k", v1); ok || err != nil {
			t.Errorf("delete of an old version: %v, %v", ok, err)
		}
		if ok, err := s.CompareAndDelete(t.Context(), "a", "k", v2); !ok || err != nil {
			t.Errorf("delete: %v, %v", ok, err)
		}
		if ok, err := s.CompareAndDelete(t.Context(), "a", "k", v2); ok || err != nil {
			t.Errorf("second delete: %v, %v", ok, err)
		}
		if v3 := set(t, s, "a", "k", 0, "three", never); v3 == v1 || v3 == v2 {
			t.Error("a version came again after the deletion")
		}
		if n := set(t, s, "a", "empty", 0, "", never); n == 0 {
			t.Error("an empty value was refused")
		}
	})

	t.Run("values belong to the caller", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		in := []byte("value")
		if _, err := s.CompareAndSet(t.Context(), "a", "k", 0, in, never); err != nil {
			t.Fatal(err)
		}
		in[0] = 'X'
		out, _, _ := s.Get(t.Context(), "a", "k")
		out[1] = 'X'
		if v, _ := get(t, s, "a", "k"); v != "value" {
			t.Errorf("the value became %q", v)
		}
	})

	t.Run("expiry", func(t *testing.T) {
		s, _ := open(t, state.Limits{MaxKeys: 2})
		past, future := time.Now().Add(-time.Nanosecond), time.Now().Add(time.Hour)
		old := set(t, s, "a", "k", 0, "old", past)
		if v, n := get(t, s, "a", "k"); v != "" || n != 0 {
			t.Errorf("Get past expiry: %q, %d", v, n)
		}
		if ok, err := s.CompareAndDelete(t.Context(), "a", "k", old); ok || err != nil {
			t.Errorf("delete past expiry: %v, %v", ok, err)
		}
		if n := set(t, s, "a", "k", old, "x", future); n != 0 {
			t.Error("set over an expired version")
		}
		if n := set(t, s, "a", "k", 0, "new", future); n == 0 {
			t.Error("an expired value holds its key")
		}
		set(t, s, "a", "k2", 0, "old", past)
		if n := set(t, s, "a", "k3", 0, "new", never); n == 0 {
			t.Error("an expired value holds its place")
		}
	})

	t.Run("limits", func(t *testing.T) {
		s, _ := open(t, state.Limits{MaxKeys: 2, MaxBytes: 20, MaxValue: 15})
		put := func(space, key string, version int64, size int) (int64, error) {
			return s.CompareAndSet(t.Context(), space, key, version, make([]byte, size), never)
		}
		if _, err := put("a", "k", 0, 16); atlas.CodeOf(err) != atlas.CodeTooLarge {
			t.Errorf("a value over the limit: %v", err)
		}
		v, err := put("a", "k1", 0, 15)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := put("a", "k2", 0, 6); atlas.CodeOf(err) != atlas.CodeRateLimited {
			t.Errorf("bytes over the limit: %v", err)
		}
		if _, err := put("a", "k2", 0, 5); err != nil {
			t.Errorf("bytes up to the limit: %v", err)
		}
		if _, err := put("a", "k3", 0, 0); atlas.CodeOf(err) != atlas.CodeRateLimited {
			t.Errorf("keys over the limit: %v", err)
		}
		if _, err := put("b", "k3", 0, 15); err != nil {
			t.Errorf("another space has its own limits: %v", err)
		}
		if v, err = put("a", "k1", v, 1); err != nil || v == 0 {
			t.Errorf("a full space can shrink a value: %d, %v", v, err)
		}
		if ok, err := s.CompareAndDelete(t.Context(), "a", "k1", v); !ok || err != nil {
			t.Errorf("delete: %v, %v", ok, err)
		}
		if _, err := put("a", "k3", 0, 15); err != nil {
			t.Errorf("a deleted value holds its place: %v", err)
		}
	})

	t.Run("spaces", func(t *testing.T) {
		s, _ := open(t, state.Limits{})
		n := set(t, s, "idempotency/acme", "k", 0, "acme's", never)
		if v, m := get(t, s, "idempotency/globex", "k"); v != "" || m != 0 {
			t.Errorf("another space sees %q", v)
		}
		if set(t, s, "idempotency/globex", "k", n, "x", never) != 0 {
			t.Error("another space changed it")
		}
		if ok, _ := s.CompareAndDelete(t.Context(), "idempotency/globex", "k", n); ok {
			t.Error("another space deleted it")
		}
		// A separator between space and key must not be ambiguous.
		set(t, s, "a", "b/c", 0, "1", never)
		if _, n := get(t, s, "a/b", "c"); n != 0 {
			t.Error("space a/b, key c is space a, key b/c")
		}
	})

	t.Run("races", func(t *testing.T) {
		s, again := open(t, state.Limits{})
		handles := []state.Store{s, s}
		if again != nil {
			handles[1] = again()
		}
		// Eight workers count to 80 by compare and set: no step may be lost.
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				h := handles[i%2]
				for done := 0; done < 10; {
					v, n, err := h.Get(t.Context(), "a", "counter")
					if err != nil {
						t.Error(err)
						return
					}
					var count int
					_, _ = fmt.Sscan(string(v), &count)
					next, err := h.CompareAndSet(t.Context(), "a", "counter", n, fmt.Append(nil, count+1), never)
					if err != nil {
						t.Error(err)
						return
					}
					if next != 0 {
						done++
					}
				}
			})
		}
		wg.Wait()
		if v, _ := get(t, s, "a", "counter"); v != "80" {
			t.Errorf("counted to %s, want 80", v)
		}
	})
}

func life(t *testing.T, open Opener) {
	methods := func(s state.Store) map[string]func(context.Context) error {
		a := Approval("acme", "alice", "d")
		return map[string]func(context.Context) error{
			"Ping":          s.Ping,
			"FindApproval":  func(ctx context.Context) error { _, _, err := s.FindApproval(ctx, a); return err },
			"AddApproval":   func(ctx context.Context) error { _, err := s.AddApproval(ctx, a, 1, 1); return err },
			"GetApproval":   func(ctx context.Context) error { _, err := s.GetApproval(ctx, "acme", a.ID); return err },
			"ListApprovals": func(ctx context.Context) error { _, err := s.ListApprovals(ctx, "acme", "", 1); return err },
			"SwapApproval":  func(ctx context.Context) error { _, err := s.SwapApproval(ctx, a, a); return err },
			"Get":           func(ctx context.Context) error { _, _, err := s.Get(ctx, "a", "k"); return err },
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
