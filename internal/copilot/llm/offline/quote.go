package offline

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// leastCoverage is the part of a question's content words that a quoted sentence, with its title,
// must speak of. One of two is too little: "helicopter shipping" is not answered by shipping.
const leastCoverage = 0.6

var (
	reReason   = regexp.MustCompile(`(?i)\b(?:because|since (?:the|we|it|they|there|this|that|our|no|your|his|her)|due to|owing to|so that|so|therefore|until|unless|reason|hold|holds|held|holding|wait|waits|waiting|awaiting|closed|failed|fails|missing|blocked|rejected|declined|bounced|returned to|cannot|could not|unable|not been|has not|did not|without|lost|damaged|expired|wrong|incorrect)\b`)
	reDuration = regexp.MustCompile(`(?i)\b(?:minutes?|hours?|days?|weeks?|months?|years?)\b`)
)

// A quote is a sentence of a source, with how well it answers.
type quote struct {
	source   int
	sentence int
	text     string
	score    float64
	coverage float64
	reason   bool
}

// quotes rates every sentence that may be quoted for the question.
func (e *evidence) rate(p part, eligible func(copilot.Source) bool) []quote {
	var out []quote
	for i, s := range e.sources {
		if !eligible(s) {
			continue
		}
		titleTerms := map[string]bool{}
		for _, t := range fact.Terms(s.Title) {
			titleTerms[t] = true
		}
		howTo := p.ask == askGeneral && s.Kind == fact.Document && reHowTo.MatchString(p.text) && titled(s, p)
		for j, text := range s.Text {
			if strings.HasSuffix(text, "?") {
				continue // a question tells nothing
			}
			if s.Title != "" && strings.TrimRight(text, ".! ") == s.Title {
				continue // nor does the heading
			}
			if asks(s, text) && !slices.Contains(p.ids, s.ID) {
				continue // nor does a customer's wish, unless that is what the question is about
			}
			q := quote{source: i, sentence: j, text: text, reason: reReason.MatchString(text)}
			terms := map[string]bool{}
			for _, t := range fact.Terms(text) {
				terms[t] = true
			}
			hit, own := 0, 0
			for _, f := range p.focus {
				weight := cmp.Or(e.idf[f], 1)
				switch {
				case terms[f]:
					q.score += weight
					hit, own = hit+1, own+1
				case speaks(terms, f):
					q.score += 0.7 * weight
					hit, own = hit+1, own+1
				case speaks(titleTerms, f):
					q.score += 0.5 * weight
					hit++
				}
			}
			if len(p.focus) > 0 {
				q.coverage = float64(hit) / float64(len(p.focus))
			}
			if own == 0 {
				q.score *= 0.5
			}
			if hit > 0 && howTo {
				q.score += 2 // the instructions themselves, before texts that mention the matter
			}
			if own > 0 && p.ask == askGeneral && reGives.MatchString(p.text) && reGives.MatchString(text) {
				q.score++
			}
			if p.ask == askWhy && q.reason {
				q.score++
			}
			if !holds(text, p.ask) {
				continue
			}
			if s.Trust == atlas.ReadsPrivate {
				q.score += 0.2 // the company's own word before an outsider's
			}
			out = append(out, q)
		}
	}
	slices.SortStableFunc(out, func(a, b quote) int { return cmp.Compare(b.score, a.score) })
	return out
}

// holds reports whether a sentence holds the kind of fact that is asked for.
func holds(text string, a ask) bool {
	if a == askHowLong {
		return has(text, fact.KindNumber) && reDuration.MatchString(text)
	}
	if a == askWhen {
		return has(text, fact.KindDate) || reDuration.MatchString(text)
	}
	return a != askHowMuch || has(text, fact.KindAmount) || has(text, fact.KindNumber)
}

func has(text string, kind fact.Kind) bool {
	return slices.ContainsFunc(fact.Of(text), func(f fact.Fact) bool { return f.Kind == kind })
}

// text quotes the sentences that answer best, from at most two sources.
func (e *evidence) text(p part) []string {
	if len(p.focus) == 0 {
		return nil
	}
	rated := e.rate(p, func(s copilot.Source) bool {
		if len(p.ids) == 0 {
			// A general question is answered from common knowledge, not from somebody's records.
			return len(s.Owners) == 0
		}
		return about(s, p.ids) || len(s.Owners) == 0 && s.Kind == fact.Document
	})
	rated = slices.DeleteFunc(rated, func(q quote) bool { return q.coverage < leastCoverage || !e.speaksOfHead(p, q) })
	if len(rated) == 0 {
		return nil
	}
	// With an id in the question, a general document alone does not answer what is asked of the record.
	if len(p.ids) > 0 && p.ask != askHowLong && !slices.ContainsFunc(rated, func(q quote) bool { return slices.ContainsFunc(p.ids, e.sources[q.source].Mentions) }) {
		return nil
	}
	best := rated[0].score
	var chosen []quote
	from := map[int]int{}
	for _, q := range rated {
		if q.score < 0.7*best || len(chosen) == e.quotes {
			break
		}
		if from[q.source] == 0 && len(from) == 2 || from[q.source] == e.quotes {
			continue
		}
		from[q.source]++
		chosen = append(chosen, q)
	}
	return e.say(chosen)
}

// speaksOfHead reports whether the quote, with its title, speaks of the thing asked for: the salary
// of the team lead is not answered by what the team lead approves.
func (e *evidence) speaksOfHead(p part, q quote) bool {
	terms := map[string]bool{}
	for _, t := range fact.Terms(q.text + " " + e.sources[q.source].Title) {
		terms[t] = true
	}
	return !slices.ContainsFunc(p.head, func(h string) bool { return !speaks(terms, h) })
}

// why gives the state of the records asked about, the reason as the tickets tell it, and what the
// rules say.
func (e *evidence) why(p part) []string {
	if len(p.ids) == 0 {
		return e.text(p)
	}
	var out []string
	for _, s := range e.asked(p) {
		if _, ok := s.Field("status"); ok && s.Kind != fact.Ticket {
			out = append(out, recordSentence(s))
		}
	}
	owned := e.rate(p, func(s copilot.Source) bool { return s.Kind != fact.Document && len(s.Text) > 0 && about(s, p.ids) })
	reasons := slices.DeleteFunc(slices.Clone(owned), func(q quote) bool { return !q.reason || q.coverage == 0 && !e.nearby(p, q) })
	if len(reasons) == 0 {
		if len(out) > 0 && e.statusTells(p) {
			return append(out, "The reason is not in the sources.")
		}
		return nil
	}
	first := reasons[0].source
	var chosen []quote
	for _, q := range owned { // the best source: its reasons, and what else it says of the matter
		if q.source == first && (q.reason || q.coverage > 0 || has(q.text, fact.KindDate)) && len(chosen) <= e.quotes {
			chosen = append(chosen, q)
		}
	}
	out = append(out, e.say(chosen)...)
	rules := e.rate(p, func(s copilot.Source) bool { return s.Kind == fact.Document && len(s.Owners) == 0 })
	rules = slices.DeleteFunc(rules, func(q quote) bool { return !e.onTopic(p, q) })
	slices.SortStableFunc(rules, func(a, b quote) int { return cmp.Compare(e.ruleScore(b), e.ruleScore(a)) })
	// The rule that sets a time, and the one that fits best if it is another of the same document.
	n := min(len(rules), 1)
	if n == 1 && len(rules) > 1 && rules[1].source == rules[0].source && rules[1].coverage >= leastCoverage {
		n = 2
	}
	return append(out, e.say(rules[:n])...)
}

// ruleScore prefers rules that say how long something takes: they tell what "late" means.
func (e *evidence) ruleScore(q quote) float64 {
	if reDuration.MatchString(q.text) && has(q.text, fact.KindNumber) {
		return q.score + 10
	}
	return q.score
}

// onTopic reports whether a rule shares a word of the question itself, not only a related one.
func (e *evidence) onTopic(p part, q quote) bool {
	own := append(fact.Terms(q.text), fact.Terms(e.sources[q.source].Title)...)
	return slices.ContainsFunc(p.focus, func(f string) bool { return slices.Contains(own, f) }) ||
		q.coverage >= leastCoverage
}

// nearby reports whether a reason stands in a text that speaks of the matter elsewhere.
func (e *evidence) nearby(p part, q quote) bool {
	terms := e.termsOf(e.sources[q.source])
	return slices.ContainsFunc(p.focus, func(f string) bool { return speaks(terms, f) })
}

// statusTells reports whether the question's matter is at all known of the records asked about.
func (e *evidence) statusTells(p part) bool {
	return slices.ContainsFunc(e.asked(p), func(s copilot.Source) bool {
		terms := e.termsOf(s)
		return len(p.focus) == 0 || slices.ContainsFunc(p.focus, func(f string) bool { return speaks(terms, f) || fact.IsStatusStem(f) })
	})
}

// say writes quotes as sentences, source by source and in the order of the text. What outsiders
// wrote is told as what they wrote.
func (e *evidence) say(chosen []quote) []string {
	order := []int{}
	for _, q := range chosen {
		if !slices.Contains(order, q.source) {
			order = append(order, q.source)
		}
	}
	slices.SortStableFunc(chosen, func(a, b quote) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.source), slices.Index(order, b.source)), cmp.Compare(a.sentence, b.sentence))
	})
	var out []string
	before := -1 // the source of the sentence before
	for _, q := range chosen {
		s := e.sources[q.source]
		text := strings.TrimRight(q.text, ".!? ")
		head := ""
		switch {
		case before == q.source && s.Trust == atlas.ReadsUntrusted:
			head = fmt.Sprintf("%s %s also says: ", title(s.Kind), s.ID)
		case s.Trust == atlas.ReadsUntrusted:
			head = fmt.Sprintf("%s %s says: ", title(s.Kind), s.ID)
			if v, ok := s.Field("created_at", "date", "updated_at"); ok && dateOf(v) != "" {
				head = fmt.Sprintf("%s %s of %s says: ", title(s.Kind), s.ID, dateOf(v))
			}
		case s.Title != "" && !strings.HasPrefix(text, s.Title):
			head = s.Title + ": "
		}
		before = q.source
		out = append(out, fmt.Sprintf("%s%s [%s].", head, text, s.Anchor))
	}
	return out
}
