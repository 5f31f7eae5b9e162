package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/atlas-mcp/atlas"
)

const (
	approvalColumns = `id, tenant, home_tenant, issuer, subject, delegator, tool, version, policy, args, preview, state, approver, reason, created, expires, decided`
	// bound selects the live row of a binding.
	bound = ` FROM approval WHERE live = 1 AND tenant = ? AND home_tenant = ? AND issuer = ? AND subject = ? AND delegator = ? AND tool = ? AND version = ? AND policy = ? AND args = ?`
	// shown is the state as of a moment.
	shown = `CASE WHEN state IN ('pending', 'approved') AND expires <= ? THEN 'expired' ELSE state END`
)

func binding(a atlas.Approval) []any {
	return []any{string(a.Tenant), string(a.HomeTenant), a.Issuer, a.Subject, a.Delegator, a.Tool, a.Version, a.PolicyHash, a.ArgsDigest}
}

func scanApproval(row interface{ Scan(...any) error }, now time.Time) (atlas.Approval, error) {
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
	open := a.State == atlas.ApprovalPending || a.State == atlas.ApprovalApproved
	if open && !now.Before(a.Expires) {
		a.State = atlas.ApprovalExpired
	}
	return a, nil
}

// FindApproval implements [state.Approvals].
func (s *Store) FindApproval(ctx context.Context, b atlas.Approval) (atlas.Approval, bool, error) {
	now := time.Now()
	row := s.read.QueryRowContext(ctx, `SELECT `+approvalColumns+bound+` AND expires > ?`, append(binding(b), now.UnixNano())...)
	a, err := scanApproval(row, now)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return atlas.Approval{}, false, nil
	case err != nil:
		return atlas.Approval{}, false, failed(ctx, "find approval", err)
	}
	return a, true, nil
}

// AddApproval implements [state.Approvals].
func (s *Store) AddApproval(ctx context.Context, a atlas.Approval, perSubject, perTenant int) (atlas.Approval, error) {
	err := s.update(ctx, "add approval", func(tx *sql.Tx) error {
		now := time.Now()
		// What has expired is no longer live: it makes room for the same binding. A denial stays
		// a denial in the history.
		if _, err := tx.ExecContext(ctx, `UPDATE approval SET live = 0, state = `+shown+` WHERE live = 1 AND tenant = ? AND expires <= ?`,
			now.UnixNano(), string(a.Tenant), now.UnixNano()); err != nil {
			return err
		}
		there, err := scanApproval(tx.QueryRowContext(ctx, `SELECT `+approvalColumns+bound, binding(a)...), now)
		if err == nil {
			a = there
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		var ofTenant, ofSubject int
		if err := tx.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE home_tenant = ? AND issuer = ? AND subject = ?)
			FROM approval WHERE live = 1 AND tenant = ? AND state = 'pending'`,
			string(a.HomeTenant), a.Issuer, a.Subject, string(a.Tenant)).Scan(&ofTenant, &ofSubject); err != nil {
			return err
		}
		if ofSubject >= perSubject || ofTenant >= perTenant {
			return atlas.Errorf(atlas.CodeRateLimited, nil, "too many calls wait for approval; have them decided first")
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO approval (`+approvalColumns+`, live) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
			a.ID, string(a.Tenant), string(a.HomeTenant), a.Issuer, a.Subject, a.Delegator, a.Tool, a.Version, a.PolicyHash, a.ArgsDigest,
			a.Preview, string(a.State), a.Approver, a.Reason, nanos(a.Created), nanos(a.Expires), nanos(a.Decided), live(a.State))
		return err
	})
	if err != nil {
		return atlas.Approval{}, err
	}
	return a, nil
}

// GetApproval implements [state.Approvals].
func (s *Store) GetApproval(ctx context.Context, tenant atlas.TenantID, id string) (atlas.Approval, error) {
	row := s.read.QueryRowContext(ctx, `SELECT `+approvalColumns+` FROM approval WHERE tenant = ? AND id = ?`, string(tenant), id)
	a, err := scanApproval(row, time.Now())
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return atlas.Approval{}, atlas.Errorf(atlas.CodeApprovalNotFound, nil, "")
	case err != nil:
		return atlas.Approval{}, failed(ctx, "get approval", err)
	}
	return a, nil
}

// ListApprovals implements [state.Approvals].
func (s *Store) ListApprovals(ctx context.Context, tenant atlas.TenantID, state atlas.ApprovalState, limit int) ([]atlas.Approval, error) {
	now := time.Now()
	rows, err := s.read.QueryContext(ctx, `SELECT `+approvalColumns+` FROM approval WHERE tenant = ? AND (? = '' OR `+shown+` = ?)
		ORDER BY created DESC, id LIMIT ?`, string(tenant), string(state), now.UnixNano(), string(state), limit)
	if err != nil {
		return nil, failed(ctx, "list approvals", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
	var list []atlas.Approval
	for rows.Next() {
		a, err := scanApproval(rows, now)
		if err != nil {
			return nil, failed(ctx, "list approvals", err)
		}
		list = append(list, a)
	}
	if err := rows.Err(); err != nil {
		return nil, failed(ctx, "list approvals", err)
	}
	return list, nil
}

// SwapApproval implements [state.Approvals].
func (s *Store) SwapApproval(ctx context.Context, old, next atlas.Approval) (bool, error) {
	res, err := s.write.ExecContext(ctx, `UPDATE approval SET state = ?, approver = ?, reason = ?, decided = ?, live = ?
		WHERE tenant = ? AND id = ? AND state = ? AND expires > ?`,
		string(next.State), next.Approver, next.Reason, nanos(next.Decided), live(next.State),
		string(old.Tenant), old.ID, string(old.State), time.Now().UnixNano())
	if primary(err) == sqlite3.SQLITE_CONSTRAINT {
		return false, nil // approval_live: another approval of the binding is live by now
	}
	if err != nil {
		return false, failed(ctx, "swap approval", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, failed(ctx, "swap approval", err)
	}
	return n == 1, nil
}

// live is approval.live for a state.
func live(s atlas.ApprovalState) int {
	switch s {
	case atlas.ApprovalPending, atlas.ApprovalApproved, atlas.ApprovalDenied:
		return 1
	case atlas.ApprovalUsed, atlas.ApprovalExpired:
	}
	return 0
}
