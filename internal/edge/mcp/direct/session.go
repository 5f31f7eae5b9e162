package direct

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/http"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// A session is what a client of the older era said of itself when it began. It is kept nowhere: the
// client carries it, sealed and bound to its caller, as the session's id. The zero session is that of
// a client that has none.
type session struct {
	id       string // unique; not what the client carries
	client   atlas.Client
	revision string
	expires  time.Time
}

// sealedVersion is the first byte of a session's plain form.
const sealedVersion = 1

const idLen = 26 // of rand.Text

// encode returns the plain form: version, capabilities, expiry in Unix seconds, id, revision.
func (s session) encode() []byte {
	var caps byte
	for i, can := range []bool{s.client.Elicit, s.client.ElicitURL, s.client.Sample, s.client.Roots} {
		if can {
			caps |= 1 << i
		}
	}
	b := []byte{sealedVersion, caps}
	b = binary.AppendVarint(b, s.expires.Unix())
	b = append(b, s.id...)
	return append(b, s.revision...)
}

func decodeSession(b []byte) (s session, ok bool) {
	if len(b) < 2 || b[0] != sealedVersion {
		return s, false
	}
	caps := b[1]
	seconds, n := binary.Varint(b[2:])
	if n <= 0 || len(b) < 2+n+idLen {
		return s, false
	}
	s.client = atlas.Client{Elicit: caps&1 != 0, ElicitURL: caps&2 != 0, Sample: caps&4 != 0, Roots: caps&8 != 0}
	s.expires = time.Unix(seconds, 0)
	s.id, s.revision = string(b[2+n:2+n+idLen]), string(b[2+n+idLen:])
	return s, true
}

// bound is what a session is sealed for: nothing else that is sealed with the same keys is a session,
// and no other caller's is.
func (x *exchange) bound() []byte { return []byte("mcp-session\x00" + User(x.caller)) }

// beginSession gives the client that the message initializes a session. A message that is not of the
// right form gets none; the handler behind refuses it.
func (x *exchange) beginSession() {
	s := x.server
	if s.deps.Sealer == nil || x.m.ID == nil {
		return
	}
	revision, client, ok := x.m.ReadInitialize()
	if !ok {
		return
	}
	x.session = session{
		id: rand.Text(), client: client, revision: message.Negotiate(revision), expires: time.Now().Add(s.cfg.SessionTTL),
	}
	x.w.Header()[message.HeaderSession] = []string{s.deps.Sealer.Seal(x.session.encode(), x.bound())}
}

// openSession reads the session that the request names, if it names one. If it is none of this
// caller's, has expired or was ended, that is answered, in one and the same way, and openSession
// reports false.
func (x *exchange) openSession() bool {
	values := x.r.Header[message.HeaderSession]
	if len(values) == 0 || x.server.deps.Sealer == nil || x.m.Method == message.MethodInitialize {
		return true
	}
	got, err := x.server.readSession(x.r.Context(), values, x.bound())
	if err != nil {
		x.server.refuseSession(x.w, x.m.ID, err)
		return false
	}
	x.session = got
	if x.revision == "" { // clients of 2025-03-26 do not send it
		x.revision = got.revision
	}
	return true
}

var errSession = &message.Error{Code: message.CodeInvalidRequest, Message: "Session not found", Status: http.StatusNotFound}

func (s *Server) refuseSession(w http.ResponseWriter, id []byte, err error) {
	e := errSession
	if failure := atlas.ErrorOf(err); failure.Code == atlas.CodeStateUnavailable {
		e = message.Failure(failure, edge.NewRequestID(), http.StatusServiceUnavailable)
	}
	s.refuse(w, id, e, false)
}

func (s *Server) readSession(ctx context.Context, values []string, bound []byte) (got session, err error) {
	if len(values) != 1 {
		return got, errSession
	}
	plain, err := s.deps.Sealer.Open(values[0], bound)
	if err != nil {
		return got, errSession
	}
	var ok bool
	if got, ok = decodeSession(plain); !ok || !time.Now().Before(got.expires) {
		return session{}, errSession
	}
	revoked, err := s.deps.Revocations.Revoked(ctx, got.id)
	if err != nil {
		return session{}, atlas.Errorf(atlas.CodeStateUnavailable, err, "")
	}
	if revoked {
		return session{}, errSession
	}
	return got, nil
}

// endSession answers DELETE: the session is over, on all replicas that share the revocations.
func (s *Server) endSession(w http.ResponseWriter, r *http.Request, caller *edge.Caller) {
	x := exchange{server: s, w: w, r: r, caller: caller}
	values := r.Header[message.HeaderSession]
	if len(values) == 0 {
		s.refuse(w, nil, &message.Error{Code: message.CodeInvalidRequest, Message: "DELETE needs the Mcp-Session-Id header", Status: http.StatusBadRequest}, false)
		return
	}
	got, err := s.readSession(r.Context(), values, x.bound())
	if err == nil {
		if rerr := s.deps.Revocations.Revoke(r.Context(), got.id, got.expires); rerr != nil {
			err = atlas.Errorf(atlas.CodeStateUnavailable, rerr, "")
		}
	}
	if err != nil {
		s.refuseSession(w, nil, err)
		return
	}
	s.asks.end(User(caller), got.id)
	if s.deps.Ended != nil {
		s.deps.Ended(caller, got.public())
	}
	w.WriteHeader(http.StatusNoContent)
}

// maxRevoked bounds the sessions that one process remembers to have ended.
const maxRevoked = 10_000

// revoked remembers ended sessions in memory. When it is full it forgets any of them, which then
// could be used again by the caller it belongs to: it would learn nothing that it could not by
// beginning another.
type revoked struct {
	mu    sync.Mutex // guards until
	until map[string]time.Time
}

func newRevoked() *revoked { return &revoked{until: make(map[string]time.Time)} }

func (r *revoked) Revoke(_ context.Context, id string, until time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.until) >= maxRevoked {
		now := time.Now()
		for k, t := range r.until {
			if now.After(t) {
				delete(r.until, k)
			}
		}
		for k := range r.until {
			if len(r.until) < maxRevoked {
				break
			}
			delete(r.until, k)
		}
	}
	r.until[id] = until
	return nil
}

func (r *revoked) Revoked(_ context.Context, id string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.until[id]
	return ok, nil
}
