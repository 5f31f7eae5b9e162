package app

import (
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/folder"
	"github.com/atlas-mcp/atlas/internal/source/fts"
	httpsource "github.com/atlas-mcp/atlas/internal/source/http"
	"github.com/atlas-mcp/atlas/internal/source/s3"
	"github.com/atlas-mcp/atlas/internal/source/sqlite"
	"github.com/atlas-mcp/atlas/internal/source/vec"
)

// Kinds is the table of source drivers. To add one, add a line.
var Kinds = map[string]func() source.Config{
	"sqlite": func() source.Config { return new(sqlite.Config) },
	"fts":    func() source.Config { return new(fts.Config) },
	"vec":    func() source.Config { return new(vec.Config) },
	"folder": func() source.Config { return new(folder.Config) },
	"s3":     func() source.Config { return new(s3.Config) },
	"http":   func() source.Config { return new(httpsource.Config) },
}
