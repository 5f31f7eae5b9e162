package mcp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

// A console is a client on the other end of stdio, which writes and reads lines.
type console struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Scanner
	done chan error
}

// console starts the server on stdio, as p.
func (h *house) console(t *testing.T, p *atlas.Principal) *console {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	c := &console{t, inW, bufio.NewScanner(outR), make(chan error, 1)}
	c.out.Buffer(nil, 1<<20)
	go func() { c.done <- h.mcp.RunStdio(t.Context(), inR, outW, p) }()
	return c
}

func (c *console) send(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// A line is one message that the server wrote.
type line struct {
	ID     json.Number
	Method string
	Params struct {
		URI, Message, Level string
		Data                any
		Progress, Total     float64
		Token               any            `json:"progressToken"`
		Meta                map[string]any `json:"_meta"`
	}
	Result map[string]any
	Error  *struct {
		Code    int
		Message string
		Data    map[string]any
	}
}

func (c *console) next() (m line) {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatal("the output ended: ", c.out.Err())
	}
	if err := json.Unmarshal(c.out.Bytes(), &m); err != nil {
		c.t.Fatalf("%q: %v", c.out.Text(), err)
	}
	return m
}

// initialize begins a session of the older era whose client has the capabilities.
func (c *console) initialize(revision, caps string) line {
	c.t.Helper()
	c.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":%q,"capabilities":%s,"clientInfo":{"name":"t","version":"1"}}}`, revision, caps))
	m := c.next()
	c.send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	return m
}

// hangUp closes the input and returns what the server still writes.
func (c *console) hangUp() (rest []string) {
	c.t.Helper()
	if err := c.in.Close(); err != nil {
		c.t.Error(err)
	}
	for c.out.Scan() {
		rest = append(rest, c.out.Text())
	}
	if err := <-c.done; err != nil {
		c.t.Error(err)
	}
	return rest
}

var operator = &atlas.Principal{Subject: "ops", Tenant: "acme"}

// extra are tools that talk with their client.
func extra(l *library) []*atlas.Tool {
	return append(l.tools(),
		&atlas.Tool{Name: "ask", Run: asking},
		&atlas.Tool{Name: "ask_prompt", Kind: atlas.KindPrompt, Run: asking},
		&atlas.Tool{Name: "ask_resource", Kind: atlas.KindResource, URI: "zz://x", Match: exactly("zz://x"), Run: asking},
		&atlas.Tool{Name: "talk", Run: func(_ context.Context, call atlas.Call) (atlas.Result, error) {
			call.Peer.Progress(1, 3, "one")
			call.Peer.Progress(1, 3, "again") // does not grow
			call.Peer.Progress(3, 3, "three")
			call.Peer.Log(atlas.LogDebug, "talk", "small")
			call.Peer.Log(atlas.LogWarning, "talk", map[string]int{"n": 1})
			call.Peer.Log(atlas.LogError, "talk", func() {}) // is no JSON
			return atlas.Result{Structured: json.RawMessage(`{}`)}, nil
		}},
		&atlas.Tool{Name: "hang", Run: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
			<-ctx.Done()
			return atlas.Result{}, ctx.Err()
		}},
	)
}

func TestStdioServesPromptsAndResourcesInBothEras(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, era := range eras {
		h, _ := withLibrary(t, mcp.Config{})
		c := h.console(t, operator)
		if era == legacy {
			caps := c.initialize(era, `{}`).Result["capabilities"].(map[string]any)
			resources := caps["resources"].(map[string]any)
			if resources["subscribe"] != true || resources["listChanged"] != true || caps["prompts"] == nil || caps["completions"] == nil || caps["logging"] == nil {
				t.Errorf("capabilities %v", caps)
			}
		}
		for i, tt := range []struct{ method, params, want string }{
			{"prompts/list", ``, `"summarise"`},
			{"prompts/get", `"name":"summarise","arguments":{"id":"plan"}`, `Summarise plan of acme`},
			{"prompts/get", `"name":"whisper"`, `"code":-32602,"message":"Unknown prompt"`},
			{"resources/list", ``, `atlas://docs/plan`},
			{"resources/templates/list", ``, `atlas://docs/{id}`},
			{"resources/read", `"uri":"atlas://docs/plan"`, `acme's plan`},
			{"resources/read", `"uri":"atlas://vault/key"`, `"code":-32602,"message":"Resource not found","data":{"uri":"atlas://vault/key"}`},
			{"completion/complete", `"ref":{"type":"ref/prompt","name":"summarise"},"argument":{"name":"id","value":"p"}`, `["pay","plan"]`},
		} {
			c.send(strings.Replace(message(era, tt.method, tt.params, ""), `"id":7`, fmt.Sprintf(`"id":%d`, i+1), 1))
			m := c.next()
			if got := c.out.Text(); !strings.Contains(got, tt.want) || m.ID.String() != fmt.Sprint(i+1) {
				t.Errorf("%s %s: %s", era, tt.method, got)
			}
			if m.Error == nil && (m.Result["resultType"] == "complete") != (era == modern) {
				t.Errorf("%s %s: resultType %v", era, tt.method, m.Result["resultType"])
			}
		}
		for _, call := range h.seen() {
			if call.Transport != "stdio" || call.Tenant != "acme" || call.Principal != operator {
				t.Errorf("call %+v", call)
			}
		}
		if rest := c.hangUp(); rest != nil {
			t.Errorf("and then %v", rest)
		}
		h.Close()
	}
}

// Progress and log messages come before the answer, and only as asked for.
func TestStdioTellsHowFarACallIs(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h, l := withLibrary(t, mcp.Config{})
			h.setTools(extra(l)...)
			c := h.console(t, operator)
			if era == legacy {
				c.initialize(era, `{}`)
			}
			call := func(meta string) (progress []float64, logs []string) {
				c.send(message(era, "tools/call", `"name":"talk"`, meta))
				for {
					switch m := c.next(); m.Method {
					case "notifications/progress":
						if m.Params.Token != "p" || m.Params.Total != 3 {
							t.Errorf("progress %+v", m.Params)
						}
						progress = append(progress, m.Params.Progress)
					case "notifications/message":
						logs = append(logs, m.Params.Level)
					default:
						if m.Result["isError"] == true {
							t.Errorf("answer %+v", m)
						}
						return progress, logs
					}
				}
			}
			if progress, logs := call(""); progress != nil || logs != nil {
				t.Errorf("told without being asked: %v %v", progress, logs)
			}
			meta := `"progressToken":"p"`
			if era == modern {
				meta += `,"io.modelcontextprotocol/logLevel":"warning"`
			} else {
				c.send(`{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"warning"}}`)
				if m := c.next(); m.Error != nil {
					t.Fatalf("%+v", m)
				}
			}
			progress, logs := call(meta)
			if diff := cmp.Diff([]float64{1, 3}, progress); diff != "" {
				t.Error("progress (-want +got):", diff)
			}
			if diff := cmp.Diff([]string{"warning"}, logs); diff != "" {
				t.Error("logs (-want +got):", diff)
			}
			c.hangUp()
		})
	}
}

// In the older era the client is asked while its call waits; in the newer one the question is the
// result.
func TestStdioAsksItsClient(t *testing.T) {
	requests := map[string]string{
		"tools/call":     `"name":"ask"`,
		"prompts/get":    `"name":"ask_prompt"`,
		"resources/read": `"uri":"zz://x"`,
	}
	for method, params := range requests {
		t.Run(legacy+"/"+method, func(t *testing.T) {
			h, l := withLibrary(t, mcp.Config{})
			h.setTools(extra(l)...)
			c := h.console(t, operator)
			c.initialize(legacy, `{"elicitation":{}}`)
			c.send(message(legacy, method, params, ""))
			m := c.next()
			if m.Method != "elicitation/create" || m.Params.Message != "Who?" {
				t.Fatalf("asked %+v", m)
			}
			c.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"action":"accept","content":{"name":"Ann"}}}`, m.ID))
			if c.next(); !strings.Contains(c.out.Text(), "Hello Ann") {
				t.Errorf("answered %s", c.out.Text())
			}
			// A person who says no, and a client that fails.
			for _, answer := range []string{`"result":{"action":"decline"}`, `"error":{"code":-1,"message":"at 10.0.0.7"}`} {
				c.send(message(legacy, method, params, ""))
				m = c.next()
				c.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,%s}`, m.ID, answer))
				if c.next(); !strings.Contains(c.out.Text(), `"code":"canceled"`) || strings.Contains(c.out.Text(), "10.0.0.7") {
					t.Errorf("answered %s", c.out.Text())
				}
			}
			calls := h.seen()
			ids := map[string]bool{}
			for _, call := range calls {
				ids[call.ID] = true
				if !call.Client.Elicit || call.Client.Sample {
					t.Errorf("call %+v", call)
				}
			}
			if len(ids) != len(calls) {
				t.Errorf("%d ids of %d calls", len(ids), len(calls))
			}
			c.hangUp()
		})
		t.Run(modern+"/"+method, func(t *testing.T) {
			h, l := withLibrary(t, mcp.Config{})
			h.setTools(extra(l)...)
			c := h.console(t, operator)
			able := func(params string) string {
				return strings.Replace(message(modern, method, params, ""), `clientCapabilities":{}`, `clientCapabilities":{"elicitation":{}}`, 1)
			}
			c.send(able(params))
			m := c.next()
			if m.Result["resultType"] != "input_required" || m.Result["requestState"] != "sealed" {
				t.Fatalf("answered %s", c.out.Text())
			}
			c.send(able(params + `,"requestState":"sealed","inputResponses":{"who":{"action":"accept","content":{"name":"Ann"}}}`))
			if c.next(); !strings.Contains(c.out.Text(), "Hello Ann") {
				t.Errorf("answered %s", c.out.Text())
			}
			c.hangUp()
		})
	}
}

func TestStdioAsksForMoreThanForms(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	asked := 0
	h.setTools(append(l.tools(), &atlas.Tool{Name: "ask", Run: func(_ context.Context, call atlas.Call) (atlas.Result, error) {
		if asked++; call.Reply == nil {
			return atlas.Result{Ask: &atlas.Ask{Requests: map[string]atlas.ClientRequest{
				"a": {Method: "roots/list"},
				"b": {Method: "sampling/createMessage", Params: json.RawMessage(`{"messages":[{"role":"user","content":{"type":"text","text":"Hi"}}],"maxTokens":9}`)},
			}}}, nil
		}
		if asked == 2 { // again, with nothing to ask
			return atlas.Result{Ask: &atlas.Ask{State: []byte("s")}}, nil
		}
		return atlas.Result{Structured: json.RawMessage(fmt.Sprintf(`{"replies":%d,"state":%q}`, len(call.Reply.Answers), call.Reply.State))}, nil
	}}, &atlas.Tool{Name: "endless", Run: func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Ask: &atlas.Ask{}}, nil
	}})...)
	c := h.console(t, operator)
	c.initialize(legacy, `{"sampling":{},"roots":{}}`)
	c.send(message(legacy, "tools/call", `"name":"ask"`, ""))
	for range 2 {
		m := c.next()
		answer := `{"roots":[{"uri":"file:///x"}]}`
		if m.Method == "sampling/createMessage" {
			answer = `{"role":"assistant","model":"m","content":{"type":"text","text":"Ho"}}`
		} else if m.Method != "roots/list" {
			t.Fatalf("asked %+v", m)
		}
		c.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, answer))
	}
	if m := c.next(); m.Result["structuredContent"] == nil || !strings.Contains(c.out.Text(), `"state":"s"`) {
		t.Errorf("answered %s", c.out.Text())
	}
	c.send(message(legacy, "tools/call", `"name":"endless"`, ""))
	if c.next(); !strings.Contains(c.out.Text(), `internal_error`) {
		t.Errorf("answered %s", c.out.Text())
	}
	if n := len(h.seen()); n != 3+9 {
		t.Errorf("%d calls", n)
	}
	c.hangUp()
}

func TestStdioCancels(t *testing.T) {
	for _, era := range eras {
		h, l := withLibrary(t, mcp.Config{})
		h.setTools(extra(l)...)
		c := h.console(t, operator)
		if era == legacy {
			c.initialize(era, `{"elicitation":{}}`)
		}
		c.send(message(era, "tools/call", `"name":"hang"`, ""))
		eventually(t, "the call runs", func() bool { return len(h.seen()) > 0 })
		c.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`)
		c.next() // whatever it says, the call has ended
		if era == legacy {
			c.send(strings.Replace(message(era, "tools/call", `"name":"ask"`, ""), `"id":7`, `"id":8`, 1))
			if m := c.next(); m.Method != "elicitation/create" {
				t.Fatalf("asked %+v", m)
			}
			c.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":8}}`)
			for m := c.next(); m.ID.String() != "8"; m = c.next() { // the question is cancelled, too
				if m.Method != "notifications/cancelled" {
					t.Errorf("then %+v", m)
				}
			}
		}
		c.hangUp()
	}
}

func TestStdioListens(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h, l := withLibrary(t, mcp.Config{})
	t.Run(legacy, func(t *testing.T) {
		c := h.console(t, operator)
		h.setTools(l.tools()...) // nobody has been initialized
		c.initialize(legacy, `{}`)
		c.send(message(legacy, "ping", "", ""))
		c.next() // the notification before it has been read
		h.setTools(l.tools()...)
		var got []string
		for range 3 {
			got = append(got, c.next().Method)
		}
		if diff := cmp.Diff([]string{"notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed"}, got); diff != "" {
			t.Error("(-want +got):", diff)
		}
		for _, uri := range []string{"atlas://docs/plan", "atlas://docs/marker"} {
			c.send(message(legacy, "resources/subscribe", `"uri":"`+uri+`"`, ""))
			if m := c.next(); m.Result == nil || len(m.Result) != 0 {
				t.Errorf("subscribing: %s", c.out.Text())
			}
		}
		c.send(message(legacy, "resources/subscribe", `"uri":"atlas://vault/key"`, ""))
		if m := c.next(); m.Error == nil || m.Error.Code != -32602 {
			t.Errorf("subscribing to what is hidden: %s", c.out.Text())
		}
		h.mcp.ResourceUpdated("globex", "atlas://docs/plan")
		h.mcp.ResourceUpdated("acme", "atlas://docs/plan")
		if m := c.next(); m.Method != "notifications/resources/updated" || m.Params.URI != "atlas://docs/plan" || m.Params.Meta != nil {
			t.Errorf("told %+v", m)
		}
		c.send(message(legacy, "resources/unsubscribe", `"uri":"atlas://docs/plan"`, ""))
		c.next()
		h.mcp.ResourceUpdated("acme", "atlas://docs/plan")
		h.mcp.ResourceUpdated("acme", "atlas://docs/marker")
		if m := c.next(); m.Params.URI != "atlas://docs/marker" {
			t.Errorf("told %+v", m)
		}
		c.hangUp()
	})
	t.Run(modern, func(t *testing.T) {
		c := h.console(t, operator)
		for id, notifications := range []string{`{"promptsListChanged":true}`, `{"resourceSubscriptions":["atlas://docs/plan"]}`} {
			c.send(strings.Replace(message(modern, "subscriptions/listen", `"notifications":`+notifications, ""), `"id":7`, fmt.Sprintf(`"id":%d`, id+1), 1))
			if m := c.next(); m.Method != "notifications/subscriptions/acknowledged" || m.Params.Meta[subscriptionID] != float64(id+1) {
				t.Errorf("acknowledged %+v", m)
			}
		}
		h.mcp.ResourceUpdated("acme", "atlas://docs/plan")
		if m := c.next(); m.Params.URI != "atlas://docs/plan" || m.Params.Meta[subscriptionID] != 2. {
			t.Errorf("told %+v", m)
		}
		h.setTools(l.tools()...)
		if m := c.next(); m.Method != "notifications/prompts/list_changed" || m.Params.Meta[subscriptionID] != 1. {
			t.Errorf("told %+v", m)
		}
		c.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
		if m := c.next(); m.ID.String() != "1" {
			t.Errorf("the end of one: %+v", m)
		}
		// The other one ends with the input, and with its result.
		rest := c.hangUp()
		if len(rest) != 1 || !strings.Contains(rest[0], `"id":2`) || !strings.Contains(rest[0], `"result":`) || !strings.Contains(rest[0], subscriptionID) {
			t.Errorf("at the end: %v", rest)
		}
	})
	h.Close()
}

// A tool must not wait for a client that does not read.
func TestStdioClientThatDoesNotRead(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	ended := make(chan struct{})
	h.setTools(append(l.tools(), &atlas.Tool{Name: "chatter", Run: func(_ context.Context, call atlas.Call) (atlas.Result, error) {
		defer close(ended)
		for i := range 10_000 {
			call.Peer.Progress(float64(i), 0, "")
		}
		return atlas.Result{Structured: json.RawMessage(`{}`)}, nil
	}})...)
	c := h.console(t, operator)
	c.send(message(modern, "tools/call", `"name":"chatter"`, `"progressToken":1`))
	<-ended // with nobody reading
	n := 0
	for m := c.next(); m.Method != ""; m = c.next() {
		n++
	}
	if n == 0 || n > 100 {
		t.Errorf("%d notifications were kept", n)
	}
	c.hangUp()
}

func TestStdioPeerIsSilentAfterTheAnswer(t *testing.T) {
	h, l := withLibrary(t, mcp.Config{})
	var kept atlas.Peer
	h.setTools(append(l.tools(), &atlas.Tool{Name: "keeps", Run: func(_ context.Context, call atlas.Call) (atlas.Result, error) {
		kept = call.Peer
		return atlas.Result{Structured: json.RawMessage(`{}`)}, nil
	}})...)
	c := h.console(t, operator)
	c.send(message(modern, "tools/call", `"name":"keeps"`, `"progressToken":1,"io.modelcontextprotocol/logLevel":"debug"`))
	c.next()
	kept.Progress(1, 2, "late")
	kept.Log(atlas.LogError, "x", "late")
	if rest := c.hangUp(); rest != nil {
		t.Errorf("told %v", rest)
	}
}

// A batch, which clients of 2025-03-26 may send, is answered before the end, too.
func TestStdioAnswersABatchBeforeTheEnd(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	c := h.console(t, operator)
	c.initialize("2025-03-26", `{}`)
	c.send(`[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo"}}]`)
	rest := strings.Join(c.hangUp(), "\n")
	if !strings.Contains(rest, `"id":1`) || !strings.Contains(rest, `"id":2`) || !strings.Contains(rest, `\"subject\":\"ops\"`) {
		t.Errorf("answered %s", rest)
	}
}
