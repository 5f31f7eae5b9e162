package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
)

// genWhen draws expressions over the arguments a to d, of the kinds that have a shortcut and some others.
func genWhen(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		if depth > 0 && rapid.Bool().Draw(t, "deep") {
			sub := func() string { return "(" + genWhen(depth-1).Draw(t, "sub") + ")" }
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				return sub() + " && " + sub()
			case 1:
				return sub() + " || " + sub()
			}
			return "!" + sub()
		}
		arg := "context.args." + rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "arg")
		literal := rapid.SampledFrom([]string{`"x"`, `"y"`, `""`, "0", "1", "-1", "9007199254740993", "true", "false", `decimal("1.0")`}).Draw(t, "literal")
		switch rapid.IntRange(0, 9).Draw(t, "form") {
		case 0, 1:
			return "context.args has " + arg[len("context.args."):]
		case 2:
			return literal + " == " + arg
		case 3:
			return "context.tool.read_only"
		default:
			return arg + " " + rapid.SampledFrom([]string{"==", "==", "!=", "<", "<=", ">", ">="}).Draw(t, "operator") + " " + literal
		}
	})
}

// Where a shortcut is certain, Cedar says the same and makes no mistake of it.
func TestShortcutSaysWhatCedarSays(t *testing.T) {
	const scope = "tool:s:read"
	open := &atlas.Tool{Name: "open", Source: "s", Scopes: []string{scope}, Input: json.RawMessage(`{"type":"object"}`), ReadOnly: true}
	// Of this tool, d is a decimal also where it is whole.
	typed := &atlas.Tool{Name: "typed", Source: "s", Scopes: []string{scope}, ReadOnly: true, Input: json.RawMessage(
		`{"type":"object","properties":{"a":{},"b":{},"c":{"type":["integer","string"]},"d":{"type":"number"}}}`)}
	p := &atlas.Principal{Subject: "u1", Tenant: "acme", Scopes: []string{scope}}
	certain := 0
	rapid.Check(t, func(rt *rapid.T) {
		tool := rapid.SampledFrom([]*atlas.Tool{open, typed}).Draw(rt, "tool")
		expr := genWhen(3).Draw(rt, "when")
		e, err := Load("f", fmt.Appendf(nil, "rules:\n  - {id: r, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], when: '%s'}\n", expr), Deps{Tools: []*atlas.Tool{tool}})
		if err != nil {
			return // the tool's schema rules it out
		}
		for range 10 {
			var args []string
			for _, name := range []string{"a", "b", "c", "d"} {
				if v := rapid.SampledFrom([]string{
					"", "", `"x"`, `"y"`, `""`, "0", "1", "-1", "9007199254740993", "1.0", "1.5", "1e400", "1e2",
					"9223372036854775808", "true", "false", "null", `["x"]`, `{"x":1}`,
				}).Draw(rt, name); v != "" {
					args = append(args, fmt.Sprintf("%q:%s", name, v))
				}
			}
			raw := "{" + strings.Join(args, ",") + "}"
			call := atlas.Call{Op: atlas.OpCall, Tool: tool, Principal: p, Tenant: "acme"}
			dec := json.NewDecoder(strings.NewReader(raw))
			dec.UseNumber()
			if err := dec.Decode(&call.Args.Values); err != nil {
				rt.Fatal(err)
			}
			ev, err := e.begin(t.Context(), call)
			if err != nil {
				rt.Fatal(err)
			}
			got := e.rules[0].when.quickly(e.tools[tool], call.Args.Values)
			if got == unsure {
				continue
			}
			certain++
			want, err := ev.holds(e.rules[0], scope)
			if err != nil || want != (got == isTrue) {
				rt.Fatalf("%s of %s for %s: the shortcut says %v, Cedar %v, %v", expr, raw, tool.Name, got == isTrue, want, err)
			}
		}
	})
	if certain == 0 {
		t.Error("no shortcut was certain: the test has tested nothing")
	}
}
