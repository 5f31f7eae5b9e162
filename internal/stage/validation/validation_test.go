package validation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
	"github.com/atlas-mcp/atlas/internal/stage/validation"
)

const orderInput = `{
  "type": "object", "additionalProperties": false, "required": ["order_id"],
  "properties": {
    "order_id": {"type": "string", "pattern": "^o_[0-9]+$"},
    "limit": {"type": "integer", "minimum": 1, "maximum": 50, "default": 10},
    "status": {"enum": ["open", "closed"]},
    "since": {"type": "string", "format": "date-time"},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "uniqueItems": true, "maxItems": 3},
    "filter": {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1}]}},
    "who": {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 1}]},
    "card": {"type": "string", "not": {"pattern": "^[0-9]+$"}}
  },
  "dependentRequired": {"status": ["since"]}
}`

const orderOutput = `{"type":"object","additionalProperties":false,"required":["rows"],"properties":{"rows":{"type":"array","items":{"type":"object","properties":{"id":{"type":"integer"}}}}}}`

func orderTool() *atlas.Tool {
	return &atlas.Tool{Name: "crm_order", Version: "v1", Input: json.RawMessage(orderInput), Output: json.RawMessage(orderOutput)}
}

func newValidator(t testing.TB, cfg validation.Config, tools ...*atlas.Tool) *validation.Validator {
	t.Helper()
	v, err := validation.New(cfg, tools)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// send passes raw through the stage and returns the call that came out inside.
func send(t *testing.T, cfg validation.Config, raw string) (atlas.Call, error) {
	t.Helper()
	tool := orderTool()
	var inner atlas.Call
	h := newValidator(t, cfg, tool).Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		inner = c
		return atlas.Result{Structured: json.RawMessage(`{"rows":[]}`)}, nil
	})
	_, err := h(t.Context(), atlas.Call{Op: atlas.OpCall, Name: tool.Name, Tool: tool, Args: atlas.Args{Raw: json.RawMessage(raw)}})
	return inner, err
}

func TestStageHandsInwardCanonicalArguments(t *testing.T) {
	call, err := send(t, validation.Config{}, ` { "since":"2026-11-01T00:00:00Z", "order_id" : "o_9002" } `)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"limit":10,"order_id":"o_9002","since":"2026-11-01T00:00:00Z"}`
	if string(call.Args.Raw) != want {
		t.Errorf("Raw is %s, want %s", call.Args.Raw, want)
	}
	if diff := cmp.Diff(map[string]any{"limit": json.Number("10"), "order_id": "o_9002", "since": "2026-11-01T00:00:00Z"}, call.Args.Values); diff != "" {
		t.Errorf("Values (-want +got)\n%s", diff)
	}
	if call.Args.Digest != canonical.Digest([]byte(want)) {
		t.Error("Digest is not that of Raw")
	}
}

func TestEqualArgumentsHaveOneDigest(t *testing.T) {
	a, errA := send(t, validation.Config{}, `{"order_id":"o_9002","limit":10}`)
	for _, other := range []string{`{"limit":10.0,"order_id":"o_9002"}`, `{"order_id":"\u006f_9002"}`, `{"limit":1e1,"order_id":"o_9002"}`} {
		b, errB := send(t, validation.Config{}, other)
		if errA != nil || errB != nil || a.Args.Digest != b.Args.Digest {
			t.Errorf("%s: digest differs, or %v, %v", other, errA, errB)
		}
	}
	c, err := send(t, validation.Config{}, `{"order_id":"o_9003","limit":10}`)
	if err != nil || a.Args.Digest == c.Args.Digest {
		t.Errorf("another order has the same digest, or %v", err)
	}
}

func TestNoArgumentsAreAnEmptyObject(t *testing.T) {
	tool := &atlas.Tool{Name: "t", Input: json.RawMessage(`{"type":"object","additionalProperties":false}`)}
	v := newValidator(t, validation.Config{}, tool)
	for _, raw := range []json.RawMessage{nil, json.RawMessage(``), json.RawMessage(`null`), json.RawMessage(` {} `)} {
		args, err := v.Arguments(tool, raw)
		if err != nil || string(args.Raw) != "{}" || args.Values == nil {
			t.Errorf("%q: got %s, %v, %v", raw, args.Raw, args.Values, err)
		}
	}
}

func TestAllFaultsAreToldAtOnce(t *testing.T) {
	type faults = []validation.Fault
	tests := []struct {
		name, raw string
		want      faults
	}{
		{"several", `{"limit":0,"status":"lost","tags":["toolong","a","a"],"colour":1}`, faults{
			{Path: "/colour", Message: "is not an argument of this tool", Expected: []string{"card", "filter", "limit", "order_id", "since", "status", "tags", "who"}},
			{Path: "/limit", Message: "must be at least 1"},
			{Path: "/order_id", Message: "is required and missing"},
			{Path: "/since", Message: "is required and missing"},
			{Path: "/status", Message: "must be one of the allowed values", Expected: []any{"open", "closed"}},
			{Path: "/tags", Message: "must not hold equal items; those at 1 and 2 are equal"},
			{Path: "/tags/0", Message: "must have at most 5 characters, has 7"},
		}},
		{"type", `{"order_id":9002,"limit":"many"}`, faults{
			{Path: "/limit", Message: "must be integer, is string", Expected: "integer"},
			{Path: "/order_id", Message: "must be string, is number", Expected: "string"},
		}},
		{"pattern and format", `{"order_id":"CUST-1001","since":"yesterday"}`, faults{
			{Path: "/order_id", Message: "must match the pattern", Expected: "pattern ^o_[0-9]+$"},
			{Path: "/since", Message: "must be a valid date-time", Expected: "date-time"},
		}},
		{"alternatives", `{"order_id":"o_1","filter":{"a/b":7},"who":"x","card":"12"}`, faults{
			{Path: "/card", Message: "has a form that is not allowed"},
			{Path: "/filter/a~1b", Message: "fits none of the allowed forms", Expected: []string{"must be array, is number", "must be string, is number"}},
			{Path: "/who", Message: "fits more than one of the allowed forms"},
		}},
		{"not an object", `[1]`, faults{{Message: "must be an object of arguments", Expected: "object"}}},
		{"not JSON", `{"order_id":`, faults{{Path: "/order_id", Message: "the JSON ends too early (byte 12)"}}},
		{"duplicate key", `{"order_id":"o_1","order_\u0069d":"o_2"}`, faults{{Path: "/order_id", Message: "the key appears twice in one object (byte 18)"}}},
		{"too many digits", `{"order_id":"o_1","limit":9007199254740993}`, faults{{Path: "/limit", Message: "the number has more digits or magnitude than a 64-bit float holds; send it as a string (byte 26)"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := send(t, validation.Config{}, tt.raw)
			e := atlas.ErrorOf(err)
			if e == nil || e.Code != atlas.CodeInvalidArguments {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(any(tt.want), e.Context["errors"]); diff != "" {
				t.Errorf("faults (-want +got)\n%s", diff)
			}
			if e.Hint == "" || len(e.Hint) > 300 {
				t.Errorf("hint of %d bytes: %s", len(e.Hint), e.Hint)
			}
		})
	}
}

func TestHintSaysWhatToMend(t *testing.T) {
	_, err := send(t, validation.Config{}, `{"limit":"many"}`)
	want := "correct and send again: limit must be integer, is string; order_id is required and missing"
	if got := atlas.ErrorOf(err).Hint; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestErrorsNeverRepeatValues(t *testing.T) {
	const secret = "hunter2-hunter2-hunter2"
	for _, raw := range []string{
		`{"order_id":"` + secret + `"}`, `{"order_id":"o_1","status":"` + secret + `","since":"` + secret + `"}`,
		`{"order_id":"o_1","tags":["` + secret + `"]}`, `{"order_id":"o_1","filter":{"x":{"` + secret + `":1}}}`,
		`{"order_id":{"x":"` + secret + `"}}`, `{"order_id":"` + secret, `"` + secret + `"`,
	} {
		_, err := send(t, validation.Config{}, raw)
		e := atlas.ErrorOf(err)
		shown, jsonErr := json.Marshal(e.Failure("r"))
		if jsonErr != nil || e.Code != atlas.CodeInvalidArguments || strings.Contains(string(shown), secret) {
			t.Errorf("%s: %s, %v", raw, shown, jsonErr)
		}
	}
}

func TestErrorsStaySmall(t *testing.T) {
	var many strings.Builder
	many.WriteString(`{"order_id":"o_1"`)
	for i := range 5000 {
		fmt.Fprintf(&many, `,"x%d":1`, i)
	}
	many.WriteString("}")
	for _, raw := range []string{many.String(), `{"` + strings.Repeat("k", 200_000) + `":1}`, `{"` + strings.Repeat(`\u202e\u0007`, 1000) + `":1}`} {
		_, err := send(t, validation.Config{}, raw)
		e := atlas.ErrorOf(err)
		shown, jsonErr := json.Marshal(e.Failure("r"))
		if jsonErr != nil || e.Code != atlas.CodeInvalidArguments || len(shown) > 20_000 || len(e.Hint) > 300 {
			t.Errorf("failure of %d bytes, hint of %d, %v", len(shown), len(e.Hint), err)
		}
		if strings.ContainsAny(e.Hint, "\u202e\u0007") {
			t.Errorf("hint repeats control characters: %q", e.Hint)
		}
	}
	_, err := send(t, validation.Config{}, many.String())
	if got := atlas.ErrorOf(err).Context["more"]; got != 5000-32 {
		t.Errorf("more is %v, want %d", got, 5000-32)
	}
}

func TestLimitsOfArguments(t *testing.T) {
	cfg := validation.Config{MaxBytes: 64, MaxDepth: 3}
	if _, err := send(t, cfg, `{"order_id":"o_1","filter":{"a":["b"]}}`); err != nil {
		t.Errorf("within the limits: %v", err)
	}
	_, err := send(t, cfg, `{"order_id":"o_`+strings.Repeat("1", 64)+`"}`)
	if e := atlas.ErrorOf(err); e == nil || e.Code != atlas.CodeTooLarge || e.Context["max"] != 64 {
		t.Errorf("too many bytes: %v", err)
	}
	_, err = send(t, cfg, `{"order_id":"o_1","filter":{"a":[[1]]}}`)
	if atlas.CodeOf(err) != atlas.CodeInvalidArguments || !strings.Contains(atlas.ErrorOf(err).Hint, "3 deep") {
		t.Errorf("too deep: %v", err)
	}
}

func TestNumberOfValuesIsLimited(t *testing.T) {
	cfg := validation.Config{MaxValues: 20}
	for raw, want := range map[string]atlas.Code{
		`{"order_id":"o_1","filter":{"a":[` + strings.Repeat("1,", 30) + `1]}}`:          atlas.CodeTooLarge,
		`{"order_id":"o_1","filter":{"a":"` + strings.Repeat("prose, ", 30) + `"}}`:      "",
		`{"order_id":"o_1","filter":{"a":[` + strings.Repeat("1,", 16) + `1]}}`:          "", // 20 with those round it
		`{"order_id":"o_1","filter":{"a":[` + strings.Repeat("[[1]],", 4) + `[[[1]]]]}}`: "",
		`{"order_id":"o_1","filter":{"a":[` + strings.Repeat("[[1]],", 6) + `[[[1]]]]}}`: atlas.CodeTooLarge, // few commas
		`{"order_id":"o_1","filter":{` + strings.Repeat(`"k":1,`, 30) + `"z":1}}`:        atlas.CodeInvalidArguments,
	} {
		if _, err := send(t, cfg, raw); atlas.CodeOf(err) != want {
			t.Errorf("%s: got %v, want %q", raw, err, want)
		}
	}
	_, err := send(t, validation.Config{}, `{"order_id":"o_1","tags":[`+strings.Repeat("1,", 100_000)+`1]}`)
	if e := atlas.ErrorOf(err); e == nil || e.Context["limit"] != "argument_values" {
		t.Errorf("by default: %v", err)
	}
}

func TestNewRefusesToolsByName(t *testing.T) {
	const good = `{"type":"object","additionalProperties":false}`
	tests := []struct {
		name          string
		input, output string
		items         string
		want          string
	}{
		{"no schema", ``, ``, "", "input schema: there is none"},
		{"not JSON", `{"type":`, ``, "", "input schema: the JSON ends too early"},
		{"not an object", `true`, ``, "", "input schema: it must be an object"},
		{"unknown type", `{"type":"objekt","additionalProperties":false}`, ``, "", "input schema: "},
		{"no type", `{"additionalProperties":false}`, ``, "", `type must be "object"`},
		{"array", `{"type":"array","additionalProperties":false}`, ``, "", `type must be "object"`},
		{"open object", `{"type":"object"}`, ``, "", "additionalProperties must be false"},
		{"open object by schema", `{"type":"object","additionalProperties":{"type":"string"}}`, ``, "", "additionalProperties must be false"},
		{"bad pattern", `{"type":"object","additionalProperties":false,"properties":{"a":{"pattern":"("}}}`, ``, "", "input schema: "},
		{"remote reference", `{"type":"object","additionalProperties":false,"properties":{"a":{"$ref":"https://example.com/x.json"}}}`, ``, "", "must not refer to other documents"},
		{"file reference", `{"type":"object","additionalProperties":false,"properties":{"a":{"$ref":"file:///etc/passwd"}}}`, ``, "", "must not refer to other documents"},
		{"unknown dialect", `{"$schema":"https://example.com/meta","type":"object","additionalProperties":false}`, ``, "", "must not refer to other documents"},
		{"wrong default", `{"type":"object","additionalProperties":false,"properties":{"a b#%/~\"":{"type":"integer","default":"x"}}}`, ``, "", "default of a b#%/~\" does not fit"},
		{"duplicate key", `{"type":"object","type":"object","additionalProperties":false}`, ``, "", "appears twice"},
		{"own cursor", `{"type":"object","additionalProperties":false,"properties":{"cursor":{"type":"string"}}}`, ``, "rows", "must not declare cursor"},
		{"bad output", good, `{"type":"objekt"}`, "", "output schema: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := validation.New(validation.Config{}, []*atlas.Tool{
				{Name: "fine", Input: json.RawMessage(good)},
				{Name: "broken", Input: json.RawMessage(tt.input), Output: json.RawMessage(tt.output), Items: tt.items},
			})
			if err == nil || !strings.Contains(err.Error(), "tool broken: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "fine") {
				t.Errorf("got %v, want tool broken: …%s", err, tt.want)
			}
		})
	}
	two := &atlas.Tool{Name: "twice", Input: json.RawMessage(good)}
	if _, err := validation.New(validation.Config{}, []*atlas.Tool{two, two}); err == nil {
		t.Error("two tools of one name were accepted")
	}
	if err := validation.CheckSchema(json.RawMessage(`{"type":"array","items":{"type":"string"}}`)); err != nil {
		t.Errorf("CheckSchema: %v", err)
	}
	if err := validation.CheckSchema(json.RawMessage(`{"type":7}`)); err == nil {
		t.Error("CheckSchema accepts a type that is a number")
	}
}

func TestDefaultsOfEveryKind(t *testing.T) {
	tool := &atlas.Tool{Name: "t", Input: json.RawMessage(`{"type":"object","additionalProperties":false,"properties":{
		"a b#%/~":{"default":1.50},"list":{"type":"array","default":[{"k":1.0}]},"off":{"type":"boolean","default":false},"none":{"default":null}}}`)}
	args, err := newValidator(t, validation.Config{}, tool).Arguments(tool, json.RawMessage(`{"off":true}`))
	want := `{"a b#%/~":1.5,"list":[{"k":1}],"none":null,"off":true}`
	if err != nil || string(args.Raw) != want {
		t.Errorf("got %s, %v, want %s", args.Raw, err, want)
	}
}

func TestConfigTellsAllMistakes(t *testing.T) {
	err := validation.Config{MaxBytes: -1, MaxDepth: 9999, MaxValues: -1}.Validate()
	if err == nil || !strings.Contains(err.Error(), "max_bytes") || !strings.Contains(err.Error(), "max_depth") || !strings.Contains(err.Error(), "max_values") {
		t.Errorf("got %v", err)
	}
	if _, err := validation.New(validation.Config{MaxDepth: -1}, nil); err == nil {
		t.Error("New took a bad Config")
	}
}

func TestAnswersMustFitTheOutputSchema(t *testing.T) {
	tests := []struct {
		name, answer string
		check        *bool
		ok           bool
	}{
		{"fits", `{"rows":[{"id":9007199254740993}]}`, nil, true},
		{"wrong type", `{"rows":[{"id":"hunter2"}]}`, nil, false},
		{"missing", `{}`, nil, false},
		{"not JSON", `{"rows":`, nil, false},
		{"empty", ``, nil, false},
		{"unchecked", `{"rows":[{"id":"x"}]}`, new(false), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tool := orderTool()
			v := newValidator(t, validation.Config{CheckOutput: tt.check}, tool)
			h := v.Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{Structured: json.RawMessage(tt.answer), Notes: atlas.Notes{Attempts: 2}}, nil
			})
			call := atlas.Call{Tool: tool, Args: atlas.Args{Raw: json.RawMessage(`{"order_id":"o_1"}`)}}
			for range 2 { // the second time from the memory of checked answers
				res, err := h(t.Context(), call)
				if tt.ok != (err == nil) {
					t.Fatalf("got %v", err)
				}
				if err != nil && (atlas.CodeOf(err) != atlas.CodeInternal || res.Structured != nil || strings.Contains(err.Error(), "hunter2")) {
					t.Errorf("got %s, %v; want internal_error without the values", res.Structured, err)
				}
				if res.Notes.Attempts != 2 {
					t.Error("the inner stages' notes are lost")
				}
			}
		})
	}
}

func TestWhatPassesUntouched(t *testing.T) {
	v := newValidator(t, validation.Config{}, orderTool())
	var reached atomic.Int32
	fail := errors.New("inner")
	h := v.Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		reached.Add(1)
		return atlas.Result{Notes: atlas.Notes{Cache: "miss"}}, fail
	})
	if _, err := h(t.Context(), atlas.Call{Op: atlas.OpList}); !errors.Is(err, fail) || reached.Load() != 1 {
		t.Errorf("a list did not pass: %v", err)
	}
	res, err := h(t.Context(), atlas.Call{Tool: orderTool(), Args: atlas.Args{Raw: json.RawMessage(`{"order_id":"o_1"}`)}})
	if !errors.Is(err, fail) || res.Notes.Cache != "miss" {
		t.Errorf("an inner error did not pass: %v", err)
	}
	reached.Store(0)
	other := orderTool()
	other.Version = "v2"
	for name, tool := range map[string]*atlas.Tool{"no tool": nil, "unknown tool": {Name: "x"}, "another version": other} {
		if _, err := h(t.Context(), atlas.Call{Tool: tool}); atlas.CodeOf(err) != atlas.CodeInternal || reached.Load() != 0 {
			t.Errorf("%s: %v; want internal_error before the inner stages", name, err)
		}
	}
}

// What the edge found comes before all that the stage would find, and nothing runs.
func TestFaultOfTheEdgeRefusesTheCall(t *testing.T) {
	v := newValidator(t, validation.Config{}, orderTool())
	h := v.Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
		t.Error("the call went on")
		return atlas.Result{}, nil
	})
	fault := atlas.Errorf(atlas.CodeInvalidArguments, nil, "the edge's").With("meta_key", "k")
	for name, call := range map[string]atlas.Call{
		"good arguments": {Tool: orderTool(), Args: atlas.Args{Raw: json.RawMessage(`{"order_id":"o_1"}`)}},
		"bad arguments":  {Tool: orderTool(), Args: atlas.Args{Raw: json.RawMessage(`{"limit":0}`)}},
		"no tool":        {},
		"list":           {Op: atlas.OpList},
	} {
		call.Fault = fault
		if _, err := h(t.Context(), call); !errors.Is(err, error(fault)) || atlas.ErrorOf(err) != fault {
			t.Errorf("%s: %v, want the fault itself", name, err)
		}
	}
}

func FuzzArguments(f *testing.F) {
	tool := orderTool()
	v := newValidator(f, validation.Config{}, tool)
	for _, s := range []string{`{"order_id":"o_9002"}`, `{"filter":{"a":[1]}}`, `null`, `{"tags":["a","a"],"limit":1e300}`, "{\"\xff\":1}", `{"who":"","card":"1"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		args, err := v.Arguments(tool, raw)
		if err != nil {
			e := atlas.ErrorOf(err)
			if e.Code != atlas.CodeInvalidArguments && e.Code != atlas.CodeTooLarge || len(e.Hint) > 300 {
				t.Fatalf("%q: %v", raw, err)
			}
			if _, err := json.Marshal(e.Failure("r")); err != nil {
				t.Fatalf("%q: the failure is no JSON: %v", raw, err)
			}
			return
		}
		again, err := v.Arguments(tool, args.Raw)
		if err != nil || string(again.Raw) != string(args.Raw) || again.Digest != args.Digest {
			t.Fatalf("%q: %s becomes %s, %v", raw, args.Raw, again.Raw, err)
		}
	})
}

func BenchmarkStage(b *testing.B) {
	var rows strings.Builder
	rows.WriteString(`{"rows":[{"id":1,"status":"refund_pending"}`)
	for i := range 20 {
		fmt.Fprintf(&rows, `,{"id":%d,"status":"delivered","note":"Left with the concierge."}`, i)
	}
	rows.WriteString("]}")
	for _, bb := range []struct {
		name  string
		check bool
		fresh bool
	}{{"arguments", false, false}, {"and_known_answer", true, false}, {"and_new_answer", true, true}} {
		b.Run(bb.name, func(b *testing.B) {
			tool := orderTool()
			v := newValidator(b, validation.Config{CheckOutput: &bb.check}, tool)
			answers := make([]json.RawMessage, 1<<13) // twice the memory of checked answers
			for i := range answers {
				answers[i] = json.RawMessage(strings.Replace(rows.String(), `"id":1`, fmt.Sprintf(`"id":%d`, i), 1))
			}
			i := 0
			h := v.Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
				if bb.fresh {
					i++
				}
				return atlas.Result{Structured: answers[i%len(answers)]}, nil
			})
			call := atlas.Call{Tool: tool, Args: atlas.Args{Raw: json.RawMessage(`{"order_id":"o_9002","limit":20,"since":"2026-11-01T00:00:00Z"}`)}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h(b.Context(), call); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
