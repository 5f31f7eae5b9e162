// Package memory keeps the last turns of copilot sessions in this process: at most 20 turns of a
// session, for an hour after the last one. Restarting forgets; the store in the folder redis, which
// replicas share, does not. memorytest holds the contract of both.
package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas/internal/copilot"
)

// Config are the limits. The zero Config means the defaults.
type Config struct {
	Turns    int           `yaml:"turns"`    // kept of a session; 20
	TTL      time.Duration `yaml:"ttl"`      // after the last turn; 1h
	Sessions int           `yaml:"sessions"` // kept at all; 10000, the longest unused go first. Not in Redis
	// TurnBytes is how much of a turn is kept: of question and answer the beginning, of the ids the first
	// that fit. 16384.
	TurnBytes int `yaml:"turn_bytes"`
}

// WithDefaults returns the config with its defaults filled in, for the store in the folder redis.
func (c Config) WithDefaults() Config {
	c.Turns, c.TTL, c.Sessions = cmp.Or(c.Turns, 20), cmp.Or(c.TTL, time.Hour), cmp.Or(c.Sessions, 10_000)
	c.TurnBytes = cmp.Or(c.TurnBytes, 16<<10)
	return c
}

const (
	minTurnBytes = 256
	maxTurnBytes = 1 << 20
	cut          = "…"
)

// Cut returns what is kept of a turn: at most size bytes of text, a quarter for the question, a quarter
// for the ids and the rest for the answer. The ids are a copy.
func Cut(turn copilot.Turn, size int) copilot.Turn {
	turn.Question, turn.Answer = shorten(turn.Question, size/4), shorten(turn.Answer, size/2)
	var ids []string
	left := size / 4
	for _, id := range turn.IDs {
		id = strings.ToValidUTF8(id, replacement)
		if left -= len(id) + 1; left < 0 {
			break // half an id would be another's
		}
		ids = append(ids, id)
	}
	turn.IDs = ids
	return turn
}

const replacement = "\uFFFD"

// shorten cuts s between two characters.
func shorten(s string, size int) string {
	s = strings.ToValidUTF8(s, replacement)
	if len(s) <= size {
		return s
	}
	n := size - len(cut)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + cut
}

// Validate reports every mistake.
func (c Config) Validate() error {
	var errs []error
	if c.Turns < 0 || c.Turns > 1000 {
		errs = append(errs, errors.New("copilot.memory.turns must be 1 to 1000"))
	}
	if c.TTL < 0 {
		errs = append(errs, errors.New("copilot.memory.ttl must not be negative"))
	}
	if c.TurnBytes != 0 && (c.TurnBytes < minTurnBytes || c.TurnBytes > maxTurnBytes) {
		errs = append(errs, fmt.Errorf("copilot.memory.turn_bytes must be %d to %d", minTurnBytes, maxTurnBytes))
	}
	if c.Sessions < 0 {
		errs = append(errs, errors.New("copilot.memory.sessions must not be negative"))
	}
	return errors.Join(errs...)
}

// Store implements [copilot.Memory]. It is safe for concurrent use.
type Store struct {
	cfg Config

	mu       sync.Mutex // guards sessions
	sessions map[copilot.SessionKey]session
}

type session struct {
	turns []copilot.Turn
	used  time.Time
}

var _ copilot.Memory = (*Store)(nil)

// New returns an empty store.
func New(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Store{cfg: cfg.WithDefaults(), sessions: map[copilot.SessionKey]session{}}, nil
}

// Recall implements [copilot.Memory].
func (s *Store) Recall(_ context.Context, key copilot.SessionKey) ([]copilot.Turn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.sessions[key]
	if !ok || time.Since(x.used) >= s.cfg.TTL {
		delete(s.sessions, key)
		return nil, nil
	}
	return slices.Clone(x.turns), nil
}

// Remember implements [copilot.Memory].
func (s *Store) Remember(_ context.Context, key copilot.SessionKey, turn copilot.Turn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	x, ok := s.sessions[key]
	if ok && now.Sub(x.used) >= s.cfg.TTL {
		x = session{}
	}
	if !ok && len(s.sessions) >= s.cfg.Sessions {
		s.evict(now)
	}
	x.turns = append(slices.Clone(x.turns), Cut(turn, s.cfg.TurnBytes))
	if n := len(x.turns); n > s.cfg.Turns {
		x.turns = x.turns[n-s.cfg.Turns:]
	}
	x.used = now
	s.sessions[key] = x
	return nil
}

// evict makes room: what has expired goes, or else the session unused for longest.
func (s *Store) evict(now time.Time) {
	var oldest copilot.SessionKey
	var at time.Time
	for k, x := range s.sessions {
		if now.Sub(x.used) >= s.cfg.TTL {
			delete(s.sessions, k)
		} else if at.IsZero() || x.used.Before(at) {
			oldest, at = k, x.used
		}
	}
	if len(s.sessions) >= s.cfg.Sessions {
		delete(s.sessions, oldest)
	}
}
