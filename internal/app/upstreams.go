package app

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/source"
)

// attendants are what runs beside a generation while it serves: they make its sources ready for their
// first callers, and notice that upstream servers' tools are to be offered anew.
type attendants struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// attend starts the attendants of the generation. They end when it is closed.
func (g *generation) attend(a *App) {
	ctx, cancel := context.WithCancel(context.Background())
	g.attendants.cancel = cancel
	for name, s := range g.sources {
		if w, ok := s.Source.(interface {
			Warm(ctx context.Context) error
		}); ok {
			g.attendants.wg.Go(func() {
				if err := w.Warm(ctx); err != nil && ctx.Err() == nil {
					a.log.WarnContext(ctx, "a source could not be made ready beforehand; its first caller waits", "source", name, "error", err)
				}
			})
		}
		if w, ok := s.Source.(source.Watcher); ok {
			g.attendants.wg.Go(func() {
				if err := w.Watch(ctx, a.renew.ask); err != nil && ctx.Err() == nil {
					a.log.WarnContext(ctx, "an upstream is not watched any more; approvals need a reload", "source", name, "error", err)
				}
			})
		}
	}
}

// stop ends the attendants and waits for them.
func (w *attendants) stop() {
	if w.cancel != nil {
		w.cancel()
	}
	w.wg.Wait()
}

// runGenerations has this generation and those after it attended while the app serves, and builds a new one
// when an upstream's tools have changed or another replica says so.
func (a *App) runGenerations(ctx context.Context, group *errgroup.Group) {
	a.reload.Lock()
	a.serving = true
	if g := a.current.use(); g != nil {
		g.attend(a)
		g.lease.leave()
	}
	a.reload.Unlock()
	group.Go(func() error {
		err := a.renew.run(ctx)
		a.reload.Lock()
		a.serving = false
		a.reload.Unlock()
		return err
	})
}

// ErrNoUpstream says that a source is there and is no upstream.
var ErrNoUpstream = errors.New("the source is no upstream: there is nothing to approve")

// Upstream returns the named source as one whose tools a person approves. Decisions are recorded. The
// error is ErrNoUpstream, or says that there is no such source.
func (a *App) Upstream(name string) (source.Reviewer, error) {
	src, ok := a.Field().Sources[name]
	if !ok {
		return nil, fmt.Errorf("there is no source %q in the configuration", name)
	}
	r, ok := src.(source.Reviewer)
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, ErrNoUpstream)
	}
	return recordedReviewer{r, a, name}, nil
}

// A recordedReviewer leaves a record of each decision.
type recordedReviewer struct {
	source.Reviewer
	app  *App
	name string
}

// Approve implements [source.Reviewer].
func (r recordedReviewer) Approve(ctx context.Context, as, tool, digest, by string) error {
	err := r.Reviewer.Approve(ctx, as, tool, digest, by)
	return r.record(ctx, "upstream.approve", tool, by, err)
}

// Revoke implements [source.Reviewer].
func (r recordedReviewer) Revoke(ctx context.Context, tool, by string) error {
	err := r.Reviewer.Revoke(ctx, tool, by)
	return r.record(ctx, "upstream.revoke", tool, by, err)
}

func (r recordedReviewer) record(ctx context.Context, action, tool, by string, err error) error {
	rec := atlas.AuditRecord{
		Kind: "admin", RequestID: edge.NewRequestID(), Caller: by, Tool: r.name + "__" + source.OfferName(tool), Action: action, Status: "ok",
	}
	if err != nil {
		rec.Status, rec.ErrorCode = "error", atlas.CodeOf(err)
	}
	return errors.Join(err, r.app.auditLog.Record(context.WithoutCancel(ctx), rec))
}

// upstream looks at the tools of an upstream.
func (d *doctor) upstream(ctx context.Context, name string, r source.Reviewer) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	review, err := r.Review(ctx, "")
	if err == nil && review.Down != "" {
		err = errors.New(review.Down)
	}
	if err != nil {
		d.not(Failed, "source", name, "start the upstream, or correct sources."+name+".with; its tools answer source_unavailable until then", "mcp: %s", cause(err))
		return
	}
	count := map[string]int{}
	for _, t := range review.Tools {
		count[t.State]++
	}
	switch {
	case count[source.ReviewChanged] > 0:
		d.not(Failed, "source", name, "look at the changes with `atlas upstream diff "+name+"`, and approve what is right",
			"mcp: %d tools are defined otherwise than approved, and blocked", count[source.ReviewChanged])
	case count[source.ReviewWaiting]+count[source.ReviewRemoved]+count[source.ReviewUnusable] > 0:
		d.not(Warning, "source", name, "look at them with `atlas upstream list "+name+"`", "mcp: %d tools approved, %d wait, %d are gone, %d cannot be offered",
			count[source.ReviewApproved], count[source.ReviewWaiting], count[source.ReviewRemoved], count[source.ReviewUnusable])
	default:
		d.ok("source", name, "mcp, %d tools approved", count[source.ReviewApproved])
	}
}
