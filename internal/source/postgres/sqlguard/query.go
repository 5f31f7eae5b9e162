package sqlguard

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/atlas-mcp/atlas"
)

const (
	maxTargets   = 500  // columns of one SELECT
	maxExpansion = 2000 // columns that all * of a statement stand for
)

// A rewriter checks one statement and rewrites its tree in place. The first refusal is kept in err,
// and ends the walk.
type rewriter struct {
	*rules
	sql     string
	err     error
	depth   int
	items   int // tables, subqueries and functions in FROM
	stars   int // columns that * stood for
	queries int // common table expressions so far
	params  int

	read    map[string]bool // tables
	columns map[string]bool
	aliases map[string]bool // taken in the rewritten statement
}

// rewrite checks and rewrites the tree.
func (r *rules) rewrite(tree *pg.ParseResult, sql string) (Verdict, error) {
	if n := len(tree.GetStmts()); n != 1 {
		return Verdict{}, invalid(0, "send exactly one statement")
	}
	stmt := tree.GetStmts()[0]
	sel := stmt.GetStmt().GetSelectStmt()
	if sel == nil {
		return Verdict{}, invalid(0, "only SELECT and VALUES are allowed")
	}
	stmt.StmtLen = 0
	w := &rewriter{rules: r, sql: sql, read: map[string]bool{}, columns: map[string]bool{}, aliases: map[string]bool{}}
	w.query(sel, nil, nil)
	if w.err != nil {
		return Verdict{}, w.err
	}
	return Verdict{Tables: lower(w.read), Columns: lower(w.columns), Params: w.params}, nil
}

func lower(m map[string]bool) []string {
	l := make([]string, 0, len(m))
	for s := range maps.Keys(m) {
		l = append(l, strings.ToLower(s))
	}
	slices.Sort(l)
	return slices.Compact(l)
}

// refuse keeps the first refusal. at is a byte offset, or negative.
func (w *rewriter) refuse(at int32, format string, args ...any) {
	if w.err != nil {
		return
	}
	char := 0
	if at > 0 && int(at) <= len(w.sql) {
		char = utf8.RuneCountInString(w.sql[:at]) + 1
	}
	w.err = invalid(char, fmt.Sprintf(format, args...))
}

// enter goes one level down; the caller leaves it again if it returns true.
func (w *rewriter) enter() bool {
	if w.err != nil {
		return false
	}
	if w.depth >= w.maxDepth {
		w.err = atlas.Errorf(atlas.CodeTooLarge, nil, fmt.Sprintf("the query is nested deeper than %d levels (an operator is one, a subquery two); write a simpler one", w.maxDepth))
		return false
	}
	w.depth++
	return true
}

func (w *rewriter) leave() { w.depth-- }

// A relation is what an alias in FROM means.
type relation struct {
	name   string   // as the statement calls it
	alias  string   // as the rewritten statement calls it: no other relation of it is called so
	table  string   // the configured table, if it is one: only then are there columns besides cols
	cols   []string // those that may be read
	scalar bool     // a function of one column, for which its alias stands too
}

// A column is what a bare name, or a part of *, means.
type column struct {
	name string
	rel  *relation
}

// A scope is what the names of one level of the statement mean.
type scope struct {
	parent *scope
	with   *cte
	rels   []*relation
	cols   []column
	merged bool // by USING: * is no longer the columns of all relations
}

// A cte is a common table expression; next is the one before it, or around it.
type cte struct {
	name, as string
	cols     []string
	next     *cte
}

func (c *cte) find(name string) *cte {
	for ; c != nil && c.name != name; c = c.next {
	}
	return c
}

// query checks a SELECT, a VALUES or a set operation and returns the names of its columns.
func (w *rewriter) query(s *pg.SelectStmt, outer *scope, with *cte) []string {
	if !w.enter() {
		return nil
	}
	defer w.leave()
	if !w.enter() { // it costs the writer of SQL twice the stack
		return nil
	}
	defer w.leave()
	switch {
	case s == nil:
		w.refuse(-1, "only SELECT and VALUES are allowed")
	case s.IntoClause != nil:
		w.refuse(s.IntoClause.GetRel().GetLocation(), "SELECT INTO is not allowed: queries only read")
	case len(s.LockingClause) > 0:
		w.refuse(-1, "FOR UPDATE and FOR SHARE are not allowed: queries only read")
	case s.GroupDistinct:
		w.refuse(-1, "GROUP BY DISTINCT is not allowed")
	}
	if w.err != nil {
		return nil
	}
	with = w.with(s.WithClause, outer, with)
	sc := &scope{parent: outer, with: with}
	var out []string
	switch {
	case s.Op == pg.SetOperation_SETOP_UNION, s.Op == pg.SetOperation_SETOP_INTERSECT, s.Op == pg.SetOperation_SETOP_EXCEPT:
		out = w.query(s.Larg, outer, with)
		w.query(s.Rarg, outer, with)
		w.sortOutput(s.SortClause, out)
	case s.Op != pg.SetOperation_SETOP_NONE:
		w.refuse(-1, "this kind of query is not allowed")
	case len(s.ValuesLists) > 0:
		for _, row := range s.ValuesLists {
			w.exprs(row.GetList().GetItems(), sc)
		}
		for i := range s.ValuesLists[0].GetList().GetItems() {
			out = append(out, fmt.Sprintf("column%d", i+1))
		}
		w.sortOutput(s.SortClause, out)
	default:
		out = w.simple(s, sc)
	}
	w.expr(s.LimitOffset, sc)
	w.expr(s.LimitCount, sc)
	return out
}

// simple checks a SELECT that is no set operation.
func (w *rewriter) simple(s *pg.SelectStmt, sc *scope) []string {
	for _, f := range s.FromClause {
		w.join(sc, w.from(f, sc))
	}
	targets, out := w.targets(s.TargetList, sc)
	s.TargetList = targets
	w.expr(s.WhereClause, sc)
	w.group(s.GroupClause, sc, out)
	w.expr(s.HavingClause, sc)
	for _, n := range s.WindowClause {
		if d := n.GetWindowDef(); d != nil {
			w.window(d, sc)
		} else {
			w.refuse(-1, "this WINDOW clause is not allowed")
		}
	}
	for _, n := range s.DistinctClause {
		if n.GetNode() != nil && !named(n, out) { // an empty one is DISTINCT without ON
			w.expr(n, sc)
		}
	}
	for _, n := range s.SortClause {
		by := w.sortBy(n)
		if by != nil && !named(by.Node, out) {
			w.expr(by.Node, sc)
		}
	}
	return out
}

// named reports whether n is a bare name of the output columns: in ORDER BY and DISTINCT ON that is
// what Postgres takes it for first.
func named(n *pg.Node, out []string) bool {
	name, ok := bare(n)
	return ok && slices.Contains(out, name)
}

// bare returns the name that n is alone.
func bare(n *pg.Node) (string, bool) {
	if f := n.GetColumnRef().GetFields(); len(f) == 1 && f[0].GetString_() != nil {
		return f[0].GetString_().GetSval(), true
	}
	return "", false
}

func (w *rewriter) sortBy(n *pg.Node) *pg.SortBy {
	by := n.GetSortBy()
	if by == nil || len(by.UseOp) > 0 || by.SortbyDir == pg.SortByDir_SORTBY_USING {
		w.refuse(-1, "ORDER BY … USING is not allowed; use ASC or DESC")
		return nil
	}
	return by
}

// sortOutput checks the ORDER BY of a set operation, which knows output columns only.
func (w *rewriter) sortOutput(list []*pg.Node, out []string) {
	for _, n := range list {
		by := w.sortBy(n)
		if by == nil {
			return
		}
		if !named(by.Node, out) && by.Node.GetAConst().GetIval() == nil {
			w.refuse(by.Node.GetColumnRef().GetLocation(), "order a UNION, INTERSECT, EXCEPT or VALUES by names or numbers of its columns")
		}
	}
}

// group checks GROUP BY. There, Postgres takes a bare name for a column of FROM first, which may be
// one that is hidden, so that the name of an output column is replaced by its number.
func (w *rewriter) group(list []*pg.Node, sc *scope, out []string) {
	for _, n := range list {
		if gs := n.GetGroupingSet(); gs != nil {
			if !w.enter() {
				return
			}
			w.group(gs.Content, sc, out)
			w.leave()
			continue
		}
		if name, ok := bare(n); ok {
			in := slices.ContainsFunc(sc.cols, func(c column) bool { return c.name == name })
			if i := slices.Index(out, name); i >= 0 && !in {
				n.Node = number(i + 1)
				continue
			}
		}
		w.expr(n, sc)
	}
}

func number(i int) *pg.Node_AConst {
	return &pg.Node_AConst{AConst: &pg.A_Const{Val: &pg.A_Const_Ival{Ival: &pg.Integer{Ival: int32(i)}}}} //nolint:gosec // at most maxTargets
}

// with checks the common table expressions and gives each a name of its own.
func (w *rewriter) with(clause *pg.WithClause, outer *scope, with *cte) *cte {
	if clause == nil {
		return with
	}
	if clause.Recursive {
		w.refuse(clause.Location, "WITH RECURSIVE is not allowed")
		return with
	}
	for _, n := range clause.Ctes {
		c := n.GetCommonTableExpr()
		if c == nil || c.SearchClause != nil || c.CycleClause != nil {
			w.refuse(clause.Location, "this WITH clause is not allowed")
			return with
		}
		if c.Ctequery.GetSelectStmt() == nil {
			w.refuse(c.Location, "WITH %s must be a SELECT: queries only read", shown(c.Ctename))
			return with
		}
		cols := w.rename(c.Location, w.query(c.Ctequery.GetSelectStmt(), outer, with), c.Aliascolnames)
		if w.err != nil {
			return with
		}
		w.queries++
		with = &cte{name: c.Ctename, as: fmt.Sprintf("q%d_%s", w.queries, cut(c.Ctename)), cols: cols, next: with}
		c.Ctename = with.as
	}
	return with
}

// rename returns cols with the first ones called as the statement wants.
func (w *rewriter) rename(at int32, cols []string, names []*pg.Node) []string {
	if len(names) > len(cols) {
		w.refuse(at, "there are more names of columns than columns")
		return nil
	}
	cols = slices.Clone(cols)
	for i, n := range names {
		cols[i] = n.GetString_().GetSval()
	}
	return cols
}

// cut shortens a name so that a few characters can be added without Postgres cutting it.
func cut(name string) string {
	const most = 40
	if len(name) <= most {
		return name
	}
	i := most
	for !utf8.RuneStart(name[i]) {
		i--
	}
	return name[:i]
}

// shown is a name of the agent's own, as hints show it.
func shown(name string) string { return fmt.Sprintf("%q", cut(name)) }
