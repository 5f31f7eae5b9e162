package canonical

import (
	"bytes"
	"slices"
	"sync"
	"unicode/utf8"
)

// Text returns the canonical form of one JSON value as [Parse] does, without the value: for digests.
// Where raw is canonical already, it is returned as it is.
func Text(raw []byte) ([]byte, error) {
	if out, ok := quick(raw); ok {
		return out, nil
	}
	_, canon, err := Parse(raw, 0)
	return canon, err
}

// quick rewrites plain JSON text without decoding it: strings without escapes, integers below 2^53,
// and keys of which none appears twice. It gives up on anything else, valid or not, which [Parse] then
// reads with more care. Most arguments of calls are plain.
func quick(raw []byte) ([]byte, bool) {
	t := textPool.Get().(*text)
	defer func() {
		t.in = nil
		if max(cap(t.out), cap(t.moved)) <= maxPooledText && cap(t.members) <= maxPooledKeys {
			clear(t.out[:cap(t.out)]) // arguments may be secret, and the pool is everybody's
			clear(t.moved[:cap(t.moved)])
			textPool.Put(t)
		}
	}()
	t.in, t.i, t.depth, t.out, t.members = raw, 0, 0, t.out[:0], t.members[:0]
	if !t.value() {
		return nil, false
	}
	if t.space(); t.i < len(raw) {
		return nil, false
	}
	if bytes.Equal(t.out, raw) {
		return raw, true
	}
	return bytes.Clone(t.out), true
}

const maxPooledText = 4 << 10

// textPool holds memory for quick; it carries nothing from one use to the next.
var textPool = sync.Pool{New: func() any { return new(text) }}

// A text is JSON that is being rewritten from in to out.
type text struct {
	in      []byte
	i       int // next byte of in
	depth   int
	out     []byte
	members []member // a stack: each open object owns the part above its start
	moved   []byte   // for reuse
}

// A member is where a member of an object stands in out: key in quotes, colon and value.
type member struct{ start, colon, end int }

func (t *text) space() {
	for t.i < len(t.in) {
		switch t.in[t.i] {
		case ' ', '\t', '\n', '\r':
			t.i++
		default:
			return
		}
	}
}

// next steps over white space and the byte c, if that is what follows.
func (t *text) next(c byte) bool {
	t.space()
	if t.i < len(t.in) && t.in[t.i] == c {
		t.i++
		return true
	}
	return false
}

func (t *text) value() bool {
	t.space()
	if t.i >= len(t.in) {
		return false
	}
	switch c := t.in[t.i]; {
	case c == '"':
		return t.string()
	case c == '{':
		return t.object()
	case c == '[':
		return t.array()
	case c == '-' || '0' <= c && c <= '9':
		return t.integer()
	}
	for _, word := range literals {
		if bytes.HasPrefix(t.in[t.i:], word) {
			t.i += len(word)
			t.out = append(t.out, word...)
			return true
		}
	}
	return false
}

var literals = [][]byte{[]byte("true"), []byte("false"), []byte("null")}

func (t *text) string() bool {
	start := t.i
	ascii := true
	for t.i++; t.i < len(t.in); t.i++ {
		switch c := t.in[t.i]; {
		case c == '"':
			t.i++
			s := t.in[start:t.i]
			if !ascii && !utf8.Valid(s) {
				return false
			}
			t.out = append(t.out, s...)
			return true
		case c < ' ' || c == '\\':
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return false
}

// integer takes at most 15 digits, which a double keeps.
func (t *text) integer() bool {
	start := t.i
	if t.in[t.i] == '-' {
		t.i++
	}
	digits := t.i
	for t.i < len(t.in) && '0' <= t.in[t.i] && t.in[t.i] <= '9' {
		t.i++
	}
	n := t.i - digits
	if n == 0 || n > 15 || t.in[digits] == '0' && (n > 1 || digits > start) {
		return false
	}
	if t.i < len(t.in) && (t.in[t.i] == '.' || t.in[t.i]|0x20 == 'e') {
		return false
	}
	t.out = append(t.out, t.in[start:t.i]...)
	return true
}

func (t *text) array() bool {
	if t.depth++; t.depth > MaxDepth {
		return false
	}
	t.i++
	t.out = append(t.out, '[')
	for first := true; !t.next(']'); first = false {
		if !first {
			if !t.next(',') {
				return false
			}
			t.out = append(t.out, ',')
		}
		if !t.value() {
			return false
		}
	}
	t.out = append(t.out, ']')
	t.depth--
	return true
}

func (t *text) object() bool {
	if t.depth++; t.depth > MaxDepth {
		return false
	}
	t.i++
	t.out = append(t.out, '{')
	from, sorted := len(t.members), true
	for first := true; !t.next('}'); first = false {
		if !first {
			if !t.next(',') {
				return false
			}
			t.out = append(t.out, ',')
		}
		if t.space(); t.i >= len(t.in) || t.in[t.i] != '"' {
			return false
		}
		m := member{start: len(t.out)}
		if !t.string() {
			return false
		}
		if m.colon = len(t.out); !t.next(':') {
			return false
		}
		t.out = append(t.out, ':')
		if !t.value() {
			return false
		}
		m.end = len(t.out)
		if n := len(t.members); n > from && t.compare(t.members[n-1], m) >= 0 {
			sorted = false
		}
		t.members = append(t.members, m)
	}
	ok := sorted || t.sort(from)
	t.members = t.members[:from]
	t.out = append(t.out, '}')
	t.depth--
	return ok
}

func (t *text) compare(a, b member) int {
	return compareKeys(t.out[a.start+1:a.colon-1], t.out[b.start+1:b.colon-1])
}

// sort puts the members above from into their order in out. It fails if a key appears twice.
func (t *text) sort(from int) bool {
	members := t.members[from:]
	start := members[0].start
	slices.SortFunc(members, t.compare)
	t.moved = t.moved[:0]
	for i, m := range members {
		if i > 0 {
			if t.compare(members[i-1], m) == 0 {
				return false
			}
			t.moved = append(t.moved, ',')
		}
		t.moved = append(t.moved, t.out[m.start:m.end]...)
	}
	copy(t.out[start:], t.moved)
	return true
}
