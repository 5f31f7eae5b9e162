package isolation

import "encoding/base64"

// A query is an object of a search server's query language.
type query = map[string]any

// everything is the body of a search that finds all that there is.
func everything() query { return query{"query": query{matchAll: query{}}, "size": 50} }

// bodies are queries that step out of what the driver puts around them.
func (p *Proof) bodies(b *bound) []attempt {
	var ids []any
	known := p.judge.seen[B]
	for _, id := range known.all() {
		if len(ids) < 20 && known.exact[id] {
			ids = append(ids, id)
		}
	}
	var out []attempt
	for i := range b.fields {
		f := &b.fields[i]
		if f.form != formBody {
			continue
		}
		for _, q := range hostile(string(p.cfg.Tenants[A]), string(p.cfg.Tenants[B]), ids) {
			out = append(out, p.tryA(b, b.with(f.name, q.value), "%s is %s", f.name, q.about))
		}
	}
	return out
}

type hostileBody struct {
	about string
	value query
}

// hostile are the bodies, by what they use. Where a name of the tenant's field is needed it is the one
// that is used most.
func hostile(a, b string, ids []any) []hostileBody {
	const field = "tenant_id"
	all := query{matchAll: query{}}
	theirs := query{"term": query{field: b}}
	asked := func(q query) query { return query{"query": q, "size": 50} }
	counted := func(agg query) query { return query{"size": 0, "query": all, "aggs": query{"x": agg}} }
	beside := func(name string, v any) query { return query{"query": all, "size": 50, name: v} }
	boolean := func(part query) query { return asked(query{"bool": part}) }
	script := query{"source": "return true", "lang": "painless"}
	return []hostileBody{
		{"everything", everything()},
		{"everything, unwrapped", all},
		{"nothing at all", query{}},
		{"a term of B's name", asked(theirs)},
		{"a term of B's name in a keyword", asked(query{"term": query{field + ".keyword": b}})},
		{"terms of both names", asked(query{"terms": query{field: []any{a, b}}})},
		{"terms looked up in another document", asked(query{"terms": query{"id": query{"index": "*", "id": "1", "path": "id"}}})},
		{"a should beside the filter", boolean(query{"should": []any{all, theirs}, "minimum_should_match": 0})},
		{"a negative minimum_should_match", boolean(query{"should": []any{theirs}, "minimum_should_match": -1})},
		{"all but A", boolean(query{"must_not": []any{query{"term": query{field: a}}}})},
		{"not nothing", boolean(query{"must_not": []any{query{"match_none": query{}}}})},
		{"ids of B", asked(query{"ids": query{"values": ids}})},
		{"ids of B with B's name before them", asked(query{"ids": query{"values": []any{b, b + ":" + text(ids), b + "/" + text(ids), b + "\x00" + text(ids)}}})},
		{"terms of B's ids", asked(query{"terms": query{"id": ids}})},
		{"terms of B's _id", asked(query{"terms": query{"_id": ids}})},
		{"a range over ids", asked(query{"range": query{"id": query{"gte": "", "lte": "\uffff"}}})},
		{"a range over tenants", asked(query{"range": query{field: query{"gte": b, "lte": b}}})},
		{"a prefix of B's name", asked(query{"prefix": query{field: b[:1]}})},
		{"a wildcard", asked(query{"wildcard": query{field: "*"}})},
		{"a regular expression", asked(query{"regexp": query{field: ".*"}})},
		{"a fuzzy A", asked(query{"fuzzy": query{field: query{"value": a, "fuzziness": 2}}})},
		{"that the tenant exists", asked(query{"exists": query{"field": field}})},
		{"a query string", asked(query{"query_string": query{"query": field + ":" + b + " OR *:*"}})},
		{"a simple query string", asked(query{"simple_query_string": query{"query": "*", "fields": []any{"*"}}})},
		{"a match over all fields", asked(query{"multi_match": query{"query": b + " " + commonWord, "fields": []any{"*"}}})},
		{"a word of all canaries", asked(query{"match": query{"body": commonWord}})},
		{"a wrapped query", asked(query{"wrapper": query{"query": base64.StdEncoding.EncodeToString(encode(theirs))}})},
		{"a script query", asked(query{"script": query{"script": script}})},
		{"a score by script", asked(query{"script_score": query{"query": all, "script": script}})},
		{"a function score", asked(query{"function_score": query{"query": theirs, "boost_mode": "replace"}})},
		{"more like a document of B", asked(query{"more_like_this": query{"like": []any{query{"_id": text(ids)}}, "min_term_freq": 1, "min_doc_freq": 1}})},
		{"a document with a parent", asked(query{"has_parent": query{"parent_type": "x", "query": all}})},
		{"a document with a child", asked(query{"has_child": query{"type": "x", "query": all}})},
		{"a nested query", asked(query{"nested": query{"path": "attrs", "query": all}})},
		{"a pinned document", asked(query{"pinned": query{"ids": ids, "organic": all}})},
		{"a percolation", asked(query{"percolate": query{"field": "query", "document": query{}}})},
		{"a constant score of B", asked(query{"constant_score": query{"filter": theirs}})},
		{"the best of all and B", asked(query{"dis_max": query{"queries": []any{all, theirs}}})},
		{"boosting", asked(query{"boosting": query{"positive": all, "negative": query{"term": query{field: a}}, "negative_boost": 0.1}})},
		{"a post_filter", beside("post_filter", theirs)},
		{"another index", beside("index", "*")},
		{"indices_boost", beside("indices_boost", []any{query{"*": 2}})},
		{"a point in time", beside("pit", query{"id": "x"})},
		{"search_after", beside("search_after", []any{""})},
		{"a routing", beside("routing", b)},
		{"runtime_mappings", beside("runtime_mappings", query{field: query{"type": "keyword", "script": "emit('" + a + "')"}})},
		{"derived fields", beside("derived", query{field: query{"type": "keyword", "script": "emit('" + a + "')"}})},
		{"script_fields", beside("script_fields", query{"x": query{"script": "params._source"}})},
		{"all of _source", beside("_source", []any{"*"})},
		{"all fields", beside("fields", []any{"*"})},
		{"docvalue_fields of the tenant", beside("docvalue_fields", []any{field, "id"})},
		{"stored_fields", beside("stored_fields", []any{"*"})},
		{"an explanation", beside("explain", true)},
		{"a profile", beside("profile", true)},
		{"a suggester", beside("suggest", query{"x": query{"text": "zqcanaryb", "term": query{"field": "body", "suggest_mode": "always"}}})},
		{"a completion", beside("suggest", query{"x": query{"prefix": "", "completion": query{"field": "title"}}})},
		{"a highlight by another query", beside("highlight", query{"fields": query{"*": query{"highlight_query": theirs}}})},
		{"a rescore by script", beside("rescore", query{"window_size": 50, "query": query{"rescore_query": query{"script_score": query{"query": all, "script": script}}}})},
		{"a collapse with inner hits", beside("collapse", query{"field": field, "inner_hits": query{"name": "x", "size": 50}})},
		{"a kNN beside the query", beside("knn", query{"field": "vector", "query_vector": []any{1}, "k": 50, "num_candidates": 50})},
		{"a retriever", query{"retriever": query{"standard": query{"query": theirs}}}},
		{"a slice", beside("slice", query{"id": 0, "max": 2})},
		{"a page far away", query{"query": all, "from": 1000, "size": 50}},
		{"terms of the tenant", counted(query{"terms": query{"field": field}})},
		{"terms of ids", counted(query{"terms": query{"field": "id", "size": 50}})},
		{"terms without documents", counted(query{"terms": query{"field": "id", "min_doc_count": 0, "size": 50}})},
		{"global aggregation", counted(query{"global": query{}, "aggs": query{"y": query{"terms": query{"field": "id"}}}})},
		{"global aggregation with top hits", counted(query{"global": query{}, "aggs": query{"y": query{"top_hits": query{"size": 50}}}})},
		{"significant terms", counted(query{"significant_terms": query{"field": "id", "min_doc_count": 1, "background_filter": theirs}})},
		{"rare terms", counted(query{"rare_terms": query{"field": "id"}})},
		{"top hits", counted(query{"top_hits": query{"size": 50}})},
		{"a filter of B", counted(query{"filter": theirs})},
		{"filters of both", counted(query{"filters": query{"filters": query{"a": query{"term": query{field: a}}, "b": theirs}}})},
		{"a composite", counted(query{"composite": query{"sources": []any{query{"t": query{"terms": query{"field": field}}}}}})},
		{"what is missing", counted(query{"missing": query{"field": field}})},
		{"a scripted metric", counted(query{"scripted_metric": query{"map_script": "state.x = doc", "combine_script": "state", "reduce_script": "states", "init_script": ""}})},
		{"an aggregation named as one of the driver's", query{"size": 0, "query": all, "aggs": query{"_whose": query{"terms": query{"field": field}}}}},
	}
}
