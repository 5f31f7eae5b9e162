package main

import (
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Answers come in any pieces, with a length or in chunks.
func TestAnswerReader(t *testing.T) {
	for _, tt := range []struct {
		name, in, body string
		status         int
		fault          string
	}{
		{name: "with a length", in: "HTTP/1.1 200 OK\r\nContent-Type: x\r\ncontent-length: 5\r\n\r\nhello", body: "hello", status: 200},
		{name: "empty", in: "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", status: 202},
		{name: "in chunks", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n, my world\r\n0\r\n\r\n", body: "hello, my world", status: 200},
		{name: "without a length", in: "HTTP/1.1 200 OK\r\n\r\n", fault: "without length"},
		{name: "odd status", in: "HTTP/1.1 abc\r\n\r\n", fault: "invalid syntax"},
		{name: "odd length", in: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", fault: "Content-Length"},
		{name: "odd chunk", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", fault: "invalid syntax"},
		{name: "more than one answer", in: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1", fault: "follow the answer"},
	} {
		for _, piece := range []int{1, 7, len(tt.in)} {
			if tt.name == "more than one answer" && piece != len(tt.in) {
				continue // in pieces the first answer is whole before the second comes
			}
			var r answerReader
			whole, err := false, error(nil)
			for in := tt.in; in != "" && !whole && err == nil; {
				n := copy(r.space(), in[:min(piece, len(in))])
				in = in[n:]
				whole, err = r.take(n)
			}
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) {
					t.Errorf("%s in pieces of %d: error %v, want %q", tt.name, piece, err, tt.fault)
				}
				continue
			}
			if err != nil || !whole || r.status != tt.status || string(r.body) != tt.body {
				t.Errorf("%s in pieces of %d: %v %d %q, %v", tt.name, piece, whole, r.status, r.body, err)
			}
		}
	}
}

// A client that only counted would be fast with wrong answers.
func TestCheck(t *testing.T) {
	right := `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"text","text":"x"}],"structuredContent":` + answer + `}}`
	if err := callModern.check([]byte(right)); err != nil {
		t.Error(err)
	}
	for name, wrong := range map[string]string{
		"another id":         strings.Replace(right, `"id":1`, `"id":2`, 1),
		"an error":           `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"x"}}`,
		"a tool's error":     strings.Replace(right, `"content"`, `"isError":true,"content"`, 1),
		"another answer":     strings.Replace(right, "4900", "4901", 1),
		"no content":         strings.Replace(right, `[{"type":"text","text":"x"}]`, `[]`, 1),
		"not complete":       strings.Replace(right, "complete", "input_required", 1),
		"no JSON":            right[1:],
		"a list, not a call": `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[]}}`,
	} {
		if callModern.check([]byte(wrong)) == nil {
			t.Errorf("%s is taken for right", name)
		}
	}
	if listModern.check([]byte(`{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[{"name":"order","inputSchema":{}}]}}`)) == nil {
		t.Error("a list without all tools is taken for right")
	}
}

func testRows() []row {
	var rows []row
	for i, c := range contenders {
		rows = append(rows, row{
			Server: c.server, About: abouts[c.server], Work: c.work.about(), Era: c.work.era,
			CallsPerS: float64(1000 * (i + 1)), P50us: 40, P99us: 900, IdleP50us: float64(20 + i), AllocsPerOp: 100, BytesPerOp: 8 << 10,
		})
	}
	return rows
}

func TestGoals(t *testing.T) {
	rows := testRows() // net/http 1000, go-sdk 2000, mcp-go 3000, none 4000, atlas 5000, …, pgx 17000, pgx-set 18000, toolbox 19000, atlas 20000
	got := map[string]goal{}
	for _, g := range goals(rows) {
		got[g.Name] = g
	}
	for name, want := range map[string]struct {
		measured float64
		met      bool
	}{
		"throughput against bare go-sdk":                                      {2.5, false},
		"throughput against bare mcp-go":                                      {5.0 / 3, true},
		"throughput against net/http":                                         {5, true},
		"allocations per call":                                                {100, true},
		"KB allocated per call":                                               {8, true},
		"p50 added by the stages, one connection":                             {1, true},
		"SQL through row-level security, throughput against net/http and pgx": {20.0 / 17, true},
		"SQL, throughput against MCP Toolbox without row-level security":      {20.0 / 19, false},
	} {
		if g := got[name]; g.Measured != want.measured || g.Met != want.met {
			t.Errorf("%s: %+v, want %+v", name, g, want)
		}
	}
	if len(got) != 8 {
		t.Errorf("%d goals", len(got))
	}
	// What was not measured is not compared.
	if list := goals(rows[16:19]); len(list) != 0 {
		t.Errorf("goals without Atlas: %+v", list)
	}
}

// The chart is XML without scripts, and has a bar for every row, also where nothing was measured.
func TestChart(t *testing.T) {
	for _, rows := range [][]row{testRows(), {{Server: "atlas", Work: "tools/call", Era: modern}}} {
		r := newReport(options{Rounds: 1, Each: time.Second, Conns: 1})
		r.Rows = rows
		chart := string(r.chart())
		bars := 0
		for dec := xml.NewDecoder(strings.NewReader(chart)); ; {
			token, err := dec.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in %s", err, chart)
			}
			element, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			switch element.Name.Local {
			case "circle":
				bars++
			case "script", "foreignObject", "image":
				t.Errorf("the chart holds a %s", element.Name.Local)
			}
		}
		if bars != len(rows) || strings.Contains(chart, "NaN") || strings.Contains(chart, "Inf") {
			t.Errorf("%d bars for %d rows: %s", bars, len(rows), chart)
		}
	}
}

// drive counts what a server answered, and tells wrong answers from right ones.
func TestDrive(t *testing.T) {
	var served atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		plainHTTP().ServeHTTP(w, r)
	}))
	defer srv.Close()
	h := hello{Addr: srv.Listener.Addr().String(), Path: "/mcp", Token: "none"}
	request := callModern.message(h, "").render()
	for _, want := range []string{"refund_pending", "something else"} {
		served.Store(0)
		s, err := drive(t.Context(), h.Addr, [][]byte{request, request}, []byte(want), 20*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		wrong := int64(0)
		if want != "refund_pending" {
			wrong = s.calls
		}
		if s.calls < 2 || s.calls != served.Load() || s.failed != wrong || s.latency.TotalCount() != s.calls {
			t.Errorf("%d calls, %d of them wrong, %d latencies; the server answered %d", s.calls, s.failed, s.latency.TotalCount(), served.Load())
		}
	}
}
