package cache_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A source is a handler that counts its runs and answers with their number.
type source struct {
	runs  atomic.Int64
	takes time.Duration
	err   func(ctx context.Context, n int64) error
	edit  func(*atlas.Result)
}

func (s *source) handle(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
	n := s.runs.Add(1)
	notes := atlas.Notes{Attempts: 1, Breaker: "closed"}
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return atlas.Result{Notes: notes}, ctx.Err()
	}
	if s.err != nil {
		if err := s.err(ctx, n); err != nil {
			return atlas.Result{Notes: notes}, err
		}
	}
	res := atlas.Result{Structured: fmt.Appendf(nil, `{"run":%d}`, n), Notes: notes}
	if s.edit != nil {
		s.edit(&res)
	}
	return res, nil
}

type world struct {
	store  *cache.Store
	handle atlas.Handler
}

func newStore(t testing.TB, cfg cache.Config) *cache.Store {
	t.Helper()
	store, err := cache.NewStore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func over(t testing.TB, store *cache.Store, cfg cache.Config, policy string, next atlas.Handler) atlas.Handler {
	t.Helper()
	c, err := cache.New(cfg, store, func() string { return policy }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c.Stage(next)
}

func newWorld(t testing.TB, cfg cache.Config, next atlas.Handler) world {
	t.Helper()
	store := newStore(t, cfg)
	return world{store, over(t, store, cfg, "p1", next)}
}

// never turns the early refresh off, for tests that count runs.
var never = cache.Config{Beta: -1}

func tool() *atlas.Tool {
	return &atlas.Tool{
		Name: "crm_order", Level: atlas.Atomic, Version: "v1", ReadOnly: true,
		CacheTTL: time.Minute, Timeout: 10 * time.Second,
	}
}

func alice() *atlas.Principal {
	return &atlas.Principal{Subject: "alice", Tenant: "acme", Roles: []string{"agent"}, Scopes: []string{"tool:crm:read"}, TokenID: "t1"}
}

func call(change ...func(*atlas.Call)) atlas.Call {
	c := atlas.Call{
		ID: "r", Name: "crm_order", Tool: tool(), Principal: alice(), Tenant: "acme",
		Args: atlas.Args{Raw: json.RawMessage(`{}`), Digest: sha256.Sum256([]byte(`{}`))}, Received: time.Now(),
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func ask(t *testing.T, h atlas.Handler, c atlas.Call) (string, string) {
	t.Helper()
	res, err := h(t.Context(), c)
	if err != nil {
		return string(atlas.CodeOf(err)), res.Notes.Cache
	}
	return string(res.Structured), res.Notes.Cache
}

func want(t *testing.T, h atlas.Handler, c atlas.Call, answer, note string) {
	t.Helper()
	if a, n := ask(t, h, c); a != answer || n != note {
		t.Errorf("got %s (%s), want %s (%s)", a, n, answer, note)
	}
}

func TestHitAndExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: time.Second}
		w := newWorld(t, never, src.handle)
		began := time.Now()
		want(t, w.handle, call(), `{"run":1}`, "miss")
		want(t, w.handle, call(), `{"run":1}`, "hit")
		res, _ := w.handle(t.Context(), call())
		if !res.AsOf.Equal(began) {
			t.Errorf("AsOf is %v, want the beginning of the load, %v", res.AsOf, began)
		}
		if res.Notes.Attempts != 0 || res.Notes.Breaker != "" {
			t.Errorf("a hit carries the notes of the load: %+v", res.Notes)
		}
		time.Sleep(time.Minute - time.Nanosecond)
		want(t, w.handle, call(), `{"run":1}`, "hit")
		time.Sleep(time.Nanosecond)
		want(t, w.handle, call(), `{"run":2}`, "miss")
	})
}

func TestLeaderKeepsNotes(t *testing.T) {
	w := newWorld(t, never, (&source{}).handle)
	res, err := w.handle(t.Context(), call())
	if err != nil || res.Notes.Attempts != 1 || res.Notes.Breaker != "closed" {
		t.Errorf("the notes of the load are lost: %+v, %v", res.Notes, err)
	}
}

func TestSourcesAsOfIsKept(t *testing.T) {
	asOf := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	w := newWorld(t, never, (&source{edit: func(r *atlas.Result) { r.AsOf = asOf }}).handle)
	for range 2 {
		if res, err := w.handle(t.Context(), call()); err != nil || !res.AsOf.Equal(asOf) {
			t.Errorf("AsOf is %v (%v), want %v", res.AsOf, err, asOf)
		}
	}
}

func TestBypass(t *testing.T) {
	for name, change := range map[string]func(*atlas.Call){
		"no cache time": func(c *atlas.Call) { c.Tool.CacheTTL = 0 },
		"not read-only": func(c *atlas.Call) { c.Tool.ReadOnly = false },
		"destructive":   func(c *atlas.Call) { c.Tool.Destructive = true },
		"writes":        func(c *atlas.Call) { c.Tool.Effects = atlas.EffectsWrite },
		"sends out":     func(c *atlas.Call) { c.Tool.Effects = atlas.EffectsEgress },
		"no version":    func(c *atlas.Call) { c.Tool.Version = "" },
		"no digest":     func(c *atlas.Call) { c.Args.Digest = [32]byte{} },
		"no tenant":     func(c *atlas.Call) { c.Tenant = "" },
		"no tool":       func(c *atlas.Call) { c.Tool = nil },
		"workflow, claims, no id": func(c *atlas.Call) {
			c.Tool.Level = atlas.Workflow
			c.Principal.TokenID = ""
			c.Principal.Claims = map[string]any{"x": 1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, never, (&source{}).handle)
			want(t, w.handle, call(change), `{"run":1}`, "bypass")
			want(t, w.handle, call(change), `{"run":2}`, "bypass")
		})
	}
	t.Run("list", func(t *testing.T) {
		w := newWorld(t, never, (&source{}).handle)
		want(t, w.handle, call(func(c *atlas.Call) { c.Op = atlas.OpList }), `{"run":1}`, "")
	})
}

// Each of these makes a difference to what a caller may see or gets, so none may share.
func TestNotShared(t *testing.T) {
	for name, change := range map[string]func(*atlas.Call){
		"tenant":           func(c *atlas.Call) { c.Tenant, c.Principal.Tenant = "globex", "globex" },
		"home tenant":      func(c *atlas.Call) { c.Principal.Tenant = "globex" },
		"fewer scopes":     func(c *atlas.Call) { c.Principal.Scopes = nil },
		"more scopes":      func(c *atlas.Call) { c.Principal.Scopes = append(c.Principal.Scopes, "tool:crm:pii") },
		"roles":            func(c *atlas.Call) { c.Principal.Roles = []string{"admin"} },
		"role as scope":    func(c *atlas.Call) { c.Principal.Roles, c.Principal.Scopes = nil, []string{"agent", "tool:crm:read"} },
		"glued names":      func(c *atlas.Call) { c.Principal.Scopes = []string{"tool:crm", ":read"} },
		"tool":             func(c *atlas.Call) { c.Tool.Name = "crm_customer" },
		"tool version":     func(c *atlas.Call) { c.Tool.Version = "v2" },
		"arguments":        func(c *atlas.Call) { c.Args.Digest = sha256.Sum256([]byte(`{"a":1}`)) },
		"page":             func(c *atlas.Call) { c.Page.Offset = 10 },
		"wf subject":       func(c *atlas.Call) { c.Tool.Level = atlas.Workflow; c.Principal.Subject = "bob" },
		"wf delegator":     func(c *atlas.Call) { c.Tool.Level = atlas.Workflow; c.Principal.Delegator = "agent" },
		"wf token":         func(c *atlas.Call) { c.Tool.Level = atlas.Workflow; c.Principal.TokenID = "t2" },
		"composed subject": func(c *atlas.Call) { c.Tool.Level = atlas.Composed; c.Principal.Subject = "bob" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, never, (&source{}).handle)
			base := call()
			if other := call(change); other.Tool.Level != atlas.Atomic {
				base = call(func(c *atlas.Call) { c.Tool.Level = other.Tool.Level })
			}
			want(t, w.handle, base, `{"run":1}`, "miss")
			want(t, w.handle, call(change), `{"run":2}`, "miss")
			want(t, w.handle, base, `{"run":1}`, "hit")
			want(t, w.handle, call(change), `{"run":2}`, "hit")
		})
	}
	t.Run("policy version", func(t *testing.T) {
		src := &source{}
		w := newWorld(t, never, src.handle)
		want(t, w.handle, call(), `{"run":1}`, "miss")
		reloaded := over(t, w.store, never, "p2", src.handle)
		want(t, reloaded, call(), `{"run":2}`, "miss")
		again := over(t, w.store, never, "p1", src.handle)
		want(t, again, call(), `{"run":1}`, "hit") // the store survived both reloads
	})
}

func TestShared(t *testing.T) {
	for name, change := range map[string]func(*atlas.Call){
		"subject":        func(c *atlas.Call) { c.Principal.Subject, c.Principal.TokenID = "bob", "t2" },
		"order of names": func(c *atlas.Call) { c.Principal.Scopes = []string{"b", "a"}; c.Principal.Roles = []string{"y", "x"} },
		"transport":      func(c *atlas.Call) { c.Transport, c.ID = "stdio", "other" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, never, (&source{}).handle)
			first := call()
			if name == "order of names" {
				first = call(func(c *atlas.Call) { c.Principal.Scopes = []string{"a", "b"}; c.Principal.Roles = []string{"x", "y"} })
			}
			want(t, w.handle, first, `{"run":1}`, "miss")
			want(t, w.handle, call(change), `{"run":1}`, "hit")
		})
	}
	p := alice()
	p.Scopes = []string{"b", "a"}
	w := newWorld(t, never, (&source{}).handle)
	want(t, w.handle, call(func(c *atlas.Call) { c.Principal = p }), `{"run":1}`, "miss")
	if p.Scopes[0] != "b" {
		t.Error("the principal's scopes were sorted in place")
	}
}

func TestNotKept(t *testing.T) {
	failing := func(code atlas.Code) *source {
		return &source{err: func(context.Context, int64) error { return atlas.Errorf(code, nil, "") }}
	}
	for name, tc := range map[string]struct {
		src    *source
		answer string
	}{
		"partial":     {&source{edit: func(r *atlas.Result) { r.Partial = true }}, `{"run":1}`},
		"cursor":      {&source{edit: func(r *atlas.Result) { r.NextCursor = "c" }}, `{"run":1}`},
		"large":       {&source{edit: func(r *atlas.Result) { r.Structured = make([]byte, 600<<10) }}, string(make([]byte, 600<<10))},
		"unavailable": {failing(atlas.CodeSourceUnavailable), "source_unavailable"},
		"denied":      {failing(atlas.CodeDeniedByPolicy), "denied_by_policy"},
		"invalid":     {failing(atlas.CodeInvalidQuery), "invalid_query"},
		"timeout":     {failing(atlas.CodeTimeout), "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, never, tc.src.handle)
			want(t, w.handle, call(), tc.answer, "miss")
			if _, note := ask(t, w.handle, call()); note != "miss" || tc.src.runs.Load() != 2 {
				t.Errorf("%d runs, %s; want 2, miss", tc.src.runs.Load(), note)
			}
		})
	}
}

func TestNegative(t *testing.T) {
	cause := errors.New("no row for key o_1 of host db7")
	missing := func() *source {
		return &source{err: func(context.Context, int64) error {
			return atlas.Errorf(atlas.CodeNotFound, cause, "no such order").With("argument", "order_id")
		}}
	}
	synctest.Test(t, func(t *testing.T) {
		src := missing()
		w := newWorld(t, never, src.handle)
		want(t, w.handle, call(), "not_found", "miss")
		res, err := w.handle(t.Context(), call())
		e := atlas.ErrorOf(err)
		if res.Notes.Cache != "hit" || e.Code != atlas.CodeNotFound || e.Hint != "no such order" || e.Context["argument"] != "order_id" {
			t.Errorf("the kept failure is %+v (%s)", e, res.Notes.Cache)
		}
		if errors.Is(err, cause) {
			t.Error("the first caller's cause is kept")
		}
		e.Context["argument"] = "changed"
		if _, err := w.handle(t.Context(), call()); atlas.ErrorOf(err).Context["argument"] != "order_id" {
			t.Error("a caller changed the kept failure")
		}
		time.Sleep(5 * time.Second)
		want(t, w.handle, call(), "not_found", "miss")
		if n := src.runs.Load(); n != 2 {
			t.Errorf("%d runs, want 2", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, never, missing().handle)
		short := func(c *atlas.Call) { c.Tool.CacheTTL = time.Second }
		want(t, w.handle, call(short), "not_found", "miss")
		time.Sleep(time.Second)
		want(t, w.handle, call(short), "not_found", "miss") // not longer than the tool's own time
	})
	w := newWorld(t, cache.Config{NegativeTTL: -1}, missing().handle)
	want(t, w.handle, call(), "not_found", "miss")
	want(t, w.handle, call(), "not_found", "miss") // turned off
}

// Whoever writes into an answer, the tool or a caller, changes nobody else's.
func TestAnswersAreCopies(t *testing.T) {
	buf := []byte(`{"run":1}`)
	w := newWorld(t, never, func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Structured: buf}, nil
	})
	for range 3 {
		res, err := w.handle(t.Context(), call())
		if err != nil || string(res.Structured) != `{"run":1}` {
			t.Fatalf("got %s, %v", res.Structured, err)
		}
		copy(res.Structured, "overwritten")
		copy(buf, "overwritten")
	}
}

func TestStampede(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: time.Second}
		w := newWorld(t, cache.Config{}, src.handle)
		var (
			wg   sync.WaitGroup
			hits atomic.Int64
		)
		for i := range 1000 {
			wg.Go(func() {
				a, note := ask(t, w.handle, call(func(c *atlas.Call) { c.Principal.Subject = fmt.Sprint(i) }))
				if a != `{"run":1}` {
					t.Errorf("got %s", a)
				}
				if note == "hit" {
					hits.Add(1)
				}
			})
		}
		wg.Wait()
		if src.runs.Load() != 1 || hits.Load() != 999 {
			t.Errorf("%d runs and %d hits, want 1 and 999", src.runs.Load(), hits.Load())
		}
	})
}

// The same without a bubble, on real threads.
func TestStampedeThreads(t *testing.T) {
	release := make(chan struct{})
	var runs atomic.Int64
	w := newWorld(t, cache.Config{}, func(context.Context, atlas.Call) (atlas.Result, error) {
		runs.Add(1)
		<-release
		return atlas.Result{Structured: json.RawMessage(`{}`)}, nil
	})
	var wg, begun sync.WaitGroup
	begun.Add(1000)
	for range 1000 {
		wg.Go(func() {
			begun.Done()
			if a, _ := ask(t, w.handle, call()); a != `{}` {
				t.Errorf("got %s", a)
			}
		})
	}
	begun.Wait()
	close(release)
	wg.Wait()
	if runs.Load() != 1 {
		t.Errorf("%d runs, want 1", runs.Load())
	}
}

func TestCancellation(t *testing.T) {
	t.Run("the first caller's is not the others'", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: 2 * time.Second}
			w := newWorld(t, never, src.handle)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				began := time.Now()
				if _, err := w.handle(ctx, call()); atlas.CodeOf(err) != atlas.CodeTimeout || time.Since(began) != time.Second {
					t.Errorf("the first caller got %v after %v", err, time.Since(began))
				}
			})
			synctest.Wait()
			wg.Go(func() { want(t, w.handle, call(), `{"run":1}`, "hit") })
			wg.Wait()
			want(t, w.handle, call(), `{"run":1}`, "hit")
		})
	})
	t.Run("the last who leaves cancels", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			w := newWorld(t, never, func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
				<-ctx.Done()
				ended <- ctx.Err()
				return atlas.Result{}, ctx.Err()
			})
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if _, err := w.handle(ctx, call()); !errors.Is(err, context.Canceled) {
						t.Errorf("got %v", err)
					}
				})
			}
			synctest.Wait()
			began := time.Now()
			cancel()
			wg.Wait()
			if err := <-ended; !errors.Is(err, context.Canceled) || time.Since(began) != 0 {
				t.Errorf("the load ended with %v after %v", err, time.Since(began))
			}
		})
	})
	t.Run("an abandoned load is not joined", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: time.Second}
			// It ends late, and with an answer: its context is ignored.
			stubborn := func(_ context.Context, c atlas.Call) (atlas.Result, error) {
				return src.handle(context.Background(), c)
			}
			w := newWorld(t, never, stubborn)
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, _ = w.handle(ctx, call())
			want(t, w.handle, call(), `{"run":2}`, "miss")
		})
	})
	t.Run("the tool's timeout bounds the load", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: time.Hour}
			w := newWorld(t, never, src.handle)
			began := time.Now()
			want(t, w.handle, call(), "timeout", "miss")
			if d := time.Since(began); d != 10*time.Second {
				t.Errorf("it took %v, want 10s", d)
			}
		})
	})
	t.Run("ended before it began", func(t *testing.T) {
		src := &source{}
		w := newWorld(t, never, src.handle)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.handle(ctx, call()); !errors.Is(err, context.Canceled) || src.runs.Load() != 0 {
			t.Errorf("got %v after %d runs", err, src.runs.Load())
		}
	})
}

// The first caller's turn is out of time; that of those who wait with it is not.
func TestBudgetIsTheCallersOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		w := newWorld(t, never, func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			runs.Add(1)
			time.Sleep(time.Second)
			if c.Budget.Total == 5*time.Second {
				return atlas.Result{}, &atlas.Error{Code: atlas.CodeBudgetExhausted}
			}
			return atlas.Result{Structured: json.RawMessage(`{"run":"own"}`)}, nil
		})
		budget := func(d time.Duration) func(*atlas.Call) {
			return func(c *atlas.Call) { c.Budget.Total = d }
		}
		var wg sync.WaitGroup
		wg.Go(func() { want(t, w.handle, call(budget(5*time.Second)), "budget_exhausted", "miss") })
		synctest.Wait()
		var misses atomic.Int64
		for range 10 {
			wg.Go(func() {
				a, note := ask(t, w.handle, call(budget(time.Minute)))
				if a != `{"run":"own"}` {
					t.Errorf("a patient caller got %s", a)
				}
				if note == "miss" {
					misses.Add(1)
				}
			})
		}
		// One has less time than the load takes, and does not wait longer than that.
		wg.Go(func() {
			began := time.Now()
			want(t, w.handle, call(budget(500*time.Millisecond)), "budget_exhausted", "miss")
			if d := time.Since(began); d != 500*time.Millisecond {
				t.Errorf("waited %v, want 500ms", d)
			}
		})
		wg.Wait()
		if runs.Load() != 2 || misses.Load() != 1 {
			t.Errorf("%d runs and %d misses, want 2 and 1", runs.Load(), misses.Load())
		}
	})
}

// A cursor is one caller's: who waited with that caller asks again.
func TestCursorIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, never, func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			time.Sleep(time.Second)
			return atlas.Result{Structured: json.RawMessage(`{}`), NextCursor: c.Principal.Subject}, nil
		})
		var wg sync.WaitGroup
		for i := range 8 {
			name := fmt.Sprint("user", i)
			wg.Go(func() {
				res, err := w.handle(t.Context(), call(func(c *atlas.Call) { c.Principal.Subject = name }))
				if err != nil || res.NextCursor != name {
					t.Errorf("%s got the cursor of %s (%v)", name, res.NextCursor, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestErrorsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: time.Second, err: func(context.Context, int64) error {
			return atlas.Errorf(atlas.CodeSourceUnavailable, nil, "").With("k", "v")
		}}
		w := newWorld(t, never, src.handle)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				res, err := w.handle(t.Context(), call())
				if atlas.CodeOf(err) != atlas.CodeSourceUnavailable || res.Notes.Cache != "miss" {
					t.Errorf("got %v (%s)", err, res.Notes.Cache)
				}
			})
		}
		wg.Wait()
		if src.runs.Load() != 1 {
			t.Errorf("a dead backend was asked %d times, want once", src.runs.Load())
		}
	})
}

func TestPanicInALoad(t *testing.T) {
	w := newWorld(t, never, func(context.Context, atlas.Call) (atlas.Result, error) { panic("secret of the tool") })
	_, err := w.handle(t.Context(), call())
	e := atlas.ErrorOf(err)
	if e.Code != atlas.CodeInternal || !strings.Contains(e.Error(), "cache_test.go") {
		t.Errorf("got %v, want internal_error with the stack as its cause", err)
	}
	if data, _ := json.Marshal(e.Failure("r")); strings.Contains(string(data), "secret") {
		t.Errorf("the caller sees %s", data)
	}
}

func TestEarlyRefresh(t *testing.T) {
	// With so large a beta every hit wants to refresh.
	eager := cache.Config{Beta: 1e12}
	t.Run("once, in the background", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: time.Second}
			w := newWorld(t, eager, src.handle)
			want(t, w.handle, call(), `{"run":1}`, "miss")
			began := time.Now()
			for range 50 {
				want(t, w.handle, call(), `{"run":1}`, "hit")
			}
			if time.Since(began) != 0 {
				t.Error("a hit waited for the refresh")
			}
			synctest.Wait()
			if n := src.runs.Load(); n != 2 {
				t.Errorf("%d runs, want 2", n)
			}
			time.Sleep(2 * time.Second)
			want(t, w.handle, call(), `{"run":2}`, "hit")
		})
	})
	t.Run("ignores its caller's cancellation and budget", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var budget atomic.Int64
			src := &source{takes: time.Second}
			w := newWorld(t, eager, func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
				budget.Store(int64(c.Budget.Total))
				return src.handle(ctx, c)
			})
			want(t, w.handle, call(), `{"run":1}`, "miss")
			ctx, cancel := context.WithCancel(t.Context())
			_, _ = w.handle(ctx, call(func(c *atlas.Call) { c.Budget.Total = time.Minute }))
			cancel()
			time.Sleep(2 * time.Second)
			want(t, w.handle, call(), `{"run":2}`, "hit")
			if budget.Load() != 0 {
				t.Error("the refresh ran under its caller's budget")
			}
		})
	})
	t.Run("a failure leaves the answer in hand", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: time.Second, err: func(_ context.Context, n int64) error {
				if n == 1 {
					return nil
				}
				return &atlas.Error{Code: atlas.CodeSourceUnavailable}
			}}
			w := newWorld(t, eager, src.handle)
			want(t, w.handle, call(), `{"run":1}`, "miss")
			for range 5 {
				want(t, w.handle, call(), `{"run":1}`, "hit")
				time.Sleep(2 * time.Second)
			}
			if n := src.runs.Load(); n != 2 {
				t.Errorf("%d runs, want 2: one refresh for one answer", n)
			}
			time.Sleep(time.Minute)
			want(t, w.handle, call(), "source_unavailable", "miss")
		})
	})
	t.Run("near the expiry only", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{takes: 100 * time.Millisecond}
			w := newWorld(t, cache.Config{}, src.handle)
			want(t, w.handle, call(), `{"run":1}`, "miss")
			time.Sleep(50 * time.Second) // 10 s are left: 100 times the load; the odds are e^-100
			for range 1000 {
				want(t, w.handle, call(), `{"run":1}`, "hit")
			}
			if n := src.runs.Load(); n != 1 {
				t.Errorf("refreshed with 10 s left")
			}
			time.Sleep(10*time.Second - 2*time.Millisecond) // 2 ms: the odds are e^-0.02 for each hit
			for range 20 {
				want(t, w.handle, call(), `{"run":1}`, "hit")
			}
			synctest.Wait()
			if n := src.runs.Load(); n != 2 {
				t.Errorf("not refreshed with 2 ms left")
			}
		})
	})
}

// The load of a task has the time of a task.
func TestLoadOfTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: 5 * time.Minute}
		w := newWorld(t, never, src.handle)
		asTask := func(c *atlas.Call) { c.Tool.Task.Timeout, c.Task = 10*time.Minute, true }
		want(t, w.handle, call(), "timeout", "miss")
		want(t, w.handle, call(asTask), `{"run":2}`, "miss")
		want(t, w.handle, call(), `{"run":2}`, "hit")
	})
}

func TestPurge(t *testing.T) {
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
		w := newWorld(t, never, (&source{}).handle)
		for _, c := range []atlas.Call{call(), call(other), call(foreign)} {
			ask(t, w.handle, c)
		}
		if err := w.store.Purge(t.Context(), "acme", tc.tool); err != nil {
			t.Error(err)
		}
		for i, c := range []atlas.Call{call(), call(other), call(foreign)} {
			if _, note := ask(t, w.handle, c); note != tc.want[i] {
				t.Errorf("Purge of %q: call %d is a %s, want %s", tc.tool, i, note, tc.want[i])
			}
		}
	}
	if err := newStore(t, never).Purge(t.Context(), "nobody", ""); err != nil {
		t.Error(err)
	}
}

// What was read before a purge does not come back after it, and the end of the old load does not
// disturb the new one.
func TestPurgeDuringALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: 2 * time.Second}
		w := newWorld(t, never, src.handle)
		var wg sync.WaitGroup
		wg.Go(func() { want(t, w.handle, call(), `{"run":1}`, "miss") })
		time.Sleep(time.Second)
		_ = w.store.Purge(t.Context(), "acme", "crm_order")
		wg.Go(func() { want(t, w.handle, call(), `{"run":2}`, "miss") })
		time.Sleep(1500 * time.Millisecond) // the old load has ended, the new one has not
		want(t, w.handle, call(), `{"run":2}`, "hit")
		wg.Wait()
		want(t, w.handle, call(), `{"run":2}`, "hit")
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, never, (&source{takes: time.Second}).handle)
		var wg sync.WaitGroup
		wg.Go(func() { want(t, w.handle, call(), `{"run":1}`, "miss") })
		synctest.Wait()
		_ = w.store.Purge(t.Context(), "acme", "")
		wg.Wait()
		want(t, w.handle, call(), `{"run":2}`, "miss")
	})
}

// One tenant's flood pushes out its own answers, and no other tenant's.
func TestTenantsDoNotEvictEachOther(t *testing.T) {
	cfg := cache.Config{TenantBytes: 64 << 10, Beta: -1}
	src := &source{edit: func(r *atlas.Result) { r.Structured = fmt.Appendf(nil, `{"pad":%q}`, strings.Repeat("x", 1000)) }}
	w := newWorld(t, cfg, src.handle)
	globex := func(c *atlas.Call) { c.Tenant, c.Principal.Tenant = "globex", "globex" }
	for range 20 {
		ask(t, w.handle, call(globex))
	}
	flood := func(i int) atlas.Call {
		return call(func(c *atlas.Call) { c.Args.Digest = sha256.Sum256(fmt.Append(nil, i)) })
	}
	for i := range 2000 {
		ask(t, w.handle, flood(i))
	}
	if _, note := ask(t, w.handle, call(globex)); note != "hit" {
		t.Errorf("globex's answer is a %s after acme's flood", note)
	}
	hits := 0
	for i := range 2000 {
		if _, note := ask(t, w.handle, flood(i)); note == "hit" {
			hits++
		}
	}
	// 64 KiB hold at most 43 answers of 1.5 KB; otter evicts a little behind the writes.
	if hits > 500 {
		t.Errorf("%d of acme's 2000 answers are kept in 64 KiB", hits)
	}
}

func TestTenantsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, cache.Config{MaxTenants: 3, Beta: -1}, (&source{}).handle)
		as := func(tenant atlas.TenantID) atlas.Call {
			return call(func(c *atlas.Call) { c.Tenant, c.Tool.CacheTTL = tenant, time.Hour })
		}
		for _, tenant := range []atlas.TenantID{"a", "b", "c", "a", "d"} { // b is idle for longest
			ask(t, w.handle, as(tenant))
			time.Sleep(2 * time.Second)
		}
		for _, tenant := range []atlas.TenantID{"a", "c", "d"} {
			if _, note := ask(t, w.handle, as(tenant)); note != "hit" {
				t.Errorf("%s is a %s", tenant, note)
			}
		}
		if _, note := ask(t, w.handle, as("b")); note != "miss" {
			t.Errorf("b is a %s", note)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t, never)
		h := over(t, store, never, "p1", (&source{takes: time.Hour}).handle)
		long := call(func(c *atlas.Call) { c.Tool.Timeout = 2 * time.Hour })
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := h(t.Context(), long); atlas.CodeOf(err) != atlas.CodeShuttingDown {
				t.Errorf("a call in flight got %v", err)
			}
		})
		synctest.Wait()
		began := time.Now()
		for range 2 {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
		if time.Since(began) != 0 {
			t.Errorf("Close took %v", time.Since(began))
		}
		if _, err := h(t.Context(), call()); atlas.CodeOf(err) != atlas.CodeShuttingDown {
			t.Errorf("a call after Close got %v", err)
		}
	})
}

func TestConfig(t *testing.T) {
	bad := cache.Config{TenantBytes: 1, MaxTenants: -1, MaxEntry: -1}
	bad.SharedTimeout, bad.Lease, bad.OnStoreFailure = time.Hour, time.Millisecond, "panic"
	err := bad.Validate()
	for _, word := range []string{"tenant_bytes", "max_tenants", "max_entry", "shared_timeout", "lease", "on_store_failure"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not name %s", err, word)
		}
	}
	if _, err := cache.NewStore(bad); err == nil {
		t.Error("NewStore took a bad configuration")
	}
	store := newStore(t, cache.Config{})
	for name, f := range map[string]func() (*cache.Cache, error){
		"bad":       func() (*cache.Cache, error) { return cache.New(bad, store, func() string { return "" }, nil) },
		"no store":  func() (*cache.Cache, error) { return cache.New(cache.Config{}, nil, func() string { return "" }, nil) },
		"no policy": func() (*cache.Cache, error) { return cache.New(cache.Config{}, store, nil, nil) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: New succeeded", name)
		}
	}
}

func BenchmarkHit(b *testing.B) {
	for _, size := range []int{256, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			body := fmt.Appendf(nil, `{"pad":%q}`, strings.Repeat("x", size))
			w := newWorld(b, cache.Config{}, func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{Structured: body}, nil
			})
			c := call(func(c *atlas.Call) { c.Tool.CacheTTL = time.Hour })
			if _, err := w.handle(b.Context(), c); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if res, err := w.handle(b.Context(), c); err != nil || res.Notes.Cache != "hit" {
					b.Fatal(res.Notes.Cache, err)
				}
			}
		})
	}
}

func BenchmarkMiss(b *testing.B) {
	w := newWorld(b, cache.Config{}, func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Structured: json.RawMessage(`{}`)}, nil
	})
	c := call()
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		c.Page.Offset = n
		if res, err := w.handle(b.Context(), c); err != nil || res.Notes.Cache != "miss" {
			b.Fatal(res.Notes.Cache, err)
		}
	}
}

func BenchmarkBypass(b *testing.B) {
	w := newWorld(b, cache.Config{}, func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
	c := call(func(c *atlas.Call) { c.Tool.CacheTTL = 0 })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.handle(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
