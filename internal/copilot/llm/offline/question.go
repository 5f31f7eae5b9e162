package offline

import (
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// ask is what a question wants to be told.
type ask uint8

const (
	askGeneral ask = iota
	askWhy
	askHowLong
	askWhen
	askHowMuch
	askHowMany
	askList
	askWho
	askStatus
	askAttribute
	askContents
)

// part is one question of those that a text may hold.
type part struct {
	text  string
	ask   ask
	ids   []string
	noun  string   // kind of record asked for, if it names one
	focus []string // stems of what it is about
	words []string // the same as words, for a search
	head  []string // of "what is the HEAD of …": an answer must speak of it
}

var (
	rePart = regexp.MustCompile(`(?i)[?;]+\s*|[.!]\s+|,?\s+(?:and|but)\s+(?:also\s+)?\b(what|why|how|when|which|who|whose|where|is|does|did|has|was|list|show)\b`)
	reAsk  = regexp.MustCompile(`(?i)^\W*(?:(?:and|but|so|also|please|then|well|hi|hello|ok)\b[\s,]*)*(?:can you\s+|could you\s+|please\s+)*\b(what|why|how|when|which|who|whose|whom|where|is|are|does|do|did|has|have|had|was|were|can|could|will|would|should|list|show|tell|give|find|name|summari[sz]e|explain|describe)\b`)
)

var forms = []struct {
	ask ask
	re  *regexp.Regexp
}{
	{askWhy, regexp.MustCompile(`(?i)\bwhy\b|\breasons?\b|\bhow come\b|\bcaus(?:e|ed|es|ing)\b|\bexplain\b|\bwhat (?:is|'s) (?:holding|delaying|blocking)\b|\bwhat happened\b`)},
	{askHowLong, regexp.MustCompile(`(?i)\bhow (?:long|soon|fast|quick(?:ly)?)\b|\bhow many (?:\w+ )?(?:days|hours|weeks|months)\b|\bdelivery times?\b|\bwhat (?:is the )?(?:time ?frame|deadline)\b`)},
	{askHowMany, regexp.MustCompile(`(?i)\bhow many\b|\bnumber of\b|\bcount\b`)},
	{askHowMuch, regexp.MustCompile(`(?i)\bhow much\b|\b(?:total|amount|price|cost|costs|value|worth|fee)\b`)},
	{askWhen, regexp.MustCompile(`(?i)\bwhen\b|\b(?:what|which) (?:date|day)\b|\bdate of\b|\bsince when\b`)},
	{askWho, regexp.MustCompile(`(?i)\bwho(?:se|m)?\b|\bwhich customer\b`)},
	{askStatus, regexp.MustCompile(`(?i)\bstatus\b|\bstate of\b|\bwhere (?:is|are|'s)\b|\bprogress\b|\bwhat about\b|\bupdate on\b`)},
}

var (
	reNoun = regexp.MustCompile(`(?i)\b(orders?|purchases?|tickets?|cases?|complaints?|customers?|documents?|polic(?:y|ies)|articles?)\b`)
	reMany = regexp.MustCompile(`(?i)\b(?:which|list|show|what|all|any|have|has|find|give)\b.*\b(orders|purchases|tickets|cases|complaints|customers|documents|policies|articles)\b|\b(?:latest|newest|last|recent|first|oldest)\b.*\b(order|ticket|case|purchase)\b|\bopen (?:tickets?|cases?)\b`)
	reYes  = regexp.MustCompile(`(?i)^\W*(?:and\s+|but\s+|so\s+)?(?:is|are|was|were|has|have|had|did|does|do)\b`)
	// "What did CUST-1 order?" asks for orders, though no noun says so.
	reBought = regexp.MustCompile(`(?i)\bwhat\b.*\b(?:did|does|has|have)\b.*\b(?:order(?:ed)?|buy|bought|purchased?)\W*$`)
	// What an order holds: "what is in o_1?", "which items did o_1 contain?"
	reContents = regexp.MustCompile(`(?i)\bwhat(?:'s|\s+is|\s+was|\s+are|\s+were)\s+(?:there\s+|inside\s+)?in\b|\b(?:what|which)\b.*\b(?:items?|products?|things|goods)\b|\b(?:list|show)\b.*\bitems\b|\bwhat\b.*\b(?:contain(?:s|ed)?|include[sd]?)\W*$|\bcontents of\b`)
	reTier     = regexp.MustCompile(`(?i)\b(\pL+)\s+(tier|level|plan|status|members?|membership)\b`)
	reHowTo    = regexp.MustCompile(`(?i)\bhow\s+(?:do|does|can|could|should|to)\b`)
	reGives    = regexp.MustCompile(`(?i)\b(?:gets?|gives?|receives?|offers?|brings?|benefits?|advantages?|perks?|entitled)\b`)
	reArrival  = regexp.MustCompile(`(?i)\bwhen\s+(?:will|does|do|is|are|can|should)\b.*\b(?:arriv(?:e|es|ing)|deliver(?:ed|y)?|come|comes|coming|here|get|gets|receive)\b`)
	reNoParcel = regexp.MustCompile(`(?i)\b(?:refunds?|money|returns?|answer|reply|invoice|label)\b`)
	reBack     = regexp.MustCompile(`(?i)\b(?:it|its|it's|that|this|they|them|their|these|those|he|she|his|her|him)\b|\bthe (?:order|customer|ticket|refund)\b`)
)

var reHead = regexp.MustCompile(`(?i)\bwhat(?:'s|\s+is|\s+are|\s+was|\s+were)\s+(?:the\s+|an?\s+)?(.+?)\s+(?:of|for|in|with)\s`)

// typeWords are what a question's form already says; they are not its content.
var typeWords = map[ask]map[string]bool{
	askHowLong:  stems("day days hour hours week weeks month months business working time times long soon fast quick quickly deadline frame timeframe"),
	askWhen:     stems("date day when"),
	askHowMuch:  stems("cost costs price total amount value worth fee much money"),
	askHowMany:  stems("many number count list sources"),
	askWhy:      stems("reason reasons cause caused causes explain explanation holding happened"),
	askWho:      stems("who person owner"),
	askStatus:   stems("status state progress update where about"),
	askContents: stems("contain contains contained content contents include included item items product products thing things goods inside part bought buy list show"),
	askList:     stems("list show which all latest newest last recent first oldest open"),
}

func stems(words string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		m[fact.Stem(w)] = true
	}
	return m
}

// parts splits a text into its questions. Orders to the reader are left out: the question is data
// too. ids are those of the plan, for a question that refers back to the turn before.
func parts(question string, ids []string) []part {
	var texts []string
	statement := ""
	start := 0
	cut := func(end int) {
		t := strings.TrimSpace(question[start:end])
		if t == "" || fact.Orders(t, false) {
			return
		}
		if !reAsk.MatchString(t) {
			statement = strings.TrimSpace(statement + " " + t)
			return
		}
		if len(copilot.Focus(t)) == 0 && len(fact.IDs(t)) == 0 && statement != "" {
			t = statement + ": " + t // "My order o_9002 is late. Why?"
		}
		texts = append(texts, t)
	}
	for _, m := range rePart.FindAllStringSubmatchIndex(question, -1) {
		cut(m[0])
		if start = m[1]; m[2] >= 0 {
			start = m[2]
		}
	}
	cut(len(question))
	if len(texts) == 0 && statement != "" {
		texts = []string{statement}
	}
	anyID := len(fact.IDs(question)) > 0
	var out []part
	var before []string
	for _, t := range texts {
		p := part{text: t, ask: classify(t)}
		for _, id := range fact.IDs(t) {
			if !slices.Contains(p.ids, id.Value) {
				p.ids = append(p.ids, id.Value)
			}
		}
		if len(p.ids) == 0 {
			switch {
			case reBack.MatchString(t) && len(before) > 0:
				p.ids = before
			case reBack.MatchString(t) && anyID:
				p.ids = ids
			case !anyID:
				p.ids = ids
			}
		}
		before = p.ids
		if m := reNoun.FindStringSubmatch(t); m != nil {
			p.noun = noun(m[1])
		}
		if m := reMany.FindStringSubmatch(t); m != nil && (p.ask == askList || p.ask == askHowMany) {
			for _, g := range m[1:] {
				if g != "" {
					p.noun = noun(g)
				}
			}
		}
		if asksContents(p) {
			p.ask = askContents
		}
		if reBought.MatchString(t) && len(p.ids) > 0 {
			p.ask, p.noun = askList, fact.Order
		}
		for _, f := range copilot.Focus(t) {
			if !typeWords[p.ask][f] {
				p.focus = append(p.focus, f)
			}
		}
		// In "gold tier" the name says all: a text may as well speak of gold customers.
		if m := reTier.FindStringSubmatch(t); m != nil && len(p.ids) == 0 && slices.Contains(p.focus, fact.Stem(m[1])) {
			p.focus = slices.DeleteFunc(p.focus, func(f string) bool { return f == fact.Stem(m[2]) })
		}
		if m := reHead.FindStringSubmatch(t); m != nil {
			for _, f := range fact.Terms(m[1]) {
				if slices.Contains(p.focus, f) {
					p.head = append(p.head, f)
				}
			}
		}
		for _, w := range fact.Words(t) {
			if s := fact.Stem(w); slices.Contains(p.focus, s) && !slices.Contains(p.words, w) {
				p.words = append(p.words, w)
			}
		}
		if out = append(out, p); len(out) == 5 {
			break
		}
	}
	return out
}

// asksContents reports whether the question is what an order holds, and no more than that: "which
// item of o_1 is broken?" is another one.
func asksContents(p part) bool {
	switch p.ask {
	case askGeneral, askAttribute, askList, askStatus:
	default:
		return false
	}
	return reContents.MatchString(p.text) && !reStatus.MatchString(p.text) &&
		slices.ContainsFunc(p.ids, func(id string) bool { kind, _, _ := fact.KindOfID(id); return kind == fact.Order }) &&
		!slices.ContainsFunc(copilot.Focus(p.text), func(f string) bool { return !typeWords[askContents][f] })
}

func noun(w string) string {
	switch strings.TrimSuffix(strings.ToLower(w), "s") {
	case "order", "purchase":
		return fact.Order
	case "ticket", "case", "complaint":
		return fact.Ticket
	case "customer":
		return fact.Customer
	}
	return fact.Document
}

func classify(t string) ask {
	for _, f := range forms {
		if f.re.MatchString(t) {
			if f.ask == askHowMuch && reMany.MatchString(t) {
				continue
			}
			return f.ask
		}
	}
	switch {
	case reMany.MatchString(t):
		return askList
	case reYes.MatchString(t) && len(fact.IDs(t)) > 0:
		return askStatus
	case len(fact.IDs(t)) > 0 && len(copilot.Focus(t)) > 0:
		return askAttribute
	case len(fact.IDs(t)) > 0:
		return askStatus
	}
	return askGeneral
}
