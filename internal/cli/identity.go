package cli

import (
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

// identity are the flags that say as whom a command acts on the operator's own machine.
type identity struct {
	As     string   `help:"Persona of the demo company, such as copilot@acme, or any subject together with --tenant and --role." placeholder:"SUBJECT"`
	Tenant string   `help:"Tenant of a subject that is no persona." placeholder:"TENANT"`
	Role   []string `help:"Role of a subject that is no persona; may be repeated." placeholder:"ROLE"`
}

// principal returns who acts. With no flag it is the named persona.
func (i identity) principal(a *app.App, persona string) (*atlas.Principal, error) {
	if i.Tenant == "" && len(i.Role) == 0 {
		name := i.As
		if name == "" {
			name = persona
		}
		p, ok := a.Persona(name)
		if !ok {
			return nil, usage("%q is no persona; use one of %s, or give --tenant and --role too", name, strings.Join(a.PersonaNames(), ", "))
		}
		return p, nil
	}
	if i.As == "" || i.Tenant == "" {
		return nil, usage("give --as, --tenant and --role together")
	}
	tenant, err := atlas.ParseTenantID(i.Tenant)
	if err != nil {
		return nil, usage("--tenant: %w", err)
	}
	p, err := a.Principal(i.As, tenant, i.Role)
	if err != nil {
		return nil, usage("%w", err)
	}
	return p, nil
}
