//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// Atlas is told of every server by the variables that its configuration is filled in with, and serves by
// roles that own nothing; without one of the servers it is told nothing and is not started.
func TestVariablesOfAtlas(t *testing.T) {
	s := &standing{dir: t.TempDir(), records: []servers.Record{
		{Name: "postgres", URL: "postgres://postgres@127.0.0.1:1/postgres?sslmode=disable"}, {Name: "redis", URL: "redis://127.0.0.1:2"},
		{Name: "s3", URL: "http://root:secret@127.0.0.1:3"}, {Name: "opensearch", URL: "http://127.0.0.1:4"},
	}}
	if err := s.makeBusKey(); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range s.variables() {
		got[v.name] = v.value
	}
	for name, want := range map[string]string{
		"ATLAS_POSTGRES_DSN":      "postgres://atlas_app@127.0.0.1:1/postgres?sslmode=disable",
		"ATLAS_POSTGRES_LOAD_DSN": "postgres://postgres@127.0.0.1:1/postgres?sslmode=disable",
		"ATLAS_STATE_DSN":         "postgres://atlas_state@127.0.0.1:1/postgres?sslmode=disable",
		"ATLAS_S3_ENDPOINT":       "http://127.0.0.1:3", "ATLAS_S3_ACCESS_KEY": "root", "ATLAS_S3_SECRET_KEY": "secret",
		"ATLAS_DATA_DIR": filepath.Join(s.dir, "data"),
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if len(got["ATLAS_REDIS_BUS_KEY"]) != 64 {
		t.Errorf("the bus key is %q", got["ATLAS_REDIS_BUS_KEY"])
	}
	if _, ok := got["ATLAS_MCP_URL"]; ok {
		t.Error("an Atlas is told of that is not there")
	}
	// The shipped configuration names no variable that is not given.
	config, err := os.ReadFile(filepath.Join("..", "config", "stack.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(string(config), "${env:") {
		name, rest, ok := strings.Cut(part, "}")
		if !ok || rest == "" || !strings.HasPrefix(name, "ATLAS_") || strings.Contains(name, ":-") {
			continue
		}
		if got[name] == "" {
			t.Errorf("config/stack.yaml needs %s, and make stack does not give it", name)
		}
	}
	s.records = append(s.records, servers.Record{Name: atlasName, URL: "http://127.0.0.1:5"})
	for _, v := range s.variables() {
		got[v.name] = v.value
	}
	if got["ATLAS_MCP_URL"] != "http://127.0.0.1:5" || got["ATLAS_HTTP_LISTEN"] != "127.0.0.1:5" {
		t.Errorf("Atlas is at %q, %q", got["ATLAS_MCP_URL"], got["ATLAS_HTTP_LISTEN"])
	}
	if s.records = s.records[1:]; s.variables() != nil {
		t.Error("without Postgres Atlas is told of the rest")
	}
}
