package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Limits of a policy file. They bound what a decision and a load can cost.
const (
	maxFile     = 1 << 20 // bytes
	maxRules    = 10_000
	maxPatterns = 1_000 // in one list
	maxID       = 128
	maxWhen     = 16 << 10 // bytes of one when
	maxLine     = 32 << 10 // bytes
	maxAlike    = 2_000    // lines in a row with one indentation and no list mark
	maxFlow     = 64       // brackets in each other
	maxProblems = 1_000    // reported
)

// A text is a scalar of the file with its place.
type text struct {
	value string
	at    place // of the first character of the value (of its header for a block scalar)
	block bool  // a literal or folded block
}

// A setting is one entry of a mapping.
type setting struct {
	key   text
	value ast.Node
}

// A ruleText is a rule as it is written.
type ruleText struct {
	at          place
	id          text
	description string
	subjects    []text
	actions     []text
	resources   []text
	deny        bool
	conditions  []setting
	when        text // empty value: none
}

// parseYAML reads the rules and reports everything that is wrong with their form.
func parseYAML(data []byte, r *report) []ruleText {
	if len(data) > maxFile {
		r.fail(place{}, "", "split it into fewer, wider rules", "has %d bytes; the limit is %d", len(data), maxFile)
		return nil
	}
	if !utf8.Valid(data) {
		line := 1 + strings.Count(strings.ToValidUTF8(string(data), "\xff")[:invalidAt(data)], "\n")
		r.fail(place{line, 1}, "", "save it as UTF-8", "is not UTF-8 text")
		return nil
	}
	if !scan(r) {
		return nil
	}
	file, err := parseSafely(data)
	if err != nil {
		var at place
		message := err.Error()
		if located, ok := errors.AsType[yaml.Error](err); ok {
			message = located.GetMessage()
			if tk := located.GetToken(); tk != nil && tk.Position != nil {
				at = place{tk.Position.Line, tk.Position.Column}
			}
		}
		r.fail(at, "", "", "is not YAML: %s", firstLine(message))
		return nil
	}
	const remedy = "begin with rules: and a list of rules"
	switch {
	case len(file.Docs) == 0 || file.Docs[0] == nil || file.Docs[0].Body == nil:
		r.fail(place{1, 1}, "", remedy, "is empty")
		return nil
	case len(file.Docs) > 1:
		r.fail(whereIs(file.Docs[1].Body), "", "keep one", "holds more than one YAML document")
		return nil
	}
	top, ok := mapping(file.Docs[0].Body, r, "", "the file", remedy)
	if !ok {
		return nil
	}
	var rules []ruleText
	found := false
	for _, s := range top {
		if s.key.value != "rules" {
			r.fail(s.key.at, "", suggest(s.key.value, []string{"rules"}), "unknown field %q", s.key.value)
			continue
		}
		found = true
		items, ok := sequence(s.value)
		if !ok {
			r.fail(whereIs(s.value), "", "write a list: one \"- id: …\" for each rule", "rules must be a list, is %s", kindOf(s.value))
			continue
		}
		if len(items) > maxRules {
			r.fail(s.key.at, "", "use wider rules", "has %d rules; the limit is %d", len(items), maxRules)
			return nil
		}
		for _, item := range items {
			if rule, ok := parseRule(item, r); ok {
				rules = append(rules, rule)
			}
		}
	}
	if !found {
		r.fail(whereIs(file.Docs[0].Body), "", remedy, "has no rules")
	}
	return rules
}

// scan refuses what no policy looks like and the YAML library takes quadratic time for: very deep
// brackets, very long lines, and mappings of thousands of fields.
func scan(r *report) bool {
	depth, alike, indent := 0, 0, 0
	for i, line := range r.lines {
		at := place{i + 1, 1}
		if len(line) > maxLine {
			r.fail(at, "", "break it", "has a line of %d bytes; the limit is %d", len(line), maxLine)
			return false
		}
		content := strings.TrimLeft(line, " \t")
		if content == "" || content[0] == '#' {
			continue
		}
		// Brackets in strings are counted too. A list mark begins anew, so that they do not add up.
		if content[0] == '-' {
			depth, alike = 0, 0
		}
		if n := len(line) - len(content); n != indent {
			indent, alike = n, 0
		}
		if alike++; alike > maxAlike {
			r.fail(at, "", "a rule has at most eight fields", "has more than %d fields or lines of text in a row", maxAlike)
			return false
		}
		for j := range len(content) {
			switch content[j] {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(depth-1, 0)
			}
		}
		// By lines would miss a line of brackets that is closed again.
		if depth > maxFlow || strings.Count(content, "[")+strings.Count(content, "{") > maxFlow && flowDepth(content) > maxFlow {
			r.fail(at, "", "a rule needs no more than three", "has more than %d brackets in each other", maxFlow)
			return false
		}
	}
	return true
}

func flowDepth(line string) int {
	depth, deepest := 0, 0
	for j := range len(line) {
		switch line[j] {
		case '[', '{':
			depth++
			deepest = max(deepest, depth)
		case ']', '}':
			depth--
		}
	}
	return deepest
}

// parseSafely keeps a fault of the YAML library from taking the program down: the file comes from
// outside, and a bad one must only be refused.
func parseSafely(data []byte) (file *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			file, err = nil, fmt.Errorf("the parser failed: %v", p)
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

var ruleFields = []string{"id", "description", "subjects", "actions", "resources", "effect", "conditions", "when"}

// parseRule reads one rule. It reports what is wrong with its form and returns the rest, so that
// the rest is checked as well; false means that there is no rule at all.
func parseRule(node ast.Node, r *report) (ruleText, bool) {
	const remedy = "write id, subjects, actions, resources"
	rule := ruleText{at: whereIs(node)}
	fields, ok := mapping(node, r, "", "a rule", remedy)
	if !ok {
		return rule, false
	}
	if len(fields) > 0 {
		rule.at = fields[0].key.at
	}
	// The id first: the other messages name the rule.
	seen := map[string]bool{}
	for _, f := range fields {
		seen[f.key.value] = true
		if f.key.value == "id" {
			if id, ok := scalar(f.value, r, "", "id"); ok {
				rule.id = id
				if err := checkID(id.value); err != nil {
					r.fail(id.at, "", "use letters, digits, '-', '_' and '.'", "id %s", err)
				}
			}
		}
	}
	id := rule.id.value
	for _, f := range fields {
		switch f.key.value {
		case "id":
		case "description":
			if d, ok := scalar(f.value, r, id, "description"); ok {
				rule.description = d.value
			}
		case "subjects":
			rule.subjects = patterns(f, r, id, "role:<name>, user:<subject> or *")
		case "actions":
			rule.actions = patterns(f, r, id, "a tool's scope such as tool:crm:read")
		case "resources":
			rule.resources = patterns(f, r, id, "tenant:<tenant>/<source>/<item> such as tenant:*/*")
		case "effect":
			if e, ok := scalar(f.value, r, id, "effect"); ok {
				switch e.value {
				case "allow":
				case "deny":
					rule.deny = true
				default:
					r.fail(e.at, id, "write allow or deny", "effect %q is unknown", e.value)
				}
			}
		case "conditions":
			conditions, ok := mapping(f.value, r, id, "conditions", "write {name: value}")
			if ok && len(conditions) == 0 {
				r.fail(whereIs(f.value), id, "name a condition or leave the field out", "conditions is empty")
			}
			rule.conditions = conditions
		case "when":
			if w, ok := scalar(f.value, r, id, "when"); ok {
				switch {
				case strings.TrimSpace(w.value) == "":
					r.fail(w.at, id, "write a Cedar expression or leave the field out", "when is empty")
				case len(w.value) > maxWhen:
					r.fail(w.at, id, "use several rules", "when has %d bytes; the limit is %d", len(w.value), maxWhen)
				default:
					rule.when = w
				}
			}
		default:
			r.fail(f.key.at, id, suggest(f.key.value, ruleFields), "unknown field %q", f.key.value)
		}
	}
	for _, need := range []struct{ field, remedy string }{
		{"id", "give the rule a unique id: it is shown in refusals and in the audit log"},
		{"subjects", "say for whom: subjects: [role:analyst], or [\"*\"] for everyone"},
		{"actions", "say what: actions: [tool:crm:read]"},
		{"resources", "say on what: resources: [\"tenant:*/*\"]"},
	} {
		if !seen[need.field] {
			r.fail(rule.at, id, need.remedy, "%s is missing", need.field)
		}
	}
	return rule, true
}

func checkID(id string) error {
	if id == "" {
		return errors.New("is empty")
	}
	if len(id) > maxID {
		return fmt.Errorf("has %d characters; the limit is %d", len(id), maxID)
	}
	for i := range len(id) {
		c := id[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || i > 0 && strings.IndexByte("-_.", c) >= 0 {
			continue
		}
		return fmt.Errorf("%q may not hold or begin with %q", id, id[i:i+1])
	}
	return nil
}

// patterns reads a non-empty list of strings.
func patterns(f setting, r *report, rule, form string) []text {
	items, ok := sequence(f.value)
	name := f.key.value
	if !ok {
		r.fail(whereIs(f.value), rule, fmt.Sprintf("write a list: %s: [%s]", name, form), "%s must be a list, is %s", name, kindOf(f.value))
		return nil
	}
	if len(items) == 0 {
		r.fail(whereIs(f.value), rule, "each entry is "+form, "%s is empty", name)
	}
	if len(items) > maxPatterns {
		r.fail(f.key.at, rule, "use a pattern with *", "%s has %d entries; the limit is %d", name, len(items), maxPatterns)
		return nil
	}
	var list []text
	for _, item := range items {
		if t, ok := scalar(item, r, rule, "an entry of "+name); ok {
			list = append(list, t)
		}
	}
	return list
}

// scalar reads a string.
func scalar(node ast.Node, r *report, rule, what string) (text, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		at := whereIs(n)
		if n.Token.Origin != "" {
			if first := strings.TrimLeft(n.Token.Origin, " \t\r\n"); first != "" && (first[0] == '"' || first[0] == '\'') {
				at.column++
			}
		}
		return text{value: n.Value, at: at}, true
	case *ast.LiteralNode:
		return text{value: n.Value.Value, at: place{n.Start.Position.Line, n.Start.Position.Column}, block: true}, true
	}
	r.fail(whereIs(node), rule, remedyFor(node), "%s must be a string, is %s", what, kindOf(node))
	return text{}, false
}

func remedyFor(node ast.Node) string {
	switch n := node.(type) {
	case *ast.AliasNode, *ast.AnchorNode:
		return "anchors and aliases are not read in a policy: write the value out"
	case *ast.TagNode:
		return "leave the tag out"
	case *ast.MappingNode:
		if len(n.Values) == 1 { // [role:a] inside of {…} is read as a mapping
			return "put it in quotes if it is meant as text"
		}
		return "write one value"
	case *ast.SequenceNode:
		return "write one value"
	}
	return "put it in quotes if it is meant as text"
}

// mapping reads a mapping with string keys, each once.
func mapping(node ast.Node, r *report, rule, what, remedy string) ([]setting, bool) {
	var values []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		if _, plain := node.(ast.ScalarNode); !plain && node != nil && node.Type() != ast.SequenceType {
			remedy = remedyFor(node)
		}
		r.fail(whereIs(node), rule, remedy, "%s must be a mapping, is %s", what, kindOf(node))
		return nil, false
	}
	var list []setting
	for _, v := range values {
		if _, ok := v.Key.(*ast.MergeKeyNode); ok {
			r.fail(whereIs(v.Key), rule, "write the fields out", "merge keys (<<) are not read in a policy")
			continue
		}
		key, ok := v.Key.(*ast.StringNode)
		if !ok {
			r.fail(whereIs(v.Key), rule, "", "a field's name must be a string, is %s", kindOf(v.Key))
			continue
		}
		s := setting{key: text{value: key.Value, at: whereIs(key)}, value: v.Value}
		if slices.ContainsFunc(list, func(o setting) bool { return o.key.value == s.key.value }) {
			r.fail(s.key.at, rule, "keep one", "field %q is there twice", s.key.value)
			continue
		}
		list = append(list, s)
	}
	return list, true
}

func sequence(node ast.Node) ([]ast.Node, bool) {
	n, ok := node.(*ast.SequenceNode)
	if !ok {
		return nil, false
	}
	return n.Values, true
}

func whereIs(node ast.Node) place {
	switch n := node.(type) {
	case nil:
		return place{}
	case *ast.MappingNode:
		if len(n.Values) > 0 && !n.IsFlowStyle {
			return whereIs(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return whereIs(n.Key)
	}
	tk := node.GetToken()
	if tk == nil || tk.Position == nil {
		return place{}
	}
	return place{tk.Position.Line, tk.Position.Column}
}

func kindOf(node ast.Node) string {
	switch n := node.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.StringNode, *ast.LiteralNode:
		return "a string"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "a boolean"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.AliasNode, *ast.AnchorNode:
		return "an anchor or alias"
	case *ast.TagNode:
		return "tagged " + n.Start.Value
	}
	return "something else"
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

func invalidAt(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(data)
}
