package validation

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
)

// genSchema draws schemas of all kinds that a quick understands, and some that it does not. Values are
// drawn apart, from so few that they often fit.
func genSchema(depth int) *rapid.Generator[map[string]any] {
	return rapid.Custom(func(t *rapid.T) map[string]any {
		s := map[string]any{}
		maybe := func(key string, draw func() any) {
			if rapid.IntRange(0, 3).Draw(t, "has "+key) == 0 {
				s[key] = draw()
			}
		}
		small := func() any { return rapid.IntRange(0, 3).Draw(t, "n") }
		number := func() any { return rapid.SampledFrom([]any{-1, 0, 1, 2, 1.5, 3, 1e16}).Draw(t, "bound") }
		maybe("type", func() any {
			return rapid.SampledFrom([]any{
				"string", "integer", "number", "boolean", "null", "array", "object",
				[]any{"string", "null"},
				[]any{"integer", "string"},
				[]any{"object", "array"},
			}).Draw(t, "type")
		})
		maybe("minLength", small)
		maybe("maxLength", small)
		maybe("pattern", func() any { return rapid.SampledFrom([]any{"^a", "b$", "^[0-9]+$", "é"}).Draw(t, "pattern") })
		maybe("format", func() any {
			return rapid.SampledFrom([]any{"date", "uuid", "email", "regex", "unknown"}).Draw(t, "format")
		})
		maybe("minimum", number)
		maybe("maximum", number)
		maybe("exclusiveMinimum", number)
		maybe("exclusiveMaximum", number)
		maybe("minItems", small)
		maybe("maxItems", small)
		maybe("enum", func() any { return []any{"a", rapid.SampledFrom([]any{"b", 1, nil}).Draw(t, "of")} })
		maybe("const", func() any { return rapid.SampledFrom([]any{"a", 1}).Draw(t, "const") })
		maybe("title", func() any { return "says nothing" })
		maybe("default", func() any { return "a" })
		if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
			s[rapid.SampledFrom([]string{"uniqueItems", "unknownKeyword"}).Draw(t, "other")] = true
			s["not"] = map[string]any{"const": "a"}
		}
		if depth > 0 {
			sub := func() any { return genSchema(depth-1).Draw(t, "schema") }
			maybe("items", sub)
			maybe("prefixItems", func() any { return []any{sub()} })
			maybe("properties", func() any { return map[string]any{"a": sub(), "b": sub()} })
			maybe("required", func() any { return []any{rapid.SampledFrom([]any{"a", "b", "c"}).Draw(t, "field")} })
			maybe("additionalProperties", func() any { return rapid.SampledFrom([]any{true, false, sub()}).Draw(t, "others") })
			maybe("anyOf", func() any { return []any{sub(), sub()} })
		}
		return s
	})
}

func genValue(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		if depth > 0 && rapid.Bool().Draw(t, "deep") {
			if rapid.Bool().Draw(t, "list") {
				return rapid.SliceOfN(genValue(depth-1), 0, 4).Draw(t, "items")
			}
			return rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c"}), genValue(depth-1), 0, 3).Draw(t, "fields")
		}
		return rapid.SampledFrom([]any{
			"", "a", "b", "ab", "éb", "12", "2026-11-23", nil, true, false, 0, 1, 2, 3, -1, 1.5, 1e16, 9007199254740991, 1e21,
			json.RawMessage("1.0"), json.RawMessage("-0"), json.RawMessage("1E0"),
		}).Draw(t, "leaf")
	})
}

// What is surely right by a quick is right by the general validator, for any schema and value.
func TestQuickIsNeverWrong(t *testing.T) {
	sure := 0
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(genSchema(2).Draw(t, "schema"))
		if err != nil {
			t.Fatal(err)
		}
		_, compiler, err := load(raw)
		if err != nil {
			t.Fatal(err)
		}
		schema, err := compiler.Compile(schemaURL)
		if err != nil {
			t.Skip(err) // such as a pattern that Go does not know
		}
		q := newQuick(schema)
		if q == nil {
			return
		}
		for range 8 {
			text, err := json.Marshal(genValue(2).Draw(t, "value"))
			if err != nil {
				t.Fatal(err)
			}
			// As arguments are read, and as answers are.
			argument, err := canonical.Decode(text, 0)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range []any{argument, answer} {
				if !q.sure(v) {
					continue
				}
				sure++
				if err := schema.Validate(v); err != nil {
					t.Fatalf("%s does not fit %s: %v", text, raw, err)
				}
			}
		}
	})
	if sure == 0 {
		t.Error("nothing was surely right: the test has tested nothing")
	}
}

// The kinds of schemas that tools have are understood.
func TestQuickUnderstandsCommonSchemas(t *testing.T) {
	for _, tt := range []struct{ schema, args string }{
		{`{"type":"object","properties":{"order_id":{"type":"string","pattern":"^o_[0-9]+$","description":"x"}},"required":["order_id"],"additionalProperties":false}`, `{"order_id":"o_1"}`},
		{`{"type":"object","properties":{"limit":{"type":"integer","minimum":1,"maximum":50,"default":10}},"additionalProperties":false}`, `{}`},
		{`{"type":"object","properties":{"since":{"type":"string","format":"date-time"},"kind":{"enum":["a","b"]}},"additionalProperties":false}`, `{"since":"2026-11-23T10:00:00Z","kind":"b"}`},
		{`{"type":"object","properties":{"tags":{"type":"array","items":{"type":"string","maxLength":5},"maxItems":3}},"additionalProperties":false}`, `{"tags":["x","y"]}`},
		{`{"type":"object","properties":{"f":{"type":"object","additionalProperties":{"type":["string","null"]}}},"additionalProperties":false}`, `{"f":{"a":null,"b":"c"}}`},
	} {
		c, err := compile(&atlas.Tool{Name: "t", Version: "1", Input: json.RawMessage(tt.schema)}, false)
		if err != nil {
			t.Fatal(err)
		}
		v, err := canonical.Decode([]byte(tt.args), 0)
		if err != nil {
			t.Fatal(err)
		}
		if c.quick == nil || !c.quick.sure(v) {
			t.Errorf("%s is not sure to fit %s", tt.args, tt.schema)
		}
	}
}
