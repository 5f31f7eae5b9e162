package listen

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// A Request is what a client of 2026-07-28 wants to hear of.
type Request struct {
	Lists Lists
	URIs  []string       // of resources
	Meta  map[string]any // of the request
}

// A Subscription is a listener of 2026-07-28. It must be closed.
type Subscription struct {
	l     *Listener
	close func()
}

// Subscribe begins a subscription, with the context in which it lives: until ctx ends, the caller's
// token expires, the server stops or the subscription is closed. Changes are noted from then on, for
// [Subscription.Serve] to tell. It fails with a JSON-RPC error of package message if too much is wanted,
// with an error of Atlas if there are too many, and as the caller's Sees fails.
func (h *Hub) Subscribe(ctx context.Context, c *Caller, req Request) (context.Context, *Subscription, error) {
	if len(req.URIs) > maxSubscribed {
		return nil, nil, errTooManyURIs
	}
	if !h.streams.Enter(c.Holder, h.cfg.Bound) {
		return nil, nil, errTooManyStreams()
	}
	ctx, cancel := until(ctx, c.Expiry)
	stop := context.AfterFunc(h.cfg.Draining, cancel)
	end := func() {
		stop()
		cancel()
		h.streams.Leave(c.Holder)
	}
	began := false
	defer func() {
		if !began { // it failed, or the look panicked
			end()
		}
	}()
	l := h.newListener(c)
	l.lists = req.Lists
	if err := l.subscribeAll(ctx, req.URIs, req.Meta); err != nil {
		return nil, nil, err
	}
	h.add(l)
	began = true
	return ctx, &Subscription{l: l, close: func() { h.remove(l); end() }}, nil
}

// until ends ctx at a time, unless that is zero.
func until(ctx context.Context, at time.Time) (context.Context, context.CancelFunc) {
	if at.IsZero() {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, at)
}

// subscribeAll subscribes l to those of the URIs that its caller may see a resource for. Whether there
// is something at a URI is not looked up: the answer would tell.
func (l *Listener) subscribeAll(ctx context.Context, uris []string, meta map[string]any) error {
	if len(uris) == 0 {
		return nil
	}
	now, err := l.hub.sightOf(ctx, l.caller, meta)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sight = now
	for _, uri := range uris {
		if now.match(uri) {
			l.uris[uri] = false
		}
	}
	return nil
}

// URIs returns the resources that the subscription was granted, sorted.
func (s *Subscription) URIs() []string {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return slices.Sorted(maps.Keys(s.l.uris))
}

// Serve tells the client what there is to tell, and how the tasks that it follows go on, until ctx ends.
// ID is the subscription's, for the client; followed may be nil.
func (s *Subscription) Serve(ctx context.Context, tell Teller, id any, followed *tasks.Subscription) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if followed != nil {
		wg.Go(func() { tellTasks(ctx, followed, tell, id) })
	}
	s.l.serve(ctx, tell, id)
	<-ctx.Done() // if it could not be told, the client has gone or will
}

// Close ends the subscription. It is called once.
func (s *Subscription) Close() { s.close() }
