package postgres

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
	"github.com/atlas-mcp/atlas/internal/source/postgres/sqlguard"
)

// A DB is an open source. It implements source.Querier and source.Loader.
type DB struct {
	cfg   Config
	trace func(context.Context) string
	db    *pgrls.DB
	share *pgrls.Share // of the connections, for agents' statements

	readable atomic.Pointer[readable] // what the role may read, as last asked
	asking   sync.Mutex

	mu     sync.Mutex
	kept   map[string]*compiled // operators' statements by text
	guards []*sqlguard.Guard    // made so far: one for each change of the schema
}

func newDB(cfg Config, deps source.Deps, db *pgrls.DB) *DB {
	trace := deps.TraceParent
	if trace == nil {
		trace = func(context.Context) string { return "" }
	}
	return &DB{cfg: cfg, trace: trace, db: db, share: pgrls.NewShare(cfg.Agents.AtOnce), kept: map[string]*compiled{}}
}

// Ping asks the server whether it can answer, and checks role and tables again. Its error says, for
// operators, what was found and what mends it.
func (d *DB) Ping(ctx context.Context) error { return d.db.Ping(ctx) }

// Report returns what stands in the database against agents' SQL, and what should be mended.
func (d *DB) Report() pgrls.Report { return d.db.Report() }

// Close closes all connections.
func (d *DB) Close() error {
	errs := []error{d.db.Close()}
	d.mu.Lock()
	guards := d.guards
	d.guards = nil
	d.mu.Unlock()
	for _, g := range guards {
		errs = append(errs, g.Close())
	}
	return errors.Join(errs...)
}

// Warm makes ready what the first statement of an agent, or the first Inspect, would wait for (some
// seconds): the parser. A server calls it beside its start; nothing depends on it.
func (d *DB) Warm(ctx context.Context) error {
	r, err := d.names(ctx, "atlas") // the catalog is the same for all
	if err != nil {
		return err
	}
	g, err := r.guard()
	if err != nil {
		return err
	}
	return g.Warm(ctx)
}

// Query implements source.Querier. Besides invalid_query its codes are invalid_arguments for
// parameters that do not fit the statement, too_large for a statement or a row above the limits, and
// source_misconfigured for an agent's statement while the database would let it do more than its
// text may say.
func (d *DB) Query(ctx context.Context, tenant atlas.TenantID, q source.Query) (source.Rows, error) {
	if q.MaxRows < 0 {
		return source.Rows{}, atlas.Errorf(atlas.CodeInvalidArguments, nil, "max_rows is negative").With("argument", "max_rows")
	}
	limit := d.cfg.MaxRows
	if q.MaxRows > 0 {
		limit = min(limit, q.MaxRows)
	}
	c, err := d.compiled(q)
	if err != nil {
		return source.Rows{}, err
	}
	if err := c.checkArgs(q.Args); err != nil {
		return source.Rows{}, err
	}
	if q.Agent {
		return d.agent(ctx, tenant, c, q.Args, limit)
	}
	if err := d.opened(ctx, tenant, c); err != nil {
		return source.Rows{}, err
	}
	var rows source.Rows
	st := pgrls.Statement{Timeout: d.cfg.Timeout}
	err = c.try(q.Args, func(b *binding) (err error) {
		st.SQL, st.Types = b.limited(limit+1), b.types
		rows, err = d.run(ctx, tenant, st, b, q.Args, limit)
		return err
	})
	if err != nil {
		return source.Rows{}, d.explain(ctx, tenant, c, err)
	}
	return rows, nil
}

// run runs one statement and collects its rows, up to limit and to the limit of bytes.
func (d *DB) run(ctx context.Context, tenant atlas.TenantID, st pgrls.Statement, b *binding, args map[string]any, limit int) (source.Rows, error) {
	var few [8]any
	st.Args = few[:0]
	for _, name := range b.names {
		st.Args = append(st.Args, args[name])
	}
	if tp := d.trace(ctx); tp != "" {
		st.Trace = tp
	}
	out := source.Rows{Rows: [][]any{}}
	bytes := 0
	cols, err := d.db.Query(ctx, tenant, st, func(r pgrls.Row) (bool, error) {
		if len(out.Rows) == limit {
			out.Truncated = true
			return false, nil
		}
		row := make([]any, r.Len())
		for i := range row {
			var size int
			row[i], size = r.Value(i)
			bytes += size
		}
		if bytes > d.cfg.MaxResultBytes {
			if len(out.Rows) == 0 {
				return false, atlas.Errorf(atlas.CodeTooLarge, nil, "a row of the answer is larger than the limit").
					With("limit_bytes", d.cfg.MaxResultBytes)
			}
			out.Truncated = true
			return false, nil
		}
		out.Rows = append(out.Rows, row)
		return true, nil
	})
	if err != nil {
		return source.Rows{}, err
	}
	if len(cols) == 0 {
		return source.Rows{}, atlas.Errorf(atlas.CodeInvalidQuery, nil, "the query selects nothing")
	}
	out.Columns = make([]string, len(cols))
	for i, c := range cols {
		out.Columns[i] = c.Name
	}
	return out, nil
}

// Inspect implements source.Querier: it reads the statement by Postgres's grammar, without asking
// the server. Parameters need not have values.
func (d *DB) Inspect(ctx context.Context, tenant atlas.TenantID, q source.Query) (atlas.Facts, error) {
	c, err := d.compiled(q)
	if err != nil {
		return atlas.Facts{}, err
	}
	r, err := d.names(ctx, tenant)
	if err != nil {
		return atlas.Facts{}, err
	}
	g, err := r.guard()
	if err != nil {
		return atlas.Facts{}, err
	}
	v, err := g.Check(ctx, tenant, c.bound.Load().text)
	if err != nil {
		return atlas.Facts{}, err
	}
	return atlas.Facts{SQL: q.SQL, Tables: v.Tables, Columns: v.Columns}, nil
}

// Schema implements source.Querier: the configured tables, by name, with the columns that the role
// may read and that are not hidden.
func (d *DB) Schema(ctx context.Context, tenant atlas.TenantID) ([]source.Table, error) {
	r, err := d.names(ctx, tenant)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(r.tables)
	for i := range out {
		out[i].Columns = slices.Clone(out[i].Columns)
	}
	return out, nil
}

// compiled takes a statement apart, and keeps an operator's: there are few of them.
func (d *DB) compiled(q source.Query) (*compiled, error) {
	if len(q.SQL) > d.cfg.MaxSQLBytes {
		return nil, atlas.Errorf(atlas.CodeTooLarge, nil, "the query is longer than the limit").With("limit_bytes", d.cfg.MaxSQLBytes)
	}
	if q.Agent {
		return compile(q.SQL)
	}
	d.mu.Lock()
	c := d.kept[q.SQL]
	d.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := compile(q.SQL)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.kept) >= maxCompiled {
		clear(d.kept)
	}
	d.kept[q.SQL] = c
	return c, nil
}

// checkArgs compares the parameters of the statement with the values given.
func (c *compiled) checkArgs(args map[string]any) error {
	var missing []string
	for _, name := range c.names {
		v, ok := args[name]
		if !ok {
			missing = append(missing, name)
			continue
		}
		if v != nil {
			if _, ok := source.Scalar(v); !ok {
				return atlas.Errorf(atlas.CodeInvalidArguments, nil, "a parameter must be a string, a number, a boolean or null").With("parameter", name)
			}
		}
	}
	if len(missing) > 0 {
		return atlas.Errorf(atlas.CodeInvalidArguments, nil, "parameters of the query have no value").With("missing", missing)
	}
	if len(args) > len(c.names) {
		surplus := slices.DeleteFunc(slices.Sorted(maps.Keys(args)), func(n string) bool { return slices.Contains(c.names, n) })
		return atlas.Errorf(atlas.CodeInvalidArguments, nil, "the query has no parameters of these names").With("surplus", surplus)
	}
	return nil
}

// try runs fn with the statement's binding, and with others if Postgres cannot tell the type of a
// parameter. What works is kept.
func (c *compiled) try(args map[string]any, fn func(*binding) error) error {
	b := c.bound.Load()
	err := fn(b)
	for range 2 * len(c.st.params) {
		next := (*binding)(nil)
		if err != nil {
			next = c.retyped(b, err, args)
		}
		if next == nil {
			break
		}
		b = next
		if err = fn(b); err == nil {
			c.bound.Store(b)
		}
	}
	return err
}

// agent runs a statement that an agent wrote: not its text, but what the guard made of it.
func (d *DB) agent(ctx context.Context, tenant atlas.TenantID, c *compiled, args map[string]any, limit int) (source.Rows, error) {
	if d.cfg.Agents.Disabled {
		return source.Rows{}, atlas.Errorf(atlas.CodeSourceMisused, errDisabled, "SQL of one's own is switched off for this source; use a more specific tool")
	}
	r, err := d.names(ctx, tenant)
	if err != nil {
		return source.Rows{}, err
	}
	if err := d.db.Report().Agents(); err != nil {
		return source.Rows{}, atlas.Errorf(atlas.CodeSourceMisused, err, "")
	}
	g, err := r.guard()
	if err != nil {
		return source.Rows{}, err
	}
	var rows source.Rows
	err = c.try(args, func(b *binding) error {
		v, err := g.Check(ctx, tenant, b.text)
		if err != nil {
			return err
		}
		if v.Params > len(b.names) {
			return atlas.Errorf(atlas.CodeInvalidQuery, nil, "write parameters as :name")
		}
		st := pgrls.Statement{
			SQL:   "SELECT * FROM (" + v.SQL + "\n) AS atlas_answer LIMIT " + strconv.Itoa(limit+1),
			Types: b.types, Once: true, Timeout: d.cfg.Agents.Timeout,
			Set: []pgrls.Setting{
				{Name: "work_mem", Value: strconv.Itoa(d.cfg.Agents.WorkMem>>10) + "kB"},
				{Name: "max_parallel_workers_per_gather", Value: "0"},
			},
		}
		if err := d.take(ctx, tenant); err != nil {
			return err
		}
		defer d.share.Give(tenant)
		if err := d.affordable(ctx, tenant, st, b, args); err != nil {
			return err
		}
		rows, err = d.run(ctx, tenant, st, b, args, limit)
		return err
	})
	if err != nil {
		return source.Rows{}, d.explain(ctx, tenant, c, err)
	}
	return rows, nil
}

// take waits until the tenant may run one more statement of an agent. Such a statement can keep a
// connection and a processor for as long as it may take, and fill memory that no setting of Postgres
// bounds (array_agg has no work_mem): a tenant that runs many would leave the others nothing.
func (d *DB) take(ctx context.Context, tenant atlas.TenantID) error {
	wait, cancel := context.WithTimeout(ctx, d.cfg.Agents.Timeout)
	defer cancel()
	err := d.share.Take(wait, tenant)
	if err != nil && ctx.Err() == nil {
		return atlas.Errorf(atlas.CodeOverloaded, err, "as many queries of yours are running as may run at once; wait for them")
	}
	if err != nil {
		return atlas.ErrorOf(ctx.Err())
	}
	return nil
}

// names returns what the role may read, asking again after a while.
func (d *DB) names(ctx context.Context, tenant atlas.TenantID) (*readable, error) {
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return nil, atlas.Errorf(atlas.CodeInternal, err, "")
	}
	r := d.readable.Load()
	if r != nil && time.Since(r.at) < d.cfg.CheckInterval {
		return r, ctxErr(ctx)
	}
	if r != nil && !d.asking.TryLock() {
		return r, ctxErr(ctx) // somebody asks already
	} else if r == nil {
		d.asking.Lock()
		if r = d.readable.Load(); r != nil {
			d.asking.Unlock()
			return r, ctxErr(ctx)
		}
	}
	defer d.asking.Unlock()
	next, err := d.ask(ctx, tenant, r)
	if err != nil {
		return nil, err
	}
	d.readable.Store(next)
	return next, nil
}

func ctxErr(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return atlas.ErrorOf(err)
	}
	return nil
}
