package demo

import "github.com/atlas-mcp/atlas"

// A Persona is somebody who works with the demo company.
type Persona struct {
	Subject string
	Tenant  atlas.TenantID
	Roles   []string
	About   string // one line for people
}

// Personas returns the personas of both tenants, the copilot's user of acme first.
func Personas() []Persona {
	return []Persona{
		{"copilot@acme", Acme, []string{"support_copilot"}, "asks questions; reads orders, tickets and documents"},
		{"agent@acme", Acme, []string{"human_agent"}, "a support agent; may also store attachments, with approval"},
		{"lead@acme", Acme, []string{"human_agent", "approver"}, "a team lead; decides approvals"},
		{"analyst@acme", Acme, []string{"analyst"}, "reads the CRM only"},
		{"copilot@globex", Globex, []string{"support_copilot"}, "the same as copilot@acme, at the other company"},
		{"agent@globex", Globex, []string{"human_agent"}, "the same as agent@acme, at the other company"},
		{"lead@globex", Globex, []string{"human_agent", "approver"}, "the same as lead@acme, at the other company"},
	}
}
