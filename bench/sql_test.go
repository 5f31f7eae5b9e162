package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

// testDatabase makes a run's database on the real server.
func testDatabase(t *testing.T) database {
	t.Helper()
	server := testenv.URL(t, testenv.Postgres)
	db, err := makeDatabase(t.Context(), server, server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.drop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return db
}

// All servers of the SQL rows answer the same, in both eras, from the rows of one tenant.
func TestSQLServers(t *testing.T) {
	given := setup{Database: testDatabase(t)}
	for _, c := range contenders {
		if !c.work.sql || c.server == "sql-toolbox" { // which is fetched: TestToolbox
			continue
		}
		t.Run(c.server+" "+c.work.String(), func(t *testing.T) { answers(t, c, given) })
	}
}

// answers opens the contender's server, asks it as the run does, and drives it for a moment.
func answers(t *testing.T, c contender, given setup) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ln, err := app.ListenLoopback(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s, err := servings[c.server](ctx, ln, given)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.serve() }()
	l, err := openLane(ctx, c, &server{hello: s.hello}, 2)
	if err != nil {
		t.Error(err)
	} else if one, err := drive(ctx, s.hello.Addr, l.requests, l.want, 20*time.Millisecond); err != nil || one.failed > 0 || one.calls < 2 {
		t.Errorf("%d of %d answers were wrong, such as %s; %v", one.failed, one.calls, one.firstBad, err)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if s.close != nil {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
}

// The comparison would mean nothing if row-level security did not bind the role, or the rival did not
// find the same row.
func TestDatabase(t *testing.T) {
	db := testDatabase(t)
	count := func(role, setting string) (n int) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), db.dsn(role))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context()) //nolint:errcheck // it was only asked
		err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			if setting != "" {
				if _, err := tx.Exec(t.Context(), setting); err != nil {
					return err
				}
			}
			return tx.QueryRow(t.Context(), `SELECT count(*) FROM orders WHERE id = 'o_9002'`).Scan(&n)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, tt := range []struct {
		role, setting string
		want          int
	}{
		{db.Reader, "", 0},
		{db.Reader, sqlRecipe[0][0], 1},
		{db.Reader, "SET LOCAL app.tenant_id = 'nobody'", 0},
		{db.Owner, "", 0},
		{db.Free, "", sqlTenants},
	} {
		if got := count(tt.role, tt.setting); got != tt.want {
			t.Errorf("%s sees %d orders of that id after %q, want %d", tt.role, got, tt.setting, tt.want)
		}
	}
}

func TestToolboxConfig(t *testing.T) {
	db := database{Via: "postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable", Name: "d", Free: "free"}
	data, err := toolboxConfig(db)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Sources map[string]struct {
			Host, Port, Database, User string
			QueryParams                map[string]string
		}
		Tools map[string]struct{ Statement string }
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	pg := got.Sources["pg"]
	if pg.Host != "127.0.0.1" || pg.Port != "5432" || pg.Database != "d" || pg.User != "free" || pg.QueryParams["sslmode"] != "disable" || pg.QueryParams["pool_max_conns"] != "10" {
		t.Errorf("source %+v", pg)
	}
	if want := "WHERE tenant_id = 'acme' AND id = $1"; !strings.HasSuffix(got.Tools[toolName].Statement, want) {
		t.Errorf("statement %q does not end with %q", got.Tools[toolName].Statement, want)
	}
}

// Without what the SQL rows need, a run of nothing else fails and says what is missing.
func TestWithoutServers(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(string(testenv.Postgres), "")
	o := options{Rounds: 1, Each: 10 * time.Millisecond, Conns: 1, cache: t.TempDir(), out: t.TempDir(), only: regexp.MustCompile("^sql-atlas")}
	err := run(t.Context(), o, false)
	if err == nil || !strings.Contains(err.Error(), "the SQL rows cannot be measured") || !strings.Contains(err.Error(), "PATH") {
		t.Errorf("error %v", err)
	}
}

func TestSQLCheck(t *testing.T) {
	structured := `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"text","text":"x"}],"structuredContent":` + sqlAnswer + `}}`
	text, err := json.Marshal(sqlAnswer)
	if err != nil {
		t.Fatal(err)
	}
	asText := `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"text","text":` + string(text) + `}]}}`
	for _, right := range []string{structured, asText} {
		if err := sqlModern.check([]byte(right)); err != nil {
			t.Error(err)
		}
		if wrong := strings.Replace(right, "4900", "4901", 1); sqlModern.check([]byte(wrong)) == nil {
			t.Errorf("%s is taken for right", wrong)
		}
	}
	if callModern.check([]byte(asText)) == nil {
		t.Error("text alone is taken for the answer of a tool in memory")
	}
}

// A process's counters grow with what it does.
func TestProcessStats(t *testing.T) {
	before := ownStats()
	if before.Mallocs == 0 || before.Bytes == 0 {
		t.Errorf("stats %+v", before)
	}
	first := processStats(os.Getpid())
	if first == (stats{}) {
		if _, err := os.Stat("/proc/self/stat"); !errors.Is(err, os.ErrNotExist) {
			t.Error("nothing is told of a process that runs")
		}
		return // only Linux tells
	}
	if first.RSS < 1<<20 {
		t.Errorf("a Go program of %d bytes", first.RSS)
	}
	for deadline := time.Now().Add(patience); processStats(os.Getpid()).CPU <= first.CPU; {
		if time.Now().After(deadline) {
			t.Fatal("processor time does not grow")
		}
	}
	if processStats(-1) != (stats{}) {
		t.Error("a process that does not exist has counters")
	}
}
