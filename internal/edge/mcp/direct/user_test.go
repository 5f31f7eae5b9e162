package direct_test

import (
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
)

// Cancellations and limits go by this name, so that no two callers may share one, whatever stands in
// their tokens.
func TestUserTellsCallersApart(t *testing.T) {
	seen := make(map[string]edge.Caller)
	for _, acting := range []atlas.TenantID{"acme", "globex"} {
		for _, home := range []atlas.TenantID{"acme", "globex"} {
			for _, issuer := range []string{"", "a", "a|b", "https://a.example", "1|a"} {
				for _, subject := range []string{"ann", "b|ann", "|ann", "a|ann", "1|a|ann", "3|a|b|ann", "ann|agent"} {
					for _, delegator := range []string{"", "agent", "|agent", "ann|agent", "another agent"} {
						c := edge.Caller{Tenant: acting, Principal: &atlas.Principal{Tenant: home, Issuer: issuer, Subject: subject, Delegator: delegator}}
						user := direct.User(&c)
						if other, ok := seen[user]; ok {
							t.Errorf("%q is both %+v for %s and %+v for %s", user, other.Principal, other.Tenant, c.Principal, acting)
						}
						seen[user] = c
					}
				}
			}
		}
	}
}
