package cache_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/seal"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/cache/cachetest"
)

func TestPurgeOnAllReplicas(t *testing.T) {
	other := func(c *atlas.Call) { c.Tool.Name = "crm_customer" }
	foreign := func(c *atlas.Call) { c.Tenant, c.Principal.Tenant = "globex", "globex" }
	for _, tc := range []struct {
		tool string
		want [3]string // notes for call(), other, foreign afterwards
	}{
		{"crm_order", [3]string{"miss", "hit", "hit"}},
		{"", [3]string{"miss", "miss", "hit"}},
		{"unknown", [3]string{"hit", "hit", "hit"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, a, b := two(t, never, (&source{}).handle)
			calls := []atlas.Call{call(), call(other), call(foreign)}
			for _, c := range calls {
				ask(t, a.handle, c)
				synctest.Wait()
				ask(t, b.handle, c)
			}
			if err := b.store.Purge(t.Context(), "acme", tc.tool); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			time.Sleep(time.Nanosecond)
			for i, c := range calls {
				if _, note := ask(t, a.handle, c); note != tc.want[i] {
					t.Errorf("purge of %q: call %d is a %s on the other, want %s", tc.tool, i, note, tc.want[i])
				}
				synctest.Wait()
				if _, note := ask(t, b.handle, c); note != "hit" {
					t.Errorf("purge of %q: call %d is not shared again", tc.tool, i)
				}
			}
		})
	}
}

// What was read before a purge is kept by nobody, whoever purges and whoever loads.
func TestPurgeDuringALoadOnAnotherReplica(t *testing.T) {
	for name, deaf := range map[string]bool{"heard": false, "not heard": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{takes: 2 * time.Second}
				hub, a, b := two(t, never, src.handle)
				var wg sync.WaitGroup
				wg.Go(func() { want(t, a.handle, call(), `{"run":1}`, "miss") })
				time.Sleep(time.Second)
				if deaf {
					// One that a does not hear of, as a message can be lost.
					if err := (quiet{hub}).Purge(t.Context(), "acme", "crm_order"); err != nil {
						t.Fatal(err)
					}
				} else if err := b.store.Purge(t.Context(), "acme", "crm_order"); err != nil {
					t.Fatal(err)
				}
				wg.Wait()
				synctest.Wait()
				want(t, a.handle, call(), `{"run":2}`, "miss")
				synctest.Wait()
				want(t, b.handle, call(), `{"run":2}`, "hit")
				if deaf && a.store.Stats().Purged != 1 {
					t.Error("not counted")
				}
			})
		})
	}
}

// quiet purges without a message.
type quiet struct{ hub *cachetest.Hub }

func (q quiet) Purge(ctx context.Context, tenant atlas.TenantID, tool string) error {
	return q.hub.PurgeQuietly(ctx, tenant, tool)
}

func TestGapForgetsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, a, b := two(t, never, (&source{}).handle)
		want(t, a.handle, call(), `{"run":1}`, "miss")
		synctest.Wait()
		want(t, b.handle, call(), `{"run":1}`, "hit")
		if err := hub.PurgeQuietly(t.Context(), "acme", ""); err != nil {
			t.Fatal(err)
		}
		want(t, b.handle, call(), `{"run":1}`, "hit") // it cannot know
		hub.Fail(nil)                                 // the connection is made anew
		synctest.Wait()
		want(t, b.handle, call(), `{"run":2}`, "miss")
	})
	// A load that was under way during the gap answers, and is not kept here.
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: 2 * time.Second}
		hub, a, _ := two(t, never, src.handle)
		hub.Fail(errors.New("away"))
		var wg sync.WaitGroup
		wg.Go(func() { want(t, a.handle, call(), `{"run":1}`, "miss") })
		time.Sleep(time.Second)
		hub.Fail(nil)
		wg.Wait()
		want(t, a.handle, call(), `{"run":2}`, "miss")
	})
}

func TestSharedTierAway(t *testing.T) {
	t.Run("failing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: time.Second}
			hub, a, b := two(t, never, src.handle)
			hub.Fail(errors.New("connection refused"))
			var wg sync.WaitGroup
			for range 100 { // each replica for itself, and still once
				wg.Go(func() { ask(t, a.handle, call()) })
				wg.Go(func() { ask(t, b.handle, call()) })
			}
			wg.Wait()
			if n := src.runs.Load(); n != 2 {
				t.Errorf("%d runs, want 2", n)
			}
			if _, note := ask(t, a.handle, call()); note != "hit" {
				t.Error("memory does not serve")
			}
			if a.store.Stats().Fallbacks == 0 {
				t.Error("not counted")
			}
			hub.Fail(nil)
			time.Sleep(2 * time.Second)
			fresh := func(c *atlas.Call) { c.Page.Offset = 1 }
			ask(t, a.handle, call(fresh))
			synctest.Wait()
			if _, note := ask(t, b.handle, call(fresh)); note != "hit" {
				t.Error("not shared after it is back")
			}
		})
	})
	t.Run("hanging", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hub, a, _ := two(t, never, (&source{}).handle)
			resume := hub.Hang()
			defer resume()
			page := 0
			next := func() time.Duration {
				page++
				began := time.Now()
				if _, note := ask(t, a.handle, call(func(c *atlas.Call) { c.Page.Offset = page })); note != "miss" {
					t.Errorf("a %s", note)
				}
				return time.Since(began)
			}
			for i := range 3 {
				if d := next(); d != 250*time.Millisecond {
					t.Errorf("call %d took %v, want 250ms", i, d)
				}
				synctest.Wait()
			}
			// Giving up the rights that may have been granted fails, too; then it is left alone.
			time.Sleep(2 * time.Second)
			slow := 0
			before := hub.Calls("Claim")
			for range 100 {
				if next() > 0 {
					slow++
				}
			}
			if slow != 1 || hub.Calls("Claim") != before+1 {
				t.Errorf("%d of 100 calls waited, %d asked; want 1: the one that tries", slow, hub.Calls("Claim")-before)
			}
		})
	})
	// A caller who leaves says nothing about the tier.
	t.Run("impatient callers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hub, a, _ := two(t, never, (&source{}).handle)
			resume := hub.Hang()
			for i := range 10 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				_, _ = a.handle(ctx, call(func(c *atlas.Call) { c.Page.Offset = i }))
				cancel()
			}
			synctest.Wait()
			resume()
			before := hub.Calls("Claim")
			ask(t, a.handle, call())
			if hub.Calls("Claim") != before+1 {
				t.Error("the tier is left alone because of callers who left")
			}
		})
	})
	t.Run("a claim that timed out does not keep others waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{}
			hub := cachetest.NewHub()
			far := &bent{Shared: hub.Join()}
			far.claim = func(ctx context.Context, c cache.Claim) (cache.Standing, error) {
				if _, err := far.Shared.Claim(ctx, c); err != nil { // it arrives
					return cache.Standing{}, err
				}
				<-ctx.Done() // its answer does not
				return cache.Standing{}, ctx.Err()
			}
			a, b := replica(t, never, far, src.handle), replica(t, never, hub.Join(), src.handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			began := time.Now()
			want(t, b.handle, call(), `{"run":2}`, "miss")
			if time.Since(began) != 0 {
				t.Errorf("waited %v", time.Since(began))
			}
		})
	})
}

// A driver that panics is a tier that failed; a sealer that does fails one call.
func TestPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := &bent{Shared: cachetest.NewHub().Join()}
		w := replica(t, never, broken, (&source{}).handle)
		broken.claim = func(context.Context, cache.Claim) (cache.Standing, error) { panic("x") }
		want(t, w.handle, call(), `{"run":1}`, "miss")
		want(t, w.handle, call(), `{"run":1}`, "hit")
		broken.claim = nil
		broken.fill = func() (cache.Outcome, error) { panic("x") }
		next := func(c *atlas.Call) { c.Page.Offset = 1 }
		want(t, w.handle, call(next), `{"run":2}`, "miss")
		synctest.Wait()
		want(t, w.handle, call(next), `{"run":2}`, "hit")
		broken.purge = func(context.Context) error { panic("x") }
		if err := w.store.Purge(t.Context(), "acme", ""); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
			t.Errorf("got %v", err)
		}
		if n := w.store.Stats().Fallbacks; n != 2 {
			t.Errorf("%d fallbacks, want 2", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		hub := cachetest.NewHub()
		broken := &brokenSealer{Ring: ring(t, 1)}
		store, err := cache.NewTiered(never, cache.Deps{Shared: hub.Join(), Sealer: broken, Secret: secret(2), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = store.Close() }()
		h := over(t, store, never, "p1", (&source{}).handle)
		synctest.Wait() // until it listens
		broken.seal = true
		want(t, h, call(), `{"run":1}`, "miss")
		synctest.Wait()
		want(t, h, call(), `{"run":1}`, "hit")

		other := replica(t, never, hub.Join(), (&source{}).handle)
		next := func(c *atlas.Call) { c.Page.Offset = 1 }
		ask(t, other.handle, call(next))
		synctest.Wait()
		broken.open = true
		_, err = h(t.Context(), call(next))
		e := atlas.ErrorOf(err)
		if e.Code != atlas.CodeInternal || !strings.Contains(e.Error(), "outage_test.go") {
			t.Errorf("got %v, want internal_error with the stack as its cause", err)
		}
		if data, _ := json.Marshal(e.Failure("r")); strings.Contains(string(data), "secret") {
			t.Errorf("the caller sees %s", data)
		}
	})
}

type brokenSealer struct {
	*seal.Ring
	seal, open bool
}

func (b *brokenSealer) Seal(plain, bound []byte) string {
	if b.seal {
		panic("x")
	}
	return b.Ring.Seal(plain, bound)
}

func (b *brokenSealer) Open(text string, bound []byte) ([]byte, error) {
	if b.open {
		panic("secret of the sealer")
	}
	return b.Ring.Open(text, bound)
}

// A driver that does not end when its context does is left behind.
func TestDriverThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := &bent{Shared: cachetest.NewHub().Join()}
		w := replica(t, never, stuck, (&source{}).handle)
		stuck.claim = func(context.Context, cache.Claim) (cache.Standing, error) {
			time.Sleep(time.Second)
			return cache.Standing{}, errors.New("late")
		}
		began := time.Now()
		want(t, w.handle, call(), `{"run":1}`, "miss")
		if d := time.Since(began); d != 250*time.Millisecond {
			t.Errorf("waited %v", d)
		}
		if err := w.store.Close(); err != nil || time.Since(began) != time.Second {
			t.Errorf("Close did not wait for it: %v, %v", time.Since(began), err)
		}
		if err := w.store.Purge(t.Context(), "acme", ""); atlas.CodeOf(err) != atlas.CodeShuttingDown {
			t.Errorf("a purge after Close gave %v", err)
		}
	})
}

// A purge while the tier is away is an error, and does not get lost.
func TestPurgeWhileAway(t *testing.T) {
	for name, away := range map[string]func(*cachetest.Hub) func(){
		"failing": func(h *cachetest.Hub) func() { h.Fail(errors.New("away")); return func() { h.Fail(nil) } },
		"hanging": func(h *cachetest.Hub) func() { return h.Hang() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub, a, b := two(t, never, (&source{}).handle)
				want(t, a.handle, call(), `{"run":1}`, "miss")
				synctest.Wait()
				want(t, b.handle, call(), `{"run":1}`, "hit")
				back := away(hub)
				began := time.Now()
				err := a.store.Purge(t.Context(), "acme", "crm_order")
				if atlas.CodeOf(err) != atlas.CodeStateUnavailable || time.Since(began) > 2*time.Second {
					t.Errorf("got %v after %v", err, time.Since(began))
				}
				want(t, a.handle, call(), `{"run":2}`, "miss") // here it holds
				synctest.Wait()
				back()
				time.Sleep(3 * time.Second) // the circuit may be open
				// The entry from before is still there; whatever this replica next asks about the tool, it
				// tells of the purge first.
				ask(t, a.handle, call(func(c *atlas.Call) { c.Page.Offset = 9 }))
				synctest.Wait()
				want(t, b.handle, call(), `{"run":4}`, "miss")
			})
		})
	}
}

// A purge that fails stays to be made, though one that began before it succeeds, or another replica's is
// heard of.
func TestFailedPurgeIsNotForgotten(t *testing.T) {
	for name, heard := range map[string]bool{"one that began before succeeds": false, "another replica's is heard": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{}
				hub := cachetest.NewHub()
				far := &bent{Shared: hub.Join()}
				a, b := replica(t, never, far, src.handle), replica(t, never, hub.Join(), src.handle)
				fail := func() {
					far.purge = func(context.Context) error { return errors.New("away") }
					if err := a.store.Purge(t.Context(), "acme", "crm_order"); err == nil {
						t.Error("a purge that failed succeeds")
					}
				}
				if heard {
					fail()
					if err := b.store.Purge(t.Context(), "acme", "crm_order"); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					want(t, b.handle, call(), `{"run":1}`, "miss")
				} else {
					far.purge = func(ctx context.Context) error {
						err := far.Shared.Purge(ctx, "acme", "crm_order")
						synctest.Wait()
						want(t, b.handle, call(), `{"run":1}`, "miss") // and then something is written
						fail()
						return err
					}
					if err := a.store.Purge(t.Context(), "acme", "crm_order"); err != nil {
						t.Fatal(err)
					}
				}
				far.purge = nil
				synctest.Wait()
				ask(t, a.handle, call(func(c *atlas.Call) { c.Page.Offset = 9 }))
				synctest.Wait()
				want(t, b.handle, call(), `{"run":3}`, "miss")
			})
		})
	}
}

// Writes purge: while the second tier is known to hang, they do not wait for it for long.
func TestPurgesWhileHangingAreQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, a, _ := two(t, never, (&source{}).handle)
		resume := hub.Hang()
		defer resume()
		for i := range 10 {
			began := time.Now()
			if err := a.store.Purge(t.Context(), "acme", ""); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
				t.Errorf("got %v", err)
			}
			limit := 2 * time.Second
			if i >= 3 {
				limit = 250 * time.Millisecond
			}
			if d := time.Since(began); d != limit {
				t.Errorf("purge %d took %v, want %v", i, d, limit)
			}
		}
	})
}

// However many tools and tenants are purged, what is remembered is bounded, and the latest holds.
func TestPurgesRememberedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := cachetest.NewHub()
		a := replica(t, never, hub.Join(), (&source{}).handle)
		want(t, a.handle, call(), `{"run":1}`, "miss")
		synctest.Wait()
		for i := range 5000 {
			if err := a.store.Purge(t.Context(), "acme", fmt.Sprint("tool", i)); err != nil {
				t.Fatal(err)
			}
		}
		if n := a.store.Remembered(); n != 4096 {
			t.Errorf("%d purges are kept in mind, want 4096", n)
		}
		restore := hub.Snapshot()
		time.Sleep(time.Second)
		if err := a.store.Purge(t.Context(), "acme", "crm_order"); err != nil {
			t.Fatal(err)
		}
		restore()
		want(t, a.handle, call(), `{"run":2}`, "miss")
		synctest.Wait()
	})
}

// A lease that was granted before the tier went away for a moment is given back when its load ends, also
// while this replica still leaves the tier alone: another replica need not wait for the lease to run out.
func TestLeaseIsGivenBackWhileTheTierCountsAsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: 300 * time.Millisecond}
		hub, a, b := two(t, never, src.handle)
		held := make(chan struct{})
		go func() {
			defer close(held)
			ask(t, a.handle, call())
		}()
		synctest.Wait() // its lease is granted, and it loads
		hub.Fail(errors.New("connection refused"))
		for i := range 3 { // the circuit opens
			page := i + 1
			go ask(t, a.handle, call(func(c *atlas.Call) { c.Page.Offset = page }))
		}
		synctest.Wait()
		hub.Fail(nil)
		<-held
		synctest.Wait()
		began := time.Now()
		ask(t, b.handle, call())
		if d := time.Since(began); d > src.takes {
			t.Errorf("the other replica waited %v, longer than a load of its own", d)
		}
	})
}
