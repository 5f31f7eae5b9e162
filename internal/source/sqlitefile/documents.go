package sqlitefile

import (
	"bytes"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// filterID is the name under which filters find a document by its id.
const filterID = "id"

// Bounds of a filter, so that no question makes a statement of any size.
const (
	maxFilters = 16
	maxValues  = 128
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
		created, _ = Scalar(v)
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
	if _, taken := attrs[filterID]; taken {
		return 0, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a document's id is no attribute; leave it out").With("id", d.ID)
	}
	if id, ok := attrValue(d.ID); ok {
		if err := c.Exec(`INSERT INTO attr (name, value, n) VALUES (?, ?, ?)`, filterID, id, n); err != nil {
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
			fields[name], _ = Scalar(num)
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
	if len(filter) > maxFilters {
		return "", nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "too many filters").With("limit", maxFilters)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(filter)) {
		values, ok := anyOf(filter[name])
		if !ok {
			return "", nil, atlas.Errorf(atlas.CodeInvalidArguments, nil,
				"a filter's value must be a string, a number, a boolean or a list of them").With("filter", name)
		}
		if len(values) > maxValues {
			return "", nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a filter has too many values").
				With("filter", name).With("limit", maxValues)
		}
		if b.Len() > 0 {
			b.WriteString(" AND ")
		}
		b.WriteString(n + " IN (SELECT n FROM attr WHERE name = ? AND value IN (" + strings.TrimSuffix(strings.Repeat("?,", len(values)), ",") + "))")
		args = append(args, name)
		for _, v := range values {
			args = append(args, v)
		}
	}
	return b.String(), args, nil
}

// anyOf returns the stored forms of a filter's value, or of its elements.
func anyOf(v any) ([]string, bool) {
	var list []any
	switch v := v.(type) {
	case []any:
		list = v
	case []string:
		for _, s := range v {
			list = append(list, s)
		}
	default:
		list = []any{v}
	}
	out := make([]string, 0, len(list))
	for _, e := range list {
		s, ok := attrValue(e)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

// attrValue is a scalar as the table attr holds it: a letter for its type, so that "1", 1 and true
// differ, and one form for each number.
func attrValue(v any) (string, bool) {
	s, ok := Scalar(v)
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

// Scalar returns v as string, bool, int64 or float64: a number without a fraction is an int64
// however it was written. It reports false for anything else.
func Scalar(v any) (any, bool) {
	switch v := v.(type) {
	case string, bool, int64:
		return v, true
	case int:
		return int64(v), true
	case int32:
		return int64(v), true
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n, true
		}
		f, err := v.Float64()
		if err != nil {
			return nil, false
		}
		return Scalar(f)
	case float32:
		return Scalar(float64(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, false
		}
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), true
		}
		return v, true
	}
	return nil, false
}
