package mcp

import (
	"context"
	"encoding/json"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// listPrompts answers prompts/list.
func (s *Server) listPrompts(ctx context.Context, id *identity, req *sdk.ListPromptsRequest) (sdk.Result, error) {
	p := req.Params
	if p == nil {
		p = &sdk.ListPromptsParams{}
	}
	ctx, cancel := id.bind(ctx)
	defer cancel()
	_, prompts, after, err := s.visible(ctx, id, listRequest{atlas.KindPrompt, "prompts", p.Meta, p.Cursor})
	if err != nil {
		return nil, err
	}
	prompts, next := cut(prompts, func(t *atlas.Tool) string { return t.Name }, "prompts", after, s.cfg.PageSize)
	items := s.catalog.Load().listing.Items(prompts)
	return &rendered{body: s.dialect(req.ProtocolVersion()).AppendList(nil, "prompts", items, next, s.cfg.ListTTL)}, nil
}

// getPrompt answers prompts/get. As with tools, the pipeline sees every request, and what it says is
// no prompt for this caller is the same error whatever the reason.
func (s *Server) getPrompt(ctx context.Context, id *identity, req *sdk.GetPromptRequest) (sdk.Result, error) {
	p := req.Params
	call := id.call(atlas.OpCall)
	call.Kind, call.Name = atlas.KindPrompt, message.ToolName(p.Name)
	if err := readMeta(p.Meta, &call); err != nil {
		call.Fault = err
	}
	if len(p.Arguments) > 0 {
		args, err := json.Marshal(p.Arguments)
		if err != nil {
			return nil, errInternal // text always is JSON
		}
		call.Args.Raw = args
	}
	call, res, err := s.run(ctx, id, exchangeOf(req, p.Meta, p.InputResponses, p.RequestState), call)
	if err != nil {
		return nil, requestFailure(atlas.ErrorOf(err), call)
	}
	dialect := s.dialect(req.ProtocolVersion())
	if res.Ask != nil {
		return &rendered{body: dialect.AppendAsk(nil, res.Ask, call.ID)}, nil
	}
	description, reads, _ := s.about(call)
	return &rendered{body: dialect.AppendPrompt(nil, description, &res, reads, call.ID)}, nil
}

// about returns what is told beside the answer to call. Nothing is known of what has just gone.
func (s *Server) about(call atlas.Call) (description string, reads atlas.Reads, ttl time.Duration) {
	t := s.catalog.Load().byName[call.Name]
	if t == nil || t.Kind != call.Kind {
		return "", atlas.ReadsUntrusted, 0
	}
	return t.Description, t.Reads, t.CacheTTL
}

// A rendered result is one that is written already.
type rendered struct {
	sdk.ResultBase
	body []byte
}

// MarshalJSON implements [json.Marshaler].
func (r *rendered) MarshalJSON() ([]byte, error) { return r.body, nil }

// dialect returns how results are written for a client of the revision.
func (s *Server) dialect(revision string) message.Dialect {
	return message.Dialect{Modern: revision >= message.FirstModern, Server: s.self}
}
