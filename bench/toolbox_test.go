package main

import (
	"path/filepath"
	"testing"
)

// MCP Toolbox answers as the others do, if a run has fetched it; the tests fetch nothing.
func TestToolbox(t *testing.T) {
	found, err := filepath.Glob(filepath.Join("..", ".cache", "toolbox-*", "node_modules", "@toolbox-sdk", "server-*", "bin", "toolbox"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Skip("MCP Toolbox is not in the cache: make bench fetches it")
	}
	program, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	given := setup{Database: testDatabase(t), Toolbox: program}
	for _, c := range contenders {
		if c.server == "sql-toolbox" {
			t.Run(c.work.String(), func(t *testing.T) { answers(t, c, given) })
		}
	}
}
