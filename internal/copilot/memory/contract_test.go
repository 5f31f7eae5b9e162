package memory_test

import (
	"testing"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/memory"
	"github.com/atlas-mcp/atlas/internal/copilot/memory/memorytest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	memorytest.Run(t, func(t *testing.T, cfg memory.Config) copilot.Memory {
		s, err := memory.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
