package sqlite

import (
	"database/sql/driver"
	"maps"
	"slices"
	"strings"

	"modernc.org/sqlite"

	"github.com/atlas-mcp/atlas/internal/source/sqlitefile"
)

// A guard decides, while SQLite compiles one statement, what the statement may do, and notes what
// it reads. SQLite asks it about the real tables and columns, behind every view, alias, subquery
// and common table expression.
type guard struct {
	rules   *rules
	real    map[string]bool // names of real tables; needed if the statement defines names itself
	defines map[string]bool // names that the statement defines (common table expressions)
	tables  map[string]bool
	columns map[string]bool
	denied  bool
}

// Rules are what every statement of a source is held to; read-only.
type rules struct {
	tables map[string]bool            // tables and views that may be read
	hidden map[string]map[string]bool // by table, the columns that may not
}

// guard installs a guard for st on c.
func (d *DB) guard(c *sqlitefile.Conn, st statement) (*guard, error) {
	g := &guard{rules: d.rules, defines: st.defines, tables: map[string]bool{}, columns: map[string]bool{}}
	if len(st.defines) > 0 {
		g.real = map[string]bool{}
		_, err := c.Query(`SELECT name FROM sqlite_schema UNION ALL SELECT name FROM pragma_module_list`, nil, func(v []driver.Value) (bool, error) {
			name, _ := v[0].(string)
			g.real[strings.ToLower(name)] = true
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return g, c.Authorize(g.authorize)
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
	default: // all else is refused
	}
	if !ok {
		g.denied = true
		return sqlite.AuthorizerDeny
	}
	return sqlite.AuthorizerOK
}

func (g *guard) read(table, column, database string) bool {
	// When a table's rows are used but none of its columns ("count(*)"), SQLite tells the name as
	// the statement has it, without a database. It does so for the names of common table
	// expressions too, which are no tables, unless they are: one may be defined in one place, and
	// the table that it hides be read in another.
	if column == "" && database == "" {
		if g.defines[table] && !g.real[table] && !strings.HasPrefix(table, "sqlite_") && !strings.HasPrefix(table, "pragma_") {
			return true
		}
		database = "main"
	}
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
	if column != "" {
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
// about the process (sqlite_version and its like), those whose time grows with the product of
// their arguments' lengths in one step that cannot be interrupted (json_patch, unhex), and those
// that gather any amount of memory before they look at the largest length of a value
// (json_group_array, json_group_object; group_concat looks at it with each row).
var functions = set(`
	abs ceil ceiling char coalesce concat concat_ws exp floor format glob hex if ifnull iif instr
	length like likelihood likely ln log log10 log2 lower ltrim max min mod nullif octet_length pi
	pow power printf quote radians degrees random randomblob replace round rtrim sign soundex sqrt
	substr substring trim trunc typeof unicode unlikely upper zeroblob
	acos acosh asin asinh atan atan2 atanh cos cosh sin sinh tan tanh

	date datetime julianday strftime time timediff unixepoch current_date current_time current_timestamp

	avg count group_concat string_agg sum total
	row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value

	json json_array json_array_length json_error_position json_extract
	json_insert json_object json_pretty json_quote json_remove json_replace
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
