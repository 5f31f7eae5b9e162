package policy_test

import (
	"fmt"
	"testing"

	"github.com/atlas-mcp/atlas"
)

func TestVisible(t *testing.T) {
	ts := tools()
	deny := func(rest string) string {
		return everyone("  - {id: d, effect: deny, subjects: [\"*\"], actions: [\"*\"], " + rest + "}\n")
	}
	allow := func(rest string) string {
		return "rules:\n  - {id: a, subjects: [\"*\"], actions: [\"*\"], " + rest + "}\n"
	}
	for _, c := range []struct {
		name, rules, tool string
		want              bool
	}{
		{"no rule", "rules: []\n", "crm_query", false},
		{"allowed", everyone(""), "crm_query", true},
		{"another source", allow(`resources: ["tenant:*/kb/*"]`), "crm_query", false},
		{"another tenant", allow(`resources: ["tenant:globex/*"]`), "crm_query", false},
		{"some keys", allow(`resources: ["tenant:*/files/docs/*"]`), "files_get", true},
		{"keys of another source", allow(`resources: ["tenant:*/kb/docs/*"]`), "files_get", false},
		{"arguments could do", allow(`resources: ["*"], when: 'context.args has text && context.args.text == "x"'`), "kb_search", true},
		{"facts could do", allow(`resources: ["*"], conditions: {tables: [x]}`), "crm_query", true},
		{"condition never", allow(`resources: ["*"], conditions: {read_only: true}`), "files_put", false},
		{"when never", allow(`resources: ["*"], when: 'context.tool.read_only'`), "files_put", false},
		{"when never, with arguments", allow(`resources: ["*"], when: 'context.args has text && context.args.text == "x" && context.tool.name == "other"'`), "kb_search", false},
		{"caller never", allow(`resources: ["*"], when: 'principal.subject == "u2"'`), "kb_search", false},
		{"caller always", allow(`resources: ["*"], when: 'principal.subject == "u1"'`), "kb_search", true},
		{"denied", deny(`resources: ["*"]`), "crm_query", false},
		{"some keys denied", deny(`resources: ["tenant:*/files/docs/*"]`), "files_get", true},
		{"all keys denied", deny(`resources: ["tenant:*/files/*"]`), "files_get", false},
		{"denied by facts", deny(`resources: ["*"], conditions: {tables: [x]}`), "crm_query", true},
		{"denied by arguments", deny(`resources: ["*"], when: 'context.tenant == "acme" && context.facts.sql == ""'`), "crm_query", true},
		{"denied by tool", deny(`resources: ["*"], when: 'context.tool.source == "crm"'`), "crm_query", false},
		{"denied, other tool", deny(`resources: ["*"], when: 'context.tool.source == "kb"'`), "crm_query", true},
		{"denied by condition", deny(`resources: ["*"], conditions: {read_only: true}`), "crm_query", false},
	} {
		e := load(t, c.rules, ts)
		for range 2 { // once more from memory
			if got := e.Visible(who("x"), "acme", ts[c.tool]); got != c.want {
				t.Errorf("%s: got %v, want %v", c.name, got, c.want)
			}
		}
	}
}

// What one caller sees must not be remembered for another.
func TestVisibleTellsCallersApart(t *testing.T) {
	ts := tools()
	tool := ts["kb_search"]
	e := load(t, "rules:\n  - {id: a, subjects: [\"role:a\", \"user:boss\"], actions: [\"*\"], resources: [\"tenant:acme/*\"]}\n", ts)
	principal := func(subject string, tenant atlas.TenantID, scope string, roles ...string) *atlas.Principal {
		return &atlas.Principal{Subject: subject, Tenant: tenant, Roles: roles, Scopes: []string{scope}}
	}
	for range 2 {
		for i, c := range []struct {
			p    *atlas.Principal
			want bool
		}{
			{principal("u", "acme", "tool:kb:read", "a"), true},
			{principal("u", "acme", "tool:kb:read", "b"), false},
			{principal("u", "acme", "tool:kb:read", "b", "a"), true},
			{principal("u", "acme", "tool:crm:read", "a"), false},
			{principal("u", "globex", "tool:kb:read", "a"), false},
			{principal("boss", "acme", "tool:kb:read"), true},
			{principal("clerk", "acme", "tool:kb:read"), false},
		} {
			if got := e.Visible(c.p, c.p.Tenant, tool); got != c.want {
				t.Errorf("%d: got %v, want %v", i, got, c.want)
			}
		}
	}
	// Two tokens of one subject can differ in the delegator.
	e = load(t, rule(`when: principal.delegator == ""`), ts)
	p, q := who("a"), who("a")
	q.Delegator = "agent"
	if !e.Visible(p, "acme", tool) || e.Visible(q, "acme", tool) {
		t.Error("the delegator is not looked at")
	}
}

// Tools and roles that come and go do not make the memory grow.
func TestVisibleMemoryIsBounded(t *testing.T) {
	ts := tools()
	e := load(t, everyone(""), ts)
	for i := range 20_000 {
		if !e.Visible(who(fmt.Sprintf("role%d", i)), "acme", ts["kb_search"]) {
			t.Fatal("not visible")
		}
	}
	if n := e.Remembered(); n == 0 || n > 8192 {
		t.Errorf("%d answers are remembered", n)
	}
}
