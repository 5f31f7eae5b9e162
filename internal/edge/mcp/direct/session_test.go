package direct_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
	"github.com/atlas-mcp/atlas/internal/seal"
)

func ring(t testing.TB, purpose string) *seal.Ring {
	t.Helper()
	r, err := seal.New(purpose, seal.Key{ID: "k", Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sealing(t testing.TB) func(*direct.Deps) {
	return func(d *direct.Deps) { d.Sealer = ring(t, "test") }
}

const canElicit = `{"elicitation":{}}`

func initialize(caps string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":` + caps + `,"clientInfo":{"name":"t","version":"1"}}}`
}

// begin initializes as who and returns the session's id.
func begin(t *testing.T, h http.Handler, who *edge.Caller, caps string) string {
	t.Helper()
	w := do(t, h, who, http.MethodPost, initialize(caps))
	return w.Header().Get("Mcp-Session-Id")
}

// do sends a message of the older era as who.
func do(t *testing.T, h http.Handler, who *edge.Caller, method, body string, set ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := newRequest(t, legacy, body)
	r.Method = method
	r = r.WithContext(edge.WithCaller(r.Context(), who))
	for i := 0; i < len(set); i += 2 {
		r.Header.Add(set[i], set[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// client answers with what the client of the call can do.
func client(_ context.Context, c atlas.Call) (atlas.Result, error) {
	b, err := json.Marshal(c.Client)
	return atlas.Result{Structured: b}, err
}

var whoCanDo = request(legacy, "tools/call", `"name":"x"`, "")

func TestSessionTellsEveryReplicaWhatTheClientCanDo(t *testing.T) {
	one := newServer(t, setup{handler: client, change: sealing(t)})
	other := newServer(t, setup{handler: client, change: sealing(t)})
	for caps, want := range map[string]string{
		`{}`:      `{"Elicit":false,"ElicitURL":false,"Sample":false,"Roots":false,"Tasks":false}`,
		canElicit: `{"Elicit":true,"ElicitURL":false,"Sample":false,"Roots":false,"Tasks":false}`,
		`{"elicitation":{"url":{}},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}`: `{"Elicit":false,"ElicitURL":true,"Sample":true,"Roots":true,"Tasks":false}`,
	} {
		id := begin(t, one, ann(), caps)
		for _, c := range []byte(id) {
			if c < 0x21 || c > 0x7e {
				t.Fatalf("session id %q has more than visible ASCII", id)
			}
		}
		if w := do(t, other, ann(), http.MethodPost, whoCanDo, "Mcp-Session-Id", id); w.Code != 200 || !strings.Contains(w.Body.String(), `"structuredContent":`+want) {
			t.Errorf("%s: %d %s", caps, w.Code, w.Body)
		}
	}
	// Without a session it works as ever, and nobody is asked anything.
	if w := do(t, other, ann(), http.MethodPost, whoCanDo); w.Code != 200 || !strings.Contains(w.Body.String(), `"Elicit":false`) {
		t.Errorf("no session: %d %s", w.Code, w.Body)
	}
	// A message that initializes nothing has no session, and neither have those of a server that seals nothing.
	for name, w := range map[string]*httptest.ResponseRecorder{
		"bad":       do(t, one, ann(), http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`),
		"no id":     do(t, one, ann(), http.MethodPost, strings.Replace(initialize(`{}`), `"id":1,`, "", 1)),
		"modern":    serveModern(t, one, strings.Replace(initialize(`{}`), `"params":{`, `"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},`, 1)),
		"no sealer": do(t, newServer(t, setup{}), ann(), http.MethodPost, initialize(canElicit)),
	} {
		if id := w.Header().Get("Mcp-Session-Id"); id != "" || w.Code != http.StatusTeapot {
			t.Errorf("%s: %d with session %q", name, w.Code, id)
		}
	}
}

func serveModern(t *testing.T, h http.Handler, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, newRequest(t, modern, body))
	return w
}

// Session fixation, theft and forgery: what is not this caller's own, living session is one and the
// same answer, and reaches nothing.
func TestForeignSessionsAreNone(t *testing.T) {
	ran := 0
	h := newServer(t, setup{change: sealing(t), handler: func(context.Context, atlas.Call) (atlas.Result, error) {
		ran++
		return atlas.Result{}, nil
	}})
	mine := begin(t, h, ann(), canElicit)
	foreign := func(what string, c *edge.Caller) (string, string) { return what, begin(t, h, c, canElicit) }
	otherIssuer := caller("acme", "ann")
	otherIssuer.Principal.Issuer = "https://other.example"
	acting := caller("globex", "ann") // a namesake who acts for the tenant
	acting.Tenant = "acme"
	bad := map[string]string{"nothing": "", "made up": "abc", "forged": changed(mine), "half": mine[:len(mine)/2], "twice": mine + mine}
	for _, c := range []struct {
		what string
		who  *edge.Caller
	}{{"a colleague's", caller("acme", "bob")}, {"a namesake's", caller("globex", "ann")}, {"another issuer's", otherIssuer}, {"an impersonator's", acting}} {
		what, id := foreign(c.what, c.who)
		bad[what] = id
	}
	bad["sealed for something else"] = ring(t, "test").Seal([]byte("x"), []byte("requestState"))
	bad["sealed by somebody else"] = begin(t, newServer(t, setup{change: func(d *direct.Deps) { d.Sealer = ring(t, "another") }}), ann(), canElicit)
	answers := map[string]bool{}
	for what, id := range bad {
		for _, method := range []string{http.MethodPost, http.MethodDelete} {
			w := do(t, h, ann(), method, whoCanDo, "Mcp-Session-Id", id)
			if w.Code != http.StatusNotFound {
				t.Errorf("%s %s: %d %s", method, what, w.Code, w.Body)
			}
			answers[strings.Replace(w.Body.String(), `"id":7`, `"id":null`, 1)] = true
		}
	}
	if len(answers) != 1 {
		t.Errorf("the answers differ: %v", answers)
	}
	if w := do(t, h, ann(), http.MethodPost, whoCanDo, "Mcp-Session-Id", mine, "Mcp-Session-Id", mine); w.Code != http.StatusNotFound {
		t.Errorf("two ids: %d", w.Code)
	}
	if ran != 0 {
		t.Errorf("%d calls ran", ran)
	}
	if w := do(t, h, ann(), http.MethodPost, whoCanDo, "Mcp-Session-Id", mine); w.Code != 200 || ran != 1 {
		t.Errorf("the caller's own: %d %s", w.Code, w.Body)
	}
}

// changed returns s with another character in its middle.
func changed(s string) string {
	b := []byte(s)
	if i := len(b) / 2; b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b)
}

func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newServer(t, setup{cfg: direct.Config{SessionTTL: time.Hour}, change: sealing(t)})
		ended, late := begin(t, h, ann(), `{}`), begin(t, h, ann(), `{}`)
		use := func(id string) int { return do(t, h, ann(), http.MethodPost, whoCanDo, "Mcp-Session-Id", id).Code }
		// Another caller cannot end it.
		if w := do(t, h, caller("acme", "bob"), http.MethodDelete, "", "Mcp-Session-Id", ended); w.Code != http.StatusNotFound {
			t.Errorf("ended by another: %d", w.Code)
		}
		if code := use(ended); code != 200 {
			t.Errorf("before its end: %d", code)
		}
		if w := do(t, h, ann(), http.MethodDelete, "", "Mcp-Session-Id", ended); w.Code != http.StatusNoContent {
			t.Errorf("DELETE: %d %s", w.Code, w.Body)
		}
		if code := use(ended); code != http.StatusNotFound {
			t.Errorf("after its end: %d", code)
		}
		if w := do(t, h, ann(), http.MethodDelete, "", "Mcp-Session-Id", ended); w.Code != http.StatusNotFound {
			t.Errorf("ended twice: %d", w.Code)
		}
		if w := do(t, h, ann(), http.MethodDelete, ""); w.Code != http.StatusBadRequest {
			t.Errorf("DELETE of nothing: %d", w.Code)
		}
		time.Sleep(59 * time.Minute) // of the bubble's clock
		if code := use(late); code != 200 {
			t.Errorf("shortly before it expires: %d", code)
		}
		time.Sleep(2 * time.Minute)
		if code := use(late); code != http.StatusNotFound {
			t.Errorf("expired: %d", code)
		}
	})
}

// revocations are shared by replicas, and may be out of reach.
type revocations struct {
	mu   sync.Mutex
	ids  map[string]bool
	fail error
}

func (r *revocations) Revoke(_ context.Context, id string, _ time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids[id] = true
	return r.fail
}

func (r *revocations) Revoked(_ context.Context, id string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id], r.fail
}

func TestRevocationReachesOtherReplicas(t *testing.T) {
	shared := &revocations{ids: map[string]bool{}}
	change := func(d *direct.Deps) { d.Sealer, d.Revocations = ring(t, "test"), shared }
	one, other := newServer(t, setup{change: change}), newServer(t, setup{change: change})
	id := begin(t, one, ann(), `{}`)
	if w := do(t, one, ann(), http.MethodDelete, "", "Mcp-Session-Id", id); w.Code != http.StatusNoContent {
		t.Fatal(w.Code)
	}
	if w := do(t, other, ann(), http.MethodPost, whoCanDo, "Mcp-Session-Id", id); w.Code != http.StatusNotFound {
		t.Errorf("the other replica: %d", w.Code)
	}
	// Not to know whether it was ended is not to know that it was not.
	shared.fail = errors.New("dial tcp 10.0.0.7: refused")
	id = begin(t, one, ann(), `{}`)
	for _, method := range []string{http.MethodPost, http.MethodDelete} {
		if w := do(t, other, ann(), method, whoCanDo, "Mcp-Session-Id", id); w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "10.0.0.7") {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
	}
}

// asking is a tool that asks for a name, and greets it.
func asking(_ context.Context, c atlas.Call) (atlas.Result, error) {
	if c.Reply == nil {
		return atlas.Result{Ask: &atlas.Ask{State: []byte("round 1"), Requests: map[string]atlas.ClientRequest{
			"name": {Method: "elicitation/create", Params: json.RawMessage(`{"message":"who?","requestedSchema":{"type":"object"}}`)},
		}}}, nil
	}
	b, err := json.Marshal(map[string]any{"state": string(c.Reply.State), "name": c.Reply.Answers["name"], "subject": c.Principal.Subject})
	return atlas.Result{Structured: b}, err
}

// ask begins a session and a call, and returns the stream, the session and the id of the request that
// the client is sent.
func ask(t *testing.T, srv *httptest.Server, who string) (in reply, session, id string) {
	t.Helper()
	session = post(t.Context(), t, srv, who, legacy, initialize(canElicit)).header.Get("Mcp-Session-Id")
	in = post(t.Context(), t, srv, who, legacy, whoCanDo, "Mcp-Session-Id", session)
	e := next(t, in)
	if e["method"] != "elicitation/create" || e["params"].(map[string]any)["message"] != "who?" {
		t.Fatalf("event %v", e)
	}
	return in, session, e["id"].(string)
}

func answerTo(id, result string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%q,%s}`, id, result)
}

const accept = `"result":{"action":"accept","content":{"name":"Eve"}}`

func TestClientOfTheOlderEraIsAsked(t *testing.T) {
	srv := serve(t, newServer(t, setup{handler: asking, change: sealing(t)}))
	in, session, id := ask(t, srv, "acme/ann")
	_, hers, otherID := ask(t, srv, "acme/bob")
	if id == otherID || len(id) < 26 {
		t.Errorf("ids %q and %q can be guessed", id, otherID)
	}
	// Nobody else can answer: not another caller, not in another session or in none, not with another id.
	elsewhere := post(t.Context(), t, srv, "acme/ann", legacy, initialize(canElicit)).header.Get("Mcp-Session-Id")
	answers := map[string]bool{}
	for name, resp := range map[string]reply{
		"another caller":                       post(t.Context(), t, srv, "acme/bob", legacy, answerTo(id, accept), "Mcp-Session-Id", hers),
		"a namesake":                           post(t.Context(), t, srv, "globex/ann", legacy, answerTo(id, accept)),
		"no session":                           post(t.Context(), t, srv, "acme/ann", legacy, answerTo(id, accept)),
		"another session":                      post(t.Context(), t, srv, "acme/ann", legacy, answerTo(id, accept), "Mcp-Session-Id", elsewhere),
		"an id that is another's":              post(t.Context(), t, srv, "acme/ann", legacy, answerTo(otherID, accept), "Mcp-Session-Id", session),
		"an id that is nobody's":               post(t.Context(), t, srv, "acme/ann", legacy, answerTo("x", accept), "Mcp-Session-Id", session),
		"an id that is a number":               post(t.Context(), t, srv, "acme/ann", legacy, `{"jsonrpc":"2.0","id":1,`+accept+`}`, "Mcp-Session-Id", session),
		"the newer era, which answers nothing": post(t.Context(), t, srv, "acme/ann", modern, answerTo(id, accept), "Mcp-Session-Id", session),
	} {
		body := text(t, resp)
		if resp.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", name, resp.status, body)
		}
		answers[body] = true
	}
	if len(answers) != 1 {
		t.Errorf("the answers differ: %v", answers)
	}
	if resp := post(t.Context(), t, srv, "acme/ann", legacy, answerTo(id, accept), "Mcp-Session-Id", session); resp.status != http.StatusAccepted {
		t.Errorf("the client's own answer: %d %s", resp.status, text(t, resp))
	}
	got := next(t, in)["result"].(map[string]any)["structuredContent"].(map[string]any)
	if got["state"] != "round 1" || got["subject"] != "ann" || got["name"].(map[string]any)["content"].(map[string]any)["name"] != "Eve" {
		t.Errorf("answer %v", got)
	}
	if resp := post(t.Context(), t, srv, "acme/ann", legacy, answerTo(id, accept), "Mcp-Session-Id", session); resp.status != http.StatusNotFound {
		t.Errorf("answered twice: %d", resp.status)
	}
}

func TestWhatCannotBeAskedIsRefused(t *testing.T) {
	h := newServer(t, setup{handler: asking, change: sealing(t)})
	for name, w := range map[string]*httptest.ResponseRecorder{
		"no session":      do(t, h, ann(), http.MethodPost, whoCanDo),
		"cannot":          do(t, h, ann(), http.MethodPost, whoCanDo, "Mcp-Session-Id", begin(t, h, ann(), `{"sampling":{}}`)),
		"reads no stream": doPlain(t, h, begin(t, h, ann(), canElicit)),
		"modern":          serveModern(t, h, request(modern, "tools/call", `"name":"x"`, "")),
	} {
		want := 200
		if name == "modern" {
			want = 400
		}
		if w.Code != want || !strings.Contains(w.Body.String(), `"code":-32021`) || !strings.Contains(w.Body.String(), `"requiredCapabilities":{"elicitation":{}}`) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	w := serveModern(t, h, request(modern, "tools/call", `"name":"x"`, `"io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}`))
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"resultType":"input_required"`) || !strings.Contains(w.Body.String(), `"requestState":"round 1"`) {
		t.Errorf("modern: %d %s", w.Code, w.Body)
	}
	w = serveModern(t, h, request(modern, "tools/call", `"name":"x","requestState":"round 1","inputResponses":{"name":{"action":"accept"}}`, `"io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}`))
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"state":"round 1"`) {
		t.Errorf("modern again: %d %s", w.Code, w.Body)
	}
}

func doPlain(t *testing.T, h http.Handler, session string) *httptest.ResponseRecorder {
	t.Helper()
	r := newRequest(t, legacy, whoCanDo)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Mcp-Session-Id", session)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAskingHasItsLimits(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cfg     direct.Config
		handler atlas.Handler
		reply   string // to each request, if any
		want    string
	}{
		{"no answer", direct.Config{AskTimeout: time.Minute}, asking, "", `"code":"canceled"`},
		{"an error", direct.Config{}, asking, `"error":{"code":-1,"message":"secret of the client"}`, `"code":"canceled"`},
		{"a tool without end", direct.Config{}, func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			c.Reply = nil
			return asking(ctx, c)
		}, accept, `"code":"internal_error"`},
		{"a tool that only asks to be called again", direct.Config{}, func(context.Context, atlas.Call) (atlas.Result, error) {
			return atlas.Result{Ask: &atlas.Ask{}}, nil
		}, "", `"code":"internal_error"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newServer(t, setup{cfg: tt.cfg, handler: tt.handler, change: sealing(t)})
				session := begin(t, h, ann(), canElicit)
				w := &answering{ResponseRecorder: httptest.NewRecorder(), reply: func(id string) {
					if tt.reply != "" {
						do(t, h, ann(), http.MethodPost, answerTo(id, tt.reply), "Mcp-Session-Id", session)
					}
				}}
				r := newRequest(t, legacy, whoCanDo)
				r.Header.Set("Mcp-Session-Id", session)
				h.ServeHTTP(w, r)
				if !strings.Contains(w.Body.String(), tt.want) || strings.Contains(w.Body.String(), "secret") {
					t.Errorf("%s", w.Body)
				}
				if w.asked > 8 {
					t.Errorf("asked %d times", w.asked)
				}
			})
		})
	}
}

// answering is a client that answers each request that it is sent.
type answering struct {
	*httptest.ResponseRecorder
	reply func(id string)
	asked int
}

func (a *answering) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		var m struct{ ID, Method string }
		if data, ok := strings.CutPrefix(line, "data: "); ok && json.Unmarshal([]byte(data), &m) == nil && m.Method != "" {
			a.asked++
			a.reply(m.ID)
		}
	}
	return a.ResponseRecorder.Write(p)
}

// One caller's waiting calls are bounded, and do not count against another's. A server that stops
// waits for none of them.
func TestWaitingCallsAreBoundedAndEndWithTheServer(t *testing.T) {
	draining, stop := context.WithCancel(t.Context())
	h := newServer(t, setup{cfg: direct.Config{MaxAsks: 2}, handler: asking, change: func(d *direct.Deps) {
		d.Sealer, d.Draining = ring(t, "test"), draining
	}})
	srv := serve(t, h)
	one, _, _ := ask(t, srv, "acme/ann")
	two, session, _ := ask(t, srv, "acme/ann")
	if body := text(t, post(t.Context(), t, srv, "acme/ann", legacy, whoCanDo, "Mcp-Session-Id", session)); !strings.Contains(body, `"code":"rate_limited"`) {
		t.Errorf("the third: %s", body)
	}
	bob, _, _ := ask(t, srv, "acme/bob")
	stop()
	for _, in := range []reply{one, two, bob} {
		if e := next(t, in); e["result"].(map[string]any)["structuredContent"].(map[string]any)["code"] != "shutting_down" {
			t.Errorf("at the end: %v", e)
		}
	}
}

// A call that waits for its client must not go on with the rights of a token that has expired meanwhile.
func TestWaitingEndsWithTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := 0
		h := newServer(t, setup{cfg: direct.Config{AskTimeout: time.Hour}, change: sealing(t), handler: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			ran++
			return asking(ctx, c)
		}})
		who := ann()
		who.Principal.Expiry = time.Now().Add(time.Minute)
		session := begin(t, h, who, canElicit)
		asked := time.Now()
		id := ""
		w := &answering{ResponseRecorder: httptest.NewRecorder(), reply: func(s string) { id = s }}
		r := newRequest(t, legacy, whoCanDo)
		r = r.WithContext(edge.WithCaller(r.Context(), who))
		r.Header.Set("Mcp-Session-Id", session)
		h.ServeHTTP(w, r)
		if waited := time.Since(asked); waited != time.Minute || !strings.Contains(w.Body.String(), `"code":"token_expired"`) {
			t.Errorf("after %v: %s", waited, w.Body)
		}
		if got := do(t, h, ann(), http.MethodPost, answerTo(id, accept), "Mcp-Session-Id", session); id == "" || got.Code != http.StatusNotFound || ran != 1 {
			t.Errorf("an answer after that: %d, ran %d times", got.Code, ran)
		}
	})
}

// What one agent begins on somebody's behalf is not another agent's.
func TestAgentsOfOneUserShareNothing(t *testing.T) {
	agent := func(name string) *edge.Caller {
		c := ann()
		c.Principal.Delegator = name
		return c
	}
	h := newServer(t, setup{handler: client, change: sealing(t)})
	session := begin(t, h, agent("one"), canElicit)
	for who, want := range map[string]int{"one": http.StatusOK, "two": http.StatusNotFound, "": http.StatusNotFound} {
		if w := do(t, h, agent(who), http.MethodPost, whoCanDo, "Mcp-Session-Id", session); w.Code != want {
			t.Errorf("agent %q: %d, want %d", who, w.Code, want)
		}
	}
}

// What a session was asked ends with it, and nothing else does.
func TestEndedSessionIsAskedNoMore(t *testing.T) {
	srv := serve(t, newServer(t, setup{handler: asking, change: sealing(t)}))
	in, session, _ := ask(t, srv, "acme/ann")
	other, otherSession, otherID := ask(t, srv, "acme/ann")
	bob, bobSession, bobID := ask(t, srv, "acme/bob")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Mcp-Session-Id", session)
	req.Header.Set("X-Caller", "acme/ann")
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if e := next(t, in); resp.StatusCode != http.StatusNoContent || e["result"].(map[string]any)["structuredContent"].(map[string]any)["code"] != "canceled" {
		t.Errorf("%d, then %v", resp.StatusCode, e)
	}
	post(t.Context(), t, srv, "acme/ann", legacy, answerTo(otherID, accept), "Mcp-Session-Id", otherSession)
	post(t.Context(), t, srv, "acme/bob", legacy, answerTo(bobID, accept), "Mcp-Session-Id", bobSession)
	for _, left := range []reply{other, bob} {
		if e := next(t, left); e["result"].(map[string]any)["structuredContent"].(map[string]any)["state"] != "round 1" {
			t.Errorf("another session: %v", e)
		}
	}
}

// Who cannot read a stream can be asked nothing, whatever its session says; the pipeline must know that
// before it asks.
func TestWithoutAStreamTheClientCanDoNothing(t *testing.T) {
	h := newServer(t, setup{handler: client, change: sealing(t)})
	session := begin(t, h, ann(), canElicit)
	if w := doPlain(t, h, session); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "true") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := do(t, h, ann(), http.MethodPost, whoCanDo, "Mcp-Session-Id", session); !strings.Contains(w.Body.String(), "true") {
		t.Errorf("with a stream: %d %s", w.Code, w.Body)
	}
}
