package fact

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Kind is what a fact is about.
type Kind uint8

// The kinds of fact.
const (
	KindID Kind = iota
	KindEmail
	KindURL
	KindAmount
	KindDate
	KindNumber // a number, with its unit if it is a duration or a percentage
	KindCode   // a token of letters and digits that is not an id, or a time of day
	KindName   // a capitalised word inside a sentence
	KindStatus // a word such as pending or delivered
)

var kindNames = [...]string{"id", "email", "url", "amount", "date", "number", "code", "name", "status"}

// String returns the kind's name.
func (k Kind) String() string { return kindNames[k] }

// A Fact is something checkable in a text.
type Fact struct {
	Kind  Kind
	Value string // normal form, see the kinds' own constructors
	Text  string // as written
	Pos   int    // byte offset of Text in the folded text
}

// Amount returns the amount of money that is minor (hundredths) of the currency, which may be "".
func Amount(minor int64, currency, text string) Fact {
	return Fact{Kind: KindAmount, Value: fmt.Sprintf("%d %s", minor, currency), Text: text}
}

const (
	digits = `[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+`
	codes  = `USD|EUR|GBP|JPY|CHF|CAD|AUD|INR|CNY|SEK|NOK|DKK|PLN`
	months = `jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?`
	units  = `seconds?|minutes?|hours?|days?|weeks?|months?|quarters?|years?|decades?|percent|%`
)

var (
	reEmail  = regexp.MustCompile(`(?i)[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+`)
	reURL    = regexp.MustCompile(`(?i)\b[a-z][a-z0-9+.-]*://[^\s\])>"']+|\b(?:[a-z0-9-]{2,}\.)+[a-z]{2,}\b(?:/[^\s\])>"']*)?`)
	reMinus  = regexp.MustCompile(`\B-(?:[$€£]\s?)?[0-9]`)
	reSymbol = regexp.MustCompile(`(?i)([$€£])\s?(` + digits + `)(\.[0-9]{1,2})?(?:\s?(` + codes + `)\b)?`)
	reAmount = regexp.MustCompile(`(?i)\b(` + digits + `)(\.[0-9]{1,2})?\s?(` + codes + `|dollars?|euros?|pounds?|cents?)\b(?:\s(` + codes + `)\b)?`)
	rePrefix = regexp.MustCompile(`\b(` + codes + `)\s?(` + digits + `)(\.[0-9]{1,2})?`)
	reISO    = regexp.MustCompile(`\b([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?\s?(?:Z|UTC|[+-][0-9]{2}:?[0-9]{2})?)?`)
	reMDY    = regexp.MustCompile(`(?i)\b(` + months + `)\.?\s([0-9]{1,2})(?:st|nd|rd|th)?\b(?:,?\s([0-9]{4})\b)?`)
	reDMY    = regexp.MustCompile(`(?i)\b([0-9]{1,2})(?:st|nd|rd|th)?\s(?:of\s)?(` + months + `)\b\.?(?:,?\s([0-9]{4})\b)?`)
	reMY     = regexp.MustCompile(`(?i)\b(january|february|march|april|may|june|july|august|september|october|november|december)\s([0-9]{4})\b`)
	reTime   = regexp.MustCompile(`\b[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?\b`)
	reRange  = regexp.MustCompile(`(?i)\b(` + number + `)\s?(?:-|to|and|or)\s?(` + number + `)(?:\s|-)?((?:business|working|calendar)[\s-])?(` + units + `)`)
	reUnit   = regexp.MustCompile(`(?i)\b(` + number + `)(?:\s|-)?((?:business|working|calendar)[\s-])?(` + units + `)`)
	reNumber = regexp.MustCompile(`(?i)\b(` + number + `)\b`)
	reCode   = regexp.MustCompile(`[\pL\pN]*(?:\pL\pN|\pN\pL)[\pL\pN]*`)
	// What passes for a word to the eye alone: a letter of another script, letters set apart, a sign.
	reForeign = regexp.MustCompile(`[\pL\pM]*[^\P{L}\p{Latin}][\pL\pM]*`)
	reSpaced  = regexp.MustCompile(`(?:\b\pL[ ._*-]{1,2}){2,}\pL\b`)
	reSign    = regexp.MustCompile(`[\p{So}\p{Nl}\p{No}]|[^\P{Sc}$€£]`)
	reWord    = regexp.MustCompile(`\pL[\pL'\pM]*`)
)

// "one" counts only before a unit: elsewhere it is a pronoun.
const number = `[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:-(?:one|two|three|four|five|six|seven|eight|nine))?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|hundred|half`

var numberWords = map[string]int{
	"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
	"eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18,
	"nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
	"hundred": 100,
}

// Of returns the facts in text, which is folded first ([Fold]); citations are not facts. Names and
// status words are told by the shape of one sentence, so text should be one.
func Of(text string) []Fact {
	s := []byte(Anchors.ReplaceAllStringFunc(Fold(text), func(a string) string { return strings.Repeat(" ", len(a)) }))
	original := string(s)
	var out []Fact
	// Each form hides what it has read from the later ones, so 2026-11-10 is not three numbers.
	take := func(kind Kind, re *regexp.Regexp, value func(g []string) string) {
		for _, m := range re.FindAllSubmatchIndex(s, -1) {
			g := make([]string, len(m)/2)
			for i := range g {
				if m[2*i] >= 0 {
					g[i] = string(s[m[2*i]:m[2*i+1]])
				}
			}
			v := value(g)
			if v == "" {
				continue
			}
			if kind == KindAmount && reMinus.MatchString(original[max(0, m[0]-1):m[1]]) && (m[0] < 2 || original[m[0]-2] == ' ' || original[m[0]-2] == '(') {
				v = "-" + v
			}
			for part := range strings.SplitSeq(v, "|") {
				out = append(out, Fact{Kind: kind, Value: part, Text: original[m[0]:m[1]], Pos: m[0]})
			}
			for i := m[0]; i < m[1]; i++ {
				s[i] = ' '
			}
		}
	}
	take(KindEmail, reEmail, func(g []string) string { return strings.ToLower(g[0]) })
	take(KindURL, reURL, func(g []string) string { return strings.TrimRight(g[0], ".,;") })
	for _, id := range IDs(string(s)) {
		out = append(out, Fact{Kind: KindID, Value: id.Value, Text: original[id.Pos:id.End], Pos: id.Pos})
		for i := id.Pos; i < id.End; i++ {
			s[i] = ' '
		}
	}
	take(KindDate, reISO, func(g []string) string { return date(g[1], g[2], g[3]) })
	take(KindDate, reMDY, func(g []string) string { return date(g[3], month(g[1]), g[2]) })
	take(KindDate, reDMY, func(g []string) string { return date(g[3], month(g[2]), g[1]) })
	take(KindDate, reMY, func(g []string) string { return g[2] + "-" + month(g[1]) })
	take(KindAmount, reSymbol, func(g []string) string {
		return money(g[2], g[3], map[string]string{"$": "USD", "€": "EUR", "£": "GBP"}[g[1]], g[4])
	})
	take(KindAmount, reAmount, func(g []string) string {
		word := strings.ToLower(g[3])
		if strings.HasPrefix(word, "cent") {
			return strings.ReplaceAll(g[1], ",", "") + " " + strings.ToUpper(g[4])
		}
		return money(g[1], g[2], currency(word), g[4])
	})
	take(KindAmount, rePrefix, func(g []string) string { return money(g[2], g[3], g[1], "") })
	take(KindCode, reTime, func(g []string) string { return strings.TrimPrefix(g[0], "0") })
	take(KindNumber, reRange, func(g []string) string {
		u := unit(g[3], g[4])
		tens, ones := numberWords[strings.ToLower(g[1])], numberWords[strings.ToLower(g[2])]
		if tens >= 20 && ones > 0 && ones < 10 && strings.HasPrefix(g[0], g[1]+"-"+g[2]) { // twenty-four is no range
			return strconv.Itoa(tens+ones) + " " + u
		}
		return count(g[1]) + " " + u + "|" + count(g[2]) + " " + u
	})
	take(KindNumber, reUnit, func(g []string) string { return count(g[1]) + " " + unit(g[2], g[3]) })
	take(KindNumber, reNumber, func(g []string) string {
		if w := strings.ToLower(g[1]); w == "one" || w == "half" {
			return ""
		}
		return count(g[1])
	})
	take(KindCode, reSpaced, func(g []string) string { return strings.ToLower(g[0]) })
	take(KindCode, reCode, func(g []string) string { return strings.ToLower(g[0]) })
	take(KindCode, reForeign, func(g []string) string { return strings.ToLower(g[0]) })
	take(KindCode, reSign, func(g []string) string { return g[0] })
	return append(out, words(string(s), original)...)
}

// words returns names and status words; masked is the text without the facts already read.
func words(masked, original string) []Fact {
	var out []Fact
	all := reWord.FindAllStringIndex(masked, -1)
	for i, m := range all {
		w := masked[m[0]:m[1]]
		bare := strings.TrimSuffix(strings.Trim(w, "'"), "'s")
		lower := strings.ToLower(bare)
		if weighty[lower] {
			out = append(out, Fact{Kind: KindCode, Value: lower, Text: w, Pos: m[0]})
			continue
		}
		if statuses[lower] {
			out = append(out, Fact{Kind: KindStatus, Value: Stem(lower), Text: w, Pos: m[0]})
			continue
		}
		if !unicode.IsUpper(rune(bare0(bare))) || stop[lower] || plain[lower] || len(bare) < 2 {
			continue
		}
		if opens(original[:m[0]]) {
			// A capital at the start says nothing, unless the next word has one too.
			next := i+1 < len(all) && unicode.IsUpper(rune(masked[all[i+1][0]])) && all[i+1][0] == m[1]+1
			if !next {
				continue
			}
		}
		out = append(out, Fact{Kind: KindName, Value: lower, Text: w, Pos: m[0]})
	}
	return out
}

func bare0(s string) byte {
	if s == "" {
		return ' '
	}
	return s[0]
}

func opens(before string) bool {
	before = strings.TrimRight(before, " \t\n\"'(")
	return before == "" || strings.HasSuffix(before, ":") || strings.HasSuffix(before, ".") ||
		strings.HasSuffix(before, "?") || strings.HasSuffix(before, "!")
}

// Supports reports whether evidence bears out the claim. A date without a year is borne out by one
// with any year, never the other way round; an amount without currency by one of any currency.
func Supports(evidence, claim Fact) bool {
	if claim.Kind != evidence.Kind {
		return false
	}
	if claim.Value == evidence.Value {
		return true
	}
	if claim.Kind == KindDate {
		if y, md, ok := strings.Cut(claim.Value, "-"); ok && y == "" {
			return strings.HasSuffix(evidence.Value, "-"+md) && len(evidence.Value) >= len("-01-02")
		}
		return len(claim.Value) == len("2026-11") && strings.HasPrefix(evidence.Value, claim.Value+"-")
	}
	number, unit, _ := strings.Cut(claim.Value, " ")
	hasNumber, hasUnit, _ := strings.Cut(evidence.Value, " ")
	if claim.Kind == KindAmount {
		return number == hasNumber && (unit == "" || hasUnit == "" || unit == hasUnit)
	}
	// A bare number may be that of a duration ("5" of "5 business days"), not the reverse.
	return claim.Kind == KindNumber && unit == "" && number == hasNumber
}

func date(y, m, d string) string {
	mi, di := atoi(m), atoi(d)
	if mi < 1 || mi > 12 || di < 1 || di > 31 {
		return ""
	}
	return fmt.Sprintf("%s-%02d-%02d", y, mi, di)
}

func month(name string) string {
	i := strings.Index("janfebmaraprmayjunjulaugsepoctnovdec", strings.ToLower(name)[:3])
	return fmt.Sprintf("%02d", i/3+1)
}

func money(whole, frac, cur, code string) string {
	if code != "" {
		cur = strings.ToUpper(code)
	}
	cents := strings.TrimPrefix(frac, ".")
	if len(cents) == 1 {
		cents += "0"
	}
	n := atoi64(strings.ReplaceAll(whole, ",", ""))
	if n > 1e15 {
		return ""
	}
	return fmt.Sprintf("%d %s", n*100+atoi64(cents), cur)
}

func currency(word string) string {
	switch strings.TrimSuffix(word, "s") {
	case "dollar":
		return "USD"
	case "euro":
		return "EUR"
	case "pound":
		return "GBP"
	}
	return strings.ToUpper(word)
}

func count(s string) string {
	s = strings.ToLower(strings.ReplaceAll(s, ",", ""))
	if tens, ones, ok := strings.Cut(s, "-"); ok && numberWords[tens] > 0 {
		return strconv.Itoa(numberWords[tens] + numberWords[ones])
	}
	if n := numberWords[s]; n > 0 {
		return strconv.Itoa(n)
	}
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

func unit(qualifier, u string) string {
	u = strings.TrimSuffix(strings.ToLower(u), "s")
	if u == "%" {
		u = "percent"
	}
	switch q := strings.Trim(strings.ToLower(qualifier), " -"); q {
	case "business", "working":
		return "business " + u
	}
	return u
}

func atoi(s string) int { n, _ := strconv.Atoi(s); return n }

func atoi64(s string) int64 { n, _ := strconv.ParseInt(s, 10, 64); return n }

// statuses are the words that say how something stands; each must stand in the evidence.
var statuses = set(`pending delivered shipped refunded cancelled canceled approved declined denied rejected closed opened reopened paid unpaid
 failed lost returned resolved unresolved processing processed held holding rejected expired active inactive suspended delayed waiting
 completed complete confirmed unconfirmed dispatched arrived received stolen blocked unblocked frozen escalated overdue disputed charged
 issued credited reversed backordered damaged queued scheduled solved reimbursed compensated archived deleted disabled enabled verified
 gold silver bronze platinum standard premium urgent`)

// weighty words change what a sentence promises or how much it says, though they are no numbers or
// dates by form; each must stand in the evidence as it is.
var weighty = set(`today tomorrow yesterday tonight overnight instantly immediately guaranteed guarantee guarantees entitled waive waived waives
 free always forever permanently twice thrice double doubled triple half dozen thousand million billion zero none eleventh twelfth tenth ninth eighth
 seventh sixth fifth fourth third twentieth thirtieth thirty-first fraud fraudulent illegal scam bitcoin crypto`)

// plain words may carry a capital without being names.
var plain = set(`order orders ticket tickets customer customers refund refunds document documents policy account source sources status total
 usd eur gbp profile shipping return note notes id yes`)

// IsStatus reports whether the word is one that says how something stands.
func IsStatus(word string) bool { return statuses[strings.ToLower(word)] }

// IsStatusStem reports whether the stem is that of a status word.
func IsStatusStem(stem string) bool { return statusStems[stem] }

var statusStems = func() map[string]bool {
	m := map[string]bool{}
	for w := range statuses {
		m[Stem(w)] = true
	}
	return m
}()
