package mcp

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
)

var emptySchema = json.RawMessage(`{"type":"object"}`)

// A listing holds all tools in the form in which they are listed. It is made when the tools change,
// not when they are listed.
type listing struct {
	byTool map[*atlas.Tool]*sdk.Tool
	byName map[string]*atlas.Tool
}

func (s *Server) refreshListing() {
	tools := s.deps.Tools()
	l := &listing{byTool: make(map[*atlas.Tool]*sdk.Tool, len(tools)), byName: make(map[string]*atlas.Tool, len(tools))}
	for _, t := range tools {
		l.byTool[t], l.byName[t.Name] = listedTool(t), t
	}
	s.listed.Store(l)
}

// listTools answers tools/list with what the pipeline says this caller may use.
func (s *Server) listTools(ctx context.Context, id *identity, req *sdk.ListToolsRequest) (sdk.Result, error) {
	call := id.call(atlas.OpList)
	after := ""
	var invalid *jsonrpc.Error // what the edge itself finds wrong; the pipeline refuses it and records that
	if req.Params != nil {
		if req.Params.Cursor != "" {
			name, err := base64.RawURLEncoding.DecodeString(req.Params.Cursor)
			if err != nil || len(name) == 0 || len(name) > maxName {
				invalid = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "Invalid cursor"}
				call.Fault = atlas.Errorf(atlas.CodeInvalidCursor, nil, "")
			}
			after = string(name)
		}
		if err := readMeta(req.Params.Meta, &call); err != nil {
			invalid = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: err.Hint}
			call.Fault = err
		}
	}
	ctx, cancel := id.bind(ctx)
	defer cancel()
	res, err := s.deps.Handler(ctx, call)
	if invalid != nil {
		return nil, invalid
	}
	if err != nil {
		return nil, rpcFailure(atlas.ErrorOf(err), call.ID)
	}
	tools, next := page(res.Tools, after, s.cfg.PageSize)
	out := &sdk.ListToolsResult{Tools: make([]*sdk.Tool, len(tools)), NextCursor: next}
	// What a caller may use is nobody else's to see.
	out.CacheScope, out.TTLMs = "private", ttlMs(s.cfg.ListTTL)
	known := s.listed.Load().byTool
	for i, t := range tools {
		if out.Tools[i] = known[t]; out.Tools[i] == nil { // the tools have just changed
			out.Tools[i] = listedTool(t)
		}
	}
	return out, nil
}

// page returns at most size tools behind the name after, and the cursor of the next page. The cursor
// is the last name, which the caller has seen; it can be made up, but selects from the caller's own
// tools only.
func page(tools []*atlas.Tool, after string, size int) ([]*atlas.Tool, string) {
	if after != "" {
		i, found := slices.BinarySearchFunc(tools, after, func(t *atlas.Tool, name string) int { return strings.Compare(t.Name, name) })
		if found {
			i++
		}
		tools = tools[i:]
	}
	if len(tools) <= size {
		return tools, ""
	}
	return tools[:size], base64.RawURLEncoding.EncodeToString([]byte(tools[size-1].Name))
}

// listedTool returns t as clients see it.
func listedTool(t *atlas.Tool) *sdk.Tool {
	destructive := t.Destructive
	open := t.Reads == atlas.ReadsUntrusted || t.Effects == atlas.EffectsEgress
	lt := &sdk.Tool{
		Name: t.Name, Title: t.Title, Description: t.Description,
		InputSchema: inputSchema(t),
		Annotations: &sdk.ToolAnnotations{
			Title: t.Title, ReadOnlyHint: t.ReadOnly, DestructiveHint: &destructive,
			IdempotentHint: t.Idempotent, OpenWorldHint: &open,
		},
		Meta: sdk.Meta{metaLevel: t.Level, metaReads: t.Reads},
	}
	if t.Effects != atlas.EffectsNone {
		lt.Meta[metaEffects] = t.Effects
	}
	if out := outputSchema(t.Output); out != nil {
		lt.OutputSchema = out
	}
	return lt
}

// inputSchema returns t's input schema as listed: with a cursor if the answer may be paged, and
// without x-mcp-header annotations (see newSDK). A tool whose schema is no object schema, which the
// configuration refuses, is listed without arguments.
func inputSchema(t *atlas.Tool) json.RawMessage {
	m, err := object(t.Input)
	if err != nil {
		return emptySchema
	}
	props, _ := m["properties"].(map[string]any)
	_, hasCursor := props["cursor"]
	addCursor := t.Items != "" && !hasCursor
	if m["type"] == "object" && !addCursor && !bytes.Contains(t.Input, []byte(headerAnnotation)) {
		return t.Input // as the author ordered it
	}
	m["type"] = "object"
	dropHeaders(m)
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
	out, err := json.Marshal(m)
	if err != nil {
		return emptySchema
	}
	return out
}

const headerAnnotation = "x-mcp-header"

func dropHeaders(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, annotation := v[headerAnnotation].(string); annotation { // and not a property of that name
			delete(v, headerAnnotation)
		}
		for _, e := range v {
			dropHeaders(e)
		}
	case []any:
		for _, e := range v {
			dropHeaders(e)
		}
	}
}

// outputSchema returns a tool's output schema as listed: the tool's own, or a failure. Clients made
// with the TypeScript SDK 1.x check structuredContent of failed calls too, and would hide from the
// model why a call failed if the schema knew only success. It returns nil for no schema.
func outputSchema(schema json.RawMessage) any {
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
	out, err := json.Marshal(wrapped)
	if err != nil {
		return schema
	}
	return json.RawMessage(out)
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
