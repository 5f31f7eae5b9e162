package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// upstreamOf has the tools given, each of which answers with its name.
func upstreamOf(t *testing.T, era string, names ...string) *server {
	t.Helper()
	up := &sourcetest.Upstream{Credential: map[atlas.TenantID]string{sourcetest.A: "credential-of-a", sourcetest.B: "credential-of-b"}}
	s := serve(t, up, era)
	for _, name := range names {
		s.define(name, "Does as it says.")
	}
	return s
}

// define gives the server a tool.
func (s *server) define(name, description string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sdk.AddTool(&sdk.Tool{Name: name, Description: description, InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			s.called.Add(1)
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: name}}}, nil
		})
}

// instead makes h answer whatever is asked from now on; nil lets the server answer again.
func (s *server) instead(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = nil
	if h != nil {
		s.before = h
	}
}

// onCall makes h answer tools/call.
func (s *server) onCall(h func(w http.ResponseWriter, r *http.Request, id json.RawMessage)) {
	next := s.handler()
	s.instead(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var m struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
		}
		if json.Unmarshal(body, &m) == nil && m.Method == "tools/call" {
			h(w, r, m.ID)
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		next.ServeHTTP(w, r)
	})
}

func result(w http.ResponseWriter, id json.RawMessage, result string) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

func call(t *testing.T, src source.Source, tenant atlas.TenantID, name string) (source.Answer, error) {
	t.Helper()
	return src.(source.Provider).Invoke(t.Context(), tenant, name, json.RawMessage(`{}`))
}

func mustCall(t *testing.T, src source.Source, tenant atlas.TenantID, name string) source.Answer {
	t.Helper()
	a, err := call(t, src, tenant, name)
	if err != nil {
		t.Fatalf("%s for %s: %v", name, tenant, err)
	}
	return a
}

// What an upstream answers is data, however it is written. It costs its tenant the answer, and nobody
// else anything.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, id json.RawMessage)
		codes  []atlas.Code
	}{
		"huge text": {func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) {
			result(w, id, `{"content":[{"type":"text","text":"`+strings.Repeat("x", 1<<20)+`"}]}`)
		}, []atlas.Code{atlas.CodeTooLarge}},
		"endless events": {func(w http.ResponseWriter, r *http.Request, _ json.RawMessage) {
			w.Header().Set("Content-Type", "text/event-stream")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"x\"}}\n\n"); err != nil {
					return
				}
			}
		}, []atlas.Code{atlas.CodeTooLarge}},
		"endless comment": {func(w http.ResponseWriter, r *http.Request, _ json.RawMessage) {
			w.Header().Set("Content-Type", "text/event-stream")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, ": x"); err != nil {
					return
				}
			}
		}, []atlas.Code{atlas.CodeTooLarge}},
		"endless JSON": {func(w http.ResponseWriter, r *http.Request, _ json.RawMessage) {
			w.Header().Set("Content-Type", "application/json")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("[", 1000)); err != nil {
					return
				}
			}
		}, []atlas.Code{atlas.CodeTooLarge}},
		"silence": {func(_ http.ResponseWriter, r *http.Request, _ json.RawMessage) {
			<-r.Context().Done()
		}, []atlas.Code{atlas.CodeTimeout}},
		"another id": {func(w http.ResponseWriter, _ *http.Request, _ json.RawMessage) {
			result(w, json.RawMessage(`"another"`), `{"content":[{"type":"text","text":"for another"}]}`)
		}, []atlas.Code{atlas.CodeTimeout, atlas.CodeSourceUnavailable}},
		"another id in events": {func(w http.ResponseWriter, _ *http.Request, _ json.RawMessage) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: {\"jsonrpc\":\"2.0\",\"id\":99999,\"result\":{}}\n\n")
		}, []atlas.Code{atlas.CodeTimeout, atlas.CodeSourceUnavailable}},
		"stream without answer": {func(w http.ResponseWriter, _ *http.Request, _ json.RawMessage) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "id: 1\ndata:\n\n")
		}, []atlas.Code{atlas.CodeSourceUnavailable}},
		"wrong types": {func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) {
			result(w, id, `{"content":"text","isError":"maybe"}`)
		}, []atlas.Code{atlas.CodeSourceUnavailable, atlas.CodeSourceError}},
		"no object": {func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) {
			result(w, id, `[1,2]`)
		}, []atlas.Code{atlas.CodeSourceUnavailable, atlas.CodeSourceError}},
		"null in content": {func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) {
			result(w, id, `{"content":[null]}`)
		}, []atlas.Code{"", atlas.CodeSourceUnavailable, atlas.CodeSourceError}},
		"deep": {func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) {
			result(w, id, `{"content":[],"structuredContent":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)+`}`)
		}, []atlas.Code{atlas.CodeSourceUnavailable, atlas.CodeSourceError}},
		"number beyond 2^53": {func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) {
			result(w, id, `{"content":[],"structuredContent":{"id":9007199254740993}}`)
		}, []atlas.Code{atlas.CodeSourceError}},
		"asks for input": {func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) {
			result(w, id, `{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"password?","requestedSchema":{"type":"object"}}}},"requestState":"x","content":[]}`)
		}, []atlas.Code{atlas.CodeSourceError}},
		"a page": {func(w http.ResponseWriter, _ *http.Request, _ json.RawMessage) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<h1>"+sourcetest.Marker+"</h1>")
		}, []atlas.Code{atlas.CodeSourceUnavailable}},
		"status 500": {func(w http.ResponseWriter, _ *http.Request, _ json.RawMessage) {
			http.Error(w, sourcetest.Marker, http.StatusInternalServerError)
		}, []atlas.Code{atlas.CodeSourceUnavailable}},
		"status 403": {func(w http.ResponseWriter, _ *http.Request, _ json.RawMessage) {
			http.Error(w, sourcetest.Marker, http.StatusForbidden)
		}, []atlas.Code{atlas.CodeSourceMisused}},
		"hung up": {func(http.ResponseWriter, *http.Request, json.RawMessage) {
			panic(http.ErrAbortHandler)
		}, []atlas.Code{atlas.CodeSourceUnavailable}},
	} {
		for _, era := range []string{modern, legacy} {
			t.Run(name+"/"+era, func(t *testing.T) {
				t.Parallel()
				s := upstreamOf(t, era, "get")
				c := settings(s)
				c.Timeout = 2 * time.Second
				src := open(t, c, newMemory())
				mustCall(t, src, sourcetest.A, "get")
				s.onCall(tc.answer)
				a, err := call(t, src, sourcetest.A, "get")
				found := false
				for _, code := range tc.codes {
					found = found || atlas.CodeOf(err) == code
				}
				if !found {
					t.Errorf("got %s %.100q, %v; want %v", a.Structured, a.Text, err, tc.codes)
				}
				if err != nil && strings.Contains(atlas.ErrorOf(err).Failure("r").Hint, sourcetest.Marker) {
					t.Errorf("callers are told %v", err)
				}
				s.instead(nil)
				for _, tenant := range []atlas.TenantID{sourcetest.A, sourcetest.B} {
					if got := mustCall(t, src, tenant, "get"); got.Text != "get" {
						t.Errorf("afterwards %s got %q", tenant, got.Text)
					}
				}
			})
		}
	}
}

func TestInvalidUTF8(t *testing.T) {
	s := upstreamOf(t, modern, "get")
	src := open(t, settings(s), newMemory())
	s.onCall(func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) {
		result(w, id, "{\"content\":[{\"type\":\"text\",\"text\":\"a\xff\xfeb\"}],\"structuredContent\":{\"x\":\"\xff\"}}")
	})
	a, err := call(t, src, sourcetest.A, "get")
	if err == nil && (!json.Valid(a.Structured) || strings.ToValidUTF8(a.Text, "") != a.Text || strings.ToValidUTF8(string(a.Structured), "") != string(a.Structured)) {
		t.Errorf("got %q %q", a.Structured, a.Text)
	}
}

func TestPartsThatAreLeftOut(t *testing.T) {
	s := upstreamOf(t, modern, "get")
	src := open(t, settings(s), newMemory())
	for answer, want := range map[string]source.Answer{
		`{"content":[{"type":"text","text":"a"},{"type":"image","data":"AAAA","mimeType":"image/png"},{"type":"resource_link","uri":"file:///etc/passwd","name":"x"}]}`: {
			Text: "a\n[Atlas left out: an image of 3 bytes, a link to a resource]",
		},
		`{"content":[{"type":"audio","data":"AAAA","mimeType":"audio/wav"}]}`: {Text: "[Atlas left out: a recording of 3 bytes]"},
		// A text that only repeats the structured part is left out, without a word.
		`{"content":[{"type":"text","text":"{ \"b\": 1.0, \"a\": [true] }"}],"structuredContent":{"a":[true],"b":1}}`: {Structured: json.RawMessage(`{"a":[true],"b":1}`)},
		`{"content":[{"type":"text","text":"{\"a\":2}"}],"structuredContent":{"a":1}}`:                                {Structured: json.RawMessage(`{"a":1}`), Text: `{"a":2}`},
		`{"content":[],"structuredContent":[1,"x",null]}`:                                                             {Structured: json.RawMessage(`[1,"x",null]`)},
	} {
		s.onCall(func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) { result(w, id, answer) })
		got, err := call(t, src, sourcetest.A, "get")
		if err != nil || string(got.Structured) != string(want.Structured) || got.Text != want.Text {
			t.Errorf("%s: got %s %q, %v", answer, got.Structured, got.Text, err)
		}
		s.instead(nil)
	}
}

// Credentials go to the upstream that was configured, and nowhere else.
func TestRedirect(t *testing.T) {
	var reached atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := upstreamOf(t, modern, "get")
		src := open(t, settings(s), newMemory())
		s.instead(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, status) })
		if _, err := call(t, src, sourcetest.A, "get"); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("%d: got %v", status, err)
		}
	}
	if reached.Load() != 0 {
		t.Errorf("another host was asked %d times", reached.Load())
	}
}

func TestBusyUpstream(t *testing.T) {
	s := upstreamOf(t, modern, "get")
	src := open(t, settings(s), newMemory())
	s.instead(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	_, err := call(t, src, sourcetest.A, "get")
	if e := atlas.ErrorOf(err); e == nil || e.Code != atlas.CodeSourceUnavailable || e.RetryAfter != 7*time.Second {
		t.Errorf("got %v", err)
	}
}

// What an upstream asks of its client is refused: it learns nothing, and gets no model to use.
func TestUpstreamAsks(t *testing.T) {
	s := upstreamOf(t, legacy)
	refusals := make(chan error, 3)
	s.mu.Lock()
	s.sdk.AddTool(&sdk.Tool{Name: "ask", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		_, err := req.Session.CreateMessage(ctx, &sdk.CreateMessageParams{MaxTokens: 1}) //nolint:staticcheck // upstreams of the older era use it
		refusals <- err
		_, err = req.Session.Elicit(ctx, &sdk.ElicitParams{Message: "password?", RequestedSchema: json.RawMessage(`{"type":"object"}`)})
		refusals <- err
		_, err = req.Session.ListRoots(ctx, nil) //nolint:staticcheck // upstreams of the older era use it
		refusals <- err
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "asked"}}}, nil
	})
	s.mu.Unlock()
	src := open(t, settings(s), newMemory())
	if got := mustCall(t, src, sourcetest.A, "ask"); got.Text != "asked" {
		t.Errorf("got %+v", got)
	}
	for range 3 {
		if err := <-refusals; err == nil {
			t.Error("the upstream was answered")
		}
	}
}

// An upstream that says how long its list may be kept does not keep Atlas from looking.
func TestListIsNeverKept(t *testing.T) {
	s := upstreamOf(t, modern)
	s.mu.Lock()
	s.ttl = 3600_000
	s.mu.Unlock()
	s.stop()
	s.start()
	s.define("get", "Does as it says.")
	src := open(t, settings(s), newMemory())
	mustCall(t, src, sourcetest.A, "get")
	s.define("get", "Does something else.")
	if _, err := call(t, src, sourcetest.A, "get"); atlas.CodeOf(err) != atlas.CodeDefinitionChanged {
		t.Errorf("got %v", err)
	}
	if n := s.called.Load(); n != 1 {
		t.Errorf("the tool ran %d times", n)
	}
}

// When the upstream says that its tools have changed, no listing from before counts, however young.
func TestListChanged(t *testing.T) {
	for _, era := range []string{modern, legacy} {
		t.Run(era, func(t *testing.T) {
			s := upstreamOf(t, era, "get")
			c := settings(s)
			c.CheckEachCall, c.MaxAge = false, time.Hour
			src := open(t, c, newMemory())
			mustCall(t, src, sourcetest.A, "get")
			mustCall(t, src, sourcetest.B, "get")
			s.define("get", "Does something else.")
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				_, err := call(t, src, sourcetest.A, "get")
				if atlas.CodeOf(err) == atlas.CodeDefinitionChanged {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				<-tick.C // the news is on its way
			}
			before := s.called.Load()
			if _, err := call(t, src, sourcetest.B, "get"); atlas.CodeOf(err) != atlas.CodeDefinitionChanged {
				t.Errorf("another tenant's: got %v", err)
			}
			if s.called.Load() != before {
				t.Error("the tool ran")
			}
		})
	}
}

// A listing costs a request for each max_age, not for each call.
func TestListingIsReused(t *testing.T) {
	s := upstreamOf(t, modern, "get")
	c := settings(s)
	c.CheckEachCall, c.MaxAge = false, time.Hour
	src := open(t, c, newMemory())
	for range 20 {
		mustCall(t, src, sourcetest.A, "get")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lists := 0
	for _, h := range s.headers {
		if h.Get("Mcp-Method") == "tools/list" && strings.HasSuffix(h.Get("Authorization"), "credential-of-a") {
			lists++
		}
	}
	if lists != 1 {
		t.Errorf("listed %d times for 20 calls", lists)
	}
}

// A listing that never ends, or is larger than anybody could use, is no listing.
func TestHostileListings(t *testing.T) {
	list := func(more string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var m struct {
				ID     json.RawMessage `json:"id"`
				Method string          `json:"method"`
			}
			if json.NewDecoder(r.Body).Decode(&m) != nil {
				return
			}
			switch m.Method {
			case "server/discover":
				result(w, m.ID, `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}`)
			case "tools/list":
				result(w, m.ID, `{"resultType":"complete","ttlMs":0,"cacheScope":"private",`+more+`}`)
			default:
				w.WriteHeader(http.StatusAccepted)
			}
		}
	}
	many := strings.Repeat(`{"name":"t%d","inputSchema":{"type":"object"}},`, 300)
	for i := range 300 {
		many = strings.Replace(many, "%d", fmt.Sprint(i), 1)
	}
	tool := func(name, schema string) string {
		quoted, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"name":%s,"description":"x","inputSchema":%s}`, quoted, schema)
	}
	const object = `{"type":"object"}`
	for name, tc := range map[string]struct {
		list string
		want map[string]string // states by name
	}{
		"pages without end": {`"tools":[],"nextCursor":"again"`, nil},
		"too many":          {`"tools":[` + strings.TrimSuffix(many, ",") + `]`, nil},
		"twice": {
			`"tools":[` + tool("get", object) + `,` + tool("get", `{"type":"object","properties":{"x":{}}}`) + `,` + tool("ok", object) + `]`,
			map[string]string{"get": "unusable", "ok": "approved"},
		},
		"three times": {`"tools":[` + tool("get", object) + `,` + tool("get", object) + `,` + tool("get", object) + `]`, map[string]string{"get": "unusable"}},
		"written alike": {
			`"tools":[` + tool("getOrder", object) + `,` + tool("get_order", object) + `]`,
			map[string]string{"getOrder": "approved", "get_order": "unusable"},
		},
		"null": {`"tools":[null,` + tool("ok", object) + `]`, map[string]string{"ok": "approved"}},
		"schemas": {`"tools":[` + strings.Join([]string{
			tool("array", `{"type":"array"}`), tool("none", `null`), tool("remote", `{"type":"object","properties":{"a":{"$ref":"https://example.com/s"}}}`),
			tool("named", `{"type":"object","$id":"https://example.com/s"}`), tool("deep", `{"type":"object","properties":{"a":`+strings.Repeat(`{"not":`, 40)+`{}`+strings.Repeat(`}`, 40)+`}}`),
			tool("wide", `{"type":"object","description":"`+strings.Repeat("x", 50_000)+`","title":"`+strings.Repeat("x", 50_000)+`"}`), tool("wrong", `{"type":"object","properties":{"a":{"type":"nosuch"}}}`),
		}, ",") + `]`, map[string]string{"array": "unusable", "none": "unusable", "remote": "unusable", "named": "unusable", "deep": "unusable", "wide": "unusable", "wrong": "unusable"}},
		"names": {
			`"tools":[` + strings.Join([]string{tool("", object), tool("a b", object), tool("\u0430bc", object), tool("x\u001b[31m", object), tool(strings.Repeat("a", 60), object), tool("9lives", object)}, ",") + `]`,
			map[string]string{"": "unusable", "a b": "approved", "\u0430bc": "unusable", "x\u001b[31m": "waiting", strings.Repeat("a", 60): "unusable", "9lives": "unusable"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := upstreamOf(t, modern)
			s.instead(list(tc.list))
			c := settings(s)
			c.MaxAnswerBytes = 4 << 20
			src := open(t, c, newMemory())
			r, err := src.(source.Reviewer).Review(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if tc.want == nil {
				if r.Down == "" || len(r.Tools) > 0 {
					t.Errorf("got %d tools, %q", len(r.Tools), r.Down)
				}
				return
			}
			got := map[string]string{}
			for _, t := range r.Tools {
				got[t.Name] = t.State
			}
			for name, state := range tc.want {
				if got[name] != state {
					t.Errorf("%q is %q, want %q", name, got[name], state)
				}
			}
			if len(got) != len(tc.want) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A tenant that waits for its session does not hold up another, and one tenant's broken session is its own.
func TestSessionsAreBounded(t *testing.T) {
	s := upstreamOf(t, legacy, "get")
	c := settings(s)
	c.MaxSessions = 1
	src := open(t, c, newMemory())
	for range 3 { // the idle one makes room
		for _, tenant := range []atlas.TenantID{sourcetest.A, sourcetest.B} {
			mustCall(t, src, tenant, "get")
		}
	}
	held, let := make(chan struct{}), make(chan struct{})
	s.onCall(func(w http.ResponseWriter, _ *http.Request, id json.RawMessage) {
		close(held)
		<-let
		result(w, id, `{"content":[]}`)
	})
	done := make(chan error)
	go func() {
		_, err := call(t, src, sourcetest.A, "get")
		done <- err
	}()
	<-held
	s.instead(nil)
	if _, err := call(t, src, sourcetest.B, "get"); atlas.CodeOf(err) != atlas.CodeOverloaded {
		t.Errorf("got %v", err)
	}
	close(let)
	if err := <-done; err != nil {
		t.Error(err)
	}
	mustCall(t, src, sourcetest.B, "get")
}

// Close ends what is running.
func TestCloseEndsCalls(t *testing.T) {
	s := upstreamOf(t, modern, "get")
	src := open(t, settings(s), newMemory())
	held := make(chan struct{})
	s.onCall(func(_ http.ResponseWriter, r *http.Request, _ json.RawMessage) {
		close(held)
		<-r.Context().Done()
	})
	done := make(chan error)
	go func() {
		_, err := call(t, src, sourcetest.A, "get")
		done <- err
	}()
	<-held
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; atlas.CodeOf(err) != atlas.CodeSourceUnavailable || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// The upstream is told the trace, and nothing of who asks.
func TestTraceParent(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s := upstreamOf(t, modern, "get")
	src, err := settings(s).Open(t.Context(), source.Deps{Name: "crm", State: newMemory(), TraceParent: func(context.Context) string { return parent }})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close() //nolint:errcheck // nothing is asked of it anymore
	bodies := make(chan string, 1)
	next := s.handler()
	s.instead(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), `"tools/call"`) {
			bodies <- string(body)
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		next.ServeHTTP(w, r)
	})
	mustCall(t, src, sourcetest.A, "get")
	if body := <-bodies; !strings.Contains(body, `"traceparent":"`+parent+`"`) || strings.Contains(body, string(sourcetest.A)) {
		t.Errorf("sent %s", body)
	}
}
