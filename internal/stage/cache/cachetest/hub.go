// Package cachetest holds the contract of the cache's second tier as a test suite, and a second tier in
// memory for tests of what is built on it.
package cachetest

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
)

// A Hub stands for the store that all replicas reach. It keeps everything in memory. It is safe for
// concurrent use.
type Hub struct {
	mu       sync.Mutex
	entries  map[cache.Name]Entry
	leases   map[cache.Name]lease
	epochs   map[epochKey]string
	replicas map[*Replica]struct{} // that listen
	watchers map[cache.Name][]chan bool
	err      error         // of every method, while it is not nil
	hang     chan struct{} // while not nil, methods wait until it is closed or their context ends
	calls    map[string]int
}

// An Entry is what a hub keeps of an answer.
type Entry struct {
	Value, Token, Epoch string
	Expires             time.Time
}

type lease struct {
	token   string
	expires time.Time
}

type epochKey struct {
	tenant atlas.TenantID
	tool   string
}

// NewHub returns an empty hub.
func NewHub() *Hub {
	return &Hub{
		entries: map[cache.Name]Entry{}, leases: map[cache.Name]lease{}, epochs: map[epochKey]string{},
		replicas: map[*Replica]struct{}{}, watchers: map[cache.Name][]chan bool{}, calls: map[string]int{},
	}
}

// Join returns the hub as one more replica reaches it.
func (h *Hub) Join() *Replica {
	return &Replica{hub: h, events: make(chan epochKey, 1024), gap: make(chan struct{}, 1)}
}

// Fail makes every method fail with err, until it is nil again. Messages are lost meanwhile; when it
// ends, listeners are told.
func (h *Hub) Fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	if err == nil {
		for r := range h.replicas {
			select {
			case r.gap <- struct{}{}:
			default:
			}
		}
	}
}

// Hang makes every method wait for the end of its context, until resume is called.
func (h *Hub) Hang() (resume func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hang := make(chan struct{})
	h.hang = hang
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.hang == hang {
			h.hang = nil
			close(hang)
		}
	}
}

// Calls returns how often the named method was called, failures too.
func (h *Hub) Calls(method string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls[method]
}

// Entries returns a copy of what is kept, for tests that read it as a thief would. The names have no tool.
func (h *Hub) Entries() map[cache.Name]Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.entries)
}

// Put writes an entry past all rules, as whoever has got write access would.
func (h *Hub) Put(n cache.Name, e Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries[place(n)] = e
}

// Snapshot returns a function that puts everything back as it is now: entries, epochs and leases.
func (h *Hub) Snapshot() (restore func()) {
	entries := h.Entries()
	h.mu.Lock()
	defer h.mu.Unlock()
	epochs := maps.Clone(h.epochs)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.entries, h.epochs, h.leases = entries, epochs, map[cache.Name]lease{}
	}
}

// place is where a name lies: as in any store, the tool is not part of it.
func place(n cache.Name) cache.Name {
	n.Tool = ""
	return n
}

// begin counts a call and reports its failure.
func (h *Hub) begin(ctx context.Context, method string) error {
	h.mu.Lock()
	h.calls[method]++
	err, hang := h.err, h.hang
	h.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
		}
	}
	return errors.Join(err, ctx.Err())
}

// epoch returns the epoch of a tool. The caller holds mu.
func (h *Hub) epoch(n cache.Name) string {
	whole := epochKey{tenant: n.Tenant}
	if h.epochs[whole] == "" {
		h.epochs[whole] = rand.Text()
	}
	return h.epochs[whole] + "/" + h.epochs[epochKey{n.Tenant, n.Tool}]
}

func (h *Hub) holds(n cache.Name, token string) bool {
	l, ok := h.leases[place(n)]
	return ok && l.token == token && time.Now().Before(l.expires)
}

func (h *Hub) signal(n cache.Name, again bool) {
	for _, w := range h.watchers[place(n)] {
		select {
		case w <- again:
		default:
		}
	}
}

// A Replica is a hub as one replica of Atlas sees it.
type Replica struct {
	hub    *Hub
	events chan epochKey
	gap    chan struct{}
}

var _ cache.Shared = (*Replica)(nil)

// Claim implements [cache.Shared].
func (r *Replica) Claim(ctx context.Context, c cache.Claim) (cache.Standing, error) {
	h := r.hub
	if err := h.begin(ctx, "Claim"); err != nil {
		return cache.Standing{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now, epoch := time.Now(), h.epoch(c.Name)
	if e, ok := h.entries[place(c.Name)]; ok && now.Before(e.Expires) && e.Epoch == epoch && e.Token != c.Except && len(e.Value) <= c.Max {
		return cache.Standing{State: cache.Found, Epoch: e.Epoch, Value: e.Value, Token: e.Token, Left: e.Expires.Sub(now)}, nil
	}
	if l, ok := h.leases[place(c.Name)]; ok && now.Before(l.expires) && l.token != c.Token {
		return cache.Standing{State: cache.Busy, Left: l.expires.Sub(now)}, nil
	}
	h.leases[place(c.Name)] = lease{c.Token, now.Add(c.Lease)}
	return cache.Standing{State: cache.Granted, Epoch: epoch}, nil
}

// Renew implements [cache.Shared].
func (r *Replica) Renew(ctx context.Context, n cache.Name, token string, d time.Duration) (bool, error) {
	h := r.hub
	if err := h.begin(ctx, "Renew"); err != nil {
		return false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.holds(n, token) {
		return false, nil
	}
	h.leases[place(n)] = lease{token, time.Now().Add(d)}
	return true, nil
}

// Fill implements [cache.Shared].
func (r *Replica) Fill(ctx context.Context, f cache.Fill) (cache.Outcome, error) {
	h := r.hub
	if err := h.begin(ctx, "Fill"); err != nil {
		return cache.Lost, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.holds(f.Name, f.Token) {
		return cache.Lost, nil
	}
	delete(h.leases, place(f.Name))
	defer h.signal(f.Name, true)
	if h.epoch(f.Name) != f.Epoch {
		return cache.Purged, nil
	}
	h.entries[place(f.Name)] = Entry{Value: f.Value, Token: f.Token, Epoch: f.Epoch, Expires: time.Now().Add(f.TTL)}
	return cache.Kept, nil
}

// Release implements [cache.Shared].
func (r *Replica) Release(ctx context.Context, n cache.Name, token string, again bool) error {
	h := r.hub
	if err := h.begin(ctx, "Release"); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holds(n, token) {
		delete(h.leases, place(n))
		h.signal(n, again)
	}
	return nil
}

// Watch implements [cache.Shared].
func (r *Replica) Watch(n cache.Name) (<-chan bool, func()) {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	w := make(chan bool, 1)
	n = place(n)
	h.watchers[n] = append(h.watchers[n], w)
	return w, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.watchers[n] = slices.DeleteFunc(h.watchers[n], func(o chan bool) bool { return o == w })
		if len(h.watchers[n]) == 0 {
			delete(h.watchers, n)
		}
	}
}

// Purge implements [cache.Shared].
func (r *Replica) Purge(ctx context.Context, tenant atlas.TenantID, tool string) error {
	h := r.hub
	if err := h.begin(ctx, "Purge"); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	k := epochKey{tenant, tool}
	h.epochs[k] = rand.Text()
	for other := range h.replicas {
		if other != r {
			other.events <- k
		}
	}
	return nil
}

// Listen implements [cache.Shared].
func (r *Replica) Listen(ctx context.Context, l cache.Listener) {
	h := r.hub
	h.mu.Lock()
	h.replicas[r] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.replicas, r)
	}()
	l.Gap()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.gap:
			l.Gap()
		case k := <-r.events:
			l.Purged(k.tenant, k.tool)
		}
	}
}

// PurgeQuietly purges as [Replica.Purge] does, and the message is lost.
func (h *Hub) PurgeQuietly(ctx context.Context, tenant atlas.TenantID, tool string) error {
	if err := h.begin(ctx, "Purge"); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epochs[epochKey{tenant, tool}] = rand.Text()
	return nil
}
