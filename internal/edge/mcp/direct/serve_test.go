package direct_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

func TestRequestsThatAreNotAnswered(t *testing.T) {
	h := newServer(t, setup{cfg: direct.Config{MaxBody: 1000}, handler: func(context.Context, atlas.Call) (atlas.Result, error) {
		t.Error("the pipeline was reached")
		return atlas.Result{}, nil
	}})
	good := request(modern, "tools/call", `"name":"x"`, "")
	set := func(k, v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(k, v) } }
	for _, tt := range []struct {
		name, body string
		set        func(*http.Request)
		status     int
		code       string
	}{
		{"no caller", good, func(r *http.Request) { *r = *r.WithContext(context.Background()) }, 401, "missing_token"},
		{"GET", good, func(r *http.Request) { r.Method = http.MethodGet }, 405, "use POST"},
		{"DELETE", good, func(r *http.Request) { r.Method = http.MethodDelete }, 405, "use POST"},
		{"no media type", good, func(r *http.Request) { r.Header.Del("Content-Type") }, 415, "application/json"},
		{"two media types", good, func(r *http.Request) { r.Header.Add("Content-Type", "application/json") }, 415, "application/json"},
		{"media type", good, set("Content-Type", "application/jsonp"), 415, "application/json"},
		{"compressed", good, set("Content-Encoding", "gzip"), 415, "Content-Encoding"},
		{"compressed twice", good, func(r *http.Request) { r.Header["Content-Encoding"] = []string{"identity", "gzip"} }, 415, "Content-Encoding"},
		{"not compressed", request(modern, "prompts/get", `"name":"x"`, ""), set("Content-Encoding", "Identity"), http.StatusTeapot, ""},
		{"accepts nothing", good, set("Accept", "text/html"), 406, "accept"},
		{"accepts no JSON", good, set("Accept", "application/json;q=0, text/event-stream"), 406, "accept"},
		{"too large", good + strings.Repeat(" ", 1000), nil, 413, "too_large"},
		{"too large, length unknown", good + strings.Repeat(" ", 1000), func(r *http.Request) { r.ContentLength = -1 }, 413, "too_large"},
		{"says that it is too large", good, func(r *http.Request) { r.ContentLength = 1 << 40 }, 413, "too_large"},
		{"shorter than it says", good, func(r *http.Request) { r.ContentLength = int64(len(good)) + 5 }, 400, "could not be read"},
		{"no id", strings.Replace(good, `"id":7,`, "", 1), nil, 400, "-32600"},
		{"syntax", good[:20], nil, 400, "-32700"},
		{"two revisions", good, func(r *http.Request) { r.Header.Add("Mcp-Protocol-Version", legacy) }, 400, "-32020"},
		{"response to nothing", `{"jsonrpc":"2.0","id":1,"result":{}}`, nil, 404, "-32600"},
		{"another method's header", request(modern, "prompts/get", `"name":"x"`, ""), set("Mcp-Name", "y"), 400, "-32020"},
		{"the rest", request(modern, "prompts/get", `"name":"x"`, ""), nil, http.StatusTeapot, ""},
		{"the rest in base64", request(modern, "prompts/get", `"name":"x"`, ""), set("Mcp-Name", "=?base64?eA==?="), http.StatusTeapot, ""},
		{"media type with parameters", request(modern, "prompts/get", `"name":"x"`, ""), set("Content-Type", "Application/JSON; charset=utf-8"), http.StatusTeapot, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRequest(t, modern, tt.body)
			if tt.set != nil {
				tt.set(r)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.code) {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, tt.status, tt.code)
			}
		})
	}
}

// What goes to the handler behind is what came, but for the name, which it reads as it is.
func TestTheRestGetsItsBodyBack(t *testing.T) {
	body := request(modern, "resources/read", `"uri":"u:ä"`, "")
	got := ""
	h := newServer(t, setup{change: func(d *direct.Deps) {
		d.Rest = func(_ http.ResponseWriter, r *http.Request, _ direct.Session) {
			b := make([]byte, r.ContentLength)
			n, _ := r.Body.Read(b)
			got = string(b[:n]) + r.Header.Get("Mcp-Name")
		}
	}})
	r := newRequest(t, modern, body)
	r.Header.Set("Mcp-Name", "=?base64?dTrDpA==?=")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if got != body+"u:ä" {
		t.Errorf("got %s", got)
	}
}

func TestFailures(t *testing.T) {
	challenge := edge.Challenge{MetadataURL: "https://atlas.example/meta"}
	for _, tt := range []struct {
		name           string
		err            error
		modern, legacy int
		body           string
	}{
		{"denied", atlas.Errorf(atlas.CodeNotAuthorized, nil, ""), 200, 200, `"isError":true`},
		{"unknown", atlas.Errorf(atlas.CodeToolNotFound, nil, ""), 400, 200, `"code":-32602,"message":"Unknown tool"`},
		{"state", atlas.Errorf(atlas.CodeInvalidState, errors.New("secret"), ""), 400, 200, `"code":-32602`},
		{"capability", atlas.Errorf(atlas.CodeMissingCapability, nil, "").With("required", []string{"tasks"}), 400, 200, `"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}`},
		{"scope", atlas.Errorf(atlas.CodeInsufficientScope, errors.New("secret"), "").With("scopes", []string{"tool:x:read", "tool:y:read"}), 403, 403, `"code":403`},
		{"unknown to all", errors.New("secret"), 200, 200, `"code":"internal_error"`},
	} {
		for _, era := range eras {
			h := newServer(t, setup{change: func(d *direct.Deps) { d.Challenge = challenge }, handler: func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{}, fmt.Errorf("stage: %w", tt.err)
			}})
			w := httptest.NewRecorder()
			h.ServeHTTP(w, newRequest(t, era, request(era, "tools/call", `"name":"x"`, "")))
			want := tt.modern
			if era == legacy {
				want = tt.legacy
			}
			if w.Code != want || !strings.Contains(w.Body.String(), tt.body) || strings.Contains(w.Body.String(), "secret") || !strings.Contains(w.Body.String(), `"id":7`) {
				t.Errorf("%s %s: %d %s, want %d %s", tt.name, era, w.Code, w.Body, want, tt.body)
			}
			auth := w.Header().Get("WWW-Authenticate")
			if (w.Code == 403) != (auth != "") || w.Code == 403 && (!strings.Contains(auth, `error="insufficient_scope"`) ||
				!strings.Contains(auth, `scope="tool:x:read tool:y:read"`) || !strings.Contains(auth, `resource_metadata="https://atlas.example/meta"`)) {
				t.Errorf("%s %s: challenge %q", tt.name, era, auth)
			}
		}
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	h := newServer(t, setup{handler: func(context.Context, atlas.Call) (atlas.Result, error) { panic("secret of the house") }})
	for _, method := range []string{"tools/call", "tools/list"} {
		w := serveModern(t, h, request(modern, method, `"name":"x"`, ""))
		if !strings.Contains(w.Body.String(), `"code":-32603`) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
	}
}

func TestTaskIsTheAnswer(t *testing.T) {
	h := newServer(t, setup{change: func(d *direct.Deps) {
		d.Call = func(_ context.Context, c atlas.Call) (tasks.Answer, error) {
			if !c.Client.Tasks {
				return tasks.Answer{}, nil
			}
			return tasks.Answer{Task: &tasks.Task{ID: "t1", Status: tasks.Working}}, nil
		}
	}})
	w := serveModern(t, h, request(modern, "tools/call", `"name":"x"`, `"io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}`))
	if !strings.Contains(w.Body.String(), `"resultType":"task"`) || !strings.Contains(w.Body.String(), `"taskId":"t1","status":"working"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Faults in mirrored fields are found, and tell nothing of a tool that the caller may not see.
func TestMirroredFields(t *testing.T) {
	tools := []*atlas.Tool{
		{Name: "seen", Input: json.RawMessage(`{"type":"object","properties":{"x":{"type":"string","x-mcp-header":"X"}}}`)},
		{Name: "hidden", Input: json.RawMessage(`{"type":"object","properties":{"x":{"type":"string","x-mcp-header":"X"}}}`)},
	}
	h := newServer(t, setup{tools: tools, handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		if c.Name != "seen" {
			return atlas.Result{}, atlas.Errorf(atlas.CodeToolNotFound, nil, "")
		}
		return atlas.Result{}, c.Fault
	}})
	answers := map[string]string{}
	for _, name := range []string{"seen", "hidden", "never"} {
		for _, field := range []string{"", "y", "z"} {
			r := newRequest(t, modern, request(modern, "tools/call", `"name":"`+name+`","arguments":{"x":"y"}`, ""))
			if field != "" {
				r.Header.Set("Mcp-Param-X", field)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			answers[name+field] = fmt.Sprint(w.Code, w.Header(), w.Body)
		}
	}
	if !strings.Contains(answers["seeny"], `"result"`) || !strings.Contains(answers["seen"], "-32020") || !strings.Contains(answers["seenz"], "-32020") {
		t.Errorf("the seen tool: %v", answers)
	}
	for _, field := range []string{"", "y", "z"} {
		if answers["hidden"+field] != answers["never"] || answers["never"+field] != answers["never"] {
			t.Errorf("field %q tells a hidden tool from none: %s", field, answers["hidden"+field])
		}
	}
	// In the older era there are no such fields.
	w := do(t, h, ann(), http.MethodPost, request(legacy, "tools/call", `"name":"seen","arguments":{"x":"y"}`, ""), "Mcp-Param-X", "z")
	if !strings.Contains(w.Body.String(), `"result"`) {
		t.Errorf("legacy: %s", w.Body)
	}
}

// Lists that are one slice are rendered once; whoever has another list gets his own, wherever in
// memory it is.
func TestListsAreTheCallersOwn(t *testing.T) {
	all := make([]*atlas.Tool, 20)
	for i := range all {
		all[i] = &atlas.Tool{Name: fmt.Sprintf("tool%02d", i), Input: json.RawMessage(`{"type":"object"}`)}
	}
	var views sync.Map // subject → slice
	h := newServer(t, setup{tools: all, handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		v, _ := views.Load(c.Principal.Subject)
		return atlas.Result{Tools: v.([]*atlas.Tool)}, nil
	}})
	list := func(subject, era string) string {
		r := newRequest(t, era, request(era, "tools/list", "", ""))
		r = r.WithContext(edge.WithCaller(r.Context(), caller("acme", subject)))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Body.String()
	}
	check := func(subject string, want []*atlas.Tool) {
		t.Helper()
		for _, era := range eras {
			got := list(subject, era)
			if n := strings.Count(got, `"inputSchema"`); n != len(want) {
				t.Fatalf("%s sees %d tools, has %d", subject, n, len(want))
			}
			for _, tool := range want {
				if !strings.Contains(got, `"name":"`+tool.Name+`"`) {
					t.Fatalf("%s does not see %s", subject, tool.Name)
				}
			}
			if strings.Contains(got, `"resultType"`) != (era == modern) {
				t.Errorf("%s: an answer of the other era: %.80s", era, got)
			}
		}
	}
	// The same array, cut otherwise.
	views.Store("all", all)
	views.Store("ten", all[:10])
	views.Store("last", all[10:])
	views.Store("none", all[:0])
	for range 2 {
		check("all", all)
		check("ten", all[:10])
		check("last", all[10:])
		check("none", nil)
	}
	// Lists that come and go, at places in memory that are used again: without the slices being kept,
	// one caller would be shown what another had there before.
	for i := range 3000 {
		view := []*atlas.Tool{all[i%20]}
		views.Store("passing", view)
		check("passing", view)
		if i%500 == 0 {
			runtime.GC()
		}
	}
}

func TestListChangesWithTheConfiguration(t *testing.T) {
	tools := []*atlas.Tool{{Name: "a", Description: "before"}}
	var listing atomic.Pointer[message.Listing]
	listing.Store(message.NewListing(tools))
	h := newServer(t, setup{handler: func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{Tools: tools}, nil }, change: func(d *direct.Deps) {
		d.Listing = listing.Load
	}})
	if w := serveModern(t, h, request(modern, "tools/list", "", "")); !strings.Contains(w.Body.String(), "before") {
		t.Error(w.Body)
	}
	changed := *tools[0]
	changed.Description = "after"
	tools[0] = &changed // as a reload that finds its slice in the same place would
	listing.Store(message.NewListing(tools))
	if w := serveModern(t, h, request(modern, "tools/list", "", "")); !strings.Contains(w.Body.String(), "after") {
		t.Error(w.Body)
	}
}

// What one request brought is in no other's answer, however buffers are used again: by many callers at
// once, with answers of all lengths.
func TestBuffersDoNotMix(t *testing.T) {
	h := newServer(t, setup{})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			who := caller([]atlas.TenantID{"acme", "globex"}[i%2], fmt.Sprintf("user-%d", i))
			for n := range 50 {
				arg := strings.Repeat(fmt.Sprintf("%d-%d.", i, n), 1+(i*n)%900)
				w := do(t, h, who, http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":"%d-%d","method":"tools/call","params":{"name":"x","arguments":{"a":%q}}}`, i, n, arg))
				var m struct {
					ID     string
					Result struct {
						StructuredContent struct {
							Tenant  atlas.TenantID
							Subject string
							Args    struct{ A string }
						}
					}
				}
				if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
					t.Errorf("%v: %.200s", err, w.Body)
					return
				}
				got := m.Result.StructuredContent
				if m.ID != fmt.Sprintf("%d-%d", i, n) || got.Tenant != who.Tenant || got.Subject != who.Principal.Subject || got.Args.A != arg {
					t.Errorf("%s got the answer of %s: %.200s", who.Principal.Subject, got.Subject, w.Body)
				}
			}
		})
	}
	wg.Wait()
}

// A stage may keep what it is given of a call, beyond the answer.
func TestArgumentsStayWhatTheyWere(t *testing.T) {
	var kept []json.RawMessage
	h := newServer(t, setup{handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		kept = append(kept, c.Args.Raw)
		return atlas.Result{}, nil
	}})
	for i := range 100 {
		do(t, h, ann(), http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"n":%03d}}}`, 100+i))
	}
	for i, raw := range kept {
		if want := fmt.Sprintf(`{"n":%d}`, 100+i); string(raw) != want {
			t.Errorf("the arguments of call %d are %s now", i, raw)
		}
	}
}

func TestLegacyCancellation(t *testing.T) {
	for name, tt := range map[string]struct {
		who  *edge.Caller
		id   string
		ends bool
	}{
		"the caller's own":           {ann(), "7", true},
		"another id":                 {ann(), "8", false},
		"a text, which is no number": {ann(), `"7"`, false},
		"another caller's":           {caller("acme", "bob"), "7", false},
		"a namesake's":               {caller("globex", "ann"), "7", false},
	} {
		t.Run(name, func(t *testing.T) {
			var h *direct.Server
			ended := false
			h = newServer(t, setup{handler: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
				do(t, h, tt.who, http.MethodPost, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+tt.id+`}}`)
				ended = ctx.Err() != nil
				return atlas.Result{}, ctx.Err()
			}})
			w := do(t, h, ann(), http.MethodPost, whoCanDo)
			if ended != tt.ends || strings.Contains(w.Body.String(), `"code":"canceled"`) != tt.ends {
				t.Errorf("ended %v: %s", ended, w.Body)
			}
		})
	}
}

// A cancellation names its call by the id that the client gave it. Two clients of one caller may have
// given one id to two calls: then neither is cancelled. Nobody cancels another caller's.
func TestCancellationMeansOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		cancelled := 0
		h := newServer(t, setup{handler: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
			select {
			case <-ctx.Done():
				cancelled++
				return atlas.Result{}, ctx.Err()
			case <-release:
				return atlas.Result{}, nil
			}
		}})
		call := request(legacy, "tools/call", `"name":"x"`, "")
		cancel := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`
		var wg sync.WaitGroup
		defer wg.Wait()
		defer close(release)
		begin := func() { wg.Go(func() { do(t, h, ann(), http.MethodPost, call) }); synctest.Wait() }
		begin()
		for _, stranger := range []*edge.Caller{caller("acme", "bob"), caller("globex", "ann")} {
			do(t, h, stranger, http.MethodPost, cancel)
		}
		synctest.Wait()
		if cancelled != 0 {
			t.Error("a stranger has cancelled the call")
		}
		begin()
		do(t, h, ann(), http.MethodPost, cancel)
		synctest.Wait()
		if cancelled != 0 {
			t.Errorf("%d of two calls of one id were cancelled", cancelled)
		}
	})
}

// A list has no arguments, whatever stands in its parameters.
func TestListHasNoArguments(t *testing.T) {
	h := newServer(t, setup{handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		if c.Args.Raw != nil || c.Reply != nil {
			t.Errorf("arguments %s, reply %+v", c.Args.Raw, c.Reply)
		}
		return atlas.Result{}, nil
	}})
	for _, era := range eras {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, newRequest(t, era, request(era, "tools/list", `"arguments":{"a":1},"requestState":"s","inputResponses":{"q":{}}`, "")))
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", era, w.Code, w.Body)
		}
	}
}
