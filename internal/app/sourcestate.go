package app

import (
	"context"
	"time"
)

// sourceState is what one source remembers, in a space of the state that all processes share.
type sourceState struct {
	store kv
	space string
}

// Get implements [source.State].
func (s sourceState) Get(ctx context.Context, key string) ([]byte, int64, error) {
	return s.store.Get(ctx, s.space, key)
}

// CompareAndSet implements [source.State].
func (s sourceState) CompareAndSet(ctx context.Context, key string, version int64, value []byte) (int64, error) {
	return s.store.CompareAndSet(ctx, s.space, key, version, value, time.Time{})
}

// CompareAndDelete implements [source.State].
func (s sourceState) CompareAndDelete(ctx context.Context, key string, version int64) (bool, error) {
	return s.store.CompareAndDelete(ctx, s.space, key, version)
}
