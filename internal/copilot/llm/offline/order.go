package offline

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// belongs reports whether a record is the one with the id, or names it as the one it is part of.
func belongs(s copilot.Source, id string) bool {
	kind, _, _ := fact.KindOfID(id)
	of, _ := s.Field(kind + "_id")
	return s.ID == id || of == id
}

// contents lists what the orders asked about hold: records such as order_item that name the order.
func (e *evidence) contents(p part) []string {
	var out []string
	for _, id := range p.ids {
		kind, _, _ := fact.KindOfID(id)
		currency := ""
		for _, s := range e.sources {
			if s.ID == id {
				currency, _ = s.Field("currency", "currency_code")
			}
		}
		for _, s := range e.sources {
			if s.ID != id && isItem(s, kind) && belongs(s, id) {
				out = append(out, itemSentence(s, kind, id, strings.ToUpper(currency)))
			}
		}
	}
	return out
}

// isItem reports whether a record is a line of one of the kind: an order_item, or what has a
// quantity and is no ticket.
func isItem(s copilot.Source, kind string) bool {
	switch s.Kind {
	case fact.Order, fact.Ticket, fact.Customer, fact.Document:
		return false
	}
	_, counted := s.Field("quantity", "qty")
	return counted || strings.HasPrefix(s.Kind, kind+"_item") || strings.HasPrefix(s.Kind, kind+"_line")
}

// itemSentence tells one line of an order. An amount without a currency of its own is in that of
// the order.
func itemSentence(s copilot.Source, kind, id, currency string) string {
	name := s.Title
	if name == "" {
		name, _ = s.Field("product", "sku")
	}
	if name == "" {
		return fieldsSentence(s)
	}
	text := title(kind) + " " + id + " includes "
	quantity, ok := s.Field("quantity", "qty")
	if ok {
		text += quantity + " "
	}
	text += strings.TrimRight(name, ".!? ")
	if minor, own, has := s.Amount(); has {
		if own != "" {
			currency = own
		}
		text += " at " + copilot.Money(minor, currency)
		if ok && quantity != "1" {
			text += " each"
		}
	}
	return fmt.Sprintf("%s [%s].", text, s.Anchor)
}

// settled are the statuses after which nothing is on its way.
var settled = stems("delivered received cancelled canceled returned refunded refund closed completed lost")

// arrival answers when an order will come, as far as the records tell: how it stands since when, and
// how long the way of shipping that its records name takes. A day is not promised.
func (e *evidence) arrival(p part) []string {
	if !reArrival.MatchString(p.text) || reNoParcel.MatchString(p.text) {
		return nil
	}
	var out []string
	for _, s := range e.asked(p) {
		status, ok := s.Field("status", "state")
		if s.Kind != fact.Order || !ok {
			continue
		}
		out = append(out, since(s, status))
		if !slices.ContainsFunc(fact.Terms(strings.ReplaceAll(status, "_", " ")), func(t string) bool { return settled[t] }) {
			out = append(out, e.transit(s.ID)...)
		}
	}
	return out
}

// since tells an order's status with the day of its last change.
func since(s copilot.Source, status string) string {
	for _, f := range []struct{ field, what string }{{"shipped_at", "shipped"}, {"updated_at", "last updated"}} {
		if v, ok := s.Field(f.field); ok && dateOf(v) != "" {
			return fmt.Sprintf("Order %s is %s, %s on %s [%s].", s.ID, strings.ReplaceAll(status, "_", " "), f.what, dateOf(v), s.Anchor)
		}
	}
	return recordSentence(s)
}

// transit names the way of shipping of an order and the rule on how long that takes; nothing if
// either is missing.
func (e *evidence) transit(id string) []string {
	for _, s := range e.sources {
		method := methodOf(s)
		if method == "" || !belongs(s, id) {
			continue
		}
		want := fact.Terms(method)
		for i, d := range e.sources {
			if d.Kind != fact.Document || len(d.Owners) > 0 {
				continue
			}
			for j, text := range d.Text {
				terms := fact.Terms(text)
				if !holds(text, askHowLong) || slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(terms, w) }) {
					continue
				}
				named := fmt.Sprintf("The record of %s %s names %s [%s].", s.Kind, s.ID, method, s.Anchor)
				return append([]string{named}, e.say([]quote{{source: i, sentence: j, text: text}})...)
			}
		}
	}
	return nil
}

var (
	reMethod = regexp.MustCompile(`(?i)\b(\pL{3,})\s+(?:shipping|delivery)\b`)
	reClause = regexp.MustCompile(`(?i)[,;:]\s|\b(?:and|but|because|so)\b`)
	reDenies = regexp.MustCompile(`(?i)\b(?:not|no|never|without|instead|if)\b|n't\b`)
	reWish   = regexp.MustCompile(`(?i)\b(?:(?:would|'d) (?:like|love|prefer)|please|wonder(?:ing)?|let me know|tell me|can you|could you|can I|could I|may I|i (?:want|need|hope|wish|ask|expect))\b|'d (?:like|love|prefer)\b`)
)

// methodOf returns the way of shipping that a record's text states, such as "express shipping".
func methodOf(s copilot.Source) string {
	if s.Kind != fact.Order && s.Kind != fact.Ticket {
		return ""
	}
	for _, text := range s.Text {
		if strings.HasSuffix(text, "?") {
			continue
		}
		for _, clause := range reClause.Split(text, -1) {
			m := reMethod.FindStringSubmatch(clause)
			if m == nil || reDenies.MatchString(clause) || reWish.MatchString(clause) || len(fact.Terms(m[1])) == 0 {
				continue
			}
			return strings.ToLower(m[0])
		}
	}
	return ""
}

// asks reports whether a sentence is one of a customer who asks or wishes: it tells nothing.
func asks(s copilot.Source, text string) bool {
	author, _ := s.Field("author", "created_by", "from")
	return s.Kind == fact.Ticket && (author == fact.Customer || slices.Contains(s.Owners, author)) && reWish.MatchString(text)
}

// titled reports whether a document's title says what the question says: most of the words of both
// are shared.
func titled(s copilot.Source, p part) bool {
	title, asked := fact.Terms(s.Title), fact.Terms(p.text)
	shared := 0
	for _, t := range title {
		if slices.ContainsFunc(asked, func(a string) bool { return fact.Related(a, t) }) {
			shared++
		}
	}
	return shared > 0 && 5*shared >= 3*(len(title)+len(asked)-shared)
}
