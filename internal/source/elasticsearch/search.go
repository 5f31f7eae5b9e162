package elasticsearch

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// ErrForeign is in every error for an answer that held, or counted, a document of another tenant:
// the filter did not hold. It is a fault that somebody must look at.
var ErrForeign = errors.New("the answer holds documents of another tenant")

// mostCounted is how many matches are counted; beyond it the total is not known.
const mostCounted = 10_000

// whoseAgg counts, by tenant, the documents that a search matched. No name that a caller may give
// an aggregation begins with '_'.
const whoseAgg = "_whose"

// Search implements source.Searcher. Documents with any of the words are found. A text without a
// single letter or digit finds nothing. Codes beside those of all sources: overloaded when the
// cluster takes no more, source_misconfigured, internal_error with [ErrForeign].
func (x *Index) Search(ctx context.Context, tenant atlas.TenantID, s source.Search) (source.Hits, error) {
	if s.Size < 0 {
		return source.Hits{}, atlas.Errorf(atlas.CodeInvalidArguments, nil, "size is negative").With("argument", "size")
	}
	conditions, err := source.Conditions(s.Filter)
	if err != nil {
		return source.Hits{}, err
	}
	body := object{"size": min(cmp.Or(s.Size, 10), x.cfg.MaxSize)}
	question := object{}
	if len(conditions) > 0 {
		question["filter"] = filters(conditions)
	}
	nothing := false
	if strings.TrimSpace(s.Text) == "" {
		body["sort"] = newest
	} else {
		should := x.words(s.Text)
		nothing = len(should) == 0
		question["should"], question["minimum_should_match"] = should, 1
		body["sort"], body["highlight"] = best, highlight
	}
	var hits source.Hits
	err = x.call(ctx, tenant, func(ctx context.Context, index string) error {
		if nothing {
			hits.Hits = []source.Hit{}
			return nil
		}
		found, err := x.ask(ctx, tenant, index, object{"bool": question}, body)
		if err == nil {
			hits, err = found.documents()
		}
		return err
	})
	if err != nil {
		return source.Hits{}, err
	}
	return hits, nil
}

// call runs fn with the tenant's index, within the source's own limit of time.
func (x *Index) call(ctx context.Context, tenant atlas.TenantID, fn func(ctx context.Context, index string) error) error {
	call, end, err := x.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	index, err := x.index(tenant)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(call, x.cfg.Timeout)
	defer cancel()
	if err = x.gate.Pass(call); err == nil {
		err = fn(call, index)
	}
	if errors.Is(err, ErrForeign) {
		x.forget(index)
	}
	return x.outcome(ctx, err)
}

// words are the clauses for a text: one for each word, of which any may hold. Each word holds
// letters, digits, '-' and '_' only, and the server takes it as text, not as syntax. The index
// splits a word with '-' or '_' in it once more, and as a phrase its parts must stand next to
// each other.
func (x *Index) words(text string) []wordClause {
	var out []wordClause
	seen := map[string]bool{}
	fields := []string{fmt.Sprintf("%s^%g", titlePath, x.cfg.TitleWeight), bodyPath}
	for w := range strings.FieldsFuncSeq(text, func(r rune) bool {
		return r != '-' && r != '_' && !unicode.In(r, unicode.L, unicode.N, unicode.M)
	}) {
		w = strings.ToLower(strings.Trim(w, "-_"))
		if w == "" || seen[w] {
			continue
		}
		if len(seen) == x.cfg.MaxWords {
			break
		}
		seen[w] = true
		out = append(out, wordClause{multiMatch{Query: w, Type: "phrase", Fields: fields}})
	}
	return out
}

// A wordClause looks for one word.
type wordClause struct {
	MultiMatch multiMatch `json:"multi_match"`
}

type multiMatch struct {
	Query  string   `json:"query"`
	Type   string   `json:"type"`
	Fields []string `json:"fields"`
}

// filters are the clauses for conditions. One without values becomes a list without terms, which
// matches nothing.
func filters(conditions []source.Condition) []object {
	out := make([]object, 0, len(conditions))
	for _, c := range conditions {
		terms := make([]string, len(c.Values))
		for i, v := range c.Values {
			terms[i] = term(c.Name, v)
		}
		out = append(out, object{"terms": object{termsPath: terms}})
	}
	return out
}

// term is source.Term, cut to what an index can hold. A hash can be mistaken for no term: those
// begin with a digit.
func term(name string, value any) string {
	t := source.Term(name, value)
	if len(t) > longestKeyword {
		sum := sha256.Sum256([]byte(t))
		return "#" + hex.EncodeToString(sum[:])
	}
	return t
}

const snippetLength = 200 // characters

// The parts of a request body that never change.
var (
	highlight = json.RawMessage(fmt.Sprintf(`{"pre_tags":[""],"post_tags":[""],"fields":{%q:{"number_of_fragments":1,"fragment_size":%d,"no_match_size":%[2]d}}}`, bodyPath, snippetLength))
	kept      = json.RawMessage(fmt.Sprintf(`[%q,%q,%q,%q,%q,%q]`, tenantPath, idPath, titlePath, bodyPath, urlPath, attrsPath))
	whoseBody = json.RawMessage(fmt.Sprintf(`{"terms":{"field":%q,"size":2,"missing":"","execution_hint":"map"}}`, tenantPath))
	newest    = json.RawMessage(fmt.Sprintf(`[{%q:{"order":"desc","missing":"_last"}},{%q:"asc"}]`, createdPath, idPath))
	// Ties are broken by id, so that the same search gives the same list.
	best = json.RawMessage(fmt.Sprintf(`[{"_score":"desc"},{%q:"asc"}]`, idPath))
)

// ask sends a search that asks for question within the tenant's documents, and returns the answer
// if all of it is the tenant's. The rest of the body is ours. If there is no index, nothing is
// found.
func (x *Index) ask(ctx context.Context, tenant atlas.TenantID, index string, question, body object) (*result, error) {
	there, err := x.ready(ctx, index)
	if err != nil {
		return nil, err
	}
	if !there {
		return x.absent(index)
	}
	payload, err := json.Marshal(x.enclose(ctx, tenant, question, body))
	if err != nil {
		return nil, err
	}
	a, err := x.client.do(ctx, http.MethodPost, x.searchPath(index, tenant), jsonMedia, payload)
	if err != nil {
		return nil, err
	}
	if a.absent() { // it was removed since we looked
		x.forget(index)
		return x.absent(index)
	}
	if err := a.failure(); err != nil {
		if a.status == http.StatusBadRequest && atlas.CodeOf(err) == atlas.CodeSourceError {
			err = atlas.Errorf(atlas.CodeSourceError, errRefused{errors.Unwrap(err)}, "")
		}
		return nil, err
	}
	return readResult(a.body, tenant, x.only(index))
}

// errRefused says that the server refused the request itself (status 400).
type errRefused struct{ error }

func (e errRefused) Unwrap() error { return e.error }

func (x *Index) absent(index string) (*result, error) {
	if x.cfg.Isolation == IsolationFilter {
		return nil, missing(index)
	}
	return &result{}, nil
}

// only is the index that all documents must come from, or "" if it says nothing of tenants: with
// isolation by filter the name may be an alias.
func (x *Index) only(index string) string {
	if x.cfg.Isolation == IsolationFilter {
		return ""
	}
	return index
}

// searchPath is the path of a search. Half an answer must not pass for a whole one.
func (x *Index) searchPath(index string, tenant atlas.TenantID) string {
	path := "/" + index + "/_search?allow_partial_search_results=false"
	if x.cfg.RouteByTenant {
		path += "&routing=" + string(tenant)
	}
	return path
}

// enclose completes a request body. Whatever the question is, it stands inside a query that only
// the tenant's documents can match.
func (x *Index) enclose(ctx context.Context, tenant atlas.TenantID, question, body object) object {
	body["query"] = object{"bool": object{
		"filter": []object{{"term": object{tenantPath: string(tenant)}}},
		"must":   []object{question},
	}}
	body["timeout"] = milliseconds(ctx, x.cfg.Timeout)
	body["track_total_hits"] = mostCounted
	body["_source"] = kept
	aggs, _ := body["aggs"].(object)
	if aggs == nil {
		aggs = object{}
	}
	aggs[whoseAgg] = whoseBody
	body["aggs"] = aggs
	return body
}

// A result is a search's answer, of which every document is known to be the tenant's.
type result struct {
	TimedOut bool `json:"timed_out"`
	Shards   struct {
		Failed int `json:"failed"`
	} `json:"_shards"`
	Hits struct {
		Total struct {
			Value    int    `json:"value"`
			Relation string `json:"relation"`
		} `json:"total"`
		Hits []hit `json:"hits"`
	} `json:"hits"`
	Aggregations map[string]json.RawMessage `json:"aggregations"`
}

type hit struct {
	Index     string              `json:"_index"`
	Score     *float64            `json:"_score"`
	Source    map[string]any      `json:"_source"` // a map: its names differ in case, unlike those of a struct
	Highlight map[string][]string `json:"highlight"`
}

// readResult reads an answer and checks whose it is: the second wall, which holds if the filter in
// the request was lost or did not mean what it should.
func readResult(body []byte, tenant atlas.TenantID, only string) (*result, error) {
	var r result
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	err := dec.Decode(&r)
	if err == nil && dec.More() {
		err = errors.New("something follows it")
	}
	if err != nil {
		return nil, atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("read the answer: %w", err), "")
	}
	foreign := 0
	for i := range r.Hits.Hits {
		h := &r.Hits.Hits[i]
		owner, _ := h.Source[tenantPath].(string) // a list of owners, even with the tenant in it, is no string
		if owner != string(tenant) || only != "" && h.Index != only {
			foreign++
		}
	}
	if foreign > 0 {
		return nil, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("%w: %d of %d hits", ErrForeign, foreign, len(r.Hits.Hits)), "")
	}
	switch {
	case r.TimedOut:
		return nil, atlas.Errorf(atlas.CodeTimeout, errors.New("the server stopped searching at the deadline"), "")
	case r.Shards.Failed > 0:
		return nil, atlas.Errorf(atlas.CodeSourceUnavailable, fmt.Errorf("%d shards failed", r.Shards.Failed), "")
	}
	if err := whose(r.Aggregations[whoseAgg], tenant); err != nil {
		return nil, atlas.Errorf(atlas.CodeInternal, err, "")
	}
	return &r, nil
}

// whose checks the count by tenant of everything that matched: also of what was only counted or
// aggregated.
func whose(raw json.RawMessage, tenant atlas.TenantID) error {
	var agg struct {
		Other   *int `json:"sum_other_doc_count"`
		Buckets []struct {
			Key string `json:"key"`
		} `json:"buckets"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &agg) != nil || agg.Other == nil {
		return errors.New("the answer does not tell whose documents matched")
	}
	if *agg.Other > 0 || len(agg.Buckets) > 1 || len(agg.Buckets) == 1 && agg.Buckets[0].Key != string(tenant) {
		return fmt.Errorf("%w: among those that matched", ErrForeign)
	}
	return nil
}

// documents turns the answer into hits.
func (r *result) documents() (source.Hits, error) {
	out := source.Hits{Total: r.Hits.Total.Value, Hits: make([]source.Hit, 0, len(r.Hits.Hits))}
	if r.Hits.Total.Relation == "gte" {
		out.Total = -1
	}
	for _, h := range r.Hits.Hits {
		doc, err := h.document()
		if err != nil {
			return source.Hits{}, atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("read a document: %w", err), "")
		}
		out.Hits = append(out.Hits, doc)
	}
	return out, nil
}

func (h hit) document() (source.Hit, error) {
	fields, ok := h.Source[attrsPath].(map[string]any)
	if fields == nil && h.Source[attrsPath] == nil {
		fields, ok = map[string]any{}, true
	}
	if !ok {
		return source.Hit{}, errors.New(attrsPath + " is no object")
	}
	for name, v := range fields {
		if n, ok := v.(json.Number); ok {
			fields[name], _ = source.Scalar(n)
		}
	}
	var id, title, body, url string
	for _, f := range []struct {
		path string
		into *string
	}{{idPath, &id}, {titlePath, &title}, {bodyPath, &body}, {urlPath, &url}} {
		if *f.into, ok = h.Source[f.path].(string); !ok && h.Source[f.path] != nil {
			return source.Hit{}, errors.New(f.path + " is no text")
		}
	}
	fields["title"], fields["body"] = title, body
	if url != "" {
		fields["url"] = url
	}
	out := source.Hit{ID: id, Fields: fields}
	if h.Score != nil {
		out.Score = *h.Score
	}
	if s := h.Highlight[bodyPath]; len(s) > 0 && s[0] != "" {
		out.Snippet = s[0]
	} else {
		out.Snippet = cut(cmp.Or(body, title), snippetLength)
	}
	return out, nil
}

// cut returns the first n characters of s.
func cut(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}
