package policy

import (
	"context"

	"github.com/atlas-mcp/atlas"
)

// Remembered returns how many answers of Visible are kept.
func (e *Engine) Remembered() int {
	e.visible.Lock()
	defer e.visible.Unlock()
	return len(e.visible.known)
}

// DecideAfresh decides without what is remembered, and remembers nothing.
func (e *Engine) DecideAfresh(ctx context.Context, call atlas.Call) (Decision, error) {
	ev, err := e.begin(ctx, call)
	if err != nil {
		return Decision{}, err
	}
	return ev.decide(), nil
}

// RememberedDecisions returns how many decisions are kept.
func (e *Engine) RememberedDecisions() int {
	e.decisions.mu.RLock()
	defer e.decisions.mu.RUnlock()
	return len(e.decisions.known)
}
