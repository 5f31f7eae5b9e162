package listen

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/places"
)

// sessions hold what clients of the older era over HTTP listen to: those that have a stream open, and
// those that have subscribed to resources and may open one. A session itself is kept nowhere (see
// package direct), and any replica answers its requests; what it has subscribed to is known to the
// replica that it told, as its stream is that replica's.
type sessions struct {
	hub  *Hub
	mu   sync.Mutex // guards held, and what is in it
	held map[sessionKey]*heldSession
	kept places.Taken // counts them
}

// A sessionKey names a session of a caller. The token that carries a session is bound to its caller;
// here it is once more, so that no mistake there could give one caller's updates to another.
type sessionKey struct{ user, id string }

type heldSession struct {
	l      *Listener
	holder places.Holder // of the place in the count
	used   time.Time
	ends   time.Time
	open   int             // streams and requests that use it now
	over   context.Context // ends when the client ends the session
	end    context.CancelFunc
}

// open returns what is held of the caller's session, and the function that gives it back; nil if there are too
// many. Of one caller's sessions the one that was used least recently makes room.
func (h *sessions) open(c *Caller, session direct.Session) (held *heldSession, release func()) {
	key := sessionKey{c.Holder.User, session.ID}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	held = h.held[key]
	if held == nil {
		if !h.kept.Enter(c.Holder, h.hub.cfg.Bound) {
			h.makeRoom(c.Holder.User, now)
			if !h.kept.Enter(c.Holder, h.hub.cfg.Bound) {
				return nil, nil
			}
		}
		held = &heldSession{l: h.hub.newListener(c), holder: c.Holder, ends: session.Expires}
		held.over, held.end = context.WithCancel(context.Background())
		h.held[key] = held
		h.hub.add(held.l)
	}
	held.open++
	held.used = now
	held.l.mu.Lock()
	held.l.caller = c // the token may be a new one, with other scopes
	held.l.mu.Unlock()
	return held, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		held.used = time.Now()
		if held.open--; held.open == 0 && h.held[key] == held {
			held.l.mu.Lock()
			nothing := len(held.l.uris) == 0
			held.l.mu.Unlock()
			if nothing {
				h.drop(key, held)
			}
		}
	}
}

// heldFor is how long what a session has subscribed to is kept for a stream that does not come.
const heldFor = 10 * time.Minute

// makeRoom drops sessions that have expired or that nobody has listened to for long, and the one of
// the user that nothing uses and was used least recently. The caller holds mu.
func (h *sessions) makeRoom(user string, now time.Time) {
	var oldest sessionKey
	for key, held := range h.held {
		switch {
		case held.open > 0:
		case now.After(held.ends) || now.Sub(held.used) > heldFor:
			h.drop(key, held)
		case key.user == user && (oldest.id == "" || held.used.Before(h.held[oldest].used)):
			oldest = key
		}
	}
	if held := h.held[oldest]; held != nil {
		h.drop(oldest, held)
	}
}

// end forgets a session that its client ended, and closes its streams.
func (h *sessions) end(key sessionKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held := h.held[key]; held != nil {
		h.drop(key, held)
	}
}

// drop forgets a session. The caller holds mu.
func (h *sessions) drop(key sessionKey, held *heldSession) {
	delete(h.held, key)
	held.end()
	h.hub.remove(held.l)
	h.kept.Leave(held.holder)
}

// Session returns the listener of the caller's session of the older era, and the function that gives it
// back. It is kept for a stream that may come as long as it is subscribed to something. It fails if
// there are too many.
func (h *Hub) Session(c *Caller, session direct.Session) (l *Listener, release func(), err error) {
	held, release := h.sessions.open(c, session)
	if held == nil {
		return nil, nil, errTooManyStreams()
	}
	return held.l, release, nil
}

// EndSession forgets a session that its client, the user, ended, and closes its streams.
func (h *Hub) EndSession(user string, session direct.Session) {
	h.sessions.end(sessionKey{user, session.ID})
}

// ServeSession serves the stream of a session of the older era over HTTP, until the client closes it,
// its token or the session expires, or the server stops.
func (h *Hub) ServeSession(w http.ResponseWriter, r *http.Request, c *Caller, session direct.Session) {
	if !h.streams.Enter(c.Holder, h.cfg.Bound) {
		edge.WriteFailure(w, errTooManyStreams())
		return
	}
	defer h.streams.Leave(c.Holder)
	held, release := h.sessions.open(c, session)
	if held == nil {
		edge.WriteFailure(w, errTooManyStreams())
		return
	}
	defer release()
	ends := session.Expires
	if !c.Expiry.IsZero() && c.Expiry.Before(ends) {
		ends = c.Expiry
	}
	ctx, cancel := context.WithDeadline(r.Context(), ends)
	defer cancel()
	defer context.AfterFunc(h.cfg.Draining, cancel)()
	defer context.AfterFunc(held.over, cancel)()
	held.l.WantLists()

	stream := h.NewStream(w)
	defer stream.Close()
	stream.Header().Set("Content-Type", "text/event-stream")
	stream.Header().Set("Cache-Control", "no-cache, no-transform")
	stream.WriteHeader(http.StatusOK)
	if stream.FlushError() != nil { // the client must know that it is listening
		return
	}
	held.l.Serve(ctx, stream.Tell)
}
