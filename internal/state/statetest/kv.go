package statetest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

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
