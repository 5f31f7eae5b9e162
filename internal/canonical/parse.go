package canonical

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// parse reads exactly one value. With lossy set it rounds numbers, as plain RFC 8785 does.
func parse(raw []byte, maxDepth int, lossy bool) (any, error) {
	if maxDepth <= 0 || maxDepth > MaxDepth {
		maxDepth = MaxDepth
	}
	// One copy of the input: every string without escapes is a slice of it.
	p := parser{s: string(raw), max: maxDepth, lossy: lossy}
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	p.space()
	if p.i < len(p.s) {
		return nil, p.fail(Syntax, "text after the end of the JSON value")
	}
	return v, nil
}

type parser struct {
	s     string
	i     int // next byte
	depth int
	max   int
	lossy bool
}

// fail returns an *Error as error. Paths are put together while it is passed up (see at), so that
// good input pays nothing for them.
func (p *parser) fail(k Kind, reason string) error {
	return &Error{Kind: k, Offset: p.i, Reason: reason}
}

func at(err error, token string) error {
	if e, ok := err.(*Error); ok { //nolint:errorlint // made in this file, never wrapped
		if len(e.Path) <= maxPath {
			e.Path = AppendPointer("", token) + e.Path
		}
	}
	return err
}

func (p *parser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *parser) value() (any, error) {
	p.space()
	if p.i >= len(p.s) {
		return nil, p.fail(Syntax, "the JSON ends too early")
	}
	switch c := p.s[p.i]; {
	case c == '{':
		return p.object()
	case c == '[':
		return p.array()
	case c == '"':
		return p.string()
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	case strings.HasPrefix(p.s[p.i:], "true"):
		p.i += 4
		return true, nil
	case strings.HasPrefix(p.s[p.i:], "false"):
		p.i += 5
		return false, nil
	case strings.HasPrefix(p.s[p.i:], "null"):
		p.i += 4
		return nil, nil
	}
	return nil, p.fail(Syntax, "a JSON value was expected")
}

func (p *parser) enter() error {
	if p.depth == p.max {
		return p.fail(Depth, "arrays and objects are nested more than "+strconv.Itoa(p.max)+" deep")
	}
	p.depth++
	p.i++ // the bracket
	p.space()
	return nil
}

// more reads the comma before a further member, or the closing bracket.
func (p *parser) more(closing byte) (bool, error) {
	p.space()
	if p.i < len(p.s) {
		switch p.s[p.i] {
		case ',':
			p.i++
			return true, nil
		case closing:
			p.i++
			p.depth--
			return false, nil
		}
	}
	return false, p.fail(Syntax, "a comma or "+string(closing)+" was expected")
}

func (p *parser) closes(closing byte) bool {
	if p.i < len(p.s) && p.s[p.i] == closing {
		p.i++
		p.depth--
		return true
	}
	return false
}

func (p *parser) object() (any, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	m := make(map[string]any, 8)
	if p.closes('}') {
		return m, nil
	}
	for {
		p.space()
		if p.i >= len(p.s) || p.s[p.i] != '"' {
			return nil, p.fail(Syntax, "a key in double quotes was expected")
		}
		start := p.i
		key, err := p.text()
		if err != nil {
			return nil, err
		}
		// Keys are compared decoded: {"a":1,"\u0061":2} holds a twice, and which one counts is a
		// matter of taste that parsers differ in.
		if _, twice := m[key]; twice {
			p.i = start
			return nil, at(p.fail(Duplicate, "the key appears twice in one object"), key)
		}
		p.space()
		if p.i >= len(p.s) || p.s[p.i] != ':' {
			return nil, at(p.fail(Syntax, "a colon was expected after the key"), key)
		}
		p.i++
		v, err := p.value()
		if err != nil {
			return nil, at(err, key)
		}
		m[key] = v
		if again, err := p.more('}'); err != nil {
			return nil, err
		} else if !again {
			return m, nil
		}
	}
}

func (p *parser) array() (any, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	list := []any{}
	if p.closes(']') {
		return list, nil
	}
	for {
		v, err := p.value()
		if err != nil {
			return nil, at(err, strconv.Itoa(len(list)))
		}
		list = append(list, v)
		if again, err := p.more(']'); err != nil {
			return nil, err
		} else if !again {
			return list, nil
		}
	}
}

func (p *parser) string() (any, error) {
	s, err := p.text()
	if err != nil {
		return nil, err
	}
	return s, nil
}

// text reads a string, whose opening quote is next.
func (p *parser) text() (string, error) {
	p.i++
	start := p.i
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			s := p.s[start:p.i]
			p.i++
			return s, nil
		case c == '\\':
			return p.escaped(start)
		case c < ' ':
			return "", p.fail(Syntax, "a control character must be escaped in a string")
		case c < utf8.RuneSelf:
			p.i++
		default:
			if err := p.rune(); err != nil {
				return "", err
			}
		}
	}
	return "", p.fail(Syntax, "a string has no closing quote")
}

func (p *parser) rune() error {
	r, n := utf8.DecodeRuneInString(p.s[p.i:])
	if r == utf8.RuneError && n == 1 {
		return p.fail(Encoding, "invalid UTF-8")
	}
	p.i += n
	return nil
}

// escaped goes on with a string that began at start and now meets its first escape.
func (p *parser) escaped(start int) (string, error) {
	out := make([]byte, 0, p.i-start+32)
	out = append(out, p.s[start:p.i]...)
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			p.i++
			return string(out), nil
		case c == '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
		case c < ' ':
			return "", p.fail(Syntax, "a control character must be escaped in a string")
		case c < utf8.RuneSelf:
			out = append(out, c)
			p.i++
		default:
			from := p.i
			if err := p.rune(); err != nil {
				return "", err
			}
			out = append(out, p.s[from:p.i]...)
		}
	}
	return "", p.fail(Syntax, "a string has no closing quote")
}

func (p *parser) escape() (rune, error) {
	if p.i+1 < len(p.s) {
		c := p.s[p.i+1]
		if c == 'u' {
			return p.unicode()
		}
		if k := strings.IndexByte(`"\/bfnrt`, c); k >= 0 {
			p.i += 2
			return rune("\"\\/\b\f\n\r\t"[k]), nil
		}
	}
	return 0, p.fail(Syntax, "an unknown escape in a string")
}

func (p *parser) unicode() (rune, error) {
	r, ok := p.hex(p.i)
	if !ok {
		return 0, p.fail(Syntax, `\u must be followed by four hexadecimal digits`)
	}
	if !utf16.IsSurrogate(r) {
		p.i += 6
		return r, nil
	}
	low, ok := p.hex(p.i + 6)
	if full := utf16.DecodeRune(r, low); ok && full != utf8.RuneError {
		p.i += 12
		return full, nil
	}
	return 0, p.fail(Encoding, "half of a surrogate pair stands alone")
}

// hex reads \uXXXX at i.
func (p *parser) hex(i int) (rune, bool) {
	if i+6 > len(p.s) || p.s[i] != '\\' || p.s[i+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range []byte(p.s[i+2 : i+6]) {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func (p *parser) number() (any, error) {
	start := p.i
	text, integer := p.scanNumber()
	if text == "" {
		return nil, p.fail(Syntax, "a number is not well formed")
	}
	if n, ok := canonicalNumber(text, integer, p.lossy); ok {
		return json.Number(n), nil
	}
	p.i = start
	return nil, p.fail(Number, "the number has more digits or magnitude than a 64-bit float holds; send it as a string")
}

// scanNumber reads a number by the grammar of RFC 8259 section 6. It returns "" if there is none,
// and whether it has neither fraction nor exponent.
func (p *parser) scanNumber() (text string, integer bool) {
	start := p.i
	if p.s[p.i] == '-' {
		p.i++
	}
	switch {
	case p.i < len(p.s) && p.s[p.i] == '0':
		p.i++
	case p.digits() == 0:
		return "", false
	}
	integer = true
	if p.i < len(p.s) && p.s[p.i] == '.' {
		p.i++
		integer = false
		if p.digits() == 0 {
			return "", false
		}
	}
	if p.i < len(p.s) && p.s[p.i]|0x20 == 'e' {
		p.i++
		integer = false
		if p.i < len(p.s) && (p.s[p.i] == '+' || p.s[p.i] == '-') {
			p.i++
		}
		if p.digits() == 0 {
			return "", false
		}
	}
	return p.s[start:p.i], integer
}

func (p *parser) digits() int {
	start := p.i
	for p.i < len(p.s) && '0' <= p.s[p.i] && p.s[p.i] <= '9' {
		p.i++
	}
	return p.i - start
}

// canonicalNumber spells a well-formed number as RFC 8785 section 3.2.2.3 does. Unless lossy, it
// refuses a number whose value the spelling does not keep: 9007199254740993 would become
// 9007199254740992, and two different order numbers one cache key and one approval.
func canonicalNumber(text string, integer, lossy bool) (string, bool) {
	if integer && len(text) <= 15 && text != "-0" {
		return text, true // below 2^53
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return "", false
	}
	out := formatFloat(f)
	if !lossy && out != text && !sameDecimal(text, out) {
		return "", false
	}
	return out, true
}

// formatFloat spells a finite double as ECMAScript's Number::toString does.
func formatFloat(f float64) string {
	if f == 0 {
		return "0" // also for minus zero
	}
	var buf [32]byte
	if abs := math.Abs(f); abs >= 1e-6 && abs < 1e21 {
		return string(strconv.AppendFloat(buf[:0], f, 'f', -1, 64))
	}
	b := strconv.AppendFloat(buf[:0], f, 'e', -1, 64)
	// Go writes at least two digits of exponent: 1e-07 for 1e-7.
	if n := len(b); n >= 4 && b[n-2] == '0' && (b[n-3] == '-' || b[n-3] == '+') {
		b[n-2] = b[n-1]
		b = b[:n-1]
	}
	return string(b)
}

// sameDecimal reports whether two well-formed numbers have the same value, without rounding.
func sameDecimal(a, b string) bool {
	x, y := decimalOf(a), decimalOf(b)
	if x.digits == "" || y.digits == "" {
		return x.digits == y.digits
	}
	return x == y
}

// A decimal is 0.digits × 10^exp, digits without zeros at either end.
type decimal struct {
	negative bool
	digits   string
	exp      int
}

func decimalOf(s string) decimal {
	var d decimal
	s, d.negative = strings.CutPrefix(s, "-")
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		// A number whose exponent does not fit has become infinite or zero before.
		n, err := strconv.Atoi(strings.TrimPrefix(s[i+1:], "+"))
		if err != nil {
			n = math.MaxInt32
		}
		d.exp, s = n, s[:i]
	}
	whole, frac, _ := strings.Cut(s, ".")
	digits := whole + frac
	d.exp += len(whole)
	trimmed := strings.TrimLeft(digits, "0")
	d.exp -= len(digits) - len(trimmed)
	d.digits = strings.TrimRight(trimmed, "0")
	return d
}
