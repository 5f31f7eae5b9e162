//go:build unix

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	root "github.com/atlas-mcp/atlas"
	deploysql "github.com/atlas-mcp/atlas/deploy/sql"
	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/testenv"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// long bounds waits for what a busy machine may take long for: a server that starts, a thousand calls.
const long = 2 * time.Minute

// publicURL is what tokens are for; replicas share it, whatever they listen on.
const publicURL = "http://127.0.0.1:9"

// A realSite is a configuration over real servers of the test's own.
type realSite struct {
	t      *testing.T
	config string
	env    map[string]string

	postgres, opensearch, s3, redis *servers.Server // nil if not asked for
}

// realServers starts servers of the test's own, at once.
func realServers(t *testing.T, options func(servers.Kind) servers.Options, which ...testenv.Server) *realSite {
	t.Helper()
	cache := testenv.Files(t, which...)
	var kinds []servers.Kind
	for _, k := range servers.Table() {
		if slices.Contains(which, testenv.Server(k.Env)) {
			kinds = append(kinds, k)
		}
	}
	all, err := servers.StartAll(t.Context(), cache, kinds, nil, options, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := servers.CloseAll(all); err != nil {
			t.Error(err)
		}
	})
	site := &realSite{t: t, env: map[string]string{}}
	for i, k := range kinds {
		switch testenv.Server(k.Env) {
		case testenv.Postgres:
			site.postgres = all[i]
			site.databases()
		case testenv.OpenSearch:
			site.opensearch = all[i]
			site.env["ATLAS_ELASTICSEARCH_URL"] = all[i].URL()
		case testenv.S3:
			site.s3 = all[i]
			site.bucket(all[i].URL())
		case testenv.Redis:
			site.redis = all[i]
			site.env["ATLAS_REDIS_URL"] = all[i].URL()
		default:
			t.Fatalf("nobody uses %s", k.Env)
		}
	}
	return site
}

// databases makes what deploy/sql/README.md says that an administrator makes.
func (r *realSite) databases() {
	r.t.Helper()
	r.admin("postgres", deploysql.Roles, `CREATE DATABASE crm OWNER atlas_owner`, `CREATE DATABASE state`, `CREATE ROLE atlas_state LOGIN`)
	r.admin("crm", deploysql.Harden, `CREATE EXTENSION vector`, `ALTER SCHEMA public OWNER TO atlas_owner`)
	r.env["ATLAS_POSTGRES_DSN"] = r.dsn("atlas_app", "crm")
	r.env["ATLAS_POSTGRES_LOAD_DSN"] = r.dsn("atlas_owner", "crm")
	r.env["ATLAS_STATE_DSN"] = r.dsn("atlas_state", "state")
	r.env["ATLAS_STATE_LOAD_DSN"] = r.dsn("postgres", "state")
}

func (r *realSite) bucket(raw string) {
	r.t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		r.t.Fatal(err)
	}
	r.env["ATLAS_S3_ACCESS_KEY"] = u.User.Username()
	r.env["ATLAS_S3_SECRET_KEY"], _ = u.User.Password()
	u.User = nil
	r.env["ATLAS_S3_ENDPOINT"] = u.String()
}

// dsn returns how a role reaches a database.
func (r *realSite) dsn(role, database string) string {
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", role, r.postgres.Addr(), database)
}

// admin runs statements as a superuser.
func (r *realSite) admin(database string, statements ...string) {
	r.t.Helper()
	conn := r.connect(database)
	defer conn.Close(context.WithoutCancel(r.t.Context())) //nolint:errcheck // the server notices
	for _, s := range statements {
		if _, err := conn.Exec(r.t.Context(), s); err != nil {
			r.t.Fatalf("%.80s: %v", s, err)
		}
	}
}

func (r *realSite) connect(database string) *pgx.Conn {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.dsn("postgres", database))
	if err != nil {
		r.t.Fatal(err)
	}
	return conn
}

// vars returns the environment for a process.
func (r *realSite) vars() []string {
	list := make([]string, 0, len(r.env))
	for _, name := range slices.Sorted(maps.Keys(r.env)) {
		list = append(list, name+"="+r.env[name])
	}
	return list
}

// atlas runs a command of the binary on the configuration, which must succeed.
func (r *realSite) atlas(data string, args ...string) string {
	r.t.Helper()
	code, out, errs := r.run(data, args...)
	if code != 0 {
		r.t.Fatalf("atlas %v: exit code %d\n%s%s", args, code, out, errs)
	}
	return out
}

func (r *realSite) run(data string, args ...string) (code int, stdout, stderr string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), long)
	defer cancel()
	cmd := r.command(ctx, data, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		r.t.Fatalf("atlas %v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func (r *realSite) command(ctx context.Context, data string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "atlas"), append(args, "--config", r.config, "--data-dir", data)...)
	cmd.Dir = r.t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "NO_COLOR=1"}, r.vars()...)
	return cmd
}

// who is somebody who calls.
type who struct{ tenant, subject, role string }

// tokens signs tokens with the keys of the data folder, which are made if they are not there.
func (r *realSite) tokens(data string, all ...who) map[who]string {
	r.t.Helper()
	a, err := app.Open(r.t.Context(), app.Options{
		ConfigFile: r.config, DataDir: data, LogTo: r.t.Output(), LogLevel: "error",
		Env: func(name string) (string, bool) { v, ok := r.env[name]; return v, ok },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.Close() //nolint:errcheck // nothing was written
	signed := map[who]string{}
	for _, w := range all {
		if signed[w], err = a.Token(app.TokenRequest{Tenant: w.tenant, Subject: w.subject, Roles: []string{w.role}, TTL: time.Hour}); err != nil {
			r.t.Fatal(err)
		}
	}
	return signed
}

// serve starts `atlas serve` on a free port and waits until it is ready. It is killed with the test.
func (r *realSite) serve(data string) *server {
	r.t.Helper()
	s, err := r.process(data)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		s.stop(r.t, os.Kill) // it may have ended already
		s.http.CloseIdleConnections()
		if r.t.Failed() {
			r.t.Logf("the log of the server at %s:\n%s", s.url, tail(s.log.String()))
		}
	})
	return s
}

// tail is the end of a log.
func tail(log string) string {
	const most = 20_000
	if len(log) > most {
		return "…" + log[len(log)-most:]
	}
	return log
}

// process starts `atlas serve` on a free port. Somebody else may take the port before; then it gets another.
func (r *realSite) process(data string) (*server, error) {
	for attempt := 1; ; attempt++ {
		ln, err := new(net.ListenConfig).Listen(r.t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		addr := ln.Addr().String()
		if err := ln.Close(); err != nil {
			return nil, err
		}
		s := &server{
			url: "http://" + addr, data: data, log: new(logBuffer), exited: make(chan struct{}),
			http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}},
		}
		s.cmd = r.command(context.WithoutCancel(r.t.Context()), data, "serve", "--listen", addr)
		s.cmd.Stderr = s.log
		if err := s.cmd.Start(); err != nil {
			return nil, err
		}
		go func() {
			_ = s.cmd.Wait() // the exit code is read where it matters
			close(s.exited)
		}()
		err = s.ready(r.t.Context())
		if err == nil {
			return s, nil
		}
		_ = s.cmd.Process.Signal(syscall.SIGKILL) // it may have ended already
		<-s.exited
		if attempt == 3 || !strings.Contains(s.log.String(), "listen on") {
			return nil, fmt.Errorf("the server did not start: %w\n%s", err, tail(s.log.String()))
		}
	}
}

// ready waits until the server answers that it is ready.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, _ := s.probe(ctx, "/readyz"); status == http.StatusOK {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.exited:
			return errors.New("it has ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// probe gets a path without a token; status 0 means that nobody answers.
func (s *server) probe(ctx context.Context, path string) (int, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return 0, ""
	}
	res, err := s.http.Do(req)
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close() //nolint:errcheck // read to the end
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(body)
}

// A told is what a call was answered, for whoever makes calls in goroutines.
type told struct {
	status int
	body   string
	code   string // of a failure; empty: it succeeded
	retry  int64  // milliseconds to wait, as the failure says
}

// ask calls a tool. The error is one of the connection.
func (s *server) ask(ctx context.Context, token, tool string, args, meta object) (told, error) {
	full := object{
		"io.modelcontextprotocol/protocolVersion":    modern,
		"io.modelcontextprotocol/clientCapabilities": object{},
	}
	maps.Copy(full, meta)
	body, err := json.Marshal(object{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": object{"name": tool, "arguments": args, "_meta": full}})
	if err != nil {
		return told{}, err
	}
	return s.post(ctx, "/mcp", token, body, map[string]string{
		"Accept": "application/json, text/event-stream", "Mcp-Protocol-Version": modern, "Mcp-Method": "tools/call", "Mcp-Name": tool,
	})
}

// post sends JSON with a token.
func (s *server) post(ctx context.Context, path, token string, body []byte, header map[string]string) (told, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+path, bytes.NewReader(body))
	if err != nil {
		return told{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := s.http.Do(req)
	if err != nil {
		return told{}, err
	}
	defer res.Body.Close() //nolint:errcheck // read to the end
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return told{}, err
	}
	out := told{status: res.StatusCode, body: string(text)}
	var answer struct {
		Code   string
		Retry  int64 `json:"retry_after_ms"`
		Result *struct {
			IsError           bool
			StructuredContent struct {
				Code  string
				Retry int64 `json:"retry_after_ms"`
			}
		}
		Error json.RawMessage // JSON-RPC's is an object, OAuth's a word
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return out, fmt.Errorf("status %d, no JSON: %.200q", out.status, out.body)
	}
	var fault struct {
		Message string
		Data    struct{ Code string }
	}
	switch {
	case len(answer.Error) > 0 && json.Unmarshal(answer.Error, &fault) == nil:
		if out.code = fault.Data.Code; out.code == "" {
			out.code = "jsonrpc: " + fault.Message
		}
	case answer.Result != nil && answer.Result.IsError:
		out.code, out.retry = answer.Result.StructuredContent.Code, answer.Result.StructuredContent.Retry
		if out.code == "" {
			out.code = "no code"
		}
	case res.StatusCode != http.StatusOK:
		out.code, out.retry = answer.Code, answer.Retry
		if out.code == "" {
			out.code = fmt.Sprintf("status %d", res.StatusCode)
		}
	}
	return out, nil
}

// metric returns the sum of the samples of a metric whose labels hold the text, and whether there is one.
func (s *server) metric(ctx context.Context, name, labels string) (sum float64, found bool) {
	_, body := s.probe(ctx, "/metrics")
	for line := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' || !strings.Contains(rest, labels) {
			continue
		}
		fields := strings.Fields(rest[strings.LastIndex(rest, "}")+1:])
		if len(fields) == 0 {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(fields[0], &v); err == nil {
			sum, found = sum+v, true
		}
	}
	return sum, found
}

// patiently polls until ok, for as long as a busy machine may need.
func patiently(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(long)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// load writes marked data with the driver of a source, as `atlas seed` does.
func load(t *testing.T, tenant string, config source.Config, embed source.Embedder, data source.Data) {
	t.Helper()
	s, err := config.Open(t.Context(), source.Deps{Name: "load", DataDir: t.TempDir(), Embed: embed, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // loaded or not
	if err := s.(source.Loader).Load(t.Context(), root.TenantID(tenant), data); err != nil {
		t.Fatalf("%v: %v", err, errors.Unwrap(err))
	}
}

// copyKeys gives another process the same keys, which only it may read.
func copyKeys(t *testing.T, from, to string) {
	t.Helper()
	keys, err := os.ReadDir(filepath.Join(from, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(to, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		secret, err := os.ReadFile(filepath.Join(from, "keys", k.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, "keys", k.Name()), secret, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
