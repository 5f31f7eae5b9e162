package app_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/app"
)

// Two processes over one state need no sticky sessions: a session begun at one, a question asked by the
// other and its answer sent to the first are one conversation, and only the caller's own.
func TestAnswersFindTheProcessThatAsked(t *testing.T) {
	dir := t.TempDir()
	serve := func() (*app.App, *httptest.Server) {
		a, err := app.Open(t.Context(), app.Options{DataDir: filepath.Join(dir, "data"), LogLevel: "error", LogTo: t.Output(), PublicURL: "http://127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
		srv := httptest.NewServer(a.HTTPHandler())
		t.Cleanup(srv.Close)
		return a, srv
	}
	first, one := serve()
	_, two := serve()
	token := func(subject string) string {
		s, err := first.Token(app.TokenRequest{Tenant: "acme", Subject: subject, Roles: []string{"support_copilot"}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ann, bob := token("ann"), token("bob")
	// post returns the status, the session and what reads the answer's events.
	post := func(url, token, session, body string) (status int, begun string, next func() []byte) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/mcp", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{
			"Authorization": "Bearer " + token, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
			"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": session,
		} {
			if v != "" {
				req.Header.Set(k, v)
			}
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res.StatusCode, res.Header.Get("Mcp-Session-Id"), events(t, res.Body)
	}
	begin := func(token string) string {
		_, session, _ := post(one.URL, token, "", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25",
			"capabilities":{"elicitation":{}},"clientInfo":{"name":"test","version":"1"}}}`)
		return session
	}
	annsSession, bobsSession := begin(ann), begin(bob)

	// The tool asks for the order that it was not told.
	_, _, stream := post(two.URL, ann, annsSession, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crm_order_items","arguments":{}}}`)
	var question struct {
		ID     json.RawMessage
		Method string
	}
	if err := json.Unmarshal(stream(), &question); err != nil || question.Method != "elicitation/create" {
		t.Fatalf("%+v, %v", question, err)
	}
	answer := `{"jsonrpc":"2.0","id":` + string(question.ID) + `,"result":{"action":"accept","content":{"order_id":"o_9002"}}}`
	if status, _, _ := post(one.URL, bob, bobsSession, answer); status != http.StatusNotFound {
		t.Errorf("another caller's answer: %d", status)
	}
	if status, _, _ := post(one.URL, ann, annsSession, answer); status != http.StatusAccepted {
		t.Fatalf("the answer: %d", status)
	}
	if got := string(stream()); !strings.Contains(got, `"id":1`) || !strings.Contains(got, "sku") {
		t.Errorf("got %s", got)
	}
}

// events returns what reads the messages of a stream one by one (text/event-stream, one line of data each).
func events(t *testing.T, body io.Reader) func() []byte {
	t.Helper()
	lines := bufio.NewScanner(body)
	return func() []byte {
		t.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return []byte(data)
			}
		}
		t.Fatalf("the stream has ended: %v", lines.Err())
		return nil
	}
}
