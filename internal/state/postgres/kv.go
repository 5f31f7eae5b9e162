package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
)

// maxKey bounds space and key together: an index of Postgres holds no longer ones.
const maxKey = 2000

// Get implements [state.KV].
func (s *Store) Get(ctx context.Context, space, key string) (value []byte, version int64, err error) {
	err = s.do(ctx, "get", true, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, `SELECT value, version FROM atlas.kv WHERE space = $1 AND key = $2 AND (expires = 0 OR expires > atlas.now_ns())`,
			[]byte(space), []byte(key)).Scan(&value, &version)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, nil
	}
	return value, version, err
}

// CompareAndSet implements [state.KV].
func (s *Store) CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (next int64, err error) {
	if len(value) > s.cfg.Limits.MaxValue {
		return 0, atlas.Errorf(atlas.CodeTooLarge, nil, "the value is too large to be kept")
	}
	if len(space)+len(key) > maxKey {
		return 0, atlas.Errorf(atlas.CodeTooLarge, nil, "the key is too long")
	}
	if value == nil {
		value = []byte{} // nil is NULL
	}
	// The version is chosen here, so that asking again is known for what it is.
	wanted := newVersion()
	err = s.do(ctx, "set", true, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, `SELECT atlas.kv_set($1, $2, $3, $4, $5, $6, $7, $8)`,
			[]byte(space), []byte(key), version, value, nanos(expires), wanted, int64(s.cfg.Limits.MaxKeys), s.cfg.Limits.MaxBytes).Scan(&next)
	})
	switch {
	case err != nil:
		return 0, err
	case next < 0:
		return 0, atlas.Errorf(atlas.CodeRateLimited, nil, "too much is kept already; wait until some of it expires")
	}
	return next, nil
}

// CompareAndDelete implements [state.KV].
func (s *Store) CompareAndDelete(ctx context.Context, space, key string, version int64) (deleted bool, err error) {
	err = s.do(ctx, "delete", false, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, `SELECT atlas.kv_delete($1, $2, $3)`, []byte(space), []byte(key), version).Scan(&deleted)
	})
	return deleted && err == nil, err
}

// newVersion returns a number that no value of any process has had: a counter would begin again
// after a deletion, and a late writer would overwrite a stranger's value.
func newVersion() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return int64(binary.LittleEndian.Uint64(b[:])>>2) + 1
}
