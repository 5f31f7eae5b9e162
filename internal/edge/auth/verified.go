package auth

import (
	"sync"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge"
)

// verified remembers callers by the SHA-256 of their token, so that a signature is checked once
// a minute instead of once a call (80 µs). Only good tokens enter it. It holds at most two
// generations of half the size: when the younger is full, the older is dropped.
type verified struct {
	half int

	mu         sync.RWMutex // guards the maps
	young, old map[[32]byte]seen
}

// seen is an accepted token. It is read-only.
type seen struct {
	caller *edge.Caller
	jkt    string // thumbprint of the key that it is bound to; "" for a bearer token
	until  time.Time
}

func newVerified(size int) *verified {
	return &verified{half: max(1, size/2), young: make(map[[32]byte]seen)}
}

// get returns a token that is still good at now.
func (v *verified) get(sum [32]byte, now time.Time) (seen, bool) {
	v.mu.RLock()
	s, ok := v.young[sum]
	if !ok {
		s, ok = v.old[sum]
	}
	v.mu.RUnlock()
	return s, ok && now.Before(s.until)
}

func (v *verified) put(sum [32]byte, s seen, now time.Time) {
	if !now.Before(s.until) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.young) >= v.half {
		v.old, v.young = v.young, make(map[[32]byte]seen)
	}
	v.young[sum] = s
}
