package elasticsearch

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// Bounds of aggregations: 16 of them, of which two nested ones give at most 50 × 50 buckets.
const (
	maxAggregations = 16
	maxAggDepth     = 2
	maxBuckets      = 50
)

// aggregations are what a body wants to be counted, by the names that it gave.
type aggregations map[string]aggregation

type aggregation struct {
	kind   string
	body   object
	inside aggregations // of buckets
}

// metrics are the aggregations that give numbers, with the fields that they may be of.
var metrics = map[string][]fieldType{
	"stats":       {longField, doubleField, dateField},
	"min":         {longField, doubleField, dateField},
	"max":         {longField, doubleField, dateField},
	"avg":         {longField, doubleField},
	"sum":         {longField, doubleField},
	"value_count": {keywordField, longField, doubleField, dateField, booleanField},
	"cardinality": {keywordField, longField, doubleField, dateField, booleanField},
}

var aggregationNames = append(slices.Sorted(maps.Keys(metrics)), "terms", "date_histogram")

// aggregations reads aggs. Left out are those that look beyond what the query found (global,
// significant_terms, and terms with min_doc_count 0, which lists every tenant's terms), that run
// scripts or return documents (top_hits), and those whose buckets nothing bounds.
func (r *reader) aggregations(at place, v any, depth int, budget *int) (aggregations, error) {
	o, ok := v.(map[string]any)
	if !ok {
		return nil, at.bad("must be an object")
	}
	if depth > maxAggDepth {
		return nil, at.bad("aggregations may be nested %d deep", maxAggDepth)
	}
	out := aggregations{}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		at := at.in(name)
		if *budget--; *budget < 0 {
			return nil, at.bad("there are more than %d aggregations", maxAggregations)
		}
		if !aggregationName(name) || slices.Contains(bucketMembers, name) {
			return nil, at.bad("is no name for an aggregation: use letters, digits, - and _, beginning with a letter, and none of %s", strings.Join(bucketMembers, ", "))
		}
		agg, err := r.aggregation(at, o[name], depth, budget)
		if err != nil {
			return nil, err
		}
		out[name] = agg
	}
	return out, nil
}

// bucketMembers stand in a bucket beside the aggregations within it.
var bucketMembers = []string{"key", "key_as_string", "doc_count"}

func aggregationName(s string) bool {
	letter := func(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
	if s == "" || len(s) > 64 || !letter(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !letter(c) && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func (r *reader) aggregation(at place, v any, depth int, budget *int) (aggregation, error) {
	var none aggregation
	o, err := r.object(at, v, append([]string{"aggs", "aggregations"}, aggregationNames...)...)
	if err != nil {
		return none, err
	}
	agg := aggregation{}
	var inside any
	for name, value := range o {
		switch {
		case name == "aggs" || name == "aggregations":
			if inside != nil {
				return none, at.bad("give aggs or aggregations, not both")
			}
			inside = value
		case agg.kind != "":
			return none, at.bad("must be of one kind")
		default:
			agg.kind = name
		}
	}
	if agg.kind == "" {
		return none, at.bad("must be one of %s", strings.Join(aggregationNames, ", "))
	}
	kinds, metric := metrics[agg.kind]
	known := []string{"field"}
	switch agg.kind {
	case "terms":
		kinds, known = []fieldType{keywordField, longField, doubleField, booleanField}, []string{"field", "size", "order"}
	case "date_histogram":
		kinds, known = []fieldType{dateField}, []string{"field", "calendar_interval"}
	}
	at = at.in(agg.kind)
	body, err := r.object(at, o[agg.kind], known...)
	if err != nil {
		return none, err
	}
	name, _ := body["field"].(string)
	f, err := r.field(at, name, kinds...)
	if err != nil {
		return none, err
	}
	agg.body = object{"field": f.path}
	if metric {
		if inside != nil {
			return none, at.bad("has no buckets to aggregate in")
		}
		return agg, nil
	}
	if err := r.buckets(at, agg.kind, body, agg.body); err != nil {
		return none, err
	}
	if inside != nil {
		if agg.inside, err = r.aggregations(at.in("aggs"), inside, depth+1, budget); err != nil {
			return none, err
		}
	}
	return agg, nil
}

// buckets reads the members of an aggregation with buckets into out. Buckets without documents are
// never asked for: of terms they are other tenants', of dates there could be any number.
func (r *reader) buckets(at place, kind string, body map[string]any, out object) error {
	var err error
	out["min_doc_count"] = 1
	if kind == "date_histogram" {
		out["calendar_interval"], err = r.word(at.in("calendar_interval"), body["calendar_interval"], "year", "quarter", "month", "week", "day")
		return err
	}
	out["size"] = 10
	if v, ok := body["size"]; ok {
		if out["size"], err = r.whole(at.in("size"), v, 1, maxBuckets); err != nil {
			return err
		}
	}
	v, ok := body["order"]
	if !ok {
		return nil
	}
	at = at.in("order")
	by, direction, err := r.one(at, v)
	if err != nil {
		return err
	}
	if by, err = r.word(at, by, "_count", "_key"); err != nil {
		return err
	}
	if direction, err = r.word(at, direction, "asc", "desc"); err != nil {
		return err
	}
	out["order"] = object{by: direction}
	return nil
}

// request is the aggregations as the server takes them.
func (a aggregations) request() object {
	out := object{}
	for name, agg := range a {
		o := object{agg.kind: agg.body}
		if len(agg.inside) > 0 {
			o["aggs"] = agg.inside.request()
		}
		out[name] = o
	}
	return out
}

// An aggAnswer is what the server says of one aggregation.
type aggAnswer struct {
	Value         json.RawMessage              `json:"value"`
	ValueAsString json.RawMessage              `json:"value_as_string"`
	Count         json.RawMessage              `json:"count"`
	Min           json.RawMessage              `json:"min"`
	Max           json.RawMessage              `json:"max"`
	Avg           json.RawMessage              `json:"avg"`
	Sum           json.RawMessage              `json:"sum"`
	Other         json.RawMessage              `json:"sum_other_doc_count"`
	Buckets       []map[string]json.RawMessage `json:"buckets"`
}

// aggregations is what of the answer was asked for, written anew.
func (q *dslQuery) aggregations(r *result) (json.RawMessage, error) {
	if len(q.aggs) == 0 {
		return nil, nil
	}
	out, err := q.aggs.answer(r.Aggregations)
	if err != nil {
		return nil, atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("read the aggregations: %w", err), "")
	}
	return json.Marshal(out)
}

func (a aggregations) answer(raw map[string]json.RawMessage) (object, error) {
	out := object{}
	for name, agg := range a {
		var got aggAnswer
		if data, ok := raw[name]; ok { // else there is no index, and so nothing was counted
			if err := json.Unmarshal(data, &got); err != nil {
				return nil, err
			}
		}
		o := object{}
		for key, v := range map[string]json.RawMessage{
			"value": got.Value, "value_as_string": got.ValueAsString, "count": got.Count,
			"min": got.Min, "max": got.Max, "avg": got.Avg, "sum": got.Sum, "sum_other_doc_count": got.Other,
		} {
			if v != nil {
				o[key] = v
			}
		}
		if _, metric := metrics[agg.kind]; !metric {
			buckets := make([]object, 0, len(got.Buckets))
			for _, b := range got.Buckets {
				inside, err := agg.inside.answer(b)
				if err != nil {
					return nil, err
				}
				for _, key := range bucketMembers {
					if v, ok := b[key]; ok {
						inside[key] = v
					}
				}
				buckets = append(buckets, inside)
			}
			o["buckets"] = buckets
		}
		out[name] = o
	}
	return out, nil
}
