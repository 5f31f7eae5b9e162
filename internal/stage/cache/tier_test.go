package cache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/seal"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/cache/cachetest"
)

func secret(fill byte) []byte { return bytes.Repeat([]byte{fill}, 32) }

func ring(t testing.TB, fill byte) *seal.Ring {
	t.Helper()
	r, err := seal.New("atlas cache v1", seal.Key{ID: "1", Secret: secret(fill)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tiered returns a store over a second tier, as one replica has it.
func tiered(t testing.TB, cfg cache.Config, shared cache.Shared) *cache.Store {
	t.Helper()
	store, err := cache.NewTiered(cfg, cache.Deps{Shared: shared, Sealer: ring(t, 1), Secret: secret(2), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	for store.Stats().Gaps == 0 { // until it listens
		runtime.Gosched()
	}
	return store
}

// replica returns one replica over shared.
func replica(t testing.TB, cfg cache.Config, shared cache.Shared, next atlas.Handler) world {
	t.Helper()
	store := tiered(t, cfg, shared)
	return world{store, over(t, store, cfg, "p1", next)}
}

// two returns two replicas over one hub, whose tools are one source.
func two(t testing.TB, cfg cache.Config, next atlas.Handler) (hub *cachetest.Hub, a, b world) {
	t.Helper()
	hub = cachetest.NewHub()
	return hub, replica(t, cfg, hub.Join(), next), replica(t, cfg, hub.Join(), next)
}

func TestReplicasShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: time.Second}
		_, a, b := two(t, never, src.handle)
		began := time.Now()
		want(t, a.handle, call(), `{"run":1}`, "miss")
		synctest.Wait()
		want(t, b.handle, call(), `{"run":1}`, "hit")
		want(t, b.handle, call(), `{"run":1}`, "hit")
		res, err := b.handle(t.Context(), call())
		if err != nil || !res.AsOf.Equal(began) || res.Notes != (atlas.Notes{Cache: "hit"}) {
			t.Errorf("the answer of the other replica is %+v, %v", res, err)
		}
		wantStats := cache.Stats{MemoryHits: 2, SharedHits: 1, Gaps: 1}
		if diff := cmp.Diff(wantStats, b.store.Stats()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(cache.Stats{Misses: 1, Gaps: 1}, a.store.Stats()); diff != "" {
			t.Error(diff)
		}
	})
}

// All that an answer holds comes over.
func TestAnswersComeOverWhole(t *testing.T) {
	whole := atlas.Result{
		Structured: json.RawMessage(`{"html":"<b>&amp;</b>" , "n":1e400}`), Truncated: true,
		AsOf: time.Date(2026, 11, 20, 1, 2, 3, 4, time.FixedZone("", 3600)),
		Content: []atlas.Content{
			{Type: atlas.ContentText, Role: "user", Text: "ill-formed \xff\x00 text"},
			{Type: atlas.ContentImage, Data: []byte{0, 1, 2}, MIME: "image/png"},
			{Type: atlas.ContentImage, Data: []byte{}},
			{Type: atlas.ContentResourceLink, URI: "atlas://x", Name: "n", Title: "t", Description: "d", Size: -1},
		},
	}
	for name, answer := range map[string]func() (atlas.Result, error){
		"whole":   func() (atlas.Result, error) { return whole, nil },
		"nothing": func() (atlas.Result, error) { return atlas.Result{AsOf: whole.AsOf}, nil },
		"missing": func() (atlas.Result, error) {
			return atlas.Result{}, atlas.Errorf(atlas.CodeNotFound, errors.New("db7"), "no such order").With("id", "o_1").With("n", 7)
		},
		"missing, no more": func() (atlas.Result, error) { return atlas.Result{}, &atlas.Error{Code: atlas.CodeNotFound} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, a, b := two(t, never, func(context.Context, atlas.Call) (atlas.Result, error) { return answer() })
				_, _ = a.handle(t.Context(), call())
				synctest.Wait()
				here, errHere := a.handle(t.Context(), call())
				there, errThere := b.handle(t.Context(), call())
				if diff := cmp.Diff(here, there); diff != "" {
					t.Error(diff)
				}
				if here.Notes.Cache != "hit" || there.Notes.Cache != "hit" {
					t.Errorf("a %s and a %s", here.Notes.Cache, there.Notes.Cache)
				}
				asJSON := func(err error) string {
					if err == nil {
						return ""
					}
					data, jerr := json.Marshal(atlas.ErrorOf(err).Failure("r"))
					if jerr != nil {
						t.Error(jerr)
					}
					return string(data) + err.Error()
				}
				if diff := cmp.Diff(asJSON(errHere), asJSON(errThere)); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestStampedeOnTwoReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: 20 * time.Second} // four times the lease
		_, a, b := two(t, never, src.handle)    // its odds of an early refresh are e^-3
		long := func(c *atlas.Call) { c.Tool.Timeout = time.Minute }
		var wg sync.WaitGroup
		for i := range 1000 {
			h := a.handle
			if i%2 == 1 {
				h = b.handle
			}
			wg.Go(func() {
				if answer, _ := ask(t, h, call(long)); answer != `{"run":1}` {
					t.Errorf("got %s", answer)
				}
			})
		}
		began := time.Now()
		wg.Wait()
		if src.runs.Load() != 1 || time.Since(began) != 20*time.Second {
			t.Errorf("%d runs in %v, want 1 in 20s", src.runs.Load(), time.Since(began))
		}
	})
}

// What was taken over lives no longer here than there.
func TestMemoryDoesNotOutliveTheSharedTier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, a, b := two(t, never, (&source{}).handle)
		want(t, a.handle, call(), `{"run":1}`, "miss")
		time.Sleep(50 * time.Second)
		want(t, b.handle, call(), `{"run":1}`, "hit")
		time.Sleep(10*time.Second - time.Nanosecond)
		want(t, b.handle, call(), `{"run":1}`, "hit")
		time.Sleep(time.Nanosecond)
		want(t, b.handle, call(), `{"run":2}`, "miss")
		// The store's own clock says less than the envelope: the store's holds.
		synctest.Wait()
		for n, e := range hub.Entries() {
			e.Expires = time.Now().Add(3 * time.Second)
			hub.Put(n, e)
		}
		c := replica(t, never, hub.Join(), (&source{}).handle)
		want(t, c.handle, call(), `{"run":2}`, "hit")
		time.Sleep(3 * time.Second)
		want(t, c.handle, call(), `{"run":1}`, "miss")
	})
	// Somebody takes the expiry off: the one inside the envelope holds.
	synctest.Test(t, func(t *testing.T) {
		hub, a, b := two(t, never, (&source{}).handle)
		want(t, a.handle, call(), `{"run":1}`, "miss")
		synctest.Wait()
		for n, e := range hub.Entries() {
			e.Expires = time.Now().Add(24 * time.Hour)
			hub.Put(n, e)
		}
		time.Sleep(59 * time.Second)
		want(t, b.handle, call(), `{"run":1}`, "hit")
		time.Sleep(time.Second)
		want(t, b.handle, call(), `{"run":2}`, "miss")
	})
}

// A tier whose methods can be replaced.
type bent struct {
	cache.Shared
	renew func() (bool, error)
	claim func(context.Context, cache.Claim) (cache.Standing, error)
}

func (b *bent) Renew(ctx context.Context, n cache.Name, token string, lease time.Duration) (bool, error) {
	if b.renew != nil {
		return b.renew()
	}
	return b.Shared.Renew(ctx, n, token, lease)
}

func (b *bent) Claim(ctx context.Context, c cache.Claim) (cache.Standing, error) {
	if b.claim != nil {
		return b.claim(ctx, c)
	}
	return b.Shared.Claim(ctx, c)
}

func TestTakeover(t *testing.T) {
	t.Run("the filler died", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: 2 * time.Second}
			hub := cachetest.NewHub()
			dead := hub.Join()
			a := replica(t, never, hub.Join(), src.handle)
			b := replica(t, never, hub.Join(), src.handle)
			n := nameOf(t, call())
			if s, err := dead.Claim(t.Context(), cache.Claim{Name: n, Token: "dead", Lease: 5 * time.Second, Max: 1 << 20}); err != nil || s.State != cache.Granted {
				t.Fatal(s, err)
			}
			began := time.Now()
			var wg sync.WaitGroup
			for _, w := range []world{a, b} {
				wg.Go(func() {
					if answer, _ := ask(t, w.handle, call()); answer != `{"run":1}` {
						t.Errorf("got %s", answer)
					}
				})
			}
			wg.Wait()
			if d := time.Since(began); src.runs.Load() != 1 || d < 7*time.Second || d > 8*time.Second {
				t.Errorf("%d runs in %v; want 1, after a lease of 5s and a load of 2s", src.runs.Load(), d)
			}
			if n := a.store.Stats().Takeovers + b.store.Stats().Takeovers; n != 1 {
				t.Errorf("%d takeovers are counted", n)
			}
		})
	})
	t.Run("the filler's callers left", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: 2 * time.Second}
			_, a, b := two(t, never, src.handle)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := a.handle(ctx, call()); atlas.CodeOf(err) != atlas.CodeTimeout {
					t.Errorf("got %v", err)
				}
			})
			synctest.Wait()
			began := time.Now()
			want(t, b.handle, call(), `{"run":2}`, "miss")
			if d := time.Since(began); d != 3*time.Second {
				t.Errorf("it took %v; want 3s: taken over at once", d)
			}
			wg.Wait()
			synctest.Wait()
			want(t, a.handle, call(), `{"run":2}`, "hit")
		})
	})
	t.Run("the filler stood still", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hub := cachetest.NewHub()
			slow, fast := &source{takes: 8 * time.Second}, &source{takes: 2 * time.Second}
			slow.runs.Store(100)
			stopped := &bent{Shared: hub.Join(), renew: func() (bool, error) { return false, errors.New("not running") }}
			a, b := replica(t, never, stopped, slow.handle), replica(t, never, hub.Join(), fast.handle)
			var wg sync.WaitGroup
			wg.Go(func() { want(t, a.handle, call(), `{"run":101}`, "miss") })
			synctest.Wait()
			began := time.Now()
			want(t, b.handle, call(), `{"run":1}`, "miss")
			if d := time.Since(began); d < 7*time.Second || d > 8*time.Second {
				t.Errorf("taken over after %v", d)
			}
			wg.Wait()
			synctest.Wait()
			// The old answer came last and is nowhere.
			want(t, a.handle, call(), `{"run":1}`, "hit")
			want(t, b.handle, call(), `{"run":1}`, "hit")
			if n := a.store.Stats().Lost; n != 1 {
				t.Errorf("%d lost, want 1", n)
			}
		})
	})
	t.Run("nobody waits beyond its own deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: 9 * time.Second}
			_, a, b := two(t, never, src.handle)
			var wg sync.WaitGroup
			wg.Go(func() { want(t, a.handle, call(), `{"run":1}`, "miss") })
			synctest.Wait()
			began := time.Now()
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := b.handle(ctx, call()); atlas.CodeOf(err) != atlas.CodeTimeout || time.Since(began) != time.Second {
					t.Errorf("got %v after %v", err, time.Since(began))
				}
			})
			wg.Go(func() {
				want(t, b.handle, call(func(c *atlas.Call) { c.Budget.Total = 2 * time.Second }), "budget_exhausted", "miss")
				if time.Since(began) != 2*time.Second {
					t.Errorf("waited %v with a budget of 2s", time.Since(began))
				}
			})
			wg.Go(func() { want(t, b.handle, call(), `{"run":1}`, "hit") })
			wg.Wait()
		})
	})
	t.Run("Close ends the wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: 9 * time.Second}
			_, a, b := two(t, never, src.handle)
			var wg sync.WaitGroup
			wg.Go(func() { want(t, a.handle, call(), `{"run":1}`, "miss") })
			synctest.Wait()
			wg.Go(func() { want(t, b.handle, call(), "shutting_down", "miss") })
			synctest.Wait()
			began := time.Now()
			if err := b.store.Close(); err != nil || time.Since(began) != 0 {
				t.Errorf("Close took %v (%v)", time.Since(began), err)
			}
			wg.Wait()
			if src.runs.Load() != 1 {
				t.Errorf("%d runs", src.runs.Load())
			}
		})
	})
}

// nameOf returns where the answer to a call lies, by having it loaded.
func nameOf(t *testing.T, c atlas.Call) cache.Name {
	t.Helper()
	hub := cachetest.NewHub()
	w := replica(t, never, hub.Join(), (&source{}).handle)
	ask(t, w.handle, c)
	synctest.Wait()
	for n := range hub.Entries() {
		return n
	}
	t.Fatal("nothing was kept")
	return cache.Name{}
}

// A tool that fails is asked by each replica for itself, at the same time and not one after another.
func TestFailuresAreNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: time.Second, err: func(context.Context, int64) error {
			return atlas.Errorf(atlas.CodeSourceUnavailable, nil, "")
		}}
		hub := cachetest.NewHub()
		var wg sync.WaitGroup
		began := time.Now()
		for range 4 {
			w := replica(t, never, hub.Join(), src.handle)
			wg.Go(func() { want(t, w.handle, call(), "source_unavailable", "miss") })
		}
		wg.Wait()
		if d := time.Since(began); d != 2*time.Second || src.runs.Load() != 4 {
			t.Errorf("%d runs in %v, want 4 in 2s", src.runs.Load(), d)
		}
		synctest.Wait()
		if n := len(hub.Entries()); n != 0 {
			t.Errorf("%d failures are kept", n)
		}
	})
}

func TestNegativeIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: time.Second, err: func(context.Context, int64) error { return &atlas.Error{Code: atlas.CodeNotFound} }}
		_, a, b := two(t, never, src.handle)
		want(t, a.handle, call(), "not_found", "miss")
		synctest.Wait()
		want(t, b.handle, call(), "not_found", "hit")
		time.Sleep(5 * time.Second)
		want(t, b.handle, call(), "not_found", "miss")
	})
}

// What is not for the cache is not for the second tier either, and nobody waits for it.
func TestNotKeptInTheSharedTier(t *testing.T) {
	for name, edit := range map[string]func(*atlas.Result){
		"partial": func(r *atlas.Result) { r.Partial = true },
		"cursor":  func(r *atlas.Result) { r.NextCursor = "c" },
		"ask":     func(r *atlas.Result) { r.Ask = &atlas.Ask{} },
		"large":   func(r *atlas.Result) { r.Structured = make([]byte, 600<<10) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{takes: time.Second, edit: edit}
				hub, a, b := two(t, never, src.handle)
				var wg sync.WaitGroup
				began := time.Now()
				for _, w := range []world{a, b} {
					wg.Go(func() { ask(t, w.handle, call()) })
				}
				wg.Wait()
				if d := time.Since(began); d != 2*time.Second || src.runs.Load() != 2 {
					t.Errorf("%d runs in %v, want 2 in 2s", src.runs.Load(), d)
				}
				synctest.Wait()
				if n := len(hub.Entries()); n != 0 {
					t.Errorf("%d entries are kept", n)
				}
			})
		})
	}
	t.Run("panic", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hub, a, b := two(t, never, func(context.Context, atlas.Call) (atlas.Result, error) { panic("x") })
			want(t, a.handle, call(), "internal_error", "miss")
			synctest.Wait()
			began := time.Now()
			want(t, b.handle, call(), "internal_error", "miss")
			if time.Since(began) != 0 || len(hub.Entries()) != 0 {
				t.Error("a panic left something behind")
			}
		})
	})
}

func TestOneReplicaRefreshes(t *testing.T) {
	eager := cache.Config{Beta: 1e12}
	t.Run("from memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: time.Second}
			hub := cachetest.NewHub()
			a, b := replica(t, never, hub.Join(), src.handle), replica(t, never, hub.Join(), src.handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			want(t, b.handle, call(), `{"run":1}`, "hit")
			ea, eb := over(t, a.store, eager, "p1", src.handle), over(t, b.store, eager, "p1", src.handle)
			for range 20 {
				want(t, ea, call(), `{"run":1}`, "hit")
				synctest.Wait()
				want(t, eb, call(), `{"run":1}`, "hit")
				synctest.Wait()
			}
			time.Sleep(2 * time.Second)
			if n := src.runs.Load(); n != 2 {
				t.Errorf("%d runs, want 2: one refresh", n)
			}
			want(t, a.handle, call(), `{"run":2}`, "hit")
			want(t, b.handle, call(), `{"run":1}`, "hit") // until it ends, or is looked at again
		})
	})
	t.Run("the other has done it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: time.Second}
			_, a, b := two(t, never, src.handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			want(t, b.handle, call(), `{"run":1}`, "hit")
			want(t, over(t, a.store, eager, "p1", src.handle), call(), `{"run":1}`, "hit")
			time.Sleep(2 * time.Second)
			want(t, over(t, b.store, eager, "p1", src.handle), call(), `{"run":1}`, "hit")
			synctest.Wait()
			want(t, b.handle, call(), `{"run":2}`, "hit")
			if n := src.runs.Load(); n != 2 {
				t.Errorf("%d runs, want 2", n)
			}
		})
	})
	t.Run("from the second tier", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: time.Second}
			hub := cachetest.NewHub()
			a := replica(t, never, hub.Join(), src.handle)
			b := replica(t, eager, hub.Join(), src.handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			began := time.Now()
			want(t, b.handle, call(), `{"run":1}`, "hit")
			if time.Since(began) != 0 {
				t.Error("a hit waited for the refresh")
			}
			time.Sleep(2 * time.Second)
			if n := src.runs.Load(); n != 2 {
				t.Errorf("%d runs, want 2", n)
			}
		})
	})
	t.Run("who joins one that another does asks again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: 5 * time.Second}
			hub := cachetest.NewHub()
			slowly := &bent{Shared: hub.Join()}
			a, b := replica(t, never, hub.Join(), src.handle), replica(t, cache.Config{Beta: -1, SharedTimeout: 4 * time.Second}, slowly, src.handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			want(t, b.handle, call(), `{"run":1}`, "hit")
			time.Sleep(59 * time.Second) // 1 s is left
			want(t, over(t, a.store, eager, "p1", src.handle), call(), `{"run":1}`, "hit")
			synctest.Wait()
			slowly.claim = func(ctx context.Context, c cache.Claim) (cache.Standing, error) {
				s, err := slowly.Shared.Claim(ctx, c)
				select {
				case <-time.After(2 * time.Second):
				case <-ctx.Done():
				}
				return s, err
			}
			want(t, over(t, b.store, eager, "p1", src.handle), call(), `{"run":1}`, "hit") // its refresh is on the way
			time.Sleep(time.Second + time.Millisecond)
			if answer, _ := ask(t, b.handle, call()); answer != `{"run":2}` {
				t.Errorf("got %q", answer)
			}
		})
	})
}

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
				if d := next(); d != 50*time.Millisecond {
					t.Errorf("call %d took %v, want 50ms", i, d)
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

// --- what must never happen ---

// Whatever makes a difference to what a caller may see keeps replicas apart, too.
func TestNotSharedBetweenReplicas(t *testing.T) {
	for name, change := range map[string]func(*atlas.Call){
		"tenant":        func(c *atlas.Call) { c.Tenant, c.Principal.Tenant = "globex", "globex" },
		"home tenant":   func(c *atlas.Call) { c.Principal.Tenant = "globex" },
		"acting tenant": func(c *atlas.Call) { c.Tenant = "globex" },
		"fewer scopes":  func(c *atlas.Call) { c.Principal.Scopes = nil },
		"more scopes":   func(c *atlas.Call) { c.Principal.Scopes = append(c.Principal.Scopes, "tool:crm:pii") },
		"roles":         func(c *atlas.Call) { c.Principal.Roles = []string{"admin"} },
		"tool":          func(c *atlas.Call) { c.Tool.Name = "crm_customer" },
		"tool version":  func(c *atlas.Call) { c.Tool.Version = "v2" },
		"glued version": func(c *atlas.Call) { c.Tool.Name, c.Tool.Version = "crm_orderv", "1" },
		"glued tenant":  func(c *atlas.Call) { c.Tenant, c.Tool.Name = "acmec", "rm_order" },
		"separators":    func(c *atlas.Call) { c.Tenant, c.Tool.Name = "acme-crm", "order" },
		"arguments":     func(c *atlas.Call) { c.Args.Digest[0] ^= 1 },
		"page":          func(c *atlas.Call) { c.Page.Offset = 1 },
		"negative page": func(c *atlas.Call) { c.Page.Offset = -1 },
		"level":         func(c *atlas.Call) { c.Tool.Level = atlas.Workflow },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, a, b := two(t, never, (&source{}).handle)
				want(t, a.handle, call(), `{"run":1}`, "miss")
				synctest.Wait()
				want(t, b.handle, call(change), `{"run":2}`, "miss")
				synctest.Wait()
				want(t, b.handle, call(), `{"run":1}`, "hit")
				want(t, a.handle, call(change), `{"run":2}`, "hit")
			})
		})
	}
	t.Run("policy version", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{}
			_, a, b := two(t, never, src.handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			want(t, over(t, b.store, never, "p2", src.handle), call(), `{"run":2}`, "miss")
		})
	})
}

// secretive answers with what only the call's own tenant and scopes may see.
func secretive(_ context.Context, c atlas.Call) (atlas.Result, error) {
	return atlas.Result{Structured: fmt.Appendf(nil, `{"of":"%s %s"}`, c.Tenant, strings.Join(c.Principal.Scopes, " "))}, nil
}

func globex(c *atlas.Call) { c.Tenant, c.Principal.Tenant = "globex", "globex" }

// Whoever can write to the store moves, changes and puts back entries. None of it is ever an answer.
func TestForgedEntries(t *testing.T) {
	for name, forge := range map[string]func(hub *cachetest.Hub, acme, globex cache.Name){
		"another tenant's answer": func(h *cachetest.Hub, acme, globex cache.Name) {
			stolen := h.Entries()[acme]
			h.Put(globex, stolen)
		},
		"another tenant's answer under its own epoch and token": func(h *cachetest.Hub, acme, globex cache.Name) {
			stolen, own := h.Entries()[acme], h.Entries()[globex]
			own.Value = stolen.Value
			h.Put(globex, own)
		},
		"one bit": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			v := []byte(e.Value)
			v[len(v)/2] ^= 1
			e.Value = string(v)
			h.Put(globex, e)
		},
		"another token": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			e.Token = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
			h.Put(globex, e)
		},
		"cut short": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			e.Value = e.Value[:len(e.Value)-4]
			h.Put(globex, e)
		},
		"empty": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			e.Value = ""
			h.Put(globex, e)
		},
		"in the clear": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			e.Value = `{"of":"forged"}`
			h.Put(globex, e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var runs atomic.Int64
				counted := func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
					runs.Add(1)
					return secretive(ctx, c)
				}
				hub, a, _ := two(t, never, counted)
				ask(t, a.handle, call())
				synctest.Wait()
				var acmes, globexes cache.Name
				for n := range hub.Entries() {
					acmes = n
				}
				ask(t, a.handle, call(globex))
				synctest.Wait()
				for n := range hub.Entries() {
					if n != acmes {
						globexes = n
					}
				}
				forge(hub, acmes, globexes)
				fresh := replica(t, never, hub.Join(), counted)
				want(t, fresh.handle, call(globex), `{"of":"globex tool:crm:read"}`, "miss")
				rejected := uint64(1)
				if name == "another tenant's answer" {
					rejected = 0 // its epoch is another's, too: the store itself does not give it out
				}
				if st := fresh.store.Stats(); st.Rejected != rejected || st.SharedHits != 0 {
					t.Errorf("counted as %+v", st)
				}
				synctest.Wait()
				// It was loaded anew and is shared again.
				last := replica(t, never, hub.Join(), counted)
				want(t, last.handle, call(globex), `{"of":"globex tool:crm:read"}`, "hit")
				if runs.Load() != 3 {
					t.Errorf("%d runs, want 3", runs.Load())
				}
			})
		})
	}
}

// Answers of another scope of the same tenant, moved under this one's name.
func TestForgedScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, a, b := two(t, never, secretive)
		low := func(c *atlas.Call) { c.Principal.Scopes = []string{"low"} }
		ask(t, a.handle, call(low))
		synctest.Wait()
		var lows cache.Name
		for n := range hub.Entries() {
			lows = n
		}
		ask(t, a.handle, call())
		synctest.Wait()
		for n, e := range hub.Entries() {
			if n != lows {
				hub.Put(lows, e)
			}
		}
		want(t, b.handle, call(low), `{"of":"acme low"}`, "miss")
	})
}

// An entry from before a purge that is put back, alone or with all that stood beside it.
func TestReplayAfterAPurge(t *testing.T) {
	t.Run("the entry", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hub, a, b := two(t, never, (&source{}).handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			old := hub.Entries()
			time.Sleep(time.Second)
			if err := a.store.Purge(t.Context(), "acme", "crm_order"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			want(t, a.handle, call(func(c *atlas.Call) { c.Page.Offset = 1 }), `{"run":2}`, "miss")
			synctest.Wait()
			var epoch string
			for n, e := range hub.Entries() {
				if _, was := old[n]; !was {
					epoch = e.Epoch
				}
			}
			for n, e := range old {
				hub.Put(n, e)
				e.Epoch = epoch // dressed up as new
				hub.Put(n, e)
			}
			want(t, b.handle, call(), `{"run":3}`, "miss")
			fresh := replica(t, never, hub.Join(), (&source{}).handle)
			want(t, fresh.handle, call(), `{"run":3}`, "hit")
		})
	})
	t.Run("the whole store", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hub, a, b := two(t, never, (&source{}).handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			restore := hub.Snapshot()
			time.Sleep(time.Second)
			if err := a.store.Purge(t.Context(), "acme", ""); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			restore()
			time.Sleep(time.Second)
			for _, w := range []world{a, b} { // who purged, and who heard of it
				if answer, _ := ask(t, w.handle, call()); answer == `{"run":1}` {
					t.Error("what was purged came back")
				}
				synctest.Wait()
			}
		})
	})
}

// Whoever reads the store sees no answer, and cannot guess the arguments by the names.
func TestStoreTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, a, _ := two(t, never, func(context.Context, atlas.Call) (atlas.Result, error) {
			return atlas.Result{Structured: json.RawMessage(`{"iban":"DE89370400440532013000"}`)}, nil
		})
		ask(t, a.handle, call())
		synctest.Wait()
		names := map[[32]byte]bool{}
		for n, e := range hub.Entries() {
			names[n.Digest] = true
			if strings.Contains(e.Value, "DE8937") || strings.Contains(e.Value, "iban") {
				t.Errorf("the store holds %q", e.Value)
			}
		}
		// Another deployment on the same store: other names, and what it would find does not open.
		store, err := cache.NewTiered(never, cache.Deps{Shared: hub.Join(), Sealer: ring(t, 9), Secret: secret(9), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = store.Close() }()
		want(t, over(t, store, never, "p1", (&source{}).handle), call(), `{"run":1}`, "miss")
		synctest.Wait()
		again := 0
		for n := range hub.Entries() {
			if names[n.Digest] {
				again++
			}
		}
		if again != 1 || len(hub.Entries()) != 2 {
			t.Errorf("%d of %d names are the first deployment's, want 1 of 2", again, len(hub.Entries()))
		}
	})
}

func TestTieredNeedsItsDeps(t *testing.T) {
	hub := cachetest.NewHub()
	log := slog.New(slog.DiscardHandler)
	for name, d := range map[string]cache.Deps{
		"no sealer":    {Shared: hub.Join(), Secret: secret(1), Log: log},
		"short secret": {Shared: hub.Join(), Sealer: ring(t, 1), Secret: []byte("short"), Log: log},
		"no log":       {Shared: hub.Join(), Sealer: ring(t, 1), Secret: secret(1)},
	} {
		if _, err := cache.NewTiered(cache.Config{}, d); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkSharedHit(b *testing.B) {
	hub := cachetest.NewHub()
	src := func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Structured: fmt.Appendf(nil, `{"pad":%q}`, strings.Repeat("x", 1000))}, nil
	}
	w := replica(b, never, hub.Join(), src)
	c := call(func(c *atlas.Call) { c.Tool.CacheTTL = time.Hour })
	b.ReportAllocs()
	for b.Loop() {
		if res, err := w.handle(b.Context(), c); err != nil || len(res.Structured) == 0 {
			b.Fatal(err)
		}
		b.StopTimer()
		hub.Fail(nil) // forgets what is in memory
		b.StartTimer()
	}
}
