package tasks

import (
	"encoding/json"
	"errors"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// A rendering is the end of a call as the protocol has it: a CallToolResult or a JSON-RPC error. One
// of the two is empty.
type rendering struct {
	result, err json.RawMessage
}

// render writes the end of a call as it would have been answered directly, but for a fault of Atlas
// itself, which has a status of its own (SEP-2663 "Error Handling"). It is done once, when the call
// ends: the tool may be another when somebody asks.
func render(call *atlas.Call, reads atlas.Reads, res *atlas.Result, err error) rendering {
	d := message.Dialect{Modern: true}
	if err == nil {
		return rendering{result: d.AppendCallResult(nil, res, reads, call.ID)}
	}
	e := atlas.ErrorOf(err)
	failure := message.ErrorOf(e, call)
	if failure == nil && e.Code != atlas.CodeInternal {
		return rendering{result: d.AppendFailedCall(nil, e, call.ID)}
	}
	if failure == nil {
		failure = &message.Error{Code: message.CodeInternal, Message: message.ErrInternal.Message, Data: message.AppendFailure(nil, e, call.ID)}
	}
	body, err := json.Marshal(struct {
		Code    int             `json:"code"`
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data,omitempty"`
	}{failure.Code, failure.Message, failure.Data})
	if err != nil {
		return rendering{err: errorInternal} // data that is no JSON, which nothing above makes
	}
	return rendering{err: body}
}

// tooLarge is the end of a call whose answer cannot be kept.
func tooLarge(call *atlas.Call, code atlas.Code, hint string) rendering {
	return render(call, "", nil, atlas.Errorf(code, errLost, hint))
}

var errLost = errors.New("tasks: the answer was not kept")
