package direct

import (
	"net/http"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// A Session is the session of the older era that a request belongs to, which it has proved. The zero
// Session is that of a request that belongs to none.
type Session struct {
	ID      string // unique; not what the client carries
	Expires time.Time
}

func (s session) public() Session { return Session{s.id, s.expires} }

// listen answers GET. In a session of the older era it opens the stream for what no request asked for
// (2025-11-25, transports, "Listening for Messages from the Server"). It reports false if the request
// is nothing of the kind.
func (s *Server) listen(w http.ResponseWriter, r *http.Request, caller *edge.Caller) bool {
	values := r.Header[message.HeaderSession]
	_, stream := accepts(r.Header["Accept"])
	if s.deps.Listen == nil || s.deps.Sealer == nil || len(values) == 0 || !stream {
		return false
	}
	x := exchange{server: s, w: w, r: r, caller: caller}
	got, err := s.readSession(r.Context(), values, x.bound())
	if err != nil {
		s.refuseSession(w, nil, err)
		return true
	}
	// A read deadline that passed would look like a client that has gone.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // not all writers can
	s.deps.Listen(w, r, got.public())
	return true
}
