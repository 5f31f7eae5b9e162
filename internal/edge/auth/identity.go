package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// Who a token is for: what its claims, mapped by the issuer's settings, make of it.

func (in *inspection) tenant(context.Context) *fault {
	if in.from.Tenant != "" {
		in.p.Tenant = atlas.TenantID(in.from.Tenant)
		in.note("%s, fixed for the issuer", in.from.Tenant)
		return nil
	}
	in.look(in.from.tenantAt)
	const remedy = "let the issuer put the tenant into this claim, or name another under claims.tenant"
	value := one(in.from.tenantAt.in(in.claims), in.from.ownTenant)
	if value == "" {
		return &fault{code: atlas.CodeNoTenant, remedy: remedy, reason: fmt.Sprintf("%s is %s", in.from.tenantAt, show(in.from.tenantAt.in(in.claims)))}
	}
	named := value
	if len(in.from.TenantMap) > 0 {
		t, ok := in.from.TenantMap[value]
		if !ok {
			return &fault{
				code: atlas.CodeNoTenant, remedy: "add the value to tenant_map of the issuer",
				reason: fmt.Sprintf("%s is %s, which tenant_map does not hold", in.from.tenantAt, show(value)),
			}
		}
		named = t
	}
	id, err := atlas.ParseTenantID(named)
	if err != nil {
		return &fault{
			code: atlas.CodeNoTenant, cause: err, remedy: "map the value to a tenant id with tenant_map of the issuer",
			reason: fmt.Sprintf("%s is %s, which is no tenant id", in.from.tenantAt, show(named)),
		}
	}
	if len(in.from.Tenants) > 0 && !slices.Contains(in.from.Tenants, named) {
		return faultf("take a token of the tenant's own issuer, or add the tenant to tenants of this one",
			"the issuer may not speak for tenant %s, only for %s", id, strings.Join(in.from.Tenants, ", "))
	}
	in.p.Tenant = id
	in.note("%s, from %s", id, in.from.tenantAt)
	return nil
}

func (in *inspection) roles(context.Context) *fault {
	var roles []string
	add := func(r string) {
		if r != "" && !slices.Contains(roles, r) {
			roles = append(roles, r)
		}
	}
	in.look(in.from.roleAt...)
	for _, at := range in.from.roleAt {
		for _, r := range words(at.in(in.claims)) {
			if in.from.RoleMap == nil {
				add(strings.TrimPrefix(r, "role:"))
			}
			for _, mapped := range in.from.RoleMap[r] {
				add(strings.TrimPrefix(mapped, "role:"))
			}
		}
	}
	in.p.Roles = roles
	if names, ok := in.claims["_claim_names"]; ok && in.notes && len(roles) == 0 {
		in.note("none: the issuer left claims out as too many (_claim_names %s); let it send app roles or fewer groups", show(names))
		return nil
	}
	in.note("%q", roles)
	return nil
}

func (in *inspection) scopes(context.Context) *fault {
	in.look(in.from.scope)
	scopes := words(in.from.scope.in(in.claims))
	if in.from.ScopesFromRoles {
		for _, r := range in.p.Roles {
			for _, s := range in.v.roleScopes(r) {
				if !slices.Contains(scopes, s) {
					scopes = append(scopes, s)
				}
			}
		}
	}
	if in.from.confined() {
		// Who speaks for some tenants must not hand out the key to the others.
		scopes = slices.DeleteFunc(scopes, func(s string) bool { return strings.HasPrefix(s, "tenant:") })
	}
	in.p.Scopes = scopes
	in.note("%q", scopes)
	return nil
}

// binding reads which key the token is bound to. A binding that this server does not check would be no
// binding, so such tokens are refused.
func (in *inspection) binding(context.Context) *fault {
	cnf, bound := in.claims["cnf"]
	m, _ := cnf.(map[string]any)
	jkt, _ := m["jkt"].(string)
	typ, _ := in.claims["token_type"].(string) // of an introspection answer
	switch {
	case !bound && (in.from.dpop == dpopRequired || in.jws == nil && strings.EqualFold(typ, "DPoP")):
		return faultf("let the client send a DPoP proof to the issuer's token endpoint", "the token is bound to no key; of this issuer only DPoP-bound tokens are accepted")
	case !bound:
		in.note("none: a bearer token")
		return nil
	case len(m) != 1 || len(jkt) != 43:
		return faultf("take a token that is bound by DPoP, or not bound", "cnf is %s; this server knows cnf.jkt", show(cnf))
	case in.from.dpop == dpopOff:
		return faultf("switch dpop on for the issuer, or take a token that is not bound", "the token is bound to a key, and DPoP is off here")
	}
	in.jkt = jkt
	in.note("bound by DPoP to the key %s", jkt)
	return nil
}
