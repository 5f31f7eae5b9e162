// Package breaker keeps a failing or busy source from taking the server down: a circuit breaker per
// source and class of tenants, one per source and tenant, and a bulkhead per source in which no tenant
// gets more than its share. What counts as a failure are the codes of the root package; deadlines and
// retries are left to the stages around.
package breaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Config is the stage's settings.
type Config struct {
	FailureThreshold int           `yaml:"failure_threshold"` // failures within period that open a circuit; default 5
	Period           time.Duration `yaml:"period"`            // default 60s
	Recovery         time.Duration `yaml:"recovery"`          // how long a circuit stays open; default 30s
	ProbeTimeout     time.Duration `yaml:"probe_timeout"`     // when a probe without an outcome makes way for another; default 30s

	MaxConcurrent int           `yaml:"max_concurrent"` // calls running per source; default 64
	TenantShare   float64       `yaml:"tenant_share"`   // part of them that one tenant may hold; default 0.5
	MaxQueue      int           `yaml:"max_queue"`      // calls waiting per source, same share; default max_concurrent
	QueueWait     time.Duration `yaml:"queue_wait"`     // how long a call waits for a slot; default 100ms

	// Classes puts tenants into classes that do not share circuits: tenant to class. A tenant that
	// is not named is in class "default".
	Classes map[atlas.TenantID]string `yaml:"classes"`
}

const (
	defaultClass = "default"
	maxClasses   = 32
)

func (c Config) withDefaults() Config {
	c.FailureThreshold = cmp.Or(c.FailureThreshold, 5)
	c.Period = cmp.Or(c.Period, time.Minute)
	c.Recovery = cmp.Or(c.Recovery, 30*time.Second)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 30*time.Second)
	c.MaxConcurrent = cmp.Or(c.MaxConcurrent, 64)
	c.TenantShare = cmp.Or(c.TenantShare, 0.5)
	c.MaxQueue = cmp.Or(c.MaxQueue, c.MaxConcurrent)
	c.QueueWait = cmp.Or(c.QueueWait, 100*time.Millisecond)
	return c
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	d := c.withDefaults()
	if d.FailureThreshold < 1 || d.FailureThreshold > 1_000_000 {
		bad("failure_threshold is %d; must be between 1 and 1000000", c.FailureThreshold)
	}
	for _, v := range []struct {
		name string
		d    time.Duration
	}{{"period", d.Period}, {"recovery", d.Recovery}, {"probe_timeout", d.ProbeTimeout}} {
		if v.d < 10*time.Millisecond || v.d > 24*time.Hour {
			bad("%s is %v; must be between 10ms and 24h", v.name, v.d)
		}
	}
	if d.MaxConcurrent < 1 || d.MaxConcurrent > 1_000_000 {
		bad("max_concurrent is %d; must be between 1 and 1000000", c.MaxConcurrent)
	}
	if !(d.TenantShare > 0 && d.TenantShare <= 1) { // also refuses NaN
		bad("tenant_share is %v; must be above 0 and at most 1", c.TenantShare)
	}
	if d.MaxQueue < 1 || d.MaxQueue > 1_000_000 {
		bad("max_queue is %d; must be between 1 and 1000000", c.MaxQueue)
	}
	if d.QueueWait < 0 || d.QueueWait > time.Minute {
		bad("queue_wait is %v; must be between 0 and 1m", c.QueueWait)
	}
	names := map[string]bool{}
	for tenant, class := range c.Classes {
		if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
			bad("classes: %w", err)
		}
		if class == "" {
			bad("classes: tenant %s has an empty class", tenant)
		}
		names[class] = true
	}
	if len(names) > maxClasses {
		bad("classes: %d classes; at most %d", len(names), maxClasses)
	}
	return errors.Join(errs...)
}

// A Breaker is the stage. It is safe for concurrent use.
type Breaker struct {
	cfg      Config
	settings settings
	state    *State

	mu      sync.RWMutex
	sources map[string]*source // of state, by name; guarded by mu
}

// New returns the stage. The state outlives it: it is made once and handed to every configuration's
// stage. Circuits whose settings change begin anew, closed.
func New(cfg Config, state *State) (*Breaker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if state == nil {
		return nil, errors.New("breaker: no state")
	}
	cfg = cfg.withDefaults()
	return &Breaker{cfg: cfg, settings: settingsOf(cfg), state: state, sources: map[string]*source{}}, nil
}

// Stage refuses calls to sources that are failing or full, and learns from the outcome of the others.
func (b *Breaker) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Tool == nil || call.Tool.Source == "" {
			return next(ctx, call) // composed and workflow tools: their children come through here
		}
		src, class := b.source(call.Tool.Source), b.class(call.Tenant)
		// An open circuit answers at once, without a place in the bulkhead's queue; and the permit is
		// taken after the slot, so that a probe of a half-open circuit does not wait.
		if state, err := src.closed(class, call.Tenant); err != nil {
			return atlas.Result{Notes: atlas.Notes{Breaker: state}}, err
		}
		if err := src.bulkhead.acquire(ctx, call.Tenant, b.cfg.QueueWait); err != nil {
			return atlas.Result{Notes: atlas.Notes{Breaker: src.peek(class)}}, err
		}
		defer src.bulkhead.release(call.Tenant)
		pass, err := src.admit(class, call.Tenant)
		if err != nil {
			return atlas.Result{Notes: atlas.Notes{Breaker: pass.state()}}, err
		}
		defer pass.done(neutral) // of a panic
		res, err := next(ctx, call)
		pass.done(judge(ctx, err))
		res.Notes.Breaker = pass.state()
		return res, err
	}
}

// source returns the state of a source. It is kept, so that a call need not hash the settings.
func (b *Breaker) source(name string) *source {
	b.mu.RLock()
	src := b.sources[name]
	b.mu.RUnlock()
	if src != nil {
		return src
	}
	src = b.state.source(name, b.settings)
	b.mu.Lock()
	b.sources[name] = src
	b.mu.Unlock()
	return src
}

func (b *Breaker) class(tenant atlas.TenantID) string {
	if c, ok := b.cfg.Classes[tenant]; ok {
		return c
	}
	return defaultClass
}

// A verdict is what an outcome says about the source.
type verdict uint8

const (
	neutral verdict = iota // nothing
	healthy                // it answers
	failing                // it does not
)

// judge says what an outcome tells about the source. Only failures to reach the source or to hear
// from it in time count. A source that refuses a request, has no such thing or finds the query wrong
// is answering. A call cut by its caller, or by a budget that the caller made small, says nothing: else
// anyone could open a circuit that others use.
func judge(ctx context.Context, err error) verdict {
	if err == nil {
		return healthy
	}
	switch atlas.CodeOf(err) {
	case atlas.CodeSourceUnavailable, atlas.CodeTimeout: // either may be the driver's word for being cut
		return cut(ctx)
	case atlas.CodeNotFound, atlas.CodeSourceError, atlas.CodeInvalidQuery, atlas.CodeTooLarge:
		return healthy
	default:
		return neutral
	}
}

// cut judges a call that did not reach the source or did not end in time: by the driver's own
// finding, if the context is still alive, which is the source's fault;
// by the budget stage, which leaves timeout as the cause if the call had all the time it should need;
// or by the caller, or the time that the caller left.
func cut(ctx context.Context) verdict {
	if ctx.Err() == nil {
		return failing
	}
	if e, ok := errors.AsType[*atlas.Error](context.Cause(ctx)); ok && e.Code == atlas.CodeTimeout {
		return failing
	}
	return neutral
}
