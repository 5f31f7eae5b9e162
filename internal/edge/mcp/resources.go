package mcp

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// A listedURI is a resource as it is listed.
type listedURI struct {
	uri  string
	json []byte
}

// listResources answers resources/list: the resources that have one URI, and what the templates say
// that there is for this caller.
func (s *Server) listResources(ctx context.Context, id *identity, req *sdk.ListResourcesRequest) (sdk.Result, error) {
	p := req.Params
	if p == nil {
		p = &sdk.ListResourcesParams{}
	}
	ctx, cancel := id.bind(ctx)
	defer cancel()
	call, tools, after, err := s.visible(ctx, id, listRequest{atlas.KindResource, "resources", p.Meta, p.Cursor})
	if err != nil {
		return nil, err
	}
	if !s.looks.Enter(id.holder(), lookBound) {
		return nil, requestFailure(errTooManyLooks(), call)
	}
	defer s.looks.Leave(id.holder())
	listing := s.catalog.Load().listing
	var all []listedURI
	for _, t := range tools {
		if message.IsTemplate(t) {
			all = append(all, s.behind(ctx, call, t, maxListed-len(all))...)
		} else {
			all = append(all, listedURI{t.URI, listing.Of(t).JSON})
		}
	}
	if ctx.Err() != nil { // a list that lacks what there was no time for would be kept as whole
		return nil, requestFailure(atlas.ErrorOf(ctx.Err()), call)
	}
	slices.SortStableFunc(all, func(a, b listedURI) int { return strings.Compare(a.uri, b.uri) })
	all = slices.CompactFunc(all, func(a, b listedURI) bool { return a.uri == b.uri })
	page, next := cut(all, func(r listedURI) string { return r.uri }, "resources", after, s.cfg.PageSize)
	items := make([][]byte, len(page))
	for i, r := range page {
		items[i] = r.json
	}
	return &rendered{body: s.dialect(req.ProtocolVersion()).AppendList(nil, "resources", items, next, s.cfg.ListTTL)}, nil
}

// behind returns at most limit resources behind the template t, for call's caller. A template that
// fails is listed among the templates all the same, and has nothing behind it here.
func (s *Server) behind(ctx context.Context, call atlas.Call, t *atlas.Tool, limit int) (out []listedURI) {
	if t.List == nil || t.Match == nil || limit <= 0 {
		return nil
	}
	call.Op, call.Name, call.Tool = atlas.OpCall, t.Name, t
	var links []atlas.Content
	err := look(ctx, t, func(ctx context.Context) (err error) {
		links, err = t.List(ctx, call)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			s.deps.Log.WarnContext(ctx, "what is behind a template cannot be listed", "resource", t.Name, "tenant", call.Tenant, "err", err)
		}
		return nil
	}
	for _, c := range links {
		if len(out) == limit {
			break
		}
		if _, ok := t.Match(c.URI); !ok || len(c.URI) > maxURI { // it could not be read
			continue
		}
		c.MIME = cmp.Or(c.MIME, t.MIME)
		out = append(out, listedURI{c.URI, message.AppendLink(nil, &c)})
	}
	return out
}

// errTooManyLooks is one and the same whoever's bound it is.
func errTooManyLooks() *atlas.Error {
	return atlas.Errorf(atlas.CodeRateLimited, nil, "too many lists and completions are being made; wait, then try again")
}

// look runs what t finds out beside its calls, for no longer than a call of it, and survives its
// panic.
func look(ctx context.Context, t *atlas.Tool, do func(context.Context) error) (err error) {
	limit := lookTimeout
	if t.Timeout > 0 {
		limit = min(limit, t.Timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = panicError{p}
		}
	}()
	return do(ctx)
}

// listTemplates answers resources/templates/list.
func (s *Server) listTemplates(ctx context.Context, id *identity, req *sdk.ListResourceTemplatesRequest) (sdk.Result, error) {
	p := req.Params
	if p == nil {
		p = &sdk.ListResourceTemplatesParams{}
	}
	ctx, cancel := id.bind(ctx)
	defer cancel()
	_, tools, after, err := s.visible(ctx, id, listRequest{atlas.KindResource, "templates", p.Meta, p.Cursor})
	if err != nil {
		return nil, err
	}
	tools = slices.DeleteFunc(tools, func(t *atlas.Tool) bool { return !message.IsTemplate(t) })
	tools, next := cut(tools, func(t *atlas.Tool) string { return t.Name }, "templates", after, s.cfg.PageSize)
	items := s.catalog.Load().listing.Items(tools)
	return &rendered{body: s.dialect(req.ProtocolVersion()).AppendList(nil, "resourceTemplates", items, next, s.cfg.ListTTL)}, nil
}

// readResource answers resources/read. The pipeline sees every request. A URI that nothing matches,
// one whose resource the caller may not see, and one behind which there is nothing for the caller's
// tenant are one and the same error.
func (s *Server) readResource(ctx context.Context, id *identity, req *sdk.ReadResourceRequest) (sdk.Result, error) {
	p := req.Params
	x := exchangeOf(req, p.Meta, p.InputResponses, p.RequestState)
	var found []match
	if len(p.URI) <= maxURI {
		found = s.catalog.Load().matching(p.URI)
	}
	if len(found) == 0 { // a name with a colon is no tool's: the pipeline finds nothing, and records what was asked for
		found = []match{{name: message.ToolName("uri:" + p.URI)}}
	}
	var (
		call atlas.Call
		res  atlas.Result
		err  error
		mime string
	)
	for _, m := range found[:min(len(found), maxMatches)] {
		call = id.call(atlas.OpCall)
		call.Kind, call.Name, call.Args.Raw, mime = atlas.KindResource, m.name, m.args, m.mime
		if fault := readMeta(p.Meta, &call); fault != nil {
			call.Fault = fault
		}
		call, res, err = s.run(ctx, id, x, call)
		if atlas.CodeOf(err) != atlas.CodeToolNotFound { // it may be hidden, and another one serve this URI
			break
		}
	}
	if err != nil {
		return nil, readFailure(atlas.ErrorOf(err), call, p.URI)
	}
	dialect := s.dialect(req.ProtocolVersion())
	if res.Ask != nil {
		return &rendered{body: dialect.AppendAsk(nil, res.Ask, call.ID)}, nil
	}
	_, reads, ttl := s.about(call)
	res.Content = slices.Clone(res.Content) // the answer may be the cache's
	for i := range res.Content {
		res.Content[i].URI = cmp.Or(res.Content[i].URI, p.URI)
		res.Content[i].MIME = cmp.Or(res.Content[i].MIME, mime)
	}
	return &rendered{body: dialect.AppendRead(nil, p.URI, &res, reads, ttl, call.ID)}, nil
}

// readFailure is the error of a resource that could not be read. Arguments that do not fit the schema
// came out of the URI: there is no such resource.
func readFailure(e *atlas.Error, call atlas.Call, uri string) error {
	gone := e.Code == atlas.CodeToolNotFound
	if call.Fault == nil {
		gone = gone || e.Code == atlas.CodeNotFound || e.Code == atlas.CodeInvalidArguments
	}
	if gone {
		return notThere(uri)
	}
	return requestFailure(e, call)
}

// notThere is the error of a resource that there is not, for this caller (SEP-2164).
func notThere(uri string) error {
	data, err := json.Marshal(map[string]string{"uri": uri})
	if err != nil {
		return errInternal // text always is JSON
	}
	return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "Resource not found", Data: data}
}
