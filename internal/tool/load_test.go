package tool_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/atlas-mcp/atlas/internal/tool"
)

var update = flag.Bool("update", false, "rewrite what is wanted in testdata")

// TestLoadErrors holds the messages of testdata/load: each is what an operator reads.
func TestLoadErrors(t *testing.T) {
	names, err := filepath.Glob("testdata/load/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatal("no cases", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var files []tool.File
			want := -1
			for i, f := range archive.Files {
				if f.Name == "want" {
					want = i
				} else {
					files = append(files, tool.File{Name: f.Name, Data: f.Data})
				}
			}
			h := newHouse(t)
			_, err = tool.Build(h.sources, files, h.deps())
			got := ""
			if err != nil {
				got = err.Error() + "\n"
			}
			if *update {
				archive.Files[want].Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(archive.Files[want].Data), got); d != "" || err == nil {
				t.Errorf("mistakes differ (-want +got):\n%s", d)
			}
		})
	}
}

func TestFilesMayNotShareAName(t *testing.T) {
	h := newHouse(t)
	one := []byte("tools:\n  one:\n    source: crm\n    description: Gives one. Use it.\n    sql: SELECT 1\n")
	_, err := tool.Build(h.sources, []tool.File{{Name: "a.yaml", Data: one}, {Name: "b.yaml", Data: one}}, h.deps())
	if err == nil || err.Error() != "b.yaml:2:3: tool one is already defined by a.yaml:2; give one of them another name" {
		t.Error(err)
	}
}

func TestFilesThatHoldNothing(t *testing.T) {
	h := newHouse(t)
	for _, text := range []string{"", "# nothing\n", "tools:\n", "tools: {}\n", "{}\n"} {
		if _, err := tool.Build(h.sources, []tool.File{{Name: "a.yaml", Data: []byte(text)}}, h.deps()); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"- a\n", "x", "tools: 7", "tools:\n  - a\n", "a: b: c", "---\ntools: {}\n---\ntools: {}\n", strings.Repeat("#", 2<<20)} {
		if _, err := tool.Build(h.sources, []tool.File{{Name: "a.yaml", Data: []byte(text)}}, h.deps()); err == nil ||
			!strings.HasPrefix(err.Error(), "a.yaml:") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func FuzzBuild(f *testing.F) {
	for _, file := range shipped(f) {
		f.Add(file.Data)
	}
	names, err := filepath.Glob("testdata/load/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[0].Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h := newHouse(t)
		tools, err := tool.Build(h.sources, []tool.File{{Name: "a.yaml", Data: data}}, h.deps())
		if (err == nil) == (tools == nil) {
			t.Errorf("%d tools and error %v", len(tools), err)
		}
	})
}
