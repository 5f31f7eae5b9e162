package elasticsearch_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/elasticsearch"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// secrets are in documents of tenant A and in nothing of tenant B.
var secrets = []string{"belongstoacme", "zebraacm", "only-acme"}

// query makes a body of one query.
func query(q string) string { return `{"query":` + q + `}` }

// aggs makes a body of one aggregation.
func aggs(a string) string { return `{"size":0,"aggs":{"x":` + a + `}}` }

// attacks are bodies that reach, in some server or under some filter, for what is not the asker's.
// INDEX is the name of the index and AINDEX that of tenant A's.
var attacks = map[string]string{
	// Around the filter.
	"everything":                  query(`{"match_all":{}}`),
	"not mine":                    query(`{"bool":{"must_not":{"term":{"tenant_id":"globex"}}}}`),
	"theirs":                      query(`{"term":{"tenant_id":"acme"}}`),
	"theirs, list":                query(`{"terms":{"tenant_id":["acme","globex"]}}`),
	"theirs, should":              query(`{"bool":{"should":[{"term":{"tenant_id":"acme"}},{"match_all":{}}],"minimum_should_match":0}}`),
	"theirs, match":               query(`{"match":{"tenant_id":"acme"}}`),
	"theirs, range":               query(`{"range":{"tenant_id":{"lt":"b"}}}`),
	"theirs, prefix":              query(`{"prefix":{"tenant_id":"ac"}}`),
	"theirs, exists":              query(`{"exists":{"field":"tenant_id"}}`),
	"negative minimum":            query(`{"bool":{"should":[{"match":{"title":"nosuchword"}}],"minimum_should_match":"-100%"}}`),
	"negative boost":              query(`{"match":{"title":{"query":"refund","boost":-1}}}`),
	"boost that is no number":     query(`{"match":{"title":{"query":"refund","boost":"NaN"}}}`),
	"post_filter":                 `{"query":{"match_all":{}},"post_filter":{"match_all":{}}}`,
	"query twice":                 `{"query":{"match_none":{}},"query":{"match_all":{}}}`,
	"filter twice":                query(`{"bool":{"filter":{"match_none":{}},"filter":{"match_all":{}}}}`),
	"bool closed early":           `{"query":{"match_all":{}}]}},"query":{"match_all":{}}`,
	"a second body":               `{"query":{"match_none":{}}}` + "\n" + `{"query":{"match_all":{}}}`,
	"multi search":                `{"index":"AINDEX"}` + "\n" + `{"query":{"match_all":{}}}` + "\n",
	"a comment":                   `{"query":{"match_none":{}} /* */ }`,
	"escaped names":               `{"\u0071uery":{"\u0073cript":{"script":"true"}}}`,
	"names in capitals":           `{"QUERY":{"MATCH_ALL":{}}}`,
	"clause in capitals":          query(`{"Match_All":{}}`),
	"two clauses in one":          query(`{"match_none":{},"match_all":{}}`),
	"no object":                   `[{"query":{"match_all":{}}}]`,
	"null":                        `null`,
	"nothing":                     ``,
	"query is null":               query(`null`),
	"query is a list":             query(`[{"match_all":{}}]`),
	"a byte order mark":           "\ufeff" + query(`{"match_all":{}}`),
	"invalid UTF-8":               "{\"query\":{\"match\":{\"title\":\"\xff\"}}}",
	"a wrapped query":             query(`{"wrapper":{"query":"` + base64.StdEncoding.EncodeToString([]byte(`{"match_all":{}}`)) + `"}}`),
	"query text":                  query(`{"query_string":{"query":"tenant_id:acme"}}`),
	"query text, or":              query(`{"query_string":{"query":"x) OR (tenant_id:acme","default_field":"*"}}`),
	"simple query text":           query(`{"simple_query_string":{"query":"acme","fields":["*"]}}`),
	"all fields":                  query(`{"multi_match":{"query":"acme","fields":["*"]}}`),
	"fields by pattern":           query(`{"multi_match":{"query":"acme","fields":["tenant*"]}}`),
	"no fields":                   query(`{"multi_match":{"query":"acme","fields":[]}}`),
	"a boost that is not one":     query(`{"multi_match":{"query":"refund","fields":["title^NaN"]}}`),
	"a boost without end":         query(`{"multi_match":{"query":"refund","fields":["title^1e400"]}}`),
	"another index":               `{"index":"AINDEX","query":{"match_all":{}}}`,
	"another index, term":         query(`{"term":{"_index":"AINDEX"}}`),
	"another index, indices":      query(`{"indices":{"indices":["AINDEX"],"query":{"match_all":{}}}}`),
	"indices_boost":               `{"indices_boost":[{"AINDEX":2}]}`,
	"a point in time":             `{"pit":{"id":"x","keep_alive":"1m"},"query":{"match_all":{}}}`,
	"a scroll":                    `{"scroll":"1m","query":{"match_all":{}}}`,
	"a slice":                     `{"slice":{"id":0,"max":2},"query":{"match_all":{}}}`,
	"a template":                  `{"source":{"query":{"match_all":{}}},"params":{}}`,
	"a stored template":           `{"id":"x","params":{}}`,
	"a search pipeline":           `{"search_pipeline":{"request_processors":[{"filter_query":{"query":{"match_all":{}}}}]}}`,
	"ext":                         `{"ext":{"rerank":{}}}`,
	"search_after":                `{"search_after":["acme"],"sort":["id"]}`,
	"terminate_after":             `{"terminate_after":1}`,
	"own timeout":                 `{"timeout":"1h"}`,
	"own total":                   `{"track_total_hits":true}`,
	"min_score":                   `{"min_score":0}`,
	"a retriever":                 `{"retriever":{"standard":{"query":{"match_all":{}}}}}`,
	"sub searches":                `{"sub_searches":[{"query":{"match_all":{}}}],"rank":{"rrf":{}}}`,
	"knn":                         `{"knn":{"field":"v","query_vector":[1],"k":10,"num_candidates":10}}`,
	"knn query":                   query(`{"knn":{"v":{"vector":[1],"k":10}}}`),
	"their document's id":         query(`{"ids":{"values":["only-acme"]}}`),
	"their document's stored id":  query(`{"ids":{"values":["acme:only-acme"]}}`),
	"their document's _id":        query(`{"term":{"_id":"acme:only-acme"}}`),
	"their _id, prefix":           query(`{"prefix":{"_id":"acme"}}`),
	"their routing":               query(`{"term":{"_routing":"acme"}}`),
	"their attribute":             query(`{"term":{"kind":"only-acme"}}`),
	"their attribute as stored":   query(`{"term":{"attr":"4:kind=sonly-acme"}}`),
	"their attribute by path":     query(`{"term":{"field.kind":"only-acme"}}`),
	"their attribute by old path": query(`{"exists":{"field":"attrs.kind"}}`),

	// Scripts.
	"script":               query(`{"script":{"script":{"source":"doc['tenant_id'].value == 'acme'"}}}`),
	"script_score":         query(`{"script_score":{"query":{"match_all":{}},"script":{"source":"doc['tenant_id'].size()"}}}`),
	"function_score":       query(`{"function_score":{"query":{"match_all":{}},"script_score":{"script":"1"}}}`),
	"random function":      query(`{"function_score":{"random_score":{}}}`),
	"script_fields":        `{"script_fields":{"t":{"script":"params._source"}}}`,
	"runtime_mappings":     `{"runtime_mappings":{"tenant_id":{"type":"keyword","script":"emit('globex')"}}}`,
	"derived":              `{"derived":{"tenant_id":{"type":"keyword","script":"emit('globex')"}}}`,
	"terms_set":            query(`{"terms_set":{"id":{"terms":["a"],"minimum_should_match_script":{"source":"0"}}}}`),
	"intervals, script":    query(`{"intervals":{"body":{"match":{"query":"a","filter":{"script":{"source":"true"}}}}}}`),
	"sort by script":       `{"sort":{"_script":{"type":"number","script":"1"}}}`,
	"aggregate by script":  aggs(`{"terms":{"script":"doc['tenant_id'].value"}}`),
	"scripted_metric":      aggs(`{"scripted_metric":{"init_script":"","map_script":"","combine_script":"","reduce_script":""}}`),
	"bucket_script":        aggs(`{"terms":{"field":"kind"},"aggs":{"y":{"bucket_script":{"buckets_path":{},"script":"1"}}}}`),
	"stats, script":        aggs(`{"stats":{"field":"year","script":"_value"}}`),
	"rescore":              `{"rescore":{"window_size":10,"query":{"rescore_query":{"match_all":{}}}}}`,
	"highlight":            `{"highlight":{"fields":{"*":{}},"highlight_query":{"match_all":{}}}}`,
	"rank_feature":         query(`{"rank_feature":{"field":"year"}}`),
	"distance_feature":     query(`{"distance_feature":{"field":"created_at","pivot":"1d","origin":"now"}}`),
	"percolate":            query(`{"percolate":{"field":"query","index":"AINDEX","id":"acme:d_1"}}`),
	"match with an option": query(`{"match":{"title":{"query":"refund","analyzer":"keyword"}}}`),

	// Other documents, and joins.
	"terms look-up":         query(`{"terms":{"kind":{"index":"AINDEX","id":"acme:only-acme","path":"field.kind","routing":"acme"}}}`),
	"terms look-up by name": query(`{"terms":{"tenant_id":{"index":"AINDEX","id":"acme:d_1","path":"tenant_id"}}}`),
	"terms by a query":      query(`{"terms":{"kind":{"index":"AINDEX","path":"field.kind","query":{"match_all":{}}}}}`),
	"more_like_this":        query(`{"more_like_this":{"fields":["body"],"like":[{"_index":"AINDEX","_id":"acme:only-acme","routing":"acme"}],"min_term_freq":1,"min_doc_freq":1}}`),
	"geo_shape":             query(`{"geo_shape":{"g":{"indexed_shape":{"index":"AINDEX","id":"acme:d_1","path":"g"}}}}`),
	"pinned":                query(`{"pinned":{"ids":["acme:only-acme"],"organic":{"match_all":{}}}}`),
	"pinned documents":      query(`{"pinned":{"docs":[{"_index":"AINDEX","_id":"acme:only-acme"}],"organic":{"match_none":{}}}}`),
	"nested":                query(`{"nested":{"path":"attrs","query":{"match_all":{}}}}`),
	"nested, inner_hits":    query(`{"nested":{"path":"attrs","query":{"match_all":{}},"inner_hits":{"_source":true}}}`),
	"has_child":             query(`{"has_child":{"type":"x","query":{"match_all":{}},"inner_hits":{}}}`),
	"has_parent":            query(`{"has_parent":{"parent_type":"x","query":{"match_all":{}}}}`),
	"parent_id":             query(`{"parent_id":{"type":"x","id":"acme:d_1"}}`),
	"collapse":              `{"collapse":{"field":"kind","inner_hits":{"name":"x","size":10}}}`,

	// What the index knows of all tenants' words.
	"wildcard":             query(`{"wildcard":{"body":"zebra*"}}`),
	"regexp":               query(`{"regexp":{"body":"zebra.*"}}`),
	"regexp that is slow":  query(`{"regexp":{"body":"(a|aa)*{1,1000}"}}`),
	"fuzzy":                query(`{"fuzzy":{"body":"zebraacne"}}`),
	"fuzziness":            query(`{"match":{"body":{"query":"zebraacne","fuzziness":2}}}`),
	"phrase prefix":        query(`{"match_phrase_prefix":{"body":"zebra"}}`),
	"bool prefix":          query(`{"match_bool_prefix":{"body":"zebra"}}`),
	"multi_match prefix":   query(`{"multi_match":{"query":"zebra","type":"phrase_prefix","fields":["body"]}}`),
	"span_multi":           query(`{"span_multi":{"match":{"prefix":{"body":"zebra"}}}}`),
	"common terms":         query(`{"match":{"body":{"query":"refund","cutoff_frequency":0.1}}}`),
	"prefix of everything": query(`{"prefix":{"id":""}}`),
	"prefix, rewrite":      query(`{"prefix":{"id":{"value":"only-","rewrite":"top_terms_1000"}}}`),
	"prefix of ids":        query(`{"prefix":{"id":"only-"}}`),
	"case_insensitive":     query(`{"term":{"kind":{"value":"ONLY-ACME","case_insensitive":true}}}`),
	"suggest":              `{"suggest":{"x":{"text":"zebraacne","term":{"field":"body","suggest_mode":"always"}}}}`,
	"suggest a phrase":     `{"suggest":{"x":{"text":"zebraacne","phrase":{"field":"body"}}}}`,
	"suggest by name":      `{"size":0,"suggest":{"x":{"prefix":"z","completion":{"field":"body"}}}}`,
	"explain":              `{"explain":true,"query":{"match":{"body":"refund"}}}`,
	"profile":              `{"profile":true,"query":{"match_all":{}}}`,
	"named":                query(`{"match":{"body":{"query":"refund","_name":"n"}}}`),

	// Aggregations.
	"global":                    aggs(`{"global":{},"aggs":{"y":{"terms":{"field":"kind"}}}}`),
	"global inside":             aggs(`{"terms":{"field":"kind"},"aggs":{"y":{"global":{}}}}`),
	"terms without documents":   aggs(`{"terms":{"field":"kind","min_doc_count":0,"size":50}}`),
	"terms of tenants":          aggs(`{"terms":{"field":"tenant_id"}}`),
	"terms of all attributes":   aggs(`{"terms":{"field":"attr","size":50}}`),
	"terms by pattern":          aggs(`{"terms":{"field":"kind","include":".*"}}`),
	"terms, missing":            aggs(`{"terms":{"field":"kind","missing":"x"}}`),
	"terms of stored ids":       aggs(`{"terms":{"field":"_id"}}`),
	"terms of indexes":          aggs(`{"terms":{"field":"_index"}}`),
	"terms of a text":           aggs(`{"terms":{"field":"body"}}`),
	"terms":                     aggs(`{"terms":{"field":"kind","size":50}}`),
	"terms of ids":              aggs(`{"terms":{"field":"id","size":50,"order":{"_key":"asc"}}}`),
	"too many terms":            aggs(`{"terms":{"field":"id","size":1000000}}`),
	"significant_terms":         aggs(`{"significant_terms":{"field":"kind","min_doc_count":1}}`),
	"significant_terms, filter": aggs(`{"significant_terms":{"field":"kind","background_filter":{"term":{"tenant_id":"acme"}}}}`),
	"significant_text":          aggs(`{"significant_text":{"field":"body","min_doc_count":1}}`),
	"rare_terms":                aggs(`{"rare_terms":{"field":"kind"}}`),
	"multi_terms":               aggs(`{"multi_terms":{"terms":[{"field":"kind"},{"field":"tenant_id"}]}}`),
	"top_hits":                  aggs(`{"top_hits":{"_source":true,"size":10}}`),
	"top_metrics":               aggs(`{"top_metrics":{"metrics":{"field":"tenant_id"},"sort":{"year":"asc"}}}`),
	"filter":                    aggs(`{"filter":{"term":{"tenant_id":"acme"}}}`),
	"filters":                   aggs(`{"filters":{"filters":{"a":{"term":{"tenant_id":"acme"}}}}}`),
	"adjacency_matrix":          aggs(`{"adjacency_matrix":{"filters":{"a":{"match_all":{}}}}}`),
	"composite":                 aggs(`{"composite":{"sources":[{"t":{"terms":{"field":"tenant_id"}}}]}}`),
	"children":                  aggs(`{"children":{"type":"x"}}`),
	"nested aggregation":        aggs(`{"nested":{"path":"attrs"},"aggs":{"y":{"terms":{"field":"kind"}}}}`),
	"sampler":                   aggs(`{"sampler":{"shard_size":1},"aggs":{"y":{"terms":{"field":"kind"}}}}`),
	"missing":                   aggs(`{"missing":{"field":"year"}}`),
	"cardinality of tenants":    aggs(`{"cardinality":{"field":"tenant_id"}}`),
	"cardinality":               aggs(`{"cardinality":{"field":"kind"}}`),
	"stats":                     aggs(`{"stats":{"field":"year"}}`),
	"stats of sequence numbers": aggs(`{"stats":{"field":"_seq_no"}}`),
	"stats of documents' sizes": aggs(`{"sum":{"field":"_doc_count"}}`),
	"histogram":                 aggs(`{"date_histogram":{"field":"created_at","calendar_interval":"month"}}`),
	"histogram by millisecond":  aggs(`{"date_histogram":{"field":"created_at","fixed_interval":"1ms"}}`),
	"histogram, bounds":         aggs(`{"date_histogram":{"field":"created_at","calendar_interval":"day","extended_bounds":{"min":0,"max":99999999999999}}}`),
	"pipeline":                  aggs(`{"max_bucket":{"buckets_path":"_whose>_count"}}`),
	"our own count":             `{"size":0,"aggs":{"_whose":{"terms":{"field":"kind"}}}}`,
	"our own count, twice":      `{"size":0,"aggs":{"x":{"terms":{"field":"kind"}}},"aggregations":{"_whose":{"terms":{"field":"kind"}}}}`,
	"a name with a path":        `{"size":0,"aggs":{"x>y":{"terms":{"field":"kind"}}}}`,
	"a name of a bucket's":      aggs(`{"terms":{"field":"kind"},"aggs":{"doc_count":{"cardinality":{"field":"id"}}}}`),
	"too deep":                  aggs(`{"terms":{"field":"kind"},"aggs":{"y":{"terms":{"field":"kind"},"aggs":{"z":{"terms":{"field":"kind"}}}}}}`),
	"meta":                      aggs(`{"terms":{"field":"kind"},"meta":{"a":1}}`),

	// What else of documents could be asked for.
	"_source":               `{"_source":["tenant_id","attr","field"]}`,
	"_source, all":          `{"_source":true}`,
	"no _source":            `{"_source":false}`,
	"fields":                `{"fields":["*",{"field":"tenant_id"}]}`,
	"docvalue_fields":       `{"docvalue_fields":["tenant_id","_seq_no"]}`,
	"stored_fields":         `{"stored_fields":["_routing","_ignored"]}`,
	"version":               `{"version":true,"seq_no_primary_term":true}`,
	"sort by tenant":        `{"sort":[{"tenant_id":"asc"}]}`,
	"sort by place":         `{"sort":["_doc"]}`,
	"sort by shard":         `{"sort":["_shard_doc"]}`,
	"sort by _id":           `{"sort":["_id"]}`,
	"sort by distance":      `{"sort":[{"_geo_distance":{"g":[0,0],"order":"asc"}}]}`,
	"sort, nested":          `{"sort":[{"year":{"order":"asc","nested":{"path":"attrs","filter":{"match_all":{}}}}}]}`,
	"sort, missing":         `{"sort":[{"nosuch":{"order":"asc","unmapped_type":"keyword"}}]}`,
	"sort by a text":        `{"sort":["body"]}`,
	"sort":                  `{"sort":[{"created_at":"desc"},{"kind":{"order":"asc"}},"_score"]}`,
	"no end":                `{"size":1000000000}`,
	"less than nothing":     `{"size":-1}`,
	"far away":              `{"from":1000000000}`,
	"beyond a double":       `{"from":1e400}`,
	"range with a format":   query(`{"range":{"created_at":{"gte":"2026","format":"yyyy"}}}`),
	"range, relation":       query(`{"range":{"created_at":{"gte":"now-1d","relation":"within"}}}`),
	"range that is no date": query(`{"range":{"created_at":{"gte":"{{tenant}}"}}}`),
	"range of everything":   query(`{"range":{"id":{"gte":""}}}`),
}

// leaky are attacks that work against a driver that only wraps the query into a bool with a filter:
// without them the table could be one of harmless things.
var leaky = []string{"global", "terms without documents", "suggest"}

// generated attacks are those too big to be written down.
func generated() map[string]string {
	return map[string]string{
		"deep":         query(strings.Repeat(`{"bool":{"must":`, 500) + `{"match_all":{}}` + strings.Repeat(`}}`, 500)),
		"deep lists":   query(strings.Repeat(`[`, 3000) + strings.Repeat(`]`, 3000)),
		"wide":         query(`{"bool":{"should":[` + strings.Repeat(`{"match_all":{}},`, 500) + `{"match_all":{}}]}}`),
		"long":         query(`{"match":{"body":"` + strings.Repeat("word ", 5000) + `"}}`),
		"many words":   query(`{"match":{"body":"` + strings.Repeat("w ", 450) + `"}}`),
		"many values":  query(`{"terms":{"id":[` + strings.Repeat(`"x",`, 1000) + `"x"]}}`),
		"many counts":  `{"aggs":{` + strings.Repeat(`"x":{"stats":{"field":"year"}},`, 20) + `"y":{"stats":{"field":"year"}}}}`,
		"a long place": query(`{"` + strings.Repeat("x\u202e", 1000) + `":{}}`),
	}
}

// Every attack is refused, or answers tenant B exactly as if tenant A did not exist.
func TestQueryBodies(t *testing.T) {
	s := real(t)
	bodies := maps.Clone(attacks)
	maps.Copy(bodies, generated())
	if len(bodies) < 60 {
		t.Errorf("only %d attacks", len(bodies))
	}
	for _, w := range working { // scores, too, must be as if A did not exist
		bodies[w.body] = w.body
	}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			both, cfg := company(t, s, mode)
			cfg.Index = s.name(t)
			alone := migrated(t, cfg)
			if err := alone.Load(t.Context(), sourcetest.B, sourcetest.Company()[sourcetest.B]); err != nil {
				t.Fatal(err)
			}
			refusals, answers := 0, 0
			for attack, body := range bodies {
				index := both.Name(sourcetest.A)
				body = strings.NewReplacer("AINDEX", index).Replace(body)
				got, refused := attempt(t, both, body)
				for _, secret := range secrets {
					if strings.Contains(got, secret) && !strings.Contains(body, secret) {
						t.Errorf("%s: B is told %s", attack, got)
					}
				}
				if want, _ := attempt(t, alone, body); got != want {
					t.Errorf("%s: the answer depends on A (-without +with)\n%s", attack, cmp.Diff(want, got))
				}
				if refused {
					refusals++
				} else {
					answers++
				}
			}
			t.Logf("%d attacks: %d refused, %d answered with B's own", len(bodies), refusals, answers)
			if refusals < 100 || answers < 30 {
				t.Errorf("%d refused, %d answered: the table is not what it was", refusals, answers)
			}
		})
	}
}

// attempt is what tenant B sees of an attack.
func attempt(t *testing.T, x *elasticsearch.Index, body string) (seen string, refused bool) {
	t.Helper()
	hits, counted, err := x.SearchDSL(t.Context(), sourcetest.B, json.RawMessage(body), 50)
	if err == nil {
		return asJSON(t, hits) + string(counted), false
	}
	if code := atlas.CodeOf(err); code != atlas.CodeInvalidQuery && code != atlas.CodeTooLarge {
		t.Errorf("%.200s: %v", body, err)
	}
	seen = asJSON(t, atlas.ErrorOf(err).Failure("req_1"))
	if len(seen) > 2000 {
		t.Errorf("a refusal of %d bytes", len(seen))
	}
	return seen, true
}

// The attacks are real ones: a filter wrapped round the query does not stop them.
func TestAttacksAreReal(t *testing.T) {
	s := real(t)
	x, _ := company(t, s, modes["filter"])
	for _, attack := range leaky {
		var body map[string]any
		if err := json.Unmarshal([]byte(attacks[attack]), &body); err != nil {
			t.Fatal(err)
		}
		question, ok := body["query"]
		if !ok {
			question = map[string]any{"match_all": map[string]any{}}
		}
		body["query"] = map[string]any{"bool": map[string]any{
			"must": question, "filter": map[string]any{"term": map[string]any{"tenant_id": sourcetest.B}},
		}}
		body["size"] = 0
		naive := strings.ReplaceAll(strings.ReplaceAll(asJSON(t, body), `"kind"`, `"field.kind"`), "AINDEX", x.Name(sourcetest.A))
		status, out := s.do(t, "POST", "/"+x.Name(sourcetest.B)+"/_search", naive)
		if status != 200 || !slices.ContainsFunc(secrets, func(secret string) bool { return strings.Contains(out, secret) }) {
			t.Errorf("%s: does not work against a mere filter: %d %s", attack, status, out)
		}
	}
}

// working are bodies that are allowed, with what they find for tenant A.
var working = []struct {
	body string
	want []string
	aggs string
}{
	{`{"query":{"match":{"body":"refunds"}},"sort":["id"]}`, []string{"d_1", "d_2"}, ""},
	{`{"query":{"match":{"body":{"query":"express refunding","operator":"and"}}}}`, []string{"d_2"}, ""},
	{`{"query":{"match_phrase":{"body":"express shipping"}}}`, []string{"d_2"}, ""},
	{`{"query":{"match_phrase":{"body":{"query":"express days","slop":3}}}}`, []string{"d_2"}, ""},
	{`{"query":{"multi_match":{"query":"policy shipping","fields":["title^3.5","body"],"type":"most_fields","minimum_should_match":"50%"}},"sort":"id"}`, []string{"d_1", "d_2"}, ""},
	{`{"query":{"term":{"kind":"policy"}},"sort":[{"created_at":"asc"}]}`, []string{"d_1", "d_2"}, ""},
	{`{"query":{"term":{"year":{"value":2026.5,"boost":2}}}}`, []string{"t_7302"}, ""},
	{`{"query":{"term":{"public":false}},"sort":{"created_at":{"order":"desc"}}}`, []string{"t_7302", "t_7301"}, ""},
	{`{"query":{"term":{"created_at":"2026-02-01T00:00:00Z"}}}`, []string{"t_7301"}, ""},
	{`{"query":{"terms":{"id":["d_1","d_2","nosuch"],"boost":2}},"sort":[{"id":"desc"}],"from":1}`, []string{"d_1"}, ""},
	{`{"query":{"terms":{"kind":[]}}}`, nil, ""},
	{`{"query":{"term":{"nosuch":"x"}}}`, nil, ""},
	{`{"query":{"term":{"boost":"x"}}}`, nil, ""},
	{`{"query":{"terms":{"boost":["x"]}}}`, nil, ""},
	{`{"query":{"range":{"year":{"gt":2025,"lte":2026}}},"sort":"id"}`, []string{"d_1", "t_7301"}, ""},
	{`{"query":{"range":{"created_at":{"gte":"2026-02-01","lt":"2026-02-01||+1d/d"}}}}`, []string{"t_7301"}, ""},
	{`{"query":{"range":{"created_at":{"gt":"now"}}}}`, nil, ""},
	{`{"query":{"exists":{"field":"url"}}}`, []string{"d_1"}, ""},
	{`{"query":{"prefix":{"id":"t_"}},"sort":"id"}`, []string{"t_7301", "t_7302"}, ""},
	{`{"query":{"ids":{"values":["d_2"]}}}`, []string{"d_2"}, ""},
	{`{"query":{"bool":{"must":{"match":{"body":"refund"}},"must_not":[{"term":{"year":2025}}],"should":[{"match":{"title":"policy"}}]}}}`, []string{"d_1"}, ""},
	{`{"query":{"constant_score":{"filter":{"term":{"id":"d_1"}},"boost":3}}}`, []string{"d_1"}, ""},
	{`{"query":{"dis_max":{"queries":[{"match":{"title":"policy"}},{"match":{"title":"shipping"}}],"tie_breaker":0.5}},"sort":"id"}`, []string{"d_1", "d_2"}, ""},
	{`{"query":{"match_none":{}}}`, nil, ""},
	{`{"query":{"term":{"kind":"policy"}}}`, []string{"d_1", "d_2"}, ""},
	{`{"query":{"bool":{"should":[{"term":{"public":true}},{"term":{"kind":{"value":"ticket","boost":2}}},{"terms":{"year":[2025]}},{"exists":{"field":"url"}}]}}}`, []string{"d_1", "d_2", "t_7301", "t_7302"}, ""},
	{
		`{"size":0,"aggs":{"kinds":{"terms":{"field":"kind","order":{"_key":"asc"}},"aggs":{"when":{"max":{"field":"year"}}}}}}`, nil,
		`{"kinds":{"buckets":[{"doc_count":1,"key":"only-acme","when":{"value":null}},{"doc_count":2,"key":"policy","when":{"value":2026.0}},` +
			`{"doc_count":2,"key":"ticket","when":{"value":2026.5}}],"sum_other_doc_count":0}}`,
	},
	{
		`{"size":0,"query":{"term":{"kind":"policy"}},"aggregations":{"by":{"date_histogram":{"field":"created_at","calendar_interval":"month"}},"n":{"value_count":{"field":"id"}}}}`, nil,
		`{"by":{"buckets":[{"doc_count":1,"key":1767225600000,"key_as_string":"2026-01-01T00:00:00.000Z"},` +
			`{"doc_count":1,"key":1772323200000,"key_as_string":"2026-03-01T00:00:00.000Z"}]},"n":{"value":2}}`,
	},
	{
		`{"size":0,"aggs":{"s":{"stats":{"field":"year"}}},"query":{"term":{"id":"d_1"}}}`, nil,
		`{"s":{"avg":2026.0,"count":1,"max":2026.0,"min":2026.0,"sum":2026.0}}`,
	},
}

// What is allowed works.
// A body whose words multiply beyond what the server takes is the caller's fault, and none of the server's.
func TestWordsThatMultiply(t *testing.T) {
	x, _ := company(t, real(t), modes["index"])
	clauses := make([]string, 90)
	for i := range clauses {
		var words strings.Builder
		for j := range 20 {
			fmt.Fprintf(&words, "w%dx%d ", i, j)
		}
		clauses[i] = `{"match":{"body":"` + words.String() + `"}}`
	}
	body := `{"query":{"bool":{"should":[` + strings.Join(clauses, ",") + `]}}}`
	if _, _, err := x.SearchDSL(t.Context(), sourcetest.A, json.RawMessage(body), 0); atlas.CodeOf(err) != atlas.CodeTooLarge {
		t.Errorf("got %v, want too_large", err)
	}
}

func TestQueryBodiesWork(t *testing.T) {
	s := real(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, _ := company(t, s, mode)
			for _, tc := range working {
				hits, counted, err := x.SearchDSL(t.Context(), sourcetest.A, json.RawMessage(tc.body), 0)
				if err != nil {
					t.Errorf("%s: %v", tc.body, err)
					continue
				}
				var ids []string
				for _, h := range hits.Hits {
					ids = append(ids, h.ID)
				}
				if diff := cmp.Diff(tc.want, ids); diff != "" {
					t.Errorf("%s (-want +got)\n%s", tc.body, diff)
				}
				if string(counted) != tc.aggs {
					t.Errorf("%s: got %s, want %s", tc.body, counted, tc.aggs)
				}
			}
			// A tenant without data, and without an index.
			hits, counted, err := x.SearchDSL(t.Context(), sourcetest.Nobody, json.RawMessage(`{"aggs":{"k":{"terms":{"field":"kind"}}}}`), 0)
			if err != nil || len(hits.Hits) != 0 || hits.Total != 0 || !strings.Contains(string(counted), `"buckets":[]`) {
				t.Errorf("nobody: %v %s %v", hits, counted, err)
			}
		})
	}
}
