// Package openai embeds texts with a service that speaks OpenAI's embeddings API (POST
// /v1/embeddings): OpenAI itself, or one of the many that answer alike.
//
// Loading sends many texts, in batches, and nobody retries it, so this package does. Questions come
// under the pipeline's retry stage: for them a request is sent once.
//
// Questions are remembered, each tenant's apart. One memory for all would be an oracle: a tenant
// could tell by the time of an answer what another has asked. So the key of what is remembered
// holds the tenant, every tenant has its own room, and what is embedded for no tenant is not
// remembered. What is kept is a hash of the text, not the text.
package openai

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Config are the embedder's settings.
type Config struct {
	URL            string        `yaml:"url"`              // up to and including /v1; default: https://api.openai.com/v1
	APIKey         string        `yaml:"api_key"`          // may be empty for a service of one's own
	AllowHTTP      bool          `yaml:"allow_http"`       // the key may go over plain HTTP to another host than this one
	CAFile         string        `yaml:"ca_file"`          // certificates, as PEM, to trust instead of the system's
	Model          string        `yaml:"model"`            // such as text-embedding-3-small
	Provider       string        `yaml:"provider"`         // first part of the id that is stored with vectors; default: openai
	Dim            int           `yaml:"dim"`              // of the vectors; 0 asks the service at the start
	SendDimensions bool          `yaml:"send_dimensions"`  // ask for vectors of dim, of models that can shorten theirs
	Base64         bool          `yaml:"base64"`           // ask for vectors as base64, which is a third of the size; not all services can
	DocumentPrefix string        `yaml:"document_prefix"`  // put before what is stored, for models that were trained so (E5: "passage: ")
	QueryPrefix    string        `yaml:"query_prefix"`     // put before questions (E5: "query: ")
	MaxTextBytes   int           `yaml:"max_text_bytes"`   // what a text has beyond is not embedded; 0 means 16 KiB
	MaxBatch       int           `yaml:"max_batch"`        // texts of one request; 0 means 64
	MaxBatchBytes  int           `yaml:"max_batch_bytes"`  // bytes of their texts; 0 means 256 KiB
	MaxAnswerBytes int64         `yaml:"max_answer_bytes"` // of one answer; 0 means 64 MiB
	MaxConns       int           `yaml:"max_conns"`        // connections; 0 means 16
	Timeout        time.Duration `yaml:"timeout"`          // of one request; 0 means 30s
	Attempts       int           `yaml:"attempts"`         // of one request when loading, the first included; 0 means 5
	CacheOff       bool          `yaml:"cache_off"`        // remember no questions
	CacheEntries   int           `yaml:"cache_entries"`    // questions remembered for each tenant; 0 means 64
	CacheTenants   int           `yaml:"cache_tenants"`    // tenants that are remembered for; 0 means 256
}

func (c Config) withDefaults() Config {
	c.URL = strings.TrimSuffix(cmp.Or(c.URL, "https://api.openai.com/v1"), "/")
	c.Provider = cmp.Or(c.Provider, "openai")
	c.MaxTextBytes = cmp.Or(c.MaxTextBytes, 16<<10)
	c.MaxBatch = cmp.Or(c.MaxBatch, 64)
	c.MaxBatchBytes = cmp.Or(c.MaxBatchBytes, 256<<10)
	c.MaxAnswerBytes = cmp.Or(c.MaxAnswerBytes, 64<<20)
	c.MaxConns = cmp.Or(c.MaxConns, 16)
	c.Timeout = cmp.Or(c.Timeout, 30*time.Second)
	c.Attempts = cmp.Or(c.Attempts, 5)
	c.CacheEntries = cmp.Or(c.CacheEntries, 64)
	c.CacheTenants = cmp.Or(c.CacheTenants, 256)
	return c
}

// maxDim is the largest dimension that any part of Atlas stores.
const maxDim = 8192

// Validate reports all mistakes, joined.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if err := source.CheckURL(c.withDefaults().URL, c.APIKey != "", c.AllowHTTP); err != nil {
		check(false, "url %w", err)
	}
	check(!strings.ContainsFunc(c.APIKey, func(r rune) bool { return r <= ' ' || r >= 0x7f }), "api_key holds a space or another character that no key has")
	check(c.Model != "" && len(c.Model) <= 200, "model is needed: the name by which the service knows it")
	check(!strings.ContainsAny(c.Provider, "/ "), "provider must be a word")
	check(c.Dim >= 0 && c.Dim <= maxDim, "dim must be between 1 and %d, is %d", maxDim, c.Dim)
	check(!c.SendDimensions || c.Dim > 0, "send_dimensions needs dim")
	check(len(c.DocumentPrefix) <= 200 && len(c.QueryPrefix) <= 200, "document_prefix and query_prefix must be at most 200 bytes")
	check(c.MaxTextBytes >= 0 && c.MaxTextBytes <= 1<<20, "max_text_bytes must be between 1 and 1048576, is %d", c.MaxTextBytes)
	check(c.MaxBatch >= 0 && c.MaxBatch <= 2048, "max_batch must be between 1 and 2048, is %d", c.MaxBatch)
	check(c.MaxBatchBytes >= 0 && c.MaxBatchBytes <= 16<<20, "max_batch_bytes must be between 1 and 16777216, is %d", c.MaxBatchBytes)
	check(c.MaxAnswerBytes >= 0 && c.MaxAnswerBytes <= 1<<30, "max_answer_bytes must be between 1 and 1073741824, is %d", c.MaxAnswerBytes)
	check(c.MaxConns >= 0 && c.MaxConns <= 1024, "max_conns must be between 1 and 1024, is %d", c.MaxConns)
	check(c.Timeout >= 0 && c.Timeout <= 10*time.Minute, "timeout must be between 1ms and 10m")
	check(c.Attempts >= 0 && c.Attempts <= 20, "attempts must be between 1 and 20, is %d", c.Attempts)
	check(c.CacheEntries >= 0 && c.CacheEntries <= 1<<16, "cache_entries must be between 1 and 65536, is %d", c.CacheEntries)
	check(c.CacheTenants >= 0 && c.CacheTenants <= 1<<16, "cache_tenants must be between 1 and 65536, is %d", c.CacheTenants)
	return errors.Join(errs...)
}

// Deps are what the program gives.
type Deps struct {
	Transport http.RoundTripper // nil: one of its own
	Log       *slog.Logger
}

// An Embedder embeds texts. It is safe for concurrent use and implements source.TenantEmbedder.
type Embedder struct {
	cfg    Config
	dim    int
	id     string
	client *http.Client
	cache  *cache // nil if it is off
	log    *slog.Logger
}

var (
	_ source.TenantEmbedder = (*Embedder)(nil)
	_ source.Embedder       = tenantEmbedder{}
)

// Open makes an embedder. It asks the service only for the dimension, and only if none is
// configured: then it fails if the service cannot answer.
func Open(ctx context.Context, cfg Config, deps Deps) (*Embedder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	transport := deps.Transport
	if transport == nil {
		var err error
		if transport, err = source.Transport(cfg.CAFile, cfg.MaxConns); err != nil {
			return nil, err
		}
	}
	e := &Embedder{
		cfg: cfg, dim: cfg.Dim, log: cmp.Or(deps.Log, slog.New(slog.DiscardHandler)),
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if e.dim == 0 {
		vs, err := e.send(ctx, []string{"dimension"}, cfg.Attempts)
		if err != nil {
			e.Close()
			return nil, fmt.Errorf("ask for the embedder's dimension (set dim, and Atlas starts without the service): %w", err)
		}
		e.dim = len(vs[0])
	}
	e.id = cfg.Provider + "/" + cfg.Model + "/" + strconv.Itoa(e.dim)
	if cfg.DocumentPrefix != "" || cfg.QueryPrefix != "" { // other vectors
		h := sha256.Sum256([]byte(cfg.DocumentPrefix + "\x00" + cfg.QueryPrefix))
		e.id += "/" + hex.EncodeToString(h[:4])
	}
	if !cfg.CacheOff {
		e.cache = newCache(cfg.CacheTenants, cfg.CacheEntries)
	}
	return e, nil
}

// ID names provider, model and dimension, and a hash of the prefixes if there are any.
func (e *Embedder) ID() string { return e.id }

// Dim returns the dimension of the vectors.
func (e *Embedder) Dim() int { return e.dim }

// Host returns where the service is, for operators.
func (e *Embedder) Host() string {
	u, err := url.Parse(e.cfg.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// Ping asks the service for one vector.
func (e *Embedder) Ping(ctx context.Context) error {
	_, err := e.send(ctx, []string{"ping"}, 1)
	return err
}

// Close closes idle connections.
func (e *Embedder) Close() { e.client.CloseIdleConnections() }

// Embed returns a vector for each text: zeros for one that is empty. What can be sent again is,
// until ctx ends or the next attempt would be after its deadline. Codes: source_unavailable,
// source_misconfigured if the service does not take key, model or URL, source_error for what it
// does not accept or answers wrongly, too_large, and those of ctx.
func (e *Embedder) Embed(ctx context.Context, texts []string) ([][]float32, error) {
	return e.embed(ctx, texts, e.cfg.DocumentPrefix, e.cfg.Attempts)
}

// For returns the embedder of a tenant's questions, which remembers and does not try again.
func (e *Embedder) For(tenant atlas.TenantID) source.Embedder {
	return tenantEmbedder{e, tenant}
}

// A tenantEmbedder embeds the questions of one tenant.
type tenantEmbedder struct {
	*Embedder
	tenant atlas.TenantID
}

// Embed implements source.Embedder.
func (t tenantEmbedder) Embed(ctx context.Context, texts []string) ([][]float32, error) {
	if err := ctx.Err(); err != nil {
		return nil, atlas.ErrorOf(err)
	}
	if t.cache == nil {
		return t.embed(ctx, texts, t.cfg.QueryPrefix, 1)
	}
	out := make([][]float32, len(texts))
	keys := make([]cacheKey, len(texts))
	var (
		missing []string
		places  []int
	)
	for i, text := range texts {
		keys[i] = keyOf(text)
		if out[i] = t.cache.get(t.tenant, keys[i]); out[i] == nil {
			missing, places = append(missing, text), append(places, i)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	got, err := t.embed(ctx, missing, t.cfg.QueryPrefix, 1)
	if err != nil {
		return nil, err
	}
	for j, i := range places {
		out[i] = got[j]
		t.cache.put(t.tenant, keys[i], got[j])
	}
	return out, nil
}

// embed sends texts in batches, each with the prefix before it.
func (e *Embedder) embed(ctx context.Context, texts []string, prefix string, attempts int) ([][]float32, error) {
	out := make([][]float32, len(texts))
	var (
		batch  []string
		places []int
		size   int
	)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		vs, err := e.send(ctx, batch, attempts)
		if err != nil {
			return err
		}
		for j, i := range places {
			out[i] = vs[j]
		}
		batch, places, size = batch[:0], places[:0], 0
		return nil
	}
	for i, text := range texts {
		text = e.cut(text)
		if text == "" { // the API takes no empty text, and there is nothing in it
			out[i] = make([]float32, e.dim)
			continue
		}
		text = prefix + text
		if len(batch) == e.cfg.MaxBatch || size > 0 && size+len(text) > e.cfg.MaxBatchBytes {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		batch, places, size = append(batch, text), append(places, i), size+len(text)
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return out, nil
}

// cut returns what of a text is embedded.
func (e *Embedder) cut(text string) string {
	if len(text) > e.cfg.MaxTextBytes {
		text = text[:e.cfg.MaxTextBytes]
	}
	return strings.TrimSpace(strings.ToValidUTF8(text, "")) // a character that was cut through goes, too
}

// Waits between attempts.
const (
	firstWait = 500 * time.Millisecond
	maxWait   = 30 * time.Second
)

// send sends one batch, up to attempts times.
func (e *Embedder) send(ctx context.Context, batch []string, attempts int) ([][]float32, error) {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		vs, err := e.request(ctx, batch)
		if err == nil {
			return vs, nil
		}
		failed := atlas.ErrorOf(err)
		if attempt >= attempts || failed.Code != atlas.CodeSourceUnavailable || errors.Is(err, errQuota) {
			return nil, err
		}
		pause := max(failed.RetryAfter, wait/2+rand.N(wait/2)) //nolint:gosec // spreads attempts; nothing to guess
		if at, ok := ctx.Deadline(); ok && time.Until(at) <= pause || failed.RetryAfter > maxWait {
			return nil, err
		}
		e.log.DebugContext(ctx, "embedding is tried again", "attempt", attempt, "wait", pause, "err", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, atlas.ErrorOf(ctx.Err())
		}
		wait = min(2*wait, maxWait)
	}
}
