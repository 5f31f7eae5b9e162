package isolation

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas/internal/source"
)

// samples is how many records of each table, of the documents and of the objects become canaries.
const samples = 3

// A canary is what one side gets in one source.
type canary struct {
	data source.Data
	own  []string // ids and keys that only this side has
	both []string // ids and keys that the other side has too, with other content
	rows map[string]int
}

// A planner turns sample data into canaries: records of the same form with ids of their own. The ids are
// always the same, so that a proof replaces what the one before it planted; the markers in the
// texts and numbers are new each time.
type planner struct {
	key Key
	ids map[string]bool // ids and keys of the sample
}

func newPlanner(key Key, all map[string]source.Data) *planner {
	p := &planner{key: key, ids: map[string]bool{}}
	for _, d := range all {
		for _, t := range d.Tables {
			for _, row := range t.Rows {
				if id, ok := row[0].(string); ok {
					p.ids[id] = true
				}
			}
		}
		for _, doc := range d.Documents {
			p.ids[doc.ID] = true
		}
	}
	return p
}

// Salts of the ids that one side has, and of those that both have.
var saltOf = [...]string{A: "a", B: "b"}

const saltBoth = "both"

// canary makes one side's data of one source.
func (p *planner) canary(side Side, name string, sample source.Data) canary {
	c := canary{rows: map[string]int{}}
	for _, salt := range []string{saltOf[side], saltBoth} {
		note := func(id string) {
			if salt == saltBoth {
				c.both = append(c.both, id)
			} else {
				c.own = append(c.own, id)
			}
		}
		for _, t := range sample.Tables {
			rows := p.rows(side, salt, name, t)
			for _, row := range rows {
				if id, ok := row[0].(string); ok {
					note(id)
				}
			}
			c.addTable(t, rows)
		}
		for _, d := range first(sample.Documents) {
			d = p.document(side, salt, name, d)
			note(d.ID)
			c.data.Documents = append(c.data.Documents, d)
		}
		for _, o := range first(sample.Objects) {
			place := name + "/" + o.Key + "/" + salt
			o.Key = p.rename(salt, o.Key)
			o.Content = []byte(strings.TrimSpace(string(o.Content)) + "\n" + commonWord + " " + p.key.marker(side, place) + "\n")
			o.Size = int64(len(o.Content))
			note(o.Key)
			c.data.Objects = append(c.data.Objects, o)
		}
	}
	return c
}

func first[T any](list []T) []T { return list[:min(len(list), samples)] }

func (c *canary) addTable(t source.TableData, rows [][]any) {
	c.rows[t.Name] += len(rows)
	for i := range c.data.Tables {
		if c.data.Tables[i].Name == t.Name {
			c.data.Tables[i].Rows = append(c.data.Tables[i].Rows, rows...)
			return
		}
	}
	c.data.Tables = append(c.data.Tables, source.TableData{Name: t.Name, Columns: t.Columns, Rows: rows})
}

func (p *planner) rows(side Side, salt, name string, t source.TableData) [][]any {
	var out [][]any
	for n, row := range first(t.Rows) {
		fresh := make([]any, len(row))
		for i, v := range row {
			place := fmt.Sprintf("%s/%s/%s/%d/%s", name, t.Name, salt, n, t.Columns[i].Name)
			fresh[i] = p.value(side, salt, place, v, i == 0)
		}
		out = append(out, fresh)
	}
	return out
}

func (p *planner) document(side Side, salt, name string, d source.Document) source.Document {
	place := name + "/" + d.ID + "/" + salt
	out := source.Document{
		ID: p.rename(salt, d.ID), Title: p.refer(salt, d.Title) + " " + commonWord, URL: d.URL,
		Body:  p.refer(salt, d.Body) + " " + commonWord + " " + p.key.marker(side, place),
		Attrs: map[string]any{},
	}
	for _, k := range slices.Sorted(maps.Keys(d.Attrs)) {
		out.Attrs[k] = d.Attrs[k]
		if s, ok := d.Attrs[k].(string); ok && p.ids[s] {
			out.Attrs[k] = p.rename(salt, s)
		}
	}
	return out
}

// value is a sample's value as it stands in a canary: ids and references get other ids, texts and numbers
// say whose they are, and the rest (dates, words of a list) stays, since a store may check it.
func (p *planner) value(side Side, salt, place string, v any, key bool) any {
	switch v := v.(type) {
	case string:
		switch {
		case p.ids[v]:
			return p.rename(salt, v)
		case key:
			return p.rename(salt, v)
		case strings.Contains(v, "@") && !strings.Contains(v, " "):
			return p.key.marker(side, place) + v[strings.LastIndexByte(v, '@'):]
		case freeText(v):
			return strings.TrimSpace(p.refer(salt, v) + " " + commonWord + " " + p.key.marker(side, place))
		}
	case int64:
		if !key {
			return numberOf(side)
		}
	case int:
		if !key {
			return numberOf(side)
		}
	}
	return v
}

var (
	aDate = regexp.MustCompile(`^\d{4}-\d\d-\d\d`)
	anID  = regexp.MustCompile(`[A-Za-z][A-Za-z0-9]*[-_][A-Za-z0-9_-]*\d+[A-Za-z0-9_]*`)
)

// freeText reports whether a value can take more words without becoming wrong.
func freeText(s string) bool {
	return strings.Contains(s, " ") && !aDate.MatchString(s) && !strings.Contains(s, "://")
}

// refer gives the ids that a text names their new names.
func (p *planner) refer(salt, text string) string {
	return anID.ReplaceAllStringFunc(text, func(word string) string {
		if p.ids[word] {
			return p.rename(salt, word)
		}
		return word
	})
}

var lastDigits = regexp.MustCompile(`\d{2,}`)

// rename gives an id or a key a name of the same form: other digits where it has some, else letters behind
// it, before the ending of a file. It depends on the id and the salt alone.
func (p *planner) rename(salt, id string) string {
	if dir, file := path.Split(id); dir != "" {
		var parts []string
		for part := range strings.SplitSeq(strings.TrimSuffix(dir, "/"), "/") {
			if p.ids[part] {
				part = p.rename(salt, part)
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, "/") + "/" + letterName(salt, file)
	}
	spans := lastDigits.FindAllStringIndex(id, -1)
	if len(spans) == 0 {
		return letterName(salt, id)
	}
	// Derived from the digits alone: the ids that one id is a part of keep that form.
	at := spans[len(spans)-1]
	return id[:at[0]] + digits(fixed.mac("id", salt, id[at[0]:at[1]]), 10) + id[at[1]:]
}

// fixed is the key of ids: they are no secret.
var fixed = Key("atlas isolation canary ids v1")

func letterName(salt, id string) string {
	ext := path.Ext(id)
	sep := cmp.Or(map[bool]string{true: "-"}[ext != ""], "_")
	return strings.TrimSuffix(id, ext) + sep + markerless(letters(fixed.mac("name", salt, id), 8)) + ext
}

// markerless keeps a name from looking like a marker.
func markerless(s string) string { return "zq" + s }

// sampleOf makes sample data for tables whose form alone is known.
func sampleOf(tables []source.Table) source.Data {
	var data source.Data
	for _, t := range tables {
		out := source.TableData{Name: t.Name, Columns: t.Columns}
		for n := range 2 {
			row := make([]any, len(t.Columns))
			for i, c := range t.Columns {
				row[i] = sampleValue(t.Name, c, n, i == 0)
			}
			out.Rows = append(out.Rows, row)
		}
		if len(t.Columns) > 0 {
			data.Tables = append(data.Tables, out)
		}
	}
	return data
}

func sampleValue(table string, c source.Column, n int, key bool) any {
	typ := strings.ToLower(c.Type)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(typ, w) })
	}
	switch {
	case has("bool"):
		return true
	case has("int", "serial"):
		return int64(990001 + n)
	case has("real", "float", "double", "numeric", "decimal"):
		return 1.5
	case has("date", "time"):
		return "2026-01-02T00:00:00Z"
	case has("uuid"):
		return fmt.Sprintf("00000000-0000-4000-8000-00000000000%d", n+1)
	case key:
		return fmt.Sprintf("%s_%d", table, 990001+n)
	}
	return "a sample of " + c.Name
}

// plainSample is for sources of documents and objects of which nothing is known.
func plainSample() source.Data {
	var data source.Data
	for i := range samples {
		data.Documents = append(data.Documents, source.Document{
			ID: fmt.Sprintf("doc_%d", 990001+i), Title: "A canary", Body: "A sample document.", Attrs: map[string]any{"kind": "canary"},
		})
		data.Objects = append(data.Objects, source.Object{
			ObjectInfo: source.ObjectInfo{Key: fmt.Sprintf("docs/canary-%d.txt", i)}, ContentType: "text/plain", Content: []byte("A sample object."),
		})
	}
	return data
}
