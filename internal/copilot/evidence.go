package copilot

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// A Source is one record of evidence. It is read-only once collected.
type Source struct {
	Anchor    string
	ID        string
	Kind      string // order, ticket, customer, document, or the name the server's answer gives it
	Title     string
	URL       string
	Tool      string
	RequestID string
	AsOf      time.Time
	Trust     atlas.Reads
	Fields    []Field  // scalar fields in order of name, without the long texts
	Text      []string // sentences of the record's long texts, without those that give orders
	Withheld  int      // sentences left out because they give orders to the reader
	Owners    []string // customers it belongs to; none for common knowledge such as a policy
}

// A Field is a named scalar of a record.
type Field struct{ Name, Value string }

// Field returns the first of the named fields that the source has.
func (s Source) Field(names ...string) (string, bool) {
	for _, n := range names {
		for _, f := range s.Fields {
			if f.Name == n && f.Value != "" {
				return f.Value, true
			}
		}
	}
	return "", false
}

// Amount returns the source's amount of money in hundredths and its currency.
func (s Source) Amount() (minor int64, currency string, ok bool) {
	for _, f := range s.Fields {
		if a, is := amountOf(f, s); is {
			return a, s.currency(), true
		}
	}
	return 0, "", false
}

func (s Source) currency() string {
	c, _ := s.Field("currency", "currency_code")
	return strings.ToUpper(c)
}

func amountOf(f Field, s Source) (int64, bool) {
	if strings.HasSuffix(f.Name, "_cents") || f.Name == "cents" || strings.HasSuffix(f.Name, "_minor") {
		var n int64
		_, err := fmt.Sscanf(f.Value, "%d", &n)
		return n, err == nil
	}
	named := slices.ContainsFunc([]string{"amount", "total", "price", "cost", "fee"}, func(w string) bool {
		return f.Name == w || strings.HasSuffix(f.Name, "_"+w) || strings.HasPrefix(f.Name, w+"_")
	})
	if !named || s.currency() == "" {
		return 0, false
	}
	var whole, frac int64
	w, fr, _ := strings.Cut(f.Value, ".")
	if _, err := fmt.Sscanf(w, "%d", &whole); err != nil || len(fr) > 2 {
		return 0, false
	}
	if fr != "" {
		if _, err := fmt.Sscanf((fr + "0")[:2], "%d", &frac); err != nil {
			return 0, false
		}
	}
	return whole*100 + frac, true
}

// Excerpt is at most 160 characters of what the source says.
func (s Source) Excerpt() string {
	text := strings.Join(s.Text, " ")
	if text == "" {
		var parts []string
		for _, f := range s.Fields {
			parts = append(parts, f.Name+"="+f.Value)
		}
		text = strings.Join(parts, " ")
	}
	return clip(text, 160)
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// A collector turns tools' answers into sources. It is not safe for concurrent use.
type collector struct {
	max     int
	sources []Source
	full    bool
}

const (
	maxRecordText = 6000 // bytes of one record's text
	maxDepth      = 8
)

// add reads one answer and returns the ids of the records in it.
func (c *collector) add(tool Tool, args json.RawMessage, obs Observation, at time.Time) []string {
	w := walker{c: c, tool: tool, requestID: obs.RequestID, asOf: cmp.Or(obs.AsOf, at)}
	var asked map[string]any
	if json.Unmarshal(args, &asked) == nil {
		for _, v := range asked {
			s, _ := v.(string)
			switch kind, id, _ := fact.KindOfID(s); kind {
			case fact.Customer:
				w.customer = id
			case fact.Order:
				w.order = id
			}
		}
	}
	if len(obs.Structured) > 0 {
		dec := json.NewDecoder(bytes.NewReader(obs.Structured))
		dec.UseNumber()
		var v any
		if dec.Decode(&v) == nil {
			w.walk(v, tool.Name, w.customer, 0)
		}
	} else if text := strings.TrimSpace(obs.Text); text != "" {
		w.record(map[string]string{"text": text}, tool.Name, "")
	}
	return w.found
}

type walker struct {
	c         *collector
	tool      Tool
	requestID string
	asOf      time.Time
	found     []string
	customer  string // the customer that was asked for in the call's arguments
	order     string // the order that was asked for
}

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
	case fact.Ticket, "message", "email", "mail", "comment", "note", "page", "review", "chat":
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
		{"profile", fact.Customer}, {"customer", fact.Customer}, {"order", fact.Order}, {"ticket", fact.Ticket},
		{"document", fact.Document}, {"doc", fact.Document}, {"polic", fact.Document}, {"article", fact.Document},
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

// merge adds s, or completes the record of the same id that another tool returned.
func (c *collector) merge(s Source) {
	for i := range c.sources {
		old := &c.sources[i]
		same := s.ID != "" && old.ID == s.ID && old.Kind == s.Kind ||
			s.ID == "" && old.Tool == s.Tool && slices.Equal(old.Fields, s.Fields) && slices.Equal(old.Text, s.Text)
		if !same {
			continue
		}
		for _, f := range s.Fields {
			if _, has := old.Field(f.Name); !has {
				old.Fields = append(old.Fields, f)
			}
		}
		for _, t := range s.Text {
			if !flatContains(strings.Join(old.Text, " "), t) {
				old.Text = append(old.Text, t)
			}
		}
		for _, o := range s.Owners {
			if !slices.Contains(old.Owners, o) {
				old.Owners = append(old.Owners, o)
			}
		}
		old.Title, old.URL = cmp.Or(old.Title, s.Title), cmp.Or(old.URL, s.URL)
		old.Withheld = max(old.Withheld, s.Withheld)
		if s.Trust == atlas.ReadsUntrusted {
			old.Trust = s.Trust
		}
		if s.AsOf.Before(old.AsOf) {
			old.AsOf = s.AsOf // a merged record is as old as its oldest part
		}
		return
	}
	if len(c.sources) >= c.max {
		c.full = true
		return
	}
	c.sources = append(c.sources, s)
}

// ordered returns the sources with anchors, those nearest to the question first.
func (c *collector) ordered(question string, ids []string) []Source {
	terms := fact.Terms(question)
	score := func(s Source) int {
		n := 0
		if slices.Contains(ids, s.ID) {
			n += 100
		}
		if slices.ContainsFunc(ids, s.mentions) {
			n += 20
		}
		words := fact.Terms(s.Title + " " + strings.Join(s.Text, " "))
		for _, t := range terms {
			if slices.Contains(words, t) {
				n += 3
			}
		}
		return n
	}
	out := slices.Clone(c.sources)
	for i, s := range out { // what belongs to an order belongs to the order's customer
		if id, ok := s.Field("order_id"); ok && len(s.Owners) == 0 {
			for _, o := range out {
				if o.Kind == fact.Order && o.ID == id {
					out[i].Owners = o.Owners
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Source) int { return cmp.Compare(score(b), score(a)) })
	for i := range out {
		out[i].Anchor = fmt.Sprintf("S%d", i+1)
	}
	return out
}

// mentions reports whether the source is, belongs to, or speaks of the id.
func (s Source) mentions(id string) bool {
	if s.ID == id || slices.Contains(s.Owners, id) {
		return true
	}
	in := func(text string) bool {
		return slices.ContainsFunc(fact.IDs(text), func(f fact.ID) bool { return f.Value == id })
	}
	for _, f := range s.Fields {
		if in(f.Value) {
			return true
		}
	}
	return slices.ContainsFunc(s.Text, in)
}

// Mentions reports whether the source is, belongs to, or speaks of the id.
func (s Source) Mentions(id string) bool { return s.mentions(id) }
