package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// maxNames is how many unknown names an error tells.
const maxNames = 10

// opened refuses an operator's statement that names a table which the role may read, but which is
// not among the configured ones. It is a second look: the rights of the role are the first.
func (d *DB) opened(ctx context.Context, tenant atlas.TenantID, c *compiled) error {
	r, err := d.names(ctx, tenant)
	if err != nil || len(r.closed) == 0 {
		return err
	}
	for _, w := range c.st.words {
		if r.closed[w.name] && !r.known[w.name] && !w.alias && !w.call {
			if e := r.unavailable(c.st, nil); e != nil {
				return e
			}
			return atlas.Errorf(atlas.CodeInvalidQuery, nil, "the query uses tables, columns or functions that are not available; the schema lists what is")
		}
	}
	return nil
}

// unavailable says which names of a statement are unknown to the caller.
func (r *readable) unavailable(st statement, cause error) *atlas.Error {
	names := r.unknown(st)
	if len(names) == 0 {
		return nil
	}
	return atlas.Errorf(atlas.CodeInvalidQuery, cause, "the query uses tables, columns or functions that are not available; the schema lists what is").
		With("unknown_names", names)
}

// explain turns the server's refusal of a statement into one that helps to mend it.
//
// What it tells is found from the caller's own text and from what the caller may see, never from the
// server's message: a table that may not be read is answered exactly like one that does not exist,
// whatever the server noticed first.
func (d *DB) explain(ctx context.Context, tenant atlas.TenantID, c *compiled, err error) error {
	state := pgrls.SQLState(err)
	if !strings.HasPrefix(state, "42") && state != "3F000" || ctx.Err() != nil {
		return err
	}
	r, e := d.names(ctx, tenant)
	if e != nil {
		return e
	}
	if e := r.unavailable(c.st, err); e != nil {
		return e
	}
	if state == "42501" {
		return atlas.Errorf(atlas.CodeInvalidQuery, err, "the query reads a column that is not available; name the columns it needs instead of *")
	}
	return err
}

// unknown returns the names in the statement that are no table or column that the caller may read,
// nor defined in the statement itself, as far as can be told without parsing.
func (r *readable) unknown(st statement) []string {
	var names []string
	for _, w := range st.words {
		if !r.known[w.name] && !w.alias && !w.call && (w.quoted || !keywords[w.name]) &&
			len(names) < maxNames && !slices.Contains(names, w.name) {
			names = append(names, w.name) // in the text's order: what is said must not depend on other names
		}
	}
	return names
}

// affordable asks the planner what an agent's statement would cost, if that is limited.
func (d *DB) affordable(ctx context.Context, tenant atlas.TenantID, st pgrls.Statement, b *binding, args map[string]any) error {
	if d.cfg.Agents.MaxCost == 0 {
		return nil
	}
	st.SQL = "EXPLAIN (FORMAT JSON) " + st.SQL
	for _, name := range b.names {
		st.Args = append(st.Args, args[name])
	}
	var text []byte
	_, err := d.db.Query(ctx, tenant, st, func(r pgrls.Row) (bool, error) {
		text = slices.Clone(r.Raw(0))
		return true, nil
	})
	if err != nil {
		return err
	}
	var plans []struct {
		Plan struct {
			Cost float64 `json:"Total Cost"`
		}
	}
	if err := json.Unmarshal(text, &plans); err != nil || len(plans) != 1 {
		return atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("plan of the query: %w", err), "")
	}
	if plans[0].Plan.Cost > d.cfg.Agents.MaxCost {
		// How much it is would tell how many rows there are, of all tenants.
		return atlas.Errorf(atlas.CodeTooLarge, nil, "the query would be too expensive; filter by a key, or join fewer tables")
	}
	return nil
}

// set makes a set of the words of list.
func set(list string) map[string]bool {
	out := map[string]bool{}
	for w := range strings.FieldsSeq(list) {
		out[w] = true
	}
	return out
}

// keywords are the words of Postgres's SELECT that are no name of anything.
var keywords = set(`
	all and any array as asc at asymmetric between bigint bit boolean both by case cast char character collate
	cross cube current current_catalog current_date current_role current_schema current_time
	current_timestamp current_user date day dec decimal default desc distinct double else end escape
	except exclude exists extract false fetch filter first following for from full group grouping groups
	having hour ilike in inner int integer intersect interval into is isnull join json jsonb last lateral
	leading left like limit localtime localtimestamp materialized minute month national natural no not
	notnull null nulls numeric of offset on only or order ordinality others outer over overlaps partition
	percent placing position preceding precision range real recursive rollup row rows second select
	session_user sets similar smallint some substring symmetric table tablesample text then ties time
	timestamp timestamptz to trailing treat trim true unbounded union unique unknown user using uuid
	values varchar varying when where window with within without year zone
	delete insert update create drop alter begin commit rollback explain copy do grant revoke set show
	share returning share nowait skip locked
`)
