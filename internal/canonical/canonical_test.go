package canonical_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas/internal/canonical"
)

// The samples of RFC 8785 section 3.2.2 to 3.2.4.
func TestTransformGivesTheFormsOfRFC8785(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{
			"3.2.2 and 3.2.3: primitives", `{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
		},
		{
			"3.2.3: order of keys", `{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\"," +
				"\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		},
		{"nested objects and blanks", " { \"b\" : [ ] ,\n\t\"a\" : { \"\" : { } } } ", `{"a":{"":{}},"b":[]}`},
		{"top-level scalars", " \"x\" ", `"x"`},
		{"no escapes that need not be", `"\u007f\u2028\u2029<>&\b\f\t"`, "\"\u007f\u2028\u2029<>&\\b\\f\\t\""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := canonical.Transform([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// The bytes that RFC 8785 section 3.2.4 prints for its first sample.
func TestTransformGivesTheBytesOfRFC8785(t *testing.T) {
	const want = "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a" +
		"5b3333333333333333332e333333333333332c31652b33302c342e352c302e3030322c31652d32375d2c22737472" +
		"696e67223a22e282ac245c75303030665c6e4127425c225c5c5c5c5c222f227d"
	got, err := canonical.Transform([]byte(`{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],` +
		`"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}`))
	if err != nil {
		t.Fatal(err)
	}
	if h := hex.EncodeToString(got); h != want {
		t.Errorf("got  %s\nwant %s", h, want)
	}
}

// RFC 8785 appendix B: IEEE 754 bits and the text that they must have.
func TestNumbersAreSpeltAsRFC8785AppendixB(t *testing.T) {
	tests := []struct {
		bits uint64
		want string
	}{
		{0x0000000000000000, "0"},
		{0x8000000000000000, "0"},
		{0x0000000000000001, "5e-324"},
		{0x8000000000000001, "-5e-324"},
		{0x7fefffffffffffff, "1.7976931348623157e+308"},
		{0xffefffffffffffff, "-1.7976931348623157e+308"},
		{0x4340000000000000, "9007199254740992"},
		{0xc340000000000000, "-9007199254740992"},
		{0x4430000000000000, "295147905179352830000"},
		{0x44b52d02c7e14af5, "9.999999999999997e+22"},
		{0x44b52d02c7e14af6, "1e+23"},
		{0x44b52d02c7e14af7, "1.0000000000000001e+23"},
		{0x444b1ae4d6e2ef4e, "999999999999999700000"},
		{0x444b1ae4d6e2ef4f, "999999999999999900000"},
		{0x444b1ae4d6e2ef50, "1e+21"},
		{0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"},
		{0x3eb0c6f7a0b5ed8d, "0.000001"},
		{0x41b3de4355555553, "333333333.3333332"},
		{0x41b3de4355555554, "333333333.33333325"},
		{0x41b3de4355555555, "333333333.3333333"},
		{0x41b3de4355555556, "333333333.3333334"},
		{0x41b3de4355555557, "333333333.33333343"},
		{0xbecbf647612f3696, "-0.0000033333333333333333"},
		{0x43143ff3c1cb0959, "1424953923781206.2"},
	}
	for _, tt := range tests {
		got, err := canonical.Append(nil, math.Float64frombits(tt.bits))
		if err != nil || string(got) != tt.want {
			t.Errorf("%016x: got %s (%v), want %s", tt.bits, got, err, tt.want)
		}
		// What is canonical must be accepted as it stands by the strict reader.
		_, again, err := canonical.Parse([]byte(tt.want), 0)
		if err != nil || string(again) != tt.want {
			t.Errorf("Parse(%s) = %s, %v", tt.want, again, err)
		}
	}
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if got, err := canonical.Append(nil, f); err == nil {
			t.Errorf("Append(%v) = %s, want an error", f, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	tests := []struct {
		name, in string
		kind     canonical.Kind
		path     string
	}{
		{"integer between doubles", `{"id":9007199254740993}`, canonical.Number, "/id"},
		{"long integer that a double holds but its spelling does not", `[1152921504606846976]`, canonical.Number, "/0"},
		{"fraction with too many digits", `0.12345678901234567890`, canonical.Number, ""},
		{"overflow", `{"a":[1,1e400]}`, canonical.Number, "/a/1"},
		{"underflow to zero", `1e-400`, canonical.Number, ""},
		{"overflow of the exponent", `1e99999999999999999999`, canonical.Number, ""},
		{"duplicate key", `{"a":1,"b":2,"a":1}`, canonical.Duplicate, "/a"},
		{"duplicate key by escape", `{"a":1,"\u0061":2}`, canonical.Duplicate, "/a"},
		{"duplicate key by surrogates", `{"😀":1,"\ud83d\ude00":2}`, canonical.Duplicate, "/😀"},
		{"duplicate key below", `{"x/y":[{"k":1,"k":2}]}`, canonical.Duplicate, "/x~1y/0/k"},
		{"invalid UTF-8 in a value", "{\"a\":\"\xff\"}", canonical.Encoding, "/a"},
		{"invalid UTF-8 in a key", "{\"\xc3(\":1}", canonical.Encoding, ""},
		{"overlong UTF-8", "\"\xc0\xaf\"", canonical.Encoding, ""},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", canonical.Encoding, ""},
		{"lone high surrogate", `"\ud800"`, canonical.Encoding, ""},
		{"lone low surrogate", `"\udc00"`, canonical.Encoding, ""},
		{"high surrogate and a letter", `"\ud800\u0041"`, canonical.Encoding, ""},
		{"two high surrogates", `"\ud83d\ud83d"`, canonical.Encoding, ""},
		{"too deep", deep(5), canonical.Depth, "/a/a/a/a"},
		{"empty", ``, canonical.Syntax, ""},
		{"blank", "  \n", canonical.Syntax, ""},
		{"trailing text", `{} {}`, canonical.Syntax, ""},
		{"trailing comma", `{"a":1,}`, canonical.Syntax, ""},
		{"trailing comma in array", `[1,]`, canonical.Syntax, "/1"},
		{"unclosed", `{"a":[1`, canonical.Syntax, "/a"},
		{"unclosed string", `{"a":"x`, canonical.Syntax, "/a"},
		{"unclosed escape", `"x\`, canonical.Syntax, ""},
		{"bare control character", "\"a\nb\"", canonical.Syntax, ""},
		{"control character after an escape", "\"\\n\x01\"", canonical.Syntax, ""},
		{"unknown escape", `"\x"`, canonical.Syntax, ""},
		{"short unicode escape", `"\u12"`, canonical.Syntax, ""},
		{"letters in unicode escape", `"\u00zz"`, canonical.Syntax, ""},
		{"leading zero", `01`, canonical.Syntax, ""},
		{"plus", `+1`, canonical.Syntax, ""},
		{"minus alone", `-`, canonical.Syntax, ""},
		{"no digit after point", `1.`, canonical.Syntax, ""},
		{"no digit before point", `.5`, canonical.Syntax, ""},
		{"no exponent", `1e+`, canonical.Syntax, ""},
		{"hexadecimal", `0x10`, canonical.Syntax, ""},
		{"NaN", `NaN`, canonical.Syntax, ""},
		{"word", `nil`, canonical.Syntax, ""},
		{"single quotes", `{'a':1}`, canonical.Syntax, ""},
		{"no colon", `{"a" 1}`, canonical.Syntax, "/a"},
		{"byte order mark", "\ufeff{}", canonical.Syntax, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, canon, err := canonical.Parse([]byte(tt.in), 4)
			e, ok := errors.AsType[*canonical.Error](err)
			if !ok {
				t.Fatalf("got %v, %s, %v; want an *Error", v, canon, err)
			}
			if e.Kind != tt.kind || e.Path != tt.path {
				t.Errorf("got kind %d at %q (%v), want kind %d at %q", e.Kind, e.Path, e, tt.kind, tt.path)
			}
		})
	}
	if _, _, err := canonical.Parse([]byte(deep(4)), 4); err != nil {
		t.Errorf("depth at the limit: %v", err)
	}
	if _, _, err := canonical.Parse([]byte(strings.Repeat("[", 1<<20)), 1<<30); err == nil {
		t.Error("a million brackets were accepted")
	}
}

func TestErrorsStaySmall(t *testing.T) {
	long := strings.Repeat("k", 100_000)
	for _, in := range []string{
		`{"` + long + `":1,"` + long + `":2}`,
		`{"` + long + `":"` + long + `` + "\xff\"}",
		strings.Repeat(`{"`+long[:900]+`":`, 900) + "x",
	} {
		_, _, err := canonical.Parse([]byte(in), 0)
		if err == nil || len(err.Error()) > 2048 {
			t.Errorf("got an error of %d bytes, want 1 to 2048", len(err.Error()))
		}
	}
}

func TestParseDecodes(t *testing.T) {
	v, canon, err := canonical.Parse([]byte(`{"n":1.0,"e":1E2,"z":-0,"f":0.10,"s":"a\u00e9\n","l":[true,false,null],"o":{}}`), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"n": json.Number("1"), "e": json.Number("100"), "z": json.Number("0"), "f": json.Number("0.1"),
		"s": "aé\n", "l": []any{true, false, nil}, "o": map[string]any{},
	}
	if diff := cmp.Diff(want, v); diff != "" {
		t.Errorf("value (-want +got)\n%s", diff)
	}
	if got, want := string(canon), `{"e":100,"f":0.1,"l":[true,false,null],"n":1,"o":{},"s":"aé\n","z":0}`; got != want {
		t.Errorf("canonical form %s, want %s", got, want)
	}
}

func TestParseKeepsNothingOfItsInput(t *testing.T) {
	raw := []byte(`{"key":"value"}`)
	v, canon, err := canonical.Parse(raw, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] = 'x'
	}
	if diff := cmp.Diff(map[string]any{"key": "value"}, v); diff != "" || string(canon) != `{"key":"value"}` {
		t.Errorf("the result changed with the input: %v, %s", v, canon)
	}
}

func TestAppendRefuses(t *testing.T) {
	cycle := map[string]any{}
	cycle["self"] = cycle
	for name, v := range map[string]any{
		"channel": make(chan int), "cycle": cycle, "bad number": json.Number("0x1"), "empty number": json.Number(""),
		"number with a tail": json.Number("1 "), "wide number": json.Number("9007199254740993"),
		"wide int": int64(9007199254740993), "bad UTF-8": []any{"\xff"}, "bad key": map[string]any{"\xff": 1},
	} {
		if got, err := canonical.Append(nil, v); err == nil {
			t.Errorf("%s: got %s, want an error", name, got)
		}
	}
}

func TestMarshalFollowsJSONTags(t *testing.T) {
	got, err := canonical.Marshal(struct {
		Z int    `json:"z"`
		A string `json:"a,omitempty"`
		M string `json:"m"`
	}{Z: 3, M: "<&>"})
	if err != nil || string(got) != `{"m":"<&>","z":3}` {
		t.Errorf("got %s, %v", got, err)
	}
}

// Two numbers that Parse accepts have the same canonical form only if they are equal.
func TestEqualFormsMeanEqualNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,6})?([eE][+-]?[0-9]{1,2})?`)
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		if rapid.Bool().Draw(t, "near") { // same number with its last digit changed
			b = a[:len(a)-1] + rapid.StringMatching(`[0-9]`).Draw(t, "digit")
		}
		_, x, errA := canonical.Parse([]byte(a), 0)
		_, y, errB := canonical.Parse([]byte(b), 0)
		if errA != nil || errB != nil {
			return
		}
		if (string(x) == string(y)) != (ratOf(t, a).Cmp(ratOf(t, b)) == 0) {
			t.Fatalf("%s and %s have the forms %s and %s", a, b, x, y)
		}
	})
}
