package postgres

import (
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// maxCompiled is how many statements' texts are kept taken apart.
const maxCompiled = 1024

// A compiled statement is what can be known of a text once and for all.
type compiled struct {
	st    statement
	names []string // of the parameters, sorted
	bound atomic.Pointer[binding]
}

// A binding is one way of giving a statement's parameters to Postgres, which infers their types from
// how they are used.
type binding struct {
	text  string   // with $1, $2…
	names []string // of the parameters, by number
	types []uint32 // by number; 0 is left to Postgres
	each  bool     // every place has a number of its own

	wrapped atomic.Pointer[wrapped]
}

// wrapped is a text with its limit of rows.
type wrapped struct {
	limit int
	text  string
}

func compile(sql string) (*compiled, error) {
	st, err := split(sql)
	if err != nil {
		return nil, err
	}
	c := &compiled{st: st, names: st.names()}
	c.bound.Store(st.bind(false))
	return c, nil
}

// bind replaces the :names by numbers: one for each name, or one for each place. The second lets
// ":x IS NULL OR n = :x" pass, for which Postgres finds two types.
func (st statement) bind(each bool) *binding {
	b := &binding{each: each}
	if len(st.params) == 0 {
		b.text = st.text
		return b
	}
	var text strings.Builder
	numbers := map[string]int{}
	last := 0
	for _, p := range st.params {
		n, known := numbers[p.name]
		if !known || each {
			b.names = append(b.names, p.name)
			n = len(b.names)
			numbers[p.name] = n
		}
		text.WriteString(st.text[last:p.start])
		if p.start > 0 && idChar(st.text[p.start-1]) { // LIMIT:n
			text.WriteByte(' ')
		}
		text.WriteString("$" + strconv.Itoa(n))
		last = p.end
	}
	text.WriteString(st.text[last:])
	b.text = text.String()
	return b
}

// limited returns the statement so that it gives at most limit rows, whatever it says itself. It
// stands in parentheses, which it cannot leave: split has counted its own, and a comment at its end
// is cut off.
func (b *binding) limited(limit int) string {
	if w := b.wrapped.Load(); w != nil && w.limit == limit {
		return w.text
	}
	text := "SELECT * FROM (" + b.text + "\n) AS atlas_answer LIMIT " + strconv.Itoa(limit)
	b.wrapped.Store(&wrapped{limit, text})
	return text
}

// retyped returns the next binding to try after Postgres could not tell the type of a parameter, or
// nil if there is none.
func (c *compiled) retyped(b *binding, err error, args map[string]any) *binding {
	switch pgrls.SQLState(err) {
	case "42P08": // ambiguous_parameter
		if !b.each {
			return c.st.bind(true)
		}
	case "42P18": // indeterminate_datatype
		n := b.unknown(err)
		if n == 0 {
			return nil
		}
		next := &binding{text: b.text, names: b.names, each: b.each, types: make([]uint32, len(b.names))}
		copy(next.types, b.types)
		if next.types[n-1] != 0 {
			return nil
		}
		next.types[n-1] = typeOf(args[b.names[n-1]])
		return next
	}
	return nil
}

// unknown returns the number of the parameter that an error is about, 0 if it tells none.
func (b *binding) unknown(err error) int {
	_, after, ok := strings.Cut(err.Error(), "parameter $")
	if !ok {
		// The server speaks another language: take the first that has no type.
		for i := range b.names {
			if i >= len(b.types) || b.types[i] == 0 {
				return i + 1
			}
		}
		return 0
	}
	end := 0
	for end < len(after) && digit(after[end]) {
		end++
	}
	n, _ := strconv.Atoi(after[:end])
	if n > len(b.names) {
		return 0
	}
	return n
}

// typeOf is the type of a parameter that the statement says nothing about.
func typeOf(v any) uint32 {
	v, _ = source.Scalar(v)
	switch v.(type) {
	case int64:
		return pgtype.Int8OID
	case float64:
		return pgtype.Float8OID
	case bool:
		return pgtype.BoolOID
	}
	return pgtype.TextOID
}
