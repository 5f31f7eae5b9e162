package issuer

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	revocationInterval = time.Second // between two looks at what other processes revoked
	storeTime          = 5 * time.Second
	maxRevoked         = 200_000 // more than a space of the store holds
)

// A revocation ends a token, by its jti, or all tokens of a grant, whose jti begin with the grant's
// id and a dot.
type revocation struct {
	ID      string    `json:"id"`
	Expires time.Time `json:"exp"` // when the last token that it ends would have expired
}

// revocations are kept twice: in memory, where every request looks, and in the store as a numbered
// log, from which other processes and the next start learn. An entry lives as long as the tokens
// that it ends; the store bounds their number, and what does not fit is refused, not forgotten.
type revocations struct {
	store Store

	mu   sync.RWMutex // guards what follows
	ids  map[string]time.Time
	next int64 // number of the first entry that was not read yet
}

// revocationHead says which numbers the log has: from Low, which may have expired, to High.
type revocationHead struct {
	Low  int64 `json:"low"`
	High int64 `json:"high"`
}

const headKey = "head"

func newRevocations(store Store) *revocations {
	return &revocations{store: store, ids: map[string]time.Time{}, next: 1}
}

// has reports whether the token is revoked.
func (r *revocations) has(tokenID string) bool {
	grant, _, ok := strings.Cut(tokenID, ".")
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.ids) == 0 {
		return false
	}
	if _, found := r.ids[tokenID]; found {
		return true
	}
	if !ok {
		return false
	}
	_, found := r.ids[grant]
	return found
}

// add revokes id until it expires.
func (r *revocations) add(ctx context.Context, id string, expires time.Time) error {
	if !time.Now().Before(expires) {
		return nil
	}
	r.note(revocation{id, expires})
	// An entry outlives whoever may still be about to write one of the same number.
	kept := expires
	if soonest := time.Now().Add(10 * time.Minute); kept.Before(soonest) {
		kept = soonest
	}
	for range 64 {
		head, version, err := get[revocationHead](ctx, r.store, spaceRevokedN, headKey)
		if err != nil {
			return err
		}
		if version == 0 {
			head = revocationHead{Low: 1}
		}
		done, err := put(ctx, r.store, spaceRevoked, number(head.High+1), 0, revocation{id, expires}, kept)
		if err != nil {
			return err
		}
		// Whether it was us or somebody who is between his two writes: the entry is there, name it.
		head.High++
		for range 2 { // the log's beginning expires about as fast as its end grows
			if _, v, err := r.store.Get(ctx, spaceRevoked, number(head.Low)); err != nil {
				return err
			} else if v != 0 || head.Low >= head.High {
				break
			}
			head.Low++
		}
		if _, err := put(ctx, r.store, spaceRevokedN, headKey, version, head, time.Time{}); err != nil {
			return err
		}
		if done {
			return nil // if the head was not ours to move, the next to move it passes our entry
		}
	}
	return errors.New("the log of revocations changes all the time")
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func (r *revocations) note(v revocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, there := r.ids[v.ID]; old.Before(v.Expires) && (there || len(r.ids) < maxRevoked) {
		r.ids[v.ID] = v.Expires
	}
}

// load reads the entries that are new since the last time, and forgets those that have expired.
func (r *revocations) load(ctx context.Context) error {
	head, version, err := get[revocationHead](ctx, r.store, spaceRevokedN, headKey)
	if err != nil {
		return err
	}
	r.mu.RLock()
	next := r.next
	r.mu.RUnlock()
	if version != 0 {
		next = max(next, head.Low)
	}
	// One more than the head names: its writer may not have come to the head yet.
	for n := next; n <= head.High+1; n++ {
		v, found, err := get[revocation](ctx, r.store, spaceRevoked, number(n))
		if err != nil {
			return err
		}
		if found != 0 {
			r.note(v)
		}
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = max(r.next, head.High+1)
	for id, expires := range r.ids {
		if !now.Before(expires) {
			delete(r.ids, id)
		}
	}
	return nil
}

func (r *revocations) run(ctx context.Context, log *slog.Logger) {
	t := time.NewTicker(revocationInterval)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		limited, cancel := context.WithTimeout(ctx, storeTime)
		err := r.load(limited)
		cancel()
		if err != nil && !failing && ctx.Err() == nil {
			log.WarnContext(ctx, "revoked tokens of other processes are not known", "error", err)
		}
		failing = err != nil
	}
}
