package tool

import (
	"fmt"
	"slices"
	"strings"
)

// placeholders is text with {{argument}} places. It is read once, when the configuration is loaded;
// what is inserted is never read again, whatever braces it holds.
type placeholders struct {
	parts []placeholder
}

type placeholder struct {
	text  string
	ref   string // an argument's name; empty for text
	quote bool   // {{argument | quote}}: as a JSON string in quotation marks
}

func parsePlaceholders(s string) (placeholders, error) {
	var t placeholders
	for s != "" {
		open := strings.Index(s, "{{")
		if open < 0 {
			open = len(s)
		}
		if strings.Contains(s[:open], "}}") {
			return t, fmt.Errorf("%q has a }} without a {{", s[:open])
		}
		if open > 0 {
			t.parts = append(t.parts, placeholder{text: s[:open]})
		}
		if s = s[open:]; s == "" {
			break
		}
		end := strings.Index(s, "}}")
		if end < 0 {
			return t, fmt.Errorf("%q has a {{ without a }}", s)
		}
		name, filter, filtered := strings.Cut(s[2:end], "|")
		name, filter = strings.TrimSpace(name), strings.TrimSpace(filter)
		if !toolName.MatchString(name) {
			return t, fmt.Errorf("{{%s}} is not the name of an argument", s[2:end])
		}
		if filtered && filter != "quote" {
			return t, fmt.Errorf("{{%s}}: there is no %q; the one filter is quote", s[2:end], filter)
		}
		t.parts = append(t.parts, placeholder{ref: name, quote: filtered})
		s = s[end+2:]
	}
	return t, nil
}

func (t placeholders) refs() []string {
	var out []string
	for _, p := range t.parts {
		if p.ref != "" && !slices.Contains(out, p.ref) {
			out = append(out, p.ref)
		}
	}
	return out
}

// fill inserts what get returns as it is.
func (t placeholders) fill(get func(ref string) string) string {
	var b strings.Builder
	for _, p := range t.parts {
		if p.ref == "" {
			b.WriteString(p.text)
			continue
		}
		b.WriteString(get(p.ref))
	}
	return b.String()
}
