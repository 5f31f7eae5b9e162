package tool

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxURI       = 4096 // bytes of a URI that is looked at
	maxVariable  = 1024 // bytes of a variable's value, decoded
	maxTemplate  = 512  // bytes of a template
	maxVariables = 8    // of one template
)

// A uriTemplate is a URI, or a template of URIs: the simple and the reserved expansion of RFC 6570
// ({name}, level 1, and {+name}, which may hold slashes, at the end). Each URI that it matches stands
// for one set of values, and is the only one that does, so that no two spellings of a URI reach one
// document past a rule, a cache key or an audit record that knows only one of them.
type uriTemplate struct {
	text  string
	parts []uriPart
}

type uriPart struct {
	literal string
	name    string // of a variable; empty for literal text
	path    bool   // the variable may hold slashes
}

var (
	uriBegin    = regexp.MustCompile(`^([a-z][a-z0-9+.-]*)://[A-Za-z0-9]`)
	uriLiteral  = regexp.MustCompile(`^[A-Za-z0-9._~:/?@!$&'()*+,;=-]*$`)
	uriVariable = regexp.MustCompile(`^\+?[a-z][a-z0-9_]{0,63}$`)
)

// fetched are schemes that clients follow by themselves: a resource with such a URI would be read
// past Atlas, or not at all.
var fetched = []string{"http", "https", "file", "ftp", "ws", "wss"}

func parseURI(s string) (uriTemplate, error) {
	t := uriTemplate{text: s}
	begin := uriBegin.FindStringSubmatch(s)
	switch {
	case len(s) > maxTemplate:
		return t, fmt.Errorf("has %d bytes; the limit is %d", len(s), maxTemplate)
	case begin == nil:
		return t, fmt.Errorf("%q is not a URI with a fixed authority, such as atlas://files/{+key}", s)
	case slices.Contains(fetched, begin[1]):
		return t, fmt.Errorf("clients follow %s by themselves; use a scheme of your own, as in atlas://", begin[1])
	}
	variables := 0
	for rest := s; rest != ""; {
		open := strings.IndexAny(rest, "{}")
		if open < 0 {
			open = len(rest)
		}
		if open > 0 {
			if err := t.literal(rest[:open]); err != nil {
				return t, err
			}
			rest = rest[open:]
			continue
		}
		end := strings.IndexByte(rest, '}')
		if end <= 0 {
			return t, fmt.Errorf("%q has a brace without its other half", s)
		}
		if err := t.variable(rest[1:end]); err != nil {
			return t, err
		}
		variables++
		rest = rest[end+1:]
	}
	if variables > maxVariables {
		return t, fmt.Errorf("has %d variables; the limit is %d", variables, maxVariables)
	}
	path := s[strings.Index(s, "://")+3:]
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." || segment == "" {
			return t, fmt.Errorf(`%q has an empty, "." or ".." segment`, s)
		}
	}
	return t, nil
}

func (t *uriTemplate) literal(s string) error {
	if !uriLiteral.MatchString(s) {
		return fmt.Errorf("%q holds a character that stands for itself in no URI, a # or a %%", s)
	}
	if n := len(t.parts); n > 0 {
		if before := t.parts[n-1]; before.path {
			return fmt.Errorf("{+%s} may hold slashes and must be the end", before.name)
		} else if unreserved(s[0]) {
			return fmt.Errorf("what follows {%s} must begin with a character that no value holds as it is, such as /", before.name)
		}
	}
	t.parts = append(t.parts, uriPart{literal: s})
	return nil
}

func (t *uriTemplate) variable(s string) error {
	if !uriVariable.MatchString(s) {
		return fmt.Errorf("{%s} is not supported; write {name}, or {+name} for a path", s)
	}
	name, path := strings.CutPrefix(s, "+")
	switch n := len(t.parts); {
	case n == 0 || t.parts[n-1].name != "":
		return fmt.Errorf("{%s} must follow fixed text", s)
	case n == 1 && !strings.Contains(t.parts[0].literal[strings.Index(t.parts[0].literal, "://")+3:], "/"):
		return errors.New("the authority must be fixed: variables stand behind a slash that follows it")
	case slices.Contains(t.variables(), name):
		return fmt.Errorf("{%s} is there twice", name)
	}
	t.parts = append(t.parts, uriPart{name: name, path: path})
	return nil
}

// variables returns the names of the variables, in order.
func (t uriTemplate) variables() []string {
	var out []string
	for _, p := range t.parts {
		if p.name != "" {
			out = append(out, p.name)
		}
	}
	return out
}

// match returns the values of the variables for which the template is uri. Percent signs are decoded
// exactly once. A uri that is not spelt as expand would spell it does not match.
func (t uriTemplate) match(uri string) (map[string]string, bool) {
	if len(uri) > maxURI {
		return nil, false
	}
	values := map[string]string{}
	rest := uri
	for i, p := range t.parts {
		if p.name == "" {
			var ok bool
			if rest, ok = strings.CutPrefix(rest, p.literal); !ok {
				return nil, false
			}
			continue
		}
		end := len(rest)
		if i+1 < len(t.parts) { // literal text, whose first byte no value holds as it is
			if end = strings.IndexByte(rest, t.parts[i+1].literal[0]); end < 0 {
				return nil, false
			}
		}
		v, ok := decodeValue(rest[:end], p.path)
		if !ok || !soundValue(v, p.path) {
			return nil, false
		}
		values[p.name], rest = v, rest[end:]
	}
	return values, rest == ""
}

// expand returns the URI for the values, or false if one of them is missing or can stand in no URI.
func (t uriTemplate) expand(values map[string]string) (string, bool) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.name == "" {
			b.WriteString(p.literal)
			continue
		}
		v := values[p.name]
		if !soundValue(v, p.path) {
			return "", false
		}
		encodeValue(&b, v, p.path)
	}
	return b.String(), b.Len() <= maxURI
}

// soundValue reports whether a variable may have the value: neither empty nor long, without control
// characters, backslashes and segments that climb; and one segment, unless the variable is a path.
func soundValue(v string, path bool) bool {
	if v == "" || len(v) > maxVariable || !utf8.ValidString(v) || !path && strings.Contains(v, "/") ||
		strings.ContainsFunc(v, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }) {
		return false
	}
	for segment := range strings.SplitSeq(v, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

// unreserved are the characters that stand for themselves in a value (RFC 3986 section 2.3).
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// plainByte reports whether c stands for itself in a value: in a path the reserved characters do, too
// (RFC 6570 section 3.2.3).
func plainByte(c byte, path bool) bool {
	return unreserved(c) || path && strings.IndexByte(":/?#[]@!$&'()*+,;=", c) >= 0
}

const hexDigits = "0123456789ABCDEF"

// encodeValue differs from RFC 6570 in one point: a percent sign is always encoded, also where it
// looks like the beginning of an encoded character, because values are what they are.
func encodeValue(b *strings.Builder, v string, path bool) {
	for i := range len(v) {
		if c := v[i]; plainByte(c, path) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
}

// decodeValue is the inverse of encodeValue, and refuses what that would not have written.
func decodeValue(s string, path bool) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '%' {
			if !plainByte(c, path) {
				return "", false
			}
			b.WriteByte(c)
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		high, low := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
		if high < 0 || low < 0 {
			return "", false
		}
		c = byte(high<<4 | low) //nolint:gosec // two digits of four bits
		if plainByte(c, path) {
			return "", false
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String(), true
}

// overlaps reports whether some URI may match both templates: which of two resources a URI names must
// not depend on the order in which they are tried. It walks both as automata.
func (t uriTemplate) overlaps(u uriTemplate) bool {
	if x, y := t.parts[0].literal, u.parts[0].literal; !strings.HasPrefix(x, y) && !strings.HasPrefix(y, x) {
		return false // most do: it spares large files the walk
	}
	a, b := t.atoms(), u.atoms()
	type state struct{ i, j int }
	seen := map[state]bool{{0, 0}: true}
	for queue := []state{{0, 0}}; len(queue) > 0; {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if at.i == len(a) && at.j == len(b) {
			return true
		}
		if at.i == len(a) || at.j == len(b) || !a[at.i].meets(b[at.j]) {
			continue
		}
		for _, i := range a[at.i].next(at.i) {
			for _, j := range b[at.j].next(at.j) {
				if s := (state{i, j}); !seen[s] {
					seen[s] = true
					queue = append(queue, s)
				}
			}
		}
	}
	return false
}

// An atom is one byte of a template, or one or more bytes of a variable.
type atom struct {
	variable, path bool
	literal        byte
}

func (t uriTemplate) atoms() []atom {
	var out []atom
	for _, p := range t.parts {
		if p.name != "" {
			out = append(out, atom{variable: true, path: p.path})
		}
		for i := range len(p.literal) {
			out = append(out, atom{literal: p.literal[i]})
		}
	}
	return out
}

func (a atom) meets(b atom) bool {
	switch {
	case a.variable && b.variable:
		return true
	case a.variable:
		return plainByte(b.literal, a.path)
	case b.variable:
		return plainByte(a.literal, b.path)
	}
	return a.literal == b.literal
}

func (a atom) next(i int) []int {
	if a.variable {
		return []int{i, i + 1}
	}
	return []int{i + 1}
}
