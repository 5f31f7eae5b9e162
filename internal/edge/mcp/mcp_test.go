package mcp_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
	"github.com/atlas-mcp/atlas/internal/edge/tenant"
)

const (
	modern = "2026-07-28"
	legacy = "2025-11-25"
)

var eras = []string{modern, legacy}

// A house is a running edge in front of a small pipeline in memory.
type house struct {
	*httptest.Server
	mcp    *mcp.Server
	issuer *issuer.Issuer

	mu      sync.Mutex
	tools   []*atlas.Tool
	calls   []atlas.Call // as the pipeline saw them
	handler atlas.Handler
}

// pipeline stands for the stages: it knows who may see what, and records each call.
func (h *house) pipeline(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	h.mu.Lock()
	h.calls = append(h.calls, call)
	tools, handler := h.tools, h.handler
	h.mu.Unlock()
	visible := slices.DeleteFunc(slices.Clone(tools), func(t *atlas.Tool) bool {
		return t.Kind != call.Kind || !call.Principal.HasScopes(t.Scopes)
	})
	if call.Op == atlas.OpList {
		return atlas.Result{Tools: visible}, call.Fault
	}
	i := slices.IndexFunc(visible, func(t *atlas.Tool) bool { return t.Name == call.Name })
	if i < 0 {
		return atlas.Result{}, atlas.Errorf(atlas.CodeToolNotFound, nil, "")
	}
	if call.Fault != nil {
		return atlas.Result{}, call.Fault
	}
	call.Tool = visible[i]
	if call.Tool.Run != nil {
		return call.Tool.Run(ctx, call)
	}
	return handler(ctx, call)
}

func (h *house) seen() []atlas.Call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

func (h *house) setTools(tools ...*atlas.Tool) {
	h.mu.Lock()
	h.tools = tools
	h.mu.Unlock()
	h.mcp.ToolsChanged()
}

// whoami answers with the tenant and subject of the call and its arguments.
func whoami(_ context.Context, call atlas.Call) (atlas.Result, error) {
	b, err := json.Marshal(map[string]any{"tenant": call.Tenant, "subject": call.Principal.Subject, "args": call.Args.Raw})
	return atlas.Result{Structured: b}, err
}

func testTools() []*atlas.Tool {
	obj := json.RawMessage(`{"type":"object","properties":{"x":{"type":"string"}}}`)
	out := json.RawMessage(`{"type":"object","properties":{"tenant":{"$ref":"#/$defs/t"}},"$defs":{"t":{"type":"string"}}}`)
	return []*atlas.Tool{
		{Name: "echo", Title: "Echo", Description: "Says who calls.", Level: atlas.Atomic, Input: obj, Output: out, ReadOnly: true, Reads: atlas.ReadsPrivate},
		{Name: "mail", Level: atlas.Atomic, Input: obj, Output: out, Items: "hits", Reads: atlas.ReadsUntrusted, Effects: atlas.EffectsEgress},
		{
			Name: "secret", Level: atlas.Atomic, Scopes: []string{"tool:secret:read"},
			Input: json.RawMessage(`{"type":"object","properties":{"x":{"type":"string","x-mcp-header":"X"}}}`),
		},
	}
}

type options struct {
	cfg     mcp.Config
	deps    func(*mcp.Deps)
	serve   atlas.Handler
	refused func(context.Context, edge.Refusal)
}

func newHouse(t testing.TB, opt options) *house {
	t.Helper()
	h := &house{tools: testTools(), handler: opt.serve}
	if h.handler == nil {
		h.handler = whoami
	}
	iss, err := issuer.New(issuer.Config{KeyFile: filepath.Join(t.TempDir(), "key.pem")})
	if err != nil {
		t.Fatal(err)
	}
	h.issuer = iss
	challenge := edge.Challenge{MetadataURL: mcp.MetadataURL("http://127.0.0.1:8080"), Scopes: []string{"tool:crm:read"}, Refused: opt.refused}
	v, err := auth.New(auth.Config{
		Issuers: []auth.Issuer{{Issuer: iss.URL(), Audience: []string{iss.Audience()}}},
	}, auth.Deps{Keys: map[string]jwkset.Storage{iss.URL(): iss.Keys()}, Challenge: challenge})
	if err != nil {
		t.Fatal(err)
	}
	ten, err := tenant.New(tenant.Config{}, challenge)
	if err != nil {
		t.Fatal(err)
	}
	deps := mcp.Deps{
		Handler: h.pipeline,
		Tools: func() []*atlas.Tool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.tools
		},
		Version: "1.2.3", Authenticate: v.Middleware, Tenant: ten.Middleware,
		AuthServers: []string{iss.URL()}, Scopes: []string{"tool:crm:read"},
		Routes: map[string]http.Handler{
			"/.well-known/jwks.json":                  http.HandlerFunc(iss.ServeJWKS),
			"/.well-known/oauth-authorization-server": http.HandlerFunc(iss.ServeMetadata),
		},
		Log: slog.New(slog.NewTextHandler(testLog{t}, nil)), Challenge: challenge,
	}
	if opt.deps != nil {
		opt.deps(&deps)
	}
	h.mcp, err = mcp.New(opt.cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	h.Server = httptest.NewServer(h.mcp.Handler())
	t.Cleanup(h.Close)
	return h
}

// testLog fails the test at whatever the server logs above debug: none of it is for operators.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	if !strings.Contains(string(p), "readiness check failed") {
		l.t.Errorf("logged: %s", p)
	}
	return len(p), nil
}

func (h *house) token(t testing.TB, c issuer.Claims) string {
	t.Helper()
	if c.Tenant == "" {
		c.Tenant = "acme"
	}
	if c.Subject == "" {
		c.Subject = "ann"
	}
	tok, err := h.issuer.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// headers adds header fields to each request of an SDK client.
type headers struct {
	http.Header
	base http.RoundTripper
}

func (h headers) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	maps.Copy(r.Header, h.Header)
	return h.base.RoundTrip(r)
}

func (h *house) client(t *testing.T, era, token string, opts *sdk.ClientOptions) *sdk.ClientSession {
	t.Helper()
	hd := http.Header{"Authorization": {"Bearer " + token}}
	cs, err := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, opts).Connect(t.Context(), &sdk.StreamableClientTransport{
		Endpoint: h.URL + "/mcp", HTTPClient: &http.Client{Transport: headers{hd, h.Client().Transport}},
	}, &sdk.ClientSessionOptions{ProtocolVersion: era})
	if err != nil {
		t.Fatalf("connect in era %s: %v", era, err)
	}
	t.Cleanup(func() { _ = cs.Close() })
	return cs
}

// message returns a JSON-RPC message of the era, with params and _meta given as JSON members.
func message(era, method, params, meta string) string {
	if era == modern {
		m := `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`
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

// post sends body as a client of the era would, with set changing the request.
func (h *house) post(t testing.TB, era, token, body string, set func(*http.Request)) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL+"/mcp", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("MCP-Protocol-Version", era)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	var msg struct {
		Method string
		Params struct{ Name, URI string }
	}
	if json.Unmarshal([]byte(body), &msg) == nil && era == modern {
		req.Header.Set("Mcp-Method", msg.Method)
		if name := cmp.Or(msg.Params.Name, msg.Params.URI); name != "" && (msg.Method == "tools/call" || msg.Method == "prompts/get" || msg.Method == "resources/read") {
			req.Header.Set("Mcp-Name", headerText(name))
		}
	}
	if set != nil {
		set(req)
	}
	return h.do(t, req)
}

// headerText writes a name as a header field does that could not hold it as it is (SEP-2243).
func headerText(name string) string {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' {
			return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(name)) + "?="
		}
	}
	return name
}

func (h *house) do(t testing.TB, req *http.Request) (int, http.Header, string) {
	t.Helper()
	resp, err := h.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func (h *house) get(t *testing.T, path string, set func(*http.Request)) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(req)
	}
	return h.do(t, req)
}

// eventually waits until ok, for what the other side of a connection does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("did not happen: %s", what)
}
