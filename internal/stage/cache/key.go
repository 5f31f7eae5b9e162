package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/atlas-mcp/atlas"
)

// A key says which calls may share an answer. Everything that an answer may depend on is in it:
//
//   - the tenant, which also has its own part of the store;
//   - the data scope of the caller: the home tenant, the roles and the scopes (and more, see
//     scopeOf), so that two callers with different rights never share;
//   - the tool by name and version, so that a changed definition starts anew;
//   - the version of the policy, so that a changed rule starts anew;
//   - the canonical arguments, and the page.
//
// That is why an answer that was loaded with one caller's call may be given to another with the
// same key: policy has let both through, for the same tool and arguments, and the tool sees no
// difference between them.
type key struct {
	tenant  atlas.TenantID
	tool    string
	version string
	policy  string
	scope   [32]byte
	args    [32]byte
	page    int
}

// keyOf returns the call's key; ok is false if the call is not for the cache.
func keyOf(call atlas.Call, policyHash func() string) (k key, ok bool) {
	t := call.Tool
	if t == nil || t.CacheTTL <= 0 || !t.ReadOnly || t.Destructive || t.Effects != atlas.EffectsNone {
		return key{}, false
	}
	if call.Reply != nil {
		return key{}, false // the answer depends on what the client said
	}
	if t.Version == "" || call.Tenant == "" || call.Principal == nil || call.Args.Digest == [32]byte{} {
		return key{}, false // without these, different answers would have one key
	}
	scope, ok := scopeOf(call.Principal, t.Level)
	if !ok {
		return key{}, false
	}
	return key{
		tenant: call.Tenant, tool: t.Name, version: t.Version, policy: policyHash(),
		scope: scope, args: call.Args.Digest, page: call.Page.Offset,
	}, true
}

// scopeOf returns the data scope of a caller.
//
// An atomic tool asks one source, which knows the tenant and not the caller; the call itself has
// passed policy. A composed tool or workflow makes calls of its own, each of which policy decides
// by everything that the token says, the subject and its claims included: two callers with the
// same roles may get different answers. So theirs are shared within one token only, and not at
// all where a principal has claims but no token id.
func scopeOf(p *atlas.Principal, level atlas.Level) (scope [32]byte, ok bool) {
	var (
		buf   [1024]byte
		names [64]string
		b     = buf[:0]
	)
	b = appendPart(b, string(p.Tenant))
	for _, set := range [][]string{p.Roles, p.Scopes} {
		sorted := append(names[:0], set...)
		slices.Sort(sorted)
		sorted = slices.Compact(sorted)
		b = binary.BigEndian.AppendUint32(b, uint32(len(sorted))) //nolint:gosec // a token has fewer
		for _, name := range sorted {
			b = appendPart(b, name)
		}
	}
	if level != atlas.Atomic {
		if p.TokenID == "" && len(p.Claims) > 0 {
			return scope, false
		}
		for _, part := range []string{p.Issuer, p.Subject, p.Delegator, p.TokenID} {
			b = appendPart(b, part)
		}
	}
	return sha256.Sum256(b), true
}

// appendPart appends s with its length, so that no two lists of parts are the same bytes.
func appendPart(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s))) //nolint:gosec // a token's parts are short
	return append(b, s...)
}
