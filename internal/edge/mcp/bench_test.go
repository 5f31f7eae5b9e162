package mcp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

const benchAnswer = `{"order":{"id":"o_9002","customer_id":"CUST-1001","status":"refund_pending","total_cents":4900,"currency":"USD"}}`

// A wire is a connection over which one request is sent again and again, by a client that costs next
// to nothing: what a benchmark measures is the server.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
}

func dial(tb testing.TB, url, path, body string, header ...string) *wire {
	tb.Helper()
	conn, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	head := "POST " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n" +
		strings.Join(header, "\r\n") + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	return &wire{conn, bufio.NewReader(conn), []byte(head + body)}
}

// do makes one exchange and returns the length of the answer's body. It allocates nothing.
func (w *wire) do() (int, error) {
	if _, err := w.conn.Write(w.out); err != nil {
		return 0, err
	}
	length := -1
	for first := true; ; first = false {
		line, err := w.in.ReadSlice('\n')
		switch {
		case err != nil:
			return 0, err
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")):
			return 0, fmt.Errorf("answer %s", line)
		case bytes.HasPrefix(line, []byte("Content-Length: ")):
			length = 0
			for _, c := range bytes.TrimSpace(line[16:]) {
				length = length*10 + int(c-'0')
			}
		case len(line) == 2 && length < 0:
			return 0, fmt.Errorf("an answer without a length")
		case len(line) == 2:
			_, err := w.in.Discard(length)
			return length, err
		}
	}
}

// BenchmarkHTTP measures one call from the socket to the pipeline and back, with authentication and
// the guard: beside a plain net/http handler that reads as much and writes as much, and beside the SDK
// behind the same guard.
func BenchmarkHTTP(b *testing.B) {
	h := newHouse(b, options{serve: func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Structured: json.RawMessage(benchAnswer)}, nil
	}, deps: func(d *mcp.Deps) {
		tools := testTools()
		d.Tools = func() []*atlas.Tool { return tools }
		d.Handler = func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			if c.Op == atlas.OpList {
				return atlas.Result{Tools: tools}, nil
			}
			return atlas.Result{Structured: json.RawMessage(benchAnswer)}, nil
		}
	}})
	auth := "Authorization: Bearer " + h.token(b, issuer.Claims{})
	headers := func(era, method, name string) []string {
		out := []string{auth, "MCP-Protocol-Version: " + era}
		if era == modern {
			out = append(out, "Mcp-Method: "+method)
			if name != "" {
				out = append(out, "Mcp-Name: "+name)
			}
		}
		return out
	}
	reference := httptest.NewServer(h.mcp.Reference())
	b.Cleanup(reference.Close)
	answer := bytes.Repeat([]byte("x"), 620)
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			b.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	}))
	b.Cleanup(plain.Close)

	for _, bm := range []struct{ name, url, era, method, params string }{
		{"nethttp", plain.URL, modern, "tools/call", `"name":"echo","arguments":{"x":"y"}`},
		{"direct/call/modern", h.URL, modern, "tools/call", `"name":"echo","arguments":{"x":"y"}`},
		{"direct/call/legacy", h.URL, legacy, "tools/call", `"name":"echo","arguments":{"x":"y"}`},
		{"direct/list/modern", h.URL, modern, "tools/list", ""},
		{"sdk/call/modern", reference.URL, modern, "tools/call", `"name":"echo","arguments":{"x":"y"}`},
		{"sdk/call/legacy", reference.URL, legacy, "tools/call", `"name":"echo","arguments":{"x":"y"}`},
		{"sdk/list/modern", reference.URL, modern, "tools/list", ""},
	} {
		b.Run(bm.name, func(b *testing.B) {
			name := ""
			if bm.method == "tools/call" {
				name = "echo"
			}
			w := dial(b, bm.url, "/mcp", message(bm.era, bm.method, bm.params, ""), headers(bm.era, bm.method, name)...)
			b.ReportAllocs()
			for b.Loop() {
				if n, err := w.do(); err != nil || n < 100 {
					b.Fatal(n, err)
				}
			}
		})
	}
}
