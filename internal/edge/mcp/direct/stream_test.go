package direct_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
)

// events returns the data of the events that a stream holds, and its comments.
func events(t testing.TB, body string) (data []map[string]any, comments int) {
	t.Helper()
	for block := range strings.SplitSeq(body, "\n\n") {
		switch {
		case block == "":
		case strings.HasPrefix(block, ":"):
			comments++
		default:
			line, ok := strings.CutPrefix(block, "event: message\ndata: ")
			var m map[string]any
			if !ok || strings.Contains(line, "\n") || json.Unmarshal([]byte(line), &m) != nil {
				t.Fatalf("not an event: %q", block)
			}
			data = append(data, m)
		}
	}
	return data, comments
}

func peerTool(_ context.Context, c atlas.Call) (atlas.Result, error) {
	if c.Peer == nil {
		return atlas.Result{Structured: json.RawMessage(`{"peer":false}`)}, nil
	}
	c.Peer.Progress(1, 4, "one\n")
	c.Peer.Progress(1, 4, "not more")
	c.Peer.Progress(2.5, 0, "")
	c.Peer.Log(atlas.LogDebug, "t", "low")
	c.Peer.Log(atlas.LogWarning, "t", map[string]any{"a": "\n"})
	c.Peer.Log(atlas.LogError, "", func() {}) // no JSON
	return atlas.Result{Structured: json.RawMessage(`{"peer":true}`)}, nil
}

const (
	progress1 = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1,"total":4,"message":"one\n"}}`
	progress2 = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":2.5}}`
	log1      = `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"warning","logger":"t","data":{"a":"\n"}}}`
)

func TestAnswerBecomesAStreamWhenThereIsSomethingToTell(t *testing.T) {
	h := newServer(t, setup{handler: peerTool})
	const both, plain = "application/json, text/event-stream", "application/json"
	level := func(l string) string { return `"io.modelcontextprotocol/logLevel":"` + l + `"` }
	for _, tt := range []struct {
		name, era, meta, accept string
		want                    []string // nil: no stream
	}{
		{"nothing asked", modern, "", both, nil},
		{"progress", modern, `"progressToken":"p"`, both, []string{progress1, progress2}},
		{"log", modern, level("info"), both, []string{log1}},
		{"both", modern, `"progressToken":"p",` + level("debug"), both, []string{progress1, progress2, `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug","logger":"t","data":"low"}}`, log1}},
		{"log above all", modern, level("emergency"), both, nil},
		{"unknown level", modern, level("loud"), both, nil},
		{"cannot read streams", modern, `"progressToken":"p"`, plain, nil},
		{"legacy", legacy, "", both, []string{log1}},
		{"legacy progress", legacy, `"progressToken":"p"`, both, []string{progress1, progress2, log1}},
		{"legacy that cannot read streams", legacy, `"progressToken":"p"`, plain, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRequest(t, tt.era, request(tt.era, "tools/call", `"name":"x"`, tt.meta))
			r.Header.Set("Accept", tt.accept)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if tt.want == nil {
				if ct := w.Header().Get("Content-Type"); ct != "application/json" || !strings.Contains(w.Body.String(), `"result"`) {
					t.Errorf("%s %s", ct, w.Body)
				}
				return
			}
			if w.Header().Get("Content-Type") != "text/event-stream" || w.Header().Get("X-Accel-Buffering") != "no" || !w.Flushed || w.Header().Get("Content-Length") != "" {
				t.Errorf("headers %v", w.Header())
			}
			got, _ := events(t, w.Body.String())
			var want []map[string]any
			for _, s := range tt.want {
				var m map[string]any
				if err := json.Unmarshal([]byte(s), &m); err != nil {
					t.Fatal(err)
				}
				want = append(want, m)
			}
			last := got[len(got)-1]
			if diff := cmp.Diff(want, got[:len(got)-1]); diff != "" {
				t.Error("(-want +got):", diff)
			}
			if last["id"] != 7. || last["result"].(map[string]any)["structuredContent"].(map[string]any)["peer"] != true {
				t.Errorf("the last event is %v", last)
			}
		})
	}
}

// A failure after the first event is told on the stream: its status has been sent.
func TestFailureOnAStream(t *testing.T) {
	for name, fail := range map[string]func() (atlas.Result, error){
		"-32021": func() (atlas.Result, error) {
			return atlas.Result{}, atlas.Errorf(atlas.CodeMissingCapability, nil, "")
		},
		"403": func() (atlas.Result, error) {
			return atlas.Result{}, atlas.Errorf(atlas.CodeInsufficientScope, nil, "")
		},
		"-32603":   func() (atlas.Result, error) { panic("secret of the house") },
		"timeout:": func() (atlas.Result, error) { return atlas.Result{}, context.DeadlineExceeded },
	} {
		h := newServer(t, setup{handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			c.Peer.Progress(1, 0, "")
			return fail()
		}})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, newRequest(t, modern, request(modern, "tools/call", `"name":"x"`, `"progressToken":1`)))
		got, _ := events(t, w.Body.String())
		if w.Code != 200 || len(got) != 2 || !strings.Contains(w.Body.String(), name) || strings.Contains(w.Body.String(), "secret") || w.Header().Get("WWW-Authenticate") != "" {
			t.Errorf("%s: %d %v %s", name, w.Code, w.Header(), w.Body)
		}
	}
}

func TestPeerIsSilentAfterTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var peers []atlas.Peer
		h := newServer(t, setup{handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			if len(peers) == 0 {
				c.Peer.Progress(1, 0, "")
			}
			peers = append(peers, c.Peer)
			return atlas.Result{}, nil
		}})
		var answers []*httptest.ResponseRecorder
		var before []string
		for range 2 { // a stream, and one that never began
			w := httptest.NewRecorder()
			h.ServeHTTP(w, newRequest(t, modern, request(modern, "tools/call", `"name":"x"`, `"progressToken":1`)))
			answers, before = append(answers, w), append(before, w.Body.String())
		}
		for _, p := range peers {
			p.Progress(9, 0, "late")
			p.Log(atlas.LogEmergency, "", "late")
		}
		synctest.Wait() // for a goroutine that would write it
		for i, w := range answers {
			if w.Body.String() != before[i] {
				t.Errorf("written after the answer: %s", w.Body)
			}
		}
	})
}

// A client that does not read must not hold up the tool. What it does not take is dropped, and the
// answer still comes when it reads again.
func TestToolDoesNotWaitForTheClient(t *testing.T) {
	const notes = 5000
	told := make(chan struct{})
	h := newServer(t, setup{handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		for i := range notes {
			c.Peer.Progress(float64(i+1), 0, strings.Repeat("x", 1000))
		}
		close(told)
		return atlas.Result{Structured: json.RawMessage(`{"done":true}`)}, nil
	}})
	w := &blocked{ResponseRecorder: httptest.NewRecorder(), release: told}
	h.ServeHTTP(w, newRequest(t, modern, request(modern, "tools/call", `"name":"x"`, `"progressToken":1`)))
	got, _ := events(t, w.Body.String())
	last := 0.
	for _, e := range got[:len(got)-1] {
		n := e["params"].(map[string]any)["progress"].(float64)
		if n <= last {
			t.Errorf("progress went from %v to %v", last, n)
		}
		last = n
	}
	if len(got) > 300 || got[len(got)-1]["result"] == nil {
		t.Errorf("%d events, the last is %v", len(got), got[len(got)-1])
	}
}

// What waits for a client that does not read is bounded, in number and in bytes.
func TestUnreadEventsAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name        string
		size        int
		most, bytes int
	}{
		{"small events", 1, 260, 1 << 20},
		{"large events", 100_000, 260, 1 << 20},
	} {
		told := make(chan struct{})
		h := newServer(t, setup{handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			for i := range 2000 {
				c.Peer.Progress(float64(i+1), 0, strings.Repeat("x", tt.size))
			}
			close(told)
			return atlas.Result{}, nil
		}})
		w := &blocked{ResponseRecorder: httptest.NewRecorder(), release: told}
		h.ServeHTTP(w, newRequest(t, modern, request(modern, "tools/call", `"name":"x"`, `"progressToken":1`)))
		if got, _ := events(t, w.Body.String()); len(got) < 2 || len(got) > tt.most || w.Body.Len() > tt.bytes {
			t.Errorf("%s: %d events, %d bytes", tt.name, len(got), w.Body.Len())
		}
	}
}

// Each part of a stream has its own time to be taken.
func TestStreamHasATimeForEachPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newServer(t, setup{cfg: direct.Config{WriteTimeout: 7 * time.Second, KeepAlive: 15 * time.Second}, handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			c.Peer.Progress(1, 0, "")
			<-time.After(20 * time.Second) // a sign of life, and then the answer
			return atlas.Result{}, nil
		}})
		w := &timed{ResponseRecorder: httptest.NewRecorder()}
		h.ServeHTTP(w, newRequest(t, modern, request(modern, "tools/call", `"name":"x"`, `"progressToken":1`)))
		if diff := cmp.Diff([]time.Duration{7 * time.Second, 7 * time.Second, 7 * time.Second}, w.left); diff != "" {
			t.Error("(-want +got):", diff)
		}
	})
}

// A timed client takes down how long it has for each part.
type timed struct {
	*httptest.ResponseRecorder
	deadline time.Time
	left     []time.Duration
}

func (w *timed) SetWriteDeadline(deadline time.Time) error {
	w.deadline = deadline
	return nil
}

func (w *timed) Write(p []byte) (int, error) {
	w.left = append(w.left, time.Until(w.deadline))
	w.deadline = time.Time{}
	return w.ResponseRecorder.Write(p)
}

// A blocked client reads nothing before release.
type blocked struct {
	*httptest.ResponseRecorder
	release chan struct{}
}

func (b *blocked) Write(p []byte) (int, error) {
	<-b.release
	return b.ResponseRecorder.Write(p)
}

func TestSilentStreamIsKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newServer(t, setup{cfg: direct.Config{KeepAlive: 15 * time.Second}, handler: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			c.Peer.Progress(1, 0, "")
			<-time.After(50 * time.Second)
			c.Peer.Progress(2, 0, "")
			<-time.After(10 * time.Second)
			return atlas.Result{}, nil
		}})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, newRequest(t, modern, request(modern, "tools/call", `"name":"x"`, `"progressToken":1`)))
		got, comments := events(t, w.Body.String())
		if len(got) != 3 || comments != 3 {
			t.Errorf("%d events and %d comments: %s", len(got), comments, w.Body)
		}
	})
}

// A call that is never told of costs no goroutine, and one that is, none afterwards.
func TestManyStreamsLeaveNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h := newServer(t, setup{handler: peerTool})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			h.ServeHTTP(httptest.NewRecorder(), newRequest(t, modern, request(modern, "tools/call", `"name":"x"`, `"progressToken":1`)))
		})
	}
	wg.Wait()
}

// serve puts a server behind a listener; the caller is told by a header.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, subject, _ := strings.Cut(r.Header.Get("X-Caller"), "/")
		h.ServeHTTP(w, r.WithContext(edge.WithCaller(r.Context(), caller(atlas.TenantID(tenant), subject))))
	}))
	t.Cleanup(srv.Close)
	return srv
}

// A reply is an answer over HTTP, whose body is still to be read.
type reply struct {
	*bufio.Reader
	status int
	header http.Header
}

// post sends a message as who.
func post(ctx context.Context, t *testing.T, srv *httptest.Server, who, era, body string, set ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = newRequest(t, era, body).Header
	req.Header.Set("X-Caller", who)
	for i := 0; i < len(set); i += 2 {
		req.Header.Set(set[i], set[i+1])
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return reply{bufio.NewReader(resp.Body), resp.StatusCode, resp.Header}
}

// next returns the next event of a stream.
func next(t *testing.T, in reply) map[string]any {
	t.Helper()
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var m map[string]any
			if err := json.Unmarshal([]byte(data), &m); err != nil {
				t.Fatal(err)
			}
			return m
		}
	}
}

func text(t *testing.T, in reply) string {
	t.Helper()
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The first event is at the client while the call still runs, and a disconnect ends the call, in both
// eras, whether it is a stream by then or not.
func TestDisconnectEndsTheCall(t *testing.T) {
	for _, era := range eras {
		for _, stream := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s stream %v", era, stream), func(t *testing.T) {
				started, ended := make(chan struct{}), make(chan error, 1)
				srv := serve(t, newServer(t, setup{handler: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
					if stream {
						c.Peer.Progress(1, 0, "")
					}
					close(started)
					<-ctx.Done()
					ended <- ctx.Err()
					return atlas.Result{}, ctx.Err()
				}}))
				ctx, cancel := context.WithCancel(t.Context())
				body := request(era, "tools/call", `"name":"x"`, `"progressToken":1`)
				if stream {
					in := post(ctx, t, srv, "acme/ann", era, body)
					if e := next(t, in); e["method"] != "notifications/progress" {
						t.Errorf("event %v", e)
					}
				} else {
					go func() {
						req, _ := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, strings.NewReader(body))
						req.Header = newRequest(t, era, body).Header
						req.Header.Set("X-Caller", "acme/ann")
						if resp, err := srv.Client().Do(req); err == nil {
							_ = resp.Body.Close()
						}
					}()
				}
				<-started
				cancel()
				if err := <-ended; err != context.Canceled { //nolint:errorlint // exactly that
					t.Errorf("the call ended with %v", err)
				}
			})
		}
	}
}
