// Package mcpclient lets the copilot use the tools of an MCP server as any client does: Streamable
// HTTP with a bearer token, or a transport that is handed in. It holds no rights of its own; what
// the token may not do, the server refuses.
package mcpclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot"
)

// Config says where the server is and who asks.
type Config struct {
	URL     string `yaml:"url"`    // with or without /mcp
	Token   string `yaml:"-"`      // bearer token
	Tenant  string `yaml:"tenant"` // sent as X-Tenant-Id; empty sends none
	Version string `yaml:"-"`      // of the client, told to the server
}

// Validate reports every mistake.
func (c Config) Validate() error {
	var errs []error
	if _, err := endpoint(c.URL); err != nil {
		errs = append(errs, err)
	}
	if c.Token == "" {
		errs = append(errs, errors.New("a bearer token is needed"))
	}
	if strings.ContainsAny(c.Token, " \r\n") {
		errs = append(errs, errors.New("the token holds white space"))
	}
	if c.Tenant != "" {
		if _, err := atlas.ParseTenantID(c.Tenant); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// endpoint returns the MCP endpoint for a URL given with or without it. A token goes over plain
// HTTP to this machine only.
func endpoint(raw string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("the MCP URL must look like http://127.0.0.1:8080 or https://host/mcp")
	}
	if u.User != nil {
		return "", errors.New("the MCP URL must not hold a user name or password")
	}
	if u.Scheme == "http" && !local(u.Hostname()) {
		return "", errors.New("the MCP URL must be https, unless the host is this machine")
	}
	u.Fragment = ""
	if p := strings.TrimRight(u.Path, "/"); !strings.HasSuffix(p, "/mcp") {
		u.Path = path.Join("/", p, "mcp")
	} else {
		u.Path = p
	}
	return u.String(), nil
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Client implements [copilot.Tools]. It is safe for concurrent use.
type Client struct {
	session *mcp.ClientSession
	auth    *authorize // nil without HTTP
}

// Dial connects over Streamable HTTP. base is used for the requests; nil means a transport of its
// own. The error is an *[atlas.Error]: missing, invalid or refused tokens have their own codes.
func Dial(ctx context.Context, cfg Config, base http.RoundTripper) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, err, err.Error())
	}
	where, err := endpoint(cfg.URL)
	if err != nil {
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, err, err.Error())
	}
	if base == nil {
		base = &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
			ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		}
	}
	a := &authorize{base: base, token: cfg.Token, tenant: cfg.Tenant}
	hc := &http.Client{
		Transport: a,
		// The token is for this server and no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t := &mcp.StreamableClientTransport{Endpoint: where, HTTPClient: hc, DisableStandaloneSSE: true, MaxRetries: -1}
	c, err := Connect(ctx, t, cfg.Version)
	if err != nil {
		return nil, a.explain(err)
	}
	c.auth = a
	return c, nil
}

// Connect connects over a transport that is handed in, such as an in-memory one.
func Connect(ctx context.Context, t mcp.Transport, version string) (*Client, error) {
	if version == "" {
		version = "dev"
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "atlas-copilot", Version: version}, &mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{}})
	session, err := client.Connect(ctx, t, nil)
	if err != nil {
		return nil, failure(err)
	}
	return &Client{session: session}, nil
}

// Close ends the session. Closing twice is fine.
func (c *Client) Close() error {
	if err := c.session.Close(); err != nil && !errors.Is(err, mcp.ErrConnectionClosed) {
		return err
	}
	return nil
}

// maxTools bounds a listing: a server that never ends its pages would hang the run.
const maxTools = 2000

// List implements [copilot.Tools].
func (c *Client) List(ctx context.Context) ([]copilot.Tool, error) {
	var out []copilot.Tool
	for t, err := range c.session.Tools(ctx, nil) {
		if err != nil {
			return nil, c.explain(err)
		}
		if len(out) == maxTools {
			break
		}
		in, err := json.Marshal(t.InputSchema)
		if err != nil {
			continue // a tool whose schema cannot be read cannot be called
		}
		tool := copilot.Tool{Name: t.Name, Title: t.Title, Description: t.Description, Input: in}
		if s, ok := t.Meta["atlas/level"].(string); ok {
			tool.Level = atlas.Level(s)
		}
		if s, ok := t.Meta["atlas/reads"].(string); ok {
			tool.Reads = atlas.Reads(s)
		}
		// Without annotations nothing is known, and a tool is taken to write.
		if a := t.Annotations; a != nil {
			tool.ReadOnly = a.ReadOnlyHint
			tool.Destructive = !a.ReadOnlyHint && (a.DestructiveHint == nil || *a.DestructiveHint)
		}
		out = append(out, tool)
	}
	return out, nil
}

// Call implements [copilot.Tools].
func (c *Client) Call(ctx context.Context, name string, args json.RawMessage, meta copilot.CallMeta) (copilot.Observation, error) {
	m := mcp.Meta{}
	if meta.TraceParent != "" {
		m["traceparent"] = meta.TraceParent
	}
	if ms := meta.Budget.Total.Milliseconds(); ms > 0 {
		b := map[string]any{"total_ms": ms, "reserve_ms": max(meta.Budget.Reserve.Milliseconds(), 0)}
		if len(meta.Budget.Expected) > 0 {
			b["expected"] = meta.Budget.Expected
		}
		m["atlas/budget"] = b
	}
	res, err := c.session.CallTool(ctx, &mcp.CallToolParams{Meta: m, Name: name, Arguments: args})
	if err != nil {
		// A failure of this one call, told in the protocol's own way, is the tool's.
		if f, ok := wireFailure(err); ok {
			return copilot.Observation{Failure: f, RequestID: f.RequestID}, nil
		}
		return copilot.Observation{}, c.explain(err)
	}
	return observe(res), nil
}

func observe(res *mcp.CallToolResult) copilot.Observation {
	var obs copilot.Observation
	obs.RequestID, _ = res.Meta["atlas/request_id"].(string)
	obs.Partial, _ = res.Meta["atlas/partial"].(bool)
	if s, ok := res.Meta["atlas/as_of"].(string); ok {
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			obs.AsOf = t
		}
	}
	if res.StructuredContent != nil {
		if raw, err := json.Marshal(res.StructuredContent); err == nil {
			obs.Structured = raw
		}
	}
	var text strings.Builder
	for _, content := range res.Content {
		if t, ok := content.(*mcp.TextContent); ok {
			text.WriteString(t.Text + "\n")
		}
	}
	if obs.Structured == nil {
		obs.Text = strings.TrimSpace(text.String())
		if raw := []byte(obs.Text); (bytes.HasPrefix(raw, []byte("{")) || bytes.HasPrefix(raw, []byte("["))) && json.Valid(raw) {
			obs.Structured, obs.Text = raw, ""
		}
	}
	if res.IsError {
		f := readFailure(obs.Structured)
		if f == nil {
			f = new(atlas.Errorf(atlas.CodeSourceError, nil, "the tool reported an error").Failure(obs.RequestID))
		}
		return copilot.Observation{Failure: f, RequestID: f.RequestID}
	}
	return obs
}

func readFailure(raw json.RawMessage) *atlas.Failure {
	var f atlas.Failure
	if json.Unmarshal(raw, &f) != nil || f.Code == "" {
		return nil
	}
	return &f
}

// wireFailure returns the failure that a JSON-RPC error speaks of: Atlas's own in its data, or
// "unknown tool or bad arguments" of the protocol.
func wireFailure(err error) (*atlas.Failure, bool) {
	wire, ok := errors.AsType[*jsonrpc.Error](err)
	if !ok {
		return nil, false
	}
	if f := readFailure(wire.Data); f != nil {
		return f, true
	}
	if wire.Code == jsonrpc.CodeInvalidParams {
		return new(atlas.Errorf(atlas.CodeToolNotFound, nil, "").Failure("")), true
	}
	return nil, false
}

func (c *Client) explain(err error) error {
	if c.auth != nil {
		return c.auth.explain(err)
	}
	return failure(err)
}

func failure(err error) error {
	if f, ok := wireFailure(err); ok {
		return &atlas.Error{Code: f.Code, Hint: f.Hint, Err: err, RetryAfter: time.Duration(f.RetryAfterMS) * time.Millisecond}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return atlas.ErrorOf(err)
	}
	return atlas.Errorf(atlas.CodeSourceUnavailable, err, "the MCP server did not answer; is it running, and is the URL right?")
}

// authorize adds the token to each request and remembers why one was refused.
type authorize struct {
	base          http.RoundTripper
	token, tenant string

	mu     sync.Mutex
	status int // of the last refusal: 401, 403, or 0
}

// RoundTrip implements [http.RoundTripper].
func (a *authorize) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context()) // a RoundTripper must not change its request
	req.Header.Set("Authorization", "Bearer "+a.token)
	if a.tenant != "" {
		req.Header.Set("X-Tenant-Id", a.tenant)
	}
	res, err := a.base.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("mcp request: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = 0
	if res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden {
		a.status = res.StatusCode
	}
	return res, nil
}

func (a *authorize) explain(err error) error {
	a.mu.Lock()
	status := a.status
	a.mu.Unlock()
	switch status {
	case http.StatusUnauthorized:
		return atlas.Errorf(atlas.CodeInvalidToken, err, "")
	case http.StatusForbidden:
		return atlas.Errorf(atlas.CodeTenantMismatch, err, "the server refused the token for this tenant; compare ATLAS_TENANT with the token's tenant")
	}
	return failure(err)
}
