package pgrls_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

const byID = `SELECT body, n FROM notes WHERE id = $1`

// BenchmarkQuery compares a query by id with the same batch in bare pgx.
func BenchmarkQuery(b *testing.B) {
	d := notes(b)
	row := func(r pgrls.Row) (bool, error) {
		if body, _ := r.Value(0); body != "of acme" {
			return false, fmt.Errorf("got %v", body)
		}
		_, _ = r.Value(1)
		return true, nil
	}
	for _, tc := range []struct {
		name string
		st   pgrls.Statement
	}{
		{"prepared", pgrls.Statement{}},
		{"once", pgrls.Statement{Once: true}},
		{"traced", pgrls.Statement{Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			db := open(b, d.Connection(false))
			st := tc.st
			st.SQL, st.Args = byID, []any{"n2"}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := db.Query(b.Context(), "acme", st, row); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("pgx", func(b *testing.B) {
		pool, err := pgxpool.New(b.Context(), d.DSN(d.App))
		if err != nil {
			b.Fatal(err)
		}
		defer pool.Close()
		b.ReportAllocs()
		for b.Loop() {
			bare(b, pool)
		}
	})
	// By turns, so that what else the machine does falls on both.
	b.Run("both", func(b *testing.B) {
		pool, err := pgxpool.New(b.Context(), d.DSN(d.App))
		if err != nil {
			b.Fatal(err)
		}
		defer pool.Close()
		db := open(b, d.Connection(false))
		st := pgrls.Statement{SQL: byID, Args: []any{"n2"}}
		var ours, theirs time.Duration
		for b.Loop() {
			begin := time.Now()
			if _, err := db.Query(b.Context(), "acme", st, row); err != nil {
				b.Fatal(err)
			}
			middle := time.Now()
			bare(b, pool)
			ours += middle.Sub(begin)
			theirs += time.Since(middle)
		}
		b.ReportMetric(float64(ours)/float64(theirs), "pgx")
	})
}

// bare is the same transaction in bare pgx.
func bare(b *testing.B, pool *pgxpool.Pool) {
	var batch pgx.Batch
	batch.Queue("BEGIN READ ONLY")
	batch.Queue("SET LOCAL app.tenant_id = 'acme'")
	batch.Queue("SET LOCAL statement_timeout = 4980")
	batch.Queue(byID, "n2")
	batch.Queue("COMMIT")
	br := pool.SendBatch(b.Context(), &batch)
	for range 3 {
		if _, err := br.Exec(); err != nil {
			b.Fatal(err)
		}
	}
	var body string
	var n int64
	if err := br.QueryRow().Scan(&body, &n); err != nil || body != "of acme" {
		b.Fatal(body, err)
	}
	if _, err := br.Exec(); err != nil {
		b.Fatal(err)
	}
	if err := br.Close(); err != nil {
		b.Fatal(err)
	}
}
