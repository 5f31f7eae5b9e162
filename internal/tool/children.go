package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

const (
	maxDepth = 4  // calls below a caller's own: prompt, resource, workflow, composed tool, tool
	maxSteps = 16 // of one workflow
	fanOut   = 8  // children of one call that run at the same time
)

// children makes the calls of a composed tool or a workflow through the pipeline.
type children struct {
	call  atlas.Handler
	newID func() string
}

func (b *builder) children() children { return children{b.deps.Call, b.deps.NewID} }

// run calls a child and returns its answer.
func (c children) run(ctx context.Context, parent atlas.Call, name string, args map[string]any) (atlas.Result, error) {
	// Levels, checked when the file was loaded, let no call nest so deep; but what a name means is up
	// to the pipeline behind call.
	if parent.Parent != nil && parent.Parent.Depth >= maxDepth {
		return atlas.Result{}, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("%s: calls are nested more than %d deep", name, maxDepth), "")
	}
	encoded := encode(args)
	if encoded == nil {
		return atlas.Result{}, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("%s: arguments cannot be written as JSON", name), "")
	}
	return c.call(ctx, parent.Child(c.newID(), name, encoded))
}

// progress tells the client of one call how many of its parts are done. It is safe for concurrent use.
type progress struct {
	peer  atlas.Peer // nil for nobody who listens
	total int

	mu   sync.Mutex
	done int // guarded by mu, which also keeps the reports in order
}

// step reports one more part, by a name from the configuration.
func (p *progress) step(name string) {
	if p.peer == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	p.peer.Progress(float64(p.done), float64(p.total), fmt.Sprintf("%d of %d: %s", p.done, p.total, name))
}

// decode reads a child's answer.
func decode(res atlas.Result, v any) error {
	if err := json.Unmarshal(res.Structured, v); err != nil {
		return atlas.Errorf(atlas.CodeInternal, fmt.Errorf("a child's answer: %w", err), "")
	}
	return nil
}

// inTime returns a context that ends a little before ctx does, so that a slow branch is given up
// while there is time left to answer with the others.
func inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	left := time.Until(deadline)
	return context.WithDeadline(ctx, deadline.Add(-left/10))
}

// lost is what a caller may know of a failed branch.
func lost(err error) string { return string(atlas.CodeOf(err)) }

// older returns the earlier of two times of reading; zero means just now.
func older(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// child finds a tool that another one calls: one of a lower level, which only reads. So calls form
// no cycles, and each composed answer can be given again.
func (b *builder) child(s *spec, n node, name string) (*definition, bool) {
	d, ok := b.defs[name]
	switch {
	case name == s.name:
		n.errorf("%s calls itself: calls form a cycle", name)
	case !ok:
		n.errorf("there is no tool %q of a lower level than %s, or its definition has a mistake", name, s.level)
	case d.tool.Kind != atlas.KindTool:
		n.errorf("%s is a %s, not a tool", name, d.tool.Kind)
	case d.confirms:
		n.errorf("%s asks a person to confirm each call, and a %s tool has nobody to ask", name, s.level)
	case rank[d.tool.Level] >= rank[s.level]:
		n.errorf("%s is a %s tool; a %s tool calls tools of lower levels only, so that calls form no cycles", name, d.tool.Level, s.level)
	case !d.tool.ReadOnly:
		n.errorf("%s changes data; a %s tool calls tools that only read", name, s.level)
	default:
		return d, true
	}
	return nil, false
}

// inherit fills in what a tool has from its children.
func inherit(t *atlas.Tool, kids []*definition) {
	t.ReadOnly, t.Idempotent = true, true
	t.Reads = atlas.ReadsPrivate
	for _, k := range kids {
		t.Scopes = append(t.Scopes, k.tool.Scopes...)
		if k.tool.Reads == atlas.ReadsUntrusted {
			t.Reads = atlas.ReadsUntrusted
		}
		if k.tool.Effects != atlas.EffectsNone {
			t.Effects = k.tool.Effects
		}
	}
	slices.Sort(t.Scopes)
	t.Scopes = slices.Compact(t.Scopes)
}

// firstError returns the error that says most: the first that is not just the end of the others.
func firstError(errs []error) error {
	var ended error
	for _, err := range errs {
		switch {
		case err == nil:
		case errors.Is(err, context.Canceled):
			if ended == nil {
				ended = err
			}
		default:
			return err
		}
	}
	return ended
}
