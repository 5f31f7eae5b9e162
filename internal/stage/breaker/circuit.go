package breaker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// A circuit is one circuit breaker (Nygard, "Release It!"). failsafe-go counts the failures of the
// sliding period and times the open state; the probe of the half-open state is kept here, because a
// probe may end without a verdict (its caller went away) or not end at all, and failsafe-go's permits
// cannot be handed back without one. A circuit that waits for a lost probe never closes again.
type circuit struct {
	set settings

	// word is the epoch, shifted left by two, and the state: what calls need as long as the circuit
	// is closed. It is written with mu held. The epoch counts changes; the outcome of a call that was
	// let through in an older epoch says nothing.
	word atomic.Uint64

	mu      sync.Mutex // guards what follows
	cb      circuitbreaker.CircuitBreaker[any]
	probing bool      // a probe runs
	lease   time.Time // until when it keeps others from probing
}

func newCircuit(set settings) *circuit {
	return &circuit{set: set, cb: circuitbreaker.NewBuilder[any]().
		WithFailureThresholdPeriod(uint(set.threshold), set.period).
		WithDelay(set.recovery).
		WithSuccessThreshold(1).
		Build()}
}

const stateBits = 2

// state returns the state, as of the last call.
func (c *circuit) state() circuitbreaker.State {
	return circuitbreaker.State(c.word.Load() & (1<<stateBits - 1))
}

func (c *circuit) epoch() uint64 { return c.word.Load() >> stateBits }

// turn begins a new epoch, in the state that cb has. The caller holds mu.
func (c *circuit) turn() {
	c.word.Store((c.epoch()+1)<<stateBits | uint64(c.cb.State())) //nolint:gosec // 0, 1 or 2
}

// A permit lets one call through a circuit.
type permit struct {
	epoch uint64
	probe bool
}

// admit lets a call through, or says how long to stay away.
func (c *circuit) admit(now time.Time) (permit, time.Duration, bool) {
	if w := c.word.Load(); w&(1<<stateBits-1) == uint64(circuitbreaker.ClosedState) {
		return permit{epoch: w >> stateBits}, 0, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.cb.State() {
	case circuitbreaker.ClosedState:
		return permit{epoch: c.epoch()}, 0, true
	case circuitbreaker.OpenState:
		if d := c.cb.RemainingDelay(); d > 0 {
			return permit{}, d, false
		}
		c.cb.HalfOpen()
		c.probing = false
		c.turn()
	case circuitbreaker.HalfOpenState:
	}
	if c.probing && now.Before(c.lease) {
		return permit{}, min(c.lease.Sub(now), time.Second), false
	}
	if c.probing { // the probe before is lost: what it still says is void
		c.turn()
	}
	c.probing, c.lease = true, now.Add(c.set.probe)
	return permit{epoch: c.epoch(), probe: true}, 0, true
}

// done takes in the outcome of a call that was let through.
func (c *circuit) done(p permit, v verdict) {
	if v != failing && !p.probe {
		return // successes do not count in a closed circuit
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.epoch != c.epoch() {
		return
	}
	switch {
	case p.probe && v == neutral: // the next call probes
		c.probing = false
	case p.probe && v == healthy:
		c.probing = false
		c.cb.Close()
		c.turn()
	case p.probe:
		c.probing = false
		c.cb.Open()
		c.turn()
	case c.cb.IsClosed():
		if c.cb.RecordFailure(); c.cb.IsOpen() {
			c.turn()
		}
	}
}

// wait returns how long an open circuit stays so, or 0.
func (c *circuit) wait() time.Duration {
	if c.state() != circuitbreaker.OpenState {
		return 0
	}
	return c.cb.RemainingDelay()
}

// failures returns the failures that count now.
func (c *circuit) failures() int { return int(c.cb.Metrics().Failures()) }
