package policy

import (
	"cmp"
	"strconv"
	"sync"

	"github.com/atlas-mcp/atlas"
)

// Most rules look at who calls which tool for whom, and not at the arguments. Where all rules that
// match are of that kind, what they allow is remembered for as long as the rules live. Deny rules that
// compare arguments with literals may be among them: they are asked at every call, by their shortcuts,
// and where one does not surely say no everything is decided afresh. A refusal is never remembered: it
// is rare, and carries an error.

const (
	// maxRemembered bounds the memory of decisions. When it is full it is emptied: an entry costs some
	// microseconds to find again.
	maxRemembered = 8192
	// Longer names are not remembered, so that keys of objects do not fill the memory.
	maxRememberedCaller   = 2048
	maxRememberedResource = 256
)

// A decisionKey is all that a decision can depend on besides the rules, as long as no rule that
// matches reads arguments or facts. Whether the token holds the tool's scopes is asked every time.
type decisionKey struct {
	tool     *atlas.Tool
	tenant   atlas.TenantID
	caller   string
	resource string // below the tenant
}

type decisions struct {
	mu    sync.RWMutex
	known map[decisionKey]remembered // guarded by mu; at most maxRemembered entries
}

// A remembered decision allows.
type remembered struct {
	rule   string  // what allows, as Decision.Rule
	checks []*rule // deny rules that match and must surely not hold
}

// recall returns a remembered decision.
func (e *Engine) recall(call *atlas.Call) (Decision, bool) {
	t, p := call.Tool, call.Principal
	if t == nil || p == nil || call.Args.Values == nil && len(call.Args.Raw) > 0 {
		return Decision{}, false
	}
	info := e.tools[t]
	if info == nil || refusal(p, call.Tenant, t) != "" {
		return Decision{}, false
	}
	var buf [256]byte
	caller := e.appendCaller(buf[:0], p)
	resource := resourceBelow(call)
	e.decisions.mu.RLock()
	known, ok := e.decisions.known[decisionKey{t, call.Tenant, string(caller), resource}]
	e.decisions.mu.RUnlock()
	if !ok {
		return Decision{}, false
	}
	for _, r := range known.checks {
		if r.when.quickly(info, call.Args.Values) != isFalse {
			return Decision{}, false
		}
	}
	return Decision{Allowed: true, Rule: known.rule}, true
}

// remember keeps a decision, if it depends on nothing but its key and what can be checked quickly.
func (e *Engine) remember(ev *evaluation, d *Decision) {
	call := ev.call
	if !d.Allowed || e.tools[call.Tool] == nil {
		return
	}
	var checks []*rule
	for _, m := range ev.matches {
		for _, r := range m.rules {
			switch {
			case !r.readsArgs(call.Tool):
			case r.deny && !r.readsFacts(call.Tool) && r.when.shortcut != nil:
				checks = append(checks, r)
			default:
				return
			}
		}
	}
	below := ev.resource[len(resourceHead)+len(call.Tenant)+1:]
	key := decisionKey{call.Tool, call.Tenant, string(e.appendCaller(nil, call.Principal)), below}
	if len(key.caller) > maxRememberedCaller || len(key.resource) > maxRememberedResource {
		return
	}
	e.decisions.mu.Lock()
	defer e.decisions.mu.Unlock()
	if len(e.decisions.known) >= maxRemembered {
		clear(e.decisions.known)
	}
	e.decisions.known[key] = remembered{d.Rule, checks}
}

// readsArgs reports whether what the rule says of the tool depends on the arguments, other than through
// the resource.
func (r *rule) readsArgs(t *atlas.Tool) bool {
	return r.readsFacts(t) || r.when != nil && (r.when.reads.allArgs || len(r.when.reads.args) > 0)
}

// readsFacts reports whether the rule needs facts that are found out anew for each call.
func (r *rule) readsFacts(t *atlas.Tool) bool {
	needs := r.needs
	if t.Facts == nil { // there are none, whatever the arguments are
		needs &^= needFacts
	}
	return needs != 0
}

// appendCaller writes what the rules may look at of a caller. Counts and lengths keep one list of
// names from reading like another.
func (e *Engine) appendCaller(b []byte, p *atlas.Principal) []byte {
	b = appendNames(b, p.Roles)
	if e.byUser || e.byCaller {
		b = appendName(appendName(b, p.Subject), string(p.Tenant))
	}
	if e.byCaller {
		b = appendNames(appendName(b, p.Delegator), p.Scopes)
	}
	return b
}

func appendNames(b []byte, names []string) []byte {
	b = append(strconv.AppendInt(b, int64(len(names)), 10), ';')
	for _, name := range names {
		b = appendName(b, name)
	}
	return b
}

func appendName(b []byte, name string) []byte {
	b = append(strconv.AppendInt(b, int64(len(name)), 10), ':')
	return append(b, name...)
}

const resourceHead = "tenant:"

// resourceOf returns "tenant:<tenant>/<resource>".
func resourceOf(call *atlas.Call) string {
	return resourceHead + string(call.Tenant) + "/" + resourceBelow(call)
}

// resourceBelow returns what the call touches, below the tenant.
func resourceBelow(call *atlas.Call) string {
	if t := call.Tool; t.Resource == nil {
		return cmp.Or(t.Source, "tools") + "/" + t.Name
	}
	return call.Tool.Resource(*call)
}
