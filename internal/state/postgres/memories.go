package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
)

// AddMemory implements [state.Memories].
func (s *Store) AddMemory(ctx context.Context, m state.Memory) error {
	if len(m.Text) > s.cfg.Limits.MaxMemory {
		return atlas.Errorf(atlas.CodeTooLarge, nil, "the text is too long to be kept")
	}
	for _, f := range []string{m.ID, string(m.Tenant), m.Customer, m.Call} {
		if !plain(f) || len(f) > maxKey/2 {
			return atlas.Errorf(atlas.CodeInvalidArguments, nil, "an id has characters that cannot be kept, or is too long")
		}
	}
	var ok bool
	err := s.do(ctx, "add memory", true, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, `SELECT atlas.memory_add(ROW($1::text, $2::text, $3::text, $4::text, $5::text, $6::bigint, $7::bigint)::atlas.memory, $8::bigint)`,
			string(m.Tenant), m.ID, m.Customer, text(m.Text), m.Call, nanos(m.Created), nanos(m.Expires), int64(s.cfg.Limits.MaxMemories)).Scan(&ok)
	})
	if err == nil && !ok {
		err = atlas.Errorf(atlas.CodeRateLimited, nil, "too much is kept already; wait until some of it expires, or have customers forgotten")
	}
	return err
}

// FindMemories implements [state.Memories].
func (s *Store) FindMemories(ctx context.Context, tenant atlas.TenantID, customer string, limit int) ([]state.Memory, error) {
	return s.memories(ctx, ` AND customer = $3`, string(tenant), int64(limit), key(customer))
}

// ListMemories implements [state.Memories].
func (s *Store) ListMemories(ctx context.Context, tenant atlas.TenantID, limit int) ([]state.Memory, error) {
	return s.memories(ctx, ``, string(tenant), int64(limit))
}

func (s *Store) memories(ctx context.Context, and string, args ...any) (list []state.Memory, err error) {
	err = s.do(ctx, "read memories", true, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, `SELECT id, tenant, customer, text, call, created, expires FROM atlas.memory
			WHERE tenant = $1 AND (expires = 0 OR expires > atlas.now_ns())`+and+` ORDER BY created DESC, id COLLATE "C" LIMIT $2`, args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m state.Memory, err error) {
			var created, expires int64
			err = row.Scan(&m.ID, &m.Tenant, &m.Customer, &m.Text, &m.Call, &created, &expires)
			m.Created, m.Expires = moment(created), moment(expires)
			return m, err
		})
		return err
	})
	if len(list) == 0 || err != nil {
		return nil, err
	}
	return list, nil
}

// DeleteMemory implements [state.Memories].
func (s *Store) DeleteMemory(ctx context.Context, tenant atlas.TenantID, id string) (bool, error) {
	n, err := s.forget(ctx, false, `SELECT atlas.memory_delete($1, 'id', $2, 1)`, string(tenant), key(id))
	return n > 0, err
}

// ForgetCustomer implements [state.Memories].
func (s *Store) ForgetCustomer(ctx context.Context, tenant atlas.TenantID, customer string) (int, error) {
	return s.forget(ctx, true, `SELECT atlas.memory_delete($1, 'customer', $2, 1)`, string(tenant), key(customer))
}

func (s *Store) forget(ctx context.Context, repeatable bool, query string, args ...any) (n int, err error) {
	err = s.do(ctx, "forget", repeatable, func(ctx context.Context) error { return s.pool.QueryRow(ctx, query, args...).Scan(&n) })
	if err != nil {
		return 0, err
	}
	return n, nil
}
