package qdrant_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/qdrant"
	"github.com/atlas-mcp/atlas/internal/source/qdrant/qdranttest"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	acme   = sourcetest.A
	globex = sourcetest.B
)

// serve serves h on loopback until the test ends.
func serve(tb testing.TB, h http.Handler) string {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(s.Close)
	return s.URL
}

// fake is an empty server without a key.
func fake(tb testing.TB) string { tb.Helper(); return serve(tb, &qdranttest.Server{}) }

func open(tb testing.TB, cfg qdrant.Config, embed source.Embedder, log io.Writer) source.Source {
	tb.Helper()
	deps := source.Deps{Name: "kb", Embed: embed}
	if log != nil {
		deps.Log = slog.New(slog.NewTextHandler(log, nil))
	}
	if err := cfg.Migrate(tb.Context(), deps); err != nil {
		tb.Fatal(err)
	}
	return openOnly(tb, cfg, deps)
}

func openOnly(tb testing.TB, cfg qdrant.Config, deps source.Deps) source.Source {
	tb.Helper()
	src, err := cfg.Open(tb.Context(), deps)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := src.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return src
}

func load(tb testing.TB, src source.Source, tenant atlas.TenantID, docs ...source.Document) error {
	tb.Helper()
	return src.(source.Loader).Load(tb.Context(), tenant, source.Data{Documents: docs})
}

func ask(tb testing.TB, src source.Source, tenant atlas.TenantID, n source.Nearest) (source.Hits, error) {
	tb.Helper()
	return src.(source.VectorIndex).Nearest(tb.Context(), tenant, n)
}

// company loads the suites' data.
func company(tb testing.TB, src source.Source) {
	tb.Helper()
	for tenant, d := range sourcetest.Company() {
		if err := load(tb, src, tenant, d.Documents...); err != nil {
			tb.Fatal(err)
		}
	}
}

// seen is what a caller is told of err.
func seen(tb testing.TB, err error) string {
	tb.Helper()
	data, e := json.Marshal(atlas.ErrorOf(err).Failure("req_1"))
	if e != nil {
		tb.Fatal(e)
	}
	return string(data)
}

// each runs fn on the strict fake and on a server that is not ours: a real one, or edge.py on Qdrant's
// own engine. fn is given what makes a configuration of a fresh collection there.
func each(t *testing.T, fn func(t *testing.T, fresh func(t *testing.T) qdrant.Config)) {
	t.Helper()
	t.Run("fake", func(t *testing.T) {
		fn(t, func(t *testing.T) qdrant.Config {
			t.Helper()
			s := &qdranttest.Server{APIKey: sourcetest.Marker, ReadAPIKey: "read-" + sourcetest.Marker}
			return qdrant.Config{URL: serve(t, s), APIKey: s.ReadAPIKey, LoadAPIKey: s.APIKey, Collection: sourcetest.Marker, Consistency: "majority"}
		})
	})
	t.Run("server", func(t *testing.T) {
		base := testenv.URL(t, testenv.Qdrant)
		fn(t, func(t *testing.T) qdrant.Config {
			t.Helper()
			name := sourcetest.Marker + "-" + uuid.NewString()
			t.Cleanup(func() { send(t, http.MethodDelete, base+"/collections/"+name, "") })
			return qdrant.Config{URL: base, Collection: name}
		})
	})
}

func TestContract(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) qdrant.Config) {
		sourcetest.Run(t, sourcetest.Harness{
			OpenEmbed: func(t *testing.T, embed source.Embedder, data map[atlas.TenantID]source.Data) source.Source {
				t.Helper()
				return sourcetest.Load(t, open(t, fresh(t), embed, nil), data)
			},
		}, sourcetest.VectorIndex)
	})
}

func TestValidate(t *testing.T) {
	bad := qdrant.Config{
		URL: "ftp://x", APIKey: "a b", LoadAPIKey: "c\nd", Collection: "../other", Consistency: "most", Replicas: -1, Shards: -1, MaxK: 1001,
		MaxTextBytes: -1, MaxDocumentBytes: -1, MaxAnswerBytes: -1, MaxConns: -1, Timeout: -1,
	}
	err := bad.Validate()
	for _, key := range []string{
		"url", "api_key", "load_api_key", "collection", "consistency", "replicas", "shards", "max_k", "max_text_bytes", "max_document_bytes",
		"max_answer_bytes", "max_conns", "timeout",
	} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
	for _, tc := range []struct {
		cfg qdrant.Config
		ok  bool
	}{
		{qdrant.Config{}, false},
		{qdrant.Config{URL: "https://user:pw@q:6333"}, false},
		{qdrant.Config{URL: "https://q:6333/?api-key=x"}, false},
		{qdrant.Config{URL: "https://q:6333", APIKey: "k"}, true},
		{qdrant.Config{URL: "http://q:6333"}, true},
		{qdrant.Config{URL: "http://q:6333", APIKey: "k"}, false},
		{qdrant.Config{URL: "http://q:6333", LoadAPIKey: "k"}, false},
		{qdrant.Config{URL: "http://q:6333", APIKey: "k", AllowHTTP: true}, true},
		{qdrant.Config{URL: "http://127.0.0.1:6333", APIKey: "k"}, true},
		{qdrant.Config{URL: "http://[::1]:6333", APIKey: "k"}, true},
		{qdrant.Config{URL: "http://127.0.0.1.evil.example", APIKey: "k"}, false},
		{qdrant.Config{URL: "https://q", Consistency: "2"}, true},
		{qdrant.Config{URL: "https://q", Consistency: "0"}, false},
	} {
		if err := tc.cfg.Validate(); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc.cfg, err)
		}
	}
}

func TestOpen(t *testing.T) {
	base := fake(t)
	for name, tc := range map[string]struct {
		cfg  qdrant.Config
		deps source.Deps
	}{
		"no embedder":         {qdrant.Config{URL: base}, source.Deps{Name: "kb"}},
		"name is no name":     {qdrant.Config{URL: base}, source.Deps{Name: "../kb", Embed: sourcetest.Embedder{}}},
		"no such certificate": {qdrant.Config{URL: base, CAFile: "testdata/none.pem"}, source.Deps{Name: "kb", Embed: sourcetest.Embedder{}}},
		"no certificate":      {qdrant.Config{URL: base, CAFile: "qdrant_test.go"}, source.Deps{Name: "kb", Embed: sourcetest.Embedder{}}},
	} {
		if _, err := tc.cfg.Open(t.Context(), tc.deps); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// send sends a request to Qdrant's API as an operator would.
func send(tb testing.TB, method, url, body string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(tb.Context()), method, url, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatalf("%s %s: %v, %v", method, url, resp, err)
	}
	_ = resp.Body.Close()
}

// What is wrong with a collection is told at the start, all at once, with what mends it, and nothing
// is changed in a collection that is not ours.
func TestOtherCollections(t *testing.T) {
	deps := source.Deps{Name: "kb", Embed: sourcetest.Embedder{}}
	for name, tc := range map[string]struct {
		create, index string
		want          []string
		mends         bool
	}{
		"none":      {"", "", []string{"does not exist", "atlas migrate"}, true},
		"dimension": {`{"vectors":{"size":16,"distance":"Cosine"}}`, "", []string{"dimension 16", "suite-32", "tenant_id", "terms", "atlas migrate"}, false},
		"index":     {`{"vectors":{"size":32,"distance":"Cosine"}}`, `{"field_name":"terms","field_schema":"keyword"}`, []string{"tenant_id", "atlas migrate"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			base := fake(t)
			cfg := qdrant.Config{URL: base}
			if tc.create != "" {
				send(t, http.MethodPut, base+"/collections/kb", tc.create)
			}
			if tc.index != "" {
				send(t, http.MethodPut, base+"/collections/kb/index", tc.index)
			}
			_, err := cfg.Open(t.Context(), deps)
			for _, want := range tc.want {
				if atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), want) {
					t.Errorf("Open: %v; does not say %q", err, want)
				}
			}
			if err := cfg.Migrate(t.Context(), deps); (err == nil) != tc.mends {
				t.Errorf("Migrate: %v", err)
			}
			if !tc.mends {
				return
			}
			company(t, openOnly(t, cfg, deps))
		})
	}
}

// A collection that is made anew under a running source, with another dimension, is noticed by the
// next calls and refused; when it is mended, calls come through again.
func TestChangedUnderway(t *testing.T) {
	base := fake(t)
	src := open(t, qdrant.Config{URL: base}, sourcetest.Embedder{}, nil)
	company(t, src)
	send(t, http.MethodDelete, base+"/collections/kb", "")
	send(t, http.MethodPut, base+"/collections/kb", `{"vectors":{"size":16,"distance":"Cosine"}}`)
	if _, err := ask(t, src, acme, source.Nearest{Text: "refund"}); err == nil {
		t.Error("the first call succeeded")
	}
	_, err := ask(t, src, acme, source.Nearest{Text: "refund"})
	if atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "dimension 16") {
		t.Errorf("got %v", err)
	}
	if err := src.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("Ping: %v", err)
	}
	send(t, http.MethodDelete, base+"/collections/kb", "")
	company(t, open(t, qdrant.Config{URL: base}, sourcetest.Embedder{}, nil))
	if err := src.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v", err)
	}
	if got, err := ask(t, src, acme, source.Nearest{Text: "refund"}); err != nil || len(got.Hits) == 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

// A server that is down at the start is found when it is up; until then no search is sent.
func TestDownAtTheStart(t *testing.T) {
	var up atomic.Bool
	s := &qdranttest.Server{}
	base := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			if r.Method != http.MethodGet {
				t.Errorf("%s %s before the check", r.Method, r.URL)
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		s.ServeHTTP(w, r)
	}))
	deps := source.Deps{Name: "kb", Embed: sourcetest.Embedder{}}
	src := openOnly(t, qdrant.Config{URL: base}, deps)
	_, err := ask(t, src, acme, source.Nearest{Text: "refund"})
	for _, err := range []error{err, src.Ping(t.Context())} {
		if atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
			t.Errorf("got %v", err)
		}
	}
	up.Store(true)
	if err := (&qdrant.Config{URL: base}).Migrate(t.Context(), deps); err != nil {
		t.Fatal(err)
	}
	company(t, src)
	if got, err := ask(t, src, acme, source.Nearest{Text: "refund"}); err != nil || len(got.Hits) == 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

// A server that breaks off connections under load gives no wrong answer, and is used again at once
// when it is back.
func TestBreaksOff(t *testing.T) {
	s := &qdranttest.Server{}
	var n atomic.Int64
	var down atomic.Bool
	src := open(t, qdrant.Config{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() && n.Add(1)%3 > 0 {
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, r)
			body := rec.Body.Bytes()
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body[:len(body)/2]) // and no more of it
			panic(http.ErrAbortHandler)
		}
		s.ServeHTTP(w, r)
	}))}, sourcetest.Embedder{}, nil)
	company(t, src)
	down.Store(true)
	var failed, answered atomic.Int64
	var wg sync.WaitGroup
	for _, tenant := range []atlas.TenantID{acme, globex, acme, globex} {
		wg.Go(func() {
			for range 50 {
				got, err := ask(t, src, tenant, source.Nearest{Text: "refund", K: 50})
				switch {
				case err == nil && len(got.Hits) == 5:
					answered.Add(1)
				case atlas.CodeOf(err) == atlas.CodeSourceUnavailable:
					failed.Add(1)
				default:
					t.Errorf("%s: %v, %v", tenant, got, err)
				}
				for _, h := range got.Hits {
					if title, _ := h.Fields["title"].(string); !strings.Contains(title, "belongsto"+string(tenant)) {
						t.Errorf("%s is given %v", tenant, h)
					}
				}
			}
		})
	}
	wg.Wait()
	if failed.Load() == 0 || answered.Load() == 0 {
		t.Errorf("%d failed, %d answered", failed.Load(), answered.Load())
	}
	down.Store(false)
	if got, err := ask(t, src, acme, source.Nearest{Text: "refund", K: 50}); err != nil || len(got.Hits) != 5 {
		t.Errorf("back again: %v, %v", got, err)
	}
}

// A tamperer is a proxy that changes what is sent.
type tamperer struct {
	proxy  *httputil.ReverseProxy
	change atomic.Pointer[func(path string, body []byte) []byte]
}

func (p *tamperer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if change := p.change.Load(); change != nil {
		body = (*change)(r.URL.Path, body)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	p.proxy.ServeHTTP(w, r)
}

func tamper(t *testing.T, base string) (*tamperer, string) {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	p := &tamperer{proxy: &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}}
	return p, serve(t, p)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The tenant filter is taken out on the way, in several ways: what comes back is caught by the
// second wall, nothing of it is given, and the log says so. This is also the proof that the filter
// is what keeps tenants apart: without it, foreign points do come.
func TestSecondWall(t *testing.T) {
	const tenantCondition = `{"key":"tenant_id","match":{"value":"globex"}}`
	replace := func(from, to string) func(string, []byte) []byte {
		return func(_ string, body []byte) []byte { return bytes.ReplaceAll(body, []byte(from), []byte(to)) }
	}
	for name, change := range map[string]func(string, []byte) []byte{
		"condition stripped": func(_ string, body []byte) []byte {
			body = bytes.ReplaceAll(body, []byte(tenantCondition+","), nil)
			return bytes.ReplaceAll(body, []byte(tenantCondition), nil)
		},
		"tenant replaced":  replace(`"globex"`, `"acme"`),
		"must to should":   replace(`"must"`, `"should"`),
		"must to must_not": replace(`"must"`, `"must_not"`),
		"filter replaced": func(_ string, body []byte) []byte {
			var b map[string]any
			if json.Unmarshal(body, &b) != nil || b["searches"] == nil {
				return body
			}
			for _, s := range b["searches"].([]any) {
				delete(s.(map[string]any), "filter")
			}
			out, _ := json.Marshal(b)
			return out
		},
	} {
		check := func(t *testing.T, fresh func(t *testing.T) qdrant.Config) {
			asked := source.Nearest{Text: "secret plan belongstoacme", K: 50, Filter: map[string]any{"kind": []any{"policy", "ticket", "only-acme", "only-globex"}}}
			cfg := fresh(t)
			var proxy *tamperer
			proxy, cfg.URL = tamper(t, cfg.URL)
			log := &lockedBuffer{}
			src := open(t, cfg, sourcetest.Embedder{}, log)
			company(t, src)
			if got, err := ask(t, src, globex, asked); err != nil || len(got.Hits) != 5 {
				t.Fatalf("untouched: %v, %v", got, err)
			}
			proxy.change.Store(&change)
			got, err := ask(t, src, globex, asked)
			if atlas.CodeOf(err) != atlas.CodeSourceError || len(got.Hits) != 0 {
				t.Fatalf("got %v, %v", got, err)
			}
			if s := seen(t, err); strings.Contains(s, "acme") || strings.Contains(s, "tenant") {
				t.Errorf("callers are told %s", s)
			}
			if l := log.String(); !strings.Contains(l, "level=ERROR") || !strings.Contains(l, "tenant isolation") || strings.Contains(l, "belongstoacme") {
				t.Errorf("log: %s", l)
			}
		}
		t.Run(name, func(t *testing.T) { each(t, check) })
	}
}

// Embedding anew reads what is stored, and must not take over another tenant's documents.
func TestSecondWallOfLoading(t *testing.T) {
	proxy, base := tamper(t, fake(t))
	embed := &renamed{name: "one"}
	src := open(t, qdrant.Config{URL: base}, embed, nil)
	company(t, src)
	embed.set("two")
	change := func(path string, body []byte) []byte {
		if strings.HasSuffix(path, "/scroll") {
			return bytes.ReplaceAll(body, []byte(`"globex"`), []byte(`"acme"`))
		}
		return body
	}
	proxy.change.Store(&change)
	if err := load(t, src, globex, source.Document{ID: "x"}); atlas.CodeOf(err) != atlas.CodeSourceError {
		t.Errorf("got %v", err)
	}
}

// renamed is the suites' embedder under a name that changes, which can fail.
type renamed struct {
	sourcetest.Embedder
	mu    sync.Mutex
	name  string
	after int // fails once so many texts were embedded; 0: never
}

func (r *renamed) ID() string { r.mu.Lock(); defer r.mu.Unlock(); return r.name }

func (r *renamed) set(name string) { r.mu.Lock(); defer r.mu.Unlock(); r.name = name }

func (r *renamed) failAfter(n int) { r.mu.Lock(); defer r.mu.Unlock(); r.after = n }

func (r *renamed) Embed(ctx context.Context, texts []string) ([][]float32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.after > 0 {
		if r.after -= len(texts); r.after <= 0 {
			r.after = 1
			return nil, errors.New("the embedder is gone")
		}
	}
	return r.Embedder.Embed(ctx, texts)
}

// Embedding anew that ends half way leaves the tenant refused, not mixed; the other tenant, whose
// vectors are still the former embedder's, is refused as well; loading again mends both.
func TestHalfEmbedded(t *testing.T) {
	each(t, halfEmbedded)
}

func halfEmbedded(t *testing.T, fresh func(t *testing.T) qdrant.Config) {
	embed := &renamed{name: "one"}
	src := open(t, fresh(t), embed, nil)
	var docs []source.Document
	for i := range 200 {
		docs = append(docs, source.Document{ID: "d_" + string(rune('a'+i%26)) + strings.Repeat("x", i/26), Title: "note", Body: strings.Repeat("word ", i+1)})
	}
	for _, tenant := range []atlas.TenantID{acme, globex} {
		if err := load(t, src, tenant, docs...); err != nil {
			t.Fatal(err)
		}
	}
	embed.set("two")
	embed.failAfter(100)
	if err := load(t, src, acme, source.Document{ID: "new"}); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
		t.Fatalf("got %v", err)
	}
	embed.failAfter(0)
	for _, name := range []string{"one", "two"} {
		embed.set(name)
		if _, err := ask(t, src, acme, source.Nearest{Text: "note word", K: 100}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := src.Ping(t.Context()); err == nil {
		t.Error("Ping sees nothing of the change")
	}
	for _, tenant := range []atlas.TenantID{acme, globex} {
		if _, err := ask(t, src, tenant, source.Nearest{Text: "note word", K: 100}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("%s: got %v", tenant, err)
		}
		if err := load(t, src, tenant, source.Document{ID: "new"}); err != nil {
			t.Fatal(err)
		}
		if got, err := ask(t, src, tenant, source.Nearest{Text: "note word", K: 100}); err != nil || len(got.Hits) != 100 {
			t.Errorf("%s: got %d hits, %v", tenant, len(got.Hits), err)
		}
	}
	if err := src.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// Two tenants load the same ids at once; each finds its own.
func TestLoadTogether(t *testing.T) {
	each(t, loadTogether)
}

func loadTogether(t *testing.T, fresh func(t *testing.T) qdrant.Config) {
	src := open(t, fresh(t), sourcetest.Embedder{}, nil)
	var wg sync.WaitGroup
	for _, tenant := range []atlas.TenantID{acme, globex} {
		wg.Go(func() {
			for range 10 {
				if err := load(t, src, tenant, sourcetest.Company()[tenant].Documents...); err != nil {
					t.Error(err)
				}
				got, err := ask(t, src, tenant, source.Nearest{Text: "refund", K: 50})
				if err != nil || len(got.Hits) != 5 {
					t.Errorf("%s: %d hits, %v", tenant, len(got.Hits), err)
				}
				for _, h := range got.Hits {
					if title, _ := h.Fields["title"].(string); !strings.Contains(title, "belongsto"+string(tenant)) {
						t.Errorf("%s is given %v", tenant, h)
					}
				}
			}
		})
	}
	wg.Wait()
}

// A call that is cancelled while the server works ends, and the server's request ends with it.
func TestCancel(t *testing.T) {
	s := &qdranttest.Server{}
	begun, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	var slow atomic.Bool
	src := open(t, qdrant.Config{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow.Load() {
			_, _ = io.Copy(io.Discard, r.Body) // the server sees a lost connection once the body is read
			begun <- struct{}{}
			<-r.Context().Done()
			ended <- struct{}{}
			return
		}
		s.ServeHTTP(w, r)
	}))}, sourcetest.Embedder{}, nil)
	company(t, src)
	slow.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	_, err := src.(source.VectorIndex).Nearest(ctx, acme, source.Nearest{Text: "refund"})
	if !errors.Is(err, context.Canceled) || atlas.CodeOf(err) != atlas.CodeCanceled {
		t.Errorf("got %v", err)
	}
	<-ended
	slow.Store(false)
	if got, err := ask(t, src, acme, source.Nearest{Text: "refund"}); err != nil || len(got.Hits) == 0 {
		t.Errorf("the next call: %v, %v", got, err)
	}
}

// The server is told how long we wait.
func TestTimeoutIsPassedDown(t *testing.T) {
	s := &qdranttest.Server{}
	var last atomic.Value
	src := open(t, qdrant.Config{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last.Store(r.URL.Query().Get("timeout"))
		s.ServeHTTP(w, r)
	})), Timeout: 90 * time.Second}, sourcetest.Embedder{}, nil)
	company(t, src)
	for within, want := range map[time.Duration]string{time.Hour: "90", 20 * time.Second: "20", 900 * time.Millisecond: "1"} {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		if _, err := src.(source.VectorIndex).Nearest(ctx, acme, source.Nearest{Text: "refund"}); err != nil {
			t.Error(err)
		}
		cancel()
		if got := last.Load(); got != want {
			t.Errorf("within %v: timeout=%v, want %s", within, got, want)
		}
	}
}

// What a server may answer, and what becomes of it.
func TestAnswers(t *testing.T) {
	const secret = "host-17.internal"
	for name, tc := range map[string]struct {
		status int
		header [2]string
		body   string
		want   atlas.Code
	}{
		"key":            {401, [2]string{}, "Must provide an API key " + secret, atlas.CodeSourceMisused},
		"forbidden":      {403, [2]string{}, secret, atlas.CodeSourceMisused},
		"gone":           {404, [2]string{}, secret, atlas.CodeSourceMisused},
		"bad":            {400, [2]string{}, `{"status":{"error":"` + secret + `"}}`, atlas.CodeSourceError},
		"busy":           {429, [2]string{"Retry-After", "7"}, secret, atlas.CodeSourceUnavailable},
		"fault":          {500, [2]string{}, secret, atlas.CodeSourceUnavailable},
		"redirect":       {307, [2]string{"Location", "http://127.0.0.1:1/" + secret}, "", atlas.CodeSourceMisused},
		"no JSON":        {200, [2]string{}, "<html>" + secret, atlas.CodeSourceError},
		"no result":      {200, [2]string{}, `{"status":"ok"}`, atlas.CodeSourceError},
		"other result":   {200, [2]string{}, `{"result":{"points":"x"}}`, atlas.CodeSourceError},
		"one answer":     {200, [2]string{}, `{"result":[{"points":[]}]}`, atlas.CodeSourceError},
		"integer id":     {200, [2]string{}, `{"result":[{"points":[]},{"points":[{"id":1,"score":1,"payload":{"tenant_id":"acme"}}]}]}`, atlas.CodeSourceError},
		"no payload":     {200, [2]string{}, `{"result":[{"points":[]},{"points":[{"id":"1","score":1,"payload":null}]}]}`, atlas.CodeSourceError},
		"other's id":     {200, [2]string{}, `{"result":[{"points":[]},{"points":[{"id":"1","score":1,"payload":{"tenant_id":"acme","id":"d_1"}}]}]}`, atlas.CodeSourceError},
		"other's mark":   {200, [2]string{}, `{"result":[{"points":[{"id":"1","score":1,"payload":{"tenant_id":"acme"}}]},{"points":[]}]}`, atlas.CodeSourceError},
		"too much":       {200, [2]string{}, `{"result":"` + strings.Repeat("x", 70<<10) + `"}`, atlas.CodeTooLarge},
		"too much error": {500, [2]string{}, strings.Repeat("x", 70<<10), atlas.CodeSourceUnavailable},
		"cut off":        {200, [2]string{"Content-Length", "100"}, `{"result":`, atlas.CodeSourceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := &qdranttest.Server{}
			var on atomic.Bool
			src := open(t, qdrant.Config{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !on.Load() {
					s.ServeHTTP(w, r)
					return
				}
				if tc.header[0] != "" {
					w.Header().Set(tc.header[0], tc.header[1])
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})), MaxAnswerBytes: 64 << 10}, sourcetest.Embedder{}, nil)
			company(t, src)
			on.Store(true)
			got, err := ask(t, src, acme, source.Nearest{Text: "refund"})
			if atlas.CodeOf(err) != tc.want || len(got.Hits) > 0 {
				t.Errorf("got %v, %v", got, err)
			}
			if s := seen(t, err); strings.Contains(s, secret) || strings.Contains(s, "127.0.0.1") {
				t.Errorf("callers are told %s", s)
			}
			if name == "busy" && atlas.ErrorOf(err).RetryAfter != 7*time.Second {
				t.Errorf("retry after %v", atlas.ErrorOf(err).RetryAfter)
			}
		})
	}
}

// A read-only key searches, and does not load.
func TestKeys(t *testing.T) {
	s := &qdranttest.Server{APIKey: "all", ReadAPIKey: "read"}
	base := serve(t, s)
	company(t, open(t, qdrant.Config{URL: base, APIKey: "all"}, sourcetest.Embedder{}, nil))
	src := openOnly(t, qdrant.Config{URL: base, APIKey: "read"}, source.Deps{Name: "kb", Embed: sourcetest.Embedder{}})
	if got, err := ask(t, src, acme, source.Nearest{Text: "refund"}); err != nil || len(got.Hits) == 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if err := load(t, src, acme, source.Document{ID: "x"}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("loading with the read-only key: %v", err)
	}
	_, err := (&qdrant.Config{URL: base, APIKey: "wrong"}).Open(t.Context(), source.Deps{Name: "kb", Embed: sourcetest.Embedder{}})
	if atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("a wrong key: %v", err)
	}
}

func TestBadDocuments(t *testing.T) {
	src := open(t, qdrant.Config{URL: fake(t), MaxDocumentBytes: 100}, sourcetest.Embedder{}, nil)
	for name, tc := range map[string]struct {
		doc  source.Document
		want atlas.Code
	}{
		"no id":      {source.Document{Body: "x"}, atlas.CodeInvalidArguments},
		"large":      {source.Document{ID: "d", Body: strings.Repeat("x", 101)}, atlas.CodeTooLarge},
		"attribute":  {source.Document{ID: "d", Attrs: map[string]any{"a": []any{1}}}, atlas.CodeInvalidArguments},
		"named id":   {source.Document{ID: "d", Attrs: map[string]any{"id": "other"}}, atlas.CodeInvalidArguments},
		"directions": {source.Document{ID: "d"}, ""}, // nothing to find it by, and kept
	} {
		if err := load(t, src, acme, tc.doc); atlas.CodeOf(err) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := ask(t, src, acme, source.Nearest{Text: "x"}); err != nil || len(got.Hits) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := ask(t, src, acme, source.Nearest{Text: strings.Repeat("x", 16<<10+1)}); atlas.CodeOf(err) != atlas.CodeTooLarge {
		t.Errorf("long text: %v", err)
	}
}

// What the driver costs: the server repeats one answer.
func BenchmarkNearest(b *testing.B) {
	s := &qdranttest.Server{}
	var repeat atomic.Pointer[httptest.ResponseRecorder]
	src := open(b, qdrant.Config{URL: serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/points/query/batch") {
			s.ServeHTTP(w, r)
			return
		}
		if repeat.Load() == nil {
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, r)
			repeat.Store(rec)
		}
		_, _ = w.Write(repeat.Load().Body.Bytes())
	}))}, sourcetest.Embedder{}, nil)
	company(b, src)
	n := source.Nearest{Text: "refund policy", K: 5, Filter: map[string]any{"kind": []any{"policy", "ticket"}}}
	b.ReportAllocs()
	for b.Loop() {
		if got, err := ask(b, src, acme, n); err != nil || len(got.Hits) == 0 {
			b.Fatal(got, err)
		}
	}
}
