package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/atlas-mcp/atlas"
)

// needs are the facts that a rule asks for.
type needs uint8

const (
	needFacts needs = 1 << iota // Tool.Facts: sql, tables, columns
	needPII                     // the detector of personal data
)

// A Condition is a row of the table of conditions.
type Condition struct {
	Name string // as written in a policy
	Type string // of its argument, for people
	Doc  string // one sentence
	// Needs says what must be found out about the call first.
	Needs needs

	// compile reads the argument; what it cannot read it reports.
	compile func(arg argument) test
}

// A test says whether a condition holds.
type test func(tool *atlas.Tool, facts *atlas.Facts) bool

// An argument is what a policy gives to a condition.
type argument struct {
	node   ast.Node
	deny   bool // the rule denies
	name   string
	rule   string
	report *report
}

// Conditions returns the table of conditions. A condition is added here, with its examples in
// testdata/conditions/<name>.txtar, and nowhere else.
//
// A list that is compared with facts is read for safety: in a deny rule one common value is
// enough, in an allow rule there must be a value and every value must be listed.
func Conditions() []Condition {
	return []Condition{
		{
			Name: "sql_contains_any", Type: "list of words", Needs: needFacts,
			Doc:     "The call's SQL holds one of the words outside of string literals, in any case.",
			compile: compileSQLContainsAny,
		},
		{
			Name: "pii_fields", Type: "list of column names", Needs: needFacts,
			Doc:     "The call's SQL reads one of the columns (in an allow rule: these columns only).",
			compile: overlap("column", func(f *atlas.Facts) []string { return f.Columns }),
		},
		{
			Name: "pii_kinds", Type: "list of kinds of personal data", Needs: needPII,
			Doc:     "The arguments hold personal data of one of the kinds (in an allow rule: of these kinds only).",
			compile: overlap("kind", func(f *atlas.Facts) []string { return f.PII }),
		},
		{
			Name: "tables", Type: "list of table names", Needs: needFacts,
			Doc:     "The call's SQL reads one of the tables (in an allow rule: these tables only).",
			compile: overlap("table", func(f *atlas.Facts) []string { return f.Tables }),
		},
		{
			Name: "read_only", Type: "true or false",
			Doc:     "The tool is declared read-only, or is not.",
			compile: compileReadOnly,
		},
	}
}

func compileSQLContainsAny(arg argument) test {
	words := arg.words(func(w string) error {
		if !isWord(w) {
			return fmt.Errorf("%q is not one word of letters, digits and _", w)
		}
		return nil
	})
	return func(_ *atlas.Tool, f *atlas.Facts) bool { return f.SQL != "" && sqlHasWord(f.SQL, words) }
}

func overlap(what string, values func(*atlas.Facts) []string) func(argument) test {
	return func(arg argument) test {
		words := arg.words(func(w string) error {
			if strings.ContainsAny(w, "*?") {
				return fmt.Errorf("%q holds a wildcard; name each %s", w, what)
			}
			return nil
		})
		deny := arg.deny
		return func(_ *atlas.Tool, f *atlas.Facts) bool {
			found := values(f)
			listed := func(v string) bool { return slices.Contains(words, strings.ToLower(v)) }
			if deny {
				return slices.ContainsFunc(found, listed)
			}
			return len(found) > 0 && !slices.ContainsFunc(found, func(v string) bool { return !listed(v) })
		}
	}
}

func compileReadOnly(arg argument) test {
	n, ok := arg.node.(*ast.BoolNode)
	if !ok {
		arg.report.fail(whereIs(arg.node), arg.rule, "write true or false", "condition %s takes true or false, has %s", arg.name, kindOf(arg.node))
		return nil
	}
	want := n.Value
	return func(t *atlas.Tool, _ *atlas.Facts) bool { return t.ReadOnly == want }
}

// words reads a non-empty list of strings, in lower case.
func (a argument) words(check func(string) error) []string {
	items, ok := sequence(a.node)
	if !ok || len(items) == 0 {
		a.report.fail(whereIs(a.node), a.rule, "write a list with at least one entry", "condition %s takes a list of strings, has %s", a.name, kindOf(a.node))
		return nil
	}
	var list []string
	for _, item := range items {
		t, ok := scalar(item, a.report, a.rule, "an entry of "+a.name)
		if !ok {
			continue
		}
		w := strings.TrimSpace(t.value)
		err := check(w)
		if w == "" {
			err = fmt.Errorf("an entry is empty")
		}
		if err != nil {
			a.report.fail(t.at, a.rule, "correct the entry", "condition %s: %s", a.name, err)
			continue
		}
		list = append(list, strings.ToLower(w))
	}
	return list
}

// A condition is a compiled condition of one rule.
type condition struct {
	name  string
	needs needs
	holds test
}

// compileConditions compiles the conditions of a rule.
func compileConditions(rule *ruleText, table []Condition, r *report) []condition {
	var list []condition
	for _, s := range rule.conditions {
		i := slices.IndexFunc(table, func(c Condition) bool { return c.Name == s.key.value })
		if i < 0 {
			names := make([]string, len(table))
			for i, c := range table {
				names[i] = c.Name
			}
			r.fail(s.key.at, rule.id.value, suggest(s.key.value, names), "unknown condition %q", s.key.value)
			continue
		}
		holds := table[i].compile(argument{node: s.value, deny: rule.deny, name: s.key.value, rule: rule.id.value, report: r})
		list = append(list, condition{name: s.key.value, needs: table[i].Needs, holds: holds})
	}
	return list
}
