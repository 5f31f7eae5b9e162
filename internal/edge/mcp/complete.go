package mcp

import (
	"context"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
)

const (
	maxValues     = 100 // of one answer (MCP, server/utilities/completion)
	maxKnown      = 64
	maxCompletion = 1024 // bytes of what is to be completed
)

var (
	errUnknownRef    = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "Unknown prompt or resource template"}
	errBadCompletion = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "ref and argument.name are needed, and an argument may have 1024 bytes"}
)

// complete answers completion/complete: values that an argument of a prompt or of a template may
// take. Whether the caller may see the prompt or the template is the pipeline's to say, and one that
// the caller may not see is none.
func (s *Server) complete(ctx context.Context, id *identity, req *sdk.CompleteRequest) (sdk.Result, error) {
	p := req.Params
	known := map[string]string{}
	if p.Context != nil && p.Context.Arguments != nil {
		known = p.Context.Arguments
	}
	if p.Ref == nil || p.Argument.Name == "" || len(p.Argument.Name)+len(p.Argument.Value) > maxCompletion || len(known) > maxKnown {
		return nil, errBadCompletion
	}
	ctx, cancel := id.bind(ctx)
	defer cancel()
	kind := atlas.KindPrompt
	fits := func(t *atlas.Tool) bool { return t.Name == p.Ref.Name }
	if p.Ref.Type == "ref/resource" {
		kind = atlas.KindResource
		fits = func(t *atlas.Tool) bool { return t.URI == p.Ref.URI }
	}
	call, tools, _, err := s.visible(ctx, id, listRequest{kind: kind, meta: p.Meta})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(tools, fits)
	if i < 0 {
		return nil, errUnknownRef
	}
	t := tools[i]
	if !s.looks.Enter(id.holder(), lookBound) {
		return nil, requestFailure(errTooManyLooks(), call)
	}
	defer s.looks.Leave(id.holder())
	values, err := s.values(ctx, call, t, p.Argument.Name, p.Argument.Value, known)
	if err != nil {
		return nil, requestFailure(atlas.ErrorOf(err), call)
	}
	out := &sdk.CompleteResult{Completion: sdk.CompletionResultDetails{Values: values, Total: len(values)}}
	if len(values) > maxValues {
		out.Completion.Values, out.Completion.HasMore = values[:maxValues], true
	}
	return out, nil
}

func (s *Server) values(ctx context.Context, call atlas.Call, t *atlas.Tool, argument, prefix string, known map[string]string) ([]string, error) {
	values := []string{} // never null
	if t.Complete == nil {
		return values, nil
	}
	call.Op, call.Name, call.Tool = atlas.OpCall, t.Name, t
	err := look(ctx, t, func(ctx context.Context) error {
		found, err := t.Complete(ctx, call, argument, prefix, known)
		values = append(values, found...)
		return err
	})
	return values, err
}
