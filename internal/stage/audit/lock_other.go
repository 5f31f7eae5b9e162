//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package audit

import (
	"context"
	"fmt"
	"sync"
)

// A fileLock holds within this process only: here two processes must not share one log.
type fileLock struct{ ch chan struct{} }

var (
	locksMu sync.Mutex
	locks   = map[string]chan struct{}{} // by path; guarded by locksMu
)

func openLock(path string) (*fileLock, error) {
	locksMu.Lock()
	defer locksMu.Unlock()
	if locks[path] == nil {
		locks[path] = make(chan struct{}, 1)
	}
	return &fileLock{locks[path]}, nil
}

func (l *fileLock) lock(ctx context.Context, _ bool) error {
	select {
	case l.ch <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the audit log is held: %w", ctx.Err())
	}
}

func (l *fileLock) unlock() error {
	<-l.ch
	return nil
}

func (l *fileLock) close() error { return nil }

func syncDir(string) error { return nil }

func openReadLock(path string) (*fileLock, error) { return openLock(path) }
