package redis_test

import (
	"crypto/rand"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/cache/cachetest"
	"github.com/atlas-mcp/atlas/internal/stage/cache/redis"
	state "github.com/atlas-mcp/atlas/internal/state/redis"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

func TestMain(m *testing.M) {
	if os.Getenv(childPrefix) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

// connect returns a client as the program has it.
func connect(url string) (rueidis.Client, error) {
	c, err := state.Open(background, state.Config{URL: url}, state.Deps{})
	if err != nil {
		return nil, err
	}
	return c.Client(), nil
}

func client(t testing.TB) rueidis.Client {
	t.Helper()
	c, err := connect(testenv.URL(t, testenv.Redis))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// prefix returns a prefix of the test's own, whose keys are removed at its end.
func prefix(t testing.TB, c rueidis.Client) string {
	t.Helper()
	p := "atlas-test-" + strings.ToLower(rand.Text()) + ":"
	t.Cleanup(func() {
		for _, key := range keys(t, c, p) {
			if err := c.Do(background, c.B().Del().Key(key).Build()).Error(); err != nil {
				t.Error(err)
			}
		}
	})
	return p
}

// keys returns the keys with the prefix.
func keys(t testing.TB, c rueidis.Client, prefix string) []string {
	t.Helper()
	var (
		all    []string
		cursor uint64
	)
	ctx := t.Context()
	if ctx.Err() != nil { // in a cleanup
		ctx = background
	}
	for {
		e, err := c.Do(ctx, c.B().Scan().Cursor(cursor).Match(prefix+"*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.Elements...)
		if cursor = e.Cursor; cursor == 0 {
			return all
		}
	}
}

func tier(t testing.TB, c rueidis.Client, prefix string) *redis.Tier {
	t.Helper()
	s, err := redis.New(c, prefix, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	cachetest.Run(t, func(t *testing.T) (a, b cache.Shared) {
		one, two := client(t), client(t)
		p := prefix(t, one)
		return tier(t, one, p), tier(t, two, p)
	}, nil)
}
