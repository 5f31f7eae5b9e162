package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Get implements [state.KV].
func (s *Store) Get(ctx context.Context, space, key string) ([]byte, int64, error) {
	var (
		value   []byte
		version int64
	)
	err := s.read.QueryRowContext(ctx, `SELECT value, version FROM kv WHERE space = ? AND key = ? AND (expires = 0 OR expires > ?)`,
		space, key, time.Now().UnixNano()).Scan(&value, &version)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, 0, nil
	case err != nil:
		return nil, 0, failed(ctx, "get", err)
	}
	return value, version, nil
}

// CompareAndSet implements [state.KV].
func (s *Store) CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error) {
	if len(value) > s.limits.MaxValue {
		return 0, atlas.Errorf(atlas.CodeTooLarge, nil, "the value is too large to be kept")
	}
	if value == nil {
		value = []byte{} // the driver binds a nil slice as NULL
	}
	var next int64
	err := s.update(ctx, "set", func(tx *sql.Tx) error {
		now := time.Now().UnixNano()
		var there, size int64
		err := tx.QueryRowContext(ctx, `SELECT version, length(value) FROM kv WHERE space = ? AND key = ? AND (expires = 0 OR expires > ?)`,
			space, key, now).Scan(&there, &size)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if there != version {
			return nil
		}
		if err := s.makeRoom(ctx, tx, space, there == 0, int64(len(value))-size, now); err != nil {
			return err
		}
		next = newVersion()
		_, err = tx.ExecContext(ctx, `INSERT INTO kv (space, key, value, version, expires) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET value = excluded.value, version = excluded.version, expires = excluded.expires`,
			space, key, value, next, nanos(expires))
		return err
	})
	if err != nil {
		return 0, err
	}
	return next, nil
}

// makeRoom checks the space's limits for a value that adds so many bytes. It deletes what has
// expired in the space only when it must.
func (s *Store) makeRoom(ctx context.Context, tx *sql.Tx, space string, adds bool, bytes, now int64) error {
	for swept := false; ; swept = true {
		var n, used int64
		err := tx.QueryRowContext(ctx, `SELECT n, bytes FROM kv_use WHERE space = ?`, space).Scan(&n, &used)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if adds {
			n++
		}
		if n <= int64(s.limits.MaxKeys) && used+bytes <= s.limits.MaxBytes || bytes <= 0 && !adds {
			return nil
		}
		if swept {
			return atlas.Errorf(atlas.CodeRateLimited, nil, "too much is kept already; wait until some of it expires")
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM kv WHERE space = ? AND expires > 0 AND expires <= ?`, space, now); err != nil {
			return err
		}
	}
}

// CompareAndDelete implements [state.KV].
func (s *Store) CompareAndDelete(ctx context.Context, space, key string, version int64) (bool, error) {
	res, err := s.write.ExecContext(ctx, `DELETE FROM kv WHERE space = ? AND key = ? AND version = ? AND (expires = 0 OR expires > ?)`,
		space, key, version, time.Now().UnixNano())
	if err != nil {
		return false, failed(ctx, "delete", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, failed(ctx, "delete", err)
	}
	return n == 1, nil
}

// newVersion returns a number that no value of any process has had: a counter would begin again
// after a deletion, and a late writer would overwrite a stranger's value.
func newVersion() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return int64(binary.LittleEndian.Uint64(b[:])>>2) + 1
}
