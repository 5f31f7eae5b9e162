// Package vec is the vector index of the embedded profile: sqlite-vec over one file per tenant,
// searched exhaustively by cosine distance. The embedder is the program's; its name is kept with
// the vectors, and vectors of two embedders are never compared.
package vec

import (
	"cmp"
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strconv"
	"time"

	_ "modernc.org/sqlite/vec" // adds vec0 to SQLite

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sqlitefile"
)

// batch is how many documents are embedded at once.
const batch = 64

// Config are the driver's settings.
type Config struct {
	Dir              string        `yaml:"dir"`                // holds a file for each tenant; default: the source's name in the data directory
	MaxK             int           `yaml:"max_k"`              // most hits of one search; 0 means 100
	MaxTextBytes     int           `yaml:"max_text_bytes"`     // longest text to search with; 0 means 16 KiB
	MaxDocumentBytes int           `yaml:"max_document_bytes"` // largest body to take in; 0 means 256 KiB
	Timeout          time.Duration `yaml:"timeout"`            // of one search; 0 means 5s
	MaxTenants       int           `yaml:"max_tenants"`        // tenants' files open at once; 0 means 64
	MaxConns         int           `yaml:"max_conns"`          // searches of one tenant at once; 0 means 4
}

func (c Config) withDefaults(deps source.Deps) Config {
	c.Dir = cmp.Or(c.Dir, filepath.Join(deps.DataDir, deps.Name))
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
	check(c.MaxK >= 0 && c.MaxK <= 1000, "max_k must be between 1 and 1000, is %d", c.MaxK)
	check(c.MaxTextBytes >= 0 && c.MaxTextBytes <= 1<<20, "max_text_bytes must be between 1 and 1048576, is %d", c.MaxTextBytes)
	check(c.MaxDocumentBytes >= 0 && c.MaxDocumentBytes <= 16<<20, "max_document_bytes must be between 1 and 16777216, is %d", c.MaxDocumentBytes)
	check(c.Timeout >= 0, "timeout is negative")
	check(c.MaxTenants >= 0, "max_tenants is negative")
	check(c.MaxConns >= 0, "max_conns is negative")
	return errors.Join(errs...)
}

// Open opens the store, making its directory if it is missing. It needs deps.Embed.
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return nil, err
	}
	if deps.Embed == nil {
		return nil, atlas.Errorf(atlas.CodeSourceMisused, nil, "a vector source needs an embedder; configure one")
	}
	if d := deps.Embed.Dim(); d < 1 || d > 8192 {
		return nil, atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("dimension %d", d), "the embedder's dimension must be between 1 and 8192")
	}
	cfg := c.withDefaults(deps)
	store, err := sqlitefile.New(sqlitefile.Options{Dir: cfg.Dir, MaxTenants: cfg.MaxTenants, MaxConns: cfg.MaxConns})
	if err != nil {
		return nil, err
	}
	log := deps.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Index{cfg: cfg, store: store, embed: deps.Embed, name: deps.Name, log: log}, nil
}

// An Index finds similar documents. It implements source.VectorIndex and source.Loader.
type Index struct {
	cfg   Config
	store *sqlitefile.Store
	embed source.Embedder
	name  string
	log   *slog.Logger
}

// Ping asks whether the store can answer.
func (x *Index) Ping(ctx context.Context) error {
	return sqlitefile.Failure(ctx, x.store.Ping(ctx))
}

// Close closes all files.
func (x *Index) Close() error { return x.store.Close() }

// Nearest implements source.VectorIndex. The score is the cosine of the angle, 1 for the same
// direction. A text that the embedder sees nothing in finds nothing.
func (x *Index) Nearest(ctx context.Context, tenant atlas.TenantID, n source.Nearest) (source.Hits, error) {
	if n.K < 0 {
		return source.Hits{}, atlas.Errorf(atlas.CodeInvalidArguments, nil, "k is negative").With("argument", "k")
	}
	k := min(cmp.Or(n.K, 10), x.cfg.MaxK)
	cond, args, err := sqlitefile.Filter("d.n", n.Filter)
	if err != nil {
		return source.Hits{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Timeout)
	defer cancel()
	vector, err := source.QueryVector(ctx, x.embed, tenant, n, x.cfg.MaxTextBytes)
	if err != nil {
		return source.Hits{}, err
	}
	hits := source.Hits{Total: -1, Hits: []source.Hit{}}
	err = x.store.View(ctx, tenant, func(c *sqlitefile.Conn) error {
		if same, err := x.sameEmbedder(c); err != nil {
			return err
		} else if !same {
			return source.ErrOtherEmbedder(fmt.Errorf("source %s: vectors are not from %s", x.name, x.embed.ID()))
		}
		if vector == nil {
			return nil
		}
		return nearest(c, vector, cond, args, k, &hits)
	})
	if errors.Is(err, sqlitefile.ErrAbsent) {
		return hits, nil
	}
	if err != nil {
		return source.Hits{}, sqlitefile.Failure(ctx, err)
	}
	return hits, nil
}

func nearest(c *sqlitefile.Conn, vector []float32, cond string, args []any, k int, hits *source.Hits) error {
	// The condition is inside vec0's own search: filtering its k nearest would lose hits.
	inner := `SELECT rowid, distance FROM vector WHERE embedding MATCH ? AND k = ?`
	all := []any{blob(vector), int64(k)}
	if cond != "" {
		inner += ` AND rowid IN (SELECT d.n FROM doc d WHERE ` + cond + `)`
		all = append(all, args...)
	}
	_, err := c.Query(`SELECT d.id, v.distance, substr(d.body, 1, 200), d.title, d.body, d.url, d.attrs
		FROM (`+inner+`) v JOIN doc d ON d.n = v.rowid ORDER BY v.distance, d.id`,
		sqlitefile.Positional(all...), func(v []driver.Value) (bool, error) {
			fields, err := sqlitefile.Fields(v[3], v[4], v[5], v[6])
			if err != nil {
				return false, err
			}
			h := source.Hit{Fields: fields}
			h.ID, _ = v[0].(string)
			distance, ok := v[1].(float64)
			if !ok {
				return true, nil // a document without a direction
			}
			h.Score = 1 - distance
			h.Snippet, _ = v[2].(string)
			hits.Hits = append(hits.Hits, h)
			return true, nil
		})
	return err
}

// blob is a vector as sqlite-vec takes it.
func blob(v []float32) []byte {
	out := make([]byte, 0, 4*len(v))
	for _, f := range v {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(f))
	}
	return out
}

// sameEmbedder reports whether the file's vectors are from the configured embedder.
func (x *Index) sameEmbedder(c *sqlitefile.Conn) (bool, error) {
	var id string
	var dim int64
	_, err := c.Query(`SELECT embedder, dim FROM meta`, nil, func(v []driver.Value) (bool, error) {
		id, _ = v[0].(string)
		dim, _ = v[1].(int64)
		return false, nil
	})
	return id == x.embed.ID() && dim == int64(x.embed.Dim()), err
}

// Load implements source.Loader with data.Documents. If the file's vectors are from another
// embedder, all of its documents are embedded anew.
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
		if err := c.Exec(`CREATE TABLE IF NOT EXISTS meta (embedder TEXT NOT NULL, dim INTEGER NOT NULL)`); err != nil {
			return err
		}
		same, err := x.sameEmbedder(c)
		if err != nil {
			return err
		}
		var todo []text
		if !same {
			if err := x.reset(c); err != nil {
				return err
			}
			if todo, err = texts(c); err != nil {
				return err
			}
			if len(todo) > 0 {
				x.log.InfoContext(ctx, "embedding all documents anew for another embedder", "source", x.name, "tenant", string(tenant), "documents", len(todo))
			}
		}
		for _, d := range data.Documents {
			n, err := sqlitefile.PutDocument(c, d)
			if err != nil {
				return err
			}
			todo = append(todo, text{n, d.Title, d.Body})
		}
		return x.put(ctx, c, todo)
	})
	return sqlitefile.Failure(ctx, err)
}

// reset makes an empty vector table for the configured embedder.
func (x *Index) reset(c *sqlitefile.Conn) error {
	for _, stmt := range []string{
		`DROP TABLE IF EXISTS vector`, `DELETE FROM meta`,
		`CREATE VIRTUAL TABLE vector USING vec0 (embedding float[` + strconv.Itoa(x.embed.Dim()) + `] distance_metric=cosine)`,
	} {
		if err := c.Exec(stmt); err != nil {
			return err
		}
	}
	return c.Exec(`INSERT INTO meta (embedder, dim) VALUES (?, ?)`, x.embed.ID(), int64(x.embed.Dim()))
}

// A text is a document's number and what is embedded of it.
type text struct {
	n           int64
	title, body string
}

// texts returns all documents of the file.
func texts(c *sqlitefile.Conn) ([]text, error) {
	var out []text
	_, err := c.Query(`SELECT n, title, body FROM doc ORDER BY n`, nil, func(v []driver.Value) (bool, error) {
		var t text
		t.n, _ = v[0].(int64)
		t.title, _ = v[1].(string)
		t.body, _ = v[2].(string)
		out = append(out, t)
		return true, nil
	})
	return out, err
}

// put embeds texts and stores their vectors. The last of several texts of one number counts.
func (x *Index) put(ctx context.Context, c *sqlitefile.Conn, todo []text) error {
	for len(todo) > 0 {
		part := todo[:min(batch, len(todo))]
		todo = todo[len(part):]
		in := make([]string, len(part))
		for i, t := range part {
			in[i] = source.EmbeddedText(t.title, t.body)
		}
		vs, err := source.EmbedAll(ctx, x.embed, in)
		if err != nil {
			return err
		}
		for i, t := range part {
			// vec0 knows no UPSERT.
			if err := c.Exec(`DELETE FROM vector WHERE rowid = ?`, t.n); err != nil {
				return err
			}
			if vs[i] == nil {
				continue // nothing to find it by
			}
			if err := c.Exec(`INSERT INTO vector (rowid, embedding) VALUES (?, ?)`, t.n, blob(vs[i])); err != nil {
				return err
			}
		}
	}
	return nil
}
