package elasticsearch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/elasticsearch"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// A middle stands between the driver and the real server and changes what passes.
type middle struct {
	*httptest.Server
	request  func(r *http.Request, body []byte) []byte
	response func(r *http.Request, header http.Header, body []byte) []byte
}

func between(t *testing.T, s *server) *middle {
	t.Helper()
	m := &middle{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if m.request != nil {
			body = m.request(r, body)
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, s.url+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header = r.Header
		resp, err := s.http.Do(req)
		if err != nil {
			return
		}
		defer func() { _ = resp.Body.Close() }()
		out, err := io.ReadAll(resp.Body)
		if err != nil {
			return
		}
		if m.response != nil {
			out = m.response(r, resp.Header, out)
		}
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		for _, h := range []string{"X-Elastic-Product", "Retry-After"} {
			if v := resp.Header.Get(h); v != "" {
				w.Header().Set(h, v)
			}
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(out) // the driver may have gone
	}))
	t.Cleanup(m.Close)
	return m
}

// remove takes away whatever the expression finds, and fails if that is nothing.
func remove(t *testing.T, expression string) func(*http.Request, []byte) []byte {
	re := regexp.MustCompile(expression)
	return func(r *http.Request, body []byte) []byte {
		if !strings.Contains(r.URL.Path, "_search") {
			return body
		}
		out := re.ReplaceAll(body, nil)
		if len(out) == len(body) {
			t.Errorf("nothing to take away: %s", body)
		}
		return out
	}
}

const filterClause = `"filter":\[\{"term":\{"tenant_id":"[a-z]+"\}\}\],`

// The filter is taken out of the requests on their way, in every mode; and with isolation by index
// the path is changed to another tenant's, too. Whatever is asked, nothing comes through.
func TestLostFilter(t *testing.T) {
	s := real(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			loader, cfg := company(t, s, mode)
			m := between(t, s)
			cfg.URL = m.URL
			x := open(t, cfg)
			strip := remove(t, filterClause)
			m.request = func(r *http.Request, body []byte) []byte {
				if mode.Isolation == elasticsearch.IsolationIndex {
					r.URL.Path = strings.Replace(r.URL.Path, loader.Name(sourcetest.B), loader.Name(sourcetest.A), 1)
				} else { // and of the shard, so that all tenants' documents are asked
					r.URL.RawQuery = strings.ReplaceAll(r.URL.RawQuery, "&routing=globex", "")
				}
				return strip(r, body)
			}
			if mode.Isolation == elasticsearch.IsolationIndex {
				m.request = onlySearch(m.request)
			}
			for what, ask := range questions(x) {
				seen, err := ask(t.Context())
				if !errors.Is(err, elasticsearch.ErrForeign) || atlas.CodeOf(err) != atlas.CodeInternal {
					t.Errorf("%s: got %v, want ErrForeign", what, err)
				}
				told := asJSON(t, atlas.ErrorOf(err).Failure("r"))
				for _, secret := range append(secrets, "acme", sourcetest.Marker) {
					if strings.Contains(seen+told, secret) {
						t.Errorf("%s: B is told %s %s", what, seen, told)
					}
				}
			}
			// The count by tenant is not to be left out, either: totals and aggregations have no other check.
			m.request = onlySearch(remove(t, `"_whose":\{"terms":\{[^}]*\}\},?`))
			for what, ask := range questions(x) {
				if seen, err := ask(t.Context()); atlas.CodeOf(err) != atlas.CodeInternal || seen != "" {
					t.Errorf("%s, without the count: got %s, %v", what, seen, err)
				}
			}
		})
	}
}

// onlySearch keeps a change to searches: the driver looks at the mapping first.
func onlySearch(change func(*http.Request, []byte) []byte) func(*http.Request, []byte) []byte {
	return func(r *http.Request, body []byte) []byte {
		if !strings.HasSuffix(r.URL.Path, "/_search") {
			return body
		}
		return change(r, body)
	}
}

// questions are ways of tenant B to ask.
func questions(x *elasticsearch.Index) map[string]func(context.Context) (string, error) {
	dsl := func(body string) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			hits, counted, err := x.SearchDSL(ctx, sourcetest.B, json.RawMessage(body), 0)
			if err != nil {
				return "", err
			}
			out, e := json.Marshal(hits)
			return string(out) + string(counted), e
		}
	}
	search := func(s source.Search) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			hits, err := x.Search(ctx, sourcetest.B, s)
			if err != nil {
				return "", err
			}
			out, e := json.Marshal(hits)
			return string(out), e
		}
	}
	return map[string]func(context.Context) (string, error){
		"words":        search(source.Search{Text: "refund"}),
		"newest":       search(source.Search{}),
		"filter":       search(source.Search{Filter: map[string]any{"kind": "policy"}}),
		"the best one": search(source.Search{Text: "refund", Size: 1}),
		"body":         dsl(`{}`),
		"only counted": dsl(`{"size":0}`),
		"aggregated":   dsl(`{"size":0,"aggs":{"k":{"terms":{"field":"kind"}}}}`),
		"far away":     dsl(`{"from":1000}`),
	}
}

// A document with two owners belongs to nobody.
func TestOddOwners(t *testing.T) {
	s := real(t)
	for name, doc := range map[string]string{
		"two":       `{"tenant_id":["globex","acme"],"id":"x","title":"refund","attr":[]}`,
		"two later": `{"tenant_id":["acme","globex"],"id":"zzz","title":"x","attr":[],"body":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			x, _ := company(t, s, modes["filter"])
			for _, ask := range questions(x) {
				if _, err := ask(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			s.must(t, "PUT", "/"+x.Name(sourcetest.B)+"/_doc/odd?refresh=true", doc)
			for what, ask := range questions(x) {
				if what == "filter" || name == "two later" && (what == "words" || what == "the best one") {
					continue // does not find it
				}
				if seen, err := ask(t.Context()); !errors.Is(err, elasticsearch.ErrForeign) {
					t.Errorf("%s: got %s, %v", what, seen, err)
				}
			}
		})
	}
}

// Half an answer is no answer.
func TestPartialAnswers(t *testing.T) {
	s := real(t)
	_, cfg := company(t, s, modes["index"])
	m := between(t, s)
	cfg.URL = m.URL
	x := open(t, cfg)
	replace := func(old, now string) func(*http.Request, http.Header, []byte) []byte {
		return func(r *http.Request, _ http.Header, body []byte) []byte {
			if !strings.HasSuffix(r.URL.Path, "/_search") {
				return body
			}
			out := bytes.Replace(body, []byte(old), []byte(now), 1)
			if bytes.Equal(out, body) {
				t.Errorf("no %s in %s", old, body)
			}
			return out
		}
	}
	for name, tc := range map[string]struct {
		response func(*http.Request, http.Header, []byte) []byte
		want     atlas.Code
	}{
		"timed out":           {replace(`"timed_out":false`, `"timed_out":true`), atlas.CodeTimeout},
		"shards failed":       {replace(`"failed":0`, `"failed":1`), atlas.CodeSourceUnavailable},
		"cut":                 {func(_ *http.Request, _ http.Header, b []byte) []byte { return b[:len(b)/2] }, atlas.CodeSourceError},
		"a page":              {func(_ *http.Request, _ http.Header, _ []byte) []byte { return []byte("<html>login</html>") }, atlas.CodeSourceError},
		"empty":               {func(_ *http.Request, _ http.Header, _ []byte) []byte { return []byte("{}") }, atlas.CodeInternal},
		"no owner in hits":    {replace(`"tenant_id":"globex"`, `"tenant":"globex"`), atlas.CodeInternal},
		"owner in other case": {replace(`"tenant_id":"globex"`, `"Tenant_id":"globex"`), atlas.CodeInternal},
		"too many":            {func(_ *http.Request, _ http.Header, _ []byte) []byte { return bytes.Repeat([]byte(" "), 20<<20) }, atlas.CodeTooLarge},
		"another's index":     {replace(`"_index":"`+x.Name(sourcetest.B)+`"`, `"_index":"`+x.Name(sourcetest.A)+`"`), atlas.CodeInternal},
	} {
		m.response = nil
		if _, err := x.Search(t.Context(), sourcetest.B, source.Search{}); err != nil {
			t.Fatal(err)
		}
		m.response = tc.response
		if hits, err := x.Search(t.Context(), sourcetest.B, source.Search{}); atlas.CodeOf(err) != tc.want || hits.Hits != nil {
			t.Errorf("%s: got %v, %v; want %s", name, hits, err, tc.want)
		}
	}
}

// Elasticsearch 8 and 9 differ from OpenSearch in what they say of themselves and in what they
// refuse: parameters and members that they do not know. This proxy speaks and refuses as they do;
// behind it is the real OpenSearch.
func TestElasticsearch(t *testing.T) {
	s := real(t)
	params := map[string]bool{"allow_partial_search_results": true, "routing": true, "refresh": true}
	members := map[string]bool{"query": true, "size": true, "from": true, "sort": true, "aggs": true, "timeout": true, "track_total_hits": true, "_source": true, "highlight": true}
	for version, supported := range map[string]bool{"8.14.0": true, "9.2.1": true, "7.17.28": false} {
		t.Run(version, func(t *testing.T) {
			m := between(t, s)
			m.request = func(r *http.Request, body []byte) []byte {
				for name := range r.URL.Query() {
					if !params[name] {
						t.Errorf("%s: the parameter %s is not one of Elasticsearch's", r.URL, name)
					}
				}
				if accept := r.Header.Get("Accept"); accept != "application/json" {
					t.Errorf("Accept: %q would ask for a compatible form", accept)
				}
				media := map[bool]string{true: "application/x-ndjson", false: "application/json"}[strings.HasSuffix(r.URL.Path, "/_bulk")]
				if got := r.Header.Get("Content-Type"); len(body) > 0 && got != media {
					t.Errorf("%s: Content-Type is %q", r.URL, got)
				}
				if strings.HasSuffix(r.URL.Path, "/_search") {
					var o map[string]any
					if err := json.Unmarshal(body, &o); err != nil {
						t.Error(err)
					}
					for name := range o {
						if !members[name] {
							t.Errorf("the body's %s is not looked at", name)
						}
					}
				}
				return body
			}
			m.response = func(r *http.Request, header http.Header, body []byte) []byte {
				header.Set("X-Elastic-Product", "Elasticsearch")
				if r.URL.Path == "/" {
					return []byte(`{"name":"n","cluster_name":"c","version":{"number":"` + version + `","build_flavor":"default","lucene_version":"9.10.0"},"tagline":"You Know, for Search"}`)
				}
				return body
			}
			for name, mode := range modes {
				mode.URL, mode.Index = m.URL, s.name(t)
				x := migrated(t, mode)
				got, err := x.Server(t.Context())
				if want := (elasticsearch.Server{Product: "elasticsearch", Version: version}); err != nil || got != want || got.Supported() != supported {
					t.Errorf("%s: got %v, supported %v, %v", name, got, got.Supported(), err)
				}
				for tenant, d := range sourcetest.Company() {
					if err := x.Load(t.Context(), tenant, d); err != nil {
						t.Fatal(err)
					}
				}
				hits, err := x.Search(t.Context(), sourcetest.B, source.Search{Text: "o_9002", Filter: map[string]any{"kind": "ticket"}})
				if err != nil || len(hits.Hits) != 1 || hits.Hits[0].ID != "t_7301" {
					t.Errorf("%s: got %v, %v", name, hits, err)
				}
			}
		})
	}
	if got, err := open(t, elasticsearch.Config{URL: s.url, Index: s.name(t)}).Server(t.Context()); err != nil || got.Product != "opensearch" || !got.Supported() {
		t.Errorf("the real one: %v, %v", got, err)
	}
}

// A node that is gone is passed over, and asked last for a while.
func TestFailover(t *testing.T) {
	s := real(t)
	_, cfg := company(t, s, modes["index"])
	nodes := []*middle{between(t, s), between(t, s), between(t, s)}
	var asked [3]atomic.Int64
	cfg.URL = ""
	for i, n := range nodes {
		n.request = func(_ *http.Request, body []byte) []byte { asked[i].Add(1); return body }
		cfg.URLs = append(cfg.URLs, n.URL)
	}
	x := open(t, cfg)
	ask := func() error {
		hits, err := x.Search(t.Context(), sourcetest.B, source.Search{Text: "refund"})
		if err == nil && len(hits.Hits) != 2 {
			t.Errorf("got %v", hits)
		}
		return err
	}
	for range 6 {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range nodes {
		if asked[i].Load() < 2 {
			t.Errorf("node %d was asked %d times", i, asked[i].Load())
		}
	}
	for i := range 2 {
		nodes[i].CloseClientConnections()
		nodes[i].Close()
		for range 6 {
			if err := ask(); err != nil {
				t.Errorf("%d nodes are gone: %v", i+1, err)
			}
		}
	}
	nodes[2].CloseClientConnections()
	nodes[2].Close()
	if err := ask(); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
		t.Errorf("all are gone: %v", err)
	}
	if err := x.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
		t.Errorf("ping: %v", err)
	}
}

// A fake answers as told: what is tested is what the driver makes of it.
func fake(t *testing.T, handler http.HandlerFunc) elasticsearch.Config {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return elasticsearch.Config{URL: s.URL, Index: "tickets-" + sourcetest.Marker}
}

// fits answers what is asked before a search, and reports whether it did.
func fits(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case r.URL.Path == "/":
		_, _ = io.WriteString(w, `{"version":{"distribution":"opensearch","number":"3.1.0"}}`)
	case strings.HasSuffix(r.URL.Path, "/_mapping"):
		index, _, _ := strings.Cut(r.URL.Path[1:], "/")
		_, _ = io.WriteString(w, `{"`+index+`":{"mappings":{"dynamic":"strict","properties":{"tenant_id":{"type":"keyword"},"id":{"type":"keyword"},`+
			`"attr":{"type":"keyword"},"url":{"type":"keyword"},"title":{"type":"text"},"body":{"type":"text"},"created":{"type":"date"}}}}}`)
	default:
		return false
	}
	return true
}

func TestStatuses(t *testing.T) {
	var status atomic.Int64
	var body atomic.Value
	cfg := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if fits(w, r) {
			return
		}
		if s := status.Load(); s == 429 {
			w.Header().Set("Retry-After", "7")
		} else if s/100 == 3 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, body.Load().(string))
	})
	x := open(t, cfg)
	usual := `{"error":{"type":"some_exception","reason":"no such [tickets-` + sourcetest.Marker + `] /tmp 127.0.0.1","root_cause":[{"type":"t","reason":"r"}]},"status":400}`
	for _, tc := range []struct {
		status int
		body   string
		want   atlas.Code
		dsl    atlas.Code
	}{
		{400, usual, atlas.CodeSourceError, atlas.CodeInvalidQuery},
		{401, usual, atlas.CodeSourceMisused, ""},
		{403, usual, atlas.CodeSourceMisused, ""},
		{404, usual, atlas.CodeSourceMisused, ""},
		{404, `{"error":"alias [x] missing","status":404}`, atlas.CodeSourceMisused, ""},
		{408, usual, atlas.CodeTimeout, ""},
		{413, "too large", atlas.CodeTooLarge, ""},
		{429, strings.Replace(usual, `"type":"t"`, `"type":"search_timeout_exception"`, 1), atlas.CodeTimeout, atlas.CodeTimeout},
		{403, strings.Replace(usual, "some_exception", "cluster_block_exception", 1), atlas.CodeSourceUnavailable, ""},
		{400, strings.Replace(usual, `"type":"t"`, `"type":"too_many_buckets_exception"`, 1), atlas.CodeTooLarge, atlas.CodeTooLarge},
		{500, strings.Replace(usual, `"type":"t"`, `"type":"too_many_clauses"`, 1), atlas.CodeTooLarge, atlas.CodeTooLarge},
		{400, strings.Replace(usual, `"type":"t"`, `"type":"too_many_nested_clauses"`, 1), atlas.CodeTooLarge, atlas.CodeTooLarge},
		{429, usual, atlas.CodeOverloaded, ""},
		{500, usual, atlas.CodeSourceError, ""},
		{502, "<html>", atlas.CodeSourceUnavailable, ""},
		{503, usual, atlas.CodeSourceUnavailable, ""},
		{504, "", atlas.CodeTimeout, ""},
		{301, "", atlas.CodeSourceError, ""},
		{307, "", atlas.CodeSourceError, ""},
	} {
		status.Store(int64(tc.status))
		body.Store(tc.body)
		_, err := x.Search(t.Context(), "acme", source.Search{Text: "x"})
		if atlas.CodeOf(err) != tc.want {
			t.Errorf("%d: got %v, want %s", tc.status, err, tc.want)
		}
		told := asJSON(t, atlas.ErrorOf(err).Failure("r"))
		for _, secret := range []string{sourcetest.Marker, "exception", "127.0.0.1", "/tmp"} {
			if strings.Contains(told, secret) {
				t.Errorf("%d: callers are told %s", tc.status, told)
			}
		}
		if tc.status == 429 && atlas.ErrorOf(err).RetryAfter != 7*time.Second {
			t.Errorf("retry after %v", atlas.ErrorOf(err).RetryAfter)
		}
		if tc.dsl != "" {
			if _, _, err := x.SearchDSL(t.Context(), "acme", json.RawMessage(`{}`), 0); atlas.CodeOf(err) != tc.dsl {
				t.Errorf("%d: got %v, want %s", tc.status, err, tc.dsl)
			}
		}
	}
	status.Store(404)
	body.Store(`{"error":{"type":"index_not_found_exception","reason":"x"},"status":404}`)
	if hits, err := x.Search(t.Context(), "acme", source.Search{Text: "x"}); err != nil || hits.Hits == nil || len(hits.Hits) != 0 {
		t.Errorf("a tenant without an index: %v, %v", hits, err)
	}
}

// What a call's context says reaches the server: the time that is left, and that nobody waits.
func TestDeadlines(t *testing.T) {
	type request struct {
		timeout string
		gone    <-chan struct{}
	}
	requests := make(chan request, 1)
	cfg := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if fits(w, r) {
			return
		}
		var body struct{ Timeout string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		requests <- request{body.Timeout, r.Context().Done()}
		<-r.Context().Done()
	})
	cfg.Timeout = time.Hour
	x := open(t, cfg)
	search := func(ctx context.Context) <-chan error {
		out := make(chan error, 1)
		go func() {
			_, err := x.Search(ctx, "acme", source.Search{Text: "x"})
			out <- err
		}()
		return out
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	done := search(ctx)
	got := <-requests
	if left, err := time.ParseDuration(got.timeout); err != nil || left <= 0 || left > time.Minute {
		t.Errorf("timeout %q", got.timeout)
	}
	cancel()
	<-got.gone // the server sees it
	if err := <-done; !errors.Is(err, context.Canceled) || atlas.CodeOf(err) != atlas.CodeCanceled {
		t.Errorf("cancelled: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done = search(ctx)
	<-(<-requests).gone
	if err := <-done; !errors.Is(err, context.DeadlineExceeded) || atlas.CodeOf(err) != atlas.CodeTimeout {
		t.Errorf("late: %v", err)
	}
	// Close does not wait for a server that does not answer.
	done = search(t.Context())
	got = <-requests
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	<-got.gone
	if err := <-done; atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
		t.Errorf("closed: %v", err)
	}
}

// The connection breaks in the middle of an answer.
func TestBrokenAnswer(t *testing.T) {
	cfg := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if fits(w, r) {
			return
		}
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"took":1,"hits":{"hits":[`)
		panic(http.ErrAbortHandler)
	})
	if _, err := open(t, cfg).Search(t.Context(), "acme", source.Search{Text: "x"}); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
		t.Errorf("got %v", err)
	}
}

func TestBulkFailures(t *testing.T) {
	var body atomic.Value
	cfg := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if !fits(w, r) {
			_, _ = io.WriteString(w, body.Load().(string))
		}
	})
	x := open(t, cfg)
	for answer, want := range map[string]atlas.Code{
		`{"errors":false,"items":[{"index":{"status":201}}]}`:                                                           "",
		`{"errors":true,"items":[{"index":{"status":201}},{"index":{"status":429,"error":{"type":"t","reason":"r"}}}]}`: atlas.CodeOverloaded,
		`{"errors":true,"items":[{"index":{"status":400,"error":{"type":"t","reason":"r"}}}]}`:                          atlas.CodeSourceError,
		`{"errors":true,"items":[]}`: atlas.CodeSourceError,
		`nonsense`:                   atlas.CodeSourceError,
	} {
		body.Store(answer)
		if err := x.Load(t.Context(), "acme", source.Data{Documents: []source.Document{{ID: "1"}}}); atlas.CodeOf(err) != want {
			t.Errorf("%s: got %v, want %s", answer, err, want)
		}
	}
}
