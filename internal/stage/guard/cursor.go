package guard

import (
	"encoding/binary"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/seal"
)

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

// cursors seals and opens cursors: the offset of the first item, and when the cursor is good no more.
type cursors struct {
	ttl  time.Duration
	ring *seal.Ring
}

const (
	// cursorPurpose is what the guard's ring of keys is for.
	cursorPurpose = "atlas cursor v1"
	plainSize     = 16
	maxCursor     = 256 // characters
)

// make returns a cursor to the item at offset.
func (c *cursors) make(offset int, b binding, now time.Time) string {
	var plain [plainSize]byte
	binary.BigEndian.PutUint64(plain[:8], uint64(offset)) //nolint:gosec // not negative
	binary.BigEndian.PutUint64(plain[8:], uint64(now.Add(c.ttl).UnixMilli()))
	return c.ring.Seal(plain[:], b.append(nil))
}

// length returns how many characters a cursor has: always the same.
func (c *cursors) length() int { return c.ring.Len(plainSize) }

// open returns the offset of a cursor that is good for b now.
func (c *cursors) open(cursor string, b binding, now time.Time) (offset int, ok bool) {
	if len(cursor) > maxCursor {
		return 0, false
	}
	plain, err := c.ring.Open(cursor, b.append(nil))
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
