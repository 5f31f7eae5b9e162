package cache

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// errOpen says that the second tier was not asked.
var errOpen = errors.New("cache: the shared tier is away")

const (
	circuitFaults = 3           // in a row, after which the second tier is left alone
	circuitPause  = time.Second // for how long; then one call tries
)

// A circuit spares calls the wait for a store that is away. The zero value is closed.
type circuit struct {
	faulty atomic.Bool // faults is not 0; spares the lock

	mu     sync.Mutex
	faults int
	until  time.Time // when the next call may try
}

// admit reports whether to ask.
func (c *circuit) admit(now time.Time) bool {
	if !c.faulty.Load() {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults < circuitFaults {
		return true
	}
	if now.Before(c.until) {
		return false
	}
	c.until = now.Add(circuitPause) // this one tries
	return true
}

// opened reports whether it is open.
func (c *circuit) opened() bool {
	if !c.faulty.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults >= circuitFaults
}

// report takes note of an answer.
func (c *circuit) report(now time.Time, err error) (opened, closed bool) {
	if err == nil && !c.faulty.Load() {
		return false, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.faults >= circuitFaults
	if err == nil {
		c.faults = 0
	} else if c.faults++; c.faults >= circuitFaults {
		c.until = now.Add(circuitPause)
	}
	is := c.faults >= circuitFaults
	c.faulty.Store(c.faults > 0)
	return is && !was, was && !is
}

// forget takes back an admission that came to nothing, so that the next call may try.
func (c *circuit) forget() {
	if !c.faulty.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Time{}
}
