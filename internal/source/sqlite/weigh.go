package sqlite

import (
	"database/sql/driver"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/sqlitefile"
)

const (
	// maxTransient is how many transient tables and sorters a statement may have open. Each has a
	// cache of 2 to 4 MB that no setting of SQLite makes smaller; it fills them before it writes
	// to a temporary file, which sqlitefile bounds.
	maxTransient = 32
	// Statements of at most so many bytes and names of tables (which may be views) are not looked
	// at: they have no room for many more than maxTransient, and looking takes as long as
	// compiling does.
	lightBytes  = 256
	lightTables = 8
)

// transient are the instructions of SQLite's machine that open a transient table or a sorter.
var transient = map[string]bool{"OpenEphemeral": true, "OpenAutoindex": true, "SorterOpen": true}

// weigh refuses a statement that would fill the memory without ever writing a temporary file:
// 200 times count(DISTINCT ...) take 700 MB.
func (d *DB) weigh(c *sqlitefile.Conn, st statement, args []driver.NamedValue) error {
	if d.light(st) {
		return nil
	}
	n := 0
	_, err := c.Query("EXPLAIN "+st.text, args, func(vals []driver.Value) (bool, error) {
		if op, _ := vals[1].(string); transient[op] {
			n++
		}
		return n <= maxTransient, nil
	})
	if err == nil && n > maxTransient {
		err = atlas.Errorf(atlas.CodeTooLarge, nil, "the query sorts, groups, joins or makes distinct too many things at once; split it").
			With("limit", maxTransient)
	}
	return err
}

func (d *DB) light(st statement) bool {
	if len(st.text) > lightBytes || len(st.defines) > 0 {
		return false
	}
	n := 0
	for _, w := range st.words {
		if d.rules.tables[w.name] {
			n++
		}
	}
	return n <= lightTables
}
