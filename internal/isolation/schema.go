package isolation

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A form is what a field of a tool's arguments takes, as far as an attack needs to know.
type form uint8

const (
	formOther  form = iota // numbers, booleans, words of a list: left as they are
	formID                 // a text that is bound to a pattern: an id
	formKey                // the path of an object
	formURL                // an address
	formText               // words
	formSQL                // a statement
	formIDs                // a list of texts
	formObject             // an object with names of the caller's choice, such as a filter
	formBody               // a query in a search server's own words, as an object
)

// A field is one argument, as the tool's input schema declares it.
type field struct {
	name     string
	form     form
	required bool
	pattern  *regexp.Regexp // of the text, or of the list's texts; nil if there is none
	sample   any            // what fills it if it is required and nothing better is known
}

// A property is the part of JSON Schema that is looked at.
type property struct {
	Type        any              `json:"type"`
	Description string           `json:"description"`
	Pattern     string           `json:"pattern"`
	Enum        []any            `json:"enum"`
	Const       any              `json:"const"`
	Default     any              `json:"default"`
	Minimum     *json.Number     `json:"minimum"`
	Items       *property        `json:"items"`
	More        *json.RawMessage `json:"additionalProperties"`
	AnyOf       []property       `json:"anyOf"`
}

// fields reads the arguments of a tool, sorted by name. A schema that cannot be read has none.
func fields(schema json.RawMessage) []field {
	var s struct {
		Properties map[string]property `json:"properties"`
		Required   []string            `json:"required"`
	}
	if json.Unmarshal(schema, &s) != nil {
		return nil
	}
	var out []field
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		f := s.Properties[name].field(name)
		f.required = slices.Contains(s.Required, name)
		out = append(out, f)
	}
	return out
}

// matchAll is the query of search servers that finds everything. A tool whose argument takes queries says so by
// naming it.
const matchAll = "match_all"

func (p property) is(typ string) bool {
	switch t := p.Type.(type) {
	case string:
		return t == typ
	case []any:
		return slices.Contains(t, any(typ))
	}
	return slices.ContainsFunc(p.AnyOf, func(o property) bool { return o.is(typ) })
}

func (p property) field(name string) field {
	f := field{name: name, sample: p.value()}
	switch {
	case p.Const != nil, len(p.Enum) > 0, name == "cursor": // which has attacks of its own
	case p.is("string"):
		f.form = p.textForm(name)
		f.pattern = compile(p.Pattern)
	case p.is("array") && p.Items != nil && p.Items.is("string") && len(p.Items.Enum) == 0:
		f.form, f.pattern = formIDs, compile(p.Items.Pattern)
	case p.is("object") && (p.More == nil || string(*p.More) != "false"):
		if f.form = formObject; strings.Contains(p.Description, matchAll) {
			f.form = formBody
		}
	}
	return f
}

func compile(pattern string) *regexp.Regexp {
	if pattern == "" {
		return nil
	}
	re, err := regexp.Compile(pattern)
	if err != nil { // not of the common part of both dialects: nothing is known of the text then
		return nil
	}
	return re
}

// textForm tells texts apart: by what they must match, and by what the tool says of them.
func (p property) textForm(name string) form {
	about := strings.ToLower(name + " " + p.Description)
	re := compile(p.Pattern)
	switch {
	case name == "sql" || strings.Contains(about, "select statement"):
		return formSQL
	case re != nil && re.MatchString("https://example.com/") && !re.MatchString("a/b.txt") || name == "url":
		return formURL
	case re != nil && re.MatchString("a/b.txt"), name == "key", name == "path", name == "prefix":
		return formKey
	case re != nil:
		return formID
	case name == "id" || strings.HasSuffix(name, "_id"):
		return formID
	}
	return formText
}

// value is the plainest value that the property allows.
func (p property) value() any {
	switch {
	case p.Const != nil:
		return p.Const
	case len(p.Enum) > 0:
		return p.Enum[0]
	case p.Default != nil:
		return p.Default
	case p.is("integer") || p.is("number"):
		if p.Minimum != nil {
			return *p.Minimum
		}
		return 1
	case p.is("boolean"):
		return false
	case p.is("array"):
		return []any{}
	case p.is("object"):
		return map[string]any{}
	}
	return "x"
}

// fits reports whether the field takes the text.
func (f *field) fits(s string) bool { return f.pattern == nil || f.pattern.MatchString(s) }

// wrap is a text as the field wants it: alone, or in a list.
func (f *field) wrap(s string) any {
	if f.form == formIDs {
		return []any{s}
	}
	return s
}

// shape is what ids of one kind have in common: their letters and signs, with every run of digits as
// one #.
func shape(id string) string { return digitRuns.ReplaceAllString(id, "#") }

var digitRuns = regexp.MustCompile(`\d+`)
