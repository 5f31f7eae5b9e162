// Package listen tells MCP clients what they did not ask for one by one: that a list changed, that a
// resource has other contents, how a task goes on. It knows who listens: subscriptions of 2026-07-28,
// connections of the older era that are kept, and sessions of the older era over HTTP. Who a caller is
// and what he may see is asked of others, again and again: who may see something when he subscribes may
// not later.
package listen

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/places"
)

// Config sets up a Hub.
type Config struct {
	Bound        places.Bound    // of what is kept open for listeners, and of sessions that are held
	SightTTL     time.Duration   // how old what a caller may see may be when he is told of it
	KeepAlive    time.Duration   // between two signs of life on a silent stream
	WriteTimeout time.Duration   // for one part of a stream
	Draining     context.Context // ends when the server stops: streams end with it
}

// A Caller is who listens, as one request proved it. It is shared and read-only.
type Caller struct {
	Holder places.Holder
	Tenant atlas.TenantID // that the caller acts for
	Expiry time.Time      // of what proves it; zero if it does not expire
	// Sees looks up which resources the caller may see now, for a request with the meta; nil if it is for
	// none. Its errors are returned as they are.
	Sees func(ctx context.Context, meta map[string]any) (func(uri string) bool, error)
}

// kinds counts the kinds of things that have a list.
const kinds = int(atlas.KindResource) + 1

// Lists are lists, by the kind of what is in them.
type Lists [kinds]bool

// maxSubscribed bounds the resources of one listener.
const maxSubscribed = 64

var errTooManyURIs = &message.Error{Code: message.CodeInvalidParams, Message: "A subscription may have 64 resources"}

// errTooManyStreams is one and the same for all three bounds: which one it was would tell of the
// others' subscriptions.
func errTooManyStreams() *atlas.Error {
	return atlas.Errorf(atlas.CodeRateLimited, nil, "too many subscriptions are open; close one, or try again later")
}

// A Hub knows who listens. It holds what they have not been told yet, which is bounded because a
// change that is told twice is told once, and so never waits for a client. It is safe for concurrent
// use.
type Hub struct {
	cfg     Config
	changes atomic.Uint64 // of the configuration
	streams places.Taken  // open streams

	mu        sync.Mutex // guards listeners
	listeners map[*Listener]struct{}

	sessions sessions
}

// New returns a Hub to which nobody listens. It starts nothing.
func New(cfg Config) *Hub {
	h := &Hub{cfg: cfg, listeners: make(map[*Listener]struct{})}
	h.sessions.hub, h.sessions.held = h, make(map[sessionKey]*heldSession)
	return h
}

// NewStream returns a writer of streams for an answer. It must be closed before its handler returns.
func (h *Hub) NewStream(w http.ResponseWriter) *Stream {
	return &Stream{ResponseWriter: w, every: h.cfg.KeepAlive, timeout: h.cfg.WriteTimeout}
}

// A Listener is one client that listens: a subscription, or a connection or session of the older era.
// It is safe for concurrent use.
type Listener struct {
	hub    *Hub
	tenant atlas.TenantID // that the caller acts for
	wake   chan struct{}  // holds one token when there is something to tell

	mu      sync.Mutex // guards the rest
	caller  *Caller    // as it was proved last
	lists   Lists
	uris    map[string]bool // subscribed; true if there is an update to tell
	changed Lists           // lists to tell of
	sight   sight
}

// A sight is what a caller may see, and when that was looked up: for whom, and after how many changes of
// the configuration. All three are taken down before the look, so that one that something changed under
// is not used again.
type sight struct {
	match   func(uri string) bool // nil if nobody has looked
	by      *Caller
	changes uint64
	at      time.Time
}

func (h *Hub) newListener(c *Caller) *Listener {
	return &Listener{hub: h, tenant: c.Tenant, caller: c, wake: make(chan struct{}, 1), uris: make(map[string]bool)}
}

// Join returns the listener of a connection of the older era that is kept. It listens to nothing yet,
// and must leave.
func (h *Hub) Join(c *Caller) *Listener {
	l := h.newListener(c)
	h.add(l)
	return l
}

// Leave ends what [Hub.Join] began.
func (l *Listener) Leave() { l.hub.remove(l) }

func (h *Hub) add(l *Listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners[l] = struct{}{}
}

func (h *Hub) remove(l *Listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listeners, l)
}

// ListChanged notes that the configuration changed, and with it a list.
func (h *Hub) ListChanged(kind atlas.Kind) {
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

// Updated notes that the resource at uri has other contents now, for one tenant. The clients that
// subscribed to it, act for that tenant and may see the resource are told. It does not wait for them.
func (h *Hub) Updated(tenant atlas.TenantID, uri string) {
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
func (l *Listener) note(change func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if change() {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// WantLists makes the listener hear of all changed lists. It does nothing on nil.
func (l *Listener) WantLists() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind := range l.lists {
		l.lists[kind] = true
	}
}

// Subscribe makes the listener hear of updates of the resource at uri, which its caller may see. It
// fails if there are too many.
func (l *Listener) Subscribe(uri string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, again := l.uris[uri]; !again {
		if len(l.uris) >= maxSubscribed {
			return errTooManyURIs
		}
		l.uris[uri] = false
	}
	return nil
}

// Unsubscribe ends what [Listener.Subscribe] began, if it did.
func (l *Listener) Unsubscribe(uri string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.uris, uri)
}

// take returns what is to be told, and forgets it.
func (l *Listener) take() (lists Lists, uris []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lists, l.changed = l.changed, Lists{}
	for uri, updated := range l.uris {
		if updated {
			uris = append(uris, uri)
			l.uris[uri] = false
		}
	}
	slices.Sort(uris)
	return lists, uris
}

// Serve tells the client of the listener, which is in the hub, what there is to tell, until ctx ends or
// the client cannot be told any more.
func (l *Listener) Serve(ctx context.Context, tell Teller) { l.serve(ctx, tell, nil) }

func (l *Listener) serve(ctx context.Context, tell Teller, subscription any) {
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
		sees := l.sees(ctx)
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
func (l *Listener) sees(ctx context.Context) func(uri string) bool {
	l.mu.Lock()
	caller, last := l.caller, l.sight
	l.mu.Unlock()
	if last.match != nil && last.by == caller && last.changes == l.hub.changes.Load() && time.Since(last.at) < l.hub.cfg.SightTTL {
		return last.match
	}
	now, err := l.hub.sightOf(ctx, caller, nil)
	if err != nil {
		return func(string) bool { return false }
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sight = now
	return now.match
}

// sightOf looks up what the caller may see.
func (h *Hub) sightOf(ctx context.Context, c *Caller, meta map[string]any) (sight, error) {
	v := sight{by: c, changes: h.changes.Load(), at: time.Now()}
	var err error
	v.match, err = c.Sees(ctx, meta)
	return v, err
}
