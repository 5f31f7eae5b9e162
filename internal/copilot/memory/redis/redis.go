// Package redis keeps the last turns of copilot sessions where all replicas find them. A session is one
// list, under a key made by hashing the whole [copilot.SessionKey], so that no choice of names reaches
// another's list. It vanishes when its time is up.
package redis

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/memory"
)

// A Sealer encrypts what is kept. What it sealed opens only beside the same bound.
type Sealer interface {
	Seal(plain, bound []byte) string
	Open(text string, bound []byte) ([]byte, error)
}

// Deps are what a store works with.
type Deps struct {
	Client rueidis.Client
	Prefix string // of all keys; without braces
	// Seal encrypts the turns, which quote customers' data; all replicas need the same keys. Nil keeps
	// them in the clear, as readable as Redis is.
	Seal Sealer
	// Unreadable is told of each turn that could not be opened: of a lost key, or not put there by this
	// program. Such turns count as forgotten. May be nil.
	Unreadable func()
}

// timeout is how long Redis may take. Remembering has no deadline of its own.
const timeout = time.Second

// appendTurn keeps the newest turns only, and the session for its whole time again.
const appendTurn = `
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
`

// Store implements [copilot.Memory]. It is safe for concurrent use.
type Store struct {
	cfg    memory.Config
	deps   Deps
	prefix string
	script *rueidis.Lua
	turns  string // of the config, as the script takes them
	ttl    string
}

var _ copilot.Memory = (*Store)(nil)

// New makes a store. Config.Sessions means nothing here. It asks Redis nothing.
func New(cfg memory.Config, deps Deps) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Client == nil {
		return nil, errors.New("copilot memory: there is no client of Redis")
	}
	if deps.Unreadable == nil {
		deps.Unreadable = func() {}
	}
	cfg = cfg.WithDefaults()
	return &Store{
		cfg: cfg, deps: deps, prefix: deps.Prefix + "mem:", script: rueidis.NewLuaScript(appendTurn),
		turns: strconv.Itoa(cfg.Turns), ttl: strconv.FormatInt(max(1, cfg.TTL.Milliseconds()), 10),
	}, nil
}

// Recall implements [copilot.Memory].
func (s *Store) Recall(ctx context.Context, key copilot.SessionKey) ([]copilot.Turn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list, c := s.list(key), s.deps.Client
	texts, err := c.Do(ctx, c.B().Lrange().Key(list).Start(-int64(s.cfg.Turns)).Stop(-1).Build()).AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("copilot memory: %w", err)
	}
	var turns []copilot.Turn
	for _, text := range texts {
		turn, err := s.decode(text, list)
		if err != nil {
			s.deps.Unreadable()
			continue
		}
		turns = append(turns, turn)
	}
	return turns, nil
}

// Remember implements [copilot.Memory].
func (s *Store) Remember(ctx context.Context, key copilot.SessionKey, turn copilot.Turn) error {
	plain, err := json.Marshal(memory.Cut(turn, s.cfg.TurnBytes))
	if err != nil {
		return fmt.Errorf("copilot memory: %w", err)
	}
	list, text := s.list(key), string(plain)
	if s.deps.Seal != nil {
		text = s.deps.Seal.Seal(plain, []byte(list))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.script.Exec(ctx, s.deps.Client, []string{list}, []string{text, s.turns, s.ttl}).Error(); err != nil {
		return fmt.Errorf("copilot memory: %w", err)
	}
	return nil
}

func (s *Store) decode(text, list string) (turn copilot.Turn, err error) {
	plain := []byte(text)
	if s.deps.Seal != nil {
		if plain, err = s.deps.Seal.Open(text, []byte(list)); err != nil {
			return copilot.Turn{}, err
		}
	}
	if err := json.Unmarshal(plain, &turn); err != nil {
		return copilot.Turn{}, err
	}
	return memory.Cut(turn, s.cfg.TurnBytes), nil // also what somebody else put there
}

// list names a session's list. The lengths keep the parts apart.
func (s *Store) list(key copilot.SessionKey) string {
	h := sha256.New()
	for _, part := range []string{key.Tenant, key.Subject, key.Session} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		_, _ = h.Write(size[:]) // never fails
		_, _ = h.Write([]byte(part))
	}
	return s.prefix + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
