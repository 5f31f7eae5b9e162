//go:build unix

package testenv_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas/internal/testenv"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every server that tests may ask for can be started.
func TestEveryServerIsInTheTable(t *testing.T) {
	envs := map[testenv.Server]bool{}
	for _, k := range servers.Table() {
		envs[testenv.Server(k.Env)] = true
	}
	all := []testenv.Server{testenv.Postgres, testenv.PgBouncer, testenv.Redis, testenv.S3, testenv.OpenSearch, testenv.Qdrant}
	for _, s := range all {
		if !envs[s] {
			t.Errorf("nobody starts %s", s)
		}
	}
	if len(envs) != len(all) {
		t.Errorf("the table has %d servers, and tests know %d", len(envs), len(all))
	}
}

// told is a test that notes how it ended.
type told struct {
	testing.TB
	how string
}

func (t *told) Helper() {}

func (t *told) Skipf(format string, args ...any) { t.end("skipped: " + fmt.Sprintf(format, args...)) }

func (t *told) Fatalf(format string, args ...any) { t.end("failed: " + fmt.Sprintf(format, args...)) }

func (t *told) end(how string) {
	if t.how == "" { // a real test would be at its end
		t.how = how
	}
}

func TestURL(t *testing.T) {
	for _, tc := range []struct{ ci, url, how string }{
		{"", "redis://x", ""},
		{"1", "redis://x", ""},
		{"", "", "skipped: ATLAS_TEST_REDIS is not set: run make test, which starts the servers"},
		{"1", "", "failed: ATLAS_TEST_REDIS is not set, and with CI set a missing server is a failure: run make test, which starts the servers"},
	} {
		t.Setenv("CI", tc.ci)
		t.Setenv(string(testenv.Redis), tc.url)
		tb := &told{TB: t}
		if got := testenv.URL(tb, testenv.Redis); got != tc.url || tb.how != tc.how {
			t.Errorf("with CI=%q and the URL %q: %q, %q", tc.ci, tc.url, got, tb.how)
		}
	}
}

func TestFilesThatAreMissing(t *testing.T) {
	t.Setenv(testenv.Cache, t.TempDir())
	for ci, want := range map[string]string{"": "skipped: s3 is not in the cache", "true": "failed: s3 is not in the cache"} {
		t.Setenv("CI", ci)
		tb := &told{TB: t}
		testenv.Files(tb, testenv.S3)
		if !strings.HasPrefix(tb.how, want) {
			t.Errorf("with CI=%q: %q", ci, tb.how)
		}
	}
}

// redis sends one command and returns the first line of the answer.
func redis(t *testing.T, s *servers.Server, command string) (string, error) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // nothing is left unsaid
	if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

func TestRedisOfOnesOwn(t *testing.T) {
	s := testenv.Start(t, testenv.Redis, servers.Options{Args: []string{"--maxmemory", "9mb"}})
	if got, err := redis(t, s, "SET k v"); got != "+OK" {
		t.Fatal(got, err)
	}
	url := s.URL()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if got, err := redis(t, s, "PING"); err == nil {
		t.Fatalf("killed, it answers %q", got)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := redis(t, s, "EXISTS k"); got != ":0" || s.URL() != url {
		t.Errorf("on %s, it has k: %s, %v", s.URL(), got, err)
	}
	if err := s.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { _, err := redis(t, s, "PING"); answered <- err }()
	select {
	case err := <-answered:
		t.Fatalf("paused, it answers: %v", err)
	default:
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if got, err := redis(t, s, "CONFIG GET maxmemory"); got != "*2" {
		t.Error(got, err)
	}
}

func TestPostgresOfOnesOwn(t *testing.T) {
	postgres := testenv.Start(t, testenv.Postgres, servers.Options{})
	pooler := testenv.Start(t, testenv.PgBouncer, servers.Options{Behind: postgres.Addr()})
	connect := func(url string) (*pgx.Conn, error) {
		cfg, err := pgx.ParseConfig(url)
		if err != nil {
			return nil, err
		}
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // this PgBouncer keeps no prepared statements
		return pgx.ConnectConfig(t.Context(), cfg)
	}
	do := func(url string, statements ...string) (got string, err error) {
		conn, err := connect(url)
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(t.Context()))) }()
		for _, s := range statements[:len(statements)-1] {
			if _, err := conn.Exec(t.Context(), s); err != nil {
				return "", fmt.Errorf("%s: %w", s, err)
			}
		}
		return got, conn.QueryRow(t.Context(), statements[len(statements)-1]).Scan(&got)
	}
	got, err := do(postgres.URL(), "create extension vector", "create table t (v vector(2))", "insert into t values ('[1,2]')", "select extversion from pg_extension where extname = 'vector'")
	if err != nil || !strings.HasPrefix(got, "0.8.") {
		t.Fatalf("pgvector %q, %v", got, err)
	}
	if got, err := do(pooler.URL(), "create role somebody login", "select v::text from t order by v <-> '[0,0]' limit 1"); got != "[1,2]" || err != nil {
		t.Fatalf("through the pooler: %q, %v", got, err)
	}
	if got, err := do(strings.Replace(pooler.URL(), "postgres@", "somebody@", 1), "select current_user::text"); got != "somebody" || err != nil {
		t.Fatalf("another role through the pooler: %q, %v", got, err)
	}
	// A backend that is busy does not keep a killed server from coming back.
	busy, err := connect(postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	running := make(chan error, 1)
	go func() { _, err := busy.Exec(t.Context(), "select pg_sleep(1000)"); running <- err }()
	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-running; err == nil {
		t.Error("the backend has ended in order")
	}
	_ = busy.Close(t.Context()) // the connection is broken
	if _, err := do(postgres.URL(), "select 'x'"); err == nil {
		t.Error("killed, it answers")
	}
	if err := postgres.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := do(pooler.URL(), "select v::text from t"); got != "[1,2]" || err != nil {
		t.Errorf("what was written is %q, %v", got, err)
	}
}

func TestS3OfOnesOwn(t *testing.T) {
	s := testenv.Start(t, testenv.S3, servers.Options{})
	res, err := get(t, "http://"+s.Addr()+"/")
	if err != nil || res != http.StatusForbidden {
		t.Errorf("a stranger gets %d, %v", res, err)
	}
}

func TestQdrantOfOnesOwn(t *testing.T) {
	s := testenv.Start(t, testenv.Qdrant, servers.Options{Args: []string{"key"}})
	if res, err := get(t, s.URL()+"/collections"); res != http.StatusUnauthorized && res != http.StatusForbidden {
		t.Errorf("a stranger gets %d, %v", res, err)
	}
}

func get(t *testing.T, url string) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}
