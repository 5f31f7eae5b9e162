// Package e2e_test builds the real programs, runs them as processes and talks to them as clients do.
// What a part promises by itself is tested beside the part; here stands what only the whole can show.
package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait. It is never reached when all is well.
const patience = 30 * time.Second

// The two eras of the protocol.
const (
	modern = "2026-07-28"
	legacy = "2025-11-25"
)

// bin is the folder of the built programs.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "atlas-e2e-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(bin) //nolint:errcheck // a temporary folder
		build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+string(filepath.Separator), "./cmd/...")
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// command prepares a program with a clean environment.
func command(t *testing.T, env []string, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "NO_COLOR=1"}, env...)
	return cmd
}

// run runs a program to its end.
func run(t *testing.T, env []string, name string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := command(t, env, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// atlas runs a command of the binary that must succeed.
func atlas(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := run(t, nil, "atlas", args...)
	if code != 0 {
		t.Fatalf("atlas %v: exit code %d\n%s%s", args, code, out, errs)
	}
	return out
}

// A logBuffer holds what a process writes on stderr.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A server is a running `atlas demo`.
type server struct {
	url    string
	data   string
	log    *logBuffer
	cmd    *exec.Cmd
	exited chan struct{}
	http   *http.Client
}

// start starts a server on a free port and waits until it is ready. It is stopped with the test.
func start(t *testing.T, data string, args ...string) *server {
	t.Helper()
	s := &server{data: data, log: new(logBuffer), exited: make(chan struct{}), http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	s.cmd = command(t, nil, "atlas", append([]string{"demo", "--listen", "127.0.0.1:0", "--json", "--data-dir", data}, args...)...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.http.CloseIdleConnections()
		s.stop(t, syscall.SIGTERM)
	})
	var hello struct{ URL string }
	err = json.NewDecoder(out).Decode(&hello)
	go func() {
		_, _ = io.Copy(io.Discard, out) // until it exits
		_ = s.cmd.Wait()                // the exit code is read where it matters
		close(s.exited)
	}()
	if err != nil {
		s.stop(t, os.Kill)
		t.Fatalf("the server did not start: %v\n%s", err, s.log)
	}
	s.url = strings.TrimSuffix(hello.URL, "/mcp")
	eventually(t, "the server is ready", func() bool {
		res := s.get(t, "/readyz", "")
		return res != nil && res.status == http.StatusOK
	})
	return s
}

// stop sends the signal, waits for the end and returns the exit code.
func (s *server) stop(t *testing.T, sig os.Signal) int {
	t.Helper()
	_ = s.cmd.Process.Signal(sig) // it may have ended already
	select {
	case <-s.exited:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		t.Errorf("the server did not stop on %v\n%s", sig, s.log)
		<-s.exited
	}
	return s.cmd.ProcessState.ExitCode()
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// token signs a token with `atlas token`, beside the running server.
func (s *server) token(t *testing.T, tenant, subject string, args ...string) string {
	t.Helper()
	args = append([]string{"token", "--data-dir", s.data, "--server", s.url, "--tenant", tenant, "--subject", subject}, args...)
	return strings.TrimSpace(atlas(t, args...))
}

// An answer is an HTTP response, read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (s *server) do(t *testing.T, req *http.Request) (*answer, error) {
	t.Helper()
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	body, err := io.ReadAll(resp.Body)
	return &answer{resp.StatusCode, resp.Header, string(body)}, err
}

// get returns nil when there is no connection.
func (s *server) get(t *testing.T, path, token string) *answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := s.do(t, req)
	if err != nil {
		return nil
	}
	return res
}

// rpc returns a request of the era.
func (s *server) rpc(t *testing.T, era, token, method string, params map[string]any) *http.Request {
	t.Helper()
	if params == nil {
		params = map[string]any{}
	}
	if era == modern {
		params["_meta"] = map[string]any{
			"io.modelcontextprotocol/protocolVersion":    modern,
			"io.modelcontextprotocol/clientCapabilities": map[string]any{},
		}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/mcp", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Mcp-Protocol-Version", era)
	if era == modern {
		req.Header.Set("Mcp-Method", method)
		if name, ok := params["name"].(string); ok {
			req.Header.Set("Mcp-Name", name)
		}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req
}

// call calls a tool.
func (s *server) call(t *testing.T, era, token, tool string, args any) *answer {
	t.Helper()
	res, err := s.do(t, s.rpc(t, era, token, "tools/call", map[string]any{"name": tool, "arguments": args}))
	if err != nil {
		t.Fatalf("%s: %v", tool, err)
	}
	return res
}

// changing matches what differs between two answers that say the same.
var changing = regexp.MustCompile(`req_[a-z0-9]{20}|apr_[A-Z2-7]{26}|"atlas/as_of":"[^"]*"|\\?"expires(_at)?\\?":\\?"[^"]*"`)

// String returns the answer, without what changes from one request to the next.
func (a *answer) String() string {
	h := a.header.Clone()
	h.Del("Date")
	h.Del("Content-Length") // of a body with times in it
	var b strings.Builder
	fmt.Fprintln(&b, a.status)
	_ = h.Write(&b) // to memory
	b.WriteString("\n" + a.body)
	return changing.ReplaceAllString(b.String(), "<changing>")
}
