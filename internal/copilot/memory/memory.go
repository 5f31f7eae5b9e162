// Package memory keeps the last turns of copilot sessions in this process: at most 20 turns of a
// session, for an hour after the last one. Restarting forgets; a shared store implements the same
// interface of package copilot.
package memory

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas/internal/copilot"
)

// Config are the limits. The zero Config means the defaults.
type Config struct {
	Turns    int           `yaml:"turns"`    // kept of a session; 20
	TTL      time.Duration `yaml:"ttl"`      // after the last turn; 1h
	Sessions int           `yaml:"sessions"` // kept at all; 10000, the longest unused go first
}

func (c Config) withDefaults() Config {
	c.Turns, c.TTL, c.Sessions = cmp.Or(c.Turns, 20), cmp.Or(c.TTL, time.Hour), cmp.Or(c.Sessions, 10_000)
	return c
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
	return &Store{cfg: cfg.withDefaults(), sessions: map[copilot.SessionKey]session{}}, nil
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
	turn.IDs = slices.Clone(turn.IDs)
	x.turns = append(slices.Clone(x.turns), turn)
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
