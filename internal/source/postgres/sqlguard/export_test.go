package sqlguard

import (
	"context"

	pg "github.com/pganalyze/pg_query_go/v6"
	wasm "github.com/wasilibs/go-pgquery"
	"google.golang.org/protobuf/proto"

	"github.com/atlas-mcp/atlas"
)

// Kept reports whether the cache has the verdict.
func (g *Guard) Kept(tenant atlas.TenantID, sql string) bool {
	_, ok := g.cache.get(keyOf(tenant, sql))
	return ok
}

// Used is how many bytes the cache holds.
func (g *Guard) Used() int {
	g.cache.mu.Lock()
	defer g.cache.mu.Unlock()
	return g.cache.used
}

// Hold keeps the parser until the function that it returns is called.
func Hold() func() {
	shared.slot <- struct{}{}
	return func() { <-shared.slot }
}

// Break makes the parser panic once, and returns what mends it.
func Break() func() {
	_ = shared.do(context.Background(), func() error { panic("stack overflow") })
	return func() { shared.lost.Store(false) }
}

// Fields are the fields of the nodes that the walk looks into.
func Fields() map[string][]string {
	all := map[string][]string{}
	for _, m := range []proto.Message{
		&pg.SelectStmt{}, &pg.WithClause{}, &pg.CommonTableExpr{}, &pg.RangeVar{}, &pg.RangeSubselect{}, &pg.RangeFunction{},
		&pg.JoinExpr{}, &pg.Alias{}, &pg.ColumnDef{}, &pg.ResTarget{}, &pg.SortBy{}, &pg.WindowDef{}, &pg.GroupingSet{},
		&pg.ColumnRef{}, &pg.A_Const{}, &pg.ParamRef{}, &pg.A_Expr{}, &pg.BoolExpr{}, &pg.NullTest{}, &pg.BooleanTest{},
		&pg.CaseExpr{}, &pg.CaseWhen{}, &pg.CoalesceExpr{}, &pg.MinMaxExpr{}, &pg.A_ArrayExpr{}, &pg.RowExpr{}, &pg.List{},
		&pg.TypeCast{}, &pg.TypeName{}, &pg.CollateClause{}, &pg.A_Indirection{}, &pg.A_Indices{}, &pg.SubLink{}, &pg.FuncCall{},
		&pg.NamedArgExpr{}, &pg.GroupingFunc{}, &pg.SQLValueFunction{},
	} {
		d := m.ProtoReflect().Descriptor()
		var names []string
		for i := range d.Fields().Len() {
			names = append(names, string(d.Fields().Get(i).Name()))
		}
		all[string(d.Name())] = names
	}
	return all
}

// Scanned is how deep the guard thinks that sql may be nested.
func Scanned(sql string) int {
	scan, err := wasm.Scan(sql)
	if err != nil {
		return -1
	}
	return nesting(scan.GetTokens())
}
