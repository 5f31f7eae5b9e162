package direct_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

const benchAnswer = `{"order":{"id":"o_9002","customer_id":"CUST-1001","status":"refund_pending","total_cents":4900,"currency":"USD"}}`

// sink is a ResponseWriter that costs as little as can be.
type sink struct {
	h      http.Header
	status int
	n      int
}

func (s *sink) Header() http.Header           { return s.h }
func (*sink) SetReadDeadline(time.Time) error { return nil }
func (s *sink) WriteHeader(status int)        { s.status = status }
func (s *sink) Write(p []byte) (int, error)   { s.n += len(p); return len(p), nil }

// body is a request's body that can be read again.
type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

func BenchmarkServe(b *testing.B) {
	tools := make([]*atlas.Tool, 50)
	for i := range tools {
		tools[i] = &atlas.Tool{
			Name: "crm_order" + string(rune('a'+i/26)) + string(rune('a'+i%26)), Description: "One order. It is kept in memory.", Level: atlas.Atomic, Reads: atlas.ReadsPrivate,
			Input:  json.RawMessage(`{"type":"object","properties":{"order_id":{"type":"string","pattern":"^o_[0-9]+$"}},"required":["order_id"]}`),
			Output: json.RawMessage(`{"type":"object","properties":{"order":{"type":"object"}},"required":["order"]}`),
		}
	}
	h := newServer(b, setup{tools: tools, handler: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		if c.Op == atlas.OpList {
			return atlas.Result{Tools: tools}, nil
		}
		return atlas.Result{Structured: json.RawMessage(benchAnswer)}, nil
	}})
	for _, bm := range []struct{ name, era, body string }{
		{"call/modern", modern, request(modern, "tools/call", `"name":"crm_orderaa","arguments":{"order_id":"o_9002"}`, "")},
		{"call/legacy", legacy, request(legacy, "tools/call", `"name":"crm_orderaa","arguments":{"order_id":"o_9002"}`, "")},
		{"list/modern", modern, request(modern, "tools/list", "", "")},
	} {
		b.Run(bm.name, func(b *testing.B) {
			r := newRequest(b, bm.era, bm.body)
			src, text := &body{}, []byte(bm.body)
			w := &sink{h: make(http.Header, 8)}
			b.ReportAllocs()
			for b.Loop() {
				src.Reset(text)
				r.Body = src
				w.status, w.n = 0, 0
				h.ServeHTTP(w, r)
				if w.n < 100 {
					b.Fatalf("%d %d bytes", w.status, w.n)
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	text := []byte(request(modern, "tools/call", `"name":"crm_orderaa","arguments":{"order_id":"o_9002"}`, `"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"`))
	var m message.Request
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		m.Reset()
		if err := m.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRender(b *testing.B) {
	d := message.Dialect{Modern: true, Server: []byte(`{"name":"atlas-mcp","version":"1"}`)}
	res := atlas.Result{Structured: json.RawMessage(benchAnswer)}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = d.AppendCallResult(buf[:0], &res, atlas.ReadsPrivate, "req_1")
	}
}
