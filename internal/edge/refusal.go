package edge

import (
	"context"
	"net/http"

	"github.com/atlas-mcp/atlas"
)

// A Refusal is a request that was turned away before there was a call, and so before the pipeline
// could record it. It holds nothing of the token and no text of the request but a tenant id in its
// proper form, so that it may be logged as it is.
type Refusal struct {
	Code       atlas.Code
	Caller     *Caller        // who asked; nil if no token was accepted. Shared, read-only
	RemoteAddr string         // address and port of the peer, which may be a proxy
	Requested  atlas.TenantID // the tenant that an authenticated caller named and did not get; may be empty
}

// Report tells the program that r was refused. requested may be empty.
func (c Challenge) Report(r *http.Request, code atlas.Code, requested atlas.TenantID) {
	if c.Refused == nil {
		return
	}
	// The client may hang up as soon as it likes; that it was refused stays true.
	ctx := context.WithoutCancel(r.Context())
	c.Refused(ctx, Refusal{Code: code, Caller: CallerOf(ctx), RemoteAddr: r.RemoteAddr, Requested: requested})
}
