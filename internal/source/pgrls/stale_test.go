package pgrls_test

import (
	"testing"

	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// A statement that is not prepared and fails in the middle with the code of stale plans runs once: its first
// rows are not given twice, and what the connection keeps prepared for others stays.
func TestFailureThatLooksStale(t *testing.T) {
	db := open(t, notes(t).Connection(false))
	if _, err := ask(t, db, "acme", `SELECT id FROM notes`); err != nil { // the connection knows BEGIN and COMMIT
		t.Fatal(err)
	}
	const late = `SELECT n, jsonb_path_exists(CASE n WHEN 1 THEN '"2020-01-01"' ELSE '"12:34:56"' END::jsonb, '$.datetime() ? (@ < "12:35:00+01".datetime())') FROM (SELECT n FROM notes ORDER BY n OFFSET 0) AS sorted`
	rows := 0
	_, err := db.Query(t.Context(), "acme", pgrls.Statement{SQL: late, Once: true}, func(pgrls.Row) (bool, error) {
		rows++
		return true, nil
	})
	if pgrls.SQLState(err) != "0A000" {
		t.Fatalf("got %v, want the code 0A000", err)
	}
	if rows != 1 {
		t.Errorf("%d rows were given, want the one before the failure", rows)
	}
}
