package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
)

const (
	// selected are what scanApproval reads; the state is the one as of now.
	selected = `id, tenant, home_tenant, issuer, subject, delegator, tool, version, policy, args, preview, atlas.shown(state, expires, atlas.now_ns()), approver, reason, created, expires, decided`
)

// binding returns a hash of what the approval is bound to. The lengths tell the fields apart.
func binding(a atlas.Approval) []byte {
	h := sha256.New()
	for _, f := range []string{string(a.Tenant), string(a.HomeTenant), a.Issuer, a.Subject, a.Delegator, a.Tool, a.Version, a.PolicyHash, a.ArgsDigest} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(f)))
		_, _ = h.Write(n[:]) // never fails (hash.Hash)
		_, _ = h.Write([]byte(f))
	}
	return h.Sum(nil)
}

func scanApproval(row pgx.Row) (atlas.Approval, error) {
	var (
		a                         atlas.Approval
		created, expires, decided int64
	)
	err := row.Scan(&a.ID, &a.Tenant, &a.HomeTenant, &a.Issuer, &a.Subject, &a.Delegator, &a.Tool, &a.Version, &a.PolicyHash, &a.ArgsDigest,
		&a.Preview, &a.State, &a.Approver, &a.Reason, &created, &expires, &decided)
	if err != nil {
		return atlas.Approval{}, err
	}
	a.Created, a.Expires, a.Decided = moment(created), moment(expires), moment(decided)
	return a, nil
}

// FindApproval implements [state.Approvals].
func (s *Store) FindApproval(ctx context.Context, b atlas.Approval) (a atlas.Approval, found bool, err error) {
	err = s.do(ctx, "find approval", true, func(ctx context.Context) (err error) {
		a, err = scanApproval(s.pool.QueryRow(ctx, `SELECT `+selected+` FROM atlas.approval
			WHERE live AND tenant = $1 AND binding = $2 AND expires > atlas.now_ns()`, string(b.Tenant), binding(b)))
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return atlas.Approval{}, false, nil
	}
	return a, err == nil, err
}

// AddApproval implements [state.Approvals].
func (s *Store) AddApproval(ctx context.Context, a atlas.Approval, perSubject, perTenant int) (added atlas.Approval, err error) {
	for _, f := range []string{a.ID, string(a.Tenant), string(a.HomeTenant), a.Issuer, a.Subject, a.Delegator, a.Tool, a.Version, a.PolicyHash, a.ArgsDigest} {
		if !plain(f) {
			return atlas.Approval{}, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a name in the call has characters that cannot be kept")
		}
	}
	err = s.do(ctx, "add approval", true, func(ctx context.Context) (err error) {
		added, err = scanApproval(s.pool.QueryRow(ctx, `SELECT `+selected+` FROM atlas.approval_add(ROW($1::text, $2::text, $3::text, $4::text, $5::text,
			$6::text, $7::text, $8::text, $9::text, $10::text, $11::bytea, $12::text, $13::text, $14::text, $15::text, $16::bigint, $17::bigint,
			$18::bigint, $19::boolean)::atlas.approval, $20::bigint, $21::bigint)`,
			string(a.Tenant), a.ID, string(a.HomeTenant), a.Issuer, a.Subject, a.Delegator, a.Tool, a.Version, a.PolicyHash, a.ArgsDigest,
			binding(a), text(a.Preview), string(a.State), text(a.Approver), text(a.Reason), nanos(a.Created), nanos(a.Expires), nanos(a.Decided),
			live(a.State), int64(perSubject), int64(perTenant)))
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return atlas.Approval{}, atlas.Errorf(atlas.CodeRateLimited, nil, "too many calls wait for approval; have them decided first")
	case err != nil:
		return atlas.Approval{}, err
	}
	return added, nil
}

// GetApproval implements [state.Approvals].
func (s *Store) GetApproval(ctx context.Context, tenant atlas.TenantID, id string) (a atlas.Approval, err error) {
	err = s.do(ctx, "get approval", true, func(ctx context.Context) (err error) {
		a, err = scanApproval(s.pool.QueryRow(ctx, `SELECT `+selected+` FROM atlas.approval WHERE tenant = $1 AND id = $2`, string(tenant), key(id)))
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return atlas.Approval{}, atlas.Errorf(atlas.CodeApprovalNotFound, nil, "")
	}
	return a, err
}

// ListApprovals implements [state.Approvals].
func (s *Store) ListApprovals(ctx context.Context, tenant atlas.TenantID, state atlas.ApprovalState, limit int) (list []atlas.Approval, err error) {
	err = s.do(ctx, "list approvals", true, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, `SELECT `+selected+` FROM atlas.approval
			WHERE tenant = $1 AND ($2::text = '' OR atlas.shown(state, expires, atlas.now_ns()) = $2) ORDER BY created DESC, id COLLATE "C" LIMIT $3`,
			string(tenant), string(state), int64(limit))
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (atlas.Approval, error) { return scanApproval(row) })
		return err
	})
	if len(list) == 0 || err != nil {
		return nil, err
	}
	return list, nil
}

// SwapApproval implements [state.Approvals].
func (s *Store) SwapApproval(ctx context.Context, old, next atlas.Approval) (swapped bool, err error) {
	err = s.do(ctx, "swap approval", false, func(ctx context.Context) error {
		tag, err := s.pool.Exec(ctx, `UPDATE atlas.approval SET state = $1, approver = $2, reason = $3, decided = $4, live = $5
			WHERE tenant = $6 AND id = $7 AND state = $8 AND expires > atlas.now_ns()`,
			string(next.State), text(next.Approver), text(next.Reason), nanos(next.Decided), live(next.State),
			string(old.Tenant), key(old.ID), string(old.State))
		if sqlState(err) == uniqueViolation {
			return nil // approval_live: another approval of the binding is live by now
		}
		swapped = tag.RowsAffected() == 1
		return err
	})
	return swapped && err == nil, err
}

// live is approval.live for a state.
func live(s atlas.ApprovalState) bool {
	return s == atlas.ApprovalPending || s == atlas.ApprovalApproved || s == atlas.ApprovalDenied
}
