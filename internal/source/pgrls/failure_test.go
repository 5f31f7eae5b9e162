package pgrls_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// Every code of Postgres has a meaning, and no word of the server reaches a caller.
func TestFailure(t *testing.T) {
	const secret = `relation "globex_secret" at 10.0.0.7 of acme`
	for state, want := range map[string]atlas.Code{
		"57014": atlas.CodeTimeout,
		"42501": atlas.CodeInvalidQuery, "25006": atlas.CodeInvalidQuery, "42601": atlas.CodeInvalidQuery, "42P01": atlas.CodeInvalidQuery,
		"42703": atlas.CodeInvalidQuery, "42883": atlas.CodeInvalidQuery, "42P18": atlas.CodeInvalidQuery, "42999": atlas.CodeInvalidQuery,
		"0A000": atlas.CodeInvalidQuery, "21000": atlas.CodeInvalidQuery, "22012": atlas.CodeInvalidQuery, "3F000": atlas.CodeInvalidQuery,
		"22P02": atlas.CodeInvalidArguments, "22021": atlas.CodeInvalidArguments,
		"53300": atlas.CodeSourceUnavailable, "57P01": atlas.CodeSourceUnavailable, "57P03": atlas.CodeSourceUnavailable, "08006": atlas.CodeSourceUnavailable,
		"40001": atlas.CodeSourceUnavailable, "40P01": atlas.CodeSourceUnavailable, "55P03": atlas.CodeSourceUnavailable, "58030": atlas.CodeSourceUnavailable,
		"53400": atlas.CodeTooLarge, "53200": atlas.CodeTooLarge, "54001": atlas.CodeTooLarge,
		"28P01": atlas.CodeSourceMisused, "3D000": atlas.CodeSourceMisused,
		"XX000": atlas.CodeSourceError, "": atlas.CodeSourceError, "P0001": atlas.CodeSourceError,
	} {
		err := pgrls.Failure(t.Context(), &pgconn.PgError{Code: state, Message: secret, Detail: secret, Hint: secret, TableName: secret})
		e, ok := errors.AsType[*atlas.Error](err)
		if !ok || e.Code != want {
			t.Errorf("%s: got %v, want %s", state, err, want)
			continue
		}
		seen, _ := json.Marshal(e.Failure("req_1"))
		for _, s := range []string{"globex", "10.0.0.7", "acme", "relation"} {
			if strings.Contains(string(seen), s) {
				t.Errorf("%s: callers are told %s", state, seen)
			}
		}
		if pgrls.SQLState(err) != state {
			t.Errorf("%s: the cause is lost: %v", state, err)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		ctx  context.Context
		err  error
		want atlas.Code
	}{
		{canceled, &pgconn.PgError{Code: "57014"}, atlas.CodeCanceled},
		{canceled, io.ErrUnexpectedEOF, atlas.CodeCanceled},
		{t.Context(), io.ErrUnexpectedEOF, atlas.CodeSourceUnavailable},
		{t.Context(), &net.OpError{Op: "dial", Err: errors.New("refused")}, atlas.CodeSourceUnavailable},
		{t.Context(), context.DeadlineExceeded, atlas.CodeTimeout},
		{t.Context(), atlas.Errorf(atlas.CodeTooLarge, nil, ""), atlas.CodeTooLarge},
		{t.Context(), errors.New("?"), atlas.CodeSourceError},
	} {
		if got := pgrls.Failure(tc.ctx, tc.err); atlas.CodeOf(got) != tc.want {
			t.Errorf("%v: got %v, want %s", tc.err, got, tc.want)
		}
	}
	if pgrls.Failure(t.Context(), nil) != nil {
		t.Error("nil is a failure")
	}
}

// A message above the limit is refused before it is held, and the next query is fine.
func TestLargeMessages(t *testing.T) {
	each(t, func(t *testing.T, bouncer bool) {
		d := notes(t)
		db, err := pgrls.Open(t.Context(), d.Connection(bouncer), pgrls.Options{Name: "test", Tables: []string{"notes"}, MaxMessage: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close() //nolint:errcheck // it returns nil
		for _, sql := range []string{`SELECT repeat('x', 70000)`, `SELECT repeat('x', 300000000)`} {
			if got, err := ask(t, db, "acme", sql); atlas.CodeOf(err) != atlas.CodeTooLarge {
				t.Errorf("%s: got %d rows, %v", sql, len(got), err)
			}
			if _, err := ask(t, db, "acme", `SELECT repeat('x', 60000)`); err != nil {
				t.Errorf("after %s: %v", sql, err)
			}
		}
	})
}

// A table that changes under a prepared statement does not break it.
func TestTablesChange(t *testing.T) {
	d := notes(t)
	c := d.Connection(false)
	c.MaxConns = 1
	db := open(t, c)
	for i, alter := range []string{``, `ALTER TABLE notes ADD COLUMN more text DEFAULT 'm'`, `ALTER TABLE notes ALTER COLUMN n TYPE text`, `ALTER TABLE notes DROP COLUMN body`} {
		if alter != "" {
			d.Own(alter)
		}
		for range 2 {
			got, err := ask(t, db, "acme", `SELECT * FROM notes WHERE id = 'n1'`)
			if want := []int{4, 5, 5, 4}[i]; err != nil || len(got) != 1 || len(got[0]) != want {
				t.Errorf("after %q: got %v, %v", alter, got, err)
			}
		}
	}
	// Somebody's DISCARD ALL takes the prepared statements away.
	pgrls.Bare(t, db, `SELECT 1`)
	if _, err := ask(t, db, "acme", `SELECT 1`); err != nil {
		t.Fatal(err)
	}
	pgrls.Discard(t, db)
	if _, err := ask(t, db, "acme", `SELECT 1`); err != nil {
		t.Errorf("after DISCARD ALL: %v", err)
	}
}

// A server that is away is no reason not to open; no query passes before it has been checked.
func TestServerComesLater(t *testing.T) {
	d := notes(t)
	cc, err := pgconn.ParseConfig(d.DSN(d.App))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	c := d.Connection(false)
	c.DSN = "postgres://" + d.App + "@" + addr + "/" + d.Name + "?sslmode=disable"
	c.CheckInterval = time.Hour
	db, err := pgrls.Open(t.Context(), c, pgrls.Options{Name: "test", Tables: []string{"notes"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer db.Close() //nolint:errcheck // it returns nil
	if _, err := ask(t, db, "acme", `SELECT 1`); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
		t.Errorf("without a server: %v", err)
	}
	d.Own(`ALTER TABLE notes DISABLE ROW LEVEL SECURITY`)
	stop := relay(t, addr, cc)
	defer stop()
	await := func(code atlas.Code) {
		t.Helper()
		for i := 0; ; i++ {
			err := db.Ping(t.Context())
			if atlas.CodeOf(err) == code {
				return
			}
			if i == 2000 {
				t.Fatalf("got %v, want %q", err, code)
			}
		}
	}
	await(atlas.CodeSourceMisused)
	if _, err := ask(t, db, "acme", `SELECT 1`); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("before the mend: %v", err)
	}
	d.Own(`ALTER TABLE notes ENABLE ROW LEVEL SECURITY`)
	await("")
	if got, err := ask(t, db, "acme", `SELECT DISTINCT tenant_id FROM notes`); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}

// relay passes connections to addr on to the server.
func relay(t *testing.T, addr string, cc *pgconn.Config) (stop func()) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	network, target := pgconn.NetworkAddress(cc.Host, cc.Port)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(t.Context(), network, target)
			if err != nil {
				_ = in.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
				})
			}
		}
	})
	return func() { _ = ln.Close() }
}

// Nothing that is refused quotes the connection string, in which there may be a password.
func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		c    pgrls.Connection
		want []string
	}{
		{pgrls.Connection{DSN: "postgres://a:hush@db/x"}, nil},
		{pgrls.Connection{DSN: "host=db user=a password=hush dbname=x", LoadDSN: "postgres://o@db/x", Schema: "crm", TenantSetting: "my.tenant", MaxConns: 3}, nil},
		{pgrls.Connection{}, []string{"dsn is empty"}},
		{pgrls.Connection{DSN: "postgres://a:hush@db:port/x", LoadDSN: "postgres://hush:%zz"}, []string{"dsn is not", "load_dsn is not"}},
		{
			pgrls.Connection{
				DSN: "postgres://db/x", Schema: `a"b`, Extensions: "x y", TenantSetting: "app.tenant_id = 'x'; --", TenantColumn: "1", MaxConns: -1,
				ConnectTimeout: -1, LockTimeout: -1, CheckInterval: -1,
			},
			[]string{"schema", "extensions", "tenant_setting", "tenant_column", "max_conns", "connect_timeout", "lock_timeout", "check_interval"},
		},
		{pgrls.Connection{DSN: "postgres://db/x", TenantSetting: "search_path"}, []string{"tenant_setting"}},
	} {
		err := tc.c.Validate()
		if (err != nil) != (len(tc.want) > 0) {
			t.Errorf("%+v: got %v", tc.c, err)
			continue
		}
		for _, w := range tc.want {
			if !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "hush") {
				t.Errorf("%v does not tell %q, or tells too much", err, w)
			}
		}
	}
}

func TestBadTenants(t *testing.T) {
	db := open(t, notes(t).Connection(false))
	for _, tenant := range []atlas.TenantID{"", "Acme", "acme'", "acme' OR '1'='1", "acme\x00", "../acme", "a b"} {
		if _, err := ask(t, db, tenant, `SELECT 1`); atlas.CodeOf(err) != atlas.CodeInternal {
			t.Errorf("%q: got %v", tenant, err)
		}
	}
}

func TestQuoting(t *testing.T) {
	db := open(t, notes(t).Connection(false))
	for _, s := range []string{``, `a`, `'`, `''`, `\`, `\'`, `a\\b'c`, `"`, `; --`, "\n", `$1`, `ä`} {
		got, err := ask(t, db, "acme", `SELECT `+pgrls.Literal(s)+` AS `+pgrls.Identifier("x"+s))
		if err != nil || got[0][0] != s {
			t.Errorf("%q: got %v, %v", s, got, err)
		}
	}
}
