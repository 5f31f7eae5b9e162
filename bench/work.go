package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
)

// The two eras of the protocol: with every request on its own, and with a handshake and sessions.
const (
	modern = "2026-07-28"
	legacy = "2025-11-25"
)

// A work is what is asked for again and again: one method as clients of one era ask for it.
type work struct {
	era    string
	method string
	sql    bool // the answer comes out of Postgres
}

func (w work) String() string { return w.about() + " " + w.era }

// about names the method, and where its answer comes from if that is not the server's memory.
func (w work) about() string {
	if w.sql {
		return w.method + " on Postgres"
	}
	return w.method
}

var (
	callModern = work{era: modern, method: "tools/call"}
	callLegacy = work{era: legacy, method: "tools/call"}
	listModern = work{era: modern, method: "tools/list"}
	listLegacy = work{era: legacy, method: "tools/list"}
	sqlModern  = work{era: modern, method: "tools/call", sql: true}
	sqlLegacy  = work{era: legacy, method: "tools/call", sql: true}
)

// A contender is one row of the table: a server (a role of runServer) at one work.
type contender struct {
	server string
	work   work
}

var contenders = []contender{
	{"nethttp", callModern},
	{"gosdk", callModern},
	{"mcpgo", callModern},
	{"atlas-none", callModern},
	{"atlas", callModern},
	{"nethttp", callLegacy},
	{"gosdk", callLegacy},
	{"mcpgo", callLegacy},
	{"atlas-none", callLegacy},
	{"atlas", callLegacy},
	{"gosdk", listModern},
	{"mcpgo", listModern},
	{"atlas", listModern},
	{"gosdk", listLegacy},
	{"mcpgo", listLegacy},
	{"atlas", listLegacy},
	{"sql-pgx", sqlModern},
	{"sql-pgx-set", sqlModern},
	{"sql-toolbox", sqlModern},
	{"sql-atlas", sqlModern},
	{"sql-pgx", sqlLegacy},
	{"sql-toolbox", sqlLegacy},
	{"sql-atlas", sqlLegacy},
}

// abouts names the servers for people.
var abouts = map[string]string{
	"nethttp":    "plain net/http and encoding/json",
	"gosdk":      "bare go-sdk, stateless",
	"mcpgo":      "bare mcp-go",
	"atlas-none": "Atlas, no stages but registry and invoke",
	"atlas":      "Atlas, all stages on",

	"sql-pgx":     "net/http and pgx, the batch that Atlas sends",
	"sql-pgx-set": "net/http and pgx, SET LOCAL and the query only",
	"sql-toolbox": "Google's MCP Toolbox 1.12, without row-level security",
	"sql-atlas":   "Atlas, all stages on, no cache",
}

// A message is one HTTP request of a client.
type message struct {
	path, host string
	header     [][2]string
	body       string
}

// render returns the request as it goes over the wire.
func (m message) render() []byte {
	b := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\n", m.path, m.host)
	for _, h := range m.header {
		b = fmt.Appendf(b, "%s: %s\r\n", h[0], h[1])
	}
	return fmt.Appendf(b, "Content-Length: %d\r\n\r\n%s", len(m.body), m.body)
}

// send sends the request once, outside of any measurement.
func (m message) send(ctx context.Context) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+m.host+m.path, strings.NewReader(m.body))
	if err != nil {
		return nil, nil, err
	}
	for _, h := range m.header {
		r.Header.Set(h[0], h[1])
	}
	r.Close = true
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(res.Body)
	return res, body, errors.Join(err, res.Body.Close())
}

// message returns the work's request, as a client of its era sends it. session is empty or what the
// server gave to the client at its handshake.
func (w work) message(h hello, session string) message {
	m := message{path: h.Path, host: h.Addr, header: [][2]string{
		{"Content-Type", "application/json"},
		{"Accept", "application/json, text/event-stream"},
		{"Authorization", "Bearer " + h.Token},
		{"MCP-Protocol-Version", w.era},
	}}
	params := ""
	if w.method == "tools/call" {
		params = `"name":"` + toolName + `","arguments":{"order_id":"o_9002"}`
	}
	if w.era == modern {
		m.header = append(m.header, [2]string{"Mcp-Method", w.method})
		if params != "" {
			m.header = append(m.header, [2]string{"Mcp-Name", toolName})
			params += ","
		}
		params += `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},` +
			`"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}`
	}
	if session != "" {
		m.header = append(m.header, [2]string{"Mcp-Session-Id", session})
	}
	m.body = `{"jsonrpc":"2.0","id":1,"method":"` + w.method + `","params":{` + params + `}}`
	return m
}

// handshake opens a session where the era has one, and returns its id; a server may do without.
func (w work) handshake(ctx context.Context, h hello) (session string, err error) {
	if w.era == modern || !h.MCP {
		return "", nil
	}
	m := w.message(h, "")
	m.body = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"` + w.era +
		`","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`
	res, body, err := m.send(ctx)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(w.era)) {
		return "", fmt.Errorf("initialize: %s: %.300s", res.Status, body)
	}
	session = res.Header.Get("Mcp-Session-Id")
	m = w.message(h, session)
	m.body = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	if res, body, err = m.send(ctx); err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusAccepted {
		return "", fmt.Errorf("notifications/initialized: %s: %.300s", res.Status, body)
	}
	return session, nil
}

// want is what every answer must hold; check looks at one answer as a whole.
func (w work) want() []byte {
	if w.method == "tools/list" {
		return []byte(`"` + toolNameOf(benchTools-1) + `"`)
	}
	return []byte(`refund_pending`)
}

// check reads one answer as a client does, and compares it with what the tool gives.
func (w work) check(body []byte) error {
	var got struct {
		ID     int `json:"id"`
		Result struct {
			ResultType string           `json:"resultType"`
			Structured any              `json:"structuredContent"`
			Content    []map[string]any `json:"content"`
			IsError    bool             `json:"isError"`
			Tools      []struct {
				Name   string          `json:"name"`
				Schema json.RawMessage `json:"inputSchema"`
			} `json:"tools"`
		} `json:"result"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return fmt.Errorf("%w: %.300s", err, body)
	}
	fault := func(what string) error { return fmt.Errorf("%s: %.300s", what, body) }
	if got.ID != 1 {
		return fault("another id than the request's")
	}
	if w.era == modern && got.Result.ResultType != "complete" {
		return fault("the result is not complete")
	}
	if w.method == "tools/list" {
		names := map[string]bool{}
		for _, t := range got.Result.Tools {
			names[t.Name] = len(t.Schema) > 0
		}
		for i := range benchTools {
			if !names[toolNameOf(i)] {
				return fault("tool " + toolNameOf(i) + " is missing")
			}
		}
		return nil
	}
	wanted := answer
	if w.sql {
		wanted = sqlAnswer
	}
	if w.sql && got.Result.Structured == nil && len(got.Result.Content) == 1 { // MCP Toolbox has it as text only
		text, _ := got.Result.Content[0]["text"].(string)
		if err := json.Unmarshal([]byte(text), &got.Result.Structured); err != nil {
			return fault("no answer")
		}
	}
	var want any
	if err := json.Unmarshal([]byte(wanted), &want); err != nil {
		return err
	}
	if got.Result.IsError || !reflect.DeepEqual(got.Result.Structured, want) {
		return fault("another answer than the tool's")
	}
	if len(got.Result.Content) == 0 {
		return fault("no content for clients that cannot read structured content")
	}
	return nil
}

// A lane is a contender that is being measured.
type lane struct {
	contender
	server   *server
	requests [][]byte // one for each connection
	want     []byte
	samples  []sample // with all connections
	quiet    []sample // with one
}

// openLane shakes hands for each connection and checks one answer as a whole.
func openLane(ctx context.Context, c contender, s *server, conns int) (*lane, error) {
	l := &lane{contender: c, server: s, want: c.work.want()}
	for i := range conns {
		session, err := c.work.handshake(ctx, s.hello)
		if err != nil {
			return nil, err
		}
		m := c.work.message(s.hello, session)
		l.requests = append(l.requests, m.render())
		if i > 0 {
			continue
		}
		res, body, err := m.send(ctx)
		if err != nil {
			return nil, err
		}
		if res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %.300s", res.Status, body)
		}
		if err := c.work.check(body); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// round measures the lane once, with all connections and with one.
func (l *lane) round(ctx context.Context, o options) error {
	one, err := l.measure(ctx, o.Conns, o.Each)
	if err != nil {
		return err
	}
	single, err := l.measure(ctx, 1, o.Each/4)
	if err != nil {
		return err
	}
	l.samples, l.quiet = append(l.samples, one), append(l.quiet, single)
	return nil
}
