package memory

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A space is the unit of isolation and of the limits.
type space struct {
	values map[string]value
	bytes  int64
}

type value struct {
	data    []byte
	version int64
	expires time.Time // zero: never
}

func (v value) expired(now time.Time) bool { return !v.expires.IsZero() && !now.Before(v.expires) }

// current returns the value of the key that has not expired, or a zero one.
func (s *Store) current(name, key string, now time.Time) value {
	sp := s.spaces[name]
	if sp == nil {
		return value{}
	}
	v := sp.values[key]
	if v.expired(now) {
		return value{}
	}
	return v
}

// Get implements [state.KV].
func (s *Store) Get(ctx context.Context, name, key string) ([]byte, int64, error) {
	if err := s.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer s.mu.Unlock()
	v := s.current(name, key, time.Now())
	return slices.Clone(v.data), v.version, nil
}

// CompareAndSet implements [state.KV].
func (s *Store) CompareAndSet(ctx context.Context, name, key string, version int64, data []byte, expires time.Time) (int64, error) {
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	if len(data) > s.limits.MaxValue {
		return 0, atlas.Errorf(atlas.CodeTooLarge, nil, "the value is too large to be kept")
	}
	now := time.Now()
	there := s.current(name, key, now)
	if there.version != version {
		return 0, nil
	}
	sp := s.spaces[name]
	if sp == nil {
		sp = &space{values: map[string]value{}}
		s.spaces[name] = sp
	}
	grows := int64(len(data) - len(there.data))
	full := func() bool {
		n := len(sp.values)
		if there.version == 0 {
			n++
		}
		return (n > s.limits.MaxKeys || sp.bytes+grows > s.limits.MaxBytes) && (grows > 0 || there.version == 0)
	}
	if full() {
		maps.DeleteFunc(sp.values, func(_ string, v value) bool {
			if !v.expired(now) {
				return false
			}
			sp.bytes -= int64(len(v.data))
			return true
		})
		if full() {
			return 0, atlas.Errorf(atlas.CodeRateLimited, nil, "too much is kept already; wait until some of it expires")
		}
	}
	s.version++
	sp.bytes += int64(len(data) - len(sp.values[key].data))
	sp.values[key] = value{data: slices.Clone(data), version: s.version, expires: expires}
	return s.version, nil
}

// CompareAndDelete implements [state.KV].
func (s *Store) CompareAndDelete(ctx context.Context, name, key string, version int64) (bool, error) {
	if err := s.lock(ctx); err != nil {
		return false, err
	}
	defer s.mu.Unlock()
	there := s.current(name, key, time.Now())
	if there.version == 0 || there.version != version {
		return false, nil
	}
	sp := s.spaces[name]
	delete(sp.values, key)
	sp.bytes -= int64(len(there.data))
	if len(sp.values) == 0 {
		delete(s.spaces, name)
	}
	return true, nil
}
