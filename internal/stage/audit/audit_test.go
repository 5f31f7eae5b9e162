package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gowebpki/jcs"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	read  = &atlas.Tool{Name: "read", ReadOnly: true}
	write = &atlas.Tool{Name: "write", Effects: atlas.EffectsWrite}
	key   = bytes.Repeat([]byte{7}, 32)
)

func lookup(_ atlas.Call, name string) (*atlas.Tool, bool) {
	for _, t := range []*atlas.Tool{read, write} {
		if t.Name == name {
			return t, true
		}
	}
	return nil, false
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t *testing.T, cfg audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(cfg, nil, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func path(t *testing.T) string { return filepath.Join(t.TempDir(), "log", "audit.jsonl") }

func stage(t *testing.T, l *audit.Log) *audit.Auditor {
	t.Helper()
	a, err := audit.New(audit.Deps{
		Log: l, Key: key, Lookup: lookup,
		Canonical: func(raw json.RawMessage) ([]byte, error) { return jcs.Transform(raw) },
		TraceID:   func(context.Context) string { return "trace" },
	}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func records(t *testing.T, path string, f audit.Filter) []atlas.AuditRecord {
	t.Helper()
	var out []atlas.AuditRecord
	for r, err := range audit.Query(t.Context(), path, f) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func verify(t *testing.T, path string) audit.Report {
	t.Helper()
	rep, err := audit.Verify(t.Context(), path, nil, audit.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func alice(tool string) atlas.Call {
	return atlas.Call{
		ID: "req-" + tool, Name: tool, Tenant: "acme", Transport: "http", Args: atlas.Args{Raw: []byte(`{"a":1}`)},
		Principal: &atlas.Principal{Subject: "alice", Tenant: "acme", Roles: []string{"analyst"}, TokenID: "jti", Delegator: "bot"},
	}
}

func answer(res atlas.Result, err error) atlas.Handler {
	return func(context.Context, atlas.Call) (atlas.Result, error) { return res, err }
}

func TestRecords(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p})
	a := stage(t, l)
	base := atlas.AuditRecord{
		Kind: "call", RequestID: "req-read", TraceID: "trace", Tenant: "acme", Caller: "alice",
		CallerRoles: []string{"analyst"}, Delegator: "bot", TokenID: "jti", Transport: "http", Tool: "read", Status: "ok",
	}
	notes := atlas.Notes{Decision: "allow", Rule: "r1", PolicyHash: "p1", Cache: "hit", Attempts: 2, Redacted: 3, ApprovalID: "ap", Replayed: true}
	list, child, foreign := alice(""), alice("read"), alice("read")
	list.Op, list.ID = atlas.OpList, "req-read"
	child.Parent = &atlas.Parent{ID: "parent"}
	foreign.Tenant = "globex"
	for _, tc := range []struct {
		call atlas.Call
		res  atlas.Result
		err  error
		want func(*atlas.AuditRecord)
	}{
		{alice("read"), atlas.Result{Structured: []byte(`{"x":1}`), Notes: notes}, nil, func(r *atlas.AuditRecord) {
			r.Decision, r.Rule, r.Policy, r.Cache, r.Attempts, r.Redacted, r.ApprovalID, r.Replayed = "allow", "r1", "p1", "hit", 2, 3, "ap", true
			r.Bytes = 7
		}},
		{alice("read"), atlas.Result{Notes: atlas.Notes{Decision: "deny", Rule: "r2"}}, &atlas.Error{Code: atlas.CodeDeniedByPolicy}, func(r *atlas.AuditRecord) {
			r.Status, r.ErrorCode, r.Decision, r.Rule = "denied", atlas.CodeDeniedByPolicy, "deny", "r2"
		}},
		{alice("read"), atlas.Result{}, &atlas.Error{Code: atlas.CodeRateLimited}, func(r *atlas.AuditRecord) {
			r.Status, r.ErrorCode = "error", atlas.CodeRateLimited
		}},
		{alice("read"), atlas.Result{}, errors.New("password=hunter2"), func(r *atlas.AuditRecord) {
			r.Status, r.ErrorCode = "error", atlas.CodeInternal
		}},
		{list, atlas.Result{}, nil, func(r *atlas.AuditRecord) { r.Kind, r.Tool = "list", "" }},
		{child, atlas.Result{}, nil, func(r *atlas.AuditRecord) { r.ParentID = "parent" }},
		{foreign, atlas.Result{}, nil, func(r *atlas.AuditRecord) { r.Tenant, r.HomeTenant = "globex", "acme" }},
		{alice("nosuch"), atlas.Result{}, &atlas.Error{Code: atlas.CodeToolNotFound}, func(r *atlas.AuditRecord) {
			r.RequestID, r.Tool, r.Status, r.ErrorCode = "req-nosuch", "nosuch", "error", atlas.CodeToolNotFound
		}},
	} {
		before := len(records(t, p, audit.Filter{}))
		if _, err := a.Stage(answer(tc.res, tc.err))(t.Context(), tc.call); !errors.Is(err, tc.err) {
			t.Errorf("error %v became %v", tc.err, err)
		}
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := records(t, p, audit.Filter{})
		if len(got) != before+1 {
			t.Fatalf("%d records for one call", len(got)-before)
		}
		want := base
		tc.want(&want)
		if diff := cmp.Diff(want, got[before], cmpopts.IgnoreFields(atlas.AuditRecord{}, "Seq", "Time", "ArgsHash", "DurationUS", "Prev", "Hash")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if hashed := strings.HasPrefix(got[before].ArgsHash, "hmac-sha256:"); hashed != (tc.call.Op == atlas.OpCall) {
			t.Errorf("args_hash %q", got[before].ArgsHash)
		}
	}
	data, err := os.ReadFile(p)
	if err != nil || bytes.Contains(data, []byte("hunter2")) {
		t.Errorf("the cause of an error is in the log (%v)", err)
	}
	if rep := verify(t, p); !rep.OK() || rep.Records != 8 {
		t.Errorf("%+v", rep)
	}
}

func TestArgsHash(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p})
	h := stage(t, l).Stage(answer(atlas.Result{}, nil))
	for _, raw := range []string{`{"a":1,"b":[2]}`, ` {"b" : [2.0], "a":1e0} `, `{"a":2}`, `{not json`, ``, `{}`} {
		c := alice("read")
		c.Args.Raw = []byte(raw)
		if _, err := h(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := records(t, p, audit.Filter{})
	if r[0].ArgsHash != r[1].ArgsHash || r[4].ArgsHash != r[5].ArgsHash {
		t.Error("equal arguments have different hashes")
	}
	seen := map[string]bool{}
	for _, i := range []int{0, 2, 3, 4} {
		seen[r[i].ArgsHash] = true
	}
	if len(seen) != 4 {
		t.Error("different arguments have equal hashes")
	}
}

// The intent is on disk before the tool runs, and the outcome follows.
func TestIntentBeforeWrite(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p})
	_, err := stage(t, l).Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
		got := records(t, p, audit.Filter{})
		if len(got) != 1 || got[0].Kind != "intent" || got[0].RequestID != "req-write" {
			t.Errorf("while the tool runs the log holds %+v", got)
		}
		seq, _, err := audit.FileHead(p).Get()
		if err != nil || seq != 1 {
			t.Errorf("head %d, %v: the intent was not synced", seq, err)
		}
		return atlas.Result{}, &atlas.Error{Code: atlas.CodeTimeout}
	})(t.Context(), alice("write"))
	if atlas.CodeOf(err) != atlas.CodeTimeout {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := records(t, p, audit.Filter{}); len(got) != 2 || got[1].Kind != "call" || got[1].ErrorCode != atlas.CodeTimeout {
		t.Errorf("%+v", got)
	}
}

// Composed tools hold a place while their children run, and the children must not wait for it.
func TestChildrenDoNotWaitForTheirParents(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p, Queue: 2})
	a := stage(t, l)
	child := a.Stage(answer(atlas.Result{}, nil))
	parent := a.Stage(func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		for range 10 {
			if res, err := child(ctx, c.Child("child", "read", nil)); err != nil {
				return res, err
			}
		}
		return atlas.Result{}, nil
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := parent(t.Context(), alice("read")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := records(t, p, audit.Filter{}); len(got) != 88 {
		t.Errorf("%d records, want 88", len(got))
	}
}

func TestPanicIsRecorded(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p})
	h := stage(t, l).Stage(func(context.Context, atlas.Call) (atlas.Result, error) { panic("boom") })
	func() {
		defer func() {
			if recover() != "boom" {
				t.Error("the panic did not go on")
			}
		}()
		_, _ = h(t.Context(), alice("read"))
	}()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := records(t, p, audit.Filter{}); len(got) != 1 || got[0].ErrorCode != atlas.CodeInternal {
		t.Errorf("%+v", got)
	}
}

// disk is a disk that can be made to fail.
type disk struct {
	mu   sync.Mutex
	full error // of writes, which get half of their bytes through
	dead error // of syncs
}

func (d *disk) set(full, dead error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full, d.dead = full, dead
}

func (d *disk) write(f *os.File, b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full == nil {
		return f.Write(b)
	}
	n, _ := f.Write(b[:len(b)/2])
	return n, d.full
}

func (d *disk) sync(*os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

func TestDiskFull(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p, Queue: 10})
	d := &disk{}
	audit.BreakDisk(l, d.write, d.sync)
	runs := 0
	h := stage(t, l).Stage(func(context.Context, atlas.Call) (atlas.Result, error) { runs++; return atlas.Result{}, nil })
	if _, err := h(t.Context(), alice("write")); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.set(errors.New("no space left on /secret/mount"), nil)
	_, err := h(t.Context(), alice("write"))
	e := atlas.ErrorOf(err)
	if e == nil || e.Code != atlas.CodeAuditUnavailable || runs != 1 || l.Healthy() == nil {
		t.Errorf("a write on a full disk: %v, %d runs, health %v", err, runs, l.Healthy())
	}
	if f := e.Failure("r"); strings.Contains(fmt.Sprint(f), "secret") {
		t.Errorf("the caller sees %v", f)
	}
	// Reads go on while their records can be kept, and then no further: none is dropped. One of the
	// ten places is held by the refused write's outcome.
	for i := range 12 {
		c := alice("read")
		c.ID = fmt.Sprintf("read-%d", i)
		_, err := h(t.Context(), c)
		if want := i >= 9; (atlas.CodeOf(err) == atlas.CodeAuditUnavailable) != want {
			t.Errorf("read %d: %v", i, err)
		}
	}
	if runs != 10 {
		t.Errorf("%d runs, want the write and nine reads", runs)
	}
	d.set(nil, nil)
	if err := l.Flush(t.Context()); err != nil || l.Healthy() != nil {
		t.Errorf("with space again: %v, health %v", err, l.Healthy())
	}
	if _, err := h(t.Context(), alice("write")); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	rep := verify(t, p)
	if !rep.OK() || len(rep.Torn) != 0 {
		t.Errorf("half-written records were left: %+v", rep)
	}
	if got := records(t, p, audit.Filter{Kind: "call"}); len(got) != 12 || got[1].ErrorCode != atlas.CodeAuditUnavailable || got[10].RequestID != "read-8" {
		t.Errorf("%d records", len(got))
	}
}

func TestSyncFails(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p})
	d := &disk{}
	audit.BreakDisk(l, d.write, d.sync)
	d.set(nil, errors.New("I/O error"))
	if err := l.Record(t.Context(), atlas.AuditRecord{Action: "x"}); atlas.CodeOf(err) != atlas.CodeAuditUnavailable {
		t.Errorf("a record that is not on disk: %v", err)
	}
	if seq, _, _ := audit.FileHead(p).Get(); seq != 0 {
		t.Errorf("the head promises record %d", seq)
	}
	d.set(nil, nil)
	if err := l.Record(t.Context(), atlas.AuditRecord{Action: "y"}); err != nil || l.Healthy() != nil {
		t.Errorf("%v, health %v", err, l.Healthy())
	}
	if rep := verify(t, p); !rep.OK() || rep.HeadSeq != 2 {
		t.Errorf("%+v", rep)
	}
}

// Whether a tool that the caller may not see exists must not show in what the stage does: the lookup
// is asked with the call, and a name it does not find leaves no intent.
func TestHiddenWriteLeavesNoIntent(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p})
	a, err := audit.New(audit.Deps{Log: l, Key: key, Lookup: func(c atlas.Call, name string) (*atlas.Tool, bool) {
		return write, name == "write" && c.Principal.Subject == "root"
	}}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	h := a.Stage(answer(atlas.Result{}, &atlas.Error{Code: atlas.CodeToolNotFound}))
	for _, name := range []string{"write", "nosuch"} {
		_, _ = h(t.Context(), alice(name))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := records(t, p, audit.Filter{Kind: "intent"}); len(got) != 0 {
		t.Errorf("intents %+v", got)
	}
}

func TestAfterClose(t *testing.T) {
	l := open(t, audit.Config{Path: path(t)})
	h := stage(t, l).Stage(answer(atlas.Result{}, nil))
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := h(t.Context(), alice("read")); atlas.CodeOf(err) != atlas.CodeAuditUnavailable {
		t.Errorf("a call after close: %v", err)
	}
	if err := l.Record(t.Context(), atlas.AuditRecord{}); atlas.CodeOf(err) != atlas.CodeAuditUnavailable {
		t.Errorf("a record after close: %v", err)
	}
}

func TestConfig(t *testing.T) {
	err := audit.Config{MaxBytes: 1, Queue: -1, Linger: -1, SyncInterval: -1}.Validate()
	for _, want := range []string{"path", "max_bytes", "queue", "linger", "sync_interval"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if _, err := audit.New(audit.Deps{Key: []byte("short")}, quiet()); err == nil {
		t.Error("New without log, key and lookup is accepted")
	}
}

func BenchmarkStage(b *testing.B) {
	l, err := audit.Open(audit.Config{Path: filepath.Join(b.TempDir(), "audit.jsonl")}, nil, quiet())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err := audit.New(audit.Deps{Log: l, Key: key, Lookup: lookup}, quiet())
	if err != nil {
		b.Fatal(err)
	}
	h := a.Stage(answer(atlas.Result{Structured: []byte(`{"x":1}`)}, nil))
	for _, tool := range []string{"read", "write"} {
		b.Run(tool, func(b *testing.B) {
			c := alice(tool)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h(b.Context(), c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
