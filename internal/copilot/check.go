package copilot

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// A SentenceCheck tells what was checked of one sentence of a draft, and why it was dropped.
type SentenceCheck struct {
	Sentence string   `json:"sentence"`
	Kept     bool     `json:"kept"`
	Kind     string   `json:"kind"` // claim, connective, abstention
	Cites    []string `json:"cites"`
	Checked  []string `json:"checked"`          // facts found in the cited sources: "amount $49.00 in S1"
	Reason   string   `json:"reason,omitempty"` // why it was dropped
}

// The kinds of SentenceCheck.
const (
	kindClaim      = "claim"
	kindConnective = "connective"
	kindAbstention = "abstention"
)

// A Checked draft is what is left of a draft, with the account of every sentence.
type Checked struct {
	Text      string // the kept sentences, or [NotInSources]
	Sentences []SentenceCheck
	Answered  bool     // something is left, and it is about what was asked
	Citations []string // anchors cited by kept claims, in order
}

// Scope is what a question is about. Evidence of other customers is not used for it.
type Scope struct {
	Question  string
	IDs       []string // ids in the question, or carried over from the turn before
	Customers []string // the customers it is about; none for a general question
}

// scopeOf finds out whom a question is about: the customers it names, or else those that own the
// records it names.
func scopeOf(question string, ids []string, sources []Source) Scope {
	sc := Scope{Question: question, IDs: ids}
	for _, id := range ids {
		if kind, _, _ := fact.KindOfID(id); kind == fact.Customer {
			sc.Customers = append(sc.Customers, id)
		}
	}
	if len(sc.Customers) > 0 {
		return sc
	}
	for _, s := range sources {
		if slices.Contains(ids, s.ID) {
			for _, o := range s.Owners {
				if !slices.Contains(sc.Customers, o) {
					sc.Customers = append(sc.Customers, o)
				}
			}
		}
	}
	return sc
}

// Covers reports whether a source may be used for the question: common knowledge, or a record of
// the customers in question.
func (sc Scope) Covers(s Source) bool {
	return len(sc.Customers) == 0 || len(s.Owners) == 0 ||
		slices.ContainsFunc(s.Owners, func(o string) bool { return slices.Contains(sc.Customers, o) })
}

// Overlap of a sentence's content words with its evidence below which it counts as invented. The
// facts (ids, amounts, dates, statuses, names) are held to more: every one must be there.
const (
	leastOverlap       = 0.6
	leastClauseOverlap = 0.5
	leastFocus         = 0.5
)

// scaffold holds words that build an answer or a question without being its content.
var scaffold = stemSet(`according state states stated note notes noted mention mentions mentioned list lists listed shows shown belongs current currently
 following includes include record records source sources ticket order customer document status total amount date detail details information info
 reports reported per id number name named value answer question entry entries item called due stands recorded set dated describes reads customer's
 made opened created updated problem problems issue issues matter trouble latest newest last recent first oldest compare write writes wrote`)

func stemSet(words string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		m[fact.Stem(w)] = true
	}
	return m
}

var (
	reAnchor     = regexp.MustCompile(`S[0-9]{1,4}`)
	reClause     = regexp.MustCompile(`(?i)[,;:]\s|\s-\s|\b(?:because|since|due to|so that|so|and|but|while|which|until|after|as)\b`)
	reHidden     = regexp.MustCompile(`\pL(?:[*~\x60]+|</?[a-zA-Z][^>]*>|<!--[^>]*>|&#?[a-zA-Z0-9]+;|\\)+\pL|\]\(`)
	reAbstention = regexp.MustCompile(`(?i)\b(?:not|n't|nothing|no answer|cannot be found)\b.*\b(?:in|from)\s+(?:the|these|our|any|those)\s+(?:available\s+|given\s+|provided\s+)?(?:sources?|evidence|records?|documents?)\b` +
		`|\b(?:sources?|evidence|records|documents)\s+(?:do|does)(?:\s+not|n't)\s+(?:say|state|mention|contain|show|include|give|cover|hold|tell)`)
)

// Check holds each sentence of a draft against the sources it cites and keeps those that stand:
//
//   - a claim cites at least one source, and every source it cites exists and is in scope;
//   - every id, amount, date, number, code, name, address and status word in it stands in a cited
//     source, in one about the record that the sentence names, and status words with the same
//     negation;
//   - it denies what a cited source denies and affirms what one affirms, clause by clause;
//   - several records of a kind cited by a clause that names none are not mixed: one bears all of it;
//   - enough of its other words stand there too, in the whole and in each clause;
//   - it names no customer but those in question, and gives no orders.
//
// If no claim is left, or none about what was asked, the text is [NotInSources].
func Check(draft string, sources []Source, sc Scope) Checked {
	c := checker{scope: sc, index: make(map[string]*indexed, len(sources))}
	for _, s := range sources {
		c.index[s.Anchor] = &indexed{Source: s}
	}
	var out Checked
	var kept []string
	for _, sentence := range fact.Sentences(draft) {
		r := c.sentence(sentence)
		out.Sentences = append(out.Sentences, r)
		if !r.Kept {
			continue
		}
		kept = append(kept, sentence)
		for _, a := range r.Cites {
			if r.Kind == kindClaim && !slices.Contains(out.Citations, a) {
				out.Citations = append(out.Citations, a)
			}
		}
	}
	out.Answered = len(out.Citations) > 0 && c.aboutWhatWasAsked(kept, out.Citations)
	if !out.Answered {
		for i := range out.Sentences {
			if s := &out.Sentences[i]; s.Kept && s.Kind == kindClaim {
				s.Kept, s.Reason = false, "not about what was asked"
			}
		}
		out.Text, out.Citations = NotInSources, nil
		return out
	}
	out.Text = layout(kept)
	return out
}

func layout(kept []string) string {
	list := 0
	for _, s := range kept {
		if len(s) < 160 {
			list++
		}
	}
	if list > 4 { // a list of records reads better one to a line
		return strings.Join(kept, "\n")
	}
	return strings.Join(kept, " ")
}

type checker struct {
	scope Scope
	index map[string]*indexed
}

// sentence checks one sentence.
func (c *checker) sentence(text string) SentenceCheck {
	r := SentenceCheck{Sentence: text, Kind: kindClaim, Cites: []string{}, Checked: []string{}}
	drop := func(format string, args ...any) SentenceCheck {
		r.Reason = fmt.Sprintf(format, args...)
		return r
	}
	for _, group := range fact.Anchors.FindAllString(text, -1) {
		for _, a := range reAnchor.FindAllString(group, -1) {
			if !slices.Contains(r.Cites, a) {
				r.Cites = append(r.Cites, a)
			}
		}
	}
	bare := fact.Fold(fact.Anchors.ReplaceAllStringFunc(text, func(a string) string { return strings.Repeat(" ", len(a)) }))
	facts := fact.Of(bare)
	if reHidden.MatchString(bare) {
		return drop("hides a word in markup")
	}
	if fact.Orders(bare, false) {
		return drop("gives orders to the reader")
	}
	if reAbstention.MatchString(bare) && c.harmless(facts) {
		r.Kind, r.Kept = kindAbstention, true
		return r
	}
	terms := content(bare, facts)
	if len(r.Cites) == 0 {
		if len(facts) == 0 && len(terms) == 0 {
			r.Kind, r.Kept = kindConnective, true
			return r
		}
		return drop("cites no source")
	}
	cited := make([]*indexed, 0, len(r.Cites))
	for _, a := range r.Cites {
		s := c.index[a]
		switch {
		case s == nil:
			return drop("cites %s, which does not exist", a)
		case !c.scope.Covers(s.Source):
			return drop("cites %s, which is about another customer", a)
		}
		cited = append(cited, s.load())
	}
	for _, f := range facts {
		if kind, _, _ := fact.KindOfID(f.Value); f.Kind == fact.KindID && kind == fact.Customer && len(c.scope.Customers) > 0 &&
			!slices.Contains(c.scope.Customers, f.Value) {
			return drop("names %s, who was not asked about", f.Value)
		}
		s := bearer(f, facts, bare, unmixed(f, facts, bare, cited))
		if s == nil {
			return drop("%s %q does not stand in %s", f.Kind, strings.TrimSpace(f.Text), strings.Join(r.Cites, ", "))
		}
		r.Checked = append(r.Checked, fmt.Sprintf("%s %s in %s", f.Kind, strings.TrimSpace(f.Text), s.Anchor))
	}
	if len(facts) == 0 && len(terms) == 0 {
		return drop("says nothing that could be checked")
	}
	if missing, ok := overlaps(terms, cited, leastOverlap); !ok {
		return drop("the sources cited do not speak of: %s", strings.Join(missing, ", "))
	}
	for clause := range splitClauses(bare) {
		t := content(clause, fact.Of(clause))
		least := leastClauseOverlap
		if len(t) == 2 { // one of two is the subject, and then nothing is known of what is said of it
			least = 1
		}
		if missing, ok := overlaps(t, cited, least); len(t) > 1 && !ok {
			return drop("the sources cited do not speak of: %s", strings.Join(missing, ", "))
		}
	}
	if against := reversed(bare, cited); against != nil {
		return drop("the sources cited say the opposite, or do not deny: %s", strings.Join(against, ", "))
	}
	if n := len(terms); n > 0 {
		missing, _ := overlaps(terms, cited, 0)
		r.Checked = append(r.Checked, fmt.Sprintf("%d of %d content words", n-len(missing), n))
	}
	r.Kept = true
	return r
}

// harmless reports whether facts are no more than ids and words of the question itself.
func (c *checker) harmless(facts []fact.Fact) bool {
	asked := fact.Words(c.scope.Question)
	for _, f := range facts {
		ok := f.Kind == fact.KindID && slices.Contains(c.scope.IDs, f.Value) ||
			(f.Kind == fact.KindName || f.Kind == fact.KindStatus) && slices.Contains(asked, strings.ToLower(f.Text))
		if !ok {
			return false
		}
	}
	return true
}

// content returns the stems of a sentence's content words that are not facts of their own.
func content(text string, facts []fact.Fact) []string {
	skip := map[string]bool{}
	for _, f := range facts {
		for _, w := range fact.Words(f.Text) {
			skip[fact.Stem(w)] = true
		}
	}
	return slices.DeleteFunc(fact.Terms(text), func(t string) bool { return skip[t] || scaffold[t] })
}

func splitClauses(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		start := 0
		for _, m := range reClause.FindAllStringIndex(text, -1) {
			if !yield(text[start:m[0]]) {
				return
			}
			start = m[1]
		}
		if start > 0 { // a single clause was checked as the whole
			yield(text[start:])
		}
	}
}

func overlaps(terms []string, cited []*indexed, least float64) (missing []string, ok bool) {
	for _, t := range terms {
		if !slices.ContainsFunc(cited, func(s *indexed) bool { return s.speaksOf(t) }) {
			missing = append(missing, t)
		}
	}
	return missing, float64(len(terms)-len(missing)) >= least*float64(len(terms))
}

// bearer returns a cited source that bears the fact out, or nil.
func bearer(f fact.Fact, facts []fact.Fact, text string, cited []*indexed) *indexed {
	for _, s := range cited {
		if f.Kind == fact.KindID && s.Mentions(f.Value) {
			return s
		}
	}
	if f.Kind == fact.KindID {
		return nil
	}
	for _, s := range cited {
		if about(s, f, facts) && s.bears(f, text) {
			return s
		}
	}
	if f.Kind == fact.KindNumber && countOf(f, text, cited) {
		return cited[0]
	}
	return nil
}

// unmixed returns the cited sources that may bear out a fact of a clause that names no record. Of
// several orders (tickets, customers) only those are left that bear out all of the clause that any
// of them does: "the pending refund is $129.00" is not true because one is pending and another costs that.
func unmixed(f fact.Fact, facts []fact.Fact, text string, cited []*indexed) []*indexed {
	if slices.ContainsFunc(facts, func(g fact.Fact) bool { return g.Kind == fact.KindID }) {
		return cited
	}
	switch f.Kind {
	case fact.KindAmount, fact.KindDate, fact.KindStatus:
	default:
		return cited
	}
	start, end := clauseAt(text, f.Pos)
	return slices.DeleteFunc(slices.Clone(cited), func(s *indexed) bool {
		if s.Kind != fact.Order && s.Kind != fact.Ticket && s.Kind != fact.Customer {
			return false
		}
		for _, g := range facts {
			if g.Pos < start || g.Pos >= end || g.Kind != fact.KindAmount && g.Kind != fact.KindDate && g.Kind != fact.KindStatus {
				continue
			}
			other := func(o *indexed) bool { return o.Kind == s.Kind && o != s && o.bears(g, text) }
			if !s.bears(g, text) && slices.ContainsFunc(cited, other) {
				return true
			}
		}
		return false
	})
}

func clauseAt(text string, pos int) (start, end int) {
	end = len(text)
	for _, m := range reClause.FindAllStringIndex(text, -1) {
		if m[1] <= pos {
			start = m[1]
		} else if m[0] > pos {
			return start, m[0]
		}
	}
	return start, end
}

// about reports whether a source may bear out a fact of a sentence that names records: it must be
// about the record that the fact is said of, or be common knowledge. With several records of a kind
// in a sentence, a fact is said of the nearest one before it.
func about(s *indexed, f fact.Fact, facts []fact.Fact) bool {
	var ids []fact.Fact
	seen := map[string]int{}
	for _, g := range facts {
		if g.Kind == fact.KindID {
			ids = append(ids, g)
		}
	}
	if len(ids) == 0 || len(s.Owners) == 0 && s.Kind != fact.Order && s.Kind != fact.Ticket && s.Kind != fact.Customer {
		return true
	}
	values := map[string]bool{}
	for _, id := range ids {
		if !values[id.Value] {
			values[id.Value] = true
			kind, _, _ := fact.KindOfID(id.Value)
			seen[kind]++
		}
	}
	for kind, n := range seen {
		if n < 2 {
			continue
		}
		said := ""
		for _, id := range ids {
			if k, _, _ := fact.KindOfID(id.Value); k == kind && (id.Pos < f.Pos || said == "") {
				said = id.Value
			}
		}
		// A record of that very kind must be the one the fact is said of.
		if s.Kind == kind && s.ID != said || !s.Mentions(said) {
			return false
		}
	}
	return slices.ContainsFunc(ids, func(id fact.Fact) bool { return s.Mentions(id.Value) })
}

var reCounted = regexp.MustCompile(`(?i)^\s+(?:[a-z]+\s+){0,2}?([a-z]+?)s?\b`)

// countOf reports whether f counts the cited records: "2 orders" with two orders cited.
func countOf(f fact.Fact, text string, cited []*indexed) bool {
	end := f.Pos + len(f.Text)
	if end > len(text) {
		return false
	}
	rest := strings.ToLower(text[end:])
	kinds := map[string]int{}
	for _, s := range cited {
		kinds[s.Kind]++
	}
	for kind, n := range kinds {
		if f.Value == fmt.Sprint(n) && reCounted.MatchString(rest) && slices.ContainsFunc(firstWords(rest, 3), func(w string) bool {
			return strings.TrimSuffix(w, "s") == kind[strings.LastIndexByte(kind, '_')+1:]
		}) {
			return true
		}
	}
	return false
}

func firstWords(s string, n int) []string {
	w := fact.Words(s)
	return w[:min(n, len(w))]
}

// reQuestions splits a text into its questions: at sentence ends, and where "and" opens another one.
var reQuestions = regexp.MustCompile(`(?i)[?!;]+\s*|\.\s+|,?\s+(?:and|but)\s+(?:also\s+)?(?:what|why|how|when|which|who|where|is|does|did|has|was)\b`)

// aboutWhatWasAsked reports whether the kept claims, with the sources behind them, speak of enough
// of what one of the questions asks about.
func (c *checker) aboutWhatWasAsked(kept, cites []string) bool {
	text := strings.Join(kept, " ")
	said := fact.Terms(text)
	stated := slices.ContainsFunc(fact.Of(text), func(f fact.Fact) bool { return f.Kind == fact.KindStatus })
	var cited []*indexed
	for _, a := range cites {
		cited = append(cited, c.index[a].load())
	}
	judged := false
	for _, q := range reQuestions.Split(c.scope.Question, -1) {
		focus, ids := Focus(q), fact.IDs(q)
		if len(focus) == 0 && len(ids) == 0 || fact.Orders(q, false) {
			continue
		}
		judged = true
		hit := 0
		for _, t := range focus {
			// "Is it delivered?" is answered by "it is shipped".
			if fact.IsStatusStem(t) && stated || slices.ContainsFunc(said, func(s string) bool { return fact.Related(s, t) }) ||
				slices.ContainsFunc(cited, func(s *indexed) bool { return s.speaksOf(t) }) {
				hit++
			}
		}
		known := len(ids) == 0 || slices.ContainsFunc(ids, func(id fact.ID) bool {
			return slices.ContainsFunc(cited, func(s *indexed) bool { return s.Mentions(id.Value) })
		})
		if known && float64(hit) >= leastFocus*float64(len(focus)) {
			return true
		}
	}
	return !judged && !fact.Orders(c.scope.Question, false)
}

// Focus returns the stems of what a question asks about, without ids and question scaffolding.
func Focus(question string) []string {
	return slices.DeleteFunc(fact.Terms(question), func(t string) bool { return scaffold[t] })
}
