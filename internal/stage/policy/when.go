package policy

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	cedar "github.com/cedar-policy/cedar-go"
	cedarast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// maxNesting bounds the recursion of the Cedar parser and of everything that walks its tree.
const maxNesting = 100

// A when is a parsed Cedar expression with what it reads.
type when struct {
	text  text
	node  ast.IsNode
	parts []part // its top-level conjuncts
	reads reads

	shortcut shortcut // nil: Cedar must be asked
}

// A part is one conjunct of a when.
type part struct {
	source string // in Cedar's own spelling
	reads  reads
	policy *cedar.Policy // permits when the conjunct is true
}

// reads says what an expression looks at.
type reads struct {
	needs    needs
	context  bool // context in any form
	caller   bool // principal
	resource bool
	allArgs  bool                // the arguments as a whole
	args     map[string]struct{} // arguments by name
	paths    []argPath
}

// An argPath is one path of attributes below context.args.
type argPath []string

// needsArgs reports whether the outcome depends on the arguments, other than through the resource.
func (r *reads) needsArgs() bool { return r.allArgs || len(r.args) > 0 || r.needs != 0 }

// add notes what another expression reads.
func (r *reads) add(o *reads) {
	r.needs |= o.needs
	r.context = r.context || o.context
	r.caller = r.caller || o.caller
	r.resource = r.resource || o.resource
	r.allArgs = r.allArgs || o.allArgs
	r.paths = append(r.paths, o.paths...)
	if r.args == nil {
		r.args = map[string]struct{}{}
	}
	maps.Copy(r.args, o.args)
}

// The names that a when may use; TestNamesAreThose checks them against what a decision provides.
var (
	principalNames = []string{"subject", "tenant", "delegator", "roles", "scopes"}
	contextNames   = []string{"tenant", "tool", "args", "facts"}
	toolNames      = []string{"name", "level", "source", "reads", "effects", "read_only", "destructive"}
	factNames      = []string{"sql", "tables", "columns", "pii"}
)

const (
	whenHead = "permit (principal, action, resource) when {\n" // so that line 2 is the expression's first
	whenTail = "\n};"
)

// parseWhen parses the expression and reports what is wrong with its syntax and its names.
func parseWhen(t text, rule string, r *report) *when {
	if nesting(t.value) > maxNesting {
		r.fail(t.at, rule, "split the rule", "when is nested too deeply")
		return nil
	}
	list, err := cedar.NewPolicyListFromBytes("", []byte(whenHead+t.value+whenTail))
	if err != nil {
		offset, message, remedy := syntaxError(t.value, err)
		r.fail(locate(r.lines, t, offset), rule, remedy, "when is not a Cedar expression: %s", message)
		return nil
	}
	// The text must not leave the braces that it is put into.
	if len(list) != 1 || len(list[0].AST().Conditions) != 1 {
		r.fail(t.at, rule, "write one expression, without when {…}", "when must be one Cedar expression")
		return nil
	}
	w := &when{text: t, node: list[0].AST().Conditions[0].Body}
	failed := false
	for _, conjunct := range conjuncts(w.node, nil) {
		n := namer{when: w, rule: rule, report: r, reads: reads{args: map[string]struct{}{}}}
		n.walk(conjunct)
		failed = failed || n.failed
		policy := cedar.NewPolicyFromAST((*cedarast.Policy)(ast.Permit().When(ast.NewNode(conjunct))))
		w.parts = append(w.parts, part{source: spell(policy), reads: n.reads, policy: policy})
		w.reads.add(&n.reads)
	}
	if failed {
		return nil
	}
	w.shortcut = newShortcut(w.node)
	return w
}

// conjuncts splits a && b && c.
func conjuncts(n ast.IsNode, list []ast.IsNode) []ast.IsNode {
	if and, ok := n.(ast.NodeTypeAnd); ok {
		return conjuncts(and.Right, conjuncts(and.Left, list))
	}
	return append(list, n)
}

// spell writes the condition of a policy as Cedar does.
func spell(p *cedar.Policy) string {
	_, body, _ := bytes.Cut(p.MarshalCedar(), []byte("when {"))
	body = bytes.TrimSuffix(bytes.TrimSpace(body), []byte("};"))
	return strings.Join(strings.Fields(string(body)), " ")
}

// A namer checks the names that an expression uses and notes what it reads.
type namer struct {
	when   *when
	rule   string
	report *report
	reads  reads
	failed bool
}

func (n *namer) walk(node ast.IsNode) {
	ast.Inspect(ast.NewNode(node), func(node ast.IsNode) bool {
		root, path, ok := pathOf(node)
		if !ok {
			return true
		}
		n.note(root, path)
		return false
	})
}

// pathOf takes apart context.a.b, and "context.a has b", which reads the same path.
func pathOf(node ast.IsNode) (root string, path []string, ok bool) {
	switch v := node.(type) {
	case ast.NodeTypeVariable:
		return string(v.Name), nil, true
	case ast.NodeTypeAccess:
		root, path, ok = pathOf(v.Arg)
		return root, append(path, string(v.Value)), ok
	case ast.NodeTypeHas:
		root, path, ok = pathOf(v.Arg)
		return root, append(path, string(v.Value)), ok
	}
	return "", nil, false
}

func (n *namer) note(root string, path []string) {
	reads := &n.reads
	switch root {
	case "principal":
		reads.caller = true
		n.oneOf("principal", path, principalNames)
		return
	case "resource":
		reads.resource = true
		if len(path) > 0 {
			n.fail(path[len(path)-1], "compare it as a whole, or use context.tool and context.args", "resource has no attributes")
		}
		return
	case "action":
		if len(path) > 0 {
			n.fail(path[len(path)-1], `compare it as a whole: action == Action::"tool:crm:read"`, "action has no attributes")
		}
		return
	}
	reads.context = true
	if len(path) == 0 {
		reads.allArgs, reads.needs = true, needFacts|needPII
		return
	}
	if !n.oneOf("context", path[:1], contextNames) {
		return
	}
	switch path[0] {
	case "tool":
		n.oneOf("context.tool", path[1:], toolNames)
	case "facts":
		if len(path) == 1 {
			reads.needs = needFacts | needPII
			return
		}
		if n.oneOf("context.facts", path[1:], factNames) {
			if path[1] == "pii" {
				reads.needs |= needPII
			} else {
				reads.needs |= needFacts
			}
		}
	case "args":
		if len(path) == 1 {
			reads.allArgs = true
			return
		}
		reads.args[path[1]] = struct{}{}
		reads.paths = append(reads.paths, slices.Clone(path[1:]))
	}
}

func (n *namer) oneOf(of string, path, names []string) bool {
	if len(path) == 0 || slices.Contains(names, path[0]) {
		return true
	}
	n.fail(path[0], suggest(path[0], names), "%s has no attribute %q", of, path[0])
	return false
}

func (n *namer) fail(word, remedy, format string, args ...any) {
	n.failed = true
	n.report.fail(locateWord(n.report.lines, n.when.text, word), n.rule, remedy, "when: "+format, args...)
}

// argNames returns the arguments that the expression names, sorted.
func (r *reads) argNames() []string { return slices.Sorted(maps.Keys(r.args)) }

// cedarToken matches one token of Cedar: enough to step over strings and comments.
var cedarToken = regexp.MustCompile(`\s+|//[^\n]*|"(?:[^"\\\n]|\\.)*"|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|::|==|!=|<=|>=|&&|\|\||.`)

// nesting is how deep brackets stand in each other.
func nesting(s string) int {
	depth, deepest := 0, 0
	for _, t := range cedarToken.FindAllString(s, -1) {
		switch t {
		case "(", "[", "{":
			depth++
			deepest = max(deepest, depth)
		case ")", "]", "}":
			depth--
		}
	}
	return deepest
}

var (
	parserPlace = regexp.MustCompile(`<input>:([0-9]+):([0-9]+)`)
	parserToken = regexp.MustCompile(`^parse error at \S+ "(?:[^"\\]|\\.)*": `)
	parserWant  = regexp.MustCompile(`^(exact )?got (.*) want (.*)$`)
	parserName  = regexp.MustCompile("^`([^`]+)` is ")
)

// wordRemedies mends what people of other languages write.
var wordRemedies = map[string]string{
	"args": "write context.args", "facts": "write context.facts", "tool": "write context.tool", "tenant": "write context.tenant",
	"and": "write &&", "AND": "write &&", "or": "write ||", "OR": "write ||", "not": "write !", "NOT": "write !", "=": "compare with ==",
}

// syntaxError returns where in the expression Cedar found a mistake, as a byte offset, and what.
func syntaxError(expr string, err error) (offset int, message, remedy string) {
	message = strings.TrimPrefix(err.Error(), "parser error: ")
	m := parserPlace.FindStringSubmatch(message)
	if m == nil {
		return 0, message, ""
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	line-- // the head of the policy
	offset = offsetOf(expr, line, column)
	if !strings.HasPrefix(message, "parse error at ") { // from the scanner, which is where it says
		return offset, strings.TrimPrefix(message, m[0]+": "), ""
	}
	message = parserToken.ReplaceAllString(message, "")
	// Behind the expression stand } and ; of ours.
	ended := line > 1+strings.Count(expr, "\n") && column > 1

	if m := parserName.FindStringSubmatch(message); m != nil {
		return max(strings.LastIndex(expr[:offset], m[1]), 0), message, ""
	}
	word := ""
	if m := parserWant.FindStringSubmatch(message); m != nil {
		word = m[2]
		message = fmt.Sprintf("`%s` where `%s` must follow", word, m[3])
		if m[3] == "}" {
			message = fmt.Sprintf("`%s` where an operator or the end must follow", word)
		}
		if m[1] == "" && !ended { // this one message names the place before stepping over the token
			return offset, message, wordRemedies[word]
		}
	}
	if ended {
		return len(expr), "it ends too early", "complete it, and close what is open"
	}
	// The parser has stepped over the token that it complains about.
	for _, span := range cedarToken.FindAllStringIndex(expr[:offset], -1) {
		s := expr[span[0]:span[1]]
		if strings.TrimSpace(s) != "" && !strings.HasPrefix(s, "//") {
			offset, word = span[0], s
		}
	}
	if message == "invalid primary" || message == "unexpected token" {
		message = fmt.Sprintf("unexpected `%s`", word)
		remedy = "an expression uses principal, action, resource and context"
	}
	if r, ok := wordRemedies[word]; ok {
		remedy = r
	}
	return offset, message, remedy
}

// offsetOf turns a line and a column (from 1, in characters) into a byte offset.
func offsetOf(s string, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		i := strings.IndexByte(s[at:], '\n')
		if i < 0 {
			return len(s)
		}
		at += i + 1
	}
	for i := range s[at:] {
		if column <= 1 {
			return at + i
		}
		column--
	}
	return len(s)
}

// locateWord finds the place of the first token of the expression that reads word, in or out of
// quotes; the place of the expression if there is none.
func locateWord(lines []string, t text, word string) place {
	for _, span := range cedarToken.FindAllStringIndex(t.value, -1) {
		if s := t.value[span[0]:span[1]]; s == word || s == strconv.Quote(word) {
			return locate(lines, t, span[0])
		}
	}
	return locate(lines, t, 0)
}

// locate returns the place in the file of a byte of a scalar's value. YAML folds lines, drops
// indentation and unescapes, so the value is laid along the file's text, character by character.
func locate(lines []string, t text, offset int) place {
	if t.at.line < 1 || t.at.line > len(lines) {
		return t.at
	}
	line, column := t.at.line-1, t.at.column-1
	if t.block {
		line, column = line+1, 0
	}
	if line >= len(lines) {
		return t.at
	}
	current := []rune(lines[line])
	// next moves to the next character that is not white space, over line ends and comments of
	// block scalars' indentation.
	skip := func() bool {
		for {
			for column < len(current) && (current[column] == ' ' || current[column] == '\t') {
				column++
			}
			if column < len(current) {
				return true
			}
			if line+1 >= len(lines) {
				return false
			}
			line++
			column, current = 0, []rune(lines[line])
		}
	}
	last := t.at
	for i, r := range t.value {
		space := r == ' ' || r == '\t' || r == '\n' || r == '\r'
		if !space {
			for {
				if !skip() {
					return last
				}
				// Escapes stand in the file and not in the value.
				if current[column] == r || current[column] != '\\' && current[column] != '\'' {
					break
				}
				column++
			}
			last = place{line + 1, column + 1}
		}
		if i >= offset && !space {
			return last
		}
		if !space {
			column++
		}
	}
	return place{last.line, last.column + 1}
}
