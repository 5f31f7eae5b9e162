package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/policy"
)

func explain(t *testing.T, e *policy.Engine, call atlas.Call) policy.Explanation {
	t.Helper()
	x, err := e.Explain(t.Context(), call)
	if err != nil {
		t.Fatal(err)
	}
	x.Policy = "0"
	return x
}

func TestExplainText(t *testing.T) {
	ts := tools()
	e := load(t, readDefault(t), ts)
	line := func(id string) int {
		before, _, ok := strings.Cut(readDefault(t), "id: "+id+"\n")
		if !ok {
			t.Fatal("no rule " + id)
		}
		return 1 + strings.Count(before, "\n")
	}
	for _, c := range []struct{ name, got, want string }{
		{
			"allowed",
			explain(t, e, callOf(t, ts["crm_query"], who("analyst"), `{"sql":"SELECT 1","columns":"ssn"}`)).String(),
			fmt.Sprintf(`ALLOW: allowed by analysts-read-crm, and no deny rule matches
  who       u1 (analyst)
  tool      crm_query
  resource  tenant:acme/crm/crm_query
  policy    0
  sql       SELECT 1
  columns   ssn
  tool:crm:read: allowed
    allow analysts-read-crm (line %d): holds
    deny  no-one-can-drop-tables (line %d): does not hold
          condition: sql_contains_any — does not hold
    deny  no-pii-columns-for-support-agents (line %d): does not hold
          subject: role:support_copilot, role:human_agent — here: role:analyst, user:u1
    allow internal-admins-read-everything (line %d): does not hold
          subject: role:internal_admin — here: role:analyst, user:u1
    allow support-agents-build-context (line %d): does not hold
          subject: role:support_copilot, role:human_agent — here: role:analyst, user:u1
`, line("analysts-read-crm"), line("no-one-can-drop-tables"), line("no-pii-columns-for-support-agents"), line("internal-admins-read-everything"), line("support-agents-build-context")),
		},
		{
			"denied by rule",
			firstLine(explain(t, e, callOf(t, ts["crm_query"], who("human_agent"), `{"sql":"x","columns":"ssn"}`)).String()),
			"DENY: deny rule no-pii-columns-for-support-agents matches for tool:crm:read",
		},
		{
			"denied by default",
			firstLine(explain(t, e, callOf(t, ts["tickets_search"], who("analyst"), `{}`)).String()),
			"DENY: no rule allows tool:tickets:read (deny by default)",
		},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

func TestExplainNamesWhatIsMissing(t *testing.T) {
	ts := tools()
	e := load(t, `
rules:
  - id: small
    subjects: [role:clerk]
    actions: [tool:pay:*]
    resources: ["tenant:acme/pay/*"]
    conditions: {read_only: false}
    when: |
      context.args.amount.lessThan(decimal("100.0"))
        && principal.delegator == ""
        && context.args has count && context.args.count < 5
  - id: far
    subjects: [role:other]
    actions: [tool:kb:read]
    resources: ["*"]
  - id: reads
    subjects: [role:clerk]
    actions: [tool:pay:*]
    resources: ["tenant:globex/*"]
`, ts)
	p := who("clerk")
	p.Delegator = "agent:copilot"
	x := explain(t, e, callOf(t, ts["refund"], p, `{"amount":250}`))
	want := policy.Explanation{
		Decision: "deny", Code: atlas.CodeNotAuthorized, Reason: "no rule allows tool:pay:write (deny by default)", Policy: "0",
		Tool: "refund", Tenant: "acme", Subject: "u1", Roles: []string{"clerk"}, Resource: "tenant:acme/pay/refund",
		Scopes: []policy.ScopeExplanation{{Scope: "tool:pay:write", Rules: []policy.RuleExplanation{
			{Rule: "reads", Effect: "allow", Line: 16, Outcome: "does not hold", Missing: []policy.Missing{
				{What: "resource", Want: "tenant:globex/*", Have: "tenant:acme/pay/refund"},
			}},
			{Rule: "small", Effect: "allow", Line: 3, Outcome: "does not hold", Missing: []policy.Missing{
				{What: "when", Want: `context.args.amount.lessThan(decimal("100.0"))`, Have: "false"},
				{What: "when", Want: `principal.delegator == ""`, Have: "false"},
				{What: "when", Want: `context.args has count`, Have: "false"},
			}},
		}}},
	}
	if diff := cmp.Diff(want, x); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := json.Marshal(x); err != nil {
		t.Error(err)
	}

	x = explain(t, e, callOf(t, ts["refund"], p, `{"amount":1e30}`))
	if got := x.LostArgs; len(got) != 1 || got[0] != "amount" {
		t.Errorf("unconvertible arguments: %v", got)
	}
	if r := x.Scopes[0].Rules[0]; r.Rule != "small" || r.Outcome != "cannot be decided" || !strings.Contains(r.Missing[0].Error, "no Cedar form: amount") {
		t.Errorf("rules: %+v", x.Scopes[0].Rules)
	}

	p = who("clerk")
	p.Scopes = []string{"tool:kb:read"}
	x = explain(t, e, callOf(t, ts["refund"], p, `{"amount":1}`))
	if x.Decision != "deny" || len(x.NoScopes) != 1 || x.NoScopes[0] != "tool:pay:write" || !strings.Contains(x.String(), "the token lacks tool:pay:write") {
		t.Errorf("missing scope: %s", x)
	}
}

// An explanation stays readable, whatever the policy.
func TestExplainIsBounded(t *testing.T) {
	ts := tools()
	e := load(t, manyRules(1000), ts)
	x := explain(t, e, callOf(t, ts["crm_query"], who("role0"), `{"sql":"x"}`))
	if n := len(x.Scopes[0].Rules); n != 20 || x.Scopes[0].More == 0 || x.Scopes[0].Rules[0].Outcome != "holds" {
		t.Errorf("%d rules, %d more", n, x.Scopes[0].More)
	}
}
