package mcp_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
	"github.com/atlas-mcp/atlas/internal/seal"
)

// withSessions returns a house with prompts and resources whose clients of the older era have sessions.
func withSessions(t *testing.T, cfg mcp.Config) (*house, *library) {
	t.Helper()
	ring, err := seal.New("test", seal.Key{ID: "1", Secret: []byte(strings.Repeat("k", 32))})
	if err != nil {
		t.Fatal(err)
	}
	h, l := newHouse(t, options{cfg: cfg, deps: func(d *mcp.Deps) { d.Sealer = ring }}), newLibrary()
	h.setTools(l.tools()...)
	return h, l
}

// begin begins a session of the older era and returns its id.
func (h *house) begin(t *testing.T, tok string) string {
	t.Helper()
	_, hd, body := h.post(t, "", tok, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`,
		func(r *http.Request) { r.Header.Del("Mcp-Protocol-Version") })
	if !strings.Contains(body, `"listChanged":true`) || !strings.Contains(body, `"subscribe":true`) {
		t.Errorf("initialize: %s", body)
	}
	return hd.Get("Mcp-Session-Id")
}

// inSession posts a message in a session.
func (h *house) inSession(t *testing.T, tok, session, method, params string) string {
	t.Helper()
	_, _, body := h.post(t, legacy, tok, message(legacy, method, params, ""), func(r *http.Request) { r.Header.Set("Mcp-Session-Id", session) })
	return body
}

// stream opens the stream of a session. It returns when the header has come, before anything was told.
func (h *house) stream(t *testing.T, tok, session string) *subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/mcp", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Accept": {"text/event-stream"}, "Mcp-Protocol-Version": {legacy}, "Mcp-Session-Id": {session}, "Authorization": {"Bearer " + tok}}
	resp, err := h.Client().Do(req) //nolint:bodyclose // by end
	if err != nil {
		t.Fatal(err)
	}
	s := &subscription{t, resp, bufio.NewScanner(resp.Body), func() { cancel(); _ = resp.Body.Close() }}
	t.Cleanup(s.end)
	return s
}

func TestSessionIsToldOnItsStream(t *testing.T) {
	h, l := withSessions(t, mcp.Config{})
	ann, gus := h.token(t, acme), h.token(t, globex)
	annSession, gusSession := h.begin(t, ann), h.begin(t, gus)
	const uri = `"uri":"atlas://docs/shared"`
	for _, who := range [][2]string{{ann, annSession}, {gus, gusSession}} {
		for _, params := range []string{uri, `"uri":"atlas://docs/marker"`} {
			if got := h.inSession(t, who[0], who[1], "resources/subscribe", params); !strings.Contains(got, `"result":{}`) {
				t.Fatal(got)
			}
		}
	}
	h.mcp.ResourceUpdated("acme", "atlas://docs/shared") // before there is a stream: it is told when there is one
	a, g := h.stream(t, ann, annSession), h.stream(t, gus, gusSession)
	if a.resp.StatusCode != http.StatusOK || a.resp.Header.Get("Content-Type") != "text/event-stream" || a.resp.Header.Get("X-Accel-Buffering") != "no" {
		t.Fatalf("%d %v", a.resp.StatusCode, a.resp.Header)
	}
	if m := a.next(); m.Method != "notifications/resources/updated" || m.Params.URI != "atlas://docs/shared" {
		t.Errorf("acme was told %+v", m)
	}
	h.mcp.ResourceUpdated("acme", "atlas://docs/shared")
	h.mcp.ResourceUpdated("globex", "atlas://docs/marker")
	if m := g.next(); m.Params.URI != "atlas://docs/marker" {
		t.Errorf("globex was told %+v", m)
	}
	a.next()
	if got := h.inSession(t, ann, annSession, "resources/unsubscribe", uri); !strings.Contains(got, `"result":{}`) {
		t.Error(got)
	}
	h.mcp.ResourceUpdated("acme", "atlas://docs/shared")
	h.mcp.ResourceUpdated("acme", "atlas://docs/marker")
	if m := a.next(); m.Params.URI != "atlas://docs/marker" {
		t.Errorf("acme was told %+v", m)
	}
	h.setTools(l.tools()...)
	for _, want := range []string{"tools", "prompts", "resources"} {
		if m := g.next(); m.Method != "notifications/"+want+"/list_changed" {
			t.Errorf("globex was told %+v", m)
		}
	}
}

// A session is its caller's: with another's, with none, and with one that was ended, all is refused
// alike, and a stream ends with its session.
func TestSessionIsItsCallersOwn(t *testing.T) {
	h, _ := withSessions(t, mcp.Config{})
	ann, gus := h.token(t, acme), h.token(t, globex)
	session := h.begin(t, ann)
	open := h.stream(t, ann, session)
	if s := h.stream(t, gus, session); s.resp.StatusCode != http.StatusNotFound {
		t.Errorf("a stolen session: %d", s.resp.StatusCode)
	}
	if got := h.inSession(t, gus, session, "resources/subscribe", `"uri":"atlas://docs/shared"`); !strings.Contains(got, "Session not found") {
		t.Errorf("a stolen session: %s", got)
	}
	if s := h.stream(t, ann, "made-up"); s.resp.StatusCode != http.StatusNotFound {
		t.Errorf("a made-up session: %d", s.resp.StatusCode)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+"/mcp", nil)
	req.Header = http.Header{"Accept": {"text/event-stream"}, "Authorization": {"Bearer " + ann}}
	if status, hd, _ := h.do(t, req); status != 405 || hd.Get("Allow") == "" {
		t.Errorf("a stream without a session: %d %v", status, hd)
	}
	_, _, body := h.post(t, legacy, ann, message(legacy, "resources/subscribe", `"uri":"atlas://docs/shared"`, ""), nil)
	if !strings.Contains(body, `"code":-32601`) {
		t.Errorf("subscribed without a session: %s", body)
	}
	req, _ = http.NewRequestWithContext(t.Context(), http.MethodDelete, h.URL+"/mcp", nil)
	req.Header = http.Header{"Authorization": {"Bearer " + ann}, "Mcp-Session-Id": {session}}
	if status, _, body := h.do(t, req); status != 204 {
		t.Errorf("ending the session: %d %s", status, body)
	}
	if rest := open.line(); rest != "" {
		t.Errorf("the stream went on: %s", rest)
	}
	if s := h.stream(t, ann, session); s.resp.StatusCode != http.StatusNotFound {
		t.Errorf("an ended session: %d", s.resp.StatusCode)
	}
}

func TestSessionSubscribesToWhatItMaySee(t *testing.T) {
	h, _ := withSessions(t, mcp.Config{})
	tok := h.token(t, globex)
	session := h.begin(t, tok)
	answers := make(map[string]bool)
	for _, uri := range []string{"atlas://vault/key", "atlas://vault/x", "atlas://never", "docs", "", "atlas://docs/../x", "atlas://docs/" + strings.Repeat("a", 4000)} {
		got := h.inSession(t, tok, session, "resources/subscribe", fmt.Sprintf(`"uri":%q`, uri))
		answers[strings.Replace(got, fmt.Sprintf("%q", uri), "URI", 1)] = true
	}
	if len(answers) != 1 {
		t.Errorf("answers differ: %v", answers)
	}
	for i := range 65 {
		got := h.inSession(t, tok, session, "resources/subscribe", fmt.Sprintf(`"uri":"atlas://docs/d-%d"`, i))
		if strings.Contains(got, "64 resources") != (i == 64) {
			t.Errorf("subscription %d: %s", i, got)
		}
	}
}

// However many sessions a caller begins, what they hold is bounded, and it is his own oldest one that
// goes.
func TestHeldSessionsAreBounded(t *testing.T) {
	h, _ := withSessions(t, mcp.Config{MaxStreams: 2, MaxStreamsTenant: 3, MaxStreamsTotal: 4})
	subscribe := func(c issuer.Claims) (tok, session, answer string) {
		tok = h.token(t, c)
		session = h.begin(t, tok)
		return tok, session, h.inSession(t, tok, session, "resources/subscribe", `"uri":"atlas://docs/shared"`)
	}
	bea := issuer.Claims{Tenant: "acme", Subject: "bea"}
	cat := issuer.Claims{Tenant: "acme", Subject: "cat"}
	tok, first, got := subscribe(acme)
	if !strings.Contains(got, `"result":{}`) {
		t.Fatal(got)
	}
	_, second, _ := subscribe(acme)
	_, third, _ := subscribe(acme) // the first one goes
	for _, session := range []string{second, third} {
		s := h.stream(t, tok, session)
		h.mcp.ResourceUpdated("acme", "atlas://docs/shared")
		if m := s.next(); m.Params.URI != "atlas://docs/shared" {
			t.Errorf("told %+v", m)
		}
		s.end()
	}
	if _, _, got := subscribe(bea); !strings.Contains(got, `"result":{}`) {
		t.Error(got)
	}
	if _, _, got := subscribe(cat); !strings.Contains(got, "rate_limited") {
		t.Errorf("one more of the tenant: %s", got)
	}
	if _, _, got := subscribe(globex); !strings.Contains(got, `"result":{}`) {
		t.Error(got)
	}
	if _, _, got := subscribe(issuer.Claims{Tenant: "globex", Subject: "hal"}); !strings.Contains(got, "rate_limited") {
		t.Errorf("one more of all: %s", got)
	}
	// What was dropped is subscribed to nothing; the session itself is good as before.
	if got := h.inSession(t, tok, first, "resources/unsubscribe", `"uri":"atlas://docs/shared"`); !strings.Contains(got, `"result":{}`) {
		t.Error(got)
	}
}

// The stream of a session ends when the server stops, and with its token.
func TestSessionStreamsEnd(t *testing.T) {
	h, _ := withSessions(t, mcp.Config{})
	short := h.token(t, issuer.Claims{TTL: time.Second})
	if rest := h.stream(t, short, h.begin(t, short)).line(); rest != "" {
		t.Errorf("told %s", rest)
	}
	h.Close()
	url, stop := serve(t, h)
	h.URL = url
	tok := h.token(t, acme)
	s := h.stream(t, tok, h.begin(t, tok))
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	if rest := s.line(); rest != "" {
		t.Errorf("told %s", rest)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// The official client listens to a session without knowing of any of this.
func TestClientOfTheOlderEraListens(t *testing.T) {
	h, l := withSessions(t, mcp.Config{})
	heard := make(chan string, 100)
	cs := h.client(t, legacy, h.token(t, acme), &sdk.ClientOptions{
		ToolListChangedHandler:     func(context.Context, *sdk.ToolListChangedRequest) { heard <- "tools" },
		PromptListChangedHandler:   func(context.Context, *sdk.PromptListChangedRequest) { heard <- "prompts" },
		ResourceListChangedHandler: func(context.Context, *sdk.ResourceListChangedRequest) { heard <- "resources" },
		ResourceUpdatedHandler: func(_ context.Context, r *sdk.ResourceUpdatedNotificationRequest) {
			heard <- r.Params.URI
		},
	})
	if err := cs.Subscribe(t.Context(), &sdk.SubscribeParams{URI: "atlas://docs/plan"}); err != nil {
		t.Fatal(err)
	}
	h.mcp.ResourceUpdated("globex", "atlas://docs/plan")
	h.mcp.ResourceUpdated("acme", "atlas://docs/plan")
	if got := <-heard; got != "atlas://docs/plan" {
		t.Errorf("heard %q", got)
	}
	h.setTools(l.tools()...)
	got := []string{<-heard, <-heard, <-heard}
	if diff := cmp.Diff([]string{"tools", "prompts", "resources"}, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
}
