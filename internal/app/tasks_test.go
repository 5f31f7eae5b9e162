package app_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/atlas-mcp/atlas/internal/app"
)

// modernPost sends a message of 2026-07-28 from a client that follows tasks.
func modernPost(t *testing.T, srv *httptest.Server, token, method, name, params string) string {
	t.Helper()
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{%s,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
		"io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}`, method, params)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/mcp", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{
		"Authorization": "Bearer " + token, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, "Mcp-Name": name,
	} {
		req.Header.Set(k, v)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A tool may outlast its request; its task is the caller's own, cancelling it is recorded, and asking
// for it without end is a flood.
func TestTasksAreWired(t *testing.T) {
	s := openScript(t, &txtar.Archive{Files: []txtar.File{{Name: "config.yaml", Data: []byte("flood: {rate: 1, per: 1h, burst: 5}\n")}}})
	srv := httptest.NewServer(s.app.HTTPHandler())
	defer srv.Close()
	token := func(subject string) string {
		signed, err := s.app.Token(app.TokenRequest{Tenant: "acme", Subject: subject, Roles: []string{"tester"}})
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	ann, bob := token("ann"), token("bob")
	begun := modernPost(t, srv, ann, "tools/call", "probe_task", `"name":"probe_task","arguments":{}`)
	id := regexp.MustCompile(`"taskId":"([^"]+)"`).FindStringSubmatch(begun)
	if id == nil || !strings.Contains(begun, `"resultType":"task"`) {
		t.Fatal(begun)
	}
	params := `"taskId":"` + id[1] + `"`
	if got := modernPost(t, srv, ann, "tasks/get", id[1], params); !strings.Contains(got, `"status":"working"`) {
		t.Errorf("got %s", got)
	}
	if got := modernPost(t, srv, bob, "tasks/cancel", id[1], params); !strings.Contains(got, "Task not found") {
		t.Errorf("another caller: %s", got)
	}
	if got := modernPost(t, srv, ann, "tasks/cancel", id[1], params); strings.Contains(got, `"error"`) {
		t.Errorf("got %s", got)
	}
	if err := s.app.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var acts []string
	for r, err := range app.QueryAudit(t.Context(), s.audit, app.AuditFilter{Kind: "admin"}) {
		if err != nil {
			t.Fatal(err)
		}
		acts = append(acts, strings.Join([]string{r.Action, r.Target, r.Caller, string(r.Tenant), r.Status}, " "))
	}
	if want := "task.cancel " + id[1] + " ann acme ok"; !slices.Contains(acts, want) {
		t.Errorf("recorded %v, want %s", acts, want)
	}
	refused := false
	for range 6 {
		refused = refused || strings.Contains(modernPost(t, srv, ann, "tasks/get", id[1], params), "rate_limited")
	}
	if !refused {
		t.Error("asking without end was not refused")
	}
}
