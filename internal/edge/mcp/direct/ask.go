package direct

import (
	"encoding/json"
	"net/http"
	"sync"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// maxAsksTotal bounds the calls of all callers that wait for their clients at once.
const maxAsksTotal = 1000

// asks are the requests that clients of the older era were sent and have not answered yet. An answer
// counts only if it comes from the caller that was asked, in the session that was asked, and names the
// request's id, which nobody can guess.
type asks struct {
	mu      sync.Mutex                    // guards the rest
	waiting map[string]map[string]*waiter // by caller and id
	calls   map[string]int                // that wait, by caller
	total   int
}

// A waiter waits for one answer.
type waiter struct {
	id      string
	session string // empty if there is none
	answer  chan answer
}

type answer struct {
	result json.RawMessage
	failed bool
}

func newWaiter(id, session string) *waiter {
	return &waiter{id: id, session: session, answer: make(chan answer, 1)}
}

// enter takes a place for a call of the user that waits, until the function that it returns is called.
func (a *asks) enter(user string, most int) (leave func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls[user] >= most || a.total >= maxAsksTotal {
		// One text for both bounds: which one it was would tell of the others' calls.
		return nil, atlas.Errorf(atlas.CodeRateLimited, nil, "too many calls wait for their client; answer one, or try again later")
	}
	if a.calls == nil {
		a.calls = make(map[string]int)
	}
	a.calls[user]++
	a.total++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.calls[user]--; a.calls[user] <= 0 {
			delete(a.calls, user)
		}
		a.total--
	}, nil
}

func (a *asks) await(user string, w *waiter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting[user] == nil {
		a.waiting[user] = make(map[string]*waiter, 1)
	}
	a.waiting[user][w.id] = w
}

func (a *asks) forget(user string, w *waiter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if delete(a.waiting[user], w.id); len(a.waiting[user]) == 0 {
		delete(a.waiting, user)
	}
}

// deliver gives an answer to who waits for it, once, and reports whether somebody does.
func (a *asks) deliver(user, id, session string, got answer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.waiting[user][id]
	if w == nil || w.session != session {
		return false
	}
	select {
	case w.answer <- got:
		return true
	default:
		return false
	}
}

// end fails what a session that is over was asked: nobody can answer it any more.
func (a *asks) end(user, session string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.waiting[user] {
		if w.session == session {
			select {
			case w.answer <- answer{failed: true}:
			default: // answered just before
			}
		}
	}
}

// takeAnswer takes a response of a client of the older era. What nobody waits for, and what somebody
// else waits for, are one and the same to it.
func (x *exchange) takeAnswer() {
	m := x.m
	var id string
	if !x.modern && json.Unmarshal(m.ID, &id) == nil {
		user, got := User(x.caller), answer{m.Result, m.Failed != nil}
		ok := x.server.asks.deliver(user, id, x.session.id, got)
		if !ok {
			var err error
			if ok, err = x.forward(x.r.Context(), user, id, got); err != nil {
				x.server.refuseSession(x.w, nil, err)
				return
			}
		}
		if ok {
			x.w.WriteHeader(http.StatusAccepted)
			return
		}
	}
	x.server.refuse(x.w, nil, &message.Error{Code: message.CodeInvalidRequest, Message: "No such request", Status: http.StatusNotFound}, x.modern)
}
