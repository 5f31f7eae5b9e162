package tasks

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// maxSubscribed bounds the tasks of one subscription.
const maxSubscribed = 64

// A Subscription tells of changes of some tasks of one caller, for subscriptions/listen with taskIds.
// It is safe for concurrent use by one reader and whoever closes it.
type Subscription struct {
	m    *Manager
	call atlas.Call

	mu      sync.Mutex // guards what follows
	ids     map[place]string
	seen    map[place]int64 // version of what was told last
	pending []place
	wake    chan struct{} // holds one token while something is pending
}

// Subscribe returns a subscription to those of the tasks that are call's caller's, and their ids in
// the order given: what the acknowledgement lists. Ids of nobody's and of others' tasks are left out
// alike. Each task is told once as it is, and then whenever it has changed. The caller must close the
// subscription, and end it when the call's token expires. Errors are those of [Manager.Get] for a
// client that did not declare tasks and for a store that does not answer.
func (m *Manager) Subscribe(ctx context.Context, call atlas.Call, ids []string) (*Subscription, []string, error) {
	s := &Subscription{m: m, call: call, ids: make(map[place]string), seen: make(map[place]int64), wake: make(chan struct{}, 1)}
	var agreed []string
	for _, id := range ids {
		if len(agreed) == maxSubscribed {
			break
		}
		at, _, _, err := m.find(ctx, call, id)
		if err == errNotFound { //nolint:errorlint // ours, never wrapped
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if _, twice := s.ids[at]; twice {
			continue
		}
		s.ids[at] = id
		agreed = append(agreed, id)
		s.tell(at)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := range s.ids {
		if m.subs[at] == nil {
			m.subs[at] = make(map[*Subscription]struct{}, 1)
		}
		m.subs[at][s] = struct{}{}
	}
	return s, agreed, nil
}

// Next waits for a change and returns the task as it is then: the params of a notification. It
// returns ctx's error when ctx ends. A task whose time has come is told of no more.
func (s *Subscription) Next(ctx context.Context) (Task, error) {
	for {
		at, id, ok := s.pop()
		if !ok {
			select {
			case <-ctx.Done():
				return Task{}, ctx.Err()
			case <-s.wake:
			}
			continue
		}
		_, rec, version, err := s.m.find(ctx, s.call, id)
		if err != nil {
			if ctx.Err() != nil {
				return Task{}, ctx.Err()
			}
			continue // gone, or the store is: then the next change tells
		}
		s.mu.Lock()
		told := s.seen[at] == version
		s.seen[at] = version
		s.mu.Unlock()
		if !told {
			return rec.task(id, s.m.cfg.PollInterval), nil
		}
	}
}

// Close ends the subscription. Closing twice is fine.
func (s *Subscription) Close() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for at := range s.ids {
		if delete(s.m.subs[at], s); len(s.m.subs[at]) == 0 {
			delete(s.m.subs, at)
		}
	}
}

func (s *Subscription) pop() (at place, id string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return place{}, "", false
	}
	at = s.pending[0]
	s.pending = s.pending[1:]
	return at, s.ids[at], true
}

// tell marks a task as changed. It never waits: a reader that is slow gets the latest state, once.
func (s *Subscription) tell(at place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.pending, at) {
		return
	}
	s.pending = append(s.pending, at)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// notify tells the subscribers of a task that it has changed.
func (m *Manager) notify(at place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.subs[at] {
		s.tell(at)
	}
}

// watch looks for what other processes did: to runs of this one, which end then, and to tasks that
// somebody listens to here.
func (m *Manager) watch(ctx context.Context) {
	m.mu.Lock()
	runs := make([]*run, 0, len(m.runs))
	for _, some := range m.runs {
		runs = slices.AppendSeq(runs, maps.Keys(some))
	}
	var listened []place
	for at := range m.subs {
		if m.runs[at] == nil {
			listened = append(listened, at)
		}
	}
	m.mu.Unlock()
	for _, r := range runs {
		r.mu.Lock()
		mine := r.version
		r.mu.Unlock()
		rec, version, err := m.load(ctx, r.at)
		if err == nil && mine != 0 && version != mine && (version == 0 || rec.Worker != m.worker) {
			r.mu.Lock()
			still := r.version == mine // and not just written by finish
			r.mu.Unlock()
			if still {
				r.cancel(errCancelled)
				m.notify(r.at)
			}
		}
	}
	for _, at := range listened {
		_, version, err := m.loadSettled(ctx, at)
		if err != nil || version == 0 {
			continue
		}
		m.mu.Lock()
		for s := range m.subs[at] {
			if s.stale(at, version) {
				s.tell(at)
			}
		}
		m.mu.Unlock()
	}
}

// stale reports whether a task has changed since it was told of.
func (s *Subscription) stale(at place, version int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[at] != version
}

// sweep deletes tasks of this process whose time has come. The store lets them expire by itself soon
// after.
func (m *Manager) sweep(ctx context.Context) {
	for _, at := range m.places.expired(time.Now()) {
		c, cancel := context.WithTimeout(ctx, storeTime)
		_, version, err := m.deps.Store.Get(c, at.space, at.key)
		if err == nil && version != 0 {
			_, err = m.deps.Store.CompareAndDelete(c, at.space, at.key, version)
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			m.deps.Log.DebugContext(ctx, "an expired task could not be deleted", "err", err)
		}
	}
}
