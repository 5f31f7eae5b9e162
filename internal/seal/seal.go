// Package seal keeps the keys that Atlas makes for itself, and seals with them what clients carry
// for Atlas: cursors, the state of a call between two rounds, legacy session ids. What is sealed can
// be neither read nor changed by who carries it, and opens only for what it was bound to.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
)

// A Key is one secret of a Ring.
type Key struct {
	ID     string // 1 to 32 bytes; stands in what is sealed in the clear
	Secret []byte // at least 32 random bytes; the AES key is derived from it
}

// A Ring seals for one purpose with AES-256-GCM. The first key seals, all open: a key is changed by
// putting a new one first, and dropping the old one when nothing sealed with it is good any more.
// A Ring is immutable and safe for concurrent use. What it seals is, in base64url:
//
//	version (1 byte), length of key id (1), key id, nonce (12), ciphertext, tag (16)
//
// Nonces are random: at 2^32 messages the chance of a repeated one is 2^-33 (NIST SP 800-38D,
// section 8.3), and keys are meant to be changed long before.
type Ring struct {
	first string // id of the key that seals
	keys  map[string]cipher.AEAD
}

const (
	version  = 1
	maxKeyID = 32
)

// New returns a ring for the purpose, a text that no other ring has: what is sealed for one purpose
// does not open for another, though the secrets be the same.
func New(purpose string, keys ...Key) (*Ring, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("seal: no key for %s", purpose)
	}
	r := &Ring{first: keys[0].ID, keys: make(map[string]cipher.AEAD, len(keys))}
	for _, k := range keys {
		if k.ID == "" || len(k.ID) > maxKeyID {
			return nil, fmt.Errorf("seal: the id of a key must have 1 to %d bytes", maxKeyID)
		}
		if len(k.Secret) < 32 {
			return nil, fmt.Errorf("seal: key %s must have at least 32 bytes", k.ID)
		}
		if r.keys[k.ID] != nil {
			return nil, fmt.Errorf("seal: there are two keys %s", k.ID)
		}
		derived, err := hkdf.Key(sha256.New, k.Secret, nil, purpose, 32)
		if err != nil {
			return nil, fmt.Errorf("seal: key %s: %w", k.ID, err)
		}
		block, err := aes.NewCipher(derived)
		if err != nil {
			return nil, fmt.Errorf("seal: key %s: %w", k.ID, err)
		}
		if r.keys[k.ID], err = cipher.NewGCM(block); err != nil {
			return nil, fmt.Errorf("seal: key %s: %w", k.ID, err)
		}
	}
	return r, nil
}

// Seal returns plain sealed. It opens only beside the same bound, which is not stored in it.
func (r *Ring) Seal(plain, bound []byte) string {
	aead := r.keys[r.first]
	head := append([]byte{version, byte(len(r.first))}, r.first...) //nolint:gosec // at most maxKeyID
	out := make([]byte, 0, len(head)+aead.NonceSize()+len(plain)+aead.Overhead())
	out = append(out, head...)
	var nonce [12]byte
	_, _ = rand.Read(nonce[:]) // never fails
	out = append(out, nonce[:]...)
	out = aead.Seal(out, nonce[:], plain, append(slices.Clip(head), bound...))
	return base64.RawURLEncoding.EncodeToString(out)
}

// Len returns how many characters Seal returns for size bytes.
func (r *Ring) Len(size int) int {
	aead := r.keys[r.first]
	return base64.RawURLEncoding.EncodedLen(2 + len(r.first) + aead.NonceSize() + size + aead.Overhead())
}

// ErrSealed is all that Open says: whether text was forged, cut, sealed with a lost key or bound to
// something else is not for who carries it.
var ErrSealed = errors.New("seal: does not open")

// Open returns what was sealed in text beside bound. The error is [ErrSealed].
func (r *Ring) Open(text string, bound []byte) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < 2 || raw[0] != version || len(raw) < 2+int(raw[1]) {
		return nil, ErrSealed
	}
	head := raw[:2+int(raw[1])]
	aead := r.keys[string(head[2:])]
	if aead == nil || len(raw) < len(head)+aead.NonceSize() {
		return nil, ErrSealed
	}
	nonce, sealed := raw[len(head):len(head)+aead.NonceSize()], raw[len(head)+aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, sealed, append(slices.Clip(head), bound...))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}
