package mcp

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// firstModern is the first revision without sessions. Revisions are dates and compare as text.
const firstModern = "2026-07-28"

// maxName bounds what a caller can write into logs as a tool's name. It is longer than any tool's
// name, so a name that is cut short stays unknown.
const maxName = 128

// An identity is who a protocol message comes from. It is the bridge over the SDK: the HTTP edge
// puts it into the SDK's token info, the middleware takes it out of the request.
type identity struct {
	caller    *edge.Caller
	user      string // see userOf
	transport string
	gone      context.Context // ends when nobody waits for the answer; nil if the SDK's context does
	listener  *listener       // of a connection of the older era; nil if there is none
	ended     context.Context // ends when no more will come on the connection; nil if there is none
}

func newIdentity(c *edge.Caller, transport string) *identity {
	return &identity{caller: c, user: userOf(c), transport: transport}
}

// userOf names one caller acting for one tenant: acting tenant, home tenant, issuer and subject. Two
// issuers may give one subject to two people, and an impersonator may have a namesake in the tenant.
// No two callers share a name, because a tenant has no '|' and the length of the issuer is told.
func userOf(c *edge.Caller) string {
	p := c.Principal
	return string(c.Tenant) + "|" + string(p.Tenant) + "|" + strconv.Itoa(len(p.Issuer)) + "|" + p.Issuer + "|" + p.Subject
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

// callTool answers tools/call. The pipeline sees every call, of unknown tools too; what it says is
// no tool for this caller is the same error whatever the reason.
func (s *Server) callTool(ctx context.Context, id *identity, req *sdk.CallToolRequest) (sdk.Result, error) {
	call := id.call(atlas.OpCall)
	modern := req.ProtocolVersion() >= firstModern
	if err := readMeta(req.Params.Meta, &call); err != nil {
		call.Fault = err // for the pipeline to refuse and to record
	}
	call.Name = req.Params.Name
	if len(call.Name) > maxName {
		call.Name = strings.ToValidUTF8(call.Name[:maxName], "")
	}
	if args := bytes.TrimSpace(req.Params.Arguments); !bytes.Equal(args, null) {
		call.Args.Raw = args
	}
	call, res, err := s.run(ctx, id, exchangeOf(req, req.Params.Meta, req.Params.InputResponses, req.Params.RequestState), call)
	if err != nil {
		e := atlas.ErrorOf(err)
		if e.Code == atlas.CodeToolNotFound {
			return nil, errUnknownTool
		}
		return failureResult(e, call.ID, modern), nil
	}
	if res.Ask != nil {
		return &rendered{body: s.dialect(req.ProtocolVersion()).AppendAsk(nil, res.Ask, call.ID)}, nil
	}
	return s.successResult(call, res, modern), nil
}

var null = []byte("null")
