package redis

import (
	"context"
	"slices"
	"sync"

	"github.com/redis/rueidis"
)

// patient is a rueidis.Client in which no command pays for another's haste. rueidis connects under the
// context of whichever command comes first. When that ends, all that wait for the connection fail with it,
// unsent; and those whose own time ends first go on waiting. Here a command runs to its end by itself, and
// who asked waits for it or leaves. A command that was left may still reach Redis, as one can that was on its
// way; the wait of it ends with the connection's time limits.
//
// Subscriptions and dedicated connections are not shared: they end with their own context as ever.
type patient struct {
	rueidis.Client

	mu      sync.RWMutex // guards closed, and that nothing begins after it
	closed  bool
	running sync.WaitGroup
}

// begin runs f beside, unless the client is closed.
func (p *patient) begin(f func()) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return false
	}
	p.running.Go(f)
	return true
}

// Do implements [rueidis.Client].
func (p *patient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	return attend(ctx, p, func(ctx context.Context) rueidis.RedisResult { return p.Client.Do(ctx, cmd) }, rueidis.NewErrorResult)
}

// DoMulti implements [rueidis.Client].
func (p *patient) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	return attend(ctx, p, func(ctx context.Context) []rueidis.RedisResult { return p.Client.DoMulti(ctx, multi...) },
		func(err error) []rueidis.RedisResult {
			return slices.Repeat([]rueidis.RedisResult{rueidis.NewErrorResult(err)}, len(multi))
		})
}

// attend waits for what run comes to, or until ctx ends. What ends with its context is the wait alone.
func attend[T any](ctx context.Context, p *patient, run func(context.Context) T, failed func(error) T) T {
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	done := make(chan T, 1)
	if !p.begin(func() { done <- run(context.WithoutCancel(ctx)) }) {
		return failed(rueidis.ErrClosing)
	}
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
	}
	select {
	case r := <-done: // both at once: what has come counts
		return r
	default:
		return failed(ctx.Err())
	}
}

// Close implements [rueidis.Client]. It waits for the commands that were left.
func (p *patient) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Client.Close()
	p.running.Wait()
}
