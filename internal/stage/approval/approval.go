// Package approval makes a destructive call wait for a person. A call without permission leaves a
// pending approval and is refused with approval_required; once another person has approved it
// (see [Service]), the identical call runs, once. Who is told that something waits, and through
// which channel the decision comes in, is left to others; it is never the asker's own channel.
package approval

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage"
)

// Config is the gate's settings.
type Config struct {
	Require       []string      `yaml:"require"`         // tools that need approval although they are not marked destructive
	TTL           time.Duration `yaml:"ttl"`             // life of an approval from the moment it is asked for; a decision does not prolong it. Default 1h
	MaxPerSubject int           `yaml:"max_per_subject"` // pending approvals of one subject; default 20
	MaxPerTenant  int           `yaml:"max_per_tenant"`  // pending approvals of one tenant; default 200
	MaxPreview    int           `yaml:"max_preview"`     // bytes of a preview; default 4096
}

func (c Config) withDefaults() Config {
	c.TTL = cmp.Or(c.TTL, time.Hour)
	c.MaxPerSubject = cmp.Or(c.MaxPerSubject, 20)
	c.MaxPerTenant = cmp.Or(c.MaxPerTenant, 200)
	c.MaxPreview = cmp.Or(c.MaxPreview, 4096)
	return c
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	for i, name := range c.Require {
		if name == "" {
			errs = append(errs, fmt.Errorf("require[%d] is empty", i))
		}
	}
	if c.TTL < 0 || c.TTL > 0 && c.TTL < time.Minute {
		errs = append(errs, errors.New("ttl must be a minute or more: a person needs time"))
	}
	if c.MaxPerSubject < 0 {
		errs = append(errs, errors.New("max_per_subject must not be negative"))
	}
	if c.MaxPerTenant < 0 {
		errs = append(errs, errors.New("max_per_tenant must not be negative"))
	}
	if c.MaxPreview != 0 && c.MaxPreview < 256 {
		errs = append(errs, errors.New("max_preview must be 256 or more"))
	}
	return errors.Join(errs...)
}

// A Store keeps approvals, by the contract of internal/state.Approvals.
type Store interface {
	FindApproval(ctx context.Context, binding atlas.Approval) (a atlas.Approval, found bool, err error)
	AddApproval(ctx context.Context, a atlas.Approval, perSubject, perTenant int) (atlas.Approval, error)
	GetApproval(ctx context.Context, tenant atlas.TenantID, id string) (atlas.Approval, error)
	ListApprovals(ctx context.Context, tenant atlas.TenantID, state atlas.ApprovalState, limit int) ([]atlas.Approval, error)
	SwapApproval(ctx context.Context, old, next atlas.Approval) (bool, error)
}

// A Replayer answers calls that were made before (the idempotency stage). It returns ok for a
// call that it answers without running anything: from the first result, or with the error that
// the call's idempotency key deserves.
type Replayer interface {
	Replay(ctx context.Context, call atlas.Call) (res atlas.Result, ok bool, err error)
}

// Deps are what the gate asks of others.
type Deps struct {
	// PolicyHash returns the version of the policy in force, to which approvals are bound.
	PolicyHash func() string
	// Replay lets a repeated write be answered from its first result without a second approval.
	// The gate hands on that very answer and does not call the stages inside: asking only
	// whether there is one would leave a moment in which it expires and the tool runs without
	// permission. It may be nil.
	Replay Replayer
	// Redact removes personal data and secrets from a preview. It may be nil.
	Redact func(string) string
}

// A Gate is the stage. It is safe for concurrent use and holds no state of its own, so that it
// can be replaced while calls run.
type Gate struct {
	cfg     Config
	store   Store
	deps    Deps
	log     *slog.Logger
	require map[string]bool
}

// New returns a gate over the store.
func New(cfg Config, store Store, deps Deps, log *slog.Logger) (*Gate, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	if store == nil || deps.PolicyHash == nil {
		return nil, errors.New("approval: a store and the policy's version are needed")
	}
	g := &Gate{cfg: cfg.withDefaults(), store: store, deps: deps, log: log, require: map[string]bool{}}
	for _, name := range cfg.Require {
		g.require[name] = true
	}
	return g, nil
}

// Stage lets through what needs no approval, or has one. A child call of a composed tool or a
// workflow needs its own, like any other.
func (g *Gate) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Op != atlas.OpCall || call.Tool == nil || !call.Tool.Destructive && !g.require[call.Tool.Name] {
			return next(ctx, call)
		}
		ctx, cancel := stage.Turn(ctx, call) // the store may hang
		defer cancel()
		if call.IdempotencyKey != "" && g.deps.Replay != nil {
			if res, ok, err := g.deps.Replay.Replay(ctx, call); ok || err != nil {
				return res, err
			}
		}
		a, err := g.take(ctx, call)
		notes := atlas.Notes{ApprovalID: a.ID}
		if err != nil {
			return atlas.Result{Notes: notes}, err
		}
		res, err := next(ctx, call)
		if nothingDone(res, err) {
			g.giveBack(ctx, a)
		}
		res.Notes.ApprovalID = a.ID
		return res, err
	}
}

// attempts bounds how often take looks again after losing a race for an approval.
const attempts = 3

// take uses up the call's approval before anything runs, and returns it in its new state. The
// error beside a pending or denied approval is what the caller is told.
func (g *Gate) take(ctx context.Context, call atlas.Call) (atlas.Approval, error) {
	b, err := g.binding(call)
	if err != nil {
		return atlas.Approval{}, err
	}
	for range attempts {
		a, found, err := g.store.FindApproval(ctx, b)
		if err != nil {
			return atlas.Approval{}, err
		}
		if !found {
			if a, err = g.ask(ctx, call, b); err != nil {
				return atlas.Approval{}, err
			}
		}
		switch a.State {
		case atlas.ApprovalPending:
			return a, answer(atlas.CodeApprovalRequired, a)
		case atlas.ApprovalDenied:
			return a, answer(atlas.CodeApprovalDenied, a)
		case atlas.ApprovalApproved:
			used := a
			used.State = atlas.ApprovalUsed
			ok, err := g.store.SwapApproval(ctx, a, used)
			if err != nil {
				return atlas.Approval{}, err
			}
			if ok {
				return used, nil
			}
		case atlas.ApprovalUsed, atlas.ApprovalExpired:
		}
		// Another call used it, or it has just expired: look again.
	}
	return atlas.Approval{}, atlas.Errorf(atlas.CodeOverloaded, errors.New("approval: lost every race for an approval"), "")
}

// binding is the call as an approval is bound to it.
func (g *Gate) binding(call atlas.Call) (atlas.Approval, error) {
	if call.Args.Digest == [32]byte{} || call.Principal == nil || call.Principal.Tenant == "" || call.Tenant == "" {
		// One permission would then stand for any arguments.
		return atlas.Approval{}, atlas.Errorf(atlas.CodeInternal, errors.New("approval: the call has no digest, principal or tenant; is the validation stage missing?"), "")
	}
	return atlas.Approval{
		Tenant: call.Tenant, HomeTenant: call.Principal.Tenant, Issuer: call.Principal.Issuer,
		Subject: call.Principal.Subject, Delegator: call.Principal.Delegator,
		Tool: call.Tool.Name, Version: call.Tool.Version, PolicyHash: g.deps.PolicyHash(),
		ArgsDigest: hex.EncodeToString(call.Args.Digest[:]),
	}, nil
}

// ask stores a pending approval for the binding, or finds the one that another call has stored.
func (g *Gate) ask(ctx context.Context, call atlas.Call, b atlas.Approval) (atlas.Approval, error) {
	now := time.Now().UTC().Round(0)
	a := b
	a.ID = "apr_" + rand.Text() // 130 bits
	a.State = atlas.ApprovalPending
	a.Preview = g.preview(ctx, call)
	a.Created, a.Expires = now, now.Add(g.cfg.TTL)
	return g.store.AddApproval(ctx, a, g.cfg.MaxPerSubject, g.cfg.MaxPerTenant)
}

// answer tells the caller how the call's approval stands.
func answer(code atlas.Code, a atlas.Approval) error {
	return &atlas.Error{Code: code, Context: map[string]any{
		"approval_id": a.ID,
		"expires_at":  a.Expires.UTC().Format(time.RFC3339),
	}}
}

// untouched are the failures of the stages between this one and the tool.
var untouched = map[atlas.Code]bool{
	atlas.CodeIdempotencyReused:  true,
	atlas.CodeIdempotencyRunning: true,
	atlas.CodeBudgetExhausted:    true,
	atlas.CodeCircuitOpen:        true,
	atlas.CodeRateLimited:        true,
	atlas.CodeOverloaded:         true,
	atlas.CodeShuttingDown:       true,
	atlas.CodeAuditUnavailable:   true,
}

// nothingDone reports whether it is certain that the tool did not run: the failure is one of the
// stages before it and the retry stage counted no attempt. The code alone is no proof, since a
// workflow whose second step meets an open breaker fails with the same code.
func nothingDone(res atlas.Result, err error) bool {
	if err == nil {
		return res.Ask != nil // the tool has only asked
	}
	return untouched[atlas.CodeOf(err)] && res.Notes.Attempts == 0
}

// giveBack makes a used approval good again. Where that fails it stays used, which errs on the
// safe side: a person is asked once more.
func (g *Gate) giveBack(ctx context.Context, used atlas.Approval) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	a := used
	a.State = atlas.ApprovalApproved
	if _, err := g.store.SwapApproval(ctx, used, a); err != nil {
		g.log.WarnContext(ctx, "an unused approval could not be given back", slog.String("approval_id", used.ID), slog.Any("error", err))
	}
}
