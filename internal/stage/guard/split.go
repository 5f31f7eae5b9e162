package guard

import (
	"bytes"
	"errors"
)

// An object is a JSON object split at its top level, as places in its text.
type object struct {
	members   []member // in order, without the list, truncated and next_cursor
	found     bool     // the list is there, and is a list
	list      member
	items     []span
	truncated bool // the object says that more was there
}

type span struct{ start, end int }

type member struct{ keyStart, valueStart, end int }

var errNotJSON = errors.New("not a JSON object")

// splitObject finds the members of an object and the items of its member list. It allocates for
// places only and decodes nothing; what is inside values is not checked beyond brackets and quotes.
func splitObject(text []byte, list string) (object, error) {
	var o object
	i := skipSpace(text, 0)
	if i >= len(text) || text[i] != '{' {
		return o, errNotJSON
	}
	i = skipSpace(text, i+1)
	if i < len(text) && text[i] == '}' {
		return o, ends(text, i+1)
	}
	for {
		m := member{keyStart: i}
		keyEnd := skipString(text, i)
		if keyEnd < 0 {
			return o, errNotJSON
		}
		name := text[i+1 : keyEnd-1]
		i = skipSpace(text, keyEnd)
		if i >= len(text) || text[i] != ':' {
			return o, errNotJSON
		}
		m.valueStart = skipSpace(text, i+1)
		if m.end = skipValue(text, m.valueStart); m.end < 0 {
			return o, errNotJSON
		}
		value := text[m.valueStart:m.end]
		switch {
		case string(name) == list && value[0] == '[':
			o.found, o.list = true, m
			if o.items = splitArray(text, m); o.items == nil {
				return o, errNotJSON
			}
		case string(name) == "truncated":
			o.truncated = string(value) == "true"
		case string(name) == "next_cursor":
		default:
			o.members = append(o.members, m)
		}
		i = skipSpace(text, m.end)
		if i >= len(text) {
			return o, errNotJSON
		}
		if text[i] == '}' {
			return o, ends(text, i+1)
		}
		if text[i] != ',' {
			return o, errNotJSON
		}
		i = skipSpace(text, i+1)
	}
}

func ends(text []byte, i int) error {
	if skipSpace(text, i) != len(text) {
		return errNotJSON
	}
	return nil
}

// splitArray finds the items of an array whose brackets match. It returns nil if it is malformed.
func splitArray(text []byte, m member) []span {
	items := make([]span, 0, 64)
	i := skipSpace(text, m.valueStart+1)
	if text[i] == ']' && i == m.end-1 {
		return items
	}
	for i < m.end {
		end := skipValue(text[:m.end-1], i)
		if end < 0 {
			return nil
		}
		items = append(items, span{i, end})
		i = skipSpace(text, end)
		if i == m.end-1 {
			return items
		}
		if text[i] != ',' {
			return nil
		}
		i = skipSpace(text, i+1)
	}
	return nil
}

func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the place after the string that begins at i, or -1.
func skipString(text []byte, i int) int {
	if i >= len(text) || text[i] != '"' {
		return -1
	}
	i++
	for {
		n := bytes.IndexByte(text[i:], '"')
		if n < 0 {
			return -1
		}
		end := i + n
		slashes := 0
		for end-1-slashes >= i && text[end-1-slashes] == '\\' {
			slashes++
		}
		i = end + 1
		if slashes%2 == 0 {
			return i
		}
		// The quote is escaped. It is no backslash, so the count of the next one begins behind it.
	}
}

// skipValue returns the place after the value that begins at i, or -1. Brackets must match in
// number and kind.
func skipValue(text []byte, i int) int {
	if i >= len(text) {
		return -1
	}
	switch text[i] {
	case '"':
		return skipString(text, i)
	case '{', '[':
		return skipContainer(text, i)
	}
	start := i
	for i < len(text) {
		switch c := text[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', c == '-', c == '+', c == '.', c == 'E':
			i++
			continue
		}
		break
	}
	if i == start {
		return -1
	}
	return i
}

func skipContainer(text []byte, i int) int {
	var buf [64]byte
	open := buf[:0]
	for i < len(text) {
		switch c := text[i]; c {
		case '"':
			if i = skipString(text, i); i < 0 {
				return -1
			}
			continue
		case '{', '[':
			open = append(open, c+2) // its closing bracket
		case '}', ']':
			if open[len(open)-1] != c {
				return -1
			}
			if open = open[:len(open)-1]; len(open) == 0 {
				return i + 1
			}
		}
		i++
	}
	return -1
}
