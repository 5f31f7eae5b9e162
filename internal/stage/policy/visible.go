package policy

import "github.com/atlas-mcp/atlas"

// maxVisible bounds the memory of Visible. When it is full it is emptied: an entry costs a
// microsecond to find again.
const maxVisible = 8192

// A visibleKey is all that the answer of Visible depends on, besides the rules.
type visibleKey struct {
	tool   *atlas.Tool
	tenant atlas.TenantID
	caller string
}

// Visible reports whether the principal could be allowed to call the tool for the tenant with some
// arguments. It is false if the token lacks a scope of the tool, if no allow rule can match, or if
// a deny rule matches whatever the arguments are. A tool that is not visible should be neither
// listed nor told apart from one that does not exist. That a tool is visible promises nothing.
func (e *Engine) Visible(p *atlas.Principal, tenant atlas.TenantID, t *atlas.Tool) bool {
	if p == nil || t == nil {
		return false
	}
	if refusal(p, tenant, t) != "" {
		return false
	}
	call := func() *atlas.Call { return &atlas.Call{Name: t.Name, Tool: t, Principal: p, Tenant: tenant} }
	if e.tools[t] == nil { // not ours: remembering it would keep it alive
		return e.couldAllow(call())
	}
	key := visibleKey{tool: t, tenant: tenant, caller: string(e.appendCaller(nil, p))}
	e.visible.Lock()
	known, ok := e.visible.known[key]
	e.visible.Unlock()
	if ok {
		return known
	}
	could := e.couldAllow(call())
	e.visible.Lock()
	if len(e.visible.known) >= maxVisible {
		clear(e.visible.known)
	}
	e.visible.known[key] = could
	e.visible.Unlock()
	return could
}

// couldAllow decides as far as one can without arguments.
func (e *Engine) couldAllow(call *atlas.Call) bool {
	ev := &evaluation{engine: e, call: call, info: &toolInfo{tool: call.Tool}}
	fixed := call.Tool.Resource == nil
	if fixed {
		ev.resource = resourceOf(call)
	}
	for _, scope := range call.Tool.Scopes {
		allow := false
		for _, r := range e.subjectRules(call.Principal, call.Tenant, scope) {
			could, must := ev.withoutArgs(r, scope, fixed)
			if r.deny && must {
				return false
			}
			allow = allow || !r.deny && could
		}
		if !allow {
			return false
		}
	}
	return true
}

// withoutArgs reports whether the rule holds for some arguments, and whether it does for all.
func (ev *evaluation) withoutArgs(r *rule, scope string, fixed bool) (could, must bool) {
	where := reachNone
	for i := range r.resources {
		if fixed {
			if r.resources[i].match(ev.resource) {
				where = reachAll
			}
			continue
		}
		where = max(where, r.resources[i].reaches(string(ev.call.Tenant), ev.call.Tool.Source))
	}
	if where == reachNone {
		return false, false
	}
	must = where == reachAll
	for i := range r.conditions {
		if c := &r.conditions[i]; c.needs != 0 {
			must = false
		} else if !c.holds(ev.call.Tool, &ev.facts) {
			return false, false
		}
	}
	if r.when == nil {
		return true, must
	}
	for i := range r.when.parts {
		p := &r.when.parts[i]
		if p.reads.needsArgs() || p.reads.resource && !fixed {
			must = false
			continue
		}
		// One conjunct that is false or fails for all arguments keeps the whole from being true. A
		// deny rule that fails denies, unless a conjunct before it is false.
		holds, err := ev.eval(p.policy, &p.reads, scope)
		if err != nil {
			if !r.deny {
				return false, false
			}
			continue
		}
		if !holds {
			return false, false
		}
	}
	return true, must
}
