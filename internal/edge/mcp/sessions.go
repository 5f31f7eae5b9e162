package mcp

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
)

// sessions hold what clients of the older era over HTTP listen to: those that have a stream open, and
// those that have subscribed to resources and may open one. A session itself is kept nowhere (see
// package direct), and any replica answers its requests; what it has subscribed to is known to the
// replica that it told, as its stream is that replica's.
type sessions struct {
	mu   sync.Mutex // guards held, and what is in it
	held map[sessionKey]*heldSession
	kept places // counts them
}

// A sessionKey names a session of a caller. The token that carries a session is bound to its caller;
// here it is once more, so that no mistake there could give one caller's updates to another.
type sessionKey struct{ user, id string }

type heldSession struct {
	l    *listener
	id   *identity // that took the place in the count
	used time.Time
	ends time.Time
	open int             // streams and requests that use it now
	over context.Context // ends when the client ends the session
	end  context.CancelFunc
}

// open returns what is held of id's session, and the function that gives it back; nil if there are too
// many. Of one caller's sessions the one that was used least recently makes room.
func (h *sessions) open(s *Server, id *identity) (held *heldSession, release func()) {
	key := sessionKey{id.user, id.session.ID}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	held = h.held[key]
	if held == nil {
		if !h.kept.enter(id, s.cfg.streamBound()) {
			h.makeRoom(s, id.user, now)
			if !h.kept.enter(id, s.cfg.streamBound()) {
				return nil, nil
			}
		}
		held = &heldSession{l: newListener(id), id: id, ends: id.session.Expires}
		held.over, held.end = context.WithCancel(context.Background())
		h.held[key] = held
		s.hub.add(held.l)
	}
	held.open++
	held.used = now
	held.l.mu.Lock()
	held.l.id = id // the token may be a new one, with other scopes
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
				h.drop(s, key, held)
			}
		}
	}
}

// heldFor is how long what a session has subscribed to is kept for a stream that does not come.
const heldFor = 10 * time.Minute

// makeRoom drops sessions that have expired or that nobody has listened to for long, and the one of
// the user that nothing uses and was used least recently. The caller holds mu.
func (h *sessions) makeRoom(s *Server, user string, now time.Time) {
	var oldest sessionKey
	for key, held := range h.held {
		switch {
		case held.open > 0:
		case now.After(held.ends) || now.Sub(held.used) > heldFor:
			h.drop(s, key, held)
		case key.user == user && (oldest.id == "" || held.used.Before(h.held[oldest].used)):
			oldest = key
		}
	}
	if held := h.held[oldest]; held != nil {
		h.drop(s, oldest, held)
	}
}

// end forgets a session that its client ended, and closes its streams.
func (h *sessions) end(s *Server, key sessionKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held := h.held[key]; held != nil {
		h.drop(s, key, held)
	}
}

// drop forgets a session. The caller holds mu.
func (h *sessions) drop(s *Server, key sessionKey, held *heldSession) {
	delete(h.held, key)
	held.end()
	s.hub.remove(held.l)
	h.kept.leave(held.id)
}

// listenInSession serves the stream of a session of the older era over HTTP, until the client closes
// it, its token or the session expires, or the server stops.
func (s *Server) listenInSession(w http.ResponseWriter, r *http.Request, session direct.Session) {
	id := newIdentity(edge.CallerOf(r.Context()), "http")
	id.session = session
	if !s.streams.enter(id, s.cfg.streamBound()) {
		edge.WriteFailure(w, errTooManyStreams())
		return
	}
	defer s.streams.leave(id)
	held, release := s.sessions.open(s, id)
	if held == nil {
		edge.WriteFailure(w, errTooManyStreams())
		return
	}
	defer release()
	ends := session.Expires
	if exp := id.caller.Principal.Expiry; !exp.IsZero() && exp.Before(ends) {
		ends = exp
	}
	ctx, cancel := context.WithDeadline(r.Context(), ends)
	defer cancel()
	defer context.AfterFunc(s.draining, cancel)()
	defer context.AfterFunc(held.over, cancel)()
	held.l.wantLists()

	sw := newStreamWriter(w, s.cfg.KeepAlive, s.cfg.WriteTimeout)
	defer sw.close()
	sw.Header().Set("Content-Type", "text/event-stream")
	sw.Header().Set("Cache-Control", "no-cache, no-transform")
	sw.WriteHeader(http.StatusOK)
	if sw.FlushError() != nil { // the client must know that it is listening
		return
	}
	s.serve(ctx, held.l, sw.tell, nil)
}
