package redis_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state/redis"
)

// A listener collects what a bus hears.
type listener struct {
	*redis.Bus
	client *redis.Client
	heard  chan redis.Message

	mu     sync.Mutex
	counts map[string]int
}

func (l *listener) count(outcome string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[outcome]++
}

func (l *listener) counted(outcome string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[outcome]
}

// next returns the next message.
func (l *listener) next(t *testing.T) redis.Message {
	t.Helper()
	select {
	case m := <-l.heard:
		return m
	case <-t.Context().Done():
		t.Fatal("nothing until the end of the test")
		return redis.Message{}
	}
}

// want fails unless these messages come next.
func (l *listener) want(t *testing.T, want ...redis.Message) {
	t.Helper()
	for _, m := range want {
		if diff := cmp.Diff(m, l.next(t)); diff != "" {
			t.Fatal(diff)
		}
	}
}

var gap = redis.Message{Topic: redis.TopicGap}

// listen runs a bus until the test ends; handle is called before each message is collected.
func listen(t *testing.T, cfg redis.Config, handle func(redis.Message)) *listener {
	t.Helper()
	l := &listener{heard: make(chan redis.Message, 10_000), counts: map[string]int{}}
	c, err := redis.Open(t.Context(), cfg, redis.Deps{Bus: l.count})
	if err != nil {
		t.Fatal(err)
	}
	l.client, l.Bus = c, redis.NewBus(c)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- l.Run(ctx, func(_ context.Context, m redis.Message) {
			if handle != nil {
				handle(m)
			}
			l.heard <- m
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = c.Close()
	})
	return l
}

func publish(t *testing.T, l *listener, m redis.Message) {
	t.Helper()
	if err := l.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// until waits for what other goroutines do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		timer := time.NewTimer(5 * time.Millisecond)
		select {
		case <-timer.C:
		case <-t.Context().Done():
			t.Fatal("not until the end of the test:", what)
		}
	}
}

func TestReplicasTellEachOther(t *testing.T) {
	cfg := shared(t)
	cfg.BusKey = strings.Repeat("0a", 32)
	elsewhere := cfg
	elsewhere.KeyPrefix = "test:elsewhere:"
	a, b, other := listen(t, cfg, nil), listen(t, cfg, nil), listen(t, elsewhere, nil)
	for _, l := range []*listener{a, b, other} {
		l.want(t, gap) // whoever begins to listen may have missed something
		if !l.Listening() {
			t.Error("not listening")
		}
	}
	messages := []redis.Message{
		{Topic: redis.TopicReload},
		{Topic: redis.TopicResource, Tenant: "acme", Name: "crm_order"},
		{Topic: redis.TopicResource, Tenant: "globex", Name: "crm://orders/ö_1?x=\"<>\\"},
	}
	for _, m := range messages {
		publish(t, a, m)
	}
	b.want(t, messages...)
	publish(t, b, messages[0])
	a.want(t, messages[0]) // and nothing of what it sent itself
	publish(t, other, messages[1])
	until(t, "own messages were seen", func() bool { return a.counted(redis.BusOwn) == len(messages) && other.counted(redis.BusOwn) == 1 })
	if len(a.heard)+len(b.heard)+len(other.heard) > 0 {
		t.Errorf("heard besides: %d, %d, %d", len(a.heard), len(b.heard), len(other.heard))
	}
	if a.counted(redis.BusSent) != len(messages) || b.counted(redis.BusReceived) != len(messages) {
		t.Errorf("%v, %v", a.counts, b.counts)
	}
	// Bad messages do not get out, and one that did not get out is missed.
	if err := a.Publish(t.Context(), redis.Message{Topic: redis.TopicResource}); err == nil {
		t.Error("news of no tenant were sent")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Publish(over, messages[0]); err == nil || a.counted(redis.BusNotSent) != 1 {
		t.Errorf("sent in a context that was over: %v", err)
	}
	publish(t, a, messages[1])
	if m := b.next(t); m == gap {
		b.want(t, messages[1])
	} else if diff := cmp.Diff(messages[1], m); diff != "" { // it was turned away before it had a number
		t.Error(diff)
	}
}

// Whoever can write to Redis, but has no key, can neither say something nor say it again.
func TestForeignersOnTheBus(t *testing.T) {
	cfg := shared(t)
	cfg.BusKey = strings.Repeat("0a", 32)
	a := listen(t, cfg, nil)
	a.want(t, gap)
	// A foreigner hears what replicas say.
	spy := open(t, cfg)
	overheard, ready := make(chan string, 100), make(chan struct{})
	spying, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { subscribe(spying, spy, ready, overheard) }()
	<-ready
	unsigned := cfg
	unsigned.BusKey = ""
	wrong := cfg
	wrong.BusKey = strings.Repeat("0b", 32)
	b, naive, forger := listen(t, cfg, nil), listen(t, unsigned, nil), listen(t, wrong, nil)
	for _, l := range []*listener{b, naive, forger} {
		l.want(t, gap)
	}
	purge := redis.Message{Topic: redis.TopicResource, Tenant: "acme", Name: "x"}
	publish(t, naive, purge)
	publish(t, forger, purge)
	publish(t, b, purge)
	a.want(t, purge)
	for range 3 {
		wire := <-overheard
		for _, w := range []string{wire, strings.Replace(wire, "acme", "globex", 1), "-." + wire, wire[:len(wire)/2], "", "x", strings.Repeat("x", 1<<20)} {
			if err := spy.Client().Do(t.Context(), spy.Client().B().Publish().Channel(cfg.KeyPrefix+"bus").Message(w).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := redis.Message{Topic: redis.TopicReload}
	publish(t, b, last)
	a.want(t, last)
	if a.counted(redis.BusRepeated) != 1 || a.counted(redis.BusForged) < 10 || a.counted(redis.BusMalformed) < 3 || a.counted(redis.BusReceived) != 2 {
		t.Errorf("%v", a.counts)
	}
}

func subscribe(ctx context.Context, c *redis.Client, ready chan struct{}, heard chan string) {
	conn := c.Client()
	_ = conn.Receive(onSubscribed(ctx, ready), conn.B().Subscribe().Channel(c.Prefix()+"bus").Build(), func(m message) {
		select {
		case heard <- m.Message:
		default:
		}
	})
}

// A handler that hangs keeps nobody from using the connection, and learns that it missed something.
func TestSlowHandler(t *testing.T) {
	cfg := shared(t)
	free := make(chan struct{})
	slow, b := listen(t, cfg, func(redis.Message) { <-free }), listen(t, cfg, nil)
	b.want(t, gap)
	until(t, "listening", slow.Listening)
	const n = 1000
	for i := range n {
		publish(t, b, redis.Message{Topic: redis.TopicResource, Tenant: "acme", Name: fmt.Sprint(i)})
	}
	until(t, "messages were lost", func() bool { return slow.counted(redis.BusLost) > 0 })
	if _, err := slow.client.Ping(t.Context()); err != nil {
		t.Errorf("the connection hangs with the handler: %v", err)
	}
	close(free)
	slow.want(t, gap)     // it began to listen
	again := slow.next(t) // it was too slow
	for ; again != gap; again = slow.next(t) {
		if again.Tenant != atlas.TenantID("acme") {
			t.Fatalf("%+v", again)
		}
	}
}

func TestRunEnds(t *testing.T) {
	bus := redis.NewBus(open(t, shared(t)))
	for range 50 { // also while it is about to subscribe
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- bus.Run(ctx, func(context.Context, redis.Message) {}) }()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if bus.Listening() {
		t.Error("still listening")
	}
}
