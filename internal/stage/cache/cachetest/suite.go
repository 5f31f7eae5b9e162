package cachetest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
)

// patience bounds the wait for what must come.
const patience = 10 * time.Second

// Run tests the contract of [cache.Shared]. open returns an empty second tier as two replicas reach it.
// wrap runs each test in a bubble of its own, if the tier has no connection to the outside; nil
// runs it as it is.
func Run(t *testing.T, open func(t *testing.T) (a, b cache.Shared), wrap func(*testing.T, func(*testing.T))) {
	if wrap == nil {
		wrap = func(t *testing.T, f func(*testing.T)) { f(t) }
	}
	for _, tc := range []struct {
		name string
		run  func(*testing.T, cache.Shared, cache.Shared)
	}{
		{"an answer is found by all", testFound},
		{"one claimer has the right", testOneClaimer},
		{"one of many claimers has the right", testManyClaimers},
		{"a right ends", testLeaseEnds},
		{"a renewed right lasts", testRenew},
		{"a lost right fills nothing", testStaleFiller},
		{"a right given back is free", testRelease},
		{"only the owner releases", testForeignRelease},
		{"who claims again keeps the right", testClaimAgain},
		{"an answer ends with its time", testTTL},
		{"an answer that is not wanted is none", testExcept},
		{"an answer that is too large is none", testMax},
		{"names are apart", testNames},
		{"purge", testPurge},
		{"a purge during a load", testPurgeDuringLoad},
		{"a purge of one tool after many", testManyPurges},
		{"watchers are told", testWatch},
		{"a stopped watcher is left alone", testWatchStopped},
		{"purges are heard by others", testListen},
		{"an ended context ends everything", testContext},
		{"any bytes are kept", testBytes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wrap(t, func(t *testing.T) {
				a, b := open(t)
				tc.run(t, a, b)
			})
		})
	}
}

// name returns a name; the same words, the same name.
func name(tenant atlas.TenantID, tool, what string) cache.Name {
	return cache.Name{Tenant: tenant, Tool: tool, Digest: sha256.Sum256([]byte(string(tenant) + "\x00" + tool + "\x00" + what))}
}

func claimOf(n cache.Name) cache.Claim {
	return cache.Claim{Name: n, Token: rand.Text(), Lease: time.Minute, Max: 1 << 20}
}

func claim(t *testing.T, s cache.Shared, c cache.Claim, want cache.State) cache.Standing {
	t.Helper()
	got, err := s.Claim(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if got.State != want {
		t.Fatalf("the claim came to %d, want %d", got.State, want)
	}
	return got
}

func fill(t *testing.T, s cache.Shared, c cache.Claim, epoch, value string, ttl time.Duration, want cache.Outcome) {
	t.Helper()
	got, err := s.Fill(t.Context(), cache.Fill{Name: c.Name, Token: c.Token, Epoch: epoch, Value: value, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Fatalf("the fill came to %d, want %d", got, want)
	}
}

// load claims and fills.
func load(t *testing.T, s cache.Shared, n cache.Name, value string, ttl time.Duration) cache.Claim {
	t.Helper()
	c := claimOf(n)
	fill(t, s, c, claim(t, s, c, cache.Granted).Epoch, value, ttl, cache.Kept)
	return c
}

func found(t *testing.T, s cache.Shared, n cache.Name, value string) cache.Standing {
	t.Helper()
	got := claim(t, s, claimOf(n), cache.Found)
	if got.Value != value {
		t.Fatalf("found %q, want %q", got.Value, value)
	}
	return got
}

// until claims until the claim comes to the state.
func until(t *testing.T, s cache.Shared, c cache.Claim, want cache.State) cache.Standing {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		got, err := s.Claim(ctx, c)
		if err != nil {
			t.Fatalf("waiting for state %d: %v", want, err)
		}
		if got.State == want {
			return got
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func testFound(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	c := claimOf(n)
	s := claim(t, a, c, cache.Granted)
	fill(t, a, c, s.Epoch, "answer", time.Minute, cache.Kept)
	for _, r := range []cache.Shared{a, b} {
		got := found(t, r, n, "answer")
		if got.Token != c.Token || got.Epoch != s.Epoch {
			t.Errorf("the answer has token %q and epoch %q, want %q and %q", got.Token, got.Epoch, c.Token, s.Epoch)
		}
		if got.Left <= 0 || got.Left > time.Minute {
			t.Errorf("%v are left", got.Left)
		}
	}
}

func testOneClaimer(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	claim(t, a, claimOf(n), cache.Granted)
	for _, r := range []cache.Shared{a, b} {
		if s := claim(t, r, claimOf(n), cache.Busy); s.Left <= 0 || s.Left > time.Minute {
			t.Errorf("the other's right lasts %v", s.Left)
		}
	}
	claim(t, b, claimOf(name("acme", "crm_order", "2")), cache.Granted)
}

func testManyClaimers(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	var (
		wg      sync.WaitGroup
		granted atomic.Int64
	)
	for i := range 100 {
		s := a
		if i%2 == 1 {
			s = b
		}
		wg.Go(func() {
			got, err := s.Claim(t.Context(), claimOf(n))
			if err != nil {
				t.Error(err)
			}
			if got.State == cache.Granted {
				granted.Add(1)
			}
		})
	}
	wg.Wait()
	if granted.Load() != 1 {
		t.Errorf("%d have the right, want 1", granted.Load())
	}
}

func testLeaseEnds(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	dead := claimOf(n)
	dead.Lease = 50 * time.Millisecond
	claim(t, a, dead, cache.Granted)
	until(t, b, claimOf(n), cache.Granted)
	if ours, err := a.Renew(t.Context(), n, dead.Token, time.Minute); err != nil || ours {
		t.Errorf("a right that has ended was renewed (%v)", err)
	}
}

func testRenew(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	c := claimOf(n)
	c.Lease = time.Second
	s := claim(t, a, c, cache.Granted)
	if ours, err := a.Renew(t.Context(), n, c.Token, time.Hour); err != nil || !ours {
		t.Fatalf("not renewed: %v", err)
	}
	if s := claim(t, b, claimOf(n), cache.Busy); s.Left < time.Minute {
		t.Errorf("the renewed right lasts %v", s.Left)
	}
	if ours, err := b.Renew(t.Context(), n, rand.Text(), time.Hour); err != nil || ours {
		t.Errorf("renewed for one who has no right (%v)", err)
	}
	fill(t, a, c, s.Epoch, "answer", time.Minute, cache.Kept)
}

// A replica that was stopped for longer than its right lasts must not overwrite what came after.
func testStaleFiller(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	stale := claimOf(n)
	stale.Lease = 50 * time.Millisecond
	old := claim(t, a, stale, cache.Granted)
	fresh := claimOf(n)
	s := until(t, b, fresh, cache.Granted)
	fill(t, a, stale, old.Epoch, "old", time.Minute, cache.Lost) // the other is still loading
	fill(t, b, fresh, s.Epoch, "new", time.Minute, cache.Kept)
	fill(t, a, stale, old.Epoch, "old", time.Minute, cache.Lost)
	fill(t, b, fresh, s.Epoch, "twice", time.Minute, cache.Lost) // a right is good once
	found(t, a, n, "new")
}

func testRelease(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	c := claimOf(n)
	s := claim(t, a, c, cache.Granted)
	if err := a.Release(t.Context(), n, c.Token, true); err != nil {
		t.Fatal(err)
	}
	fill(t, a, c, s.Epoch, "late", time.Minute, cache.Lost)
	claim(t, b, claimOf(n), cache.Granted)
}

func testForeignRelease(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	c := claimOf(n)
	s := claim(t, a, c, cache.Granted)
	if err := b.Release(t.Context(), n, rand.Text(), true); err != nil {
		t.Fatal(err)
	}
	claim(t, b, claimOf(n), cache.Busy)
	fill(t, a, c, s.Epoch, "answer", time.Minute, cache.Kept)
}

// A claim whose answer was lost on the way is made again.
func testClaimAgain(t *testing.T, a, b cache.Shared) {
	c := claimOf(name("acme", "crm_order", "1"))
	claim(t, a, c, cache.Granted)
	s := claim(t, a, c, cache.Granted)
	claim(t, b, claimOf(c.Name), cache.Busy)
	fill(t, a, c, s.Epoch, "answer", time.Minute, cache.Kept)
}

func testTTL(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	load(t, a, n, "answer", 100*time.Millisecond)
	until(t, b, claimOf(n), cache.Granted)
}

func testExcept(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	old := load(t, a, n, "old", time.Minute)
	refresh := claimOf(n)
	refresh.Except = old.Token
	s := claim(t, b, refresh, cache.Granted)
	found(t, a, n, "old") // it serves until the new one is there
	also := claimOf(n)
	also.Except = old.Token
	claim(t, a, also, cache.Busy)
	fill(t, b, refresh, s.Epoch, "new", time.Minute, cache.Kept)
	if got := claim(t, a, also, cache.Found); got.Value != "new" || got.Token != refresh.Token {
		t.Errorf("found %q of %q", got.Value, got.Token)
	}
}

func testMax(t *testing.T, a, b cache.Shared) {
	n := name("acme", "crm_order", "1")
	load(t, a, n, strings.Repeat("x", 100), time.Minute)
	c := claimOf(n)
	c.Max = 100
	claim(t, b, c, cache.Found)
	c.Max = 99
	claim(t, b, c, cache.Granted)
}

// Tenants, tools and names whose texts run into each other when they are put together.
func testNames(t *testing.T, a, b cache.Shared) {
	names := []cache.Name{
		name("a", "b_c", "1"), name("a-b", "c", "1"), name("a_b", "c", "1"), name("a", "b-c", "1"),
		name("a", "b", "c1"), name("a", "bc", "1"), name("ab", "c", "1"), name("0", "b", "1"), name("a", "", "1"),
	}
	for i, n := range names {
		load(t, a, n, fmt.Sprint(i), time.Minute)
	}
	for i, n := range names {
		found(t, b, n, fmt.Sprint(i))
	}
	// One tenant's name under another's digest is another name.
	other := names[0]
	other.Tenant = "b"
	claim(t, b, claimOf(other), cache.Granted)
}

func testPurge(t *testing.T, a, b cache.Shared) {
	order, customer := name("acme", "crm_order", "1"), name("acme", "crm_customer", "1")
	foreign := name("globex", "crm_order", "1")
	for _, n := range []cache.Name{order, customer, foreign} {
		load(t, a, n, "old", time.Minute)
	}
	if err := b.Purge(t.Context(), "acme", "crm_order"); err != nil {
		t.Fatal(err)
	}
	c := claimOf(order)
	fill(t, a, c, claim(t, a, c, cache.Granted).Epoch, "new", time.Minute, cache.Kept)
	found(t, b, order, "new")
	found(t, a, customer, "old")
	found(t, a, foreign, "old")
	if err := b.Purge(t.Context(), "acme", ""); err != nil {
		t.Fatal(err)
	}
	claim(t, a, claimOf(order), cache.Granted)
	claim(t, a, claimOf(customer), cache.Granted)
	found(t, a, foreign, "old")
	if err := a.Purge(t.Context(), "nobody", ""); err != nil {
		t.Error(err)
	}
}

func testPurgeDuringLoad(t *testing.T, a, b cache.Shared) {
	for _, tool := range []string{"crm_order", ""} {
		n := name("acme", "crm_order", "during "+tool)
		c := claimOf(n)
		s := claim(t, a, c, cache.Granted)
		if err := b.Purge(t.Context(), "acme", tool); err != nil {
			t.Fatal(err)
		}
		fill(t, a, c, s.Epoch, "old", time.Minute, cache.Purged)
		claim(t, b, claimOf(n), cache.Granted) // free at once
	}
	// Another tool's is no matter.
	c := claimOf(name("acme", "crm_order", "other"))
	s := claim(t, a, c, cache.Granted)
	if err := b.Purge(t.Context(), "acme", "crm_customer"); err != nil {
		t.Fatal(err)
	}
	fill(t, a, c, s.Epoch, "answer", time.Minute, cache.Kept)
}

// However many tools' names are purged, each purge holds, and later ones are exact again.
func testManyPurges(t *testing.T, a, b cache.Shared) {
	order, customer := name("acme", "crm_order", "1"), name("acme", "crm_customer", "1")
	load(t, a, order, "old", time.Minute)
	if err := a.Purge(t.Context(), "acme", "crm_order"); err != nil {
		t.Fatal(err)
	}
	for i := range 1100 {
		if err := a.Purge(t.Context(), "acme", fmt.Sprint("tool", i)); err != nil {
			t.Fatal(err)
		}
	}
	load(t, b, order, "new", time.Minute) // the old one is none
	load(t, b, customer, "new", time.Minute)
	if err := a.Purge(t.Context(), "acme", "crm_order"); err != nil {
		t.Fatal(err)
	}
	found(t, b, customer, "new")
	claim(t, b, claimOf(order), cache.Granted)
}

func testWatch(t *testing.T, a, b cache.Shared) {
	for _, tc := range []struct {
		name  string
		end   func(cache.Claim, cache.Standing) error
		again bool
	}{
		{"fill", func(c cache.Claim, s cache.Standing) error {
			_, err := a.Fill(t.Context(), cache.Fill{Name: c.Name, Token: c.Token, Epoch: s.Epoch, Value: "answer", TTL: time.Minute})
			return err
		}, true},
		{"purged fill", func(c cache.Claim, s cache.Standing) error {
			if err := a.Purge(t.Context(), "acme", ""); err != nil {
				return err
			}
			_, err := a.Fill(t.Context(), cache.Fill{Name: c.Name, Token: c.Token, Epoch: s.Epoch, Value: "answer", TTL: time.Minute})
			return err
		}, true},
		{"given up", func(c cache.Claim, _ cache.Standing) error { return a.Release(t.Context(), c.Name, c.Token, true) }, true},
		{"without an answer", func(c cache.Claim, _ cache.Standing) error {
			return a.Release(t.Context(), c.Name, c.Token, false)
		}, false},
	} {
		listen(t, b)
		c := claimOf(name("acme", "crm_order", tc.name))
		s := claim(t, a, c, cache.Granted)
		other, stopOther := b.Watch(name("acme", "crm_order", "another"))
		one, stopOne := b.Watch(c.Name)
		two, stopTwo := b.Watch(c.Name)
		claim(t, b, claimOf(c.Name), cache.Busy)
		if err := tc.end(c, s); err != nil {
			t.Fatal(err)
		}
		for _, w := range []<-chan bool{one, two} {
			select {
			case again := <-w:
				if again != tc.again {
					t.Errorf("%s: told %v, want %v", tc.name, again, tc.again)
				}
			case <-time.After(patience):
				t.Fatalf("%s: who watches is not told", tc.name)
			}
		}
		select {
		case <-other:
			t.Errorf("%s: who watches another name is told", tc.name)
		default:
		}
		stopOne()
		stopTwo()
		stopOther()
	}
}

func testWatchStopped(t *testing.T, a, b cache.Shared) {
	listen(t, b)
	c := claimOf(name("acme", "crm_order", "1"))
	claim(t, a, c, cache.Granted)
	gone, stop := b.Watch(c.Name)
	stop()
	stop() // twice is fine
	there, stopThere := b.Watch(c.Name)
	defer stopThere()
	claim(t, b, claimOf(c.Name), cache.Busy)
	if err := a.Release(t.Context(), c.Name, c.Token, true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-there:
	case <-time.After(patience):
		t.Fatal("who watches is not told")
	}
	select {
	case <-gone:
		t.Error("who stopped watching is told")
	default:
	}
}

// heard collects what a listener is told.
type heard struct {
	gaps   chan struct{}
	purges chan [2]string
}

func (h heard) Gap() {
	select {
	case h.gaps <- struct{}{}:
	default:
	}
}

func (h heard) Purged(tenant atlas.TenantID, tool string) {
	h.purges <- [2]string{string(tenant), tool}
}

var (
	listeningMu sync.Mutex
	listening   = map[cache.Shared]bool{}
)

// listen makes s listen until the test ends, and waits until it does. A second time does nothing.
func listen(t *testing.T, s cache.Shared) heard {
	t.Helper()
	h := heard{make(chan struct{}, 1), make(chan [2]string, 100)}
	listeningMu.Lock()
	was := listening[s]
	listening[s] = true
	listeningMu.Unlock()
	if was {
		return h
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Listen(ctx, h)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		listeningMu.Lock()
		delete(listening, s)
		listeningMu.Unlock()
	})
	select {
	case <-h.gaps: // it says so when it begins
	case <-time.After(patience):
		t.Fatal("it does not begin to listen")
	}
	return h
}

func testListen(t *testing.T, a, b cache.Shared) {
	own, others := listen(t, a), listen(t, b)
	for _, p := range [][2]string{{"acme", "crm_order"}, {"acme", ""}, {"globex", "x"}} {
		if err := a.Purge(t.Context(), atlas.TenantID(p[0]), p[1]); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-others.purges:
			if got != p {
				t.Errorf("heard %v, want %v", got, p)
			}
		case <-time.After(patience):
			t.Fatalf("the other does not hear of %v", p)
		}
	}
	// What b purges, a hears; had it heard its own, those would have come before.
	if err := b.Purge(t.Context(), "initech", ""); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-own.purges:
		if got != [2]string{"initech", ""} {
			t.Errorf("heard %v, of its own", got)
		}
	case <-time.After(patience):
		t.Fatal("not heard")
	}
}

func testContext(t *testing.T, a, _ cache.Shared) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := name("acme", "crm_order", "1")
	for what, f := range map[string]func() error{
		"Claim":   func() error { _, err := a.Claim(ctx, claimOf(n)); return err },
		"Renew":   func() error { _, err := a.Renew(ctx, n, "token", time.Minute); return err },
		"Fill":    func() error { _, err := a.Fill(ctx, cache.Fill{Name: n, Token: "token", TTL: time.Minute}); return err },
		"Release": func() error { return a.Release(ctx, n, "token", true) },
		"Purge":   func() error { return a.Purge(ctx, "acme", "") },
	} {
		if f() == nil {
			t.Errorf("%s succeeded", what)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Listen(ctx, heard{make(chan struct{}, 1), make(chan [2]string, 1)})
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Listen goes on")
	}
}

func testBytes(t *testing.T, a, b cache.Shared) {
	for i, value := range []string{"", "\x00", "\r\n$-1\r\n", string([]byte{0xff, 0xfe, 0x00}), strings.Repeat("\x00\xff", 200_000)} {
		n := name("acme", "crm_order", fmt.Sprint(i))
		load(t, a, n, value, time.Minute)
		found(t, b, n, value)
	}
}
