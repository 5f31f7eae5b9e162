package sqlguard

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

func (w *rewriter) exprs(list []*pg.Node, sc *scope) {
	for _, n := range list {
		w.expr(n, sc)
	}
}

// expr checks an expression and qualifies the names in it. Nil is no expression.
func (w *rewriter) expr(n *pg.Node, sc *scope) {
	if n == nil || !w.enter() {
		return
	}
	defer w.leave()
	switch n := n.GetNode().(type) {
	case *pg.Node_ColumnRef:
		w.columnRef(n.ColumnRef, sc)
	case *pg.Node_AConst:
	case *pg.Node_ParamRef:
		if n.ParamRef.Number < 1 {
			w.refuse(n.ParamRef.Location, "parameters are $1, $2 and so on")
		}
		w.params = max(w.params, int(n.ParamRef.Number))
	case *pg.Node_AExpr:
		w.operation(n.AExpr, sc)
	case *pg.Node_BoolExpr:
		w.exprs(n.BoolExpr.Args, sc)
	case *pg.Node_NullTest:
		w.expr(n.NullTest.Arg, sc)
	case *pg.Node_BooleanTest:
		w.expr(n.BooleanTest.Arg, sc)
	case *pg.Node_CaseExpr:
		w.expr(n.CaseExpr.Arg, sc)
		w.exprs(n.CaseExpr.Args, sc)
		w.expr(n.CaseExpr.Defresult, sc)
	case *pg.Node_CaseWhen:
		w.expr(n.CaseWhen.Expr, sc)
		w.expr(n.CaseWhen.Result, sc)
	case *pg.Node_CoalesceExpr:
		w.exprs(n.CoalesceExpr.Args, sc)
	case *pg.Node_MinMaxExpr:
		w.exprs(n.MinMaxExpr.Args, sc)
	case *pg.Node_AArrayExpr:
		w.exprs(n.AArrayExpr.Elements, sc)
	case *pg.Node_RowExpr:
		w.exprs(n.RowExpr.Args, sc)
	case *pg.Node_List: // the right side of IN and BETWEEN
		w.exprs(n.List.Items, sc)
	case *pg.Node_TypeCast:
		w.expr(n.TypeCast.Arg, sc)
		w.typeName(n.TypeCast.TypeName)
	case *pg.Node_CollateClause:
		w.expr(n.CollateClause.Arg, sc)
		if !collations[lastName(n.CollateClause.Collname)] {
			w.refuse(n.CollateClause.Location, `only COLLATE "C" is allowed`)
		}
		n.CollateClause.Collname = qualified(pgCatalog, lastName(n.CollateClause.Collname))
	case *pg.Node_AIndirection:
		w.expr(n.AIndirection.Arg, sc)
		if a := n.AIndirection.Arg.GetAArrayExpr(); a != nil {
			w.refuse(a.Location, "a subscript of ARRAY[…] is not allowed")
		}
		for _, i := range n.AIndirection.Indirection {
			// (x).name calls a function of that name, if there is no such field.
			if i.GetAIndices() == nil {
				w.refuse(-1, "(…).name and (…).* are not allowed; name columns by the alias of their table")
				return
			}
			w.expr(i.GetAIndices().Lidx, sc)
			w.expr(i.GetAIndices().Uidx, sc)
		}
	case *pg.Node_SubLink:
		w.subLink(n.SubLink, sc)
	case *pg.Node_FuncCall:
		w.call(n.FuncCall, sc)
	case *pg.Node_NamedArgExpr:
		w.expr(n.NamedArgExpr.Arg, sc)
	case *pg.Node_GroupingFunc:
		w.exprs(n.GroupingFunc.Args, sc)
	case *pg.Node_SqlvalueFunction:
		if f := n.SqlvalueFunction; f.Op < pg.SQLValueFunctionOp_SVFOP_CURRENT_DATE || f.Op > pg.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N {
			w.refuse(f.Location, "what tells of the user, the database or the session is not allowed")
		}
	case *pg.Node_SetToDefault:
		w.refuse(n.SetToDefault.Location, "DEFAULT is not allowed")
	default:
		w.refuse(-1, "%s is not allowed", construct(n))
	}
}

// construct names a kind of node in words of SQL.
func construct(n any) string {
	switch n.(type) {
	case *pg.Node_XmlExpr, *pg.Node_XmlSerialize:
		return "XML"
	case *pg.Node_JsonFuncExpr, *pg.Node_JsonParseExpr, *pg.Node_JsonScalarExpr, *pg.Node_JsonSerializeExpr,
		*pg.Node_JsonObjectConstructor, *pg.Node_JsonArrayConstructor, *pg.Node_JsonArrayQueryConstructor,
		*pg.Node_JsonObjectAgg, *pg.Node_JsonArrayAgg, *pg.Node_JsonIsPredicate:
		return "SQL/JSON's own syntax (use ->, ->>, jsonb_path_query, json_build_object and json_agg)"
	}
	return "a construct of the query"
}

func (w *rewriter) operation(e *pg.A_Expr, sc *scope) {
	op := e.Name
	if len(op) == 2 && op[0].GetString_().GetSval() == pgCatalog {
		op = op[1:]
	}
	if len(op) != 1 || !operators[op[0].GetString_().GetSval()] && !isWord(e.Kind) {
		w.refuse(e.Location, "the operator %s is not allowed", shown(lastName(e.Name)))
		return
	}
	w.expr(e.Lexpr, sc)
	w.expr(e.Rexpr, sc)
}

// isWord reports whether an operation is written with words: what stands as its operator is one.
func isWord(k pg.A_Expr_Kind) bool {
	return k >= pg.A_Expr_Kind_AEXPR_BETWEEN && k <= pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM
}

func (w *rewriter) subLink(s *pg.SubLink, sc *scope) {
	switch s.SubLinkType {
	case pg.SubLinkType_EXISTS_SUBLINK, pg.SubLinkType_ALL_SUBLINK, pg.SubLinkType_ANY_SUBLINK, pg.SubLinkType_EXPR_SUBLINK, pg.SubLinkType_ARRAY_SUBLINK:
	default:
		w.refuse(s.Location, "this kind of subquery is not allowed")
	}
	if len(s.OperName) > 1 || len(s.OperName) == 1 && !operators[lastName(s.OperName)] {
		w.refuse(s.Location, "the operator %s is not allowed", shown(lastName(s.OperName)))
	}
	w.expr(s.Testexpr, sc)
	w.query(s.Subselect.GetSelectStmt(), sc, sc.with)
}

// call checks a call of a function.
func (w *rewriter) call(f *pg.FuncCall, sc *scope) {
	name, schema := lastName(f.Funcname), ""
	switch len(f.Funcname) {
	case 1:
	case 2:
		schema = f.Funcname[0].GetString_().GetSval()
	default:
		w.refuse(f.Location, "name a function without its database")
		return
	}
	in, added := w.functions[name]
	if !added {
		in = pgCatalog
	}
	if !added && !builtin[name] || schema != "" && schema != in {
		w.refuse(f.Location, "the function %s is not allowed", shown(name))
		return
	}
	if check := arguments[name]; check != nil {
		if why := check(f.Args); why != "" {
			w.refuse(f.Location, "%s: %s", name, why)
			return
		}
	}
	f.Funcname = qualified(in, name)
	for _, a := range f.Args {
		if !w.row(a, sc) {
			w.expr(a, sc)
		}
	}
	for _, n := range f.AggOrder {
		if by := w.sortBy(n); by != nil {
			w.expr(by.Node, sc)
		}
	}
	w.expr(f.AggFilter, sc)
	if f.Over != nil {
		w.window(f.Over, sc)
	}
}

func (w *rewriter) window(d *pg.WindowDef, sc *scope) {
	w.exprs(d.PartitionClause, sc)
	for _, n := range d.OrderClause {
		if by := w.sortBy(n); by != nil {
			w.expr(by.Node, sc)
		}
	}
	w.expr(d.StartOffset, sc)
	w.expr(d.EndOffset, sc)
}

// row checks an argument that may be a whole row of a subquery ("x" or "x.*"), and reports whether
// it is one. Of a table, it would have the hidden columns too.
func (w *rewriter) row(n *pg.Node, sc *scope) bool {
	ref := n.GetColumnRef()
	name, ok := bare(n)
	if !ok {
		if f := ref.GetFields(); len(f) == 2 && f[0].GetString_() != nil && f[1].GetAStar() != nil {
			name, ok = f[0].GetString_().GetSval(), true
		}
	} else if _, found := w.lookup(name, sc); found > 0 {
		return false // a column
	}
	if !ok {
		return false
	}
	rel := relationOf(name, sc)
	if rel == nil || rel.scalar || rel.table != "" {
		return false // for expr to tell
	}
	ref.Fields = []*pg.Node{pg.MakeStrNode(rel.alias), {Node: &pg.Node_AStar{AStar: &pg.A_Star{}}}}
	return true
}

// lookup finds what a bare name means, and how many columns it might mean, at the innermost level
// that knows it.
func (w *rewriter) lookup(name string, sc *scope) (column, int) {
	for ; sc != nil; sc = sc.parent {
		var found column
		n := 0
		for _, c := range sc.cols {
			if c.name == name {
				found = c
				n++
			}
		}
		if n > 0 {
			return found, n
		}
	}
	return column{}, 0
}

func relationOf(name string, sc *scope) *relation {
	for ; sc != nil; sc = sc.parent {
		for _, r := range sc.rels {
			if r.name == name {
				return r
			}
		}
	}
	return nil
}

// columnRef finds the column that a reference means and names it in full.
func (w *rewriter) columnRef(ref *pg.ColumnRef, sc *scope) {
	var parts []string
	for _, f := range ref.Fields {
		if f.GetAStar() != nil {
			w.refuse(ref.Location, "* is allowed only by itself in a SELECT list, and for a subquery's row; name the columns")
			return
		}
		parts = append(parts, f.GetString_().GetSval())
	}
	var c column
	switch len(parts) {
	case 1:
		found, n := w.lookup(parts[0], sc)
		switch rel := relationOf(parts[0], sc); {
		case n == 1:
			c = found
		case n > 1:
			w.refuse(ref.Location, "the column %s is in more than one table; write alias.column", shown(parts[0]))
			return
		case rel != nil && rel.scalar:
			c = column{rel.cols[0], rel}
		case rel != nil:
			w.refuse(ref.Location, "%s is a whole row; name its columns", shown(parts[0]))
			return
		}
	case 2:
		if rel := relationOf(parts[0], sc); rel != nil {
			if n := count(rel.cols, parts[1]); n == 1 {
				c = column{parts[1], rel}
			}
		}
	default:
		w.refuse(ref.Location, "write alias.column, without the schema")
		return
	}
	if c.rel == nil {
		w.refuse(ref.Location, "there is no column %s for you here; the schema lists the columns", shown(strings.Join(parts, ".")))
		return
	}
	w.note(c)
	ref.Fields = []*pg.Node{pg.MakeStrNode(c.rel.alias), pg.MakeStrNode(c.name)}
}

func count(list []string, s string) (n int) {
	for _, e := range list {
		if e == s {
			n++
		}
	}
	return n
}

// typeName checks a type.
func (w *rewriter) typeName(t *pg.TypeName) {
	name, schema := lastName(t.GetNames()), ""
	if len(t.GetNames()) == 2 {
		schema = t.Names[0].GetString_().GetSval()
	}
	in := pgCatalog
	switch {
	case t == nil || t.Setof || t.PctType || len(t.Names) > 2:
		w.refuse(t.GetLocation(), "this type is not allowed")
		return
	case w.types[name] && schema != pgCatalog:
		in = w.schema
	case !types[name]:
		w.refuse(t.Location, "the type %s is not allowed", shown(name))
		return
	}
	if schema != "" && schema != in {
		w.refuse(t.Location, "the type %s is not allowed", shown(name))
		return
	}
	for _, m := range t.Typmods {
		if c := m.GetAConst(); c == nil || c.GetIval() == nil || c.GetIval().GetIval() > maxTypmod {
			w.refuse(t.Location, "only numbers up to %d are allowed in a type", maxTypmod)
			return
		}
	}
	t.Names = qualified(in, name)
}

func qualified(schema, name string) []*pg.Node {
	return []*pg.Node{pg.MakeStrNode(schema), pg.MakeStrNode(name)}
}

func lastName(names []*pg.Node) string {
	if len(names) == 0 {
		return ""
	}
	return names[len(names)-1].GetString_().GetSval()
}

// targets checks a SELECT list, writes out * and returns the list with the names of its columns.
// Each expression is given the name that Postgres would give it, so that both agree on it.
func (w *rewriter) targets(list []*pg.Node, sc *scope) ([]*pg.Node, []string) {
	var (
		targets []*pg.Node
		out     []string
	)
	for _, n := range list {
		t := n.GetResTarget()
		if t == nil || len(t.Indirection) > 0 || t.Val == nil {
			w.refuse(-1, "this SELECT list is not allowed")
			return nil, nil
		}
		if ref := t.Val.GetColumnRef(); ref != nil && ref.Fields[len(ref.Fields)-1].GetAStar() != nil {
			more, names := w.star(ref, sc)
			targets, out = append(targets, more...), append(out, names...)
		} else {
			if t.Name == "" {
				t.Name, _ = w.figure(t.Val)
			}
			w.expr(t.Val, sc)
			name := t.Name
			if name == "" {
				name = "?column?"
			}
			targets, out = append(targets, n), append(out, name)
		}
		if len(out) > maxTargets {
			w.refuse(-1, "the query selects more than %d columns", maxTargets)
		}
		if w.err != nil {
			return nil, nil
		}
	}
	return targets, out
}

// star returns the targets that * or x.* stands for.
func (w *rewriter) star(ref *pg.ColumnRef, sc *scope) (targets []*pg.Node, out []string) {
	cols := sc.cols
	if len(ref.Fields) == 2 {
		rel := relationOf(ref.Fields[0].GetString_().GetSval(), sc)
		if rel == nil {
			w.refuse(ref.Location, "there is no table or alias %s here", shown(ref.Fields[0].GetString_().GetSval()))
			return nil, nil
		}
		cols = nil
		for _, name := range rel.cols {
			cols = append(cols, column{name, rel})
		}
	}
	if len(ref.Fields) > 2 || len(cols) == 0 {
		w.refuse(ref.Location, "there is nothing that * could stand for")
		return nil, nil
	}
	if w.stars += len(cols); w.stars > maxExpansion {
		w.refuse(ref.Location, "the query's * stand for more than %d columns; name the ones that you need", maxExpansion)
		return nil, nil
	}
	for i, c := range cols {
		w.note(c)
		out = append(out, c.name)
		// A subquery may have two columns of one name, which only x.* can tell apart.
		if distinct := slices.Compact(slices.Sorted(slices.Values(c.rel.cols))); !sc.merged && len(distinct) < len(c.rel.cols) {
			if i == 0 || cols[i-1].rel != c.rel {
				targets = append(targets, target(c.rel.alias, &pg.Node{Node: &pg.Node_AStar{AStar: &pg.A_Star{}}}, ""))
			}
			continue
		}
		targets = append(targets, target(c.rel.alias, pg.MakeStrNode(c.name), c.name))
	}
	return targets, out
}

func target(alias string, field *pg.Node, name string) *pg.Node {
	ref := &pg.ColumnRef{Fields: []*pg.Node{pg.MakeStrNode(alias), field}}
	return &pg.Node{Node: &pg.Node_ResTarget{ResTarget: &pg.ResTarget{Name: name, Val: &pg.Node{Node: &pg.Node_ColumnRef{ColumnRef: ref}}}}}
}

// timeNames are what Postgres calls the columns of CURRENT_DATE and its kin.
var timeNames = []string{
	"current_date", "current_time", "current_time", "current_timestamp", "current_timestamp",
	"localtime", "localtime", "localtimestamp", "localtimestamp",
}

// figure returns the name that Postgres gives to an expression without one (FigureColname in its
// parse_target.c), or "", and whether it is a strong one.
func (w *rewriter) figure(n *pg.Node) (name string, strong bool) {
	switch n := n.GetNode().(type) {
	case *pg.Node_ColumnRef:
		return lastName(n.ColumnRef.Fields), true
	case *pg.Node_FuncCall:
		return lastName(n.FuncCall.Funcname), true
	case *pg.Node_AIndirection:
		return w.figure(n.AIndirection.Arg)
	case *pg.Node_CollateClause:
		return w.figure(n.CollateClause.Arg)
	case *pg.Node_GroupingFunc:
		return "grouping", true
	case *pg.Node_AExpr:
		if n.AExpr.Kind == pg.A_Expr_Kind_AEXPR_NULLIF {
			return "nullif", true
		}
	case *pg.Node_TypeCast:
		if name, strong = w.figure(n.TypeCast.Arg); !strong {
			name = lastName(n.TypeCast.TypeName.GetNames())
		}
		return name, strong
	case *pg.Node_CaseExpr:
		if name, strong = w.figure(n.CaseExpr.Defresult); !strong {
			name = "case"
		}
		return name, strong
	case *pg.Node_CoalesceExpr:
		return "coalesce", true
	case *pg.Node_MinMaxExpr:
		if n.MinMaxExpr.Op == pg.MinMaxOp_IS_LEAST {
			return "least", true
		}
		return "greatest", true
	case *pg.Node_AArrayExpr:
		return "array", true
	case *pg.Node_RowExpr:
		return "row", true
	case *pg.Node_SqlvalueFunction:
		if i := int(n.SqlvalueFunction.Op - pg.SQLValueFunctionOp_SVFOP_CURRENT_DATE); i >= 0 && i < len(timeNames) {
			return timeNames[i], true
		}
	case *pg.Node_SubLink:
		switch n.SubLink.SubLinkType {
		case pg.SubLinkType_EXISTS_SUBLINK:
			return "exists", true
		case pg.SubLinkType_ARRAY_SUBLINK:
			return "array", true
		case pg.SubLinkType_EXPR_SUBLINK:
			if list := n.SubLink.Subselect.GetSelectStmt().GetTargetList(); len(list) > 0 {
				if t := list[0].GetResTarget(); t.GetName() != "" {
					return t.Name, true
				}
				return w.figure(list[0].GetResTarget().GetVal())
			}
		default: // the others have none
		}
	}
	return "", false
}
