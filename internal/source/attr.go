package source

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/atlas-mcp/atlas"
)

// FilterID is the name under which a filter finds a document by its id, in every source.
const FilterID = "id"

// Bounds of a filter, so that no question makes a statement of any size.
const (
	MaxFilters      = 16
	MaxFilterValues = 128
)

// A Condition holds for a document whose attribute has one of the values. Without values it holds
// for none.
type Condition struct {
	Name   string
	Values []any // string, bool, int64 or float64, as [Scalar] gives them
}

// Conditions checks a filter (see [Search]) and returns it sorted by name. All of the conditions
// must hold. The error has the code invalid_arguments.
func Conditions(filter map[string]any) ([]Condition, error) {
	if len(filter) > MaxFilters {
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "too many filters").With("limit", MaxFilters)
	}
	out := make([]Condition, 0, len(filter))
	for _, name := range slices.Sorted(maps.Keys(filter)) {
		values, ok := scalars(filter[name])
		if !ok {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil,
				"a filter's value must be a string, a number, a boolean or a list of them").With("filter", name)
		}
		if len(values) > MaxFilterValues {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a filter has too many values").
				With("filter", name).With("limit", MaxFilterValues)
		}
		out = append(out, Condition{name, values})
	}
	return out, nil
}

// Attributes checks a document's attributes and returns them with [Scalar] values. The error has
// the code invalid_arguments.
func Attributes(d Document) (map[string]any, error) {
	out := make(map[string]any, len(d.Attrs))
	for name, v := range d.Attrs {
		if name == FilterID {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a document's id is no attribute; leave it out").With("id", d.ID)
		}
		s, ok := Scalar(v)
		if !ok {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a document's attributes must be strings, numbers and booleans").
				With("id", d.ID).With("attribute", name)
		}
		out[name] = s
	}
	return out, nil
}

// Term is a scalar of an attribute as one string, for stores whose index knows only strings. Terms
// are equal exactly if name, type and value are: the name's length keeps it from running into the
// value, and a letter tells "1", 1 and true apart. It is "" for what is no [Scalar].
func Term(name string, value any) string {
	s, ok := Scalar(value)
	if !ok {
		return ""
	}
	prefix := strconv.Itoa(len(name)) + ":" + name + "="
	switch s := s.(type) {
	case string:
		return prefix + "s" + s
	case bool:
		return prefix + "b" + strconv.FormatBool(s)
	case int64:
		return prefix + "n" + strconv.FormatInt(s, 10)
	case float64:
		return prefix + "n" + strconv.FormatFloat(s, 'g', -1, 64)
	}
	return ""
}

func scalars(v any) ([]any, bool) {
	var list []any
	switch v := v.(type) {
	case []any:
		list = v
	case []string:
		for _, s := range v {
			list = append(list, s)
		}
	default:
		list = []any{v}
	}
	out := make([]any, 0, len(list))
	for _, e := range list {
		s, ok := Scalar(e)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

// Scalar returns v as string, bool, int64 or float64: a number without a fraction is an int64
// however it was written. It reports false for anything else.
func Scalar(v any) (any, bool) {
	switch v := v.(type) {
	case string, bool, int64:
		return v, true
	case int:
		return int64(v), true
	case int32:
		return int64(v), true
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n, true
		}
		f, err := v.Float64()
		if err != nil {
			return nil, false
		}
		return Scalar(f)
	case float32:
		return Scalar(float64(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, false
		}
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), true
		}
		return v, true
	}
	return nil, false
}
