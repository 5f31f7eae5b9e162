package postgres_test

import (
	"sync"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// hold is a statement that runs until it is stopped.
const hold = `SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f, orders g, orders h`

// A tenant whose agents' statements run as long as they may does not keep the connections from others:
// the source has three here, of which it holds one.
func TestOneTenantDoesNotTakeAll(t *testing.T) {
	d := pgrlstest.New(t)
	c := config(d, false)
	c.MaxConns, c.Timeout = 3, 4*time.Second
	src := loaded(t, c, sourcetest.Company())
	if _, err := agent(t, src, `SELECT 1`, nil); err != nil { // the parser is ready
		t.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		codes = make([]atlas.Code, 8)
	)
	for i := range codes {
		wg.Go(func() {
			_, err := src.Query(t.Context(), sourcetest.A, source.Query{SQL: hold, Agent: true})
			codes[i] = atlas.CodeOf(err)
		})
	}
	const running = `SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE '%atlas_answer%' AND pid <> pg_backend_pid()`
	for d.Ask(running) == "0" { // ends with the test at the latest
		if t.Context().Err() != nil {
			t.Fatal("none runs")
		}
	}
	for range 5 {
		got, err := src.Query(t.Context(), sourcetest.B, source.Query{SQL: `SELECT count(*) AS n FROM orders`, Agent: true})
		if err != nil || len(got.Rows) != 1 {
			t.Fatalf("the other tenant: %v, %v", got, err)
		}
		if n := d.Ask(running); n != "1" && n != "0" {
			t.Errorf("%s run at once, want at most one", n)
		}
	}
	wg.Wait()
	counts := map[atlas.Code]int{}
	for _, code := range codes {
		counts[code]++
	}
	if counts[atlas.CodeTimeout] == 0 || counts[atlas.CodeOverloaded] == 0 || counts[atlas.CodeTimeout]+counts[atlas.CodeOverloaded] != len(codes) {
		t.Errorf("got %v, want some that ran out of time and some that were not let in", counts)
	}
}
