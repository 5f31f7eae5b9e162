// Package sqlguard decides whether SQL text that an agent wrote may run on Postgres. It parses the
// text with Postgres's own parser (PostgreSQL 17's grammar, compiled to WebAssembly) and allows what
// it knows: one SELECT or VALUES over the tables and columns that are configured, made of the nodes,
// functions, operators and types of its lists, with every name resolved. What it does not know, it
// refuses. It is one of two walls: the other is the database's own (a role without rights, forced
// row-level security, a read-only transaction), which must hold without it.
//
// What runs is not the agent's text but the checked tree written anew ([Verdict.SQL]): comments are
// gone, tables, functions and types are qualified by schema, * is written out, every table and
// common table expression has a name of its own, and every column is qualified by it. So a name
// cannot mean something else to the server (a hidden column, a table of another schema, an outer
// query's alias) than it meant to the guard; if the guard's reading is wrong, the server refuses.
//
// The lists hold what PostgreSQL 14 and later have.
package sqlguard

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// maxWords bounds the words and signs of a statement. Every level of nesting costs at least one, and
// the parser's stack holds 3,000 levels of the cheapest kind; past its end the parser is lost.
const maxWords = 2000

// maxDepth is how deep a tree may be that is written as text: past 88 levels of expressions, or 30
// subqueries, the writer's stack of 64 KiB runs over its data without a word.
const maxDepth = 50

// Config says what agents may use. Names are as they are in the database: case matters.
type Config struct {
	Schema    string              // holds the tables and Types; default public
	Tables    map[string][]string // by table or view, the columns that may be read, in the order of *
	Functions []string            // more functions: "name" of pg_catalog or "schema.name"
	Types     []string            // more types to cast to, of Schema: enums and domains
	MaxBytes  int                 // longest statement; 0 means 16 KiB
	MaxDepth  int                 // deepest nesting of the tree: an operator or call is 1, a subquery 2; 0 means 50, which is the most
	MaxTables int                 // most tables, subqueries and functions in FROM, in all; 0 means 32
	Cache     int                 // bytes of statements and verdicts that are kept; 0 means 8 MiB
}

func (c Config) withDefaults() Config {
	c.Schema = cmp.Or(c.Schema, "public")
	c.MaxBytes = cmp.Or(c.MaxBytes, 16<<10)
	c.MaxDepth = cmp.Or(c.MaxDepth, maxDepth)
	c.MaxTables = cmp.Or(c.MaxTables, 32)
	c.Cache = cmp.Or(c.Cache, 8<<20)
	return c
}

var (
	plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)
	// never are functions that must not be added to the list: they read or change settings, run
	// text as SQL, read files, sleep, or reach other servers.
	never = regexp.MustCompile(`^(pg_.*|lo_.*|dblink.*|set_config|current_setting|.*_to_xml.*|ts_stat|nextval|setval|lastval|currval|inet_.*|has_.*|txid_.*|to_reg.*|version|plpgsql_.*)$`)
)

// Validate reports all mistakes, joined.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	d := c.withDefaults()
	check(plainName.MatchString(d.Schema) && !catalog(d.Schema), "schema: %q is not a plain name of a schema of yours", c.Schema)
	for _, table := range slices.Sorted(maps.Keys(c.Tables)) {
		check(plainName.MatchString(table), "tables: %q is not a plain name", table)
		check(len(c.Tables[table]) > 0, "tables: %s has no columns", table)
		for i, col := range c.Tables[table] {
			check(plainName.MatchString(col), "tables: %s: column %q is not a plain name", table, col)
			check(!systemColumns[col], "tables: %s: %s is a column of the system", table, col)
			check(!slices.Contains(c.Tables[table][:i], col), "tables: %s: column %s is there twice", table, col)
		}
	}
	for _, f := range c.Functions {
		schema, name, qualified := strings.Cut(f, ".")
		if !qualified {
			schema, name = d.Schema, f
		}
		check(plainName.MatchString(schema) && plainName.MatchString(name), "functions: %q is neither name nor schema.name", f)
		check(!never.MatchString(strings.ToLower(name)), "functions: %s would undo what the guard is for", f)
		check(!qualified || !catalog(schema) || schema == "pg_catalog", "functions: %s is not for agents", f)
	}
	for _, t := range c.Types {
		check(plainName.MatchString(t), "types: %q is not a plain name", t)
	}
	for name, n := range map[string]int{"max_bytes": c.MaxBytes, "max_depth": c.MaxDepth, "max_tables": c.MaxTables, "cache": c.Cache} {
		check(n >= 0, "%s is negative", name)
	}
	check(d.MaxBytes <= 64<<10, "max_bytes is more than 64 KiB")
	check(d.MaxDepth <= maxDepth, "max_depth is more than %d", maxDepth)
	return errors.Join(errs...)
}

// catalog reports whether a schema is one of the system's.
func catalog(schema string) bool {
	return strings.HasPrefix(schema, "pg_") || schema == "information_schema"
}

// A Verdict says what an allowed statement is.
type Verdict struct {
	SQL     string   // what to run instead of the text
	Tables  []string // configured tables that it reads, sorted, lower case
	Columns []string // columns of them that it reads, sorted, lower case, without table
	Params  int      // the highest number of a parameter ($1 is 1); refuse the statement if fewer are bound
}

// A Guard decides. It is safe for concurrent use.
type Guard struct {
	cfg   Config
	rules rules
	warm  sync.WaitGroup
	cache cache
}

// New returns a guard, and begins to compile the parser in the background if the process has none
// yet (a few seconds of one core). Close waits for that.
func New(cfg Config) (*Guard, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("sqlguard: %w", err)
	}
	cfg = cfg.withDefaults()
	g := &Guard{cfg: cfg, rules: newRules(cfg)}
	g.cache.max = cfg.Cache
	g.warm.Go(func() { _, _ = shared.parse(context.Background(), "SELECT 1", true) })
	return g, nil
}

// Warm waits until the parser is ready.
func (g *Guard) Warm(ctx context.Context) error {
	_, err := shared.parse(ctx, "SELECT 1", true)
	return err
}

// Close waits for what New began. The guard may not be used after it.
func (g *Guard) Close() error {
	g.warm.Wait()
	return nil
}

// Check decides about sql, in which parameters are $1, $2…. The error is invalid_query, with a hint
// that tells what to change and where, and the position (in characters, from 1) in its context;
// too_large for a statement over the limits; the context's; or internal_error if the parser is lost.
// A table that may not be read and one that is not there are answered alike.
//
// Verdicts are kept by tenant: were they shared, the time of an answer would tell one tenant what
// another has asked.
func (g *Guard) Check(ctx context.Context, tenant atlas.TenantID, sql string) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return Verdict{}, atlas.ErrorOf(err)
	}
	if len(sql) > g.cfg.MaxBytes {
		return Verdict{}, atlas.Errorf(atlas.CodeTooLarge, nil, fmt.Sprintf("the query is longer than %d bytes; write a shorter one", g.cfg.MaxBytes))
	}
	key := keyOf(tenant, sql)
	if r, ok := g.cache.get(key); ok {
		return r.copied()
	}
	v, err := g.check(ctx, sql)
	code := atlas.CodeOf(err)
	if err == nil || code == atlas.CodeInvalidQuery || code == atlas.CodeTooLarge {
		g.cache.put(key, result{v, err}) // not what depends on the moment
	}
	return result{v, err}.copied()
}

func keyOf(tenant atlas.TenantID, sql string) [sha256.Size]byte {
	// A tenant's id holds no zero byte.
	b := make([]byte, 0, 512)
	b = append(b, tenant...)
	b = append(b, 0)
	return sha256.Sum256(append(b, sql...))
}

func (g *Guard) check(ctx context.Context, sql string) (Verdict, error) {
	switch {
	case !utf8.ValidString(sql):
		return Verdict{}, invalid(0, "the query is not valid UTF-8")
	case strings.IndexByte(sql, 0) >= 0:
		return Verdict{}, invalid(0, "the query has a zero byte in it")
	case words(sql) > maxWords:
		return Verdict{}, atlas.Errorf(atlas.CodeTooLarge, nil, fmt.Sprintf("the query has more than %d words and signs; write a shorter one, or bind a list as one parameter", maxWords))
	}
	tree, err := shared.parse(ctx, sql, false)
	if err != nil {
		return Verdict{}, err
	}
	v, err := g.rules.rewrite(tree, sql)
	if err != nil {
		return Verdict{}, err
	}
	v.SQL, err = shared.deparse(ctx, tree)
	if err != nil {
		return Verdict{}, err
	}
	// What was checked is the tree, what runs is its text: they must be the same. The text is read
	// back as Postgres will read it.
	again, err := shared.parse(ctx, v.SQL, true)
	if code := atlas.CodeOf(err); err != nil && code != atlas.CodeInvalidQuery {
		return Verdict{}, err
	}
	if err != nil || !same(tree, again) {
		shared.suspect(ctx)
		return Verdict{}, atlas.Errorf(atlas.CodeInvalidQuery, errors.Join(errUnwritable, err), "a construct of the query cannot be checked; write it more simply")
	}
	return v, nil
}

var errUnwritable = errors.New("sqlguard: the checked query, written as text, is not the checked query")

// words counts at least the tokens of sql that can nest; it counts within literals and comments too,
// so that it need not know where they end.
func words(sql string) int {
	n, in := 0, false
	for i := range len(sql) {
		switch b := sql[i]; {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '_', b == '$', b >= 0x80:
			if !in {
				n++
			}
			in = true
		case b == ' ', b == '\t', b == '\n', b == '\r', b == '\f', b == '\v', b == ',', b == '\'', b == '"':
			in = false // no level of nesting is made of these alone
		default:
			n++
			in = false
		}
	}
	return n
}

// invalid returns an invalid_query error; at is the position in characters, or 0.
func invalid(at int, hint string) *atlas.Error {
	if at > 0 {
		return atlas.Errorf(atlas.CodeInvalidQuery, nil, fmt.Sprintf("%s (at character %d)", hint, at)).With("position", at)
	}
	return atlas.Errorf(atlas.CodeInvalidQuery, nil, hint)
}
