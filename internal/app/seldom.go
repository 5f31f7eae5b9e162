package app

import (
	"context"
	"time"
)

// A seldom does at once what is asked for, and what is asked for again soon after once, when its pause is
// over: however often it is asked for, what it does is done seldom, and once after the last time.
type seldom struct {
	do    func(context.Context)
	pause time.Duration // from the end of one to the beginning of the next
	asked chan struct{}
}

func newSeldom(pause time.Duration, do func(context.Context)) *seldom {
	return &seldom{do: do, pause: pause, asked: make(chan struct{}, 1)}
}

// ask asks for it, and does not wait.
func (s *seldom) ask() {
	select {
	case s.asked <- struct{}{}:
	default: // it is asked for
	}
}

// run does it until ctx ends.
func (s *seldom) run(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.asked:
		}
		s.do(ctx)
		pause.Reset(s.pause)
	}
}
