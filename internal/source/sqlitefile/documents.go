package sqlitefile

import (
	"bytes"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

const documentSchema = `
CREATE TABLE IF NOT EXISTS doc (
	n       INTEGER PRIMARY KEY,
	id      TEXT NOT NULL UNIQUE,
	title   TEXT NOT NULL,
	body    TEXT NOT NULL,
	url     TEXT NOT NULL,
	attrs   TEXT NOT NULL, -- JSON
	created
);
CREATE INDEX IF NOT EXISTS doc_created ON doc (created DESC, id);
CREATE TABLE IF NOT EXISTS attr (
	name  TEXT NOT NULL,
	value TEXT NOT NULL, -- as made by attrValue
	n     INTEGER NOT NULL,
	PRIMARY KEY (name, value, n)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attr_n ON attr (n);
`

// CreateDocuments makes the tables for documents and their attributes: doc(n, id, title, body,
// url, attrs, created) and attr. Other tables of the driver refer to doc.n.
func CreateDocuments(c *Conn) error { return c.Exec(documentSchema) }

// PutDocument stores d in place of a document of the same id and returns its number, doc.n. The
// error has the code invalid_arguments if d has no id or an attribute that cannot be filtered by.
func PutDocument(c *Conn, d source.Document) (n int64, err error) {
	if d.ID == "" {
		return 0, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a document has no id")
	}
	attrs := d.Attrs
	if attrs == nil {
		attrs = map[string]any{}
	}
	text, err := json.Marshal(attrs)
	if err != nil {
		return 0, atlas.Errorf(atlas.CodeInvalidArguments, err, "a document's attributes must be strings, numbers and booleans").With("id", d.ID)
	}
	var created any
	if v, ok := attrs["created_at"]; ok {
		created, _ = source.Scalar(v)
	}
	_, err = c.Query(`INSERT INTO doc (id, title, body, url, attrs, created) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET title = excluded.title, body = excluded.body, url = excluded.url,
			attrs = excluded.attrs, created = excluded.created
		RETURNING n`,
		Positional(d.ID, d.Title, d.Body, d.URL, string(text), created),
		func(vals []driver.Value) (bool, error) {
			n, _ = vals[0].(int64)
			return true, nil
		})
	if err != nil {
		return 0, err
	}
	if err := c.Exec(`DELETE FROM attr WHERE n = ?`, n); err != nil {
		return 0, err
	}
	if _, taken := attrs[source.FilterID]; taken {
		return 0, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a document's id is no attribute; leave it out").With("id", d.ID)
	}
	if id, ok := attrValue(d.ID); ok {
		if err := c.Exec(`INSERT INTO attr (name, value, n) VALUES (?, ?, ?)`, source.FilterID, id, n); err != nil {
			return 0, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		value, ok := attrValue(attrs[name])
		if !ok {
			return 0, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a document's attributes must be strings, numbers and booleans").
				With("id", d.ID).With("attribute", name)
		}
		if err := c.Exec(`INSERT INTO attr (name, value, n) VALUES (?, ?, ?)`, name, value, n); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// Fields turns columns of doc into the fields of a hit: title, body, url and the attributes.
func Fields(title, body, url, attrs driver.Value) (map[string]any, error) {
	fields := map[string]any{}
	text, _ := attrs.(string)
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	if err := dec.Decode(&fields); err != nil {
		return nil, fmt.Errorf("decode attributes: %w", err)
	}
	for name, v := range fields {
		if num, ok := v.(json.Number); ok {
			fields[name], _ = source.Scalar(num)
		}
	}
	fields["title"], fields["body"] = title, body
	if url != "" {
		fields["url"] = url
	}
	return fields, nil
}

// Filter returns a condition on n (SQL for a document's number) that holds for the documents that
// have all of the attributes, with its arguments. For no filter it returns "". The error has the
// code invalid_arguments.
func Filter(n string, filter map[string]any) (cond string, args []any, err error) {
	conditions, err := source.Conditions(filter)
	if err != nil {
		return "", nil, err
	}
	var b strings.Builder
	for i, c := range conditions {
		if i > 0 {
			b.WriteString(" AND ")
		}
		b.WriteString(n + " IN (SELECT n FROM attr WHERE name = ? AND value IN (" + strings.TrimSuffix(strings.Repeat("?,", len(c.Values)), ",") + "))")
		args = append(args, c.Name)
		for _, v := range c.Values {
			value, _ := attrValue(v)
			args = append(args, value)
		}
	}
	return b.String(), args, nil
}

// attrValue is a scalar as the table attr holds it: a letter for its type, so that "1", 1 and true
// differ, and one form for each number.
func attrValue(v any) (string, bool) {
	s, ok := source.Scalar(v)
	if !ok {
		return "", false
	}
	switch s := s.(type) {
	case string:
		return "s" + s, true
	case bool:
		return "b" + strconv.FormatBool(s), true
	case int64:
		return "n" + strconv.FormatInt(s, 10), true
	case float64:
		return "n" + strconv.FormatFloat(s, 'g', -1, 64), true
	}
	return "", false
}
