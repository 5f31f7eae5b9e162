package policy_test

import (
	"testing"

	"github.com/atlas-mcp/atlas"
)

// Who impersonates brings a subject of another tenant: an allow rule for a user of the tenant does not
// mean the namesake, and a deny rule for a subject holds wherever it comes from.
func TestNamesakeOfAnotherTenant(t *testing.T) {
	ts := tools()
	for name, subject := range map[string]string{"plain": "user:u1", "glob": "user:u*"} {
		t.Run(name, func(t *testing.T) {
			e := load(t, `rules: [{id: a, subjects: ["`+subject+`"], actions: ["tool:*:read"], resources: ["tenant:*/*"]}]`, ts)
			d := load(t, `rules:
  - {id: a, subjects: ["*"], actions: ["tool:*:read"], resources: ["tenant:*/*"]}
  - {id: d, subjects: ["`+subject+`"], actions: ["tool:*:read"], resources: ["tenant:*/*"], effect: deny}
`, ts)
			tool := ts["crm_query"]
			own := callOf(t, tool, who(), `{"sql":"SELECT 1"}`)
			namesake := own
			p := *own.Principal
			p.Tenant = "globex"
			p.Scopes = append([]string{atlas.ScopeImpersonate}, p.Scopes...)
			namesake.Principal = &p // for acme, with acme's subject, from globex
			if got, err := e.Decide(t.Context(), own); err != nil || !got.Allowed || !e.Visible(own.Principal, "acme", tool) {
				t.Errorf("the tenant's own user: %+v, %v", got, err)
			}
			if got, err := e.Decide(t.Context(), namesake); err != nil || got.Allowed || e.Visible(&p, "acme", tool) {
				t.Errorf("the namesake: %+v, %v", got, err)
			}
			if got, err := d.Decide(t.Context(), namesake); err != nil || got.Allowed || got.Rule != "d" {
				t.Errorf("denied, the namesake: %+v, %v", got, err)
			}
		})
	}
}
