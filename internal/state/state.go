// Package state says what Atlas itself must remember beyond one process's life: approvals, what the
// copilot keeps of customers, and small values under compare-and-set (results kept for idempotency
// keys, the position of the audit log, keys). Drivers are the folders below: postgres for several
// hosts, sqlite for one, memory for tests and for servers that may forget; statetest holds the
// contract that each passes. What the values mean is
// left to the parts that keep them, which declare the few methods that they use.
//
// The law for every driver: methods are safe for concurrent use, by several processes too where
// the driver is durable; they return soon after ctx ends, with an error that [errors.Is] the
// context's; other failures are [*atlas.Error]s, of the code state_unavailable unless the method
// names another, whose hint holds no path, SQL or text of the store. One tenant's or space's
// records are never visible to, counted against, or evicted by another's.
package state

import (
	"context"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Store remembers everything.
type Store interface {
	Approvals
	Memories
	KV
	// Ping asks whether the store can answer.
	Ping(ctx context.Context) error
	// Close releases what the store holds. Closing twice is fine; any call after it fails.
	Close() error
}

// Approvals are kept by tenant. An approval is live while it decides the fate of the calls that
// it is bound to: pending, approved or denied, and not past its expiry. At most one live approval
// exists for one binding, which is all of Tenant, HomeTenant, Issuer, Subject, Delegator, Tool,
// Version, PolicyHash and ArgsDigest. A pending or approved one past its expiry is shown as expired, whether or not
// the store has written that down yet.
type Approvals interface {
	// FindApproval returns the live approval with the binding of b, if there is one.
	FindApproval(ctx context.Context, b atlas.Approval) (a atlas.Approval, found bool, err error)
	// AddApproval stores a, unless there is a live approval with its binding: then it returns
	// that one. The code is rate_limited when perSubject pending approvals of the asker (home
	// tenant, issuer and subject), or perTenant of the tenant, are live already.
	AddApproval(ctx context.Context, a atlas.Approval, perSubject, perTenant int) (atlas.Approval, error)
	// GetApproval returns the tenant's approval of that id. The code is approval_not_found, and
	// the error the same, when there is none and when it is another tenant's.
	GetApproval(ctx context.Context, tenant atlas.TenantID, id string) (atlas.Approval, error)
	// ListApprovals returns at most limit of the tenant's approvals in the state, newest first.
	// An empty state means all states.
	ListApprovals(ctx context.Context, tenant atlas.TenantID, state atlas.ApprovalState, limit int) ([]atlas.Approval, error)
	// SwapApproval replaces State, Approver, Reason and Decided of the approval old.ID by those
	// of next, if it still is in old.State and not past its expiry, and reports whether it did.
	// It also reports false where the approval would become live beside another of its binding.
	SwapApproval(ctx context.Context, old, next atlas.Approval) (bool, error)
}

// A Memory is one thing that the copilot keeps of a customer beyond a session.
type Memory struct {
	ID       string // chosen by who adds it; unique within the tenant
	Tenant   atlas.TenantID
	Customer string    // whom it is about
	Text     string    // UTF-8
	Call     string    // id of the call whose answer it is from
	Created  time.Time // in UTC
	Expires  time.Time // in UTC; zero means never
}

// Memories are kept by tenant. One past its expiry is not shown, counted or found, whether or not
// the store has deleted it yet.
type Memories interface {
	// AddMemory stores m. If the tenant has one of that id, it changes nothing: adding again after a
	// failure whose outcome is unknown is safe. The code is rate_limited when the tenant has
	// [Limits].MaxMemories, too_large for a text over [Limits].MaxMemory.
	AddMemory(ctx context.Context, m Memory) error
	// FindMemories returns at most limit of the tenant's memories of the customer, newest first.
	FindMemories(ctx context.Context, tenant atlas.TenantID, customer string, limit int) ([]Memory, error)
	// ListMemories returns at most limit of the tenant's memories, newest first.
	ListMemories(ctx context.Context, tenant atlas.TenantID, limit int) ([]Memory, error)
	// DeleteMemory deletes the tenant's memory of that id and reports whether there was one.
	DeleteMemory(ctx context.Context, tenant atlas.TenantID, id string) (bool, error)
	// ForgetCustomer deletes all of the tenant's memories of the customer, those past their expiry
	// too, and returns how many there were (GDPR, article 17). What it returns nil for is gone.
	ForgetCustomer(ctx context.Context, tenant atlas.TenantID, customer string) (int, error)
}

// KV keeps small values, each under a key in a space. A space is the unit of isolation and of the
// limits: parts that keep something for a tenant put the tenant into the space's name. A value
// has a version, never 0, that is not used again for that key, also not after a deletion.
type KV interface {
	// Get returns the value and its version; version 0 means that there is none, or that it has
	// expired. The caller owns the value.
	Get(ctx context.Context, space, key string) (value []byte, version int64, err error)
	// CompareAndSet stores value if the key's version still is version (0: if there is none), and
	// returns the new version, or 0 if the version was another. A zero expires means never. The
	// code is rate_limited when the space is full, too_large for a value over the limit.
	CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error)
	// CompareAndDelete deletes the value if its version still is version, and reports whether.
	CompareAndDelete(ctx context.Context, space, key string, version int64) (bool, error)
}
