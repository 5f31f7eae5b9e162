package idempotency_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/idempotency"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/memory"
	"github.com/atlas-mcp/atlas/internal/state/sqlite"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newMemory(t testing.TB) *memory.Store {
	t.Helper()
	s, err := memory.New(state.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newKeys(t testing.TB, cfg idempotency.Config, store idempotency.Store) *idempotency.Keys {
	t.Helper()
	k, err := idempotency.New(cfg, store, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// counter is a tool that answers with the number of its run.
func counter(runs *atomic.Int64) atlas.Handler {
	return func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{
			Structured: fmt.Appendf(nil, `{"run":%d}`, runs.Add(1)), Truncated: true, Partial: true,
			AsOf: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Notes: atlas.Notes{Attempts: 1},
		}, nil
	}
}

func write(change ...func(*atlas.Call)) atlas.Call {
	c := atlas.Call{
		ID: "r", Name: "files_put", Tenant: "acme", IdempotencyKey: "k1",
		Tool:      &atlas.Tool{Name: "files_put", Version: "v1", Effects: atlas.EffectsWrite, Timeout: 10 * time.Second},
		Principal: &atlas.Principal{Subject: "alice", Tenant: "acme", Delegator: "agent"},
		Args:      atlas.Args{Digest: sha256.Sum256([]byte("args"))},
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func TestReplay(t *testing.T) {
	var runs atomic.Int64
	keys := newKeys(t, idempotency.Config{}, newMemory(t))
	h := keys.Stage(counter(&runs))
	if _, ok, err := keys.Replay(t.Context(), write()); ok || err != nil {
		t.Errorf("Replay before the first call: %v, %v", ok, err)
	}
	first, err := h(t.Context(), write())
	if err != nil || first.Notes.Replayed || first.Notes.Attempts != 1 {
		t.Fatalf("the first call: %+v, %v", first, err)
	}
	first.Notes = atlas.Notes{Replayed: true}
	for range 2 {
		again, err := h(t.Context(), write())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again); diff != "" {
			t.Errorf("the repetition differs (-first +again):\n%s", diff)
		}
		copy(again.Structured, "overwritten")
	}
	res, ok, err := keys.Replay(t.Context(), write())
	if diff := cmp.Diff(first, res); diff != "" || !ok || err != nil {
		t.Errorf("Replay: %v, %v (-first +replay):\n%s", ok, err, diff)
	}
	if runs.Load() != 1 {
		t.Errorf("%d runs, want 1", runs.Load())
	}
}

func TestScope(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*atlas.Call)
		want   string
	}{
		"the same":        {func(*atlas.Call) {}, `{"run":1}`},
		"request id":      {func(c *atlas.Call) { c.ID = "r2" }, `{"run":1}`},
		"tool version":    {func(c *atlas.Call) { c.Tool.Version = "v2" }, `{"run":1}`},
		"arguments":       {func(c *atlas.Call) { c.Args.Digest[0]++ }, "idempotency_key_reused"},
		"key":             {func(c *atlas.Call) { c.IdempotencyKey = "k2" }, `{"run":2}`},
		"tenant":          {func(c *atlas.Call) { c.Tenant = "globex" }, `{"run":2}`},
		"tenant and args": {func(c *atlas.Call) { c.Tenant = "globex"; c.Args.Digest[0]++ }, `{"run":2}`},
		"subject":         {func(c *atlas.Call) { c.Principal.Subject = "bob" }, `{"run":2}`},
		"home tenant":     {func(c *atlas.Call) { c.Principal.Tenant = "globex" }, `{"run":2}`},
		"issuer":          {func(c *atlas.Call) { c.Principal.Issuer = "https://other.example" }, `{"run":2}`},
		"delegator":       {func(c *atlas.Call) { c.Principal.Delegator = "" }, `{"run":2}`},
		"tool":            {func(c *atlas.Call) { c.Tool.Name = "files_move" }, `{"run":2}`},
		"glued parts": {func(c *atlas.Call) {
			c.Principal.Subject, c.Principal.Delegator = "alic", "eagent"
		}, `{"run":2}`},
	} {
		t.Run(name, func(t *testing.T) {
			var runs atomic.Int64
			h := newKeys(t, idempotency.Config{}, newMemory(t)).Stage(counter(&runs))
			if _, err := h(t.Context(), write()); err != nil {
				t.Fatal(err)
			}
			res, err := h(t.Context(), write(tc.change))
			if got := cmpOr(string(atlas.CodeOf(err)), string(res.Structured)); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestPassesThrough(t *testing.T) {
	for name, change := range map[string]func(*atlas.Call){
		"no key":  func(c *atlas.Call) { c.IdempotencyKey = "" },
		"read":    func(c *atlas.Call) { c.Tool.Effects = atlas.EffectsNone },
		"list":    func(c *atlas.Call) { c.Op = atlas.OpList },
		"no tool": func(c *atlas.Call) { c.Tool = nil },
	} {
		var runs atomic.Int64
		keys := newKeys(t, idempotency.Config{}, newMemory(t))
		h := keys.Stage(counter(&runs))
		for range 2 {
			if res, err := h(t.Context(), write(change)); err != nil || res.Notes.Replayed {
				t.Errorf("%s: %+v, %v", name, res.Notes, err)
			}
		}
		if _, ok, _ := keys.Replay(t.Context(), write(change)); ok || runs.Load() != 2 {
			t.Errorf("%s: %d runs, replay %v", name, runs.Load(), ok)
		}
	}
	for name, change := range map[string]func(*atlas.Call){
		"egress":      func(c *atlas.Call) { c.Tool.Effects = atlas.EffectsEgress },
		"destructive": func(c *atlas.Call) { c.Tool.Effects = atlas.EffectsNone; c.Tool.Destructive = true },
	} {
		var runs atomic.Int64
		h := newKeys(t, idempotency.Config{}, newMemory(t)).Stage(counter(&runs))
		for range 2 {
			_, _ = h(t.Context(), write(change))
		}
		if runs.Load() != 1 {
			t.Errorf("%s: %d runs, want 1", name, runs.Load())
		}
	}
}

func TestBadKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*atlas.Call)
		want   atlas.Code
	}{
		"longest":      {func(c *atlas.Call) { c.IdempotencyKey = strings.Repeat("ä", 128) }, ""},
		"too long":     {func(c *atlas.Call) { c.IdempotencyKey = strings.Repeat("k", 129) }, atlas.CodeInvalidArguments},
		"of a child":   {func(c *atlas.Call) { c.IdempotencyKey = strings.Repeat("k", 200); c.Parent = &atlas.Parent{} }, ""},
		"control":      {func(c *atlas.Call) { c.IdempotencyKey = "a\nb" }, atlas.CodeInvalidArguments},
		"nul":          {func(c *atlas.Call) { c.IdempotencyKey = "a\x00" }, atlas.CodeInvalidArguments},
		"not UTF-8":    {func(c *atlas.Call) { c.IdempotencyKey = "a\xff" }, atlas.CodeInvalidArguments},
		"no digest":    {func(c *atlas.Call) { c.Args.Digest = [32]byte{} }, atlas.CodeInternal},
		"no tenant":    {func(c *atlas.Call) { c.Tenant = "" }, atlas.CodeInternal},
		"no principal": {func(c *atlas.Call) { c.Principal = nil }, atlas.CodeInternal},
	} {
		var runs atomic.Int64
		keys := newKeys(t, idempotency.Config{}, newMemory(t))
		_, err := keys.Stage(counter(&runs))(t.Context(), write(tc.change))
		if atlas.CodeOf(err) != tc.want || (runs.Load() == 1) != (tc.want == "") {
			t.Errorf("%s: %v after %d runs, want %q", name, err, runs.Load(), tc.want)
		}
		if tc.want != "" {
			if _, ok, rerr := keys.Replay(t.Context(), write(tc.change)); !ok || atlas.CodeOf(rerr) != tc.want {
				t.Errorf("%s: Replay: %v, %v", name, ok, rerr)
			}
		}
	}
}

// What becomes of the key when the first call fails.
func TestFailures(t *testing.T) {
	const (
		rerun   = `{"run":2}` // the key was released
		done    = "kept"
		unknown = "unknown"
	)
	for _, tc := range []struct {
		name       string
		err        error
		attempts   int
		idempotent bool
		want       string
	}{
		{"definitive", atlas.Errorf(atlas.CodeNotFound, errors.New("upstream text"), "no such file").With("key", "a"), 1, false, done},
		{"invalid", &atlas.Error{Code: atlas.CodeInvalidQuery}, 1, true, done},
		{"retryable", &atlas.Error{Code: atlas.CodeSourceUnavailable}, 3, false, rerun},
		{"overloaded", &atlas.Error{Code: atlas.CodeOverloaded}, 0, false, rerun},
		{"breaker", &atlas.Error{Code: atlas.CodeCircuitOpen}, 0, false, rerun},
		{"budget", &atlas.Error{Code: atlas.CodeBudgetExhausted}, 0, false, rerun},
		{"budget in the middle", &atlas.Error{Code: atlas.CodeBudgetExhausted}, 1, false, done},
		{"timeout", context.DeadlineExceeded, 1, false, unknown},
		{"cancelled", context.Canceled, 1, false, unknown},
		{"internal", errors.New("whatever"), 1, false, unknown},
		{"timeout, idempotent", context.DeadlineExceeded, 1, true, rerun},
		{"cancelled, idempotent", context.Canceled, 1, true, rerun},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var runs atomic.Int64
			h := newKeys(t, idempotency.Config{}, newMemory(t)).Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
				if n := runs.Add(1); n > 1 {
					return atlas.Result{Structured: fmt.Appendf(nil, `{"run":%d}`, n)}, nil
				}
				return atlas.Result{Notes: atlas.Notes{Attempts: tc.attempts}}, tc.err
			})
			c := write(func(c *atlas.Call) { c.Tool.Idempotent = tc.idempotent })
			if _, err := h(t.Context(), c); atlas.CodeOf(err) != atlas.CodeOf(tc.err) {
				t.Fatalf("the first call got %v", err)
			}
			res, err := h(t.Context(), c)
			if tc.want == rerun {
				if string(res.Structured) != rerun {
					t.Errorf("the repetition got %s, %v", res.Structured, err)
				}
				return
			}
			e, was := atlas.ErrorOf(err), atlas.ErrorOf(tc.err)
			if e == nil || e.Code != was.Code || !res.Notes.Replayed || runs.Load() != 1 || e.Err != nil {
				t.Fatalf("the repetition got %v (%+v) after %d runs", err, res.Notes, runs.Load())
			}
			if told := strings.Contains(e.Hint, "may have taken effect"); told != (tc.want == unknown) {
				t.Errorf("hint %q", e.Hint)
			}
			if diff := cmp.Diff(was.Context, e.Context); diff != "" {
				t.Errorf("context (-first +again):\n%s", diff)
			}
		})
	}
}

func TestPanicKeepsTheKey(t *testing.T) {
	keys := newKeys(t, idempotency.Config{}, newMemory(t))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = keys.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { panic("x") })(t.Context(), write())
	}()
	var runs atomic.Int64
	if _, err := keys.Stage(counter(&runs))(t.Context(), write()); atlas.CodeOf(err) != atlas.CodeInternal || runs.Load() != 0 {
		t.Errorf("the repetition got %v after %d more runs", err, runs.Load())
	}
}

// A caller who hangs up after the write was done finds its result.
func TestOutcomeIsKeptAfterCancellation(t *testing.T) {
	keys := newKeys(t, idempotency.Config{}, newMemory(t))
	ctx, cancel := context.WithCancel(t.Context())
	_, _ = keys.Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
		cancel()
		return atlas.Result{Structured: json.RawMessage(`{"run":1}`)}, nil
	})(ctx, write())
	res, ok, err := keys.Replay(t.Context(), write())
	if !ok || err != nil || string(res.Structured) != `{"run":1}` {
		t.Errorf("got %s, %v, %v", res.Structured, ok, err)
	}
}

func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := newKeys(t, idempotency.Config{}, newMemory(t))
		var runs, running atomic.Int64
		h := keys.Stage(func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			time.Sleep(5 * time.Second)
			return counter(&runs)(ctx, c)
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				res, err := h(t.Context(), write())
				switch {
				case err == nil:
					if string(res.Structured) != `{"run":1}` {
						t.Errorf("got %s", res.Structured)
					}
				case atlas.CodeOf(err) == atlas.CodeIdempotencyRunning:
					running.Add(1)
					if e := atlas.ErrorOf(err); e.RetryAfter <= 0 || e.RetryAfter > time.Second {
						t.Errorf("retry after %v", e.RetryAfter)
					}
				default:
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		// Other arguments are told so at once, not when the first call has ended.
		if _, err := h(t.Context(), write(func(c *atlas.Call) { c.Args.Digest[0]++ })); atlas.CodeOf(err) != atlas.CodeIdempotencyReused {
			t.Errorf("other arguments got %v", err)
		}
		if _, ok, err := keys.Replay(t.Context(), write()); !ok || atlas.CodeOf(err) != atlas.CodeIdempotencyRunning {
			t.Errorf("Replay got %v, %v", ok, err)
		}
		wg.Wait()
		if runs.Load() != 1 || running.Load() != 49 {
			t.Errorf("%d runs, %d told to come back; want 1 and 49", runs.Load(), running.Load())
		}
	})
}

// Two processes on one file race for one key.
func TestConcurrentOnOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	var handlers [2]atlas.Handler
	var runs atomic.Int64
	for i := range handlers {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		handlers[i] = newKeys(t, idempotency.Config{}, s).Stage(counter(&runs))
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			res, err := handlers[i%2](t.Context(), write())
			if got := cmpOr(string(atlas.CodeOf(err)), string(res.Structured)); got != `{"run":1}` && got != string(atlas.CodeIdempotencyRunning) {
				t.Errorf("got %s", got)
			}
		})
	}
	wg.Wait()
	if runs.Load() != 1 {
		t.Errorf("%d runs, want 1", runs.Load())
	}
}

// The lease of a process that died ends; a run that goes on for too long is ended before that.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory(t)
		keys := newKeys(t, idempotency.Config{}, store)
		// A process that dies: its goroutine leaves without settling, and nothing it does later
		// reaches the store.
		dead := &dying{Store: store}
		died := newKeys(t, idempotency.Config{}, dead).Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
			dead.gone.Store(true)
			return atlas.Result{}, nil
		})
		_, _ = died(t.Context(), write())
		var runs atomic.Int64
		h := keys.Stage(counter(&runs))
		time.Sleep(40*time.Second - time.Nanosecond) // the tool's 10 s and 30 s of grace
		if _, err := h(t.Context(), write()); atlas.CodeOf(err) != atlas.CodeIdempotencyRunning {
			t.Errorf("before the lease's end: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if res, err := h(t.Context(), write()); err != nil || string(res.Structured) != `{"run":1}` {
			t.Errorf("after the lease's end: %s, %v", res.Structured, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		h := newKeys(t, idempotency.Config{}, newMemory(t)).Stage(func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
			<-ctx.Done()
			return atlas.Result{}, ctx.Err()
		})
		began := time.Now()
		_, err := h(t.Context(), write())
		if d := time.Since(began); atlas.CodeOf(err) != atlas.CodeTimeout || d >= 40*time.Second {
			t.Errorf("an endless run ended with %v after %v; the lease is 40s", err, d)
		}
	})
}

// A task's key is held for as long as the tool may run as one.
func TestLeaseOfTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		h := newKeys(t, idempotency.Config{}, newMemory(t)).Stage(func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
			runs.Add(1)
			select {
			case <-time.After(5 * time.Minute):
				return atlas.Result{Structured: []byte(`{}`)}, nil
			case <-ctx.Done():
				return atlas.Result{}, ctx.Err()
			}
		})
		c := write()
		tl := *c.Tool
		tl.Task.Timeout = 10 * time.Minute
		c.Tool, c.Task = &tl, true
		ended := make(chan error)
		go func() { _, err := h(t.Context(), c); ended <- err }()
		time.Sleep(4 * time.Minute)
		if _, err := h(t.Context(), c); atlas.CodeOf(err) != atlas.CodeIdempotencyRunning {
			t.Errorf("while the task runs: %v", err)
		}
		if err := <-ended; err != nil || runs.Load() != 1 {
			t.Errorf("%v after %d runs", err, runs.Load())
		}
	})
}

type dying struct {
	idempotency.Store
	gone atomic.Bool
}

func (d *dying) CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error) {
	if d.gone.Load() {
		return 0, errors.New("gone")
	}
	return d.Store.CompareAndSet(ctx, space, key, version, value, expires)
}

// A run that outlives its lease does not overwrite what its successor has kept.
func TestLateOwnerLosesToItsSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := newKeys(t, idempotency.Config{}, newMemory(t))
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = keys.Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
				<-release
				return atlas.Result{Structured: json.RawMessage(`{"run":"late"}`)}, nil
			})(t.Context(), write())
		})
		time.Sleep(time.Minute)
		var runs atomic.Int64
		h := keys.Stage(counter(&runs))
		if _, err := h(t.Context(), write()); err != nil {
			t.Fatal(err)
		}
		close(release)
		wg.Wait()
		if res, err := h(t.Context(), write()); err != nil || string(res.Structured) != `{"run":1}` {
			t.Errorf("got %s, %v", res.Structured, err)
		}
	})
}

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		h := newKeys(t, idempotency.Config{}, newMemory(t)).Stage(counter(&runs))
		for _, step := range []struct {
			wait time.Duration
			want int64
		}{{0, 1}, {24*time.Hour - time.Nanosecond, 1}, {time.Nanosecond, 2}} {
			time.Sleep(step.wait)
			if _, err := h(t.Context(), write()); err != nil || runs.Load() != step.want {
				t.Errorf("after %v more: %d runs, want %d (%v)", step.wait, runs.Load(), step.want, err)
			}
		}
	})
}

func TestResultsThatCannotBeKept(t *testing.T) {
	for name, body := range map[string]string{
		"large":    `"` + strings.Repeat("x", 1000) + `"`,
		"not JSON": `{"cut":`,
	} {
		var runs atomic.Int64
		h := newKeys(t, idempotency.Config{MaxResult: 100}, newMemory(t)).Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
			runs.Add(1)
			return atlas.Result{Structured: json.RawMessage(body)}, nil
		})
		if res, err := h(t.Context(), write()); err != nil || string(res.Structured) != body {
			t.Errorf("%s: the first call got %v", name, err)
		}
		_, err := h(t.Context(), write())
		if atlas.CodeOf(err) != atlas.CodeTooLarge || !strings.Contains(atlas.ErrorOf(err).Hint, "was done") || runs.Load() != 1 {
			t.Errorf("%s: the repetition got %v after %d runs", name, err, runs.Load())
		}
	}
}

// Without its store the stage refuses: running unguarded could do the write twice.
func TestStoreFails(t *testing.T) {
	store := newMemory(t)
	keys := newKeys(t, idempotency.Config{}, store)
	var runs atomic.Int64
	h := keys.Stage(counter(&runs))
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h(t.Context(), write()); atlas.CodeOf(err) != atlas.CodeStateUnavailable || runs.Load() != 0 {
		t.Errorf("got %v after %d runs", err, runs.Load())
	}
	if _, ok, err := keys.Replay(t.Context(), write()); !ok || atlas.CodeOf(err) != atlas.CodeStateUnavailable {
		t.Errorf("Replay: %v, %v", ok, err)
	}
	if _, err := h(t.Context(), write(func(c *atlas.Call) { c.IdempotencyKey = "" })); err != nil {
		t.Errorf("a call without a key needs no store: %v", err)
	}
}

func TestBrokenRecord(t *testing.T) {
	for _, value := range []string{"", "{", `{"state":"odd"}`, `{"state":"done"}`} {
		var runs atomic.Int64
		h := newKeys(t, idempotency.Config{}, fixed(value)).Stage(counter(&runs))
		if _, err := h(t.Context(), write()); atlas.CodeOf(err) != atlas.CodeStateUnavailable || runs.Load() != 0 {
			t.Errorf("record %q: %v after %d runs", value, err, runs.Load())
		}
	}
}

// fixed is a store that holds one value under every key.
type fixed string

func (f fixed) Get(context.Context, string, string) ([]byte, int64, error) { return []byte(f), 1, nil }

func (fixed) CompareAndSet(context.Context, string, string, int64, []byte, time.Time) (int64, error) {
	return 0, nil
}

func (fixed) CompareAndDelete(context.Context, string, string, int64) (bool, error) {
	return false, nil
}

func TestConfig(t *testing.T) {
	err := idempotency.Config{Keep: -1, MaxResult: -1, MaxRun: 1}.Validate()
	for _, word := range []string{"keep", "max_result", "max_run"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not name %s", err, word)
		}
	}
	if _, err := idempotency.New(idempotency.Config{}, nil, quiet()); err == nil {
		t.Error("New took no store")
	}
}

func BenchmarkPassThrough(b *testing.B) {
	h := newKeys(b, idempotency.Config{}, newMemory(b)).Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{}, nil
	})
	c := write(func(c *atlas.Call) { c.IdempotencyKey = "" })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReplay(b *testing.B) {
	var runs atomic.Int64
	h := newKeys(b, idempotency.Config{}, newMemory(b)).Stage(counter(&runs))
	c := write()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// hanging is a store that does not answer.
type hanging struct{ idempotency.Store }

func (hanging) Get(ctx context.Context, _, _ string) ([]byte, int64, error) {
	<-ctx.Done()
	return nil, 0, ctx.Err()
}

// Nobody waits for a store that hangs for longer than his turn lasts.
func TestStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		handle := newKeys(t, idempotency.Config{}, hanging{}).Stage(counter(&runs))
		start := time.Now()
		_, err := handle(t.Context(), write(func(c *atlas.Call) {
			c.Received, c.Budget = start, atlas.Budget{Total: 2 * time.Second}
		}))
		if took := time.Since(start); atlas.CodeOf(err) != atlas.CodeTimeout || took > 3*time.Second || runs.Load() != 0 {
			t.Errorf("%v after %s, %d runs", err, took, runs.Load())
		}
	})
}
