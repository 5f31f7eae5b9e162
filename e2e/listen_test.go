package e2e_test

import (
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Who subscribed to a document hears that it was written; another tenant's subscriber to the same URI
// hears nothing, and cannot tell whether the document exists.
func TestWritesAreAnnounced(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	const uri = "atlas://files/attachments/e2e%20note.txt"
	var listening sync.WaitGroup
	listen := func(tenant string) *logBuffer {
		token := s.token(t, tenant, "reader", "--role", "human_agent")
		stream, err := s.http.Do(s.rpc(t, modern, token, "subscriptions/listen", object{"notifications": object{"resourceSubscriptions": []string{uri}}}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = stream.Body.Close() })
		heard := new(logBuffer)
		listening.Go(func() { _, _ = io.Copy(heard, stream.Body) }) // until the server stops
		eventually(t, tenant+"'s stream is open", func() bool { return strings.Contains(heard.String(), "acknowledged") })
		return heard
	}
	ours, theirs := listen("acme"), listen("globex")
	ack := func(b *logBuffer) string {
		first, _, _ := strings.Cut(b.String()[strings.Index(b.String(), "{"):], "\n")
		return first
	}
	if ack(ours) != ack(theirs) {
		t.Errorf("the acknowledgements differ:\n%s\n%s", ack(ours), ack(theirs))
	}

	args := object{"key": "attachments/e2e note.txt", "content": "hello"}
	agent := s.token(t, "acme", "agent", "--role", "human_agent")
	asked := s.call(t, modern, agent, "files_put", args).body
	_, rest, found := strings.Cut(asked, "apr_")
	if !found || len(rest) < 26 {
		t.Fatal(asked)
	}
	atlas(t, "approvals", "approve", "apr_"+rest[:26], "--as", "lead@acme", "--data-dir", s.data)
	if strings.Contains(ours.String(), "resources/updated") {
		t.Error("told before it was written")
	}
	if got := s.call(t, modern, agent, "files_put", args).body; strings.Contains(got, `"isError":true`) {
		t.Fatal(got)
	}
	eventually(t, "the subscriber hears of it", func() bool { return strings.Contains(ours.String(), "notifications/resources/updated") })
	if !strings.Contains(ours.String(), uri) {
		t.Errorf("heard %s", ours)
	}
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.log)
	}
	listening.Wait() // all that was ever said has arrived
	if strings.Contains(theirs.String(), "resources/updated") {
		t.Errorf("the other tenant heard %s", theirs)
	}
}
