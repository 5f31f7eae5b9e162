package cachetest_test

import (
	"testing"
	"testing/synctest"

	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/cache/cachetest"
)

func TestHub(t *testing.T) {
	cachetest.Run(t, func(*testing.T) (a, b cache.Shared) {
		h := cachetest.NewHub()
		return h.Join(), h.Join()
	}, synctest.Test)
}
