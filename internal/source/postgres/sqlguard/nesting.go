package sqlguard

import (
	"fmt"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/atlas-mcp/atlas"
)

// maxNesting bounds how deep the tree of a statement can be, by its tokens. The parser's stack grows
// with the depth, some 15 to 40 kB a level, never shrinks, and is copied with each statement that
// comes later: one that is 1,000 levels deep would make all others cost 100 MB and 50 ms. Those that
// agents really write have up to 15.
const maxNesting = 64

// separators begin a part of the text that stands beside what was before it in the tree, not below
// or above it.
var separators = map[pg.Token]bool{
	pg.Token_ASCII_44: true, // ,
	pg.Token_AND:      true, pg.Token_OR: true, pg.Token_WHEN: true, pg.Token_THEN: true, pg.Token_ELSE: true,
	pg.Token_SELECT: true, pg.Token_WHERE: true, pg.Token_ON: true,
}

// chains are tokens of which each makes the tree deeper, whatever stands between them.
var chains = map[pg.Token]bool{
	pg.Token_BETWEEN: true, pg.Token_UNION: true, pg.Token_INTERSECT: true, pg.Token_EXCEPT: true,
	pg.Token_JOIN: true, pg.Token_WITH: true, pg.Token_WITH_LA: true,
}

// flat are tokens that make nothing deeper: names, literals, and what stands between them.
var flat = map[pg.Token]bool{
	pg.Token_IDENT: true, pg.Token_UIDENT: true, pg.Token_SCONST: true, pg.Token_USCONST: true, pg.Token_ICONST: true,
	pg.Token_FCONST: true, pg.Token_BCONST: true, pg.Token_XCONST: true, pg.Token_PARAM: true,
	pg.Token_ASCII_46: true /* . */, pg.Token_ASCII_59: true /* ; */, pg.Token_SQL_COMMENT: true, pg.Token_C_COMMENT: true,
}

// nesting returns at least the depth of the tree that the tokens make, in levels of the grammar:
// all open brackets, and what stands before each, and every operator and keyword since the last
// separator.
func nesting(tokens []*pg.ScanToken) int {
	type level struct{ base, chain, run int }
	var (
		open    = []level{{}}
		deepest int
	)
	for _, t := range tokens {
		top := &open[len(open)-1]
		switch kind := t.Token; {
		case kind == pg.Token_ASCII_40, kind == pg.Token_ASCII_91, kind == pg.Token_CASE: // ( [
			open = append(open, level{base: top.base + top.chain + top.run + 2})
		case kind == pg.Token_ASCII_41, kind == pg.Token_ASCII_93, kind == pg.Token_END_P: // ) ]
			if len(open) > 1 {
				open = open[:len(open)-1]
				open[len(open)-1].run++ // what follows may be above it
			}
		case flat[kind]:
		case separators[kind]:
			top.run = 0
		case chains[kind]:
			top.chain++
		default:
			top.run++
		}
		top = &open[len(open)-1]
		deepest = max(deepest, top.base+top.chain+top.run)
	}
	return deepest
}

func tooDeep() error {
	return atlas.Errorf(atlas.CodeTooLarge, nil, fmt.Sprintf("the query is nested too deeply, or has an expression of more than some %d operators; write a simpler one", maxNesting))
}
