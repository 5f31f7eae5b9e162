package archtest_test

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module   = "github.com/atlas-mcp/atlas"
	rootMax  = 1500 // lines of the root package: it holds words, not behaviour
	wireRoom = "internal/app"
)

// mayImport lists the exceptions from the star: a part imports the root package, its parents and
// libraries, and nothing else of ours. A new row is a change of the design. Test files may import
// anything but commands.
var mayImport = map[string][]string{
	"internal/app":  {"*"},
	"internal/demo": {"internal/source"},
	"internal/tool": {"internal/source"}, // it turns a source's capabilities into tools

	// One file format under three drivers.
	"internal/source/sqlite": {"internal/source/sqlitefile"},
	"internal/source/fts":    {"internal/source/sqlitefile"},
	"internal/source/vec":    {"internal/source/sqlitefile"},

	// Bodies that agents write are read as strictly as arguments are.
	"internal/source/elasticsearch": {"internal/canonical"},
	"internal/source/mcp":           {"internal/canonical"},

	// One way into Postgres under two.
	"internal/source/pgvector": {"internal/source/pgrls"},

	// Canonical JSON is a word that the standard library lacks.
	"internal/stage/validation": {"internal/canonical"},
	"internal/stage/guard":      {"internal/canonical", "internal/seal"},
	"internal/stage/audit":      {"internal/canonical"},

	// So is what only Atlas can open.
	"internal/stage/rounds": {"internal/seal", "internal/canonical"},

	// The command line opens the app and, as any other client would, the copilot.
	"internal/cli": {
		"internal/app", "internal/copilot", "internal/copilot/llm/anthropic", "internal/copilot/llm/offline",
		"internal/copilot/mcpclient", "internal/copilot/memory", "internal/isolation", "internal/source",
	},
	// The proof of isolation plants canaries in the sources, and the command opens the app to prove it on.
	"internal/isolation": {"internal/source"},

	// The migrations are files that operators read; the driver runs them.
	"internal/source/postgres": {"internal/source/pgrls", "deploy/sql"},

	// Real servers for tests and for people.
	"internal/testenv":         {"internal/testenv/servers"},
	"internal/testenv/servers": {"internal/source/qdrant/qdranttest"},
	"stack":                    {"internal/testenv/servers"},

	// Programs of ours that drive a whole Atlas, as its users do.
	"conformance": {"internal/app", "internal/config", "interop/npm"},
	"interop":     {"internal/app", "internal/config", "interop/npm"},

	"cmd/internal/process": {"internal/cli"},
	"cmd/atlas":            {"cmd/internal/process"},
	"cmd/atlas-copilot":    {"cmd/internal/process"},
}

// within lists trees whose packages may import each other freely: they are one part.
var within = []string{"internal/copilot", "internal/tool", "internal/edge/mcp", "internal/source/postgres"}

// importers names, for each big library, the only packages that may import it.
var importers = map[string][]string{
	"github.com/modelcontextprotocol/go-sdk": {"internal/edge/mcp", "internal/copilot/mcpclient", "internal/source/mcp"},
	"github.com/cedar-policy/cedar-go":       {"internal/stage/policy"},
	"github.com/golang-jwt/jwt":              {"internal/edge/auth", "internal/edge/issuer"},
	"github.com/MicahParks":                  {"internal/edge/auth", "internal/edge/issuer", "internal/app"},
	"github.com/maypok86/otter":              {"internal/stage/cache", "internal/edge/auth"},
	"github.com/failsafe-go":                 {"internal/stage/breaker"},
	"github.com/HdrHistogram":                {"internal/stage/budget", "bench"},
	"modernc.org/sqlite":                     {"internal/source/sqlitefile", "internal/source/sqlite", "internal/source/fts", "internal/source/vec", "internal/state/sqlite"},
	"github.com/anthropics":                  {"internal/copilot/llm/anthropic"},
	"github.com/prometheus":                  {"internal/stage/telemetry", "internal/app"},
	"go.opentelemetry.io":                    {"internal/stage/telemetry"},
	"github.com/goccy/go-yaml":               {"internal/config", "internal/tool", "internal/stage/policy", "internal/source/egress"},
	"github.com/santhosh-tekuri":             {"internal/stage/validation"},
	"github.com/hoophq/alcatraz":             {"internal/stage/guard"},
	"code.dny.dev/ssrf":                      {"internal/source/egress"},
	"github.com/alecthomas/kong":             {"internal/cli"},
	"github.com/jackc/pgx":                   {"internal/source/pgrls", "internal/source/pgrls/pgrlstest", "internal/source/postgres", "internal/source/pgvector", "internal/state/postgres"},
	"github.com/pressly/goose":               {"internal/source/postgres", "internal/state/postgres"},
	"github.com/wasilibs/go-pgquery":         {"internal/source/postgres/sqlguard"},
	"github.com/pganalyze/pg_query_go":       {"internal/source/postgres/sqlguard"},
	"github.com/redis/rueidis":               {"internal/state/redis", "internal/stage/ratelimit/redis", "internal/stage/cache/redis", "internal/copilot/memory/redis"},
	"github.com/aws":                         {"internal/source/s3"},
}

// A file is one Go source file, parsed as far as its imports.
type file struct {
	dir, name string
	test      bool
	ast       *ast.File
	imports   []string
}

// load reads all Go files of the module, by walking: the go command's test cache would not see a
// change that only a child process read.
func load(t *testing.T) []file {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			name := d.Name()
			if rel != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "bin") {
				return fs.SkipDir
			}
			if rel == "tools" || rel == "bench" { // modules of their own
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments|parser.ImportsOnly)
		if err != nil {
			return err
		}
		f := file{dir: path.Dir(rel), name: path.Base(rel), test: strings.HasSuffix(rel, "_test.go"), ast: parsed}
		for _, im := range parsed.Imports {
			v, err := strconv.Unquote(im.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, v)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("found only %d files; the walk is broken", len(files))
	}
	return files
}

func TestImportsFormAStar(t *testing.T) {
	for _, f := range load(t) {
		if f.test || strings.HasSuffix(f.dir, "test") {
			continue // tests and contract suites may look anywhere
		}
		for _, im := range f.imports {
			target, ours := strings.CutPrefix(im, module+"/")
			if !ours {
				continue
			}
			if !allowed(f.dir, target) {
				t.Errorf("%s/%s imports %s; a part imports the root, its parents and libraries (see mayImport)", f.dir, f.name, target)
			}
		}
	}
}

func allowed(dir, target string) bool {
	if strings.HasPrefix(dir+"/", target+"/") { // a parent
		return true
	}
	if target == "config" || target == "cmd" { // default files; commands
		return dir == wireRoom || strings.HasPrefix(dir, "cmd/")
	}
	for _, tree := range within {
		if inTree(dir, tree) && inTree(target, tree) {
			return true
		}
		if inTree(dir, tree) && slices.Contains(mayImport[tree], target) {
			return true
		}
	}
	list := mayImport[dir]
	return slices.Contains(list, "*") || slices.Contains(list, target)
}

func inTree(dir, tree string) bool { return dir == tree || strings.HasPrefix(dir, tree+"/") }

func TestRootHoldsWordsOnly(t *testing.T) {
	lines := 0
	for _, f := range load(t) {
		if f.dir != "." || f.test {
			continue
		}
		for _, im := range f.imports {
			if strings.Contains(strings.SplitN(im, "/", 2)[0], ".") {
				t.Errorf("%s imports %s; the root package imports the standard library only", f.name, im)
			}
		}
		data, err := os.ReadFile(filepath.Join("..", "..", f.name))
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(data, []byte("\n"))
	}
	if lines == 0 || lines > rootMax {
		t.Errorf("the root package has %d lines; at most %d", lines, rootMax)
	}
}

func TestOneImporterForEachBigLibrary(t *testing.T) {
	for _, f := range load(t) {
		if f.test {
			continue
		}
		for _, im := range f.imports {
			for lib, dirs := range importers {
				if (im == lib || strings.HasPrefix(im, lib+"/")) && !slices.Contains(dirs, f.dir) {
					t.Errorf("%s/%s imports %s; only %s may", f.dir, f.name, im, strings.Join(dirs, ", "))
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	comments := map[string]int{}
	for _, f := range load(t) {
		if f.test {
			continue
		}
		if _, ok := comments[f.dir]; !ok {
			comments[f.dir] = 0
		}
		if f.ast.Doc != nil && !strings.HasPrefix(f.ast.Doc.Text(), "//go:") {
			comments[f.dir]++
		}
	}
	for dir, n := range comments {
		if n != 1 {
			t.Errorf("%s has %d package comments, want 1", dir, n)
		}
	}
}

func TestNoDrawerPackages(t *testing.T) {
	for _, f := range load(t) {
		switch path.Base(f.dir) {
		case "util", "utils", "common", "helpers", "types", "models", "interfaces", "misc", "shared", "pkg":
			t.Errorf("%s: name the package for what it is", f.dir)
		}
	}
}

// Every folder of internal/source that has a Config is a driver and must run the contract suite.
func TestEveryDriverRunsTheContract(t *testing.T) {
	drivers, run := map[string]bool{}, map[string]bool{}
	for _, f := range load(t) {
		if path.Dir(f.dir) != "internal/source" {
			continue
		}
		data, err := os.ReadFile(filepath.Join("..", "..", f.dir, f.name))
		if err != nil {
			t.Fatal(err)
		}
		scan := bufio.NewScanner(bytes.NewReader(data))
		for scan.Scan() {
			if !f.test && strings.Contains(scan.Text(), ") Open(ctx context.Context, deps source.Deps) (source.Source, error)") {
				drivers[f.dir] = true
			}
			if f.test && strings.Contains(scan.Text(), "sourcetest.Run") {
				run[f.dir] = true
			}
		}
	}
	if len(drivers) < 5 {
		t.Errorf("found only the drivers %v; the search is broken", drivers)
	}
	for dir := range drivers {
		if !run[dir] {
			t.Errorf("%s does not call sourcetest.Run", dir)
		}
	}
}
