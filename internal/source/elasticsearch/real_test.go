package elasticsearch_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/elasticsearch"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ source.Config       = (*elasticsearch.Config)(nil)
	_ source.Searcher     = (*elasticsearch.Index)(nil)
	_ source.BodySearcher = (*elasticsearch.Index)(nil)
	_ source.Loader       = (*elasticsearch.Index)(nil)
	_ source.Migrator     = (*elasticsearch.Config)(nil)
)

// server is the real one.
type server struct {
	url  string
	http *http.Client
}

func real(tb testing.TB) *server {
	tb.Helper()
	s := &server{url: testenv.URL(tb, testenv.OpenSearch), http: &http.Client{Transport: &http.Transport{}}}
	tb.Cleanup(s.http.CloseIdleConnections)
	return s
}

// do sends a request and returns its status and answer.
func (s *server) do(tb testing.TB, method, path, body string) (int, string) {
	tb.Helper()
	// Cleanups run after the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, string(out)
}

func (s *server) must(tb testing.TB, method, path, body string) string {
	tb.Helper()
	status, out := s.do(tb, method, path, body)
	if status/100 != 2 {
		tb.Fatalf("%s %s: status %d: %s", method, path, status, out)
	}
	return out
}

// name is the name of an index of this test's own. What begins with it is removed at the end.
func (s *server) name(tb testing.TB) string {
	tb.Helper()
	name := "t-" + strings.ToLower(rand.Text()[:12]) + "-" + sourcetest.Marker
	tb.Cleanup(func() {
		var indexes []struct{ Index string }
		if err := json.Unmarshal([]byte(s.must(tb, "GET", "/_cat/indices/"+name+"*?format=json&h=index", "")), &indexes); err != nil {
			tb.Fatal(err)
		}
		for _, i := range indexes {
			s.must(tb, "DELETE", "/"+i.Index, "")
		}
	})
	return name
}

// migrated prepares what the source needs, and opens it.
func migrated(tb testing.TB, cfg elasticsearch.Config) *elasticsearch.Index {
	tb.Helper()
	for range 2 { // twice is fine
		if err := cfg.Migrate(tb.Context(), source.Deps{Name: "tickets"}); err != nil {
			tb.Fatal(err)
		}
	}
	return open(tb, cfg)
}

// open opens a source that is closed at the end.
func open(tb testing.TB, cfg elasticsearch.Config) *elasticsearch.Index {
	tb.Helper()
	src, err := cfg.Open(tb.Context(), source.Deps{Name: "tickets"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := src.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return src.(*elasticsearch.Index)
}

// modes are the ways to keep tenants apart, each of which holds the whole contract.
var modes = map[string]elasticsearch.Config{
	"index":  {Isolation: elasticsearch.IsolationIndex},
	"filter": {Isolation: elasticsearch.IsolationFilter},
	"routed": {Isolation: elasticsearch.IsolationFilter, RouteByTenant: true, Shards: 3},
}

func TestContract(t *testing.T) {
	s := real(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sourcetest.Run(t, sourcetest.Harness{Open: func(t *testing.T, data map[atlas.TenantID]source.Data) source.Source {
				cfg := mode
				cfg.URL, cfg.Index = s.url, s.name(t)
				return sourcetest.Load(t, migrated(t, cfg), data)
			}}, sourcetest.Searcher)
		})
	}
}

// company opens a source that holds the suites' data, with the attributes that query bodies use.
func company(tb testing.TB, s *server, mode elasticsearch.Config) (*elasticsearch.Index, elasticsearch.Config) {
	tb.Helper()
	mode.Index = s.name(tb)
	mode.Attributes = map[string]string{"kind": "keyword", "year": "double", "public": "boolean"}
	loading := mode
	loading.URL = s.url
	src := migrated(tb, loading)
	for tenant, d := range sourcetest.Company() {
		if err := src.Load(tb.Context(), tenant, d); err != nil {
			tb.Fatalf("load %s: %v", tenant, err)
		}
	}
	return src, loading
}

func asJSON(tb testing.TB, v any) string {
	tb.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return string(out)
}

// Documents of two tenants under one id, and one whose id needs a hash.
func TestIDs(t *testing.T) {
	s := real(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			mode.URL, mode.Index = s.url, s.name(t)
			src := migrated(t, mode)
			long := strings.Repeat("x", 9000) // more than an id and more than a term may have
			for _, id := range []string{"same", "a:b", "a b/ü?", long, long + "y"} {
				for _, tenant := range []atlas.TenantID{"t", "t-a", "t_a"} {
					if err := src.Load(t.Context(), tenant, source.Data{Documents: []source.Document{{ID: id, Body: "of " + string(tenant)}}}); err != nil {
						t.Fatal(err)
					}
				}
				for _, tenant := range []atlas.TenantID{"t", "t-a", "t_a"} {
					hits, err := src.Search(t.Context(), tenant, source.Search{Filter: map[string]any{"id": id}})
					if err != nil || hits.Total != 1 || hits.Hits[0].ID != id || hits.Hits[0].Fields["body"] != "of "+string(tenant) {
						t.Errorf("%s %.20q: %.300v, %v", tenant, id, hits, err)
					}
				}
			}
		})
	}
}

// How often another tenant uses a word shows in no score and in no order: with shared indexes,
// because nothing is counted; with others, because they are others.
func TestScoresTellNothing(t *testing.T) {
	s := real(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) { scoresTellNothing(t, s, mode) })
	}
}

func scoresTellNothing(t *testing.T, s *server, mode elasticsearch.Config) {
	t.Helper()
	mode.URL, mode.Index, mode.Attributes = s.url, s.name(t), map[string]string{"kind": "keyword"}
	src := migrated(t, mode)
	doc := func(id, word string) source.Document {
		return source.Document{ID: id, Body: word + " and a word", Attrs: map[string]any{"topic": word, "kind": word}}
	}
	if err := src.Load(t.Context(), "mine", source.Data{Documents: []source.Document{doc("1", "merger"), doc("2", "takeover")}}); err != nil {
		t.Fatal(err)
	}
	ask := func() string {
		hits, err := src.Search(t.Context(), "mine", source.Search{Text: "takeover merger"})
		if err != nil || len(hits.Hits) != 2 {
			t.Fatal(hits, err)
		}
		seen := asJSON(t, hits)
		for _, q := range []string{
			`{"match":{"body":"takeover merger"}}`, `{"match_phrase":{"body":"merger and"}}`, `{"multi_match":{"query":"merger and"}}`,
			`{"term":{"topic":"merger"}}`, `{"term":{"kind":"merger"}}`, `{"terms":{"topic":["merger","takeover"]}}`, `{"ids":{"values":["1"]}}`,
			`{"prefix":{"kind":"me"}}`, `{"range":{"kind":{"gte":"a"}}}`, `{"exists":{"field":"body"}}`, `{"match_all":{}}`,
			`{"bool":{"should":[{"term":{"topic":"takeover"}},{"term":{"kind":"merger"}}]}}`, `{"dis_max":{"queries":[{"term":{"topic":"merger"}},{"match":{"body":"takeover"}}]}}`,
		} {
			hits, _, err := src.SearchDSL(t.Context(), "mine", json.RawMessage(query(q)), 0)
			if err != nil || len(hits.Hits) == 0 {
				t.Fatal(q, hits, err)
			}
			seen += "\n" + asJSON(t, hits)
		}
		return seen
	}
	before := ask()
	var theirs source.Data
	for i := range 50 {
		theirs.Documents = append(theirs.Documents, doc(fmt.Sprint(i), "merger"))
	}
	if err := src.Load(t.Context(), "theirs", theirs); err != nil {
		t.Fatal(err)
	}
	if after := ask(); before != after {
		t.Errorf("another tenant's documents show:\n%s\n%s", before, after)
	}
}
