package tool

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A template is text with {name} places for arguments. {{ and }} stand for braces.
type template struct {
	parts []part
}

type part struct {
	text string
	ref  string // an argument's name, or a step and a path ("profile.email"); empty for text
}

var refName = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[A-Za-z0-9_]+)*$`)

func parseTemplate(s string) (template, error) {
	var t template
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			t.parts = append(t.parts, part{text: text.String()})
			text.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case (c == '{' || c == '}') && i+1 < len(s) && s[i+1] == c:
			text.WriteByte(c)
			i++
		case c == '}':
			return t, fmt.Errorf("%q has a } without a {; write }} for a brace", s)
		case c == '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return t, fmt.Errorf("%q has a { without a }; write {{ for a brace", s)
			}
			ref := s[i+1 : i+end]
			if !refName.MatchString(ref) {
				return t, fmt.Errorf("{%s} is not the name of an argument", ref)
			}
			flush()
			t.parts = append(t.parts, part{ref: ref})
			i += end
		default:
			text.WriteByte(c)
		}
	}
	flush()
	return t, nil
}

// refs returns the names in the template.
func (t template) refs() []string {
	var out []string
	for _, p := range t.parts {
		if p.ref != "" && !slices.Contains(out, p.ref) {
			out = append(out, p.ref)
		}
	}
	return out
}

// value fills in the template. A template that is one place and nothing else keeps the type of its
// value, and reports false if there is none; any other becomes text.
func (t template) value(get func(ref string) (any, bool)) (any, bool) {
	if len(t.parts) == 1 && t.parts[0].ref != "" {
		v, ok := get(t.parts[0].ref)
		return v, ok && v != nil
	}
	var b strings.Builder
	for _, p := range t.parts {
		if p.ref == "" {
			b.WriteString(p.text)
			continue
		}
		v, _ := get(p.ref)
		b.WriteString(inText(v))
	}
	return b.String(), true
}

// A shape is a value of YAML whose strings are templates.
type shape struct {
	template template         // of a string
	fields   map[string]shape // of a mapping
	items    []shape          // of a list
	literal  any              // of anything else
	kind     byte             // 't', 'f', 'i' or 'l'
}

func parseShape(v any) (shape, error) {
	switch v := v.(type) {
	case string:
		t, err := parseTemplate(v)
		return shape{kind: 't', template: t}, err
	case map[string]any:
		s := shape{kind: 'f', fields: make(map[string]shape, len(v))}
		var errs []error
		for _, k := range slices.Sorted(maps.Keys(v)) {
			sub, err := parseShape(v[k])
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", k, err))
				continue
			}
			s.fields[k] = sub
		}
		return s, errors.Join(errs...)
	case []any:
		s := shape{kind: 'i'}
		for _, e := range v {
			sub, err := parseShape(e)
			if err != nil {
				return s, err
			}
			s.items = append(s.items, sub)
		}
		return s, nil
	case uint64: // the YAML library's type of a positive integer
		if v <= 1<<62 {
			return shape{kind: 'l', literal: int64(v)}, nil
		}
	}
	return shape{kind: 'l', literal: v}, nil
}

func (s shape) refs() []string {
	var out []string
	switch s.kind {
	case 't':
		return s.template.refs()
	case 'f':
		for _, e := range s.fields {
			out = append(out, e.refs()...)
		}
	case 'i':
		for _, e := range s.items {
			out = append(out, e.refs()...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// value fills in the shape. Fields and items whose value is not there are left out, which is how
// optional arguments come to be optional.
func (s shape) value(get func(ref string) (any, bool)) (any, bool) {
	switch s.kind {
	case 't':
		return s.template.value(get)
	case 'f':
		out := make(map[string]any, len(s.fields))
		for k, e := range s.fields {
			if v, ok := e.value(get); ok {
				out[k] = v
			}
		}
		return out, true
	case 'i':
		out := make([]any, 0, len(s.items))
		for _, e := range s.items {
			if v, ok := e.value(get); ok {
				out = append(out, v)
			}
		}
		return out, true
	}
	return s.literal, true
}

// arguments looks names up in a call's arguments.
func arguments(v map[string]any) func(string) (any, bool) {
	return func(ref string) (any, bool) {
		e, ok := v[ref]
		return e, ok
	}
}
