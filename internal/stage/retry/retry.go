// Package retry is the innermost stage: it runs a tool again where that is safe and may help, inside
// the call's deadline and a budget of retries per source. What may fail for a while is decided by the
// codes of the root package, the deadline by the budget stage, and giving up on a source by the breaker.
package retry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Config is the stage's settings.
type Config struct {
	MaxAttempts int           `yaml:"max_attempts"` // runs of a call in all; default 3, and 1 switches retries off
	BaseDelay   time.Duration `yaml:"base_delay"`   // upper bound of the first delay; default 100ms
	MaxDelay    time.Duration `yaml:"max_delay"`    // upper bound of any delay; default 2s
	BudgetRatio float64       `yaml:"budget_ratio"` // retries for each call of a source; default 0.1
	BudgetRate  float64       `yaml:"budget_rate"`  // retries per second and source that are free; default 1
}

func (c Config) withDefaults() Config {
	c.MaxAttempts = cmp.Or(c.MaxAttempts, 3)
	c.BaseDelay = cmp.Or(c.BaseDelay, 100*time.Millisecond)
	c.MaxDelay = cmp.Or(c.MaxDelay, max(2*time.Second, c.BaseDelay))
	c.BudgetRatio = cmp.Or(c.BudgetRatio, 0.1)
	c.BudgetRate = cmp.Or(c.BudgetRate, 1)
	return c
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	d := c.withDefaults()
	if d.MaxAttempts < 1 || d.MaxAttempts > 10 {
		errs = append(errs, fmt.Errorf("max_attempts is %d; must be between 1 and 10", c.MaxAttempts))
	}
	if d.BaseDelay < 0 {
		errs = append(errs, fmt.Errorf("base_delay is %v; must not be negative", c.BaseDelay))
	}
	if d.MaxDelay < d.BaseDelay {
		errs = append(errs, fmt.Errorf("max_delay is %v; must not be below base_delay, %v", d.MaxDelay, d.BaseDelay))
	}
	if !(d.BudgetRatio > 0 && d.BudgetRatio <= 1) { // also refuses NaN
		errs = append(errs, fmt.Errorf("budget_ratio is %v; must be above 0 and at most 1", c.BudgetRatio))
	}
	if !(d.BudgetRate > 0 && d.BudgetRate <= 1000) {
		errs = append(errs, fmt.Errorf("budget_rate is %v; must be above 0 and at most 1000", c.BudgetRate))
	}
	return errors.Join(errs...)
}

// A Retry is the stage. It is safe for concurrent use.
type Retry struct {
	cfg     Config
	budgets *Budgets
}

// New returns the stage. The budgets outlive it: they are made once and handed to every
// configuration's stage.
func New(cfg Config, budgets *Budgets) (*Retry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if budgets == nil {
		return nil, errors.New("retry: no budgets")
	}
	cfg = cfg.withDefaults()
	return &Retry{cfg: cfg, budgets: budgets}, nil
}

// Stage runs the call, and again if that is safe, may help, and there is time and budget.
func (r *Retry) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if !r.may(call) {
			res, err := next(ctx, call)
			res.Notes.Attempts = 1
			return res, err
		}
		bucket := r.budgets.bucket(call.Tool.Source)
		bucket.deposit(r.cfg.BudgetRatio)
		res, err := next(ctx, call)
		attempts := 1
		for ; err != nil && attempts < r.cfg.MaxAttempts; attempts++ {
			if !r.wait(ctx, bucket, attempts, err) {
				break
			}
			res, err = next(ctx, call)
		}
		res.Notes.Attempts = attempts
		return res, err
	}
}

// may reports whether running the call twice is safe, and this is the layer to do it. Composed and
// workflow tools have no source: each of their children is retried by itself, and retrying at two
// layers multiplies the load on a failing source (SRE book, chapter 22). That a write carries an
// idempotency key does not make its tool idempotent, so the key alone does not count.
func (r *Retry) may(call atlas.Call) bool {
	t := call.Tool
	return t != nil && t.Source != "" && (t.ReadOnly || t.Idempotent) && r.cfg.MaxAttempts > 1
}

// wait waits before the next attempt and reports whether there is to be one. If it says no, the
// error of the last attempt stands: it tells more than the end of the wait would.
func (r *Retry) wait(ctx context.Context, b *bucket, attempts int, cause error) bool {
	e := atlas.ErrorOf(cause)
	if ctx.Err() != nil || !transient(e.Code) {
		return false
	}
	// Full jitter (Brooker, "Exponential backoff and jitter", AWS Architecture Blog 2015).
	ceiling := r.cfg.MaxDelay
	if shift := attempts - 1; shift < 20 {
		ceiling = min(ceiling, r.cfg.BaseDelay<<shift)
	}
	delay := rand.N(ceiling + 1) //nolint:gosec // spreads load; not a secret
	if e.RetryAfter > 0 {
		// Waiting long keeps a slot of the bulkhead; then it is the caller who should come back.
		if e.RetryAfter > r.cfg.MaxDelay {
			return false
		}
		delay = max(delay, e.RetryAfter)
	}
	if dl, ok := ctx.Deadline(); ok && time.Until(dl) <= delay {
		return false
	}
	if !b.withdraw(r.cfg.BudgetRate) {
		return false
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// transient names the failures of an attempt that another may not meet: the source could not be
// reached or was too busy, or the attempt took longer than the driver allows.
func transient(c atlas.Code) bool {
	return c == atlas.CodeSourceUnavailable || c == atlas.CodeOverloaded || c == atlas.CodeTimeout
}
