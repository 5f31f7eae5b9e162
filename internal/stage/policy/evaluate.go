package policy

import (
	"errors"
	"fmt"
	"iter"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

// onePolicy is a [cedar.PolicyIterator] over a single policy.
type onePolicy struct{ policy *cedar.Policy }

// All yields the policy.
func (o onePolicy) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) { yield("", o.policy) }
}

// ask evaluates the rules of one scope. They come sorted by id, so that the first deny rule and
// the first allow rule that hold are the ones to name, and the rest need no look.
func (ev *evaluation) ask(m scopeMatch) outcome {
	o := outcome{asked: true}
	for _, r := range m.rules {
		if !r.deny {
			continue
		}
		holds, err := ev.holds(r, m.scope)
		if err != nil && o.fault == "" {
			o.fault, o.cause = r.id, err
		}
		if holds {
			o.deny = r.id
			return o
		}
	}
	for _, r := range m.rules {
		if r.deny {
			continue
		}
		if holds, err := ev.holds(r, m.scope); holds && err == nil {
			o.allow = r.id
			break
		}
	}
	return o
}

// holds reports whether a rule that matches holds, or why that cannot be said.
func (ev *evaluation) holds(r *rule, scope string) (bool, error) {
	if ready, err := ev.ready(r); err != nil || !ready {
		return false, err
	}
	if r.when == nil {
		return true, nil
	}
	return ev.eval(r.policy, &r.when.reads, scope)
}

// eval asks Cedar whether a policy that permits holds. Cedar passes over a policy that ends in an
// error, also one that forbids; that is why an error is handed on, and why Atlas hands Cedar what
// a deny rule says as a permit and combines the rules itself.
func (ev *evaluation) eval(p *cedar.Policy, reads *reads, scope string) (bool, error) {
	request, entities := ev.request(scope, reads)
	decision, diagnostic := cedar.Authorize(onePolicy{p}, entities, request)
	if len(diagnostic.Errors) > 0 {
		return false, errors.New(diagnostic.Errors[0].Message)
	}
	return decision == cedar.Allow, nil
}

// ready reports whether all that stands outside Cedar holds, or why that cannot be said.
func (ev *evaluation) ready(r *rule) (bool, error) {
	for i := range r.conditions {
		if c := &r.conditions[i]; c.needs == 0 && !c.holds(ev.call.Tool, &ev.facts) {
			return false, nil
		}
	}
	// Before the conditions that need facts: that one of them does not hold must not hide that
	// another cannot be decided.
	if r.needs&needFacts != 0 && ev.factsErr != nil {
		return false, fmt.Errorf("%w: %w", errFacts, ev.factsErr)
	}
	if r.needs&needPII != 0 && ev.piiErr != nil {
		return false, ev.piiErr
	}
	for i := range r.conditions {
		if c := &r.conditions[i]; c.needs != 0 && !c.holds(ev.call.Tool, &ev.facts) {
			return false, nil
		}
	}
	if r.when != nil && (r.when.reads.allArgs || len(r.when.reads.args) > 0) {
		ev.build()
		if len(ev.lost) > 0 {
			if r.when.reads.allArgs {
				return false, errLost
			}
			for name := range r.when.reads.args {
				if _, lost := ev.lost[name]; lost {
					return false, fmt.Errorf("%w: %s", errLost, name)
				}
			}
		}
	}
	return true, nil
}

// request makes the Cedar request for one scope, with as much in it as the expression looks at.
func (ev *evaluation) request(scope string, reads *reads) (cedar.Request, types.EntityGetter) {
	p := ev.call.Principal
	request := cedar.Request{
		Principal: types.NewEntityUID(typePrincipal, types.String(p.Subject)),
		Action:    types.NewEntityUID(typeAction, types.String(scope)),
		Resource:  types.NewEntityUID(typeResource, types.String(ev.resource)),
	}
	if reads.context {
		ev.build()
		request.Context = ev.context
	}
	if !reads.caller {
		return request, nil
	}
	if ev.caller == nil {
		ev.caller = &oneEntity{types.Entity{UID: request.Principal, Attributes: types.NewRecord(types.RecordMap{
			"subject":   types.String(p.Subject),
			"tenant":    types.String(p.Tenant),
			"delegator": types.String(p.Delegator),
			"roles":     stringSet(p.Roles),
			"scopes":    stringSet(p.Scopes),
		})}}
	}
	return request, ev.caller
}

// oneEntity is an entity store that holds the caller only.
type oneEntity struct{ entity types.Entity }

// Get returns the entity if it is the one.
func (e *oneEntity) Get(uid types.EntityUID) (types.Entity, bool) {
	if uid != e.entity.UID {
		return types.Entity{}, false
	}
	return e.entity, true
}

// build makes the context record once. Only arguments that some matching rule reads are converted:
// a file's content need not be hashed to be left alone.
func (ev *evaluation) build() {
	if ev.built {
		return
	}
	ev.built = true
	args := types.RecordMap{}
	convert := func(name string, v any) {
		if v == nil {
			return
		}
		s := &shape{}
		if f, ok := ev.info.args.fields[name]; ok {
			s = &f.shape
		}
		c, err := toCedar(v, s, 0)
		if err != nil {
			if ev.lost == nil {
				ev.lost = map[string]struct{}{}
			}
			ev.lost[name] = struct{}{}
			return
		}
		args[types.String(name)] = c
	}
	all := ev.everything
	wanted := map[string]struct{}{}
	for _, m := range ev.matches {
		for _, r := range m.rules {
			if r.when != nil {
				all = all || r.when.reads.allArgs
				for name := range r.when.reads.args {
					wanted[name] = struct{}{}
				}
			}
		}
	}
	for name, v := range ev.call.Args.Values {
		if _, ok := wanted[name]; ok || all {
			convert(name, v)
		}
	}
	if ev.info.record.Len() == 0 {
		ev.info = &toolInfo{tool: ev.call.Tool, args: ev.info.args, record: toolRecord(ev.call.Tool)}
	}
	facts := noFacts
	if ev.facts.SQL != "" || len(ev.facts.Tables)+len(ev.facts.Columns)+len(ev.facts.PII) > 0 {
		facts = factsRecord(&ev.facts)
	}
	ev.context = types.NewRecord(types.RecordMap{
		"tenant": types.String(ev.call.Tenant),
		"tool":   ev.info.record,
		"args":   types.NewRecord(args),
		"facts":  facts,
	})
}
