package ratelimit_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit/ratelimittest"
)

func TestLocalKeepsTheContract(t *testing.T) {
	ratelimittest.Run(t, func(t *testing.T, f func(*testing.T, ratelimittest.Harness)) {
		synctest.Test(t, func(t *testing.T) {
			f(t, ratelimittest.Harness{Store: ratelimit.NewLocal(ratelimit.Bounds{}), Advance: time.Sleep})
		})
	})
}
