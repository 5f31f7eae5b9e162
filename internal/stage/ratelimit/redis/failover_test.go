//go:build unix

package redis_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit/redis"
	state "github.com/atlas-mcp/atlas/internal/state/redis"
	"github.com/atlas-mcp/atlas/internal/testenv"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// A replica is a limiter as the program has it.
type replica struct {
	failover  *ratelimit.Failover
	handler   atlas.Handler
	fallbacks atomic.Int32
}

const burst = 60

// tooLong is far above what is configured, and far below a wait without bound.
const tooLong = 20 * time.Second

func replicas(t *testing.T, url string, n int) []*replica {
	t.Helper()
	var all []*replica
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	for range n {
		c, err := state.Open(t.Context(), state.Config{URL: url, DialTimeout: time.Second, Timeout: time.Second}, state.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		s, err := redis.New(redis.Deps{Timeout: 2 * time.Second, Client: c.Client(), Prefix: c.Prefix()})
		if err != nil {
			t.Fatal(err)
		}
		r := &replica{}
		r.failover, err = ratelimit.NewFailover(ratelimit.FailoverDeps{
			Shared: s, Local: ratelimit.NewLocal(ratelimit.Bounds{}), Fallback: func(ratelimit.FailMode) { r.fallbacks.Add(1) },
		})
		if err != nil {
			t.Fatal(err)
		}
		wide := ratelimit.Rate{Rate: 1000, Per: time.Second, Burst: 100_000}
		l, err := ratelimit.New(ratelimit.Config{Tenant: ratelimit.Rate{Rate: 1, Per: time.Hour, Burst: burst}, Tool: wide, Caller: wide}, r.failover)
		if err != nil {
			t.Fatal(err)
		}
		r.handler = l.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
		running.Go(func() { _ = r.failover.Run(ctx) })
		all = append(all, r)
	}
	return all
}

// load makes calls of many callers at all replicas at once, and returns how many had each outcome.
func load(t *testing.T, all []*replica, tenant atlas.TenantID, write bool, calls int) map[atlas.Code]int {
	t.Helper()
	out := map[atlas.Code]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	tool := &atlas.Tool{Name: "crm_order", ReadOnly: !write}
	for i := range calls {
		wg.Go(func() {
			c := atlas.Call{Tenant: tenant, Principal: &atlas.Principal{Tenant: tenant, Subject: fmt.Sprint("caller", i%9)}, Tool: tool}
			begun := time.Now()
			_, err := all[i%len(all)].handler(t.Context(), c)
			if took := time.Since(begun); took > tooLong {
				t.Errorf("a call waited %s", took)
			}
			mu.Lock()
			defer mu.Unlock()
			out[atlas.CodeOf(err)]++
		})
	}
	wg.Wait()
	return out
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		wait(t, 10*time.Millisecond)
		if t.Context().Err() != nil {
			t.Fatal("not until the end of the test:", what)
		}
	}
}

// Redis dies, hangs and comes back under load: calls are limited as configured throughout, wait for
// nothing long, and share one limit again afterwards.
func TestRedisDiesAndComesBack(t *testing.T) {
	for name, fault := range map[string]struct {
		away, back func(t *testing.T, s *servers.Server) error
		forgets    bool
	}{
		"killed": {
			away:    func(_ *testing.T, s *servers.Server) error { return s.Kill() },
			back:    func(t *testing.T, s *servers.Server) error { return s.Restart(t.Context()) },
			forgets: true,
		},
		"hanging": {
			away: func(t *testing.T, s *servers.Server) error { return s.Pause(t.Context()) },
			back: func(_ *testing.T, s *servers.Server) error { return s.Resume() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testenv.Start(t, testenv.Redis, servers.Options{})
			all := replicas(t, server.URL(), 2)
			if got := load(t, all, "acme", false, 1000); got[""] != burst || got[atlas.CodeRateLimited] != 1000-burst {
				t.Fatalf("with Redis: %v, want %d to pass", got, burst)
			}
			if err := fault.away(t, server); err != nil {
				t.Fatal(err)
			}
			// globex has used nothing: each replica lets through what it would alone, of reads.
			if got := load(t, all, "globex", false, 1000); got[""] != 2*burst || got[atlas.CodeRateLimited] != 1000-2*burst {
				t.Errorf("reads without Redis: %v, want %d to pass", got, 2*burst)
			}
			if got := load(t, all, "globex", true, 1000); got[atlas.CodeStateUnavailable] != 1000 {
				t.Errorf("writes without Redis: %v, want all refused", got)
			}
			for i, r := range all {
				if r.fallbacks.Load() != 1000 {
					t.Errorf("replica %d counted %d calls without Redis, want 1000", i, r.fallbacks.Load())
				}
				until(t, "noticed", r.failover.Down)
			}
			if err := fault.back(t, server); err != nil {
				t.Fatal(err)
			}
			for _, r := range all {
				until(t, "back", func() bool { return !r.failover.Down() })
			}
			if got := load(t, all, "initech", false, 1000); got[""] != burst {
				t.Errorf("after Redis came back: %v, want %d to pass", got, burst)
			}
			want := 0
			if fault.forgets {
				want = burst
			}
			if got := load(t, all, "acme", false, 1000); got[""] != want {
				t.Errorf("acme after Redis came back: %v, want %d to pass", got, want)
			}
		})
	}
}

// A server that starts while Redis is away works by itself, and with Redis from when it is there.
func TestStartWithoutRedis(t *testing.T) {
	t.Parallel()
	server := testenv.Start(t, testenv.Redis, servers.Options{})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	all := replicas(t, server.URL(), 2)
	if got := load(t, all, "acme", false, 200); got[""] != 120 {
		t.Errorf("without Redis: %v, want 120 to pass", got)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		until(t, "there", func() bool { return !r.failover.Down() })
	}
	if got := load(t, all, "acme", true, 1000); got[""] != burst {
		t.Errorf("with Redis: %v, want %d to pass", got, burst)
	}
}

// In a cluster, all buckets of a tenant lie on one node: one script can charge them.
func TestCluster(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bus := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	server := testenv.Start(t, testenv.Redis, servers.Options{Args: []string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus)}})
	admin, err := state.Open(t.Context(), state.Config{URL: server.URL()}, state.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	if err := admin.Client().Do(t.Context(), admin.Client().B().ClusterAddslotsrange().StartSlotEndSlot().StartSlotEndSlot(0, 16383).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	c, err := state.Open(t.Context(), state.Config{Addresses: []string{server.Addr()}, Mode: state.Cluster}, state.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s := store(t, c)
	until(t, "the cluster serves", func() bool { return s.Probe(t.Context()) == nil })
	for i := range 50 {
		tenant := atlas.TenantID(fmt.Sprint("tenant-", i))
		for _, want := range []bool{true, false} {
			d, err := s.Take(t.Context(), charge(tenant, "crm_order", "ann", time.Hour, 1))
			if err != nil || d.Allowed != want {
				t.Fatalf("%s: %+v, %v", tenant, d, err)
			}
		}
	}
}
