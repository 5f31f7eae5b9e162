package guard

import (
	"bytes"
	"slices"

	"github.com/hoophq/alcatraz"
)

// The kinds of personal data that Atlas finds itself, under alcatraz's names. Alcatraz 0.23 takes
// any nine digits for a social security number and any thirteen with a right checksum for a card,
// which hits order numbers, and misses an IBAN that is followed by a word in capitals; these three
// are on by default and have to be exact.
const (
	kindCard = "CREDIT_CARD"
	kindIBAN = "IBAN_CODE"
	kindSSN  = "US_SSN"
)

// supportedPII lists all kinds that Config.PII may name.
func supportedPII() []string { return alcatraz.NewEngine().SupportedEntities("") }

// personal looks for personal data at the group of digits s[i:end]. Nothing before last belongs to
// it.
func (d *detector) personal(s []byte, i, end, last int) (hit, bool) {
	if d.iban && end-i >= 2 && i-2 >= last {
		if stop := ibanEnd(s, i-2); stop > 0 {
			return hit{i - 2, stop, kindIBAN}, true
		}
	}
	// A number that goes on to the left is part of an id, a price, a phone number or a date.
	if i > 0 && (isWord(s[i-1]) || bytes.IndexByte([]byte("-.+#"), s[i-1]) >= 0) {
		return hit{}, false
	}
	if d.card {
		if stop := cardEnd(s, i, end); stop > 0 {
			return hit{i, stop, kindCard}, true
		}
	}
	if d.ssn {
		if stop := ssnEnd(s, i, end); stop > 0 {
			return hit{i, stop, kindSSN}, true
		}
	}
	return hit{}, false
}

// endsNumber reports whether a number may end at i: it does not go on to the right.
func endsNumber(s []byte, i int) bool {
	if i >= len(s) {
		return true
	}
	if isWord(s[i]) {
		return false
	}
	return s[i] != '-' && s[i] != '.' || i+1 >= len(s) || !isWord(s[i+1])
}

// groups reads groups of digits of the given lengths, of which the first is s[i:end], with one and
// the same separator between them. It returns where they end, or 0.
func groups(s []byte, i, end int, lengths ...int) int {
	if end-i != lengths[0] || end >= len(s) || s[end] != ' ' && s[end] != '-' {
		return 0
	}
	separator := s[end]
	for _, n := range lengths[1:] {
		if end >= len(s) || s[end] != separator {
			return 0
		}
		stop := digitsEnd(s, end+1)
		if stop-(end+1) != n {
			return 0
		}
		end = stop
	}
	return end
}

// cardEnd returns where the payment card number that begins at i ends, or 0.
func cardEnd(s []byte, i, end int) int {
	stop := 0
	switch n := end - i; {
	case n >= 13 && n <= 19:
		stop = end
	case n == 4:
		stop = max(groups(s, i, end, 4, 4, 4, 4, 3), groups(s, i, end, 4, 4, 4, 4), groups(s, i, end, 4, 6, 5), groups(s, i, end, 4, 6, 4))
	}
	if stop == 0 || !endsNumber(s, stop) {
		return 0
	}
	var digits [19]byte
	n := 0
	for _, c := range s[i:stop] {
		if '0' <= c && c <= '9' {
			digits[n] = c - '0'
			n++
		}
	}
	if !issued(digits[:n]) || !luhn(digits[:n]) {
		return 0
	}
	return stop
}

// issued reports whether an issuer gives out cards that begin so, at that length (ISO/IEC 7812).
func issued(d []byte) bool {
	prefix := 0
	for _, c := range d[:4] {
		prefix = prefix*10 + int(c)
	}
	in := func(low, high int) bool { return low <= prefix && prefix <= high }
	switch len(d) {
	case 13:
		return in(4000, 4999) // Visa
	case 14:
		return in(3000, 3059) || in(3600, 3699) || in(3800, 3999) // Diners Club
	case 15:
		return in(3400, 3499) || in(3700, 3799) // American Express
	case 16:
		return in(4000, 4999) || in(5100, 5599) || in(2221, 2720) || // Visa, Mastercard
			in(6011, 6011) || in(6440, 6599) || in(3528, 3589) || in(6200, 6299) // Discover, JCB, UnionPay
	case 19:
		return in(4000, 4999) || in(6200, 6299)
	}
	return false
}

// luhn checks the checksum of ISO/IEC 7812-1, annex B.
func luhn(d []byte) bool {
	sum := 0
	for i, c := range d {
		v := int(c)
		if (len(d)-i)%2 == 0 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}

// ssnEnd returns where the US social security number that begins at i ends, or 0. Without dashes
// it is one only where the words before say so: nine digits are an order number elsewhere.
func ssnEnd(s []byte, i, end int) int {
	stop := groups(s, i, end, 3, 2, 4)
	if stop == 0 && end-i == 9 {
		stop = end
	}
	if stop == 0 || !endsNumber(s, stop) {
		return 0
	}
	if s[i+3] != '-' && !namesSSN(s[max(0, i-40):i]) {
		return 0
	}
	var digits [9]byte
	n := 0
	for _, c := range s[i:stop] {
		if '0' <= c && c <= '9' {
			digits[n] = c - '0'
			n++
		}
	}
	area := int(digits[0])*100 + int(digits[1])*10 + int(digits[2])
	group := digits[3]*10 + digits[4]
	serial := digits[5] | digits[6] | digits[7] | digits[8]
	// What the Social Security Administration never gives out.
	if area == 0 || area == 666 || area >= 900 || group == 0 || serial == 0 {
		return 0
	}
	return stop
}

func namesSSN(before []byte) bool {
	lower := bytes.ToLower(before)
	return bytes.Contains(lower, []byte("ssn")) || bytes.Contains(lower, []byte("social security"))
}

// ibanLengths are the lengths of account numbers by country (SWIFT IBAN registry, release 100).
var ibanLengths = map[[2]byte]int{
	{'A', 'D'}: 24, {'A', 'E'}: 23, {'A', 'L'}: 28, {'A', 'T'}: 20, {'A', 'Z'}: 28, {'B', 'A'}: 20, {'B', 'E'}: 16,
	{'B', 'G'}: 22, {'B', 'H'}: 22, {'B', 'I'}: 27, {'B', 'R'}: 29, {'B', 'Y'}: 28, {'C', 'H'}: 21, {'C', 'R'}: 22,
	{'C', 'Y'}: 28, {'C', 'Z'}: 24, {'D', 'E'}: 22, {'D', 'J'}: 27, {'D', 'K'}: 18, {'D', 'O'}: 28, {'E', 'E'}: 20,
	{'E', 'G'}: 29, {'E', 'S'}: 24, {'F', 'I'}: 18, {'F', 'K'}: 18, {'F', 'O'}: 18, {'F', 'R'}: 27, {'G', 'B'}: 22,
	{'G', 'E'}: 22, {'G', 'I'}: 23, {'G', 'L'}: 18, {'G', 'R'}: 27, {'G', 'T'}: 28, {'H', 'N'}: 28, {'H', 'R'}: 21,
	{'H', 'U'}: 28, {'I', 'E'}: 22, {'I', 'L'}: 23, {'I', 'Q'}: 23, {'I', 'S'}: 26, {'I', 'T'}: 27, {'J', 'O'}: 30,
	{'K', 'W'}: 30, {'K', 'Z'}: 20, {'L', 'B'}: 28, {'L', 'C'}: 32, {'L', 'I'}: 21, {'L', 'T'}: 20, {'L', 'U'}: 20,
	{'L', 'V'}: 21, {'L', 'Y'}: 25, {'M', 'C'}: 27, {'M', 'D'}: 24, {'M', 'E'}: 22, {'M', 'K'}: 19, {'M', 'N'}: 20,
	{'M', 'R'}: 27, {'M', 'T'}: 31, {'M', 'U'}: 30, {'N', 'I'}: 28, {'N', 'L'}: 18, {'N', 'O'}: 15, {'O', 'M'}: 23,
	{'P', 'K'}: 24, {'P', 'L'}: 28, {'P', 'S'}: 29, {'P', 'T'}: 25, {'Q', 'A'}: 29, {'R', 'O'}: 24, {'R', 'S'}: 22,
	{'R', 'U'}: 33, {'S', 'A'}: 24, {'S', 'C'}: 31, {'S', 'D'}: 18, {'S', 'E'}: 24, {'S', 'I'}: 19, {'S', 'K'}: 24,
	{'S', 'M'}: 27, {'S', 'O'}: 23, {'S', 'T'}: 25, {'S', 'V'}: 28, {'T', 'L'}: 23, {'T', 'N'}: 24, {'T', 'R'}: 26,
	{'U', 'A'}: 29, {'V', 'A'}: 22, {'V', 'G'}: 24, {'X', 'K'}: 20, {'Y', 'E'}: 30,
}

// ibanEnd returns where the IBAN that begins at i ends, or 0: two capitals, and letters and digits
// in groups with single spaces, of the country's length and with the checksum of ISO 7064 (mod 97).
func ibanEnd(s []byte, i int) int {
	if i > 0 && isWord(s[i-1]) || s[i] < 'A' || s[i] > 'Z' || s[i+1] < 'A' || s[i+1] > 'Z' {
		return 0
	}
	length := ibanLengths[[2]byte{s[i], s[i+1]}]
	if length == 0 {
		return 0
	}
	var chars [34]byte
	n, end := 0, i
	for end < len(s) && n < length {
		c := s[end]
		switch {
		case 'A' <= c && c <= 'Z' || '0' <= c && c <= '9':
			chars[n] = c
			n++
		case c == ' ' && n >= 4 && s[end-1] != ' ':
		default:
			return 0
		}
		end++
	}
	if n < length || end < len(s) && isWord(s[end]) {
		return 0
	}
	rem := 0
	for k := range length {
		c := chars[(k+4)%length] // country and check digits count last
		if c >= 'A' {
			rem = (rem*100 + int(c-'A') + 10) % 97
		} else {
			rem = (rem*10 + int(c-'0')) % 97
		}
	}
	if rem != 1 {
		return 0
	}
	return end
}

// otherPII finds the further kinds that an operator has configured, by alcatraz.
type otherPII struct {
	engine  *alcatraz.Engine
	options alcatraz.Options
}

func newOtherPII(kinds []string) *otherPII {
	// What has neither a checksum nor a telling word beside it scores below this.
	threshold := 0.5
	return &otherPII{engine: alcatraz.NewEngine(), options: alcatraz.Options{Entities: kinds, Threshold: &threshold}}
}

// add adds what alcatraz finds in s to hits[from:], which keep precedence where both overlap.
func (o *otherPII) add(hits []hit, from int, s []byte) []hit {
	if len(s) < 4 {
		return hits
	}
	results := o.engine.Analyze(string(s), o.options) // best first
	if len(results) == 0 {
		return hits
	}
	for _, r := range results {
		h := hit{r.Start, r.End, r.EntityType}
		if !slices.ContainsFunc(hits[from:], func(o hit) bool { return h.start < o.end && o.start < h.end }) {
			hits = append(hits, h)
		}
	}
	slices.SortFunc(hits[from:], func(a, b hit) int { return a.start - b.start })
	return hits
}
