package direct_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
)

// mailbox is one that replicas share.
type mailbox struct {
	mu   sync.Mutex
	held map[string][]byte
	fail error
}

func (m *mailbox) Put(_ context.Context, key string, answer []byte, until time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil || !time.Now().Before(until) || time.Until(until) > time.Hour {
		return false, errors.Join(m.fail, errors.New("out of reach at 10.0.0.7"))
	}
	if _, twice := m.held[key]; twice {
		return false, nil
	}
	m.held[key] = answer
	return true, nil
}

func (m *mailbox) Take(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.held[key]
	delete(m.held, key)
	return b, m.fail
}

// An answer may reach any replica: one that did not ask leaves it to the one that did. What is no
// answer of this caller to something that he was asked is left nowhere.
func TestAnswerReachesTheReplicaThatAsked(t *testing.T) {
	box := &mailbox{held: map[string][]byte{}}
	change := func(d *direct.Deps) { d.Sealer, d.Mailbox = ring(t, "test"), box }
	asks := serve(t, newServer(t, setup{handler: asking, change: change}))
	other := serve(t, newServer(t, setup{handler: asking, change: change}))

	in, session, id := ask(t, asks, "acme/ann")
	elsewhere := post(t.Context(), t, other, "acme/ann", legacy, initialize(canElicit)).header.Get("Mcp-Session-Id")
	hers := post(t.Context(), t, other, "acme/bob", legacy, initialize(canElicit)).header.Get("Mcp-Session-Id")
	large := `"result":{"action":"accept","content":{"name":"` + strings.Repeat("x", 70_000) + `"}}`
	for name, got := range map[string]reply{
		"another caller":  post(t.Context(), t, other, "acme/bob", legacy, answerTo(id, accept), "Mcp-Session-Id", hers),
		"another session": post(t.Context(), t, other, "acme/ann", legacy, answerTo(id, accept), "Mcp-Session-Id", elsewhere),
		"no session":      post(t.Context(), t, other, "acme/ann", legacy, answerTo(id, accept)),
		"made up":         post(t.Context(), t, other, "acme/ann", legacy, answerTo("atlas-x", accept), "Mcp-Session-Id", session),
		"a session's id":  post(t.Context(), t, other, "acme/ann", legacy, answerTo(session, accept), "Mcp-Session-Id", session),
		"too large":       post(t.Context(), t, other, "acme/ann", legacy, answerTo(id, large), "Mcp-Session-Id", session),
	} {
		if got.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", name, got.status, text(t, got))
		}
	}
	box.mu.Lock()
	if len(box.held) != 0 {
		t.Errorf("the mailbox holds %v", box.held)
	}
	box.fail = errors.New("down")
	box.mu.Unlock()
	if got := post(t.Context(), t, other, "acme/ann", legacy, answerTo(id, accept), "Mcp-Session-Id", session); got.status != http.StatusServiceUnavailable || strings.Contains(text(t, got), "10.0.0.7") {
		t.Errorf("out of reach: %d", got.status)
	}
	box.mu.Lock()
	box.fail = nil
	box.mu.Unlock()
	if got := post(t.Context(), t, other, "acme/ann", legacy, answerTo(id, accept), "Mcp-Session-Id", session); got.status != http.StatusAccepted {
		t.Errorf("the client's own answer: %d %s", got.status, text(t, got))
	}
	answer := next(t, in)["result"].(map[string]any)["structuredContent"].(map[string]any)
	if answer["subject"] != "ann" || answer["name"].(map[string]any)["content"].(map[string]any)["name"] != "Eve" {
		t.Errorf("answer %v", answer)
	}
	// A refusal goes the same way.
	in, session, id = ask(t, asks, "acme/ann")
	post(t.Context(), t, other, "acme/ann", legacy, answerTo(id, `"error":{"code":-1,"message":"no"}`), "Mcp-Session-Id", session)
	if e := next(t, in); e["result"].(map[string]any)["structuredContent"].(map[string]any)["code"] != "canceled" {
		t.Errorf("refused: %v", e)
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	if len(box.held) != 0 {
		t.Errorf("the mailbox still holds %v", box.held)
	}
}

// An answer that is sent again, to the replica that asked and has its answer, is left nowhere: nobody
// would take it out.
func TestRepeatedAnswersAreNotKept(t *testing.T) {
	box := &mailbox{held: map[string][]byte{}}
	srv := serve(t, newServer(t, setup{handler: asking, change: func(d *direct.Deps) { d.Sealer, d.Mailbox = ring(t, "test"), box }}))
	in, session, id := ask(t, srv, "acme/ann")
	if got := post(t.Context(), t, srv, "acme/ann", legacy, answerTo(id, accept), "Mcp-Session-Id", session); got.status != http.StatusAccepted {
		t.Fatalf("the answer: %d", got.status)
	}
	next(t, in)
	if got := post(t.Context(), t, srv, "acme/ann", legacy, answerTo(id, accept), "Mcp-Session-Id", session); got.status != http.StatusNotFound {
		t.Errorf("the answer again: %d", got.status)
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	if len(box.held) != 0 {
		t.Errorf("the mailbox holds %v", box.held)
	}
}

// An answer that comes too late is none: no call waits for it on any replica.
func TestLateAnswersAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := &mailbox{held: map[string][]byte{}}
		set := setup{cfg: direct.Config{AskTimeout: time.Minute}, handler: asking, change: func(d *direct.Deps) { d.Sealer, d.Mailbox = ring(t, "test"), box }}
		asks, other := newServer(t, set), newServer(t, set)
		session := begin(t, asks, ann(), canElicit)
		id := ""
		w := &answering{ResponseRecorder: httptest.NewRecorder(), reply: func(s string) { id = s }}
		r := newRequest(t, legacy, whoCanDo)
		r.Header.Set("Mcp-Session-Id", session)
		asks.ServeHTTP(w, r) // until nobody has answered
		<-time.After(time.Second)
		if got := do(t, other, ann(), http.MethodPost, answerTo(id, accept), "Mcp-Session-Id", session); id == "" || got.Code != http.StatusNotFound || len(box.held) != 0 {
			t.Errorf("%d %s, the mailbox holds %v", got.Code, got.Body, box.held)
		}
	})
}
