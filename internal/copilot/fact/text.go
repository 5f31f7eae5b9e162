package fact

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Anchors matches the citations of a draft: [S1], or [S1, S2].
var Anchors = regexp.MustCompile(`\[\s*S[0-9]{1,4}(?:\s*[,;]\s*S[0-9]{1,4})*\s*\]`)

var (
	leadingAnchors = regexp.MustCompile(`^(?:[ \t]*` + Anchors.String() + `)+[.!?]?`)
	abbreviation   = regexp.MustCompile(`(?i)(?:^|[^\pL])(?:e\.g|i\.e|mr|mrs|ms|dr|no|vs|etc|approx|inc|ltd|co|st|a\.m|p\.m|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec)\.$`)
	bullet         = regexp.MustCompile(`^\s*(?:[-*•]|\d{1,2}[.)])\s+`)
	space          = regexp.MustCompile(`\s+`)
)

// Sentences splits text at sentence ends and line breaks. Citations that follow a full stop stay
// with the sentence before them; list bullets are removed.
func Sentences(text string) []string {
	var out []string
	add := func(s string) {
		s = strings.TrimSpace(space.ReplaceAllString(bullet.ReplaceAllString(s, ""), " "))
		if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) {
			out = append(out, s)
		}
	}
	for line := range strings.Lines(text) {
		start := 0
		for i := 0; i < len(line); i++ {
			if c := line[i]; c != '.' && c != '!' && c != '?' {
				continue
			}
			end := i + 1
			for end < len(line) && strings.IndexByte(`.!?"')]`, line[end]) >= 0 {
				end++
			}
			if m := leadingAnchors.FindStringIndex(line[end:]); m != nil {
				end += m[1]
			}
			rest := strings.TrimLeft(line[end:], " \t\r\n")
			if rest != "" {
				if len(rest) == len(line[end:]) {
					continue // no space behind it: a decimal point, a host name
				}
				if r, _ := utf8.DecodeRuneInString(rest); unicode.IsLower(r) {
					continue
				}
				if line[i] == '.' && abbreviation.MatchString(line[max(start, i-8):i+1]) {
					continue
				}
			}
			add(line[start:end])
			start, i = end, end-1
		}
		add(line[start:])
	}
	return out
}

// Fold returns text in the form that comparisons use: NFKC, without invisible format characters,
// quotes and dashes made plain, the digits of every script ASCII.
func Fold(text string) string {
	text = norm.NFKC.String(text)
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Cf, r):
			return -1
		case r == '’' || r == '‘' || r == 'ʼ':
			return '\''
		case r == '“' || r == '”' || r == '«' || r == '»':
			return '"'
		case r == '–' || r == '—' || r == '−' || r == '‑':
			return '-'
		case r > unicode.MaxASCII && unicode.Is(unicode.Nd, r):
			return '0' + decimal(r)
		case unicode.IsControl(r) && r != '\n' && r != '\t':
			return ' '
		}
		return r
	}, text)
	return text
}

// decimal returns the value of a decimal digit of any script: Unicode has them in runs of ten.
func decimal(r rune) rune {
	for _, run := range unicode.Nd.R16 {
		if rune(run.Lo) <= r && r <= rune(run.Hi) {
			return (r - rune(run.Lo)) % 10
		}
	}
	for _, run := range unicode.Nd.R32 {
		if lo, hi := rune(run.Lo), rune(run.Hi); lo <= r && r <= hi { //nolint:gosec // code points fit
			return (r - lo) % 10
		}
	}
	return 0
}

// Words returns the lower-case words of text. Underscores separate words, so refund_pending is two.
func Words(text string) []string {
	return strings.FieldsFunc(strings.ToLower(Fold(text)), func(r rune) bool {
		return r != '\'' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

// Terms returns the stems of text's content words: without function words, ids, numbers and
// citations. Order is kept, repeats are not.
func Terms(text string) []string {
	text = Anchors.ReplaceAllString(text, " ")
	text = maskIDs(text)
	var out []string
	for _, w := range Words(text) {
		w = strings.TrimSuffix(strings.Trim(w, "'"), "'s")
		if len(w) < 2 || stop[w] || !strings.ContainsFunc(w, unicode.IsLetter) || numberWords[w] != 0 {
			continue
		}
		if s := Stem(w); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func maskIDs(text string) string {
	ids := IDs(text)
	if len(ids) == 0 {
		return text
	}
	b := []byte(text)
	for _, id := range ids {
		for i := id.Pos; i < id.End; i++ {
			b[i] = ' '
		}
	}
	return string(b)
}

// Stem cuts an English word's commonest endings, so that ship, ships, shipped, shipping and
// shipment meet. It is made for matching, not for reading.
func Stem(w string) string {
	w = strings.TrimSuffix(strings.ToLower(w), "'s")
	cut := func(suffix string, least int) bool {
		if len(w) >= least && strings.HasSuffix(w, suffix) {
			w = w[:len(w)-len(suffix)]
			return true
		}
		return false
	}
	switch {
	case cut("ies", 5):
		w += "y"
	case strings.HasSuffix(w, "ss") || strings.HasSuffix(w, "us") || strings.HasSuffix(w, "is"):
	default:
		cut("s", 4)
	}
	if !cut("ment", 7) && !cut("ing", 6) {
		_ = cut("ed", 5) || cut("al", 7)
	}
	_ = cut("e", 4) || cut("y", 6)
	if n := len(w); n > 3 && w[n-1] == w[n-2] && w[n-1] != 's' {
		w = w[:n-1]
	}
	return w
}

// Related reports whether two stems are equal or in one group of [related] words.
func Related(a, b string) bool {
	if a == b {
		return true
	}
	for _, g := range related {
		if slices.Contains(g, a) && slices.Contains(g, b) {
			return true
		}
	}
	return false
}

func stems(words string) []string {
	var out []string
	for w := range strings.FieldsSeq(words) {
		out = append(out, Stem(w))
	}
	return out
}

func set(words string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		m[w] = true
	}
	return m
}

var related = [][]string{
	stems("delay delayed late pending hold held holds wait waiting stuck overdue slow"),
	stems("refund refunded reimburse reimbursement"),
	stems("ship shipping shipped shipment dispatch dispatched"),
	stems("deliver delivery delivered arrive arrived arrival"),
	stems("cost price fee charge total amount worth paid"),
	stems("email mail address"),
	stems("tier level plan segment"),
	stems("status state"),
	stems("cancel cancelled canceled cancellation"),
	stems("create created place placed open opened order ordered buy bought"),
	stems("phone telephone mobile"),
	stems("policy rule terms"),
	stems("damage damaged broken defective"),
	stems("hour hours opening"),
	stems("contain contains contained contents include includes"),
}

// stop holds function words and the verbs that questions are built with.
var stop = set(`a an the this that these those it its it's he she they them their his her hers him we us our you your yours i me my mine
 and or but nor so if then than as at by for from in into of off on onto out over per to up via with without within about after before between
 during until since because due while through again is are was were be been being am do does did doing done has have had having can could may
 might must shall should will would not no never don't doesn't didn't isn't wasn't aren't what which who whom whose when where why how there here
 please tell show give find get got know want need let say says said ask asked also just still yet already now currently any some all each every
 both either such same own other more most much many very too only else ever long take takes took taken happen happened happens going go goes
 like see look looks check help thanks thank hello hi dear regarding concerning exactly really actually right possible able us i'm i've we've
 it'll he's she's that's there's what's who's where's let's make makes made`)
