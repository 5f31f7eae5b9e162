// Package ratelimittest is the contract of [ratelimit.Store], which every store passes.
package ratelimittest

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
)

// A Harness is an empty store whose clock the test moves.
type Harness struct {
	Store   ratelimit.Store
	Advance func(time.Duration) // moves the store's clock, which else stands still
}

// Run runs the contract. Within calls f with a harness whose store holds no bucket of any tenant.
func Run(t *testing.T, within func(t *testing.T, f func(t *testing.T, h Harness))) {
	t.Run("equals the reference", func(t *testing.T) { reference(t, within) })
	t.Run("all or none", func(t *testing.T) { within(t, allOrNone) })
	t.Run("tenants share nothing", func(t *testing.T) { within(t, tenants) })
	t.Run("names are kept apart", func(t *testing.T) { within(t, names) })
	t.Run("an empty bucket stays empty under another rate", func(t *testing.T) { within(t, rates) })
	t.Run("concurrent charges take exactly the burst", func(t *testing.T) { within(t, concurrent) })
	t.Run("nothing to take", func(t *testing.T) { within(t, nothing) })
}

// charge takes cost from the tenant's buckets; bursts of 0 leave a bucket alone.
func charge(tenant, tool, caller string, interval time.Duration, bursts [3]int64, cost int64) ratelimit.Charge {
	c := ratelimit.Charge{Tenant: atlas.TenantID(tenant)}
	for i, name := range []string{"", tool, caller} {
		if bursts[i] > 0 {
			c.Cells[i] = ratelimit.Cell{Name: name, Interval: interval, Burst: bursts[i], Cost: cost}
		}
	}
	return c
}

func take(t testing.TB, h Harness, c ratelimit.Charge) ratelimit.Decision {
	t.Helper()
	d, err := h.Store.Take(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// passed makes n charges and returns how many passed.
func passed(t testing.TB, h Harness, c ratelimit.Charge, n int) int {
	t.Helper()
	k := 0
	for range n {
		if take(t, h, c).Allowed {
			k++
		}
	}
	return k
}

// debts is the reference: a leaky bucket as a meter (ITU-T I.371 annex A calls the two equivalent).
// Each bucket owes time, which it pays back as time goes by, and may owe a burst's worth.
type debts map[string]time.Duration

func (d debts) pass(dt time.Duration) {
	for k, v := range d {
		if d[k] = v - dt; d[k] <= 0 {
			delete(d, k)
		}
	}
}

func (d debts) take(c ratelimit.Charge) ratelimit.Decision {
	out := ratelimit.Decision{Allowed: true}
	after := map[string]time.Duration{}
	for i, cell := range c.Cells {
		if cell.Cost == 0 {
			continue
		}
		key := fmt.Sprintf("%q %d %q", c.Tenant, i, cell.Name)
		most := time.Duration(cell.Burst) * cell.Interval
		after[key] = min(d[key], most) + time.Duration(cell.Cost)*cell.Interval
		if over := after[key] - most; over > 0 && over > out.RetryAfter {
			out = ratelimit.Decision{Scope: ratelimit.Scope(i), RetryAfter: over}
		}
	}
	if out.Allowed {
		maps.Copy(d, after)
	}
	return out
}

// reference: whatever is charged when, under whatever rates, the store decides as the reference does,
// to the microsecond.
func reference(t *testing.T, within func(t *testing.T, f func(t *testing.T, h Harness))) {
	rapid.Check(t, func(rt *rapid.T) {
		type step struct {
			Wait   time.Duration
			Charge ratelimit.Charge
		}
		tenant := rapid.SampledFrom([]string{"acme", "globex"})
		name := rapid.SampledFrom([]string{"a", "b", "a}{b", "acme"})
		interval := rapid.SampledFrom([]time.Duration{time.Microsecond, 7 * time.Microsecond, 142858 * time.Microsecond, time.Second, 25 * time.Minute, 24 * time.Hour})
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			s := step{Charge: ratelimit.Charge{Tenant: atlas.TenantID(tenant.Draw(rt, "tenant"))}}
			unit := interval.Draw(rt, "unit")
			s.Wait = time.Duration(rapid.IntRange(0, 40).Draw(rt, "wait")) * unit / 10 / time.Microsecond * time.Microsecond
			for i := range s.Charge.Cells {
				cell := ratelimit.Cell{Interval: interval.Draw(rt, "interval"), Burst: rapid.Int64Range(1, 5).Draw(rt, "burst")}
				cell.Cost = rapid.Int64Range(0, cell.Burst).Draw(rt, "cost")
				if i > 0 {
					cell.Name = name.Draw(rt, "name")
				}
				s.Charge.Cells[i] = cell
			}
			return s
		}), 1, 40).Draw(rt, "steps")
		within(t, func(t *testing.T, h Harness) {
			want := debts{}
			for i, s := range steps {
				h.Advance(s.Wait)
				want.pass(s.Wait)
				if diff := cmp.Diff(want.take(s.Charge), take(t, h, s.Charge)); diff != "" {
					rt.Fatalf("step %d, %+v (-want +got):\n%s", i, s, diff)
				}
			}
		})
	})
}

func allOrNone(t *testing.T, h Harness) {
	if n := passed(t, h, charge("acme", "crm", "ann", time.Hour, [3]int64{10, 10, 2}, 1), 100); n != 2 {
		t.Fatalf("%d charges passed, want 2", n)
	}
	n := 0
	for i := range 20 {
		n += passed(t, h, charge("acme", "crm", fmt.Sprint("caller", i), time.Hour, [3]int64{10, 10, 2}, 1), 1)
	}
	if n != 8 {
		t.Errorf("%d further charges passed, want 8: what was refused must not use up the tenant and the tool", n)
	}
	got := take(t, h, charge("acme", "crm", "caller 0", time.Hour, [3]int64{10, 10, 2}, 2))
	if want := (ratelimit.Decision{Scope: ratelimit.Tenant, RetryAfter: 2 * time.Hour}); got != want {
		t.Errorf("%+v, want %+v: the longest wait, the first of equals", got, want)
	}
}

func tenants(t *testing.T, h Harness) {
	all := [3]int64{3, 3, 3}
	for _, tenant := range []string{"acme", "acme-1", "a", "globex"} {
		if n := passed(t, h, charge(tenant, "crm", "ann", time.Hour, all, 1), 5); n != 3 {
			t.Errorf("%s: %d charges passed, want its own 3", tenant, n)
		}
	}
}

// Hostile are names that try to be another bucket's.
var Hostile = []string{
	"", "ann", "Ann", "ann\x00", "\x00ann", "ann ", "{ann}", "}{", "{acme}", "{globex}", "acme", "globex", ":", "::", "c:ann", ":c:ann", "o:ann",
	"rl:{globex}:c:ann", "}:c:ann", "atlas:rl:{globex}:t", "ann\r\nDEL x", "*", "?", "[a-z]", "\xff\xfe", "ä", "a\u0308",
	strings.Repeat("x", 10_000), strings.Repeat("x", 10_000) + "y",
}

func names(t *testing.T, h Harness) {
	for _, tenant := range []string{"globex", "acme"} {
		for scope, bursts := range map[string][3]int64{"tool": {0, 2, 0}, "caller": {0, 0, 2}} {
			for _, name := range Hostile {
				if n := passed(t, h, charge(tenant, name, name, time.Hour, bursts, 1), 3); n != 2 {
					t.Errorf("%s, %s %.40q: %d charges passed, want its own 2", tenant, scope, name, n)
				}
			}
		}
		if n := passed(t, h, charge(tenant, "", "", time.Hour, [3]int64{2, 0, 0}, 1), 3); n != 2 {
			t.Errorf("%s: %d charges of the tenant's own passed, want 2", tenant, n)
		}
	}
}

func rates(t *testing.T, h Harness) {
	passed(t, h, charge("acme", "", "ann", 24*time.Hour, [3]int64{0, 0, 3}, 1), 10)
	if d := take(t, h, charge("acme", "", "ann", time.Second, [3]int64{0, 0, 3}, 1)); d.Allowed || d.RetryAfter != time.Second {
		t.Errorf("%+v, want 1s: the debt of the slower rate is forgotten, the bucket is empty", d)
	}
	h.Advance(time.Second)
	if n := passed(t, h, charge("acme", "", "ann", time.Second, [3]int64{0, 0, 3}, 1), 3); n > 1 {
		t.Errorf("%d charges passed after the wait, want at most 1", n)
	}
}

func concurrent(t *testing.T, h Harness) {
	var n atomic.Int32
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for range 10 {
				d, err := h.Store.Take(t.Context(), charge("acme", "crm", fmt.Sprint("caller", i%8), time.Hour, [3]int64{100, 0, 30}, 1))
				switch {
				case err != nil:
					t.Error(err)
				case d.Allowed:
					n.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n.Load() != 100 {
		t.Errorf("%d charges passed, want the tenant's 100", n.Load())
	}
}

func nothing(t *testing.T, h Harness) {
	if d := take(t, h, ratelimit.Charge{Tenant: "acme"}); !d.Allowed {
		t.Errorf("%+v", d)
	}
}
