// Package mcp makes an upstream MCP server a source: its tools are offered by Atlas, through all
// stages.
//
// What an upstream says of its tools is another party's word, and it may say something else tomorrow
// (a "rug pull", CVE-2025-54136 and 54135 among them). So a definition is what a person, or the first
// look, has pinned: the canonical form (RFC 8785) of name, title, description, schemas and annotations,
// kept whole and hashed with SHA-256. Callers see only pinned text. Before a tool is called, the
// upstream's own listing, at most max_age old and not called changed by the upstream since, must hold
// the very same definition; otherwise the tool is not called. What remains is the time between that
// listing and the call: the protocol has no call "if your definition is still this", so an upstream that
// changes a tool without saying so is noticed at most max_age late (with check_each_call: not before the
// call that follows the change by less than a round trip). And a definition binds nobody: an upstream
// that means harm keeps it and does something else, which is why its tools need approval, its answers are
// untrusted, and it is never given the caller's token.
//
// Only Streamable HTTP is spoken, in both eras of the protocol. A command on standard input and output
// would run in Atlas's own user, with its files and its secrets, for all tenants; put such a server
// behind a bridge in a container of its own.
package mcp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A Source is an upstream as it was approved when it was opened: what it offers does not change, and
// what is approved later is offered by the next Source. It is safe for concurrent use.
type Source struct {
	cfg   Config // with defaults
	name  string
	log   *slog.Logger
	trace func(context.Context) string
	pins  *pins

	offered map[string]offering // what callers may use, by the upstream's name; read-only
	offers  string              // what was wanted at that time, for Watch

	epoch  atomic.Int64
	look   *session      // Atlas's own, for looking at the definitions
	news   chan struct{} // the upstream says that its tools have changed
	warned sync.Map      // what has been logged already: tool and digest; bounded by warnings
	warns  atomic.Int64

	life context.Context // until Close
	stop context.CancelFunc
	work sync.WaitGroup // calls

	mu       sync.Mutex
	closed   bool
	revoked  map[string]bool // offered tools that are no longer approved as they are offered
	sessions map[atlas.TenantID]*session
}

// An offering is one tool that is offered.
type offering struct {
	offer  source.Offer
	output *jsonschema.Resolved // nil if the tool declares none
}

var (
	_ source.Provider = (*Source)(nil)
	_ source.Watcher  = (*Source)(nil)
	_ source.Reviewer = (*Source)(nil)
)

// Open opens the source with what is pinned now. The upstream is looked at, for no longer than
// connect_timeout, and need not be there.
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	if err := errors.Join(ctx.Err(), c.Validate()); err != nil {
		return nil, err
	}
	if deps.State == nil {
		return nil, atlas.Errorf(atlas.CodeSourceMisused, errors.New("an mcp source needs a state to keep what is approved in"), "")
	}
	s := &Source{
		cfg: c.withDefaults(), name: deps.Name, log: cmp.Or(deps.Log, slog.New(slog.DiscardHandler)), trace: deps.TraceParent,
		pins: newPins(deps.State, c.URL), news: make(chan struct{}, 1),
		offered: map[string]offering{}, revoked: map[string]bool{}, sessions: map[atlas.TenantID]*session{},
	}
	s.life, s.stop = context.WithCancel(context.Background())
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Source) open(ctx context.Context) (err error) {
	if s.look, err = s.newSession(s.identity()); err != nil {
		return err
	}
	s.look.listen = true
	s.look.notify = func() {
		select {
		case s.news <- struct{}{}:
		default: // Watch will look anyway
		}
	}
	err = s.discover(ctx)
	if ctx.Err() != nil {
		return atlas.ErrorOf(ctx.Err())
	}
	if err != nil {
		s.log.WarnContext(ctx, "the upstream does not answer; its tools are offered as they are approved", "source", s.name, "error", err)
	}
	index, _, err := s.pins.read(ctx)
	if err != nil {
		return err
	}
	approved, err := s.pins.tools(ctx, index)
	if err != nil {
		return err
	}
	for _, t := range approved {
		if err := s.offer(t); err != nil {
			s.log.WarnContext(ctx, "an approved tool cannot be offered", "source", s.name, "tool", shown(t.Name), "error", err)
		}
	}
	s.offers = s.wanted(index)
	return nil
}

// offer takes a pinned tool among those that are offered.
func (s *Source) offer(t *tool) error {
	if err := t.check(s.name); err != nil { // it was checked when it was pinned, perhaps by another version
		return err
	}
	o := offering{offer: t.offer(s.cfg.Tools[t.Name])}
	if t.Output != nil {
		var err error
		if o.output, err = resolve(t.Output); err != nil {
			return err
		}
	}
	s.offered[t.Name] = o
	return nil
}

// gone reports whether the upstream has said, last time it was asked, that it has no such tool.
func (s *Source) gone(name string) bool {
	tools, broken := s.look.snapshot()
	return tools != nil && tools[name] == nil && broken[name] == ""
}

// wanted says what a source that was opened now would offer.
func (s *Source) wanted(index map[string]pin) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(index)) {
		if digest := index[name].Digest; digest != "" {
			fmt.Fprintf(&b, "%s %v\n", digest, s.gone(name))
		}
	}
	return b.String()
}

// Offers implements [source.Provider]. A tool that the upstream no longer has is left out.
func (s *Source) Offers(ctx context.Context) ([]source.Offer, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.work.Done()
	out := make([]source.Offer, 0, len(s.offered))
	for name, o := range s.offered {
		if s.gone(name) {
			s.once(ctx, slog.LevelWarn, "the upstream no longer has a tool; it is not offered", name, "gone")
			continue
		}
		tools, broken := s.look.snapshot()
		o.offer.Blocked = broken[name] != "" || tools[name] != nil && tools[name].digest != o.offer.Digest
		out = append(out, o.offer)
	}
	slices.SortFunc(out, func(a, b source.Offer) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// begin lets a call in; it must be ended by work.Done.
func (s *Source) begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return atlas.ErrorOf(err)
	}
	s.work.Add(1)
	return nil
}

var errClosed = atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("the source is closed"), "")

// Invoke implements [source.Provider]. It calls the tool if the upstream defines it, for this tenant, as
// it was offered, and as it is still approved.
func (s *Source) Invoke(ctx context.Context, tenant atlas.TenantID, name string, args json.RawMessage) (source.Answer, error) {
	if err := s.begin(ctx); err != nil {
		return source.Answer{}, err
	}
	defer s.work.Done()
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return source.Answer{}, atlas.Errorf(atlas.CodeNotFound, err, "")
	}
	o, ok := s.offered[name]
	if !ok {
		return source.Answer{}, atlas.Errorf(atlas.CodeNotFound, nil, "the source offers nothing by this name")
	}
	if s.isRevoked(name) {
		return source.Answer{}, atlas.Errorf(atlas.CodeDefinitionChanged, errors.New("its approval was taken back"), "")
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	a, err := s.invoke(ctx, tenant, o, args)
	if err != nil && outer.Err() == nil && s.life.Err() != nil {
		return source.Answer{}, errClosed
	}
	return a, err
}

func (s *Source) invoke(ctx context.Context, tenant atlas.TenantID, o offering, args json.RawMessage) (source.Answer, error) {
	sess, err := s.acquire(tenant)
	if err != nil {
		return source.Answer{}, err
	}
	defer s.release(sess)
	traceparent := ""
	if s.trace != nil {
		traceparent = s.trace(ctx)
	}
	age := s.cfg.MaxAge
	if s.cfg.CheckEachCall {
		age = 0
	}
	for attempt := 0; ; attempt++ {
		cs, err := sess.fresh(ctx, age)
		if err != nil {
			return source.Answer{}, err
		}
		if err := s.compare(ctx, sess, tenant, o.offer); err != nil {
			return source.Answer{}, err
		}
		res, err := sess.call(ctx, cs, o.offer.Name, args, traceparent)
		// A session that the upstream has forgotten, by a restart: it took nothing of the request.
		if errors.Is(err, errBroken) && attempt == 0 && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return source.Answer{}, err
		}
		return answer(res, o.output, s.cfg.MaxAnswerBytes)
	}
}

// compare refuses a tool that the session's listing does not define as it is offered.
func (s *Source) compare(ctx context.Context, sess *session, tenant atlas.TenantID, o source.Offer) error {
	live, broken := sess.lookup(o.Name)
	switch {
	case live == nil && broken == "":
		s.once(ctx, slog.LevelWarn, "the upstream no longer has a tool, or not for this tenant", o.Name, "gone "+string(tenant))
		return atlas.Errorf(atlas.CodeNotFound, nil, "the upstream server has nothing by this name for you")
	case live == nil || live.digest != o.Digest:
		digest := broken
		if live != nil {
			digest = live.digest
		}
		s.once(ctx, slog.LevelError, "the upstream changed a tool, which is blocked until the change is approved", o.Name, digest)
		return atlas.Errorf(atlas.CodeDefinitionChanged, fmt.Errorf("approved %s, now %s", o.Digest, digest), "")
	}
	return nil
}

// maxWarnings bounds what is remembered of what was logged.
const maxWarnings = 4096

// once logs a thing about a tool the first time that it is seen.
func (s *Source) once(ctx context.Context, level slog.Level, message, name, what string) {
	if _, seen := s.warned.LoadOrStore(name+"\x00"+what, true); seen {
		return
	}
	if s.warns.Add(1) > maxWarnings {
		s.warned.Delete(name + "\x00" + what)
		return
	}
	s.log.Log(ctx, level, message, "source", s.name, "tool", shown(name)) //nolint:sloglint // the callers' messages are static
}

func (s *Source) isRevoked(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked[name]
}

// Ping implements [source.Source]: it lists the upstream's tools.
func (s *Source) Ping(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.work.Done()
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	_, err := s.look.fresh(ctx, 0)
	if err != nil && outer.Err() == nil && s.life.Err() != nil {
		return errClosed
	}
	return err
}

// Close implements [source.Source]. Calls that are running fail.
func (s *Source) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if !first {
		return nil
	}
	s.stop()
	s.work.Wait()
	s.mu.Lock()
	sessions := s.sessions
	s.sessions = nil
	s.mu.Unlock()
	if s.look != nil {
		s.look.close()
	}
	for _, sess := range sessions {
		sess.close()
	}
	return nil
}

// identity returns the credentials that Atlas itself looks at the definitions with, and for whom they
// are: a tenant, or nobody.
func (s *Source) identity() (Credentials, atlas.TenantID) {
	switch {
	case s.cfg.DiscoverAs != "":
		as := atlas.TenantID(s.cfg.DiscoverAs)
		creds, _ := s.credentials(as)
		return creds, as
	case s.cfg.kind() == "" && len(s.cfg.Tenants) > 0:
		first := slices.Min(slices.Collect(maps.Keys(s.cfg.Tenants)))
		return s.cfg.Tenants[first], atlas.TenantID(first)
	}
	return s.cfg.Credentials, ""
}

// credentials returns what the tenant is served with, and whether it is served at all.
func (s *Source) credentials(tenant atlas.TenantID) (Credentials, bool) {
	if len(s.cfg.Tenants) > 0 {
		c, ok := s.cfg.Tenants[string(tenant)]
		return c, ok
	}
	return s.cfg.Credentials, true
}

// newSession makes a session, with HTTP connections of its own.
func (s *Source) newSession(creds Credentials, tenant atlas.TenantID) (*session, error) {
	base, err := source.Transport(s.cfg.CAFile, s.cfg.MaxConns)
	if err != nil {
		return nil, err
	}
	tokens := &http.Client{
		Transport:     limited{base},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return newSession(&s.cfg, s.name, base, newAuthorizer(&s.cfg, creds, tenant, tokens), &s.epoch, s.log)
}

// limited bounds what a token endpoint answers.
type limited struct{ base http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := l.base.RoundTrip(req)
	if err == nil {
		res.Body = &bounded{ReadCloser: res.Body, left: maxTokenAnswer}
	}
	return res, err //nolint:wrapcheck // the client above names the request
}

// acquire returns the tenant's session, for one call.
func (s *Source) acquire(tenant atlas.TenantID) (*session, error) {
	creds, served := s.credentials(tenant)
	if !served {
		return nil, atlas.Errorf(atlas.CodeNotFound, nil, "the upstream server is not set up for your tenant")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	sess := s.sessions[tenant]
	if sess == nil {
		if err := s.makeRoom(); err != nil {
			return nil, err
		}
		var err error
		if sess, err = s.newSession(creds, tenant); err != nil {
			return nil, err
		}
		s.sessions[tenant] = sess
	}
	sess.calls++
	sess.used = time.Now()
	return sess, nil
}

func (s *Source) release(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sess.calls--
}

// makeRoom gives up the session that has been idle for longest if there are too many. It is called with
// s.mu held.
func (s *Source) makeRoom() error {
	if len(s.sessions) < s.cfg.MaxSessions {
		return nil
	}
	var oldest atlas.TenantID
	for tenant, sess := range s.sessions {
		if sess.calls == 0 && (oldest == "" || sess.used.Before(s.sessions[oldest].used)) {
			oldest = tenant
		}
	}
	if oldest == "" {
		return atlas.Errorf(atlas.CodeOverloaded, errors.New("all of max_sessions are in use"), "")
	}
	sess := s.sessions[oldest]
	delete(s.sessions, oldest)
	s.work.Go(sess.close)
	return nil
}

// where returns where the upstream is, for operators.
func (s *Source) where() string {
	u, err := url.Parse(s.cfg.URL)
	if err != nil {
		return ""
	}
	return u.Redacted()
}
