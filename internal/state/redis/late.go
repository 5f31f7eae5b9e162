package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// errNotYet says that Redis was not reached since the start.
var errNotYet = errors.New("redis was not reached yet")

// noSlot is set in the slot of a command that was built without knowing of a cluster; see
// rueidis.Builder.
const noSlot = uint16(1 << 15)

// late is a rueidis.Client that is usable before Redis can be reached: commands fail with errNotYet
// until then. rueidis itself makes no client of sentinels or of a cluster that are down, and who
// starts while they are would have to start again.
type late struct {
	current atomic.Pointer[rueidis.Client]
	idle    rueidis.Client // builds commands meanwhile; is connected to nothing
	cluster bool
	stop    context.CancelFunc
	ended   chan struct{}
}

var _ rueidis.Client = (*late)(nil)

// connectLate returns a client, connected if Redis is there.
func connectLate(opt rueidis.ClientOption, cluster bool, log *slog.Logger) (rueidis.Client, error) {
	first, err := rueidis.NewClient(opt)
	if err == nil {
		return first, nil
	}
	none := rueidis.ClientOption{
		InitAddress: []string{"none"}, ForceSingleClient: true, DisableCache: true, DisableRetry: true,
		DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) { return nil, errNotYet },
	}
	idle, _ := rueidis.NewClient(none) // the error is errNotYet
	if idle == nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &late{idle: idle, cluster: cluster, stop: stop, ended: make(chan struct{})}
	log.WarnContext(ctx, "redis is not there yet", "err", err)
	go l.connect(ctx, opt)
	return l, nil
}

func (l *late) connect(ctx context.Context, opt rueidis.ClientOption) {
	defer close(l.ended)
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		timer := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if c, err := rueidis.NewClient(opt); err == nil {
			l.current.Store(&c)
			return
		}
	}
}

func (l *late) client() rueidis.Client {
	if c := l.current.Load(); c != nil {
		return *c
	}
	return l.idle
}

// fits returns the client that may run the commands. Those that were built before a cluster was reached
// do not know their slots, and must not reach it.
func (l *late) fits(multi ...rueidis.Completed) rueidis.Client {
	c := l.current.Load()
	if c == nil {
		return l.idle
	}
	if l.cluster {
		for i := range multi {
			if multi[i].Slot()&noSlot != 0 {
				return l.idle
			}
		}
	}
	return *c
}

func (l *late) B() rueidis.Builder { return l.client().B() }

func (l *late) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	return l.fits(cmd).Do(ctx, cmd)
}

func (l *late) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	return l.fits(multi...).DoMulti(ctx, multi...)
}

func (l *late) Receive(ctx context.Context, subscribe rueidis.Completed, fn func(rueidis.PubSubMessage)) error {
	return l.fits(subscribe).Receive(ctx, subscribe, fn)
}

func (l *late) DoCache(ctx context.Context, cmd rueidis.Cacheable, ttl time.Duration) rueidis.RedisResult {
	return l.fits(rueidis.Completed(cmd)).DoCache(ctx, cmd, ttl)
}

func (l *late) DoMultiCache(ctx context.Context, multi ...rueidis.CacheableTTL) []rueidis.RedisResult {
	c := l.client()
	for i := range multi {
		if c = l.fits(rueidis.Completed(multi[i].Cmd)); c == l.idle {
			break
		}
	}
	return c.DoMultiCache(ctx, multi...)
}

func (l *late) DoStream(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResultStream {
	return l.fits(cmd).DoStream(ctx, cmd)
}

func (l *late) DoMultiStream(ctx context.Context, multi ...rueidis.Completed) rueidis.MultiRedisResultStream {
	return l.fits(multi...).DoMultiStream(ctx, multi...)
}

func (l *late) Dedicated(fn func(rueidis.DedicatedClient) error) error {
	return l.client().Dedicated(fn)
}

func (l *late) Dedicate() (rueidis.DedicatedClient, func()) { return l.client().Dedicate() }

func (l *late) Nodes() map[string]rueidis.Client { return l.client().Nodes() }

func (l *late) Mode() rueidis.ClientMode { return l.client().Mode() }

// Close implements [rueidis.Client].
func (l *late) Close() {
	l.stop()
	<-l.ended
	if c := l.current.Load(); c != nil {
		(*c).Close()
	}
	l.idle.Close()
}
