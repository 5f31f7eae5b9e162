package cache

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/atlas-mcp/atlas"
)

// An answer leaves the process as an envelope: sealed, so that whoever reads the shared tier learns
// nothing and whoever writes it can forge nothing, and bound to
//
//   - everything that is in the key, not a digest of it: it opens under no other key;
//   - the epoch: an answer from before a purge does not open after it, though it be put back;
//   - the token under which it was filled.
//
// Inside stand the key's digest and tenant once more, and until when the answer is good by the clock
// of the replica that loaded it: an entry whose expiry was taken off in the store still ends.

// envelopeVersion changes with the layout; another's envelopes are misses.
const envelopeVersion = 1

// bound returns everything that the key holds, unambiguously.
func (k *key) bound() []byte {
	b := make([]byte, 0, 512)
	b = appendPart(b, "atlas cache key v1")
	for _, part := range []string{string(k.tenant), k.tool, k.version, k.policy} {
		b = appendPart(b, part)
	}
	b = append(b, k.scope[:]...)
	b = append(b, k.args[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(k.page)) //nolint:gosec // a bijection
}

// name returns where the key's answer lies. The digest is keyed: arguments have so little entropy that
// a plain hash of them could be guessed by whoever reads the store. It also keeps deployments with
// different secrets apart.
func (t *tier) name(k *key, bound []byte) Name {
	mac := hmac.New(sha256.New, t.secret)
	mac.Write(bound)
	n := Name{Tenant: k.tenant, Tool: k.tool}
	mac.Sum(n.Digest[:0])
	return n
}

func bind(bound []byte, epoch, token string) []byte {
	return appendPart(appendPart(bytes.Clone(bound), epoch), token)
}

var errEnvelope = errors.New("cache: not an envelope")

// pack returns an entry as bytes. Integers are big-endian, parts have their length before them.
func pack(n Name, e *entry) ([]byte, error) {
	b := make([]byte, 0, e.res.Size()+512)
	b = append(b, envelopeVersion)
	b = append(b, n.Digest[:]...)
	b = appendPart(b, string(n.Tenant))
	for _, v := range []int64{e.began.UnixNano(), e.expires.UnixNano(), int64(e.delta)} {
		b = appendInt(b, v)
	}
	if e.failure != nil {
		b = append(b, 1)
		b = appendPart(b, string(e.failure.Code))
		b = appendPart(b, e.failure.Hint)
		context, err := json.Marshal(e.failure.Context)
		if err != nil {
			return nil, fmt.Errorf("cache: a failure's context: %w", err)
		}
		return appendPart(b, string(context)), nil
	}
	b = append(b, 0)
	asOf, err := e.res.AsOf.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("cache: an answer's time: %w", err)
	}
	b = appendPart(b, string(asOf))
	truncated := byte(0)
	if e.res.Truncated {
		truncated = 1
	}
	b = append(b, truncated)
	b = appendBytes(b, e.res.Structured)
	b = appendInt(b, int64(len(e.res.Content)))
	for i := range e.res.Content {
		c := &e.res.Content[i]
		for _, s := range []string{string(c.Type), c.Role, c.Text, c.URI, c.Name, c.Title, c.Description, c.MIME} {
			b = appendPart(b, s)
		}
		b = appendBytes(b, c.Data)
		b = appendInt(b, c.Size)
	}
	return b, nil
}

// unpack returns the entry in b. Its ttl and token are not in there.
func unpack(n Name, b []byte) (*entry, error) {
	r := reader{b: b}
	if r.byte() != envelopeVersion || !hmac.Equal(r.take(len(n.Digest)), n.Digest[:]) || r.part() != string(n.Tenant) {
		return nil, errEnvelope
	}
	e := &entry{began: time.Unix(0, r.int()), expires: time.Unix(0, r.int()), delta: time.Duration(r.int())}
	switch r.byte() {
	case 0:
		if err := e.res.AsOf.UnmarshalBinary([]byte(r.part())); err != nil {
			return nil, errEnvelope
		}
		e.res.Truncated = r.byte() == 1
		e.res.Structured = r.bytes()
		count := r.int()
		if count < 0 || count > int64(len(r.b)) { // a block has more than one byte
			return nil, errEnvelope
		}
		for range count {
			var kind string
			c := atlas.Content{}
			for _, s := range []*string{&kind, &c.Role, &c.Text, &c.URI, &c.Name, &c.Title, &c.Description, &c.MIME} {
				*s = r.part()
			}
			c.Type, c.Data, c.Size = atlas.ContentType(kind), r.bytes(), r.int()
			e.res.Content = append(e.res.Content, c)
		}
	case 1:
		e.failure = &atlas.Error{Code: atlas.Code(r.part()), Hint: r.part()}
		decode := json.NewDecoder(bytes.NewReader([]byte(r.part())))
		decode.UseNumber()
		if err := decode.Decode(&e.failure.Context); err != nil {
			return nil, errEnvelope
		}
	default:
		return nil, errEnvelope
	}
	if r.failed || len(r.b) > 0 {
		return nil, errEnvelope
	}
	return e, nil
}

func appendInt(b []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(v)) //nolint:gosec // a bijection
}

// appendBytes appends data, telling nil from empty.
func appendBytes(b, data []byte) []byte {
	if data == nil {
		return binary.BigEndian.AppendUint32(b, math.MaxUint32)
	}
	return appendPart(b, string(data))
}

// A reader takes what the functions above append. After a fault it returns zero values.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.b) {
		r.failed, r.b = true, nil
		return nil
	}
	head := r.b[:n:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) int() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b)) //nolint:gosec // a bijection
	}
	return 0
}

func (r *reader) part() string { return string(r.bytes()) }

// bytes returns a part of its own, not one of b, so that a small one does not keep all of b alive.
func (r *reader) bytes() []byte {
	b := r.take(4)
	if b == nil || binary.BigEndian.Uint32(b) == math.MaxUint32 {
		return nil
	}
	return bytes.Clone(r.take(int(binary.BigEndian.Uint32(b))))
}
