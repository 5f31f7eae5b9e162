package offline

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// rest says that a question of several was left open.
const rest = "The rest of the question is not in the sources."

// Synthesize implements [copilot.Model].
func (*Model) Synthesize(ctx context.Context, req copilot.SynthesizeRequest) (string, copilot.Usage, error) {
	if err := ctx.Err(); err != nil {
		return "", copilot.Usage{}, err
	}
	e := newEvidence(req.Sources)
	e.quotes = 3
	if req.Previous != "" {
		e.quotes = 1 // a revision says less
	}
	var said []string
	open := 0
	ps := parts(req.Question, req.Plan.IDs)
	for _, p := range ps {
		answer := e.answer(p)
		if len(answer) == 0 {
			open++
		}
		for _, s := range answer {
			if !slices.Contains(said, s) {
				said = append(said, s)
			}
		}
	}
	if len(said) == 0 {
		return copilot.NotInSources, copilot.Usage{}, nil
	}
	if open > 0 {
		said = append(said, rest)
	}
	words := 0
	for i, s := range said {
		if words += len(strings.Fields(fact.Anchors.ReplaceAllString(s, ""))); words > req.Words && i > 0 {
			said = said[:i]
			break
		}
	}
	draft := strings.Join(said, "\n")
	if req.Token != nil {
		for _, w := range strings.SplitAfter(draft, " ") {
			req.Token(w)
		}
	}
	return draft, copilot.Usage{}, nil
}

// evidence is the sources with the weights of their words.
type evidence struct {
	sources []copilot.Source
	terms   []map[string]bool // of each source: title, text, fields
	idf     map[string]float64
	quotes  int // sentences quoted from one source
}

func newEvidence(sources []copilot.Source) *evidence {
	e := &evidence{sources: sources, idf: map[string]float64{}}
	df := map[string]int{}
	for _, s := range sources {
		terms := map[string]bool{}
		learn := func(text string) {
			for _, t := range fact.Terms(strings.ReplaceAll(text, "_", " ")) {
				terms[t] = true
			}
		}
		learn(s.Title)
		for _, t := range s.Text {
			learn(t)
		}
		for _, f := range s.Fields {
			learn(f.Name)
			learn(f.Value)
		}
		e.terms = append(e.terms, terms)
		for t := range terms {
			df[t]++
		}
	}
	n := float64(len(sources))
	for t, d := range df {
		e.idf[t] = 1 + n/(n+float64(d)*4)
	}
	return e
}

// answer says what the evidence holds for one question, as sentences with anchors; none if it
// does not.
func (e *evidence) answer(p part) []string {
	for _, id := range p.ids {
		if !slices.ContainsFunc(e.sources, func(s copilot.Source) bool { return s.Mentions(id) }) {
			return nil // asked about something that the evidence does not know
		}
	}
	if p.ask == askContents {
		if out := e.contents(p); out != nil {
			return out
		}
	}
	if kind := e.kindNamed(p); kind != "" && len(p.ids) > 0 && p.ask != askWhy {
		p.noun = kind
		if p.ask != askHowMany {
			p.ask = askList
		}
	}
	switch p.ask {
	case askStatus:
		if len(p.ids) == 0 {
			return e.text(p)
		}
		return e.status(p)
	case askList, askHowMany:
		if out := e.list(p); out != nil || len(p.ids) > 0 {
			return out
		}
		return e.text(p)
	case askWhy:
		return e.why(p)
	case askWho:
		return e.who(p)
	case askWhen:
		if out := e.when(p); out != nil {
			return out
		}
		if out := e.arrival(p); out != nil {
			return out
		}
		return e.text(p)
	case askHowMuch:
		if out := e.amount(p); out != nil {
			return out
		}
		return e.text(p)
	case askAttribute:
		if out := e.attribute(p); out != nil {
			return out
		}
		return e.text(p)
	case askHowLong, askGeneral, askContents:
	}
	return e.text(p)
}

// kindNamed returns a kind of record, other than the usual ones, that the question names in the
// plural: "items" for order_item, "invoices" for invoice.
func (e *evidence) kindNamed(p part) string {
	words := fact.Words(p.text)
	for _, s := range e.sources {
		switch s.Kind {
		case fact.Order, fact.Ticket, fact.Customer, fact.Document, fact.Record:
			continue
		}
		last := s.Kind[strings.LastIndexByte(s.Kind, '_')+1:]
		if slices.Contains(words, last+"s") {
			return s.Kind
		}
	}
	return ""
}

// asked returns the records named in the question.
func (e *evidence) asked(p part) []copilot.Source {
	var out []copilot.Source
	for _, id := range p.ids {
		for _, s := range e.sources {
			if s.ID == id {
				out = append(out, s)
			}
		}
	}
	return out
}

// about reports whether a source is about the records asked for: named with them, or knowledge that
// belongs to nobody.
func about(s copilot.Source, ids []string) bool {
	specific := slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		kind, _, _ := fact.KindOfID(id)
		return kind == fact.Customer
	})
	if len(specific) == 0 {
		specific = ids
	}
	return len(ids) == 0 || slices.ContainsFunc(specific, s.Mentions)
}

func (e *evidence) status(p part) []string {
	var out []string
	for _, s := range e.asked(p) {
		if _, ok := s.Field("status", "state"); ok {
			out = append(out, recordSentence(s))
			if s.Kind == fact.Ticket && !reStatus.MatchString(p.text) {
				out = append(out, e.opening(s)...)
			}
		}
	}
	if len(out) == 0 { // a customer: what there is about their records of the kind named
		if l := e.list(p); l != nil {
			return l
		}
		for _, s := range e.sources { // "has CUST-1's refund been paid?": what stands so
			v, ok := s.Field("status")
			if state := fact.Terms(strings.ReplaceAll(v, "_", " ")); ok && s.Kind != fact.Ticket && slices.ContainsFunc(p.ids, s.Mentions) &&
				slices.ContainsFunc(p.focus, func(f string) bool { return slices.Contains(state, f) }) {
				out = append(out, recordSentence(s))
			}
		}
		if out != nil {
			return out
		}
		return e.attribute(p)
	}
	// "Is it delivered?" is answered by the status; "is the parcel damaged?" is not.
	if !reYes.MatchString(p.text) {
		return out
	}
	for _, f := range p.focus {
		known := fact.IsStatusStem(f) || slices.ContainsFunc(e.asked(p), func(s copilot.Source) bool { return speaks(e.termsOf(s), f) })
		if !known {
			return e.text(p)
		}
	}
	return out
}

var reStatus = regexp.MustCompile(`(?i)\b(?:status|state|progress)\b`)

// opening quotes the first two sentences of a text that tell something.
func (e *evidence) opening(s copilot.Source) []string {
	var chosen []quote
	for i := range e.sources {
		for j, text := range e.sources[i].Text {
			if e.sources[i].Anchor == s.Anchor && !strings.HasSuffix(text, "?") && len(chosen) < 2 {
				chosen = append(chosen, quote{source: i, sentence: j, text: text})
			}
		}
	}
	return e.say(chosen)
}

func (e *evidence) termsOf(s copilot.Source) map[string]bool {
	for i := range e.sources {
		if e.sources[i].Anchor == s.Anchor {
			return e.terms[i]
		}
	}
	return nil
}

func speaks(terms map[string]bool, stem string) bool {
	if terms[stem] {
		return true
	}
	for t := range terms {
		if fact.Related(t, stem) {
			return true
		}
	}
	return false
}

// list names the records of the kind asked for that belong to the customers asked about, filtered
// by the status words of the question.
func (e *evidence) list(p part) []string {
	kind := p.noun
	if kind == "" || kind == fact.Customer {
		return nil
	}
	var found []copilot.Source
	for _, s := range e.sources {
		if s.Kind != kind || !about(s, p.ids) || s.ID == "" {
			continue
		}
		if len(p.ids) == 0 && kind == fact.Document && !e.matches(p, s) {
			continue
		}
		fits := true
		for _, f := range p.focus {
			if fact.IsStatusStem(f) || f == fact.Stem("high") || f == fact.Stem("low") || f == "open" {
				fits = fits && slices.ContainsFunc(s.Fields, func(x copilot.Field) bool {
					return slices.Contains(fact.Terms(strings.ReplaceAll(x.Value, "_", " ")), f)
				})
			}
		}
		if fits {
			found = append(found, s)
		}
	}
	if strings.Contains(strings.ToLower(p.text), "open ") {
		found = slices.DeleteFunc(found, func(s copilot.Source) bool { v, ok := s.Field("status"); return ok && v != "open" && v != "pending" })
	}
	if len(found) == 0 || len(p.ids) == 0 && kind != fact.Document {
		return nil
	}
	slices.SortStableFunc(found, func(a, b copilot.Source) int {
		x, _ := a.Field("created_at", "updated_at", "date")
		y, _ := b.Field("created_at", "updated_at", "date")
		return cmp.Or(cmp.Compare(y, x), cmp.Compare(a.ID, b.ID))
	})
	low := strings.ToLower(p.text)
	switch {
	case strings.Contains(low, "oldest "+kind) || strings.Contains(low, "first "+kind):
		found = found[len(found)-1:]
	case containsAny(low, "latest "+kind, "newest "+kind, "last "+kind, "recent "+kind):
		if !strings.Contains(low, kind+"s") {
			found = found[:1]
		}
	}
	var out []string
	if p.ask == askHowMany {
		ids, anchors := []string{}, ""
		for _, s := range found {
			ids = append(ids, s.ID)
			anchors += "[" + s.Anchor + "]"
		}
		of := ""
		if len(p.ids) == 1 {
			of = " of " + p.ids[0]
		}
		many := "s"
		if len(found) == 1 {
			many = ""
		}
		return []string{fmt.Sprintf("The sources list %d %s%s%s: %s %s.", len(found), strings.ReplaceAll(kind, "_", " "), many, of, strings.Join(ids, ", "), anchors)}
	}
	for _, s := range found[:min(len(found), 12)] {
		out = append(out, recordSentence(s))
	}
	return out
}

func containsAny(s string, subs ...string) bool {
	return slices.ContainsFunc(subs, func(x string) bool { return strings.Contains(s, x) })
}

var reAuthor = regexp.MustCompile(`(?i)\b(?:wrote|written|writes|author|opened|reported)\b`)

func (e *evidence) who(p part) []string {
	var out []string
	for _, s := range e.asked(p) {
		if s.Kind == fact.Customer {
			out = append(out, recordSentence(s))
			continue
		}
		if v, ok := s.Field("author", "created_by"); ok && reAuthor.MatchString(p.text) {
			out = append(out, fmt.Sprintf("The author of %s %s is %s [%s].", s.Kind, s.ID, v, s.Anchor))
			continue
		}
		for _, owner := range s.Owners {
			out = append(out, fmt.Sprintf("%s %s belongs to customer %s [%s].", title(s.Kind), s.ID, owner, s.Anchor))
			for _, c := range e.sources {
				if c.Kind == fact.Customer && c.ID == owner {
					out = append(out, recordSentence(c))
				}
			}
		}
	}
	if len(out) == 0 && len(p.ids) == 0 {
		return e.text(p)
	}
	return out
}

// dateFields tells which field of a record holds the date of what happened to it.
var dateFields = map[string][]string{
	"create": {"created_at", "ordered_at", "placed_at", "opened_at"}, "place": {"created_at", "placed_at", "ordered_at"},
	"order": {"created_at", "ordered_at"}, "open": {"created_at", "opened_at"}, "made": {"created_at"}, "buy": {"created_at"}, "bought": {"created_at"},
	"join": {"created_at", "joined_at"}, "sign": {"created_at"}, "register": {"created_at", "registered_at"}, "update": {"updated_at"},
	"change": {"updated_at"}, "write": {"created_at"}, "written": {"created_at"},
}

func (e *evidence) when(p part) []string {
	var out []string
	words := fact.Words(p.text)
	for _, s := range e.asked(p) {
		for _, w := range words {
			stem := fact.Stem(w)
			names := []string{w + "_at", w + "_on", w + "_date", stem + "ed_at"}
			for k, v := range dateFields {
				if fact.Stem(k) == stem && (k != "order" || w == "ordered") {
					names = append(names, v...)
				}
			}
			if v, ok := s.Field(names...); ok {
				if d := dateOf(v); d != "" {
					out = append(out, fmt.Sprintf("%s %s was %s on %s [%s].", title(s.Kind), s.ID, past(w), d, s.Anchor))
					break
				}
			}
		}
	}
	return out
}

// past keeps a participle and turns anything else into one that the field's name bears out.
func past(w string) string {
	if strings.HasSuffix(w, "ed") || w == "made" || w == "bought" || w == "written" {
		return w
	}
	return "created"
}

func dateOf(v string) string {
	for _, f := range fact.Of(v) {
		if f.Kind == fact.KindDate {
			return f.Value
		}
	}
	return ""
}

func (e *evidence) amount(p part) []string {
	var out []string
	for _, s := range e.asked(p) {
		if minor, cur, ok := s.Amount(); ok {
			out = append(out, fmt.Sprintf("The amount of %s %s is %s [%s].", s.Kind, s.ID, copilot.Money(minor, cur), s.Anchor))
		}
	}
	return out
}

// attribute answers "what is the F of ID": every word of F must be in the field's name, or name the
// value itself ("is CUST-1001 gold?").
func (e *evidence) attribute(p part) []string {
	if len(p.focus) == 0 {
		var out []string
		for _, s := range e.asked(p) {
			out = append(out, recordSentence(s))
		}
		return out
	}
	var out []string
	for _, s := range e.asked(p) {
		if fields := fieldsOn(s, p.focus, true); len(fields) > 0 {
			out = append(out, fields...)
			continue
		}
		out = append(out, fieldsOn(s, p.focus, false)...)
	}
	return out
}

// fieldsOn says those fields of a record that speak of what is in focus: of all of it at once, or
// else ("e-mail and tier") one of each, or none if one is missing.
func fieldsOn(s copilot.Source, focus []string, together bool) []string {
	var out []string
	met := map[string]bool{}
	for _, f := range s.Fields {
		name := fact.Terms(strings.ReplaceAll(strings.TrimSuffix(f.Name, "_at"), "_", " "))
		value := fact.Terms(strings.ReplaceAll(f.Value, "_", " "))
		hits := 0
		for _, t := range focus {
			named := slices.ContainsFunc(name, func(n string) bool { return fact.Related(n, t) })
			if named || together && slices.Contains(value, t) {
				met[t] = true
				hits++
			}
		}
		if f.Name == "id" || hits == 0 || together && hits < len(focus) {
			continue
		}
		v := strings.ReplaceAll(f.Value, "_", " ")
		if d := dateOf(f.Value); d != "" {
			v = d
		}
		out = append(out, fmt.Sprintf("The %s of %s %s is %s [%s].", strings.ReplaceAll(strings.TrimSuffix(f.Name, "_at"), "_", " "), s.Kind, s.ID, v, s.Anchor))
	}
	if len(met) < len(focus) {
		return nil
	}
	return out
}

// matches reports whether a source as a whole speaks of enough of the question.
func (e *evidence) matches(p part, s copilot.Source) bool {
	hit := 0
	terms := e.termsOf(s)
	for _, f := range p.focus {
		if speaks(terms, f) {
			hit++
		}
	}
	return len(p.focus) == 0 || float64(hit) >= leastCoverage*float64(len(p.focus))
}
