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
	text  string
	facts []fact.Fact
}

func (s *indexed) load() *indexed {
	if s.loaded {
		return s
	}
	s.loaded, s.terms, s.words = true, map[string]bool{}, map[string]bool{}
	s.add(s.Title, nil)
	for _, t := range s.Text {
		s.add(t, nil)
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
	s.units = append(s.units, unit{text: text, facts: append(fact.Of(text), more...)})
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
		return slices.ContainsFunc(s.units, func(u unit) bool {
			return slices.ContainsFunc(wordsAt(u.text), func(w wordAt) bool {
				return fact.Stem(w.text) == f.Value && negatedAt(u.text, w.pos) == negated
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

// negatedAt reports whether one of the four words before pos, in the same clause, negates what
// stands there.
func negatedAt(text string, pos int) bool {
	before := text[:min(pos, len(text))]
	if i := strings.LastIndexAny(before, ",;:."); i >= 0 {
		before = before[i+1:]
	}
	w := fact.Words(before)
	for _, x := range w[max(0, len(w)-4):] {
		switch x {
		case "not", "no", "never", "without", "neither", "nor", "cannot", "nothing", "unable":
			return true
		}
		if strings.HasSuffix(x, "n't") {
			return true
		}
	}
	return false
}
