package app

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
)

// A flood gate stands before the pipeline. The pipeline records every call, also those that it
// refuses before its limiter (unknown tools, wrong arguments, lists), so somebody must keep one caller
// from filling the log: the gate does, with a bucket per caller that no honest caller meets.
type flood struct {
	rate    ratelimit.Rate
	buckets *ratelimit.Local
	record  func(context.Context, atlas.AuditRecord) error
	refused atomic.Int64
}

// auditTimeout bounds how long a refusal waits for its record.
const auditTimeout = 2 * time.Second

// defaultFlood is twenty times what the limiter gives to a caller.
var defaultFlood = ratelimit.Rate{Rate: 4800, Per: time.Minute, Burst: 1200}

// admit returns nil, or rate_limited. Of the refusals of one caller one a minute is recorded.
func (f *flood) admit(ctx context.Context, call atlas.Call) error {
	p := call.Principal
	decision, err := f.take(ctx, p, "", f.rate.Per/time.Duration(f.rate.Rate), f.rate.Burst)
	if err != nil || decision.Allowed {
		return err
	}
	f.refused.Add(1)
	rec := denied(p, call.Tenant, atlas.CodeRateLimited)
	rec.Kind, rec.RequestID, rec.Transport, rec.Tool = "call", call.ID, call.Transport, call.Name
	if err := f.recordOnce(ctx, p, "flood", rec); err != nil {
		return &atlas.Error{Code: atlas.CodeAuditUnavailable, Err: err}
	}
	return (&atlas.Error{Code: atlas.CodeRateLimited, RetryAfter: decision.RetryAfter}).With("limit", "flood")
}

// recordOnce writes the record, unless there was one of the same kind of refusal to the same caller
// within the last minute.
func (f *flood) recordOnce(ctx context.Context, p *atlas.Principal, what string, rec atlas.AuditRecord) error {
	first, err := f.take(ctx, p, what, time.Minute, 1)
	if err != nil || !first.Allowed {
		return err
	}
	return f.record(ctx, rec)
}

// taskCancelled records that a caller has ended a task of his.
func (a *App) taskCancelled(ctx context.Context, call atlas.Call, id string) {
	rec := denied(call.Principal, call.Tenant, "")
	rec.Kind, rec.RequestID, rec.Transport = "admin", call.ID, call.Transport
	rec.Status, rec.Action, rec.Target = "ok", "task.cancel", id
	if err := a.auditLog.Record(context.WithoutCancel(ctx), rec); err != nil {
		a.log.WarnContext(ctx, "a cancelled task is not in the audit log", "request_id", call.ID, "error", err)
	}
}

// denied returns the record of a refusal to p, for the tenant that was asked for.
func denied(p *atlas.Principal, tenant atlas.TenantID, code atlas.Code) atlas.AuditRecord {
	rec := atlas.AuditRecord{
		Tenant: tenant, Caller: p.Subject, CallerRoles: p.Roles, Delegator: p.Delegator, TokenID: p.TokenID,
		Status: "denied", ErrorCode: code,
	}
	if p.Tenant != tenant {
		rec.HomeTenant = p.Tenant
	}
	return rec
}

// refused counts requests that the edge refused, and records those of known callers, at most one a
// minute of each kind and caller: whose token was not accepted could otherwise write the log at will.
func (a *App) refused(ctx context.Context, r edge.Refusal) {
	a.metrics.Refused(r.Code)
	if r.Caller == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	p := r.Caller.Principal
	rec := denied(p, p.Tenant, r.Code)
	rec.Kind, rec.RequestID, rec.Transport, rec.Action, rec.Target = "admin", edge.NewRequestID(), "http", "http.refused", string(r.Requested)
	if err := a.flood.recordOnce(ctx, p, string(r.Code), rec); err != nil {
		a.log.WarnContext(ctx, "refusal not audited", "code", r.Code, "error", err)
	}
}

// take charges the caller's bucket of the given purpose; "" is that of calls.
func (f *flood) take(ctx context.Context, p *atlas.Principal, purpose string, interval time.Duration, burst int) (ratelimit.Decision, error) {
	charge := ratelimit.Charge{Tenant: p.Tenant}
	name := purpose + "\x00" + p.Issuer + "\x00" + p.Subject
	charge.Cells[ratelimit.Caller] = ratelimit.Cell{Name: name, Interval: interval, Burst: int64(burst), Cost: 1}
	return f.buckets.Take(ctx, charge)
}
