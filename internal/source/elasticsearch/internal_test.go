package elasticsearch

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

var testConfig = Config{
	URL: "http://127.0.0.1:1", Index: "tickets", Isolation: IsolationFilter,
	Attributes: map[string]string{"kind": "keyword", "year": "double", "seen": "date", "public": "boolean", "count": "long"},
}.withDefaults()

// allowed are all names that a written query may hold, at any depth.
func allowed(n *names) map[string]bool {
	out := map[string]bool{termsPath: true}
	for name := range n.clauses {
		out[name] = true
	}
	for _, f := range n.fields {
		out[f.path] = true
	}
	for _, name := range []string{
		"query", "operator", "minimum_should_match", "boost", "slop", "fields", "type", "tie_breaker", "value", "gt", "gte", "lt", "lte",
		"field", "must", "filter", "should", "must_not", "queries",
	} {
		out[name] = true
	}
	return out
}

// walk calls fn for every name and every text of v.
func walk(v any, fn func(name, text string)) {
	switch v := v.(type) {
	case map[string]any:
		for name, e := range v {
			if s, ok := e.(string); ok {
				fn(name, s)
			} else {
				fn(name, "")
			}
			walk(e, fn)
		}
	case []any:
		for _, e := range v {
			walk(e, fn)
		}
	}
}

// FuzzBody: whatever is given, the reader does not panic, refuses with invalid_query or too_large,
// and what it writes has no name in it that is not in the table, and no field that is ours.
func FuzzBody(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"query":{"match":{"title":"x"}}}`, `{"query":{"bool":{"must":[{"term":{"kind":"x"}},{"terms":{"year":[1,2.5],"boost":2}}],"filter":{"range":{"seen":{"gte":"now-1d/d"}}},"minimum_should_match":"50%"}},"size":3,"from":2,"sort":["_score",{"kind":"desc"},{"seen":{"order":"asc"}}]}`,
		`{"aggs":{"a":{"terms":{"field":"kind","size":5,"order":{"_count":"desc"}},"aggs":{"b":{"stats":{"field":"year"}}}},"c":{"date_histogram":{"field":"created_at","calendar_interval":"month"}}}}`,
		`{"query":{"multi_match":{"query":"x","fields":["title^3","body"],"type":"phrase","tie_breaker":0.1}}}`, `{"query":{"ids":{"values":["a"]}}}`,
		`{"query":{"script":{"script":"x"}}}`, `{"query":{"terms":{"kind":{"index":"i","id":"1","path":"p"}}}}`, `{"query":{"term":{"tenant_id":"acme"}}}`,
		`{"query":{"constant_score":{"filter":{"prefix":{"id":{"value":"ab","boost":1}}}}}}`, `{"query":{"dis_max":{"queries":[{"exists":{"field":"url"}},{"match_all":{"boost":2}},{"match_none":{}}]}}}`,
		`{"query":{"match_phrase":{"body":{"query":"a b","slop":2}}}}`, `{"aggs":{"g":{"global":{}}}}`, `{"query":{"match":{"title":null}}}`, `{"size":1e2}`, "\x00", `[`, `{"query":{"term":{"\u0000":1}}}`,
	} {
		f.Add([]byte(s))
	}
	n := newNames(testConfig)
	known := allowed(n)
	paths := map[string]bool{idPath: true}
	for _, field := range n.fields {
		paths[field.path] = true
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := n.parse(raw, 10)
		if err != nil {
			if code := atlas.CodeOf(err); code != atlas.CodeInvalidQuery && code != atlas.CodeTooLarge {
				t.Fatalf("%q: %v", raw, err)
			}
			if _, err := json.Marshal(atlas.ErrorOf(err).Failure("r")); err != nil {
				t.Fatal(err)
			}
			return
		}
		var query any
		decode(t, q.query, &query)
		walk(query, func(name, text string) {
			if !known[name] {
				t.Fatalf("%q: wrote the name %q", raw, name)
			}
			if name == "field" && !paths[text] {
				t.Fatalf("%q: wrote the field %q", raw, text)
			}
		})
		var rest map[string]any
		decode(t, q.body(), &rest)
		for name := range rest {
			if !slices.Contains([]string{"size", "from", "sort", "highlight", "aggs"}, name) {
				t.Fatalf("%q: wrote the member %q", raw, name)
			}
		}
		if q.size < 0 || q.size > 10 || q.from < 0 || q.from > maxFrom {
			t.Fatalf("%q: size %d, from %d", raw, q.size, q.from)
		}
		var sorts []map[string]any
		decode(t, q.sort, &sorts)
		for _, s := range sorts {
			for name := range s {
				if name != "_score" && !paths[name] {
					t.Fatalf("%q: sorts by %q", raw, name)
				}
			}
		}
		var check func(aggs any)
		check = func(aggs any) {
			for name, agg := range aggs.(map[string]any) {
				if strings.HasPrefix(name, "_") || name == "" {
					t.Fatalf("%q: wrote the aggregation %q", raw, name)
				}
				for kind, body := range agg.(map[string]any) {
					if kind == "aggs" {
						check(body)
						continue
					}
					if !slices.Contains(aggregationNames, kind) {
						t.Fatalf("%q: aggregates by %q", raw, kind)
					}
					body := body.(map[string]any)
					if field, _ := body["field"].(string); !paths[field] {
						t.Fatalf("%q: aggregates %q", raw, field)
					}
					if least, ok := body["min_doc_count"]; metrics[kind] == nil && (!ok || least != 1.0) {
						t.Fatalf("%q: min_doc_count %v", raw, least)
					}
					for member := range body {
						if !slices.Contains([]string{"field", "size", "order", "calendar_interval", "min_doc_count"}, member) {
							t.Fatalf("%q: wrote %q", raw, member)
						}
					}
				}
			}
		}
		if aggs, ok := rest["aggs"]; ok {
			check(aggs)
		}
		// The filter stands round it, and is the only thing that names the tenant.
		x := &Index{cfg: testConfig, names: n}
		var whole map[string]any
		decode(t, x.enclose(t.Context(), "acme", q.query, q.body()), &whole)
		outer := whole["query"].(map[string]any)["bool"].(map[string]any)
		if len(outer) != 2 || len(outer["must"].([]any)) != 1 {
			t.Fatalf("%q: the query is %v", raw, outer)
		}
		filter, err := json.Marshal(outer["filter"])
		if err != nil || string(filter) != `[{"term":{"tenant_id":"acme"}}]` {
			t.Fatalf("%q: the filter is %s, %v", raw, filter, err)
		}
	})
}

func decode(t *testing.T, v, into any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzAnswer: whatever a server answers, nothing of another tenant comes out.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		exampleAnswer(2), `{}`, `{"hits":{"hits":[{"_index":"i","_source":{"tenant_id":"globex"}}]},"aggregations":{"_whose":{"sum_other_doc_count":0,"buckets":[]}}}`,
		`{"hits":{"hits":[{"_source":{"tenant_id":["acme"]}}]}}`, `{"hits":{"hits":[{"_source":null}]}}`, `{"hits":{"hits":[{}]},"aggregations":{"_whose":null}}`,
		`{"hits":{"hits":[{"_source":{"tenant_id":"globex","Tenant_ID":"acme","tenant_id":"acme"}}]},"aggregations":{"_whose":{"sum_other_doc_count":0,"buckets":[{"key":"acme"}]}}}`,
		`{"hits":{"hits":[{"_source":{"tenant_id":"acme","attrs":null,"title":1}}]},"aggregations":{"_whose":{"sum_other_doc_count":0,"buckets":[{"key":"acme"}]}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := readResult(raw, "acme", "")
		if err != nil {
			return
		}
		for _, h := range r.Hits.Hits {
			if owner := h.Source[tenantPath]; owner != "acme" {
				t.Fatalf("%q: of %v", raw, owner)
			}
		}
		hits, err := r.documents()
		if err != nil {
			return
		}
		if _, err := json.Marshal(hits); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
	})
}

// exampleAnswer is an answer of n hits.
func exampleAnswer(n int) string {
	hit := `{"_index":"tickets","_id":"acme:t_1","_score":3.5,"_source":{"tenant_id":"acme","id":"t_1","title":"Where is my money?","body":"` +
		strings.Repeat("The card was closed and the refund came back. ", 10) + `","url":"https://example.com/t_1","attrs":{"kind":"ticket","year":2026,"public":false,"created_at":"2026-02-01T00:00:00Z"}},` +
		`"highlight":{"body":["The card was closed and the refund came back."]},"sort":[3.5,"t_1"]}`
	return `{"took":3,"timed_out":false,"_shards":{"total":1,"successful":1,"skipped":0,"failed":0},"hits":{"total":{"value":42,"relation":"eq"},"max_score":null,"hits":[` +
		strings.TrimSuffix(strings.Repeat(hit+",", n), ",") + `]},"aggregations":{"_whose":{"doc_count_error_upper_bound":0,"sum_other_doc_count":0,"buckets":[{"key":"acme","doc_count":42}]}}}`
}

func TestReadResult(t *testing.T) {
	r, err := readResult([]byte(exampleAnswer(2)), "acme", "tickets")
	if err != nil {
		t.Fatal(err)
	}
	hits, err := r.documents()
	if err != nil || hits.Total != 42 || len(hits.Hits) != 2 || hits.Hits[1].Fields["year"] != int64(2026) {
		t.Errorf("got %v, %v", hits, err)
	}
	for _, tc := range []struct{ old, now string }{
		{`"tenant_id":"acme"`, `"tenant_id":"globex"`},
		{`"tenant_id":"acme"`, `"tenant_id":["acme"]`},
		{`"tenant_id":"acme"`, `"tenant_id":null`},
		{`"tenant_id":"acme",`, ``},
		{`"_index":"tickets"`, `"_index":"tickets2"`},
		{`"key":"acme"`, `"key":"globex"`},
		{`"buckets":[`, `"buckets":[{"key":"","doc_count":1},`},
		{`"sum_other_doc_count":0`, `"sum_other_doc_count":1`},
		{`"sum_other_doc_count":0,`, ``},
		{`"_whose"`, `"whose"`},
	} {
		spoilt := strings.Replace(exampleAnswer(2), tc.old, tc.now, 1)
		if r, err := readResult([]byte(spoilt), "acme", "tickets"); r != nil || atlas.CodeOf(err) != atlas.CodeInternal {
			t.Errorf("%s → %s: got %v, %v", tc.old, tc.now, r, err)
		}
	}
	many := strings.Replace(exampleAnswer(1), `"relation":"eq"`, `"relation":"gte"`, 1)
	if r, err = readResult([]byte(many), "acme", ""); err != nil {
		t.Fatal(err)
	}
	if hits, err := r.documents(); err != nil || hits.Total != -1 {
		t.Errorf("more than are counted: %d, %v", hits.Total, err)
	}
}

// The map of indexes that were looked at does not grow without end.
func TestCheckedIsBounded(t *testing.T) {
	x := newIndex(testConfig, newClient(testConfig, http.DefaultTransport, nil), nil)
	defer x.Close() //nolint:errcheck // has nothing to say
	for i := range maxChecked + 10 {
		x.remember(strings.Repeat("x", 1+i%7) + time.Duration(i).String())
	}
	if len(x.checked) > maxChecked {
		t.Errorf("%d indexes", len(x.checked))
	}
}

// Every clause says what it takes, and refuses what it does not take by name.
func TestClauses(t *testing.T) {
	n := newNames(testConfig)
	x := &Index{cfg: testConfig, names: n}
	for name, doc := range x.Clauses() {
		_, err := n.parse([]byte(`{"query":{"`+name+`":17}}`), 10)
		e, ok := errors.AsType[*atlas.Error](err)
		if !ok || e.Code != atlas.CodeInvalidQuery || !strings.HasPrefix(e.Context["at"].(string), "query."+name) || doc == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkSearch(b *testing.B) {
	x := newIndex(testConfig, newClient(testConfig, http.DefaultTransport, nil), nil)
	defer x.Close() //nolint:errcheck // has nothing to say
	conditions, err := source.Conditions(map[string]any{"kind": "ticket"})
	if err != nil {
		b.Fatal(err)
	}
	answer := []byte(exampleAnswer(10))
	b.ReportAllocs()
	for b.Loop() {
		body := object{"size": 10, "highlight": highlight, "sort": best}
		question := object{"filter": filters(conditions), "should": x.words("Why was the refund of order o_9002 delayed?"), "minimum_should_match": 1}
		if _, err := json.Marshal(x.enclose(b.Context(), "acme", object{"bool": question}, body)); err != nil {
			b.Fatal(err)
		}
		r, err := readResult(answer, "acme", "")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.documents(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBody(b *testing.B) {
	n := newNames(testConfig)
	body := []byte(`{"query":{"bool":{"must":[{"match":{"title":"refund"}}],"filter":[{"term":{"kind":"ticket"}},{"range":{"created_at":{"gte":"now-7d"}}}]}},"size":5,"aggs":{"k":{"terms":{"field":"kind"}}}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.parse(body, 10); err != nil {
			b.Fatal(err)
		}
	}
}
