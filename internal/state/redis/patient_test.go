package redis_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/atlas-mcp/atlas/internal/state/redis"
)

// A mute is a server that takes connections and says nothing.
type mute struct {
	net.Listener
	came chan struct{}
	mu   sync.Mutex
	all  []net.Conn
}

func newMute(t *testing.T) *mute {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mute{Listener: l, came: make(chan struct{}, 100)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.all = append(m.all, c)
			m.mu.Unlock()
			m.came <- struct{}{}
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
		m.hangUp()
	})
	return m
}

// hangUp ends all connections that there are.
func (m *mute) hangUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.all {
		_ = c.Close()
	}
	m.all = nil
}

// While a connection is being made, a command waits as long as its own context says: not shorter because the
// one that came first was in haste, and not longer because the connection takes its time.
func TestNobodyPaysForAnothersHaste(t *testing.T) {
	t.Parallel()
	m := newMute(t)
	conn := make(chan *redis.Client, 1)
	go func() {
		c, err := redis.Open(context.Background(), redis.Config{URL: "redis://" + m.Addr().String(), DialTimeout: time.Minute, Timeout: time.Minute}, redis.Deps{})
		if err != nil {
			t.Error(err)
		}
		conn <- c
	}()
	<-m.came // Open tries to connect
	m.hangUp()
	c := <-conn
	if c == nil {
		t.FailNow()
	}
	defer func() {
		_ = m.Close()
		m.hangUp()
		_ = c.Close()
	}()
	ask := func(ctx context.Context) error {
		return c.Client().Do(ctx, c.Client().B().Get().Key("x").Build()).Error()
	}
	hasty, giveUp := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- ask(hasty) }()
	<-m.came // it is the one that connects
	patient := make(chan error, 1)
	go func() { patient <- ask(t.Context()) }()
	bounded, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := ask(bounded); !errors.Is(err, context.DeadlineExceeded) { // and it comes back before the test hangs up
		t.Errorf("its time was up: %v", err)
	}
	giveUp()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the first was cancelled: %v", err)
	}
	again, cancelAgain := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelAgain()
	if err := ask(again); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection that the first began was given up: %v", err)
	}
	select {
	case err := <-patient:
		t.Errorf("failed with another's time: %v", err)
	default:
	}
	_ = m.Close()
	m.hangUp()
	if err := <-patient; err == nil {
		t.Error("a server that says nothing answered")
	}
}

// Who closes the client waits for the commands that their callers left.
func TestNothingRunsAfterClose(t *testing.T) {
	t.Parallel()
	c := open(t, shared(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := c.Client().B
	if err := c.Client().Do(ctx, b().Ping().Build()).Error(); !errors.Is(err, context.Canceled) {
		t.Errorf("its context was over: %v", err)
	}
	results := c.Client().DoMulti(t.Context(), b().Ping().Build(), b().Echo().Message("x").Build())
	if text, err := results[1].ToString(); len(results) != 2 || text != "x" || err != nil {
		t.Errorf("%d results, %q, %v", len(results), text, err)
	}
	cmd := b().Ping().Build()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Client().Do(t.Context(), cmd).Error(); !errors.Is(err, rueidis.ErrClosing) {
		t.Errorf("after Close: %v", err)
	}
	for _, r := range c.Client().DoMulti(t.Context(), cmd, cmd) {
		if err := r.Error(); !errors.Is(err, rueidis.ErrClosing) {
			t.Errorf("after Close: %v", err)
		}
	}
}
