package state

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Limits bound what a store keeps. The zero value means the defaults.
type Limits struct {
	MaxKeys  int           `yaml:"max_keys"`       // values in one space; default 100,000
	MaxBytes int64         `yaml:"max_bytes"`      // bytes of values in one space; default 64 MiB
	MaxValue int           `yaml:"max_value"`      // bytes of one value; default 1 MiB
	Keep     time.Duration `yaml:"keep_approvals"` // how long after its expiry an approval is kept; default 720h

	MaxMemories int `yaml:"max_memories"` // memories of one tenant; default 100,000
	MaxMemory   int `yaml:"max_memory"`   // bytes of the text of one; default 8 KiB
}

// WithDefaults returns l with every unset field filled in.
func (l Limits) WithDefaults() Limits {
	l.MaxKeys = cmp.Or(l.MaxKeys, 100_000)
	l.MaxBytes = cmp.Or(l.MaxBytes, 64<<20)
	l.MaxValue = cmp.Or(l.MaxValue, 1<<20)
	l.Keep = cmp.Or(l.Keep, 30*24*time.Hour)
	l.MaxMemories = cmp.Or(l.MaxMemories, 100_000)
	l.MaxMemory = cmp.Or(l.MaxMemory, 8<<10)
	return l
}

// Validate reports all mistakes.
func (l Limits) Validate() error {
	var errs []error
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"max_keys", int64(l.MaxKeys)},
		{"max_bytes", l.MaxBytes},
		{"max_value", int64(l.MaxValue)},
		{"keep_approvals", int64(l.Keep)},
		{"max_memories", int64(l.MaxMemories)},
		{"max_memory", int64(l.MaxMemory)},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative", f.name))
		}
	}
	return errors.Join(errs...)
}
