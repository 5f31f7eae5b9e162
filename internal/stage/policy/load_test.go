package policy_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas/internal/stage/policy"
)

// TestLoadErrors compares every mistake of testdata/load/*.yaml, with place, remedy and caret, with
// the golden file beside it. The text is the product. A missing golden file is written and fails.
func TestLoadErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/load/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("files: %v, %v", files, err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = policy.Load(filepath.Base(path), data, policy.Deps{Tools: list(tools()), PII: fakePII})
		var failure *policy.LoadError
		if !errors.As(err, &failure) {
			t.Errorf("%s: got %v, want a LoadError", path, err)
			continue
		}
		golden := strings.TrimSuffix(path, ".yaml") + ".golden"
		want, err := os.ReadFile(golden)
		if errors.Is(err, os.ErrNotExist) {
			if err := os.WriteFile(golden, []byte(failure.Detail()), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Errorf("%s was missing; written, look at it", golden)
			continue
		}
		if diff := cmp.Diff(string(want), failure.Detail()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestLoadRefusesWhatIsNoPolicy(t *testing.T) {
	for name, text := range map[string]string{
		"empty":          "",
		"comment":        "# nothing\n",
		"null":           "rules:\n",
		"list":           "- id: a\n",
		"scalar":         "rules",
		"two documents":  "rules: []\n---\nrules: []\n",
		"syntax":         "rules: [\n  - {id: a\n",
		"not utf-8":      "rules: []\n# \xff\n",
		"tab":            "rules:\n\t- id: a\n",
		"other field":    "version: 1\n",
		"huge":           "rules: []\n#" + strings.Repeat("x", 1<<20),
		"too many rules": "rules:\n" + strings.Repeat("  - {}\n", 10_001),
		"long when":      rule(`when: "` + strings.Repeat("true && ", 4000) + `true"`),
		"deep when":      rule(`when: "` + strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) + `"`),
		"many lines":     strings.Repeat("a:\n", 300_000),
		"deep flow":      "rules: " + strings.Repeat("[", 30_000),
		"deep and shut":  "rules: " + strings.Repeat("[", 1000) + strings.Repeat("]", 1000),
		"deep in lines":  "rules:\n" + strings.Repeat(" [\n", 1900),
		"long line":      "rules: [" + strings.Repeat("1,", 100_000) + "]",
		"many mistakes":  "rules:\n" + strings.Repeat("  - 1\n", 9_000),
		"deep lists":     "rules:\n" + strings.Repeat("- ", 16_000),
		"when twice":     rule("when: true } when { true"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policy.Load("f.yaml", []byte(text), policy.Deps{})
			var failure *policy.LoadError
			if !errors.As(err, &failure) || len(failure.Problems) == 0 {
				t.Fatalf("got %v, want a LoadError", err)
			}
			if !strings.HasPrefix(err.Error(), "f.yaml") {
				t.Errorf("message %q does not begin with the file", err)
			}
		})
	}
}

// rule is a policy of one allow rule for everyone with one more field.
func rule(field string) string {
	return "rules:\n  - id: r\n    subjects: [\"*\"]\n    actions: [\"*\"]\n    resources: [\"*\"]\n    " + field + "\n"
}

func TestNoRulesMeansNothingIsAllowed(t *testing.T) {
	ts := tools()
	e := load(t, "rules: []\n", ts)
	d := decide(t, e, callOf(t, ts["crm_query"], who("internal_admin"), `{"sql":"SELECT 1"}`))
	if d.Allowed || d.Rule != "" {
		t.Errorf("got %+v, want the default deny", d)
	}
}

func TestWarnings(t *testing.T) {
	text := "rules:\n  - {id: a, subjects: [\"*\"], actions: [\"tool:crm:raed\", \"tool:off:read\"], resources: [\"*\"], conditions: {pii_kinds: [x]}}\n"
	e, err := policy.Load("f.yaml", []byte(text), policy.Deps{Tools: list(tools()), Scopes: []string{"tool:off:read"}}) // of a tool that is switched off
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range e.Warnings() {
		got = append(got, fmt.Sprintf("%d:%d %s; %s", w.Line, w.Column, w.Message, w.Remedy))
	}
	want := []string{
		`2:10 needs to know which personal data the arguments hold, and there is no detector: as a deny rule it always denies, as an allow rule it never allows; configure the detector of personal data`,
		`2:41 no tool has a scope that action "tool:crm:raed" matches; did you mean "tool:crm:read"?`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHashIsAboutMeaning(t *testing.T) {
	const a = `
rules:
  - {id: x, subjects: ["role:a", "role:b"], actions: ["tool:*"], resources: ["tenant:*/*"], conditions: {tables: [t]}}
  - {id: y, subjects: ["*"], actions: ["*"], resources: ["*"], effect: deny, when: context.tool.read_only}
`
	const same = `
# the same in another order
rules:
  - id: y
    description: no reads
    effect: deny
    subjects: ["*"]
    actions: ["*"]
    resources: ["*"]
    when: |
      context.tool.read_only
  - id: x
    subjects: [role:b, role:a]
    actions: ["tool:*"]
    resources: ["tenant:*/*"]
    effect: allow
    conditions:
      tables:
        - t
`
	hash := func(text string) string { return load(t, text, nil).Hash() }
	want := hash(a)
	if len(want) != 16 {
		t.Errorf("hash %q has not 16 digits", want)
	}
	if got := hash(same); got != want {
		t.Errorf("same rules: got %s, want %s", got, want)
	}
	for _, change := range [][2]string{
		{"id: x", "id: z"},
		{"role:a", "role:c"},
		{"tool:*", "tool:x"},
		{"tenant:*/*", "tenant:a/*"},
		{"[t]", "[u]"},
		{"tables", "pii_fields"},
		{", effect: deny", ""},
		{"read_only}", "destructive}"},
	} {
		changed := strings.Replace(a, change[0], change[1], 1)
		if changed == a {
			t.Fatalf("%v changes nothing", change)
		}
		if hash(changed) == want {
			t.Errorf("%v does not change the hash", change)
		}
	}
}

func FuzzLoad(f *testing.F) {
	paths, err := filepath.Glob("testdata/load/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(paths, "../../../config/policy.yaml") {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Add(rule(`when: context.args has count && context.args.count > 1`))
	f.Add(rule("when: |\n      context.args.amount\n        .greaterThan(decimal(\"1.0\"))"))
	f.Add("rules: [{id: a, subjects: ['*'], actions: ['*'], resources: ['*'], when: \"[{a: 1}].contains(context.args)\"}]")
	ts := tools()
	all := list(ts)
	call := callOf(f, ts["refund"], who("analyst"), `{"amount":1.5,"count":3,"tags":["a"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := policy.Load("f.yaml", []byte(text), policy.Deps{Tools: all, PII: fakePII})
		if err != nil {
			var failure *policy.LoadError
			if !errors.As(err, &failure) || len(failure.Problems) == 0 {
				t.Fatalf("got %v, want a LoadError", err)
			}
			lines := strings.Count(text, "\n") + strings.Count(text, "\r") + 1
			for _, p := range failure.Problems {
				if p.Line < 0 || p.Line > lines || p.Line > 0 && p.Column < 1 {
					t.Errorf("place %d:%d is not in the file: %s", p.Line, p.Column, p.Message)
				}
				_ = p.Snippet()
			}
			return
		}
		d, err := e.Decide(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		x, err := e.Explain(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		if (x.Decision == "allow") != d.Allowed || x.Rule != d.Rule {
			t.Errorf("Explain says %s by %q, Decide %v by %q", x.Decision, x.Rule, d.Allowed, d.Rule)
		}
		if d.Allowed && !e.Visible(call.Principal, call.Tenant, call.Tool) {
			t.Error("an allowed tool is not visible")
		}
	})
}
