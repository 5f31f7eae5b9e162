package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

// A spy is a source that looks at what it is given.
type spy struct {
	deps   source.Deps
	warmed atomic.Int32
	closed atomic.Int32
	state  error // of asking the state when it is closed
}

func (s *spy) Ping(context.Context) error { return nil }

func (s *spy) Warm(context.Context) error { s.warmed.Add(1); return nil }

func (s *spy) Close() error {
	s.closed.Add(1)
	_, _, s.state = s.deps.State.Get(context.Background(), "k")
	return nil
}

// A spyConfig opens spies, and tells of them.
type spyConfig struct {
	Setting string `yaml:"setting"`
	opened  func(*spy)
}

func (*spyConfig) Validate() error { return nil }

func (c *spyConfig) Open(_ context.Context, deps source.Deps) (source.Source, error) {
	s := &spy{deps: deps}
	c.opened(s)
	return s, nil
}

// openSpies opens an app with the spies one and two.
func openSpies(t *testing.T, overlay string) (a *App, spies map[string]*spy) {
	t.Helper()
	spies = map[string]*spy{}
	Kinds["spy"] = func() source.Config {
		return &spyConfig{opened: func(s *spy) { spies[s.deps.Name] = s }}
	}
	t.Cleanup(func() { delete(Kinds, "spy") })
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "atlas.yaml"), []byte("sources: {one: {kind: spy}, two: {kind: spy}}\ntools: {files: []}\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte("rules: []\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	a, err := Open(t.Context(), Options{ConfigFile: filepath.Join(dir, "atlas.yaml"), DataDir: filepath.Join(dir, "data"), LogTo: t.Output(), Overlay: []byte(overlay)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a, spies
}

// What one source remembers no other sees, and it can remember until it is closed.
func TestSourcesRememberForThemselves(t *testing.T) {
	a, spies := openSpies(t, "{mode: development}")
	one, two := spies["one"].deps, spies["two"].deps
	if v, err := one.State.CompareAndSet(t.Context(), "k", 0, []byte("mine")); v == 0 || err != nil {
		t.Fatal(v, err)
	}
	if value, v, err := two.State.Get(t.Context(), "k"); v != 0 || err != nil {
		t.Errorf("the other source sees %q, %v", value, err)
	}
	if value, v, err := one.State.Get(t.Context(), "k"); v == 0 || string(value) != "mine" || err != nil {
		t.Errorf("%q, %d, %v", value, v, err)
	}
	if one.Embed == nil || one.Egress == nil || one.TraceParent == nil || one.Log == nil || one.DataDir == "" {
		t.Errorf("given %+v", one)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for name, s := range spies {
		if s.closed.Load() != 1 || s.state != nil {
			t.Errorf("%s was closed %d times; the state then: %v", name, s.closed.Load(), s.state)
		}
	}
}

// Serving makes sources ready before anybody asks.
func TestSourcesAreWarmed(t *testing.T) {
	a, spies := openSpies(t, "{mode: development}")
	serveLife(t, a)
	warm := func() {
		for name, s := range spies {
			within(t, name+" is warm", func() bool { return s.warmed.Load() == 1 })
		}
	}
	warm()
	if err := a.Reload(t.Context()); err != nil { // which opens others
		t.Fatal(err)
	}
	warm()
}

// Another embedder makes other vectors: nothing that came from the old ones is answered or approved.
func TestEmbedderIsPartOfTheVersion(t *testing.T) {
	versions := map[string]bool{}
	for _, overlay := range []string{"{mode: development}", "embedder: {with: {dim: 128}}", "sources: {one: {kind: spy, with: {setting: x}}}"} {
		t.Run(overlay, func(t *testing.T) {
			a, _ := openSpies(t, overlay)
			g := a.current.use()
			defer g.lease.leave()
			versions[g.sources["one"].Version] = true
		})
	}
	if len(versions) != 3 {
		t.Errorf("%d versions of 3", len(versions))
	}
}

// A purge leaves a record with who asked for it.
func TestPurgeIsRecorded(t *testing.T) {
	a, _ := openSpies(t, "{mode: development}")
	who, err := a.Principal("op", "acme", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Purge(t.Context(), who, "globex", "crm_order"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r, err := range QueryAudit(t.Context(), a.cfg.Audit.Path, AuditFilter{Kind: "admin"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s %s", r.Action, r.Tenant, r.Tool, r.Caller, r.Status))
	}
	if want := []string{"cache.purge globex crm_order op ok"}; !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
}

// While it serves, a replica finds out by itself that the store of the limits is away, and would that it is back.
func TestLimitersStoreIsProbed(t *testing.T) {
	a, _ := openSpies(t, "redis: {url: \"redis://127.0.0.1:1\"}")
	if a.replicas.failover.Down() {
		t.Fatal("down before anybody asked")
	}
	serveLife(t, a)
	within(t, "noticed without a call", a.replicas.failover.Down)
}

// What a reload cannot change is told.
func TestWhatNeedsARestart(t *testing.T) {
	log := &lines{}
	dir := t.TempDir()
	file := filepath.Join(dir, "atlas.yaml")
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte("sources: {}\ntools: {files: []}\n"+text), 0o600),
			os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte("rules: []\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	a, err := Open(t.Context(), Options{ConfigFile: file, DataDir: filepath.Join(dir, "data"), LogTo: log})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close() //nolint:errcheck // the test is over
	for section, text := range map[string]string{
		"state":                            "state: {kind: sqlite, with: {limits: {max_keys: 77}}}",
		"redis":                            "redis: {url: \"redis://127.0.0.1:1\"}",
		"flood":                            "flood: {rate: 77}",
		"isolation":                        "isolation: {interval: 0s}",
		"cache.lease":                      "cache: {lease: 7s}",
		"ratelimit.on_store_failure.after": "ratelimit: {on_store_failure: {after: 77ms}}",
	} {
		write(text + "\n")
		if err := a.Reload(t.Context()); err != nil {
			t.Errorf("%s: %v", section, err)
		}
		if log.count("section="+section+"\n") != 1 {
			t.Errorf("a changed %s is not told:\n%s", section, log.text.String())
		}
	}
}

// The server checks itself, counts that, and is not ready once a tenant got another's data.
func TestIsolationIsCheckedWhileServing(t *testing.T) {
	a, err := Open(t.Context(), Options{DataDir: t.TempDir(), LogTo: t.Output(), LogLevel: "error", Overlay: []byte("isolation: {interval: 1s}\nhttp: {listen: \"127.0.0.1:0\"}\n")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	serveLife(t, a)
	if a.checks()["isolation"] == nil {
		t.Error("readiness does not ask")
	}
	within(t, "checks are counted", func() bool {
		rec := httptest.NewRecorder()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, a.BaseURL()+"/metrics", nil)
		req.RemoteAddr = "127.0.0.1:1"
		a.HTTPHandler().ServeHTTP(rec, req)
		return strings.Contains(rec.Body.String(), `atlas_isolation_checks_total{result="held"}`)
	})
	before := a.toolsVersion()
	if err := a.reloadFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := a.toolsVersion(); after != before || len(a.Field().Sources) == 0 {
		t.Errorf("the same tools, versions %s and %s; %d sources", before, after, len(a.Field().Sources))
	}
}

// With its state in Postgres, Atlas says what to do before it is prepared, and with which role; then it starts, and the
// state bears witness to the audit log, also to who verifies it later.
func TestStateInPostgres(t *testing.T) {
	server, err := url.Parse(testenv.URL(t, testenv.Postgres))
	if err != nil {
		t.Fatal(err)
	}
	id := strings.ToLower(rand.Text()[:10])
	name, owner, role := "atlas_app_"+id, "app_owner_"+id, "app_role_"+id
	admin := func(statements ...string) {
		ctx := context.WithoutCancel(t.Context())
		conn, err := pgx.Connect(ctx, server.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx) //nolint:errcheck // nothing is lost
		for _, s := range statements {
			if _, err := conn.Exec(ctx, s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	admin("CREATE ROLE "+owner+" LOGIN", "CREATE ROLE "+role+" LOGIN", "CREATE DATABASE "+name+" OWNER "+owner)
	t.Cleanup(func() { admin("DROP DATABASE "+name+" WITH (FORCE)", "DROP ROLE "+role, "DROP ROLE "+owner) })
	dsn := func(user string) string {
		u := *server
		u.User, u.Path = url.User(user), "/"+name
		return u.String()
	}
	dir := t.TempDir()
	options := func(owner string) Options {
		text := fmt.Sprintf("sources: {}\ntools: {files: []}\nstate: {kind: postgres, with: {dsn: %q, load_dsn: %q}}\n", dsn(role), dsn(owner))
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "atlas.yaml"), []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte("rules: []\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
		return Options{ConfigFile: filepath.Join(dir, "atlas.yaml"), DataDir: filepath.Join(dir, "data"), LogTo: io.Discard, Listen: "127.0.0.1:0"}
	}
	o := options(owner)
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "run `atlas migrate`") {
		t.Fatalf("not prepared: %v", err)
	}
	if err := Migrate(t.Context(), options(role), func(Step) {}); err == nil || !strings.Contains(err.Error(), "migrate state: ") {
		t.Fatalf("migrated as the role that serves: %v", err)
	}
	o = options(owner)
	for range 2 {
		var steps []string
		if err := Migrate(t.Context(), o, func(s Step) { steps = append(steps, s.What+" "+s.Name) }); err != nil || !slices.Equal(steps, []string{"migrated state"}) {
			t.Fatalf("%q, %v", steps, err)
		}
	}
	a, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	path := a.cfg.Audit.Path
	record := func() {
		t.Helper()
		if err := errors.Join(a.auditLog.Record(t.Context(), atlas.AuditRecord{Kind: "admin", Action: "test", Status: "ok"}), a.FlushAudit(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	record()
	log, head := read(t, path), read(t, path+".head")
	record()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	verify := func() bool {
		t.Helper()
		report, err := VerifyConfigured(t.Context(), o, false, false)
		if err != nil {
			t.Fatal(err)
		}
		return report.OK()
	}
	if !verify() {
		t.Error("the whole log does not verify")
	}
	if err := errors.Join(os.WriteFile(path, log, 0o600), os.WriteFile(path+".head", head, 0o600)); err != nil {
		t.Fatal(err)
	}
	if verify() {
		t.Error("nobody sees that the log and its head were cut")
	}
	admin("ALTER ROLE " + role + " NOLOGIN")
	started := time.Now()
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "open state in Postgres, database "+name) || time.Since(started) > time.Minute {
		t.Errorf("a state that cannot be had: %v", err)
	}
	admin("ALTER ROLE " + role + " LOGIN")
}
