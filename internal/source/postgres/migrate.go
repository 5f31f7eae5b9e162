package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/deploy/sql"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// migrationsTable is where goose notes what it has done. The role of dsn may not read it.
const migrationsTable = "atlas_migrations"

// Migrate implements source.Migrator, as the owner (load_dsn): it makes the schema, and with company
// the demo company's tables. If load_dsn is a superuser's, it also makes the role of dsn, without a
// password, and takes from everybody the functions that undo tenancy (deploy/sql/harden.sql);
// otherwise a superuser does that once.
func (c *Config) Migrate(ctx context.Context, _ source.Deps) (err error) {
	if err := c.Validate(); err != nil {
		return err
	}
	cfg := c.withDefaults()
	reader, err := cfg.Reader()
	if err != nil {
		return err
	}
	conn, err := cfg.Own(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if err := prepare(ctx, conn, cfg, reader); err != nil {
		return pgrls.Failure(ctx, err)
	}
	if !cfg.Company {
		return nil
	}
	if err := company(ctx, cfg, reader); err != nil {
		return pgrls.Failure(ctx, err)
	}
	return nil
}

// prepare does what the role of conn may do.
func prepare(ctx context.Context, conn *pgx.Conn, cfg Config, reader string) error {
	var super, known, there bool
	if err := conn.QueryRow(ctx, `SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
		EXISTS (SELECT FROM pg_roles WHERE rolname = $1), EXISTS (SELECT FROM pg_namespace WHERE nspname = $2)`,
		reader, cfg.Schema).Scan(&super, &known, &there); err != nil {
		return err
	}
	var statements []string
	switch {
	case super && !known:
		statements = append(statements,
			"CREATE ROLE "+pgrls.Identifier(reader)+" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT",
			"ALTER ROLE "+pgrls.Identifier(reader)+" SET temp_file_limit = '256MB'") // as deploy/sql/roles.sql does
	case !known:
		return atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("role %s does not exist; have a superuser run deploy/sql/roles.sql", reader), "")
	}
	if super {
		statements = append(statements, sql.Harden)
	}
	if !there {
		statements = append(statements, "CREATE SCHEMA IF NOT EXISTS "+pgrls.Identifier(cfg.Schema))
	}
	for _, s := range statements {
		// Several statements in one text go by the simple protocol only.
		if _, err := conn.PgConn().Exec(ctx, s).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}

// company runs the demo company's migrations.
func company(ctx context.Context, cfg Config, reader string) (err error) {
	cc, err := pgx.ParseConfig(cfg.LoadDSN)
	if err != nil {
		return errors.New("load_dsn cannot be parsed")
	}
	cc.ConnectTimeout = cfg.ConnectTimeout
	cc.RuntimeParams["search_path"] = pgrls.Identifier(cfg.Schema)
	cc.RuntimeParams["atlas.reader"] = reader
	db := stdlib.OpenDB(*cc)
	defer func() { err = errors.Join(err, db.Close()) }()
	files, err := fs.Sub(sql.Migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName(migrationsTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}
