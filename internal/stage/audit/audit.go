// Package audit writes one record for every call, list and administrative act into an append-only
// JSONL log whose records are chained by SHA-256, and reads, verifies and searches such logs. What a
// record holds is decided in the root package; shipping the log elsewhere is left to others.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// Deps are what the stage needs from other parts.
type Deps struct {
	Log *Log   // outlives the stage; required
	Key []byte // of the HMAC over arguments, at least 16 bytes
	// Lookup finds the tool that a call names. It must find only tools that the caller may see: a
	// write is fsynced before anything else happens, and the time that takes would otherwise tell a
	// hidden tool from one that does not exist. Required.
	Lookup func(call atlas.Call, name string) (*atlas.Tool, bool)
	// Canonical returns JSON in its canonical form (RFC 8785), so that equal arguments have equal
	// hashes. If it is nil or fails, the arguments are hashed as they came.
	Canonical func(json.RawMessage) ([]byte, error)
	// TraceID returns the trace id of a context, or "". May be nil.
	TraceID func(context.Context) string
}

// An Auditor is the stage. It is safe for concurrent use.
type Auditor struct {
	deps   Deps
	hasher *hasher
	log    *slog.Logger
}

// New returns the stage. The log of deps outlives it: it is opened once and handed to every
// configuration's stage.
func New(deps Deps, log *slog.Logger) (*Auditor, error) {
	var errs []error
	if deps.Log == nil {
		errs = append(errs, errors.New("audit: no log"))
	}
	if len(deps.Key) < 16 {
		errs = append(errs, errors.New("audit: the key has fewer than 16 bytes"))
	}
	if deps.Lookup == nil {
		errs = append(errs, errors.New("audit: no lookup of tools"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if deps.TraceID == nil {
		deps.TraceID = func(context.Context) string { return "" }
	}
	return &Auditor{deps: deps, hasher: newHasher(deps.Key, deps.Canonical), log: log}, nil
}

// Stage records each call. A call that may change something is recorded as an intent first, on disk,
// and is refused with audit_unavailable if that cannot be done. Other calls are recorded when they are
// answered and are on disk soon after; they are refused only when the log has been failing for so
// long that no more can be kept in memory.
func (a *Auditor) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		start := time.Now()
		// A place for the record is taken before the call runs, so that there is one afterwards.
		slot, err := a.deps.Log.reserve(ctx, call.Parent == nil)
		if err != nil {
			a.log.WarnContext(ctx, "call refused: its audit record cannot be kept",
				"request_id", call.ID, "error", err)
			return atlas.Result{}, unavailable(err)
		}
		rec := a.record(ctx, call)
		finished := false
		finish := func(res *atlas.Result, err error) {
			finished = true
			complete(rec, res, err, time.Since(start))
			a.deps.Log.put(rec, slot)
		}
		defer func() {
			if !finished { // a panic on its way to the telemetry stage
				finish(nil, &atlas.Error{Code: atlas.CodeInternal})
			}
		}()
		if a.writes(call) {
			intent := *rec
			intent.Kind, intent.Status, intent.Time = KindIntent, StatusOK, start.UTC()
			if err := a.deps.Log.append(ctx, &intent); err != nil {
				err = unavailable(err)
				finish(nil, err)
				return atlas.Result{}, err
			}
		}
		res, err := next(ctx, call)
		finish(&res, err)
		return res, err
	}
}

// writes reports whether the call may change something, in or out of the company.
func (a *Auditor) writes(call atlas.Call) bool {
	if call.Op != atlas.OpCall {
		return false
	}
	t, ok := a.deps.Lookup(call, call.Name)
	return ok && (!t.ReadOnly || t.Destructive || t.Effects != atlas.EffectsNone)
}

func unavailable(err error) error {
	return &atlas.Error{Code: atlas.CodeAuditUnavailable, Err: err}
}

// The values of AuditRecord.Kind and AuditRecord.Status.
const (
	KindCall   = "call"
	KindIntent = "intent"
	KindList   = "list"
	KindAdmin  = "admin"

	StatusOK     = "ok"
	StatusError  = "error"
	StatusDenied = "denied"
	StatusAsked  = "asked" // the client must answer first
)

// record returns what is known of a call before it runs.
func (a *Auditor) record(ctx context.Context, call atlas.Call) *atlas.AuditRecord {
	rec := recordPool.Get().(*atlas.AuditRecord)
	*rec = atlas.AuditRecord{
		Kind: KindCall, RequestID: clip(call.ID), TraceID: a.deps.TraceID(ctx),
		Tenant: call.Tenant, Transport: call.Transport, Tool: clip(call.Name),
	}
	if call.Op == atlas.OpList {
		rec.Kind = KindList
	} else {
		rec.ArgsHash = a.hasher.sum(call.Args.Raw)
	}
	if call.Parent != nil {
		rec.ParentID = clip(call.Parent.ID)
	}
	if p := call.Principal; p != nil {
		rec.Caller, rec.Delegator, rec.TokenID = clip(p.Subject), clip(p.Delegator), clip(p.TokenID)
		rec.CallerRoles = p.Roles
		if p.Tenant != call.Tenant {
			rec.HomeTenant = p.Tenant
		}
	}
	return rec
}

// complete adds what became of the call.
func complete(rec *atlas.AuditRecord, res *atlas.Result, err error, took time.Duration) {
	rec.Time = time.Now().UTC()
	rec.DurationUS = took.Microseconds()
	rec.Status = StatusOK
	if err != nil {
		e := atlas.ErrorOf(err)
		rec.Status, rec.ErrorCode = StatusError, e.Code
		if e.Info().Category == atlas.PermissionDenied {
			rec.Status = StatusDenied
		}
	}
	if res == nil {
		return
	}
	n := &res.Notes
	rec.Decision, rec.Rule, rec.Policy = n.Decision, n.Rule, n.PolicyHash
	rec.Cache, rec.ApprovalID, rec.Replayed = n.Cache, n.ApprovalID, n.Replayed
	rec.Attempts, rec.Redacted = n.Attempts, n.Redacted
	if err == nil {
		rec.Bytes = res.Size()
		if res.Ask != nil {
			rec.Status = StatusAsked
		}
	}
}

// maxText bounds the texts of a record that come from outside.
const maxText = 256

// clip shortens s to maxText bytes, marking that it did, and makes it valid UTF-8.
func clip(s string) string {
	if len(s) > maxText {
		cut := maxText
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
