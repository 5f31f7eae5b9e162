package redis_test

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"

	"github.com/redis/rueidis"

	"github.com/atlas-mcp/atlas/internal/state/redis"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

func open(t testing.TB, cfg redis.Config) *redis.Client {
	t.Helper()
	c, err := redis.Open(t.Context(), cfg, redis.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// shared is the Redis of all tests, with a prefix of this one's own.
func shared(t testing.TB) redis.Config {
	t.Helper()
	return redis.Config{URL: testenv.URL(t, testenv.Redis), KeyPrefix: "test:" + rand.Text() + ":"}
}

func TestPing(t *testing.T) {
	c := open(t, shared(t))
	info, err := c.Ping(t.Context())
	if err != nil || info.Version == "" || info.Role != "master" || info.Mode != redis.Standalone || info.Eviction == "" {
		t.Errorf("%+v, %v", info, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error("closing twice:", err)
	}
	if _, err := c.Ping(t.Context()); err == nil {
		t.Error("a closed client answers")
	}
	if !strings.HasPrefix(c.Prefix(), "test:") {
		t.Error(c.Prefix())
	}
}

type message = rueidis.PubSubMessage

// onSubscribed closes ready once a Receive in the context gets messages.
func onSubscribed(ctx context.Context, ready chan struct{}) context.Context {
	var once sync.Once
	return rueidis.WithOnSubscriptionHook(ctx, func(rueidis.PubSubSubscription) { once.Do(func() { close(ready) }) })
}
