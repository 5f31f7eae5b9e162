package mcp

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
)

// The answers that must not differ between one cause and another.
var (
	errUnknownTool = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "Unknown tool"}
	errInternal    = &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "Internal error"}
)

// Keys of _meta in results and listed tools.
const (
	metaRequestID = "atlas/request_id"
	metaAsOf      = "atlas/as_of"   // when the answer was read from its source
	metaReads     = "atlas/reads"   // private or untrusted
	metaPartial   = "atlas/partial" // a part is missing
	metaTruncated = "atlas/truncated"
	metaLevel     = "atlas/level"
	metaEffects   = "atlas/effects"
)

// A callResult is a CallToolResult. The SDK's own type keeps resultType in a private field, which
// in 1.8.0 it sets only for tools that it runs itself (its issue 1225).
type callResult struct {
	sdk.ResultBase
	ResultType string          `json:"resultType,omitempty"` // required since 2026-07-28, unknown before
	Content    []textContent   `json:"content"`
	Structured json.RawMessage `json:"structuredContent,omitempty"`
	IsError    bool            `json:"isError,omitempty"`
}

type textContent struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

func newCallResult(requestID string, modern bool, structured json.RawMessage, text string) *callResult {
	r := &callResult{Structured: structured, Content: []textContent{{"text", text}}}
	if modern {
		r.ResultType = "complete"
	}
	r.Meta = sdk.Meta{metaRequestID: requestID}
	return r
}

// successResult turns a tool's answer into a result: structured, and the same as text for clients
// and models that read text only.
func (s *Server) successResult(call atlas.Call, res atlas.Result, modern bool) *callResult {
	structured := res.Structured
	if len(structured) == 0 {
		structured = json.RawMessage("{}")
	}
	if !json.Valid(structured) { // the SDK would break the connection
		return failureResult(atlas.Errorf(atlas.CodeInternal, nil, ""), call.ID, modern)
	}
	r := newCallResult(call.ID, modern, structured, string(structured))
	reads := atlas.ReadsUntrusted // until it is known better
	if t := s.listed.Load().byName[call.Name]; t != nil && t.Reads == atlas.ReadsPrivate {
		reads = atlas.ReadsPrivate
	}
	r.Meta[metaReads] = reads
	if !res.AsOf.IsZero() {
		r.Meta[metaAsOf] = res.AsOf.UTC().Format(time.RFC3339Nano)
	}
	if res.Partial {
		r.Meta[metaPartial] = true
	}
	if res.Truncated { // the guard stage has put the cursor into the answer, where the model reads it
		r.Meta[metaTruncated] = true
	}
	return r
}

// failureResult turns a failure into a result that a model can act on: a line to read, then the
// same as JSON.
func failureResult(e *atlas.Error, requestID string, modern bool) *callResult {
	f := e.Failure(requestID)
	body := marshalFailure(f)
	r := newCallResult(requestID, modern, body, failureLine(f)+"\n"+string(body))
	r.IsError = true
	return r
}

func failureLine(f atlas.Failure) string {
	var b strings.Builder
	b.WriteString(string(f.Code))
	b.WriteString(": ")
	b.WriteString(f.Hint)
	if f.RetryAfterMS > 0 {
		b.WriteString(" (retry after ")
		b.WriteString(strconv.FormatInt(f.RetryAfterMS, 10))
		b.WriteString(" ms)")
	}
	return b.String()
}

func marshalFailure(f atlas.Failure) json.RawMessage {
	body, err := json.Marshal(f)
	if err != nil { // a context value that is no JSON
		f.Context = nil
		body, _ = json.Marshal(f) // strings and numbers only
	}
	return body
}

// rpcFailure is a failure of a request that has no result to put it into. Its code is the HTTP
// status of the failure: the protocol keeps -32768 to -32000 for itself.
func rpcFailure(e *atlas.Error, requestID string) *jsonrpc.Error {
	f := e.Failure(requestID)
	return &jsonrpc.Error{Code: int64(e.Info().HTTP), Message: failureLine(f), Data: marshalFailure(f)}
}
