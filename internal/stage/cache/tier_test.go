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
	fill  func() (cache.Outcome, error)
	purge func(context.Context) error
	claim func(context.Context, cache.Claim) (cache.Standing, error)
}

func (b *bent) Renew(ctx context.Context, n cache.Name, token string, lease time.Duration) (bool, error) {
	if b.renew != nil {
		return b.renew()
	}
	return b.Shared.Renew(ctx, n, token, lease)
}

func (b *bent) Fill(ctx context.Context, f cache.Fill) (cache.Outcome, error) {
	if b.fill != nil {
		return b.fill()
	}
	return b.Shared.Fill(ctx, f)
}

func (b *bent) Purge(ctx context.Context, tenant atlas.TenantID, tool string) error {
	if b.purge != nil {
		return b.purge(ctx)
	}
	return b.Shared.Purge(ctx, tenant, tool)
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
			hub, a, b := two(t, never, src.handle)
			c := replica(t, never, hub.Join(), src.handle)
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
			for _, w := range []world{b, c} { // one of them takes over, and the other waits for it
				wg.Go(func() {
					if answer, _ := ask(t, w.handle, call()); answer != `{"run":2}` {
						t.Errorf("got %s", answer)
					}
				})
			}
			wg.Wait()
			if d := time.Since(began); d != 3*time.Second || src.runs.Load() != 2 {
				t.Errorf("it took %v and %d runs; want 3s, taken over at once, and 2", d, src.runs.Load())
			}
			synctest.Wait()
			want(t, a.handle, call(), `{"run":2}`, "hit")
		})
	})
	t.Run("the filler has more time than this tool", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: 25 * time.Second}
			_, a, b := two(t, never, src.handle)
			var wg sync.WaitGroup
			wg.Go(func() {
				want(t, a.handle, call(func(c *atlas.Call) { c.Tool.Timeout = time.Minute }), `{"run":1}`, "miss")
			})
			synctest.Wait()
			began := time.Now()
			want(t, b.handle, call(), "timeout", "miss") // 10 s of waiting, then 10 s of its own
			if d := time.Since(began); d < 20*time.Second || d > 20*time.Second+10*time.Millisecond {
				t.Errorf("it took %v", d)
			}
			wg.Wait()
		})
	})
	t.Run("a purge while it waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: time.Second}
			hub, _, b := two(t, never, src.handle)
			gone := hub.Join()
			if s, err := gone.Claim(t.Context(), cache.Claim{Name: nameOf(t, call()), Token: "gone", Lease: 5 * time.Second, Max: 1 << 20}); err != nil || s.State != cache.Granted {
				t.Fatal(s, err)
			}
			var wg sync.WaitGroup
			wg.Go(func() { want(t, b.handle, call(), `{"run":1}`, "miss") })
			synctest.Wait()
			time.Sleep(time.Second)
			if err := b.store.Purge(t.Context(), "acme", "crm_order"); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			synctest.Wait()
			want(t, b.handle, call(), `{"run":1}`, "hit") // it was loaded after the purge
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
		gaps := w.store.Stats().Gaps
		hub.Fail(nil) // a gap: it forgets what is in memory
		for w.store.Stats().Gaps == gaps {
			runtime.Gosched()
		}
		b.StartTimer()
	}
}
