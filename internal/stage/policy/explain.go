package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// maxNear bounds how many rules an explanation tells about for each scope.
const maxNear = 20

// An Explanation says how a decision came about. It is for operators: it names rules, patterns and
// values that callers are not shown.
type Explanation struct {
	Decision string             `json:"decision"` // "allow" or "deny"
	Code     atlas.Code         `json:"code,omitempty"`
	Rule     string             `json:"rule,omitempty"` // as in [Decision]
	Reason   string             `json:"reason"`         // one sentence
	Policy   string             `json:"policy_version"`
	Tool     string             `json:"tool"`
	Tenant   atlas.TenantID     `json:"tenant"`
	Subject  string             `json:"subject"`
	Roles    []string           `json:"roles,omitempty"`
	Resource string             `json:"resource"`
	Facts    FactsExplanation   `json:"facts"`
	NoScopes []string           `json:"missing_scopes,omitempty"` // scopes that the token lacks
	Scopes   []ScopeExplanation `json:"scopes"`
	LostArgs []string           `json:"unconvertible_args,omitempty"` // arguments without Cedar form
}

// A FactsExplanation is what was found out about the arguments.
type FactsExplanation struct {
	SQL     string   `json:"sql,omitempty"`
	Tables  []string `json:"tables,omitempty"`
	Columns []string `json:"columns,omitempty"`
	PII     []string `json:"pii,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// A ScopeExplanation tells about one scope of the tool.
type ScopeExplanation struct {
	Scope   string            `json:"scope"`
	Allowed bool              `json:"allowed"`
	Rules   []RuleExplanation `json:"rules"`          // that match or came near, nearest first
	More    int               `json:"more,omitempty"` // rules that came near too and are left out
}

// A RuleExplanation tells how one rule stood to the call.
type RuleExplanation struct {
	Rule    string    `json:"rule"`
	Effect  string    `json:"effect"` // "allow" or "deny"
	Line    int       `json:"line"`
	Outcome string    `json:"outcome"` // "holds", "does not hold" or "cannot be decided"
	Missing []Missing `json:"missing,omitempty"`
}

// Missing is one thing that kept a rule from holding.
type Missing struct {
	What  string `json:"what"`            // "subject", "action", "resource", "condition" or "when"
	Want  string `json:"want"`            // what the rule asks for
	Have  string `json:"have,omitempty"`  // what the call has
	Error string `json:"error,omitempty"` // why it could not be decided
}

// The outcomes of a rule.
const (
	outcomeHolds     = "holds"
	outcomeNot       = "does not hold"
	outcomeUndecided = "cannot be decided"
)

// Explain decides the call as [Engine.Decide] does and says why. It finds out facts also where a
// decision does not need them.
func (e *Engine) Explain(ctx context.Context, call atlas.Call) (Explanation, error) {
	ev, err := e.begin(ctx, call)
	if err != nil {
		return Explanation{}, err
	}
	d := ev.decide()
	if !ev.hopeful() && ev.refused == "" {
		if err := ev.findFacts(ctx); err != nil {
			return Explanation{}, err
		}
	}
	ev.everything, ev.built = true, false
	ev.build()
	p := ev.call.Principal
	x := Explanation{
		Decision: "allow", Rule: d.Rule, Policy: e.hash, Tool: ev.call.Tool.Name, Tenant: ev.call.Tenant,
		Subject: p.Subject, Roles: p.Roles, Resource: ev.resource, Scopes: []ScopeExplanation{},
		Facts: FactsExplanation{SQL: ev.facts.SQL, Tables: ev.facts.Tables, Columns: ev.facts.Columns, PII: ev.facts.PII},
	}
	if err := errors.Join(ev.factsErr, ev.piiErr); err != nil {
		x.Facts.Error = err.Error()
	}
	for name := range ev.lost {
		x.LostArgs = append(x.LostArgs, name)
	}
	slices.Sort(x.LostArgs)
	for _, scope := range ev.call.Tool.Scopes {
		if !p.HasScope(scope) {
			x.NoScopes = append(x.NoScopes, scope)
		}
	}
	for _, m := range ev.matches {
		x.Scopes = append(x.Scopes, ev.explainScope(m))
	}
	if !d.Allowed {
		x.Decision, x.Code = "deny", d.err.Code
	}
	x.Reason = ev.reason(&d)
	return x, nil
}

func (ev *evaluation) reason(d *Decision) string {
	switch {
	case d.Allowed:
		return fmt.Sprintf("allowed by %s, and no deny rule matches", d.Rule)
	case ev.refused != "":
		return ev.refused
	case d.err.Code == atlas.CodeDeniedByPolicy && d.err.Err != nil:
		return d.err.Err.Error()
	case d.err.Code == atlas.CodeDeniedByPolicy:
		return fmt.Sprintf("deny rule %s matches for %s", d.Rule, d.Scope)
	case d.err.Code != atlas.CodeNotAuthorized:
		return "the facts that a deny rule needs could not be found out: " + d.err.Error()
	}
	return fmt.Sprintf("no rule allows %s (deny by default)", d.Scope)
}

func (ev *evaluation) explainScope(m scopeMatch) ScopeExplanation {
	o := ev.ask(m)
	x := ScopeExplanation{Scope: m.scope, Allowed: o.refuses() == 0 && ev.refused == "", Rules: []RuleExplanation{}}
	for _, r := range ev.engine.rules {
		near, explained := ev.explainRule(r, m.scope)
		if near {
			x.Rules = append(x.Rules, explained)
		}
	}
	rank := map[string]int{outcomeHolds: 0, outcomeUndecided: 1, outcomeNot: 2}
	slices.SortStableFunc(x.Rules, func(a, b RuleExplanation) int {
		return cmp.Or(cmp.Compare(rank[a.Outcome], rank[b.Outcome]), cmp.Compare(len(a.Missing), len(b.Missing)),
			-cmp.Compare(a.Effect, b.Effect), cmp.Compare(a.Rule, b.Rule))
	})
	if n := len(x.Rules); n > maxNear {
		x.Rules, x.More = x.Rules[:maxNear], n-maxNear
	}
	return x
}

// explainRule says what kept a rule from holding. A rule is near if of subject, action and
// resource at most one does not match.
func (ev *evaluation) explainRule(r *rule, scope string) (near bool, x RuleExplanation) {
	x = RuleExplanation{Rule: r.id, Effect: "allow", Line: r.at.line, Outcome: outcomeHolds}
	if r.deny {
		x.Effect = "deny"
	}
	miss := func(what, want, have string) {
		x.Missing = append(x.Missing, Missing{What: what, Want: want, Have: have})
	}
	p := ev.call.Principal
	if !r.speaksOf(p, ev.call.Tenant) {
		miss("subject", texts(r.subjects), subjectsOf(p))
	}
	if !slices.ContainsFunc(r.actions, func(g glob) bool { return g.match(scope) }) {
		miss("action", texts(r.actions), scope)
	}
	if !matchAny(r.resources, ev.resource) {
		miss("resource", texts(r.resources), ev.resource)
	}
	if len(x.Missing) > 1 {
		return false, x
	}
	undecided := func(what, want string, err error) {
		x.Missing = append(x.Missing, Missing{What: what, Want: want, Error: err.Error()})
		x.Outcome = outcomeUndecided
	}
	static := len(x.Missing)
	for _, c := range r.conditions {
		switch {
		case c.needs&needFacts != 0 && ev.factsErr != nil:
			undecided("condition", c.name, ev.factsErr)
		case c.needs&needPII != 0 && ev.piiErr != nil:
			undecided("condition", c.name, ev.piiErr)
		case !c.holds(ev.call.Tool, &ev.facts):
			miss("condition", c.name, "")
		}
	}
	if r.when != nil {
		stopped := false // a conjunct before was not true; what follows is not asked any more
		for i := range r.when.parts {
			part := &r.when.parts[i]
			holds, err := ev.explainConjunct(part, scope)
			switch {
			case err != nil && !stopped:
				undecided("when", part.source, err)
				stopped = true
			case err == nil && !holds:
				miss("when", part.source, "false")
				stopped = true
			}
		}
	}
	// The last word is the decision's own, so that the two cannot differ.
	if static > 0 {
		x.Outcome = outcomeNot
		return true, x
	}
	switch o := ev.ask(scopeMatch{scope, []*rule{r}}); {
	case o.deny != "" || o.allow != "":
		x.Outcome = outcomeHolds
	case o.fault != "":
		x.Outcome = outcomeUndecided
	case x.Outcome != outcomeUndecided:
		x.Outcome = outcomeNot
	}
	return true, x
}

func (ev *evaluation) explainConjunct(p *part, scope string) (bool, error) {
	switch {
	case p.reads.needs&needFacts != 0 && ev.factsErr != nil:
		return false, ev.factsErr
	case p.reads.needs&needPII != 0 && ev.piiErr != nil:
		return false, ev.piiErr
	}
	for name := range p.reads.args {
		if _, lost := ev.lost[name]; lost {
			return false, fmt.Errorf("%w: %s", errLost, name)
		}
	}
	return ev.eval(p.policy, &p.reads, scope)
}

func texts(globs []glob) string {
	list := make([]string, len(globs))
	for i, g := range globs {
		list[i] = g.text
	}
	return strings.Join(list, ", ")
}

func subjectsOf(p *atlas.Principal) string {
	var list []string
	for _, r := range p.Roles {
		list = append(list, "role:"+r)
	}
	if p.Subject != "" {
		list = append(list, "user:"+p.Subject)
	}
	return strings.Join(list, ", ")
}

// String tells the explanation to a person, in several lines.
func (x Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", strings.ToUpper(x.Decision), x.Reason)
	fmt.Fprintf(&b, "  who       %s", x.Subject)
	if len(x.Roles) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(x.Roles, ", "))
	}
	fmt.Fprintf(&b, "\n  tool      %s\n  resource  %s\n  policy    %s\n", x.Tool, x.Resource, x.Policy)
	if x.Code != "" {
		fmt.Fprintf(&b, "  code      %s\n", x.Code)
	}
	if len(x.NoScopes) > 0 {
		fmt.Fprintf(&b, "  the token lacks %s\n", strings.Join(x.NoScopes, ", "))
	}
	if x.Facts.SQL != "" {
		fmt.Fprintf(&b, "  sql       %s\n", strings.Join(strings.Fields(x.Facts.SQL), " "))
	}
	for _, f := range []struct {
		name string
		list []string
	}{{"tables ", x.Facts.Tables}, {"columns", x.Facts.Columns}, {"pii    ", x.Facts.PII}} {
		if len(f.list) > 0 {
			fmt.Fprintf(&b, "  %s   %s\n", f.name, strings.Join(f.list, ", "))
		}
	}
	if x.Facts.Error != "" {
		fmt.Fprintf(&b, "  facts     %s\n", x.Facts.Error)
	}
	if len(x.LostArgs) > 0 {
		fmt.Fprintf(&b, "  arguments without Cedar form: %s\n", strings.Join(x.LostArgs, ", "))
	}
	for _, s := range x.Scopes {
		verdict := "refused"
		if s.Allowed {
			verdict = "allowed"
		}
		fmt.Fprintf(&b, "  %s: %s\n", s.Scope, verdict)
		if len(s.Rules) == 0 {
			b.WriteString("    no rule comes near\n")
		}
		for _, r := range s.Rules {
			fmt.Fprintf(&b, "    %-5s %s (line %d): %s\n", r.Effect, r.Rule, r.Line, r.Outcome)
			for _, m := range r.Missing {
				fmt.Fprintf(&b, "          %s: %s", m.What, m.Want)
				switch {
				case m.Error != "":
					fmt.Fprintf(&b, " — %s", m.Error)
				case m.Have != "":
					fmt.Fprintf(&b, " — here: %s", m.Have)
				default:
					b.WriteString(" — does not hold")
				}
				b.WriteByte('\n')
			}
		}
		if s.More > 0 {
			fmt.Fprintf(&b, "    and %d more\n", s.More)
		}
	}
	return b.String()
}
