package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/breaker"
)

func stage(t *testing.T, cfg breaker.Config, state *breaker.State) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(cfg, state)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func code(c atlas.Code) error { return &atlas.Error{Code: c} }

var crm = &atlas.Tool{Name: "crm_query", Source: "crm"}

func by(tenant atlas.TenantID) atlas.Call { return atlas.Call{Tool: crm, Tenant: tenant} }

// A backend answers with what err says, and counts.
type backend struct {
	err  error
	runs int
}

func (b *backend) handle(context.Context, atlas.Call) (atlas.Result, error) {
	b.runs++
	return atlas.Result{}, b.err
}

func TestOpensProbesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		be := &backend{err: code(atlas.CodeSourceUnavailable)}
		h := stage(t, breaker.Config{}, breaker.NewState()).Stage(be.handle)
		for i := range 5 {
			res, err := h(t.Context(), by("acme"))
			want := "closed"
			if i == 4 {
				want = "open"
			}
			if atlas.CodeOf(err) != atlas.CodeSourceUnavailable || res.Notes.Breaker != want {
				t.Fatalf("failure %d: %v, notes %q, want %q", i+1, err, res.Notes.Breaker, want)
			}
		}
		time.Sleep(10 * time.Second)
		res, err := h(t.Context(), by("acme"))
		if e := atlas.ErrorOf(err); e == nil || e.Code != atlas.CodeCircuitOpen || e.RetryAfter != 20*time.Second || e.Context != nil || res.Notes.Breaker != "open" {
			t.Errorf("while open: %+v, notes %q", e, res.Notes.Breaker)
		}
		if be.runs != 5 {
			t.Errorf("the source was asked %d times", be.runs)
		}
		// The probe fails: open again, for another 30s.
		time.Sleep(20 * time.Second)
		if res, _ := h(t.Context(), by("acme")); be.runs != 6 || res.Notes.Breaker != "open" {
			t.Errorf("first probe: %d runs, notes %q", be.runs, res.Notes.Breaker)
		}
		if _, err := h(t.Context(), by("acme")); atlas.CodeOf(err) != atlas.CodeCircuitOpen {
			t.Errorf("after a failed probe: %v", err)
		}
		// The next one succeeds.
		time.Sleep(30 * time.Second)
		be.err = nil
		if res, err := h(t.Context(), by("acme")); err != nil || res.Notes.Breaker != "closed" {
			t.Errorf("second probe: %v, notes %q", err, res.Notes.Breaker)
		}
		be.err = code(atlas.CodeSourceUnavailable)
		for range 4 { // counted anew
			_, _ = h(t.Context(), by("acme"))
		}
		if res, _ := h(t.Context(), by("acme")); res.Notes.Breaker != "open" {
			t.Errorf("five failures later: %q", res.Notes.Breaker)
		}
	})
}

func TestOldFailuresAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		be := &backend{err: code(atlas.CodeSourceUnavailable)}
		h := stage(t, breaker.Config{}, breaker.NewState()).Stage(be.handle)
		for range 12 {
			if res, _ := h(t.Context(), by("acme")); res.Notes.Breaker != "closed" {
				t.Fatal("opened by four failures a minute")
			}
			time.Sleep(16 * time.Second)
		}
	})
}

func TestWhatCounts(t *testing.T) {
	full := &atlas.Error{Code: atlas.CodeTimeout}
	cut := &atlas.Error{Code: atlas.CodeBudgetExhausted}
	expired := func(cause error) func(context.Context) (context.Context, context.CancelFunc) {
		return func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, time.Nanosecond, cause)
		}
	}
	canceled := func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Nanosecond, cancel)
		return ctx, cancel
	}
	alive := func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }
	for name, tc := range map[string]struct {
		ctx   func(context.Context) (context.Context, context.CancelFunc)
		err   error
		opens bool
	}{
		"unavailable":                        {alive, code(atlas.CodeSourceUnavailable), true},
		"driver's own timeout":               {alive, code(atlas.CodeTimeout), true},
		"full deadline passed":               {expired(full), context.DeadlineExceeded, true},
		"unavailable as the deadline passed": {expired(full), code(atlas.CodeSourceUnavailable), true},
		"caller's budget cut it":             {expired(cut), context.DeadlineExceeded, false},
		"unavailable as the budget cut it":   {expired(cut), code(atlas.CodeSourceUnavailable), false},
		"deadline of unknown origin":         {expired(nil), context.DeadlineExceeded, false},
		"caller cancelled":                   {canceled, context.Canceled, false},
		"unavailable on cancellation":        {canceled, code(atlas.CodeSourceUnavailable), false},
		"source error":                       {alive, code(atlas.CodeSourceError), false},
		"invalid query":                      {alive, code(atlas.CodeInvalidQuery), false},
		"not found":                          {alive, code(atlas.CodeNotFound), false},
		"denied":                             {alive, code(atlas.CodeDeniedByPolicy), false},
		"internal":                           {alive, errors.New("boom"), false},
		"success":                            {alive, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := stage(t, breaker.Config{}, breaker.NewState()).Stage(func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
					time.Sleep(time.Millisecond)
					return atlas.Result{}, tc.err
				})
				var last atlas.Result
				for range 10 {
					ctx, cancel := tc.ctx(t.Context())
					last, _ = h(ctx, by("acme"))
					cancel()
				}
				if opened := last.Notes.Breaker == "open"; opened != tc.opens {
					t.Errorf("after ten times %v: %s", tc.err, last.Notes.Breaker)
				}
			})
		})
	}
}

// A tenant whose own calls fail is cut off alone, however often they fail and whoever probes; a
// source that fails for two tenants is closed to all.
func TestOneTenantCannotOpenTheSharedCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failingFor := map[atlas.TenantID]bool{"acme": true}
		h := stage(t, breaker.Config{}, breaker.NewState()).Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			if failingFor[c.Tenant] {
				return atlas.Result{}, code(atlas.CodeSourceUnavailable)
			}
			return atlas.Result{}, nil
		})
		for i := range 2000 {
			_, err := h(t.Context(), by("acme"))
			if i == 10 && atlas.CodeOf(err) != atlas.CodeCircuitOpen {
				t.Errorf("acme after ten failures: %v", err)
			}
			if res, err := h(t.Context(), by("globex")); err != nil || res.Notes.Breaker != "closed" {
				t.Fatalf("after %d failures of acme, globex gets %v (%s)", i+1, err, res.Notes.Breaker)
			}
			time.Sleep(time.Second)
		}
		failingFor["globex"] = true
		for range 4 {
			_, _ = h(t.Context(), by("acme"))
			_, _ = h(t.Context(), by("globex"))
			time.Sleep(31 * time.Second / 4)
		}
		for range 5 {
			_, _ = h(t.Context(), by("globex"))
		}
		if _, err := h(t.Context(), by("third")); atlas.CodeOf(err) != atlas.CodeCircuitOpen {
			t.Errorf("the source fails for two tenants, and the third gets %v", err)
		}
	})
}

func TestClassesAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := code(atlas.CodeSourceUnavailable)
		h := stage(t, breaker.Config{Classes: map[atlas.TenantID]string{"big": "gold"}}, breaker.NewState()).
			Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
				if c.Tenant == "big" {
					return atlas.Result{}, nil
				}
				return atlas.Result{}, bad
			})
		for i := range 10 {
			_, _ = h(t.Context(), by(atlas.TenantID(fmt.Sprintf("t%d", i))))
		}
		if _, err := h(t.Context(), by("small")); atlas.CodeOf(err) != atlas.CodeCircuitOpen {
			t.Errorf("default class: %v, want circuit_open", err)
		}
		if _, err := h(t.Context(), by("big")); err != nil {
			t.Errorf("gold class: %v", err)
		}
		other := by("small")
		other.Tool = &atlas.Tool{Source: "tickets"}
		bad = nil
		if _, err := h(t.Context(), other); err != nil {
			t.Errorf("another source: %v", err)
		}
	})
}

// open returns a handler whose circuit for acme is about to be probed.
func open(t *testing.T, next atlas.Handler) atlas.Handler {
	t.Helper()
	var fail atomic.Bool
	fail.Store(true)
	h := stage(t, breaker.Config{ProbeTimeout: 10 * time.Second}, breaker.NewState()).Stage(func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		if fail.Load() {
			return atlas.Result{}, code(atlas.CodeSourceUnavailable)
		}
		return next(ctx, c)
	})
	for range 5 {
		_, _ = h(t.Context(), by("acme"))
	}
	fail.Store(false)
	time.Sleep(30 * time.Second)
	return h
}

func TestOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		h := open(t, func(context.Context, atlas.Call) (atlas.Result, error) {
			runs.Add(1)
			time.Sleep(time.Second)
			return atlas.Result{}, nil
		})
		var wg sync.WaitGroup
		var refused atomic.Int32
		for range 20 {
			wg.Go(func() {
				res, err := h(t.Context(), by("acme"))
				if e := atlas.ErrorOf(err); e != nil && e.Code == atlas.CodeCircuitOpen && e.RetryAfter > 0 && res.Notes.Breaker == "half-open" {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		if runs.Load() != 1 || refused.Load() != 19 {
			t.Errorf("%d probes, %d refused", runs.Load(), refused.Load())
		}
	})
}

// A probe that its caller cancels, that panics, or that never ends must not keep the circuit
// half-open for ever.
func TestLostProbe(t *testing.T) {
	for name, first := range map[string]func(context.Context) error{
		"cancelled": func(context.Context) error { return context.Canceled },
		"panics":    func(context.Context) error { panic("boom") },
		"hangs":     func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var runs atomic.Int32
				h := open(t, func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
					if runs.Add(1) == 1 {
						return atlas.Result{}, first(ctx)
					}
					return atlas.Result{}, nil
				})
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() {
					defer func() { _ = recover() }()
					_, _ = h(ctx, by("acme"))
				})
				synctest.Wait()
				if name == "hangs" {
					if _, err := h(t.Context(), by("acme")); atlas.CodeOf(err) != atlas.CodeCircuitOpen {
						t.Errorf("beside a running probe: %v", err)
					}
					time.Sleep(10 * time.Second)
				}
				if res, err := h(t.Context(), by("acme")); err != nil || res.Notes.Breaker != "closed" {
					t.Errorf("the next probe: %v, %s", err, res.Notes.Breaker)
				}
				cancel()
				wg.Wait()
				if res, err := h(t.Context(), by("acme")); err != nil || res.Notes.Breaker != "closed" {
					t.Errorf("after the first probe ended: %v, %s", err, res.Notes.Breaker)
				}
			})
		})
	}
}

// A call that began before the circuit opened and fails after it closed again says nothing new.
func TestLateOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		be := code(atlas.CodeSourceUnavailable)
		h := stage(t, breaker.Config{FailureThreshold: 1}, breaker.NewState()).Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			if c.ID == "slow" {
				<-slow
				return atlas.Result{}, code(atlas.CodeSourceUnavailable)
			}
			return atlas.Result{}, be
		})
		var wg sync.WaitGroup
		_, _ = h(t.Context(), by("acme")) // gives acme a circuit of its own, open
		time.Sleep(30 * time.Second)
		be = nil
		_, _ = h(t.Context(), by("acme")) // closes it
		late := by("acme")
		late.ID = "slow"
		wg.Go(func() { _, _ = h(t.Context(), late) })
		synctest.Wait()
		be = code(atlas.CodeSourceUnavailable)
		_, _ = h(t.Context(), by("acme")) // opens it again
		time.Sleep(30 * time.Second)
		be = nil
		_, _ = h(t.Context(), by("acme")) // closes it again
		close(slow)
		wg.Wait()
		if res, err := h(t.Context(), by("acme")); err != nil || res.Notes.Breaker != "closed" {
			t.Errorf("a late failure opened the circuit: %v, %s", err, res.Notes.Breaker)
		}
	})
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := breaker.NewState()
		be := &backend{err: code(atlas.CodeSourceUnavailable)}
		for range 5 { // a new pipeline for each call
			_, _ = stage(t, breaker.Config{}, state).Stage(be.handle)(t.Context(), by("acme"))
		}
		if _, err := stage(t, breaker.Config{}, state).Stage(be.handle)(t.Context(), by("acme")); atlas.CodeOf(err) != atlas.CodeCircuitOpen {
			t.Errorf("after five reloads: %v", err)
		}
		got := state.Snapshot()
		if len(got) != 2 || got[0].Tenant != "acme" || got[0].State != "open" || got[0].RetryAfter != 30*time.Second || got[1].Class != "default" || got[1].State != "closed" {
			t.Errorf("snapshot %+v", got)
		}
		be.err = nil
		if _, err := stage(t, breaker.Config{FailureThreshold: 7}, state).Stage(be.handle)(t.Context(), by("acme")); err != nil {
			t.Errorf("new settings begin closed, got %v", err)
		}
		if got := state.Snapshot(); len(got) != 1 {
			t.Errorf("the old settings' circuits are still there: %+v", got)
		}
	})
}

func TestNoSource(t *testing.T) {
	be := &backend{err: code(atlas.CodeSourceUnavailable)}
	h := stage(t, breaker.Config{FailureThreshold: 1}, breaker.NewState()).Stage(be.handle)
	for _, c := range []atlas.Call{{Op: atlas.OpList}, {Tool: &atlas.Tool{Level: atlas.Composed}}} {
		for range 3 {
			if res, err := h(t.Context(), c); atlas.CodeOf(err) != atlas.CodeSourceUnavailable || res.Notes.Breaker != "" {
				t.Errorf("%v: %v, notes %q", c.Op, err, res.Notes.Breaker)
			}
		}
	}
}

// hold starts n calls of a tenant that run until release is closed.
func hold(t *testing.T, h atlas.Handler, wg *sync.WaitGroup, tenant atlas.TenantID, n int) *atomic.Int32 {
	t.Helper()
	var overloaded atomic.Int32
	for range n {
		wg.Go(func() {
			_, err := h(t.Context(), by(tenant))
			switch e := atlas.ErrorOf(err); {
			case e == nil:
			case e.Code == atlas.CodeOverloaded && e.RetryAfter > 0:
				overloaded.Add(1)
			default:
				t.Errorf("%s: %v", tenant, err)
			}
		})
	}
	synctest.Wait()
	return &overloaded
}

func TestBulkheadShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var mu sync.Mutex
		running, most := map[atlas.TenantID]int{}, 0
		state := breaker.NewState()
		h := stage(t, breaker.Config{MaxConcurrent: 8}, state).Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			mu.Lock()
			running[c.Tenant]++
			most = max(most, running["acme"]+running["globex"]+running["third"])
			mu.Unlock()
			<-release
			mu.Lock()
			running[c.Tenant]--
			mu.Unlock()
			return atlas.Result{}, nil
		})
		var wg sync.WaitGroup
		acme := hold(t, h, &wg, "acme", 100)
		globex := hold(t, h, &wg, "globex", 4)
		mu.Lock()
		if running["acme"] != 4 || running["globex"] != 4 {
			t.Errorf("running %v, want 4 each of 8", running)
		}
		mu.Unlock()
		if st := state.Snapshot(); len(st) != 1 || st[0].Running != 8 || st[0].Waiting != 4 {
			t.Errorf("snapshot %+v, want 8 running and acme's share of the queue waiting", st)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if acme.Load() != 96 || globex.Load() != 0 {
			t.Errorf("refused %d of acme's, %d of globex's calls", acme.Load(), globex.Load())
		}
		close(release)
		wg.Wait()
		if most != 8 {
			t.Errorf("%d ran at once", most)
		}
		if st := state.Snapshot(); st[0].Running != 0 || st[0].Waiting != 0 {
			t.Errorf("at the end %+v", st)
		}
	})
}

// A waiting call gets the slot that another gives back, past waiting calls of a tenant at its share.
func TestBulkheadQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := breaker.NewState()
		h := stage(t, breaker.Config{MaxConcurrent: 2, QueueWait: time.Second}, state).Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			d := 10 * time.Second
			if c.Tenant == "globex" {
				d = 100 * time.Millisecond
			}
			time.Sleep(d)
			return atlas.Result{}, nil
		})
		var wg sync.WaitGroup
		acme := hold(t, h, &wg, "acme", 2)    // one runs, one waits
		first := hold(t, h, &wg, "globex", 2) // one runs, one waits behind acme's
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		if first.Load() != 0 {
			t.Error("globex was refused while a slot came free")
		}
		if st := state.Snapshot(); st[0].Running != 1 || st[0].Waiting != 1 {
			t.Errorf("%+v, want acme's one running and one waiting", st)
		}
		wg.Wait()
		if acme.Load() != 1 {
			t.Errorf("%d of acme's calls were refused, want 1", acme.Load())
		}
		// A caller who goes away while waiting.
		block := hold(t, h, &wg, "acme", 1)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err := h(ctx, by("acme")); atlas.CodeOf(err) != atlas.CodeCanceled {
			t.Errorf("cancelled while waiting: %v", err)
		}
		wg.Wait()
		if st := state.Snapshot(); block.Load() != 0 || st[0].Running != 0 || st[0].Waiting != 0 {
			t.Errorf("at the end %+v", st)
		}
	})
}

// The bulkhead holds under real concurrency, and every slot comes back.
func TestBulkheadUnderLoad(t *testing.T) {
	state := breaker.NewState()
	var running, most atomic.Int32
	h := stage(t, breaker.Config{MaxConcurrent: 4, QueueWait: time.Microsecond}, state).Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if c.ID == "panic" {
			panic("boom")
		}
		return atlas.Result{}, nil
	})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 500 {
				c := by(atlas.TenantID(fmt.Sprintf("t%d", i%3)))
				if j%50 == 0 {
					c.ID = "panic"
				}
				func() {
					defer func() { _ = recover() }()
					_, _ = h(t.Context(), c)
				}()
			}
		})
	}
	wg.Wait()
	if st := state.Snapshot(); most.Load() > 4 || st[0].Running != 0 || st[0].Waiting != 0 {
		t.Errorf("most %d; at the end %+v", most.Load(), st)
	}
}

func TestConfig(t *testing.T) {
	err := breaker.Config{
		FailureThreshold: -1, Period: -1, Recovery: -1, ProbeTimeout: -1, MaxConcurrent: -1, TenantShare: 2,
		MaxQueue: -1, QueueWait: -1, Classes: map[atlas.TenantID]string{"Bad Name": "x", "ok": ""},
	}.Validate()
	for _, want := range []string{
		"failure_threshold", "period", "recovery", "probe_timeout", "max_concurrent", "tenant_share", "max_queue",
		"queue_wait", "tenant id", "empty class",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if err := (breaker.Config{TenantShare: math.NaN()}).Validate(); err == nil {
		t.Error("tenant_share NaN is accepted")
	}
	if _, err := breaker.New(breaker.Config{}, nil); err == nil {
		t.Error("New without state is accepted")
	}
}

func BenchmarkStage(b *testing.B) {
	st, err := breaker.New(breaker.Config{}, breaker.NewState())
	if err != nil {
		b.Fatal(err)
	}
	h := st.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
	c := by("acme")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
