package policy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/policy"
)

// An engine that remembers decides every call of a sequence as one that does not: for any rules, whoever
// calls, in any order. Names are drawn from so few that calls often differ in one thing only.
func TestRememberedDecisionsAreThoseMadeAfresh(t *testing.T) {
	ts := tools()
	names := slices.Sorted(maps.Keys(ts))
	oneOf := func(t *rapid.T, name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	rapid.Check(t, func(rt *rapid.T) {
		text := "rules:\n"
		for i := range rapid.IntRange(1, 6).Draw(rt, "rules") {
			text += fmt.Sprintf("  - {id: r%d, subjects: [%q], actions: [%q], resources: [%q]", i,
				oneOf(rt, "subject", "*", "*", "role:a", "role:*", "user:u1", "user:u*", "role:1;1:a"),
				oneOf(rt, "action", "*", "tool:*:read", "tool:crm:read", "tool:kb:*", "tool:files:*"),
				oneOf(rt, "resource", "*", "*", "tenant:acme/*", "tenant:globex/*", "tenant:*/files/docs/*", "tenant:a*/crm/*")) +
				oneOf(rt, "effect", "", "", ", effect: deny") +
				oneOf(rt, "condition", "", "", "", ", conditions: {read_only: true}", ", conditions: {tables: [t]}", ", conditions: {pii_kinds: [email]}") +
				oneOf(rt, "when", "", "", "", `, when: 'context.tool.read_only'`, `, when: 'principal.subject == "u1"'`,
					`, when: 'principal.delegator == ""'`, `, when: 'principal.scopes.contains("x")'`, `, when: 'principal.roles.contains("a")'`,
					`, when: 'principal.tenant == context.tenant'`, `, when: 'context.facts.sql like "*drop*"'`, `, when: 'context has args'`,
					`, when: 'resource == Resource::"tenant:acme/files/docs/x"'`, `, when: 'action == Action::"tool:kb:read"'`,
					`, when: 'context.args has text && context.args.text == "a@b"'`, `, when: 'context.args has text && context.args.text != "x"'`,
					`, when: 'context.args has key && context.args.key == "x" || principal.subject == "u2"'`,
					`, when: '!(context.args has key) || context.args.key == "docs/x"'`) + "}\n"
		}
		e, err := policy.Load("f", []byte(text), policy.Deps{Tools: list(ts), PII: fakePII})
		if err != nil {
			rt.Skip(err) // an expression that a drawn tool does not allow
		}
		for range rapid.IntRange(1, 40).Draw(rt, "calls") {
			p := &atlas.Principal{
				Subject: oneOf(rt, "who", "u1", "u2", ""), Tenant: atlas.TenantID(oneOf(rt, "home", "acme", "acme", "globex")),
				Roles:     rapid.SampledFrom([][]string{{"a"}, {"b"}, {"a", "b"}, {"1:a1:b"}, {"1;1:a"}, nil}).Draw(rt, "roles"),
				Scopes:    rapid.SampledFrom([][]string{{atlas.ScopeAdmin}, {atlas.ScopeAdmin, "x"}, {"tool:kb:read"}, {atlas.ScopeAdmin, atlas.ScopeImpersonate}}).Draw(rt, "scopes"),
				Delegator: oneOf(rt, "delegator", "", "", "d"),
			}
			call := callOf(t, ts[rapid.SampledFrom(names).Draw(rt, "tool")], p,
				oneOf(rt, "args", `{"sql":"SELECT 1","key":"docs/x"}`, `{"sql":"drop x","tables":"t","key":"docs/y"}`, `{"sql":"bad","key":"x"}`, `{"key":"docs/../x"}`, `{"text":"a@b"}`))
			call.Tenant = atlas.TenantID(oneOf(rt, "tenant", "acme", "globex"))
			got, err := e.Decide(t.Context(), call)
			if err != nil {
				rt.Fatal(err)
			}
			want, err := e.DecideAfresh(t.Context(), call)
			if err != nil {
				rt.Fatal(err)
			}
			if got.Allowed != want.Allowed || got.Rule != want.Rule || got.Scope != want.Scope || atlas.CodeOf(got.Err()) != atlas.CodeOf(want.Err()) ||
				fmt.Sprint(got.Facts) != fmt.Sprint(want.Facts) {
				rt.Fatalf("remembered %+v (%v), afresh %+v (%v)\n%+v of %s by %+v\n%s", got, got.Err(), want, want.Err(), call.Args.Values, call.Tool.Name, p, text)
			}
		}
	})
}

// What is remembered, and what never is.
func TestWhatIsRemembered(t *testing.T) {
	ts := tools()
	for _, c := range []struct {
		name, rules, tool string
		want              int
	}{
		{"by role", everyone(""), "kb_search", 1},
		{"by condition on the tool", everyone("  - {id: d, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {read_only: true}}\n"), "files_put", 1},
		{"facts of a tool without any", everyone("  - {id: d, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {tables: [t]}}\n"), "kb_search", 1},
		{"facts", everyone("  - {id: d, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {tables: [t]}}\n"), "crm_query", 0},
		{"personal data", everyone("  - {id: d, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {pii_kinds: [email]}}\n"), "kb_search", 0},
		{"arguments of a deny rule, plain", everyone(forbid("d", `context.args has text && context.args.text == "no"`)), "kb_search", 1},
		{"arguments of a deny rule", everyone(forbid("d", `context.args has text && context.args.text like "*no*"`)), "kb_search", 0},
		{"arguments of an allow rule", "rules:\n  - {id: a, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], when: 'context.args has text && context.args.text == \"x\"'}\n", "kb_search", 0},
		{"another tool's arguments", everyone("  - {id: d, subjects: [\"*\"], actions: [\"tool:kb:*\"], resources: [\"*\"], effect: deny, when: 'context.args has text && context.args.text == \"no\"'}\n"), "files_put", 1},
		{"denied", everyone(forbid("d", `context.tool.name == "kb_search"`)), "kb_search", 0},
	} {
		e := load(t, c.rules, ts)
		for range 3 {
			decide(t, e, callOf(t, ts[c.tool], who("a"), `{"text":"x","sql":"SELECT 1","key":"k"}`))
		}
		if got := e.RememberedDecisions(); got != c.want {
			t.Errorf("%s: %d decisions are remembered, want %d", c.name, got, c.want)
		}
	}
}

// The memory is bounded, whatever a caller asks for.
func TestRememberedDecisionsAreBounded(t *testing.T) {
	ts := tools()
	e := load(t, everyone(""), ts)
	for i := range 20_000 {
		if d := decide(t, e, callOf(t, ts["files_get"], who("a"), fmt.Sprintf(`{"key":"k%d"}`, i))); !d.Allowed {
			t.Fatal(d.Err())
		}
	}
	if n := e.RememberedDecisions(); n == 0 || n > 8192 {
		t.Errorf("%d decisions are remembered", n)
	}
	long := fmt.Sprintf(`{"key":"%0300d"}`, 1)
	before := e.RememberedDecisions()
	if d := decide(t, e, callOf(t, ts["files_get"], who("a"), long)); !d.Allowed || e.RememberedDecisions() != before {
		t.Error("a resource with a long name is remembered")
	}
}

// One thing at a time: the first call is allowed and remembered where it may be, and the second, which
// differs from it in one thing, is refused all the same.
func TestRememberedForOneIsNotGivenToAnother(t *testing.T) {
	ts := tools()
	allow := func(subject, resource, when string) string {
		text := fmt.Sprintf("rules:\n  - {id: a, subjects: [%q], actions: [\"*\"], resources: [%q]", subject, resource)
		if when != "" {
			text += fmt.Sprintf(", when: %q", when)
		}
		return text + "}\n"
	}
	principal := func(change func(*atlas.Principal)) *atlas.Principal {
		p := &atlas.Principal{Subject: "u1", Tenant: "acme", Roles: []string{"a"}, Scopes: []string{atlas.ScopeAdmin, atlas.ScopeImpersonate}}
		if change != nil {
			change(p)
		}
		return p
	}
	for _, c := range []struct {
		name, rules, tool string
		args              [2]string
		one, other        func(*atlas.Principal) // of the first call, and of the second
		tenant            atlas.TenantID         // of the second call; empty: acme
	}{
		{name: "tenant", rules: allow("*", "tenant:acme/*", ""), tool: "kb_search", tenant: "globex"},
		{name: "resource", rules: allow("*", "tenant:*/files/docs/*", ""), tool: "files_get", args: [2]string{`{"key":"docs/x"}`, `{"key":"hr/x"}`}},
		{name: "climbing resource", rules: allow("*", "tenant:*/*", ""), tool: "files_get", args: [2]string{`{"key":"docs/x"}`, `{"key":"docs/../x"}`}},
		{name: "role", rules: allow("role:a", "*", ""), tool: "kb_search", other: func(p *atlas.Principal) { p.Roles = []string{"b"} }},
		{name: "a role that reads like two", rules: allow("role:a", "*", ""), tool: "kb_search", other: func(p *atlas.Principal) { p.Roles = []string{"1;1:a"} }},
		{name: "two roles that read like one", rules: allow("role:ab", "*", ""), tool: "kb_search", one: func(p *atlas.Principal) { p.Roles = []string{"ab"} }, other: func(p *atlas.Principal) { p.Roles = []string{"a", "b"} }},
		{name: "no role", rules: allow("role:a", "*", ""), tool: "kb_search", other: func(p *atlas.Principal) { p.Roles = nil }},
		{name: "subject", rules: allow("user:u1", "*", ""), tool: "kb_search", other: func(p *atlas.Principal) { p.Subject = "u2" }},
		{name: "namesake of another tenant", rules: allow("user:u1", "*", ""), tool: "kb_search", other: func(p *atlas.Principal) { p.Tenant = "globex" }},
		{name: "when: subject", rules: allow("*", "*", `principal.subject == "u1"`), tool: "kb_search", other: func(p *atlas.Principal) { p.Subject = "u2" }},
		{name: "when: home tenant", rules: allow("*", "*", `principal.tenant == "acme"`), tool: "kb_search", other: func(p *atlas.Principal) { p.Tenant = "globex" }},
		{name: "when: delegator", rules: allow("*", "*", `principal.delegator == ""`), tool: "kb_search", other: func(p *atlas.Principal) { p.Delegator = "d" }},
		{name: "when: scopes", rules: allow("*", "*", `!principal.scopes.contains("x")`), tool: "kb_search", other: func(p *atlas.Principal) { p.Scopes = append(p.Scopes, "x") }},
		{name: "when: tenant", rules: allow("*", "*", `context.tenant == "acme"`), tool: "kb_search", tenant: "globex"},
		{name: "when: argument", rules: allow("*", "*", `context.args has text && context.args.text == "x"`), tool: "kb_search", args: [2]string{`{"text":"x"}`, `{"text":"y"}`}},
		{name: "when: argument of a deny rule", rules: allow("*", "*", "") + forbid("d", `context.args has text && context.args.text == "no"`), tool: "kb_search", args: [2]string{`{"text":"x"}`, `{"text":"no"}`}},
		{name: "when: argument of a deny rule without Cedar form", rules: allow("*", "*", "") + forbid("d", `context.args has text && context.args.text == "no"`), tool: "kb_search", args: [2]string{`{"text":"x"}`, `{"text":1e30}`}},
		{name: "when: all arguments", rules: strings.Replace(allow("*", "*", `context.args == {"key":"k","content":"x"}`), `actions: ["*"]`, `actions: ["tool:files:write"]`, 1), tool: "files_put", args: [2]string{`{"key":"k","content":"x"}`, `{"key":"k","content":"y"}`}},
		{name: "condition: facts", rules: allow("*", "*", "") + "  - {id: d, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {tables: [t]}}\n", tool: "crm_query", args: [2]string{`{"sql":"x"}`, `{"sql":"x","tables":"t"}`}},
		{name: "condition: personal data", rules: allow("*", "*", "") + "  - {id: d, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {pii_kinds: [email]}}\n", tool: "kb_search", args: [2]string{`{"text":"x"}`, `{"text":"a@b"}`}},
		{name: "scopes of the token", rules: allow("*", "*", ""), tool: "kb_search", other: func(p *atlas.Principal) { p.Scopes = []string{"tool:crm:read"} }},
		{name: "another's tenant without the right", rules: allow("*", "*", ""), tool: "kb_search", other: func(p *atlas.Principal) { p.Tenant, p.Scopes = "globex", []string{atlas.ScopeAdmin} }},
	} {
		e := load(t, c.rules, ts)
		first := callOf(t, ts[c.tool], principal(c.one), c.args[0])
		if c.tenant == "" {
			c.tenant = "acme"
		}
		second := callOf(t, ts[c.tool], principal(c.other), c.args[1])
		second.Tenant = c.tenant
		for range 2 {
			if d := decide(t, e, first); !d.Allowed {
				t.Errorf("%s: the first call is refused: %v", c.name, d.Err())
			}
			if d := decide(t, e, second); d.Allowed {
				t.Errorf("%s: the second call is allowed by %s", c.name, d.Rule)
			}
		}
	}
}
