// Package qdrant is the vector source of kind "qdrant": one collection of a Qdrant server (1.12 or
// newer), over its REST API, shared by all tenants.
//
// Three things keep tenants apart. Every search carries a condition on the payload's tenant_id that
// this package writes and that nothing of a call can reach: a caller's filters are values of one
// other condition, never names in it. A point's id is made of its tenant and the document's id, so
// that no tenant can write over another's point. And every point that comes back is checked: if one
// is another tenant's, the whole answer is dropped, and the log says so.
//
// A document is a point with the payload fields tenant_id, id, title, body, url, attrs, terms (what
// filters ask for, see [source.Term]) and embedder. Which embedder a tenant's vectors are from
// stands in a point of its own without a vector, read in the same round trip as the search: vectors
// of two embedders are never compared. The same for the collection as a whole is what Ping compares.
package qdrant

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Config are the driver's settings.
type Config struct {
	URL              string        `yaml:"url"`                // of the REST API, such as https://qdrant.internal:6333
	APIKey           string        `yaml:"api_key"`            // for searching; a read-only key is enough
	LoadAPIKey       string        `yaml:"load_api_key"`       // for loading; default: api_key
	AllowHTTP        bool          `yaml:"allow_http"`         // keys may go over plain HTTP to other hosts than this one
	CAFile           string        `yaml:"ca_file"`            // certificates, as PEM, to trust instead of the system's
	Collection       string        `yaml:"collection"`         // default: the source's name
	Consistency      string        `yaml:"consistency"`        // of reads, where there are replicas: majority, quorum, all or a number; default: the server's
	Replicas         int           `yaml:"replicas"`           // of a collection that loading creates; default: the server's
	Shards           int           `yaml:"shards"`             // of a collection that loading creates; default: the server's
	MaxK             int           `yaml:"max_k"`              // most hits of one search; 0 means 100
	MaxTextBytes     int           `yaml:"max_text_bytes"`     // longest text to search with; 0 means 16 KiB
	MaxDocumentBytes int           `yaml:"max_document_bytes"` // largest title and body to take in; 0 means 256 KiB
	MaxAnswerBytes   int64         `yaml:"max_answer_bytes"`   // largest answer of the server; 0 means 32 MiB
	MaxConns         int           `yaml:"max_conns"`          // connections; 0 means 64
	Timeout          time.Duration `yaml:"timeout"`            // of one search, embedding included; 0 means 5s
}

func (c Config) withDefaults(name string) Config {
	c.LoadAPIKey = cmp.Or(c.LoadAPIKey, c.APIKey)
	c.Collection = cmp.Or(c.Collection, name)
	c.MaxK = cmp.Or(c.MaxK, 100)
	c.MaxTextBytes = cmp.Or(c.MaxTextBytes, 16<<10)
	c.MaxDocumentBytes = cmp.Or(c.MaxDocumentBytes, 256<<10)
	c.MaxAnswerBytes = cmp.Or(c.MaxAnswerBytes, 32<<20)
	c.MaxConns = cmp.Or(c.MaxConns, 64)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	return c
}

// Qdrant takes more names than these; these mean the same in a path, escaped or not.
var collectionName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)

// Validate reports all mistakes, joined.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if err := source.CheckURL(c.URL, c.APIKey != "" || c.LoadAPIKey != "", c.AllowHTTP); err != nil {
		check(false, "url %w", err)
	}
	for key, v := range map[string]string{"api_key": c.APIKey, "load_api_key": c.LoadAPIKey} {
		check(!strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r >= 0x7f }), "%s holds a space or another character that no key has", key)
	}
	check(c.Collection == "" || collectionName.MatchString(c.Collection), "collection must be 1 to 128 letters, digits, - and _")
	if n, err := strconv.Atoi(c.Consistency); c.Consistency != "" && c.Consistency != "majority" && c.Consistency != "quorum" && c.Consistency != "all" {
		check(err == nil && n > 0, "consistency must be majority, quorum, all or a number of replicas")
	}
	check(c.Replicas >= 0 && c.Replicas <= 64, "replicas must be between 1 and 64, is %d", c.Replicas)
	check(c.Shards >= 0 && c.Shards <= 1024, "shards must be between 1 and 1024, is %d", c.Shards)
	check(c.MaxK >= 0 && c.MaxK <= 1000, "max_k must be between 1 and 1000, is %d", c.MaxK)
	check(c.MaxTextBytes >= 0 && c.MaxTextBytes <= 1<<20, "max_text_bytes must be between 1 and 1048576, is %d", c.MaxTextBytes)
	check(c.MaxDocumentBytes >= 0 && c.MaxDocumentBytes <= 16<<20, "max_document_bytes must be between 1 and 16777216, is %d", c.MaxDocumentBytes)
	check(c.MaxAnswerBytes >= 0 && c.MaxAnswerBytes <= 1<<30, "max_answer_bytes must be between 1 and 1073741824, is %d", c.MaxAnswerBytes)
	check(c.MaxConns >= 0 && c.MaxConns <= 4096, "max_conns must be between 1 and 4096, is %d", c.MaxConns)
	check(c.Timeout >= 0 && c.Timeout <= 10*time.Minute, "timeout must be between 1ms and 10m")
	return errors.Join(errs...)
}

// Open opens the source. It needs deps.Embed. It fails if the server answers and the collection is
// missing or does not fit the embedder; a server that does not answer is asked again when a call
// comes, which is let through only after that.
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	x, err := c.index(ctx, deps)
	if err != nil {
		return nil, err
	}
	switch err := x.gate.Check(ctx); {
	case err == nil:
		if err := x.sameEmbedder(ctx); err != nil {
			x.log.WarnContext(ctx, "searches of tenants that were loaded with it will be refused", "err", err)
		}
	case atlas.CodeOf(err) == atlas.CodeSourceUnavailable:
		x.log.WarnContext(ctx, "the server does not answer; it is asked again before the first search", "err", err)
	default:
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}

// Migrate implements source.Migrator: it makes the collection and its indexes, with load_api_key.
func (c *Config) Migrate(ctx context.Context, deps source.Deps) error {
	x, err := c.index(ctx, deps)
	if err != nil {
		return err
	}
	return errors.Join(x.create(ctx), x.Close())
}

func (c *Config) index(ctx context.Context, deps source.Deps) (*Index, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return nil, err
	}
	if deps.Embed == nil {
		return nil, atlas.Errorf(atlas.CodeSourceMisused, nil, "a vector source needs an embedder; configure one")
	}
	cfg := c.withDefaults(deps.Name)
	if !collectionName.MatchString(cfg.Collection) {
		return nil, atlas.Errorf(atlas.CodeSourceMisused, errors.New("the source's name is no name of a collection; set collection"), "")
	}
	log := deps.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	transport, err := source.Transport(cfg.CAFile, cfg.MaxConns)
	if err != nil {
		return nil, err
	}
	x := &Index{cfg: cfg, api: newAPI(cfg, transport), embed: deps.Embed, log: log.With("source", deps.Name)}
	x.gate = source.NewGate(cfg.Timeout, func(ctx context.Context) error { return x.check(ctx, cfg.APIKey) })
	return x, nil
}

// An Index finds similar documents. It implements source.VectorIndex and source.Loader.
type Index struct {
	cfg    Config
	api    *api
	embed  source.Embedder
	log    *slog.Logger
	gate   *source.Gate // open once the collection was seen to fit the embedder
	closed atomic.Bool
}

var (
	_ source.Config      = (*Config)(nil)
	_ source.Migrator    = (*Config)(nil)
	_ source.VectorIndex = (*Index)(nil)
	_ source.Loader      = (*Index)(nil)
)

// Ping asks whether the collection is there, fits the embedder, and was last loaded with it.
func (x *Index) Ping(ctx context.Context) error {
	if err := x.open(); err != nil {
		return err
	}
	if err := x.gate.Check(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Timeout)
	defer cancel()
	return x.sameEmbedder(ctx)
}

// Close makes later calls fail. Calls that are running go on.
func (x *Index) Close() error {
	x.closed.Store(true)
	x.gate.Close()
	x.api.client.CloseIdleConnections()
	return nil
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
	return x.nearest(ctx, tenant, vector, conditions, min(cmp.Or(n.K, 10), x.cfg.MaxK))
}
