package isolation

import (
	"regexp"
	"strings"
)

// searches are words that are no words.
func (p *Proof) searches(b *bound) []attempt {
	var out []attempt
	for i := range b.fields {
		f := &b.fields[i]
		if f.form != formText || f.pattern != nil {
			continue
		}
		for _, w := range p.queries(b) {
			out = append(out, p.tryA(b, b.with(f.name, w.value), "%s is %s", f.name, w.about))
		}
	}
	return out
}

// queries are B's own words, and query languages.
func (p *Proof) queries(b *bound) []way {
	t := string(p.cfg.Tenants[B])
	out := []way{
		{"a word of all canaries", commonWord},
		{"what begins B's markers", markerTag + "b"},
		{"B's markers by wildcard", markerTag + "b*"},
		{"a wildcard", "*"},
		{"everything", "*:*"},
		{"a field of the tenant", "tenant_id:" + t},
		{"a field of the tenant, or all", "x OR tenant_id:" + t + " OR *"},
		{"what has a tenant", "_exists_:tenant_id"},
		{"a regular expression", "/.*/"},
		{"a fuzzy word", markerTag + "b~2"},
		{"a query as JSON", `{"query":{"match_all":{}}}`},
		{"a query as JSON that closes another", `"}},{"match_all":{}},{"x":{"y":"`},
		{"a Boolean query of another tenant", `{"bool":{"filter":[{"term":{"tenant_id":"` + t + `"}}]}}`},
		{"a path", "../" + t + "/_search"},
		{"an SQL injection", "x' OR '1'='1"},
		{"an SQL UNION", "x' UNION SELECT * FROM doc--"},
		{"an FTS5 column filter", "title : *"},
		{"an FTS5 NEAR", "NEAR(" + commonWord + " a, 100)"},
		{"an FTS5 NOT", "NOT x"},
		{"a template", "{{#toJson}}query{{/toJson}}"},
		{"only signs", `"()[]{}*?\:/~^`},
		{"NUL", "\x00" + commonWord},
		{"B's name", t},
	}
	words := ownWords(b.answer.Text)
	if words != "" {
		out = append(out, way{"B's text, word for word but for its marker", words})
		out = append(out, way{"B's text, as a phrase", `"` + words + `"`})
	}
	for i, id := range p.judge.seen[B].all() {
		if i == 3 {
			break
		}
		out = append(out, way{"B's id " + redact(id), id})
	}
	return out
}

var anyMarker = regexp.MustCompile(`(?i)` + markerTag + `[ab][a-p]{20}`)

// ownWords is a text of B without its markers: those are what must not come back.
func ownWords(text string) string {
	at := markerOf[B].FindStringIndex(text)
	if at == nil {
		return ""
	}
	words := strings.FieldsFunc(anyMarker.ReplaceAllString(text[max(0, at[0]-300):at[0]], " "), func(r rune) bool {
		return strings.ContainsRune("\"\\{}[]:,", r) || r <= ' '
	})
	return strings.Join(words[min(len(words), 1):], " ") // the first may be cut
}

// filters ask for other tenants by attribute.
func (p *Proof) filters(b *bound) []attempt {
	a, t := string(p.cfg.Tenants[A]), string(p.cfg.Tenants[B])
	var ids []any
	for _, id := range p.judge.seen[B].all() {
		if len(ids) < 20 && p.judge.seen[B].exact[id] {
			ids = append(ids, id)
		}
	}
	var out []attempt
	for i := range b.fields {
		f := &b.fields[i]
		if f.form != formObject {
			continue
		}
		for _, v := range []struct {
			about string
			value map[string]any
		}{
			{"tenant_id is B", map[string]any{"tenant_id": t}},
			{"tenant_id is A or B", map[string]any{"tenant_id": []any{a, t}}},
			{"tenant is B", map[string]any{"tenant": t}},
			{"_tenant is B", map[string]any{"_tenant": t}},
			{"tenant_id is a wildcard", map[string]any{"tenant_id": "*"}},
			{"tenant_id is not A", map[string]any{"tenant_id": map[string]any{"$ne": a}}},
			{"_index is anything", map[string]any{"_index": "*"}},
			{"_routing is B", map[string]any{"_routing": t}},
			{"_id is B's", map[string]any{"_id": first20(ids)}},
			{"id is one of B's", map[string]any{"id": first20(ids)}},
			{"id is a wildcard", map[string]any{"id": "*"}},
			{"$or of both tenants", map[string]any{"$or": []any{map[string]any{"tenant_id": t}, map[string]any{"tenant_id": a}}}},
			{"must_not on A", map[string]any{"must_not": map[string]any{"term": map[string]any{"tenant_id": a}}}},
			{"should instead of must", map[string]any{"should": []any{map[string]any{"match_all": map[string]any{}}}}},
			{"a script", map[string]any{"script": "return true"}},
			{"a nested name", map[string]any{"metadata.tenant_id": t}},
			{"a name with SQL", map[string]any{"x') OR 1=1 --": "y"}},
			{"a name with JSON", map[string]any{`x"},{"match_all":{}`: "y"}},
			{"an empty list", map[string]any{"tenant_id": []any{}}},
		} {
			out = append(out, p.tryA(b, b.with(f.name, v.value), "%s: %s", f.name, v.about))
		}
		if f.name == "params" { // names of a statement's values
			out = append(out, p.tryA(b, b.with(f.name, map[string]any{"tenant": t, "tenant_id": t, "app.tenant_id": t}), "%s name the tenant", f.name))
		}
	}
	return out
}

// first20 is the list, or something that nobody has if it is empty.
func first20(ids []any) any {
	if len(ids) == 0 {
		return "none"
	}
	return ids
}
