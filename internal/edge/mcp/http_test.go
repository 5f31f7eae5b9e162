package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

func TestRefusals(t *testing.T) {
	h := newHouse(t, options{cfg: mcp.Config{MaxBody: 4096}, deps: func(d *mcp.Deps) {
		d.Admin = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("admin was reached") })
	}})
	tok := h.token(t, issuer.Claims{})
	good := message(modern, "tools/call", `"name":"echo"`, "")
	set := func(k, v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(k, v) } }
	deep := `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + "}"
	for _, tt := range []struct {
		name   string
		token  string
		body   string
		set    func(*http.Request)
		status int
		code   string // must stand in the body
	}{
		{"no token", "", good, nil, 401, `"error":"missing_token"`},
		{"not a token", "abc", good, nil, 401, `"error":"invalid_token"`},
		{"other scheme", "", good, set("Authorization", "Basic YTpi"), 401, `"error":"missing_token"`},
		{"two headers", tok, good, func(r *http.Request) { r.Header.Add("Authorization", "Bearer "+tok) }, 401, `"error":"invalid_token"`},
		{"token in query", "", good, func(r *http.Request) { r.URL.RawQuery = "access_token=" + tok }, 401, `"error":"invalid_token"`},
		{"token in query too", tok, good, func(r *http.Request) { r.URL.RawQuery = "a;access_token=" + tok }, 401, `"error":"invalid_token"`},
		{"other audience", h.token(t, issuer.Claims{Audience: []string{"https://else.example/mcp"}}), good, nil, 401, `"error":"invalid_token"`},
		{"foreign tenant", tok, good, set("X-Tenant-Id", "globex"), 403, `"error":"tenant_mismatch"`},
		{"tenant that cannot be", tok, good, set("X-Tenant-Id", "../globex"), 403, `"error":"tenant_mismatch"`},
		{"empty tenant", tok, good, set("X-Tenant-Id", ""), 403, `"error":"tenant_mismatch"`},
		{"admin of a foreign tenant", tok, good, func(r *http.Request) { r.URL.Path = "/admin/v1/approvals"; r.Header.Set("X-Tenant-Id", "globex") }, 403, `"tenant_mismatch"`},
		{"rebound host", tok, good, func(r *http.Request) { r.Host = "evil.example" }, 403, `"error":"host_not_allowlisted"`},
		{"host that begins like ours", tok, good, func(r *http.Request) { r.Host = "127.0.0.1.evil.example:80" }, 403, `"error":"host_not_allowlisted"`},
		{"web page", tok, good, set("Origin", "https://evil.example"), 403, `"error":"host_not_allowlisted"`},
		{"page of another port", tok, good, set("Origin", "http://127.0.0.1:1"), 403, `"error":"host_not_allowlisted"`},
		{"opaque origin", tok, good, set("Origin", "null"), 403, `"error":"host_not_allowlisted"`},
		{"too large", tok, `{"x":"` + strings.Repeat("y", 5000) + `"}`, nil, 413, `"error":"too_large"`},
		{"too large, length unknown", tok, `{"x":"` + strings.Repeat("y", 5000) + `"}`, func(r *http.Request) { r.ContentLength = -1; r.Body = io.NopCloser(r.Body) }, 413, `"error":"too_large"`},
		{"GET", tok, "", func(r *http.Request) { r.Method = http.MethodGet }, 405, `"use POST"`},
		{"DELETE", tok, "", func(r *http.Request) { r.Method = http.MethodDelete }, 405, `"use POST"`},
		{"form", tok, "a=b", set("Content-Type", "application/x-www-form-urlencoded"), 415, `"send application/json"`},
		{"text", tok, good, set("Content-Type", "text/plain"), 415, `"send application/json"`},
		{"empty", tok, "", nil, 400, `-32700`},
		{"no JSON", tok, `{"jsonrpc":`, nil, 400, `-32700`},
		{"two values", tok, good + good, nil, 400, `-32700`},
		{"batch", tok, "[" + message(legacy, "tools/list", "", "") + "]", set("MCP-Protocol-Version", "2025-03-26"), 400, `-32600`},
		{"no object", tok, `"hello"`, nil, 400, `-32600`},
		{"method of another type", tok, `{"jsonrpc":"2.0","id":1,"method":5}`, nil, 400, `-32600`},
		{"deep", tok, deep, nil, 400, ``},
		{"header says another method", tok, good, set("Mcp-Method", "tools/list"), 400, `-32020`},
		{"header says another tool", tok, good, set("Mcp-Name", "mail"), 400, `-32020`},
		{"no name in the header", tok, good, func(r *http.Request) { r.Header.Del("Mcp-Name") }, 400, `-32020`},
		{"header says another version", tok, message(legacy, "tools/list", "", `"io.modelcontextprotocol/protocolVersion":"2025-11-25"`), set("MCP-Protocol-Version", modern), 400, `-32020`},
		{"version in the body only", tok, good, func(r *http.Request) { r.Header.Del("MCP-Protocol-Version") }, 400, `-32020`},
		{"version in the header only", tok, message(legacy, "tools/list", "", ""), set("MCP-Protocol-Version", modern), 400, `-32602`},
		{"version of the future", tok, strings.ReplaceAll(good, modern, "2999-01-01"), set("MCP-Protocol-Version", "2999-01-01"), 400, `-32022`},
		{"unknown method", tok, message(modern, "tools/steal", "", ""), nil, 404, `-32601`},
		{"key twice", tok, strings.Replace(good, `"id":7`, `"id":7,"id":8`, 1), nil, 400, `-32600`},
		{"key twice in the parameters", tok, message(modern, "tools/call", `"name":"echo","name":"mail"`, ""), nil, 400, `-32600`},
		{"key twice, spelled otherwise", tok, message(modern, "tools/call", `"name":"echo","n\u0061me":"mail"`, ""), nil, 400, `-32600`},
		{"key twice in _meta", tok, message(modern, "tools/call", `"name":"echo"`, `"a":1,"a":2`), nil, 400, `-32600`},
		{"header twice", tok, good, func(r *http.Request) { r.Header.Add("Mcp-Name", "mail") }, 400, `-32020`},
		{"version twice", tok, good, func(r *http.Request) { r.Header.Add("MCP-Protocol-Version", legacy) }, 400, `-32020`},
		{"name in base64 of another", tok, good, set("Mcp-Name", "=?base64?bWFpbA==?="), 400, `-32020`},
		{"not UTF-8", tok, strings.Replace(good, "echo", "ech\xff", 1), nil, 400, `-32700`},
		{"fractional id", tok, strings.Replace(good, `"id":7`, `"id":7.5`, 1), nil, 400, `-32600`},
		{"null id", tok, strings.Replace(good, `"id":7`, `"id":null`, 1), nil, 400, `-32600`},
		{"call without id", tok, strings.Replace(good, `"id":7,`, ``, 1), nil, 400, `-32600`},
		{"other JSON-RPC", tok, strings.Replace(good, `"2.0"`, `"1.0"`, 1), nil, 400, `-32600`},
		{"positions", tok, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["echo"]}`, nil, 400, `-32602`},
		{"answer to nothing", tok, `{"jsonrpc":"2.0","id":1,"result":{}}`, nil, 404, `-32600`},
		{"reads neither form", tok, good, set("Accept", "text/html"), 406, `accept application/json`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(h.seen())
			status, hd, body := h.post(t, modern, tt.token, tt.body, tt.set)
			if status != tt.status || !strings.Contains(body, tt.code) {
				t.Errorf("got %d %s, want %d %s", status, body, tt.status, tt.code)
			}
			if n := len(h.seen()) - before; n != 0 {
				t.Errorf("%d calls reached the pipeline", n)
			}
			challenge := hd.Get("WWW-Authenticate")
			if status == 401 && (!strings.HasPrefix(challenge, `Bearer realm="atlas"`) ||
				!strings.Contains(challenge, `resource_metadata="http://127.0.0.1:8080/.well-known/oauth-protected-resource/mcp"`) ||
				!strings.Contains(challenge, `scope="tool:crm:read"`) ||
				strings.Contains(challenge, `error="invalid_token"`) == strings.Contains(body, "missing_token")) {
				t.Errorf("challenge %s", challenge)
			}
			if hd.Get("X-Content-Type-Options") != "nosniff" || strings.Contains(body, "goroutine") {
				t.Errorf("headers %v body %s", hd, body)
			}
			if status == 405 && hd.Get("Allow") != "POST" {
				t.Errorf("Allow %q", hd.Get("Allow"))
			}
		})
	}
}

// What is refused before the pipeline is not in its records: the program is told, once each.
func TestRefusalsBeforeThePipelineAreReported(t *testing.T) {
	var (
		mu  sync.Mutex
		got []edge.Refusal
	)
	h := newHouse(t, options{
		refused: func(_ context.Context, r edge.Refusal) { mu.Lock(); defer mu.Unlock(); got = append(got, r) },
		deps: func(d *mcp.Deps) {
			d.Admin = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("admin was reached") })
		},
	})
	good := message(modern, "tools/call", `"name":"echo"`, "")
	tok := h.token(t, issuer.Claims{})
	foreign := func(r *http.Request) { r.Header.Set("X-Tenant-Id", "globex") }
	for _, tt := range []struct {
		name, token string
		set         func(*http.Request)
		want        []string
	}{
		{"good", tok, nil, nil},
		{"no token", "", nil, []string{"missing_token"}},
		{"no token for another tenant", "", foreign, []string{"missing_token"}},
		{"bad token", "abc", nil, []string{"invalid_token"}},
		{"rebound host", tok, func(r *http.Request) { r.Host = "evil.example" }, []string{"host_not_allowlisted"}},
		{"foreign page", tok, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, []string{"host_not_allowlisted"}},
		{"foreign tenant", tok, foreign, []string{"tenant_mismatch ann of acme for globex"}},
		{"foreign tenant's administration", tok, func(r *http.Request) { foreign(r); r.URL.Path = "/admin/v1/approvals" }, []string{"tenant_mismatch ann of acme for globex"}},
	} {
		mu.Lock()
		got = nil
		mu.Unlock()
		h.post(t, modern, tt.token, good, tt.set)
		mu.Lock()
		var said []string
		for _, r := range got {
			line := string(r.Code)
			if r.Caller != nil {
				line += fmt.Sprintf(" %s of %s for %s", r.Caller.Principal.Subject, r.Caller.Principal.Tenant, r.Requested)
			}
			if !edge.IsLoopback(r.RemoteAddr) {
				t.Errorf("%s: from %q", tt.name, r.RemoteAddr)
			}
			said = append(said, line)
		}
		mu.Unlock()
		if diff := cmp.Diff(tt.want, said); diff != "" {
			t.Errorf("%s: reported (-want +got):\n%s", tt.name, diff)
		}
	}
}

// A refused tenant header must not tell whether the tenant is there. Atlas never looks; the test
// holds it to that by the bytes.
func TestForeignTenantsLookAlike(t *testing.T) {
	h := newHouse(t, options{})
	tok := h.token(t, issuer.Claims{})
	answers := make(map[string]bool)
	for _, name := range []string{"globex", "no-such-tenant", "Not A Tenant", strings.Repeat("x", 200)} {
		status, _, body := h.post(t, modern, tok, message(modern, "tools/list", "", ""), func(r *http.Request) { r.Header.Set("X-Tenant-Id", name) })
		var f map[string]any
		if err := json.Unmarshal([]byte(body), &f); err != nil {
			t.Fatal(err)
		}
		delete(f, "request_id")
		answers[fmt.Sprint(status, f)] = true
	}
	if len(answers) != 1 {
		t.Errorf("answers differ: %v", answers)
	}
}

func TestImpersonationIsOnTheCall(t *testing.T) {
	h := newHouse(t, options{})
	tok := h.token(t, issuer.Claims{Scopes: []string{atlas.ScopeImpersonate}})
	if status, _, body := h.post(t, modern, tok, message(modern, "tools/call", `"name":"echo"`, ""), func(r *http.Request) { r.Header.Set("X-Tenant-Id", "globex") }); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	c := h.seen()[0]
	if c.Tenant != "globex" || c.Principal.Tenant != "acme" {
		t.Errorf("tenant %s, principal's %s", c.Tenant, c.Principal.Tenant)
	}
}

func TestAllowedOriginMayPreflight(t *testing.T) {
	const origin = "https://inspector.example"
	h := newHouse(t, options{cfg: mcp.Config{AllowedOrigins: []string{origin}}})
	status, hd, _ := h.post(t, modern, "", "", func(r *http.Request) {
		r.Method = http.MethodOptions
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", "POST")
	})
	if status != 204 || hd.Get("Access-Control-Allow-Origin") != origin || !strings.Contains(hd.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("%d %v", status, hd)
	}
	// Of two origins one may be allowed, and the other be where the request comes from.
	for _, two := range [][]string{{origin, "https://evil.example"}, {"https://evil.example", origin}} {
		if status, hd, _ := h.post(t, modern, h.token(t, issuer.Claims{}), message(modern, "tools/list", "", ""), func(r *http.Request) { r.Header["Origin"] = two }); status != 403 || hd.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%v: %d %v", two, status, hd)
		}
	}
	status, hd, _ = h.post(t, modern, h.token(t, issuer.Claims{}), message(modern, "tools/list", "", ""), func(r *http.Request) { r.Header.Set("Origin", origin) })
	if status != 200 || hd.Get("Access-Control-Allow-Origin") != origin || hd.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("%d %v", status, hd)
	}
}

func TestPublicDocuments(t *testing.T) {
	h := newHouse(t, options{})
	for path, want := range map[string]string{
		"/.well-known/oauth-protected-resource":     `"resource":"http://127.0.0.1:8080/mcp"`,
		"/.well-known/oauth-protected-resource/mcp": `"authorization_servers":["http://127.0.0.1:8080"]`,
		"/.well-known/mcp-server":                   `"protocol_versions":["2026-07-28","2025-11-25"`,
		"/.well-known/jwks.json":                    `"alg":"ES256"`,
		"/.well-known/oauth-authorization-server":   `"jwks_uri":"http://127.0.0.1:8080/.well-known/jwks.json"`,
		"/healthz": `{"status":"ok"}`,
		"/readyz":  `{"status":"ready"}`,
	} {
		status, hd, body := h.get(t, path, nil)
		if status != 200 || !strings.Contains(body, want) || hd.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, status, body)
		}
		for _, secret := range []string{"echo", "secret", `"d":`} {
			if strings.Contains(body, secret) {
				t.Errorf("%s says %s: %s", path, secret, body)
			}
		}
	}
	if status, _, _ := h.get(t, "/metrics", nil); status != 404 {
		t.Errorf("metrics without a handler: %d", status)
	}
}

func TestMetricsAreForThisMachine(t *testing.T) {
	metrics := func(d *mcp.Deps) {
		d.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "atlas_up 1") })
	}
	forwarded := func(r *http.Request) { r.Header.Set("X-Forwarded-For", "203.0.113.9") }
	for _, tt := range []struct {
		who  string
		set  func(*http.Request)
		want int
	}{
		{"", nil, 200},
		{"", forwarded, 404}, // a proxy on this machine
		{"public", forwarded, 200},
		{"none", nil, 404},
	} {
		h := newHouse(t, options{cfg: mcp.Config{Metrics: tt.who}, deps: metrics})
		if status, _, body := h.get(t, "/metrics", tt.set); status != tt.want {
			t.Errorf("%q: %d %s, want %d", tt.who, status, body, tt.want)
		}
	}
}

func TestReadinessNamesWhatFails(t *testing.T) {
	h := newHouse(t, options{deps: func(d *mcp.Deps) {
		d.Checks = map[string]func(context.Context) error{
			"state": func(context.Context) error { return errors.New("dial tcp 10.0.0.7:5432: refused") },
			"crm":   func(context.Context) error { return nil },
		}
	}})
	status, _, body := h.get(t, "/readyz", func(r *http.Request) { r.Host = "10.1.2.3:8080" })
	if status != 503 || body != `{"failing":["state"],"status":"not ready"}` {
		t.Errorf("%d %s", status, body)
	}
}

// A request that is refused for its host or its origin is answered at once, and its connection does not
// wait for the body any longer than another's.
func TestForeignRequestCannotHoldAConnection(t *testing.T) {
	h := newHouse(t, options{cfg: mcp.Config{ReadTimeout: 50 * time.Millisecond}})
	for _, head := range []string{"Host: evil.example", "Host: localhost\r\nOrigin: https://evil.example"} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", h.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil { // rather than hang
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "POST /mcp HTTP/1.1\r\n"+head+"\r\nContent-Length: 10\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 403") || !strings.Contains(string(got), "Connection: close") {
			t.Errorf("%q: %v, %s", head, err, got)
		}
		_ = conn.Close()
	}
}

// A caller who sends his body slowly is told so when his time is over, and his connection is closed.
func TestSlowBodyIsCutOff(t *testing.T) {
	h := newHouse(t, options{cfg: mcp.Config{ReadTimeout: 50 * time.Millisecond}})
	tok := h.token(t, issuer.Claims{})
	for range 2 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", h.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil { // rather than hang
			t.Fatal(err)
		}
		head := "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer " + tok + "\r\nContent-Length: 500\r\n\r\n{\"jsonrpc\""
		if _, err := io.WriteString(conn, head); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn) // until it is closed
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 408") {
			t.Errorf("%v, %s", err, got)
		}
		_ = conn.Close()
	}
	if n := len(h.seen()); n != 0 {
		t.Errorf("%d calls reached the pipeline", n)
	}
}

// A call that lacks scopes is refused with what to ask for, by whichever way it comes: tools by package
// direct, prompts by the SDK (RFC 6750 section 3.1).
func TestStepUp(t *testing.T) {
	h := newHouse(t, options{deps: func(d *mcp.Deps) {
		inner := d.Handler
		d.Handler = func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			if c.Op == atlas.OpCall {
				return atlas.Result{}, atlas.Errorf(atlas.CodeInsufficientScope, errors.New("secret"), "").With("scopes", []string{"tool:secret:read", "tool:crm:read"})
			}
			return inner(ctx, c)
		}
	}})
	tok := h.token(t, issuer.Claims{})
	for _, era := range eras {
		for _, body := range []string{message(era, "tools/call", `"name":"echo"`, ""), message(era, "prompts/get", `"name":"p"`, "")} {
			status, hd, answer := h.post(t, era, tok, body, nil)
			challenge := hd.Get("WWW-Authenticate")
			if status != 403 || !strings.Contains(challenge, `error="insufficient_scope"`) || !strings.Contains(challenge, `scope="tool:secret:read tool:crm:read"`) ||
				!strings.Contains(challenge, `resource_metadata="http://127.0.0.1:8080/.well-known/oauth-protected-resource/mcp"`) {
				t.Errorf("%s %s: %d, challenge %s", era, body, status, challenge)
			}
			var m struct {
				ID    int
				Error struct {
					Code int
					Data atlas.Failure
				}
			}
			if err := json.Unmarshal([]byte(answer), &m); err != nil || m.ID != 7 || m.Error.Code == 0 || m.Error.Data.Code != atlas.CodeInsufficientScope || strings.Contains(answer, "\"secret\"") {
				t.Errorf("%s: %s", era, answer)
			}
		}
		if status, hd, _ := h.post(t, era, tok, message(era, "tools/list", "", ""), nil); status != 200 || hd.Get("WWW-Authenticate") != "" {
			t.Errorf("%s: the next request: %d", era, status)
		}
	}
}

func TestConfigMistakesAreAllNamed(t *testing.T) {
	err := mcp.Config{PublicURL: "ftp://x/", AllowedHosts: []string{"a:1"}, AllowedOrigins: []string{"*"}, Metrics: "all", MaxBody: -1, PageSize: -1, MaxStreams: -1, MaxStreamsTenant: -1, MaxStreamsTotal: -1, DrainTimeout: -1}.Validate()
	for _, key := range []string{"public_url", "allowed_hosts[0]", "allowed_origins[0]", "metrics", "max_body", "page_size", "max_streams:", "max_streams_tenant", "max_streams_total", "drain_timeout"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%q is not in: %v", key, err)
		}
	}
}

// serve runs the house's server on a listener of its own and returns its URL and the way to stop it.
func serve(t *testing.T, h *house) (url string, stop func() error) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.mcp.Run(ctx, ln) }()
	return "http://" + ln.Addr().String(), func() error { cancel(); return <-done }
}

func TestStopLetsCallsFinishAndEndsStreams(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	started, release := make(chan struct{}), make(chan struct{})
	h := newHouse(t, options{serve: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		close(started)
		<-release
		return whoami(ctx, c)
	}})
	h.Close()
	url, stop := serve(t, h)
	h.URL = url
	tok := h.token(t, issuer.Claims{})

	var wg sync.WaitGroup
	subscribed := make(chan struct{})
	wg.Go(func() { // a subscription: it must end with its result
		trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotFirstResponseByte: func() { close(subscribed) }})
		_, hd, body := h.post(t, modern, tok, message(modern, "subscriptions/listen", `"notifications":{"toolsListChanged":true}`, ""),
			func(r *http.Request) { *r = *r.WithContext(trace) })
		if !strings.Contains(body, "notifications/subscriptions/acknowledged") || !strings.Contains(body, `"result":`) {
			t.Errorf("stream: %s", body)
		}
		if hd.Get("X-Accel-Buffering") != "no" || hd.Get("Content-Type") != "text/event-stream" {
			t.Errorf("stream: %v", hd)
		}
	})
	wg.Go(func() {
		status, _, body := h.post(t, modern, tok, message(modern, "tools/call", `"name":"echo"`, ""), nil)
		if status != 200 || !strings.Contains(body, `"subject":"ann"`) {
			t.Errorf("running call: %d %s", status, body)
		}
	})
	<-started
	<-subscribed
	wg.Go(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "connections are refused", func() bool {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	wg.Wait()
	h.Client().CloseIdleConnections()
}

func TestStopCutsOffWhatDoesNotFinish(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	h := newHouse(t, options{
		cfg: mcp.Config{DrainTimeout: 10 * time.Millisecond}, deps: func(d *mcp.Deps) { d.Log = nil },
		serve: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
			close(started)
			<-ctx.Done()
			close(ended)
			return atlas.Result{}, ctx.Err()
		},
	})
	url, stop := serve(t, h)
	var wg sync.WaitGroup
	wg.Go(func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/mcp", strings.NewReader(message(legacy, "tools/call", `"name":"echo"`, "")))
		req.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Authorization": {"Bearer " + h.token(t, issuer.Claims{})}}
		if resp, err := h.Client().Do(req); err == nil {
			_ = resp.Body.Close()
		}
	})
	<-started
	if err := stop(); err != nil {
		t.Error(err)
	}
	<-ended
	wg.Wait()
}

// listen opens a subscription, which ends with ctx.
func (h *house) listen(ctx context.Context, t *testing.T, tok string) *http.Response {
	t.Helper()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+"/mcp", strings.NewReader(message(modern, "subscriptions/listen", `"notifications":{"toolsListChanged":true}`, "")))
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {modern},
		"Mcp-Method": {"subscriptions/listen"}, "Authorization": {"Bearer " + tok},
	}
	resp, err := h.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// first reads what a stream says first.
func first(resp *http.Response) string {
	buf := make([]byte, 4096)
	n, _ := resp.Body.Read(buf)
	return string(buf[:n])
}

// Many callers with a stream each are bounded too, first those of one tenant, then all; and what the
// refused one reads does not tell which bound it was.
func TestSubscriptionsOfManyCallersAreBounded(t *testing.T) {
	h := newHouse(t, options{cfg: mcp.Config{MaxStreamsTenant: 2, MaxStreamsTotal: 3}})
	var closers []func()
	subscribe := func(tenant atlas.TenantID, subject string) string {
		ctx, cancel := context.WithCancel(t.Context())
		resp := h.listen(ctx, t, h.token(t, issuer.Claims{Tenant: tenant, Subject: subject})) //nolint:bodyclose // by closers
		closers = append(closers, func() { cancel(); _ = resp.Body.Close() })
		return first(resp)
	}
	defer func() {
		for _, c := range closers {
			c()
		}
	}()
	for _, tt := range []struct {
		tenant        atlas.TenantID
		subject, want string
	}{
		{"acme", "a", "acknowledged"},
		{"acme", "b", "acknowledged"},
		{"acme", "c", "rate_limited"},
		{"globex", "a", "acknowledged"},
	} {
		if got := subscribe(tt.tenant, tt.subject); !strings.Contains(got, tt.want) {
			t.Fatalf("%v: %s", tt, got)
		}
	}
	ids := regexp.MustCompile(`req_\w+`)
	byTenant, byTotal := ids.ReplaceAllString(subscribe("acme", "d"), ""), ids.ReplaceAllString(subscribe("globex", "b"), "")
	if !strings.Contains(byTotal, "rate_limited") || byTenant != byTotal {
		t.Errorf("at the bound of a tenant: %s\nat the bound of all: %s", byTenant, byTotal)
	}
	closers[0]()
	eventually(t, "the place is free again", func() bool { return strings.Contains(subscribe("acme", "e"), "acknowledged") })
	if got := subscribe("globex", "c"); !strings.Contains(got, "rate_limited") {
		t.Errorf("a place was given away twice: %s", got)
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	h := newHouse(t, options{cfg: mcp.Config{MaxStreams: 1}})
	listen := func(tok string, ctx context.Context) *http.Response { return h.listen(ctx, t, tok) }
	read := first
	ctx, cancel := context.WithCancel(t.Context())
	opened := listen(h.token(t, issuer.Claims{}), ctx)
	if got := read(opened); !strings.Contains(got, "acknowledged") {
		t.Fatal(got)
	}
	second := listen(h.token(t, issuer.Claims{}), t.Context())
	if got := read(second); !strings.Contains(got, "rate_limited") {
		t.Errorf("second stream of a caller: %s", got)
	}
	_ = second.Body.Close()
	other, stopOther := context.WithCancel(t.Context())
	third := listen(h.token(t, issuer.Claims{Tenant: "globex"}), other)
	if got := read(third); !strings.Contains(got, "acknowledged") {
		t.Errorf("stream of another caller: %s", got)
	}
	stopOther()
	_ = third.Body.Close()
	cancel()
	_ = opened.Body.Close()
	eventually(t, "the place is free again", func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		resp := listen(h.token(t, issuer.Claims{}), ctx)
		defer func() { _ = resp.Body.Close() }()
		return strings.Contains(read(resp), "acknowledged")
	})
}

// A stream must not outlive the token that opened it.
func TestSubscriptionEndsWithItsToken(t *testing.T) {
	h := newHouse(t, options{})
	tok := h.token(t, issuer.Claims{TTL: time.Second})
	_, _, body := h.post(t, modern, tok, message(modern, "subscriptions/listen", `"notifications":{"toolsListChanged":true}`, ""), nil)
	if !strings.Contains(body, `"result":`) {
		t.Errorf("stream: %s", body)
	}
}

func TestDiscoverIsPrivate(t *testing.T) {
	h := newHouse(t, options{})
	_, _, body := h.post(t, modern, h.token(t, issuer.Claims{}), message(modern, "server/discover", "", ""), nil)
	var msg struct{ Result sdk.DiscoverResult }
	if err := json.Unmarshal([]byte(body), &msg); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("private", msg.Result.CacheScope); diff != "" || !strings.Contains(msg.Result.Instructions, "Atlas") {
		t.Errorf("discover: %s", body)
	}
}

func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{message(modern, "tools/call", `"name":"echo","arguments":{"x":"y"}`, ""), message(legacy, "tools/list", `"cursor":"x"`, ""), `{}`, `[]`, `{"method":"notifications/cancelled","params":{"requestId":{}}}`, "\x00", `{"jsonrpc":"2.0","id":{},"method":"tools/call","params":null}`} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, body string, newEra bool) {
		h := newHouse(t, options{})
		era := legacy
		if newEra {
			era = modern
		}
		status, _, answer := h.post(t, era, h.token(t, issuer.Claims{}), body, func(r *http.Request) {
			for k, v := range r.Header {
				r.Header.Set(k, strings.Map(func(c rune) rune {
					if c < 0x20 || c > 0x7e {
						return -1
					}
					return c
				}, v[0]))
			}
		})
		if status >= 500 {
			t.Errorf("%d %s", status, answer)
		}
	})
}
