package redis_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

// A wire stands between a replica and Redis, and can be cut or held.
type wire struct {
	listener net.Listener
	backend  string

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	cut   bool
	came  chan struct{} // told of connections, if there is room
	held  chan struct{} // while not nil, nothing passes
	wg    sync.WaitGroup
}

func newWire(t *testing.T) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, backend: strings.TrimPrefix(testenv.URL(t, testenv.Redis), "redis://"), conns: map[net.Conn]struct{}{}, came: make(chan struct{}, 1)}
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case w.came <- struct{}{}:
			default:
			}
			w.wg.Go(func() { w.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.release()
		w.sever(true)
		w.wg.Wait()
	})
	return w
}

func (w *wire) url() string { return "redis://" + w.listener.Addr().String() }

func (w *wire) serve(front net.Conn) {
	back, err := net.Dial("tcp", w.backend)
	if err != nil {
		_ = front.Close()
		return
	}
	w.mu.Lock()
	cut := w.cut
	if !cut {
		w.conns[front], w.conns[back] = struct{}{}, struct{}{}
	}
	w.mu.Unlock()
	if cut {
		_, _ = front.Close(), back.Close()
		return
	}
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{front, back}, {back, front}} {
		both.Go(func() {
			_, _ = io.Copy(gate{w, pair[1]}, pair[0])
			_, _ = front.Close(), back.Close()
		})
	}
	both.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, front)
	delete(w.conns, back)
}

// A gate lets writes pass while the wire is not held.
type gate struct {
	w *wire
	net.Conn
}

func (g gate) Write(p []byte) (int, error) {
	g.w.mu.Lock()
	held := g.w.held
	g.w.mu.Unlock()
	if held != nil {
		<-held
	}
	return g.Conn.Write(p)
}

// sever closes all connections, and with cut refuses new ones.
func (w *wire) sever(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for c := range w.conns {
		_ = c.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

func (w *wire) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = make(chan struct{})
}

func (w *wire) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held != nil {
		close(w.held)
		w.held = nil
	}
}

func (w *wire) open(t *testing.T, prefix string) *site {
	t.Helper()
	s, closeSite, err := newSite(w.url(), testenv.URL(t, testenv.Redis), prefix, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeSite)
	s.hears(t, 1)
	return s
}

// hears waits until the site has begun to listen that often.
func (s *site) hears(t *testing.T, gaps uint64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); s.store.Stats().Gaps < gaps; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not hear the others")
		}
	}
}

func (s *site) page(t *testing.T, page int) (string, string) {
	t.Helper()
	res, err := s.handle(t.Context(), theCall(order{Tenant: "acme", Page: page}))
	if err != nil {
		t.Fatalf("a read failed: %v", err)
	}
	return string(res.Structured), res.Notes.Cache
}

// While a replica cannot reach Redis it answers, from memory and from its tools; a purge that it makes is
// an error that says so, and takes effect everywhere when Redis is back; a purge by another is
// made up for when it hears again.
func TestOutage(t *testing.T) {
	for name, fault := range map[string]struct{ begin, end func(*wire) }{
		"cut":  {func(w *wire) { w.sever(true) }, (*wire).mend},
		"held": {(*wire).hold, func(w *wire) { w.release(); w.sever(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t)
			p := prefix(t, c)
			w := newWire(t)
			far, near := w.open(t, p), open(t, p)
			for page := range 3 {
				far.page(t, page)
				if _, note := near.page(t, page); note != "hit" {
					t.Fatalf("page %d is not shared", page)
				}
			}
			fault.begin(w)
			if answer, note := far.page(t, 0); answer != first || note != "hit" {
				t.Errorf("from memory: %s (%s)", answer, note)
			}
			for page := 10; page < 30; page++ {
				if answer, note := far.page(t, page); answer != first || note != "miss" {
					t.Errorf("from the tool: %s (%s)", answer, note)
				}
			}
			if far.store.Stats().Fallbacks == 0 {
				t.Error("not counted")
			}
			if err := near.store.Purge(t.Context(), "acme", "crm_order"); err != nil { // far does not hear it
				t.Fatal(err)
			}
			if answer, _ := near.page(t, 0); answer != `{"run":2,"tenant":"acme"}` {
				t.Errorf("after its own purge: %s", answer)
			}
			gaps := far.store.Stats().Gaps
			fault.end(w)
			far.hears(t, gaps+1)
			if answer, _ := far.page(t, 0); answer == first {
				t.Error("an answer outlived a purge that was not heard")
			}
			// And the other way round.
			fault.begin(w)
			began := time.Now()
			err := far.store.Purge(t.Context(), "acme", "crm_order")
			if atlas.CodeOf(err) != atlas.CodeStateUnavailable {
				t.Errorf("a purge that nobody heard gave %v", err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			before, _ := near.page(t, 0)
			fault.end(w)
			far.hears(t, gaps+2)
			// Whatever far asks next about the tool makes up for it; the circuit may be open for a second yet.
			for deadline := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
				far.page(t, int(time.Now().UnixNano()%1e9)+100)
				if answer, _ := near.page(t, 0); answer != before {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the purge is lost")
				}
			}
			far.page(t, 50)
			if _, note := near.page(t, 50); note != "hit" {
				t.Error("nothing is shared after the outage")
			}
		})
	}
}

// A claim does not fail because another, with less time, was the one that connected.
func TestAnothersHaste(t *testing.T) {
	c := client(t)
	p := prefix(t, c)
	w := newWire(t)
	conn, err := connect(w.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	s := tier(t, conn, p)
	claim := func(ctx context.Context, what byte) error {
		_, err := s.Claim(ctx, cache.Claim{Name: cache.Name{Tenant: "acme", Tool: "x", Digest: [32]byte{what}}, Token: rand.Text(), Lease: time.Minute, Max: 1})
		return err
	}
	for round := range byte(5) {
		if err := claim(t.Context(), 10*round); err != nil {
			t.Fatal(err)
		}
		w.hold()
		w.sever(false)
		select {
		case <-w.came: // of before
		default:
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			for hasty.Err() == nil { // the first may meet the broken connection
				_ = claim(hasty, 10*round+1)
			}
			w.release()
		})
		<-w.came // the hasty one connects
		err := claim(t.Context(), 10*round+2)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Errorf("failed with another's time: %v", err)
		} else if err != nil { // it met the broken connection, too
			t.Log(err)
		}
		wg.Wait()
	}
}
