package pgrls_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

var tenants = []atlas.TenantID{"acme", "globex"}

// stateSQL is what a connection remembers that it should not.
const stateSQL = `SELECT coalesce(current_setting('app.tenant_id', true), ''), current_setting('statement_timeout'),
	(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), current_setting('application_name')`

// Two tenants share two connections, while queries are canceled, fail, run out of time and lose
// their connection: nobody ever gets a row of the other, and no connection remembers a tenant.
func TestNothingBleeds(t *testing.T) {
	each(t, func(t *testing.T, bouncer bool) {
		d := notes(t)
		c := d.Connection(bouncer)
		c.MaxConns = 2
		db := open(t, c)
		// The bound is of work, not of time.
		const workers, rounds = 8, 60
		var (
			wg                         sync.WaitGroup
			right, canceled, killed, w atomic.Int64
		)
		for worker := range workers {
			tenant, other := tenants[worker%2], tenants[(worker+1)%2]
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(1, uint64(worker)))
				for i := range rounds {
					ctx, cancel := context.WithCancel(t.Context())
					st := pgrls.Statement{SQL: `SELECT tenant_id, body, current_setting('app.tenant_id') FROM notes`, Once: i%2 == 0}
					switch k := rnd.IntN(8); k {
					case 0: // canceled while it runs
						st.SQL = `SELECT n.tenant_id, n.body, current_setting('app.tenant_id') FROM notes n, (SELECT pg_sleep(20) OFFSET 0) s`
						timer := time.AfterFunc(time.Duration(rnd.IntN(4000))*time.Microsecond, cancel)
						defer timer.Stop()
					case 1: // canceled at any moment
						timer := time.AfterFunc(time.Duration(rnd.IntN(300))*time.Microsecond, cancel)
						defer timer.Stop()
					case 2: // out of time
						st.SQL = `SELECT n.tenant_id, n.body, pg_sleep(20)::text FROM notes n`
						st.Timeout = 5 * time.Millisecond
					case 3: // fails in the middle of its rows
						st.SQL = `SELECT tenant_id, body, (1 / (n - 2))::text FROM notes ORDER BY n`
					case 4: // does not parse
						st.SQL = `SELECT tenant_id, FROM notes`
					case 5: // the connection is lost
						if worker == 0 {
							d.Ask(`SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE usename = $1 AND application_name <> 'check'`, d.App)
							killed.Add(1)
						}
					case 6: // nobody reads it to its end
						st.SQL = `SELECT n.tenant_id, repeat(n.body, 10000), current_setting('app.tenant_id') FROM notes n, generate_series(1, 100)`
					}
					seen := 0
					_, err := db.Query(ctx, tenant, st, func(r pgrls.Row) (bool, error) {
						seen++
						for i := range r.Len() {
							if v := string(r.Raw(i)); strings.Contains(v, string(other)) {
								t.Errorf("%s was given %.40q", tenant, v)
							}
						}
						if string(r.Raw(0)) != string(tenant) {
							w.Add(1)
						}
						return seen < 3, nil
					})
					switch {
					case err == nil && seen > 0:
						right.Add(1)
					case errors.Is(err, context.Canceled):
						canceled.Add(1)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		if right.Load() == 0 || canceled.Load() == 0 || killed.Load() == 0 || w.Load() > 0 {
			t.Errorf("%d right, %d canceled, %d killed, %d wrong", right.Load(), canceled.Load(), killed.Load(), w.Load())
		}
		// What every connection remembers, seen by a tenant of its own.
		for range 20 {
			got, err := ask(t, db, "nobody", `SELECT (SELECT count(*) FROM notes), current_setting('app.tenant_id')`)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([][]any{{int64(0), "nobody"}}, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		}
		for range 20 {
			if got := pgrls.Bare(t, db, stateSQL); got[0] != "" || got[1] == "4ms" || got[1] == "5ms" || got[2] != "0" || strings.Contains(got[3], "traceparent") {
				t.Errorf("a connection remembers %q", got)
			}
			if got := pgrls.Bare(t, db, `SELECT count(*)::text FROM pg_prepared_statements WHERE statement ~ 'acme|globex|nobody'`); got[0] != "0" {
				t.Error("a prepared statement names a tenant")
			}
			if got := pgrls.Bare(t, db, `SELECT count(*)::text FROM notes`); got[0] != "0" {
				t.Errorf("without a tenant there are %s rows", got[0])
			}
		}
	})
}

// A canceled statement ends on the server, too.
func TestCancelReachesTheServer(t *testing.T) {
	each(t, func(t *testing.T, bouncer bool) {
		d := notes(t)
		db := open(t, d.Connection(bouncer))
		ctx, cancel := context.WithCancel(t.Context())
		started := make(chan struct{})
		go func() {
			defer cancel()
			<-started
			for d.Ask(`SELECT count(*)::text FROM pg_stat_activity WHERE usename = $1 AND query LIKE '%pg_sleep(30)%'`, d.App) == "0" {
				if t.Context().Err() != nil {
					return
				}
			}
		}()
		close(started)
		begin := time.Now()
		_, err := db.Query(ctx, "acme", pgrls.Statement{SQL: `SELECT pg_sleep(30)::text`}, func(pgrls.Row) (bool, error) { return true, nil })
		if !errors.Is(err, context.Canceled) || atlas.CodeOf(err) != atlas.CodeCanceled || time.Since(begin) > 20*time.Second {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
		for i := 0; d.Ask(`SELECT count(*)::text FROM pg_stat_activity WHERE usename = $1 AND state = 'active' AND query LIKE '%pg_sleep(30)%'`, d.App) != "0"; i++ {
			if i > 500 {
				t.Fatal("it still runs on the server")
			}
		}
		if _, err := ask(t, db, "acme", `SELECT 1`); err != nil {
			t.Errorf("the next query: %v", err)
		}
	})
}

// The server's own clock ends a statement, which keeps the connection.
func TestTimeoutKeepsTheConnection(t *testing.T) {
	d := notes(t)
	c := d.Connection(false)
	c.MaxConns = 1
	db := open(t, c)
	pid := func() any {
		got, err := ask(t, db, "acme", `SELECT pg_backend_pid()`)
		if err != nil {
			t.Fatal(err)
		}
		return got[0][0]
	}
	before := pid()
	_, err := db.Query(t.Context(), "acme", pgrls.Statement{SQL: `SELECT pg_sleep(30)::text`, Set: []pgrls.Setting{{Name: "statement_timeout", Value: "100"}}}, func(pgrls.Row) (bool, error) { return true, nil })
	if !errors.Is(err, context.DeadlineExceeded) || atlas.CodeOf(err) != atlas.CodeTimeout {
		t.Errorf("got %v", err)
	}
	if after := pid(); after != before {
		t.Errorf("connection %v was replaced by %v", before, after)
	}
}

// Row-level security that is switched off while Atlas runs is found, and so is that it is back.
func TestSwitchedOffWhileRunning(t *testing.T) {
	each(t, func(t *testing.T, bouncer bool) {
		d := notes(t)
		c := d.Connection(bouncer)
		c.CheckInterval = 20 * time.Millisecond
		var log safeBuffer
		db, err := pgrls.Open(t.Context(), c, pgrls.Options{Name: "test", Tables: []string{"notes"}, Log: slog.New(slog.NewJSONHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close() //nolint:errcheck // it returns nil
		until := func(code atlas.Code) {
			t.Helper()
			for i := 0; ; i++ {
				got, err := ask(t, db, "acme", `SELECT DISTINCT tenant_id FROM notes`)
				if atlas.CodeOf(err) == code {
					if code == "" && len(got) != 1 {
						t.Errorf("got %v", got)
					}
					return
				}
				if i == 20_000 {
					t.Fatalf("got %v, %v; want code %q", got, err, code)
				}
			}
		}
		until("")
		d.Own(`ALTER TABLE notes DISABLE ROW LEVEL SECURITY`)
		until(atlas.CodeSourceMisused)
		if err := db.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "ENABLE ROW LEVEL SECURITY") {
			t.Errorf("Ping: %v", err)
		}
		d.Own(`ALTER TABLE notes ENABLE ROW LEVEL SECURITY`)
		until("")
		for _, want := range []string{"source refuses all queries", "run: ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY", "source answers queries again"} {
			if n := strings.Count(log.String(), want); n != 1 {
				t.Errorf("the log has %q %d times:\n%s", want, n, log.String())
			}
		}
		// Ping finds it at once.
		d.Admin(`ALTER ROLE ` + d.App + ` BYPASSRLS`)
		_ = db.Ping(t.Context()) // may join a check that began before
		if err := db.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("Ping: %v", err)
		}
		if _, err := ask(t, db, "acme", `SELECT 1`); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("after Ping: %v", err)
		}
	})
}

// The server writes no line to its log for a query: it has nothing to warn of.
func TestNoNotices(t *testing.T) {
	each(t, func(t *testing.T, bouncer bool) {
		d := notes(t)
		var log safeBuffer
		db, err := pgrls.Open(t.Context(), d.Connection(bouncer), pgrls.Options{
			Name: "test", Tables: []string{"notes"}, Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close() //nolint:errcheck // it returns nil
		if _, err := db.Query(t.Context(), "acme", pgrls.Statement{SQL: `SELECT * FROM notes`, Set: []pgrls.Setting{{Name: "work_mem", Value: "1MB"}}}, func(pgrls.Row) (bool, error) { return true, nil }); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(log.String(), "notice") {
			t.Error(log.String())
		}
	})
}

// The call's trace is seen on the server while it runs, and only then.
func TestTrace(t *testing.T) {
	const on, off = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	each(t, func(t *testing.T, bouncer bool) {
		d := notes(t)
		db := open(t, d.Connection(bouncer))
		for _, tc := range []struct {
			trace string
			once  bool
			seen  bool
		}{{on, false, true}, {on, true, true}, {off, true, false}, {"", false, false}, {on + "'; SELECT 1", true, false}, {strings.Replace(on, "4", "'", 1), true, false}} {
			var got string
			_, err := db.Query(t.Context(), "acme", pgrls.Statement{
				SQL: `SELECT application_name || ' ' || query FROM pg_stat_get_activity(pg_backend_pid())`, Once: tc.once, Trace: tc.trace,
			}, func(r pgrls.Row) (bool, error) { got = string(r.Raw(0)); return true, nil })
			if atlas.CodeOf(err) == atlas.CodeInvalidQuery {
				d.Admin(`GRANT EXECUTE ON FUNCTION pg_stat_get_activity(int) TO ` + d.App)
				_, err = db.Query(t.Context(), "acme", pgrls.Statement{
					SQL: `SELECT application_name || ' ' || query FROM pg_stat_get_activity(pg_backend_pid())`, Once: tc.once, Trace: tc.trace,
				}, func(r pgrls.Row) (bool, error) { got = string(r.Raw(0)); return true, nil })
			}
			if err != nil || strings.Contains(got, "4bf92f") != tc.seen || strings.Contains(got, "/*traceparent='"+on+"'*/") != (tc.seen && (tc.once || bouncer)) {
				t.Errorf("%q, once %v: got %q, %v", tc.trace, tc.once, got, err)
			}
			if name := pgrls.Bare(t, db, `SELECT current_setting('application_name')`); strings.Contains(name[0], "4bf92f") {
				t.Errorf("the connection keeps %q", name)
			}
		}
	})
}

// A safeBuffer is a buffer for a log.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
