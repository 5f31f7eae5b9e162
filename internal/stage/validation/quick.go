package validation

import (
	"encoding/json"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// A quick is a schema of the plain kind, prepared so that a value that fits is known to fit without
// the general validator, which takes ten times as long and a dozen allocations for a call's few
// arguments. Whatever is not surely right is left to that one: it alone refuses, and tells why.
type quick struct {
	types    kinds    // 0: any
	texts    []string // of which the value is one; nil: any
	format   func(any) error
	pattern  jsonschema.Regexp
	shortest int // characters
	longest  int // -1: no limit

	bounded     bool // a number must not be below least or above most
	least, most int64

	items    *quick // nil: any
	fewest   int
	largest  int // -1: no limit
	required []string
	fields   map[string]*quick
	others   *quick // of a field that is not named; nil: there must be none
}

// kinds is a set of the types of JSON.
type kinds uint8

const (
	kindNull kinds = 1 << iota
	kindBool
	kindNumber
	kindInteger
	kindText
	kindList
	kindObject
)

var kindNames = map[string]kinds{
	"null": kindNull, "boolean": kindBool, "number": kindNumber, "integer": kindInteger,
	"string": kindText, "array": kindList, "object": kindObject,
}

// understood are the fields of a schema that newQuick reads, and those that say nothing about a value.
var understood = []string{
	"DraftVersion", "Location", "ID", "Anchor", "Bool",
	"Types", "Enum", "Const", "Format",
	"Required", "Properties", "AdditionalProperties",
	"MinItems", "MaxItems", "Items2020",
	"MinLength", "MaxLength", "Pattern",
	"Maximum", "Minimum", "ExclusiveMaximum", "ExclusiveMinimum",
	"Title", "Description", "Default", "Comment", "ReadOnly", "WriteOnly", "Examples", "Deprecated",
}

// newQuick returns nil if the schema says anything that a quick does not understand, here or below.
func newQuick(s *jsonschema.Schema) *quick {
	if s.DraftVersion != 2020 {
		return nil
	}
	if s.Bool != nil {
		if *s.Bool {
			return &quick{longest: -1, largest: -1}
		}
		return nil
	}
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.IsExported() && !v.Field(i).IsZero() && !slices.Contains(understood, f.Name) {
			return nil
		}
	}
	q := &quick{longest: -1, largest: -1, pattern: s.Pattern, required: s.Required}
	if s.Types != nil {
		for _, name := range s.Types.ToStrings() {
			q.types |= kindNames[name]
		}
	}
	if s.Format != nil {
		if s.Format.Name == "regex" { // the general validator may ask an engine of its own
			return nil
		}
		q.format = s.Format.Validate
	}
	if !q.addTexts(s) || !q.addBounds(s) || !q.addFields(s) {
		return nil
	}
	q.shortest, q.longest = limits(s.MinLength, s.MaxLength)
	q.fewest, q.largest = limits(s.MinItems, s.MaxItems)
	if s.Items2020 != nil {
		if q.items = newQuick(s.Items2020); q.items == nil {
			return nil
		}
	}
	return q
}

func limits(least, most *int) (int, int) {
	low, high := 0, -1
	if least != nil {
		low = *least
	}
	if most != nil {
		high = *most
	}
	return low, high
}

// addTexts takes an enum or a const of texts.
func (q *quick) addTexts(s *jsonschema.Schema) bool {
	var values []any
	switch {
	case s.Enum != nil && s.Const != nil:
		return false
	case s.Enum != nil:
		values = s.Enum.Values
	case s.Const != nil:
		values = []any{*s.Const}
	default:
		return true
	}
	for _, v := range values {
		text, ok := v.(string)
		if !ok {
			return false
		}
		q.texts = append(q.texts, text)
	}
	return len(q.texts) > 0
}

// bound is beyond every integer that sure reads.
const bound = int64(1) << 53

// addBounds takes bounds of numbers that are whole.
func (q *quick) addBounds(s *jsonschema.Schema) bool {
	q.least, q.most = -bound, bound
	for _, b := range []struct {
		at    *big.Rat
		above bool
		step  int64
	}{{s.Minimum, true, 0}, {s.ExclusiveMinimum, true, 1}, {s.Maximum, false, 0}, {s.ExclusiveMaximum, false, -1}} {
		if b.at == nil {
			continue
		}
		if !b.at.IsInt() || !b.at.Num().IsInt64() || b.at.Num().CmpAbs(big.NewInt(bound)) >= 0 {
			return false
		}
		n := b.at.Num().Int64() + b.step
		q.bounded = true
		if b.above {
			q.least = max(q.least, n)
		} else {
			q.most = min(q.most, n)
		}
	}
	return true
}

func (q *quick) addFields(s *jsonschema.Schema) bool {
	q.fields = make(map[string]*quick, len(s.Properties))
	for name, sub := range s.Properties {
		if q.fields[name] = newQuick(sub); q.fields[name] == nil {
			return false
		}
	}
	switch others := s.AdditionalProperties.(type) {
	case nil:
		q.others = &quick{longest: -1, largest: -1}
	case bool:
		if others {
			q.others = &quick{longest: -1, largest: -1}
		}
	case *jsonschema.Schema:
		q.others = newQuick(others)
		return q.others != nil
	default:
		return false
	}
	return true
}

// sure reports whether v certainly fits; numbers are [json.Number], in any spelling. False says nothing.
func (q *quick) sure(v any) bool {
	if q.texts != nil {
		text, ok := v.(string)
		if !ok || !slices.Contains(q.texts, text) {
			return false
		}
	}
	if q.format != nil && q.format(v) != nil {
		return false
	}
	switch v := v.(type) {
	case string:
		return q.may(kindText) && q.sureText(v)
	case json.Number:
		return q.sureNumber(string(v))
	case bool:
		return q.may(kindBool)
	case nil:
		return q.may(kindNull)
	case map[string]any:
		return q.may(kindObject) && q.sureObject(v)
	case []any:
		return q.may(kindList) && q.sureList(v)
	}
	return false
}

func (q *quick) may(k kinds) bool { return q.types == 0 || q.types&k != 0 }

func (q *quick) sureText(s string) bool {
	if q.shortest > 0 || q.longest >= 0 {
		n := utf8.RuneCountInString(s)
		if n < q.shortest || q.longest >= 0 && n > q.longest {
			return false
		}
	}
	return q.pattern == nil || q.pattern.MatchString(s)
}

// sureNumber knows whole numbers below 2^53 as they are commonly written, and others where nothing is
// asked of them.
func (q *quick) sureNumber(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= -bound || n >= bound {
		return q.may(kindNumber) && !q.bounded
	}
	return q.may(kindNumber|kindInteger) && q.least <= n && n <= q.most
}

func (q *quick) sureList(list []any) bool {
	if len(list) < q.fewest || q.largest >= 0 && len(list) > q.largest {
		return false
	}
	if q.items == nil {
		return true
	}
	for _, v := range list {
		if !q.items.sure(v) {
			return false
		}
	}
	return true
}

func (q *quick) sureObject(m map[string]any) bool {
	for _, name := range q.required {
		if _, ok := m[name]; !ok {
			return false
		}
	}
	for name, v := range m {
		field := q.fields[name]
		if field == nil {
			field = q.others
		}
		if field == nil || !field.sure(v) {
			return false
		}
	}
	return true
}
