// Package canonical reads JSON strictly and writes it canonically (RFC 8785, JSON
// Canonicalization Scheme), so that equal values have equal bytes and one digest: cache keys,
// approvals, cursors and the audit chain are built on it.
//
// It refuses what two readers could understand differently (RFC 7493, I-JSON): duplicate keys,
// invalid UTF-8, lone surrogates, and numbers that an IEEE 754 double would change. What JSON
// means to a tool is left to the validation stage.
package canonical

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
)

// MaxDepth is how deeply arrays and objects may nest where the caller names no smaller limit.
const MaxDepth = 1000

// Parse reads one JSON value and returns it decoded, beside its canonical form. Objects are
// map[string]any, arrays []any, and numbers [json.Number] in canonical spelling, so that 1.0
// reads as the integer 1. At most maxDepth arrays and objects may be nested in each other; 0
// and more than [MaxDepth] mean MaxDepth. A refusal is an *[Error].
//
// The decoded strings share memory with one copy of raw; raw itself is not kept.
func Parse(raw []byte, maxDepth int) (value any, canon []byte, err error) {
	v, err := Decode(raw, maxDepth)
	if err != nil {
		return nil, nil, err
	}
	canon, err = Append(make([]byte, 0, len(raw)), v)
	if err != nil {
		return nil, nil, err
	}
	return v, canon, nil
}

// Decode is [Parse] without the canonical form, for values that are changed before [Append] writes
// them.
func Decode(raw []byte, maxDepth int) (any, error) { return parse(raw, maxDepth, false) }

// Transform returns the canonical form of one JSON value exactly as RFC 8785 has it: unlike
// [Parse] it rounds numbers to the nearest double.
func Transform(raw []byte) ([]byte, error) {
	v, err := parse(raw, 0, true)
	if err != nil {
		return nil, err
	}
	return Append(make([]byte, 0, len(raw)), v)
}

// Marshal returns the canonical form of a Go value, as [json.Marshal] encodes it.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // saves escapes that the canonical form takes out again
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	_, canon, err := Parse(buf.Bytes(), 0)
	return canon, err
}

// Digest is the SHA-256 of canonical bytes.
func Digest(canon []byte) [32]byte { return sha256.Sum256(canon) }

// A Kind says why [Parse] refused its input.
type Kind uint8

// The kinds of refusal.
const (
	Syntax    Kind = iota + 1 // not JSON (RFC 8259)
	Encoding                  // invalid UTF-8 or a lone surrogate
	Duplicate                 // a key twice in one object
	Number                    // a number that a double would change
	Depth                     // nested too deeply
)

// An Error says where and why the input was refused. Its text holds keys of the input, cut to a
// readable length, and never values.
type Error struct {
	Kind   Kind
	Offset int    // bytes before the fault
	Path   string // JSON pointer (RFC 6901) to the faulty value; empty for the whole input
	Reason string // for people
}

// Error returns the reason with its place.
func (e *Error) Error() string {
	where := e.Path
	if where == "" {
		where = "the top level"
	}
	return fmt.Sprintf("%s, at %s (byte %d)", e.Reason, where, e.Offset)
}

const (
	maxSegment = 64   // bytes of one key in a path
	maxPath    = 1024 // bytes of a path
)

// AppendPointer returns path with one more reference token of a JSON pointer. Long tokens are cut:
// the path is for people and must not repeat a request of any size.
func AppendPointer(path, token string) string {
	if len(path) > maxPath {
		return path
	}
	return path + "/" + pointerEscaper.Replace(cut(token))
}

// pointerEscaper is read-only and safe for concurrent use.
var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

func cut(s string) string {
	if len(s) <= maxSegment {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.ToValidUTF8(s[:maxSegment], "") + "…"
}
