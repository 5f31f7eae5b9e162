package sqlguard

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"unicode/utf8"

	pg "github.com/pganalyze/pg_query_go/v6"
	wasm "github.com/wasilibs/go-pgquery"
	"github.com/wasilibs/go-pgquery/parser"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/atlas-mcp/atlas"
)

// An engine is the way to the parser. The library keeps its instances in a pool for the whole
// process, compiles each anew when the pool is empty (2 s, some 50 MB), and gives one that has
// overflowed its stack to the next caller, for whom it then parses something else. So there is one
// engine for the process too: it lets one statement in at a time (0.5 ms each), so that there is one
// instance, and lets none in once a call has panicked or a statement that is known was read wrongly.
// What is let in is too short and too flat for that, see maxWords, maxNesting and MaxDepth.
type engine struct {
	slot chan struct{}
	lost atomic.Bool
}

var shared = &engine{slot: make(chan struct{}, 1)}

var errLost = errors.New("sqlguard: the SQL parser failed and can no longer be trusted: agents' SQL is refused until the process is restarted")

// do runs f alone, unless ctx ends before its turn.
func (e *engine) do(ctx context.Context, f func() error) (err error) {
	select {
	case e.slot <- struct{}{}:
		defer func() { <-e.slot }()
	case <-ctx.Done():
		return atlas.ErrorOf(ctx.Err())
	}
	if e.lost.Load() {
		return atlas.Errorf(atlas.CodeInternal, errLost, "")
	}
	defer func() {
		if r := recover(); r != nil {
			e.lost.Store(true)
			err = atlas.Errorf(atlas.CodeInternal, fmt.Errorf("%w: %.200v", errLost, r), "")
		}
	}()
	return f()
}

// parse returns the tree of sql, whose syntax errors are told with their position. Text of our own
// may nest by its parentheses: its tree is bounded already.
func (e *engine) parse(ctx context.Context, sql string, own bool) (tree *pg.ParseResult, err error) {
	err = e.do(ctx, func() (err error) {
		scan, err := wasm.Scan(sql) // does not nest
		if err != nil {
			return err
		}
		if !own && nesting(scan.GetTokens()) > maxNesting {
			return tooDeep()
		}
		tree, err = wasm.Parse(sql)
		return err
	})
	if err == nil {
		return tree, nil
	}
	if _, ours := errors.AsType[*atlas.Error](err); ours {
		return nil, err
	}
	// The parser's message quotes the text at best, but it is not ours.
	at := 0
	if p, ok := errors.AsType[*parser.Error](err); ok {
		at = min(max(p.Cursorpos, 0), utf8.RuneCountInString(sql)+1)
	}
	bad := invalid(at, "the query is not valid SQL (PostgreSQL's dialect), or is nested too deeply")
	bad.Err = err
	return nil, bad
}

// deparse writes the tree as SQL.
func (e *engine) deparse(ctx context.Context, tree *pg.ParseResult) (sql string, err error) {
	err = e.do(ctx, func() (err error) {
		sql, err = wasm.Deparse(tree)
		return err
	})
	if err != nil {
		if _, ours := errors.AsType[*atlas.Error](err); !ours {
			err = atlas.Errorf(atlas.CodeInternal, fmt.Errorf("sqlguard: write the checked query: %w", err), "")
		}
		return "", err
	}
	return sql, nil
}

// canary is a statement, and how it is written.
const canary = "SELECT a.b AS b FROM c.a a WHERE a.d = 1"

// suspect tells the engine that an answer was wrong. It finds out whether the parser still can parse.
func (e *engine) suspect(ctx context.Context) {
	_ = e.do(ctx, func() error {
		tree, err := wasm.Parse(canary)
		if err == nil {
			var sql string
			if sql, err = wasm.Deparse(tree); err == nil && sql == canary {
				return nil
			}
		}
		e.lost.Store(true)
		return nil
	})
}

// same reports whether two trees differ in nothing but where their nodes stand in the text.
func same(a, b *pg.ParseResult) bool {
	if len(a.GetStmts()) != 1 || len(b.GetStmts()) != 1 {
		return false
	}
	forget(a.Stmts[0].Stmt.ProtoReflect())
	forget(b.Stmts[0].Stmt.ProtoReflect())
	return proto.Equal(a.Stmts[0].Stmt, b.Stmts[0].Stmt)
}

// forget clears the locations of a tree.
func forget(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Name() == "location":
			m.Clear(f)
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				forget(v.List().Get(i).Message())
			}
		case f.Message() != nil:
			forget(v.Message())
		}
		return true
	})
}
