package copilot

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// walk finds the records in v. key is the name it has in its parent; owner the customer that the
// answer as a whole is about.
func (w *walker) walk(v any, key, owner string, depth int) {
	if depth > maxDepth {
		return
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			w.walk(e, key, owner, depth+1)
		}
	case map[string]any:
		if rows := table(v); rows != nil {
			w.walk(rows, key, owner, depth+1)
			return
		}
		flat, nested := flatten(v)
		if id, kind := ownerOf(flat); kind == fact.Customer {
			owner = id
		}
		_, hasID := flat["id"]
		if hasID || len(nested) == 0 && len(flat) > 0 {
			w.record(flat, key, owner)
		}
		for _, k := range slices.Sorted(maps.Keys(nested)) {
			if k != "partial_errors" && k != "suggested_actions" {
				w.walk(nested[k], k, owner, depth+1)
			}
		}
	}
}

// table reads {columns: [...], rows: [[...], ...]} as objects.
func table(v map[string]any) []any {
	cols, ok1 := v["columns"].([]any)
	rows, ok2 := v["rows"].([]any)
	if !ok1 || !ok2 || len(rows) == 0 {
		return nil
	}
	var out []any
	for _, r := range rows {
		cells, ok := r.([]any)
		if !ok {
			return nil
		}
		o := map[string]any{}
		for i, cell := range cells {
			if i < len(cols) {
				o[fmt.Sprint(cols[i])] = cell
			}
		}
		out = append(out, o)
	}
	return out
}

// memoryKind is the kind of what was remembered of a customer: words of people or models, and no record.
const memoryKind = "memory"

// noise are fields that say something about the answer, not about the record.
var noise = map[string]bool{
	"score": true, "rrf_score": true, "rank": true, "lexical_rank": true, "dense_rank": true, "distance": true, "tenant_id": true,
	"tenant": true, "_tenant": true, "took_ms": true, "total": false, "next_cursor": true, "cursor": true, "truncated": true,
	"question": true, "query": true, "row_count": true, "as_of": true, "request_id": true, "embedding": true, "vector": true, "fused_from": true,
}

// wrappers are objects whose fields belong to the record round them.
var wrappers = map[string]bool{
	"fields": true, "attributes": true, "attrs": true, "metadata": true, "payload": true, "source": true, "_source": true, "properties": true,
}

// flatten separates a record's scalars, including those of small objects inside it, from what may
// hold further records.
func flatten(v map[string]any) (flat map[string]string, nested map[string]any) {
	flat, nested = map[string]string{}, map[string]any{}
	for k, x := range v {
		if noise[k] {
			continue
		}
		switch x := x.(type) {
		case nil:
		case string:
			flat[k] = x
		case json.Number:
			flat[k] = x.String()
		case bool:
			flat[k] = map[bool]string{true: "yes", false: "no"}[x]
		case []any:
			if list, ok := scalars(x); ok {
				if list != "" {
					flat[k] = list
				}
			} else {
				nested[k] = x
			}
		case map[string]any:
			inner, deeper := flatten(x)
			_, hasID := inner["id"]
			switch {
			case wrappers[k]:
				for n, s := range inner {
					if _, taken := flat[n]; !taken && v[n] == nil {
						flat[n] = s
					}
				}
				maps.Copy(nested, deeper)
			case hasID || len(deeper) > 0:
				nested[k] = x
			default:
				for n, s := range inner {
					flat[k+"_"+n] = s
				}
			}
		}
	}
	return flat, nested
}

func scalars(x []any) (string, bool) {
	var parts []string
	for _, e := range x {
		switch e.(type) {
		case map[string]any, []any:
			return "", false
		case nil:
		default:
			parts = append(parts, fmt.Sprint(e))
		}
	}
	return strings.Join(parts, ", "), true
}

// ownerOf returns the customer that a record names as its own.
func ownerOf(flat map[string]string) (id, kind string) {
	for _, k := range []string{"customer_id", "customer", "customer_number"} {
		if kind, id, ok := fact.KindOfID(flat[k]); ok {
			return id, kind
		}
	}
	return "", ""
}

var longText = map[string]bool{
	"body": true, "text": true, "content": true, "message": true, "description": true, "summary": true, "comment": true, "comments": true,
	"note": true, "notes": true, "snippet": true, "preview": true, "excerpt": true, "answer": true, "details": true,
}

var markup = regexp.MustCompile(`</?(?:b|em|mark|strong|i|p|br)\s*/?>`)

func (w *walker) record(flat map[string]string, key, owner string) {
	s := Source{Tool: w.tool.Name, RequestID: w.requestID, AsOf: w.asOf}
	s.ID = plain(cmp.Or(flat["id"], flat["key"], flat["uri"]), 120)
	idKind := ""
	if kind, canonical, ok := fact.KindOfID(s.ID); ok {
		idKind, s.ID = kind, canonical
	}
	s.Kind = kindOf(idKind, key, w.tool.Name, flat)
	s.Title = plain(cmp.Or(flat["title"], flat["subject"], flat["name"]), 200)
	if u, err := url.Parse(cmp.Or(flat["url"], flat["link"])); err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" {
		s.URL = u.String()
	}
	s.Trust = w.trust(s.Kind)
	var body string
	for _, k := range slices.Sorted(maps.Keys(flat)) {
		v := flat[k]
		if longText[k] || len(v) > 120 {
			v = strings.Trim(markup.ReplaceAllString(v, ""), ". …\n\t") + "."
			// A snippet is part of the body; keep what the other does not say.
			if flatContains(body, v) {
				continue
			}
			if flatContains(v, body) {
				body = ""
			}
			body = strings.TrimSpace(body + "\n" + v)
			continue
		}
		if v = plain(v, 200); v == "" || k == "url" || k == "link" {
			continue
		}
		if fact.Orders(v, s.Trust == atlas.ReadsUntrusted && (k == "title" || k == "subject" || k == "name")) {
			s.Withheld++
			if s.Title == v {
				s.Title = ""
			}
			continue
		}
		s.Fields = append(s.Fields, Field{k, v})
	}
	if id, kind := ownerOf(flat); kind == fact.Customer {
		s.Owners = []string{id}
	} else if s.Kind == fact.Customer && idKind != "" {
		s.Owners = []string{s.ID}
	} else if owner != "" && s.Kind != fact.Document {
		s.Owners = []string{owner}
		s.Fields = append(s.Fields, Field{"customer_id", owner})
	}
	if _, has := s.Field("order_id"); !has && w.order != "" && s.ID != w.order && s.Kind != fact.Document && s.Kind != fact.Customer {
		s.Fields = append(s.Fields, Field{"order_id", w.order}) // asked for by the order, so the order's
	}
	if len(body) > maxRecordText {
		body = strings.ToValidUTF8(body[:maxRecordText], "")
	}
	s.read(body)
	if len(s.Fields) == 0 && len(s.Text) == 0 && s.Withheld == 0 {
		return
	}
	if s.ID != "" {
		w.found = append(w.found, s.ID)
	}
	w.c.merge(s)
}

// read splits the text and leaves out what gives orders. Where something was left out, sentences
// about other customers go too: they are likely the rest of the same attempt.
func (s *Source) read(body string) {
	all := fact.Sentences(plain(body, maxRecordText))
	untrusted := s.Trust == atlas.ReadsUntrusted
	tainted := slices.ContainsFunc(all, func(t string) bool { return fact.Orders(t, false) })
	for _, t := range all {
		foreign := tainted && slices.ContainsFunc(fact.IDs(t), func(id fact.ID) bool {
			return id.Kind == fact.Customer && !slices.Contains(s.Owners, id.Value)
		})
		if foreign || fact.Orders(t, untrusted || tainted) {
			s.Withheld++
			continue
		}
		if !slices.Contains(s.Text, t) {
			s.Text = append(s.Text, t)
		}
	}
}

func (w *walker) trust(kind string) atlas.Reads {
	switch kind {
	case fact.Ticket, memoryKind, "message", "email", "mail", "comment", "note", "page", "review", "chat":
		return atlas.ReadsUntrusted
	case fact.Customer, fact.Order:
		return atlas.ReadsPrivate
	}
	// A workflow is labelled for the worst of what it reads; the kind says more.
	if w.tool.Reads == atlas.ReadsUntrusted && (w.tool.Level != atlas.Workflow || kind != fact.Document) {
		return atlas.ReadsUntrusted
	}
	return atlas.ReadsPrivate
}

// plain makes a value safe to print and to put before a model: folded, one line, no citation of its
// own, bounded.
func plain(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r == '\t' || r == '\r' || r == 0x1b || r == 0x7f {
			return ' '
		}
		return r
	}, fact.Fold(s))
	s = fact.Anchors.ReplaceAllStringFunc(s, func(a string) string { return "(" + strings.Trim(a, "[]") + ")" })
	return strings.TrimSpace(clip(s, most))
}

func flatContains(whole, part string) bool {
	norm := func(s string) string { return strings.Join(fact.Words(s), " ") }
	return part != "" && strings.Contains(norm(whole), norm(part))
}

func kindOf(idKind, key, tool string, flat map[string]string) string {
	if idKind != "" && idKind != fact.Record {
		return idKind
	}
	has := func(keys ...string) bool {
		return !slices.ContainsFunc(keys, func(k string) bool { _, ok := flat[k]; return !ok })
	}
	k := strings.ToLower(key)
	for _, hint := range []struct{ word, kind string }{
		{"profile", fact.Customer},
		{"customer", fact.Customer},
		{"order", fact.Order},
		{"ticket", fact.Ticket},
		{"document", fact.Document},
		{"doc", fact.Document},
		{"polic", fact.Document},
		{"article", fact.Document},
		{"memor", memoryKind},
	} {
		if k == hint.word || k == hint.word+"s" || k == hint.word+"ies" {
			return hint.kind
		}
	}
	if k != "" && k != strings.ToLower(tool) && k != "rows" && k != "results" && k != "hits" && k != "items" && k != "matches" && k != "result" {
		return strings.TrimSuffix(k, "s")
	}
	switch {
	case has("subject", "status"), has("ticket_id", "body"):
		return fact.Ticket
	case has("total_cents"):
		return fact.Order
	case has("email", "name"):
		return fact.Customer
	case has("title", "body"), has("title", "snippet"), has("title", "url"):
		return fact.Document
	}
	if idKind == fact.Record {
		return strings.ToLower(tool) // a tool is mostly named for what it returns
	}
	for _, hint := range []struct{ word, kind string }{{"order", fact.Order}, {"ticket", fact.Ticket}, {"customer", fact.Customer}, {"doc", fact.Document}} {
		if strings.Contains(strings.ToLower(tool), hint.word) {
			return hint.kind
		}
	}
	return fact.Record
}
