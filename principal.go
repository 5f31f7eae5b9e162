package atlas

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A TenantID names a tenant: 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter or digit.
// It is used in file names, keys and quoted SQL literals; [ParseTenantID] is the only way in.
type TenantID string

// ParseTenantID checks that s is a tenant id.
func ParseTenantID(s string) (TenantID, error) {
	if s == "" || len(s) > 63 {
		return "", fmt.Errorf("tenant id must have 1 to 63 characters, has %d", len(s))
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_') {
			return "", fmt.Errorf("tenant id has %q at position %d; use a-z, 0-9, - and _", c, i+1)
		}
	}
	return TenantID(s), nil
}

// Scopes that are not bound to one tool.
const (
	ScopeAdmin       = "tool:*:admin"         // every tool scope
	ScopeImpersonate = "tenant:*:impersonate" // act for another tenant
	ScopeApprove     = "approval:*:decide"    // decide approvals of one's own tenant
	ScopeAudit       = "audit:*:read"         // read the audit log of one's own tenant
)

// A Principal is who makes a call. It comes only from a verified token (or, for the CLI on the
// operator's own machine, from its flags) and is shared and read-only once made.
type Principal struct {
	Subject   string         // sub
	Tenant    TenantID       // tenant claim; never a default
	Roles     []string       // without the "role:" prefix
	Scopes    []string       // scope, split at spaces
	Delegator string         // act.sub (RFC 8693): the party that acts for Subject; may be empty
	Issuer    string         // iss
	TokenID   string         // jti
	Expiry    time.Time      // exp
	Claims    map[string]any // all claims of the token
}

// HasScope reports whether the principal holds scope, directly or, for a tool's scope, through
// [ScopeAdmin].
func (p *Principal) HasScope(scope string) bool {
	return slices.Contains(p.Scopes, scope) ||
		strings.HasPrefix(scope, "tool:") && slices.Contains(p.Scopes, ScopeAdmin)
}

// HasScopes reports whether the principal holds all of the scopes.
func (p *Principal) HasScopes(scopes []string) bool {
	for _, s := range scopes {
		if !p.HasScope(s) {
			return false
		}
	}
	return true
}
