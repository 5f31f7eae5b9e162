package isolation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A ProberConfig is how a server tests itself.
type ProberConfig struct {
	Interval *time.Duration `yaml:"interval"` // between two rounds, give or take a quarter; default 1m, 0s: never
	Checks   int            `yaml:"checks"`   // attempts on each source in one round; default 3
	TenantA  string         `yaml:"tenant_a"` // canary tenant that attacks; default atlas-canary-a
	TenantB  string         `yaml:"tenant_b"` // canary tenant that is attacked; default atlas-canary-b
}

const (
	defaultInterval = time.Minute
	minInterval     = time.Second
)

// Tenants returns the two canary tenants.
func (c ProberConfig) Tenants() [2]atlas.TenantID {
	return [2]atlas.TenantID{atlas.TenantID(cmp.Or(c.TenantA, string(DefaultA))), atlas.TenantID(cmp.Or(c.TenantB, string(DefaultB)))}
}

func (c ProberConfig) withDefaults() ProberConfig {
	if c.Interval == nil {
		c.Interval = new(defaultInterval)
	}
	c.Checks = cmp.Or(c.Checks, 3)
	return c
}

// Validate reports all mistakes.
func (c ProberConfig) Validate() error {
	var errs []error
	for _, name := range []string{c.TenantA, c.TenantB} {
		if _, err := atlas.ParseTenantID(name); name != "" && err != nil {
			errs = append(errs, err)
		}
	}
	if t := c.Tenants(); t[A] == t[B] {
		errs = append(errs, errors.New("tenant_a and tenant_b are the same"))
	}
	if c.Interval != nil && (*c.Interval < 0 || *c.Interval > 0 && *c.Interval < minInterval) {
		errs = append(errs, fmt.Errorf("interval is %s; it must be 0s, or %s or more", *c.Interval, minInterval))
	}
	if c.Checks < 0 || c.Checks > 100 {
		errs = append(errs, fmt.Errorf("checks is %d; it must be 1 to 100", c.Checks))
	}
	return errors.Join(errs...)
}

// ProberDeps are what a Prober works with.
type ProberDeps struct {
	Target Target
	// Field returns where canaries are planted; it is asked again when the tools have changed.
	Field func() Field
	// Version changes whenever the tools or the sources do.
	Version func() string
	// Count hears of every check: held, leak or inconclusive. It may be nil.
	Count func(result string)
	Log   *slog.Logger
}

// A Prober repeats the cheap part of a proof inside a server: of every source a few attempts a round, and
// others the next time, each with its positive control. Its callers are of the canary tenants, whose
// quotas nobody else uses; their subject, issuer and transport show in the audit log, and no token
// can have that issuer. It is safe for concurrent use.
type Prober struct {
	cfg  ProberConfig
	deps ProberDeps
	key  Key

	version string
	proof   *Proof
	rings   map[string]*ring // by source

	mu       sync.Mutex
	standing Standing
	leaking  map[string]Attempt
}

// A ring is what is tried on one source, over and over.
type ring struct {
	attempts []attempt
	next     int
}

// A Standing is what a prober has found so far.
type Standing struct {
	On           bool      `json:"on"`
	Held         int       `json:"held"`
	Leaks        int       `json:"leaks"`
	Inconclusive int       `json:"inconclusive"`
	Last         time.Time `json:"last,omitzero"`        // end of the last round
	Leaking      []Attempt `json:"leaking,omitempty"`    // attempts that leaked when they were last made
	NotProven    []string  `json:"not_proven,omitempty"` // sources that nothing can be said of
	Failed       string    `json:"failed,omitempty"`     // why the last round could not be made
}

// NewProber makes a prober, which does nothing until it runs.
func NewProber(cfg ProberConfig, deps ProberDeps) (*Prober, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Target == nil || deps.Field == nil || deps.Version == nil {
		return nil, errors.New("isolation: Target, Field and Version are needed")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Count == nil {
		deps.Count = func(string) {}
	}
	return &Prober{cfg: cfg.withDefaults(), deps: deps, key: NewKey(), leaking: map[string]Attempt{}}, nil
}

// Run makes rounds until ctx ends; if the interval is 0s it makes none and returns at once.
func (p *Prober) Run(ctx context.Context) error {
	interval := *p.cfg.Interval
	if interval == 0 {
		return nil
	}
	p.mu.Lock()
	p.standing.On = true
	p.mu.Unlock()
	for {
		// Replicas that were started together do not probe together.
		jittered := interval - interval/4 + rand.N(interval/2) //nolint:gosec // no secret
		if err := pause(ctx, jittered); err != nil {
			return err
		}
		p.round(ctx, interval)
	}
}

// round makes the next attempts on every source, in no more time than the interval.
func (p *Prober) round(ctx context.Context, interval time.Duration) {
	bounded, cancel := context.WithTimeout(ctx, max(interval, 10*time.Second))
	defer cancel()
	if fresh, ok := p.deps.Target.(interface{ Renew() }); ok {
		fresh.Renew()
	}
	err := p.refresh(bounded)
	if err == nil {
		for _, name := range slices.Sorted(maps.Keys(p.rings)) {
			r := p.rings[name]
			for range min(p.cfg.Checks, len(r.attempts)) {
				t := &r.attempts[r.next]
				r.next = (r.next + 1) % len(r.attempts)
				a := p.proof.try(bounded, t)
				if bounded.Err() != nil {
					break
				}
				p.note(a)
			}
		}
		err = bounded.Err()
	}
	if ctx.Err() != nil {
		return // the server stops
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.standing.Last, p.standing.Failed = time.Now(), ""
	if err != nil {
		p.standing.Failed = err.Error()
		p.deps.Log.WarnContext(ctx, "the isolation of tenants could not be checked", "error", err)
	}
}

// refresh plants and learns anew if the tools or the sources are others than before.
func (p *Prober) refresh(ctx context.Context) error {
	version := p.deps.Version()
	if p.proof != nil && version == p.version {
		return nil
	}
	tenants := p.cfg.Tenants()
	field := p.deps.Field()
	canaries := Plant(ctx, field, tenants, p.key)
	for _, planted := range canaries.Plants {
		if planted.Failed != "" {
			p.deps.Log.WarnContext(ctx, "canaries could not be planted", "source", planted.Source, "error", planted.Failed)
		}
	}
	proof, err := New(Config{Tenants: tenants, Patience: 2 * time.Second}, Deps{Target: p.deps.Target, Canaries: canaries, Log: p.deps.Log})
	if err != nil {
		return err
	}
	proof.cheap = true
	if err := proof.learn(ctx); err != nil {
		return err
	}
	rings := map[string]*ring{}
	proven := map[string]bool{}
	for _, b := range proof.tools {
		if b.status != Proven {
			continue
		}
		proven[b.Source] = true
		if rings[b.Source] == nil {
			rings[b.Source] = &ring{}
		}
		rings[b.Source].attempts = append(rings[b.Source].attempts, proof.cheaply(b)...)
	}
	for _, r := range rings { // so that neighbours in the ring are of different kinds
		rand.Shuffle(len(r.attempts), func(i, j int) { r.attempts[i], r.attempts[j] = r.attempts[j], r.attempts[i] }) //nolint:gosec // no secret
	}
	var not []string
	for _, b := range proof.tools {
		if b.status == Unproven && !proven[b.Source] && !slices.Contains(not, b.Source) {
			not = append(not, b.Source)
		}
	}
	p.proof, p.rings, p.version = proof, rings, version
	p.mu.Lock()
	defer p.mu.Unlock()
	p.standing.NotProven = not
	return nil
}

// cheaply are the attempts that cost a few calls, each after B's own call: where B gets nothing any more,
// that A gets nothing says nothing.
func (p *Proof) cheaply(b *bound) []attempt {
	var out []attempt
	for _, f := range families() {
		switch f.area {
		case "existence", "cancelled", "cursors", "request state", "uris", "odd values", "tenant arguments":
			continue
		}
		for _, a := range f.make(p, b) {
			a.Area, a.Source, a.Tool = f.area, b.Source, b.Name
			run := a.run
			a.run = func(ctx context.Context) outcome {
				ask := b.ask(b.args)
				theirs, o := p.asB(ctx, b, ask)
				if o.verdict == Held && !p.own(b, ask, &theirs) {
					o = outcome{verdict: Inconclusive, got: "B got " + describe(&theirs) + " in place of its own"}
				}
				if o.verdict != Held {
					return o
				}
				return run(ctx)
			}
			out = append(out, a)
		}
	}
	return out
}

// note counts a check and remembers what leaks, until the same attempt holds.
func (p *Prober) note(a Attempt) {
	p.deps.Count(string(a.Verdict))
	p.mu.Lock()
	defer p.mu.Unlock()
	at := strings.Join([]string{a.Source, a.Tool, a.Area, a.Tried}, "\x00")
	switch a.Verdict {
	case Held:
		p.standing.Held++
		delete(p.leaking, at)
	case Leaked:
		p.standing.Leaks++
		if len(p.leaking) < 100 {
			p.leaking[at] = a
		}
	case Inconclusive, Planned:
		p.standing.Inconclusive++
	}
}

// Status returns what was found so far.
func (p *Prober) Status() Standing {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.standing
	s.NotProven = slices.Clone(s.NotProven)
	for _, at := range slices.Sorted(maps.Keys(p.leaking)) {
		s.Leaking = append(s.Leaking, p.leaking[at])
	}
	return s
}

// Healthy returns an error while an attempt leaks: for readiness checks.
func (p *Prober) Healthy(context.Context) error {
	for _, a := range p.Status().Leaking {
		return fmt.Errorf("isolation: the source %s gave one tenant another's data (%s: %s)", a.Source, a.Tool, a.Tried)
	}
	return nil
}
