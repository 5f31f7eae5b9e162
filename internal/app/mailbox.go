package app

import (
	"context"
	"time"
)

// mailbox passes the answers of clients of the older era to the process that asked, over the state that
// all processes share: a client's answer is a request of its own, and may reach another one.
type mailbox struct{ store kv }

// kv is what a mailbox needs of the state.
type kv interface {
	Get(ctx context.Context, space, key string) (value []byte, version int64, err error)
	CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error)
	CompareAndDelete(ctx context.Context, space, key string, version int64) (bool, error)
}

// mailSpace holds answers by keys that nobody can guess. They are gone when they are taken.
const mailSpace = "mcp-answers"

// Put leaves an answer until it is taken or its time has come, unless there is one already.
func (m mailbox) Put(ctx context.Context, key string, answer []byte, until time.Time) (bool, error) {
	version, err := m.store.CompareAndSet(ctx, mailSpace, key, 0, answer, until)
	return version != 0, err
}

// Take returns the answer and removes it; nil if there is none.
func (m mailbox) Take(ctx context.Context, key string) ([]byte, error) {
	answer, version, err := m.store.Get(ctx, mailSpace, key)
	if err != nil || version == 0 {
		return nil, err
	}
	if taken, err := m.store.CompareAndDelete(ctx, mailSpace, key, version); err != nil || !taken {
		return nil, err
	}
	return answer, nil
}
