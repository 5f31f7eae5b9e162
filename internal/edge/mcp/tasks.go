package mcp

import (
	"context"
	"encoding/json"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// taskParams are the params of the methods of tasks (SEP-2663).
type taskParams struct {
	sdk.ParamsBase
	TaskID    string                     `json:"taskId"`
	Responses map[string]json.RawMessage `json:"inputResponses"` // of tasks/update
}

// addTasks makes the SDK take the methods of tasks, which the middleware answers, and tells clients
// that they are there.
func (s *Server) addTasks(srv *sdk.Server) {
	if s.deps.Tasks == nil {
		return
	}
	for _, method := range []string{tasks.MethodGet, tasks.MethodUpdate, tasks.MethodCancel} {
		err := sdk.AddReceivingCustomMethod(srv, method, func(context.Context, *sdk.ServerSession, *taskParams) (*rendered, error) {
			return nil, errInternal // the SDK does not tell who calls
		})
		if err != nil { // a method of the SDK's own, which these are not; then clients are told that there is none
			s.deps.Log.Error("the SDK does not take a method", "method", method, "err", err)
		}
	}
}

// withTasks adds the extension to what the server can do.
func (s *Server) withTasks(c *sdk.ServerCapabilities) *sdk.ServerCapabilities {
	if s.deps.Tasks != nil {
		c.AddExtension(tasks.Extension, nil)
	}
	return c
}

// task answers tasks/get, tasks/update and tasks/cancel. The HTTP edge has compared the Mcp-Name field
// with the task's id.
func (s *Server) task(ctx context.Context, id *identity, method string, req *sdk.ServerRequest[*taskParams]) (sdk.Result, error) {
	x := exchangeOf(req, nil, nil, "")
	if !x.modern { // there were other tasks once
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: "Method not found"}
	}
	p := req.Params
	if p == nil {
		p = &taskParams{}
	}
	ctx, cancel := id.bind(ctx)
	defer cancel()
	call := id.call(atlas.OpCall)
	call.Client = x.client
	var (
		state []byte // as JSON; the other methods have none
		err   error
	)
	switch method {
	case tasks.MethodGet:
		var task tasks.Task
		if task, err = s.deps.Tasks.Get(ctx, call, p.TaskID); err == nil {
			state, err = json.Marshal(task)
		}
	case tasks.MethodUpdate:
		err = s.deps.Tasks.Update(ctx, call, p.TaskID, p.Responses)
	default:
		err = s.deps.Tasks.Cancel(ctx, call, p.TaskID)
	}
	if err != nil {
		return nil, taskFailure(atlas.ErrorOf(err), &call)
	}
	return &rendered{body: s.dialect(req.ProtocolVersion()).AppendTaskState(nil, state, call.ID)}, nil
}

// taskHandle is the answer to a call that goes on as a task.
func (s *Server) taskHandle(task *tasks.Task, dialect message.Dialect, requestID string) (sdk.Result, error) {
	members, err := json.Marshal(task)
	if err != nil {
		return nil, errInternal // times and text only
	}
	return &rendered{body: dialect.AppendTask(nil, members, requestID)}, nil
}

// taskFailure is a failure of a method of tasks.
func taskFailure(e *atlas.Error, call *atlas.Call) *jsonrpc.Error {
	if failure := message.ErrorOf(e, call); failure != nil {
		return rpcError(failure)
	}
	if e.Code == atlas.CodeNotFound || e.Code == atlas.CodeInvalidArguments {
		return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: e.Hint}
	}
	return rpcFailure(e, call.ID)
}
