package elasticsearch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Bounds of a query body.
const (
	maxBody    = 16 << 10 // bytes
	maxDepth   = 24       // of nested objects and lists
	maxClauses = 128      // of the query
	maxFrom    = 1000
	maxText    = 1000 // characters of one text or value
	maxBoost   = 100
)

// SearchDSL answers a query body that an agent wrote, in the words of the servers' query DSL: query,
// size, from, sort and aggs. aggregations is what its aggregations say, or nil.
//
// A body is never passed on. It is read, and a new one is written from what was understood; what is
// not in [Index.Clauses] is refused, and so a clause that a later server learns is, too. Fields have the
// names that hits show: title, body, url, id, created_at and the configured attributes. The fields
// that the driver keeps for itself have no name here. Nothing of what remains depends on other
// tenants' documents: no scripts and runtime fields, no global aggregations and suggesters, no
// look-ups in other documents, no joins, no expansion of words by the index's dictionary, no
// buckets of terms without documents.
//
// Codes: invalid_query, with the place of the fault, and those of Search. Of body's size and size
// the smaller holds; 0 and less is 10.
func (x *Index) SearchDSL(ctx context.Context, tenant atlas.TenantID, body json.RawMessage, size int) (hits source.Hits, aggregations json.RawMessage, err error) {
	if size <= 0 {
		size = 10
	}
	q, err := x.names.parse(body, min(size, x.cfg.MaxSize))
	if err != nil {
		return source.Hits{}, nil, err
	}
	err = x.call(ctx, tenant, func(ctx context.Context, index string) error {
		found, err := x.ask(ctx, tenant, index, q.query, q.body())
		if _, refused := errors.AsType[errRefused](err); refused {
			return atlas.Errorf(atlas.CodeInvalidQuery, err, "the search server does not accept a value of the query; look at the types of its fields")
		}
		if err != nil {
			return err
		}
		if hits, err = found.documents(); err != nil {
			return err
		}
		aggregations, err = q.aggregations(found)
		return err
	})
	if err != nil {
		return source.Hits{}, nil, err
	}
	return hits, aggregations, nil
}

// A dslQuery is a query body in our own words.
type dslQuery struct {
	query      object
	sort       any // the order of hits, as the server takes it
	size, from int
	aggs       aggregations
}

// body is all of the request but its query. It is a new one each time.
func (q *dslQuery) body() object {
	body := object{"size": q.size, "from": q.from, "sort": q.sort}
	if q.size > 0 {
		body["highlight"] = highlight
	}
	if len(q.aggs) > 0 {
		body["aggs"] = q.aggs.request()
	}
	return body
}

// names are the fields that query bodies may name, and the clauses that they may hold. They are
// read-only.
type names struct {
	fields  map[string]field
	clauses map[string]clause
	listed  string // for hints
}

// A clause reads one kind of query from the value behind its name.
type clause struct {
	doc  string
	read func(r *reader, at place, v any) (object, error)
}

func newNames(cfg Config) *names {
	n := &names{fields: maps.Clone(documentFields), clauses: clauseTable()}
	for name, kind := range cfg.Attributes {
		n.fields[name] = field{typedPath + "." + name, fieldType(kind)}
	}
	n.listed = strings.Join(slices.Sorted(maps.Keys(n.fields)), ", ")
	return n
}

// Clauses are the queries that [Index.SearchDSL] takes, each with what may stand in it.
func (x *Index) Clauses() map[string]string {
	out := map[string]string{}
	for name, c := range x.names.clauses {
		out[name] = c.doc
	}
	return out
}

// Fields are the fields that query bodies may name, each with its type.
func (x *Index) Fields() map[string]string {
	out := map[string]string{}
	for name, f := range x.names.fields {
		out[name] = string(f.kind)
	}
	return out
}

// A reader reads one query body.
type reader struct {
	*names
	left int // clauses that may still come
}

// A place is where in the body something stands, such as query.bool.must[0].
type place string

func (p place) in(name string) place {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, cut(name, 40))
	if p == "" {
		return place(name)
	}
	return p + "." + place(name)
}

func (p place) at(i int) place { return place(fmt.Sprintf("%s[%d]", p, i)) }

// bad is the refusal of what stands at p.
func (p place) bad(format string, args ...any) error {
	return atlas.Errorf(atlas.CodeInvalidQuery, nil, fmt.Sprintf(format, args...)).With("at", string(p))
}

// parse reads a body.
func (n *names) parse(raw []byte, size int) (*dslQuery, error) {
	if len(raw) > maxBody {
		return nil, atlas.Errorf(atlas.CodeTooLarge, nil, "the query body is larger than the limit").With("limit_bytes", maxBody)
	}
	v, err := canonical.Decode(raw, maxDepth)
	if err != nil {
		return nil, atlas.Errorf(atlas.CodeInvalidQuery, err, "the query body is not plain JSON: it has a syntax error, a name twice, a number beyond a double, or too many levels")
	}
	r := &reader{names: n, left: maxClauses}
	q := &dslQuery{query: object{"match_all": object{}}, sort: best, size: size}
	o, err := r.object("", v, "query", "size", "from", "sort", "aggs", "aggregations")
	if err != nil {
		return nil, err
	}
	if v, ok := o["query"]; ok {
		if q.query, err = r.query("query", v); err != nil {
			return nil, err
		}
	}
	if v, ok := o["size"]; ok {
		asked, err := r.whole("size", v, 0, 10_000)
		if err != nil {
			return nil, err
		}
		q.size = min(size, asked)
	}
	if v, ok := o["from"]; ok {
		if q.from, err = r.whole("from", v, 0, maxFrom); err != nil {
			return nil, err
		}
	}
	if v, ok := o["sort"]; ok {
		if q.sort, err = r.sort("sort", v); err != nil {
			return nil, err
		}
	}
	aggs, ok := o["aggs"]
	other, both := o["aggregations"]
	if ok && both {
		return nil, place("aggs").bad("give aggs or aggregations, not both")
	}
	if both {
		aggs = other
	}
	if ok || both {
		budget := maxAggregations
		if q.aggs, err = r.aggregations("aggs", aggs, 1, &budget); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// object reads an object that has the known names only.
func (r *reader) object(at place, v any, known ...string) (map[string]any, error) {
	o, ok := v.(map[string]any)
	if !ok {
		return nil, at.bad("must be an object")
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if !slices.Contains(known, name) {
			return nil, at.in(name).bad("is not allowed here; use %s", strings.Join(known, ", "))
		}
	}
	return o, nil
}

// one reads an object of one member.
func (r *reader) one(at place, v any) (name string, value any, err error) {
	o, ok := v.(map[string]any)
	if !ok || len(o) != 1 {
		return "", nil, at.bad("must be an object with one member")
	}
	for name, value = range o {
		return name, value, nil
	}
	return "", nil, nil
}

// query reads one query.
func (r *reader) query(at place, v any) (object, error) {
	if r.left--; r.left < 0 {
		return nil, at.bad("the query has more than %d clauses", maxClauses)
	}
	name, value, err := r.one(at, v)
	if err != nil {
		return nil, err
	}
	c, ok := r.clauses[name]
	if !ok {
		return nil, at.in(name).bad("is not a query that is allowed; use %s", strings.Join(slices.Sorted(maps.Keys(r.clauses)), ", "))
	}
	return c.read(r, at.in(name), value)
}

// queries reads a list of queries, or one.
func (r *reader) queries(at place, v any) ([]object, error) {
	list, ok := v.([]any)
	if !ok {
		one, err := r.query(at, v)
		return []object{one}, err
	}
	out := make([]object, len(list))
	for i, e := range list {
		var err error
		if out[i], err = r.query(at.at(i), e); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// field finds a field of one of the kinds.
func (r *reader) field(at place, name string, kinds ...fieldType) (field, error) {
	f, ok := r.fields[name]
	if !ok {
		return field{}, at.in(name).bad("is not a field that is allowed here; use %s", r.listed)
	}
	if !slices.Contains(kinds, f.kind) {
		return field{}, at.in(name).bad("cannot be used here: the field is of type %s", f.kind)
	}
	return f, nil
}

func (r *reader) whole(at place, v any, from, to int) (int, error) {
	s, _ := source.Scalar(v)
	n, ok := s.(int64)
	if !ok || n < int64(from) || n > int64(to) {
		return 0, at.bad("must be a whole number between %d and %d", from, to)
	}
	return int(n), nil
}

func (r *reader) number(at place, v any, from, to float64) (float64, error) {
	n, ok := v.(json.Number)
	f, err := n.Float64()
	if !ok || err != nil || f < from || f > to {
		return 0, at.bad("must be a number between %g and %g", from, to)
	}
	return f, nil
}

func (r *reader) text(at place, v any) (string, error) {
	s, ok := v.(string)
	if !ok || s == "" || len(s) > maxText {
		return "", at.bad("must be a text of 1 to %d characters", maxText)
	}
	return s, nil
}

func (r *reader) word(at place, v any, allowed ...string) (string, error) {
	s, _ := v.(string)
	if !slices.Contains(allowed, s) {
		return "", at.bad("must be one of %s", strings.Join(allowed, ", "))
	}
	return s, nil
}

// value reads a value to be compared with a field. Dates may be worked out (now-7d/d).
func (r *reader) value(at place, v any, kind fieldType) (any, error) {
	s, ok := source.Scalar(v)
	if text, is := s.(string); is && len(text) > maxText {
		ok = false
	}
	if _, is := s.(string); ok && kind == dateField {
		ok = is
	} else if ok && kind == longField { // a fraction matches nothing, which is right
		ok = fits(doubleField, s)
	} else if ok {
		ok = fits(kind, s)
	}
	if !ok {
		return nil, at.bad("must be a value of type %s", kind)
	}
	return s, nil
}

// sort reads the order of hits. Ties are broken by id.
func (r *reader) sort(at place, v any) ([]object, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	if len(list) > 4 {
		return nil, at.bad("at most 4 fields")
	}
	var out []object
	for i, e := range list {
		at := at.at(i)
		name, order := "", "asc"
		if s, ok := e.(string); ok {
			if name = s; name == "_score" {
				order = "desc"
			}
		} else {
			key, value, err := r.one(at, e)
			if err != nil {
				return nil, err
			}
			name, at = key, at.in(key)
			if o, ok := value.(map[string]any); ok {
				if _, err := r.object(at, o, "order"); err != nil {
					return nil, err
				}
				value = o["order"]
			}
			if order, err = r.word(at, value, "asc", "desc"); err != nil {
				return nil, err
			}
		}
		if name == "_score" {
			out = append(out, object{"_score": order})
			continue
		}
		f, err := r.field(at, name, keywordField, longField, doubleField, dateField, booleanField)
		if err != nil {
			return nil, err
		}
		out = append(out, object{f.path: object{"order": order, "missing": "_last"}})
	}
	return append(out, object{idPath: "asc"}), nil
}
