package mcp

import (
	"bytes"
	"context"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/listen"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/places"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// An identity is who a protocol message comes from. It is the bridge over the SDK: the HTTP edge
// puts it into the SDK's token info, the middleware takes it out of the request.
type identity struct {
	caller    *edge.Caller
	user      string // see direct.User
	transport string
	gone      context.Context  // ends when nobody waits for the answer; nil if the SDK's context does
	listener  *listen.Listener // of a connection of the older era; nil if there is none
	session   direct.Session   // of the older era over HTTP; zero if there is none
	ended     context.Context  // ends when no more will come on the connection; nil if there is none
	tell      listen.Teller    // writes to the client, once its subscription has been acknowledged

	taskIDs func(subscription any) []string // what a subscription wants to follow, which the SDK does not know

	// stepUp is the failure of a call over HTTP whose token lacks scopes. HTTP has a status for it,
	// which the SDK cannot give.
	stepUp atomic.Pointer[atlas.Error]
}

// note takes down a failure that the HTTP answer must tell of.
func (id *identity) note(err error) {
	if err != nil && atlas.CodeOf(err) == atlas.CodeInsufficientScope {
		id.stepUp.Store(atlas.ErrorOf(err))
	}
}

func newIdentity(c *edge.Caller, transport string) *identity {
	return &identity{caller: c, user: direct.User(c), transport: transport}
}

// holder is who takes a place for id.
func (id *identity) holder() places.Holder {
	return places.Holder{User: id.user, Tenant: id.caller.Principal.Tenant}
}

// identityKey is the identity's place in the SDK's token info.
const identityKey = "atlas"

func identityOf(req sdk.Request) *identity {
	extra := req.GetExtra()
	if extra == nil || extra.TokenInfo == nil {
		return nil
	}
	id, _ := extra.TokenInfo.Extra[identityKey].(*identity)
	return id
}

// bind ends ctx when nobody waits for the answer. The SDK does so for the newer era; for the older
// one, whose disconnects once could be followed by a resumption, it does not, but Atlas keeps no
// answers to be fetched later.
func (id *identity) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if id.gone == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(id.gone, cancel)
	return ctx, func() { stop(); cancel() }
}

func (id *identity) call(op atlas.Op) atlas.Call {
	return atlas.Call{
		ID: edge.NewRequestID(), Op: op, Principal: id.caller.Principal, Tenant: id.caller.Tenant,
		Transport: id.transport, Received: time.Now(),
	}
}

// callTool answers tools/call where package direct does not: over stdio. The pipeline sees every call,
// of unknown tools too; what it says is no tool for this caller is the same error whatever the reason.
func (s *Server) callTool(ctx context.Context, id *identity, req *sdk.CallToolRequest) (sdk.Result, error) {
	p := req.Params
	call := id.call(atlas.OpCall)
	if err := readMeta(p.Meta, &call); err != nil {
		call.Fault = err // for the pipeline to refuse and to record
	}
	call.Name = message.ToolName(p.Name)
	if args := bytes.TrimSpace(p.Arguments); !bytes.Equal(args, null) {
		call.Args.Raw = args
	}
	reads := atlas.ReadsUntrusted
	if listed := s.catalog.Load().listing.ByName([]byte(call.Name)); listed != nil {
		reads = listed.Tool.Reads
		if extra := req.GetExtra(); call.Fault == nil && extra != nil && extra.Header != nil && req.ProtocolVersion() >= message.FirstModern {
			if err := message.CheckParamHeaders(extra.Header, listed.Headers, call.Args.Raw); err != nil {
				call.Fault = err
			}
		}
	}
	call, answer, err := s.runTool(ctx, id, exchangeOf(req, p.Meta, p.InputResponses, p.RequestState), call)
	dialect := s.dialect(req.ProtocolVersion())
	if err != nil {
		e := atlas.ErrorOf(err)
		if failure := message.ErrorOf(e, &call); failure != nil {
			return nil, rpcError(failure)
		}
		return &rendered{body: dialect.AppendFailedCall(nil, e, call.ID)}, nil
	}
	if answer.Task != nil {
		return s.taskHandle(answer.Task, dialect, call.ID)
	}
	res := answer.Result
	if res.Ask != nil {
		if missing := message.Missing(res.Ask, call.Client); missing != nil {
			return nil, rpcError(message.ErrorOf(message.MissingCapability(missing), &call))
		}
		return &rendered{body: dialect.AppendAsk(nil, res.Ask, call.ID)}, nil
	}
	return &rendered{body: dialect.AppendCallResult(nil, &res, reads, call.ID)}, nil
}

var null = []byte("null")

// listTools answers tools/list where package direct does not, with what the pipeline says this caller
// may use.
func (s *Server) listTools(ctx context.Context, id *identity, req *sdk.ListToolsRequest) (sdk.Result, error) {
	p := req.Params
	if p == nil {
		p = &sdk.ListToolsParams{}
	}
	call := id.call(atlas.OpList)
	var invalid *message.Error // what the edge itself finds wrong; the pipeline refuses it and records that
	if p.Cursor != "" {
		if _, ok := message.ReadCursor([]byte(p.Cursor)); !ok {
			invalid = message.ErrCursor
			call.Fault = atlas.Errorf(atlas.CodeInvalidCursor, nil, "")
		}
	}
	if err := readMeta(p.Meta, &call); err != nil && invalid == nil {
		invalid = &message.Error{Code: message.CodeInvalidParams, Message: err.Hint}
		call.Fault = err
	}
	ctx, cancel := id.bind(ctx)
	defer cancel()
	res, err := s.deps.Handler(ctx, call)
	if invalid != nil {
		return nil, rpcError(invalid)
	}
	if err != nil {
		return nil, rpcFailure(atlas.ErrorOf(err), call.ID)
	}
	tools, next, _ := message.Page(res.Tools, []byte(p.Cursor), s.cfg.PageSize)
	items := s.catalog.Load().listing.Items(tools)
	return &rendered{body: s.dialect(req.ProtocolVersion()).AppendList(nil, "tools", items, next, s.cfg.ListTTL)}, nil
}

// answer sends a call through the pipeline, or to what makes tasks of calls.
func (s *Server) answer(ctx context.Context, call atlas.Call) (tasks.Answer, error) {
	if s.deps.Tasks != nil {
		return s.deps.Tasks.Call(ctx, call)
	}
	res, err := s.deps.Handler(ctx, call)
	return tasks.Answer{Result: res}, err
}

var errInternal = rpcError(message.ErrInternal)

// rpcError returns e for the SDK.
func rpcError(e *message.Error) *jsonrpc.Error {
	return &jsonrpc.Error{Code: int64(e.Code), Message: e.Message, Data: e.Data}
}

// rpcFailure is a failure of a request that has no result to put it into.
func rpcFailure(e *atlas.Error, requestID string) *jsonrpc.Error {
	return rpcError(message.Failure(e, requestID, 0))
}

// readMeta reads a request's _meta into call.
func readMeta(meta map[string]any, call *atlas.Call) *atlas.Error {
	m := message.ReadMeta(meta)
	return m.Fill(call)
}
