package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/policy"
)

// everyone allows everything and adds the rules given.
func everyone(rules string) string {
	return "rules:\n  - {id: all, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"]}\n" + rules
}

func forbid(id, when string) string {
	return fmt.Sprintf("  - {id: %s, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, when: %q}\n", id, when)
}

// Cedar skips a forbid that ends in an error; Atlas denies.
func TestDenyRuleThatFailsDenies(t *testing.T) {
	// The schema of this tool says nothing, so that the load cannot rule the error out.
	open := &atlas.Tool{Name: "open", Source: "open", Scopes: []string{"tool:open:read"}, Input: json.RawMessage(`{"type":"object"}`)}
	ts := map[string]*atlas.Tool{"open": open}
	e := load(t, everyone(forbid("big", "context.args.amount > 100")), ts)
	for _, c := range []struct {
		args string
		code atlas.Code
	}{
		{`{"amount":100}`, ""},
		{`{"amount":101}`, atlas.CodeDeniedByPolicy},
		{`{}`, atlas.CodeDeniedByPolicy},                // no such attribute
		{`{"amount":"many"}`, atlas.CodeDeniedByPolicy}, // type error
		{`{"amount":1.5}`, atlas.CodeDeniedByPolicy},    // a decimal is not compared with >
		{`{"amount":null}`, atlas.CodeDeniedByPolicy},
		{`{"amount":1e30}`, atlas.CodeDeniedByPolicy},
		{`{"amount":{"a":[null]}}`, atlas.CodeDeniedByPolicy},
		{`{"amount":9223372036854775808}`, atlas.CodeDeniedByPolicy},
	} {
		d := decide(t, e, callOf(t, open, who(), c.args))
		if got := atlas.CodeOf(d.Err()); got != c.code {
			t.Errorf("%s: got %q, want %q", c.args, got, c.code)
		}
		if c.code != "" && d.Rule != "big" {
			t.Errorf("%s: rule %q, want big", c.args, d.Rule)
		}
	}
}

// An argument that Cedar cannot hold must not slip past "has".
func TestArgumentWithoutCedarFormIsNotAbsent(t *testing.T) {
	ts := tools()
	guard := forbid("big", `context.args has amount && context.args.amount.greaterThan(decimal("100.0"))`)
	e := load(t, everyone(strings.Replace(guard, `actions: ["*"]`, `actions: ["tool:pay:*"]`, 1)), ts)
	for args, allowed := range map[string]bool{
		`{"amount":99.5}`: true, `{"amount":100}`: true, `{"amount":100.0001}`: false, `{"amount":101}`: false,
		`{"amount":1e30}`: false, `{"amount":0.00001}`: false, `{"amount":1000000000000000000000}`: false, `{"amount":-1e400}`: false,
	} {
		if d := decide(t, e, callOf(t, ts["refund"], who(), args)); d.Allowed != allowed {
			t.Errorf("%s: allowed %v, want %v (%v)", args, d.Allowed, allowed, d.Err())
		}
	}
	// For an allow rule it is no permission either.
	e = load(t, strings.Replace(rule(`when: '!(context.args has amount) || context.args.amount.lessThan(decimal("1.0"))'`), `actions: ["*"]`, `actions: ["tool:pay:*"]`, 1), ts)
	if d := decide(t, e, callOf(t, ts["refund"], who(), `{"amount":1e30}`)); d.Allowed {
		t.Error("an allow rule took an argument without Cedar form for an absent one")
	}
}

func TestWhenSeesTheCall(t *testing.T) {
	ts := tools()
	p := &atlas.Principal{Subject: "u1", Tenant: "acme", Roles: []string{"analyst"}, Scopes: []string{"tool:crm:read", "tool:pay:write"}, Delegator: "agent:copilot"}
	for when, want := range map[string]bool{
		`principal.subject == "u1" && principal.tenant == "acme" && principal.delegator == "agent:copilot"`: true,
		`principal.roles.contains("analyst") && principal.scopes.contains("tool:crm:read")`:                 true,
		`principal.roles.contains("admin")`:              false,
		`principal.delegator == ""`:                      false,
		`action == Action::"tool:pay:write"`:             true,
		`action == Action::"tool:crm:read"`:              false,
		`resource == Resource::"tenant:acme/pay/refund"`: true,
		`context.tenant == "acme"`:                       true,
		`context.tool.name == "refund" && context.tool.level == "atomic" && context.tool.destructive`: true,
		`context.tool.source == "pay" && !context.tool.read_only && context.tool.effects == ""`:       true,
		`context.args.amount == decimal("5.0")`:                                                       true,
		`context.args has count && context.args.count == 5`:                                           true,
		`context.args has tags && context.args.tags.containsAll(["a", "b"])`:                          true,
		`context.args has to && context.args.to.iban like "DE*"`:                                      true,
		// A null is absent.
		`context.args has to.fee`:                                   false,
		`context.facts.sql == "" && context.facts.tables.isEmpty()`: true,
		`context.facts.pii.contains("email")`:                       false,
	} {
		e := load(t, strings.Replace(rule(fmt.Sprintf("when: %q", when)), `actions: ["*"]`, `actions: ["tool:pay:*"]`, 1), ts)
		args := `{"amount":5,"count":5,"tags":["b","a"],"to":{"iban":"DE12","fee":null}}`
		if d := decide(t, e, callOf(t, ts["refund"], p, args)); d.Allowed != want {
			t.Errorf("%s: got %v, want %v (%v)", when, d.Allowed, want, d.Err())
		}
	}
}

func TestEveryScopeMustBeAllowed(t *testing.T) {
	ts := tools()
	tool := ts["hybrid_search"]
	docs := "  - {id: docs, subjects: [\"*\"], actions: [\"tool:docs:read\"], resources: [\"*\"]}\n"
	kb := "  - {id: kb, subjects: [\"*\"], actions: [\"tool:kb:read\"], resources: [\"*\"]}\n"
	noKB := "  - {id: no-kb, subjects: [\"*\"], actions: [\"tool:kb:*\"], resources: [\"*\"], effect: deny}\n"
	for _, c := range []struct {
		rules, rule, scope string
		code               atlas.Code
	}{
		{"rules:\n" + docs + kb, "docs,kb", "", ""},
		{"rules:\n" + kb + docs, "docs,kb", "", ""},
		{"rules:\n" + docs, "", "tool:kb:read", atlas.CodeNotAuthorized},
		{"rules:\n" + kb, "", "tool:docs:read", atlas.CodeNotAuthorized},
		{"rules:\n" + docs + kb + noKB, "no-kb", "tool:kb:read", atlas.CodeDeniedByPolicy},
		{"rules:\n" + docs + noKB, "no-kb", "tool:kb:read", atlas.CodeDeniedByPolicy},
		{everyone(""), "all", "", ""},
	} {
		e := load(t, c.rules, ts)
		d := decide(t, e, callOf(t, tool, who("x"), `{}`))
		if d.Rule != c.rule || d.Scope != c.scope || atlas.CodeOf(d.Err()) != c.code {
			t.Errorf("%s\ngot rule %q scope %q code %q, want %q %q %q", c.rules, d.Rule, d.Scope, atlas.CodeOf(d.Err()), c.rule, c.scope, c.code)
		}
		if visible := e.Visible(who("x"), "acme", tool); visible != (c.code == "") {
			t.Errorf("%s\nvisible %v", c.rules, visible)
		}
	}
}

func TestNothingAllowsWhatIsNotTheCallers(t *testing.T) {
	ts := tools()
	e := load(t, everyone(""), ts)
	scoped := &atlas.Principal{Subject: "u", Tenant: "acme", Scopes: []string{"tool:crm:read"}}
	support := &atlas.Principal{Subject: "u", Tenant: "acme", Scopes: []string{"tool:crm:read", atlas.ScopeImpersonate}}
	for name, c := range map[string]struct {
		p       *atlas.Principal
		tenant  atlas.TenantID
		tool    string
		allowed bool
	}{
		"own":                       {scoped, "acme", "crm_query", true},
		"other tenant":              {scoped, "globex", "crm_query", false},
		"other tenant, may":         {support, "globex", "crm_query", true},
		"no tenant":                 {scoped, "", "crm_query", false},
		"scope missing":             {scoped, "acme", "kb_search", false},
		"one of two scopes missing": {scoped, "acme", "hybrid_search", false},
		"tool without scopes":       {who(), "acme", "bare", false},
	} {
		call := callOf(t, ts[c.tool], c.p, `{"sql":"SELECT 1"}`)
		call.Tenant = c.tenant
		d := decide(t, e, call)
		if d.Allowed != c.allowed || !c.allowed && atlas.CodeOf(d.Err()) != atlas.CodeNotAuthorized {
			t.Errorf("%s: got %v %v", name, d.Allowed, d.Err())
		}
		if v := e.Visible(c.p, c.tenant, ts[c.tool]); v != c.allowed {
			t.Errorf("%s: visible %v", name, v)
		}
	}
}

// A rule for one tenant says nothing about another one, however alike their names are.
func TestTenantsDoNotMix(t *testing.T) {
	ts := tools()
	e := load(t, "rules:\n  - {id: a, subjects: [\"*\"], actions: [\"*\"], resources: [\"tenant:acme/*\"]}\n", ts)
	for tenant, want := range map[atlas.TenantID]bool{"acme": true, "acme2": false, "acm": false, "globex": false, "acme-eu": false} {
		p := &atlas.Principal{Subject: "u", Tenant: tenant, Scopes: []string{atlas.ScopeAdmin}}
		// Twice: the second answer of Visible comes from memory.
		for range 2 {
			if got := e.Visible(p, tenant, ts["crm_query"]); got != want {
				t.Errorf("%s: visible %v, want %v", tenant, got, want)
			}
		}
		if d := decide(t, e, callOf(t, ts["crm_query"], p, `{"sql":"x"}`)); d.Allowed != want {
			t.Errorf("%s: allowed %v, want %v", tenant, d.Allowed, want)
		}
	}
	// A key is not a way to the other tenant's resources.
	p := &atlas.Principal{Subject: "u", Tenant: "globex", Scopes: []string{atlas.ScopeAdmin}}
	for _, key := range []string{"../../tenant:acme/files/x", "/tenant:acme/files/x", "../acme/x", "./x"} {
		if d := decide(t, e, callOf(t, ts["files_get"], p, `{"key":"`+key+`"}`)); d.Allowed {
			t.Errorf("key %s is allowed", key)
		}
	}
}

func TestFacts(t *testing.T) {
	ts := tools()
	noDrop := "  - {id: no-drop, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {sql_contains_any: [DROP]}}\n"
	narrow := "  - {id: no-drop-in-writes, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {sql_contains_any: [DROP], read_only: false}}\n"
	asked := 0
	tool := *ts["crm_query"]
	tool.Facts = func(ctx context.Context, call atlas.Call) (atlas.Facts, error) {
		asked++
		if _, ok := ctx.Deadline(); !ok {
			t.Error("Facts has no deadline")
		}
		if call.Facts.SQL != "" {
			t.Error("Facts sees facts that a caller brought along")
		}
		return sqlFacts(ctx, call)
	}
	ts["crm_query"] = &tool
	call := func(p *atlas.Principal, sql string) atlas.Call {
		c := callOf(t, &tool, p, `{"sql":"`+sql+`"}`)
		c.Facts = atlas.Facts{SQL: "forged", Tables: []string{"forged"}}
		return c
	}
	for _, c := range []struct {
		name, rules, sql string
		code             atlas.Code
		rule             string
		asked            int
	}{
		{"not needed", everyone(""), "SELECT 1", "", "all", 0},
		{"needed", everyone(noDrop), "SELECT 1", "", "all", 1},
		{"denied", everyone(noDrop), "DROP x", atlas.CodeDeniedByPolicy, "no-drop", 1},
		{"no allow rule", "rules:\n" + noDrop, "DROP x", atlas.CodeNotAuthorized, "", 0},
		{"bad SQL is told as such", everyone(noDrop), "bad", atlas.CodeInvalidQuery, "no-drop", 1},
		{"unknown error denies", everyone(noDrop), "down", atlas.CodeDeniedByPolicy, "no-drop", 1},
		{"error in a rule that cannot match", everyone(narrow), "down", "", "all", 1},
		{"deny rule beats bad SQL", everyone(noDrop + forbid("no-crm", `context.tool.source == "crm"`)), "bad", atlas.CodeDeniedByPolicy, "no-crm", 1},
		{"bad SQL of a caller whom no rule allows", strings.Replace(rule(`when: principal.subject == "other"`), "id: r", "id: only-other", 1) + noDrop, "bad", atlas.CodeDeniedByPolicy, "no-drop", 1},
		{"error in an allow rule", rule("conditions: {tables: [orders]}"), "down", atlas.CodeNotAuthorized, "", 1},
		{"error in a when", everyone(forbid("no-secret", `context.facts.tables.contains("secret")`)), "down", atlas.CodeDeniedByPolicy, "no-secret", 1},
	} {
		asked = 0
		e := load(t, c.rules, ts)
		d := decide(t, e, call(who("x"), c.sql))
		if atlas.CodeOf(d.Err()) != c.code || d.Rule != c.rule || asked != c.asked {
			t.Errorf("%s: got %q by %q, asked %d times; want %q by %q, %d", c.name, atlas.CodeOf(d.Err()), d.Rule, asked, c.code, c.rule, c.asked)
		}
		if d.Allowed && (d.Facts.SQL == "forged" || len(d.Facts.Tables) > 0) {
			t.Errorf("%s: facts %+v were not found out", c.name, d.Facts)
		}
		var e2 *atlas.Error
		if errors.As(d.Err(), &e2) && strings.Contains(fmt.Sprint(e2.Failure("r")), "fire") {
			t.Errorf("%s: the caller sees the source's error", c.name)
		}
	}
	// Nobody whom the scopes rule out gets the source to work.
	asked = 0
	p := &atlas.Principal{Subject: "u", Tenant: "acme"}
	if d := decide(t, load(t, everyone(noDrop), ts), call(p, "SELECT 1")); d.Allowed || asked != 0 {
		t.Errorf("without scopes: allowed %v, asked %d times", d.Allowed, asked)
	}
}

func TestFactsEndWithTheCall(t *testing.T) {
	ts := tools()
	tool := *ts["crm_query"]
	tool.Facts = func(ctx context.Context, _ atlas.Call) (atlas.Facts, error) {
		<-ctx.Done()
		return atlas.Facts{}, ctx.Err()
	}
	ts["crm_query"] = &tool
	e := load(t, everyone("  - {id: d, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {tables: [x]}}\n"), ts)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := e.Decide(ctx, callOf(t, &tool, who(), `{"sql":"x"}`))
	if atlas.CodeOf(err) != atlas.CodeCanceled {
		t.Errorf("got %v, want canceled", err)
	}
	tool.Facts = func(ctx context.Context, _ atlas.Call) (atlas.Facts, error) {
		if deadline, _ := ctx.Deadline(); time.Until(deadline) > time.Second {
			t.Error("the tool's own timeout does not bound Facts")
		}
		<-ctx.Done()
		return atlas.Facts{}, ctx.Err()
	}
	tool.Timeout = 1 // a nanosecond: the source is too slow, the caller may try again
	d := decide(t, e, callOf(t, &tool, who(), `{"sql":"x"}`))
	if d.Allowed || atlas.CodeOf(d.Err()) != atlas.CodeTimeout {
		t.Errorf("got %v %v, want timeout", d.Allowed, d.Err())
	}
}

func TestPIIWithoutDetectorFailsClosed(t *testing.T) {
	ts := tools()
	text := everyone("  - {id: d, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {pii_kinds: [x]}}\n")
	e, err := policy.Load("f", []byte(text), policy.Deps{Tools: list(ts)})
	if err != nil {
		t.Fatal(err)
	}
	d := decide(t, e, callOf(t, ts["kb_search"], who(), `{"text":"x"}`))
	if d.Allowed || d.Rule != "d" || atlas.CodeOf(d.Err()) != atlas.CodeDeniedByPolicy {
		t.Errorf("got %+v", d)
	}
}

func TestIncompleteCalls(t *testing.T) {
	ts := tools()
	e := load(t, everyone(forbid("d", `context.args has text && context.args.text == "x"`)), ts)
	for name, c := range map[string]struct {
		call atlas.Call
		code atlas.Code
	}{
		"no tool":      {atlas.Call{Principal: who()}, atlas.CodeInternal},
		"no principal": {atlas.Call{Tool: ts["kb_search"]}, atlas.CodeInternal},
		"no object":    {atlas.Call{Tool: ts["kb_search"], Principal: who(), Tenant: "acme", Args: atlas.Args{Raw: json.RawMessage(`[1]`)}}, atlas.CodeInvalidArguments},
	} {
		if _, err := e.Decide(t.Context(), c.call); atlas.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	// Raw arguments that nobody decoded are decoded here, not ignored.
	raw := atlas.Call{Tool: ts["kb_search"], Principal: who(), Tenant: "acme", Args: atlas.Args{Raw: json.RawMessage(`{"text":"x"}`)}}
	if d := decide(t, e, raw); d.Allowed || d.Rule != "d" {
		t.Errorf("raw arguments: got %+v", d)
	}
}

func TestStage(t *testing.T) {
	ts := tools()
	e := load(t, everyone("  - {id: no-drop, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {sql_contains_any: [DROP]}}\n"), ts)
	broken := errors.New("broken")
	var seen []atlas.Call
	h := e.Stage(func(_ context.Context, call atlas.Call) (atlas.Result, error) {
		seen = append(seen, call)
		return atlas.Result{Notes: atlas.Notes{Cache: "miss"}}, broken
	})
	call := callOf(t, ts["crm_query"], who("x"), `{"sql":"SELECT 1","tables":"orders"}`)
	res, err := h(t.Context(), call)
	if !errors.Is(err, broken) {
		t.Errorf("error %v is not the inner one", err)
	}
	want := atlas.Notes{Cache: "miss", Decision: "allow", Rule: "all", PolicyHash: e.Hash()}
	if diff := cmp.Diff(want, res.Notes); diff != "" {
		t.Errorf("notes beside an inner error (-want +got):\n%s", diff)
	}
	if len(seen) != 1 || seen[0].Facts.SQL != "SELECT 1" || len(seen[0].Facts.Tables) != 1 {
		t.Errorf("inner stages saw %+v", seen)
	}

	res, err = h(t.Context(), callOf(t, ts["crm_query"], who("x"), `{"sql":"DROP TABLE x"}`))
	var refusal *atlas.Error
	if !errors.As(err, &refusal) || refusal.Code != atlas.CodeDeniedByPolicy || refusal.Context["rule"] != "no-drop" {
		t.Errorf("got %v, want denied_by_policy of no-drop", err)
	}
	if diff := cmp.Diff(atlas.Notes{Decision: "deny", Rule: "no-drop", PolicyHash: e.Hash()}, res.Notes); diff != "" {
		t.Errorf("notes of a refusal (-want +got):\n%s", diff)
	}
	if len(seen) != 1 {
		t.Error("a denied call went on")
	}
	if strings.Contains(fmt.Sprint(refusal.Failure("r")), "DROP") {
		t.Error("the refusal repeats the SQL")
	}

	if _, err := h(t.Context(), atlas.Call{Op: atlas.OpList, Principal: who()}); !errors.Is(err, broken) || len(seen) != 2 {
		t.Errorf("a list did not pass: %v", err)
	}
}

// Of several rules that decide, the one with the smallest id is named, however the file and the
// subjects are ordered.
func TestSmallestIDIsNamed(t *testing.T) {
	ts := tools()
	line := func(id, subject, effect string) string {
		return fmt.Sprintf("  - {id: %s, subjects: [%q], actions: [\"*\"], resources: [\"*\"], effect: %s}\n", id, subject, effect)
	}
	for _, c := range []struct {
		want  string
		rules []string
	}{
		{"a", []string{line("b", "*", "allow"), line("a", "role:x", "allow")}},
		{"a", []string{line("a", "*", "allow"), line("b", "role:x", "allow")}},
		{"a", []string{line("c", "user:u1", "allow"), line("b", "role:x", "allow"), line("a", "role:*", "allow")}},
		{"d", []string{line("e", "*", "deny"), line("b", "role:x", "allow"), line("d", "role:x", "deny")}},
		{"d", []string{line("d", "user:*", "deny"), line("a", "role:x", "allow"), line("e", "*", "deny")}},
	} {
		for range 2 {
			e := load(t, "rules:\n"+strings.Join(c.rules, ""), ts)
			if d := decide(t, e, callOf(t, ts["kb_search"], who("x"), `{}`)); d.Rule != c.want {
				t.Errorf("%v: got %s, want %s", c.rules, d.Rule, c.want)
			}
			slices.Reverse(c.rules)
		}
	}
}

// The laws of the decision, for random rules: deny by default, deny beats allow, and the order of
// the rules does not matter.
func TestLaws(t *testing.T) {
	ts := tools()
	names := []string{"crm_query", "hybrid_search", "files_get", "refund"}
	type drawn struct {
		deny bool
		text string
	}
	oneOf := func(t *rapid.T, name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	rapid.Check(t, func(t *rapid.T) {
		var rules []drawn
		for i := range rapid.IntRange(0, 6).Draw(t, "rules") {
			r := drawn{deny: rapid.Bool().Draw(t, "deny")}
			r.text = fmt.Sprintf("  - {id: r%d, subjects: [%q], actions: [%q], resources: [%q]", i,
				oneOf(t, "subject", "*", "role:a", "role:*", "user:u1", "user:x*"),
				oneOf(t, "action", "*", "tool:*:read", "tool:crm:read", "tool:kb:*", "tool:pay:write"),
				oneOf(t, "resource", "*", "tenant:acme/*", "tenant:globex/*", "tenant:*/files/docs/*", "tenant:a*/crm/*"))
			if r.deny {
				r.text += ", effect: deny"
			}
			r.text += oneOf(t, "condition", "", "", ", conditions: {read_only: true}", ", conditions: {tables: [t]}", ", conditions: {sql_contains_any: [drop], read_only: true}")
			r.text += oneOf(t, "when", "", "", `, when: 'context.tool.read_only'`, `, when: 'principal.subject == "u1" && context.facts.sql like "*drop*"'`,
				`, when: 'resource == Resource::"tenant:acme/crm/crm_query"'`)
			rules = append(rules, r)
		}
		text := func(rules []drawn) string {
			out := "rules:\n"
			if len(rules) == 0 {
				out = "rules: []\n"
			}
			for _, r := range rules {
				out += r.text + "}\n"
			}
			return out
		}
		engine := func(rules []drawn) *policy.Engine {
			e, err := policy.Load("f", []byte(text(rules)), policy.Deps{Tools: list(ts), PII: fakePII})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		tool := ts[rapid.SampledFrom(names).Draw(t, "tool")]
		args := oneOf(t, "args", `{"sql":"SELECT 1","key":"docs/x"}`, `{"sql":"drop x","tables":"t"}`, `{"sql":"bad","key":"x"}`, `{"sql":"down"}`)
		p := who(oneOf(t, "role", "a", "b"))
		values := map[string]any{}
		if err := json.Unmarshal([]byte(args), &values); err != nil {
			t.Fatal(err)
		}
		call := atlas.Call{Tool: tool, Principal: p, Tenant: "acme", Args: atlas.Args{Raw: json.RawMessage(args), Values: values}}
		ask := func(e *policy.Engine) policy.Decision {
			d, err := e.Decide(context.Background(), call)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		full := engine(rules)
		d := ask(full)

		// Order.
		shuffled := rapid.Permutation(rules).Draw(t, "order")
		other := engine(shuffled)
		if o := ask(other); o.Allowed != d.Allowed || o.Rule != d.Rule || o.Scope != d.Scope || atlas.CodeOf(o.Err()) != atlas.CodeOf(d.Err()) || other.Hash() != full.Hash() {
			t.Fatalf("order matters: %+v (%v), %+v (%v)\n%s", d, d.Err(), o, o.Err(), text(rules))
		}
		// Deny by default: deny rules alone never allow; no rule, no call.
		var allows, denies []drawn
		for _, r := range rules {
			if r.deny {
				denies = append(denies, r)
			} else {
				allows = append(allows, r)
			}
		}
		if ask(engine(denies)).Allowed {
			t.Fatal("deny rules allow")
		}
		// Deny beats allow: one more deny rule never allows, one more allow rule never helps it.
		without := ask(engine(allows))
		if d.Allowed && !without.Allowed {
			t.Fatalf("deny rules made a call allowed\n%s", text(rules))
		}
		wall := append([]drawn{{deny: true, text: `  - {id: wall, subjects: ["*"], actions: ["*"], resources: ["*"], effect: deny`}}, rules...)
		if w := ask(engine(wall)); w.Allowed {
			t.Fatalf("an allow rule beats a deny rule\n%s", text(wall))
		}
		// What is allowed is visible, and the explanation agrees with the decision.
		if d.Allowed && !full.Visible(p, "acme", tool) {
			t.Fatalf("an allowed call is not visible\n%s", text(rules))
		}
		x, err := full.Explain(context.Background(), call)
		if err != nil {
			t.Fatal(err)
		}
		if (x.Decision == "allow") != d.Allowed || x.Rule != d.Rule || x.Code != atlas.CodeOf(d.Err()) {
			t.Fatalf("explained %s by %q (%s), decided %v by %q (%v)\n%s", x.Decision, x.Rule, x.Code, d.Allowed, d.Rule, d.Err(), text(rules))
		}
	})
}

func TestEngineIsSafeForConcurrentUse(t *testing.T) {
	ts := tools()
	e := load(t, everyone(forbid("d", `principal.roles.contains("r3") && context.tool.read_only`)+
		"  - {id: u, subjects: [\"user:u*\"], actions: [\"*\"], resources: [\"*\"], effect: deny, conditions: {tables: [secret]}}\n"), ts)
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for j := range 200 {
				p := who(fmt.Sprintf("r%d", (i+j)%5))
				call := callOf(t, ts["crm_query"], p, `{"sql":"x"}`)
				d, err := e.Decide(t.Context(), call)
				want := p.Roles[0] != "r3"
				if err != nil || d.Allowed != want || e.Visible(p, "acme", ts["crm_query"]) != want {
					t.Errorf("role %s: got %v %v", p.Roles[0], d.Allowed, err)
				}
			}
		})
	}
	group.Wait()
}
