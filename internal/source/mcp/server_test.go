package mcp_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// The eras of the protocol that an upstream may speak.
const (
	modern = "2026-07-28" // without sessions
	legacy = "2025-11-25" // with sessions
)

// A server is a real MCP server, of the SDK, over HTTP: the suite's Upstream on the wire.
type server struct {
	t   *testing.T
	up  *sourcetest.Upstream
	era string

	mu      sync.Mutex
	addr    string
	web     *httptest.Server // nil while it is stopped
	sdk     *sdk.Server
	names   []string
	before  http.Handler // answers instead, if it is set
	real    http.Handler // the SDK's
	ttl     int          // how many milliseconds the list may be kept, as the server says
	headers []http.Header
	called  atomic.Int64 // calls of tools that define made
}

// serve starts a server of the era for up.
func serve(t *testing.T, up *sourcetest.Upstream, era string) *server {
	t.Helper()
	s := &server{t: t, up: up, era: era}
	up.Start, up.Stop, up.Changed = s.start, s.stop, s.sync
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) url() string { return "http://" + s.addr + "/mcp" }

func (s *server) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr := s.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		s.t.Error(err)
		return
	}
	s.addr = ln.Addr().String()
	s.sdk = sdk.NewServer(&sdk.Implementation{Name: "upstream", Version: "1"}, &sdk.ServerOptions{
		Capabilities: &sdk.ServerCapabilities{Tools: &sdk.ToolCapabilities{ListChanged: true}},
		SetCacheable: func(_ context.Context, _ sdk.Request, c *sdk.Cacheable) { c.TTLMs = s.ttl },
	})
	s.names = nil
	s.fill()
	h := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return s.sdk }, &sdk.StreamableHTTPOptions{
		Stateless: s.era == modern, PropagateRequestCancellation: true,
	})
	s.real = h
	s.web = httptest.NewUnstartedServer(s.check(h))
	_ = s.web.Listener.Close()
	s.web.Listener = ln
	s.web.Start()
}

func (s *server) stop() {
	s.mu.Lock()
	web := s.web
	s.web = nil
	s.mu.Unlock() // handlers need it, to end
	if web == nil {
		return
	}
	_ = web.Config.Close() // drops what is open
	web.Close()
}

// check lets those in who show a credential of the suite's.
func (s *server) check(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		before := s.before
		s.headers = append(s.headers, r.Header.Clone())
		s.mu.Unlock()
		if before != nil {
			before.ServeHTTP(w, r)
			return
		}
		who := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		known := who == "look"
		for _, c := range s.up.Credential {
			known = known || c == who
		}
		if !known {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *server) handler() http.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.real
}

// sync makes the SDK's server list what up lists now.
func (s *server) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sdk.RemoveTools(s.names...)
	s.names = nil
	s.fill()
}

func (s *server) fill() {
	for name, t := range s.up.Tools() {
		tool := &sdk.Tool{Name: name, Description: t.Description, InputSchema: json.RawMessage(t.Input)}
		if t.Output != "" {
			tool.OutputSchema = json.RawMessage(t.Output)
		}
		s.sdk.AddTool(tool, func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			who := strings.TrimPrefix(req.Extra.Header.Get("Authorization"), "Bearer ")
			a, ok := s.up.Call(ctx, name, who, req.Params.Arguments)
			if !ok {
				return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "unknown tool"}
			}
			if a.Err != nil {
				return nil, &jsonrpc.Error{Code: -31999, Message: a.Err.Error()}
			}
			res := &sdk.CallToolResult{IsError: a.Failed, StructuredContent: a.Structured, Content: []sdk.Content{}}
			for _, text := range a.Text {
				res.Content = append(res.Content, &sdk.TextContent{Text: text})
			}
			return res, nil
		})
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
}

// A memory is a state for one source.
type memory struct {
	mu       sync.Mutex
	values   map[string][]byte
	versions map[string]int64
	fail     error
}

func newMemory() *memory { return &memory{values: map[string][]byte{}, versions: map[string]int64{}} }

var _ source.State = (*memory)(nil)

func (m *memory) Get(ctx context.Context, key string) ([]byte, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return nil, 0, ctx.Err()
	}
	return slices.Clone(m.values[key]), m.versions[key], m.fail
}

func (m *memory) CompareAndSet(_ context.Context, key string, version int64, value []byte) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil || m.versions[key] != version {
		return 0, m.fail
	}
	m.values[key] = slices.Clone(value)
	m.versions[key]++
	return m.versions[key], nil
}

func (m *memory) CompareAndDelete(_ context.Context, key string, version int64) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil || m.versions[key] != version {
		return false, m.fail
	}
	delete(m.values, key)
	delete(m.versions, key)
	return true, nil
}
