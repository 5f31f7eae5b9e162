package direct

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/atlas-mcp/atlas"
)

const (
	maxMailed = 64 << 10               // bytes of an answer that reaches another replica
	mailPause = 300 * time.Millisecond // between two looks for one
)

// newAskID returns the id of a request to a client of the older era, which nobody can guess. With a
// mailbox it is also a token by which any replica knows what the request was, so that nobody can fill
// the mailbox with answers to nothing.
func (x *exchange) newAskID(user string) string {
	d := &x.server.deps
	if d.Mailbox == nil || d.Sealer == nil {
		return "atlas-" + rand.Text()
	}
	plain := binary.AppendVarint(nil, time.Now().Add(x.server.cfg.AskTimeout).Unix())
	plain = append(plain, x.server.replica...)
	return d.Sealer.Seal(append(plain, rand.Text()...), askBound(user, x.session.id))
}

// askBound is what an id is sealed for: this caller, in this session.
func askBound(user, session string) []byte { return []byte("mcp-ask\x00" + session + "\x00" + user) }

// mailKey is where the answer to a request is left. It tells nothing of the caller.
func mailKey(user, session, id string) string {
	sum := sha256.Sum256([]byte(string(askBound(user, session)) + "\x00" + id))
	return hex.EncodeToString(sum[:])
}

// forward leaves an answer that nobody waits for here to the replica that does. It reports false if the
// id is none that this caller was sent in this session and can still answer, or was answered before. One
// that was sent from here is: nobody would ever take the answer out of the mailbox.
func (x *exchange) forward(ctx context.Context, user, id string, got answer) (bool, error) {
	d := &x.server.deps
	if d.Mailbox == nil || d.Sealer == nil || len(got.result) >= maxMailed {
		return false, nil
	}
	plain, err := d.Sealer.Open(id, askBound(user, x.session.id))
	if err != nil {
		return false, nil //nolint:nilerr // what cannot be opened was not sent by us
	}
	seconds, n := binary.Varint(plain)
	until := time.Unix(seconds, 0)
	if n <= 0 || !time.Now().Before(until) || bytes.HasPrefix(plain[n:], []byte(x.server.replica)) {
		return false, nil
	}
	ok, err := d.Mailbox.Put(ctx, mailKey(user, x.session.id, id), got.encode(), until)
	if err != nil {
		return false, atlas.Errorf(atlas.CodeStateUnavailable, err, "")
	}
	return ok, nil
}

// encode returns the form of an answer in a mailbox: whether it failed, and the result.
func (a answer) encode() []byte {
	if a.failed {
		return []byte{'f'}
	}
	return append([]byte{'r'}, a.result...)
}

func decodeAnswer(b []byte) answer { return answer{result: b[1:], failed: b[0] != 'r'} }

// collect looks for answers that reached other replicas, until ctx ends.
func (s *Server) collect(ctx context.Context, user string, waiters map[string]*waiter) {
	tick := time.NewTicker(mailPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, w := range waiters {
			b, err := s.deps.Mailbox.Take(ctx, mailKey(user, w.session, w.id))
			if err != nil {
				s.deps.Log.DebugContext(ctx, "mailbox not read", "error", err) // it is asked again
				break
			}
			if len(b) > 0 {
				s.asks.deliver(user, w.id, w.session, decodeAnswer(b))
			}
		}
	}
}
