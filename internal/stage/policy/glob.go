package policy

import (
	"fmt"
	"strings"
)

// What separates the segments of each kind of pattern.
const (
	actionSep   = ":"
	resourceSep = "/"
	subjectSep  = ":/"
)

// A glob is a compiled pattern. A * never crosses a separator; a last segment that is exactly *
// takes everything that is left.
type glob struct {
	text  string // as written
	head  string // what must match; without the last * if rest
	rest  bool   // the last segment is exactly *
	exact bool   // no wildcard at all
	depth int    // separators in head
	seps  string
}

// compileGlob compiles a pattern whose segments are separated by any character of seps.
func compileGlob(text, seps string) (glob, error) {
	if text == "" {
		return glob{}, fmt.Errorf("is empty")
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }); i >= 0 {
		return glob{}, fmt.Errorf("%q holds a space or a control character", text)
	}
	if strings.Contains(text, "**") {
		return glob{}, fmt.Errorf("%q holds **; one * as the last segment matches all that is left", text)
	}
	g := glob{text: text, head: text, seps: seps, exact: !strings.Contains(text, "*")}
	empty := true // the current segment
	for i := range len(text) {
		if strings.IndexByte(seps, text[i]) < 0 {
			empty = false
			continue
		}
		// A subject may be a URL, whose // is no mistake.
		if empty && seps != subjectSep {
			return glob{}, fmt.Errorf("%q has an empty segment", text)
		}
		empty = true
		g.depth++
	}
	if empty && seps != subjectSep {
		return glob{}, fmt.Errorf("%q ends in an empty segment", text)
	}
	if text == "*" || len(text) > 1 && text[len(text)-1] == '*' && strings.IndexByte(seps, text[len(text)-2]) >= 0 {
		g.rest, g.head = true, text[:len(text)-1]
	}
	return g, nil
}

// match reports whether the pattern matches s.
func (g *glob) match(s string) bool {
	if g.exact {
		return s == g.text
	}
	if !g.rest {
		return matchStars(g.head, s, g.seps)
	}
	end := 0 // where the segments that head is about end, their separator included
	for range g.depth {
		i := strings.IndexAny(s[end:], g.seps)
		if i < 0 {
			return false
		}
		end += i + 1
	}
	return matchStars(g.head, s[:end], g.seps)
}

// matchStars matches s as a whole, in at most len(p)*len(s) steps: where a match fails, only the
// last * before can have to take more, and that only up to the next separator.
func matchStars(p, s, seps string) bool {
	i, j := 0, 0
	star, mark := -1, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && p[i] == s[j]:
			i++
			j++
		case star >= 0 && strings.IndexByte(seps, s[mark]) < 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// reach says how a resource pattern stands to all resources of one source of one tenant.
type reach uint8

const (
	reachNone reach = iota // it matches none of them
	reachSome              // it may match some
	reachAll               // it matches every one
)

// reaches compares a resource pattern with everything below "tenant:<tenant>/<source>/". An empty
// source stands for any.
func (g *glob) reaches(tenant, source string) reach {
	want := []string{"tenant:" + tenant}
	if source != "" {
		want = append(want, source)
	}
	have := strings.Split(g.text, resourceSep)
	for i, segment := range want {
		if i == len(have)-1 { // nothing of the pattern is left for what lies below
			if g.rest {
				return reachAll
			}
			return reachNone
		}
		if !matchStars(have[i], segment, resourceSep) {
			return reachNone
		}
	}
	if g.rest && len(have) == len(want)+1 {
		return reachAll
	}
	return reachSome
}
