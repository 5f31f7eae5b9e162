package approval

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

const (
	maxListed = 500  // approvals in one list
	maxReason = 1000 // bytes of a reason
	maxID     = 64   // bytes of an id worth looking up
)

// A Recorder stores a record in the audit log. An error means that it is not stored.
type Recorder func(ctx context.Context, rec atlas.AuditRecord) error

// A Service shows and decides approvals, for the console, the command line and webhooks. It is
// safe for concurrent use. Any number may share a store, also from several processes.
//
// A decision is recorded twice: as an "intent" before it takes effect, and as an "admin" record
// with the outcome. If the intent cannot be stored the decision is refused with
// audit_unavailable, so that no decision takes effect unrecorded; if only the outcome cannot, the
// intent stands and the fault is logged. Refused attempts leave one "admin" record.
type Service struct {
	store  Store
	record Recorder
	log    *slog.Logger
}

// NewService returns a service over the store.
func NewService(store Store, record Recorder, log *slog.Logger) (*Service, error) {
	if store == nil || record == nil {
		return nil, errors.New("approval: a store and a recorder are needed")
	}
	return &Service{store: store, record: record, log: log}, nil
}

// List returns the tenant's approvals in the state, newest first, at most 500; an empty state
// means all. Whether the reader may see them is for the caller to check.
func (s *Service) List(ctx context.Context, tenant atlas.TenantID, state atlas.ApprovalState) ([]atlas.Approval, error) {
	return s.store.ListApprovals(ctx, tenant, state, maxListed)
}

// Get returns the tenant's approval. The code is approval_not_found for one that is not there and
// for another tenant's. Whether the reader may see it is for the caller to check.
func (s *Service) Get(ctx context.Context, tenant atlas.TenantID, id string) (atlas.Approval, error) {
	if len(id) > maxID {
		return atlas.Approval{}, &atlas.Error{Code: atlas.CodeApprovalNotFound}
	}
	return s.store.GetApproval(ctx, tenant, id)
}

// Approve permits the call. The decider needs [atlas.ScopeApprove] and a token of their own (one
// that a delegate holds is an agent's, not a person's), and must be neither the asker nor the
// asker's delegator. The codes are not_authorized, approval_not_found, self_approval,
// approval_decided for one that is no longer pending, audit_unavailable and state_unavailable. Of
// several deciders at the same moment one wins. The expiry stays as it is.
func (s *Service) Approve(ctx context.Context, decider atlas.Principal, id, reason string) (atlas.Approval, error) {
	return s.decide(ctx, decider, id, reason, atlas.ApprovalApproved, "approval.approve")
}

// Deny refuses the call, under the same conditions as Approve. The identical call is answered
// with approval_denied until the approval's expiry.
func (s *Service) Deny(ctx context.Context, decider atlas.Principal, id, reason string) (atlas.Approval, error) {
	return s.decide(ctx, decider, id, reason, atlas.ApprovalDenied, "approval.deny")
}

func (s *Service) decide(ctx context.Context, decider atlas.Principal, id, reason string, to atlas.ApprovalState, action string) (atlas.Approval, error) {
	rec := atlas.AuditRecord{
		Time: time.Now(), Kind: "intent", RequestID: "adm_" + rand.Text(),
		Tenant: decider.Tenant, Caller: decider.Subject, CallerRoles: decider.Roles,
		Delegator: decider.Delegator, TokenID: decider.TokenID, Transport: "internal",
		Action: action, Status: "ok",
	}
	if len(id) <= maxID && strings.HasPrefix(id, "apr_") && plain(id) == id {
		rec.Target, rec.ApprovalID = id, id // anything else is text of the caller's making
	}
	a, err := s.check(ctx, decider, id)
	if err != nil {
		s.outcome(ctx, rec, err)
		return atlas.Approval{}, err
	}
	if err := s.record(ctx, rec); err != nil {
		return atlas.Approval{}, atlas.Errorf(atlas.CodeAuditUnavailable, err, "the decision cannot be recorded and was therefore refused")
	}
	next := a
	next.State, next.Approver, next.Decided = to, decider.Subject, time.Now().UTC().Round(0)
	next.Reason = cut(plain(strings.ToValidUTF8(reason, "�")), maxReason)
	ok, err := s.store.SwapApproval(ctx, a, next)
	if err == nil && !ok {
		err = &atlas.Error{Code: atlas.CodeApprovalDecided}
	}
	// The decision stands or falls by now, whether or not its maker still listens.
	s.outcome(context.WithoutCancel(ctx), rec, err)
	if err != nil {
		return atlas.Approval{}, err
	}
	return next, nil
}

// check returns the approval if the decider may decide it now.
func (s *Service) check(ctx context.Context, decider atlas.Principal, id string) (atlas.Approval, error) {
	if !decider.HasScope(atlas.ScopeApprove) || decider.Subject == "" || decider.Tenant == "" {
		return atlas.Approval{}, atlas.Errorf(atlas.CodeNotAuthorized, nil, "deciding approvals needs the scope "+atlas.ScopeApprove)
	}
	a, err := s.Get(ctx, decider.Tenant, id)
	if err != nil {
		return atlas.Approval{}, err
	}
	// By subject alone, whatever the issuer and the home tenant: one person may hold tokens of several
	// issuers, and a namesake who is refused here costs no more than asking another.
	for _, who := range []string{decider.Subject, decider.Delegator} {
		if who != "" && (who == a.Subject || who == a.Delegator) {
			return atlas.Approval{}, &atlas.Error{Code: atlas.CodeSelfApproval}
		}
	}
	if decider.Delegator != "" {
		return atlas.Approval{}, atlas.Errorf(atlas.CodeNotAuthorized, nil, "a person must decide, with a token of their own")
	}
	if a.State != atlas.ApprovalPending {
		return atlas.Approval{}, &atlas.Error{Code: atlas.CodeApprovalDecided}
	}
	return a, nil
}

// outcome records how an attempt to decide ended.
func (s *Service) outcome(ctx context.Context, rec atlas.AuditRecord, err error) {
	rec.Kind, rec.Time = "admin", time.Now()
	if err != nil {
		rec.Status, rec.ErrorCode = "error", atlas.CodeOf(err)
		if atlas.ErrorOf(err).Info().Category == atlas.PermissionDenied {
			rec.Status = "denied"
		}
	}
	if rerr := s.record(ctx, rec); rerr != nil {
		s.log.ErrorContext(ctx, "the outcome of a decision could not be recorded",
			slog.String("approval_id", rec.ApprovalID), slog.String("action", rec.Action), slog.Any("error", rerr))
	}
}
