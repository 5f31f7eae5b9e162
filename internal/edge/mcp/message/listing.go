package message

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// A Listed is a tool, prompt or resource in the form in which it is listed.
type Listed struct {
	Tool *atlas.Tool
	JSON []byte
	// Headers are the arguments that clients mirror in header fields (SEP-2243). Of tools only.
	Headers []ParamHeader
}

// A Listing holds all tools, prompts and resources in the form in which they are listed. It is made
// when they change, not when they are listed, and is read-only.
type Listing struct {
	byTool map[*atlas.Tool]*Listed
	byName map[string]*Listed
}

// NewListing returns the listing of the tools, of all kinds.
func NewListing(tools []*atlas.Tool) *Listing {
	l := &Listing{byTool: make(map[*atlas.Tool]*Listed, len(tools)), byName: make(map[string]*Listed, len(tools))}
	for _, t := range tools {
		listed := list(t)
		l.byTool[t], l.byName[t.Name] = listed, listed
	}
	return l
}

// ByName returns the tool of the name, whoever asks: it must not be told whether there is one. It
// returns nil if there is none.
func (l *Listing) ByName(name []byte) *Listed { return l.byName[string(name)] }

// Of returns t as it is listed, also if the tools have just changed.
func (l *Listing) Of(t *atlas.Tool) *Listed {
	if listed := l.byTool[t]; listed != nil {
		return listed
	}
	return list(t)
}

// Items returns the tools as they are listed, for [Dialect.AppendList].
func (l *Listing) Items(tools []*atlas.Tool) [][]byte {
	items := make([][]byte, len(tools))
	for i, t := range tools {
		items[i] = l.Of(t).JSON
	}
	return items
}

// Page returns at most size tools behind the cursor, which may be empty, and the cursor of the next
// page. The cursor is the last name, which the caller has seen; it can be made up, but selects from
// the caller's own tools only, which must be sorted by name. It reports false if the cursor is none.
func Page(tools []*atlas.Tool, cursor []byte, size int) (page []*atlas.Tool, next string, ok bool) {
	if len(cursor) > 0 {
		after, ok := ReadCursor(cursor)
		if !ok {
			return nil, "", false
		}
		i, found := slices.BinarySearchFunc(tools, after, func(t *atlas.Tool, name string) int { return strings.Compare(t.Name, name) })
		if found {
			i++
		}
		tools = tools[i:]
	}
	if len(tools) <= size {
		return tools, "", true
	}
	return tools[:size], base64.RawURLEncoding.EncodeToString([]byte(tools[size-1].Name)), true
}

// ReadCursor returns the name that a cursor of a list stands for.
func ReadCursor(cursor []byte) (name string, ok bool) {
	if len(cursor) > base64.RawURLEncoding.EncodedLen(maxName) {
		return "", false
	}
	b, err := base64.RawURLEncoding.Strict().AppendDecode(nil, cursor)
	return string(b), err == nil && len(b) > 0
}

// list returns t as its kind is listed.
func list(t *atlas.Tool) *Listed {
	l := &Listed{Tool: t}
	switch t.Kind {
	case atlas.KindPrompt:
		l.JSON = encode(listedPrompt(t))
	case atlas.KindResource:
		l.JSON = encode(listedResource(t))
	default:
		var tool listedTool
		tool, l.Headers = newListedTool(t)
		l.JSON = encode(tool)
	}
	return l
}

func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return []byte("{}") // the raw parts were checked: they are JSON
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

type listedTool struct {
	Name        string          `json:"name"`
	Title       string          `json:"title,omitempty"`
	Description string          `json:"description,omitempty"`
	Icons       []atlas.Icon    `json:"icons,omitempty"`
	Input       json.RawMessage `json:"inputSchema"`
	Output      json.RawMessage `json:"outputSchema,omitempty"`
	Annotations annotations     `json:"annotations"`
	Meta        map[string]any  `json:"_meta"`
}

type annotations struct {
	Title       string `json:"title,omitempty"`
	ReadOnly    bool   `json:"readOnlyHint,omitempty"`
	Destructive bool   `json:"destructiveHint"`
	Idempotent  bool   `json:"idempotentHint,omitempty"`
	OpenWorld   bool   `json:"openWorldHint"`
}

func newListedTool(t *atlas.Tool) (listedTool, []ParamHeader) {
	input, headers := inputSchema(t)
	return listedTool{
		Name: t.Name, Title: t.Title, Description: t.Description, Icons: t.Icons,
		Input: input, Output: outputSchema(t.Output),
		Annotations: annotations{
			Title: t.Title, ReadOnly: t.ReadOnly, Destructive: t.Destructive, Idempotent: t.Idempotent,
			OpenWorld: t.Reads == atlas.ReadsUntrusted || t.Effects == atlas.EffectsEgress,
		},
		Meta: listedMeta(t),
	}, headers
}

func listedMeta(t *atlas.Tool) map[string]any {
	meta := map[string]any{metaLevel: t.Level, metaReads: t.Reads}
	if t.Effects != atlas.EffectsNone {
		meta[metaEffects] = t.Effects
	}
	return meta
}

func listedPrompt(t *atlas.Tool) any {
	type argument struct {
		Name        string `json:"name"`
		Title       string `json:"title,omitempty"`
		Description string `json:"description,omitempty"`
		Required    bool   `json:"required,omitempty"`
	}
	var schema struct {
		Properties map[string]struct{ Title, Description string }
		Required   []string
	}
	_ = json.Unmarshal(t.Input, &schema) // a prompt without a schema has no arguments
	args := []argument{}
	for _, name := range keysInOrder(t.Input) {
		p := schema.Properties[name]
		args = append(args, argument{name, p.Title, p.Description, slices.Contains(schema.Required, name)})
	}
	return struct {
		Name        string         `json:"name"`
		Title       string         `json:"title,omitempty"`
		Description string         `json:"description,omitempty"`
		Icons       []atlas.Icon   `json:"icons,omitempty"`
		Arguments   []argument     `json:"arguments,omitempty"`
		Meta        map[string]any `json:"_meta"`
	}{t.Name, t.Title, t.Description, t.Icons, args, listedMeta(t)}
}

// keysInOrder returns the names of a schema's properties in the order in which the author wrote them.
func keysInOrder(schema []byte) (names []string) {
	s := scanner{b: schema}
	if s.next() != '{' {
		return nil
	}
	err := s.members(false, func(key []byte) *Error {
		if string(key) != "properties" || s.next() != '{' {
			return s.value(false)
		}
		return s.members(false, func(key []byte) *Error {
			names = append(names, string(key))
			return s.value(false)
		})
	})
	if err != nil {
		return nil
	}
	return names
}

func listedResource(t *atlas.Tool) any {
	type fixed struct {
		URI         string         `json:"uri"`
		Name        string         `json:"name"`
		Title       string         `json:"title,omitempty"`
		Description string         `json:"description,omitempty"`
		MIME        string         `json:"mimeType,omitempty"`
		Icons       []atlas.Icon   `json:"icons,omitempty"`
		Meta        map[string]any `json:"_meta"`
	}
	f := fixed{t.URI, t.Name, t.Title, t.Description, t.MIME, t.Icons, listedMeta(t)}
	if !IsTemplate(t) {
		return f
	}
	return struct {
		Template string `json:"uriTemplate"`
		fixed
		URI string `json:"uri,omitempty"` // in place of the embedded one, and empty
	}{Template: t.URI, fixed: f}
}

// IsTemplate reports whether a resource is a template of URIs (RFC 6570).
func IsTemplate(t *atlas.Tool) bool { return strings.Contains(t.URI, "{") }

var emptySchema = json.RawMessage(`{"type":"object"}`)

// inputSchema returns t's input schema as listed, with a cursor if the answer may be paged, and the
// arguments that are mirrored in header fields. A tool whose schema is no object schema, which the
// configuration refuses, is listed without arguments. Annotations of which one is wrong are all left
// out: clients drop a tool that has a wrong one (SEP-2243).
func inputSchema(t *atlas.Tool) (json.RawMessage, []ParamHeader) {
	m, err := object(t.Input)
	if err != nil {
		return emptySchema, nil
	}
	headers, valid := paramHeaders(m)
	props, _ := m["properties"].(map[string]any)
	_, hasCursor := props["cursor"]
	addCursor := t.Items != "" && !hasCursor
	if m["type"] == "object" && !addCursor && valid {
		return t.Input, headers // as the author ordered it
	}
	m["type"] = "object"
	if !valid {
		dropHeaders(m)
	}
	if addCursor {
		if props == nil {
			props = make(map[string]any)
			m["properties"] = props
		}
		props["cursor"] = map[string]any{
			"type":        "string",
			"description": "Cursor of an earlier, truncated answer to the same arguments. Leave out for the first page.",
		}
	}
	return encode(m), headers
}

// outputSchema returns a tool's output schema as listed: the tool's own, or a failure. Clients made
// with the TypeScript SDK 1.x check structuredContent of failed calls too, and would hide from the
// model why a call failed if the schema knew only success. It returns nil for no schema.
func outputSchema(schema json.RawMessage) json.RawMessage {
	m, err := object(schema)
	if err != nil {
		return nil
	}
	// Inside anyOf, references to the root would miss it, and an id would capture those to $defs.
	if m["$id"] != nil || bytes.Contains(schema, []byte(`"#"`)) || bytes.Contains(schema, []byte(`"#/properties`)) {
		return schema
	}
	wrapped := map[string]any{"type": "object"}
	for _, k := range []string{"$schema", "$defs", "definitions"} {
		if v, ok := m[k]; ok {
			wrapped[k] = v
			delete(m, k)
		}
	}
	wrapped["anyOf"] = []any{m, map[string]any{
		"title": "Failure", "required": []string{"code", "category", "retryable", "hint", "request_id"},
	}}
	return encode(wrapped)
}

// object decodes a JSON object, numbers as they are written.
func object(raw json.RawMessage) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("not an object")
	}
	return m, nil
}
