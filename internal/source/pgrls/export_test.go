package pgrls

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// Bare runs a query on one of the pool's connections without a tenant and returns its one row as
// text.
func Bare(t testing.TB, db *DB, sql string) []string {
	t.Helper()
	conn, err := db.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	var out []string
	rows, err := conn.Query(t.Context(), sql, pgx.QueryExecModeExec)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		for _, v := range rows.RawValues() {
			out = append(out, string(v))
		}
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// Discard runs DISCARD ALL on one of the pool's connections.
func Discard(t testing.TB, db *DB) {
	t.Helper()
	conn, err := db.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Conn().PgConn().Exec(t.Context(), "DISCARD ALL").ReadAll(); err != nil {
		t.Fatal(err)
	}
}

// Tenants is of how many tenants the share keeps something.
func (s *Share) Tenants() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held) + len(s.waiting)
}
