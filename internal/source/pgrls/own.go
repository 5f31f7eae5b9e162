package pgrls

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
)

// Own connects as the owner of the tables, with load_dsn. It is for seeding, migrations and tests;
// nothing that serves calls it. The caller closes the connection.
func (c Connection) Own(ctx context.Context) (*pgx.Conn, error) {
	if c.LoadDSN == "" {
		return nil, atlas.Errorf(atlas.CodeSourceMisused, errors.New("load_dsn is empty: give the connection string of the tables' owner to load data"), "")
	}
	c = c.WithDefaults()
	cc, err := pgx.ParseConfig(c.LoadDSN)
	if err != nil {
		return nil, atlas.Errorf(atlas.CodeSourceMisused, errors.New("load_dsn cannot be parsed"), "")
	}
	cc.ConnectTimeout = c.ConnectTimeout
	cc.DefaultQueryExecMode = pgx.QueryExecModeExec // works through a pooler, too
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, Failure(ctx, err)
	}
	return conn, nil
}

// As runs fn in a transaction that is bound to the tenant: under forced row-level security not even
// the owner reads or writes another tenant's rows in it. Errors are as [Failure] makes them.
func (c Connection) As(ctx context.Context, conn *pgx.Conn, tenant atlas.TenantID, fn func(pgx.Tx) error) error {
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return atlas.Errorf(atlas.CodeInternal, err, "")
	}
	c = c.WithDefaults()
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL "+c.TenantSetting+" = '"+string(tenant)+"'"); err != nil {
			return err
		}
		return fn(tx)
	})
	return Failure(ctx, err)
}

// Secure returns the statements that put a table of the schema under row-level security by its
// tenant column and let role reader read columns of it (all, if there are none). They can be run again.
func (c Connection) Secure(table, reader string, columns ...string) []string {
	c = c.WithDefaults()
	t := Identifier(c.Schema, table)
	list := ""
	if len(columns) > 0 {
		quoted := make([]string, len(columns))
		for i, n := range columns {
			quoted[i] = Identifier(n)
		}
		list = " (" + strings.Join(quoted, ", ") + ")"
	}
	cond := condition(Identifier(c.TenantColumn), c.TenantSetting)
	return []string{
		"ALTER TABLE " + t + " ENABLE ROW LEVEL SECURITY",
		"ALTER TABLE " + t + " FORCE ROW LEVEL SECURITY",
		"DROP POLICY IF EXISTS tenant ON " + t,
		"CREATE POLICY tenant ON " + t + " USING (" + cond + ") WITH CHECK (" + cond + ")",
		"GRANT USAGE ON SCHEMA " + Identifier(c.Schema) + " TO " + Identifier(reader),
		"GRANT SELECT" + list + " ON " + t + " TO " + Identifier(reader),
	}
}

// Reader returns the role that dsn logs in as.
func (c Connection) Reader() (string, error) {
	cc, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		return "", errors.New("dsn cannot be parsed")
	}
	return cc.User, nil
}
