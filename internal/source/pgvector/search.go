package pgvector

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// everyRow as the bound of exact search compares all of the tenant's vectors.
const everyRow = math.MaxInt32

// errForeign is the cause of the failure when the server gave what is not the tenant's.
var errForeign = errors.New("the server answered with a row that is not the tenant's; the answer was dropped")

// A question is a search, checked.
type question struct {
	tenant     atlas.TenantID
	vector     []float32 // nil: asks only whether all vectors are from one embedder
	conditions []source.Condition
	k          int
}

// nearest searches, and reports whether all vectors that pass the filters were compared. Up to
// exact of the tenant's vectors they are.
func (x *Index) nearest(ctx context.Context, q question, exact int) (source.Hits, bool, error) {
	hits := source.Hits{Total: -1, Hits: []source.Hit{}}
	st := statement(pgrls.Identifier(x.cfg.Schema, x.cfg.Table), x.embed.ID(), q, exact)
	all := true
	_, err := x.db.Query(ctx, q.tenant, st, func(r pgrls.Row) (bool, error) {
		if string(r.Raw(0)) != "f" {
			return false, source.ErrOtherEmbedder(errors.New("the tenant has vectors of another embedder than " + x.embed.ID()))
		}
		all = string(r.Raw(1)) == "t"
		if r.Raw(2) == nil {
			return true, nil // nothing was found; the row only says the above
		}
		if string(r.Raw(2)) != string(q.tenant) {
			return false, errForeign
		}
		h, err := hit(r)
		hits.Hits = append(hits.Hits, h)
		return true, err
	})
	if errors.Is(err, errForeign) {
		x.log.ErrorContext(ctx, "tenant isolation: an answer held another tenant's data and was dropped; is row-level security on?", "tenant", string(q.tenant))
		err = atlas.Errorf(atlas.CodeSourceError, err, "")
	}
	if err != nil {
		if code := atlas.CodeOf(err); code == atlas.CodeInvalidQuery || code == atlas.CodeInvalidArguments || code == atlas.CodeSourceError {
			// The statement is the driver's: the table may be another one by now.
			x.gate.Doubt()
			err = atlas.Errorf(atlas.CodeSourceError, err, "")
		}
		return source.Hits{}, false, err
	}
	return hits, all, nil
}

// statement is the one statement of a search. Its text depends on the number of filters only; all
// that callers say is in its parameters. The first two columns are whether the tenant has vectors
// of another embedder, and whether the search is exact.
func statement(table, embedder string, q question, exact int) pgrls.Statement {
	args := []any{string(q.tenant), embedder, min(exact, everyRow-1) + 1}
	var b strings.Builder
	b.WriteString(`WITH about AS MATERIALIZED (SELECT
	EXISTS (SELECT FROM ` + table + ` WHERE tenant_id = $1 AND embedder < $2) OR EXISTS (SELECT FROM ` + table + ` WHERE tenant_id = $1 AND embedder > $2) AS other,
	(SELECT count(*) FROM (SELECT FROM ` + table + ` WHERE tenant_id = $1 LIMIT $3) s) < $3 AS exact)
`)
	if q.vector == nil {
		b.WriteString(`SELECT other, true, NULL FROM about`)
		return pgrls.Statement{SQL: b.String(), Args: args}
	}
	args = append(args, vectorText(q.vector), q.k)
	var where strings.Builder
	where.WriteString(`tenant_id = $1 AND embedding IS NOT NULL`)
	for _, c := range q.conditions {
		values, id := filterValues(c)
		args = append(args, arrayText(values))
		n := "$" + strconv.Itoa(len(args))
		if id {
			where.WriteString(` AND id = ANY (` + n + `::text[])`)
		} else {
			where.WriteString(` AND attrs @> ANY (` + n + `::jsonb[])`)
		}
	}
	// OFFSET 0 keeps the planner from the index in the first part. Of the two parts one has a
	// condition that is false before it reads a row.
	const columns = `SELECT tenant_id, id, title, body, url, attrs, embedding <=> $4::vector AS distance FROM `
	b.WriteString(`SELECT about.other, about.exact, d.tenant_id, d.id, d.title, d.body, d.url, d.attrs, d.distance
FROM about LEFT JOIN (
	(SELECT * FROM (` + columns + table + ` WHERE (SELECT exact FROM about) AND ` + where.String() + ` OFFSET 0) one ORDER BY distance, id LIMIT $5)
	UNION ALL
	(` + columns + table + ` WHERE NOT (SELECT exact FROM about) AND ` + where.String() + ` ORDER BY embedding <=> $4::vector LIMIT $5)
) d ON true
ORDER BY d.distance, d.id`)
	return pgrls.Statement{SQL: b.String(), Args: args, Set: []pgrls.Setting{
		{Name: "hnsw.iterative_scan", Value: "strict_order"},
		{Name: "hnsw.ef_search", Value: strconv.Itoa(max(40, q.k))},
		{Name: "plan_cache_mode", Value: "force_custom_plan"}, // which index serves depends on the tenant
	}}
}

// filterValues returns what a condition's parameter lists, and whether it is about the id. What
// Postgres cannot hold is left out: nothing has it.
func filterValues(c source.Condition) (values []string, id bool) {
	holds := func(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
	id = c.Name == source.FilterID
	for _, v := range c.Values {
		s, text := v.(string)
		switch {
		case text && !holds(s), !holds(c.Name):
		case id && text:
			values = append(values, s)
		case !id:
			data, err := json.Marshal(map[string]any{c.Name: v})
			if err == nil {
				values = append(values, string(data))
			}
		}
	}
	return values, id
}

// arrayText is a Postgres array of the texts.
func arrayText(list []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, s := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		for j := range len(s) {
			if s[j] == '"' || s[j] == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(s[j])
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// vectorText is a vector as pgvector reads it.
func vectorText(v []float32) string {
	b := make([]byte, 0, 12*len(v)+2)
	b = append(b, '[')
	for i, f := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(f), 'g', -1, 32)
	}
	return string(append(b, ']'))
}

// hit is a row as callers see it.
func hit(r pgrls.Row) (source.Hit, error) {
	fields := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(r.Raw(7)))
	dec.UseNumber()
	if err := dec.Decode(&fields); err != nil {
		return source.Hit{}, fmt.Errorf("decode attributes: %w", err)
	}
	for name, v := range fields {
		fields[name], _ = source.Scalar(v)
	}
	body := string(r.Raw(5))
	fields["title"], fields["body"] = string(r.Raw(4)), body
	if url := string(r.Raw(6)); url != "" {
		fields["url"] = url
	}
	distance, err := strconv.ParseFloat(string(r.Raw(8)), 64)
	if err != nil {
		return source.Hit{}, fmt.Errorf("decode distance: %w", err)
	}
	return source.Hit{ID: string(r.Raw(3)), Score: 1 - distance, Snippet: source.Snippet(body), Fields: fields}, nil
}
