package e2e_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// A configuration with a mistake is refused with its place, and the old one keeps serving. A good
// one is taken up, by watching the file and by SIGHUP. Listeners learn that the tools changed.
func TestReload(t *testing.T) {
	t.Parallel()
	var conf files
	main := site(t, func(f files) { conf = f })
	s := start(t, t.TempDir(), "--config", main)
	token := s.token(t, "acme", "me", "--role", "support_copilot", "--config", main)
	order := func() string { return s.call(t, modern, token, "crm_order", object{"order_id": "o_9002"}).body }
	if got := order(); !strings.Contains(got, "refund_pending") {
		t.Fatal(got)
	}

	// globex listens all the while
	listener := s.token(t, "globex", "listener", "--role", "support_copilot", "--config", main)
	req := s.rpc(t, modern, listener, "subscriptions/listen", object{"notifications": object{"toolsListChanged": true}})
	stream, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close() //nolint:errcheck // ends with the test
	var heard logBuffer
	var listening sync.WaitGroup
	listening.Go(func() { _, _ = io.Copy(&heard, stream.Body) }) // until the server stops
	eventually(t, "the stream is open", func() bool { return strings.Contains(heard.String(), "acknowledged") })

	defer func() {
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.log)
		}
	}()
	good := conf.read("policy.yaml")
	broken := strings.Replace(good, "    subjects: [role:analyst]\n", "    subjectz: [role:analyst]\n", 1)
	if broken == good {
		t.Fatal("nothing is broken")
	}
	line := 1 + strings.Count(broken[:strings.Index(broken, "    subjectz")], "\n")
	conf.write("policy.yaml", broken)
	eventually(t, "the broken policy is refused with its place", func() bool {
		return strings.Contains(s.log.String(), fmt.Sprintf("policy.yaml:%d:5", line)) && strings.Contains(s.log.String(), "the old one keeps serving")
	})
	if got := order(); !strings.Contains(got, "refund_pending") {
		t.Errorf("after a broken policy: %s", got)
	}

	deny := good + "\n  - id: no-orders-today\n    subjects: [\"*\"]\n    actions: [\"tool:crm:read\"]\n    resources: [\"tenant:*/crm/crm_order\"]\n    effect: deny\n"
	conf.write("policy.yaml", deny)
	eventually(t, "the new policy holds", func() bool {
		got := order()
		return strings.Contains(got, "denied_by_policy") && strings.Contains(got, "no-orders-today")
	})

	conf.write("policy.yaml", good)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old policy holds again", func() bool { return strings.Contains(order(), "refund_pending") })
	eventually(t, "the listener hears of it", func() bool { return strings.Contains(heard.String(), "notifications/tools/list_changed") })

	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.log)
	}
	listening.Wait()
	for _, m := range markers(t) {
		if strings.Contains(heard.String(), m) {
			t.Errorf("globex heard %q", m)
		}
	}
	out := atlas(t, "audit", "query", "--data-dir", s.data, "--kind", "admin")
	if !strings.Contains(out, "config.reload") || !strings.Contains(out, "error") {
		t.Errorf("reloads are not in the log:\n%s", out)
	}
}

// SIGTERM ends the server after the requests that have begun.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	token := s.token(t, "acme", "me", "--role", "support_copilot")

	// A request that has begun and not ended: half of its body is on the way.
	req := s.rpc(t, modern, token, "tools/call", object{"name": "crm_order", "arguments": object{"order_id": "o_9002"}})
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test's own
	var head strings.Builder
	fmt.Fprintf(&head, "POST /mcp HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n", req.URL.Host, len(body))
	_ = req.Header.Write(&head) // to memory
	if _, err := io.WriteString(conn, head.String()+"\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	// "100 Continue" says that the handler is reading: the request runs.
	if first, err := in.ReadString('\n'); err != nil || !strings.Contains(first, "100") {
		t.Fatalf("%q, %v", first, err)
	}
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}

	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new connections are refused", func() bool {
		c, err := dialer.DialContext(t.Context(), "tcp", req.URL.Host)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case <-s.exited:
		t.Fatalf("the server left a request alone\n%s", s.log)
	default:
	}
	if _, err := conn.Write(body); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(in, req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to the end
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(answer), "refund_pending") {
		t.Errorf("%d %s, %v", res.StatusCode, answer, err)
	}
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.log)
	}
	if out := atlas(t, "audit", "verify", "--data-dir", s.data); !strings.HasPrefix(out, "ok: ") {
		t.Error(out)
	}
}

// A server that is killed in the middle of writes comes back with everything that it had answered
// for, and with an audit log whose chain holds.
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := start(t, data)
	var tokens []string
	for i := range 4 {
		tokens = append(tokens, s.token(t, "acme", fmt.Sprintf("writer-%d", i), "--role", "human_agent"))
	}
	var (
		wg       sync.WaitGroup
		answered atomic.Int64
		mu       sync.Mutex
		promised []string // approvals that somebody was told of
	)
	for w, token := range tokens {
		wg.Go(func() {
			for i := 0; ; i++ {
				req := s.rpc(t, modern, token, "tools/call", object{"name": "files_put", "arguments": object{
					"key": fmt.Sprintf("attachments/%d/%d.txt", w, i), "content": "x",
				}})
				res, err := s.do(t, req)
				if err != nil {
					return // killed
				}
				if id := approvalID.FindString(res.body); id != "" {
					mu.Lock()
					promised = append(promised, id)
					mu.Unlock()
				}
				answered.Add(1)
			}
		})
	}
	eventually(t, "writes are under way", func() bool { return answered.Load() >= 60 })
	s.stop(t, os.Kill)
	wg.Wait()
	if len(promised) == 0 {
		t.Fatal("nothing was written")
	}

	// A crash may also leave half a record: the last one of the log, cut.
	log := filepath.Join(data, "audit", "audit.jsonl")
	f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":999999,"ts":"2026-`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	again := start(t, data)
	if res := again.get(t, "/readyz", ""); res == nil || res.status != 200 {
		t.Errorf("%v", res)
	}
	lead := again.token(t, "acme", "lead@acme", "--role", "approver")
	for _, id := range promised {
		if res := again.get(t, "/admin/v1/approvals/"+id, lead); res.status != 200 || !strings.Contains(res.body, `"pending"`) {
			t.Errorf("%s was promised and is lost: %s", id, res)
		}
	}
	if res := again.call(t, modern, again.token(t, "acme", "reader", "--role", "support_copilot"), "crm_order", object{"order_id": "o_9002"}); !strings.Contains(res.body, "refund_pending") {
		t.Errorf("%s", res)
	}
	if code := again.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, again.log)
	}
	code, out, errs := run(t, nil, "atlas", "audit", "verify", "--data-dir", data)
	if code != 0 || !strings.Contains(out, "ok: ") || !strings.Contains(out, "set aside") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	// What is about to be written is on disk before anything happens; how it ended may be lost.
	query := atlas(t, "audit", "query", "--data-dir", data, "--tool", "files_put", "--kind", "intent", "--limit", "100000")
	if got := strings.Count(query, "(intent)"); got < len(promised) {
		t.Errorf("%d of %d answered writes are in the log", got, len(promised))
	}

	// One flipped byte, and the record is named.
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(text), `"tool":"files_put"`) + len(`"tool":"f`)
	text[at] ^= 1
	if err := os.WriteFile(log, text, 0o600); err != nil {
		t.Fatal(err)
	}
	record := 1 + strings.Count(string(text[:at]), "\n")
	code, out, _ = run(t, nil, "atlas", "audit", "verify", "--data-dir", data)
	if code != 1 || !strings.Contains(out, "BROKEN") || !strings.Contains(out, fmt.Sprint(record)) {
		t.Errorf("exit code %d, record %d\n%s", code, record, out)
	}
}
