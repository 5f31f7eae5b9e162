package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// appendRecord appends the record's canonical JSON (RFC 8785: members sorted, no spaces), with the
// member hash if it is not empty. By hand, because every call pays for it; a test holds it to the
// struct's tags and to a general canonicaliser. Members whose tags say omitempty are left out when
// empty, so that old records keep their bytes when the struct grows.
//
// It also returns where the member hash stands or would stand.
func appendRecord(b []byte, r *atlas.AuditRecord, hash string) (out []byte, at int) {
	o := object{append(b, '{')}
	o.str("action", r.Action)
	o.str("approval_id", r.ApprovalID)
	o.str("args_hash", r.ArgsHash)
	o.num("attempts", int64(r.Attempts))
	o.str("cache", r.Cache)
	o.text("caller", r.Caller)
	o.list("caller_roles", r.CallerRoles)
	o.str("decision", r.Decision)
	o.str("delegator", r.Delegator)
	o.int("duration_us", r.DurationUS)
	o.str("error_code", string(r.ErrorCode))
	at = len(o.b)
	o.str("hash", hash)
	o.str("home_tenant", string(r.HomeTenant))
	o.text("kind", r.Kind)
	o.str("parent_id", r.ParentID)
	o.str("policy_version", r.Policy)
	o.text("prev", r.Prev)
	o.num("redacted", int64(r.Redacted))
	if r.Replayed {
		o.key("replayed")
		o.b = append(o.b, "true"...)
	}
	o.text("request_id", r.RequestID)
	o.num("result_bytes", int64(r.Bytes))
	o.str("rule", r.Rule)
	o.key("seq")
	o.b = strconv.AppendUint(o.b, r.Seq, 10)
	o.text("status", r.Status)
	o.str("target", r.Target)
	o.text("tenant", string(r.Tenant))
	o.str("token_id", r.TokenID)
	o.str("tool", r.Tool)
	o.str("trace_id", r.TraceID)
	o.str("transport", r.Transport)
	o.key("ts")
	o.b = append(o.b, '"')
	o.b = r.Time.AppendFormat(o.b, time.RFC3339Nano)
	o.b = append(o.b, '"')
	return append(o.b, '}'), at
}

// An object is a JSON object that is being written.
type object struct{ b []byte }

func (o *object) key(k string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(o.b, '"')
	o.b = append(o.b, k...)
	o.b = append(o.b, '"', ':')
}

func (o *object) text(k, v string) {
	o.key(k)
	o.b = appendString(o.b, v)
}

func (o *object) str(k, v string) {
	if v != "" {
		o.text(k, v)
	}
}

func (o *object) int(k string, v int64) {
	o.key(k)
	o.b = strconv.AppendInt(o.b, v, 10)
}

func (o *object) num(k string, v int64) {
	if v != 0 {
		o.int(k, v)
	}
}

func (o *object) list(k string, v []string) {
	if len(v) == 0 {
		return
	}
	o.key(k)
	o.b = append(o.b, '[')
	for i, s := range v {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b = appendString(o.b, s)
	}
	o.b = append(o.b, ']')
}

// appendString appends s as RFC 8785 section 3.2.2.2 says: as few escapes as JSON allows. What is not
// valid UTF-8 becomes U+FFFD, as a reader of the line would see it.
func appendString(b []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	b = append(b, '"')
	start := 0 // of what is not copied yet
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			start = i
			continue
		}
		i++
		start = i
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\f':
			b = append(b, '\\', 'f')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// zeroHash is the prev of the first record.
const zeroHash = "0000000000000000000000000000000000000000000000000000000000000000"

// seal gives the record its place in the chain and appends its line. scratch is for reuse.
func seal(b, scratch []byte, r *atlas.AuditRecord, seq uint64, prev string) (line, reuse []byte) {
	r.Seq, r.Prev, r.Hash = seq, prev, ""
	scratch, at := appendRecord(scratch[:0], r, "")
	sum := sha256.Sum256(scratch)
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], sum[:])
	r.Hash = string(text[:])
	b = append(b, scratch[:at]...)
	b = append(b, hashMark...)
	b = append(b, r.Hash...)
	b = append(b, '"')
	b = append(b, scratch[at:]...)
	return append(b, '\n'), scratch
}

// A link is what the chain needs of a line.
type link struct {
	seq        uint64
	prev, hash string
	sound      bool // the hash fits the line
}

var (
	errNoLink = errors.New("not a record")
	hashMark  = []byte(`,"hash":"`)
	prevMark  = []byte(`,"prev":"`)
	seqMark   = []byte(`,"seq":`)
)

// readLink reads a line without its newline. It works on the bytes: a quotation mark inside a JSON
// string is always escaped, so a mark such as ,"hash":" can only be a member. The hash covers every
// other byte of the line, whether this version knows the member or not.
func readLink(line, scratch []byte) (link, []byte, error) {
	h, hashAt, err := hexMember(line, hashMark)
	if err != nil {
		return link{}, scratch, err
	}
	prev, _, err := hexMember(line, prevMark)
	if err != nil {
		return link{}, scratch, err
	}
	i := bytes.Index(line, seqMark)
	if i < 0 || line[0] != '{' || line[len(line)-1] != '}' {
		return link{}, scratch, errNoLink
	}
	digits := line[i+len(seqMark):]
	if end := bytes.IndexAny(digits, ",}"); end >= 0 {
		digits = digits[:end]
	}
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return link{}, scratch, errNoLink
	}
	scratch = append(scratch[:0], line[:hashAt]...)
	scratch = append(scratch, line[hashAt+len(hashMark)+2*sha256.Size+1:]...)
	sum := sha256.Sum256(scratch)
	var want [2 * sha256.Size]byte
	hex.Encode(want[:], sum[:])
	return link{seq: seq, prev: prev, hash: h, sound: string(want[:]) == h}, scratch, nil
}

// hexMember returns the member behind the mark, which must be 64 hex digits, and where the mark is.
func hexMember(line, mark []byte) (string, int, error) {
	i := bytes.Index(line, mark)
	if i < 0 {
		return "", 0, errNoLink
	}
	v := line[i+len(mark):]
	if len(v) < 2*sha256.Size+1 || v[2*sha256.Size] != '"' {
		return "", 0, errNoLink
	}
	return string(v[:2*sha256.Size]), i, nil
}
