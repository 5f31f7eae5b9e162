// Package memory keeps Atlas's state in the process, within bounds, and forgets it when the
// process ends: for tests, and for servers whose approvals and kept results need not survive a
// restart.
package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

// maxHistory is how many approvals that are no longer live are kept for one tenant.
const maxHistory = 1000

var errClosed = errors.New("state: closed")

// A Store is a state in memory. It implements [state.Store].
type Store struct {
	limits state.Limits

	mu      sync.Mutex // guards what follows
	closed  bool
	version int64 // the last one given to a value
	tenants map[atlas.TenantID]*approvals
	spaces  map[string]*space
	kept    map[atlas.TenantID]map[string]state.Memory // by id
}

var _ state.Store = (*Store)(nil)

// New returns an empty store.
func New(limits state.Limits) (*Store, error) {
	if err := limits.Validate(); err != nil {
		return nil, fmt.Errorf("state: limits: %w", err)
	}
	return &Store{
		limits:  limits.WithDefaults(),
		tenants: map[atlas.TenantID]*approvals{},
		spaces:  map[string]*space{},
		kept:    map[atlas.TenantID]map[string]state.Memory{},
	}, nil
}

// lock enters the store, unless ctx has ended or the store is closed.
func (s *Store) lock(ctx context.Context) error {
	if ctx.Err() != nil {
		return atlas.ErrorOf(ctx.Err())
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return atlas.Errorf(atlas.CodeStateUnavailable, errClosed, "")
	}
	return nil
}

// Ping fails only after Close.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	s.mu.Unlock()
	return nil
}

// Close forgets everything. Closing twice is fine.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.tenants, s.spaces, s.kept = true, nil, nil, nil
	return nil
}

// A binding is what an approval is bound to.
type binding struct {
	home                                                    atlas.TenantID
	issuer, subject, delegator, tool, version, policy, args string
}

func bindingOf(a atlas.Approval) binding {
	return binding{a.HomeTenant, a.Issuer, a.Subject, a.Delegator, a.Tool, a.Version, a.PolicyHash, a.ArgsDigest}
}

// approvals are one tenant's.
type approvals struct {
	byID map[string]atlas.Approval
	live map[binding]string // ids
	past []string           // ids of those no longer live, oldest first
}

// retire makes an approval history, and forgets the oldest history.
func (t *approvals) retire(a atlas.Approval) {
	if t.live[bindingOf(a)] == a.ID {
		delete(t.live, bindingOf(a))
	}
	t.past = append(t.past, a.ID)
	if len(t.past) > maxHistory {
		delete(t.byID, t.past[0])
		t.past = slices.Delete(t.past, 0, 1)
	}
}

// shown returns a with its state as of now.
func shown(a atlas.Approval, now time.Time) atlas.Approval {
	open := a.State == atlas.ApprovalPending || a.State == atlas.ApprovalApproved
	if open && !now.Before(a.Expires) {
		a.State = atlas.ApprovalExpired
	}
	return a
}

func isLive(s atlas.ApprovalState) bool {
	return s == atlas.ApprovalPending || s == atlas.ApprovalApproved || s == atlas.ApprovalDenied
}

// FindApproval implements [state.Approvals].
func (s *Store) FindApproval(ctx context.Context, b atlas.Approval) (atlas.Approval, bool, error) {
	if err := s.lock(ctx); err != nil {
		return atlas.Approval{}, false, err
	}
	defer s.mu.Unlock()
	t := s.tenants[b.Tenant]
	if t == nil {
		return atlas.Approval{}, false, nil
	}
	a, ok := t.byID[t.live[bindingOf(b)]]
	if !ok || !time.Now().Before(a.Expires) {
		return atlas.Approval{}, false, nil
	}
	return a, true, nil
}

// AddApproval implements [state.Approvals].
func (s *Store) AddApproval(ctx context.Context, a atlas.Approval, perSubject, perTenant int) (atlas.Approval, error) {
	if err := s.lock(ctx); err != nil {
		return atlas.Approval{}, err
	}
	defer s.mu.Unlock()
	now := time.Now()
	t := s.tenants[a.Tenant]
	if t == nil {
		t = &approvals{byID: map[string]atlas.Approval{}, live: map[binding]string{}}
		s.tenants[a.Tenant] = t
	}
	var ofTenant, ofSubject int
	for _, id := range t.live {
		other := t.byID[id]
		if !now.Before(other.Expires) {
			t.byID[id] = shown(other, now)
			t.retire(other)
			continue
		}
		if other.State == atlas.ApprovalPending {
			ofTenant++
			if other.HomeTenant == a.HomeTenant && other.Issuer == a.Issuer && other.Subject == a.Subject {
				ofSubject++
			}
		}
	}
	if there, ok := t.byID[t.live[bindingOf(a)]]; ok {
		return there, nil
	}
	if ofSubject >= perSubject || ofTenant >= perTenant {
		return atlas.Approval{}, atlas.Errorf(atlas.CodeRateLimited, nil, "too many calls wait for approval; have them decided first")
	}
	t.byID[a.ID] = a
	t.live[bindingOf(a)] = a.ID
	return a, nil
}

// GetApproval implements [state.Approvals].
func (s *Store) GetApproval(ctx context.Context, tenant atlas.TenantID, id string) (atlas.Approval, error) {
	if err := s.lock(ctx); err != nil {
		return atlas.Approval{}, err
	}
	defer s.mu.Unlock()
	if t := s.tenants[tenant]; t != nil {
		if a, ok := t.byID[id]; ok {
			return shown(a, time.Now()), nil
		}
	}
	return atlas.Approval{}, atlas.Errorf(atlas.CodeApprovalNotFound, nil, "")
}

// ListApprovals implements [state.Approvals].
func (s *Store) ListApprovals(ctx context.Context, tenant atlas.TenantID, st atlas.ApprovalState, limit int) ([]atlas.Approval, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	t := s.tenants[tenant]
	if t == nil {
		return nil, nil
	}
	now := time.Now()
	var list []atlas.Approval
	for _, a := range t.byID {
		if a = shown(a, now); st == "" || a.State == st {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b atlas.Approval) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return bytes.Compare([]byte(a.ID), []byte(b.ID))
	})
	return list[:min(limit, len(list))], nil
}

// SwapApproval implements [state.Approvals].
func (s *Store) SwapApproval(ctx context.Context, old, next atlas.Approval) (bool, error) {
	if err := s.lock(ctx); err != nil {
		return false, err
	}
	defer s.mu.Unlock()
	t := s.tenants[old.Tenant]
	if t == nil {
		return false, nil
	}
	a, ok := t.byID[old.ID]
	if !ok || a.State != old.State || !time.Now().Before(a.Expires) {
		return false, nil
	}
	was, id := isLive(a.State), t.live[bindingOf(a)]
	if isLive(next.State) && id != "" && id != a.ID {
		return false, nil
	}
	a.State, a.Approver, a.Reason, a.Decided = next.State, next.Approver, next.Reason, next.Decided
	t.byID[a.ID] = a
	switch {
	case was && !isLive(a.State):
		t.retire(a)
	case !was && isLive(a.State):
		t.live[bindingOf(a)] = a.ID
		t.past = slices.DeleteFunc(t.past, func(id string) bool { return id == a.ID })
	}
	return true, nil
}
