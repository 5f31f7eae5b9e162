package policy

import (
	"cmp"
	"strconv"
	"sync"

	"github.com/atlas-mcp/atlas"
)

// Most rules look at who calls which tool for whom, and not at the arguments. Where all rules that
// match are of that kind, what they allow is remembered for as long as the rules live. A refusal is
// not: it is rare, and carries an error.

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
	known map[decisionKey]string // guarded by mu: the rules that allow; at most maxRemembered entries
}

// recall returns a remembered decision.
func (e *Engine) recall(call *atlas.Call) (Decision, bool) {
	t, p := call.Tool, call.Principal
	if t == nil || p == nil || e.tools[t] == nil || call.Args.Values == nil && len(call.Args.Raw) > 0 || refusal(p, call.Tenant, t) != "" {
		return Decision{}, false
	}
	var buf [256]byte
	caller := e.appendCaller(buf[:0], p)
	resource := resourceBelow(call)
	e.decisions.mu.RLock()
	rule, ok := e.decisions.known[decisionKey{t, call.Tenant, string(caller), resource}]
	e.decisions.mu.RUnlock()
	return Decision{Allowed: true, Rule: rule}, ok
}

// remember keeps a decision, if it depends on nothing that is not in its key.
func (e *Engine) remember(ev *evaluation, d *Decision) {
	call := ev.call
	if !d.Allowed || e.tools[call.Tool] == nil {
		return
	}
	for _, m := range ev.matches {
		for _, r := range m.rules {
			if r.readsArgs(call.Tool) {
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
	e.decisions.known[key] = d.Rule
}

// readsArgs reports whether what the rule says of the tool depends on the arguments, other than through
// the resource.
func (r *rule) readsArgs(t *atlas.Tool) bool {
	needs := r.needs
	if t.Facts == nil { // there are none, whatever the arguments are
		needs &^= needFacts
	}
	return needs != 0 || r.when != nil && (r.when.reads.allArgs || len(r.when.reads.args) > 0)
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
