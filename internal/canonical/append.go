package canonical

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
)

// Append appends the canonical form of v to dst. It takes what [Parse] returns, and Go's own
// float64, int and int64; other types and cycles are the caller's mistake, and are errors.
func Append(dst []byte, v any) ([]byte, error) {
	keys := keyPool.Get().(*[]string)
	w := writer{out: dst, keys: (*keys)[:0]}
	err := w.value(v, 0)
	clear(w.keys[:cap(w.keys)]) // keep no request's strings alive
	if cap(w.keys) <= maxPooledKeys {
		*keys = w.keys[:0]
		keyPool.Put(keys)
	}
	if err != nil {
		return dst, err
	}
	return w.out, nil
}

const maxPooledKeys = 1024

// keyPool holds the stacks on which keys are sorted; they carry nothing from one use to the next.
var keyPool = sync.Pool{New: func() any { s := make([]string, 0, 64); return &s }}

type writer struct {
	out  []byte
	keys []string // a stack: each open object owns the part above its start
}

func (w *writer) value(v any, depth int) error {
	if depth > MaxDepth {
		return errors.New("value is nested too deeply, or in a cycle")
	}
	switch v := v.(type) {
	case nil:
		w.out = append(w.out, "null"...)
	case bool:
		w.out = strconv.AppendBool(w.out, v)
	case string:
		return w.string(v)
	case json.Number:
		return w.number(string(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return errors.New("number is not finite")
		}
		w.out = append(w.out, formatFloat(v)...)
	case int:
		return w.number(strconv.Itoa(v))
	case int64:
		return w.number(strconv.FormatInt(v, 10))
	case []any:
		w.out = append(w.out, '[')
		for i, e := range v {
			if i > 0 {
				w.out = append(w.out, ',')
			}
			if err := w.value(e, depth+1); err != nil {
				return err
			}
		}
		w.out = append(w.out, ']')
	case map[string]any:
		return w.object(v, depth)
	default:
		return fmt.Errorf("cannot write a %T as JSON", v)
	}
	return nil
}

func (w *writer) object(m map[string]any, depth int) error {
	from := len(w.keys)
	for k := range m {
		w.keys = append(w.keys, k)
	}
	to := len(w.keys)
	slices.SortFunc(w.keys[from:to], compareKeys[string])
	w.out = append(w.out, '{')
	for i := from; i < to; i++ {
		if i > from {
			w.out = append(w.out, ',')
		}
		key := w.keys[i]
		if err := w.string(key); err != nil {
			return err
		}
		w.out = append(w.out, ':')
		if err := w.value(m[key], depth+1); err != nil {
			return err
		}
	}
	w.out = append(w.out, '}')
	w.keys = w.keys[:from]
	return nil
}

func (w *writer) number(s string) error {
	p := parser{s: s}
	if s == "" {
		return errors.New("number is empty")
	}
	text, integer := p.scanNumber()
	if text != s {
		return errors.New("number is not well formed")
	}
	n, ok := canonicalNumber(s, integer, false)
	if !ok {
		return &Error{Kind: Number, Reason: "the number has more digits or magnitude than a 64-bit float holds"}
	}
	w.out = append(w.out, n...)
	return nil
}

// string writes a string as RFC 8785 section 3.2.2.2 does: nothing is escaped that need not be.
func (w *writer) string(s string) error {
	const hex = "0123456789abcdef"
	out := append(w.out, '"')
	start := 0
	ascii := true
	for i := range len(s) {
		c := s[i]
		if c >= utf8.RuneSelf {
			ascii = false
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		out = append(out, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, '\\', 'b')
		case '\t':
			out = append(out, '\\', 't')
		case '\n':
			out = append(out, '\\', 'n')
		case '\f':
			out = append(out, '\\', 'f')
		case '\r':
			out = append(out, '\\', 'r')
		default:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	out = append(out, s[start:]...)
	if !ascii && !utf8.ValidString(s) {
		return &Error{Kind: Encoding, Reason: "invalid UTF-8"}
	}
	w.out = append(out, '"')
	return nil
}

// compareKeys orders keys by UTF-16 code units (RFC 8785 section 3.2.3). That is the order of the
// UTF-8 bytes, save that characters beyond U+FFFF come before U+E000 to U+FFFF: their surrogates
// are smaller.
func compareKeys[T string | []byte](a, b T) int {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x >= 0xEE && y >= 0xEE && (x >= 0xF0) != (y >= 0xF0) {
			return int(y) - int(x)
		}
		return int(x) - int(y)
	}
	return len(a) - len(b)
}
