// Package redis is the [ratelimit.Store] that replicas share. A charge is one script: it runs at once
// and alone where the buckets are, on the server's clock, so that neither replicas that race nor
// clocks that differ let through more than the limit.
//
// A bucket is one key, its theoretical arrival time in microseconds since 1970, that vanishes when the
// bucket is full. Rates are thus held to the microsecond: an interval between two calls is rounded up
// to one.
package redis

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
)

// clock is how the script knows the time, and for how many milliseconds a bucket is kept though it is
// full: a replica of Redis that takes over may have a clock that is behind.
const clock = `
local slack = 1000
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
`

// gcra charges all buckets or none. ARGV has two numbers for each of KEYS, in microseconds: how far
// ahead of now the bucket may be charged, and by how much it is charged. It answers which of KEYS has
// the longest wait and how long that is, or {0, 0}. All numbers are integers below 2^53, so doubles
// hold them. What else might be in a key counts as a full bucket.
const gcra = `
local held = redis.call('MGET', unpack(KEYS))
local moved, worst, wait = {}, 0, 0
for i = 1, #KEYS do
  local ahead = tonumber(ARGV[2 * i - 1])
  local at = tonumber(held[i] or '') or 0
  if not (at > now) then at = now end
  if at > now + ahead then at = now + ahead end
  moved[i] = at + tonumber(ARGV[2 * i])
  local over = moved[i] - ahead - now
  if over > wait then worst, wait = i, over end
end
if wait > 0 then return {worst, wait} end
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], string.format('%.0f', moved[i]), 'PX', string.format('%.0f', math.ceil((moved[i] - now) / 1000) + slack))
end
return {0, 0}
`

const (
	defaultTimeout = 250 * time.Millisecond
	longest        = 366 * 24 * time.Hour
)

// Deps are what a store works with.
type Deps struct {
	Client rueidis.Client
	Prefix string // of all keys; without braces
	// Timeout is OnStoreFailure.After of the limiter's configuration, 0 for its default. A charge is not cut
	// short when its call's own time is up, so that no caller can make the store look away.
	Timeout time.Duration
}

// Store implements [ratelimit.SharedStore]. It is immutable.
type Store struct {
	client  rueidis.Client
	prefix  string
	timeout time.Duration
	script  *rueidis.Lua
	now     func() int64 // for tests: the script's clock, in microseconds
}

var _ ratelimit.SharedStore = (*Store)(nil)

// New makes a store. It asks Redis nothing.
func New(deps Deps) (*Store, error) {
	if deps.Client == nil {
		return nil, errors.New("ratelimit: there is no client of Redis")
	}
	return &Store{
		client: deps.Client, prefix: deps.Prefix + "rl:{", timeout: cmp.Or(deps.Timeout, defaultTimeout),
		script: rueidis.NewLuaScript(clock + gcra),
	}, nil
}

// Take implements [ratelimit.Store]. Errors are Redis's, or of ctx if it had ended already.
func (s *Store) Take(ctx context.Context, c ratelimit.Charge) (ratelimit.Decision, error) {
	if err := ctx.Err(); err != nil {
		return ratelimit.Decision{}, err
	}
	// The tenant stands in the hash tag as it is, so it must not be able to end it.
	if _, err := atlas.ParseTenantID(string(c.Tenant)); err != nil {
		return ratelimit.Decision{}, fmt.Errorf("ratelimit: %w", err)
	}
	return s.take(ctx, string(c.Tenant), &c)
}

// Probe implements [ratelimit.SharedStore].
func (s *Store) Probe(ctx context.Context) error {
	var c ratelimit.Charge
	c.Cells[ratelimit.Tenant] = ratelimit.Cell{Interval: time.Microsecond, Burst: 1, Cost: 1}
	_, err := s.take(ctx, "", &c) // no tenant has this id
	return err
}

func (s *Store) take(ctx context.Context, tag string, c *ratelimit.Charge) (ratelimit.Decision, error) {
	// Keys and arguments are cut from one string.
	var room [512]byte
	buf := room[:0]
	var ends [3 * cells]int
	var scope [cells]ratelimit.Scope
	n := 0
	for i := range c.Cells {
		cell := &c.Cells[i]
		if cell.Cost <= 0 {
			continue
		}
		scope[n] = ratelimit.Scope(i)
		buf = s.appendKey(buf, tag, scope[n], cell.Name)
		ends[3*n] = len(buf)
		interval := max(1, int64((cell.Interval+time.Microsecond-1)/time.Microsecond))
		most := int64(longest/time.Microsecond) / interval
		buf = strconv.AppendInt(buf, min(cell.Burst, most)*interval, 10)
		ends[3*n+1] = len(buf)
		buf = strconv.AppendInt(buf, min(cell.Cost, most)*interval, 10)
		ends[3*n+2] = len(buf)
		n++
	}
	if n == 0 {
		return ratelimit.Decision{Allowed: true}, nil
	}
	text, from := string(buf), 0
	cut := func(to int) string {
		piece := text[from:to]
		from = to
		return piece
	}
	keys, args := make([]string, 0, cells), make([]string, 0, 2*cells+1)
	for i := range n {
		keys = append(keys, cut(ends[3*i]))
		args = append(args, cut(ends[3*i+1]), cut(ends[3*i+2]))
	}
	if s.now != nil {
		args = append(args, strconv.FormatInt(s.now(), 10))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	answer, err := s.script.Exec(ctx, s.client, keys, args).AsIntSlice()
	switch {
	case err != nil:
		return ratelimit.Decision{}, fmt.Errorf("ratelimit: %w", err)
	case len(answer) != 2 || answer[0] < 0 || answer[0] > int64(n):
		return ratelimit.Decision{}, fmt.Errorf("ratelimit: the script answered %v", answer)
	case answer[0] == 0:
		return ratelimit.Decision{Allowed: true}, nil
	}
	return ratelimit.Decision{Scope: scope[answer[0]-1], RetryAfter: time.Duration(answer[1]) * time.Microsecond}, nil
}

// cells is how many buckets a charge has at most.
const cells = len(ratelimit.Charge{}.Cells)

// letters stand for the scopes in keys.
const letters = "toc"

// appendKey names a bucket. The tag keeps all buckets of a tenant on one node of a cluster. Names of
// tools and callers come from others: hashed, they have one length and no letter with a meaning, and
// the log of a slow Redis tells no subjects.
func (s *Store) appendKey(buf []byte, tag string, scope ratelimit.Scope, name string) []byte {
	buf = append(buf, s.prefix...)
	buf = append(buf, tag...)
	buf = append(buf, '}', ':', letters[scope])
	if scope != ratelimit.Tenant {
		sum := sha256.Sum256([]byte(name))
		buf = append(buf, ':')
		buf = base64.RawURLEncoding.AppendEncode(buf, sum[:16])
	}
	return buf
}
