package openai_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/openai"
	"github.com/atlas-mcp/atlas/internal/source/openai/openaitest"
	"github.com/atlas-mcp/atlas/internal/source/qdrant"
	"github.com/atlas-mcp/atlas/internal/source/qdrant/qdranttest"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "sk-key-5521"

// direct is a transport that calls the handler in place, so that time can be the test's.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	d.ServeHTTP(rec, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

func service() *openaitest.Server {
	return &openaitest.Server{Key: key, Model: "small", Dim: 48, Shortens: true}
}

func open(tb testing.TB, cfg openai.Config, h http.Handler) *openai.Embedder {
	tb.Helper()
	if cfg.URL == "" {
		cfg.URL = "https://embed.example/v1"
	}
	if cfg.Model == "" {
		cfg.Model = "small"
	}
	cfg.APIKey = key
	e, err := openai.Open(tb.Context(), cfg, openai.Deps{Transport: direct{h}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(e.Close)
	return e
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

func TestID(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg      openai.Config
		id       string
		dim      int
		requests int
	}{
		"asked":      {openai.Config{}, "openai/small/48", 48, 1},
		"configured": {openai.Config{Dim: 48}, "openai/small/48", 48, 0},
		"shortened":  {openai.Config{Dim: 16, SendDimensions: true, Provider: "voyage"}, "voyage/small/16", 16, 0},
	} {
		s := service()
		e := open(t, tc.cfg, s)
		if e.ID() != tc.id || e.Dim() != tc.dim || len(s.Requests()) != tc.requests {
			t.Errorf("%s: %s, %d, %d requests", name, e.ID(), e.Dim(), len(s.Requests()))
		}
		got, err := e.Embed(t.Context(), []string{"refund policy"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff([][]float32{openaitest.Vector("refund policy", tc.dim)}, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		if tenants := e.For("acme"); tenants.ID() != e.ID() || tenants.Dim() != e.Dim() {
			t.Errorf("%s: a tenant's is %s", name, tenants.ID())
		}
	}
}

// Whatever the texts, each gets its own vector, in either encoding, and no request is larger than
// the limits.
func TestBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := service()
		e, err := openai.Open(context.Background(), openai.Config{
			URL: "https://embed.example/v1/", APIKey: key, Model: "small", Dim: 48, Base64: rapid.Bool().Draw(t, "base64"),
			MaxBatch: rapid.IntRange(1, 5).Draw(t, "batch"), MaxBatchBytes: rapid.IntRange(1, 40).Draw(t, "bytes"), MaxTextBytes: 20,
		}, openai.Deps{Transport: direct{s}})
		if err != nil {
			t.Fatal(err)
		}
		texts := rapid.SliceOfN(rapid.StringMatching(`[a-zé ]{0,24}`), 0, 12).Draw(t, "texts")
		got, err := e.Embed(context.Background(), texts)
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range texts {
			if len(text) > 20 {
				text = strings.ToValidUTF8(text[:20], "")
			}
			want := make([]float32, 48)
			if text = strings.TrimSpace(text); text != "" {
				want = openaitest.Vector(text, 48)
			}
			if !cmp.Equal(want, got[i]) {
				t.Fatalf("text %d %q: %v", i, text, got[i])
			}
		}
	})
	s := service()
	e := open(t, openai.Config{Dim: 48, MaxBatch: 3, MaxBatchBytes: 10}, s)
	if _, err := e.Embed(t.Context(), []string{"a", "b", "c", "d", "0123456789", "", "ef", strings.Repeat("x", 30)}); err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"a", "b", "c"}, {"d"}, {"0123456789"}, {"ef"}, {strings.Repeat("x", 30)}}
	if diff := cmp.Diff(want, s.Requests()); diff != "" {
		t.Error(diff)
	}
}

// What is tried again, when, and what is not.
func TestRetry(t *testing.T) {
	for name, tc := range map[string]struct {
		status   int
		header   [2]string
		code     string
		deadline time.Duration
		attempts int           // that the service sees
		within   time.Duration // from the first to the end
		atLeast  time.Duration
		want     atlas.Code
	}{
		"busy":              {503, [2]string{}, "", time.Hour, 5, 8 * time.Second, 3750 * time.Millisecond, atlas.CodeSourceUnavailable},
		"rate limit":        {429, [2]string{"Retry-After", "7"}, "rate_limit_exceeded", time.Hour, 5, 29 * time.Second, 28 * time.Second, atlas.CodeSourceUnavailable},
		"milliseconds":      {429, [2]string{"Retry-After-Ms", "1500"}, "rate_limit_exceeded", time.Hour, 5, 9 * time.Second, 6500 * time.Millisecond, atlas.CodeSourceUnavailable},
		"after the end":     {429, [2]string{"Retry-After", "20"}, "", 10 * time.Second, 1, 0, 0, atlas.CodeSourceUnavailable},
		"much later":        {429, [2]string{"Retry-After", "3600"}, "", 5 * time.Hour, 1, 0, 0, atlas.CodeSourceUnavailable},
		"quota":             {429, [2]string{}, "insufficient_quota", time.Hour, 1, 0, 0, atlas.CodeSourceUnavailable},
		"near the deadline": {500, [2]string{}, "", 700 * time.Millisecond, 2, 700 * time.Millisecond, 250 * time.Millisecond, atlas.CodeSourceUnavailable},
		"not accepted":      {400, [2]string{}, "", time.Hour, 1, 0, 0, atlas.CodeSourceError},
		"key":               {401, [2]string{}, "", time.Hour, 1, 0, 0, atlas.CodeSourceMisused},
		"model":             {404, [2]string{}, "model_not_found", time.Hour, 1, 0, 0, atlas.CodeSourceMisused},
		"redirect":          {308, [2]string{"Location", "https://other.example/v1/embeddings"}, "", time.Hour, 1, 0, 0, atlas.CodeSourceMisused},
		"too large":         {413, [2]string{}, "", time.Hour, 1, 0, 0, atlas.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts atomic.Int32
				e := open(t, openai.Config{Dim: 48}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					attempts.Add(1)
					if r.URL.Host != "embed.example" {
						t.Errorf("sent to %s", r.URL)
					}
					if tc.header[0] != "" {
						w.Header().Set(tc.header[0], tc.header[1])
					}
					openaitest.Refuse(w, tc.status, "some_error", tc.code, "the text was: secret-text, the key "+key)
				}))
				ctx, cancel := context.WithTimeout(t.Context(), tc.deadline)
				defer cancel()
				begin := time.Now()
				_, err := e.Embed(ctx, []string{"secret-text"})
				took := time.Since(begin)
				if atlas.CodeOf(err) != tc.want || int(attempts.Load()) != tc.attempts || took > tc.within || took < tc.atLeast {
					t.Errorf("%v after %d attempts and %v", err, attempts.Load(), took)
				}
				if strings.Contains(err.Error(), "secret-text") || strings.Contains(err.Error(), key) {
					t.Errorf("operators are told the text or the key: %v", err)
				}
				if s := seen(t, err); strings.Contains(s, "embed") || strings.Contains(s, "some_error") {
					t.Errorf("callers are told %s", s)
				}
				if tc.header[0] == "Retry-After" && atlas.ErrorOf(err).RetryAfter == 0 {
					t.Error("when to come back is lost")
				}
				// A tenant's question is sent once: the pipeline tries again.
				attempts.Store(0)
				if _, err := e.For("acme").Embed(ctx, []string{"x"}); attempts.Load() != 1 || atlas.CodeOf(err) != tc.want {
					t.Errorf("a question: %v after %d attempts", err, attempts.Load())
				}
			})
		})
	}
}

// A service that comes back within the attempts is used.
func TestRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, left := service(), 3
		e := open(t, openai.Config{Dim: 48}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if left--; left > 0 {
				openaitest.Refuse(w, 503, "overloaded", "", "")
				return
			}
			s.ServeHTTP(w, r)
		}))
		if got, err := e.Embed(t.Context(), []string{"x"}); err != nil || len(got) != 1 {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// A call ends with its context, while it waits to try again as while the service works.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, openai.Config{Dim: 48, Timeout: 10 * time.Minute}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			openaitest.Refuse(w, 503, "", "", "")
		}))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		if _, err := e.Embed(ctx, []string{"x"}); !errors.Is(err, context.Canceled) || atlas.CodeOf(err) != atlas.CodeCanceled {
			t.Errorf("while waiting: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		e := open(t, openai.Config{Dim: 48, Timeout: 10 * time.Minute}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := e.Embed(ctx, []string{"x"}); !errors.Is(err, context.DeadlineExceeded) || atlas.CodeOf(err) != atlas.CodeTimeout {
			t.Errorf("while the service works: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		e := open(t, openai.Config{Dim: 48, Timeout: time.Second, Attempts: 2}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		// One request took too long; the call's own time is not over.
		if _, err := e.Embed(t.Context(), []string{"x"}); errors.Is(err, context.DeadlineExceeded) || atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
			t.Errorf("a slow request: %v", err)
		}
	})
}

// Answers that are none never become vectors.
func TestAnswers(t *testing.T) {
	one := func(index, vector string) string {
		return `{"object":"list","data":[{"object":"embedding","index":` + index + `,"embedding":` + vector + `}]}`
	}
	for name, text := range map[string]string{
		"no JSON": "<html>", "nothing": `{}`, "none": `{"data":[]}`, "two": `{"data":[{"index":0,"embedding":[1,2]},{"index":1,"embedding":[1,2]}]}`,
		"no index": `{"data":[{"embedding":[1,2]}]}`, "other index": one("1", "[1,2]"), "negative": one("-1", "[1,2]"),
		"short": one("0", "[1]"), "long": one("0", "[1,2,3]"), "empty": one("0", "[]"), "null": one("0", "null"), "text": one("0", `"?"`),
		"overflow": one("0", "[1e999,1]"), "base64 of NaN": one("0", `"AADAfwAAgD8="`), "base64 short": one("0", `"AACA"`), "large": one("0", "["+strings.Repeat("1,", 1000)+"1]"),
	} {
		e := open(t, openai.Config{Dim: 2, MaxAnswerBytes: 1000}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
		want := atlas.CodeSourceError
		if name == "large" {
			want = atlas.CodeTooLarge
		}
		if got, err := e.Embed(t.Context(), []string{"x"}); atlas.CodeOf(err) != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	e := open(t, openai.Config{Dim: 2}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, one("0", `"AACAPwAAAEA="`)) }))
	if got, err := e.Embed(t.Context(), []string{"x"}); err != nil || !cmp.Equal(got, [][]float32{{1, 2}}) { // asked for numbers
		t.Errorf("base64: %v, %v", got, err)
	}
}

// What one tenant asked is asked again for another: no tenant can tell by the time of an answer what
// others ask. It cannot be pushed out by others either.
func TestCacheIsNoOracle(t *testing.T) {
	s := service()
	e := open(t, openai.Config{Dim: 48, CacheEntries: 4, CacheTenants: 2}, s)
	sent := func(embed source.Embedder, texts ...string) int {
		t.Helper()
		before := len(s.Requests())
		got, err := embed.Embed(t.Context(), texts)
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range texts {
			if !cmp.Equal(got[i], openaitest.Vector(text, 48)) {
				t.Errorf("%q has another vector", text)
			}
		}
		return len(s.Requests()) - before
	}
	for _, step := range []struct {
		embed source.Embedder
		texts []string
		want  int
		why   string
	}{
		{e.For("acme"), []string{"is o_9002 late"}, 1, "asked first"},
		{e.For("acme"), []string{"is o_9002 late"}, 0, "remembered for the tenant"},
		{e.For("globex"), []string{"is o_9002 late"}, 1, "not remembered for another"},
		{e, []string{"is o_9002 late"}, 1, "nor for nobody"},
		{e, []string{"loaded text"}, 1, "what is loaded"},
		{e, []string{"loaded text"}, 1, "is not remembered"},
		{e.For("acme"), []string{"loaded text"}, 1, "and no tenant can tell that it was"},
		{e.For("globex"), []string{"a", "b", "c", "d", "f"}, 1, "one that asks much"},
		{e.For("acme"), []string{"is o_9002 late"}, 0, "pushes out nothing of others"},
		{e.For("globex"), []string{"is o_9002 late"}, 1, "but its own"},
		{e.For("initech"), []string{"x"}, 1, "one tenant too many"},
		{e.For("globex"), []string{"is o_9002 late"}, 0, "forgets who asked longest ago"},
		{e.For("acme"), []string{"is o_9002 late"}, 1, "whole"},
		{e.For("acme"), []string{"is o_9002 late", "new"}, 1, "only what is new is sent"},
	} {
		if got := sent(step.embed, step.texts...); got != step.want {
			t.Errorf("%s: %d requests, want %d", step.why, got, step.want)
		}
	}
	last := s.Requests()[len(s.Requests())-1]
	if diff := cmp.Diff([]string{"new"}, last); diff != "" {
		t.Error(diff)
	}
	off := open(t, openai.Config{Dim: 48, CacheOff: true}, s).For("acme")
	if sent(off, "x")+sent(off, "x") != 2 {
		t.Error("remembered though it is off")
	}
}

// Models that were trained with prefixes get them, and their vectors are not taken for others.
func TestPrefixes(t *testing.T) {
	s := service()
	e := open(t, openai.Config{Dim: 48, DocumentPrefix: "passage: ", QueryPrefix: "query: "}, s)
	for _, embed := range []source.Embedder{e, e.For("acme")} {
		if _, err := embed.Embed(t.Context(), []string{"x", ""}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([][]string{{"passage: x"}, {"query: x"}}, s.Requests()); diff != "" {
		t.Error(diff)
	}
	other := open(t, openai.Config{Dim: 48, QueryPrefix: "passage: "}, s)
	if e.ID() == other.ID() || e.ID() == open(t, openai.Config{Dim: 48}, s).ID() || !strings.HasPrefix(e.ID(), "openai/small/48/") || e.For("acme").ID() != e.ID() {
		t.Errorf("ids %q and %q", e.ID(), other.ID())
	}
}

// A failure is not remembered.
func TestFailuresAreNotRemembered(t *testing.T) {
	s, fail := service(), true
	e := open(t, openai.Config{Dim: 48}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fail {
			openaitest.Refuse(w, 500, "", "", "")
			return
		}
		s.ServeHTTP(w, r)
	})).For("acme")
	if _, err := e.Embed(t.Context(), []string{"x"}); err == nil {
		t.Error("no failure")
	}
	fail = false
	if got, err := e.Embed(t.Context(), []string{"x"}); err != nil || !cmp.Equal(got[0], openaitest.Vector("x", 48)) {
		t.Errorf("got %v, %v", got, err)
	}
}

// Many tenants at once, each with its vectors.
func TestTogether(t *testing.T) {
	e := open(t, openai.Config{Dim: 48, CacheEntries: 3, CacheTenants: 3}, service())
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				text := fmt.Sprintf("text %d", i%5)
				got, err := e.For(atlas.TenantID(fmt.Sprintf("t%d", g%4))).Embed(t.Context(), []string{text})
				if err != nil || !cmp.Equal(got[0], openaitest.Vector(text, 48)) {
					t.Errorf("got %v, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestValidate(t *testing.T) {
	err := (&openai.Config{
		URL: "ftp://x", APIKey: "a b", Provider: "a/b", Dim: -1, MaxTextBytes: -1, MaxBatch: 2049, MaxBatchBytes: -1, MaxAnswerBytes: -1,
		MaxConns: -1, Timeout: -1, Attempts: -1, CacheEntries: -1, CacheTenants: -1, SendDimensions: true,
	}).Validate()
	for _, field := range []string{
		"url", "api_key", "model", "provider", "dim", "send_dimensions", "max_text_bytes", "max_batch", "max_batch_bytes", "max_answer_bytes",
		"max_conns", "timeout", "attempts", "cache_entries", "cache_tenants",
	} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
	for _, tc := range []struct {
		cfg openai.Config
		ok  bool
	}{
		{openai.Config{Model: "m"}, true},
		{openai.Config{Model: "m", URL: "http://tei:8080/v1"}, true},
		{openai.Config{Model: "m", URL: "http://tei:8080/v1", APIKey: "k"}, false},
		{openai.Config{Model: "m", URL: "http://tei:8080/v1", APIKey: "k", AllowHTTP: true}, true},
		{openai.Config{Model: "m", URL: "http://localhost:11434/v1", APIKey: "k"}, true},
	} {
		if err := tc.cfg.Validate(); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc.cfg, err)
		}
	}
}

// Without a configured dimension the service must be there, and the failure says what to set.
func TestOpenWithoutService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { openaitest.Refuse(w, 503, "", "", "") })
		_, err := openai.Open(t.Context(), openai.Config{Model: "small"}, openai.Deps{Transport: direct{down}})
		if atlas.CodeOf(err) != atlas.CodeSourceUnavailable || !strings.Contains(err.Error(), "set dim") {
			t.Errorf("got %v", err)
		}
		e := open(t, openai.Config{Dim: 48}, down)
		if err := e.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
			t.Errorf("Ping: %v", err)
		}
	})
}

// Over a real connection, with a vector source: the service is asked once for a tenant's question,
// and its failures end as the source's.
func TestWithASource(t *testing.T) {
	s := service()
	serve := func(h http.Handler) string {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server.URL
	}
	e, err := openai.Open(t.Context(), openai.Config{URL: serve(s) + "/v1", APIKey: key, Model: "small", Base64: true}, openai.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	cfg := qdrant.Config{URL: serve(&qdranttest.Server{})}
	deps := source.Deps{Name: "kb", Embed: e}
	if err := cfg.Migrate(t.Context(), deps); err != nil {
		t.Fatal(err)
	}
	src, err := cfg.Open(t.Context(), deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	for tenant, d := range sourcetest.Company() {
		if err := src.(source.Loader).Load(t.Context(), tenant, d); err != nil {
			t.Fatal(err)
		}
	}
	before := len(s.Requests())
	for i, tenant := range []atlas.TenantID{sourcetest.A, sourcetest.A, sourcetest.B} {
		got, err := src.(source.VectorIndex).Nearest(t.Context(), tenant, source.Nearest{Text: "Express shipping takes two days", K: 1})
		if err != nil || len(got.Hits) != 1 || got.Hits[0].ID != "d_2" {
			t.Errorf("%d: %v, %v", i, got, err)
		}
	}
	if n := len(s.Requests()) - before; n != 2 {
		t.Errorf("%d requests for the same question twice of one tenant and once of another", n)
	}
}

func BenchmarkEmbed(b *testing.B) {
	s := service()
	texts := make([]string, 64)
	for i := range texts {
		texts[i] = fmt.Sprintf("document %d of the refund policy", i)
	}
	for _, form := range []string{"float", "base64"} {
		// The service repeats one answer.
		rec := httptest.NewRecorder()
		data, err := json.Marshal(map[string]any{"input": texts, "model": "small", "encoding_format": form})
		if err != nil {
			b.Fatal(err)
		}
		req := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/embeddings", bytes.NewReader(data))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+key)
		s.ServeHTTP(rec, req)
		e := open(b, openai.Config{Dim: 48, Base64: form == "base64"}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(rec.Body.Bytes()) }))
		b.Run("batch of 64 as "+form, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Embed(b.Context(), texts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	e := open(b, openai.Config{Dim: 48}, s).For("acme")
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := e.Embed(b.Context(), texts[:1]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
