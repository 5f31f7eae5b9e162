package app_test

import (
	"testing"

	"go.uber.org/goleak"
)

// Nothing outlives a closed app: pools, watchers, listeners.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
