package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
)

type rate = ratelimit.Rate

// wide is a rate that nothing here uses up.
var wide = rate{Rate: 1_000_000, Per: time.Second, Burst: 1_000_000}

func limiter(t testing.TB, cfg ratelimit.Config, store ratelimit.Store) atlas.Handler {
	t.Helper()
	l, err := ratelimit.New(cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	return l.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
}

func call(tenant atlas.TenantID, subject, tool string) atlas.Call {
	return atlas.Call{Tenant: tenant, Principal: &atlas.Principal{Tenant: tenant, Subject: subject}, Tool: &atlas.Tool{Name: tool}}
}

// allowed makes n calls at once and returns how many passed.
func allowed(t testing.TB, h atlas.Handler, c atlas.Call, n int) int {
	t.Helper()
	passed := 0
	for range n {
		_, err := h(t.Context(), c)
		switch {
		case err == nil:
			passed++
		case atlas.CodeOf(err) != atlas.CodeRateLimited:
			t.Fatal(err)
		}
	}
	return passed
}

func refused(t testing.TB, h atlas.Handler, c atlas.Call) *atlas.Error {
	t.Helper()
	_, err := h(t.Context(), c)
	if atlas.CodeOf(err) != atlas.CodeRateLimited {
		t.Fatalf("got %v, want rate_limited", err)
	}
	return atlas.ErrorOf(err)
}

func TestBurstThenSustainedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limiter(t, ratelimit.Config{Tenant: wide, Tool: wide, Caller: rate{60, time.Minute, 5}}, ratelimit.NewLocal(ratelimit.Bounds{}))
		c := call("acme", "ann", "crm_order")
		if n := allowed(t, h, c, 20); n != 5 {
			t.Errorf("%d passed at once, want the burst of 5", n)
		}
		passed := 0
		for range 600 { // a minute, asking ten times a second
			time.Sleep(100 * time.Millisecond)
			passed += allowed(t, h, c, 1)
		}
		if passed != 60 {
			t.Errorf("%d passed in a minute, want 60", passed)
		}
		time.Sleep(time.Hour)
		if n := allowed(t, h, c, 20); n != 5 {
			t.Errorf("%d passed after an idle hour, want 5: rest saves up one burst only", n)
		}
	})
}

func TestRetryAfterIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := ratelimit.Config{Tenant: wide, Tool: rate{7, time.Second, 3}, Caller: wide}
		h := limiter(t, cfg, ratelimit.NewLocal(ratelimit.Bounds{}))
		c := call("acme", "ann", "crm_order")
		allowed(t, h, c, 3)
		for range 50 {
			e := refused(t, h, c)
			if e.RetryAfter <= 0 {
				t.Fatalf("retry after %s", e.RetryAfter)
			}
			time.Sleep(e.RetryAfter - 1)
			if left := refused(t, h, c).RetryAfter; left != 1 {
				t.Fatalf("a nanosecond early: retry after %s, want 1ns", left)
			}
			time.Sleep(time.Nanosecond)
			if allowed(t, h, c, 1) != 1 {
				t.Fatal("refused after waiting as told")
			}
		}
	})
}

func TestEachLimitIsNamed(t *testing.T) {
	one := rate{1, time.Minute, 1}
	for want, cfg := range map[string]ratelimit.Config{
		"tenant": {Tenant: one, Tool: wide, Caller: wide},
		"tool":   {Tenant: wide, Tool: one, Caller: wide},
		"caller": {Tenant: wide, Tool: wide, Caller: one},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := limiter(t, cfg, ratelimit.NewLocal(ratelimit.Bounds{}))
			c := call("acme", "ann", "crm_order")
			allowed(t, h, c, 1)
			e := refused(t, h, c)
			if e.Context["limit"] != want || e.RetryAfter != time.Minute || !strings.Contains(e.Hint, want) {
				t.Errorf("got %v, %v, %q; want %s", e.Context, e.RetryAfter, e.Hint, want)
			}
			other := call("acme", "bob", "crm_order")
			if want == "tool" {
				other = call("acme", "ann", "kb_search")
			}
			if passes := want != "tenant"; (allowed(t, h, other, 1) == 1) != passes {
				t.Errorf("limit %s: whether %s/%s passes should be %t", want, other.Principal.Subject, other.Tool.Name, passes)
			}
		})
	}
}

func TestOneRefusedBucketChargesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := ratelimit.Config{Tenant: rate{1, time.Hour, 10}, Tool: rate{1, time.Hour, 10}, Caller: rate{1, time.Hour, 2}}
		h := limiter(t, cfg, ratelimit.NewLocal(ratelimit.Bounds{}))
		if n := allowed(t, h, call("acme", "ann", "crm_order"), 1000); n != 2 {
			t.Fatalf("%d of ann's calls passed, want 2", n)
		}
		total := 0
		for i := range 20 {
			total += allowed(t, h, call("acme", fmt.Sprint("caller", i), "crm_order"), 1)
		}
		if total != 8 {
			t.Errorf("%d further calls passed, want 8: refused calls must not use up the tenant and the tool", total)
		}
	})
}

func TestTenantsDoNotShareAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := ratelimit.Config{Tenant: rate{1, time.Hour, 5}, Tool: rate{1, time.Hour, 5}, Caller: rate{1, time.Hour, 5}}
		store := ratelimit.NewLocal(ratelimit.Bounds{})
		h := limiter(t, cfg, store)
		for i := range 200 { // acme and many others use up all they have
			allowed(t, h, call(atlas.TenantID(fmt.Sprint("tenant", i)), "ann", "crm_order"), 10)
		}
		if n := allowed(t, h, call("globex", "ann", "crm_order"), 10); n != 5 {
			t.Errorf("globex's ann got %d calls, want her own 5", n)
		}
		if n := allowed(t, h, call("tenant7", "ann", "crm_order"), 10); n != 0 {
			t.Errorf("tenant7's ann got %d calls more", n)
		}
	})
}

func TestImpersonatorHasABucketOfHisOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limiter(t, ratelimit.Config{Tenant: wide, Tool: wide, Caller: rate{1, time.Hour, 3}}, ratelimit.NewLocal(ratelimit.Bounds{}))
		visitor := call("acme", "ann", "crm_order")
		visitor.Principal = &atlas.Principal{Tenant: "ops", Subject: "ann"}
		if n := allowed(t, h, visitor, 10); n != 3 {
			t.Errorf("the visitor got %d calls, want 3", n)
		}
		if n := allowed(t, h, call("acme", "ann", "crm_order"), 10); n != 3 {
			t.Errorf("acme's own ann got %d calls, want 3", n)
		}
		// Subjects that look like a visitor's key are other callers still.
		for _, subject := range []string{"\x00ops/ann", "\x01ops/ann", "ops/ann", "\x00", "\x01"} {
			if n := allowed(t, h, call("acme", subject, "crm_order"), 10); n != 3 {
				t.Errorf("%q got %d calls, want 3", subject, n)
			}
		}
	})
}

func TestWhatIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := ratelimit.Config{Tenant: rate{1, time.Hour, 10}, Tool: rate{1, time.Hour, 1}, Caller: rate{1, time.Hour, 10}}
		h := limiter(t, cfg, ratelimit.NewLocal(ratelimit.Bounds{}))
		child := call("acme", "ann", "crm_order")
		child.Parent = &atlas.Parent{ID: "p", Tool: "customer_context", Depth: 1}
		if n := allowed(t, h, child, 100); n != 100 {
			t.Errorf("%d of 100 child calls passed; they are not charged", n)
		}
		list := call("acme", "ann", "")
		list.Op, list.Tool = atlas.OpList, nil
		if n := allowed(t, h, list, 100); n != 10 {
			t.Errorf("%d lists passed, want the caller's 10", n)
		}
		if e := refused(t, h, call("acme", "bob", "crm_order")); e.Context["limit"] != "tenant" {
			t.Errorf("after ten lists: %v, want the tenant's limit", e.Context)
		}
	})
}

func TestCostWeighsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := ratelimit.Config{
			Tenant: rate{1, time.Minute, 100}, Tool: wide, Caller: rate{1, time.Minute, 20},
			Tools: map[string]ratelimit.ToolRate{"research": {Cost: 8}},
		}
		h := limiter(t, cfg, ratelimit.NewLocal(ratelimit.Bounds{}))
		if n := allowed(t, h, call("acme", "ann", "research"), 10); n != 2 {
			t.Errorf("%d calls of cost 8 passed, want 2 of a burst of 20", n)
		}
		if e := refused(t, h, call("acme", "ann", "research")); e.RetryAfter != 4*time.Minute {
			t.Errorf("retry after %s, want 4m: 4 of 8 are there", e.RetryAfter)
		}
		if n := allowed(t, h, call("acme", "ann", "crm_order"), 10); n != 4 {
			t.Errorf("%d calls of cost 1 passed, want the 4 that are left", n)
		}
	})
}

func TestOverrides(t *testing.T) {
	h1 := time.Hour
	cfg := ratelimit.Config{
		Tenant: wide, Caller: wide, Tool: rate{1, h1, 2},
		Tools: map[string]ratelimit.ToolRate{"slow": {Burst: 1}},
		Tenants: map[string]ratelimit.TenantConfig{
			"gold": {Tool: rate{Burst: 5}, Tools: map[string]ratelimit.ToolRate{"slow": {Burst: 4}, "own": {Burst: 6}}},
			"tiny": {Tenant: rate{1, h1, 1}},
		},
	}
	tests := []struct {
		tenant atlas.TenantID
		tool   string
		want   int
	}{
		{"acme", "any", 2},
		{"acme", "slow", 1},
		{"acme", "own", 2},
		{"gold", "any", 5},
		{"gold", "slow", 4},
		{"gold", "own", 6},
		{"tiny", "any", 1},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			h := limiter(t, cfg, ratelimit.NewLocal(ratelimit.Bounds{}))
			if n := allowed(t, h, call(tt.tenant, "ann", tt.tool), 20); n != tt.want {
				t.Errorf("%s/%s: %d passed, want %d", tt.tenant, tt.tool, n, tt.want)
			}
		})
	}
}

func TestReloadGivesNobodyAFreshBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewLocal(ratelimit.Bounds{})
		slow := ratelimit.Config{Tenant: wide, Tool: wide, Caller: rate{1, 24 * time.Hour, 3}}
		c := call("acme", "ann", "crm_order")
		allowed(t, limiter(t, slow, store), c, 10)
		if n := allowed(t, limiter(t, slow, store), c, 10); n != 0 {
			t.Errorf("%d calls passed after a reload", n)
		}
		// Under a faster rate the debt of the slower one is forgotten, but the bucket is empty.
		fast := ratelimit.Config{Tenant: wide, Tool: wide, Caller: rate{1, time.Second, 3}}
		if e := refused(t, limiter(t, fast, store), c); e.RetryAfter != time.Second {
			t.Errorf("retry after %s, want 1s", e.RetryAfter)
		}
	})
}

func TestIdleBucketsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewLocal(ratelimit.Bounds{})
		h := limiter(t, ratelimit.Config{Tenant: wide}, store)
		most := 0
		for i := range 20_000 { // 20,000 callers in time, 100 of them at once
			allowed(t, h, call("acme", fmt.Sprint("caller", i), "crm_order"), 1)
			time.Sleep(2500 * time.Microsecond) // the bucket of a caller fills in 250 ms
			most = max(most, store.Len())
		}
		if most > 1000 {
			t.Errorf("%d buckets were held at a time, want about 100", most)
		}
		time.Sleep(time.Hour)
		for i := range 64 * 64 {
			allowed(t, h, call(atlas.TenantID(fmt.Sprint("tenant", i)), "ann", "crm_order"), 1)
			time.Sleep(time.Second)
		}
		if n := store.Len(); n > 2000 {
			t.Errorf("%d buckets are held, want a few hundred: idle tenants go", n)
		}
	})
}

// A tenant that fills the store with callers must not get its own limit lifted, nor anyone else's
// bucket dropped.
func TestAFullStoreLiftsNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := ratelimit.Config{Tenant: wide, Tool: wide, Caller: rate{1, time.Hour, 2}}
		store := ratelimit.NewLocal(ratelimit.Bounds{Buckets: 100})
		h := limiter(t, cfg, store)
		ann, other := call("acme", "ann", "crm_order"), call("globex", "ann", "crm_order")
		allowed(t, h, ann, 10)
		allowed(t, h, other, 10)
		for i := range 1000 {
			allowed(t, h, call("acme", fmt.Sprint("caller", i), "crm_order"), 3)
		}
		if n := allowed(t, h, ann, 10) + allowed(t, h, other, 10); n != 0 {
			t.Errorf("%d calls passed over a used-up limit", n)
		}
		if n := store.Len(); n > 102 { // globex has two
			t.Errorf("%d buckets are held, want at most 102", n)
		}
		e := refused(t, h, call("acme", "new", "crm_order"))
		if e.RetryAfter <= 0 || e.RetryAfter > 2*time.Hour {
			t.Errorf("retry after %s", e.RetryAfter)
		}
		time.Sleep(e.RetryAfter)
		if allowed(t, h, call("acme", "new", "crm_order"), 1) != 1 {
			t.Error("refused after waiting as told")
		}
	})
}

func TestFullOfTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limiter(t, ratelimit.Config{}, ratelimit.NewLocal(ratelimit.Bounds{Tenants: 64}))
		total := 0
		for i := range 1000 {
			total += allowed(t, h, call(atlas.TenantID(fmt.Sprint("tenant", i)), "ann", "x"), 1)
		}
		if total < 32 || total > 64 {
			t.Errorf("%d tenants were let in, want at most 64", total)
		}
		time.Sleep(time.Minute)
		if allowed(t, h, call("late", "ann", "x"), 1) != 1 {
			t.Error("an idle tenant's room was not given to a new one")
		}
	})
}

func TestConcurrentCallsTakeExactlyTheBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limiter(t, ratelimit.Config{Tenant: rate{1, time.Hour, 100}, Tool: wide, Caller: rate{1, time.Hour, 30}}, ratelimit.NewLocal(ratelimit.Bounds{}))
		var passed [5]atomic.Int32
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				n := allowed(t, h, call("acme", fmt.Sprint("caller", i%5), "crm_order"), 20)
				passed[i%5].Add(int32(n))
			})
		}
		wg.Wait()
		total := int32(0)
		for i := range passed {
			if n := passed[i].Load(); n > 30 {
				t.Errorf("caller %d got %d calls, at most 30", i, n)
			}
			total += passed[i].Load()
		}
		if total != 100 {
			t.Errorf("%d calls passed, want the tenant's 100", total)
		}
	})
}

// In any window of time a bucket lets through no more than a burst and what the rate gives.
func TestNoWindowExceedsItsRate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		perMinute := rapid.IntRange(1, 1000).Draw(rt, "rate")
		burst := rapid.IntRange(1, 50).Draw(rt, "burst")
		gaps := rapid.SliceOfN(rapid.IntRange(0, 2000), 10, 80).Draw(rt, "gaps in ms")
		synctest.Test(t, func(t *testing.T) {
			h := limiter(t, ratelimit.Config{Tenant: wide, Tool: wide, Caller: rate{perMinute, time.Minute, burst}}, ratelimit.NewLocal(ratelimit.Bounds{}))
			c := call("acme", "ann", "x")
			var passed []time.Time
			for _, g := range gaps {
				time.Sleep(time.Duration(g) * time.Millisecond)
				for range allowed(t, h, c, 3) {
					passed = append(passed, time.Now())
				}
			}
			for i := range passed {
				for j := i; j < len(passed); j++ {
					window := passed[j].Sub(passed[i])
					most := burst + int(window*time.Duration(perMinute)/time.Minute)
					if j-i+1 > most {
						rt.Fatalf("%d calls in %s, at most %d", j-i+1, window, most)
					}
				}
			}
		})
	})
}

type brokenStore struct{ err error }

func (b brokenStore) Take(context.Context, ratelimit.Charge) (ratelimit.Decision, error) {
	return ratelimit.Decision{Allowed: true}, b.err
}

func TestFailuresRefuse(t *testing.T) {
	h := limiter(t, ratelimit.Config{}, brokenStore{errors.New("dial tcp 10.0.0.7:6379: refused")})
	_, err := h(t.Context(), call("acme", "ann", "x"))
	if e := atlas.ErrorOf(err); e == nil || e.Code != atlas.CodeStateUnavailable || strings.Contains(e.Hint, "10.0.0.7") {
		t.Errorf("store down: %v", err)
	}
	h = limiter(t, ratelimit.Config{}, brokenStore{context.Canceled})
	if _, err := h(t.Context(), call("acme", "ann", "x")); atlas.CodeOf(err) != atlas.CodeCanceled {
		t.Errorf("cancelled: %v", err)
	}
	h = limiter(t, ratelimit.Config{}, ratelimit.NewLocal(ratelimit.Bounds{}))
	for name, c := range map[string]atlas.Call{
		"no principal": {Tenant: "acme", Tool: &atlas.Tool{}},
		"no tenant":    {Principal: &atlas.Principal{}, Tool: &atlas.Tool{}},
		"no tool":      {Tenant: "acme", Principal: &atlas.Principal{}},
	} {
		if _, err := h(t.Context(), c); atlas.CodeOf(err) != atlas.CodeInternal {
			t.Errorf("%s: %v, want internal_error", name, err)
		}
	}
	if _, err := ratelimit.New(ratelimit.Config{}, nil); err == nil {
		t.Error("New without a store")
	}
}

func TestLongSubjectsKeepBucketsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limiter(t, ratelimit.Config{Tenant: wide, Tool: wide, Caller: rate{1, time.Hour, 2}}, ratelimit.NewLocal(ratelimit.Bounds{}))
		long := strings.Repeat("x", 10_000)
		for _, subject := range []string{long + "1", long + "2"} {
			if n := allowed(t, h, call("acme", subject, "x"), 5); n != 2 {
				t.Errorf("%d passed, want 2", n)
			}
		}
	})
}

func TestConfigTellsAllMistakes(t *testing.T) {
	cfg := ratelimit.Config{
		Tenant:  rate{Rate: -1},
		Caller:  rate{Rate: 2_000, Per: time.Microsecond},
		Tools:   map[string]ratelimit.ToolRate{"dear": {Cost: 200}, "": {}},
		Tenants: map[string]ratelimit.TenantConfig{"No Such": {Tool: rate{Rate: 1, Per: 24 * time.Hour, Burst: 400}}},
	}
	err := cfg.Validate()
	for _, want := range []string{"tenant: rate, per", "caller: 2000 in 1µs", "tools.dear: cost 200", "a tool has no name", "tenants.No Such: tenant id", "takes more than a year"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if err := (ratelimit.Config{}).Validate(); err != nil {
		t.Errorf("the zero Config: %v", err)
	}
	if _, err := ratelimit.New(cfg, ratelimit.NewLocal(ratelimit.Bounds{})); err == nil {
		t.Error("New took a bad Config")
	}
}

func BenchmarkStage(b *testing.B) {
	endless := rate{Rate: 1_000_000_000, Per: time.Second, Burst: 1_000_000_000}
	h := limiter(b, ratelimit.Config{Tenant: endless, Tool: endless, Caller: endless}, ratelimit.NewLocal(ratelimit.Bounds{}))
	c := call("acme", "ann", "crm_order")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
