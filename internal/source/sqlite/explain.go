package sqlite

import (
	"context"
	"errors"
	"slices"
	"strings"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/sqlitefile"
)

// maxNames is how many unknown names an error tells.
const maxNames = 10

// explain turns SQLite's refusal of a caller's statement into one that helps the caller to mend it.
//
// What it tells is found from the caller's own text and from what the caller may see, never from
// SQLite's message: a table or a function that may not be used is answered exactly like one that
// does not exist, whatever SQLite noticed first.
func (d *DB) explain(ctx context.Context, c *sqlitefile.Conn, st statement, g *guard, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if _, ok := errors.AsType[*atlas.Error](err); ok {
		return err
	}
	if sqlitefile.Spilled(err) {
		return atlas.Errorf(atlas.CodeTooLarge, err, "the query sorts, groups, joins or makes distinct more data than may be held; filter more, or use fewer or smaller columns").
			With("limit_bytes", sqlitefile.SpillLimit)
	}
	switch sqlitefile.Code(err) {
	case sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_FULL:
		// A reader writes nothing but temporary files. Trying again would only do it again.
		return atlas.Errorf(atlas.CodeTooLarge, err, "the query needs more memory or more room for temporary files than there is; filter more")
	case sqlite3.SQLITE_TOOBIG:
		return atlas.Errorf(atlas.CodeTooLarge, err, "the query, or a value in it or in its answer, is larger than the limit").
			With("limit_bytes", d.cfg.MaxValueBytes)
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_READONLY:
	default:
		return err
	}
	if !g.denied && syntax(err.Error()) {
		return atlas.Errorf(atlas.CodeInvalidQuery, err, "the query is not valid SQL (SQLite's dialect)")
	}
	if e := c.Authorize(nil); e != nil {
		return e
	}
	names, calls, e := d.unknown(c, st)
	if e != nil {
		return e
	}
	switch {
	case len(names) > 0 || len(calls) > 0:
		out := atlas.Errorf(atlas.CodeInvalidQuery, err, "the query uses tables, columns or functions that are not available; the schema lists what is")
		if len(names) > 0 {
			out = out.With("unknown_names", names)
		}
		if len(calls) > 0 {
			out = out.With("unknown_functions", calls)
		}
		return out
	case g.denied:
		return atlas.Errorf(atlas.CodeInvalidQuery, err, "the query reads a column that is not available; name the columns it needs instead of *")
	case strings.Contains(err.Error(), "ambiguous column name"):
		return atlas.Errorf(atlas.CodeInvalidQuery, err, "a column of the query is in more than one table; write table.column")
	}
	return atlas.Errorf(atlas.CodeInvalidQuery, err, "")
}

// syntax reports whether SQLite's parser refused the text, before it looked at any name.
func syntax(message string) bool {
	for _, s := range []string{": syntax error", "incomplete input", "unrecognized token"} {
		if strings.Contains(message, s) {
			return true
		}
	}
	return false
}

// unknown returns the names in the statement that are no table, column or function that the caller
// may use, nor defined in the statement itself, as far as can be told without parsing.
func (d *DB) unknown(c *sqlitefile.Conn, st statement) (names, calls []string, err error) {
	tables, err := d.schema(c)
	if err != nil {
		return nil, nil, err
	}
	known := map[string]bool{"rowid": true, "oid": true, "_rowid_": true, "true": true, "false": true}
	for _, t := range tables {
		known[strings.ToLower(t.Name)] = true
		for _, col := range t.Columns {
			known[strings.ToLower(col.Name)] = true
		}
	}
	for _, w := range st.words {
		switch {
		case known[w.name] || w.alias || !w.quoted && keywords[w.name]:
		case functions[w.name] || tableFunctions[w.name]:
		case w.call:
			calls = append(calls, w.name)
		default:
			names = append(names, w.name)
		}
	}
	return first(names), first(calls), nil
}

// first sorts names and keeps the first few, each once.
func first(names []string) []string {
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxNames)]
}
