package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

// A replicaLab is two replicas on one Redis, with one tool that reads, one that writes, and a count of
// the runs of both.
type replicaLab struct {
	here, there *App
	dir         string
	reads       atomic.Int64
	gate        chan struct{} // reads wait until it is closed; may be nil
}

// openReplicaLab opens two replicas that serve on the Redis of the URL.
func openReplicaLab(t *testing.T, redisURL, overlay string, gate chan struct{}) *replicaLab {
	t.Helper()
	lab := &replicaLab{dir: t.TempDir(), gate: gate}
	for name, text := range map[string]string{
		"atlas.yaml":  "roles: {tester: [\"tool:probe:read\", \"tool:probe:write\"]}\nsources: {}\ntools: {files: []}\n",
		"policy.yaml": "rules: [{id: all, subjects: [\"role:tester\"], actions: [\"tool:probe:*\"], resources: [\"tenant:*/*\"]}]\n",
	} {
		if err := os.WriteFile(filepath.Join(lab.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	prefix := "atlas-test-" + rand.Text() + ":"
	open := func() *App {
		a, err := Open(t.Context(), Options{
			ConfigFile: filepath.Join(lab.dir, "atlas.yaml"), DataDir: filepath.Join(lab.dir, "data"), LogTo: t.Output(), LogLevel: "error",
			Overlay: fmt.Appendf(nil, "redis: {url: %q, key_prefix: %q}\n%s", redisURL, prefix, overlay),
			ExtraTools: func(atlas.Handler) []*atlas.Tool {
				tool := func(name, scope string) *atlas.Tool {
					return &atlas.Tool{
						Name: name, Level: atlas.Atomic, Version: "1", Source: "probe", Scopes: []string{scope}, Timeout: time.Minute, Idempotent: true,
						Description: "A probe for tests. It counts.", Resource: func(atlas.Call) string { return "probe/x" },
						Input:  json.RawMessage(`{"type":"object","properties":{"key":{"type":"string"}},"additionalProperties":false}`),
						Output: json.RawMessage(`{"type":"object"}`),
					}
				}
				read, write := tool("probe_read", "tool:probe:read"), tool("probe_write", "tool:probe:write")
				read.ReadOnly, read.Reads, read.CacheTTL = true, atlas.ReadsPrivate, time.Hour
				read.Run = func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
					if lab.gate != nil {
						select {
						case <-lab.gate:
						case <-ctx.Done():
							return atlas.Result{}, ctx.Err()
						}
					}
					return atlas.Result{Structured: fmt.Appendf(nil, `{"run":%d,"tenant":%q}`, lab.reads.Add(1), call.Tenant)}, nil
				}
				write.Effects = atlas.EffectsWrite
				write.Run = func(context.Context, atlas.Call) (atlas.Result, error) {
					return atlas.Result{Structured: json.RawMessage(`{}`)}, nil
				}
				return []*atlas.Tool{read, write}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Close() }) // closing twice is fine
		serveLife(t, a)
		return a
	}
	lab.here, lab.there = open(), open()
	within(t, "both replicas listen", func() bool { return lab.here.replicas.bus.Listening() && lab.there.replicas.bus.Listening() })
	return lab
}

func (l *replicaLab) ask(t *testing.T, a *App, subject string, tenant atlas.TenantID, tool, args string) (string, error) {
	t.Helper()
	who, err := a.Principal(subject, tenant, []string{"tester"})
	if err != nil {
		t.Error(err)
		return "", err
	}
	res, err := a.Handle(t.Context(), a.NewCall(who, tool, []byte(args)))
	return string(res.Structured), err
}

const noLimits = "flood: {rate: 1000000, burst: 1000000}\nratelimit: {caller: {rate: 1000000, burst: 1000000}, tool: {rate: 1000000, burst: 1000000}, tenant: {rate: 1000000, burst: 1000000}}\n"

// A thousand callers on a key that nobody has, at two replicas: the tool runs once. The other tenant's
// callers get their own.
func TestReplicasLoadOnce(t *testing.T) {
	gate := make(chan struct{})
	lab := openReplicaLab(t, testenv.URL(t, testenv.Redis), noLimits+"cache: {shared_timeout: 5s}\n", gate) // however busy the machine
	var wg, asking sync.WaitGroup
	answers := make([]string, 1000)
	for i := range answers {
		a := lab.here
		if i%2 == 1 {
			a = lab.there
		}
		asking.Add(1)
		wg.Go(func() {
			asking.Done()
			answer, err := lab.ask(t, a, fmt.Sprintf("ann%d", i%10), "acme", "probe_read", `{"key":"cold"}`)
			if err != nil {
				t.Error(err)
			}
			answers[i] = answer
		})
	}
	asking.Wait()
	close(gate)
	wg.Wait()
	for i, answer := range answers {
		if answer != `{"run":1,"tenant":"acme"}` {
			t.Fatalf("caller %d got %s", i, answer)
		}
	}
	if answer, err := lab.ask(t, lab.there, "ann1", "globex", "probe_read", `{"key":"cold"}`); answer != `{"run":2,"tenant":"globex"}` || err != nil {
		t.Errorf("the other tenant got %s, %v", answer, err)
	}
}

// A limit is one limit, however many replicas hold it.
func TestReplicasShareLimits(t *testing.T) {
	lab := openReplicaLab(t, testenv.URL(t, testenv.Redis), "ratelimit: {caller: {rate: 1, per: 1h, burst: 20}}\n", nil)
	var wg sync.WaitGroup
	var admitted, limited atomic.Int64
	for i := range 200 {
		a := lab.here
		if i%2 == 1 {
			a = lab.there
		}
		wg.Go(func() {
			switch _, err := lab.ask(t, a, "ann", "acme", "probe_read", `{"key":"k"}`); atlas.CodeOf(err) {
			case "":
				admitted.Add(1)
			case atlas.CodeRateLimited:
				limited.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 20 || limited.Load() != 180 {
		t.Errorf("%d of 200 admitted, %d limited; want 20 and 180", admitted.Load(), limited.Load())
	}
	// Others have buckets of their own.
	for _, tc := range []struct {
		subject string
		tenant  atlas.TenantID
	}{{"bob", "acme"}, {"ann", "globex"}} {
		if _, err := lab.ask(t, lab.there, tc.subject, tc.tenant, "probe_read", `{"key":"k"}`); err != nil {
			t.Errorf("%v: %v", tc, err)
		}
	}
}

// What one replica forgets, or what a write through it has made stale, the other forgets, too.
func TestReplicasForgetTogether(t *testing.T) {
	lab := openReplicaLab(t, testenv.URL(t, testenv.Redis), noLimits, nil)
	operator, err := lab.here.Principal("op", "acme", []string{"tester"})
	if err != nil {
		t.Fatal(err)
	}
	read := func(a *App, tenant atlas.TenantID) string {
		answer, err := lab.ask(t, a, "ann", tenant, "probe_read", `{"key":"k"}`)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	for name, forget := range map[string]func() error{
		"all":        func() error { return lab.here.Purge(t.Context(), operator, "acme", "") },
		"one tool":   func() error { return lab.here.Purge(t.Context(), operator, "acme", "probe_read") },
		"by a write": func() error { _, err := lab.ask(t, lab.here, "ann", "acme", "probe_write", `{}`); return err },
	} {
		t.Run(name, func(t *testing.T) {
			before, kept := read(lab.there, "acme"), read(lab.there, "globex")
			if again := read(lab.there, "acme"); again != before {
				t.Fatalf("not cached: %s, %s", before, again)
			}
			if shared := read(lab.here, "acme"); shared != before {
				t.Fatalf("not shared: %s, %s", before, shared)
			}
			if err := forget(); err != nil {
				t.Fatal(err)
			}
			within(t, "the other replica has forgotten", func() bool { return read(lab.there, "acme") != before })
			if got := read(lab.there, "globex"); got != kept {
				t.Errorf("the other tenant's answer was forgotten, too: %s, %s", kept, got)
			}
		})
	}
	t.Run("another tool", func(t *testing.T) {
		before := read(lab.here, "acme")
		if err := lab.here.Purge(t.Context(), operator, "acme", "probe_write"); err != nil {
			t.Fatal(err)
		}
		if got := read(lab.here, "acme"); got != before {
			t.Errorf("%s, then %s", before, got)
		}
	})
}

// A reload that an operator asks for at one replica happens at the others.
func TestReplicasReloadTogether(t *testing.T) {
	lab := openReplicaLab(t, testenv.URL(t, testenv.Redis), noLimits, nil)
	hash := func(a *App) string {
		g := a.current.use()
		defer g.lease.leave()
		return g.policy.Hash()
	}
	before := hash(lab.there)
	policy := "rules: [{id: none, subjects: [\"role:nobody\"], actions: [\"tool:probe:*\"], resources: [\"tenant:*/*\"]}]\n"
	if err := os.WriteFile(filepath.Join(lab.dir, "policy.yaml"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := lab.here.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	within(t, "the other replica has the new policy", func() bool { return hash(lab.there) == hash(lab.here) && hash(lab.here) != before })
	if _, err := lab.ask(t, lab.there, "ann", "acme", "probe_read", `{"key":"k"}`); atlas.CodeOf(err) == "" {
		t.Error("the old policy answers")
	}
}

// A Redis that is not there keeps nobody from starting and no reader from an answer; writes are refused.
func TestReplicasWithoutTheirRedis(t *testing.T) {
	dead := httptest.NewServer(nil)
	dead.Close()
	addr := strings.TrimPrefix(dead.URL, "http://")
	a, _ := openLife(t, fmt.Sprintf("redis: {url: %q}\n", "redis://"+addr), func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Structured: json.RawMessage(`{}`)}, nil
	})
	who, err := a.Principal("ann", "acme", []string{"tester"})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := a.Handle(t.Context(), a.NewCall(who, "probe", nil)); err != nil {
			t.Fatal(err)
		}
	}
	rec := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, a.BaseURL()+"/metrics", nil)
	req.RemoteAddr = "127.0.0.1:1"
	a.HTTPHandler().ServeHTTP(rec, req)
	if rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), `atlas_limiter_fallback_total{mode="local"}`) {
		t.Errorf("no fallback was counted:\n%s", rec.Body)
	}
}
