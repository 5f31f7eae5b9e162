package budget

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A deadline is what [context.WithDeadlineCause] returns, but for one thing: it sets no timer, and the
// context around learns nothing of it, before somebody waits for its end. Calls that are answered from
// memory never do, and the timer would cost more than all else in this stage.
type deadline struct {
	context.Context // around
	at              time.Time
	cause           error // nil: the deadline is that of the context around

	mu     sync.Mutex // guards what follows
	timed  context.Context
	cancel context.CancelFunc // of timed
	over   bool               // end was called
}

func withDeadline(ctx context.Context, at time.Time, cause error) *deadline {
	if around, ok := ctx.Deadline(); ok && around.Before(at) {
		at, cause = around, nil // it ends this one, with its own cause
	}
	return &deadline{Context: ctx, at: at, cause: cause}
}

// end ends the context, if it has not ended before. It must be called.
func (d *deadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timed == nil && !d.over && (d.passed() || d.Context.Err() != nil) {
		d.start() // it had ended already, though nobody looked
	}
	d.over = true
	if d.cancel != nil {
		d.cancel()
	}
}

func (d *deadline) passed() bool { return !time.Now().Before(d.at) }

// start sets the timer. The caller holds mu.
//
// If nobody looked while both this context and the one around ended, it must be told which was first.
// Of two deadlines it is the earlier, which is never the one around; where the one around was
// cancelled it is taken to be that, so that no caller makes a source look slow by going away.
func (d *deadline) start() {
	switch {
	case d.cause == nil: // the context around has the earlier deadline
		d.timed, d.cancel = context.WithCancel(d.Context)
	case errors.Is(d.Context.Err(), context.DeadlineExceeded):
		d.timed, d.cancel = context.WithDeadlineCause(context.WithoutCancel(d.Context), d.at, d.cause)
	default:
		d.timed, d.cancel = context.WithDeadlineCause(d.Context, d.at, d.cause)
	}
}

// Deadline implements [context.Context].
func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }

// Done implements [context.Context].
func (d *deadline) Done() <-chan struct{} { return d.context(true).Done() }

// Err implements [context.Context].
func (d *deadline) Err() error { return d.context(false).Err() }

// Value implements [context.Context].
func (d *deadline) Value(key any) any { return d.context(false).Value(key) }

// context returns the context that speaks for d: the one with the timer, once it is needed or d has
// ended, because only that one knows why; and until then the one around.
func (d *deadline) context(needed bool) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.timed != nil:
		return d.timed
	case d.over:
		// Ended by itself, whatever became of the context around.
		d.timed, d.cancel = context.WithCancel(context.WithoutCancel(d.Context))
		d.cancel()
		return d.timed
	case needed || d.passed():
		d.start()
		return d.timed
	}
	return d.Context
}
