// Package fts is the full-text search of the embedded profile: SQLite's FTS5 over one file per
// tenant. What a caller searches for is words and never query syntax.
package fts

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sqlitefile"
)

// Config are the driver's settings.
type Config struct {
	Dir              string        `yaml:"dir"`                // holds a file for each tenant; default: the source's name in the data directory
	TitleWeight      float64       `yaml:"title_weight"`       // how much more a word in the title counts; 0 means 4
	MaxSize          int           `yaml:"max_size"`           // most hits of one search; 0 means 100
	MaxWords         int           `yaml:"max_words"`          // words of a search that count; 0 means 32
	MaxDocumentBytes int           `yaml:"max_document_bytes"` // largest body to take in; 0 means 256 KiB
	Timeout          time.Duration `yaml:"timeout"`            // of one search; 0 means 5s
	MaxTenants       int           `yaml:"max_tenants"`        // tenants' files open at once; 0 means 64
	MaxConns         int           `yaml:"max_conns"`          // searches of one tenant at once; 0 means 4
}

func (c Config) withDefaults(deps source.Deps) Config {
	c.Dir = cmp.Or(c.Dir, filepath.Join(deps.DataDir, deps.Name))
	c.TitleWeight = cmp.Or(c.TitleWeight, 4)
	c.MaxSize = cmp.Or(c.MaxSize, 100)
	c.MaxWords = cmp.Or(c.MaxWords, 32)
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
	check(c.TitleWeight >= 0 && c.TitleWeight <= 100, "title_weight must be between 0 and 100, is %v", c.TitleWeight)
	check(c.MaxSize >= 0 && c.MaxSize <= 1000, "max_size must be between 1 and 1000, is %d", c.MaxSize)
	check(c.MaxWords >= 0 && c.MaxWords <= 256, "max_words must be between 1 and 256, is %d", c.MaxWords)
	check(c.MaxDocumentBytes >= 0 && c.MaxDocumentBytes <= 16<<20, "max_document_bytes must be between 1 and 16777216, is %d", c.MaxDocumentBytes)
	check(c.Timeout >= 0, "timeout is negative")
	check(c.MaxTenants >= 0, "max_tenants is negative")
	check(c.MaxConns >= 0, "max_conns is negative")
	return errors.Join(errs...)
}

// Open opens the store, making its directory if it is missing.
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return nil, err
	}
	cfg := c.withDefaults(deps)
	store, err := sqlitefile.New(sqlitefile.Options{Dir: cfg.Dir, MaxTenants: cfg.MaxTenants, MaxConns: cfg.MaxConns})
	if err != nil {
		return nil, err
	}
	return &Index{cfg: cfg, store: store}, nil
}

// An Index searches documents. It implements source.Searcher and source.Loader.
type Index struct {
	cfg   Config
	store *sqlitefile.Store
}

// Ping asks whether the store can answer.
func (x *Index) Ping(ctx context.Context) error {
	return sqlitefile.Failure(ctx, x.store.Ping(ctx))
}

// Close closes all files.
func (x *Index) Close() error { return x.store.Close() }

// The index is kept in step with doc by hand, in Load. Words are stemmed, and accents do not count;
// '-' and '_' end a word, so that "five-business-day" is found by "business". An id such as
// CUST-1001 is looked for as a phrase (see match), which finds it whole and nothing else.
const schema = `CREATE VIRTUAL TABLE IF NOT EXISTS word USING fts5 (
	title, body, content = 'doc', content_rowid = 'n', tokenize = 'porter unicode61 remove_diacritics 2')`

// Load implements source.Loader with data.Documents. A document of more than the configured size
// is too_large.
func (x *Index) Load(ctx context.Context, tenant atlas.TenantID, data source.Data) error {
	if len(data.Documents) == 0 {
		return nil
	}
	for _, d := range data.Documents {
		if len(d.Title)+len(d.Body) > x.cfg.MaxDocumentBytes {
			return atlas.Errorf(atlas.CodeTooLarge, nil, "a document is larger than the limit").
				With("id", d.ID).With("limit_bytes", x.cfg.MaxDocumentBytes)
		}
	}
	err := x.store.Update(ctx, tenant, func(c *sqlitefile.Conn) error {
		if err := sqlitefile.CreateDocuments(c); err != nil {
			return err
		}
		if err := c.Exec(schema); err != nil {
			return err
		}
		for _, d := range data.Documents {
			// An external-content index must be told the old words before they are overwritten.
			if err := c.Exec(`INSERT INTO word (word, rowid, title, body) SELECT 'delete', n, title, body FROM doc WHERE id = ?`, d.ID); err != nil {
				return err
			}
			n, err := sqlitefile.PutDocument(c, d)
			if err != nil {
				return err
			}
			if err := c.Exec(`INSERT INTO word (rowid, title, body) VALUES (?, ?, ?)`, n, d.Title, d.Body); err != nil {
				return err
			}
		}
		return nil
	})
	return sqlitefile.Failure(ctx, err)
}

// Search implements source.Searcher. Documents with any of the words are found; those with rarer
// words, with more of them, and with them in the title come first (BM25, Robertson and Zaragoza,
// 2009). A text without a single letter or digit finds nothing.
func (x *Index) Search(ctx context.Context, tenant atlas.TenantID, s source.Search) (source.Hits, error) {
	if s.Size < 0 {
		return source.Hits{}, atlas.Errorf(atlas.CodeInvalidArguments, nil, "size is negative").With("argument", "size")
	}
	size := min(cmp.Or(s.Size, 10), x.cfg.MaxSize)
	cond, args, err := sqlitefile.Filter("d.n", s.Filter)
	if err != nil {
		return source.Hits{}, err
	}
	query := match(s.Text, x.cfg.MaxWords)
	wanted := strings.TrimSpace(s.Text) != ""
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Timeout)
	defer cancel()
	hits := source.Hits{Hits: []source.Hit{}}
	err = x.store.View(ctx, tenant, func(c *sqlitefile.Conn) error {
		switch {
		case !wanted:
			return x.newest(c, cond, args, size, &hits)
		case query != "":
			return x.best(c, query, cond, args, size, &hits)
		}
		return nil
	})
	if errors.Is(err, sqlitefile.ErrAbsent) {
		return hits, nil
	}
	if err != nil {
		return source.Hits{}, sqlitefile.Failure(ctx, err)
	}
	return hits, nil
}

func (x *Index) best(c *sqlitefile.Conn, query, cond string, args []any, size int, hits *source.Hits) error {
	from := ` FROM word JOIN doc d ON d.n = word.rowid WHERE word MATCH ?`
	if cond != "" {
		from += " AND " + cond
	}
	args = append([]any{query}, args...)
	if err := count(c, from, args, hits); err != nil || hits.Total == 0 {
		return err
	}
	// Ties are broken by id, so that the same search gives the same list.
	return x.collect(c, `SELECT d.id, bm25(word, ?, 1.0) AS rank_, snippet(word, -1, '', '', '…', 32), d.title, d.body, d.url, d.attrs`+
		from+` ORDER BY rank_, d.id LIMIT ?`,
		append(append([]any{x.cfg.TitleWeight}, args...), int64(size)), hits)
}

func (x *Index) newest(c *sqlitefile.Conn, cond string, args []any, size int, hits *source.Hits) error {
	from := ` FROM doc d`
	if cond != "" {
		from += " WHERE " + cond
	}
	if err := count(c, from, args, hits); err != nil || hits.Total == 0 {
		return err
	}
	return x.collect(c, `SELECT d.id, 0.0, substr(d.body, 1, 200), d.title, d.body, d.url, d.attrs`+
		from+` ORDER BY d.created DESC, d.id LIMIT ?`, append(slices.Clip(args), int64(size)), hits)
}

func count(c *sqlitefile.Conn, from string, args []any, hits *source.Hits) error {
	_, err := c.Query(`SELECT count(*)`+from, sqlitefile.Positional(args...), func(vals []driver.Value) (bool, error) {
		n, _ := vals[0].(int64)
		hits.Total = int(n)
		return true, nil
	})
	return err
}

func (x *Index) collect(c *sqlitefile.Conn, query string, args []any, hits *source.Hits) error {
	_, err := c.Query(query, sqlitefile.Positional(args...), func(v []driver.Value) (bool, error) {
		fields, err := sqlitefile.Fields(v[3], v[4], v[5], v[6])
		if err != nil {
			return false, err
		}
		h := source.Hit{Fields: fields}
		h.ID, _ = v[0].(string)
		rank, _ := v[1].(float64)
		h.Score = math.Abs(rank) // SQLite gives the better the lower, and never above 0
		h.Snippet, _ = v[2].(string)
		hits.Hits = append(hits.Hits, h)
		return true, nil
	})
	return err
}

// match turns text into an FTS5 query: its words, joined by OR. Each is a quoted string of letters,
// digits, '-' and '_', so no operator, column name or quote mark can get through. FTS5 splits a
// word with '-' or '_' in it once more and looks for the parts next to each other.
func match(text string, maxWords int) string {
	var b strings.Builder
	seen := map[string]bool{}
	for w := range strings.FieldsFuncSeq(text, func(r rune) bool {
		return r != '-' && r != '_' && !unicode.In(r, unicode.L, unicode.N, unicode.M)
	}) {
		w = strings.ToLower(strings.Trim(w, "-_"))
		if w == "" || seen[w] {
			continue
		}
		if len(seen) == maxWords {
			break
		}
		seen[w] = true
		if b.Len() > 0 {
			b.WriteString(" OR ")
		}
		b.WriteString(`"` + w + `"`)
	}
	return b.String()
}
