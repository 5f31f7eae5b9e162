package sqlite_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// gathering are statements that make SQLite hold gigabytes, each in another way, before they give
// a row.
func gathering() map[string]string {
	const n = `(WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 20000) SELECT x FROM c)`
	var aggregates strings.Builder
	for i := range 200 {
		fmt.Fprintf(&aggregates, `, count(DISTINCT (x * %d) || zeroblob(20000))`, i+2)
	}
	return map[string]string{
		"sort":         `SELECT x, zeroblob(50000) z FROM ` + n + ` ORDER BY z, x DESC`,
		"sorted join":  `SELECT a.*, b.*, c.*, d.*, zeroblob(100000) z FROM orders a, orders b, orders c, orders d, orders e ORDER BY z, a.id DESC`,
		"group":        `SELECT x || zeroblob(50000) z, count(*) FROM ` + n + ` GROUP BY 1`,
		"union":        `SELECT x || zeroblob(50000) FROM ` + n + ` UNION SELECT x || zeroblob(40000) FROM ` + n,
		"recursion":    `WITH RECURSIVE c(x, z) AS (SELECT 1, zeroblob(50000) UNION SELECT x + 1, zeroblob(50000) FROM c LIMIT 20000) SELECT x FROM c ORDER BY z, x`,
		"queue":        `WITH RECURSIVE c(x, z) AS (SELECT 1, zeroblob(50000) UNION ALL SELECT x + 1, zeroblob(50000) FROM c, orders LIMIT 20000) SELECT count(*) FROM c`,
		"window":       `SELECT x, max(z) OVER () FROM (SELECT x, zeroblob(50000) z FROM ` + n + `)`,
		"materialized": `WITH m AS MATERIALIZED (SELECT x, zeroblob(50000) z FROM ` + n + `) SELECT count(*) FROM m a, m b`,
		"concat":       `SELECT group_concat(DISTINCT x || zeroblob(50000)) FROM ` + n,
		"aggregates":   `SELECT 1` + aggregates.String() + ` FROM ` + n,
	}
}

// patient is the attacked source with time enough for the slowest machine.
func patient(t *testing.T) (source.Querier, func()) {
	_, dir, unchanged := attacked(t)
	cfg := config()
	cfg.Timeout = 2 * time.Minute
	return openWith(t, cfg, filepath.Dir(dir)).(source.Querier), unchanged
}

// None of them takes more than a little memory, and what it wrote is gone afterwards.
func TestGatheringIsTooLarge(t *testing.T) {
	q, unchanged := patient(t)
	for name, sql := range gathering() {
		t.Run(name, func(t *testing.T) {
			before := resetPeak(t)
			_, err := q.Query(t.Context(), sourcetest.A, source.Query{SQL: sql, MaxRows: 1})
			if e := atlas.ErrorOf(err); atlas.CodeOf(err) != atlas.CodeTooLarge || !strings.Contains(e.Hint, "sorts, groups, joins") {
				t.Errorf("got %v", err)
			}
			if grown := memory(t, "VmHWM:") - before; grown > 192<<10 {
				t.Errorf("took %d KiB of memory", grown)
			}
			rows, err := q.Query(t.Context(), sourcetest.A, source.Query{SQL: `SELECT id FROM orders ORDER BY id`})
			if err != nil || len(rows.Rows) == 0 {
				t.Errorf("afterwards: %v, %v", rows, err)
			}
		})
	}
	unchanged()
}

// While one tenant fills what it can, the other sorts as ever.
func TestGatheringHarmsNoOtherTenant(t *testing.T) {
	q, _ := patient(t)
	attacks := gathering()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, sql := range []string{attacks["sort"], attacks["window"], attacks["union"], attacks["recursion"]} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := q.Query(t.Context(), sourcetest.A, source.Query{SQL: sql}); atlas.CodeOf(err) != atlas.CodeTooLarge {
					t.Errorf("attack: %v", err)
				}
			}
		})
	}
	// 12 MB, which SQLite does not sort without a temporary file.
	const sql = `SELECT x, zeroblob(60000) z FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 200) SELECT x FROM c) ORDER BY z, x DESC`
	for range 10 {
		rows, err := q.Query(t.Context(), sourcetest.B, source.Query{SQL: sql, MaxRows: 1})
		if err != nil || len(rows.Rows) != 1 || rows.Rows[0][0] != int64(200) {
			t.Errorf("other tenant: %v", err)
		}
	}
	close(stop)
	wg.Wait()
}

// A statement with many parts that hold little is fine.
func TestWideStatements(t *testing.T) {
	src, _, _ := attacked(t)
	sql := `SELECT count(*)` + strings.Repeat(`, count(DISTINCT status), sum(total_cents), max(id)`, 20) + ` FROM orders WHERE id <> :id`
	rows, err := src.(source.Querier).Query(t.Context(), sourcetest.A, source.Query{SQL: sql, Args: map[string]any{"id": "x"}})
	if err != nil || len(rows.Rows) != 1 {
		t.Errorf("got %v, %v", rows, err)
	}
}

// resetPeak resets the process's greatest use of memory and returns its present one in KiB.
func resetPeak(t *testing.T) int {
	if runtime.GOOS == "linux" {
		if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
			t.Fatal(err)
		}
	}
	return memory(t, "VmRSS:")
}

// memory returns a field of the process's status in KiB; 0 where there is none.
func memory(t *testing.T, field string) (kib int) {
	if runtime.GOOS != "linux" {
		return 0
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(status)); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), field); ok {
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatal(err)
			}
		}
	}
	if kib == 0 {
		t.Fatalf("no %s", field)
	}
	return kib
}
