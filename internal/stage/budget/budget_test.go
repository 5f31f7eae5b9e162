package budget_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/budget"
)

// tool is a tool whose runs take the given time, or less if they are cut.
func tool(name string, timeout time.Duration) *atlas.Tool {
	return &atlas.Tool{Name: name, Source: "crm", Timeout: timeout}
}

// taking answers after d, as a well-behaved tool does.
func taking(d *time.Duration) atlas.Handler {
	return func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
		timer := time.NewTimer(*d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return atlas.Result{}, nil
		case <-ctx.Done():
			return atlas.Result{}, ctx.Err()
		}
	}
}

func stage(t *testing.T, cfg budget.Config, lat *budget.Latencies, tools ...*atlas.Tool) *budget.Budget {
	t.Helper()
	b, err := budget.New(cfg, lat, func(_ atlas.Call, name string) (*atlas.Tool, bool) {
		for _, tl := range tools {
			if tl.Name == name {
				return tl, true
			}
		}
		return nil, false
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func call(tl *atlas.Tool, tenant atlas.TenantID, b atlas.Budget) atlas.Call {
	return atlas.Call{ID: "r", Tool: tl, Name: tl.Name, Tenant: tenant, Budget: b, Received: time.Now()}
}

func TestDeclaredTimeoutWithoutBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := time.Hour
		h := stage(t, budget.Config{DefaultTimeout: 7 * time.Second}, budget.NewLatencies()).Stage(taking(&took))
		for _, tc := range []struct {
			declared, want time.Duration
		}{{3 * time.Second, 3 * time.Second}, {0, 7 * time.Second}} {
			start := time.Now()
			res, err := h(t.Context(), call(tool("q", tc.declared), "acme", atlas.Budget{}))
			if atlas.CodeOf(err) != atlas.CodeTimeout || res.Notes.Timeout != tc.want || time.Since(start) != tc.want {
				t.Errorf("declared %v: err %v, notes %v, took %v", tc.declared, err, res.Notes.Timeout, time.Since(start))
			}
			if got := atlas.ErrorOf(err).Context["timeout_ms"]; got != tc.want.Milliseconds() {
				t.Errorf("timeout_ms = %v, want %d", got, tc.want.Milliseconds())
			}
		}
	})
}

// A task outlasts the tool's own timeout and the caller's turn; a tool that is no task's does not.
func TestTimeoutOfTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := time.Hour
		h := stage(t, budget.Config{}, budget.NewLatencies()).Stage(taking(&took))
		for name, tc := range map[string]struct {
			spec   atlas.TaskSpec
			task   bool
			budget atlas.Budget
			want   time.Duration
		}{
			"as a task":                {atlas.TaskSpec{Timeout: time.Minute}, true, atlas.Budget{}, time.Minute},
			"as a task, turn's end":    {atlas.TaskSpec{Timeout: time.Minute}, true, atlas.Budget{Total: 2 * time.Second, Reserve: time.Second}, time.Minute},
			"not as a task":            {atlas.TaskSpec{Timeout: time.Minute}, false, atlas.Budget{}, 3 * time.Second},
			"a tool that is no task's": {atlas.TaskSpec{}, true, atlas.Budget{}, 3 * time.Second},
		} {
			tl := tool("q"+name, 3*time.Second)
			tl.Task = tc.spec
			c := call(tl, "acme", tc.budget)
			c.Task = tc.task
			start := time.Now()
			res, err := h(t.Context(), c)
			if atlas.CodeOf(err) != atlas.CodeTimeout || res.Notes.Timeout != tc.want || time.Since(start) != tc.want {
				t.Errorf("%s: err %v, notes %v, took %v; want %v", name, err, res.Notes.Timeout, time.Since(start), tc.want)
			}
		}
	})
}

// learn runs n calls that each take d, one after the other.
func learn(t *testing.T, h atlas.Handler, took *time.Duration, c func() atlas.Call, n int, d time.Duration) {
	t.Helper()
	for range n {
		*took = d
		if _, err := h(t.Context(), c()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTimeoutFollowsLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		q := tool("q", 10*time.Second)
		h := stage(t, budget.Config{}, budget.NewLatencies()).Stage(taking(&took))
		plenty := func() atlas.Call { return call(q, "acme", atlas.Budget{Total: time.Minute}) }
		notes := func() time.Duration {
			took = 0
			res, err := h(t.Context(), plenty())
			if err != nil {
				t.Fatal(err)
			}
			return res.Notes.Timeout
		}
		if got := notes(); got != 10*time.Second {
			t.Errorf("with no samples: %v, want the declared timeout", got)
		}
		learn(t, h, &took, plenty, 18, 2*time.Second)
		if got := notes(); got != 10*time.Second { // the 20th call is planned with 19 samples
			t.Errorf("with 19 samples: %v, want the declared timeout", got)
		}
		learn(t, h, &took, plenty, 20, 2*time.Second)
		if got := notes(); !near(got, 3*time.Second) { // p95 of 2s, times 1.5
			t.Errorf("with 40 samples: %v, want about 3s", got)
		}
		// Two slow calls in a hundred: p95 does not see them, p99 does.
		learn(t, h, &took, plenty, 103, 2*time.Second)
		learn(t, h, &took, plenty, 3, 2990*time.Millisecond)
		if got := notes(); !near(got, 3*time.Second) {
			t.Errorf("p95 of 147 samples: %v, want about 3s", got)
		}
		learn(t, h, &took, plenty, 70, 2*time.Second)
		if got := notes(); !near(got, 4485*time.Millisecond) {
			t.Errorf("p99 of 218 samples: %v, want about 4.5s", got)
		}
	})
}

func near(got, want time.Duration) bool {
	return math.Abs(float64(got-want)) <= 0.02*float64(want)
}

func TestFloorAndForgetting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		q := tool("q", 10*time.Second)
		h := stage(t, budget.Config{}, budget.NewLatencies()).Stage(taking(&took))
		c := func() atlas.Call { return call(q, "acme", atlas.Budget{Total: time.Minute}) }
		learn(t, h, &took, c, 30, time.Millisecond)
		res, _ := h(t.Context(), c())
		if res.Notes.Timeout != 500*time.Millisecond {
			t.Errorf("fast tool: %v, want the floor", res.Notes.Timeout)
		}
		time.Sleep(21 * time.Minute)
		res, _ = h(t.Context(), c())
		if res.Notes.Timeout != 10*time.Second {
			t.Errorf("after 21 minutes: %v, want the declared timeout again", res.Notes.Timeout)
		}
	})
}

func TestExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		q := tool("q", 10*time.Second)
		ran := false
		b := stage(t, budget.Config{}, budget.NewLatencies())
		h := b.Stage(func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			ran = true
			return taking(&took)(ctx, c)
		})
		learn(t, h, &took, func() atlas.Call { return call(q, "acme", atlas.Budget{}) }, 30, 2*time.Second)
		for name, tc := range map[string]struct {
			budget atlas.Budget
			since  time.Duration
			code   atlas.Code
		}{
			"below the median":          {atlas.Budget{Total: 1900 * time.Millisecond}, 0, atlas.CodeBudgetExhausted},
			"reserve leaves too little": {atlas.Budget{Total: 5 * time.Second, Reserve: 3100 * time.Millisecond}, 0, atlas.CodeBudgetExhausted},
			"time went by":              {atlas.Budget{Total: 5 * time.Second}, 3500 * time.Millisecond, atlas.CodeBudgetExhausted},
			"negative":                  {atlas.Budget{Total: -1}, 0, atlas.CodeBudgetExhausted},
			"reserve above total":       {atlas.Budget{Total: 1, Reserve: math.MaxInt64}, 0, atlas.CodeBudgetExhausted},
			"negative reserve":          {atlas.Budget{Total: 1900 * time.Millisecond, Reserve: math.MinInt64}, 0, atlas.CodeBudgetExhausted},
			"enough":                    {atlas.Budget{Total: 2100 * time.Millisecond}, 0, ""},
		} {
			took, ran = 2*time.Second, false
			c := call(q, "acme", tc.budget)
			c.Received = time.Now().Add(-tc.since)
			start := time.Now()
			_, err := h(t.Context(), c)
			if atlas.CodeOf(err) != tc.code {
				t.Errorf("%s: %v, want %q", name, err, tc.code)
			}
			if tc.code != "" && (ran || time.Since(start) != 0) {
				t.Errorf("%s: ran the tool", name)
			}
		}
	})
}

func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		a, b := tool("a", 10*time.Second), tool("b", 10*time.Second)
		h := stage(t, budget.Config{}, budget.NewLatencies(), a, b).Stage(taking(&took))
		learn(t, h, &took, func() atlas.Call { return call(a, "acme", atlas.Budget{}) }, 30, time.Second)
		learn(t, h, &took, func() atlas.Call { return call(b, "acme", atlas.Budget{}) }, 30, 3*time.Second)
		grant := func(tl *atlas.Tool, expected ...string) time.Duration {
			took = 0
			res, err := h(t.Context(), call(tl, "acme", atlas.Budget{Total: 5 * time.Second, Reserve: time.Second, Expected: expected}))
			if err != nil {
				t.Fatal(err)
			}
			return res.Notes.Timeout
		}
		for _, tc := range []struct {
			tool     *atlas.Tool
			expected []string
			want     time.Duration
		}{
			{a, []string{"b"}, time.Second},           // 4s * 1/(1+3)
			{b, []string{"a"}, 3 * time.Second},       // 4s * 3/(1+3)
			{a, nil, 1500 * time.Millisecond},         // alone: q * safety
			{b, nil, 4 * time.Second},                 // alone: all that is left
			{a, []string{"a", "a", "a"}, time.Second}, // 4s / 4
			{a, []string{"?", "?", "?"}, time.Second}, // unknown names weigh the same
			{b, []string{"a", "a", "a", "a", "a"}, 1500 * time.Millisecond},
		} {
			if got := grant(tc.tool, tc.expected...); !near(got, tc.want) {
				t.Errorf("%s with %v: %v, want about %v", tc.tool.Name, tc.expected, got, tc.want)
			}
		}
		if got := grant(a, make([]string, 100_000)...); got != 500*time.Millisecond {
			t.Errorf("with 100,000 names: %v, want the floor", got)
		}
	})
}

// A timed-out call is no latency: it must push the prediction up, where counting it as ended at the
// timeout would hold the prediction where it is.
func TestTimeoutsAreCensored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		q := tool("q", 30*time.Second)
		lat := budget.NewLatencies()
		h := stage(t, budget.Config{}, lat).Stage(taking(&took))
		c := func() atlas.Call { return call(q, "acme", atlas.Budget{Total: time.Hour}) }
		learn(t, h, &took, c, 100, time.Second)
		before := time.Duration(0)
		for range 10 { // the source got slow: 8s a call
			took = 8 * time.Second
			res, err := h(t.Context(), c())
			if err == nil && res.Notes.Timeout < 8*time.Second {
				t.Fatal("no error from a call that was cut")
			}
			if res.Notes.Timeout < before {
				t.Errorf("timeout fell from %v to %v while calls were cut", before, res.Notes.Timeout)
			}
			before = res.Notes.Timeout
		}
		if before < 8*time.Second {
			t.Errorf("after ten slow calls the timeout is %v, still below what calls take", before)
		}
		got := lat.Snapshot()
		if len(got) != 1 || got[0].Censored == 0 || got[0].Censored == 10 || got[0].Samples != 110 {
			t.Errorf("snapshot %+v, want 110 samples, some of them censored", got)
		}
	})
}

func TestCancellationStaysCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := time.Hour
		h := stage(t, budget.Config{}, budget.NewLatencies()).Stage(taking(&took))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := h(ctx, call(tool("q", time.Minute), "acme", atlas.Budget{}))
		if atlas.CodeOf(err) != atlas.CodeCanceled {
			t.Errorf("cancelled by the caller: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = h(ctx, call(tool("q", time.Minute), "acme", atlas.Budget{}))
		if e := atlas.ErrorOf(err); e.Code != atlas.CodeTimeout || e.Context["timeout_ms"] != int64(999) {
			t.Errorf("deadline from outside: %v, %v", err, e.Context)
		}
		if ctx.Err() != nil {
			t.Error("the outer deadline passed first")
		}
	})
}

// The stages inside can tell a source that is slow from a caller that had no time.
func TestCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			budget atlas.Budget
			outer  time.Duration
			want   atlas.Code
		}{
			"declared timeout":     {atlas.Budget{}, 0, atlas.CodeTimeout},
			"ample budget":         {atlas.Budget{Total: time.Minute}, 0, atlas.CodeTimeout},
			"budget cuts it off":   {atlas.Budget{Total: time.Second}, 0, atlas.CodeBudgetExhausted},
			"share cuts it off":    {atlas.Budget{Total: 6 * time.Second, Expected: []string{"x"}}, 0, atlas.CodeBudgetExhausted},
			"parent's end is near": {atlas.Budget{}, time.Second, atlas.CodeBudgetExhausted},
		} {
			var got atlas.Code
			ctx, cancel := context.WithCancel(t.Context())
			if tc.outer > 0 {
				ctx, cancel = context.WithTimeoutCause(ctx, tc.outer, &atlas.Error{Code: atlas.CodeTimeout})
			}
			h := stage(t, budget.Config{}, budget.NewLatencies()).Stage(func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
				<-ctx.Done()
				got = atlas.CodeOf(context.Cause(ctx))
				return atlas.Result{}, ctx.Err()
			})
			_, err := h(ctx, call(tool("q", 5*time.Second), "acme", tc.budget))
			cancel()
			if got != tc.want || atlas.CodeOf(err) != atlas.CodeTimeout {
				t.Errorf("%s: cause %q, want %q; error %v", name, got, tc.want, err)
			}
		}
	})
}

// One tenant's traffic must not show in, or change, another's timeouts.
func TestTenantsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		q, other := tool("q", 10*time.Second), tool("other", 4*time.Second)
		h := stage(t, budget.Config{}, budget.NewLatencies(), q, other).Stage(taking(&took))
		grants := func() (out []time.Duration) {
			for _, b := range []atlas.Budget{{Total: time.Minute}, {Total: 8 * time.Second, Expected: []string{"other"}}} {
				took = 0
				res, err := h(t.Context(), call(q, "globex", b))
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, res.Notes.Timeout)
			}
			return out
		}
		before := grants()
		for _, tl := range []*atlas.Tool{q, other} {
			learn(t, h, &took, func() atlas.Call { return call(tl, "acme", atlas.Budget{}) }, 300, time.Millisecond)
		}
		if diff := cmp.Diff(before, grants()); diff != "" {
			t.Errorf("acme's calls changed globex's timeouts:\n%s", diff)
		}
	})
}

func TestErrorsAreNotLatencies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lat := budget.NewLatencies()
		errs := []error{
			&atlas.Error{Code: atlas.CodeSourceUnavailable}, &atlas.Error{Code: atlas.CodeInvalidQuery},
			&atlas.Error{Code: atlas.CodeCircuitOpen}, errors.New("boom"), context.Canceled,
		}
		i := 0
		h := stage(t, budget.Config{}, lat).Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
			i++
			return atlas.Result{}, errs[i-1]
		})
		for _, want := range errs {
			if _, err := h(t.Context(), call(tool("q", time.Second), "acme", atlas.Budget{})); !errors.Is(err, want) {
				t.Errorf("%v became %v", want, err)
			}
		}
		if got := lat.Snapshot(); len(got) != 1 || got[0].Samples != 0 {
			t.Errorf("failures were counted: %+v", got)
		}
	})
}

// Turns of random tools, budgets and latencies end inside their budget, whatever the tools do.
func TestTurnsEndInsideTheirBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		var took time.Duration
		var tools []*atlas.Tool
		for i := range 5 {
			tools = append(tools, tool(fmt.Sprintf("t%d", i), time.Duration(2+3*i)*time.Second))
		}
		h := stage(t, budget.Config{}, budget.NewLatencies(), tools...).Stage(taking(&took))
		outcomes := map[atlas.Code]int{}
		late := 0
		for turn := range 800 {
			total := time.Duration(2+rng.IntN(14)) * time.Second
			reserve := time.Duration(rng.IntN(1000)) * time.Millisecond
			start := time.Now()
			plan := make([]*atlas.Tool, 1+rng.IntN(5))
			var names []string
			for i := range plan {
				plan[i] = tools[rng.IntN(len(tools))]
				names = append(names, plan[i].Name)
			}
			for i, tl := range plan {
				// Log-normal with a heavy tail; now and then a call that never ends.
				took = time.Duration(float64(tl.Timeout) / 8 * math.Exp(rng.NormFloat64()*0.8))
				if rng.IntN(50) == 0 {
					took = time.Hour
				}
				left := total - time.Since(start)
				if left <= 0 {
					break
				}
				_, err := h(t.Context(), call(tl, "acme", atlas.Budget{Total: left, Reserve: reserve, Expected: names[i+1:]}))
				outcomes[atlas.CodeOf(err)]++
			}
			if spent := time.Since(start); spent > total-reserve {
				late++
				t.Errorf("turn %d took %v of %v with %v reserved", turn, spent, total, reserve)
			}
		}
		if late > 0 || outcomes[""] < 1000 || outcomes[atlas.CodeTimeout] == 0 || outcomes[atlas.CodeBudgetExhausted] == 0 {
			t.Errorf("%d late turns, outcomes %v: the simulation should meet every outcome and mostly succeed", late, outcomes)
		}
	})
}

func TestConfig(t *testing.T) {
	err := budget.Config{Floor: -1, Safety: 0.5, DefaultTimeout: -1}.Validate()
	for _, want := range []string{"floor", "safety", "default_timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if err := (budget.Config{Safety: math.NaN()}).Validate(); err == nil {
		t.Error("safety NaN is accepted")
	}
	if _, err := budget.New(budget.Config{}, nil, nil); err == nil {
		t.Error("New without latencies is accepted")
	}
}

func BenchmarkStage(b *testing.B) {
	st, err := budget.New(budget.Config{}, budget.NewLatencies(), nil)
	if err != nil {
		b.Fatal(err)
	}
	h := st.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
	c := atlas.Call{Tool: tool("q", 5*time.Second), Tenant: "acme", Received: time.Now()}
	for name, bud := range map[string]atlas.Budget{
		"declared": {},
		"budgeted": {Total: time.Hour, Reserve: time.Second, Expected: []string{"a", "b", "c"}},
	} {
		b.Run(name, func(b *testing.B) {
			c.Budget = bud
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h(b.Context(), c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
