// Package pgvector is the vector source of kind "pgvector": a table of documents in Postgres with
// the extension pgvector (0.8 or newer), under forced row-level security, shared by all tenants.
//
// A search is one statement in one round trip, through package pgrls: the policy of the table binds
// it to the tenant, the statement's own condition says the same to the planner, and every row that
// comes back is checked once more. How it searches depends on how many vectors the tenant has, which
// the statement counts itself, no further than it must. Few (exact_rows) are compared one by one, so
// that a small tenant beside a huge one finds all of its nearest, and its answers depend on nobody
// else's data. For more the index is used (HNSW, cosine), going on until enough rows pass the
// filters (iterative scan); if it gives up before, they are compared one by one after all.
//
// Each row names the embedder of its vector. A search also looks, by an index, whether the tenant
// has vectors of another one, and is refused if so.
package pgvector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// maxDim is the largest dimension that pgvector's indexes take.
const maxDim = 2000

// Config are the driver's settings.
type Config struct {
	pgrls.Connection  `yaml:",inline"`
	Table             string        `yaml:"table"`               // holds the documents; default: documents
	PartitionByTenant bool          `yaml:"partition_by_tenant"` // of a table that migrating makes: each tenant has a partition and an index of its own
	ExactRows         int           `yaml:"exact_rows"`          // up to so many of the tenant's vectors are compared one by one; 0 means 10000
	MaxK              int           `yaml:"max_k"`               // most hits of one search; 0 means 100
	MaxTextBytes      int           `yaml:"max_text_bytes"`      // longest text to search with; 0 means 16 KiB
	MaxDocumentBytes  int           `yaml:"max_document_bytes"`  // largest title and body to take in; 0 means 256 KiB
	Timeout           time.Duration `yaml:"timeout"`             // of one search, embedding included; 0 means 5s
}

func (c Config) withDefaults() Config {
	c.Connection = c.WithDefaults()
	c.Table = cmp.Or(c.Table, "documents")
	c.ExactRows = cmp.Or(c.ExactRows, 10_000)
	c.MaxK = cmp.Or(c.MaxK, 100)
	c.MaxTextBytes = cmp.Or(c.MaxTextBytes, 16<<10)
	c.MaxDocumentBytes = cmp.Or(c.MaxDocumentBytes, 256<<10)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	return c
}

// Validate reports all mistakes, joined.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	errs = append(errs, c.Connection.Validate())
	check(c.TenantColumn == "" || c.TenantColumn == "tenant_id", "tenant_column must be tenant_id for this kind of source")
	check(c.Table == "" || pgrls.ValidName(c.Table) && len(c.Table) <= 40, "table must be a plain name of at most 40 letters, digits and _")
	check(c.ExactRows >= 0 && c.ExactRows <= 1_000_000, "exact_rows must be between 1 and 1000000, is %d", c.ExactRows)
	check(c.MaxK >= 0 && c.MaxK <= 1000, "max_k must be between 1 and 1000, is %d", c.MaxK)
	check(c.MaxTextBytes >= 0 && c.MaxTextBytes <= 1<<20, "max_text_bytes must be between 1 and 1048576, is %d", c.MaxTextBytes)
	check(c.MaxDocumentBytes >= 0 && c.MaxDocumentBytes <= 16<<20, "max_document_bytes must be between 1 and 16777216, is %d", c.MaxDocumentBytes)
	check(c.Timeout >= 0 && c.Timeout <= 10*time.Minute, "timeout must be between 1ms and 10m")
	return errors.Join(errs...)
}

// Open opens the source. It needs deps.Embed. It fails if the server answers and the role, the
// table or the extension is not as it must be, with what mends it; a server that does not answer is
// asked again when a call comes, which is let through only after that.
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	cfg, err := c.ready(ctx, deps)
	if err != nil {
		return nil, err
	}
	log := deps.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("source", deps.Name)
	db, err := pgrls.Open(ctx, cfg.Connection, pgrls.Options{
		Name: deps.Name, Tables: []string{cfg.Table}, MaxMessage: 2*cfg.MaxDocumentBytes + 1<<20, Log: log,
	})
	if err != nil {
		return nil, err
	}
	x := &Index{cfg: cfg, db: db, embed: deps.Embed, log: log}
	x.gate = source.NewGate(cfg.Timeout, x.check)
	switch err := x.gate.Check(ctx); {
	case err == nil:
		if err := x.lastLoaded(ctx); err != nil {
			log.WarnContext(ctx, "searches of tenants that were loaded with it will be refused", "err", err)
		}
	case atlas.CodeOf(err) == atlas.CodeSourceUnavailable:
		log.WarnContext(ctx, "the server does not answer; it is asked again before the first search", "err", err)
	default:
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}

// ready checks what Open and Migrate need.
func (c *Config) ready(ctx context.Context, deps source.Deps) (Config, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return Config{}, err
	}
	if deps.Embed == nil {
		return Config{}, atlas.Errorf(atlas.CodeSourceMisused, nil, "a vector source needs an embedder; configure one")
	}
	if d := deps.Embed.Dim(); d < 1 || d > maxDim {
		return Config{}, atlas.Errorf(atlas.CodeSourceMisused,
			fmt.Errorf("the embedder's dimension is %d, and pgvector's index takes at most %d; set the embedder's dimensions", d, maxDim), "")
	}
	return c.withDefaults(), nil
}

// An Index finds similar documents. It implements source.VectorIndex and source.Loader.
type Index struct {
	cfg    Config
	db     *pgrls.DB
	gate   *source.Gate // open once the table was seen to fit the embedder
	embed  source.Embedder
	log    *slog.Logger
	closed atomic.Bool
}

var (
	_ source.Config      = (*Config)(nil)
	_ source.Migrator    = (*Config)(nil)
	_ source.VectorIndex = (*Index)(nil)
	_ source.Loader      = (*Index)(nil)
)

// Ping asks whether role and table are as they must be, the table fits the embedder, and was last
// loaded with it.
func (x *Index) Ping(ctx context.Context) error {
	if err := x.db.Ping(ctx); err != nil {
		return err
	}
	if err := x.gate.Check(ctx); err != nil {
		return err
	}
	return x.lastLoaded(ctx)
}

// Close closes all connections, waiting for searches that are running.
func (x *Index) Close() error {
	x.closed.Store(true)
	x.gate.Close()
	return x.db.Close()
}

func (x *Index) open() error {
	if x.closed.Load() {
		return atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("the source is closed"), "")
	}
	return nil
}

// Nearest implements source.VectorIndex. The score is the cosine of the angle, 1 for the same
// direction. A text that the embedder sees nothing in finds nothing.
func (x *Index) Nearest(ctx context.Context, tenant atlas.TenantID, n source.Nearest) (source.Hits, error) {
	if err := x.open(); err != nil {
		return source.Hits{}, err
	}
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return source.Hits{}, atlas.Errorf(atlas.CodeInvalidArguments, err, "")
	}
	if n.K < 0 {
		return source.Hits{}, atlas.Errorf(atlas.CodeInvalidArguments, nil, "k is negative").With("argument", "k")
	}
	conditions, err := source.Conditions(n.Filter)
	if err != nil {
		return source.Hits{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Timeout)
	defer cancel()
	vector, err := source.QueryVector(ctx, x.embed, tenant, n, x.cfg.MaxTextBytes)
	if err != nil {
		return source.Hits{}, err
	}
	if err := x.gate.Pass(ctx); err != nil {
		return source.Hits{}, err
	}
	q := question{tenant: tenant, vector: vector, conditions: conditions, k: min(cmp.Or(n.K, 10), x.cfg.MaxK)}
	hits, exact, err := x.nearest(ctx, q, x.cfg.ExactRows)
	if err == nil && !exact && len(hits.Hits) < q.k {
		hits, _, err = x.nearest(ctx, q, everyRow)
	}
	return hits, err
}
