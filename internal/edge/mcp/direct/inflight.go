package direct

import (
	"context"
	"strconv"
	"sync"

	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// User names one caller acting for one tenant: acting tenant, home tenant, issuer, subject, and who acts
// for him. Two issuers may give one subject to two people, an impersonator may have a namesake in the
// tenant, and what one agent does on somebody's behalf is not another agent's to cancel or to answer. No
// two callers share a name, because a tenant has no '|' and the lengths of issuer and subject are told.
func User(c *edge.Caller) string {
	p := c.Principal
	return string(c.Tenant) + "|" + string(p.Tenant) + "|" + strconv.Itoa(len(p.Issuer)) + "|" + p.Issuer +
		"|" + strconv.Itoa(len(p.Subject)) + "|" + p.Subject + "|" + p.Delegator
}

// inflight finds the running call that a cancellation of the older era means. That comes in a
// request of its own, so the caller and the JSON-RPC id must do. If one caller has two clients that
// both have a call of that id running, nothing is cancelled: a call too many is better than a wrong
// answer for the other.
type inflight struct {
	mu      sync.Mutex // guards running
	running map[callKey]map[*inflightCall]struct{}
}

type callKey struct{ user, id string }

type inflightCall struct{ cancel context.CancelFunc }

// track makes a request one that can be cancelled, until the function that it returns is called.
func (f *inflight) track(ctx context.Context, c *edge.Caller, m *message.Request) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	leave := f.enter(callKey{User(c), m.Key()}, cancel)
	return ctx, func() { leave(); cancel() }
}

// enter adds a call, which stays until the function that enter returns is called.
func (f *inflight) enter(k callKey, cancel context.CancelFunc) (leave func()) {
	c := &inflightCall{cancel}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[k] == nil {
		f.running[k] = make(map[*inflightCall]struct{}, 1)
	}
	f.running[k][c] = struct{}{}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if delete(f.running[k], c); len(f.running[k]) == 0 {
			delete(f.running, k)
		}
	}
}

func (f *inflight) cancel(k callKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.running[k]) == 1 {
		for c := range f.running[k] {
			c.cancel()
		}
	}
}
