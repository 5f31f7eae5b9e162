package redis_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/memory"
	"github.com/atlas-mcp/atlas/internal/copilot/memory/memorytest"
	"github.com/atlas-mcp/atlas/internal/copilot/memory/redis"
	"github.com/atlas-mcp/atlas/internal/seal"
	state "github.com/atlas-mcp/atlas/internal/state/redis"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

// connect returns a client of the shared Redis that forgets what is under its prefix at the end.
func connect(t testing.TB) *state.Client {
	t.Helper()
	c, err := state.Open(context.Background(), state.Config{URL: testenv.URL(t, testenv.Redis), KeyPrefix: "test:" + rand.Text() + ":"}, state.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, k := range keys(t, c) {
			if err := c.Client().Do(context.Background(), c.Client().B().Del().Key(k).Build()).Error(); err != nil {
				t.Error(err)
			}
		}
		_ = c.Close()
	})
	return c
}

// keys lists what is under the client's prefix.
func keys(t testing.TB, c *state.Client) []string {
	t.Helper()
	var all []string
	for cursor := uint64(0); ; {
		e, err := c.Client().Do(context.Background(), c.Client().B().Scan().Cursor(cursor).Match(c.Prefix()+"*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.Elements...)
		if cursor = e.Cursor; cursor == 0 {
			slices.Sort(all)
			return slices.Compact(all)
		}
	}
}

func store(t testing.TB, c *state.Client, cfg memory.Config, s redis.Sealer) (*redis.Store, *atomic.Int32) {
	t.Helper()
	unreadable := &atomic.Int32{}
	out, err := redis.New(cfg, redis.Deps{Client: c.Client(), Prefix: c.Prefix(), Seal: s, Unreadable: func() { unreadable.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	return out, unreadable
}

func ring(t testing.TB, secret byte) *seal.Ring {
	t.Helper()
	r, err := seal.New("copilot memory", seal.Key{ID: "k1", Secret: bytes.Repeat([]byte{secret}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var ann = copilot.SessionKey{Tenant: "acme", Subject: "ann@acme.example", Session: "s-1"}

func recall(t testing.TB, s *redis.Store, k copilot.SessionKey) []copilot.Turn {
	t.Helper()
	turns, err := s.Recall(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return turns
}

func remember(t testing.TB, s *redis.Store, k copilot.SessionKey, q string) {
	t.Helper()
	if err := s.Remember(t.Context(), k, copilot.Turn{Question: q}); err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	t.Parallel()
	for name, sealer := range map[string]redis.Sealer{"in the clear": nil, "sealed": ring(t, 1)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			memorytest.Run(t, func(t *testing.T, cfg memory.Config) copilot.Memory {
				s, _ := store(t, connect(t), cfg, sealer)
				return s
			})
		})
	}
}

// Another replica finds the session, for its whole time after the last turn.
func TestReplicasAndTime(t *testing.T) {
	t.Parallel()
	c := connect(t)
	here, _ := store(t, c, memory.Config{TTL: time.Hour}, ring(t, 1))
	there, _ := store(t, c, memory.Config{TTL: time.Hour}, ring(t, 1))
	remember(t, here, ann, "q")
	if got := recall(t, there, ann); len(got) != 1 || got[0].Question != "q" {
		t.Errorf("another replica recalls %v", got)
	}
	key := keys(t, c)[0]
	left := func() time.Duration {
		ms, err := c.Client().Do(t.Context(), c.Client().B().Pttl().Key(key).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(ms) * time.Millisecond
	}
	if d := left(); d <= 0 || d > time.Hour {
		t.Errorf("forgotten in %s", d)
	}
	if err := c.Client().Do(t.Context(), c.Client().B().Pexpire().Key(key).Milliseconds(60_000).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	recall(t, here, ann)
	if d := left(); d > time.Minute {
		t.Errorf("recalling keeps the session for %s", d)
	}
	remember(t, here, ann, "q2")
	if d := left(); d <= time.Minute {
		t.Errorf("forgotten in %s after another turn", d)
	}
	if err := c.Client().Do(t.Context(), c.Client().B().Pexpire().Key(key).Milliseconds(0).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if got := recall(t, here, ann); len(got) > 0 {
		t.Errorf("recalled after its time: %v", got)
	}
}

// Who reads Redis learns neither what was said nor by whom, and who writes there cannot put one session's
// turns, or invented ones, into another.
func TestSealed(t *testing.T) {
	t.Parallel()
	c := connect(t)
	s, unreadable := store(t, c, memory.Config{}, ring(t, 1))
	remember(t, s, ann, "Why was o_9002 late?")
	key := keys(t, c)[0]
	if strings.Contains(key, "ann") || strings.Contains(key, "s-1") {
		t.Errorf("the key %q tells of whom it is", key)
	}
	conn := c.Client()
	values, err := conn.Do(t.Context(), conn.B().Lrange().Key(key).Start(0).Stop(-1).Build()).AsStrSlice()
	if err != nil || len(values) != 1 || strings.Contains(values[0], "o_9002") {
		t.Fatalf("%q, %v", values, err)
	}
	globex := copilot.SessionKey{Tenant: "globex", Subject: ann.Subject, Session: ann.Session}
	remember(t, s, globex, "globex's")
	both := keys(t, c)
	other := both[0]
	if other == key {
		other = both[1]
	}
	for _, v := range []string{values[0], `{"question":"invented"}`, "", "null", strings.Repeat("A", 100)} {
		if err := conn.Do(t.Context(), conn.B().Rpush().Key(other).Element(v).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	if got := recall(t, s, globex); len(got) != 1 || got[0].Question != "globex's" || unreadable.Load() != 5 {
		t.Errorf("%v, %d unreadable", got, unreadable.Load())
	}
	// With another key, and without one, there is nothing.
	for _, sealer := range []redis.Sealer{ring(t, 2), nil} {
		s, unreadable := store(t, c, memory.Config{}, sealer)
		if got := recall(t, s, ann); len(got) > 0 || unreadable.Load() != 1 {
			t.Errorf("%v, %d unreadable", got, unreadable.Load())
		}
	}
}

func TestWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	c := connect(t)
	s, _ := store(t, c, memory.Config{Turns: 3, TurnBytes: 400}, nil)
	remember(t, s, ann, "q")
	conn, key := c.Client(), keys(t, c)[0]
	for i := range 50 { // more and longer than it would keep
		v := fmt.Sprintf(`{"question":"%d%s"}`, i, strings.Repeat("x", 10_000))
		if err := conn.Do(t.Context(), conn.B().Rpush().Key(key).Element(v).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	got := recall(t, s, ann)
	if len(got) != 3 || !strings.HasPrefix(got[0].Question, "47") || len(got[0].Question) > 100 {
		t.Errorf("%d turns, %d bytes", len(got), len(got[0].Question))
	}
	if err := conn.Do(t.Context(), conn.B().Set().Key(key).Value("no list").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recall(t.Context(), ann); err == nil {
		t.Error("recalled what is no list")
	}
	if err := s.Remember(t.Context(), ann, copilot.Turn{}); err == nil {
		t.Error("remembered over what is no list")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Recall(over, ann); err == nil {
		t.Error("recalled in a context that was over")
	}
	if _, err := redis.New(memory.Config{}, redis.Deps{}); err == nil {
		t.Error("New without a client")
	}
	if _, err := redis.New(memory.Config{TurnBytes: 1}, redis.Deps{Client: conn}); err == nil {
		t.Error("New took a bad Config")
	}
}

func BenchmarkRememberRecall(b *testing.B) {
	s, _ := store(b, connect(b), memory.Config{}, ring(b, 1))
	turn := copilot.Turn{Question: strings.Repeat("q", 200), Answer: strings.Repeat("a", 2000), IDs: []string{"o_1"}}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Remember(b.Context(), ann, turn); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Recall(b.Context(), ann); err != nil {
			b.Fatal(err)
		}
	}
}
