package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"

	cedar "github.com/cedar-policy/cedar-go"
	cedarast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	yamlast "github.com/goccy/go-yaml/ast"

	"github.com/atlas-mcp/atlas"
)

// Deps are what the program gives to the engine.
type Deps struct {
	// Tools are all tools, for checks of names and types and for the index. Without tools the
	// rules are checked as far as they can be.
	Tools []*atlas.Tool
	// Scopes are those of tools that this configuration may leave out: a rule that names one is no mistake.
	Scopes []string
	// PII returns the kinds of personal data in the arguments (JSON). It is asked only if a rule
	// needs it. Without it a rule that does cannot be decided; see [Engine.Warnings].
	PII func(raw []byte) []string
	// Log receives the warnings of a file; nil means that nobody wants them.
	Log *slog.Logger
}

// An Engine decides calls by the rules of one file. It is immutable, but for a bounded memory of
// its own answers, and safe for concurrent use.
type Engine struct {
	rules    []*rule
	tools    map[*atlas.Tool]*toolInfo
	scopes   map[string]*scopeIndex // for the scopes of all tools
	hash     string
	warnings []Problem
	pii      func([]byte) []string

	byUser   bool // a rule names a user
	byCaller bool // a when looks at the principal

	decisions decisions
	visible   struct {
		sync.Mutex
		known map[visibleKey]bool // guarded; at most maxVisible entries
	}
}

// A rule is a compiled rule.
type rule struct {
	index      int
	id         string
	deny       bool
	at         place
	subjects   []glob
	actions    []glob
	resources  []glob
	conditions []condition
	when       *when
	needs      needs
	policy     *cedar.Policy // permits when the when is true
}

// Load compiles the rules of a file. The error is a *[LoadError] with every mistake of the file;
// name is used in messages only.
func Load(name string, data []byte, deps Deps) (*Engine, error) {
	r := newReport(data)
	rules := parseYAML(data, r)
	e := &Engine{tools: map[*atlas.Tool]*toolInfo{}, scopes: map[string]*scopeIndex{}, pii: deps.PII}
	e.visible.known = map[visibleKey]bool{}
	e.decisions.known = map[decisionKey]remembered{}
	infos := make([]*toolInfo, 0, len(deps.Tools))
	for _, t := range deps.Tools {
		info := inform(t)
		infos = append(infos, info)
		e.tools[t] = info
	}
	names := actionNames(infos)
	seen := map[string]place{}
	for i := range rules {
		text := &rules[i]
		if first, twice := seen[text.id.value]; twice && text.id.value != "" {
			r.fail(text.id.at, text.id.value, "give each rule an id of its own", "the id is taken by the rule in line %d", first.line)
		} else {
			seen[text.id.value] = text.id.at
		}
		if compiled := compileRule(text, infos, names, deps, r); compiled != nil {
			e.rules = append(e.rules, compiled)
		}
	}
	// By id: then the order in the file cannot matter anywhere.
	slices.SortFunc(e.rules, func(a, b *rule) int { return strings.Compare(a.id, b.id) })
	for i, compiled := range e.rules {
		compiled.index = i
	}
	if len(r.problems) > 0 {
		problems := sortProblems(r.problems)
		if n := len(problems); n > maxProblems {
			problems = append(problems[:maxProblems:maxProblems], Problem{Message: fmt.Sprintf("has %d more mistakes", n-maxProblems)})
		}
		return nil, &LoadError{File: name, Problems: problems}
	}
	for _, rule := range e.rules {
		e.byCaller = e.byCaller || rule.when != nil && rule.when.reads.caller
		e.byUser = e.byUser || slices.ContainsFunc(rule.subjects, func(g glob) bool { return strings.HasPrefix(g.text, "user:") })
	}
	for _, info := range infos {
		for _, scope := range info.tool.Scopes {
			if e.scopes[scope] == nil {
				e.scopes[scope] = newScopeIndex(e.rules, scope)
			}
		}
	}
	e.hash = hashRules(rules)
	e.warnings = sortProblems(r.warnings)
	if deps.Log != nil {
		for _, w := range e.warnings {
			deps.Log.Warn("policy rule may not do what is meant", "file", name, "line", w.Line, "rule", w.Rule, "problem", w.Message, "remedy", w.Remedy)
		}
	}
	return e, nil
}

func compileRule(t *ruleText, tools []*toolInfo, names []string, deps Deps, r *report) *rule {
	id := t.id.value
	before := len(r.problems)
	c := &rule{id: id, deny: t.deny, at: t.id.at}
	c.subjects = compilePatterns(t.subjects, "subject", subjectSep, checkSubject, id, r)
	c.actions = compilePatterns(t.actions, "action", actionSep, nil, id, r)
	c.resources = compilePatterns(t.resources, "resource", resourceSep, checkResource, id, r)
	c.conditions = compileConditions(t, Conditions(), r)
	for _, condition := range c.conditions {
		c.needs |= condition.needs
	}
	policy := ast.Permit() // a deny rule too: see eval
	if t.when.value != "" {
		if c.when = parseWhen(t.when, id, r); c.when != nil {
			c.needs |= c.when.reads.needs
			policy = policy.When(ast.NewNode(c.when.node))
			if len(r.problems) == before {
				checkWhen(c.when, c.actions, tools, names, id, r)
			}
		}
	}
	if len(r.problems) > before {
		return nil
	}
	c.policy = cedar.NewPolicyFromAST((*cedarast.Policy)(policy))
	if len(tools) > 0 {
		for i, g := range c.actions {
			if !slices.ContainsFunc(names, g.match) && !slices.ContainsFunc(deps.Scopes, g.match) {
				r.warn(t.actions[i].at, id, suggest(g.text, names), "no tool has a scope that action %q matches", g.text)
			}
		}
	}
	if c.needs&needPII != 0 && deps.PII == nil {
		r.warn(t.id.at, id, "configure the detector of personal data", "needs to know which personal data the arguments hold, and there is no detector: as a deny rule it always denies, as an allow rule it never allows")
	}
	return c
}

func compilePatterns(list []text, what, seps string, check func(string) (message, remedy string), rule string, r *report) []glob {
	var globs []glob
	for _, t := range list {
		if check != nil {
			if message, remedy := check(t.value); message != "" {
				r.fail(t.at, rule, remedy, "%s %q %s", what, t.value, message)
				continue
			}
		}
		g, err := compileGlob(t.value, seps)
		if err != nil {
			r.fail(t.at, rule, "correct the pattern", "%s %s", what, err)
			continue
		}
		globs = append(globs, g)
	}
	return globs
}

func checkSubject(s string) (message, remedy string) {
	if s == "*" {
		return "", ""
	}
	kind, name, ok := strings.Cut(s, ":")
	if !ok || kind != "role" && kind != "user" {
		return "names neither a role nor a user", "write role:<name>, user:<subject> or *"
	}
	if name == "" {
		return "names nobody", "write " + kind + ":* for every " + kind
	}
	return "", ""
}

func checkResource(s string) (message, remedy string) {
	if s == "*" {
		return "", ""
	}
	tenant, below, ok := strings.Cut(s, "/")
	if !strings.HasPrefix(tenant, "tenant:") {
		return "does not begin with tenant:", "write tenant:<tenant>/<source>/<item>, or tenant:*/* for everything"
	}
	if tenant == "tenant:" {
		return "names no tenant", "write tenant:* for every tenant"
	}
	if !ok {
		return "names nothing below the tenant and would never match", "write " + tenant + "/* for everything of the tenant"
	}
	for segment := range strings.SplitSeq(below, "/") {
		if segment == "." || segment == ".." {
			return "holds a . or .. segment and would never match", "write the path out"
		}
	}
	return "", ""
}

// hashVersion changes when the same rules come to mean something else.
const hashVersion = "atlas-policy-1"

// hashRules is a version of what the rules mean: neither their order, nor comments, nor
// descriptions change it.
func hashRules(rules []ruleText) string {
	values := func(list []text) []string {
		out := make([]string, len(list))
		for i, t := range list {
			out[i] = t.value
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	type canonical struct {
		ID                           string
		Subjects, Actions, Resources []string
		Deny                         bool
		Conditions                   map[string]string
		When                         string
	}
	list := make([]canonical, len(rules))
	for i, r := range rules {
		list[i] = canonical{
			ID: r.id.value, Subjects: values(r.subjects), Actions: values(r.actions), Resources: values(r.resources),
			Deny: r.deny, When: strings.TrimSpace(r.when.value), Conditions: map[string]string{},
		}
		for _, c := range r.conditions {
			list[i].Conditions[c.key.value] = canonicalNode(c.value)
		}
	}
	slices.SortFunc(list, func(a, b canonical) int { return strings.Compare(a.ID, b.ID) })
	data, err := json.Marshal(list)
	if err != nil {
		data = nil // strings, slices and maps of strings always marshal
	}
	sum := sha256.Sum256(append([]byte(hashVersion+"\n"), data...))
	return hex.EncodeToString(sum[:8])
}

// canonicalNode writes the argument of a condition: a scalar, or a list whose order does not matter.
func canonicalNode(n yamlast.Node) string {
	switch n := n.(type) {
	case *yamlast.SequenceNode:
		list := make([]string, len(n.Values))
		for i, v := range n.Values {
			list[i] = canonicalNode(v)
		}
		slices.Sort(list)
		return "[" + strings.Join(slices.Compact(list), ",") + "]"
	case *yamlast.LiteralNode:
		return strconv.Quote(n.Value.Value)
	case *yamlast.StringNode:
		return strconv.Quote(n.Value)
	case *yamlast.BoolNode:
		return strconv.FormatBool(n.Value)
	}
	return n.String()
}

// Hash returns a short version of the rules: 16 hex digits. Equal rules have equal hashes,
// whatever their order, comments and descriptions.
func (e *Engine) Hash() string { return e.hash }

// Len returns the number of rules.
func (e *Engine) Len() int { return len(e.rules) }

// Warnings returns what is not wrong but likely not meant, in the order of the file. The slice is
// the caller's to read only.
func (e *Engine) Warnings() []Problem { return e.warnings }

// A scopeIndex finds the rules whose actions match one scope, by subject.
type scopeIndex struct {
	named map[string][]*rule // by a subject without wildcard, such as role:analyst
	all   []*rule            // for everyone
	globs []*rule            // with a wildcard in a subject
}

func newScopeIndex(rules []*rule, scope string) *scopeIndex {
	index := &scopeIndex{named: map[string][]*rule{}}
	for _, r := range rules {
		if !slices.ContainsFunc(r.actions, func(g glob) bool { return g.match(scope) }) {
			continue
		}
		if slices.ContainsFunc(r.subjects, func(g glob) bool { return g.text == "*" }) {
			index.all = append(index.all, r)
			continue
		}
		wild := false
		for _, g := range r.subjects {
			if g.exact {
				index.named[g.text] = append(index.named[g.text], r)
			} else {
				wild = true
			}
		}
		if wild {
			index.globs = append(index.globs, r)
		}
	}
	return index
}
