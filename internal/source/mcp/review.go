package mcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// discover looks at the upstream's definitions, pins what the policy lets it pin, and says in the log
// what a person should know.
func (s *Source) discover(ctx context.Context) error {
	if _, err := s.look.fresh(ctx, 0); err != nil {
		return err
	}
	tools, broken := s.look.snapshot()
	for name, why := range broken {
		s.once(ctx, slog.LevelWarn, "a tool of the upstream cannot be read", name, "broken "+why)
	}
	if s.cfg.Trust == trustFirstUse {
		if err := s.firstUse(ctx, tools); err != nil {
			return err
		}
	}
	index, _, err := s.pins.read(ctx)
	if err != nil {
		return err
	}
	for name, t := range tools {
		switch p := index[name]; {
		case p.Digest == "":
			s.once(ctx, slog.LevelInfo, "a tool of the upstream waits for approval; see atlas upstream list", name, t.digest)
		case p.Digest != t.digest:
			s.once(ctx, slog.LevelError, "the upstream changed a tool, which is blocked until the change is approved", name, t.digest)
		}
	}
	return nil
}

// firstUse pins the tools that nobody has decided about and that nothing is wrong with.
func (s *Source) firstUse(ctx context.Context, tools map[string]*tool) error {
	index, _, err := s.pins.read(ctx)
	if err != nil {
		return err
	}
	var fresh []*tool
	for _, name := range slices.Sorted(maps.Keys(tools)) {
		t := tools[name]
		if _, decided := index[name]; decided || t.check(s.name) != nil || len(t.warnings()) > 0 {
			continue
		}
		if err := s.pins.store(ctx, t); err != nil {
			return err
		}
		fresh = append(fresh, t)
	}
	return s.pins.change(ctx, func(index map[string]pin) (bool, error) {
		write := false
		for _, t := range fresh {
			_, decided := index[t.Name]
			if _, taken := clash(index, t.Name); decided || taken || len(index) >= s.cfg.MaxTools {
				continue
			}
			index[t.Name], write = pin{t.digest, byFirstUse, time.Now().UTC()}, true
		}
		return write, nil
	})
}

// reviewer returns the session that a person looks through.
func (s *Source) reviewer(as string) (sess *session, done func(), err error) {
	if as == "" {
		return s.look, func() {}, nil
	}
	tenant, err := atlas.ParseTenantID(as)
	if err != nil {
		return nil, nil, atlas.Errorf(atlas.CodeInvalidArguments, err, "not a tenant")
	}
	if sess, err = s.acquire(tenant); err != nil {
		return nil, nil, err
	}
	return sess, func() { s.release(sess) }, nil
}

// Review implements [source.Reviewer].
func (s *Source) Review(ctx context.Context, as string) (source.Review, error) {
	if err := s.begin(ctx); err != nil {
		return source.Review{}, err
	}
	defer s.work.Done()
	sess, done, err := s.reviewer(as)
	if err != nil {
		return source.Review{}, err
	}
	defer done()
	r := source.Review{Upstream: s.where(), Trust: s.cfg.Trust}
	var (
		live   map[string]*tool
		broken map[string]string
	)
	if _, err := sess.fresh(ctx, 0); err != nil {
		if ctx.Err() != nil {
			return r, err
		}
		r.Down = atlas.ErrorOf(err).Error()
	} else {
		live, broken = sess.snapshot()
	}
	index, _, err := s.pins.read(ctx)
	if err != nil {
		return r, err
	}
	names := map[string]bool{}
	for _, m := range []map[string]bool{set(live), set(broken), set(index)} {
		maps.Copy(names, m)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		t, err := s.reviewed(ctx, name, live[name], broken[name], index, r.Down != "")
		if err != nil {
			return r, err
		}
		if t.State != "" {
			r.Tools = append(r.Tools, t)
		}
	}
	return r, nil
}

func set[V any](m map[string]V) map[string]bool {
	out := make(map[string]bool, len(m))
	for k := range m {
		out[k] = true
	}
	return out
}

// reviewed compares one tool. Its state is empty if there is nothing to say.
func (s *Source) reviewed(ctx context.Context, name string, live *tool, broken string, index map[string]pin, down bool) (source.Reviewed, error) {
	p := index[name]
	r := source.Reviewed{Name: name, Digest: p.Digest, By: p.By, At: p.At, Problem: broken}
	if p.Digest != "" {
		approved, err := s.pins.definition(ctx, p.Digest)
		if err != nil {
			return r, err
		}
		r.Approved, r.Warnings = approved.canon, approved.warnings()
	}
	if live != nil {
		r.Live, r.LiveDigest, r.Warnings = live.canon, live.digest, live.warnings()
		if err := live.check(s.name); err != nil {
			r.Problem = err.Error()
		} else if other, taken := clash(index, name); taken {
			r.Problem = fmt.Sprintf("Atlas would write it like the approved tool %.60q", other)
		}
	}
	switch {
	case p.Digest != "" && down:
		r.State = source.ReviewUnknown
	case p.Digest != "" && live == nil && broken == "":
		r.State = source.ReviewRemoved
	case p.Digest != "" && r.LiveDigest == p.Digest:
		r.State = source.ReviewApproved
	case p.Digest != "":
		r.State = source.ReviewChanged
	case r.Problem != "":
		r.State = source.ReviewUnusable
	case live != nil:
		r.State = source.ReviewWaiting
	}
	return r, nil
}

// Approve implements [source.Reviewer].
func (s *Source) Approve(ctx context.Context, as, name, digest, by string) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.work.Done()
	sess, done, err := s.reviewer(as)
	if err != nil {
		return err
	}
	defer done()
	if _, err := sess.fresh(ctx, 0); err != nil {
		return err
	}
	live, broken := sess.lookup(name)
	switch {
	case live == nil && broken == "":
		return atlas.Errorf(atlas.CodeNotFound, nil, "the upstream has no such tool")
	case live == nil:
		return atlas.Errorf(atlas.CodeSourceError, errors.New(broken), "the tool cannot be offered")
	case live.digest != digest:
		return atlas.Errorf(atlas.CodeDefinitionChanged, fmt.Errorf("shown %.64q, now %s", digest, live.digest),
			"the upstream's definition is not the one of this digest; look at it again")
	}
	if err := live.check(s.name); err != nil {
		return atlas.Errorf(atlas.CodeSourceError, err, "the tool cannot be offered")
	}
	if err := s.pins.store(ctx, live); err != nil {
		return err
	}
	return s.pins.change(ctx, func(index map[string]pin) (bool, error) {
		if other, taken := clash(index, name); taken {
			return false, atlas.Errorf(atlas.CodeInvalidArguments, nil, fmt.Sprintf("Atlas would write it like the approved tool %q; revoke that one first", other))
		}
		if index[name].Digest == live.digest {
			return false, nil
		}
		index[name] = pin{live.digest, by, time.Now().UTC()}
		return true, nil
	})
}

// Revoke implements [source.Reviewer]. The tool is not pinned again by first_use.
func (s *Source) Revoke(ctx context.Context, name, by string) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.work.Done()
	return s.pins.change(ctx, func(index map[string]pin) (bool, error) {
		if index[name].Digest == "" {
			return false, atlas.Errorf(atlas.CodeNotFound, nil, "the tool is not approved")
		}
		index[name] = pin{By: by, At: time.Now().UTC()}
		return true, nil
	})
}

// Waits of Watch.
const (
	pollEvery = 2 * time.Second  // between looks at what is approved
	quiet     = 5 * time.Second  // at least, between looks at an upstream that says it has changed
	calm      = 30 * time.Second // at least, between two calls of changed: an upstream must not make Atlas rebuild all the time
)

// Watch implements [source.Watcher]. Approvals that are taken back hold from the next look on, within two
// seconds, before anything is opened anew.
func (s *Source) Watch(ctx context.Context, changed func()) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	poll, look := time.NewTicker(min(pollEvery, s.cfg.CheckEvery)), time.NewTicker(s.cfg.CheckEvery)
	defer poll.Stop()
	defer look.Stop()
	w := watcher{source: s, said: s.offers}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
			if w.due(s.news, min(quiet, s.cfg.CheckEvery)) {
				w.discover(ctx)
			}
		case <-look.C:
			w.discover(ctx)
		}
		if w.differs(ctx) {
			changed()
		}
	}
}

// A watcher is the memory of Watch.
type watcher struct {
	source *Source
	said   string    // what is offered as far as changed has been told
	looked time.Time // when the upstream was last looked at
	told   time.Time // when changed was last called because of the upstream
	seen   string    // the approvals, as last seen
	failed bool      // the last look failed, and that was logged
}

// due reports that there is news of the upstream, and that it has not just been looked at.
func (w *watcher) due(news <-chan struct{}, wait time.Duration) bool {
	if time.Since(w.looked) < wait {
		return false
	}
	select {
	case <-news:
		return true
	default:
		return false
	}
}

func (w *watcher) discover(ctx context.Context) {
	w.looked = time.Now()
	err := w.source.discover(ctx)
	if ctx.Err() != nil {
		return
	}
	switch {
	case err != nil && !w.failed:
		w.source.log.WarnContext(ctx, "the upstream does not answer", "source", w.source.name, "error", err)
	case err == nil && w.failed:
		w.source.log.InfoContext(ctx, "the upstream answers again", "source", w.source.name)
	}
	w.failed = err != nil
}

// differs reports whether other tools are to be offered than are.
func (w *watcher) differs(ctx context.Context) bool {
	s := w.source
	index, _, err := s.pins.read(ctx)
	if err != nil {
		return false // the state's own health is looked at elsewhere
	}
	s.revoke(index)
	var digests strings.Builder
	for _, name := range slices.Sorted(maps.Keys(index)) {
		digests.WriteString(index[name].Digest + "\n")
	}
	decided := digests.String() != w.seen // by a person, or by first_use
	w.seen = digests.String()
	now := s.wanted(index)
	if now == w.said || !decided && time.Since(w.told) < min(calm, s.cfg.CheckEvery) {
		return false
	}
	w.said, w.told = now, time.Now()
	return true
}

// revoke notes which offered tools are no longer approved as they are offered.
func (s *Source) revoke(index map[string]pin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, o := range s.offered {
		s.revoked[name] = index[name].Digest != o.offer.Digest
	}
}
