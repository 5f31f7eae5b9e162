package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A flight is one load of one key: the tool runs once and all who wait get its answer. It runs
// with the call of the caller who came first; key says why that is safe. It belongs to no
// caller: whoever gives up leaves it, and only when the last has left is it cancelled.
type flight struct {
	cancel  context.CancelFunc
	done    chan struct{} // closed when res and err are set
	waiters int           // guarded by Store.mu
	discard bool          // guarded by Store.mu: purged meanwhile
	fenced  bool          // guarded by Store.mu: the second tier refuses the answer if it was purged meanwhile

	res  atlas.Result
	err  error
	own  bool   // the outcome is the first caller's alone: others must not be answered with it
	kept *entry // instead of the three above: an answer that was taken from the second tier
}

// rounds is how often a call waits for another's load that then was not for it, before it makes
// its own beside the others.
const rounds = 3

// load runs the tool, or waits for a run that is under way.
func (c *Cache) load(ctx context.Context, k key, call atlas.Call, next atlas.Handler) (atlas.Result, error) {
	missed := atlas.Result{Notes: atlas.Notes{Cache: miss}}
	// The budget stage is inside the load, which may be another caller's with more time than this
	// one has: the wait is bounded here.
	var spent <-chan time.Time
	if b := call.Budget; b.Total > 0 {
		left := time.NewTimer(b.Total - b.Reserve - time.Since(call.Received))
		defer left.Stop()
		spent = left.C
	}
	for range rounds {
		e, f, leads, err := c.join(ctx, k, call, next)
		if err != nil {
			return missed, err
		}
		if e != nil {
			return e.answer()
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			c.store.leave(k, f)
			return missed, atlas.ErrorOf(ctx.Err())
		case <-spent:
			c.store.leave(k, f)
			return missed, &atlas.Error{Code: atlas.CodeBudgetExhausted}
		}
		if f.kept != nil {
			return f.kept.answer()
		}
		if !leads && f.own {
			continue
		}
		// Everyone gets a copy, the first caller too: the others may be reading.
		res := copyResult(f.res)
		switch {
		case leads:
			res.Notes.Cache = miss
			return res, f.err
		case f.err != nil:
			return missed, copyError(f.err)
		}
		res.Notes = atlas.Notes{Cache: hit}
		return res, nil
	}
	c.store.misses.Add(1)
	res, err := next(ctx, call)
	res.Notes.Cache = miss
	return res, err
}

// join returns the answer if it has come meanwhile, or the flight that will bring it, started
// here (then the caller leads) or before.
func (c *Cache) join(ctx context.Context, k key, call atlas.Call, next atlas.Handler) (*entry, *flight, bool, error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, false, &atlas.Error{Code: atlas.CodeShuttingDown}
	}
	if f := s.flights[k]; f != nil {
		f.waiters++
		return nil, f, false, nil
	}
	if ctx.Err() != nil {
		return nil, nil, false, atlas.ErrorOf(ctx.Err())
	}
	// A flight keeps its answer before it leaves the map, both under mu: no gap between.
	if e := s.get(k, time.Now()); e != nil {
		return e, nil, false, nil
	}
	return nil, c.startLocked(ctx, k, call, next, nil), true, nil
}

// refresh starts a load for an answer that is still good. Nobody waits for it, so it is under no
// caller's time budget.
func (c *Cache) refresh(ctx context.Context, k key, call atlas.Call, next atlas.Handler, have *entry) {
	s := c.store
	select {
	case s.refreshes <- struct{}{}:
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.flights[k] != nil {
		<-s.refreshes
		return
	}
	call.Budget = atlas.Budget{}
	c.startLocked(ctx, k, call, next, have)
}

// startLocked starts a flight with one waiter: the caller, or for a refresh (of have) nobody, so that
// it is never the last who leaves. The caller holds the store's mu.
func (c *Cache) startLocked(ctx context.Context, k key, call atlas.Call, next atlas.Handler, have *entry) *flight {
	s := c.store
	// The trace goes along, the first caller's cancellation does not.
	timeout := cmp.Or(call.Tool.Timeout, defaultTimeout)
	if call.Task {
		timeout = max(timeout, call.Tool.Task.Timeout)
	}
	bare := context.WithoutCancel(ctx)
	var (
		fctx   context.Context
		cancel context.CancelFunc
	)
	if s.tier == nil {
		fctx, cancel = context.WithTimeout(bare, timeout)
	} else {
		fctx, cancel = context.WithCancel(bare)
	}
	f := &flight{cancel: cancel, done: make(chan struct{}), waiters: 1}
	s.flights[k] = f
	s.running[f] = struct{}{}
	s.wg.Go(func() {
		defer cancel()
		if have != nil {
			defer func() { <-s.refreshes }()
		}
		c.fly(fctx, k, f, call, next, timeout, have)
	})
	return f
}

// fly finds the answer in the second tier or runs the tool, and lands the flight.
func (c *Cache) fly(ctx context.Context, k key, f *flight, call atlas.Call, next atlas.Handler, timeout time.Duration, have *entry) {
	t := c.store.tier
	if t == nil {
		c.run(ctx, k, f, call, next, have != nil, nil)
		return
	}
	// A panic in the sealer would end the process, too.
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		err := fmt.Errorf("cache: panic on the way to the second tier: %v\n%s", v, debug.Stack())
		select {
		case <-f.done:
			c.log.ErrorContext(ctx, "an answer could not be shared", slog.Any("error", err))
		default:
			f.err = atlas.Errorf(atlas.CodeInternal, err, "")
			c.keep(k, f, nil)
			close(f.done)
		}
	}()
	what, e, r := t.enter(ctx, k, have, timeout)
	switch what {
	case doRun:
		// What was purged until now is no matter: the load begins now.
		c.store.mu.Lock()
		f.discard, f.fenced = false, r != nil && r.granted
		c.store.mu.Unlock()
		// The time for waiting is not taken from the tool: whoever takes over a load has as long for it as
		// anybody. How long a caller waits is the caller's to say.
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if r != nil && r.granted {
			var renewing sync.WaitGroup
			renewing.Go(func() { t.renew(ctx, r) })
			defer renewing.Wait()
			defer cancel()
		}
		c.run(ctx, k, f, call, next, have != nil, r)
	case doTake:
		t.hits.Add(1)
		early := have == nil && c.early(e, time.Now()) && !e.refreshed.Swap(true)
		c.take(k, f, e)
		if early {
			c.refresh(ctx, k, call, next, e)
		}
	case doSkip:
		f.own = true // whoever joined meanwhile asks again
		c.take(k, f, nil)
	}
}

// take lands a flight without a run, with an answer or none.
func (c *Cache) take(k key, f *flight, e *entry) {
	f.kept = e
	c.keep(k, f, e)
	close(f.done)
}

// run runs the tool and lands the flight, also when the tool panics: a panic here has no stage
// above it that could catch it, and would end the process.
func (c *Cache) run(ctx context.Context, k key, f *flight, call atlas.Call, next atlas.Handler, background bool, r *right) {
	began := time.Now()
	res, err := atlas.Result{}, error(atlas.Errorf(atlas.CodeInternal, errors.New("cache: the load ended without an answer"), ""))
	defer func() {
		if v := recover(); v != nil {
			err = atlas.Errorf(atlas.CodeInternal, fmt.Errorf("cache: panic in a load: %v\n%s", v, debug.Stack()), "")
		}
		if err != nil && background {
			c.log.WarnContext(ctx, "an early refresh failed; the answer in hand serves until it expires",
				slog.String("tool", call.Tool.Name), slog.Any("error", err))
		}
		c.land(ctx, k, f, call, began, res, err, r)
	}()
	if err = ctx.Err(); err == nil { // everyone may have left while it waited for another replica
		c.store.misses.Add(1)
		res, err = next(ctx, call)
	}
}

// land keeps the answer if it may be kept, wakes those who wait, and tells the second tier. That comes
// last, so that nobody here waits for it; whoever asks there meanwhile finds the load under way.
func (c *Cache) land(ctx context.Context, k key, f *flight, call atlas.Call, began time.Time, res atlas.Result, err error, r *right) {
	f.res, f.err = res, err
	if err == nil && f.res.AsOf.IsZero() {
		f.res.AsOf = began
	}
	f.own = ownOutcome(call, res, err)
	e := c.entryOf(call, began, f.res, err)
	if e != nil && r != nil && r.granted {
		e.token = r.token
	}
	kept := c.keep(k, f, e)
	again := e != nil || err != nil && (f.own || errors.Is(ctx.Err(), context.Canceled))
	close(f.done)
	switch t := c.store.tier; {
	case r == nil:
	case kept && r.granted:
		if !t.fill(ctx, r, e) {
			c.store.drop(k, e)
		}
	default:
		// A load that was cut short, or whose caller had no time, is for another to try; what was purged
		// is to be loaded anew. What ended with a failure, or with an answer that is not for the cache,
		// need not be waited for.
		t.release(ctx, r, again)
	}
}

// keep takes the flight off and keeps the answer, if there is one and nothing was purged meanwhile.
func (c *Cache) keep(k key, f *flight, e *entry) (kept bool) {
	s := c.store
	s.mu.Lock()
	if s.closed && f.err != nil {
		f.err = atlas.Errorf(atlas.CodeShuttingDown, f.err, "")
	}
	var err error
	if e != nil && !f.discard && !s.closed {
		err = s.put(k, e)
		kept = err == nil
	}
	if s.flights[k] == f {
		delete(s.flights, k)
	}
	delete(s.running, f)
	s.mu.Unlock()
	if err != nil {
		c.log.Error("an answer could not be kept", slog.Any("error", err))
	}
	return kept
}

// leave takes one waiter off the flight. After the last it is cancelled, and a call that comes
// now starts another.
func (s *Store) leave(k key, f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiters--; f.waiters > 0 {
		return
	}
	if s.flights[k] == f {
		delete(s.flights, k)
	}
	f.discard = true
	f.cancel()
}

// ownOutcome reports whether an outcome is the first caller's alone: it ran out of its own turn's
// time, holds a cursor, which is bound to one caller, or asks that caller something.
func ownOutcome(call atlas.Call, res atlas.Result, err error) bool {
	if err == nil {
		return res.NextCursor != "" || res.Ask != nil
	}
	code := atlas.CodeOf(err)
	cut := code == atlas.CodeTimeout || code == atlas.CodeCanceled
	return code == atlas.CodeBudgetExhausted || cut && call.Budget.Total > 0
}

// entryOf returns what is to be kept of an outcome, or nil. Degraded answers, failures other than
// not_found, answers with a cursor and those over the limit are not kept.
func (c *Cache) entryOf(call atlas.Call, began time.Time, res atlas.Result, err error) *entry {
	now := time.Now()
	e := &entry{began: began, delta: now.Sub(began), ttl: call.Tool.CacheTTL}
	switch {
	case err == nil:
		if res.Partial || res.NextCursor != "" || res.Ask != nil || res.Size() > c.cfg.MaxEntry {
			return nil
		}
		e.res = copyResult(atlas.Result{ // the tool may still hold its own
			Structured: res.Structured, Content: res.Content, Truncated: res.Truncated, AsOf: res.AsOf,
		})
	case atlas.CodeOf(err) == atlas.CodeNotFound && c.cfg.NegativeTTL > 0:
		e.ttl = min(e.ttl, c.cfg.NegativeTTL)
		failure := atlas.ErrorOf(err)
		// The cause may hold the first caller's request; it is in the first caller's log line.
		e.failure = &atlas.Error{Code: failure.Code, Hint: failure.Hint, Context: failure.Context}
		if copied, ok := errors.AsType[*atlas.Error](copyError(e.failure)); ok {
			e.failure = copied
		}
	default:
		return nil
	}
	e.expires = now.Add(e.ttl)
	return e
}
