package budget

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
)

func durations(t *rapid.T, name string, lo, hi time.Duration) time.Duration {
	return time.Duration(rapid.Int64Range(int64(lo), int64(hi)).Draw(t, name))
}

// known returns a sketch that predicts q.
func known(q time.Duration) *sketch {
	sk := newSketch(time.Now())
	sk.est.Store(&estimate{q: q, p50: q / 2})
	return sk
}

// For any latencies and any budget: a grant is positive, never above what is left, the declared
// timeout or the formula; the shares of a turn's calls add up to no more than what is left; and more
// time never gives less.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Now()
		n := rapid.IntRange(1, 6).Draw(t, "tools")
		lat := NewLatencies()
		tools := map[string]*atlas.Tool{}
		var names []string
		sum := time.Duration(0)
		for i := range n {
			name := string(rune('a' + i))
			names = append(names, name)
			tools[name] = &atlas.Tool{Name: name, Timeout: durations(t, "declared", time.Millisecond, time.Minute)}
			q := durations(t, "q", time.Microsecond, time.Minute)
			lat.m[key{"acme", name, ""}] = known(q)
			sum += q
		}
		floor := durations(t, "floor", 1, time.Second)
		b, err := New(Config{Floor: floor}, lat, func(_ atlas.Call, name string) (*atlas.Tool, bool) {
			tl, ok := tools[name]
			return tl, ok
		})
		if err != nil {
			t.Fatal(err)
		}
		total := durations(t, "total", 1, 2*time.Minute)
		reserve := durations(t, "reserve", 0, time.Minute)
		plan := func(name string, total time.Duration) (grant, error) {
			rest := slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == name })
			c := atlas.Call{Tenant: "acme", Tool: tools[name], Received: now, Budget: atlas.Budget{Total: total, Reserve: reserve, Expected: rest}}
			return b.plan(t.Context(), c, lat.sketch("acme", tools[name]), now)
		}
		left := total - reserve
		shares := time.Duration(0)
		for _, name := range names {
			est := lat.sketch("acme", tools[name]).estimate(now)
			g, err := plan(name, total)
			if refused := left <= 0 || left < est.p50; refused != (err != nil) {
				t.Fatalf("%s: refused %v, but %v is left and the median is %v", name, err, left, est.p50)
			}
			if err != nil {
				continue
			}
			if g.timeout <= 0 || g.timeout > left || g.timeout > tools[name].Timeout {
				t.Fatalf("%s: timeout %v with %v left and %v declared", name, g.timeout, left, tools[name].Timeout)
			}
			want := time.Duration(float64(est.q) * 1.5)
			if g.timeout > max(floor, want) {
				t.Fatalf("%s: timeout %v above %v", name, g.timeout, want)
			}
			if g.timeout > floor {
				shares += g.timeout
			}
			more, err := plan(name, total+durations(t, "more", 0, time.Minute))
			if err != nil || more.timeout < g.timeout {
				t.Fatalf("%s: %v with more time, %v before (%v)", name, more.timeout, g.timeout, err)
			}
		}
		if shares > max(0, left)+time.Duration(n) { // rounding
			t.Fatalf("shares %v exceed %v", shares, left)
		}
	})
}

// Without censoring, the product-limit estimate is the ordinary quantile.
func TestQuantileWithoutCensoring(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(1, 1000), 1, 50).Draw(t, "values")
		p := rapid.SampledFrom([]float64{0.5, 0.95, 0.99}).Draw(t, "p")
		var c curve
		for _, v := range values {
			c = append(c, point{value: v, done: 1})
		}
		slices.SortFunc(c, func(a, b point) int { return int(a.value - b.value) })
		slices.Sort(values)
		rank := 0
		for float64(rank+1) < p*float64(len(values))-1e-9 {
			rank++
		}
		got, ok := c.quantile(p)
		if !ok || got != time.Duration(values[rank])*unit {
			t.Fatalf("quantile %v of %v = %v, want %v", p, values, got, values[rank])
		}
	})
}

// Cutting calls short never lowers the estimate below what the uncut calls would give, as far as it is
// known, and half of all calls cut at the median leave it unknown.
func TestQuantileWithCensoring(t *testing.T) {
	c := curve{{value: 10, done: 50}, {value: 20, cut: 30}, {value: 40, done: 20}}
	if got, ok := c.quantile(0.5); !ok || got != 10*unit {
		t.Errorf("median %v %v, want 10", got, ok)
	}
	if got, ok := c.quantile(0.95); !ok || got != 40*unit {
		t.Errorf("p95 %v %v, want 40: the cut calls are spread over those at risk", got, ok)
	}
	c = curve{{value: 10, done: 90}, {value: 20, cut: 10}}
	if got, ok := c.quantile(0.99); ok || got != 20*unit {
		t.Errorf("p99 %v %v, want unknown, at least 20", got, ok)
	}
	if _, ok := (curve{}).quantile(0.5); ok {
		t.Error("nothing known, yet a quantile")
	}
}

func TestLatenciesAreBounded(t *testing.T) {
	l := NewLatencies()
	tl := &atlas.Tool{Name: "q"}
	for i := range maxSketches + 100 {
		l.sketch(atlas.TenantID(rune('a'+i%26))+atlas.TenantID(time.Duration(i).String()), tl)
	}
	if len(l.m) > maxSketches {
		t.Errorf("%d sketches", len(l.m))
	}
}

func BenchmarkObserve(b *testing.B) {
	sk := newSketch(time.Now())
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		sk.observe(time.Duration(i%5000) * 100 * time.Microsecond)
	}
}
