package guard

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Key seals cursors.
type Key struct {
	ID     string // 1 to 32 bytes; stands in the cursor in the clear
	Secret []byte // at least 32 random bytes; the AES key is derived from it
}

// A binding is all that a cursor is good for. It is authenticated beside the cursor and not
// stored in it: a cursor of another tenant, caller, tool or call fails exactly like a forged one.
type binding struct {
	tenant, home   atlas.TenantID
	subject, actor string
	tool, version  string
	args           [32]byte // digest of the canonical arguments without the cursor
}

func boundTo(call atlas.Call, args [32]byte) binding {
	return binding{
		tenant: call.Tenant, home: call.Principal.Tenant, subject: call.Principal.Subject, actor: call.Principal.Delegator,
		tool: call.Tool.Name, version: call.Tool.Version, args: args,
	}
}

// append writes the binding unambiguously: each part after its length.
func (b binding) append(dst []byte) []byte {
	for _, s := range []string{string(b.tenant), string(b.home), b.subject, b.actor, b.tool, b.version} {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return append(dst, b.args[:]...)
}

// cursors seals and opens cursors with AES-256-GCM. A cursor is, in base64url:
//
//	version (1 byte), length of key id (1), key id, nonce (12), sealed offset and expiry (16), tag (16)
//
// Nonces are random: at 2^32 cursors the chance of a repeated one is 2^-33 (NIST SP 800-38D,
// section 8.3), and keys are meant to be changed long before.
type cursors struct {
	ttl  time.Duration
	seal string // id of the key that seals
	keys map[string]cipher.AEAD
}

const (
	cursorVersion = 1
	plainSize     = 16
	maxKeyID      = 32
	maxCursor     = 256 // characters
)

func newCursors(keys []Key, ttl time.Duration) (*cursors, error) {
	if len(keys) == 0 {
		return nil, errors.New("guard: no key for cursors")
	}
	c := &cursors{ttl: ttl, seal: keys[0].ID, keys: make(map[string]cipher.AEAD, len(keys))}
	for _, k := range keys {
		if k.ID == "" || len(k.ID) > maxKeyID {
			return nil, fmt.Errorf("guard: the id of a cursor key must have 1 to %d bytes", maxKeyID)
		}
		if len(k.Secret) < 32 {
			return nil, fmt.Errorf("guard: cursor key %s must have at least 32 bytes", k.ID)
		}
		if c.keys[k.ID] != nil {
			return nil, fmt.Errorf("guard: there are two cursor keys %s", k.ID)
		}
		derived, err := hkdf.Key(sha256.New, k.Secret, nil, "atlas cursor v1", 32)
		if err != nil {
			return nil, fmt.Errorf("guard: cursor key %s: %w", k.ID, err)
		}
		block, err := aes.NewCipher(derived)
		if err != nil {
			return nil, fmt.Errorf("guard: cursor key %s: %w", k.ID, err)
		}
		if c.keys[k.ID], err = cipher.NewGCM(block); err != nil {
			return nil, fmt.Errorf("guard: cursor key %s: %w", k.ID, err)
		}
	}
	return c, nil
}

// make returns a cursor to the item at offset.
func (c *cursors) make(offset int, b binding, now time.Time) (string, error) {
	aead := c.keys[c.seal]
	head := append([]byte{cursorVersion, byte(len(c.seal))}, c.seal...) //nolint:gosec // at most maxKeyID
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return "", err
	}
	var plain [plainSize]byte
	binary.BigEndian.PutUint64(plain[:8], uint64(offset)) //nolint:gosec // not negative
	binary.BigEndian.PutUint64(plain[8:], uint64(now.Add(c.ttl).UnixMilli()))
	out := append(head, nonce...)
	out = aead.Seal(out, nonce, plain[:], b.append(slices.Clip(head)))
	return base64.RawURLEncoding.EncodeToString(out), nil
}

// length returns how many characters a cursor has: always the same.
func (c *cursors) length() int {
	aead := c.keys[c.seal]
	return base64.RawURLEncoding.EncodedLen(2 + len(c.seal) + aead.NonceSize() + plainSize + aead.Overhead())
}

// open returns the offset of a cursor that is good for b now.
func (c *cursors) open(cursor string, b binding, now time.Time) (offset int, ok bool) {
	if len(cursor) > maxCursor {
		return 0, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) < 2 || raw[0] != cursorVersion || len(raw) < 2+int(raw[1]) {
		return 0, false
	}
	head := raw[:2+int(raw[1])]
	aead := c.keys[string(head[2:])]
	if aead == nil || len(raw) < len(head)+aead.NonceSize() {
		return 0, false
	}
	nonce, sealed := raw[len(head):len(head)+aead.NonceSize()], raw[len(head)+aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, sealed, b.append(slices.Clip(head)))
	if err != nil || len(plain) != plainSize {
		return 0, false
	}
	at, expiry := binary.BigEndian.Uint64(plain[:8]), binary.BigEndian.Uint64(plain[8:])
	if now.UnixMilli() >= int64(expiry) || at > 1<<31 { //nolint:gosec // we wrote it
		return 0, false
	}
	return int(at), true
}

// errInvalidCursor is one and the same for a tampered, foreign, expired and malformed cursor.
func errInvalidCursor() error { return atlas.Errorf(atlas.CodeInvalidCursor, nil, "") }
