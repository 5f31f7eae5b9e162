package app_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/cli"
	"github.com/atlas-mcp/atlas/internal/stage/policy"
)

// The files that are made from tables must be what the tables say. ATLAS_UPDATE=1 (make gen) rewrites
// them.
func TestGenerated(t *testing.T) {
	for name, content := range map[string]string{
		".env.example":       cli.EnvExample(),
		"docs/errors.md":     errorsPage(),
		"docs/conditions.md": conditionsPage(),
	} {
		path := filepath.Join("..", "..", filepath.FromSlash(name))
		if os.Getenv("ATLAS_UPDATE") != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%v: run make gen", err)
			continue
		}
		if !bytes.Equal(got, []byte(content)) {
			t.Errorf("%s is not what its table says: run make gen", name)
		}
	}
}

func errorsPage() string {
	var b strings.Builder
	b.WriteString("# Errors\n\nEvery failure has a code of this table (`codes.go`; this page is made from it by `make gen`). A tool's failure is an MCP result\n" +
		"with `isError: true` whose `structuredContent` holds `code`, `category`, `retryable`, `retry_after_ms`, `hint`,\n" +
		"`suggested_actions`, `context` and `request_id`. An unknown tool is the JSON-RPC error −32602. Failures over HTTP have the status given here.\n\n" +
		"| code | category | retryable | HTTP | meaning | suggested actions |\n|---|---|---|---|---|---|\n")
	for _, code := range slices.Sorted(maps.Keys(atlas.Codes)) {
		i := atlas.Codes[code]
		fmt.Fprintf(&b, "| `%s` | %s | %v | %d | %s | %s |\n", code, i.Category, i.Retryable, i.HTTP, i.Doc, strings.Join(i.Actions, ", "))
	}
	return b.String()
}

func conditionsPage() string {
	var b strings.Builder
	b.WriteString("# Policy conditions\n\nA rule's `conditions:` may name these (`internal/stage/policy/conditions.go`; this page is made from it by `make gen`). All must\n" +
		"hold. What they cannot say, a `when:` expression in Cedar can: the package comment of `internal/stage/policy` has the names.\n\n" +
		"| condition | argument | meaning |\n|---|---|---|\n")
	for _, c := range policy.Conditions() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.Name, c.Type, c.Doc)
	}
	return b.String()
}
