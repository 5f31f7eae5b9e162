package redis

import "github.com/redis/rueidis"

// WithClock returns a store whose time is what now says, in microseconds since 1970. Only how the
// script knows the time differs from the store that New makes; buckets are kept for longer, for Redis
// forgets by its own clock.
func (s *Store) WithClock(now func() int64) *Store {
	c := *s
	c.now = now
	c.script = rueidis.NewLuaScript("local slack = 600000\nlocal now = tonumber(ARGV[#ARGV])\n" + gcra)
	return &c
}
