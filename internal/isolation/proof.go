package isolation

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Default names of the canary tenants. Nobody else may have them.
const (
	DefaultA atlas.TenantID = "atlas-canary-a"
	DefaultB atlas.TenantID = "atlas-canary-b"
)

// A Config says what a proof does.
type Config struct {
	Tenants  [2]atlas.TenantID // A and B; default DefaultA and DefaultB
	Storm    int               // calls of each side and tool that run interleaved; default 12
	Workers  int               // calls at once in a storm; default 8
	Patience time.Duration     // how long one call waits for its quota; default 2m
	Accept   []string          // tools that need not be proven
}

func (c Config) withDefaults() Config {
	c.Tenants[A] = cmp.Or(c.Tenants[A], DefaultA)
	c.Tenants[B] = cmp.Or(c.Tenants[B], DefaultB)
	c.Storm = cmp.Or(c.Storm, 12)
	c.Workers = cmp.Or(c.Workers, 8)
	c.Patience = cmp.Or(c.Patience, 2*time.Minute)
	return c
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	for _, t := range c.Tenants {
		if t == "" {
			continue
		}
		if _, err := atlas.ParseTenantID(string(t)); err != nil {
			errs = append(errs, err)
		}
	}
	if d := c.withDefaults(); d.Tenants[A] == d.Tenants[B] {
		errs = append(errs, errors.New("the two tenants are the same"))
	}
	if c.Storm < 0 || c.Workers < 0 || c.Patience < 0 {
		errs = append(errs, errors.New("storm, workers and patience must not be negative"))
	}
	return errors.Join(errs...)
}

// Deps are what a proof works with.
type Deps struct {
	Target   Target
	Name     string    // of the target, for the report
	Door     Doorway   // for what can be tried over HTTP only; may be nil, and may be Target
	Canaries *Canaries // nil: only what the tenants have already is looked for
	// Sources names the source of a tool where the target does not. It may be nil.
	Sources func(tool string) string
	// Look says where to look if the source leaks. It may be nil.
	Look func(source string) string
	// Progress hears of every attempt that was made, and how many there are in all. It may be nil.
	Progress func(a Attempt, total int)
	Log      *slog.Logger // nil: none
}

// A Proof attacks one target. It is used once.
type Proof struct {
	cfg   Config
	deps  Deps
	judge *judge

	tools  []*bound
	tables []string
	notes  []string
	cheap  bool    // tools of one source only: for the prober
	marked [2]bool // a side has seen a marker of its own while learning

	calls, refused atomic.Int64
	mu             sync.Mutex
	waiting        [2][]string                    // all that a side has sent for which it now waits for an approval
	timings        map[string]*[2][]time.Duration // by tool: of foreign ids, of ids nobody has
}

// New makes a proof.
func New(cfg Config, deps Deps) (*Proof, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("isolation: %w", err)
	}
	if deps.Target == nil {
		return nil, errors.New("isolation: there is no target")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proof{cfg: cfg.withDefaults(), deps: deps, timings: map[string]*[2][]time.Duration{}}
	p.judge = &judge{}
	for _, side := range []Side{A, B} {
		p.judge.seen[side] = newKnown(deps.Canaries.ids(side))
	}
	return p, nil
}

// NewKey returns a key for one run.
func NewKey() Key { return Key(rand.Text()) }

// An attempt is one thing to try.
type attempt struct {
	Attempt
	run func(ctx context.Context) outcome
}

// An outcome is how it ended.
type outcome struct {
	verdict  Verdict
	got      string
	evidence []string
}

// Run learns, attacks and reports. When ctx ends, it reports what was done until then.
func (p *Proof) Run(ctx context.Context) (Report, error) {
	r := p.begin()
	plan, err := p.prepare(ctx)
	switch {
	case ctx.Err() != nil: // broken off: there is a report of what was learned
		plan = nil
	case err != nil:
		return r, err
	}
	for i := range plan {
		if ctx.Err() != nil {
			break
		}
		a := p.try(ctx, &plan[i])
		if ctx.Err() != nil && a.Verdict == Inconclusive { // it was cut short
			break
		}
		r.Attempts = append(r.Attempts, a)
		if p.deps.Progress != nil {
			p.deps.Progress(a, len(plan))
		}
	}
	r.Interrupted = ctx.Err() != nil
	p.end(&r)
	return r, nil //nolint:nilerr // what broke it off stands in the report
}

// List learns, and returns what Run would try.
func (p *Proof) List(ctx context.Context) (Report, error) {
	r := p.begin()
	plan, err := p.prepare(ctx)
	if err != nil {
		return r, err
	}
	for i := range plan {
		a := plan[i].Attempt
		a.Verdict = Planned
		r.Attempts = append(r.Attempts, a)
	}
	p.end(&r)
	return r, nil
}

func (p *Proof) begin() Report {
	r := Report{Version: 1, Target: p.deps.Name, Tenants: p.cfg.Tenants, Started: time.Now().UTC(), Planted: []Planting{}, Attempts: []Attempt{}}
	if c := p.deps.Canaries; c != nil {
		r.Planted = append(r.Planted, c.Plants...)
	}
	return r
}

func (p *Proof) end(r *Report) {
	r.Controls = p.controls()
	r.Timings = p.medians()
	r.Notes = p.notes
	r.Summary.Calls, r.Summary.Refused = int(p.calls.Load()), int(p.refused.Load())
	r.Seconds = time.Since(r.Started).Seconds()
	r.finish()
}

// prepare learns and plans.
func (p *Proof) prepare(ctx context.Context) ([]attempt, error) {
	if err := p.learn(ctx); err != nil {
		return nil, err
	}
	plan := p.plan()
	for i := range plan {
		plan[i].N = i + 1
	}
	return plan, nil
}

// try runs one attempt and completes its record.
func (p *Proof) try(ctx context.Context, t *attempt) Attempt {
	a := t.Attempt
	o := t.run(ctx)
	a.Verdict, a.Got, a.Evidence = o.verdict, clip(o.got, 160), o.evidence
	if a.Verdict == Leaked {
		a.Look = p.look(a)
		p.deps.Log.ErrorContext(ctx, "one tenant got another's data", "area", a.Area, "source", a.Source, "tool", a.Tool, "tried", a.Tried, "evidence", a.Evidence)
	}
	return a
}

func (p *Proof) look(a Attempt) string {
	if a.Source == "" {
		return "the sources behind " + cmp.Or(a.Tool, "the tools") + ", and what stands between: cache, idempotency, sessions"
	}
	if p.deps.Look != nil {
		if where := p.deps.Look(a.Source); where != "" {
			return where
		}
	}
	return "the driver of the source " + a.Source + ": where it binds the tenant"
}

// ask makes one call, and again if it was refused for quota or load.
func (p *Proof) ask(ctx context.Context, who Caller, ask Ask) (Answer, error) {
	return p.askOf(ctx, p.deps.Target, who, ask)
}

func (p *Proof) askOf(ctx context.Context, t Target, who Caller, ask Ask) (Answer, error) {
	until := time.Now().Add(p.cfg.Patience)
	for {
		p.calls.Add(1)
		a, err := t.Do(ctx, who, ask)
		if err == nil && a.Approval != "" {
			p.awaits(who.Side, ask)
		}
		if err != nil || !waits[a.Code()] {
			return a, err
		}
		p.refused.Add(1)
		wait := min(max(time.Duration(a.Failure.RetryAfterMS)*time.Millisecond, 50*time.Millisecond), 30*time.Second)
		if time.Now().Add(wait).After(until) {
			return a, nil
		}
		if err := pause(ctx, wait); err != nil {
			return a, err
		}
	}
}

// awaits keeps what a side has asked for and may read again in the list of what waits for an approval.
func (p *Proof) awaits(side Side, ask Ask) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[side] = append(p.waiting[side], sent(ask))
}

// awaited is what [Proof.awaits] kept.
func (p *Proof) awaited(side Side) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.waiting[side], "\n")
}

// waits are the codes after which the same call may be made again.
var waits = map[atlas.Code]bool{atlas.CodeRateLimited: true, atlas.CodeOverloaded: true, atlas.CodeCircuitOpen: true}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// unclear are the codes that say nothing about isolation.
var unclear = map[atlas.Code]bool{
	atlas.CodeRateLimited: true, atlas.CodeOverloaded: true, atlas.CodeCircuitOpen: true, atlas.CodeTimeout: true, atlas.CodeCanceled: true,
	atlas.CodeSourceUnavailable: true, atlas.CodeStateUnavailable: true, atlas.CodeAuditUnavailable: true, atlas.CodeShuttingDown: true,
	atlas.CodeBudgetExhausted: true, atlas.CodeInternal: true, atlas.CodeSourceError: true, atlas.CodeSourceMisused: true,
}

// judgeAnswer is the outcome of one answer to one side.
func (p *Proof) judgeAnswer(to Side, asked string, a Answer, err error) outcome {
	if err != nil {
		return outcome{verdict: Inconclusive, got: "no answer: " + err.Error()}
	}
	if found := p.judge.evidence(to, asked, &a); len(found) > 0 {
		return outcome{Leaked, describe(&a), found}
	}
	if unclear[a.Code()] {
		return outcome{verdict: Inconclusive, got: describe(&a)}
	}
	return outcome{verdict: Held, got: describe(&a)}
}

// worst joins outcomes: a leak before what is unclear, and that before what held.
func worst(list ...outcome) outcome {
	out := outcome{verdict: Held}
	rank := map[Verdict]int{Held: 0, Inconclusive: 1, Leaked: 2}
	counts := map[string]int{}
	var order []string
	for _, o := range list {
		if rank[o.verdict] > rank[out.verdict] {
			out.verdict, out.evidence, order, counts = o.verdict, nil, nil, map[string]int{}
		}
		if o.verdict != out.verdict {
			continue
		}
		out.evidence = append(out.evidence, o.evidence...)
		if counts[o.got]++; counts[o.got] == 1 {
			order = append(order, o.got)
		}
	}
	out.evidence = unique(out.evidence)
	for i, got := range order {
		if n := counts[got]; n > 1 {
			order[i] = fmt.Sprintf("%s (%d times)", got, n)
		}
	}
	out.got = strings.Join(order, "; ")
	return out
}

// describe says what came back, and nothing of what it holds.
func describe(a *Answer) string {
	switch {
	case a.Failure != nil:
		return string(a.Failure.Code)
	case a.Asked:
		return "a question to the client"
	case a.Task != "":
		return "a task"
	}
	if n, ok := countRows(a.Structured); ok {
		if n == 1 {
			return "1 row"
		}
		return fmt.Sprintf("%d rows", n)
	}
	if a.Status >= 400 {
		return fmt.Sprintf("HTTP %d", a.Status)
	}
	return fmt.Sprintf("%d bytes", len(a.Text))
}

// countRows counts the items of an answer's lists; a record is one.
func countRows(structured json.RawMessage) (int, bool) {
	var object map[string]json.RawMessage
	if json.Unmarshal(structured, &object) != nil {
		return 0, false
	}
	n, lists := 0, 0
	for name, raw := range object {
		var list []json.RawMessage
		if name != "columns" && json.Unmarshal(raw, &list) == nil && list != nil {
			lists++
			n += len(list)
		}
	}
	if lists == 0 && len(object) > 0 {
		return 1, true
	}
	return n, true
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// medians are the timings, by tool.
func (p *Proof) medians() []Timing {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Timing
	for tool, t := range p.timings {
		if n := min(len(t[0]), len(t[1])); n > 0 {
			slices.Sort(t[0])
			slices.Sort(t[1])
			out = append(out, Timing{tool, t[0][len(t[0])/2].Microseconds(), t[1][len(t[1])/2].Microseconds(), n})
		}
	}
	slices.SortFunc(out, func(a, b Timing) int { return strings.Compare(a.Tool, b.Tool) })
	return out
}

func (p *Proof) took(tool string, nowhere bool, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timings[tool] == nil {
		p.timings[tool] = new([2][]time.Duration)
	}
	i := 0
	if nowhere {
		i = 1
	}
	p.timings[tool][i] = append(p.timings[tool][i], d)
}
