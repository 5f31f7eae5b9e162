package registry_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/registry"
)

// byRole lets the holders of a role have its scopes.
func byRole(roles map[string][]string) func(*atlas.Principal, string) bool {
	return func(p *atlas.Principal, scope string) bool {
		return slices.ContainsFunc(p.Roles, func(r string) bool { return slices.Contains(roles[r], scope) })
	}
}

func TestStepUp(t *testing.T) {
	ts := tools("read", "refund", "wire", "hidden", "outside", "unscoped")
	ts[1].Scopes = []string{"tool:crm:read", "tool:crm:write"}
	ts[2].Scopes = []string{"tool:crm:write", "tool:bank:send"}
	ts[3].Scopes = []string{"tool:crm:write"}
	ts[4].Scopes = []string{"tool:crm:write"}
	ts[5].Scopes = nil
	roles := map[string][]string{"agent": {"tool:crm:write"}, "treasurer": {"tool:crm:write", "tool:bank:send"}}
	cfg := registry.Config{
		Toolsets:   map[string][]string{"mine": {"read", "refund", "wire", "hidden", "unscoped"}},
		Roles:      map[string][]string{"agent": {"mine"}, "treasurer": {"mine"}},
		Obtainable: byRole(roles),
	}
	vis := rules{hidden: map[string][]string{"alice": {"hidden", "unscoped"}, "globex": {"refund"}}}
	r := build(t, ts, vis, cfg)
	off := cfg
	off.Obtainable = nil
	without := build(t, ts, vis, off)

	_, unknown := call(r, someone("alice"), "no_such_tool")
	alike := func(name string, err error) {
		t.Helper()
		if d := cmp.Diff(atlas.ErrorOf(unknown).Failure("r"), atlas.ErrorOf(err).Failure("r")); d != "" || err.Error() != unknown.Error() {
			t.Errorf("%s answers otherwise than an unknown tool: %s", name, d)
		}
	}
	for _, tt := range []struct {
		role, tool string
		want       []string // nil: as unknown
	}{
		{"agent", "refund", []string{"tool:crm:read", "tool:crm:write"}},
		{"agent", "wire", nil}, // one of its scopes is out of reach
		{"treasurer", "wire", []string{"tool:crm:write", "tool:bank:send"}},
		{"agent", "hidden", nil},   // policy would hide it all the same
		{"agent", "outside", nil},  // not in the role's toolsets
		{"agent", "unscoped", nil}, // no scope is missing; policy hides it
		{"visitor", "refund", nil}, // the role may not have the scope
		{"", "refund", nil},
		{"agent", "no_such_tool", nil},
		{"agent", "", nil},
		{"agent", "REFUND", nil},
		{"agent", strings.Repeat("refund", 1<<12), nil},
	} {
		p := someone("alice")
		if tt.role != "" {
			p.Roles = []string{tt.role}
		}
		for range 2 { // the second time from the view that the first has made
			tl, err := call(r, p, tt.tool)
			if tl != nil {
				t.Errorf("%s got %s", tt.role, tt.tool)
			}
			if tt.want == nil {
				alike(tt.role+" "+tt.tool, err)
				continue
			}
			e := atlas.ErrorOf(err)
			if e.Code != atlas.CodeInsufficientScope || !cmp.Equal(e.Context, map[string]any{"scopes": tt.want}) {
				t.Errorf("%s %s: %v %v", tt.role, tt.tool, err, e.Context)
			}
		}
		_, err := call(without, p, tt.tool)
		alike("with step-up off, "+tt.tool, err)
		if slices.Contains(list(t, r, p, "acme"), tt.tool) {
			t.Errorf("%s is listed", tt.tool)
		}
		if _, ok := r.Find(p, "acme", tt.tool); ok {
			t.Errorf("%s is found", tt.tool)
		}
	}

	// With the scopes it is an ordinary call; for another tenant, that tenant's rules count.
	p := someone("alice")
	p.Roles, p.Scopes = []string{"agent"}, []string{"tool:crm:read", "tool:crm:write"}
	if tl, err := call(r, p, "refund"); err != nil || tl.Name != "refund" {
		t.Errorf("with the scope: %v", err)
	}
	p = someone("alice")
	p.Roles = []string{"agent"}
	_, err := r.Stage(nil)(t.Context(), atlas.Call{Name: "refund", Principal: p, Tenant: "globex"})
	alike("refund for globex", err)
}

// The answer must not depend on work that is done only for names that exist.
func TestStepUpIsDecidedBeforeTheCall(t *testing.T) {
	ts := tools("a", "b")
	ts[1].Scopes = []string{"tool:crm:write"}
	asked, obtained := 0, 0
	r := build(t, ts, rules{asked: &asked}, registry.Config{Obtainable: func(*atlas.Principal, string) bool { obtained++; return true }})
	p := someone("alice")
	_, _ = call(r, p, "no_such_tool")
	before := [2]int{asked, obtained}
	if before != [2]int{2, 1} {
		t.Fatalf("the first call asked %v", before)
	}
	for _, name := range []string{"a", "b", "no_such_tool"} {
		_, _ = call(r, p, name)
	}
	if after := [2]int{asked, obtained}; after != before {
		t.Errorf("a call asked policy again: %v, then %v", before, after)
	}
}

// What asking for more would give must not be shown to who merely shares a token's id.
func TestStepUpIsTheCallersOwn(t *testing.T) {
	ts := tools("a")
	ts[0].Scopes = []string{"tool:crm:write"}
	r := build(t, ts, rules{}, registry.Config{Obtainable: byRole(map[string][]string{"agent": {"tool:crm:write"}})})
	agent, other := someone("alice"), someone("alice")
	agent.Roles = []string{"agent"}
	for range 2 {
		if _, err := call(r, agent, "a"); atlas.CodeOf(err) != atlas.CodeInsufficientScope {
			t.Errorf("agent: %v", err)
		}
		if _, err := call(r, other, "a"); atlas.CodeOf(err) != atlas.CodeToolNotFound {
			t.Errorf("other: %v", err)
		}
	}
	if len(agent.Scopes) != 1 {
		t.Errorf("the principal was changed: %v", agent.Scopes)
	}
}
