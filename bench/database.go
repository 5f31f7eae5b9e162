package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas/deploy/sql"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// A database is one of a run's own, on a real Postgres. Server processes are given it as JSON.
type database struct {
	Server string `json:"server"` // URL of the Postgres, as a superuser
	Via    string `json:"via"`    // URL of what the servers under test connect to; the same, or a pooler before it
	Pooled bool   `json:"pooled"` // it is a pooler
	Name   string `json:"name"`
	Owner  string `json:"owner"`  // owns the tables
	Reader string `json:"reader"` // row-level security binds it
	Free   string `json:"free"`   // it does not bind this one, which reads for a server that cannot bind a tenant
}

const (
	sqlTenants = 10
	sqlRows    = 10_000 // of each tenant
)

// makeDatabase makes a database with an order table, hardened as deploy/sql does it, where each tenant has
// orders of the same ids. drop removes it.
func makeDatabase(ctx context.Context, server, via string) (_ database, err error) {
	id := strings.ToLower(rand.Text()[:10])
	db := database{
		Server: server, Via: via, Pooled: via != server, Name: "atlas_bench_" + id,
		Owner: "atlas_bench_owner_" + id, Reader: "atlas_bench_reader_" + id, Free: "atlas_bench_free_" + id,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.drop(context.WithoutCancel(ctx)))
		}
	}()
	if err := execute(ctx, server,
		`CREATE ROLE `+db.Owner+` LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS`,
		`CREATE ROLE `+db.Reader+` LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT`,
		`CREATE ROLE `+db.Free+` LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE BYPASSRLS NOINHERIT`,
		`CREATE DATABASE `+db.Name+` OWNER `+db.Owner,
	); err != nil {
		return db, err
	}
	if err := execute(ctx, at(server, "", db.Name), sql.Harden, `ALTER SCHEMA public OWNER TO `+db.Owner); err != nil {
		return db, err
	}
	statements := []string{
		`CREATE TABLE orders (tenant_id text NOT NULL, id text NOT NULL, customer_id text NOT NULL, status text NOT NULL,
			total_cents bigint NOT NULL, currency text NOT NULL, PRIMARY KEY (tenant_id, id))`,
		fmt.Sprintf(`INSERT INTO orders SELECT CASE t WHEN 1 THEN '%s' ELSE 'tenant' || t END, 'o_' || n, 'CUST-' || n %% 1000 + 1000, 'paid', n, 'USD'
			FROM generate_series(1, %d) t, generate_series(1, %d) n`, sqlTenant, sqlTenants, sqlRows),
		`UPDATE orders SET customer_id = 'CUST-1001', status = 'refund_pending', total_cents = 4900 WHERE id = 'o_9002' AND tenant_id = '` + sqlTenant + `'`,
	}
	statements = append(statements, pgrls.Connection{}.Secure("orders", db.Reader)...)
	statements = append(statements, `GRANT USAGE ON SCHEMA public TO `+db.Free, `GRANT SELECT ON orders TO `+db.Free)
	if err := execute(ctx, at(server, db.Owner, db.Name), statements...); err != nil {
		return db, err
	}
	return db, execute(ctx, at(server, "", db.Name), `VACUUM ANALYZE orders`)
}

// drop removes the database and its roles. A pooler may hold connections a moment longer.
func (db database) drop(ctx context.Context) error {
	return execute(ctx, db.Server, `DROP DATABASE IF EXISTS `+db.Name+` WITH (FORCE)`,
		`DROP ROLE IF EXISTS `+db.Reader, `DROP ROLE IF EXISTS `+db.Free, `DROP ROLE IF EXISTS `+db.Owner)
}

// dsn returns the connection string of a role for the servers under test.
func (db database) dsn(role string) string { return at(db.Via, role, db.Name) }

// at returns the URL for a role, or the one it names, and a database.
func at(server, role, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server // connecting will say so
	}
	if role != "" {
		u.User = url.User(role)
	}
	u.Path = "/" + name
	return u.String()
}

func execute(ctx context.Context, dsn string, statements ...string) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%.60s: %w", s, err)
		}
	}
	return nil
}
