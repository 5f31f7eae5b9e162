// Package pgrlstest gives a test a database of its own on the real server, with an owner and a role
// for Atlas, and removes all of them at its end.
package pgrlstest

import (
	"context"
	"crypto/rand"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas/deploy/sql"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

// A Database is a fresh database, hardened as deploy/sql does it.
type Database struct {
	Name  string
	Owner string // the role that owns the tables
	App   string // the role that Atlas logs in as; it owns nothing

	tb     testing.TB
	server string
}

// New makes a database on the server. It has no tables.
func New(tb testing.TB) *Database {
	tb.Helper()
	id := strings.ToLower(rand.Text()[:10])
	d := &Database{
		Name: "atlas_test_" + id, Owner: "atlas_owner_" + id, App: "atlas_app_" + id,
		tb: tb, server: testenv.URL(tb, testenv.Postgres),
	}
	d.run(d.server,
		`CREATE ROLE `+d.Owner+` LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS`,
		`CREATE ROLE `+d.App+` LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT`,
		`CREATE DATABASE `+d.Name+` OWNER `+d.Owner,
	)
	tb.Cleanup(func() {
		// A pooler may hold connections a moment longer.
		d.run(d.server, `DROP DATABASE `+d.Name+` WITH (FORCE)`, `DROP ROLE `+d.App, `DROP ROLE `+d.Owner)
	})
	d.Admin(sql.Harden)
	d.Admin(`ALTER SCHEMA public OWNER TO ` + d.Owner)
	return d
}

// DSN returns the connection string of a role, directly to the server.
func (d *Database) DSN(role string) string { return dsn(d.tb, d.server, role, d.Name) }

// Bouncer returns the connection string of a role through PgBouncer.
func (d *Database) Bouncer(role string) string {
	return dsn(d.tb, testenv.URL(d.tb, testenv.PgBouncer), role, d.Name)
}

// Connection returns what a driver's configuration needs, directly or through PgBouncer.
func (d *Database) Connection(bouncer bool) pgrls.Connection {
	c := pgrls.Connection{DSN: d.DSN(d.App), LoadDSN: d.DSN(d.Owner)}
	if bouncer {
		c.DSN, c.PgBouncer = d.Bouncer(d.App), true
	}
	return c
}

// Admin runs statements in the database as a superuser.
func (d *Database) Admin(statements ...string) {
	d.tb.Helper()
	d.run(dsn(d.tb, d.server, "", d.Name), statements...)
}

// Own runs statements in the database as the owner.
func (d *Database) Own(statements ...string) {
	d.tb.Helper()
	d.run(d.DSN(d.Owner), statements...)
}

// Ask runs one query as a superuser and returns its single value as text.
func (d *Database) Ask(query string, args ...any) string {
	d.tb.Helper()
	ctx := context.WithoutCancel(d.tb.Context())
	conn, err := pgx.Connect(ctx, dsn(d.tb, d.server, "", d.Name))
	if err != nil {
		d.tb.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the server notices
	var out *string
	if err := conn.QueryRow(ctx, query, args...).Scan(&out); err != nil {
		d.tb.Fatalf("%s: %v", query, err)
	}
	if out == nil {
		return ""
	}
	return *out
}

func (d *Database) run(dsn string, statements ...string) {
	d.tb.Helper()
	ctx := context.WithoutCancel(d.tb.Context()) // cleanups run after its end
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		d.tb.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the server notices
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			d.tb.Fatalf("%s: %v", s, err)
		}
	}
}

func dsn(tb testing.TB, server, role, database string) string {
	tb.Helper()
	u, err := url.Parse(server)
	if err != nil {
		tb.Fatal(err)
	}
	if role != "" {
		u.User = url.User(role)
	}
	u.Path = "/" + database
	return u.String()
}
