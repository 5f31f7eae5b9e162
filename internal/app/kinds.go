package app

import (
	"cmp"
	"context"
	"log/slog"
	"path/filepath"

	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/elasticsearch"
	"github.com/atlas-mcp/atlas/internal/source/folder"
	"github.com/atlas-mcp/atlas/internal/source/fts"
	httpsource "github.com/atlas-mcp/atlas/internal/source/http"
	"github.com/atlas-mcp/atlas/internal/source/lexical"
	mcpsource "github.com/atlas-mcp/atlas/internal/source/mcp"
	"github.com/atlas-mcp/atlas/internal/source/openai"
	"github.com/atlas-mcp/atlas/internal/source/pgvector"
	"github.com/atlas-mcp/atlas/internal/source/postgres"
	"github.com/atlas-mcp/atlas/internal/source/qdrant"
	"github.com/atlas-mcp/atlas/internal/source/s3"
	"github.com/atlas-mcp/atlas/internal/source/sqlite"
	"github.com/atlas-mcp/atlas/internal/source/vec"
	"github.com/atlas-mcp/atlas/internal/state"
	postgresstate "github.com/atlas-mcp/atlas/internal/state/postgres"
	sqlitestate "github.com/atlas-mcp/atlas/internal/state/sqlite"
)

// Kinds is the table of source drivers. To add one, add a line.
var Kinds = map[string]func() source.Config{
	// The embedded profile.
	"sqlite": func() source.Config { return new(sqlite.Config) },
	"fts":    func() source.Config { return new(fts.Config) },
	"vec":    func() source.Config { return new(vec.Config) },
	"folder": func() source.Config { return new(folder.Config) },

	// Real servers.
	"postgres":      func() source.Config { return new(postgres.Config) },
	"pgvector":      func() source.Config { return new(pgvector.Config) },
	"elasticsearch": func() source.Config { return new(elasticsearch.Config) },
	"qdrant":        func() source.Config { return new(qdrant.Config) },
	"mcp":           func() source.Config { return new(mcpsource.Config) },
	"s3":            func() source.Config { return new(s3.Config) },
	"http":          func() source.Config { return new(httpsource.Config) },
}

// Embedders is the table of what turns texts into vectors. To add one, add a line.
var Embedders = map[string]func() EmbedderConfig{
	"lexical": func() EmbedderConfig { return new(lexicalConfig) },
	"openai":  func() EmbedderConfig { return new(openaiConfig) },
}

// States is the table of the drivers of Atlas's own state. To add one, add a line.
var States = map[string]func() StateConfig{
	"sqlite":   func() StateConfig { return new(sqliteState) },
	"postgres": func() StateConfig { return new(postgresState) },
}

// An EmbedderConfig is an embedder's settings.
type EmbedderConfig interface {
	Validate() error
	Open(ctx context.Context, log *slog.Logger) (source.Embedder, error)
}

// A StateConfig is the settings of a driver of Atlas's own state. One whose store must be prepared
// before it can be opened has a Migrate method, as sources' drivers do.
type StateConfig interface {
	Validate() error
	Open(ctx context.Context, dataDir string, log *slog.Logger) (StateStore, error)
	// Where says for operators where the state is, without secrets.
	Where(dataDir string) string
	// Elsewhere says that it is not kept beside the audit log, so that it can bear witness to it.
	Elsewhere() bool
}

// A StateStore is an open state, which Run keeps tidy until its context ends.
type StateStore interface {
	state.Store
	Run(ctx context.Context) error
}

type lexicalConfig struct {
	lexical.Config `yaml:",inline"`
}

func (c *lexicalConfig) Open(context.Context, *slog.Logger) (source.Embedder, error) {
	return lexical.New(c.Config)
}

type openaiConfig struct {
	openai.Config `yaml:",inline"`
}

func (c *openaiConfig) Open(ctx context.Context, log *slog.Logger) (source.Embedder, error) {
	return openai.Open(ctx, c.Config, openai.Deps{Log: log})
}

type sqliteState struct {
	sqlitestate.Config `yaml:",inline"`
}

// Validate reports all mistakes. The path has a default that the configuration does not know.
func (c *sqliteState) Validate() error { return c.Limits.Validate() }

func (c *sqliteState) Where(dataDir string) string {
	return cmp.Or(c.Path, filepath.Join(dataDir, "state.db"))
}

func (*sqliteState) Elsewhere() bool { return false }

func (c *sqliteState) Open(ctx context.Context, dataDir string, log *slog.Logger) (StateStore, error) {
	cfg := c.Config
	cfg.Path = c.Where(dataDir)
	return sqlitestate.Open(ctx, cfg, log)
}

type postgresState struct {
	postgresstate.Config `yaml:",inline"`
}

func (c *postgresState) Where(string) string { return c.Config.Where() }

func (*postgresState) Elsewhere() bool { return true }

func (c *postgresState) Open(ctx context.Context, _ string, log *slog.Logger) (StateStore, error) {
	return postgresstate.Open(ctx, c.Config, log)
}
