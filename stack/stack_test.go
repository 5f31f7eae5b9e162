//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas/internal/testenv"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A shell runs words of the program, with a state of its own and the servers' files that are there.
type shell struct {
	cache, state string
	env          []string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	s := &shell{cache: testenv.Files(t, testenv.Redis).Dir(), state: filepath.Join(t.TempDir(), "stack")}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "ATLAS_TEST_") {
			s.env = append(s.env, e)
		}
	}
	return s
}

type outcome struct {
	code     int
	err      error
	out, say string
}

func (s *shell) do(ctx context.Context, word string, args ...string) outcome {
	var out, say bytes.Buffer
	code, err := run(ctx, append([]string{word, "-cache", s.cache, "-state", s.state}, args...), s.env, standard{strings.NewReader("input"), &out, &say})
	return outcome{code, err, out.String(), say.String()}
}

func listens(t *testing.T, rawURL string) bool {
	t.Helper()
	u, err := url.Parse(strings.TrimSpace(rawURL))
	if err != nil || u.Host == "" {
		t.Fatalf("%q is no URL: %v", rawURL, err)
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", u.Host)
	return err == nil && conn.Close() == nil
}

func TestExecPassesTheExitCodeOn(t *testing.T) {
	s := newShell(t)
	for _, tc := range []struct {
		args []string
		code int
		err  string
	}{
		{[]string{"-only", "redis", "--", "true"}, 0, ""},
		{[]string{"-only", "redis", "--", "sh", "-c", "exit 7"}, 7, ""},
		{[]string{"-only", "redis", "--", "sh", "-c", "kill -TERM $$"}, 143, ""},
		{[]string{"-only", "redis", "--", "atlas-no-such-program"}, 127, "atlas-no-such-program"},
		{[]string{"-only", "redis"}, 2, "needs a command"},
		{[]string{"-only", "mysql", "--", "true"}, 2, `no server named "mysql"`},
		{[]string{"-no-such-flag"}, 2, ""},
		{[]string{"-h"}, 0, ""},
	} {
		got := s.do(t.Context(), "exec", tc.args...)
		if got.code != tc.code || (tc.err == "") != (got.err == nil) || (got.err != nil && !strings.Contains(got.err.Error(), tc.err)) {
			t.Errorf("%q: code %d, error %v", tc.args, got.code, got.err)
		}
	}
	if got := s.do(t.Context(), "exce"); got.code != 2 || got.err == nil {
		t.Errorf("an unknown word: code %d, error %v", got.code, got.err)
	}
}

func TestExecTellsTheCommandWhereTheServersAre(t *testing.T) {
	s := newShell(t)
	got := s.do(t.Context(), "exec", "-only", "redis", "--", "sh", "-c", `echo $ATLAS_TEST_REDIS; echo $ATLAS_TEST_CACHE; echo "<$ATLAS_TEST_POSTGRES>"; cat; echo said >&2`)
	lines := strings.Split(got.out, "\n")
	if got.code != 0 || got.err != nil || len(lines) < 4 || lines[1] != s.cache || lines[2] != "<>" || lines[3] != "input" || !strings.Contains(got.say, "said") {
		t.Fatalf("code %d, error %v, output %q, %q", got.code, got.err, got.out, got.say)
	}
	if listens(t, lines[0]) {
		t.Errorf("%s is left", lines[0])
	}
}

// A probe of the server from inside the command: it really serves then.
func TestExecRunsTheCommandWhileTheServersServe(t *testing.T) {
	s := newShell(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "CI=1")
	got := s.do(t.Context(), "exec", "-only", "redis", "--", self, "-test.run=^TestServedHere$", "-test.v")
	if got.code != 0 || !strings.Contains(got.out, "--- PASS: TestServedHere") {
		t.Errorf("code %d, error %v, output %q, %q", got.code, got.err, got.out, got.say)
	}
}

func TestServedHere(t *testing.T) {
	if !listens(t, testenv.URL(t, testenv.Redis)) {
		t.Error("nobody listens")
	}
}

func TestExecUsesTheServerThatIsGiven(t *testing.T) {
	s := newShell(t)
	s.env = append(s.env, "ATLAS_TEST_REDIS=redis://127.0.0.1:1")
	got := s.do(t.Context(), "exec", "-only", "redis", "--", "sh", "-c", "echo $ATLAS_TEST_REDIS")
	if got.code != 0 || got.out != "redis://127.0.0.1:1\n" || !strings.Contains(got.say, "redis is not started: ATLAS_TEST_REDIS is set") {
		t.Errorf("code %d, error %v, output %q, %q", got.code, got.err, got.out, got.say)
	}
	s.env = append(s.env, "ATLAS_TEST_REDIS=nonsense")
	if got := s.do(t.Context(), "exec", "-only", "redis", "--", "true"); got.code != 1 || got.err == nil {
		t.Errorf("nonsense: code %d, error %v", got.code, got.err)
	}
}

// A writer that tells when a word was written.
type watcher struct {
	mu   sync.Mutex
	text string
	word string
	seen chan struct{}
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.text, w.word)
	w.text += string(p)
	if !before && strings.Contains(w.text, w.word) {
		close(w.seen)
	}
	return len(p), nil
}

func TestExecEndsTheCommandAndTheServersWhenItIsSignalled(t *testing.T) {
	s := newShell(t)
	ctx, cancel := context.WithCancel(t.Context())
	out := &watcher{word: "up at", seen: make(chan struct{})}
	go func() { <-out.seen; cancel() }()
	var say bytes.Buffer
	script := `trap "exit 9" TERM; echo up at $ATLAS_TEST_REDIS; while :; do sleep 0.05; done`
	code, err := run(ctx, []string{"exec", "-cache", s.cache, "-only", "redis", "--", "sh", "-c", script}, s.env, standard{nil, out, &say})
	if code != 9 || err != nil {
		t.Errorf("code %d, error %v", code, err)
	}
	if at := strings.TrimPrefix(out.text, "up at "); listens(t, at) {
		t.Errorf("%s is left", at)
	}
}

func TestExecListsWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var say bytes.Buffer
	code, err := run(t.Context(), []string{"exec", "-cache", t.TempDir(), "-only", "postgres,s3,opensearch", "--", "true"}, nil, standard{nil, &say, &say})
	if code != 1 || err == nil {
		t.Fatalf("code %d, error %v", code, err)
	}
	for _, want := range []string{"python3 is not on the PATH; install", "go is not on the PATH; install", "mvn is not on the PATH; install", "javac is not"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestOnlyBringsWhatAServerStandsBefore(t *testing.T) {
	p := &program{only: "pgbouncer"}
	kinds, err := p.chosen()
	if got := strings.Join(names(kinds), " "); got != "postgres pgbouncer" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestHelpListsTheWords(t *testing.T) {
	for _, args := range [][]string{nil, {"help"}, {"-h"}, {"--help"}} {
		var out, say bytes.Buffer
		code, err := run(t.Context(), args, nil, standard{nil, &out, &say})
		if code != 0 || err != nil {
			t.Errorf("%q: code %d, error %v", args, code, err)
		}
		for _, w := range words() {
			if !strings.Contains(out.String(), "\n  "+w.name+" ") {
				t.Errorf("%q does not list %s", args, w.name)
			}
		}
	}
}

func (s *shell) status(t *testing.T) (int, map[string]condition) {
	t.Helper()
	got := s.do(t.Context(), "status", "-json")
	var list []condition
	if err := json.Unmarshal([]byte(got.out), &list); err != nil || got.err != nil {
		t.Fatal(got.err, err)
	}
	all := map[string]condition{}
	for _, c := range list {
		all[c.Name] = c
	}
	return got.code, all
}

// up brings the stack up and takes it down at the test's end.
func (s *shell) up(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if got := s.do(context.WithoutCancel(t.Context()), "down"); got.code != 0 {
			t.Errorf("down: code %d, error %v", got.code, got.err)
		}
	})
	if got := s.do(t.Context(), "up", "-only", "redis"); got.code != 0 || got.err != nil {
		t.Fatalf("up: code %d, error %v, %s", got.code, got.err, got.say)
	}
}

func TestUpStatusEnvDown(t *testing.T) {
	s := newShell(t)
	if code, all := s.status(t); code != 1 || len(all) != 0 {
		t.Errorf("before: code %d, %v", code, all)
	}
	if got := s.do(t.Context(), "env"); got.code != 1 || got.err == nil || got.out != "" {
		t.Errorf("env before: code %d, %q", got.code, got.out)
	}
	s.up(t)
	code, first := s.status(t)
	if code != 0 || len(first) != 1 || !first["redis"].Ready || !listens(t, first["redis"].URL) {
		t.Fatalf("status: code %d, %v", code, first)
	}
	if got := s.do(t.Context(), "env"); got.code != 0 || !strings.Contains(got.out, "export ATLAS_TEST_REDIS='"+first["redis"].URL+"'\n") {
		t.Errorf("env: code %d, %q", got.code, got.out)
	}
	if got := s.do(t.Context(), "up", "-only", "redis"); got.code != 0 || !strings.Contains(got.out, first["redis"].URL) {
		t.Errorf("up again: code %d, %q", got.code, got.out)
	}
	if _, again := s.status(t); again["redis"].PID != first["redis"].PID {
		t.Errorf("up again started another: %v", again)
	}
	if got := s.do(t.Context(), "down"); got.code != 0 || got.out != "stopped redis\n" {
		t.Errorf("down: code %d, error %v, %q", got.code, got.err, got.out)
	}
	if listens(t, first["redis"].URL) {
		t.Error("it is left")
	}
	if _, err := os.Stat(first["redis"].Dir); err == nil {
		t.Error("its data is left")
	}
	if got := s.do(t.Context(), "down"); got.code != 0 || got.out != "nothing runs\n" {
		t.Errorf("down again: code %d, error %v, %q", got.code, got.err, got.out)
	}
}

func TestUpStartsWhatHasEnded(t *testing.T) {
	s := newShell(t)
	s.up(t)
	_, before := s.status(t)
	if err := syscall.Kill(before["redis"].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	own, err := servers.Adopt(servers.Redis(), before["redis"].Record)
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Kill(); err != nil { // waits until it is gone
		t.Fatal(err)
	}
	if code, ended := s.status(t); code != 1 || ended["redis"].Ready || ended["redis"].Error == "" {
		t.Errorf("after its end: code %d, %v", code, ended)
	}
	s.up(t)
	code, after := s.status(t)
	if code != 0 || after["redis"].URL != before["redis"].URL || after["redis"].PID == before["redis"].PID {
		t.Errorf("code %d, %v", code, after)
	}
}

// The state may be older than the machine's last start: its numbers are other processes' now.
func TestDownLeavesOtherProcessesAlone(t *testing.T) {
	s := newShell(t)
	other := testenv.Start(t, testenv.Redis, servers.Options{})
	s.up(t)
	file := filepath.Join(s.state, "state.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var records []servers.Record
	if err := json.Unmarshal(data, &records); err != nil {
		t.Fatal(err)
	}
	own, err := servers.Adopt(servers.Redis(), records[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Stop(); err != nil {
		t.Fatal(err)
	}
	records[0].PID = other.Record().PID
	if data, err = json.Marshal(records); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, all := s.status(t); code != 1 || all["redis"].Ready {
		t.Errorf("status: code %d, %v", code, all)
	}
	if got := s.do(t.Context(), "down"); got.code != 0 {
		t.Errorf("down: code %d, error %v", got.code, got.err)
	}
	if err := other.Ready(t.Context()); err != nil {
		t.Errorf("the other server was stopped: %v", err)
	}
}

func TestOneUpAtATime(t *testing.T) {
	s := newShell(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got := s.do(t.Context(), "up", "-only", "redis"); got.code != 0 {
				t.Errorf("code %d, error %v", got.code, got.err)
			}
		})
	}
	wg.Wait()
	s.up(t)
	data, err := os.ReadFile(filepath.Join(s.state, "state.json"))
	if n := strings.Count(string(data), `"pid"`); n != 1 || err != nil {
		t.Errorf("there are %d servers, %v", n, err)
	}
	log, err := os.ReadFile(filepath.Join(s.state, "logs", "redis.log"))
	if n := strings.Count(string(log), "Ready to accept connections"); n != 1 || err != nil {
		t.Errorf("%d were started, %v", n, err)
	}
}

func TestDamagedState(t *testing.T) {
	for name, data := range map[string]string{
		"no JSON": "{", "a foreign folder": `[{"name":"redis","dir":"/home"}]`, "an unknown server": `[{"name":"mysql","dir":"/tmp/atlas-mysql-1"}]`,
	} {
		s := newShell(t)
		if err := os.MkdirAll(s.state, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.state, "state.json"), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"up", "down", "status", "env"} {
			args := []string{}
			if word == "up" {
				args = []string{"-only", "redis"}
			}
			if got := s.do(t.Context(), word, args...); got.code != 1 || got.err == nil || !strings.Contains(fmt.Sprint(got.err), "state.json") {
				t.Errorf("%s, %s: code %d, error %v", name, word, got.code, got.err)
			}
		}
	}
}

func TestQuote(t *testing.T) {
	if got := quote(`a'b $(x)`); got != `'a'\''b $(x)'` {
		t.Error(got)
	}
}
