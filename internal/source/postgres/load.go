package postgres

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// Load implements source.Loader with data.Tables, as the owner of the tables (load_dsn). It makes
// tables that are missing, under row-level security, and lets the role of dsn read those that are
// configured; tables that exist stay as they are.
func (d *DB) Load(ctx context.Context, tenant atlas.TenantID, data source.Data) error {
	return d.cfg.load(ctx, tenant, data)
}

func (c Config) load(ctx context.Context, tenant atlas.TenantID, data source.Data) (err error) {
	if len(data.Tables) == 0 {
		return nil
	}
	for _, t := range data.Tables {
		if err := checkTable(t); err != nil {
			return err
		}
	}
	conn, err := c.Own(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	return c.As(ctx, conn, tenant, func(tx pgx.Tx) error {
		// One at a time: CREATE TABLE IF NOT EXISTS of two at once fails.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext('atlas load'))"); err != nil {
			return err
		}
		for _, t := range data.Tables {
			if err := c.makeTable(ctx, tx, t); err != nil {
				return fmt.Errorf("make table %s: %w", t.Name, err)
			}
			if err := c.fill(ctx, tx, tenant, t); err != nil {
				return fmt.Errorf("fill table %s: %w", t.Name, err)
			}
		}
		return nil
	})
}

// checkTable checks what becomes part of a statement's text.
func checkTable(t source.TableData) error {
	bad := func(hint string) error {
		return atlas.Errorf(atlas.CodeInvalidArguments, nil, hint).With("table", t.Name)
	}
	if !tableName(t.Name) {
		return bad("this cannot be the name of a table")
	}
	if len(t.Columns) == 0 {
		return bad("a table needs columns")
	}
	for _, c := range t.Columns {
		if !pgrls.ValidName(c.Name) || c.Type != "" && !pgrls.ValidName(c.Type) {
			return bad("a column needs a plain name and a plain type")
		}
	}
	for _, row := range t.Rows {
		if len(row) != len(t.Columns) {
			return bad("a row has more or fewer values than the table has columns")
		}
	}
	return nil
}

// types are Postgres's words for types that data brings.
var types = map[string]string{"": "text", "integer": "bigint", "real": "double precision", "blob": "bytea", "datetime": "timestamptz"}

func (c Config) makeTable(ctx context.Context, tx pgx.Tx, t source.TableData) error {
	name := pgrls.Identifier(c.Schema, t.Name)
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name).Scan(&exists); err != nil || exists {
		return err
	}
	tenant := pgrls.Identifier(c.TenantColumn)
	columns := []string{tenant + " text NOT NULL"}
	readable := []string{c.TenantColumn}
	for _, col := range t.Columns {
		typ := strings.ToLower(col.Type)
		if ours, ok := types[typ]; ok {
			typ = ours
		}
		columns = append(columns, pgrls.Identifier(col.Name)+" "+typ)
		if !slices.Contains(c.HiddenColumns, t.Name+"."+col.Name) {
			readable = append(readable, col.Name)
		}
	}
	columns = append(columns, "PRIMARY KEY ("+tenant+", "+pgrls.Identifier(t.Columns[0].Name)+")")
	statements := []string{"CREATE TABLE " + name + " (" + strings.Join(columns, ", ") + ")"}
	reader, err := c.Reader()
	if err != nil {
		return err
	}
	secure := c.Secure(t.Name, reader, readable...)
	if !slices.Contains(c.Tables, t.Name) {
		secure = secure[:len(secure)-1] // all but the right to read it
	}
	for _, s := range append(statements, secure...) {
		if _, err := tx.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// fill puts the rows in place of those with the same ids, by way of a temporary table, into which
// they are copied at once.
func (c Config) fill(ctx context.Context, tx pgx.Tx, tenant atlas.TenantID, t source.TableData) error {
	if len(t.Rows) == 0 {
		return nil
	}
	text, err := copyText(t)
	if err != nil {
		return err
	}
	var names, updates []string
	for i, col := range t.Columns {
		name := pgrls.Identifier(col.Name)
		names = append(names, name)
		if i > 0 {
			updates = append(updates, name+" = excluded."+name)
		}
	}
	list := strings.Join(names, ", ")
	target := pgrls.Identifier(c.Schema, t.Name)
	if _, err := tx.Exec(ctx, "CREATE TEMPORARY TABLE atlas_load ON COMMIT DROP AS SELECT "+list+" FROM "+target+" WITH NO DATA"); err != nil {
		return err
	}
	if _, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(text), "COPY pg_temp.atlas_load FROM STDIN"); err != nil {
		return err
	}
	conflict := "DO NOTHING"
	if len(updates) > 0 {
		conflict = "DO UPDATE SET " + strings.Join(updates, ", ")
	}
	for _, s := range []string{
		"INSERT INTO " + target + " (" + pgrls.Identifier(c.TenantColumn) + ", " + list + ") SELECT " + pgrls.Literal(string(tenant)) + ", " + list +
			" FROM pg_temp.atlas_load ON CONFLICT (" + pgrls.Identifier(c.TenantColumn) + ", " + names[0] + ") " + conflict,
		"DROP TABLE pg_temp.atlas_load",
	} {
		if _, err := tx.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// escapes are what COPY's text format cannot hold as it is.
var escapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

// copyText writes the rows in COPY's text format. Of rows with the same id the last one stays.
func copyText(t source.TableData) ([]byte, error) {
	last := make(map[any]int, len(t.Rows))
	for i, row := range t.Rows {
		if id, ok := source.Scalar(row[0]); ok {
			last[id] = i
		}
	}
	var out []byte
	for i, row := range t.Rows {
		if id, ok := source.Scalar(row[0]); ok && last[id] != i {
			continue
		}
		for j, v := range row {
			if j > 0 {
				out = append(out, '\t')
			}
			switch b := v.(type) {
			case nil:
				out = append(out, `\N`...)
				continue
			case []byte:
				out = append(append(out, `\\x`...), hex.EncodeToString(b)...)
				continue
			}
			s, ok := source.Scalar(v)
			if !ok {
				return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a value must be a string, a number, a boolean or null").
					With("table", t.Name).With("column", t.Columns[j].Name)
			}
			out = append(out, escapes.Replace(fmt.Sprint(s))...)
		}
		out = append(out, '\n')
	}
	return out, nil
}
