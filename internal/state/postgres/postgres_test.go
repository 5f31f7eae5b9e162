package postgres_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/postgres"
	"github.com/atlas-mcp/atlas/internal/state/statetest"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A database is the test's own, with an owner and a role that serves.
type database struct {
	name, owner, role string
	server            string
}

func (d database) dsn(server, role string) string {
	u, err := url.Parse(server)
	if err != nil {
		panic(err) // the environment's
	}
	if role != "" {
		u.User = url.User(role)
	}
	u.Path = "/" + d.name
	return u.String()
}

func (d database) config() postgres.Config {
	return postgres.Config{DSN: d.dsn(d.server, d.role), LoadDSN: d.dsn(d.server, d.owner)}
}

func (d database) admin(t testing.TB, statements ...string) {
	t.Helper()
	run(t, d.dsn(d.server, ""), statements...)
}

func run(t testing.TB, dsn string, statements ...string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // cleanups run after its end
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func ask(t testing.TB, dsn, query string) (out string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if err := conn.QueryRow(t.Context(), query).Scan(&out); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

// empty makes a database without the schema.
func empty(t testing.TB) database {
	t.Helper()
	id := strings.ToLower(rand.Text()[:10])
	d := database{name: "atlas_state_" + id, owner: "state_owner_" + id, role: "state_role_" + id, server: testenv.URL(t, testenv.Postgres)}
	run(t, d.server, "CREATE ROLE "+d.owner+" LOGIN", "CREATE ROLE "+d.role+" LOGIN", "CREATE DATABASE "+d.name+" OWNER "+d.owner)
	t.Cleanup(func() {
		run(t, d.server, "DROP DATABASE "+d.name+" WITH (FORCE)", "DROP ROLE "+d.role, "DROP ROLE "+d.owner)
	})
	return d
}

// migrated makes a database with the schema.
func migrated(t testing.TB) database {
	t.Helper()
	d := empty(t)
	if err := d.config().Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

func open(t testing.TB, cfg postgres.Config) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestContract(t *testing.T) {
	for name, bouncer := range map[string]bool{"direct": false, "pgbouncer": true} {
		t.Run(name, func(t *testing.T) {
			d := migrated(t)
			statetest.Run(t, func(t *testing.T, limits state.Limits) (state.Store, func() state.Store) {
				d.admin(t, "TRUNCATE atlas.tenant, atlas.approval, atlas.memory, atlas.kv, atlas.kv_use")
				cfg := d.config()
				cfg.Limits = limits
				if bouncer {
					cfg.DSN, cfg.PgBouncer = d.dsn(testenv.URL(t, testenv.PgBouncer), d.role), true
				}
				t.Cleanup(func() { counted(t, d) })
				return open(t, cfg), func() state.Store { return open(t, cfg) }
			})
		})
	}
}

// counted checks that what the functions count is what is there.
func counted(t *testing.T, d database) {
	t.Helper()
	conn, err := pgx.Connect(context.WithoutCancel(t.Context()), d.dsn(d.server, ""))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	var wrong string
	err = conn.QueryRow(context.WithoutCancel(t.Context()), `SELECT coalesce(string_agg(x, '; '), '') FROM (
		SELECT format('tenant %s: %s counted, %s there', t.tenant, t.memories, (SELECT count(*) FROM atlas.memory m WHERE m.tenant = t.tenant)) AS x
			FROM atlas.tenant t WHERE t.memories <> (SELECT count(*) FROM atlas.memory m WHERE m.tenant = t.tenant)
		UNION ALL
		SELECT format('space %s: %s of %s bytes counted', u.space, u.n, u.bytes) FROM atlas.kv_use u FULL JOIN
			(SELECT space, count(*) AS n, sum(length(value)) AS bytes FROM atlas.kv GROUP BY space) k USING (space)
			WHERE u.n IS DISTINCT FROM k.n OR u.bytes IS DISTINCT FROM k.bytes) w`).Scan(&wrong)
	if err != nil || wrong != "" {
		t.Errorf("counted wrongly: %s %v", wrong, err)
	}
}

func TestOpenTellsWhatIsWrong(t *testing.T) {
	none := empty(t)
	old, newer, forbidden := migrated(t), migrated(t), migrated(t)
	old.admin(t, "DELETE FROM atlas.migration WHERE version_id > 0")
	newer.admin(t, "INSERT INTO atlas.migration (version_id, is_applied) VALUES (99, true)")
	forbidden.admin(t, "REVOKE ALL ON SCHEMA atlas FROM "+forbidden.role)
	absent := none.config()
	absent.DSN = strings.Replace(absent.DSN, none.name, "no_such_database", 1)
	for _, tc := range []struct {
		name string
		cfg  postgres.Config
		want string
	}{
		{"nothing", postgres.Config{}, "dsn is missing"},
		{"no DSN", postgres.Config{DSN: "post gres://"}, "is not a connection string"},
		{"no schema", none.config(), "run `atlas migrate`"},
		{"older", old.config(), "version 0, this program needs 1; run `atlas migrate`"},
		{"newer", newer.config(), "version 99, this program knows 1"},
		{"no rights", forbidden.config(), "run `atlas migrate`, which grants it"},
		{"no database", absent, "check dsn"},
		{"negative", postgres.Config{DSN: none.config().DSN, MaxConns: -1, Timeout: -1, Limits: state.Limits{MaxKeys: -1}}, "limits: max_keys"},
	} {
		_, err := postgres.Open(t.Context(), tc.cfg, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestPasswordsAreNotTold(t *testing.T) {
	cfg := postgres.Config{DSN: "postgres://atlas:hunter2@127.0.0.1:1/x?sslmode=disable", LoadDSN: "postgres://o:hunter2@ /"}
	_, err := postgres.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Open: %v", err)
	}
	cfg.LoadDSN = ""
	_, err = postgres.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if merr := cfg.Migrate(t.Context()); err == nil || merr == nil || strings.Contains(fmt.Sprint(err, merr, cfg.Where()), "hunter2") {
		t.Errorf("Open: %v; Migrate: %v; where: %s", err, merr, cfg.Where())
	}
}

// Two migrations at once, and again: the same schema. The role that serves may change nothing of it.
func TestMigrate(t *testing.T) {
	d := empty(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := d.config().Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := d.config().Migrate(t.Context()); err != nil {
		t.Error(err)
	}
	open(t, d.config())
	conn, err := pgx.Connect(t.Context(), d.config().DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	for _, s := range []string{
		"CREATE TABLE atlas.x (a int)", "ALTER TABLE atlas.kv ADD COLUMN x int", "DROP TABLE atlas.kv", "TRUNCATE atlas.approval",
		"CREATE OR REPLACE FUNCTION atlas.now_ns() RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'", "UPDATE atlas.migration SET version_id = 7",
		"CREATE SCHEMA mine",
	} {
		if _, err := conn.Exec(t.Context(), s); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("%s: %v, want insufficient privilege", s, err)
		}
	}
	_, _ = conn.Exec(t.Context(), "GRANT SELECT ON atlas.approval TO PUBLIC") // a warning only
	// Nobody else sees anything.
	id := "stranger_" + strings.ToLower(rand.Text()[:10])
	d.admin(t, "CREATE ROLE "+id+" LOGIN")
	t.Cleanup(func() { run(t, d.server, "DROP ROLE "+id) })
	for _, q := range []string{"has_table_privilege('" + id + "', 'atlas.approval', 'SELECT')", "has_schema_privilege('" + id + "', 'atlas', 'USAGE')", "has_function_privilege('" + id + "', 'atlas.now_ns()', 'EXECUTE')"} {
		if got := ask(t, d.dsn(d.server, ""), "SELECT ("+q+")::text"); got != "false" {
			t.Errorf("%s is %s", q, got)
		}
	}
}

// Several processes race for one compare-and-set and for one approval.
func TestProcesses(t *testing.T) {
	const variable = "ATLAS_TEST_STATE_DSN"
	if dsn := os.Getenv(variable); dsn != "" {
		s := open(t, postgres.Config{DSN: dsn})
		for round := range 20 {
			n, err := s.CompareAndSet(t.Context(), "a", fmt.Sprint(round), 0, fmt.Append(nil, os.Getpid()), time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if n != 0 {
				fmt.Println("process set")
			}
			a := statetest.Approval("acme", "alice", fmt.Sprint(round))
			a, err = s.AddApproval(t.Context(), a, 100, 100)
			if err != nil {
				t.Fatal(err)
			}
			next := a
			next.State = atlas.ApprovalApproved
			a.State = atlas.ApprovalPending
			if ok, err := s.SwapApproval(t.Context(), a, next); err != nil {
				t.Fatal(err)
			} else if ok {
				fmt.Println("process decided")
			}
		}
		return
	}
	d := migrated(t)
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		all strings.Builder
	)
	for range 3 {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcesses$", "-test.v")
			cmd.Env = append(os.Environ(), variable+"="+d.config().DSN)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			mu.Lock()
			defer mu.Unlock()
			all.Write(out)
		})
	}
	wg.Wait()
	for _, what := range []string{"process set", "process decided"} {
		if n := strings.Count(all.String(), what); n != 20 {
			t.Errorf("%s %d times in 20 rounds", what, n)
		}
	}
	if n := ask(t, d.dsn(d.server, ""), "SELECT count(*)::text FROM atlas.approval"); n != "20" {
		t.Errorf("%s approvals for 20 bindings", n)
	}
}

func TestSweep(t *testing.T) {
	d := migrated(t)
	cfg := d.config()
	cfg.Limits.Keep = time.Hour
	s := open(t, cfg)
	now := time.Now()
	for i := range 3 {
		// One expired and past keeping, one expired, one not.
		expires := now.Add(time.Duration(i-1)*30*time.Minute - 31*time.Minute)
		a := statetest.Approval("acme", "alice", fmt.Sprint(i))
		a.Expires = expires
		if _, err := s.AddApproval(t.Context(), a, 10, 10); err != nil {
			t.Fatal(err)
		}
		for _, space := range []string{"a", "b"} {
			if _, err := s.CompareAndSet(t.Context(), space, fmt.Sprint(i), 0, []byte("x"), expires.Add(30*time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		m := statetest.Memory("acme", "CUST-1", fmt.Sprint(i))
		m.Expires = expires.Add(30 * time.Minute)
		if err := s.AddMemory(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	// More than one statement deletes.
	d.admin(t, `INSERT INTO atlas.kv SELECT 'many', int4send(n), '', n, 1 FROM generate_series(1, 2500) n`, `INSERT INTO atlas.kv_use VALUES ('many', 2500, 0)`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	for got := ""; got != "2 2 1"; {
		if t.Context().Err() != nil {
			t.Fatalf("left: %s", got)
		}
		got = ask(t, d.dsn(d.server, ""), `SELECT concat((SELECT count(*) FROM atlas.approval), ' ', (SELECT count(*) FROM atlas.kv), ' ', (SELECT count(*) FROM atlas.memory))`)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	counted(t, d)
}

// What the store cannot keep as text is refused, or kept readable; it harms nobody.
func TestOddTexts(t *testing.T) {
	s := open(t, migrated(t).config())
	if v, err := s.CompareAndSet(t.Context(), "a\x00\xff", "k\x00\xfe", 0, []byte("x"), time.Time{}); v == 0 || err != nil {
		t.Errorf("a key of any bytes: %d, %v", v, err)
	}
	if got, _, err := s.Get(t.Context(), "a\x00\xff", "k\x00\xfe"); string(got) != "x" || err != nil {
		t.Errorf("a key of any bytes: %q, %v", got, err)
	}
	if _, err := s.CompareAndSet(t.Context(), "a", strings.Repeat("k", 5000), 0, nil, time.Time{}); atlas.CodeOf(err) != atlas.CodeTooLarge {
		t.Errorf("a long key: %v", err)
	}
	a := statetest.Approval("acme", "ali\x00ce", "d")
	if _, err := s.AddApproval(t.Context(), a, 1, 1); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
		t.Errorf("a zero byte in a name: %v", err)
	}
	a = statetest.Approval("acme", strings.Repeat("alice", 2000), "d")
	a.Preview = "a\x00b\xff"
	got, err := s.AddApproval(t.Context(), a, 1, 1)
	if err != nil || got.Preview != "a\uFFFDb\uFFFD" || got.Subject != a.Subject {
		t.Errorf("an odd preview and a long name: %+v, %v", got.Preview, err)
	}
	if err := s.AddMemory(t.Context(), statetest.Memory("acme", "CUST\uFFFD", "m")); err != nil {
		t.Fatal(err)
	}
	if n, err := s.ForgetCustomer(t.Context(), "acme", "CUST\x00"); n != 0 || err != nil {
		t.Errorf("forgot %d of another customer, %v", n, err)
	}
	if _, err := s.GetApproval(t.Context(), "acme", "\x00"); atlas.CodeOf(err) != atlas.CodeApprovalNotFound {
		t.Errorf("an odd id: %v", err)
	}
}

func BenchmarkFindApproval(b *testing.B) {
	s := open(b, migrated(b).config())
	a := statetest.Approval("acme", "alice", "d")
	if _, err := s.AddApproval(b.Context(), a, 10, 10); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, found, err := s.FindApproval(b.Context(), a); !found || err != nil {
			b.Fatal(found, err)
		}
	}
}

func BenchmarkCompareAndSet(b *testing.B) {
	s := open(b, migrated(b).config())
	var version int64
	var err error
	b.ReportAllocs()
	for b.Loop() {
		if version, err = s.CompareAndSet(b.Context(), "a", "k", version, []byte("value"), time.Time{}); version == 0 || err != nil {
			b.Fatal(version, err)
		}
	}
}
