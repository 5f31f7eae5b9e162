package message

import (
	"bytes"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deeply a message may nest. What a tool's arguments may is the validation
// stage's business, and less.
const maxDepth = 1000

// manyKeys is how many keys of one object are compared each with each; more are sorted.
const manyKeys = 16

// A scanner reads one JSON text (RFC 8259), strictly. It allocates nothing but for keys that are
// written with escapes, and for its stack of keys when that grows.
type scanner struct {
	b     []byte
	i     int // next byte
	depth int
	keys  [][]byte // a stack: each open object owns the part above its start
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// next skips space and returns the byte behind it, or 0 at the end.
func (s *scanner) next() byte {
	s.space()
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// value skips one value. With strict set an object within it that has a key twice is a fault.
func (s *scanner) value(strict bool) *Error {
	switch c := s.next(); {
	case c == '{':
		return s.object(strict)
	case c == '[':
		return s.array(strict)
	case c == '"':
		_, _, err := s.text()
		return err
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	}
	return errSyntax
}

// raw skips one value and returns its text.
func (s *scanner) raw(strict bool) ([]byte, *Error) {
	s.space()
	start := s.i
	err := s.value(strict)
	return s.b[start:s.i:s.i], err
}

func (s *scanner) word(w string) *Error {
	if !bytes.HasPrefix(s.b[s.i:], []byte(w)) {
		return errSyntax
	}
	s.i += len(w)
	return nil
}

func (s *scanner) number() *Error {
	digits := func() bool {
		start := s.i
		for s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9' {
			s.i++
		}
		return s.i > start
	}
	if s.b[s.i] == '-' {
		s.i++
	}
	start := s.i
	if !digits() || s.b[start] == '0' && s.i > start+1 {
		return errSyntax
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if !digits() {
			return errSyntax
		}
	}
	if s.i < len(s.b) && (s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		if !digits() {
			return errSyntax
		}
	}
	return nil
}

// plain marks the bytes that stand for themselves in a string.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x100; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// text reads a string and returns what is between its quotes, and whether that holds escapes.
func (s *scanner) text() (body []byte, escaped bool, err *Error) {
	if s.next() != '"' {
		return nil, false, errSyntax
	}
	s.i++
	start := s.i
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case plain[c]:
			s.i++
		case c == '"':
			s.i++
			return s.b[start : s.i-1 : s.i-1], escaped, nil
		case c == '\\':
			escaped = true
			n := escapeLen(s.b[s.i:])
			if n == 0 {
				return nil, false, errSyntax
			}
			s.i += n
		default: // a control character
			return nil, false, errSyntax
		}
	}
	return nil, false, errSyntax
}

// escapeLen returns the length of the escape that b begins with, or 0 if it is none.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) >= 6 && unhex(b[2:6]) >= 0 {
			return 6
		}
	}
	return 0
}

// unhex returns the value of four hexadecimal digits, or -1.
func unhex(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// unescape returns what a string's body means. Half a surrogate pair becomes U+FFFD.
func unescape(body []byte) []byte {
	out := make([]byte, 0, len(body))
	for i := 0; i < len(body); {
		if body[i] != '\\' {
			out = append(out, body[i])
			i++
			continue
		}
		switch c := body[i+1]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := unhex(body[i+2 : i+6])
			if utf16.IsSurrogate(r) {
				if rest := body[i+6:]; len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
					if pair := utf16.DecodeRune(r, unhex(rest[2:6])); pair != utf8.RuneError {
						r, i = pair, i+6
					}
				}
			}
			out = utf8.AppendRune(out, r) // half a pair becomes U+FFFD
			i += 4
		default:
			out = append(out, c)
		}
		i += 2
	}
	return out
}

// str reads a string and returns what it means. It is a part of the input if it has no escapes.
func (s *scanner) str() ([]byte, *Error) {
	body, escaped, err := s.text()
	if err == nil && escaped {
		body = unescape(body)
	}
	return body, err
}

func (s *scanner) enter() *Error {
	if s.depth == maxDepth {
		return errDepth
	}
	s.depth++
	s.i++ // the bracket
	return nil
}

func (s *scanner) leave() { s.depth--; s.i++ }

// more steps to the next element behind a comma, or out of the closing bracket.
func (s *scanner) more(closing byte) (bool, *Error) {
	switch s.next() {
	case ',':
		s.i++
		return true, nil
	case closing:
		s.leave()
		return false, nil
	}
	return false, errSyntax
}

func (s *scanner) array(strict bool) *Error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.next() == ']' {
		s.leave()
		return nil
	}
	for {
		if err := s.value(strict); err != nil {
			return err
		}
		if again, err := s.more(']'); err != nil || !again {
			return err
		}
	}
}

func (s *scanner) object(strict bool) *Error {
	return s.members(strict, func([]byte) *Error { return s.value(strict) })
}

// members reads an object and calls member with each key, to read the value. With unique set a key
// that is there twice is a fault: which one counts is a matter of taste that parsers differ in, so
// that a proxy may have checked another one than is used here.
func (s *scanner) members(unique bool, member func(key []byte) *Error) *Error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.next() == '}' {
		s.leave()
		return nil
	}
	from := len(s.keys)
	for {
		key, err := s.str()
		if err != nil {
			return err
		}
		if unique {
			if len(s.keys)-from < manyKeys && slices.ContainsFunc(s.keys[from:], func(k []byte) bool { return bytes.Equal(k, key) }) {
				return errDuplicate
			}
			s.keys = append(s.keys, key)
		}
		if s.next() != ':' {
			return errSyntax
		}
		s.i++
		if err := member(key); err != nil {
			return err
		}
		again, err := s.more('}')
		if err != nil {
			return err
		}
		if !again {
			break
		}
	}
	own := s.keys[from:]
	s.keys = s.keys[:from]
	if len(own) > manyKeys {
		slices.SortFunc(own, bytes.Compare)
		for i := 1; i < len(own); i++ {
			if bytes.Equal(own[i-1], own[i]) {
				return errDuplicate
			}
		}
	}
	return nil
}
