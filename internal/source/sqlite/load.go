package sqlite

import (
	"context"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sqlitefile"
)

// Load implements source.Loader with data.Tables.
func (d *DB) Load(ctx context.Context, tenant atlas.TenantID, data source.Data) error {
	if len(data.Tables) == 0 {
		return nil
	}
	for _, t := range data.Tables {
		if err := checkTable(t); err != nil {
			return err
		}
	}
	err := d.store.Update(ctx, tenant, func(c *sqlitefile.Conn) error {
		for _, t := range data.Tables {
			if err := load(c, t); err != nil {
				return err
			}
		}
		return nil
	})
	return sqlitefile.Failure(ctx, err)
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
		if !validName(c.Name) || c.Type != "" && !validName(c.Type) {
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

func load(c *sqlitefile.Conn, t source.TableData) error {
	var columns, names, updates []string
	for i, col := range t.Columns {
		name := `"` + col.Name + `"`
		def := name + " " + col.Type
		if i == 0 {
			def += " PRIMARY KEY NOT NULL"
		} else {
			updates = append(updates, name+" = excluded."+name)
		}
		columns, names = append(columns, def), append(names, name)
	}
	if err := c.Exec(`CREATE TABLE IF NOT EXISTS "` + t.Name + `" (` + strings.Join(columns, ", ") + `)`); err != nil {
		return err
	}
	conflict := "DO NOTHING"
	if len(updates) > 0 {
		conflict = "DO UPDATE SET " + strings.Join(updates, ", ")
	}
	insert := `INSERT INTO "` + t.Name + `" (` + strings.Join(names, ", ") + `) VALUES (` +
		strings.TrimSuffix(strings.Repeat("?, ", len(names)), ", ") + `) ON CONFLICT (` + names[0] + `) ` + conflict
	for _, row := range t.Rows {
		args := make([]any, len(row))
		for i, v := range row {
			if _, blob := v.([]byte); blob || v == nil {
				args[i] = v
				continue
			}
			s, ok := source.Scalar(v)
			if !ok {
				return atlas.Errorf(atlas.CodeInvalidArguments, nil, "a value must be a string, a number, a boolean or null").
					With("table", t.Name).With("column", t.Columns[i].Name)
			}
			args[i] = s
		}
		if err := c.Exec(insert, args...); err != nil {
			return err
		}
	}
	return nil
}
