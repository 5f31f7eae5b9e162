// Package elasticsearch is the search source for Elasticsearch 8 and 9 and OpenSearch 2 and 3: a
// client of its own for the few requests that all of them answer alike (the official client of
// Elasticsearch refuses OpenSearch).
//
// A tenant is bound three times, so that no one mistake shows its documents to another:
//
//   - by the index: with `isolation: index`, the default, each tenant has one of its own, named in
//     the path of the request and nowhere else;
//   - by the filter: the driver writes every request body itself, from a question that it took
//     apart, with the tenant's filter round everything; bodies that agents wrote (see
//     [Index.SearchDSL]) are read, checked clause by clause and written anew, never passed on;
//   - by the answer: each document that comes back, and a count by tenant of all that matched, must
//     be the tenant's, or the whole answer is thrown away ([ErrForeign]).
//
// With `isolation: filter` tenants share an index. Then its text fields must score without
// statistics (similarity boolean): BM25 counts the documents of all tenants that hold a word, and
// scores would tell one tenant how often another writes it. How long a search takes depends on the
// size of what is shared; where that matters, tenants have indexes of their own.
//
// The driver needs an API key or role with monitor on the cluster, and read, view_index_metadata on
// its indexes (<index>.* with isolation by index); the one for loading also write, create_index and
// maintenance. Nothing wider than its own indexes should be given, and the cluster should not make
// indexes by itself (action.auto_create_index).
package elasticsearch

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// The ways to keep tenants apart.
const (
	IsolationIndex  = "index"  // an index for each tenant, named <index>.<tenant>
	IsolationFilter = "filter" // one index for all of them
)

// Config are the driver's settings.
type Config struct {
	URL  string   `yaml:"url"`  // of the cluster
	URLs []string `yaml:"urls"` // of several of its nodes, instead of url: the next one is asked when one cannot be reached

	Index            string            `yaml:"index"`             // name of the index, or what the tenants' indexes begin with
	Isolation        string            `yaml:"isolation"`         // index (default) or filter
	RouteByTenant    bool              `yaml:"route_by_tenant"`   // isolation filter: keep each tenant on one shard, and ask only that one
	SharedStatistics bool              `yaml:"shared_statistics"` // isolation filter: accept that scores depend on other tenants' documents
	Shards           int               `yaml:"shards"`            // of an index that the driver makes; 0 means 1
	Attributes       map[string]string `yaml:"attributes"`        // attributes that query bodies may compare, sort and count, by name: keyword, long, double, date or boolean

	APIKey       string `yaml:"api_key"` // as the server gave it out, base64
	Username     string `yaml:"username"`
	Password     string `yaml:"password"`
	Bearer       string `yaml:"bearer"`
	LoadAPIKey   string `yaml:"load_api_key"` // for loading and migrating, never while serving; default: the credentials above
	LoadUsername string `yaml:"load_username"`
	LoadPassword string `yaml:"load_password"`
	AllowHTTP    bool   `yaml:"allow_http"` // credentials may go over plain HTTP to other hosts than this one
	CAFile       string `yaml:"ca_file"`    // PEM; the only authorities trusted; default: the system's
	CertFile     string `yaml:"cert_file"`  // PEM, with key_file: the client's certificate
	KeyFile      string `yaml:"key_file"`

	TitleWeight      float64       `yaml:"title_weight"`       // how much more a word in the title counts; 0 means 4
	MaxSize          int           `yaml:"max_size"`           // most hits of one search; 0 means 100
	MaxWords         int           `yaml:"max_words"`          // words of a search that count; 0 means 32
	MaxDocumentBytes int           `yaml:"max_document_bytes"` // largest document to take in; 0 means 256 KiB
	MaxAnswerBytes   int64         `yaml:"max_answer_bytes"`   // largest answer of the server; 0 means 16 MiB
	MaxConns         int           `yaml:"max_conns"`          // connections to one node; 0 means 32
	Timeout          time.Duration `yaml:"timeout"`            // of one search; 0 means 5s
	ConnectTimeout   time.Duration `yaml:"connect_timeout"`    // of one connection, before the next node is tried; 0 means 2s
}

func (c Config) withDefaults() Config {
	if c.URL != "" {
		c.URLs = []string{c.URL}
	}
	c.URLs = slices.Clone(c.URLs)
	c.Attributes = maps.Clone(c.Attributes)
	c.Isolation = cmp.Or(c.Isolation, IsolationIndex)
	c.Shards = cmp.Or(c.Shards, 1)
	c.TitleWeight = cmp.Or(c.TitleWeight, 4)
	c.MaxSize = cmp.Or(c.MaxSize, 100)
	c.MaxWords = cmp.Or(c.MaxWords, 32)
	c.MaxDocumentBytes = cmp.Or(c.MaxDocumentBytes, 256<<10)
	c.MaxAnswerBytes = cmp.Or(c.MaxAnswerBytes, 16<<20)
	c.MaxConns = cmp.Or(c.MaxConns, 32)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 2*time.Second)
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
	check((c.URL == "") != (len(c.URLs) == 0), "url: give url or urls, and not both")
	check(len(c.URLs) <= 32, "urls: at most 32 nodes")
	secret := c.APIKey + c.Password + c.Bearer + c.LoadAPIKey + c.LoadPassword
	for _, address := range c.withDefaults().URLs {
		if err := source.CheckURL(address, secret != "", c.AllowHTTP); err != nil {
			errs = append(errs, fmt.Errorf("url: %w", err))
		}
	}
	if err := checkIndex(c.Index); err != nil {
		errs = append(errs, fmt.Errorf("index: %w", err))
	}
	check(slices.Contains([]string{"", IsolationIndex, IsolationFilter}, c.Isolation), "isolation: must be index or filter, is %q", c.Isolation)
	shared := c.Isolation == IsolationFilter
	check(shared || !c.RouteByTenant, "route_by_tenant: is for isolation: filter")
	check(shared || !c.SharedStatistics, "shared_statistics: is for isolation: filter")
	check(c.Shards >= 0 && c.Shards <= 64, "shards must be between 1 and 64, is %d", c.Shards)
	check(len(c.Attributes) <= 64, "attributes: at most 64")
	for _, name := range slices.Sorted(maps.Keys(c.Attributes)) {
		_, taken := documentFields[name]
		check(attributeName(name) && !taken && name != "score" && name != "snippet", "attributes: %q cannot be the name of one; use a-z, 0-9 and _, and none of a hit's own fields", name)
		check(slices.Contains(attributeTypes, fieldType(c.Attributes[name])), "attributes.%s: must be keyword, long, double, date or boolean, is %q", name, c.Attributes[name])
	}
	one := func(names string, given ...bool) {
		ways := 0
		for _, g := range given {
			if g {
				ways++
			}
		}
		check(ways <= 1, "%s: give one of them", names)
	}
	one("api_key, username with password, bearer", c.APIKey != "", c.Username+c.Password != "", c.Bearer != "")
	one("load_api_key, load_username with load_password", c.LoadAPIKey != "", c.LoadUsername+c.LoadPassword != "")
	check((c.Username == "") == (c.Password == ""), "username and password: give both")
	check((c.LoadUsername == "") == (c.LoadPassword == ""), "load_username and load_password: give both")
	check(!strings.ContainsFunc(secret+c.Username+c.LoadUsername, func(r rune) bool { return r < ' ' || r == 0x7f }), "credentials hold a control character: look for a line break at the end")
	check((c.CertFile == "") == (c.KeyFile == ""), "cert_file and key_file: give both")
	check(c.TitleWeight >= 0 && c.TitleWeight <= 100, "title_weight must be between 0 and 100, is %v", c.TitleWeight)
	check(c.MaxSize >= 0 && c.MaxSize <= 1000, "max_size must be between 1 and 1000, is %d", c.MaxSize)
	check(c.MaxWords >= 0 && c.MaxWords <= 256, "max_words must be between 1 and 256, is %d", c.MaxWords)
	check(c.MaxDocumentBytes >= 0 && c.MaxDocumentBytes <= 900_000, "max_document_bytes must be between 1 and 900000, is %d", c.MaxDocumentBytes)
	check(c.MaxAnswerBytes >= 0 && c.MaxAnswerBytes <= 256<<20, "max_answer_bytes must be between 1 and 268435456, is %d", c.MaxAnswerBytes)
	check(c.MaxConns >= 0, "max_conns is negative")
	check(c.Timeout >= 0, "timeout is negative")
	check(c.ConnectTimeout >= 0, "connect_timeout is negative")
	return errors.Join(errs...)
}

// checkIndex checks that name is the plain name of one index: nothing that a server reads as
// several indexes, another cluster (a:b), a date to be worked out (<a-{now}>) or one of its own.
func checkIndex(name string) error {
	if name == "" || len(name) > 128 {
		return errors.New("must have 1 to 128 characters")
	}
	for i := range len(name) {
		c := name[i]
		plain := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !plain && (i == 0 || c != '-' && c != '_' && c != '.') {
			return fmt.Errorf("has %q at position %d; use a-z, 0-9, -, _ and ., beginning with a letter or digit", c, i+1)
		}
	}
	return nil
}

func attributeName(s string) bool {
	return s != "" && len(s) <= 64 && s[0] >= 'a' && s[0] <= 'z' &&
		!strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' })
}

// Open opens the index. What does not fit is refused with what mends it. A cluster that cannot be
// reached now is no mistake of the configuration: the checks are then made before the first call.
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	x, err := c.open(ctx, deps)
	if err != nil {
		return nil, err
	}
	if err := x.start(ctx); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}

// Migrate implements source.Migrator: with isolation by filter it makes the index, if there is none.
// Tenants' own indexes are made when they are loaded.
func (c *Config) Migrate(ctx context.Context, deps source.Deps) error {
	x, err := c.open(ctx, deps)
	if err != nil {
		return err
	}
	return errors.Join(x.migrate(ctx), x.Close())
}

func (c *Config) open(ctx context.Context, deps source.Deps) (*Index, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return nil, err
	}
	cfg := c.withDefaults()
	transport, err := source.Transport(cfg.CAFile, cfg.MaxConns)
	if err != nil {
		return nil, err
	}
	transport.DialContext = (&net.Dialer{Timeout: cfg.ConnectTimeout, KeepAlive: 30 * time.Second}).DialContext
	transport.TLSHandshakeTimeout = cfg.ConnectTimeout
	if cfg.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("cert_file, key_file: %w", err), "")
		}
		transport.TLSClientConfig.Certificates = []tls.Certificate{cert}
	}
	log := deps.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return newIndex(cfg, newClient(cfg, transport, deps.TraceParent), log.With("source", deps.Name)), nil
}
