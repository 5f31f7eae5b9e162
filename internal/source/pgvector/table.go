package pgvector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// shapeSQL describes the table as one JSON object. $1: schema; $2: table.
const shapeSQL = `SELECT json_build_object(
	'extension', (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
	'columns', (SELECT json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) FROM pg_attribute a
		WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped),
	'nearest', EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
		JOIN pg_opclass o ON o.oid = i.indclass[0]
		WHERE i.indrelid = t.oid AND m.amname = 'hnsw' AND o.opcname = 'vector_cosine_ops' AND i.indisvalid),
	'embedder', EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 2
		AND (SELECT attname FROM pg_attribute WHERE attrelid = t.oid AND attnum = i.indkey[0]) = 'tenant_id'
		AND (SELECT attname FROM pg_attribute WHERE attrelid = t.oid AND attnum = i.indkey[1]) = 'embedder'),
	'loose', (SELECT json_agg(c.collname) FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation
		WHERE a.attrelid = t.oid AND a.attname IN ('tenant_id', 'id', 'embedder') AND NOT c.collisdeterministic),
	'partitioned', t.relkind = 'p',
	'comment', obj_description(t.oid, 'pg_class'))::text
FROM (SELECT 1) one LEFT JOIN (pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace) ON n.nspname = $1 AND t.relname = $2 AND t.relkind IN ('r', 'p')`

// A shape is what there is in the database.
type shape struct {
	Extension   string            `json:"extension"` // version; empty if it is not installed
	Columns     map[string]string `json:"columns"`   // type by name; nil if there is no table
	Nearest     bool              `json:"nearest"`   // there is an index for the distance
	Embedder    bool              `json:"embedder"`  // there is an index for the embedder
	Loose       []string          `json:"loose"`     // collations that take different names for one
	Partitioned bool              `json:"partitioned"`
	Comment     string            `json:"comment"`
}

// columns are the table's, but the vector. Their types are text unless said otherwise.
var columns = []string{"tenant_id", "id", "embedder", "title", "body", "url", "attrs"}

// findings are what does not fit, each with what mends it.
func (s shape) findings(cfg Config, embed source.Embedder) []error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	table := pgrls.Identifier(cfg.Schema, cfg.Table)
	switch {
	case s.Extension == "":
		wrong("extension vector is not installed; run: CREATE EXTENSION vector;")
	case !atLeast(s.Extension, 0, 8):
		wrong("extension vector is version %s, and small tenants find too little before 0.8; run: ALTER EXTENSION vector UPDATE;", s.Extension)
	}
	for _, name := range columns {
		want := "text"
		if name == "attrs" {
			want = "jsonb"
		}
		if got := s.Columns[name]; got != want {
			wrong("table %s: column %s is of type %q, not %s; run atlas migrate, or name another table", table, name, got, want)
		}
	}
	if got, want := s.Columns["embedding"], vectorType(embed); got != want && !strings.HasSuffix(got, "."+want) {
		wrong("table %s: column embedding is of type %q, and the embedder %s makes %s; name a new table, then run atlas migrate and atlas seed, or configure the former embedder",
			table, got, embed.ID(), want)
	}
	for _, name := range s.Loose {
		wrong("table %s: collation %s takes different texts for one, so that one tenant may be given another's rows; "+
			`give tenant_id, id and embedder the collation "C", as atlas migrate does`, table, name)
	}
	if !s.Nearest {
		wrong("table %s has no valid index for the distance; run: CREATE INDEX ON %s USING hnsw (embedding vector_cosine_ops);", table, table)
	}
	if !s.Embedder {
		wrong("table %s has no index for the embedder; run: CREATE INDEX ON %s (tenant_id, embedder);", table, table)
	}
	return errs
}

func vectorType(embed source.Embedder) string { return "vector(" + strconv.Itoa(embed.Dim()) + ")" }

// atLeast compares the first two numbers of a version.
func atLeast(version string, major, minor int) bool {
	var a, b int
	if n, err := fmt.Sscanf(version, "%d.%d", &a, &b); n != 2 || err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}

// check looks at extension, table and indexes. The catalog is nobody's: which tenant reads it does
// not matter.
func (x *Index) check(ctx context.Context) error {
	s, err := x.shape(ctx)
	if err != nil {
		return err
	}
	if errs := s.findings(x.cfg, x.embed); len(errs) > 0 {
		return atlas.Errorf(atlas.CodeSourceMisused, errors.Join(errs...), "")
	}
	return nil
}

func (x *Index) shape(ctx context.Context) (shape, error) {
	var s shape
	_, err := x.db.Query(ctx, "atlas", pgrls.Statement{SQL: shapeSQL, Args: []any{x.cfg.Schema, x.cfg.Table}, Types: []uint32{25, 25}, Timeout: x.cfg.Timeout},
		func(r pgrls.Row) (bool, error) { return false, json.Unmarshal(r.Raw(0), &s) })
	return s, err
}

// lastLoaded checks which embedder the table was last loaded with.
func (x *Index) lastLoaded(ctx context.Context) error {
	s, err := x.shape(ctx)
	if err != nil {
		return err
	}
	if s.Comment != "" && s.Comment != comment(x.embed) {
		return source.ErrOtherEmbedder(fmt.Errorf("table %s was loaded with %q, configured is %q; load all tenants again (atlas seed), or configure the former embedder",
			x.cfg.Table, strings.TrimPrefix(s.Comment, commentPrefix), x.embed.ID()))
	}
	return nil
}

// comment is the table's: it says for operators, and for Ping, which embedder it was last loaded
// with. What counts for a search stands in the rows.
func comment(embed source.Embedder) string { return commentPrefix + embed.ID() }

const commentPrefix = "Documents of Atlas, embedded by "

// Migrate implements source.Migrator: it makes the table with its indexes and its row-level
// security, as the owner (load_dsn). The extension must be there, or the owner be allowed to make it.
func (c *Config) Migrate(ctx context.Context, deps source.Deps) error {
	cfg, err := c.ready(ctx, deps)
	if err != nil {
		return err
	}
	reader, err := cfg.Reader()
	if err != nil {
		return atlas.Errorf(atlas.CodeSourceMisused, err, "")
	}
	conn, err := cfg.Own(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // its work is committed, or not
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range append(cfg.tableSQL(deps.Embed), cfg.Secure(cfg.Table, reader)...) {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
	return pgrls.Failure(ctx, err)
}

// tableSQL makes extension, table and indexes if they are missing. All of it is the program's and
// the configuration's: names are plain, and the dimension is a number.
func (c Config) tableSQL(embed source.Embedder) []string {
	table, name := pgrls.Identifier(c.Schema, c.Table), func(suffix string) string { return pgrls.Identifier(c.Table + suffix) }
	partition := ""
	if c.PartitionByTenant {
		partition = " PARTITION BY LIST (tenant_id)"
	}
	path := pgrls.Identifier(c.Schema)
	if c.Extensions != "" {
		path += ", " + pgrls.Identifier(c.Extensions)
	}
	return []string{
		"SET LOCAL search_path = " + path,
		"SELECT pg_advisory_xact_lock(hashtextextended(" + pgrls.Literal("atlas migrate "+table) + ", 0))",
		"CREATE EXTENSION IF NOT EXISTS vector",
		"CREATE TABLE IF NOT EXISTS " + table + ` (
	tenant_id text COLLATE "C" NOT NULL,
	id        text COLLATE "C" NOT NULL,
	embedder  text COLLATE "C" NOT NULL, -- whose vector it is
	title     text NOT NULL,
	body      text NOT NULL,
	url       text NOT NULL,
	attrs     jsonb NOT NULL,
	embedding ` + vectorType(embed) + `, -- NULL if the embedder sees nothing in the text
	PRIMARY KEY (tenant_id, id)
)` + partition,
		"CREATE INDEX IF NOT EXISTS " + name("_embedder") + " ON " + table + " (tenant_id, embedder)",
		"CREATE INDEX IF NOT EXISTS " + name("_nearest") + " ON " + table + " USING hnsw (embedding vector_cosine_ops)",
	}
}
