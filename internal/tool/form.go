package tool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/mail"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A field is one question of a form (elicitation, form mode): a primitive of JSON Schema, a choice of
// one or of several (SEP-1330), and perhaps a default (SEP-1034).
type field struct {
	name    string
	shown   schema          // as the client gets it
	preset  json.RawMessage // default; nil for none
	kind    string          // string, integer, number, boolean or array
	choices []string        // of a string, or of an array's elements
	pattern *regexp.Regexp
	format  string
	bounds  struct{ minLength, maxLength, minItems, maxItems, minimum, maximum *float64 }
}

// shownKeys are the keywords that clients are to expect in a form. A pattern is not among them: it is
// checked when the answer is here.
var shownKeys = map[string][]string{
	"string":  {"type", "title", "description", "minLength", "maxLength", "format", "enum", "oneOf", "default"},
	"integer": {"type", "title", "description", "minimum", "maximum", "default"},
	"number":  {"type", "title", "description", "minimum", "maximum", "default"},
	"boolean": {"type", "title", "description", "default"},
	"array":   {"type", "title", "description", "minItems", "maxItems", "items", "default"},
}

// checkedKeys are further keywords that the answer is held to.
var checkedKeys = []string{"pattern"}

// newField makes a field of a property of an input. Keywords that it does not know are refused: they
// would promise a check that nobody makes.
func newField(name string, p schema) (field, error) {
	f := field{name: name, shown: schema{"title": titleOf(name)}}
	var parsed struct {
		Type      string            `json:"type"`
		Enum      []string          `json:"enum"`
		OneOf     []choice          `json:"oneOf"`
		Pattern   string            `json:"pattern"`
		Format    string            `json:"format"`
		Default   json.RawMessage   `json:"default"`
		Items     *itemsOfForm      `json:"items"`
		MinLength *float64          `json:"minLength"`
		MaxLength *float64          `json:"maxLength"`
		MinItems  *float64          `json:"minItems"`
		MaxItems  *float64          `json:"maxItems"`
		Minimum   *float64          `json:"minimum"`
		Maximum   *float64          `json:"maximum"`
		Examples  []json.RawMessage `json:"examples"`
	}
	if err := json.Unmarshal(encode(p), &parsed); err != nil {
		return f, errors.New("cannot be asked for: a field is text, a number, yes or no, or a choice of texts")
	}
	if f.kind = parsed.Type; f.kind == "" && len(parsed.Enum) > 0 {
		f.kind = "string"
	}
	if shownKeys[f.kind] == nil {
		return f, fmt.Errorf("cannot be asked for: type %q is none of string, integer, number, boolean and array", f.kind)
	}
	for _, key := range slices.Sorted(maps.Keys(p)) {
		switch {
		case slices.Contains(shownKeys[f.kind], key):
			f.shown[key] = p[key]
		case key != "examples" && !slices.Contains(checkedKeys, key):
			return f, fmt.Errorf("cannot be asked for: a field of type %s has no %q", f.kind, key)
		}
	}
	f.shown["type"] = f.kind
	f.choices, f.format, f.preset = parsed.Enum, parsed.Format, parsed.Default
	f.choices = append(f.choices, constants(parsed.OneOf)...)
	if f.kind == "array" {
		if parsed.Items == nil || len(parsed.Items.Enum)+len(parsed.Items.AnyOf) == 0 {
			return f, errors.New("cannot be asked for: a list needs items with an enum")
		}
		f.choices = append(parsed.Items.Enum, constants(parsed.Items.AnyOf)...)
	}
	if f.format != "" && formats[f.format] == nil {
		return f, fmt.Errorf("cannot be asked for: format %q is none of date, date-time, email and uri", f.format)
	}
	if parsed.Pattern != "" {
		var err error
		if f.pattern, err = regexp.Compile(parsed.Pattern); err != nil {
			return f, fmt.Errorf("pattern: %w", err)
		}
	}
	b := &f.bounds
	b.minLength, b.maxLength, b.minItems, b.maxItems = parsed.MinLength, parsed.MaxLength, parsed.MinItems, parsed.MaxItems
	b.minimum, b.maximum = parsed.Minimum, parsed.Maximum
	if f.preset != nil {
		if err := f.check(f.preset); err != nil {
			return f, fmt.Errorf("default %w", err)
		}
	}
	return f, nil
}

// A choice is a titled value of an enumeration (SEP-1330).
type choice struct {
	Const string `json:"const"`
	Title string `json:"title"`
}

type itemsOfForm struct {
	Type  string   `json:"type"`
	Enum  []string `json:"enum"`
	AnyOf []choice `json:"anyOf"`
}

func constants(list []choice) []string {
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = c.Const
	}
	return out
}

// titleOf makes a label of a name: "order_id" becomes "Order id".
func titleOf(name string) string {
	s := strings.ReplaceAll(name, "_", " ")
	return strings.ToUpper(s[:1]) + s[1:]
}

var formats = map[string]func(string) bool{
	"email": func(s string) bool { a, err := mail.ParseAddress(s); return err == nil && a.Address == s },
	"uri":   func(s string) bool { u, err := url.Parse(s); return err == nil && u.IsAbs() },
	"date":  func(s string) bool { _, err := time.Parse(time.DateOnly, s); return err == nil },
	"date-time": func(s string) bool {
		_, err := time.Parse(time.RFC3339, s)
		return err == nil
	},
}

// check says what is wrong with an answer; the client may have checked nothing.
func (f field) check(raw json.RawMessage) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return errors.New("is not JSON")
	}
	b := f.bounds
	switch v := v.(type) {
	case string:
		if f.kind != "string" {
			break
		}
		n := float64(utf8.RuneCountInString(v))
		switch {
		case f.choices != nil && !slices.Contains(f.choices, v):
			return errors.New("is none of the choices")
		case b.minLength != nil && n < *b.minLength:
			return fmt.Errorf("has fewer than %v characters", *b.minLength)
		case b.maxLength != nil && n > *b.maxLength:
			return fmt.Errorf("has more than %v characters", *b.maxLength)
		case f.pattern != nil && !f.pattern.MatchString(v):
			return fmt.Errorf("must match %s", f.pattern)
		case f.format != "" && !formats[f.format](v):
			return fmt.Errorf("is no %s", f.format)
		}
		return nil
	case json.Number:
		n, err := v.Float64()
		switch {
		case f.kind != "integer" && f.kind != "number":
		case err != nil:
			return errors.New("is too large")
		case f.kind == "integer" && n != float64(int64(n)):
			return errors.New("is not a whole number")
		case b.minimum != nil && n < *b.minimum:
			return fmt.Errorf("is less than %v", *b.minimum)
		case b.maximum != nil && n > *b.maximum:
			return fmt.Errorf("is more than %v", *b.maximum)
		default:
			return nil
		}
	case bool:
		if f.kind == "boolean" {
			return nil
		}
	case []any:
		if f.kind != "array" {
			break
		}
		n := float64(len(v))
		switch {
		case b.minItems != nil && n < *b.minItems:
			return fmt.Errorf("has fewer than %v choices", *b.minItems)
		case b.maxItems != nil && n > *b.maxItems:
			return fmt.Errorf("has more than %v choices", *b.maxItems)
		}
		seen := map[string]bool{}
		for _, e := range v {
			s, ok := e.(string)
			if !ok || !slices.Contains(f.choices, s) || seen[s] {
				return errors.New("must be different ones of the choices")
			}
			seen[s] = true
		}
		return nil
	}
	return fmt.Errorf("must be of type %s", f.kind)
}
