// Package stage is what the stages below share. Each stage is a folder.
package stage

import (
	"context"
	"time"

	"github.com/atlas-mcp/atlas"
)

// grace keeps the end of the turn behind the deadlines that the stages set themselves, so that the
// one that knows why a call ended says so.
const grace = 100 * time.Millisecond

// Turn returns a context that ends soon after the turn of the call's caller, if the caller has said how
// much of it is left: nobody waits for an answer after that. The budget stage gives the tool its
// deadline; this is for what a stage around it asks of a store that may hang. A task outlasts the
// turn, and its context has no such end. The cancel function must be called.
func Turn(ctx context.Context, call atlas.Call) (context.Context, context.CancelFunc) {
	if call.Budget.Total <= 0 || call.Received.IsZero() || call.Task {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, call.Received.Add(call.Budget.Total+grace))
}
