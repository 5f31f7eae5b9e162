package cache

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Deps are what a store with two tiers needs.
type Deps struct {
	Shared Shared // the second tier; nil: there is none, and the rest is not looked at
	Sealer Sealer // seals what goes there, with the same keys on all replicas
	// Secret is what the names of answers in the second tier are keyed with: at least 32 random bytes,
	// the same on all replicas, not used for anything else.
	Secret []byte
	Log    *slog.Logger
}

func (d Deps) validate() error {
	if d.Shared == nil {
		return nil
	}
	if d.Sealer == nil || len(d.Secret) < 32 || d.Log == nil {
		return errors.New("a second tier needs a sealer, a secret of at least 32 bytes and a log")
	}
	return nil
}

const (
	writeTimeout = 500 * time.Millisecond // of what no caller waits for
	purgeTimeout = 2 * time.Second        // of a purge, if its context has more
	maxPurges    = 4096                   // that are remembered
)

// A tier is the second tier as the store sees it: names, seals, opens, and does without while the
// store of all replicas is away.
type tier struct {
	shared  Shared
	sealer  Sealer
	secret  []byte
	timeout time.Duration // of a claim
	lease   time.Duration
	max     int // bytes of a sealed answer
	log     *slog.Logger
	circuit circuit
	stop    context.CancelFunc // ends listening
	asking  sync.WaitGroup     // questions under way; asked by what the store's wg counts only

	hits, fallbacks, takeovers, rejected, lost, purged, gaps atomic.Uint64

	mu     sync.Mutex           // guards what follows
	purges map[purgeKey]purging // the last of each; at most maxPurges
	count  uint64               // of purges that were asked for here
}

// A purgeKey says what was purged: a tenant's answers, of one tool or (tool is empty) all.
type purgeKey struct {
	tenant atlas.TenantID
	tool   string
}

// A purging is what this replica remembers of a purge.
type purging struct {
	at     time.Time // when it was asked for, or heard of
	untold uint64    // the number of the last one that the second tier has not been told of; 0 if there is none
}

func newTier(cfg Config, d Deps) *tier {
	return &tier{
		shared: d.Shared, sealer: d.Sealer, secret: d.Secret, log: d.Log,
		timeout: cfg.SharedTimeout, lease: cfg.Lease,
		// What surrounds an answer, and what sealing adds to both: base64 and some more.
		max:    (cfg.MaxEntry+64<<10)*2 + 4096,
		purges: map[purgeKey]purging{},
	}
}

// A right is the right of this replica to load one answer, or what may be one: a claim that timed out
// may have been granted.
type right struct {
	name    Name
	bound   []byte
	token   string
	epoch   string
	granted bool
}

// What enter found to be done.
type todo uint8

const (
	doRun  todo = iota // run the tool; the right may be nil
	doTake             // take the answer
	doSkip             // nothing: another replica is at it
)

// enter finds an answer in the second tier, or gets the right to load it, or waits for another replica
// that has it. It waits for at most as long as limit, and gives up waiting when ctx ends. have is not
// nil for an early refresh: the answer that is there already. Nobody waits for those.
func (t *tier) enter(ctx context.Context, k key, have *entry, limit time.Duration) (todo, *entry, *right) {
	r := &right{bound: k.bound(), token: rand.Text()}
	r.name = t.name(&k, r.bound)
	t.settle(ctx, k)
	claim := Claim{Name: r.name, Token: r.token, Lease: t.lease, Max: t.max}
	if have != nil {
		claim.Except = have.token
	}
	var (
		signal   <-chan bool
		deadline = time.Now().Add(limit)
		refused  = 0
		ended    = false // a load ended without an answer: each replica may ask for itself
	)
	for {
		sent := time.Now()
		s, err := ask(ctx, t, t.timeout, func(ctx context.Context) (Standing, error) { return t.shared.Claim(ctx, claim) })
		if err != nil {
			return doRun, nil, t.without(ctx, r, err)
		}
		switch s.State {
		case Granted:
			if signal != nil {
				t.takeovers.Add(1)
			}
			r.epoch, r.granted = s.Epoch, true
			return doRun, nil, r
		case Found:
			e, err := t.open(k, r, s, sent)
			switch {
			case err != nil:
				// The first, second, fourth, eighth ... is logged: whoever forges does not fill the log.
				if n := t.rejected.Add(1); n&(n-1) == 0 {
					t.log.WarnContext(ctx, "an answer in the shared cache does not open: it was changed there, or sealed with another key",
						slog.String("tool", k.tool), slog.String("tenant", string(k.tenant)), slog.Uint64("so_far", n))
				}
			case e != nil && (have == nil || e.began.After(have.began)):
				return doTake, e, nil
			}
			// Whoever keeps changing it there only makes us load it ourselves.
			if refused++; refused > 2 {
				return doRun, nil, nil
			}
			claim.Except = s.Token
			continue
		case Busy:
		}
		left := min(time.Until(deadline), cmp.Or(s.Left, t.lease))
		if have != nil {
			return doSkip, nil, nil
		}
		if ended || left <= 0 {
			return doRun, nil, nil
		}
		if signal == nil {
			// Watch, then look again: what ends in between is not missed.
			watched, stop := t.shared.Watch(r.name)
			defer stop()
			signal = watched
			continue
		}
		// A lost message costs a fraction of the lease. A millisecond more, because the time that is left
		// was measured on another clock.
		look := time.NewTimer(min(left+time.Millisecond, max(t.lease/4, time.Millisecond)))
		select {
		case again := <-signal:
			ended = !again
		case <-look.C:
		case <-ctx.Done():
		}
		look.Stop()
		if ctx.Err() != nil {
			return doRun, nil, nil // not run: the context is looked at first
		}
	}
}

// without says how to go on when the second tier failed.
func (t *tier) without(ctx context.Context, r *right, err error) *right {
	if ctx.Err() != nil {
		return nil
	}
	t.fallbacks.Add(1)
	if errors.Is(err, errOpen) {
		return nil
	}
	return r // the claim may have arrived: give back what it may have got
}

// settle tells the second tier of purges that it missed.
func (t *tier) settle(ctx context.Context, k key) {
	for _, p := range [...]purgeKey{{k.tenant, ""}, {k.tenant, k.tool}} {
		t.mu.Lock()
		id := t.purges[p].untold
		t.mu.Unlock()
		if id == 0 {
			continue
		}
		if _, err := ask(ctx, t, t.timeout, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, t.shared.Purge(ctx, p.tenant, p.tool)
		}); err == nil {
			t.told(p, id)
		}
	}
}

// purge tells all replicas. The error says that the others may not know.
func (t *tier) purge(ctx context.Context, p purgeKey) error {
	id := t.remember(p, true)
	// While the second tier is known to be away it is asked all the same, since whoever purges wants to
	// know, but not for long: writes come by here.
	limit := purgeTimeout
	if t.circuit.opened() {
		limit = t.timeout
	}
	_, err := within(ctx, t, limit, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, t.shared.Purge(ctx, p.tenant, p.tool)
	})
	if err == nil || ctx.Err() == nil {
		t.circuit.report(time.Now(), err)
	}
	if err != nil {
		return fmt.Errorf("cache: the other replicas were not told of a purge: %w", err)
	}
	t.told(p, id)
	return nil
}

// remember keeps in mind that p was purged now, here or elsewhere; it returns the number of a purge that
// was made here. What the second tier says later is not believed beyond that: a backup that was put
// back, a replica that took over without the last writes, or somebody who puts back old entries together
// with the old epoch, brings nothing back here.
func (t *tier) remember(p purgeKey, here bool) (id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, known := t.purges[p]
	if !known && len(t.purges) >= maxPurges {
		t.evictLocked()
	}
	was.at = time.Now()
	if here {
		t.count++
		was.untold = t.count
	}
	t.purges[p] = was
	return was.untold
}

// evictLocked forgets the oldest purge, of those that the second tier knows of if there are any. The
// caller holds mu.
func (t *tier) evictLocked() {
	var (
		oldest purgeKey
		found  bool
	)
	for p, was := range t.purges {
		least := t.purges[oldest]
		told, leastTold := was.untold == 0, least.untold == 0
		if !found || told && !leastTold || told == leastTold && was.at.Before(least.at) {
			oldest, found = p, true
		}
	}
	delete(t.purges, oldest)
}

// told notes that the second tier knows of a purge made here. Later ones, which may have failed since,
// stay untold.
func (t *tier) told(p purgeKey, id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if was, ok := t.purges[p]; ok && was.untold == id {
		was.untold = 0
		t.purges[p] = was
	}
}

// purgedSince reports whether what was loaded at that time has been purged since.
func (t *tier) purgedSince(k key, began time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range [...]purgeKey{{k.tenant, ""}, {k.tenant, k.tool}} {
		if was, ok := t.purges[p]; ok && began.Before(was.at) {
			return true
		}
	}
	return false
}

// open returns the answer in s, or nil if it is none any more. sent is when it was asked for: what is
// left of its time was measured later, so that counting from sent, it does not outlive the second tier's.
func (t *tier) open(k key, r *right, s Standing, sent time.Time) (*entry, error) {
	plain, err := t.sealer.Open(s.Value, bind(r.bound, s.Epoch, s.Token))
	if err != nil {
		return nil, err
	}
	e, err := unpack(r.name, plain)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	left := min(s.Left-now.Sub(sent), time.Until(e.expires))
	if left <= 0 || t.purgedSince(k, e.began) {
		return nil, nil //nolint:nilnil // neither an answer nor a fault
	}
	e.ttl, e.expires, e.token = left, now.Add(left), s.Token
	return e, nil
}

// renew keeps the right alive until ctx ends or it is lost.
func (t *tier) renew(ctx context.Context, r *right) {
	tick := time.NewTicker(max(t.lease/3, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ours, err := ask(ctx, t, t.timeout, func(ctx context.Context) (bool, error) {
			return t.shared.Renew(ctx, r.name, r.token, t.lease)
		})
		if err == nil && !ours {
			return
		}
	}
}

// fill puts an answer into the second tier. It reports whether this replica may keep it, too: not if it
// was purged meanwhile, or if another has taken over and may have a newer one.
func (t *tier) fill(ctx context.Context, r *right, e *entry) bool {
	ttl := time.Until(e.expires).Truncate(time.Millisecond)
	plain, err := pack(r.name, e)
	if err != nil || ttl <= 0 || len(plain) > t.max {
		t.release(ctx, r, false)
		return true
	}
	f := Fill{Name: r.name, Token: r.token, Epoch: r.epoch, TTL: ttl, Value: t.sealer.Seal(plain, bind(r.bound, r.epoch, r.token))}
	if len(f.Value) > t.max {
		t.release(ctx, r, false)
		return true
	}
	out, err := ask(context.WithoutCancel(ctx), t, writeTimeout, func(ctx context.Context) (Outcome, error) { return t.shared.Fill(ctx, f) })
	if err != nil {
		t.fallbacks.Add(1)
		t.release(ctx, r, false)
		return true // as if there were one tier
	}
	switch out {
	case Lost:
		t.lost.Add(1)
	case Purged:
		t.purged.Add(1)
	case Kept:
	}
	return out == Kept
}

// release gives the right back.
func (t *tier) release(ctx context.Context, r *right, again bool) {
	// An error is a lease that ends by itself. It is tried while the tier counts as away, too: until then
	// the lease keeps everybody else from the answer, and no caller waits for this.
	_, _ = within(context.WithoutCancel(ctx), t, writeTimeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, t.shared.Release(ctx, r.name, r.token, again)
	})
}

// ask asks the second tier, for at most d, or not at all while it is known to be away.
func ask[T any](ctx context.Context, t *tier, d time.Duration, question func(context.Context) (T, error)) (answer T, err error) {
	if !t.circuit.admit(time.Now()) {
		return answer, errOpen
	}
	answer, err = within(ctx, t, d, question)
	if err != nil && ctx.Err() != nil {
		t.circuit.forget() // nobody is left to wait for it: says nothing
		return answer, err
	}
	if opened, closed := t.circuit.report(time.Now(), err); opened {
		t.log.WarnContext(ctx, "the shared cache is away: each replica caches for itself", slog.Any("error", err))
	} else if closed {
		t.log.InfoContext(ctx, "the shared cache is back")
	}
	return answer, err
}

// within returns the answer to a question, or an error when d is over or ctx ends, also if the question does
// not end then: a driver may have to wait for a connection that others are making. The store's Close
// waits for what was left behind. A driver that panics is a tier that failed.
func within[T any](ctx context.Context, t *tier, d time.Duration, question func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		answer T
		err    error
	}
	bounded, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	done := make(chan outcome, 1)
	t.asking.Go(func() {
		var o outcome
		defer func() {
			if v := recover(); v != nil {
				o.err = fmt.Errorf("cache: panic in the shared tier: %v\n%s", v, debug.Stack())
			}
			done <- o
		}()
		o.answer, o.err = question(bounded)
	})
	var o outcome
	select {
	case o = <-done:
	case <-bounded.Done():
		select {
		case o = <-done: // both at once: what has come counts
		default:
			o.err = bounded.Err()
		}
	}
	return o.answer, o.err
}
