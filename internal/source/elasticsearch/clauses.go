package elasticsearch

import (
	"maps"
	"strconv"
	"strings"

	"github.com/atlas-mcp/atlas/internal/source"
)

// clauseTable lists the queries that a body may hold. Each is written anew from what was read: a
// reader takes the members that it knows, in the types that they should have, and nothing else.
//
// Left out because they reach beyond the tenant's documents or their own bounds: everything with a
// script; terms by look-up, more_like_this and percolate (other documents); has_child, has_parent,
// parent_id and nested (joins); fuzzy, wildcard, regexp, match_phrase_prefix, match_bool_prefix,
// query_string and simple_query_string (the dictionary of all tenants' words, and syntax); knn,
// pinned, rank_feature, distance_feature, wrapper, type, indices and geo queries.
func clauseTable() map[string]clause {
	return map[string]clause{
		"match_all":      {"{}", (*reader).matchAll},
		"match_none":     {"{}", (*reader).matchNone},
		"match":          {"{field: text} or {field: {query, operator, minimum_should_match, boost}}, of a text field", (*reader).match},
		"match_phrase":   {"{field: text} or {field: {query, slop, boost}}, of a text field", (*reader).matchPhrase},
		"multi_match":    {"{query, fields, type: best_fields, most_fields or phrase, operator, minimum_should_match, tie_breaker, boost}, of text fields", (*reader).multiMatch},
		"term":           {"{field: value} or {field: {value, boost}}; of any attribute", (*reader).term},
		"terms":          {"{field: [values]}, boost; of any attribute", (*reader).terms},
		"range":          {"{field: {gt, gte, lt, lte, boost}}", (*reader).rangeOf},
		"exists":         {"{field: name}", (*reader).exists},
		"prefix":         {"{field: text} or {field: {value, boost}}, of a keyword field, 2 to 64 characters", (*reader).prefix},
		"ids":            {"{values: [ids]}", (*reader).ids},
		"bool":           {"{must, filter, should, must_not, minimum_should_match, boost}", (*reader).boolOf},
		"constant_score": {"{filter, boost}", (*reader).constantScore},
		"dis_max":        {"{queries, tie_breaker, boost}", (*reader).disMax},
	}
}

// options reads members that several clauses share into out.
func (r *reader) options(at place, o map[string]any, out object) error {
	for _, name := range []string{"boost", "tie_breaker", "slop", "operator", "minimum_should_match"} {
		v, ok := o[name]
		if !ok {
			continue
		}
		var err error
		switch at := at.in(name); name {
		case "boost":
			out[name], err = r.number(at, v, 0, maxBoost)
		case "tie_breaker":
			out[name], err = r.number(at, v, 0, 1)
		case "slop":
			out[name], err = r.whole(at, v, 0, 10)
		case "operator":
			out[name], err = r.word(at, v, "and", "or", "AND", "OR")
		case "minimum_should_match":
			out[name], err = r.least(at, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// least reads minimum_should_match: a count or a percentage.
func (r *reader) least(at place, v any) (any, error) {
	if s, ok := v.(string); ok {
		n, err := strconv.Atoi(strings.TrimSuffix(s, "%"))
		if err != nil || n < 0 || n > 100 {
			return nil, at.bad("must be a whole number or a percentage, such as 2 or 75%%")
		}
		if strings.HasSuffix(s, "%") {
			return strconv.Itoa(n) + "%", nil
		}
		return n, nil
	}
	return r.whole(at, v, 0, maxClauses)
}

func (r *reader) matchAll(at place, v any) (object, error) {
	o, err := r.object(at, v, "boost")
	if err != nil {
		return nil, err
	}
	out := object{}
	return object{"match_all": out}, r.options(at, o, out)
}

func (r *reader) matchNone(at place, v any) (object, error) {
	_, err := r.object(at, v)
	return object{"match_none": object{}}, err
}

func (r *reader) match(at place, v any) (object, error) {
	return r.words(at, v, "match", "operator", "minimum_should_match", "boost")
}

func (r *reader) matchPhrase(at place, v any) (object, error) {
	return r.words(at, v, "match_phrase", "slop", "boost")
}

// words reads match and match_phrase.
func (r *reader) words(at place, v any, name string, options ...string) (object, error) {
	key, value, err := r.one(at, v)
	if err != nil {
		return nil, err
	}
	f, err := r.field(at, key, textField)
	if err != nil {
		return nil, err
	}
	at = at.in(key)
	out := object{}
	if o, ok := value.(map[string]any); ok {
		if _, err := r.object(at, o, append([]string{"query"}, options...)...); err != nil {
			return nil, err
		}
		if err := r.options(at, o, out); err != nil {
			return nil, err
		}
		value, at = o["query"], at.in("query")
	}
	if out["query"], err = r.text(at, value); err != nil {
		return nil, err
	}
	return object{name: object{f.path: out}}, nil
}

func (r *reader) multiMatch(at place, v any) (object, error) {
	o, err := r.object(at, v, "query", "fields", "type", "operator", "minimum_should_match", "tie_breaker", "boost")
	if err != nil {
		return nil, err
	}
	out := object{}
	if out["query"], err = r.text(at.in("query"), o["query"]); err != nil {
		return nil, err
	}
	fields := []string{titlePath, bodyPath}
	if v, ok := o["fields"]; ok {
		list, ok := v.([]any)
		if !ok || len(list) == 0 || len(list) > 8 {
			return nil, at.in("fields").bad("must be a list of 1 to 8 text fields")
		}
		fields = fields[:0]
		for i, e := range list {
			at := at.in("fields").at(i)
			s, _ := e.(string)
			name, boost, boosted := strings.Cut(s, "^")
			f, err := r.field(at, name, textField)
			if err != nil {
				return nil, err
			}
			if path := f.path; boosted {
				n, err := strconv.ParseFloat(boost, 64)
				if err != nil || !(n >= 0 && n <= maxBoost) {
					return nil, at.bad("has a boost that is no number between 0 and %d", maxBoost)
				}
				fields = append(fields, path+"^"+strconv.FormatFloat(n, 'f', -1, 64))
			} else {
				fields = append(fields, path)
			}
		}
	}
	out["fields"] = fields
	if v, ok := o["type"]; ok {
		if out["type"], err = r.word(at.in("type"), v, "best_fields", "most_fields", "phrase"); err != nil {
			return nil, err
		}
	}
	return object{"multi_match": out}, r.options(at, o, out)
}

// attribute finds what a name and values of an exact comparison lead to: a field that is indexed by
// its type, or the terms of all attributes.
func (r *reader) attribute(at place, name string, values []any) (path string, out []any, err error) {
	f, known := r.fields[name]
	if known && f.kind == textField {
		return "", nil, at.in(name).bad("is a text: use match")
	}
	if name == "" || len(name) > 256 {
		return "", nil, at.bad("names no attribute")
	}
	out = make([]any, len(values))
	for i, v := range values {
		if known {
			if out[i], err = r.value(at.in(name), v, f.kind); err != nil {
				return "", nil, err
			}
			continue
		}
		s, ok := source.Scalar(v)
		if text, is := s.(string); !ok || is && len(text) > maxText {
			return "", nil, at.in(name).bad("must be a text, a number or a boolean")
		}
		out[i] = term(name, s)
	}
	if known {
		return f.path, out, nil
	}
	return termsPath, out, nil
}

// term compares one value. It is written without a score of its own: for exact values, too, the
// servers count the documents of all tenants that hold them.
func (r *reader) term(at place, v any) (object, error) {
	name, value, err := r.one(at, v)
	if err != nil {
		return nil, err
	}
	out := object{}
	if o, ok := value.(map[string]any); ok {
		if _, err := r.object(at.in(name), o, "value", "boost"); err != nil {
			return nil, err
		}
		if err := r.options(at.in(name), o, out); err != nil {
			return nil, err
		}
		value = o["value"]
	}
	path, values, err := r.attribute(at, name, []any{value})
	if err != nil {
		return nil, err
	}
	out["filter"] = object{"term": object{path: values[0]}}
	return object{"constant_score": out}, nil
}

func (r *reader) terms(at place, v any) (object, error) {
	o, ok := v.(map[string]any)
	if !ok {
		return nil, at.bad("must be an object")
	}
	out := object{}
	field := maps.Clone(o)
	// Beside a field, boost is the weight; alone it would be the field.
	if _, ok := o["boost"]; ok && len(o) > 1 {
		if err := r.options(at, map[string]any{"boost": o["boost"]}, out); err != nil {
			return nil, err
		}
		delete(field, "boost")
	}
	name, value, err := r.one(at, field)
	if err != nil {
		return nil, err
	}
	list, ok := value.([]any) // an object here is a look-up in another document
	if !ok || len(list) > source.MaxFilterValues {
		return nil, at.in(name).bad("must be a list of at most %d values", source.MaxFilterValues)
	}
	path, values, err := r.attribute(at, name, list)
	if err != nil {
		return nil, err
	}
	out[path] = values
	return object{"terms": out}, nil
}

func (r *reader) rangeOf(at place, v any) (object, error) {
	name, value, err := r.one(at, v)
	if err != nil {
		return nil, err
	}
	f, err := r.field(at, name, keywordField, longField, doubleField, dateField)
	if err != nil {
		return nil, err
	}
	at = at.in(name)
	o, err := r.object(at, value, "gt", "gte", "lt", "lte", "boost")
	if err != nil {
		return nil, err
	}
	out := object{}
	for _, end := range []string{"gt", "gte", "lt", "lte"} {
		if v, ok := o[end]; ok {
			if out[end], err = r.value(at.in(end), v, f.kind); err != nil {
				return nil, err
			}
		}
	}
	return object{"range": object{f.path: out}}, r.options(at, o, out)
}

func (r *reader) exists(at place, v any) (object, error) {
	o, err := r.object(at, v, "field", "boost")
	if err != nil {
		return nil, err
	}
	name, _ := o["field"].(string)
	f, err := r.field(at, name, textField, keywordField, longField, doubleField, dateField, booleanField)
	if err != nil {
		return nil, err
	}
	out := object{"field": f.path}
	return object{"exists": out}, r.options(at, o, out)
}

func (r *reader) prefix(at place, v any) (object, error) {
	name, value, err := r.one(at, v)
	if err != nil {
		return nil, err
	}
	f, err := r.field(at, name, keywordField)
	if err != nil {
		return nil, err
	}
	at = at.in(name)
	out := object{}
	if o, ok := value.(map[string]any); ok {
		if _, err := r.object(at, o, "value", "boost"); err != nil {
			return nil, err
		}
		if err := r.options(at, o, out); err != nil {
			return nil, err
		}
		value = o["value"]
	}
	s, _ := value.(string)
	if len(s) < 2 || len(s) > 64 {
		return nil, at.bad("must be a text of 2 to 64 characters")
	}
	out["value"] = s
	return object{"prefix": object{f.path: out}}, nil
}

// ids asks for documents by their own ids: _id holds the tenant, too, and is not theirs to name.
func (r *reader) ids(at place, v any) (object, error) {
	o, err := r.object(at, v, "values")
	if err != nil {
		return nil, err
	}
	return r.terms(at, map[string]any{source.FilterID: o["values"]})
}

func (r *reader) boolOf(at place, v any) (object, error) {
	o, err := r.object(at, v, "must", "filter", "should", "must_not", "minimum_should_match", "boost")
	if err != nil {
		return nil, err
	}
	out := object{}
	for _, part := range []string{"must", "filter", "should", "must_not"} {
		if v, ok := o[part]; ok {
			if out[part], err = r.queries(at.in(part), v); err != nil {
				return nil, err
			}
		}
	}
	return object{"bool": out}, r.options(at, o, out)
}

func (r *reader) constantScore(at place, v any) (object, error) {
	o, err := r.object(at, v, "filter", "boost")
	if err != nil {
		return nil, err
	}
	out := object{}
	if out["filter"], err = r.query(at.in("filter"), o["filter"]); err != nil {
		return nil, err
	}
	return object{"constant_score": out}, r.options(at, o, out)
}

func (r *reader) disMax(at place, v any) (object, error) {
	o, err := r.object(at, v, "queries", "tie_breaker", "boost")
	if err != nil {
		return nil, err
	}
	out := object{}
	if out["queries"], err = r.queries(at.in("queries"), o["queries"]); err != nil {
		return nil, err
	}
	return object{"dis_max": out}, r.options(at, o, out)
}
