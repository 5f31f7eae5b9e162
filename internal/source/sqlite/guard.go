package sqlite

import (
	"maps"
	"slices"
	"strings"

	"modernc.org/sqlite"
)

// A guard decides, while SQLite compiles one statement, what the statement may do, and notes what
// it reads. SQLite asks it about the real tables and columns, behind every view, alias, subquery
// and common table expression.
type guard struct {
	rules   *rules
	tables  map[string]bool
	columns map[string]bool
	denied  bool
}

// Rules are what every statement of a source is held to; read-only.
type rules struct {
	tables map[string]bool            // tables and views that may be read
	hidden map[string]map[string]bool // by table, the columns that may not
}

func newGuard(r *rules) *guard {
	return &guard{rules: r, tables: map[string]bool{}, columns: map[string]bool{}}
}

// authorize is the guard's [sqlite.AuthorizerFn]. It allows what it knows and refuses the rest:
// writing, PRAGMA, ATTACH, transactions, the schema tables, and whatever later versions add.
//
// The last argument, which names the view that a table is read for, must not widen what is
// allowed: SQLite gives the name of a common table expression there too, which the caller chooses.
func (g *guard) authorize(action sqlite.AuthorizerActionCode, arg1, arg2, database, _ string) sqlite.AuthorizerReturnCode {
	ok := false
	switch action {
	case sqlite.AuthSelect, sqlite.AuthRecursive:
		ok = true
	case sqlite.AuthFunction:
		ok = functions[strings.ToLower(arg2)]
	case sqlite.AuthRead:
		ok = g.read(strings.ToLower(arg1), strings.ToLower(arg2), database)
	}
	if !ok {
		g.denied = true
		return sqlite.AuthorizerDeny
	}
	return sqlite.AuthorizerOK
}

func (g *guard) read(table, column, database string) bool {
	if database != "main" {
		return false
	}
	if tableFunctions[table] {
		return true
	}
	if !g.rules.tables[table] || g.rules.hidden[table][column] {
		return false
	}
	g.tables[table] = true
	if column != "" { // empty: the table's rows are counted, say, and no column is read
		g.columns[column] = true
	}
	return true
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

// set makes a set of the words of list.
func set(list string) map[string]bool {
	out := map[string]bool{}
	for w := range strings.FieldsSeq(list) {
		out[w] = true
	}
	return out
}

// tableFunctions are table-valued functions that compute and read nothing.
var tableFunctions = set(`json_each json_tree`)

// functions may be called. Left out are those that reach out of the statement (load_extension,
// fts3_tokenizer, sqlite_log, sqlite_offset, everything of FTS5 and sqlite-vec), those that tell
// about the process (sqlite_version and its like), and those whose time grows with the product of
// their arguments' lengths in one step that cannot be interrupted (json_patch, unhex).
var functions = set(`
	abs ceil ceiling char coalesce concat concat_ws exp floor format glob hex if ifnull iif instr
	length like likelihood likely ln log log10 log2 lower ltrim max min mod nullif octet_length pi
	pow power printf quote radians degrees random randomblob replace round rtrim sign soundex sqrt
	substr substring trim trunc typeof unicode unlikely upper zeroblob
	acos acosh asin asinh atan atan2 atanh cos cosh sin sinh tan tanh

	date datetime julianday strftime time timediff unixepoch current_date current_time current_timestamp

	avg count group_concat string_agg sum total
	row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value

	json json_array json_array_length json_error_position json_extract json_group_array
	json_group_object json_insert json_object json_pretty json_quote json_remove json_replace
	json_set json_type json_valid -> ->>
`)

// keywords are the words of SQL that may come before an identifier that is not an alias.
var keywords = set(`
	all and as asc between by case cast collate cross current desc distinct else end escape except
	exclude exists filter first following for from full glob group groups having if in indexed inner
	intersect into is isnull join last left like limit match materialized natural no not notnull null
	nulls offset on or order others outer over partition preceding range recursive right row rows
	select set then ties to unbounded union using values when where window with
	delete insert update create drop alter attach detach pragma vacuum analyze reindex explain begin
	commit rollback savepoint release replace table index view trigger virtual temp temporary returning default key main
`)
