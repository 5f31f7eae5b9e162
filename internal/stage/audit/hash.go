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
	macs      sync.Pool // of *mac
}

func newHasher(key []byte, canonical func(json.RawMessage) ([]byte, error)) *hasher {
	key = bytes.Clone(key)
	h := &hasher{canonical: canonical}
	h.macs.New = func() any { return &mac{Hash: hmac.New(sha256.New, key)} }
	return h
}

// A mac is an HMAC with room for what it sums up to.
type mac struct {
	hash.Hash
	sum  [sha256.Size]byte
	text [len(hashPrefix) + 2*sha256.Size]byte
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
	m := h.macs.Get().(*mac)
	defer h.macs.Put(m)
	m.Reset()
	_, _ = m.Write(data) // never fails
	copy(m.text[:], hashPrefix)
	hex.Encode(m.text[len(hashPrefix):], m.Sum(m.sum[:0]))
	return string(m.text[:])
}
