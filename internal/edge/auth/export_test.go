package auth

import (
	"crypto/sha256"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Thumbprint is the thumbprint of a public key.
func Thumbprint(jwk map[string]any) (string, error) {
	_, thumb, err := publicKey(jwk)
	return thumb, err
}

// Replays is the memory of proofs.
type Replays struct{ r *replays }

// NewReplays returns a memory with small bounds.
func NewReplays(window time.Duration, perTenant, all int) Replays {
	r := newReplays(window, perTenant)
	r.all = all
	return Replays{r}
}

// First reports whether a proof is remembered for the first time.
func (r Replays) First(tenant, proof string, now time.Time) bool {
	verdict, _ := r.r.first(atlas.TenantID(tenant), sha256.Sum256([]byte(proof)), now)
	return verdict == fresh
}

// Held counts the proofs.
func (r Replays) Held() int {
	n := 0
	for _, t := range r.r.tenants {
		if len(t.proofs) != len(t.order) {
			return -1
		}
		n += len(t.proofs)
	}
	if n != r.r.total {
		return -1 // the count is wrong
	}
	return n
}

// Tenants counts the tenants.
func (r Replays) Tenants() int { return len(r.r.tenants) }

// Decode decodes strictly.
func Decode(raw []byte) (map[string]any, error) { return decodeObject(raw) }

// At returns what a path leads to.
func At(at string, claims map[string]any) (any, error) {
	p, err := parsePath(at)
	if err != nil {
		return nil, err
	}
	return p.in(claims), nil
}
