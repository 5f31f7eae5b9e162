package source_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Two terms are equal exactly if name, type and value are.
func TestTermsDoNotRunTogether(t *testing.T) {
	value := rapid.OneOf(
		rapid.StringMatching(`[a-c0-9:=snb"]{0,4}`).AsAny(), rapid.Int64Range(-3, 3).AsAny(), rapid.Bool().AsAny(),
		rapid.SampledFrom([]any{"1", "true", 1.5, "1.5", int64(1)}),
	)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-c0-9:=]{0,4}`)
		n1, n2, v1, v2 := name.Draw(t, "n1"), name.Draw(t, "n2"), value.Draw(t, "v1"), value.Draw(t, "v2")
		a, b := source.Term(n1, v1), source.Term(n2, v2)
		if same := n1 == n2 && v1 == v2; a == "" || same != (a == b) {
			t.Fatalf("%q %v and %q %v: %q and %q", n1, v1, n2, v2, a, b)
		}
	})
}

func TestScalar(t *testing.T) {
	for _, tc := range []struct{ in, want any }{
		{"x", "x"},
		{true, true},
		{7, int64(7)},
		{int32(7), int64(7)},
		{7.0, int64(7)},
		{float32(2), int64(2)},
		{7.5, 7.5},
		{json.Number("7"), int64(7)},
		{json.Number("7.0"), int64(7)},
		{json.Number("9007199254740993"), int64(9007199254740993)},
		{json.Number("1e400"), nil},
		{json.Number("x"), nil},
		{math.NaN(), nil},
		{math.Inf(1), nil},
		{nil, nil},
		{[]any{1}, nil},
		{map[string]any{}, nil},
	} {
		if got, ok := source.Scalar(tc.in); got != tc.want || ok != (tc.want != nil) {
			t.Errorf("%T %v: got %v, %v", tc.in, tc.in, got, ok)
		}
	}
	if source.Term("x", nil) != "" {
		t.Error("a term of nothing")
	}
}

func TestConditions(t *testing.T) {
	many := map[string]any{}
	for range source.MaxFilters + 1 {
		many[strings.Repeat("x", len(many))] = 1
	}
	for name, tc := range map[string]struct {
		in   map[string]any
		want []source.Condition
	}{
		"none":      {nil, []source.Condition{}},
		"sorted":    {map[string]any{"b": 1, "a": "x"}, []source.Condition{{"a", []any{"x"}}, {"b", []any{int64(1)}}}},
		"lists":     {map[string]any{"a": []any{1, "x"}, "b": []string{"y"}, "c": []any{}}, []source.Condition{{"a", []any{int64(1), "x"}}, {"b", []any{"y"}}, {"c", []any{}}}},
		"nil":       {map[string]any{"a": nil}, nil},
		"nested":    {map[string]any{"a": []any{[]any{1}}}, nil},
		"object":    {map[string]any{"a": map[string]any{"value": "x"}}, nil},
		"too many":  {many, nil},
		"too large": {map[string]any{"a": make([]string, source.MaxFilterValues+1)}, nil},
	} {
		got, err := source.Conditions(tc.in)
		if diff := cmp.Diff(tc.want, got); diff != "" || (err != nil) != (tc.want == nil) || err != nil && atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

func TestSnippet(t *testing.T) {
	for _, body := range []string{"", "short", strings.Repeat("é", 200), strings.Repeat("é", 201), strings.Repeat("x", 1000)} {
		got := source.Snippet(body)
		if !strings.HasPrefix(body, got) || len([]rune(got)) != min(200, len([]rune(body))) {
			t.Errorf("%d runes of %d", len([]rune(got)), len([]rune(body)))
		}
	}
}
