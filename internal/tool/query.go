package tool

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

const maxRows = 1000

func cells() schema {
	return schema{"type": []string{"string", "number", "boolean", "null"}}
}

// queryTool lets the caller write SQL. What it may read is decided by the source (statements and
// tables) and by policy (facts), not here.
func queryTool(name string, s source.Source) *atlas.Tool {
	q := s.(source.Querier)
	build := func(call atlas.Call) (source.Query, error) {
		v, err := values(call)
		if err != nil {
			return source.Query{}, err
		}
		return source.Query{SQL: str(v, "sql"), Args: plainMap(v["params"]), MaxRows: num(v, "max_rows", maxRows, 100), Agent: true}, nil
	}
	return &atlas.Tool{
		Title: "Query " + name + " with SQL",
		Description: "Runs one read-only SQL SELECT on the " + name + " source and returns its rows. Use it for questions that no " +
			"more specific tool answers; call " + name + "_schema first to learn tables and columns. Pass values as params and " +
			"write them as :name in the statement. It changes nothing.",
		Input: raw(object(schema{
			"sql": with(text("one SELECT statement, values as :name", 8000), "minLength", 1),
			"params": schema{
				"type": "object", "description": "values by parameter name", "maxProperties": 50,
				"propertyNames": schema{"pattern": attributePattern}, "additionalProperties": cells(),
			},
			"max_rows": integer("at most this many rows", maxRows, 100),
		}, "sql")),
		Output: raw(paged(schema{
			"columns":   array(schema{"type": "string"}),
			"rows":      array(schema{"type": "object", "additionalProperties": cells()}),
			"row_count": schema{"type": "integer", "minimum": 0},
		}, "columns", "rows", "row_count", "truncated")),
		Items: "rows", ReadOnly: true, Idempotent: true, CacheTTL: 30 * time.Second, Timeout: queryTimeout,
		Resource: fixedResource(name, name+"_query"),
		Facts: func(ctx context.Context, call atlas.Call) (atlas.Facts, error) {
			query, err := build(call)
			if err != nil {
				return atlas.Facts{}, err
			}
			return q.Inspect(ctx, call.Tenant, query)
		},
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			query, err := build(call)
			if err != nil {
				return atlas.Result{}, err
			}
			rows, err := q.Query(ctx, call.Tenant, query)
			if err != nil {
				return atlas.Result{}, err
			}
			return rowsResult(rows, newLayout(rows.Columns), "rows", true), nil
		},
	}
}

func schemaTool(name string, s source.Source) *atlas.Tool {
	q := s.(source.Querier)
	return &atlas.Tool{
		Title: "Tables of " + name,
		Description: "Lists the tables of the " + name + " source that may be queried, with their columns and types. " +
			"Use it before " + name + "_query. It takes no arguments and changes nothing.",
		Input: raw(object(schema{})),
		Output: raw(paged(schema{
			"tables": array(object(schema{
				"name": schema{"type": "string"},
				"columns": array(object(schema{
					"name": schema{"type": "string"}, "type": schema{"type": "string"},
				}, "name", "type")),
			}, "name", "columns")),
		}, "tables")),
		Items: "tables", ReadOnly: true, Idempotent: true, CacheTTL: 5 * time.Minute, Timeout: queryTimeout,
		Resource: fixedResource(name, name+"_schema"),
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			tables, err := q.Schema(ctx, call.Tenant)
			if err != nil {
				return atlas.Result{}, err
			}
			for i := range tables {
				if tables[i].Columns == nil {
					tables[i].Columns = []source.Column{}
				}
			}
			if tables == nil {
				tables = []source.Table{}
			}
			return answer(map[string]any{"tables": tables})
		},
	}
}

// fixedResource is the resource of a tool that touches one source as a whole, or of one that is made
// of others, which has its level in place of a source.
func fixedResource(sourceName, toolName string) func(atlas.Call) string {
	r := sourceName + "/" + toolName
	return func(atlas.Call) string { return r }
}

// rowsResult writes rows as objects under the key items.
func rowsResult(rows source.Rows, l *layout, items string, withColumns bool) atlas.Result {
	size := 64 + len(items)
	for _, row := range rows.Rows {
		size += l.size(row)
	}
	b := make([]byte, 0, size)
	b = append(b, '{')
	if withColumns {
		b = append(b, `"columns":[`...)
		for i, key := range l.keys {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, key[:len(key)-1]...)
		}
		b = append(b, `],`...)
	}
	b = append(appendString(b, items), `:[`...)
	for i, row := range rows.Rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = l.appendRow(b, row)
	}
	b = append(b, `],"row_count":`...)
	b = strconv.AppendInt(b, int64(len(rows.Rows)), 10)
	b = append(b, `,"truncated":`...)
	b = append(strconv.AppendBool(b, rows.Truncated), '}')
	return atlas.Result{Structured: b, Truncated: rows.Truncated}
}

// A layout is how rows of the same columns are written. It is never changed.
type layout struct {
	columns []string // as the source names them
	keys    [][]byte // as they stand before the values: "name":
}

func newLayout(columns []string) *layout {
	l := &layout{columns: slices.Clone(columns), keys: make([][]byte, len(columns))}
	for i, c := range unique(columns) {
		l.keys[i] = append(appendString(nil, c), ':')
	}
	return l
}

// A layouts keeps the last layout: a statement of the operator's has the same columns each time.
type layouts struct{ last atomic.Pointer[layout] }

func (k *layouts) of(columns []string) *layout {
	if l := k.last.Load(); l != nil && slices.Equal(l.columns, columns) {
		return l
	}
	l := newLayout(columns)
	k.last.Store(l)
	return l
}

// size is about how many bytes a row takes.
func (l *layout) size(row []any) int {
	n := 2
	for i, key := range l.keys {
		if i >= len(row) {
			break
		}
		n += len(key) + 21 // the longest integer, and a comma
		if s, ok := row[i].(string); ok {
			n += len(s)
		}
	}
	return n
}

func (l *layout) appendRow(b []byte, row []any) []byte {
	b = append(b, '{')
	for i, key := range l.keys {
		if i >= len(row) {
			break
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = appendValue(append(b, key...), row[i])
	}
	return append(b, '}')
}

// unique gives columns of one name (SELECT a.id, b.id) different keys: id, id_2.
func unique(columns []string) []string {
	seen := make(map[string]bool, len(columns))
	out := make([]string, len(columns))
	for i, c := range columns {
		name := c
		for n := 2; seen[name]; n++ {
			name = c + "_" + strconv.Itoa(n)
		}
		seen[name], out[i] = true, name
	}
	return out
}
