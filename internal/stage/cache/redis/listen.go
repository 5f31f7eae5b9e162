package redis

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
)

// The messages: a letter, then the rest.
const (
	endedAgain = 'a' // digest: a load has ended; look again
	endedNone  = 'n' // digest: a load has ended without an answer that can be kept
	purgeMade  = 'p' // origin, tenant, NUL, tool: a purge
)

// ended returns the message that the load of a name has ended.
func ended(n cache.Name, again bool) string {
	kind := byte(endedNone)
	if again {
		kind = endedAgain
	}
	return string(kind) + string(n.Digest[:])
}

// purged returns the message that this replica has purged.
func (t *Tier) purged(tenant atlas.TenantID, tool string) string {
	return string(byte(purgeMade)) + t.origin + string(tenant) + "\x00" + tool
}

// heard does what a message says. Whoever can write to Redis can send any; the worst that one can do
// is to make us forget or to look in vain.
func (t *Tier) heard(message string, l cache.Listener) {
	if message == "" {
		return
	}
	switch rest := message[1:]; message[0] {
	case endedAgain, endedNone:
		if len(rest) == 32 {
			t.signal([32]byte([]byte(rest)), message[0] == endedAgain)
		}
	case purgeMade:
		if len(rest) < tokenSize || rest[:tokenSize] == t.origin {
			return
		}
		name, tool, ok := strings.Cut(rest[tokenSize:], "\x00")
		if tenant, err := atlas.ParseTenantID(name); ok && err == nil {
			l.Purged(tenant, tool)
		}
	}
}

const (
	subscribeTimeout = 2 * time.Second
	firstPause       = 50 * time.Millisecond // before listening again; doubled each time
	lastPause        = 2 * time.Second
)

// Listen implements [cache.Shared]. It takes one connection.
func (t *Tier) Listen(ctx context.Context, l cache.Listener) {
	pause, deaf := firstPause, false
	for ctx.Err() == nil {
		began := time.Now()
		err := t.listen(ctx, l, func() {
			if deaf {
				t.log.InfoContext(ctx, "the cache hears the other replicas again")
			}
			deaf = false
		})
		if ctx.Err() != nil {
			return
		}
		if !deaf {
			t.log.WarnContext(ctx, "the cache does not hear the other replicas", slog.Any("error", err))
			deaf = true
		}
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // spreads replicas; nothing to guess
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause = min(2*pause, lastPause)
	}
}

// listen listens on one connection until it breaks or ctx ends. begins is called when it hears.
func (t *Tier) listen(ctx context.Context, l cache.Listener, begins func()) error {
	conn, release := t.client.Dedicate()
	defer release()
	// The hooks are called one after another.
	broken := conn.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) { t.heard(m.Message, l) },
		OnSubscription: func(s rueidis.PubSubSubscription) {
			if s.Kind == "subscribe" {
				begins()
				l.Gap()
			}
		},
	})
	sub, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	err := conn.Do(sub, conn.B().Subscribe().Channel(t.channel()).Build()).Error()
	if err == nil {
		select {
		case err = <-broken:
			return errors.Join(errors.New("cache: redis: the connection broke"), err)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	conn.Close()
	// Until the hooks are not called any more; a connection that does not end must not keep us.
	last := time.NewTimer(subscribeTimeout)
	defer last.Stop()
	select {
	case broke := <-broken:
		err = errors.Join(err, broke)
	case <-last.C:
	}
	return err
}
