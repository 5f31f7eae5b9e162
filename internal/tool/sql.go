package tool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A statement is SQL with :name parameters, cut at those that take a list.
type statement struct {
	text   string
	params []param // in order of appearance
}

type param struct {
	name       string
	start, end int // of ":name" in text
}

// parseSQL finds the :name parameters of a statement. Quoted text, quoted names, comments, dollar
// quotes and :: casts hold none. Other styles of parameters are errors: a source would bind NULL to
// them or refuse the statement at call time.
func parseSQL(s string) (statement, error) {
	st := statement{text: s}
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '\'' || c == '"' || c == '`':
			end := closing(s, i, c)
			if end < 0 {
				return st, positionError{i, fmt.Sprintf("%c is not closed", c)}
			}
			i = end
		case strings.HasPrefix(s[i:], "--"):
			if end := strings.IndexByte(s[i:], '\n'); end >= 0 {
				i += end
			} else {
				i = len(s)
			}
		case strings.HasPrefix(s[i:], "/*"):
			end := strings.Index(s[i+2:], "*/")
			if end < 0 {
				return st, positionError{i, "/* is not closed"}
			}
			i += end + 4
		case c == '$':
			if tag := dollarTag(s[i:]); tag != "" {
				end := strings.Index(s[i+len(tag):], tag)
				if end < 0 {
					return st, positionError{i, tag + " is not closed"}
				}
				i += end + 2*len(tag)
				continue
			}
			return st, positionError{i, "$ parameters are not supported; write :name"}
		case c == '?':
			return st, positionError{i, "? parameters are not supported; write :name"}
		case c == '@' && i+1 < len(s) && letter(s[i+1]):
			return st, positionError{i, "@ parameters are not supported; write :name"}
		case strings.HasPrefix(s[i:], "::"):
			i += 2
		case c == ':' && i+1 < len(s) && letter(s[i+1]):
			end := i + 1
			for end < len(s) && (letter(s[end]) || '0' <= s[end] && s[end] <= '9') {
				end++
			}
			st.params = append(st.params, param{s[i+1 : end], i, end})
			i = end
		case letter(c): // a word may hold $ in Postgres: skip it whole
			for i < len(s) && (letter(s[i]) || '0' <= s[i] && s[i] <= '9' || s[i] == '$') {
				i++
			}
		default:
			i++
		}
	}
	return st, nil
}

// A positionError is a mistake at a byte of a statement.
type positionError struct {
	offset  int
	message string
}

func (e positionError) Error() string { return e.message }

func letter(c byte) bool { return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// closing returns the index after the quote that closes the one at i, or -1. A doubled quote stands
// for itself.
func closing(s string, i int, quote byte) int {
	for j := i + 1; j < len(s); j++ {
		if s[j] != quote {
			continue
		}
		if j+1 < len(s) && s[j+1] == quote {
			j++
			continue
		}
		return j + 1
	}
	return -1
}

// dollarTag returns the tag that opens a dollar-quoted text of Postgres, such as $$ or $x$.
func dollarTag(s string) string {
	for j := 1; j < len(s); j++ {
		switch c := s[j]; {
		case c == '$':
			return s[:j+1]
		case letter(c) || j > 1 && '0' <= c && c <= '9':
		default:
			return ""
		}
	}
	return ""
}

// bind returns the query for a call's arguments. A list becomes as many parameters as it has
// elements, :ids_0, :ids_1, …; an empty one becomes NULL, which nothing equals. The statement is
// otherwise never changed, and no value becomes part of it.
func (st statement) bind(lists map[string]bool, v map[string]any, limit int) source.Query {
	q := source.Query{SQL: st.text, Args: make(map[string]any, len(v)), MaxRows: limit}
	var b strings.Builder
	last := 0
	for _, p := range st.params {
		value := plain(v[p.name])
		if !lists[p.name] {
			q.Args[p.name] = value
			continue
		}
		b.WriteString(st.text[last:p.start])
		last = p.end
		items, _ := value.([]any)
		if len(items) == 0 {
			b.WriteString("NULL")
		}
		for i, item := range items {
			if i > 0 {
				b.WriteString(", ")
			}
			name := p.name + "_" + strconv.Itoa(i)
			b.WriteString(":" + name)
			q.Args[name] = item
		}
	}
	if last > 0 {
		q.SQL = b.String() + st.text[last:]
	}
	return q
}

// sqlBody makes a tool that runs one statement of the operator's with bound arguments.
func (b *builder) sqlBody(s *spec) *definition {
	querier, ok := capable[source.Querier](s)
	var text string
	s.bodyValue.decode("sql", &text)
	text = strings.TrimSpace(text)
	if text == "" {
		s.bodyValue.errorf("sql is empty; write one SELECT statement")
		return nil
	}
	st, err := parseSQL(text)
	if err != nil {
		s.sqlPlace(text, err).errorf("sql: %s", err)
		return nil
	}
	var used []string
	lists := map[string]bool{}
	for _, p := range st.params {
		used = append(used, p.name)
		schema, known := s.properties[p.name]
		if !known {
			s.sqlPlace(text, positionError{offset: p.start}).errorf("sql: :%s is no input of %s; add it to input", p.name, s.name)
			continue
		}
		lists[p.name] = schema["type"] == "array"
	}
	for _, name := range slices.Sorted(maps.Keys(lists)) { // :ids_0 of a list must not be another parameter's name
		for _, other := range used {
			if rest, ok := strings.CutPrefix(other, name+"_"); lists[name] && ok && isDigits(rest) {
				s.bodyValue.errorf("sql: :%s may be taken for an element of the list :%s; give it another name", other, name)
			}
		}
	}
	s.checkUsed(used)
	if s.maxRows < 0 || s.maxRows > maxRows {
		s.found["max_rows"].errorf("max_rows: must be between 1 and %d", maxRows)
	}
	if !ok {
		return nil
	}
	limit := cmp.Or(s.maxRows, 100)
	if s.single {
		limit = 1
	}
	build := func(call atlas.Call) (source.Query, error) {
		v, err := values(call)
		if err != nil {
			return source.Query{}, err
		}
		return st.bind(lists, v, limit), nil
	}
	items := ""
	row := schema{"type": "object"}
	out := row
	if !s.single {
		items = cmp.Or(s.items, "rows")
		out = listSchema(items, schema{"type": "object", "additionalProperties": cells()})
	}
	ids := ""
	for name, list := range lists {
		if list && len(s.properties) == 1 {
			ids = name
		}
	}
	single := s.single
	var known layouts
	t := &atlas.Tool{
		Output: raw(out), Items: items,
		Scopes: sourceScope(s, "read"), ReadOnly: true, Idempotent: true, Reads: reads(s.verb, false),
		CacheTTL: 30 * time.Second, Timeout: queryTimeout,
		Resource: fixedResource(s.source, s.name),
		Facts: func(ctx context.Context, call atlas.Call) (atlas.Facts, error) {
			q, err := build(call)
			if err != nil {
				return atlas.Facts{}, err
			}
			return querier.Inspect(ctx, call.Tenant, q)
		},
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			q, err := build(call)
			if err != nil {
				return atlas.Result{}, err
			}
			rows, err := querier.Query(ctx, call.Tenant, q)
			if err != nil {
				return atlas.Result{}, err
			}
			l := known.of(rows.Columns)
			if !single {
				return rowsResult(rows, l, items, false), nil
			}
			if len(rows.Rows) == 0 {
				return atlas.Result{}, &atlas.Error{Code: atlas.CodeNotFound}
			}
			row := rows.Rows[0]
			return atlas.Result{Structured: l.appendRow(make([]byte, 0, l.size(row)), row)}, nil
		},
	}
	return &definition{tool: t, body: text, ids: ids}
}

// sqlPlace returns a node at the line where a mistake of a statement stands.
func (s *spec) sqlPlace(text string, err error) node {
	n := s.bodyValue
	e, ok := errors.AsType[positionError](err)
	if !ok {
		return n
	}
	// Only the literal style keeps the lines of the file.
	if lines, literal := literalLines(n.ast); literal {
		n.at.line += lines + strings.Count(text[:e.offset], "\n")
		n.at.column = 1
	}
	return n
}

func isDigits(s string) bool {
	return s != "" && !slices.ContainsFunc([]byte(s), func(c byte) bool { return c < '0' || c > '9' })
}
