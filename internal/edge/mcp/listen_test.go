package mcp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

// A subscription is an open stream of events.
type subscription struct {
	t    *testing.T
	resp *http.Response
	in   *bufio.Scanner
	end  func()
}

// subscribe opens a subscription to what notifications says, as JSON.
func (h *house) subscribe(t *testing.T, tok, notifications string) *subscription {
	t.Helper()
	return h.subscribeBody(t, tok, message(modern, "subscriptions/listen", `"notifications":`+notifications, ""))
}

// subscribeBody opens a subscription with the message.
func (h *house) subscribeBody(t *testing.T, tok, body string) *subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+"/mcp", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {modern},
		"Mcp-Method": {"subscriptions/listen"}, "Authorization": {"Bearer " + tok},
	}
	resp, err := h.Client().Do(req) //nolint:bodyclose // by end
	if err != nil {
		t.Fatal(err)
	}
	s := &subscription{t, resp, bufio.NewScanner(resp.Body), func() { cancel(); _ = resp.Body.Close() }}
	t.Cleanup(s.end)
	return s
}

// line returns the next line of the stream that is not empty.
func (s *subscription) line() string {
	s.t.Helper()
	for s.in.Scan() {
		if text := s.in.Text(); text != "" && !strings.HasPrefix(text, "event:") {
			return text
		}
	}
	return ""
}

// A told is one message of a stream.
type told struct {
	Method string
	Params struct {
		URI           string
		TaskID        string
		Status        string
		Result        json.RawMessage
		Notifications json.RawMessage
		Meta          map[string]any `json:"_meta"`
	}
	Result struct {
		ResultType string
		Meta       map[string]any `json:"_meta"`
	}
	Error json.RawMessage
}

// next returns the next message of the stream, without comments.
func (s *subscription) next() (m told) {
	s.t.Helper()
	for {
		text := s.line()
		if strings.HasPrefix(text, ":") {
			continue
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "data: ")), &m); err != nil {
			s.t.Fatalf("%q: %v", text, err)
		}
		return m
	}
}

const subscriptionID = "io.modelcontextprotocol/subscriptionId"

func TestSubscriptionGrantsWhatTheCallerMaySee(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	for name, tt := range map[string]struct {
		claims     issuer.Claims
		want, asks string
	}{
		"lists":     {acme, `{"promptsListChanged":true,"resourcesListChanged":true,"toolsListChanged":true}`, `{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}`},
		"one list":  {acme, `{"promptsListChanged":true}`, `{"promptsListChanged":true}`},
		"resources": {acme, `{"resourceSubscriptions":["atlas://docs/plan","atlas://logo"]}`, `{"resourceSubscriptions":["atlas://docs/plan","atlas://logo","atlas://docs/plan","atlas://vault/key","atlas://vault/x","atlas://never","","docs","atlas://docs/../x"]}`},
		"keeper's":  {keeper, `{"resourceSubscriptions":["atlas://vault/key"]}`, `{"resourceSubscriptions":["atlas://vault/key"]}`},
		"unknown":   {acme, `{"toolsListChanged":true}`, `{"toolsListChanged":true,"other":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := h.subscribe(t, h.token(t, tt.claims), tt.asks)
			m := s.next()
			var got, want any
			if json.Unmarshal(m.Params.Notifications, &got) != nil || json.Unmarshal([]byte(tt.want), &want) != nil {
				t.Fatalf("%+v", m)
			}
			if diff := cmp.Diff(want, got); diff != "" || m.Method != "notifications/subscriptions/acknowledged" || m.Params.Meta[subscriptionID] != 7. {
				t.Errorf("%+v (-want +got): %s", m, diff)
			}
		})
	}
	// Nothing to listen to ends at once, with the result.
	s := h.subscribe(t, h.token(t, acme), `{"resourceSubscriptions":["atlas://vault/key"]}`)
	if ack, end := s.next(), s.next(); string(ack.Params.Notifications) != "{}" || end.Result.ResultType != "complete" || end.Result.Meta[subscriptionID] != 7. {
		t.Errorf("%+v %+v", ack, end)
	}
}

// What another tenant has answers a subscription as what nobody has does.
func TestSubscriptionDoesNotTellWhatThereIs(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	answers := make(map[string]bool)
	for _, id := range []string{"plan", "never"} { // acme's, nobody's
		s := h.subscribe(t, h.token(t, globex), `{"resourceSubscriptions":["atlas://docs/`+id+`"]}`)
		answers[strings.ReplaceAll(s.line(), id, "ID")] = true
		s.end()
	}
	for _, uri := range []string{"atlas://vault/key", "atlas://nobody"} { // hidden, nobody's
		s := h.subscribe(t, h.token(t, globex), `{"toolsListChanged":true,"resourceSubscriptions":["`+uri+`"]}`)
		answers["hidden "+s.line()] = true
		s.end()
	}
	if len(answers) != 2 {
		t.Errorf("answers differ: %v", answers)
	}
}

// An update is told to those who subscribed, act for its tenant and may see the resource still.
func TestUpdatesReachTheirTenantOnly(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{ListTTL: time.Nanosecond})
	const both = `{"resourceSubscriptions":["atlas://docs/shared","atlas://docs/marker"]}`
	ann := h.subscribe(t, h.token(t, acme), both)
	gus := h.subscribe(t, h.token(t, globex), both)
	kim := h.subscribe(t, h.token(t, keeper), `{"resourceSubscriptions":["atlas://vault/key","atlas://docs/marker"]}`)
	for _, s := range []*subscription{ann, gus, kim} {
		if m := s.next(); m.Method != "notifications/subscriptions/acknowledged" {
			t.Fatalf("%+v", m)
		}
	}
	h.mcp.ResourceUpdated("acme", "atlas://docs/shared")
	h.mcp.ResourceUpdated("initech", "atlas://docs/shared")
	h.mcp.ResourceUpdated("acme", "atlas://docs/other") // nobody's
	h.mcp.ResourceUpdated("globex", "atlas://docs/marker")
	if m := ann.next(); m.Method != "notifications/resources/updated" || m.Params.URI != "atlas://docs/shared" || m.Params.Meta[subscriptionID] != 7. {
		t.Errorf("acme was told %+v", m)
	}
	if m := gus.next(); m.Params.URI != "atlas://docs/marker" {
		t.Errorf("globex was told %+v", m)
	}
	h.mcp.ResourceUpdated("acme", "atlas://vault/key")
	if m := kim.next(); m.Params.URI != "atlas://vault/key" {
		t.Errorf("the keeper was told %+v", m)
	}
	// From here on nobody may see the vault, subscribed or not.
	var tools []*atlas.Tool
	for _, tool := range l.tools() {
		if !strings.HasPrefix(tool.Name, "vault") {
			tools = append(tools, tool)
		}
	}
	h.setTools(tools...)
	h.mcp.ResourceUpdated("acme", "atlas://vault/key")
	for range 2 { // what is told together is sorted: only before the second would the vault's come
		h.mcp.ResourceUpdated("acme", "atlas://docs/marker")
		if m := kim.next(); m.Params.URI != "atlas://docs/marker" {
			t.Errorf("the keeper was told %+v", m)
		}
	}
}

// What a caller may see is not taken from a look that the configuration changed under: a subscription
// that begins at the moment of a reload is told nothing that the new policy hides.
func TestReloadDuringALookIsNotMissed(t *testing.T) {
	var h *house
	var once sync.Once
	reload := func() {}
	h = newHouse(t, options{cfg: mcp.Config{ListTTL: time.Hour}, deps: func(d *mcp.Deps) {
		pipeline := d.Handler
		d.Handler = func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			res, err := pipeline(ctx, c)
			if c.Op == atlas.OpList && c.Kind == atlas.KindResource && c.Principal.Subject == "kim" {
				once.Do(reload) // between what was looked up and what is made of it
			}
			return res, err
		}
	}})
	l := newLibrary()
	h.setTools(l.tools()...)
	reload = func() {
		h.setTools(slices.DeleteFunc(l.tools(), func(tool *atlas.Tool) bool { return strings.HasPrefix(tool.Name, "vault") })...)
	}
	kim := h.subscribe(t, h.token(t, keeper), `{"resourceSubscriptions":["atlas://vault/key","atlas://docs/marker"]}`)
	if m := kim.next(); m.Method != "notifications/subscriptions/acknowledged" {
		t.Fatalf("%+v", m)
	}
	h.mcp.ResourceUpdated("acme", "atlas://vault/key")
	for range 2 { // what is told together is sorted: only before the second would the vault's come
		h.mcp.ResourceUpdated("acme", "atlas://docs/marker")
		if m := kim.next(); m.Params.URI != "atlas://docs/marker" {
			t.Errorf("the keeper was told %+v", m)
		}
	}
}

// Who acts for another tenant hears of that tenant's resources, and not of his own.
func TestUpdatesFollowTheActingTenant(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	body := message(modern, "subscriptions/listen", `"notifications":{"resourceSubscriptions":["atlas://docs/shared","atlas://docs/marker"]}`, "")
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL+"/mcp", strings.NewReader(body))
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {modern},
		"Mcp-Method": {"subscriptions/listen"}, "X-Tenant-Id": {"globex"},
		"Authorization": {"Bearer " + h.token(t, issuer.Claims{Tenant: "acme", Subject: "root", Scopes: []string{atlas.ScopeImpersonate}})},
	}
	resp, err := h.Client().Do(req) //nolint:bodyclose // by end
	if err != nil {
		t.Fatal(err)
	}
	s := &subscription{t, resp, bufio.NewScanner(resp.Body), func() { _ = resp.Body.Close() }}
	defer s.end()
	if m := s.next(); m.Method != "notifications/subscriptions/acknowledged" {
		t.Fatalf("%+v", m)
	}
	h.mcp.ResourceUpdated("acme", "atlas://docs/shared")
	h.mcp.ResourceUpdated("globex", "atlas://docs/marker")
	if m := s.next(); m.Params.URI != "atlas://docs/marker" {
		t.Errorf("told %+v", m)
	}
}

func TestChangedListsAreToldByKind(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	all := h.subscribe(t, h.token(t, acme), `{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}`)
	prompts := h.subscribe(t, h.token(t, globex), `{"promptsListChanged":true}`)
	all.next()
	prompts.next()
	h.setTools(l.tools()...)
	var got []string
	for range 3 {
		got = append(got, all.next().Method)
	}
	want := []string{"notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
	if m := prompts.next(); m.Method != "notifications/prompts/list_changed" || m.Params.Meta[subscriptionID] != 7. {
		t.Errorf("told %+v", m)
	}
	h.setTools(testTools()...) // prompts have gone: they are told of
	if m := prompts.next(); m.Method != "notifications/prompts/list_changed" {
		t.Errorf("told %+v", m)
	}
	h.setTools(testTools()[:1]...) // there were none, and are none
	h.setTools(l.tools()...)
	if m := prompts.next(); m.Method != "notifications/prompts/list_changed" {
		t.Errorf("told %+v", m)
	}
}

// However much happens while a client does not read, nobody waits for it, and it is told once.
func TestSlowListenerHoldsNobodyUp(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	s := h.subscribe(t, h.token(t, acme), `{"toolsListChanged":true,"resourceSubscriptions":["atlas://docs/shared","atlas://docs/marker"]}`)
	s.next()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 10_000 {
			h.mcp.ResourceUpdated("acme", "atlas://docs/shared")
		}
		h.setTools(l.tools()...)
		h.mcp.ResourceUpdated("acme", "atlas://docs/marker")
	}()
	<-done
	n := 0
	for s.next().Params.URI != "atlas://docs/marker" {
		n++
	}
	if n == 0 || n > 10_001 {
		t.Errorf("%d messages before the last", n)
	}
}

func TestBadSubscriptions(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	tok := h.token(t, acme)
	var many strings.Builder
	for i := range 65 {
		fmt.Fprintf(&many, `"atlas://docs/%d",`, i)
	}
	for params, want := range map[string]string{
		``:                     `-32602`,
		`"notifications":null`: `-32602`,
		`"notifications":[]`:   `-32602`,
		`"notifications":{"resourceSubscriptions":[` + many.String() + `"atlas://logo"]}`: `A subscription may have 64 resources`,
		`"notifications":{"resourceSubscriptions":"atlas://logo"}`:                        `-32602`,
	} {
		if _, _, body := h.post(t, modern, tok, message(modern, "subscriptions/listen", params, ""), nil); !strings.Contains(body, want) {
			t.Errorf("%.80s: %s", params, body)
		}
	}
	// A method of one era is none of the other's.
	if _, _, body := h.post(t, modern, tok, message(modern, "resources/subscribe", `"uri":"atlas://logo"`, ""), nil); !strings.Contains(body, `"code":-32601`) {
		t.Errorf("resources/subscribe in the newer era: %s", body)
	}
}

// A stream that has nothing to tell shows that it lives, and does so from the beginning.
func TestSilentStreamShowsSignsOfLife(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{KeepAlive: 10 * time.Millisecond})
	s := h.subscribe(t, h.token(t, acme), `{"toolsListChanged":true}`)
	if hd := s.resp.Header; hd.Get("X-Accel-Buffering") != "no" || !strings.HasPrefix(hd.Get("Content-Type"), "text/event-stream") {
		t.Errorf("header %v", hd)
	}
	s.next()
	for range 3 {
		if got := s.line(); got != ": keep-alive" {
			t.Fatalf("got %q", got)
		}
	}
	h.setTools(testTools()...)
	if m := s.next(); m.Method != "notifications/tools/list_changed" {
		t.Errorf("told %+v", m)
	}
}

// When the server stops, every subscription ends with its result, which names it.
func TestSubscriptionsEndWithTheirResult(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	h.Close()
	url, stop := serve(t, h)
	h.URL = url
	var open []*subscription
	for _, asks := range []string{`{"toolsListChanged":true}`, `{"resourceSubscriptions":["atlas://docs/plan"]}`} {
		s := h.subscribe(t, h.token(t, acme), asks)
		s.next()
		open = append(open, s)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for _, s := range open {
		m := s.next()
		if m.Result.Meta[subscriptionID] != 7. || m.Result.ResultType != "complete" {
			t.Errorf("ended with %+v", m)
		}
		if rest := s.line(); rest != "" {
			t.Errorf("and then %q", rest)
		}
		s.end()
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// What is being read, got and completed when the server stops is answered.
func TestStopLetsReadsFinish(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	begun, release := make(chan struct{}), make(chan struct{})
	wait := func(context.Context, atlas.Call) (atlas.Result, error) { //nolint:unparam // a handler
		begun <- struct{}{}
		<-release
		return atlas.Result{Content: []atlas.Content{{Type: atlas.ContentText, Text: "finished"}}}, nil
	}
	h.setTools(append(l.tools(),
		&atlas.Tool{Name: "wait", Kind: atlas.KindPrompt, Run: wait, Complete: func(ctx context.Context, c atlas.Call, _, _ string, _ map[string]string) ([]string, error) {
			_, err := wait(ctx, c)
			return []string{"finished"}, err
		}},
		&atlas.Tool{Name: "zz", Kind: atlas.KindResource, URI: "zz://x", Match: exactly("zz://x"), Run: wait},
	)...)
	h.Close()
	url, stop := serve(t, h)
	h.URL = url
	tok := h.token(t, acme)
	var wg sync.WaitGroup
	requests := map[string]string{
		"prompts/get": `"name":"wait"`, "resources/read": `"uri":"zz://x"`,
		"completion/complete": `"ref":{"type":"ref/prompt","name":"wait"},"argument":{"name":"id","value":""}`,
	}
	for method, params := range requests {
		for _, era := range eras {
			wg.Go(func() {
				status, _, body := h.post(t, era, tok, message(era, method, params, ""), nil)
				if status != 200 || !strings.Contains(body, "finished") {
					t.Errorf("%s %s: %d %s", era, method, status, body)
				}
			})
		}
	}
	for range 2 * len(requests) {
		<-begun
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	eventually(t, "connections are refused", func() bool {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	wg.Wait()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
