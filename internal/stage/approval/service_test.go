package approval_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/approval"
)

func TestWhoMayDecide(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*atlas.Principal)
		want   atlas.Code
	}{
		"another person":            {func(*atlas.Principal) {}, ""},
		"the asker":                 {func(p *atlas.Principal) { p.Subject = "alice" }, atlas.CodeSelfApproval},
		"the asker of elsewhere":    {func(p *atlas.Principal) { p.Subject, p.Issuer = "alice", "https://other.example" }, atlas.CodeSelfApproval},
		"the asker's delegator":     {func(p *atlas.Principal) { p.Subject = "copilot" }, atlas.CodeSelfApproval},
		"the same agent for bob":    {func(p *atlas.Principal) { p.Delegator = "copilot" }, atlas.CodeSelfApproval},
		"the asker as an agent":     {func(p *atlas.Principal) { p.Delegator = "alice" }, atlas.CodeSelfApproval},
		"any agent":                 {func(p *atlas.Principal) { p.Delegator = "other-agent" }, atlas.CodeNotAuthorized},
		"no scope":                  {func(p *atlas.Principal) { p.Scopes = nil }, atlas.CodeNotAuthorized},
		"all tools but no decision": {func(p *atlas.Principal) { p.Scopes = []string{atlas.ScopeAdmin} }, atlas.CodeNotAuthorized},
		"another tenant":            {func(p *atlas.Principal) { p.Tenant = "globex" }, atlas.CodeApprovalNotFound},
		"impersonator":              {func(p *atlas.Principal) { p.Tenant = "globex"; p.Scopes = append(p.Scopes, atlas.ScopeImpersonate) }, atlas.CodeApprovalNotFound},
		"nobody":                    {func(p *atlas.Principal) { p.Subject = "" }, atlas.CodeNotAuthorized},
		"no tenant":                 {func(p *atlas.Principal) { p.Tenant = "" }, atlas.CodeNotAuthorized},
	} {
		t.Run(name, func(t *testing.T) {
			for _, decide := range []string{"approve", "deny"} {
				w := newWorld(t, approval.Config{})
				id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
				p := bob()
				tc.change(&p)
				f := map[string]func(context.Context, atlas.Principal, string, string) (atlas.Approval, error){
					"approve": w.service.Approve, "deny": w.service.Deny,
				}[decide]
				got, err := f(t.Context(), p, id, "because")
				if atlas.CodeOf(err) != tc.want {
					t.Fatalf("%s: got %v, want %q", decide, err, tc.want)
				}
				after, gerr := w.service.Get(t.Context(), "acme", id)
				if gerr != nil {
					t.Fatal(gerr)
				}
				if tc.want != "" {
					if after.State != atlas.ApprovalPending || after.Approver != "" {
						t.Errorf("%s: refused, but it is %+v", decide, after)
					}
					continue
				}
				if diff := cmp.Diff(after, got); diff != "" {
					t.Errorf("%s returned another than is kept (-kept +returned):\n%s", decide, diff)
				}
				if after.Approver != "bob" || after.Reason != "because" || after.Decided.IsZero() {
					t.Errorf("%s: %+v", decide, after)
				}
			}
		})
	}
}

// A foreign approval and one that does not exist are told apart by nothing.
func TestForeignIsLikeMissing(t *testing.T) {
	w := newWorld(t, approval.Config{})
	id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
	eve := bob()
	eve.Tenant = "globex"
	see := func(_ atlas.Approval, err error) string {
		data, jerr := json.Marshal(atlas.ErrorOf(err).Failure("r"))
		if jerr != nil {
			t.Fatal(jerr)
		}
		return string(data)
	}
	missing := "apr_" + strings.Repeat("A", 26)
	for name, f := range map[string]func(id string) string{
		"get":     func(id string) string { return see(w.service.Get(t.Context(), "globex", id)) },
		"approve": func(id string) string { return see(w.service.Approve(t.Context(), eve, id, "")) },
		"deny":    func(id string) string { return see(w.service.Deny(t.Context(), eve, id, "")) },
	} {
		foreign, none := f(id), f(missing)
		if foreign != none || !strings.Contains(none, "approval_not_found") {
			t.Errorf("%s: foreign %s, missing %s", name, foreign, none)
		}
		if long := f(strings.Repeat("x", 1<<20)); long != none {
			t.Errorf("%s: an endless id: %s", name, long)
		}
	}
	if list, err := w.service.List(t.Context(), "globex", ""); err != nil || len(list) != 0 {
		t.Errorf("globex lists %v, %v", list, err)
	}
	if list, err := w.service.List(t.Context(), "acme", atlas.ApprovalPending); err != nil || len(list) != 1 {
		t.Errorf("acme lists %v, %v", list, err)
	}
}

func TestOnlyPendingMoves(t *testing.T) {
	w := newWorld(t, approval.Config{})
	id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
	if _, err := w.service.Deny(t.Context(), bob(), id, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Approve(t.Context(), bob(), id, ""); atlas.CodeOf(err) != atlas.CodeApprovalDecided {
		t.Errorf("denied, then approved: %v", err)
	}
	other := put(func(c *atlas.Call) { c.Args.Digest[0]++ })
	id = w.want(t, other, atlas.CodeApprovalRequired, 0)
	w.approve(t, id)
	if _, err := w.service.Deny(t.Context(), bob(), id, ""); atlas.CodeOf(err) != atlas.CodeApprovalDecided {
		t.Errorf("approved, then denied: %v", err)
	}
	w.want(t, other, "", 1)
	if _, err := w.service.Approve(t.Context(), bob(), id, ""); atlas.CodeOf(err) != atlas.CodeApprovalDecided {
		t.Errorf("used, then approved: %v", err)
	}
}

func TestTwoDeciders(t *testing.T) {
	for range 20 {
		w := newWorld(t, approval.Config{})
		id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
		var (
			wg        sync.WaitGroup
			won, lost atomic.Int32
		)
		for i := range 8 {
			p := bob()
			p.Subject = "decider" + string(rune('a'+i))
			f := w.service.Approve
			if i%2 == 0 {
				f = w.service.Deny
			}
			wg.Go(func() {
				switch _, err := f(t.Context(), p, id, ""); {
				case err == nil:
					won.Add(1)
				case atlas.CodeOf(err) == atlas.CodeApprovalDecided:
					lost.Add(1)
				default:
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || lost.Load() != 7 {
			t.Fatalf("%d won and %d lost, want 1 and 7", won.Load(), lost.Load())
		}
	}
}

func TestDecisionsAreRecorded(t *testing.T) {
	w := newWorld(t, approval.Config{})
	id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
	asker := bob()
	asker.Subject = "alice"
	_, _ = w.service.Approve(t.Context(), asker, id, "")
	_, _ = w.service.Deny(t.Context(), bob(), "apr_\x1b[2J", "")
	w.approve(t, id)
	_, _ = w.service.Deny(t.Context(), bob(), id, "")

	base := atlas.AuditRecord{
		Tenant: "acme", Caller: "bob", CallerRoles: []string{"lead"}, TokenID: "tb", Transport: "internal",
		Action: "approval.approve", Target: id, ApprovalID: id,
	}
	with := func(f func(*atlas.AuditRecord)) atlas.AuditRecord { r := base; f(&r); return r }
	want := []atlas.AuditRecord{
		with(func(r *atlas.AuditRecord) {
			r.Kind, r.Caller, r.Status, r.ErrorCode = "admin", "alice", "denied", atlas.CodeSelfApproval
		}),
		with(func(r *atlas.AuditRecord) {
			r.Kind, r.Action, r.Status, r.ErrorCode = "admin", "approval.deny", "error", atlas.CodeApprovalNotFound
			r.Target, r.ApprovalID = "", ""
		}),
		with(func(r *atlas.AuditRecord) { r.Kind, r.Status = "intent", "ok" }),
		with(func(r *atlas.AuditRecord) { r.Kind, r.Status = "admin", "ok" }),
		with(func(r *atlas.AuditRecord) {
			r.Kind, r.Action, r.Status, r.ErrorCode = "admin", "approval.deny", "error", atlas.CodeApprovalDecided
		}),
	}
	got := w.log.records
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(atlas.AuditRecord{}, "Time", "RequestID")); diff != "" {
		t.Fatalf("records (-want +got):\n%s", diff)
	}
	if got[2].RequestID != got[3].RequestID || got[2].RequestID == got[4].RequestID || got[2].Time.IsZero() {
		t.Errorf("intent %q %v and outcome %q do not belong together", got[2].RequestID, got[2].Time, got[3].RequestID)
	}
}

// A decision that cannot be recorded does not take effect.
func TestNoDecisionWithoutRecord(t *testing.T) {
	w := newWorld(t, approval.Config{})
	id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
	disk := errors.New("disk full at /var/log")
	w.log.fail = func(atlas.AuditRecord) error { return disk }
	_, err := w.service.Approve(t.Context(), bob(), id, "")
	if atlas.CodeOf(err) != atlas.CodeAuditUnavailable || !errors.Is(err, disk) {
		t.Errorf("got %v", err)
	}
	if data, _ := json.Marshal(atlas.ErrorOf(err).Failure("r")); strings.Contains(string(data), "disk") {
		t.Errorf("the caller sees %s", data)
	}
	w.want(t, put(), atlas.CodeApprovalRequired, 0)

	// With the intent stored, a lost outcome does not undo the decision.
	w.log.fail = func(r atlas.AuditRecord) error {
		if r.Kind == "admin" {
			return disk
		}
		return nil
	}
	w.approve(t, id)
	w.want(t, put(), "", 1)
}

func TestReasonIsTamed(t *testing.T) {
	w := newWorld(t, approval.Config{})
	id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
	a, err := w.service.Deny(t.Context(), bob(), id, "no\x1b[31m\xff"+strings.Repeat("x", 5000))
	if err != nil || len(a.Reason) > 1000 || !strings.HasPrefix(a.Reason, `no\u{1b}[31m`) {
		t.Errorf("reason %.40q (%d bytes), %v", a.Reason, len(a.Reason), err)
	}
}

func TestPreview(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	for name, tc := range map[string]struct {
		preview func(context.Context, atlas.Call) (string, error)
		args    map[string]any
		redact  func(string) string
		want    []string
		not     []string
	}{
		"the tool's": {
			preview: func(context.Context, atlas.Call) (string, error) {
				return "overwrites a.txt (5 bytes)\nwith 9 bytes", nil
			},
			want: []string{"overwrites a.txt (5 bytes)\nwith 9 bytes"}, not: []string{"files_put"},
		},
		"none because it fails": {
			preview: func(context.Context, atlas.Call) (string, error) { return "half", errors.New("host db7 is down") },
			args:    map[string]any{"key": "a"},
			want:    []string{`files_put {"key":"a"}`}, not: []string{"db7", "half"},
		},
		"secrets": {
			args: map[string]any{"api_key": "s3cret", "nested": []any{map[string]any{"Client-Secret": "s3cret", "n": json.Number("3")}}},
			want: []string{`"api_key":"[redacted]"`, `"n":3`}, not: []string{"s3cret"},
		},
		"a long argument hides no other": {
			args: map[string]any{"a": long, "z": "seen"},
			want: []string{`"z":"seen"`, "10000 characters"}, not: []string{strings.Repeat("x", 201)},
		},
		"escapes": {
			preview: func(context.Context, atlas.Call) (string, error) {
				return "delete\x1b[2K\r keep \u202eevil\u2066\u200b\u2028", nil
			},
			want: []string{`delete\u{1b}[2K\u{d} keep \u{202e}evil\u{2066}\u{200b}\u{2028}`}, not: []string{"\x1b", "\r", "\u202e"},
		},
		"too long": {
			preview: func(context.Context, atlas.Call) (string, error) { return strings.Repeat("ä", 10_000), nil },
			want:    []string{"(cut; 20000 bytes in all)"}, not: []string{"\ufffd"},
		},
		"redacted": {
			preview: func(context.Context, atlas.Call) (string, error) { return "mail to jane@example.com", nil },
			redact:  func(s string) string { return strings.ReplaceAll(s, "jane@example.com", "[EMAIL]") },
			want:    []string{"mail to [EMAIL]"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, approval.Config{}, func(d *approval.Deps) { d.Redact = tc.redact })
			id := w.want(t, put(func(c *atlas.Call) {
				c.Tool.Preview = tc.preview
				if tc.args != nil {
					arguments(c, tc.args)
				}
			}), atlas.CodeApprovalRequired, 0)
			a, err := w.service.Get(t.Context(), "acme", id)
			if err != nil {
				t.Fatal(err)
			}
			if len(a.Preview) > 4096 {
				t.Errorf("%d bytes", len(a.Preview))
			}
			for _, s := range tc.want {
				if !strings.Contains(a.Preview, s) {
					t.Errorf("%.300q lacks %q", a.Preview, s)
				}
			}
			for _, s := range tc.not {
				if strings.Contains(a.Preview, s) {
					t.Errorf("%.300q holds %q", a.Preview, s)
				}
			}
		})
	}
}

// A preview that hangs ends with the call.
func TestSlowPreview(t *testing.T) {
	w := newWorld(t, approval.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	c := put(func(c *atlas.Call) {
		c.Tool.Preview = func(ctx context.Context, _ atlas.Call) (string, error) { <-ctx.Done(); return "", ctx.Err() }
	})
	if _, err := w.handle(ctx, c); atlas.CodeOf(err) != atlas.CodeTimeout {
		t.Errorf("got %v", err)
	}
	if w.runs.Load() != 0 {
		t.Error("it ran")
	}
}

func FuzzReason(f *testing.F) {
	f.Add("fine")
	f.Add("\x1b]0;x\x07")
	f.Add("\u202eabc")
	f.Add(strings.Repeat("\u200b", 400))
	f.Add("\xff\xfe")
	f.Fuzz(func(t *testing.T, reason string) {
		w := newWorld(t, approval.Config{})
		id := w.want(t, put(), atlas.CodeApprovalRequired, 0)
		a, err := w.service.Deny(t.Context(), bob(), id, reason)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Reason) > 1000 {
			t.Errorf("%d bytes", len(a.Reason))
		}
		for _, r := range a.Reason {
			if r < ' ' && r != '\n' || r == 0x7f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
				t.Errorf("%q is in %q", r, a.Reason)
			}
		}
	})
}
