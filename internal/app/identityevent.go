package app

import (
	"cmp"
	"context"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

// Of each kind of identity event about one person so many are recorded: more than people cause, and too few
// for strangers to fill the log. All those about nobody known count as one person's.
const (
	eventInterval = 6 * time.Second
	eventBurst    = 20
)

// identityEvent records what the embedded authorization server tells.
func (a *App) identityEvent(ctx context.Context, e issuer.Event) {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	rec := atlas.AuditRecord{
		Kind: "admin", RequestID: edge.NewRequestID(), Tenant: e.Tenant, Caller: cmp.Or(e.Subject, "anonymous"), Transport: "http",
		Action: e.Action, Target: e.Target(), Status: "ok",
	}
	if e.Denied {
		rec.Status, rec.ErrorCode = "denied", atlas.CodeNotAuthorized
	}
	p := &atlas.Principal{Tenant: e.Tenant, Issuer: a.issuer.URL(), Subject: e.Subject}
	room, err := a.flood.take(ctx, p, e.Action+" "+rec.Status, eventInterval, eventBurst)
	if err == nil && !room.Allowed {
		return
	}
	if err == nil {
		err = a.auditLog.Record(ctx, rec)
	}
	if err != nil {
		a.log.WarnContext(ctx, "not in the audit log", "action", e.Action, "error", err)
	}
}
