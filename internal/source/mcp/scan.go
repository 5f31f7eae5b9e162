package mcp

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// A marker is wording that has no place in a tool's description: it speaks to the model about what else
// it should do. These are hints for the person who approves, and no more: what is harmless can match, and
// what is harmful need not.
type marker struct {
	what string
	re   *regexp.Regexp
}

func markerTable() []marker {
	m := func(what, re string) marker { return marker{what, regexp.MustCompile(`(?i)` + re)} }
	return []marker{
		m("tells the model to ignore instructions", `\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instruction|prompt|rule|polic|previous|prior|above)`),
		m("asks for secrecy", `\b(?:do not|don't|never|without)\b.{0,20}\b(?:tell|mention|inform|reveal|show|notify|telling|mentioning|informing|asking)\b.{0,20}\b(?:user|human|person|anyone)`),
		m("speaks to the model in markup", `</?\s*(?:important|system|instructions?|secret|admin|assistant|hidden)\b[^>]*>|\[(?:system|inst)\]|<\|`),
		m("hides text in a comment", `<!--`),
		m("names the system prompt", `\bsystem prompt\b`),
		m("orders steps around other tools", `\b(?:before|after|instead of)\b.{0,20}\b(?:using|calling|invoking|running)\b.{0,20}\b(?:any|other|another|this|the)\b.{0,20}\btool`),
		m("speaks of secrets or files of the machine", `\.ssh\b|id_rsa|/etc/passwd|\.env\b|\bcredentials\.json|\bprivate key|\bapi[ _-]?keys?\b`),
		m("asks for what was said before", `\b(?:conversation|chat) (?:history|log|transcript)|\bsidenote\b|\ball previous messages\b`),
	}
}

// longDescription is what a description should not exceed, in bytes: each caller pays for it, and the end
// of a long text is what nobody reads.
const longDescription = 2 << 10

// warnings tells what a person should look at before approving the tool.
func (t *tool) warnings() []string {
	var out []string
	add := func(format string, args ...any) {
		if w := fmt.Sprintf(format, args...); !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	markers := markerTable()
	walk("", map[string]any{
		"name": t.Name, "title": t.Title, "description": t.Description, "inputSchema": t.Input, "outputSchema": t.Output, "annotations": annotationTitle(t),
	}, func(at, text string) {
		if len(text) > longDescription {
			add("%s: %d bytes of text are more than a description needs", at, len(text))
		}
		if r, found := invisible(text); found {
			add("%s: holds %s", at, r)
		}
		if mixed(text) {
			add("%s: a word mixes Latin letters with look-alikes", at)
		}
		for _, m := range markers {
			if m.re.MatchString(text) {
				add("%s: %s", at, m.what)
			}
		}
	})
	return out
}

func annotationTitle(t *tool) string {
	if t.Annotations == nil {
		return ""
	}
	return t.Annotations.Title
}

// walk calls visit with every string of v, keys included, in a fixed order.
func walk(at string, v any, visit func(at, text string)) {
	switch v := v.(type) {
	case string:
		visit(at, v)
	case []any:
		for i, e := range v {
			walk(fmt.Sprintf("%s/%d", at, i), e, visit)
		}
	case map[string]any:
		for _, k := range sorted(v) {
			visit(at+" (a key)", k)
			walk(strings.TrimPrefix(at+"/"+shown(k), "/"), v[k], visit)
		}
	}
}

func sorted(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// shown is a key as it can be printed.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

// invisible finds characters that a person does not see and a model reads, or that a terminal obeys.
func invisible(s string) (what string, found bool) {
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
		case r == 0x1b || r == 0x9b:
			return "a control sequence for terminals (ANSI)", true
		case r >= 0xe0000 && r <= 0xe007f:
			return "invisible tag characters", true
		case r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return fmt.Sprintf("characters that turn the direction of text (U+%04X)", r), true
		case unicode.Is(unicode.Cf, r), unicode.Is(unicode.Cc, r), unicode.Is(unicode.Co, r), r == 0x3164, r == 0x115f, r == 0x1160, r == 0xffa0, r == 0xfffd,
			r >= 0xfe00 && r <= 0xfe0e, r >= 0xe0100 && r <= 0xe01ef:
			return fmt.Sprintf("invisible or unreadable characters (U+%04X)", r), true
		}
	}
	return "", false
}

// mixed reports a word of Latin and of Cyrillic or Greek letters.
func mixed(s string) bool {
	latin, other := false, false
	for _, r := range s {
		if !unicode.IsLetter(r) {
			latin, other = false, false
			continue
		}
		latin = latin || unicode.Is(unicode.Latin, r)
		other = other || unicode.In(r, unicode.Cyrillic, unicode.Greek, unicode.Cherokee, unicode.Armenian)
		if latin && other {
			return true
		}
	}
	return false
}
