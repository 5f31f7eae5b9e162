package app

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
)

// openLife opens an app with a folder source and one tool that waits.
func openLife(t *testing.T, overlay string, run atlas.Handler) (a *App, dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{
		"atlas.yaml":  "roles: {tester: [\"tool:probe:read\"]}\nsources: {files: {kind: folder}}\ntools: {files: []}\n",
		"policy.yaml": "rules: [{id: all, subjects: [\"role:tester\"], actions: [\"tool:probe:read\"], resources: [\"tenant:*/*\"]}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, err := Open(t.Context(), Options{
		ConfigFile: filepath.Join(dir, "atlas.yaml"), DataDir: filepath.Join(dir, "data"), Overlay: []byte(overlay), LogTo: t.Output(),
		ExtraTools: func(atlas.Handler) []*atlas.Tool {
			return []*atlas.Tool{{
				Name: "probe", Level: atlas.Atomic, Version: "1", Source: "probe", ReadOnly: true, Reads: atlas.ReadsPrivate, Timeout: time.Minute,
				Description: "A probe for tests. It waits.", Scopes: []string{"tool:probe:read"},
				Input: json.RawMessage(`{"type":"object","additionalProperties":false}`), Output: json.RawMessage(`{"type":"object"}`), Run: run,
			}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() }) // closing twice is fine
	return a, dir
}

// within waits for a condition, for as long as a slow machine may need.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(30 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: not within 30s", what)
		}
	}
}

// Readiness really asks: what is broken is named, and the answer is 503.
func TestReadinessAsksEveryDependency(t *testing.T) {
	for name, breaks := range map[string]func(a *App) error{
		"state": func(a *App) error { return a.state.Close() },
		"audit": func(a *App) error { // a file stands where its folder was
			folder := filepath.Dir(a.cfg.Audit.Path)
			if err := errors.Join(os.RemoveAll(folder), os.WriteFile(folder, nil, 0o600)); err != nil {
				return err
			}
			if err := a.auditLog.Record(context.Background(), atlas.AuditRecord{Kind: "admin", Status: "ok"}); err == nil {
				return errors.New("a record was stored in a folder that is not there")
			}
			return nil
		},
		"sources": func(a *App) error {
			g := a.current.use()
			defer g.lease.leave()
			return g.sources["files"].Source.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := openLife(t, "{mode: development}", nil)
			if err := breaks(a); err != nil {
				t.Fatal(err)
			}
			rec := httptest.NewRecorder()
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, a.BaseURL()+"/readyz", nil)
			a.HTTPHandler().ServeHTTP(rec, req)
			if rec.Code != http.StatusServiceUnavailable || !strings.Contains(rec.Body.String(), `"`+name+`"`) {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
}

// Close waits for running calls: what they use is open until they end.
func TestCloseWaitsForRunningCalls(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	var a *App
	var stateAtEnd error
	a, _ = openLife(t, "{mode: development}", func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
		close(started)
		<-release
		stateAtEnd = a.state.Ping(ctx)
		return atlas.Result{Structured: json.RawMessage(`{}`)}, nil
	})
	who, err := a.Principal("ann", "acme", []string{"tester"})
	if err != nil {
		t.Fatal(err)
	}
	answered, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := a.Handle(t.Context(), a.NewCall(who, "probe", nil))
		answered <- err
	}()
	<-started
	go func() { closed <- a.Close() }()
	within(t, "new calls are refused", func() bool { return a.Tools() == nil })
	select {
	case err := <-closed:
		t.Fatalf("closed while a call was running: %v", err)
	case <-time.After(50 * time.Millisecond): // time for a Close that does not wait to be caught; never fails a good one
	}
	close(release)
	if err := <-answered; err != nil || stateAtEnd != nil {
		t.Errorf("the running call: %v; state at its end: %v", err, stateAtEnd)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A reload leaves a record, of success and of refusal.
func TestReloadIsRecorded(t *testing.T) {
	a, dir := openLife(t, "{mode: development}", nil)
	if err := a.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte("rules: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(t.Context()); err == nil {
		t.Fatal("a broken policy was taken up")
	}
	var got []string
	for r, err := range QueryAudit(t.Context(), a.cfg.Audit.Path, AuditFilter{Kind: "admin"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.Action+" "+r.Status)
	}
	if want := "config.reload ok, config.reload error"; strings.Join(got, ", ") != want {
		t.Errorf("recorded %v, want %s", got, want)
	}
}

// Beside the server run the refresh of issuers' keys and the sweep of expired state.
func TestServeRunsWhatBelongsBesideIt(t *testing.T) {
	var asked atomic.Int64
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"keys":[]}`))
	}))
	defer keys.Close()
	a, dir := openLife(t, `auth: {issuers: [{issuer: "https://login.example", jwks_url: "`+keys.URL+`", audience: [atlas]}]}`, nil)
	if _, err := a.state.CompareAndSet(t.Context(), "test", "old", 0, []byte("x"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "data", "state.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // a second look at the file
	if _, err := db.ExecContext(t.Context(), "UPDATE kv SET expires = 1 WHERE space = 'test'"); err != nil {
		t.Fatal(err)
	}
	ln, err := ListenLoopback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, ln) }()
	within(t, "keys are asked for", func() bool { return asked.Load() > 0 })
	within(t, "expired state is swept", func() bool {
		var n int
		err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM kv WHERE space = 'test'").Scan(&n)
		return err == nil && n == 0
	})
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
