package app

import (
	"testing"

	"github.com/atlas-mcp/atlas/internal/config"
)

func TestVersionOfASource(t *testing.T) {
	spec := func(text string) SourceSpec {
		var s SourceSpec
		if err := config.Decode("a.yaml", []byte(text), config.Resolver{}, &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	base := version(spec("kind: folder\nwith: {dir: /a}\n"), []byte("x"))
	if again := version(spec("kind: folder\nwith: {dir: /a}\n"), []byte("x")); again != base {
		t.Error("equal settings, other version")
	}
	for name, other := range map[string]string{
		"settings":  version(spec("kind: folder\nwith: {dir: /b}\n"), []byte("x")),
		"kind":      version(spec("kind: sqlite\nwith: {dir: /a}\n"), []byte("x")),
		"none":      version(spec("kind: folder\n"), []byte("x")),
		"allowlist": version(spec("kind: folder\nwith: {dir: /a}\n"), []byte("y")),
	} {
		if other == base {
			t.Errorf("a change of %s keeps the version", name)
		}
	}
}
