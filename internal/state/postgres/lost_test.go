package postgres_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state/postgres"
	"github.com/atlas-mcp/atlas/internal/state/statetest"
	"github.com/atlas-mcp/atlas/internal/testenv"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// A wire stands between a store and the server. Cut makes it lose the answer to the next request,
// which the server gets, with the connection.
type wire struct {
	net.Listener
	server string
	armed  atomic.Bool
	wg     sync.WaitGroup
}

func newWire(t *testing.T, server string) *wire {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, server: server}
	w.wg.Go(w.serve)
	t.Cleanup(func() {
		_ = l.Close()
		w.wg.Wait()
	})
	return w
}

func (w *wire) serve() {
	for {
		client, err := w.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", w.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		w.wg.Go(func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		})
		w.wg.Go(func() {
			buf := make([]byte, 64<<10)
			for {
				n, err := server.Read(buf)
				if err != nil || w.armed.CompareAndSwap(true, false) {
					break
				}
				if _, err := client.Write(buf[:n]); err != nil {
					break
				}
			}
			_ = client.Close()
		})
	}
}

// An answer that is lost on the way does not make anything happen twice, nor look as if it had not
// happened: the store finds out where it can, and says that it does not know where it cannot.
func TestLostAnswers(t *testing.T) {
	d := migrated(t)
	server, err := url.Parse(d.server)
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(t, server.Host)
	cfg := d.config()
	cfg.DSN = strings.Replace(cfg.DSN, server.Host, w.Addr().String(), 1)
	cfg.PgBouncer = true // each call is one message and one answer
	cfg.MaxConns = 1
	s := open(t, cfg)
	ctx := t.Context()
	lose := func() {
		t.Helper()
		if err := s.Ping(ctx); err != nil { // there is a connection
			t.Fatal(err)
		}
		w.armed.Store(true)
	}

	lose()
	v1, err := s.CompareAndSet(ctx, "a", "k", 0, []byte("one"), time.Time{})
	if err != nil || v1 == 0 {
		t.Fatalf("set: %d, %v", v1, err)
	}
	if got, v, err := s.Get(ctx, "a", "k"); string(got) != "one" || v != v1 || err != nil {
		t.Errorf("after a lost answer to a set: %q %d, %v; want version %d", got, v, err, v1)
	}

	a := statetest.Approval("acme", "alice", "d")
	lose()
	if got, err := s.AddApproval(ctx, a, 1, 1); err != nil || got != a {
		t.Errorf("add approval: %+v, %v", got, err)
	}
	lose()
	if got, found, err := s.FindApproval(ctx, a); !found || err != nil || got != a {
		t.Errorf("find approval: %+v, %v", got, err)
	}
	next := a
	next.State = atlas.ApprovalApproved
	lose()
	if ok, err := s.SwapApproval(ctx, a, next); ok || atlas.CodeOf(err) != atlas.CodeStateUnavailable {
		t.Errorf("swap: %v, %v; want that it is unknown", ok, err)
	} else {
		statetest.Discreet(t, err)
	}
	if ok, err := s.SwapApproval(ctx, a, next); ok || err != nil {
		t.Errorf("the swap happened a second time: %v, %v", ok, err)
	}
	if got, err := s.GetApproval(ctx, "acme", a.ID); err != nil || got.State != atlas.ApprovalApproved {
		t.Errorf("the approval is %s, %v", got.State, err)
	}

	m := statetest.Memory("acme", "CUST-1", "m")
	lose()
	if err := s.AddMemory(ctx, m); err != nil {
		t.Errorf("add memory: %v", err)
	}
	if list, err := s.ListMemories(ctx, "acme", 10); err != nil || len(list) != 1 {
		t.Errorf("%d memories, %v", len(list), err)
	}
	lose()
	if _, err := s.ForgetCustomer(ctx, "acme", "CUST-1"); err != nil {
		t.Errorf("forget: %v", err)
	}
	if list, err := s.ListMemories(ctx, "acme", 10); err != nil || len(list) != 0 {
		t.Errorf("%d memories after they were forgotten, %v", len(list), err)
	}
	lose()
	if ok, err := s.CompareAndDelete(ctx, "a", "k", v1); ok || atlas.CodeOf(err) != atlas.CodeStateUnavailable {
		t.Errorf("delete: %v, %v; want that it is unknown", ok, err)
	}
	if _, v, err := s.Get(ctx, "a", "k"); v != 0 || err != nil {
		t.Errorf("after a lost answer to a delete: version %d, %v", v, err)
	}
	counted(t, d)
}

// A server that is killed under load and started again: every failure says state_unavailable, no
// step that was confirmed is lost, none is counted twice, and the store works on by itself.
func TestRestart(t *testing.T) {
	own := testenv.Start(t, testenv.Postgres, servers.Options{})
	cfg := postgres.Config{DSN: own.URL(), Timeout: 5 * time.Second, ConnectTimeout: time.Second, MaxConns: 4}
	if err := cfg.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := open(t, cfg)
	other := open(t, cfg)
	var (
		wg                 sync.WaitGroup
		confirmed, unknown atomic.Int64
	)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range 4 {
		h := []*postgres.Store{s, other}[i%2]
		wg.Go(func() {
			for ctx.Err() == nil {
				v, n, err := h.Get(ctx, "a", "counter")
				if err == nil {
					var count int
					_, _ = fmt.Sscan(string(v), &count)
					var next int64
					if next, err = h.CompareAndSet(ctx, "a", "counter", n, fmt.Append(nil, count+1), time.Time{}); err != nil {
						unknown.Add(1)
					} else if next != 0 {
						confirmed.Add(1)
					}
				}
				if err != nil && ctx.Err() == nil && atlas.CodeOf(err) != atlas.CodeStateUnavailable {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	reach := func(n int64) {
		t.Helper()
		for confirmed.Load() < n {
			if err := s.Ping(t.Context()); t.Context().Err() != nil {
				t.Fatalf("%d steps: %v", confirmed.Load(), err)
			}
		}
	}
	for round := range 3 {
		reach(confirmed.Load() + 50)
		if round == 0 { // connections are ended by the server
			admin, err := pgx.Connect(t.Context(), own.URL())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'atlas state'`); err != nil {
				t.Fatal(err)
			}
			_ = admin.Close(t.Context())
			continue
		}
		if err := own.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
			t.Errorf("Ping of a dead server: %v", err)
		}
		if err := own.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	reach(confirmed.Load() + 50)
	stop()
	wg.Wait()
	v, _, err := s.Get(t.Context(), "a", "counter")
	if err != nil {
		t.Fatal(err)
	}
	var count int64
	_, _ = fmt.Sscan(string(v), &count)
	if count < confirmed.Load() || count > confirmed.Load()+unknown.Load() {
		t.Errorf("counted to %d; %d steps were confirmed and %d are unknown", count, confirmed.Load(), unknown.Load())
	}
}
