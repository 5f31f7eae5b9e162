package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/atlas-mcp/atlas"
)

// factsTimeout bounds Tool.Facts for a tool that declares no timeout: the budget stage, which
// bounds the call itself, is further in.
const factsTimeout = 5 * time.Second

// A Decision is the answer to one call.
type Decision struct {
	Allowed bool
	// Rule is the id of the rule that decided. For a tool with several scopes that different rules
	// allow it is all their ids, sorted and joined with commas. It is empty for the default deny.
	Rule string
	// Scope is the scope that was refused; empty if the call is allowed or no single one was.
	Scope string
	// Facts are what was found out about the arguments; the zero Facts if no rule asked.
	Facts atlas.Facts

	err *atlas.Error
}

// Err returns nil if the call is allowed, and else the refusal: denied_by_policy with the rule in
// context.rule, not_authorized, or, where nothing but missing facts stood in the way, what the source
// says of the arguments (invalid_query) or of itself (a retryable code).
func (d *Decision) Err() error {
	if d.err == nil {
		return nil
	}
	return d.err
}

// Decide decides one call. The error is not a refusal: it says that there is no decision, because
// the call is incomplete or ctx ended. Validated arguments (Args.Values) are used as they are.
func (e *Engine) Decide(ctx context.Context, call atlas.Call) (Decision, error) {
	if d, ok := e.recall(&call); ok {
		return d, nil
	}
	ev, err := e.begin(ctx, call)
	if err != nil {
		return Decision{}, err
	}
	d := ev.decide()
	e.remember(ev, &d)
	return d, nil
}

// Stage refuses the calls that the rules do not allow. Lists pass: see [Engine.Visible]. Calls
// that pass carry the facts that were found out.
func (e *Engine) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Op == atlas.OpList {
			return next(ctx, call)
		}
		d, err := e.Decide(ctx, call)
		if err != nil {
			return atlas.Result{Notes: atlas.Notes{PolicyHash: e.hash}}, err
		}
		if !d.Allowed {
			return atlas.Result{Notes: atlas.Notes{Decision: "deny", Rule: d.Rule, PolicyHash: e.hash}}, d.Err()
		}
		call.Facts = d.Facts
		res, err := next(ctx, call)
		res.Notes.Decision, res.Notes.Rule, res.Notes.PolicyHash = "allow", d.Rule, e.hash
		return res, err
	}
}

// An evaluation is one call on its way to a decision.
type evaluation struct {
	engine   *Engine
	call     *atlas.Call
	info     *toolInfo
	resource string
	refused  string // why no rule can allow the call, whatever it says; empty if one can

	matches []scopeMatch // by scope of the tool

	facts    atlas.Facts
	factsErr error // from Tool.Facts
	piiErr   error

	lost    map[string]struct{} // arguments without Cedar form
	context types.Record
	built   bool
	caller  *oneEntity

	everything bool // convert every argument, for an explanation
}

// A scopeMatch holds the rules whose subject, action and resource match, sorted by id.
type scopeMatch struct {
	scope string
	rules []*rule
}

var (
	errFacts      = errors.New("the facts about the arguments could not be found out")
	errNoDetector = errors.New("no detector of personal data is configured")
	errLost       = errors.New("an argument that the rule reads has no Cedar form")
)

// begin finds the rules that match, and the facts that they need.
func (e *Engine) begin(ctx context.Context, call atlas.Call) (*evaluation, error) {
	ev, err := e.match(call)
	if err != nil {
		return nil, err
	}
	// A caller whom no rule can allow does not get Atlas to work on the arguments.
	if ev.hopeful() {
		if err := ev.findFacts(ctx); err != nil {
			return nil, err
		}
	}
	return ev, nil
}

func (e *Engine) match(call atlas.Call) (*evaluation, error) {
	switch {
	case call.Tool == nil:
		return nil, atlas.Errorf(atlas.CodeInternal, errors.New("policy: call has no tool"), "")
	case call.Principal == nil:
		return nil, atlas.Errorf(atlas.CodeInternal, errors.New("policy: call has no principal"), "")
	}
	if call.Args.Values == nil && len(call.Args.Raw) > 0 {
		dec := json.NewDecoder(bytes.NewReader(call.Args.Raw))
		dec.UseNumber()
		if err := dec.Decode(&call.Args.Values); err != nil {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, err, "the arguments are not a JSON object")
		}
	}
	call.Facts = atlas.Facts{} // nobody but this stage says what the facts are
	ev := &evaluation{engine: e, call: &call, info: e.tools[call.Tool]}
	if ev.info == nil {
		ev.info = &toolInfo{tool: call.Tool, open: true}
	}
	ev.resource = resourceOf(&call)
	ev.refused = refusal(call.Principal, call.Tenant, call.Tool)
	if ev.refused == "" && climbs(ev.resource) {
		ev.refused = "the resource holds a . or .. segment"
	}
	ev.matches = make([]scopeMatch, len(call.Tool.Scopes))
	for i, scope := range call.Tool.Scopes {
		ev.matches[i] = scopeMatch{scope: scope, rules: e.candidates(call.Principal, call.Tenant, scope, ev.resource)}
	}
	return ev, nil
}

// refusal says why no rule can allow the caller to use the tool; it is empty if one can.
func refusal(p *atlas.Principal, tenant atlas.TenantID, t *atlas.Tool) string {
	switch {
	case tenant == "":
		return "the call has no tenant"
	case tenant != p.Tenant && !p.HasScope(atlas.ScopeImpersonate):
		// The edge has refused this already; here it would be the rules of another tenant.
		return "the call is for another tenant than the caller's"
	case len(t.Scopes) == 0:
		return "the tool has no scopes, so no action can be allowed"
	case !p.HasScopes(t.Scopes):
		return "the caller's token lacks scopes of the tool"
	}
	return ""
}

// climbs reports whether a resource has a "." or ".." segment: a glob would match its text, and a
// store might follow it to somewhere else.
func climbs(resource string) bool {
	for segment := range strings.SplitSeq(resource, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// candidates returns the rules whose subject, action and resource match, sorted by id.
func (e *Engine) candidates(p *atlas.Principal, tenant atlas.TenantID, scope, resource string) []*rule {
	var list []*rule
	for _, r := range e.subjectRules(p, tenant, scope) {
		if matchAny(r.resources, resource) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *rule) int { return a.index - b.index })
	return list
}

// subjectRules returns the rules whose subject and action match, each once. The slice may be the
// index's own.
func (e *Engine) subjectRules(p *atlas.Principal, tenant atlas.TenantID, scope string) []*rule {
	index := e.scopes[scope]
	if index == nil { // not a scope of a known tool
		index = newScopeIndex(e.rules, scope)
	}
	var few [16]uint64
	seen := few[:]
	if n := (len(e.rules) + 63) / 64; n > len(few) {
		seen = make([]uint64, n)
	}
	list := slices.Clip(index.all) // disjoint from the others
	add := func(rules ...*rule) {
		for _, r := range rules {
			if bit := uint64(1) << (r.index % 64); seen[r.index/64]&bit == 0 {
				seen[r.index/64] |= bit
				list = append(list, r)
			}
		}
	}
	var buf [64]byte
	for _, role := range p.Roles {
		add(index.named[string(append(append(buf[:0], "role:"...), role...))]...)
	}
	for _, r := range index.named[string(append(append(buf[:0], "user:"...), p.Subject...))] {
		if r.speaksOfUser(p, tenant) {
			add(r)
		}
	}
	for _, r := range index.globs {
		if r.speaksOf(p, tenant) {
			add(r)
		}
	}
	return list
}

// speaksOfUser reports whether a rule's user:<subject> may mean the principal: an allow rule speaks of the
// subjects of the tenant that the call is for, so that a namesake from another tenant who impersonates
// gains nothing by his name. A deny rule holds wherever its subject comes from.
func (r *rule) speaksOfUser(p *atlas.Principal, tenant atlas.TenantID) bool {
	return r.deny || p.Tenant == tenant
}

// speaksOf reports whether one of the rule's subjects is the principal.
func (r *rule) speaksOf(p *atlas.Principal, tenant atlas.TenantID) bool {
	subjects := r.subjects
	if p.Subject != "" && r.speaksOfUser(p, tenant) && matchAny(subjects, "user:"+p.Subject) {
		return true
	}
	for _, role := range p.Roles {
		if role != "" && matchAny(subjects, "role:"+role) {
			return true
		}
	}
	return slices.ContainsFunc(subjects, func(g glob) bool { return g.text == "*" })
}

func matchAny(globs []glob, s string) bool {
	for i := range globs {
		if globs[i].match(s) {
			return true
		}
	}
	return false
}

// hopeful reports whether an allow rule matches for every scope.
func (ev *evaluation) hopeful() bool {
	if ev.refused != "" {
		return false
	}
	for _, m := range ev.matches {
		if !slices.ContainsFunc(m.rules, func(r *rule) bool { return !r.deny }) {
			return false
		}
	}
	return true
}

// findFacts asks for what the matching rules need.
func (ev *evaluation) findFacts(ctx context.Context) error {
	var need needs
	for _, m := range ev.matches {
		for _, r := range m.rules {
			need |= r.needs
		}
	}
	tool := ev.call.Tool
	if need&needFacts != 0 && tool.Facts != nil {
		fctx, cancel := context.WithTimeout(ctx, cmp.Or(max(tool.Timeout, 0), factsTimeout))
		ev.facts, ev.factsErr = tool.Facts(fctx, *ev.call)
		cancel()
		if ctx.Err() != nil {
			return atlas.ErrorOf(ctx.Err())
		}
		if ev.factsErr != nil {
			ev.facts = atlas.Facts{}
		}
		ev.facts.PII = nil // the detector's to say
	}
	if need&needPII != 0 {
		if ev.engine.pii == nil {
			ev.piiErr = errNoDetector
		} else {
			ev.facts.PII = slices.Sorted(slices.Values(ev.engine.pii(ev.call.Args.Raw)))
		}
	}
	return nil
}

// An outcome is what the rules say about one scope.
type outcome struct {
	allow string // smallest id of the allow rules that hold; empty if none
	deny  string // the same of the deny rules
	fault string // the same of the deny rules that could not be decided
	cause error  // why fault could not
	asked bool
}

// decide asks Cedar for every scope.
func (ev *evaluation) decide() Decision {
	if !ev.hopeful() {
		return ev.hopeless()
	}
	d := Decision{Allowed: true, Facts: ev.facts}
	var refused outcome // of the scope that decides against the call
	var allowed []string
	complete := true // every scope has an allow rule that holds
	for _, m := range ev.matches {
		o := ev.ask(m)
		if o.allow == "" {
			complete = false
		} else if len(ev.matches) == 1 {
			d.Rule = o.allow
		} else {
			allowed = append(allowed, o.allow)
		}
		if o.refuses() > refused.refuses() {
			refused, d.Scope = o, m.scope
		}
	}
	if refused.refuses() == 0 {
		if len(allowed) > 0 {
			slices.Sort(allowed)
			d.Rule = strings.Join(slices.Compact(allowed), ",")
		}
		return d
	}
	d.Allowed, d.Rule = false, cmp.Or(refused.deny, refused.fault)
	switch {
	case refused.deny != "":
		d.err = denied(refused.deny, nil)
	case refused.fault != "" && complete && errors.Is(refused.cause, errFacts) && ev.callersFault():
		d.err = atlas.ErrorOf(ev.factsErr)
	case refused.fault != "":
		d.err = denied(refused.fault, refused.cause)
	default:
		d.err = atlas.Errorf(atlas.CodeNotAuthorized, errors.Join(ev.factsErr, ev.piiErr), "")
	}
	return d
}

// refuses ranks what an outcome says against the call: 0 nothing, 3 a deny rule. An outcome that
// was never set says nothing.
func (o *outcome) refuses() int {
	switch {
	case o.deny != "":
		return 3
	case o.fault != "":
		return 2
	case o.asked && o.allow == "":
		return 1
	}
	return 0
}

// callersFault reports whether the error of Tool.Facts is one that the caller can act on: SQL that
// the source does not accept, or a source that may answer later. It is then told as it is, where
// nothing but the missing facts stood in the way.
func (ev *evaluation) callersFault() bool {
	err := atlas.ErrorOf(ev.factsErr)
	return err.Code == atlas.CodeInvalidQuery || err.Retryable()
}

// hopeless decides a call that no allow rule can let through: all that is left to say is whether a
// rule forbids it. Facts are not asked for, and rules that need them are passed over.
func (ev *evaluation) hopeless() Decision {
	var d Decision
	if ev.refused != "" {
		d.err = atlas.Errorf(atlas.CodeNotAuthorized, errors.New(ev.refused), "")
		return d
	}
	var refused outcome
	for _, m := range ev.matches {
		free := slices.DeleteFunc(slices.Clone(m.rules), func(r *rule) bool { return r.needs != 0 })
		if o := ev.ask(scopeMatch{m.scope, free}); o.refuses() > refused.refuses() {
			refused, d.Scope = o, m.scope
		}
	}
	d.Rule = cmp.Or(refused.deny, refused.fault)
	if d.Rule != "" {
		d.err = denied(d.Rule, refused.cause)
	} else {
		d.err = atlas.Errorf(atlas.CodeNotAuthorized, nil, "")
	}
	return d
}

func denied(rule string, cause error) *atlas.Error {
	if cause != nil {
		cause = fmt.Errorf("deny rule %s could not be decided: %w", rule, cause)
	}
	return atlas.Errorf(atlas.CodeDeniedByPolicy, cause, "").With("rule", rule)
}
