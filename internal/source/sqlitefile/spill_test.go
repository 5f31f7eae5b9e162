package sqlitefile

import (
	"database/sql/driver"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func newBook() *spillBook {
	return &spillBook{files: map[uintptr]spillFile{}, owners: map[int32]spillUse{}}
}

func TestSpillBook(t *testing.T) {
	b := newBook()
	check := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %v", what, got)
		}
	}
	check("open", b.open(1, 1), true)
	check("second file", b.open(2, 1), true)
	check("up to the limit", b.grow(1, SpillLimit-10), true)
	check("overwrite", b.grow(1, 5), true)
	check("together up to the limit", b.grow(2, 10), true)
	check("beyond in one file", b.grow(1, SpillLimit), false)
	check("beyond in the other", b.grow(2, 11), false)
	check("unknown file", b.grow(99, 1), false)
	b.close(2)
	check("room again", b.grow(1, SpillLimit), true)

	// Others use up the process's room.
	for owner := int32(2); int64(owner) <= spillTotal/SpillLimit; owner++ {
		check("fill", b.open(uintptr(owner)*100, owner) && b.grow(uintptr(owner)*100, SpillLimit), true)
	}
	if b.total != spillTotal {
		t.Fatalf("total is %d", b.total)
	}
	check("late", b.open(7, 1000), true)
	check("late and small", b.grow(7, spillReserve), true)
	check("late and large", b.grow(7, spillReserve+1), false)
	b.close(1)
	check("late and large, with room", b.grow(7, spillReserve+1), true)
	b.close(7)
	b.close(7)

	for i := range uintptr(spillFiles) {
		check("many files", b.open(10_000+i, 50), true)
	}
	check("too many files", b.open(20_000, 50), false)
	for i := range uintptr(spillFiles) {
		b.close(10_000 + i)
	}
	for owner := int32(2); int64(owner) <= spillTotal/SpillLimit; owner++ {
		b.close(uintptr(owner) * 100)
	}
	if diff := cmp.Diff(newBook(), b, cmp.AllowUnexported(spillBook{}, spillUse{}, spillFile{}), cmp.FilterPath(func(p cmp.Path) bool {
		return p.String() == "mu"
	}, cmp.Ignore())); diff != "" {
		t.Errorf("left over (-want +got)\n%s", diff)
	}
}

// What SQLite writes to temporary files is in the book, and leaves it when the statement ends, in
// whatever way.
func TestSpillIsCounted(t *testing.T) {
	const sql = `WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT ?) SELECT x, zeroblob(50000) z FROM c ORDER BY z, x DESC`
	s, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		rows    int64
		spilled bool
	}{{200, false}, {2000, true}, {200, false}} {
		err := s.Empty(t.Context(), func(c *Conn) error {
			_, err := c.Query(sql, Positional(tc.rows), func([]driver.Value) (bool, error) {
				if total := inFiles(); total < 5<<20 || total > SpillLimit {
					t.Errorf("%d rows: %d bytes are counted", tc.rows, total)
				}
				return false, nil
			})
			return err
		})
		if Spilled(err) != tc.spilled || (err != nil) != tc.spilled {
			t.Errorf("%d rows: got %v", tc.rows, err)
		}
		if total := inFiles(); total != 0 {
			t.Errorf("%d rows: %d bytes are left", tc.rows, total)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func inFiles() int64 {
	spilled.mu.Lock()
	defer spilled.mu.Unlock()
	return spilled.total
}
