package httpfetch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/egress"
	httpfetch "github.com/atlas-mcp/atlas/internal/source/http"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a fetcher behind a real guard that lets acme, and nobody else, reach the server.
func open(t *testing.T, cfg httpfetch.Config, handler http.HandlerFunc) (source.Fetcher, string) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	list, err := egress.ParseAllowlist("allow.yaml", []byte(`acme: [{host: 127.0.0.1, methods: [GET, HEAD, POST]}]`))
	if err != nil {
		t.Fatal(err)
	}
	guard, err := egress.New(egress.Config{
		Ports: []uint16{netip.MustParseAddrPort(server.Listener.Addr().String()).Port()}, AllowAddresses: []string{"127.0.0.0/8"},
	}, list, egress.Deps{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = guard.Close() })
	s, err := cfg.Open(t.Context(), source.Deps{Name: "http", Egress: guard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(source.Fetcher), server.URL
}

func wantCode(t *testing.T, err error, code atlas.Code) {
	t.Helper()
	if got := atlas.CodeOf(err); got != code {
		t.Errorf("got %q (%v), want %q", got, err, code)
	}
}

func TestFetch(t *testing.T) {
	f, url := open(t, httpfetch.Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Server", "secret/1.2")
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprintf(w, "%s %s", r.Method, r.Header.Get("Accept"))
	})
	resp, err := f.Fetch(t.Context(), "acme", source.Request{URL: url + "/x#part", Header: map[string]string{"Accept": "text/plain"}})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Status != http.StatusTeapot || resp.Body != "GET text/plain" || resp.Truncated {
		t.Errorf("%+v", resp)
	}
	if len(resp.Header) != 2 || resp.Header["etag"] != `"v1"` || resp.Header["content-type"] == "" {
		t.Errorf("headers %v", resp.Header)
	}
	resp, err = f.Fetch(t.Context(), "acme", source.Request{Method: "HEAD", URL: url})
	if err != nil || resp.Body != "" || resp.Status != http.StatusTeapot {
		t.Errorf("HEAD: %+v, %v", resp, err)
	}
}

func TestSend(t *testing.T) {
	f, url := open(t, httpfetch.Config{}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("Content-Type"), body)
	})
	resp, err := f.Fetch(t.Context(), "acme", source.Request{Method: "POST", URL: url, Body: []byte(`{"a":1}`)})
	if err != nil || resp.Body != `POST application/json {"a":1}` {
		t.Errorf("%+v, %v", resp, err)
	}
	_, err = f.Fetch(t.Context(), "acme", source.Request{Method: "DELETE", URL: url})
	wantCode(t, err, atlas.CodeHostNotAllowed) // the entry does not name DELETE
}

func TestAnotherTenantIsRefused(t *testing.T) {
	var hits atomic.Int64
	f, url := open(t, httpfetch.Config{}, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	_, err := f.Fetch(t.Context(), "globex", source.Request{URL: url})
	wantCode(t, err, atlas.CodeHostNotAllowed)
	_, other := f.Fetch(t.Context(), "globex", source.Request{URL: "https://not.on.any.list.example/"})
	if a, b := atlas.ErrorOf(err).Failure("r"), atlas.ErrorOf(other).Failure("r"); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("%v and %v tell acme's hosts from others", a, b)
	}
	if hits.Load() != 0 {
		t.Error("the server was reached")
	}
}

func TestBadRequests(t *testing.T) {
	f, url := open(t, httpfetch.Config{}, func(http.ResponseWriter, *http.Request) { t.Error("the server was reached") })
	for name, c := range map[string]struct {
		r    source.Request
		want atlas.Code
	}{
		"method":        {source.Request{Method: "TRACE", URL: url}, atlas.CodeInvalidArguments},
		"connect":       {source.Request{Method: "CONNECT", URL: url}, atlas.CodeInvalidArguments},
		"method breaks": {source.Request{Method: "GET / HTTP/1.1\r\nX: y", URL: url}, atlas.CodeInvalidArguments},
		"url":           {source.Request{URL: "https://%zz"}, atlas.CodeInvalidArguments},
		"url breaks":    {source.Request{URL: url + "/\r\nX: y"}, atlas.CodeInvalidArguments},
		"plain http":    {source.Request{URL: strings.Replace(url, "https", "http", 1)}, atlas.CodeHostNotAllowed},
		"no url":        {source.Request{}, atlas.CodeHostNotAllowed},
		"userinfo":      {source.Request{URL: strings.Replace(url, "https://", "https://u:p@", 1)}, atlas.CodeHostNotAllowed},
		"body of GET":   {source.Request{URL: url, Body: []byte("{}")}, atlas.CodeInvalidArguments},
		"authorization": {source.Request{URL: url, Header: map[string]string{"Authorization": "x"}}, atlas.CodeInvalidArguments},
		"cookie":        {source.Request{URL: url, Header: map[string]string{"cookie": "x"}}, atlas.CodeInvalidArguments},
		"host":          {source.Request{URL: url, Header: map[string]string{"Host": "x"}}, atlas.CodeInvalidArguments},
		"hop by hop":    {source.Request{URL: url, Header: map[string]string{"Connection": "close"}}, atlas.CodeInvalidArguments},
		"header breaks": {source.Request{URL: url, Header: map[string]string{"Accept": "a\r\nX: y"}}, atlas.CodeInvalidArguments},
	} {
		_, err := f.Fetch(t.Context(), "acme", c.r)
		if got := atlas.CodeOf(err); got != c.want {
			t.Errorf("%s: got %q (%v), want %q", name, got, err, c.want)
		}
	}
}

func TestBodies(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(bytes.Repeat([]byte("a"), 10<<20))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		contentType string
		body        []byte
		encoding    string
		want        string // beginning of the body; with code empty
		length      int
		truncated   bool
		code        atlas.Code
	}{
		"exact":         {body: bytes.Repeat([]byte("a"), 100), want: "a", length: 100},
		"one more":      {body: bytes.Repeat([]byte("a"), 101), want: "a", length: 100, truncated: true},
		"gzip bomb":     {contentType: "text/plain", body: zipped.Bytes(), encoding: "gzip", want: "a", length: 100, truncated: true},
		"cut character": {body: []byte(strings.Repeat("a", 99) + "é"), want: "a", length: 99, truncated: true},
		"json":          {contentType: "application/problem+json", body: []byte(`{"a":1}`), want: `{"a":1}`, length: 7},
		"latin 1":       {contentType: "text/html; charset=ISO-8859-1", body: []byte("caf\xe9"), want: "café", length: 5},
		"image":         {contentType: "image/png", body: []byte("\x89PNG"), code: atlas.CodeSourceError},
		"octets":        {contentType: "application/octet-stream", body: []byte("abc"), code: atlas.CodeSourceError},
		"lie":           {contentType: "text/plain", body: []byte("\xff\xfe\x00"), code: atlas.CodeSourceError},
		"nul":           {contentType: "text/plain", body: []byte("a\x00b"), code: atlas.CodeSourceError},
		"bad type":      {contentType: ";;;", body: []byte("a"), code: atlas.CodeSourceError},
		"empty":         {contentType: "image/png", want: "", length: 0},
	} {
		t.Run(name, func(t *testing.T) {
			f, url := open(t, httpfetch.Config{MaxBytes: 100}, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				if c.encoding != "" {
					w.Header().Set("Content-Encoding", c.encoding)
				}
				_, _ = w.Write(c.body)
			})
			resp, err := f.Fetch(t.Context(), "acme", source.Request{URL: url})
			if c.code != "" {
				wantCode(t, err, c.code)
				return
			}
			if err != nil || len(resp.Body) != c.length || !strings.HasPrefix(resp.Body, c.want) || resp.Truncated != c.truncated {
				t.Errorf("%d bytes, %.20q, truncated %v, %v", len(resp.Body), resp.Body, resp.Truncated, err)
			}
		})
	}
}

// The driver stops reading at its limit: an answer without end does not keep it.
func TestEndlessBody(t *testing.T) {
	f, url := open(t, httpfetch.Config{MaxBytes: 1000}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte("a"), 4096)); err != nil {
				return
			}
		}
	})
	resp, err := f.Fetch(t.Context(), "acme", source.Request{URL: url})
	if err != nil || len(resp.Body) != 1000 || !resp.Truncated {
		t.Errorf("%d bytes, truncated %v, %v", len(resp.Body), resp.Truncated, err)
	}
}

func TestTimeoutAndCancel(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte("begun"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	f, url := open(t, httpfetch.Config{Timeout: 50 * time.Millisecond}, hang)
	_, err := f.Fetch(t.Context(), "acme", source.Request{URL: url})
	wantCode(t, err, atlas.CodeTimeout)

	f, url = open(t, httpfetch.Config{}, hang)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = f.Fetch(ctx, "acme", source.Request{URL: url})
	wantCode(t, err, atlas.CodeCanceled)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v is not context.Canceled", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	_, err = f.Fetch(ctx, "acme", source.Request{URL: url})
	if wantCode(t, err, atlas.CodeTimeout); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v is not context.DeadlineExceeded", err)
	}
}

func TestNoServer(t *testing.T) {
	f, url := open(t, httpfetch.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	})
	_, err := f.Fetch(t.Context(), "acme", source.Request{URL: url})
	wantCode(t, err, atlas.CodeSourceUnavailable)
	if hint := atlas.ErrorOf(err).Failure("r").Hint; strings.Contains(hint, "127.0.0.1") || strings.Contains(hint, "EOF") {
		t.Errorf("the hint tells too much: %q", hint)
	}
}

func TestOpenAndClose(t *testing.T) {
	cfg := httpfetch.Config{}
	if _, err := cfg.Open(t.Context(), source.Deps{}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Error("without a guard:", err)
	}
	for _, bad := range []httpfetch.Config{{MaxBytes: -1}, {MaxBytes: 5 << 20}, {Timeout: -1}, {Timeout: 2 * time.Minute}} {
		if bad.Validate() == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	f, url := open(t, cfg, func(http.ResponseWriter, *http.Request) {})
	s := f.(source.Source)
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if s.Ping(t.Context()) == nil {
		t.Error("a closed source answers a ping")
	}
	if _, err := f.Fetch(t.Context(), "acme", source.Request{URL: url}); err == nil {
		t.Error("a closed source fetches")
	}
}
