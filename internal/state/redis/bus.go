package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// What became of a message, as Deps.Bus is told.
const (
	BusSent      = "sent"
	BusNotSent   = "not_sent"
	BusReceived  = "received"  // handed to the handler
	BusOwn       = "own"       // sent here
	BusMalformed = "malformed" // not a message of this program
	BusForged    = "forged"    // not made with the key
	BusStale     = "stale"     // too old, or from the future
	BusRepeated  = "repeated"  // has come before
	BusLost      = "lost"      // the handler was too slow; it is told of a gap
	BusGap       = "gap"       // the handler was told of a gap
)

// A Bus tells all replicas what changed at one, and a replica what changed at the others. It is
// Redis's pub/sub: a message reaches who listens at that moment, at most once. Who may have missed one
// hears [TopicGap]: a listener that was away, once it is back, and all of them when the next message
// shows that one before it is missing.
type Bus struct {
	client    *Client
	node      string
	channel   string
	turn      chan struct{} // held while a message is sent, so that they arrive in order; guards seq
	seq       uint64
	listening atomic.Bool
	away      atomic.Int64 // since when Run has had no connection, in nanoseconds since 1970; 0 if it has one
}

// NewBus returns a replica's bus. Its own messages do not come back to it.
func NewBus(c *Client) *Bus {
	return &Bus{client: c, node: rand.Text(), channel: c.Prefix() + "bus", turn: make(chan struct{}, 1)}
}

// Publish tells the other replicas. An error says that they were perhaps not told. It takes little more
// than Config.Timeout and Config.DialTimeout at most, and no time once Run has been without a connection
// for a while.
func (b *Bus) Publish(ctx context.Context, m Message) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, b.client.cfg.Timeout)
	defer cancel()
	err := b.send(ctx, m)
	if err != nil {
		b.client.count(BusNotSent)
		return fmt.Errorf("bus: %w", err)
	}
	b.client.count(BusSent)
	return nil
}

func (b *Bus) send(ctx context.Context, m Message) error {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	b.seq++ // also if it fails: the next message then tells listeners that this one is missing
	if since := b.away.Load(); since != 0 && time.Since(time.Unix(0, since)) > patience {
		return errAway
	}
	e := envelope{Version: wireVersion, Node: b.node, Seq: b.seq, At: time.Now().UnixMilli(), Message: m}
	wire, err := e.encode(b.client.busKey, b.channel)
	if err != nil {
		return err
	}
	conn := b.client.conn
	return conn.Do(ctx, conn.B().Publish().Channel(b.channel).Message(wire).Build()).Error()
}

// Listening reports whether messages of others arrive.
func (b *Bus) Listening() bool { return b.listening.Load() }

const (
	// queued is how many messages wait for the handler. The connection is shared: it never waits.
	queued       = 256
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 2 * time.Second
	// patience is for how long a lost connection keeps nobody from trying to send.
	patience = time.Second
)

var errAway = errors.New("redis has been away for a while")

// Run hands messages of the other replicas to handle, one after the other, until ctx ends and handle
// has returned.
func (b *Bus) Run(ctx context.Context, handle func(ctx context.Context, m Message)) error {
	in := &inbox{queue: make(chan Message, queued), count: b.client.count}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.listen(ctx, in)
	}()
	for {
		select {
		case <-ctx.Done():
			<-ended
			return nil
		case m := <-in.queue:
			if in.lost.Swap(false) {
				b.client.count(BusGap)
				handle(ctx, Message{Topic: TopicGap})
			}
			if m.Topic == TopicGap {
				b.client.count(BusGap)
			} else {
				b.client.count(BusReceived)
			}
			handle(ctx, m)
		}
	}
}

// An inbox holds messages for the handler. It outlives the listener: the connection may still have
// something for it.
type inbox struct {
	queue chan Message
	lost  atomic.Bool // a message found no room; there are others in the queue then
	count func(string)
}

func (in *inbox) offer(m Message) {
	select {
	case in.queue <- m:
	default:
		in.lost.Store(true)
		in.count(BusLost)
	}
}

// listen subscribes, again and again, until ctx ends.
func (b *Bus) listen(ctx context.Context, in *inbox) {
	conn, seen, backoff := b.client.conn, senders{}, firstBackoff
	b.away.Store(time.Now().UnixNano())
	defer b.away.Store(0) // nobody looks any more
	for ctx.Err() == nil {
		var joined atomic.Bool
		// The hook runs where the connection is read, before any message is.
		hooked := rueidis.WithOnSubscriptionHook(ctx, func(s rueidis.PubSubSubscription) {
			if s.Kind == "subscribe" && ctx.Err() == nil {
				joined.Store(true)
				b.listening.Store(true)
				b.away.Store(0)
				in.offer(Message{Topic: TopicGap})
			}
		})
		err := conn.Receive(hooked, conn.B().Subscribe().Channel(b.channel).Build(), func(m rueidis.PubSubMessage) {
			b.accept(in, seen, m.Message)
		})
		if b.listening.Swap(false) {
			b.away.Store(time.Now().UnixNano())
		}
		if ctx.Err() != nil {
			return
		}
		if joined.Load() {
			backoff = firstBackoff
			b.client.log.WarnContext(ctx, "the bus of replicas was interrupted", "err", err)
		}
		timer := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		backoff = min(2*backoff, lastBackoff)
	}
}

// accept takes what another replica said.
func (b *Bus) accept(in *inbox, seen senders, wire string) {
	e, err := decode(wire, b.client.busKey, b.channel)
	age := time.Since(time.UnixMilli(e.At))
	switch {
	case errors.Is(err, errForged):
		b.client.count(BusForged)
	case err != nil:
		b.client.count(BusMalformed)
	case e.Node == b.node:
		b.client.count(BusOwn)
	case age > maxAge || age < -maxAge:
		b.client.count(BusStale)
	default:
		fresh, gap := seen.take(e)
		if !fresh {
			b.client.count(BusRepeated)
			return
		}
		if gap {
			in.offer(Message{Topic: TopicGap})
		}
		in.offer(e.Message)
	}
}
