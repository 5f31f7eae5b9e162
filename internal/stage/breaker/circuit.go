package breaker

import (
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// A circuit is one circuit breaker (Nygard, "Release It!"). failsafe-go counts the failures of the
// sliding period and times the open state; the probe of the half-open state is kept here, because a
// probe may end without a verdict (its caller went away) or not end at all, and failsafe-go's permits
// cannot be handed back without one. A circuit that waits for a lost probe never closes again.
type circuit struct {
	set settings

	mu      sync.Mutex // guards what follows
	cb      circuitbreaker.CircuitBreaker[any]
	epoch   uint64    // counts the times that the state changed; outcomes of calls of an older epoch say nothing
	probing bool      // a probe runs
	lease   time.Time // until when it keeps others from probing
}

func newCircuit(set settings) *circuit {
	return &circuit{set: set, cb: circuitbreaker.NewBuilder[any]().
		WithFailureThresholdPeriod(uint(set.threshold), set.period). //nolint:gosec // validated: 1 to 1,000,000
		WithDelay(set.recovery).
		WithSuccessThreshold(1).
		Build()}
}

// A permit lets one call through a circuit.
type permit struct {
	epoch uint64
	probe bool
}

// admit lets a call through, or says how long to stay away.
func (c *circuit) admit(now time.Time) (permit, time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.cb.State() {
	case circuitbreaker.ClosedState:
		return permit{epoch: c.epoch}, 0, true
	case circuitbreaker.OpenState:
		if d := c.cb.RemainingDelay(); d > 0 {
			return permit{}, d, false
		}
		c.cb.HalfOpen()
		c.epoch++
		c.probing = false
	case circuitbreaker.HalfOpenState:
	}
	if c.probing && now.Before(c.lease) {
		return permit{}, min(c.lease.Sub(now), time.Second), false
	}
	if c.probing { // the probe before is lost: what it still says is void
		c.epoch++
	}
	c.probing, c.lease = true, now.Add(c.set.probe)
	return permit{epoch: c.epoch, probe: true}, 0, true
}

// done takes in the outcome of a call that was let through.
func (c *circuit) done(p permit, v verdict) {
	if v != failing && !p.probe {
		return // successes do not count in a closed circuit
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.epoch != c.epoch {
		return
	}
	if p.probe {
		c.probing = false
		switch v {
		case healthy:
			c.cb.Close()
			c.epoch++
		case failing:
			c.cb.Open()
			c.epoch++
		case neutral: // the next call probes
		}
		return
	}
	if !c.cb.IsClosed() {
		return
	}
	c.cb.RecordFailure()
	if c.cb.IsOpen() {
		c.epoch++
	}
}

// look returns the state without changing it.
func (c *circuit) look() (circuitbreaker.State, time.Duration, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cb.State(), c.cb.RemainingDelay(), int(c.cb.Metrics().Failures()) //nolint:gosec // small
}
