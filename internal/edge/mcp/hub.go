package mcp

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// A hub knows who listens. It holds what they have not been told yet, which is bounded because a
// change that is told twice is told once, and so never waits for a client.
type hub struct {
	changes atomic.Uint64 // of the configuration

	mu        sync.Mutex // guards listeners
	listeners map[*listener]struct{}
}

// A listener is one client that listens: a subscription, or a connection of the older era.
type listener struct {
	tenant atlas.TenantID // that the caller acts for
	wake   chan struct{}  // holds one token when there is something to tell

	mu      sync.Mutex // guards the rest
	id      *identity  // as it was proved last
	lists   [kinds]bool
	uris    map[string]bool // subscribed; true if there is an update to tell
	changed [kinds]bool     // lists to tell of
	sight   sight
}

// A sight is what a caller may see, and when that was looked up: for whom, and after how many changes of
// the configuration. All three are taken down before the look, so that one that something changed under
// is not used again.
type sight struct {
	match   func(uri string) bool // nil if nobody has looked
	by      *identity
	changes uint64
	at      time.Time
}

func newListener(id *identity) *listener {
	return &listener{tenant: id.caller.Tenant, id: id, wake: make(chan struct{}, 1), uris: make(map[string]bool)}
}

func (h *hub) add(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners[l] = struct{}{}
}

func (h *hub) remove(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listeners, l)
}

func (h *hub) changed(kind atlas.Kind) {
	h.changes.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		l.note(func() bool {
			l.changed[kind] = l.lists[kind]
			return l.changed[kind]
		})
	}
}

func (h *hub) updated(tenant atlas.TenantID, uri string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		if l.tenant != tenant {
			continue
		}
		l.note(func() bool {
			_, subscribed := l.uris[uri]
			if subscribed {
				l.uris[uri] = true
			}
			return subscribed
		})
	}
}

// note changes what is to be told, and wakes the listener if there is something.
func (l *listener) note(change func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if change() {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// wantLists makes the listener hear of all changed lists. It does nothing on nil.
func (l *listener) wantLists() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind := range l.lists {
		l.lists[kind] = true
	}
}

// take returns what is to be told, and forgets it.
func (l *listener) take() (lists [kinds]bool, uris []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lists, l.changed = l.changed, [kinds]bool{}
	for uri, updated := range l.uris {
		if updated {
			uris = append(uris, uri)
			l.uris[uri] = false
		}
	}
	slices.Sort(uris)
	return lists, uris
}

// A teller writes one JSON-RPC message to a client, at a moment when nothing else is being written.
//
// Notifications go past the SDK. It can send only those that it knows, to whom it thinks listens.
type teller func(message []byte) error

// notify tells of method. Subscription is the id of the subscription that the notification belongs to,
// or nil; params may be nil.
func (tell teller) notify(method string, subscription any, params map[string]any) error {
	if subscription != nil {
		if params == nil {
			params = make(map[string]any, 1)
		}
		params["_meta"] = map[string]any{sdk.MetaKeySubscriptionID: subscription}
	}
	raw := []byte("{}")
	if params != nil {
		var err error
		if raw, err = json.Marshal(params); err != nil {
			return err
		}
	}
	return tell(message.AppendNotification(nil, method, raw))
}

// listChanged are the notifications of the lists, by kind.
var listChanged = [kinds]string{
	atlas.KindTool:     "notifications/tools/list_changed",
	atlas.KindPrompt:   "notifications/prompts/list_changed",
	atlas.KindResource: "notifications/resources/list_changed",
}

const resourceUpdated = "notifications/resources/updated"

// serve tells l, which is in the hub, what there is to tell, until ctx ends or the client cannot be
// told any more.
func (s *Server) serve(ctx context.Context, l *listener, tell teller, subscription any) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		lists, uris := l.take()
		for kind, changed := range lists {
			if changed && tell.notify(listChanged[kind], subscription, nil) != nil {
				return
			}
		}
		if len(uris) == 0 {
			continue
		}
		sees := s.sees(ctx, l)
		for _, uri := range uris {
			if sees(uri) && tell.notify(resourceUpdated, subscription, map[string]any{"uri": uri}) != nil {
				return
			}
		}
	}
}

// sees returns whether the listener's caller may see the resource at a URI. The pipeline is asked
// again when the answer is older than a client may keep a list, and after every change of the
// configuration: who may see something when he subscribes may not later.
func (s *Server) sees(ctx context.Context, l *listener) func(uri string) bool {
	l.mu.Lock()
	id, last := l.id, l.sight
	l.mu.Unlock()
	if last.match != nil && last.by == id && last.changes == s.hub.changes.Load() && time.Since(last.at) < s.cfg.ListTTL {
		return last.match
	}
	now, err := s.sightOf(ctx, id, nil)
	if err != nil {
		return func(string) bool { return false }
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sight = now
	return now.match
}

// sightOf looks up what the caller may see.
func (s *Server) sightOf(ctx context.Context, id *identity, meta map[string]any) (sight, error) {
	v := sight{by: id, changes: s.hub.changes.Load(), at: time.Now()}
	var err error
	v.match, err = s.visibleURIs(ctx, id, meta)
	return v, err
}

// visibleURIs asks the pipeline which resources the caller may see.
func (s *Server) visibleURIs(ctx context.Context, id *identity, meta map[string]any) (func(uri string) bool, error) {
	_, tools, _, err := s.visible(ctx, id, listRequest{kind: atlas.KindResource, meta: meta})
	if err != nil {
		return nil, err
	}
	return func(uri string) bool {
		return len(uri) <= maxURI && slices.ContainsFunc(tools, func(t *atlas.Tool) bool {
			if t.Match == nil {
				return false
			}
			_, ok := t.Match(uri)
			return ok
		})
	}, nil
}
