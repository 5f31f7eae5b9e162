// Package redis is the cache's second tier on Redis: standalone, behind sentinels, or a cluster. All keys
// of one tenant share the hash tag {tenant}:
//
//	<prefix>cache:{<tenant>}:epochs       hash: "*" and "t:<tool>" to the epoch since the last purge
//	<prefix>cache:{<tenant>}:e:<digest>   string: epoch, token, sealed answer
//	<prefix>cache:{<tenant>}:l:<digest>   hash: the token that has the right to load; "w" if another waits
//	<prefix>cache:events                  channel: ends of loads that others wait for, and purges
//
// Epochs are random texts, not numbers: a lost one is replaced by one that no entry ever had, so that
// what is lost or evicted makes misses, and never brings back what was purged. Each step is one
// script. Every key expires.
//
// What stands there is not trusted. Whoever can write to Redis can make the cache useless, as with
// FLUSHALL or false purges; answers are sealed by the parent package, and he can neither read nor
// forge them.
package redis

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
)

// A Tier is the second tier. It is safe for concurrent use.
type Tier struct {
	client rueidis.Client
	prefix string // of every key and of the channel
	origin string // tells this replica's own messages
	log    *slog.Logger

	mu       sync.Mutex // guards watchers
	watchers map[[32]byte][]chan bool
}

var _ cache.Shared = (*Tier)(nil)

// New returns the tier in the Redis of client, which stays the caller's. It is to be one of
// internal/state/redis, whose commands fail with no context but their own. prefix begins every key and the
// name of the channel; it holds no braces.
func New(client rueidis.Client, prefix string, log *slog.Logger) (*Tier, error) {
	if client == nil || log == nil {
		return nil, errors.New("cache: redis: a client and a log are needed")
	}
	for _, r := range prefix {
		if r == '{' || r == '}' {
			return nil, errors.New("cache: redis: the prefix must not hold braces")
		}
	}
	return &Tier{client: client, prefix: prefix + "cache:", origin: rand.Text(), log: log, watchers: map[[32]byte][]chan bool{}}, nil
}

const (
	tokenSize = 26            // of tokens and of each half of an epoch, as rand.Text makes them
	epochSize = 2 * tokenSize // of the tenant, then of the tool

	keepEpochs = 7 * 24 * time.Hour // after the last load; answers that live longer end with them
)

// keys returns the keys of a name: of its epochs, its answer and the right to load it.
func (t *Tier) keys(n cache.Name) ([]string, error) {
	epochs, err := t.epochs(n.Tenant)
	if err != nil {
		return nil, err
	}
	base := t.prefix + "{" + string(n.Tenant) + "}:"
	digest := hex.EncodeToString(n.Digest[:])
	return []string{epochs, base + "e:" + digest, base + "l:" + digest}, nil
}

func (t *Tier) epochs(tenant atlas.TenantID) (string, error) {
	// It becomes a hash tag, so that its letters matter here, too.
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return "", fmt.Errorf("cache: redis: %w", err)
	}
	return t.prefix + "{" + string(tenant) + "}:epochs", nil
}

func (t *Tier) channel() string { return t.prefix + "events" }

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

var errReply = errors.New("cache: redis: unknown reply")

// Claim implements [cache.Shared].
func (t *Tier) Claim(ctx context.Context, c cache.Claim) (cache.Standing, error) {
	keys, err := t.keys(c.Name)
	if err != nil {
		return cache.Standing{}, err
	}
	reply, err := claimScript.Exec(ctx, t.client, keys, []string{
		field(c.Tool), rand.Text(), c.Token, millis(c.Lease), strconv.Itoa(c.Max), c.Except, millis(keepEpochs),
	}).ToArray()
	if err != nil {
		return cache.Standing{}, fmt.Errorf("cache: redis: claim: %w", err)
	}
	if len(reply) != 3 {
		return cache.Standing{}, errReply
	}
	state, err1 := reply[0].AsInt64()
	text, err2 := reply[1].ToString()
	left, err3 := reply[2].AsInt64()
	if err := errors.Join(err1, err2, err3); err != nil {
		return cache.Standing{}, fmt.Errorf("cache: redis: claim: %w", err)
	}
	s := cache.Standing{State: cache.Busy, Left: time.Duration(left) * time.Millisecond}
	switch state {
	case 0:
	case 1:
		s.State, s.Epoch = cache.Granted, text
	case 2:
		if len(text) < epochSize+tokenSize {
			return cache.Standing{}, errReply
		}
		s.State, s.Epoch, s.Token, s.Value = cache.Found, text[:epochSize], text[epochSize:epochSize+tokenSize], text[epochSize+tokenSize:]
	default:
		return cache.Standing{}, errReply
	}
	return s, nil
}

// Renew implements [cache.Shared].
func (t *Tier) Renew(ctx context.Context, n cache.Name, token string, lease time.Duration) (bool, error) {
	keys, err := t.keys(n)
	if err != nil {
		return false, err
	}
	n1, err := renewScript.Exec(ctx, t.client, keys[2:], []string{token, millis(lease)}).AsInt64()
	if err != nil {
		return false, fmt.Errorf("cache: redis: renew: %w", err)
	}
	return n1 == 1, nil
}

// Fill implements [cache.Shared].
func (t *Tier) Fill(ctx context.Context, f cache.Fill) (cache.Outcome, error) {
	keys, err := t.keys(f.Name)
	if err != nil {
		return cache.Lost, err
	}
	if len(f.Token) != tokenSize {
		return cache.Lost, errors.New("cache: redis: fill: the token is not one of rand.Text")
	}
	out, err := fillScript.Exec(ctx, t.client, keys, []string{
		field(f.Tool), f.Token, f.Epoch, millis(f.TTL), f.Value, t.channel(), ended(f.Name, true), millis(keepEpochs),
	}).AsInt64()
	if err != nil {
		return cache.Lost, fmt.Errorf("cache: redis: fill: %w", err)
	}
	switch out {
	case 0:
		return cache.Lost, nil
	case 1:
		return cache.Kept, nil
	case 2:
		return cache.Purged, nil
	}
	return cache.Lost, errReply
}

// Release implements [cache.Shared].
func (t *Tier) Release(ctx context.Context, n cache.Name, token string, again bool) error {
	keys, err := t.keys(n)
	if err != nil {
		return err
	}
	if err := releaseScript.Exec(ctx, t.client, keys[2:], []string{token, t.channel(), ended(n, again)}).Error(); err != nil {
		return fmt.Errorf("cache: redis: release: %w", err)
	}
	return nil
}

// Purge implements [cache.Shared].
func (t *Tier) Purge(ctx context.Context, tenant atlas.TenantID, tool string) error {
	epochs, err := t.epochs(tenant)
	if err != nil {
		return err
	}
	what := "*"
	if tool != "" {
		what = field(tool)
	}
	if err := purgeScript.Exec(ctx, t.client, []string{epochs}, []string{
		what, rand.Text(), millis(keepEpochs), t.channel(), t.purged(tenant, tool), strconv.Itoa(maxTools),
	}).Error(); err != nil {
		return fmt.Errorf("cache: redis: purge: %w", err)
	}
	return nil
}

// maxTools is how many tools of one tenant have an epoch of their own. With more, the next purge of one
// purges them all.
const maxTools = 1000

// field returns the tool's field among the epochs.
func field(tool string) string { return "t:" + tool }

// Watch implements [cache.Shared].
func (t *Tier) Watch(n cache.Name) (<-chan bool, func()) {
	w := make(chan bool, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watchers[n.Digest] = append(t.watchers[n.Digest], w)
	return w, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		rest := slices.DeleteFunc(t.watchers[n.Digest], func(o chan bool) bool { return o == w })
		if len(rest) == 0 {
			delete(t.watchers, n.Digest)
			return
		}
		t.watchers[n.Digest] = rest
	}
}

// signal tells those who watch a name.
func (t *Tier) signal(digest [32]byte, again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.watchers[digest] {
		select {
		case w <- again:
		default: // it has not read the last one, and looks anyway
		}
	}
}
