// Package ratelimit is the stage that keeps calls to their rates: per tenant, per tool within the
// tenant, and per caller, charged in one atomic step, all or none. It uses GCRA, the generic cell
// rate algorithm (ITU-T I.371, annex A), behind a small [Store]: [Local] is the in-process one, the
// one that replicas share is in a folder of its own, and [Failover] does without it while it is
// away. Daily quotas and protection of single sources are left to others.
package ratelimit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Scope is one of the three kinds of bucket.
type Scope uint8

// The scopes. Each bucket belongs to one tenant.
const (
	Tenant Scope = iota
	Tool
	Caller
)

const scopes = 3

// String returns the scope as errors name it.
func (s Scope) String() string {
	return [scopes]string{"tenant", "tool", "caller"}[s]
}

// A Cell is one bucket and what is to be taken from it.
type Cell struct {
	Name     string        // which tool or caller; empty for the tenant's own
	Interval time.Duration // between two units at the sustained rate
	Burst    int64         // units that may come at once
	Cost     int64         // units to take, at most Burst; 0 leaves the bucket alone
}

// A Charge is what one call takes, by scope. All buckets are the tenant's.
type Charge struct {
	Tenant    atlas.TenantID
	Cells     [scopes]Cell
	OnFailure FailMode // for [Failover]; empty means refuse
}

// A Decision answers a charge.
type Decision struct {
	Allowed    bool
	Scope      Scope         // if refused: the bucket with the longest wait
	RetryAfter time.Duration // if refused: when all buckets would allow the same charge
}

// A Store holds the buckets. It outlives the pipeline, so that a reload gives nobody a fresh
// bucket.
type Store interface {
	// Take takes from all cells of the charge, or from none, in one atomic step. It is safe for
	// concurrent use and uses the store's own clock. An error means that nothing is known; the
	// call is then refused. ratelimittest holds the contract.
	Take(ctx context.Context, c Charge) (Decision, error)
}

// A Limiter is the stage. It is immutable; what it counts is in the store.
type Limiter struct {
	store     Store
	rules     rules
	onFailure OnStoreFailure
}

// New makes a Limiter. The store is shared with the limiters before and after a reload.
func New(cfg Config, store Store) (*Limiter, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if store == nil {
		return nil, errors.New("ratelimit: there is no store")
	}
	cfg = cfg.withDefaults()
	return &Limiter{store: store, rules: compile(cfg), onFailure: cfg.OnStoreFailure}, nil
}

// Stage refuses calls over a limit with rate_limited. Calls that a composed or workflow tool makes
// pass: their caller was charged for the tool itself. What a list or a completion looks up is charged
// for: nothing else holds it back.
func (l *Limiter) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Parent != nil && !call.Parent.List {
			return next(ctx, call)
		}
		charge, err := l.charge(call)
		if err != nil {
			return atlas.Result{}, err
		}
		d, err := l.store.Take(ctx, charge)
		if err != nil {
			return atlas.Result{}, storeError(err)
		}
		if !d.Allowed {
			return atlas.Result{}, refusal(d)
		}
		return next(ctx, call)
	}
}

func (l *Limiter) charge(call atlas.Call) (Charge, error) {
	if call.Principal == nil || call.Tenant == "" {
		return Charge{}, atlas.Errorf(atlas.CodeInternal, errors.New("ratelimit: the call has no principal or no tenant"), "")
	}
	t := l.rules.tenant(call.Tenant)
	c := Charge{Tenant: call.Tenant, OnFailure: l.onFailure.Reads}
	cost := int64(1)
	if call.Op == atlas.OpCall {
		if call.Tool == nil {
			return Charge{}, atlas.Errorf(atlas.CodeInternal, errors.New("ratelimit: the call has no tool; the registry stage must be outside"), "")
		}
		if tool := call.Tool; !tool.ReadOnly || tool.Destructive || tool.Effects != atlas.EffectsNone {
			c.OnFailure = l.onFailure.Writes
		}
		limit, weight := t.tool(call.Tool.Name)
		cost = weight
		c.Cells[Tool] = limit.cell(call.Tool.Name, cost)
	}
	c.Cells[Tenant] = t.own.cell("", cost)
	c.Cells[Caller] = t.caller.cell(callerName(call), cost)
	return c, nil
}

// callerName names the caller within the tenant of the call: by the subject, save that who acts for
// another tenant than his own must not share the bucket of a namesake there.
func callerName(call atlas.Call) string {
	name := call.Principal.Subject
	foreign := call.Principal.Tenant != call.Tenant
	if !foreign && len(name) <= maxName && (name == "" || name[0] >= ' ') {
		return name
	}
	// The first byte keeps these names apart from each other and from subjects as they are.
	prefix := "\x00"
	if foreign {
		prefix = "\x01" + string(call.Principal.Tenant) + "/" // a tenant id has no slash
	}
	sum := sha256.Sum256([]byte(prefix + name))
	return "\x00" + string(sum[:])
}

// maxName is the longest name of a bucket in bytes: a token may hold a subject of any length.
const maxName = 256

func refusal(d Decision) error {
	e := atlas.Errorf(atlas.CodeRateLimited, nil, fmt.Sprintf("the rate limit of this %s is used up; wait, then try again", d.Scope))
	e.RetryAfter = d.RetryAfter
	return e.With("limit", d.Scope.String())
}

// storeError keeps the errors of a context what they are, and what a store has already said.
func storeError(err error) error {
	if e, ok := errors.AsType[*atlas.Error](err); ok && e.Code == atlas.CodeStateUnavailable {
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return atlas.Errorf(atlas.CodeStateUnavailable, fmt.Errorf("ratelimit: %w", err), "")
}
