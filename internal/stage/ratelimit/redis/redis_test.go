package redis_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit/ratelimittest"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit/redis"
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

func store(t testing.TB, c *state.Client) *redis.Store {
	t.Helper()
	s, err := redis.New(redis.Deps{Timeout: 10 * time.Second, Client: c.Client(), Prefix: c.Prefix()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	c := connect(t)
	var harness atomic.Int32
	ratelimittest.Run(t, func(t *testing.T, f func(*testing.T, ratelimittest.Harness)) {
		s, err := redis.New(redis.Deps{Timeout: 10 * time.Second, Client: c.Client(), Prefix: fmt.Sprint(c.Prefix(), harness.Add(1), ":")})
		if err != nil {
			t.Fatal(err)
		}
		now := atomic.Int64{}
		now.Store(time.Now().UnixMicro())
		f(t, ratelimittest.Harness{
			Store:   s.WithClock(now.Load),
			Advance: func(d time.Duration) { now.Add(d.Microseconds()) },
		})
	})
}

func charge(tenant atlas.TenantID, tool, caller string, interval time.Duration, burst int64) ratelimit.Charge {
	cell := func(name string) ratelimit.Cell {
		return ratelimit.Cell{Name: name, Interval: interval, Burst: burst, Cost: 1}
	}
	return ratelimit.Charge{Tenant: tenant, Cells: [3]ratelimit.Cell{cell(""), cell(tool), cell(caller)}}
}

// Two replicas and a thousand callers at once: the limit is one, on the server's own clock.
func TestReplicasShareOneLimit(t *testing.T) {
	first := connect(t)
	second, err := state.Open(t.Context(), state.Config{URL: testenv.URL(t, testenv.Redis), KeyPrefix: first.Prefix()}, state.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	stores := []*redis.Store{store(t, first), store(t, second)}
	const burst = 240
	var passed, refused atomic.Int32
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 1000 {
		wg.Go(func() {
			<-start
			// An hour's interval: nothing comes back while the test runs.
			c := charge("acme", fmt.Sprint("tool", i%3), fmt.Sprint("caller", i%7), time.Hour, burst)
			c.Cells[ratelimit.Tool].Burst, c.Cells[ratelimit.Caller].Burst = 1000, 1000
			for range 2 {
				d, err := stores[i%2].Take(t.Context(), c)
				switch {
				case err != nil:
					t.Error(err)
				case d.Allowed:
					passed.Add(1)
				case d.Scope != ratelimit.Tenant || d.RetryAfter <= 0 || d.RetryAfter > time.Hour:
					t.Errorf("%+v", d)
				default:
					refused.Add(1)
				}
			}
		})
	}
	close(start)
	wg.Wait()
	if passed.Load() != burst || refused.Load() != 2000-burst {
		t.Errorf("%d passed and %d were refused, want %d and %d", passed.Load(), refused.Load(), burst, 2000-burst)
	}
}

// The server's clock gives back: waiting as told is enough.
func TestRetryAfterIsEnough(t *testing.T) {
	s := store(t, connect(t))
	c := charge("acme", "crm", "ann", 30*time.Millisecond, 1)
	for refused := 0; refused < 5; {
		d, err := s.Take(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if d.Allowed {
			continue
		}
		refused++
		if d.RetryAfter <= 0 || d.RetryAfter > 30*time.Millisecond {
			t.Fatalf("retry after %s", d.RetryAfter)
		}
		wait(t, d.RetryAfter)
		if d, err = s.Take(t.Context(), c); err != nil || !d.Allowed {
			t.Fatalf("refused after waiting as told: %+v, %v", d, err)
		}
	}
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

func TestKeys(t *testing.T) {
	c := connect(t)
	s := store(t, c)
	for _, name := range ratelimittest.Hostile {
		for _, tenant := range []atlas.TenantID{"acme", "globex"} {
			if _, err := s.Take(t.Context(), charge(tenant, name, name, time.Minute, 1000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := keys(t, c)
	if want := 2 * (1 + 2*len(ratelimittest.Hostile)); len(all) != want {
		t.Errorf("%d keys, want %d", len(all), want)
	}
	for _, k := range all {
		rest, ok := strings.CutPrefix(k, c.Prefix()+"rl:{")
		tenant, tail, _ := strings.Cut(rest, "}")
		plain := strings.IndexFunc(tail, func(r rune) bool {
			return !strings.ContainsRune(":-_", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) < 0
		if !ok || tenant != "acme" && tenant != "globex" || len(k) > 200 || !plain {
			t.Errorf("key %q", k)
		}
		// Idle buckets vanish: at most the time they need to fill, and a second.
		ttl, err := c.Client().Do(t.Context(), c.Client().B().Pttl().Key(k).Build()).AsInt64()
		if most := int64(len(ratelimittest.Hostile))*60_000 + 1000; err != nil || ttl <= 0 || ttl > most {
			t.Errorf("%s vanishes in %d ms, want at most %d; %v", k, ttl, most, err)
		}
	}
	// A tenant that could leave its hash tag is nobody's.
	for _, tenant := range []atlas.TenantID{"", "Acme", "acme}:t", "{globex}", "a:b", "acme\x00"} {
		if d, err := s.Take(t.Context(), charge(tenant, "crm", "ann", time.Hour, 1)); err == nil {
			t.Errorf("tenant %q: %+v", tenant, d)
		}
	}
	if got := keys(t, c); len(got) != len(all) {
		t.Errorf("%d keys after refusals, want %d", len(got), len(all))
	}
}

// What does not hold a time is a full bucket, and refused charges make no bucket.
func TestForeignValues(t *testing.T) {
	c := connect(t)
	s := store(t, c)
	key := c.Prefix() + "rl:{acme}:t"
	for _, v := range []string{"", "nan", "-nan", "inf", "1e300", "x", "-5", "0x7fffffffffffffff", "99999999999999999999999"} {
		if err := c.Client().Do(t.Context(), c.Client().B().Set().Key(key).Value(v).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		one := ratelimit.Charge{Tenant: "acme", Cells: [3]ratelimit.Cell{{Interval: time.Hour, Burst: 2, Cost: 1}}}
		passed := 0
		for range 4 {
			d, err := s.Take(t.Context(), one)
			if err != nil {
				t.Fatalf("%q: %v", v, err)
			}
			if d.Allowed {
				passed++
			} else if d.RetryAfter <= 0 || d.RetryAfter > 2*time.Hour {
				t.Errorf("%q: %+v", v, d)
			}
		}
		if passed > 2 {
			t.Errorf("%q: %d passed, want at most the burst of 2", v, passed)
		}
	}
}

// The script is known to no server that was just started: the charge succeeds all the same.
func TestScriptThatRedisHasForgotten(t *testing.T) {
	c := connect(t)
	s := store(t, c)
	if err := c.Client().Do(t.Context(), c.Client().B().ScriptFlush().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if d, err := s.Take(t.Context(), charge("acme", "crm", "ann", time.Hour, 1)); err != nil || !d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := s.Take(t.Context(), charge("acme", "crm", "ann", time.Hour, 1)); err != nil || d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestContextAndProbe(t *testing.T) {
	c := connect(t)
	s := store(t, c)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Take(ended, charge("acme", "crm", "ann", time.Hour, 1)); err != context.Canceled { //nolint:errorlint // as it is
		t.Error(err)
	}
	if got := keys(t, c); len(got) > 0 {
		t.Errorf("a call that was over was charged: %v", got)
	}
	for range 3 { // at the rate of a probe per microsecond
		if err := s.Probe(t.Context()); err != nil {
			t.Error(err)
		}
	}
	away, err := state.Open(t.Context(), state.Config{URL: testenv.URL(t, testenv.Redis)}, state.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	_ = away.Close()
	if err := store(t, away).Probe(t.Context()); err == nil {
		t.Error("the probe of a closed client succeeds")
	}
	if _, err := redis.New(redis.Deps{}); err == nil {
		t.Error("New without a client")
	}
}

func benchmark(b *testing.B, callers int) {
	s := store(b, connect(b))
	c := charge("acme", "crm_order", "ann", time.Microsecond, 1_000_000)
	b.ReportAllocs()
	b.SetParallelism(callers) // times GOMAXPROCS
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Take(context.Background(), c); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkTake1(b *testing.B) {
	s := store(b, connect(b))
	c := charge("acme", "crm_order", "ann", time.Microsecond, 1_000_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Take(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTake64(b *testing.B) { benchmark(b, 64) }
