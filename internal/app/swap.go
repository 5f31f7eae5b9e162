package app

import (
	"sync/atomic"

	"github.com/atlas-mcp/atlas"
)

// A lease counts who uses a generation, so that a replaced one is closed only after its last call
// has ended. It starts with one holder: whoever made it current.
type lease struct {
	holders atomic.Int64
	closed  chan struct{} // closed after release has run
	release func()
}

func newLease(release func()) *lease {
	l := &lease{closed: make(chan struct{}), release: release}
	l.holders.Store(1)
	return l
}

// acquire adds a holder. It fails when the last one has already left.
func (l *lease) acquire() bool {
	for {
		n := l.holders.Load()
		if n == 0 {
			return false
		}
		if l.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave takes a holder away; the last one runs release.
func (l *lease) leave() {
	if l.holders.Add(-1) == 0 {
		l.release()
		close(l.closed)
	}
}

// current holds the generation that answers new calls.
type current struct {
	p atomic.Pointer[generation]
}

// use returns the current generation, held: the caller must leave its lease. It returns nil after
// the app was closed.
func (c *current) use() *generation {
	for {
		g := c.p.Load()
		if g == nil || g.lease.acquire() {
			return g
		}
	}
}

// swap makes g current (nil: none) and lets go of the one before, which is closed once its running
// calls have ended. It returns the one before, or nil.
func (c *current) swap(g *generation) *generation {
	old := c.p.Swap(g)
	if old != nil {
		old.lease.leave()
	}
	return old
}

var errClosed = atlas.Errorf(atlas.CodeShuttingDown, nil, "")
