package copilot

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
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
