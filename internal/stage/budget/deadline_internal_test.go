package budget

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

type valueKey struct{}

// A deadline is to everybody what context.WithDeadlineCause returns: the same things are done to both,
// in any order, and both are looked at in any way.
func TestDeadlineIsThatOfTheStandardLibrary(t *testing.T) {
	errCause, errAround := errors.New("own"), errors.New("around")
	type subject struct {
		ctx      context.Context
		end      func()
		around   context.CancelCauseFunc
		children []context.Context
		after    atomic.Int32 // functions that ran when it ended
	}
	// compare fails with what the two differ in.
	compare := func(t *testing.T, room, aroundRoom time.Duration, steps []string) (differ string) {
		synctest.Test(t, func(t *testing.T) {
			open := func(lazy bool) *subject {
				base, cancel := context.WithCancelCause(context.WithValue(context.Background(), valueKey{}, "v"))
				around, stop := context.WithTimeoutCause(base, aroundRoom, errAround)
				s := &subject{around: func(err error) { cancel(err); stop() }}
				at := time.Now().Add(room)
				if lazy {
					d := withDeadline(around, at, errCause)
					s.ctx, s.end = d, d.end
				} else {
					s.ctx, s.end = context.WithDeadlineCause(around, at, errCause)
				}
				return s
			}
			look := func(ctx context.Context) string {
				select {
				case <-ctx.Done():
					return fmt.Sprint("done ", ctx.Err(), context.Cause(ctx))
				default:
					return fmt.Sprint("not done ", ctx.Err(), context.Cause(ctx))
				}
			}
			do := func(s *subject, step string) string {
				switch step {
				case "err":
					return fmt.Sprint(s.ctx.Err())
				case "done":
					return look(s.ctx)
				case "cause":
					return fmt.Sprint(context.Cause(s.ctx))
				case "value":
					return fmt.Sprint(s.ctx.Value(valueKey{}), s.ctx.Value("none"))
				case "deadline":
					at, ok := s.ctx.Deadline()
					return fmt.Sprint(at, ok)
				case "child":
					child, cancel := context.WithCancel(s.ctx)
					t.Cleanup(cancel)
					s.children = append(s.children, child)
				case "timed child":
					child, cancel := context.WithTimeout(s.ctx, 2*time.Second+time.Second/4) // never a tie
					t.Cleanup(cancel)
					s.children = append(s.children, child)
				case "after":
					context.AfterFunc(s.ctx, func() { s.after.Add(1) })
				case "end":
					s.end()
				case "cancel around":
					_ = s.ctx.Err() // else a deadline that has passed unseen would seem to come second
					s.around(errAround)
				}
				return ""
			}
			ours, theirs := open(true), open(false)
			for i, step := range steps {
				if step == "sleep" {
					time.Sleep(time.Second) // the bubble's time
				}
				got, want := do(ours, step), do(theirs, step)
				synctest.Wait()
				for _, child := range ours.children {
					got += "; " + look(child)
				}
				for _, child := range theirs.children {
					want += "; " + look(child)
				}
				if got != want || ours.after.Load() != theirs.after.Load() {
					differ = fmt.Sprintf("after %q: %s %d, want %s %d", steps[:i+1], got, ours.after.Load(), want, theirs.after.Load())
					break
				}
			}
			for _, s := range []*subject{ours, theirs} {
				s.end()
				s.around(nil)
			}
			synctest.Wait()
		})
		return differ
	}
	const s = time.Second
	for _, c := range []struct {
		room, aroundRoom time.Duration
		steps            []string
	}{
		{1 * s, 3 * s / 2, []string{"sleep", "sleep", "cause"}}, // both have passed unseen
		{3 * s, 3 * s / 2, []string{"sleep", "sleep", "cause", "deadline"}},
		{1 * s, 9 * s, []string{"end", "sleep", "end", "err"}},
		{0, 9 * s, []string{"end", "err", "cause"}},
		{2 * s, 9 * s, []string{"err", "cancel around", "err", "sleep", "sleep", "cause"}},
		{2 * s, 9 * s, []string{"child", "after", "sleep", "value", "sleep", "cause", "end"}},
		{2 * s, 9 * s, []string{"end", "cancel around", "err", "cause", "value"}},
	} {
		if differ := compare(t, c.room, c.aroundRoom, c.steps); differ != "" {
			t.Errorf("%s and %s around: %s", c.room, c.aroundRoom, differ)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		room := time.Duration(rapid.IntRange(-1, 4).Draw(rt, "seconds until the deadline")) * s
		aroundRoom := time.Duration(rapid.IntRange(1, 8).Draw(rt, "seconds until the deadline around"))*s + s/2
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{
			"err", "done", "cause", "value", "deadline", "child", "timed child", "after", "sleep", "sleep", "end", "cancel around",
		}), 1, 12).Draw(rt, "steps")
		if differ := compare(t, room, aroundRoom, steps); differ != "" {
			rt.Error(differ)
		}
	})
}
