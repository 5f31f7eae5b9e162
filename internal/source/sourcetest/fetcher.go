package sourcetest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A FetchTarget is what a Fetcher under test may reach: hosts of the suite's server.
type FetchTarget struct {
	// Hosts are the names that each tenant may reach, with https and the usual port.
	Hosts map[atlas.TenantID][]string
	// Client reaches the suite's server under every name and trusts it. The harness puts its
	// transport where the driver's own would connect.
	Client *http.Client
	// MaxBytes is how much of a body the source may give: the harness configures it.
	MaxBytes int
}

const fetchMax = 4096

var fetcherSuite = suite{
	open: func(t *testing.T, h Harness) source.Source { t.Helper(); return openFetch(t, h) },
	has:  func(s source.Source) bool { _, ok := s.(source.Fetcher); return ok },
	call: func(ctx context.Context, src source.Source, tenant atlas.TenantID) error {
		_, err := src.(source.Fetcher).Fetch(ctx, tenant, source.Request{URL: "https://shared.example.com/echo"})
		return err
	},
	laws: []law{
		{"Fetch", "a request reaches its host with method, headers and JSON body, and gives status, body and a few safe headers", fetchEcho},
		{"Status", "an answer of any status is an answer", fetchStatus},
		{"Truncated", "at most the configured bytes of a body come, and Truncated tells that there were more", fetchTruncated},
		{"Invalid", "a request that is no request is invalid_arguments", fetchInvalid},
		{"Headers", "hop-by-hop and credential headers are refused", fetchHeaders},
		{"Host", "a host that is not on the tenant's list is host_not_allowlisted, whatever tricks its URL plays", fetchHost},
		{"Redirect", "a redirect is followed, if at all, only to hosts on the tenant's list", fetchRedirect},
		{"Slow", "a request ends with its context, before and in the middle of the answer", fetchSlow},
		{"Broken", "a connection that breaks is source_unavailable and tells nothing", fetchBroken},
		{"Isolation", "what only another tenant may reach is answered exactly like what nobody may", fetchIsolation},
		{"Together", "two tenants at once each reach their own", fetchTogether},
	},
}

// openFetch opens a source whose tenants reach the suite's server.
func openFetch(t *testing.T, h Harness) source.Source {
	t.Helper()
	if h.OpenFetch == nil {
		t.Fatal("the harness has no OpenFetch")
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(answer))
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	roots := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	tr := &http.Transport{
		// The test certificate is for example.com.
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, srv.Listener.Addr().String())
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	src := h.OpenFetch(t, FetchTarget{
		Hosts: map[atlas.TenantID][]string{
			A: {"shared.example.com", "a.example.com"},
			B: {"shared.example.com", "b.example.com"},
		},
		Client:   &http.Client{Transport: tr},
		MaxBytes: fetchMax,
	})
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return src
}

// answer is the suite's server.
func answer(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/echo":
		var body json.RawMessage
		_ = json.NewDecoder(r.Body).Decode(&body) // no body is none
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Set-Cookie", "session="+Marker)
		w.Header().Set("X-Internal", Marker)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"method": r.Method, "host": r.Host, "query": r.URL.RawQuery, "header": r.Header, "body": body,
		})
	case "/status":
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write([]byte("short and stout"))
	case "/large":
		_, _ = w.Write([]byte(strings.Repeat("x", fetchMax+1)))
	case "/full":
		_, _ = w.Write([]byte(strings.Repeat("x", fetchMax)))
	case "/redirect":
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound) //nolint:gosec // that is the attack
	case "/loop":
		http.Redirect(w, r, "/loop", http.StatusFound)
	case "/hang":
		<-r.Context().Done()
	case "/drip":
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte("first"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case "/broken":
		panic(http.ErrAbortHandler)
	default:
		http.NotFound(w, r)
	}
}

func fetch(t *testing.T, src source.Source, tenant atlas.TenantID, r source.Request) source.Response {
	t.Helper()
	resp, err := src.(source.Fetcher).Fetch(t.Context(), tenant, r)
	if err != nil {
		t.Fatalf("fetch %s: %v", r.URL, err)
	}
	return resp
}

func fetchErr(t *testing.T, src source.Source, tenant atlas.TenantID, r source.Request) error {
	t.Helper()
	resp, err := src.(source.Fetcher).Fetch(t.Context(), tenant, r)
	if err == nil {
		t.Errorf("fetch %s %q: got status %d, %.100q", r.Method, r.URL, resp.Status, resp.Body)
	}
	return err
}

// An echo is what the suite's server saw.
type echo struct {
	Method, Host, Query string
	Header              http.Header
	Body                any
}

func echoed(t *testing.T, r source.Response) echo {
	t.Helper()
	var e echo
	if err := json.Unmarshal([]byte(r.Body), &e); err != nil {
		t.Fatalf("%v in %q", err, r.Body)
	}
	return e
}

func fetchEcho(t *testing.T, h Harness) {
	src := openFetch(t, h)
	resp := fetch(t, src, A, source.Request{URL: "https://a.example.com/echo?q=1&q=2", Header: map[string]string{"Accept-Language": "de"}})
	got := echoed(t, resp)
	if resp.Status != http.StatusOK || got.Method != http.MethodGet || got.Host != "a.example.com" || got.Query != "q=1&q=2" || got.Header.Get("Accept-Language") != "de" {
		t.Errorf("got %d %+v", resp.Status, got)
	}
	for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization", "X-Forwarded-For", "Referer"} {
		if v := got.Header.Get(name); v != "" {
			t.Errorf("the server was sent %s: %s", name, v)
		}
	}
	header := map[string]string{}
	for k, v := range resp.Header {
		header[strings.ToLower(k)] = v
	}
	if header["content-type"] != "application/json" || header["etag"] != `"1"` || strings.Contains(text(t, resp), Marker) {
		t.Errorf("headers %v", resp.Header)
	}
	got = echoed(t, fetch(t, src, A, source.Request{Method: http.MethodPost, URL: "https://a.example.com/echo", Body: json.RawMessage(`{"a":[1,"ü"]}`)}))
	if got.Method != http.MethodPost || got.Header.Get("Content-Type") != "application/json" || text(t, got.Body) != `{"a":[1,"ü"]}` {
		t.Errorf("got %+v", got)
	}
}

func fetchStatus(t *testing.T, h Harness) {
	src := openFetch(t, h)
	if got := fetch(t, src, A, source.Request{URL: "https://a.example.com/status"}); got.Status != http.StatusTeapot || got.Body != "short and stout" {
		t.Errorf("got %+v", got)
	}
	if got := fetch(t, src, A, source.Request{URL: "https://a.example.com/nosuch"}); got.Status != http.StatusNotFound {
		t.Errorf("got %+v", got)
	}
}

func fetchTruncated(t *testing.T, h Harness) {
	src := openFetch(t, h)
	if got := fetch(t, src, A, source.Request{URL: "https://a.example.com/full"}); len(got.Body) != fetchMax || got.Truncated {
		t.Errorf("full: got %d bytes, truncated %v", len(got.Body), got.Truncated)
	}
	if got := fetch(t, src, A, source.Request{URL: "https://a.example.com/large"}); len(got.Body) != fetchMax || !got.Truncated {
		t.Errorf("large: got %d bytes, truncated %v", len(got.Body), got.Truncated)
	}
}

func fetchInvalid(t *testing.T, h Harness) {
	src := openFetch(t, h)
	for _, r := range []source.Request{
		{},
		{URL: "::"},
		{URL: "a.example.com/echo"},
		{URL: "/echo"},
		{URL: "https://"},
		{URL: "https:///echo"},
		{URL: "https://a.example.com/\x00"},
		{URL: "ftp://a.example.com/echo"},
		{URL: "file:///etc/passwd"},
		{URL: "https://user:secret@a.example.com/echo"}, //nolint:gosec // made up
		{URL: "https://a.example.com/echo", Method: "BREW COFFEE"},
		{URL: "https://a.example.com/echo", Method: "CONNECT"},
		{URL: "https://a.example.com/echo", Method: "TRACE"},
		{URL: "https://a.example.com/echo", Header: map[string]string{"Bad Name": "x"}},
		{URL: "https://a.example.com/echo", Header: map[string]string{"X-A": "x\r\nX-B: y"}},
	} {
		// That https is wanted is also a matter of the allowlist.
		refused(t, fetchErr(t, src, A, r), atlas.CodeInvalidArguments, atlas.CodeHostNotAllowed)
	}
}

func fetchHeaders(t *testing.T, h Harness) {
	src := openFetch(t, h)
	for _, name := range []string{
		"Authorization", "authorization", "Cookie", "Proxy-Authorization", "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer",
		"Transfer-Encoding", "Upgrade", "Host", "Content-Length",
	} {
		r := source.Request{URL: "https://a.example.com/echo", Header: map[string]string{name: "x"}}
		refused(t, fetchErr(t, src, A, r), atlas.CodeInvalidArguments)
	}
}

func fetchHost(t *testing.T, h Harness) {
	src := openFetch(t, h)
	for _, u := range []string{
		"https://evil.example.com/echo", "https://a.example.com.evil.test/echo", "https://evila.example.com/echo", "https://x.a.example.com/echo",
		"https://example.com/echo", "http://a.example.com/echo", "https://a.example.com:8443/echo", "https://127.0.0.1/echo", "https://[::1]/echo",
		"https://169.254.169.254/latest/meta-data/", "https://2130706433/echo", "https://0x7f.1/echo", "https://localhost/echo",
		"https://evil.example.com#@a.example.com/echo", "https://evil.example.com?@a.example.com/echo", `https://evil.example.com\@a.example.com/echo`,
		"https://a.example.com@evil.example.com/echo", "https://a.example.com%2eevil.test/echo", "https://а.example.com/echo", // a Cyrillic letter
	} {
		refused(t, fetchErr(t, src, A, source.Request{URL: u}), atlas.CodeHostNotAllowed, atlas.CodeInvalidArguments)
	}
	refused(t, fetchErr(t, src, Nobody, source.Request{URL: "https://shared.example.com/echo"}), atlas.CodeHostNotAllowed)
}

func fetchRedirect(t *testing.T, h Harness) {
	src := openFetch(t, h)
	at := func(to string) source.Request { return source.Request{URL: "https://a.example.com/redirect?to=" + to} }
	for _, to := range []string{"https://b.example.com/echo", "https://evil.example.com/echo", "http://a.example.com/echo", "https://127.0.0.1/echo", "file:///etc/passwd"} {
		resp, err := src.(source.Fetcher).Fetch(t.Context(), A, at(to))
		if err != nil {
			refused(t, err, atlas.CodeHostNotAllowed, atlas.CodeInvalidArguments)
		} else if resp.Status != http.StatusFound {
			t.Errorf("followed to %s: %d %.100q", to, resp.Status, resp.Body)
		}
	}
	resp, err := src.(source.Fetcher).Fetch(t.Context(), A, at("https://shared.example.com/echo"))
	if err != nil || resp.Status != http.StatusOK && resp.Status != http.StatusFound {
		t.Errorf("to an allowed host: %+v, %v", resp, err)
	}
	resp, err = src.(source.Fetcher).Fetch(t.Context(), A, source.Request{URL: "https://a.example.com/loop"})
	if err != nil {
		refused(t, err, atlas.CodeSourceError, atlas.CodeSourceUnavailable, atlas.CodeHostNotAllowed)
	} else if resp.Status != http.StatusFound {
		t.Errorf("loop: %+v", resp)
	}
}

func fetchSlow(t *testing.T, h Harness) {
	src := openFetch(t, h)
	for _, path := range []string{"/hang", "/drip"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := src.(source.Fetcher).Fetch(ctx, A, source.Request{URL: "https://a.example.com" + path})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want the deadline", path, err)
		}
		refused(t, err, atlas.CodeTimeout)
		ctx, cancel = context.WithCancel(t.Context())
		timer := time.AfterFunc(50*time.Millisecond, cancel)
		_, err = src.(source.Fetcher).Fetch(ctx, A, source.Request{URL: "https://a.example.com" + path})
		timer.Stop()
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want the cancellation", path, err)
		}
		refused(t, err, atlas.CodeCanceled)
	}
}

func fetchBroken(t *testing.T, h Harness) {
	src := openFetch(t, h)
	seen := refused(t, fetchErr(t, src, A, source.Request{URL: "https://a.example.com/broken"}), atlas.CodeSourceUnavailable)
	if strings.Contains(seen, "EOF") || strings.Contains(seen, "a.example.com") {
		t.Errorf("callers are told %s", seen)
	}
}

func fetchIsolation(t *testing.T, h Harness) {
	src := openFetch(t, h)
	for _, path := range []string{"/echo", "/nosuch", "/broken", "/status"} {
		only := refused(t, fetchErr(t, src, B, source.Request{URL: "https://a.example.com" + path}), atlas.CodeHostNotAllowed)
		none := refused(t, fetchErr(t, src, B, source.Request{URL: "https://z.example.com" + path}), atlas.CodeHostNotAllowed)
		if only != strings.ReplaceAll(none, "z.example.com", "a.example.com") {
			t.Errorf("%s: A's host and nobody's host differ for B:\n%s\n%s", path, only, none)
		}
	}
	got := echoed(t, fetch(t, src, B, source.Request{URL: "https://shared.example.com/echo"}))
	if s := fmt.Sprint(got.Header); strings.Contains(s, string(A)) {
		t.Errorf("the server was sent %s", s)
	}
}

func fetchTogether(t *testing.T, h Harness) {
	src := openFetch(t, h)
	hosts := map[atlas.TenantID]string{A: "a.example.com", B: "b.example.com"}
	together(t, func(tenant atlas.TenantID, _ int) {
		resp, err := src.(source.Fetcher).Fetch(t.Context(), tenant, source.Request{URL: "https://" + hosts[tenant] + "/echo"})
		if err != nil || !strings.Contains(resp.Body, hosts[tenant]) {
			t.Errorf("%s: got %+v, %v", tenant, resp, err)
		}
		if _, err := src.(source.Fetcher).Fetch(t.Context(), tenant, source.Request{URL: "https://" + hosts[other(tenant)] + "/echo"}); atlas.CodeOf(err) != atlas.CodeHostNotAllowed {
			t.Errorf("%s reached %s: %v", tenant, hosts[other(tenant)], err)
		}
	})
}
