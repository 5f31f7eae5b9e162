package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"sync"
)

// A hasher makes the keyed hash of arguments. Keyed, because arguments have little entropy: whoever
// has the log could otherwise try all order numbers.
type hasher struct {
	canonical func(json.RawMessage) ([]byte, error)
	macs      sync.Pool // of hash.Hash
}

func newHasher(key []byte, canonical func(json.RawMessage) ([]byte, error)) *hasher {
	key = bytes.Clone(key)
	h := &hasher{canonical: canonical}
	h.macs.New = func() any { return hmac.New(sha256.New, key) }
	return h
}

const hashPrefix = "hmac-sha256:"

func (h *hasher) sum(args json.RawMessage) string {
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	data := []byte(args)
	if h.canonical != nil {
		if c, err := h.canonical(args); err == nil {
			data = c
		}
	}
	mac := h.macs.Get().(hash.Hash)
	defer h.macs.Put(mac)
	mac.Reset()
	mac.Write(data)
	var sum [sha256.Size]byte
	var text [len(hashPrefix) + 2*sha256.Size]byte
	copy(text[:], hashPrefix)
	hex.Encode(text[len(hashPrefix):], mac.Sum(sum[:0]))
	return string(text[:])
}
