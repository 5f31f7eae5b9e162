package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrateLock keeps two migrations apart (pg_advisory_lock): "atlasmig".
const migrateLock = 0x61746c61736d6967

// newest returns the version that this program's migrations lead to.
func newest() (int64, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		return 0, errors.Join(err, errors.New("no migrations"))
	}
	return goose.NumericComponent(names[len(names)-1]) // Glob sorts
}

func files() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return migrations
	}
	return sub
}

// Migrate makes the schema atlas, or brings it to this program's version, as the role of load_dsn
// (of dsn, if there is none), and lets the role of dsn use it, which it makes if it is not there and
// load_dsn's may make roles. Doing it again changes nothing; two at once wait for each other. The
// connection must not go through a pooler in transaction mode.
func (c Config) Migrate(ctx context.Context) (err error) {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	c = c.withDefaults()
	serving, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		return errors.New("state: dsn cannot be parsed")
	}
	owner := serving
	if c.LoadDSN != "" {
		if owner, err = pgx.ParseConfig(c.LoadDSN); err != nil {
			return errors.New("state: load_dsn cannot be parsed")
		}
	}
	owner.ConnectTimeout = c.ConnectTimeout
	conn, err := pgx.ConnectConfig(ctx, owner)
	if err != nil {
		return fmt.Errorf("migrate state: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }() // gives the lock back, too
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(migrateLock)); err != nil {
		return fmt.Errorf("migrate state: %w", err)
	}
	if err := prepare(ctx, conn, serving.User); err != nil {
		return fmt.Errorf("migrate state: %w", err)
	}
	if err := up(ctx, owner); err != nil {
		return fmt.Errorf("migrate state: %w", err)
	}
	if err := grant(ctx, conn, serving.User); err != nil {
		return fmt.Errorf("migrate state: %w", err)
	}
	return nil
}

// prepare makes the role that serves, and the schema.
func prepare(ctx context.Context, conn *pgx.Conn, role string) error {
	var known, may bool
	err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1),
		(SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user)`, role).Scan(&known, &may)
	if err != nil {
		return err
	}
	create := "CREATE ROLE " + pgx.Identifier{role}.Sanitize() + " LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"
	switch {
	case known:
	case !may:
		return fmt.Errorf("the role of dsn does not exist; have a superuser run: %s", create)
	default:
		if _, err := conn.Exec(ctx, create); err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS atlas`)
	return err
}

// up runs the migrations that are missing.
func up(ctx context.Context, owner *pgx.ConnConfig) (err error) {
	cc := owner.Copy()
	cc.RuntimeParams["search_path"] = "atlas"
	db := stdlib.OpenDB(*cc)
	defer func() { err = errors.Join(err, db.Close()) }()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files(), goose.WithTableName("migration"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// grant lets the role read and write what is there, and change nothing of how it is made.
func grant(ctx context.Context, conn *pgx.Conn, role string) error {
	r := pgx.Identifier{role}.Sanitize()
	for _, s := range []string{
		"GRANT USAGE ON SCHEMA atlas TO " + r,
		"GRANT SELECT, INSERT, UPDATE, DELETE ON atlas.tenant, atlas.approval, atlas.memory, atlas.kv, atlas.kv_use TO " + r,
		"GRANT SELECT ON atlas.migration TO " + r,
		"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA atlas TO " + r,
	} {
		if _, err := conn.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}
