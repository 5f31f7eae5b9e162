package direct_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

const (
	modern = "2026-07-28"
	legacy = "2025-11-25"
)

var eras = []string{modern, legacy}

// ann is who asks unless a test says otherwise.
func ann() *edge.Caller { return caller("acme", "ann") }

func caller(tenant atlas.TenantID, subject string) *edge.Caller {
	return &edge.Caller{Principal: &atlas.Principal{Tenant: tenant, Subject: subject, Issuer: "https://issuer.example"}, Tenant: tenant}
}

// A setup is what a test changes of a server.
type setup struct {
	cfg     direct.Config
	tools   []*atlas.Tool
	handler atlas.Handler
	change  func(*direct.Deps)
}

// newServer returns a server over a handler that stands for the pipeline. What is not for it is
// answered with status 418.
func newServer(t testing.TB, s setup) *direct.Server {
	t.Helper()
	listing := message.NewListing(s.tools)
	if s.handler == nil {
		s.handler = whoami
	}
	deps := direct.Deps{
		Call: func(ctx context.Context, c atlas.Call) (tasks.Answer, error) {
			res, err := s.handler(ctx, c)
			return tasks.Answer{Result: res}, err
		},
		List:           s.handler,
		Listing:        func() *message.Listing { return listing },
		Rest:           func(w http.ResponseWriter, _ *http.Request, _ direct.Session) { w.WriteHeader(http.StatusTeapot) },
		Implementation: []byte(`{"name":"atlas-mcp","version":"1"}`),
		Log:            slog.New(slog.DiscardHandler),
	}
	if s.change != nil {
		s.change(&deps)
	}
	h, err := direct.New(s.cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// whoami answers with the tenant and subject of the call and its arguments.
func whoami(_ context.Context, c atlas.Call) (atlas.Result, error) {
	b, err := json.Marshal(map[string]any{"tenant": c.Tenant, "subject": c.Principal.Subject, "args": c.Args.Raw})
	return atlas.Result{Structured: b}, err
}

// request returns a message of the era, with params and _meta given as JSON members.
func request(era, method, params, meta string) string {
	if era == modern {
		m := `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`
		if strings.Contains(meta, "clientCapabilities") {
			m = `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`
		}
		if meta != "" {
			m += "," + meta
		}
		meta = m
	}
	members := []string{`"_meta":{` + meta + `}`}
	if params != "" {
		members = append(members, params)
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":%q,"params":{%s}}`, method, strings.Join(members, ","))
}

// newRequest returns the HTTP request with which a client of the era sends body, for ann.
func newRequest(t testing.TB, era, body string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(edge.WithCaller(t.Context(), ann()), http.MethodPost, "/mcp", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("MCP-Protocol-Version", era)
	var msg struct {
		Method string
		Params struct{ Name string }
	}
	if json.Unmarshal([]byte(body), &msg) == nil && era == modern {
		r.Header.Set("Mcp-Method", msg.Method)
		if msg.Params.Name != "" {
			r.Header.Set("Mcp-Name", msg.Params.Name)
		}
	}
	return r
}
