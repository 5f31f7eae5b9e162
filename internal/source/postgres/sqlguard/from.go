package sqlguard

import (
	"fmt"
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// from checks an item of FROM and returns what it adds to the scope. Names in it may mean what sc
// has so far if it is lateral (functions always are), and what sc's parent has.
func (w *rewriter) from(n *pg.Node, sc *scope) *scope {
	none := &scope{}
	if !w.enter() {
		return none
	}
	defer w.leave()
	if w.items++; w.items > w.maxTables {
		w.refuse(-1, "the query has more than %d tables and subqueries in FROM", w.maxTables)
		return none
	}
	switch n := n.GetNode().(type) {
	case *pg.Node_RangeVar:
		return w.table(n.RangeVar, sc)
	case *pg.Node_RangeSubselect:
		return w.subselect(n.RangeSubselect, sc)
	case *pg.Node_RangeFunction:
		return w.function(n.RangeFunction, sc)
	case *pg.Node_JoinExpr:
		w.items-- // its sides count
		return w.joined(n.JoinExpr, sc)
	case *pg.Node_RangeTableSample:
		w.refuse(n.RangeTableSample.Location, "TABLESAMPLE is not allowed")
	default:
		w.refuse(-1, "only tables, joins, subqueries and functions are allowed in FROM")
	}
	return none
}

// join adds what an item of FROM brings.
func (w *rewriter) join(sc, item *scope) {
	for _, rel := range item.rels {
		if slices.ContainsFunc(sc.rels, func(r *relation) bool { return r.name == rel.name }) {
			w.refuse(-1, "the name %s is used twice in FROM; give each an alias of its own", shown(rel.name))
		}
	}
	sc.rels = append(sc.rels, item.rels...)
	sc.cols = append(sc.cols, item.cols...)
	sc.merged = sc.merged || item.merged
}

// relate returns a scope of one relation under an alias that no other has.
func (w *rewriter) relate(rel *relation) *scope {
	rel.alias = rel.name
	for i := 2; w.aliases[rel.alias]; i++ {
		rel.alias = fmt.Sprintf("%s_%d", cut(rel.name), i)
	}
	w.aliases[rel.alias] = true
	sc := &scope{rels: []*relation{rel}}
	for _, name := range rel.cols {
		sc.cols = append(sc.cols, column{name, rel})
	}
	return sc
}

func (w *rewriter) table(v *pg.RangeVar, sc *scope) *scope {
	rel := &relation{name: v.Relname}
	if a := v.Alias; a != nil {
		rel.name = a.Aliasname
	}
	switch q := sc.with.find(v.Relname); {
	case v.Catalogname != "" || v.Relpersistence != "p":
		w.refuse(v.Location, "name a table without its database")
	case !v.Inh:
		w.refuse(v.Location, "ONLY is not allowed")
	case q != nil && v.Schemaname == "":
		rel.cols = w.rename(v.Location, q.cols, v.Alias.GetColnames())
		v.Relname = q.as
	case v.Schemaname != "" && v.Schemaname != w.schema, w.tables[v.Relname] == nil:
		w.refuse(v.Location, "there is no table %s for you; the schema lists the tables", shown(v.Relname))
	case len(v.Alias.GetColnames()) > 0:
		w.refuse(v.Location, "do not rename the columns of a table in FROM; use AS in the SELECT list")
	default:
		rel.table, rel.cols = v.Relname, w.tables[v.Relname]
		v.Schemaname = w.schema
		w.read[v.Relname] = true
	}
	if w.err != nil {
		return &scope{}
	}
	out := w.relate(rel)
	v.Alias = &pg.Alias{Aliasname: rel.alias, Colnames: v.Alias.GetColnames()}
	return out
}

func (w *rewriter) subselect(s *pg.RangeSubselect, sc *scope) *scope {
	outer := sc.parent
	if s.Lateral {
		outer = sc
	}
	sub := s.Subquery.GetSelectStmt()
	if s.Alias == nil {
		w.refuse(-1, "give each subquery in FROM an alias")
		return &scope{}
	}
	cols := w.rename(-1, w.query(sub, outer, sc.with), s.Alias.Colnames)
	if w.err != nil {
		return &scope{}
	}
	out := w.relate(&relation{name: s.Alias.Aliasname, cols: cols})
	s.Alias.Aliasname = out.rels[0].alias
	return out
}

func (w *rewriter) function(f *pg.RangeFunction, sc *scope) *scope {
	var call *pg.FuncCall
	if len(f.Functions) == 1 && !f.IsRowsfrom {
		if items := f.Functions[0].GetList().GetItems(); len(items) > 0 {
			call = items[0].GetFuncCall()
		}
	}
	if call == nil {
		w.refuse(-1, "only a call of one function is allowed in FROM")
		return &scope{}
	}
	name := lastName(call.Funcname)
	cols, known := inFrom[name]
	if !known {
		w.refuse(call.Location, "the function %s is not allowed in FROM", shown(name))
		return &scope{}
	}
	w.call(call, sc)
	rel := &relation{name: name}
	if f.Alias != nil {
		rel.name = f.Alias.Aliasname
	}
	given := f.Alias.GetColnames()
	switch {
	case cols == nil && len(f.Coldeflist) == 0 || cols != nil && len(f.Coldeflist) > 0 || cols == nil && f.Ordinality:
		w.refuse(call.Location, "only %s needs, and must have, a list of columns with types: AS x(a int, b text)", "json_to_recordset and its kin")
	case cols == nil:
		for _, n := range f.Coldeflist {
			d := n.GetColumnDef()
			if d == nil || d.CollClause != nil || len(d.Constraints) > 0 || d.RawDefault != nil {
				w.refuse(call.Location, "only names and types are allowed in a list of columns")
				return &scope{}
			}
			w.typeName(d.TypeName)
			rel.cols = append(rel.cols, d.Colname)
		}
	default:
		cols = slices.Clone(cols)
		if cols[0] == "" {
			cols[0] = rel.name
		}
		rel.scalar = len(cols) == 1
		if name == "unnest" && len(call.Args) != 1 { // Postgres knows the other kind by its bare name only
			w.refuse(call.Location, "unnest takes one array here; join several by WITH ORDINALITY")
		}
		if f.Ordinality {
			cols = append(cols, "ordinality")
			rel.scalar = false
		}
		rel.cols = w.rename(call.Location, cols, given)
	}
	if w.err != nil {
		return &scope{}
	}
	out := w.relate(rel)
	f.Alias = &pg.Alias{Aliasname: rel.alias}
	if len(f.Coldeflist) == 0 { // written out, for a column may be called by the alias
		for _, c := range rel.cols {
			f.Alias.Colnames = append(f.Alias.Colnames, pg.MakeStrNode(c))
		}
	}
	return out
}

func (w *rewriter) joined(j *pg.JoinExpr, sc *scope) *scope {
	switch {
	case j.IsNatural:
		w.refuse(-1, "NATURAL JOIN is not allowed; use JOIN … USING (columns) or ON")
	case j.Alias != nil || j.JoinUsingAlias != nil:
		w.refuse(-1, "an alias of a whole join is not allowed; give each table its own")
	}
	switch j.Jointype {
	case pg.JoinType_JOIN_INNER, pg.JoinType_JOIN_LEFT, pg.JoinType_JOIN_FULL, pg.JoinType_JOIN_RIGHT:
	default:
		w.refuse(-1, "this kind of join is not allowed")
	}
	if w.err != nil {
		return &scope{}
	}
	left := w.from(j.Larg, sc)
	seen := &scope{parent: sc.parent, with: sc.with} // by what is lateral on the right
	w.join(seen, sc)
	w.join(seen, left)
	right := w.from(j.Rarg, seen)
	both := &scope{parent: sc.parent, with: sc.with}
	w.join(both, left)
	w.join(both, right)
	w.expr(j.Quals, both)
	if len(j.UsingClause) == 0 || w.err != nil {
		return both
	}
	if j.Jointype == pg.JoinType_JOIN_FULL {
		w.refuse(-1, "FULL JOIN … USING is not allowed; use ON and COALESCE")
	}
	return w.using(j, left, right, both)
}

// using merges the columns of a join that are named by USING: the one that is never NULL stands for
// both.
func (w *rewriter) using(j *pg.JoinExpr, left, right, both *scope) *scope {
	var merged []column
	isMerged := map[string]bool{}
	for _, n := range j.UsingClause {
		name := n.GetString_().GetSval()
		l, okl := unique(left.cols, name)
		r, okr := unique(right.cols, name)
		if !okl || !okr || isMerged[name] {
			w.refuse(-1, "there is no column %s for you on both sides of JOIN … USING", shown(name))
			return &scope{}
		}
		w.note(l)
		w.note(r)
		isMerged[name] = true
		if j.Jointype == pg.JoinType_JOIN_RIGHT {
			l = r
		}
		merged = append(merged, l)
	}
	for _, c := range slices.Concat(left.cols, right.cols) {
		if !isMerged[c.name] {
			merged = append(merged, c)
		}
	}
	both.cols, both.merged = merged, true
	return both
}

func unique(cols []column, name string) (found column, ok bool) {
	for _, c := range cols {
		if c.name == name {
			if ok {
				return column{}, false
			}
			found, ok = c, true
		}
	}
	return found, ok
}

// note records that a column is read.
func (w *rewriter) note(c column) {
	if c.rel.table != "" {
		w.columns[c.name] = true
	}
}
