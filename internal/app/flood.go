package app

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
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

// defaultFlood is twenty times what the limiter gives to a caller.
var defaultFlood = ratelimit.Rate{Rate: 4800, Per: time.Minute, Burst: 1200}

// admit returns nil, or rate_limited. Of the refusals of one caller one a minute is recorded.
func (f *flood) admit(ctx context.Context, call atlas.Call) error {
	p := call.Principal
	name := p.Issuer + "\x00" + p.Subject
	decision, err := f.take(ctx, p.Tenant, name, f.rate.Per/time.Duration(f.rate.Rate), f.rate.Burst)
	if err != nil || decision.Allowed {
		return err
	}
	f.refused.Add(1)
	if first, err := f.take(ctx, p.Tenant, name+"\x00refused", time.Minute, 1); err == nil && first.Allowed {
		rec := atlas.AuditRecord{
			Kind: "call", RequestID: call.ID, Tenant: call.Tenant, Caller: p.Subject, CallerRoles: p.Roles, Delegator: p.Delegator,
			TokenID: p.TokenID, Transport: call.Transport, Tool: call.Name, Status: "denied", ErrorCode: atlas.CodeRateLimited,
		}
		if p.Tenant != call.Tenant {
			rec.HomeTenant = p.Tenant
		}
		if err := f.record(ctx, rec); err != nil {
			return &atlas.Error{Code: atlas.CodeAuditUnavailable, Err: err}
		}
	}
	return (&atlas.Error{Code: atlas.CodeRateLimited, RetryAfter: decision.RetryAfter}).With("limit", "flood")
}

func (f *flood) take(ctx context.Context, tenant atlas.TenantID, name string, interval time.Duration, burst int) (ratelimit.Decision, error) {
	charge := ratelimit.Charge{Tenant: tenant}
	charge.Cells[ratelimit.Caller] = ratelimit.Cell{Name: name, Interval: interval, Burst: int64(burst), Cost: 1}
	return f.buckets.Take(ctx, charge)
}
