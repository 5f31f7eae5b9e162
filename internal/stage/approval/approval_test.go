package approval_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/approval"
	"github.com/atlas-mcp/atlas/internal/stage/idempotency"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/memory"
	"github.com/atlas-mcp/atlas/internal/state/sqlite"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// A world is a gate before a tool that counts its runs, and the service that decides.
type world struct {
	store   state.Store
	service *approval.Service
	handle  atlas.Handler
	policy  string
	runs    atomic.Int64
	fail    func() (atlas.Result, error) // instead of a success
	log     *recorder
}

type recorder struct {
	mu      sync.Mutex
	records []atlas.AuditRecord
	fail    func(atlas.AuditRecord) error
}

func (r *recorder) record(_ context.Context, rec atlas.AuditRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		if err := r.fail(rec); err != nil {
			return err
		}
	}
	r.records = append(r.records, rec)
	return nil
}

func newWorld(t testing.TB, cfg approval.Config, change ...func(*approval.Deps)) *world {
	t.Helper()
	store, err := memory.New(state.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return worldOver(t, store, cfg, change...)
}

func worldOver(t testing.TB, store state.Store, cfg approval.Config, change ...func(*approval.Deps)) *world {
	t.Helper()
	w := &world{store: store, policy: "p1", log: &recorder{}}
	deps := approval.Deps{PolicyHash: func() string { return w.policy }}
	for _, f := range change {
		f(&deps)
	}
	gate, err := approval.New(cfg, store, deps, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if w.service, err = approval.NewService(store, w.log.record, quiet()); err != nil {
		t.Fatal(err)
	}
	w.handle = gate.Stage(w.tool)
	return w
}

func (w *world) tool(context.Context, atlas.Call) (atlas.Result, error) {
	w.runs.Add(1)
	if w.fail != nil {
		return w.fail()
	}
	return atlas.Result{Structured: json.RawMessage(`{}`), Notes: atlas.Notes{Attempts: 1}}, nil
}

func put(change ...func(*atlas.Call)) atlas.Call {
	c := atlas.Call{
		ID: "r", Name: "files_put", Tenant: "acme",
		Tool:      &atlas.Tool{Name: "files_put", Version: "v1", Destructive: true, Effects: atlas.EffectsWrite, Timeout: 10 * time.Second},
		Principal: &atlas.Principal{Subject: "alice", Delegator: "copilot", Tenant: "acme", Issuer: "https://login.example"},
	}
	arguments(&c, map[string]any{"key": "a.txt", "content": "hello"})
	for _, f := range change {
		f(&c)
	}
	return c
}

func arguments(c *atlas.Call, values map[string]any) {
	raw, _ := json.Marshal(values)
	c.Args = atlas.Args{Raw: raw, Values: values, Digest: sha256.Sum256(raw)}
}

func bob() atlas.Principal {
	return atlas.Principal{Subject: "bob", Tenant: "acme", Roles: []string{"lead"}, Scopes: []string{atlas.ScopeApprove}, TokenID: "tb"}
}

// ask makes the call and returns the code it got and the approval it names.
func (w *world) ask(t testing.TB, c atlas.Call) (atlas.Code, string) {
	t.Helper()
	res, err := w.handle(t.Context(), c)
	if err == nil {
		return "", res.Notes.ApprovalID
	}
	if id, ok := atlas.ErrorOf(err).Context["approval_id"].(string); ok && id != res.Notes.ApprovalID {
		t.Errorf("the error names %q, the notes %q", id, res.Notes.ApprovalID)
	}
	return atlas.CodeOf(err), res.Notes.ApprovalID
}

func (w *world) want(t testing.TB, c atlas.Call, code atlas.Code, runs int64) string {
	t.Helper()
	got, id := w.ask(t, c)
	if got != code || w.runs.Load() != runs {
		t.Errorf("got %q after %d runs, want %q after %d", got, w.runs.Load(), code, runs)
	}
	return id
}

func (w *world) approve(t testing.TB, id string) {
	t.Helper()
	if _, err := w.service.Approve(t.Context(), bob(), id, "fine"); err != nil {
		t.Fatalf("Approve: %v", err)
	}
}

func TestApprovedOnce(t *testing.T) {
	w := newWorld(t, approval.Config{})
	_, err := w.handle(t.Context(), put())
	e := atlas.ErrorOf(err)
	id, _ := e.Context["approval_id"].(string)
	if e.Code != atlas.CodeApprovalRequired || !regexp.MustCompile(`^apr_[A-Z2-7]{26}$`).MatchString(id) {
		t.Fatalf("got %v, %v", err, e.Context)
	}
	a, err := w.service.Get(t.Context(), "acme", id)
	if err != nil {
		t.Fatal(err)
	}
	if e.Context["expires_at"] != a.Expires.Format(time.RFC3339) || a.Expires.Sub(a.Created) != time.Hour {
		t.Errorf("expires_at is %v, the approval lives from %v to %v", e.Context["expires_at"], a.Created, a.Expires)
	}
	c := put()
	want := atlas.Approval{
		ID: id, Tenant: "acme", HomeTenant: "acme", Issuer: "https://login.example", Subject: "alice", Delegator: "copilot", Tool: "files_put", Version: "v1", PolicyHash: "p1",
		ArgsDigest: fmt.Sprintf("%x", c.Args.Digest), Preview: `files_put {"content":"hello","key":"a.txt"}`,
		State: atlas.ApprovalPending, Created: a.Created, Expires: a.Expires,
	}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Errorf("the approval differs (-want +got):\n%s", diff)
	}
	for range 3 {
		if again := w.want(t, put(), atlas.CodeApprovalRequired, 0); again != id {
			t.Errorf("asking again made %s beside %s", again, id)
		}
	}
	w.approve(t, id)
	if used := w.want(t, put(), "", 1); used != id {
		t.Errorf("the call notes %q, want %q", used, id)
	}
	if next := w.want(t, put(), atlas.CodeApprovalRequired, 1); next == id {
		t.Error("a used approval was asked for again")
	}
	if a, _ := w.service.Get(t.Context(), "acme", id); a.State != atlas.ApprovalUsed || a.Approver != "bob" || a.Reason != "fine" {
		t.Errorf("afterwards it is %+v", a)
	}
}

func TestPassesThrough(t *testing.T) {
	w := newWorld(t, approval.Config{Require: []string{"mail_send"}})
	for name, tc := range map[string]struct {
		change func(*atlas.Call)
		want   atlas.Code
	}{
		"harmless":          {func(c *atlas.Call) { c.Tool.Destructive = false }, ""},
		"list":              {func(c *atlas.Call) { c.Op = atlas.OpList }, ""},
		"required":          {func(c *atlas.Call) { c.Tool.Name, c.Tool.Destructive = "mail_send", false }, atlas.CodeApprovalRequired},
		"child call":        {func(c *atlas.Call) { c.Parent = &atlas.Parent{ID: "p"} }, atlas.CodeApprovalRequired},
		"without digest":    {func(c *atlas.Call) { c.Args.Digest = [32]byte{} }, atlas.CodeInternal},
		"without principal": {func(c *atlas.Call) { c.Principal = nil }, atlas.CodeInternal},
		"without tenant":    {func(c *atlas.Call) { c.Tenant = "" }, atlas.CodeInternal},
	} {
		w.runs.Store(0)
		if code, _ := w.ask(t, put(tc.change)); code != tc.want || (w.runs.Load() == 1) != (tc.want == "") {
			t.Errorf("%s: got %q after %d runs, want %q", name, code, w.runs.Load(), tc.want)
		}
	}
}

// An approval is good for the call that it was given for, and for no other.
func TestBinding(t *testing.T) {
	for name, change := range map[string]func(*world, *atlas.Call){
		"arguments":    func(_ *world, c *atlas.Call) { arguments(c, map[string]any{"key": "b.txt", "content": "hello"}) },
		"tool version": func(_ *world, c *atlas.Call) { c.Tool.Version = "v2" },
		"tool":         func(_ *world, c *atlas.Call) { c.Tool.Name = "files_delete" },
		"subject":      func(_ *world, c *atlas.Call) { c.Principal.Subject = "mallory" },
		"home tenant":  func(_ *world, c *atlas.Call) { c.Principal.Tenant = "globex" }, // an impersonator's namesake
		"issuer":       func(_ *world, c *atlas.Call) { c.Principal.Issuer = "https://other.example" },
		"delegator":    func(_ *world, c *atlas.Call) { c.Principal.Delegator = "" },
		"tenant":       func(_ *world, c *atlas.Call) { c.Tenant = "globex" },
		"policy":       func(w *world, _ *atlas.Call) { w.policy = "p2" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, approval.Config{})
			id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
			w.approve(t, id)
			c := put()
			change(w, &c)
			if other := w.want(t, c, atlas.CodeApprovalRequired, 0); other == id {
				t.Error("another call was given the same approval")
			}
			w.policy = "p1"
			w.want(t, put(), "", 1)
		})
	}
}

func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, approval.Config{})
		id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
		time.Sleep(30 * time.Minute)
		if _, err := w.service.Deny(t.Context(), bob(), id, "no"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30*time.Minute - time.Nanosecond)
		if got := w.want(t, put(), atlas.CodeApprovalDenied, 0); got != id {
			t.Errorf("denied by %s, want %s", got, id)
		}
		w.want(t, put(func(c *atlas.Call) { c.Args.Digest[0]++ }), atlas.CodeApprovalRequired, 0)
		time.Sleep(time.Nanosecond)
		if next := w.want(t, put(), atlas.CodeApprovalRequired, 0); next == id {
			t.Error("an expired denial was asked for again")
		}
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, approval.Config{TTL: 10 * time.Minute})
		id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
		time.Sleep(9 * time.Minute)
		w.approve(t, id)
		time.Sleep(time.Minute) // the decision has not prolonged it
		w.want(t, put(), atlas.CodeApprovalRequired, 0)

		id = w.want(t, put(), atlas.CodeApprovalRequired, 0)
		time.Sleep(10 * time.Minute)
		if _, err := w.service.Approve(t.Context(), bob(), id, ""); atlas.CodeOf(err) != atlas.CodeApprovalDecided {
			t.Errorf("approved after its expiry: %v", err)
		}
		w.want(t, put(), atlas.CodeApprovalRequired, 0)
	})
}

func TestFlood(t *testing.T) {
	w := newWorld(t, approval.Config{MaxPerSubject: 3, MaxPerTenant: 5})
	call := func(subject string, n int) atlas.Call {
		return put(func(c *atlas.Call) { c.Principal.Subject = subject; c.Args.Digest[0] = byte(n) })
	}
	for range 3 { // the same three again and again
		for n := range 3 {
			w.want(t, call("alice", n), atlas.CodeApprovalRequired, 0)
		}
	}
	w.want(t, call("alice", 3), atlas.CodeRateLimited, 0)
	w.want(t, call("carol", 0), atlas.CodeApprovalRequired, 0)
	w.want(t, call("carol", 1), atlas.CodeApprovalRequired, 0)
	w.want(t, call("carol", 2), atlas.CodeRateLimited, 0)
	// Another tenant is not affected, and does not learn of it.
	w.want(t, put(func(c *atlas.Call) { c.Tenant = "globex" }), atlas.CodeApprovalRequired, 0)
}

func TestGivenBack(t *testing.T) {
	for _, tc := range []struct {
		name     string
		err      error
		attempts int
		back     bool
	}{
		{"breaker open", &atlas.Error{Code: atlas.CodeCircuitOpen}, 0, true},
		{"bulkhead full", &atlas.Error{Code: atlas.CodeOverloaded}, 0, true},
		{"no time", &atlas.Error{Code: atlas.CodeBudgetExhausted}, 0, true},
		{"key in use", &atlas.Error{Code: atlas.CodeIdempotencyRunning}, 0, true},
		{"key reused", &atlas.Error{Code: atlas.CodeIdempotencyReused}, 0, true},
		{"limited", &atlas.Error{Code: atlas.CodeRateLimited}, 0, true},
		{"stopping", &atlas.Error{Code: atlas.CodeShuttingDown}, 0, true},
		{"no audit", fmt.Errorf("wrapped: %w", &atlas.Error{Code: atlas.CodeAuditUnavailable}), 0, true},
		{"a workflow's second step met the breaker", &atlas.Error{Code: atlas.CodeCircuitOpen}, 1, false},
		{"source down", &atlas.Error{Code: atlas.CodeSourceUnavailable}, 3, false},
		{"timeout", &atlas.Error{Code: atlas.CodeTimeout}, 0, false},
		{"cancelled", context.Canceled, 0, false},
		{"state", &atlas.Error{Code: atlas.CodeStateUnavailable}, 0, false},
		{"unknown", errors.New("x"), 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, approval.Config{})
			id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
			w.approve(t, id)
			w.fail = func() (atlas.Result, error) {
				return atlas.Result{Notes: atlas.Notes{Attempts: tc.attempts}}, tc.err
			}
			if got := w.want(t, put(), atlas.CodeOf(tc.err), 1); got != id {
				t.Errorf("the failure notes %q", got)
			}
			w.fail = nil
			if tc.back {
				w.want(t, put(), "", 2)
				w.want(t, put(), atlas.CodeApprovalRequired, 2)
			} else {
				w.want(t, put(), atlas.CodeApprovalRequired, 1)
			}
		})
	}
	t.Run("also after the caller hung up", func(t *testing.T) {
		w := newWorld(t, approval.Config{})
		w.approve(t, w.want(t, put(), atlas.CodeApprovalRequired, 0))
		ctx, cancel := context.WithCancel(t.Context())
		w.fail = func() (atlas.Result, error) {
			cancel()
			return atlas.Result{}, &atlas.Error{Code: atlas.CodeOverloaded}
		}
		_, _ = w.handle(ctx, put())
		w.fail = nil
		w.want(t, put(), "", 2)
	})
	t.Run("not after a panic", func(t *testing.T) {
		w := newWorld(t, approval.Config{})
		w.approve(t, w.want(t, put(), atlas.CodeApprovalRequired, 0))
		w.fail = func() (atlas.Result, error) { panic("x") }
		func() {
			defer func() { _ = recover() }()
			_, _ = w.handle(t.Context(), put())
		}()
		w.fail = nil
		w.want(t, put(), atlas.CodeApprovalRequired, 1)
	})
}

// One approval, many identical calls at once, in two processes: one runs.
func TestUsedOnceInARace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	var worlds [2]*world
	for i := range worlds {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		worlds[i] = worldOver(t, s, approval.Config{})
	}
	w := worlds[0]
	w.approve(t, w.want(t, put(), atlas.CodeApprovalRequired, 0))
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		pending = map[string]bool{}
	)
	for i := range 16 {
		wg.Go(func() {
			code, id := worlds[i%2].ask(t, put())
			mu.Lock()
			defer mu.Unlock()
			if code == atlas.CodeApprovalRequired {
				pending[id] = true
			} else if code != "" {
				t.Errorf("got %q", code)
			}
		})
	}
	wg.Wait()
	if n := worlds[0].runs.Load() + worlds[1].runs.Load(); n != 1 || len(pending) != 1 {
		t.Errorf("%d runs and %d new approvals, want 1 and 1", n, len(pending))
	}
}

// A repeated write with its idempotency key is answered from the first result, without a second
// approval; nothing else is let through by that.
func TestReplayNeedsNoApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := memory.New(state.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		keys, err := idempotency.New(idempotency.Config{}, store, quiet())
		if err != nil {
			t.Fatal(err)
		}
		w := &world{policy: "p1"}
		slow := make(chan struct{})
		gate, err := approval.New(approval.Config{}, store, approval.Deps{PolicyHash: func() string { return w.policy }, Replay: keys}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		w.handle = gate.Stage(keys.Stage(func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			<-slow
			return w.tool(ctx, c)
		}))
		if w.service, err = approval.NewService(store, (&recorder{}).record, quiet()); err != nil {
			t.Fatal(err)
		}
		keyed := func(c *atlas.Call) { c.IdempotencyKey = "k1" }
		w.approve(t, w.want(t, put(keyed), atlas.CodeApprovalRequired, 0))

		var wg sync.WaitGroup
		wg.Go(func() {
			if res, err := w.handle(t.Context(), put(keyed)); err != nil || res.Notes.Replayed {
				t.Errorf("the first call: %+v, %v", res.Notes, err)
			}
		})
		synctest.Wait()
		w.want(t, put(keyed), atlas.CodeIdempotencyRunning, 0) // and asks no person
		close(slow)
		wg.Wait()

		for range 2 {
			res, err := w.handle(t.Context(), put(keyed))
			if err != nil || !res.Notes.Replayed || string(res.Structured) != "{}" || w.runs.Load() != 1 {
				t.Errorf("the repetition: %+v, %v after %d runs", res, err, w.runs.Load())
			}
		}
		w.want(t, put(), atlas.CodeApprovalRequired, 1) // without the key it is a new write
		for name, tc := range map[string]struct {
			change func(*atlas.Call)
			want   atlas.Code
		}{
			"other arguments": {func(c *atlas.Call) { c.Args.Digest[0]++ }, atlas.CodeIdempotencyReused},
			"other key":       {func(c *atlas.Call) { c.IdempotencyKey = "k2" }, atlas.CodeApprovalRequired},
			"other subject":   {func(c *atlas.Call) { c.Principal.Subject = "mallory" }, atlas.CodeApprovalRequired},
			"other tenant":    {func(c *atlas.Call) { c.Tenant = "globex" }, atlas.CodeApprovalRequired},
			"other tool":      {func(c *atlas.Call) { c.Tool.Name = "files_delete" }, atlas.CodeApprovalRequired},
			"a bad key":       {func(c *atlas.Call) { c.IdempotencyKey = "\x00" }, atlas.CodeInvalidArguments},
		} {
			if code, _ := w.ask(t, put(keyed, tc.change)); code != tc.want || w.runs.Load() != 1 {
				t.Errorf("%s: got %q after %d runs, want %q", name, code, w.runs.Load(), tc.want)
			}
		}
		// Once the result is no longer kept, the key gives no licence.
		time.Sleep(25 * time.Hour)
		w.want(t, put(keyed), atlas.CodeApprovalRequired, 1)
	})
}

func TestStoreFails(t *testing.T) {
	w := newWorld(t, approval.Config{})
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	w.want(t, put(), atlas.CodeStateUnavailable, 0)
	if _, err := w.service.Approve(t.Context(), bob(), "apr_X", ""); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
		t.Errorf("Approve: %v", err)
	}
}

func TestConfig(t *testing.T) {
	bad := approval.Config{Require: []string{""}, TTL: time.Second, MaxPerSubject: -1, MaxPerTenant: -1, MaxPreview: 1}
	err := bad.Validate()
	for _, word := range []string{"require", "ttl", "max_per_subject", "max_per_tenant", "max_preview"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not name %s", err, word)
		}
	}
	store, _ := memory.New(state.Limits{})
	hash := func() string { return "" }
	for name, f := range map[string]func() error{
		"bad": func() error { _, err := approval.New(bad, store, approval.Deps{PolicyHash: hash}, quiet()); return err },
		"no store": func() error {
			_, err := approval.New(approval.Config{}, nil, approval.Deps{PolicyHash: hash}, quiet())
			return err
		},
		"no policy":   func() error { _, err := approval.New(approval.Config{}, store, approval.Deps{}, quiet()); return err },
		"no recorder": func() error { _, err := approval.NewService(store, nil, quiet()); return err },
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkPassThrough(b *testing.B) {
	w := newWorld(b, approval.Config{Require: []string{"mail_send"}})
	c := put(func(c *atlas.Call) { c.Tool.Destructive = false })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.handle(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPending(b *testing.B) {
	w := newWorld(b, approval.Config{})
	c := put()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.handle(b.Context(), c); err == nil {
			b.Fatal("ran")
		}
	}
}

// hanging is a store that does not answer.
type hanging struct{ state.Store }

func (hanging) FindApproval(ctx context.Context, _ atlas.Approval) (atlas.Approval, bool, error) {
	<-ctx.Done()
	return atlas.Approval{}, false, ctx.Err()
}

// Nobody waits for a store that hangs for longer than his turn lasts.
func TestStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := worldOver(t, hanging{}, approval.Config{})
		start := time.Now()
		_, err := w.handle(t.Context(), put(func(c *atlas.Call) {
			c.Received, c.Budget = start, atlas.Budget{Total: 2 * time.Second}
		}))
		if took := time.Since(start); atlas.CodeOf(err) != atlas.CodeTimeout || took > 3*time.Second || w.runs.Load() != 0 {
			t.Errorf("%v after %s, %d runs", err, took, w.runs.Load())
		}
	})
}
