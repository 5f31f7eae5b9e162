package ratelimit_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
)

// away is a shared store that can be taken away: it then answers nothing, and gives up after a second.
type away struct {
	ratelimit.Store
	gone, deaf    atomic.Bool // deaf: only charges fail, at once
	asked, probed atomic.Int32
}

var errAway = errors.New("dial tcp 10.0.0.7:6379: refused")

func (a *away) Take(ctx context.Context, c ratelimit.Charge) (ratelimit.Decision, error) {
	a.asked.Add(1)
	if a.deaf.Load() {
		return ratelimit.Decision{}, errAway
	}
	if err := a.wait(ctx); err != nil {
		return ratelimit.Decision{}, err
	}
	return a.Store.Take(ctx, c)
}

func (a *away) Probe(ctx context.Context) error {
	a.probed.Add(1)
	return a.wait(ctx)
}

func (a *away) wait(ctx context.Context) error {
	if !a.gone.Load() {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Second):
		return errAway
	}
}

type fallbacks struct {
	mu sync.Mutex
	n  map[ratelimit.FailMode]int
}

func (f *fallbacks) count(m ratelimit.FailMode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n[m]++
}

// failover runs one over a store that can be taken away, until the test ends.
func failover(t *testing.T) (*ratelimit.Failover, *away, *fallbacks) {
	t.Helper()
	shared, counted := &away{Store: ratelimit.NewLocal(ratelimit.Bounds{})}, &fallbacks{n: map[ratelimit.FailMode]int{}}
	f, err := ratelimit.NewFailover(ratelimit.FailoverDeps{Shared: shared, Local: ratelimit.NewLocal(ratelimit.Bounds{}), Fallback: counted.count})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f, shared, counted
}

func kind(c atlas.Call, change func(*atlas.Tool)) atlas.Call {
	tool := *c.Tool
	change(&tool)
	c.Tool = &tool
	return c
}

func TestFailModes(t *testing.T) {
	read := kind(call("acme", "ann", "crm_order"), func(t *atlas.Tool) { t.ReadOnly = true })
	list := call("acme", "ann", "")
	list.Op, list.Tool = atlas.OpList, nil
	calls := map[string]atlas.Call{
		"read": read, "list": list,
		"write":       call("acme", "ann", "crm_order"),
		"egress":      kind(read, func(t *atlas.Tool) { t.Effects = atlas.EffectsEgress }),
		"destructive": kind(read, func(t *atlas.Tool) { t.Destructive = true }),
	}
	type outcome string
	const (
		limited   outcome = "limited" // by the replica alone
		refusing  outcome = "refused"
		unlimited outcome = "unlimited"
	)
	for name, tt := range map[string]struct {
		cfg           ratelimit.OnStoreFailure
		reads, writes outcome
	}{
		"default":      {ratelimit.OnStoreFailure{}, limited, refusing},
		"refuse all":   {ratelimit.OnStoreFailure{Reads: "refuse"}, refusing, refusing},
		"local all":    {ratelimit.OnStoreFailure{Writes: "local"}, limited, limited},
		"allow reads":  {ratelimit.OnStoreFailure{Reads: "allow"}, unlimited, refusing},
		"as they come": {ratelimit.OnStoreFailure{Reads: "allow", Writes: "local"}, unlimited, limited},
	} {
		for what, c := range calls {
			want := tt.writes
			if what == "read" || what == "list" {
				want = tt.reads
			}
			t.Run(name+"/"+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f, shared, counted := failover(t)
					h := limiter(t, ratelimit.Config{Tenant: wide, Tool: wide, Caller: rate{1, time.Hour, 3}, OnStoreFailure: tt.cfg}, f)
					if n := allowed(t, h, c, 10); n != 3 {
						t.Fatalf("%d passed while the store was there, want 3", n)
					}
					if len(counted.n) > 0 {
						t.Errorf("fallbacks while the store was there: %v", counted.n)
					}
					shared.gone.Store(true)
					var mode ratelimit.FailMode
					switch want {
					case limited:
						mode = ratelimit.FailLocal
						if n := allowed(t, h, c, 10); n != 3 {
							t.Errorf("%d passed, want the replica's own 3", n)
						}
					case unlimited:
						mode = ratelimit.FailAllow
						if n := allowed(t, h, c, 10); n != 10 {
							t.Errorf("%d passed, want all", n)
						}
					case refusing:
						mode = ratelimit.FailRefuse
						for range 10 {
							_, err := h(t.Context(), c)
							e := atlas.ErrorOf(err)
							if e == nil || e.Code != atlas.CodeStateUnavailable || !e.Retryable() || e.RetryAfter <= 0 {
								t.Fatalf("got %v", err)
							}
							if said := e.Failure("r"); strings.Contains(said.Hint, "10.0.0.7") || len(said.Context) > 0 {
								t.Errorf("%+v tells of the store", said)
							}
						}
					}
					if len(counted.n) != 1 || counted.n[mode] != 10 {
						t.Errorf("counted %v, want 10 of %s", counted.n, mode)
					}
					// The shared limit applies again, with what was used up before.
					shared.gone.Store(false)
					time.Sleep(3 * time.Second)
					if f.Down() {
						t.Fatal("the store is back, and not used")
					}
					if e := refused(t, h, c); e.Context["limit"] != "caller" {
						t.Errorf("after the store came back: %v", e)
					}
				})
			})
		}
	}
}

// Only the first calls wait for a store that does not answer, and an idle replica notices by itself.
func TestFewCallsWaitForAStoreThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, shared, _ := failover(t)
		h := limiter(t, ratelimit.Config{}, f)
		c := call("acme", "ann", "crm_order")
		time.Sleep(10500 * time.Millisecond) // between two probes
		shared.gone.Store(true)
		slow := 0
		for range 100 {
			start := time.Now()
			if _, err := h(t.Context(), c); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
				t.Fatal(err)
			}
			if took := time.Since(start); took > time.Second {
				t.Fatalf("a call waited %s", took)
			} else if took > 0 {
				slow++
			}
		}
		if slow < 1 || slow > 3 {
			t.Errorf("%d calls waited, want 1 to 3", slow)
		}
		asked := shared.asked.Load()
		time.Sleep(time.Minute)
		probed := shared.probed.Load()
		if _, err := h(t.Context(), c); err == nil || shared.asked.Load() != asked {
			t.Errorf("%v; the store was asked again", err)
		}
		if probed < 25 || probed > 100 {
			t.Errorf("%d probes, want about one in two seconds", probed)
		}
		shared.gone.Store(false)
		time.Sleep(3 * time.Second)
		shared.gone.Store(true)
		time.Sleep(3 * time.Second)
		if !f.Down() {
			t.Error("an idle replica did not notice that the store is away")
		}
	})
}

// Callers whose own time is up say nothing about the store: they cannot lift the others' shared limit.
func TestTinyBudgetsDoNotTakeTheStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &away{Store: ratelimit.NewLocal(ratelimit.Bounds{})}
		counted := &fallbacks{n: map[ratelimit.FailMode]int{}}
		f, err := ratelimit.NewFailover(ratelimit.FailoverDeps{Shared: shared, Local: ratelimit.NewLocal(ratelimit.Bounds{}), Fallback: counted.count})
		if err != nil {
			t.Fatal(err)
		}
		shared.gone.Store(true) // slow
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := f.Take(ctx, ratelimit.Charge{Tenant: "acme", OnFailure: ratelimit.FailAllow})
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if f.Down() || len(counted.n) > 0 {
			t.Errorf("down: %t, %v", f.Down(), counted.n)
		}
	})
}

// A charge that fails while others succeed (one node of a cluster is away) does not take the store
// away from the others.
func TestOneOfManyFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, shared, counted := failover(t)
		c := ratelimit.Charge{Tenant: "acme", OnFailure: ratelimit.FailAllow}
		for range 100 {
			shared.deaf.Store(true)
			if d, err := f.Take(t.Context(), c); err != nil || !d.Allowed {
				t.Fatal(d, err)
			}
			shared.deaf.Store(false)
			if d, err := f.Take(t.Context(), c); err != nil || !d.Allowed {
				t.Fatal(d, err)
			}
			time.Sleep(time.Millisecond)
		}
		if asked := shared.asked.Load(); asked != 200 || f.Down() || counted.n[ratelimit.FailAllow] != 100 {
			t.Errorf("asked %d times, down: %t, %v", asked, f.Down(), counted.n)
		}
		// Where charges keep failing though probes succeed, most calls do not wait.
		shared.deaf.Store(true)
		before := shared.asked.Load()
		for range 1000 {
			_, _ = f.Take(t.Context(), c)
			time.Sleep(time.Millisecond)
		}
		if asked := shared.asked.Load() - before; asked > 60 {
			t.Errorf("a store whose probes succeed was asked %d times in a second", asked)
		}
	})
}

func TestFailoverNeedsBothStores(t *testing.T) {
	local := ratelimit.NewLocal(ratelimit.Bounds{})
	for _, deps := range []ratelimit.FailoverDeps{{}, {Local: local}, {Shared: &away{Store: local}}} {
		if _, err := ratelimit.NewFailover(deps); err == nil {
			t.Errorf("%+v is taken", deps)
		}
	}
	for _, bad := range []ratelimit.OnStoreFailure{{Reads: "open"}, {Writes: "allow"}, {Writes: "closed"}, {After: -1}, {After: time.Hour}} {
		if err := (ratelimit.Config{OnStoreFailure: bad}).Validate(); err == nil {
			t.Errorf("%+v is valid", bad)
		}
	}
	// A charge that does not say how is refused.
	shared := &away{Store: local}
	shared.deaf.Store(true)
	f, err := ratelimit.NewFailover(ratelimit.FailoverDeps{Shared: shared, Local: local})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := f.Take(t.Context(), ratelimit.Charge{Tenant: "acme"}); err == nil || d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
}
