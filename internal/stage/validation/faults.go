package validation

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
)

// A Fault is one thing wrong with the arguments. It never repeats a value that was sent.
type Fault struct {
	Path     string `json:"path"` // JSON pointer (RFC 6901) into the arguments; "" for all of them
	Message  string `json:"message"`
	Expected any    `json:"expected,omitempty"` // what the schema wants there: a word, or a list
}

const (
	maxFaults   = 32  // told at once; more do not help to mend a call
	maxExpected = 20  // entries of a list of allowed values
	maxText     = 120 // bytes of one text out of a schema
	maxHint     = 280 // bytes
)

// invalid makes the error of faults, of which there are total.
func invalid(faults []Fault, total int) error {
	var b strings.Builder
	b.WriteString("correct and send again: ")
	for i, f := range faults {
		part := f.Message
		if name := strings.TrimPrefix(f.Path, "/"); name != "" {
			part = printable(name) + " " + f.Message
		}
		if b.Len()+len(part) > maxHint-len("; and 00000 more") {
			if i == 0 {
				b.WriteString("see context.errors")
			} else {
				fmt.Fprintf(&b, "; and %d more", total-i)
			}
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(part)
	}
	e := atlas.Errorf(atlas.CodeInvalidArguments, nil, b.String()).With("errors", faults)
	if total > len(faults) {
		e = e.With("more", total-len(faults))
	}
	return e
}

// printable drops what does not print: names of unknown arguments are the caller's text.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}

// faults returns the faults of a validation error in a stable order, cut to a readable number, and
// how many there are.
func (c *compiled) faults(err error) ([]Fault, int) {
	ve, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return []Fault{{Message: "does not fit the schema"}}, 1
	}
	var all []Fault
	c.collect(ve, &all)
	slices.SortFunc(all, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	all = slices.CompactFunc(all, func(a, b Fault) bool { return a.Path == b.Path && a.Message == b.Message })
	return all[:min(len(all), maxFaults)], len(all)
}

func (c *compiled) collect(ve *jsonschema.ValidationError, out *[]Fault) {
	path := pointer(ve.InstanceLocation)
	switch k := ve.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf:
		*out = append(*out, c.alternatives(ve, path))
		return
	case *kind.PropertyNames:
		*out = append(*out, Fault{Path: canonical.AppendPointer(path, k.Property), Message: "is not an allowed name"})
		return
	case *kind.Not, *kind.Contains, *kind.MinContains, *kind.MaxContains:
		*out = append(*out, describe(k, path))
		return
	}
	if len(ve.Causes) > 0 {
		for _, cause := range ve.Causes {
			c.collect(cause, out)
		}
		return
	}
	switch k := ve.ErrorKind.(type) {
	case *kind.Required:
		c.missing(path, k.Missing, out)
	case *kind.DependentRequired:
		c.missing(path, k.Missing, out)
	case *kind.Dependency:
		c.missing(path, k.Missing, out)
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			f := Fault{Path: canonical.AppendPointer(path, name), Message: "is not known"}
			if path == "" && len(c.known) > 0 {
				f.Message = "is not an argument of this tool"
				f.Expected = c.known[:min(len(c.known), maxExpected)]
			}
			*out = append(*out, f)
		}
	default:
		*out = append(*out, describe(k, path))
	}
}

func (c *compiled) missing(path string, names []string, out *[]Fault) {
	for _, name := range names {
		*out = append(*out, Fault{Path: canonical.AppendPointer(path, name), Message: "is required and missing"})
	}
}

// alternatives tells what would have fitted, in one fault: the faults of each branch apart would
// read as if all had to be mended.
func (c *compiled) alternatives(ve *jsonschema.ValidationError, path string) Fault {
	if one, ok := ve.ErrorKind.(*kind.OneOf); ok && len(one.Subschemas) > 0 {
		return Fault{Path: path, Message: "fits more than one of the allowed forms"}
	}
	var branches []Fault
	for _, cause := range ve.Causes {
		c.collect(cause, &branches)
	}
	var expected []string
	for _, f := range branches {
		text := strings.TrimSpace(strings.TrimPrefix(f.Path, path) + " " + f.Message)
		if !slices.Contains(expected, text) && len(expected) < 6 {
			expected = append(expected, text)
		}
	}
	slices.Sort(expected)
	return Fault{Path: path, Message: "fits none of the allowed forms", Expected: expected}
}

// describe puts a fault into our words. The library's own texts repeat the value that was sent.
func describe(k jsonschema.ErrorKind, path string) Fault {
	f := Fault{Path: path}
	switch k := k.(type) {
	case *kind.Type:
		want := strings.Join(k.Want, " or ")
		f.Message, f.Expected = "must be "+want+", is "+k.Got, want
	case *kind.Enum:
		f.Message, f.Expected = "must be one of the allowed values", allowed(k.Want)
	case *kind.Const:
		f.Message, f.Expected = "must be the one allowed value", allowed([]any{k.Want})
	case *kind.Format:
		f.Message, f.Expected = "must be a valid "+k.Want, k.Want
	case *kind.Pattern:
		f.Message, f.Expected = "must match the pattern", "pattern "+cutText(k.Want)
	case *kind.MinLength:
		f.Message = fmt.Sprintf("must have at least %d characters, has %d", k.Want, k.Got)
	case *kind.MaxLength:
		f.Message = fmt.Sprintf("must have at most %d characters, has %d", k.Want, k.Got)
	case *kind.Minimum:
		f.Message = "must be at least " + number(k.Want)
	case *kind.Maximum:
		f.Message = "must be at most " + number(k.Want)
	case *kind.ExclusiveMinimum:
		f.Message = "must be greater than " + number(k.Want)
	case *kind.ExclusiveMaximum:
		f.Message = "must be less than " + number(k.Want)
	case *kind.MultipleOf:
		f.Message = "must be a multiple of " + number(k.Want)
	case *kind.MinItems:
		f.Message = fmt.Sprintf("must have at least %d items, has %d", k.Want, k.Got)
	case *kind.MaxItems:
		f.Message = fmt.Sprintf("must have at most %d items, has %d", k.Want, k.Got)
	case *kind.AdditionalItems:
		f.Message = fmt.Sprintf("has %d items too many", k.Count)
	case *kind.UniqueItems:
		f.Message = fmt.Sprintf("must not hold equal items; those at %d and %d are equal", k.Duplicates[0], k.Duplicates[1])
	case *kind.Contains:
		f.Message = "holds no item of the form that is needed"
	case *kind.MinContains:
		f.Message = fmt.Sprintf("must hold at least %d items of the form that is needed", k.Want)
	case *kind.MaxContains:
		f.Message = fmt.Sprintf("must hold at most %d items of the counted form", k.Want)
	case *kind.MinProperties:
		f.Message = fmt.Sprintf("must have at least %d entries, has %d", k.Want, k.Got)
	case *kind.MaxProperties:
		f.Message = fmt.Sprintf("must have at most %d entries, has %d", k.Want, k.Got)
	case *kind.FalseSchema:
		f.Message = "is not allowed here"
	case *kind.Not:
		f.Message = "has a form that is not allowed"
	default:
		f.Message = "does not fit the schema"
	}
	return f
}

// allowed lists values of a schema, cut to a readable number and length.
func allowed(values []any) []any {
	list := make([]any, 0, min(len(values), maxExpected))
	for _, v := range values[:min(len(values), maxExpected)] {
		switch v := v.(type) {
		case string:
			list = append(list, cutText(v))
		case nil, bool, json.Number:
			list = append(list, v)
		default:
			text, err := canonical.Append(nil, v)
			if err == nil {
				list = append(list, cutText(string(text)))
			}
		}
	}
	return list
}

func cutText(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

func number(r *big.Rat) string {
	if r.IsInt() && r.Num().IsInt64() {
		return r.Num().String()
	}
	f, _ := r.Float64()
	return strconv.FormatFloat(f, 'g', -1, 64)
}

func pointer(tokens []string) string {
	path := ""
	for _, t := range tokens {
		path = canonical.AppendPointer(path, t)
	}
	return path
}
