package copilot

import (
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// indexed is a source with what a check asks of it, read once.
type indexed struct {
	Source
	loaded bool
	units  []unit          // one per sentence, field and title
	terms  map[string]bool // stems of all words
	words  map[string]bool // all words, lower case
}

// A unit is the smallest part of a source that can bear a fact out.
type unit struct {
	text    string
	prose   bool // a sentence of a long text, not a field
	facts   []fact.Fact
	clauses []clause
}

func (s *indexed) load() *indexed {
	if s.loaded {
		return s
	}
	s.loaded, s.terms, s.words = true, map[string]bool{}, map[string]bool{}
	s.add(s.Title, nil)
	for _, t := range s.Text {
		s.add(t, nil)
		s.units[len(s.units)-1].prose = true
	}
	for _, f := range s.Fields {
		var more []fact.Fact
		if minor, ok := amountOf(f, s.Source); ok {
			more = append(more, fact.Amount(minor, s.currency(), f.Value))
			s.learn("amount total")
		}
		s.learn(strings.ReplaceAll(f.Name, "_", " "))
		s.add(strings.ReplaceAll(f.Value, "_", " "), more)
		if strings.Contains(f.Value, "_") {
			s.add(f.Value, nil)
		}
	}
	s.learn(s.Kind + " " + s.ID)
	return s
}

func (s *indexed) add(text string, more []fact.Fact) {
	if text == "" {
		return
	}
	text = fact.Fold(text)
	s.units = append(s.units, unit{text: text, facts: append(fact.Of(text), more...), clauses: clausesOf(text)})
	s.learn(text)
}

func (s *indexed) learn(text string) {
	for _, w := range fact.Words(text) {
		w = strings.TrimSuffix(strings.Trim(w, "'"), "'s")
		s.words[w], s.terms[fact.Stem(w)] = true, true
	}
}

// speaksOf reports whether the source has the stem or a related one.
func (s *indexed) speaksOf(stem string) bool {
	if s.terms[stem] {
		return true
	}
	for t := range s.terms {
		if fact.Related(t, stem) {
			return true
		}
	}
	return false
}

// bears reports whether the source bears out a fact of a sentence with the given text.
func (s *indexed) bears(f fact.Fact, text string) bool {
	if f.Kind == fact.KindName || f.Kind == fact.KindCode && s.words[f.Value] {
		return s.words[f.Value]
	}
	if f.Kind == fact.KindStatus {
		negated := negatedAt(text, f.Pos)
		start, end := clauseAt(text, f.Pos)
		said := clause{terms: besides(text[start:end], f.Value)}
		return slices.ContainsFunc(s.units, func(u unit) bool {
			return slices.ContainsFunc(wordsAt(u.text), func(w wordAt) bool {
				if fact.Stem(w.text) != f.Value || negatedAt(u.text, w.pos) != negated {
					return false
				}
				// Prose must say it of the same thing: "the card that paid" is no word of a paid refund.
				start, end := clauseAt(u.text, w.pos)
				has := clause{terms: besides(u.text[start:end], f.Value)}
				return !u.prose || len(said.terms) == 0 || len(has.terms) == 0 || said.shared(has) > 0
			})
		})
	}
	return slices.ContainsFunc(s.units, func(u unit) bool {
		return slices.ContainsFunc(u.facts, func(e fact.Fact) bool { return fact.Supports(e, f) })
	})
}

type wordAt struct {
	text string
	pos  int
}

func wordsAt(s string) []wordAt {
	var out []wordAt
	start := -1
	for i := 0; i <= len(s); i++ {
		letter := i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z' || s[i] == '\'')
		switch {
		case letter && start < 0:
			start = i
		case !letter && start >= 0:
			out = append(out, wordAt{strings.ToLower(s[start:i]), start})
			start = -1
		}
	}
	return out
}

// negators turn what stands round them into its opposite.
var negators = map[string]bool{
	"not": true, "no": true, "never": true, "without": true, "neither": true, "nor": true, "cannot": true, "nothing": true, "unable": true,
	"none": true, "nobody": true, "hardly": true, "barely": true, "scarcely": true, "rarely": true, "seldom": true, "false": true, "untrue": true,
	"incorrect": true, "wrong": true, "wrongly": true, "stopped": true, "stops": true, "ceased": true, "refused": true, "refuses": true,
	"refusing": true, "denies": true, "lacks": true, "unlikely": true, "impossible": true, "supposedly": true, "allegedly": true,
}

func negates(word string) bool { return negators[word] || strings.HasSuffix(word, "n't") }

// negatedAt reports whether one of the four words before pos, in the same clause, negates what
// stands there.
func negatedAt(text string, pos int) bool {
	before := text[:min(pos, len(text))]
	if i := strings.LastIndexAny(before, ",;:."); i >= 0 {
		before = before[i+1:]
	}
	w := fact.Words(before)
	return slices.ContainsFunc(w[max(0, len(w)-4):], negates)
}

// besides returns the content words of a clause without one of them.
func besides(text, stem string) []string {
	return slices.DeleteFunc(fact.Terms(text), func(t string) bool { return scaffold[t] || negators[t] || t == stem })
}

// A clause is a part of a sentence that affirms or denies something.
type clause struct {
	terms   []string // stems of its content words, status words and names among them
	negated bool
}

// clausesOf splits a sentence. A negation in a clause without content ("in no way", "it is false
// that") is one of the whole sentence.
func clausesOf(text string) []clause {
	var out []clause
	all := false
	read := func(part string) {
		c := clause{negated: slices.ContainsFunc(fact.Words(part), negates)}
		c.terms = slices.DeleteFunc(fact.Terms(part), func(t string) bool { return scaffold[t] || negators[t] })
		if len(c.terms) == 0 {
			all = all || c.negated
			return
		}
		out = append(out, c)
	}
	split := false
	for part := range splitClauses(text) {
		split = true
		read(part)
	}
	if !split {
		read(text)
	}
	if all {
		for i := range out {
			out[i].negated = true
		}
	}
	return out
}

func (c clause) shared(d clause) int {
	n := 0
	for _, t := range c.terms {
		if slices.ContainsFunc(d.terms, func(u string) bool { return fact.Related(t, u) }) {
			n++
		}
	}
	return n
}

// reversed returns the words of a clause that the cited sources hold with the opposite polarity
// only: the clause of theirs that is nearest to it denies what it affirms, or the other way round.
func reversed(text string, cited []*indexed) []string {
	for _, c := range clausesOf(text) {
		same, opposite := 0, 0
		for _, s := range cited {
			for _, u := range s.units {
				for _, d := range u.clauses {
					if n := c.shared(d); d.negated == c.negated {
						same = max(same, n)
					} else {
						opposite = max(opposite, n)
					}
				}
			}
		}
		if opposite > same || c.negated && same == 0 {
			return c.terms
		}
	}
	return nil
}
