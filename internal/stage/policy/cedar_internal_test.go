package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	cedar "github.com/cedar-policy/cedar-go"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
)

// Atlas combines the rules itself, because Cedar passes over a forbid that ends in an error. This
// holds it to Cedar's own answer for the same rules as permits and forbids: where no deny rule
// fails the two agree, and where one does Atlas denies.
func TestCombinesAsCedarDoes(t *testing.T) {
	whens := []string{
		"", "true", "false", `principal.subject == "u1"`, `context.args.n > 5`, `context.args has n && context.args.n > 5`,
		`context.args.n > 5 || true`, `false && context.args.n > 5`, `context.tool.read_only`, `1 + 9223372036854775807 > 0`,
	}
	tool := &atlas.Tool{Name: "t", Source: "s", Scopes: []string{"tool:s:read"}, Input: json.RawMessage(`{"type":"object"}`), ReadOnly: true}
	p := &atlas.Principal{Subject: "u1", Tenant: "acme", Scopes: []string{"tool:s:read"}}
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		b.WriteString("rules:\n")
		for i := range rapid.IntRange(1, 6).Draw(t, "rules") {
			effect := rapid.SampledFrom([]string{"allow", "deny"}).Draw(t, "effect")
			fmt.Fprintf(&b, "  - {id: r%d, subjects: [\"*\"], actions: [\"*\"], resources: [\"*\"], effect: %s", i, effect)
			if w := rapid.SampledFrom(whens).Draw(t, "when"); w != "" {
				fmt.Fprintf(&b, ", when: '%s'", w)
			}
			b.WriteString("}\n")
		}
		e, err := Load("f", []byte(b.String()), Deps{Tools: []*atlas.Tool{tool}})
		if err != nil {
			t.Fatal(err)
		}
		args := map[string]any{}
		switch rapid.IntRange(0, 2).Draw(t, "n") {
		case 0:
		case 1:
			args["n"] = json.Number("9")
		case 2:
			args["n"] = "text"
		}
		call := atlas.Call{Tool: tool, Principal: p, Tenant: "acme", Args: atlas.Args{Values: args}}
		ev, err := e.begin(context.Background(), call)
		if err != nil {
			t.Fatal(err)
		}

		set := cedar.NewPolicySet()
		deny := map[cedar.PolicyID]bool{}
		for _, r := range e.rules {
			effect := "permit"
			if r.deny {
				effect = "forbid"
			}
			text := effect + " (principal, action, resource)"
			if r.when != nil {
				text += " when {" + r.when.text.value + "}"
			}
			var policy cedar.Policy
			if err := policy.UnmarshalCedar([]byte(text + ";")); err != nil {
				t.Fatal(err)
			}
			set.Add(cedar.PolicyID(r.id), &policy)
			deny[cedar.PolicyID(r.id)] = r.deny
		}
		request, entities := ev.request("tool:s:read", &reads{context: true, caller: true})
		decision, diagnostic := cedar.Authorize(set, entities, request)
		want := decision == cedar.Allow
		for _, failure := range diagnostic.Errors {
			if deny[failure.PolicyID] {
				want = false
			}
		}
		d := ev.decide()
		if d.Allowed != want {
			t.Fatalf("got %v, want %v (Cedar: %v %+v)\n%s", d.Allowed, want, decision, diagnostic, b.String())
		}
		for _, reason := range diagnostic.Reasons {
			if string(reason.PolicyID) < d.Rule && deny[reason.PolicyID] == !d.Allowed {
				t.Fatalf("named %s, though %s decides as well\n%s", d.Rule, reason.PolicyID, b.String())
			}
		}
	})
}

// TestNamesAreThose holds the names that a when may use to those that a decision provides.
func TestNamesAreThose(t *testing.T) {
	tool := &atlas.Tool{Name: "t", Source: "s", Scopes: []string{"tool:s:read"}}
	ev := &evaluation{
		info: inform(tool),
		call: &atlas.Call{Tool: tool, Principal: &atlas.Principal{Subject: "u", Tenant: "acme"}, Tenant: "acme"},
	}
	request, entities := ev.request("tool:s:read", &reads{context: true, caller: true})
	entity, ok := entities.Get(request.Principal)
	if !ok {
		t.Fatal("no principal")
	}
	get := func(name string) cedar.Record {
		v, _ := request.Context.Get(cedar.String(name))
		r, _ := v.(cedar.Record)
		return r
	}
	for of, c := range map[string]struct {
		have  cedar.Record
		names []string
	}{
		"principal": {entity.Attributes, principalNames}, "context": {request.Context, contextNames},
		"tool": {get("tool"), toolNames}, "facts": {get("facts"), factNames},
	} {
		if c.have.Len() != len(c.names) {
			t.Errorf("%s has %d names, the table %d", of, c.have.Len(), len(c.names))
		}
		for _, name := range c.names {
			if _, ok := c.have.Get(cedar.String(name)); !ok {
				t.Errorf("%s lacks %s", of, name)
			}
		}
	}
}
