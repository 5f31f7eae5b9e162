// Package budget is the ATBA stage (adaptive tool budget allocation): it gives every call its
// deadline, from what is left of the caller's turn and from how long the tool has taken lately, and
// refuses calls that would most likely be cut. Reading the budget from the wire is left to the edge,
// passing the deadline on to a store to the drivers.
package budget

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Config is the stage's settings.
type Config struct {
	Floor          time.Duration `yaml:"floor"`           // least time worth giving; default 500ms
	Safety         float64       `yaml:"safety"`          // factor on the predicted latency, at least 1; default 1.5
	DefaultTimeout time.Duration `yaml:"default_timeout"` // for tools that declare none; default 10s
}

func (c Config) withDefaults() Config {
	c.Floor = cmp.Or(c.Floor, 500*time.Millisecond)
	c.Safety = cmp.Or(c.Safety, 1.5)
	c.DefaultTimeout = cmp.Or(c.DefaultTimeout, 10*time.Second)
	return c
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if c.Floor < 0 {
		errs = append(errs, fmt.Errorf("floor is %v; must not be negative", c.Floor))
	}
	if c.Safety != 0 && !(c.Safety >= 1 && c.Safety <= 100) { // also refuses NaN
		errs = append(errs, fmt.Errorf("safety is %v; must be between 1 and 100", c.Safety))
	}
	if c.DefaultTimeout < 0 {
		errs = append(errs, fmt.Errorf("default_timeout is %v; must not be negative", c.DefaultTimeout))
	}
	return errors.Join(errs...)
}

// Lookup finds a tool by name. It must find only what the caller of call may see, so that the
// shares of a budget tell nothing about hidden tools.
type Lookup func(call atlas.Call, name string) (*atlas.Tool, bool)

// The causes of an expired context, as [context.Cause] shows them to the stages inside: timeout when
// the call had all the time that the tool should need, budget_exhausted when the caller's own turn was
// what cut it short. The breaker counts only the first, so that nobody can make a healthy source look
// sick by sending tiny budgets.
var (
	errTimeout = &atlas.Error{Code: atlas.CodeTimeout}
	errCut     = &atlas.Error{Code: atlas.CodeBudgetExhausted}
)

// maxExpected bounds how many names of Budget.Expected are looked at.
const maxExpected = 64

// A Budget is the stage. It is safe for concurrent use.
type Budget struct {
	cfg    Config
	lat    *Latencies
	lookup Lookup
}

// New returns the stage. The latencies outlive it: they are made once and handed to every
// configuration's stage. lookup may be nil; then tools still expected weigh as much as the tool called.
func New(cfg Config, lat *Latencies, lookup Lookup) (*Budget, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if lat == nil {
		return nil, errors.New("budget: no latencies")
	}
	if lookup == nil {
		lookup = func(atlas.Call, string) (*atlas.Tool, bool) { return nil, false }
	}
	return &Budget{cfg: cfg.withDefaults(), lat: lat, lookup: lookup}, nil
}

// Stage gives each call its deadline and learns from how long it took.
func (b *Budget) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Tool == nil {
			return next(ctx, call)
		}
		if err := ctx.Err(); err != nil {
			return atlas.Result{}, atlas.ErrorOf(err)
		}
		sk := b.lat.sketch(call.Tenant, call.Tool)
		start := time.Now()
		g, err := b.plan(ctx, call, sk, start)
		if err != nil {
			return atlas.Result{}, err
		}
		// A deadline from outside, such as that of the composed tool around, ends the call just before
		// it would, so that the cause is known and the caller of the child still has a moment.
		if dl, ok := ctx.Deadline(); ok {
			if room := dl.Sub(start) - time.Millisecond; room < g.timeout {
				g = grant{timeout: max(room, 0)}
			}
		}
		cause := errTimeout
		if !g.full {
			cause = errCut
		}
		inner := withDeadline(ctx, start.Add(g.timeout), cause)
		defer inner.end()
		res, callErr := next(inner, call)
		took := time.Since(start)
		res.Notes.Timeout = g.timeout
		return res, b.settle(ctx, inner, sk, g, took, callErr)
	}
}

// settle learns from the outcome and says timeout where the deadline given here was the reason.
func (b *Budget) settle(ctx, inner context.Context, sk *sketch, g grant, took time.Duration, err error) error {
	if err == nil {
		sk.observe(took)
		return nil
	}
	code := atlas.CodeOf(err)
	if code == atlas.CodeNotFound { // the source did its work
		sk.observe(took)
		return err
	}
	stopped := code == atlas.CodeTimeout || code == atlas.CodeCanceled ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if !stopped || inner.Err() == nil {
		return err
	}
	// The call would have taken longer than this: a censored observation, not a latency.
	sk.censor(took)
	switch outer := ctx.Err(); {
	case errors.Is(outer, context.Canceled):
		return &atlas.Error{Code: atlas.CodeCanceled, Err: err}
	case outer != nil, !errors.Is(inner.Err(), context.DeadlineExceeded):
		return &atlas.Error{Code: atlas.CodeTimeout, Err: err}
	}
	return &atlas.Error{
		Code: atlas.CodeTimeout, Err: err,
		Context: map[string]any{"timeout_ms": g.timeout.Milliseconds()},
	}
}

// A grant is the time given to a call.
type grant struct {
	timeout time.Duration
	full    bool // nothing but the tool's own expected latency limits it
}

// plan decides how long the call may take. With B the time left of the turn, R the reserve for the model's own next step, q the predicted latency of a
// tool and k over this call and those still expected:
//
//	timeout = min(cap, B - R, max(floor, min(q*safety, (B - R) * q / sum q_k)))
//
// where cap is the tool's declared timeout. Shares in proportion to predicted latency, and by p99, are
// what arXiv 2603.13417 section 6 asks for; the formula is our own, since the paper gives none. That a
// timeout is a quantile times a safety factor follows LogDevice's adaptive timeouts; failing at once
// when the time left is below the median follows the SRE book, chapter 22 ("deadline propagation").
// Unused time returns to the pool because every call is planned anew.
//
// A caller that sends no budget gets the declared timeout. A call that runs as a task gets the tool's
// timeout as a task: it is made to outlast the turn, whose budget therefore says nothing of it.
func (b *Budget) plan(ctx context.Context, call atlas.Call, sk *sketch, now time.Time) (grant, error) {
	declared := b.declared(call.Tool)
	if call.Task && call.Tool.Task.Timeout > 0 {
		return grant{timeout: call.Tool.Task.Timeout, full: true}, nil
	}
	if call.Budget.Total == 0 {
		return grant{timeout: declared, full: true}, nil
	}
	left := call.Budget.Total
	if !call.Received.IsZero() {
		left -= max(0, now.Sub(call.Received))
	}
	left -= max(0, call.Budget.Reserve)
	// A deadline from outside is not the turn's end but a limit on this call, such as that of the cache's
	// load or of the tool around: the reserve is not taken from it a second time.
	if dl, ok := ctx.Deadline(); ok {
		left = min(left, dl.Sub(now))
	}

	est := sk.estimate(now)
	if left <= 0 || left < est.p50 {
		e := &atlas.Error{Code: atlas.CodeBudgetExhausted, Context: map[string]any{
			"remaining_ms": max(0, left).Milliseconds(),
		}}
		if est.p50 > 0 {
			e.Context["typical_ms"] = est.p50.Milliseconds()
		}
		return grant{}, e
	}
	q := cmp.Or(est.q, declared)
	sum := q.Seconds()
	for i, name := range call.Budget.Expected {
		if i == maxExpected {
			break
		}
		sum += b.expected(call, name, q, now).Seconds()
	}
	want := max(b.cfg.Floor, scale(q, b.cfg.Safety))
	share := max(b.cfg.Floor, scale(left, q.Seconds()/sum))
	timeout := min(declared, left, want, share)
	return grant{timeout: timeout, full: timeout >= min(declared, want)}, nil
}

// expected predicts the latency of a tool that the caller still means to call. A name that the
// caller cannot see weighs as much as the tool called now, whether it exists or not.
func (b *Budget) expected(call atlas.Call, name string, same time.Duration, now time.Time) time.Duration {
	t, ok := b.lookup(call, name)
	if !ok {
		return same
	}
	if sk := b.lat.find(call.Tenant, t); sk != nil {
		if est := sk.estimate(now); est.q > 0 {
			return est.q
		}
	}
	return b.declared(t)
}

func (b *Budget) declared(t *atlas.Tool) time.Duration {
	if t.Timeout > 0 {
		return t.Timeout
	}
	return b.cfg.DefaultTimeout
}

// scale multiplies without overflow.
func scale(d time.Duration, f float64) time.Duration {
	if v := float64(d) * f; v < math.MaxInt64 {
		return time.Duration(v)
	}
	return math.MaxInt64
}
