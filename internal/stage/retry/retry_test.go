package retry_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/retry"
)

var (
	read  = &atlas.Tool{Name: "read", Source: "crm", ReadOnly: true}
	put   = &atlas.Tool{Name: "put", Source: "crm", Idempotent: true, Effects: atlas.EffectsWrite}
	write = &atlas.Tool{Name: "write", Source: "crm", Effects: atlas.EffectsWrite}
	both  = &atlas.Tool{Name: "composed", ReadOnly: true}
)

func stage(t *testing.T, cfg retry.Config) *retry.Retry {
	t.Helper()
	r, err := retry.New(cfg, retry.NewBudgets())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// failing fails the first n times with err.
func failing(n int, err error, runs *int) atlas.Handler {
	*runs = 0
	return func(context.Context, atlas.Call) (atlas.Result, error) {
		*runs++
		if *runs <= n {
			return atlas.Result{}, err
		}
		return atlas.Result{Structured: []byte("{}")}, nil
	}
}

func code(c atlas.Code) error { return &atlas.Error{Code: c} }

func TestWhatIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			call  atlas.Call
			err   error
			fails int
			runs  int
			want  atlas.Code
		}{
			"success":                    {atlas.Call{Tool: read}, nil, 0, 1, ""},
			"unavailable once":           {atlas.Call{Tool: read}, code(atlas.CodeSourceUnavailable), 1, 2, ""},
			"unavailable twice":          {atlas.Call{Tool: read}, code(atlas.CodeSourceUnavailable), 2, 3, ""},
			"unavailable for good":       {atlas.Call{Tool: read}, code(atlas.CodeSourceUnavailable), 9, 3, atlas.CodeSourceUnavailable},
			"overloaded source":          {atlas.Call{Tool: read}, code(atlas.CodeOverloaded), 1, 2, ""},
			"attempt timed out":          {atlas.Call{Tool: read}, code(atlas.CodeTimeout), 1, 2, ""},
			"idempotent write":           {atlas.Call{Tool: put}, code(atlas.CodeSourceUnavailable), 1, 2, ""},
			"write":                      {atlas.Call{Tool: write}, code(atlas.CodeSourceUnavailable), 1, 1, atlas.CodeSourceUnavailable},
			"write with key":             {atlas.Call{Tool: write, IdempotencyKey: "k"}, code(atlas.CodeSourceUnavailable), 1, 1, atlas.CodeSourceUnavailable},
			"composed":                   {atlas.Call{Tool: both}, code(atlas.CodeSourceUnavailable), 1, 1, atlas.CodeSourceUnavailable},
			"no tool":                    {atlas.Call{Op: atlas.OpList}, code(atlas.CodeSourceUnavailable), 1, 1, atlas.CodeSourceUnavailable},
			"source error":               {atlas.Call{Tool: read}, code(atlas.CodeSourceError), 1, 1, atlas.CodeSourceError},
			"invalid query":              {atlas.Call{Tool: read}, code(atlas.CodeInvalidQuery), 1, 1, atlas.CodeInvalidQuery},
			"rate limited":               {atlas.Call{Tool: read}, code(atlas.CodeRateLimited), 1, 1, atlas.CodeRateLimited},
			"circuit open":               {atlas.Call{Tool: read}, code(atlas.CodeCircuitOpen), 1, 1, atlas.CodeCircuitOpen},
			"not found":                  {atlas.Call{Tool: read}, code(atlas.CodeNotFound), 1, 1, atlas.CodeNotFound},
			"plain error":                {atlas.Call{Tool: read}, errors.New("boom"), 1, 1, atlas.CodeInternal},
			"cancelled":                  {atlas.Call{Tool: read}, context.Canceled, 1, 1, atlas.CodeCanceled},
			"retry after beyond the cap": {atlas.Call{Tool: read}, &atlas.Error{Code: atlas.CodeSourceUnavailable, RetryAfter: time.Minute}, 1, 1, atlas.CodeSourceUnavailable},
		} {
			var runs int
			res, err := stage(t, retry.Config{}).Stage(failing(tc.fails, tc.err, &runs))(t.Context(), tc.call)
			if runs != tc.runs || res.Notes.Attempts != tc.runs || atlas.CodeOf(err) != tc.want {
				t.Errorf("%s: ran %d times (notes say %d), error %v; want %d times, %q",
					name, runs, res.Notes.Attempts, err, tc.runs, tc.want)
			}
		}
	})
}

func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs int
		spread := map[time.Duration]bool{}
		for range 100 {
			start := time.Now()
			h := stage(t, retry.Config{}).Stage(failing(2, code(atlas.CodeSourceUnavailable), &runs))
			if _, err := h(t.Context(), atlas.Call{Tool: read}); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			if took > 300*time.Millisecond { // at most 100ms, then 200ms
				t.Fatalf("two delays took %v", took)
			}
			spread[took] = true
		}
		if len(spread) < 50 {
			t.Errorf("only %d different delays in 100: no jitter", len(spread))
		}
		start := time.Now()
		h := stage(t, retry.Config{}).Stage(failing(1, &atlas.Error{Code: atlas.CodeSourceUnavailable, RetryAfter: 1500 * time.Millisecond}, &runs))
		if _, err := h(t.Context(), atlas.Call{Tool: read}); err != nil || time.Since(start) < 1500*time.Millisecond {
			t.Errorf("came back after %v, asked to wait 1.5s (%v)", time.Since(start), err)
		}
	})
}

func TestDeadlineAndCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs int
		late := &atlas.Error{Code: atlas.CodeSourceUnavailable, RetryAfter: time.Second}
		h := stage(t, retry.Config{}).Stage(failing(9, late, &runs))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := h(ctx, atlas.Call{Tool: read}); !errors.Is(err, late) || runs != 1 || time.Since(start) != 0 {
			t.Errorf("no time for the delay: ran %d times in %v, %v", runs, time.Since(start), err)
		}
		h = stage(t, retry.Config{}).Stage(failing(9, late, &runs))
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, cancel)
		start = time.Now()
		if _, err := h(ctx, atlas.Call{Tool: read}); err == nil || runs != 1 || time.Since(start) != 300*time.Millisecond {
			t.Errorf("cancelled while waiting: ran %d times in %v, %v", runs, time.Since(start), err)
		}
		h = stage(t, retry.Config{}).Stage(failing(9, code(atlas.CodeTimeout), &runs))
		if _, err := h(ctx, atlas.Call{Tool: read}); err == nil || runs != 1 {
			t.Errorf("after the caller has gone: ran %d times", runs)
		}
	})
}

// When a source fails for everyone, retries add about a tenth to its load, not twice as much again.
func TestRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budgets := retry.NewBudgets()
		r, err := retry.New(retry.Config{}, budgets)
		if err != nil {
			t.Fatal(err)
		}
		var runs int
		const calls = 2000
		next := failing(math.MaxInt, code(atlas.CodeSourceUnavailable), &runs)
		start := time.Now()
		for range calls {
			_, _ = r.Stage(next)(t.Context(), atlas.Call{Tool: read})
		}
		trickle := int(time.Since(start).Seconds())
		if retries := runs - calls; retries < calls/20 || retries > calls/10+10+trickle+1 {
			t.Errorf("%d retries of %d calls in %ds", retries, calls, trickle)
		}
		// The budget outlives a reload, and one source's does not concern another.
		again, err := retry.New(retry.Config{MaxAttempts: 2}, budgets)
		if err != nil {
			t.Fatal(err)
		}
		runs = 0
		const more = 8 // they put in less than one token, beside what was left and what the delays trickle
		for range more {
			_, _ = again.Stage(next)(t.Context(), atlas.Call{Tool: read})
		}
		if runs > more+2 {
			t.Errorf("after a reload: %d retries of %d calls on an empty budget; a new one would allow all", runs-more, more)
		}
		runs = 0
		_, _ = again.Stage(next)(t.Context(), atlas.Call{Tool: &atlas.Tool{Source: "other", ReadOnly: true}})
		if runs != 2 {
			t.Errorf("another source: %d runs, want 2", runs)
		}
		// A quiet source has its trickle.
		time.Sleep(5 * time.Second)
		runs = 0
		_, _ = again.Stage(next)(t.Context(), atlas.Call{Tool: read})
		if runs != 2 {
			t.Errorf("after five seconds: %d runs, want 2", runs)
		}
	})
}

// Whatever fails and however: no more runs than allowed, none of a write that is not idempotent, and
// never past the deadline.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			most := rapid.IntRange(1, 5).Draw(rt, "max")
			tool := rapid.SampledFrom([]*atlas.Tool{read, put, write, both}).Draw(rt, "tool")
			budget := time.Duration(rapid.IntRange(1, 5000).Draw(rt, "deadline")) * time.Millisecond
			codes := rapid.SliceOfN(rapid.SampledFrom([]atlas.Code{
				atlas.CodeSourceUnavailable, atlas.CodeTimeout, atlas.CodeOverloaded, atlas.CodeSourceError, "",
			}), 8, 8).Draw(rt, "codes")
			ctx, cancel := context.WithTimeout(t.Context(), budget)
			defer cancel()
			runs, start := 0, time.Now()
			h := stage(t, retry.Config{MaxAttempts: most}).Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
				runs++
				if time.Since(start) >= budget {
					rt.Fatalf("run %d began after the deadline", runs)
				}
				if c := codes[runs-1]; c != "" {
					return atlas.Result{}, code(c)
				}
				return atlas.Result{}, nil
			})
			_, err := h(ctx, atlas.Call{Tool: tool})
			if runs > most || runs > 1 && (tool == write || tool == both) {
				rt.Fatalf("%s ran %d times, at most %d", tool.Name, runs, most)
			}
			if atlas.CodeOf(err) != codes[runs-1] {
				rt.Fatalf("error %v, the last run's was %q", err, codes[runs-1])
			}
			if time.Since(start) > budget {
				rt.Fatalf("took %v of %v", time.Since(start), budget)
			}
		})
	})
}

func TestConfig(t *testing.T) {
	err := retry.Config{MaxAttempts: 11, BaseDelay: -1, MaxDelay: -2, BudgetRatio: 2, BudgetRate: -1}.Validate()
	for _, want := range []string{"max_attempts", "base_delay", "max_delay", "budget_ratio", "budget_rate"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if err := (retry.Config{BudgetRatio: math.NaN()}).Validate(); err == nil {
		t.Error("budget_ratio NaN is accepted")
	}
	if _, err := retry.New(retry.Config{}, nil); err == nil {
		t.Error("New without budgets is accepted")
	}
}

func BenchmarkStage(b *testing.B) {
	r, err := retry.New(retry.Config{}, retry.NewBudgets())
	if err != nil {
		b.Fatal(err)
	}
	h := r.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
	c := atlas.Call{Tool: read}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
