package mcpclient_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/mcpclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is an MCP server with a few tools; seen receives the _meta of each call.
func server(seen *sync.Map) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	schema := json.RawMessage(`{"type":"object","properties":{"order_id":{"type":"string"}}}`)
	no := false
	add := func(t *mcp.Tool, h mcp.ToolHandler) {
		t.InputSchema = schema
		s.AddTool(t, h)
	}
	add(&mcp.Tool{
		Name: "crm_order", Description: "one order", Meta: mcp.Meta{"atlas/level": "atomic", "atlas/reads": "private"},
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true, DestructiveHint: &no},
	}, func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		seen.Store("crm_order", r.Params.Meta)
		return &mcp.CallToolResult{
			Meta: mcp.Meta{"atlas/request_id": "req-1", "atlas/as_of": "2026-11-23T09:00:00Z"}, StructuredContent: map[string]any{"id": "o_9002", "total_cents": 4900},
			Content: []mcp.Content{&mcp.TextContent{Text: "x"}},
		}, nil
	})
	add(&mcp.Tool{Name: "plain"}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: ` {"a":1} `}}}, nil
	})
	add(&mcp.Tool{Name: "denied"}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{
			IsError: true, Content: []mcp.Content{},
			StructuredContent: atlas.Errorf(atlas.CodeRateLimited, nil, "wait").Failure("req-2"),
		}, nil
	})
	add(&mcp.Tool{Name: "strange"}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: "ORA-00942 at db1.internal"}}}, nil
	})
	add(&mcp.Tool{Name: "wire"}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		data, err := json.Marshal(atlas.Errorf(atlas.CodeBudgetExhausted, nil, "").Failure("req-3"))
		return nil, cmpErr(err, &jsonrpc.Error{Code: 504, Message: "budget", Data: data})
	})
	return s
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// serve runs the server behind a check of token and tenant, as an Atlas edge does.
func serve(t *testing.T, seen *sync.Map) string {
	t.Helper()
	s := server(seen)
	h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true})
	mux := http.NewServeMux()
	mux.HandleFunc("/mcp", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer good":
			http.Error(w, "no", http.StatusUnauthorized)
		case r.Header.Get("X-Tenant-Id") != "acme":
			http.Error(w, "no", http.StatusForbidden)
		default:
			h.ServeHTTP(w, r)
		}
	})
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	return web.URL
}

func dial(t *testing.T, cfg mcpclient.Config) (*mcpclient.Client, error) {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	c, err := mcpclient.Dial(t.Context(), cfg, tr)
	if err == nil {
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return c, err
}

func TestOverHTTP(t *testing.T) {
	for _, suffix := range []string{"", "/", "/mcp", "/mcp/"} {
		var seen sync.Map
		c, err := dial(t, mcpclient.Config{URL: serve(t, &seen) + suffix, Token: "good", Tenant: "acme"})
		if err != nil {
			t.Fatalf("%q: %v", suffix, err)
		}
		tools, err := c.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		byName := map[string]copilot.Tool{}
		for _, tool := range tools {
			byName[tool.Name] = tool
		}
		if got := byName["crm_order"]; !got.ReadOnly || got.Destructive || got.Level != atlas.Atomic || got.Reads != atlas.ReadsPrivate {
			t.Errorf("%+v", got)
		}
		if got := byName["plain"]; got.ReadOnly {
			t.Errorf("a tool without annotations is taken for read-only: %+v", got)
		}
		obs, err := c.Call(t.Context(), "crm_order", json.RawMessage(`{"order_id":"o_9002"}`), copilot.CallMeta{
			Budget: atlas.Budget{Total: 30 * time.Second, Reserve: 5 * time.Second, Expected: []string{"ticket"}}, TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		})
		if err != nil || obs.Failure != nil {
			t.Fatal(err, obs.Failure)
		}
		if obs.RequestID != "req-1" || obs.AsOf.Year() != 2026 || !strings.Contains(string(obs.Structured), "4900") {
			t.Errorf("%+v", obs)
		}
		meta, _ := seen.Load("crm_order")
		got, err := json.Marshal(meta)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"atlas/budget":{"expected":["ticket"],"reserve_ms":5000,"total_ms":30000}`, `"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"`} {
			if !strings.Contains(string(got), want) {
				t.Errorf("_meta %s lacks %s", got, want)
			}
		}
	}
}

func TestFailures(t *testing.T) {
	var seen sync.Map
	c, err := dial(t, mcpclient.Config{URL: serve(t, &seen), Token: "good", Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	for tool, want := range map[string]atlas.Code{
		"denied": atlas.CodeRateLimited, "strange": atlas.CodeSourceError, "wire": atlas.CodeBudgetExhausted, "no_such_tool": atlas.CodeToolNotFound,
	} {
		obs, err := c.Call(t.Context(), tool, json.RawMessage(`{}`), copilot.CallMeta{})
		if err != nil || obs.Failure == nil || obs.Failure.Code != want {
			t.Errorf("%s: %v, %+v; want %s", tool, err, obs.Failure, want)
			continue
		}
		if js, err := json.Marshal(obs); err != nil || strings.Contains(string(js), "db1.internal") {
			t.Errorf("%s: upstream text came along: %s", tool, js)
		}
	}
	obs, err := c.Call(t.Context(), "plain", json.RawMessage(`{}`), copilot.CallMeta{})
	if diff := cmp.Diff(`{"a":1}`, string(obs.Structured)); err != nil || diff != "" {
		t.Error(err, diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Call(ctx, "crm_order", json.RawMessage(`{}`), copilot.CallMeta{}); atlas.CodeOf(err) != atlas.CodeCanceled {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRefusedAtTheDoor(t *testing.T) {
	var seen sync.Map
	url := serve(t, &seen)
	for _, c := range []struct {
		cfg  mcpclient.Config
		want atlas.Code
	}{
		{mcpclient.Config{URL: url, Token: "sesame-bad", Tenant: "acme"}, atlas.CodeInvalidToken},
		{mcpclient.Config{URL: url, Token: "good", Tenant: "globex"}, atlas.CodeTenantMismatch},
		{mcpclient.Config{URL: url, Token: "", Tenant: "acme"}, atlas.CodeInvalidArguments},
		{mcpclient.Config{URL: url, Token: "a b", Tenant: "acme"}, atlas.CodeInvalidArguments},
		{mcpclient.Config{URL: url, Token: "good", Tenant: "../x"}, atlas.CodeInvalidArguments},
		{mcpclient.Config{URL: "127.0.0.1:8080", Token: "good"}, atlas.CodeInvalidArguments},
		{mcpclient.Config{URL: "http://atlas.example/mcp", Token: "good"}, atlas.CodeInvalidArguments}, // a token over plain HTTP
		{mcpclient.Config{URL: "https://u:p@atlas.example/mcp", Token: "good"}, atlas.CodeInvalidArguments},
		{mcpclient.Config{URL: "http://127.0.0.1:1/mcp", Token: "good"}, atlas.CodeSourceUnavailable},
	} {
		_, err := dial(t, c.cfg)
		if atlas.CodeOf(err) != c.want {
			t.Errorf("%+v: %v, want %s", c.cfg, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("the token is in the error: %v", err)
		}
	}
}

// TestTokenStaysHere: a redirect to another server gets no token.
func TestTokenStaysHere(t *testing.T) {
	var stolen sync.Map
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen.Store("auth", r.Header.Get("Authorization")) }))
	defer thief.Close()
	lure := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
	}))
	defer lure.Close()
	if _, err := dial(t, mcpclient.Config{URL: lure.URL, Token: "good"}); err == nil {
		t.Error("a redirect was taken for an MCP server")
	}
	if v, ok := stolen.Load("auth"); ok {
		t.Errorf("the other server got %q", v)
	}
}

func TestInMemory(t *testing.T) {
	var seen sync.Map
	a, b := mcp.NewInMemoryTransports()
	ss, err := server(&seen).Connect(t.Context(), a, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := mcpclient.Connect(t.Context(), b, "test")
	if err != nil {
		t.Fatal(err)
	}
	tools, err := c.List(t.Context())
	if err != nil || len(tools) != 5 {
		t.Errorf("%d tools, %v", len(tools), err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	_ = ss.Wait()
}
