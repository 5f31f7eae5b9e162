package mcp

import (
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// requestFailure is the error of a request that has no result to put a failure into. What is wrong
// with its params has the protocol's own code.
func requestFailure(e *atlas.Error, call atlas.Call) error {
	out := message.ErrorOf(e, &call)
	if out == nil {
		out = message.Failure(e, call.ID, 0)
	}
	code := int64(out.Code)
	if e.Code == atlas.CodeInvalidArguments || e.Code == atlas.CodeInvalidCursor {
		code = message.CodeInvalidParams
	}
	return &jsonrpc.Error{Code: code, Message: out.Message, Data: out.Data}
}

// A panicError is a panic of a tool beside its calls.
type panicError struct{ value any }

// Error implements error.
func (p panicError) Error() string { return fmt.Sprint("panic: ", p.value) }
