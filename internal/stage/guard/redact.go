package guard

import (
	"bytes"
	"slices"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// A mode says what to do with the strings of one answer.
type mode struct {
	pii       bool // redact personal data
	untrusted bool // make hidden characters harmless
}

// A hit is a secret or a piece of personal data in a text.
type hit struct {
	start, end int
	kind       string
}

// A detector finds secrets and personal data. It is immutable and safe for concurrent use.
//
// An ordinary string costs a look or two at each byte: a table tells the bytes that can begin a
// digit group or a keyword of a rule, a bit set the three bytes that can begin a keyword, and only
// there is more looked at.
type detector struct {
	first   [256]uint8 // 0: nothing begins here; 1: a digit; from 2: bucket i-2
	starts  [1 << 9]uint64
	buckets [][]keyword
	rules   []rule
	card    bool
	iban    bool
	ssn     bool
	others  *otherPII // kinds left to alcatraz; nil if there are none
}

type keyword struct {
	text string
	rule *rule
}

// trigram packs the three bytes at the beginning of s.
func trigram[T string | []byte](s T) uint32 {
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16
}

// place is where a trigram's bit stands in detector.starts (multiplicative hashing, to 15 bits).
func place(tri uint32) (word, bit uint32) {
	h := tri * 2654435761 >> 17
	return h >> 6, h & 63
}

const isDigit = 1

func newDetector(pii []string) *detector {
	d := &detector{rules: secretRules()}
	for c := '0'; c <= '9'; c++ {
		d.first[c] = isDigit
	}
	for i := range d.rules {
		r := &d.rules[i]
		for _, word := range r.keywords {
			c := word[0]
			if d.first[c] == 0 {
				d.buckets = append(d.buckets, nil)
				d.first[c] = uint8(len(d.buckets) + 1) //nolint:gosec // at most one for each byte value that is no digit
			}
			b := &d.buckets[d.first[c]-2]
			*b = append(*b, keyword{word, r})
			w, bit := place(trigram(word))
			d.starts[w] |= 1 << bit
		}
	}
	var others []string
	for _, kind := range pii {
		switch kind {
		case kindCard:
			d.card = true
		case kindIBAN:
			d.iban = true
		case kindSSN:
			d.ssn = true
		default:
			others = append(others, kind)
		}
	}
	if len(others) > 0 {
		d.others = newOtherPII(others)
	}
	return d
}

// scratch is memory for one string at a time; nothing of it outlives the call that took it.
type scratch struct {
	decoded []byte
	clean   []byte
	hits    []hit
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// maxScratch bounds what the pool keeps alive after a huge string.
const maxScratch = 64 << 10

func (s *scratch) release() {
	if cap(s.decoded) > maxScratch || cap(s.clean) > maxScratch {
		return
	}
	clear(s.decoded[:cap(s.decoded)]) // it may have held a secret
	clear(s.clean[:cap(s.clean)])
	scratchPool.Put(s)
}

// json redacts the strings of JSON text, or of a part of it. It appends the new text to dst and
// returns it with the number of values redacted; nil means that the text is to stay as it is. It
// reports false where a string does not end.
func (d *detector) json(dst, text []byte, m mode) (out []byte, redacted int, ok bool) {
	s := scratchPool.Get().(*scratch)
	defer s.release()
	copied, changed := 0, false
	for i := 0; ; {
		n := bytes.IndexByte(text[i:], '"')
		if n < 0 {
			break
		}
		start := i + n
		if i = skipString(text, start); i < 0 {
			return nil, 0, false
		}
		// Keys are names, chosen by the tool's author; but those of an untrusted answer may hide text.
		key := isKey(text, i)
		if key && !m.untrusted {
			continue
		}
		body := text[start+1 : i-1]
		clean, rewritten := s.read(body, m.untrusted)
		s.hits = s.hits[:0]
		if !key {
			s.hits = d.find(s.hits, clean, m.pii, true)
		}
		if !rewritten && len(s.hits) == 0 {
			continue
		}
		if !changed {
			out, changed = dst, true
			out = slices.Grow(out, len(text)+64)
		}
		out = append(out, text[copied:start+1]...)
		out = appendRedacted(out, clean, s.hits)
		copied = i - 1
		redacted += len(s.hits)
	}
	if !changed {
		return nil, 0, true
	}
	return append(out, text[copied:]...), redacted, true
}

func isKey(text []byte, after int) bool {
	after = skipSpace(text, after)
	return after < len(text) && text[after] == ':'
}

// read decodes the inside of a JSON string and, if untrusted, makes it harmless. rewritten says
// that the text has changed by that.
func (s *scratch) read(body []byte, untrusted bool) (text []byte, rewritten bool) {
	text = body
	if bytes.IndexByte(body, '\\') >= 0 {
		s.decoded = decodeString(s.decoded[:0], body)
		text = s.decoded
	}
	if untrusted {
		var clean []byte
		if clean, rewritten = neutralize(s.clean[:0], text); rewritten {
			s.clean = clean
			text = clean
		}
	}
	return text, rewritten
}

// text redacts plain text, such as a hint.
func (d *detector) text(text string, m mode) string {
	text, _ = d.replace(text, m)
	return text
}

// replace redacts plain text and returns how many values it replaced.
func (d *detector) replace(text string, m mode) (string, int) {
	if text == "" {
		return "", 0
	}
	b := []byte(text)
	if m.untrusted {
		if clean, changed := neutralize(nil, b); changed {
			b = clean
		}
	}
	hits := d.find(nil, b, m.pii, true)
	if len(hits) == 0 {
		return string(b), 0
	}
	out, from := make([]byte, 0, len(b)+32), 0
	for _, h := range hits {
		out = append(out, b[from:h.start]...)
		out = appendMark(out, h.kind)
		from = h.end
	}
	return string(append(out, b[from:]...)), len(hits)
}

// kinds returns the sorted kinds of personal data in JSON text: in values, keys and numbers.
func (d *detector) kinds(text []byte) []string {
	s := scratchPool.Get().(*scratch)
	defer s.release()
	s.hits = s.hits[:0]
	for i := 0; i < len(text); {
		n := bytes.IndexByte(text[i:], '"')
		if n < 0 {
			n = len(text) - i
		}
		s.hits = d.find(s.hits, text[i:i+n], true, false) // numbers, between strings
		if i += n; i == len(text) {
			break
		}
		end := skipString(text, i)
		if end < 0 {
			end = len(text) + 1
		}
		body, _ := s.read(text[i+1:end-1], false)
		s.hits = d.find(s.hits, body, true, false)
		i = end
	}
	if len(s.hits) == 0 {
		return nil
	}
	kinds := make([]string, 0, len(s.hits))
	for _, h := range s.hits {
		kinds = append(kinds, h.kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// find appends the hits in a text to hits, in order and without overlap.
func (d *detector) find(hits []hit, s []byte, pii, secrets bool) []hit {
	from := len(hits)
	last := 0 // end of the last hit
	for i := 0; i < len(s); {
		switch k := d.first[s[i]]; {
		case k == 0:
			i++
		case k == isDigit:
			end := digitsEnd(s, i)
			if pii {
				if h, ok := d.personal(s, i, end, last); ok {
					hits = append(hits, h)
					last, end = h.end, h.end
				}
			}
			i = end
		case !secrets || i+3 > len(s):
			i++
		default:
			tri := trigram(s[i:])
			if w, bit := place(tri); d.starts[w]>>bit&1 == 0 {
				i++
				continue
			}
			h, ok := match(d.buckets[k-2], s, i)
			if !ok {
				i++
				continue
			}
			hits = append(hits, h)
			last, i = h.end, h.end
		}
	}
	if pii && d.others != nil {
		hits = d.others.add(hits, from, s)
	}
	return hits
}

func match(words []keyword, s []byte, i int) (hit, bool) {
	for _, w := range words {
		if len(s)-i < len(w.text) || string(s[i:i+len(w.text)]) != w.text {
			continue
		}
		if h, ok := w.rule.match(s, i); ok {
			return h, true
		}
	}
	return hit{}, false
}

func digitsEnd(s []byte, i int) int {
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return i
}

func isWord(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80 || '0' <= c && c <= '9' || c == '_'
}

// appendRedacted writes text as the inside of a JSON string, marks standing for hits.
func appendRedacted(dst, text []byte, hits []hit) []byte {
	from := 0
	for _, h := range hits {
		dst = appendEscaped(dst, text[from:h.start])
		dst = appendMark(dst, h.kind)
		from = h.end
	}
	return appendEscaped(dst, text[from:])
}

func appendMark(dst []byte, kind string) []byte {
	dst = append(dst, "[redacted:"...)
	dst = append(dst, kind...)
	return append(dst, ']')
}

func appendEscaped(dst, text []byte) []byte {
	const hex = "0123456789abcdef"
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= ' ':
			dst = append(dst, c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

// decodeString appends the decoded inside of a JSON string. What is malformed becomes U+FFFD, as
// encoding/json has it.
func decodeString(dst, body []byte) []byte {
	for i := 0; i < len(body); i++ {
		n := bytes.IndexByte(body[i:], '\\')
		if n < 0 || i+n+1 == len(body) {
			return append(dst, body[i:]...)
		}
		dst = append(dst, body[i:i+n]...)
		i += n + 1
		switch c := body[i]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := hex4(body[i+1:])
			if r >= 0 {
				i += 4
			}
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if i+2 < len(body) && body[i+1] == '\\' && body[i+2] == 'u' {
					low = hex4(body[i+3:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r) // U+FFFD for -1
		default: // quote, slash and backslash
			dst = append(dst, c)
		}
	}
	return dst
}

// hex4 reads four hexadecimal digits, or returns -1.
func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}
