package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

const (
	// fresh is the condition that a memory is not past its expiry.
	fresh = `(expires = 0 OR expires > ?)`

	memoriesOf = `SELECT id, tenant, customer, text, call, created, expires FROM memory WHERE tenant = ? AND ` + fresh
	newest     = ` ORDER BY created DESC, id LIMIT ?`
)

// AddMemory implements [state.Memories].
func (s *Store) AddMemory(ctx context.Context, m state.Memory) error {
	if len(m.Text) > s.limits.MaxMemory {
		return atlas.Errorf(atlas.CodeTooLarge, nil, "the text is too long to be kept")
	}
	return s.update(ctx, "add memory", func(tx *sql.Tx) error {
		now := time.Now().UnixNano()
		var n, there int
		if err := tx.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE id = ?) FROM memory WHERE tenant = ? AND `+fresh,
			m.ID, string(m.Tenant), now).Scan(&n, &there); err != nil {
			return err
		}
		switch {
		case there > 0:
			return nil
		case n >= s.limits.MaxMemories:
			return atlas.Errorf(atlas.CodeRateLimited, nil, "too much is kept already; wait until some of it expires, or have customers forgotten")
		}
		// One of that id may be there past its expiry.
		_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO memory (tenant, id, customer, text, call, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			string(m.Tenant), m.ID, m.Customer, m.Text, m.Call, nanos(m.Created), nanos(m.Expires))
		return err
	})
}

// FindMemories implements [state.Memories].
func (s *Store) FindMemories(ctx context.Context, tenant atlas.TenantID, customer string, limit int) ([]state.Memory, error) {
	return s.memories(ctx, memoriesOf+` AND customer = ?`+newest, string(tenant), time.Now().UnixNano(), customer, limit)
}

// ListMemories implements [state.Memories].
func (s *Store) ListMemories(ctx context.Context, tenant atlas.TenantID, limit int) ([]state.Memory, error) {
	return s.memories(ctx, memoriesOf+newest, string(tenant), time.Now().UnixNano(), limit)
}

func (s *Store) memories(ctx context.Context, query string, args ...any) ([]state.Memory, error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, failed(ctx, "read memories", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
	var list []state.Memory
	for rows.Next() {
		var (
			m                state.Memory
			created, expires int64
		)
		if err := rows.Scan(&m.ID, &m.Tenant, &m.Customer, &m.Text, &m.Call, &created, &expires); err != nil {
			return nil, failed(ctx, "read memories", err)
		}
		m.Created, m.Expires = moment(created), moment(expires)
		list = append(list, m)
	}
	if err := rows.Err(); err != nil {
		return nil, failed(ctx, "read memories", err)
	}
	return list, nil
}

// DeleteMemory implements [state.Memories].
func (s *Store) DeleteMemory(ctx context.Context, tenant atlas.TenantID, id string) (bool, error) {
	n, err := s.forget(ctx, `DELETE FROM memory WHERE tenant = ? AND id = ? AND `+fresh, string(tenant), id, time.Now().UnixNano())
	return n > 0, err
}

// ForgetCustomer implements [state.Memories].
func (s *Store) ForgetCustomer(ctx context.Context, tenant atlas.TenantID, customer string) (int, error) {
	return s.forget(ctx, `DELETE FROM memory WHERE tenant = ? AND customer = ?`, string(tenant), customer)
}

func (s *Store) forget(ctx context.Context, query string, args ...any) (int, error) {
	res, err := s.write.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, failed(ctx, "forget", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, failed(ctx, "forget", err)
	}
	return int(n), nil
}
