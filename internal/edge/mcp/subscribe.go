package mcp

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// subscribe answers resources/subscribe of the older era: on stdio, and in a session over HTTP.
func (s *Server) subscribe(ctx context.Context, id *identity, req *sdk.SubscribeRequest) (sdk.Result, error) {
	if id.listener == nil && id.session.ID == "" {
		return nil, errNoSubscriptions
	}
	ctx, cancel := id.bind(ctx)
	defer cancel()
	uri := req.Params.URI
	match, err := s.visibleURIs(ctx, id, req.Params.Meta)
	if err != nil {
		return nil, err
	}
	if !match(uri) {
		return nil, notThere(uri)
	}
	l := id.listener
	if l == nil {
		held, release, err := s.hub.Session(s.listening(id), id.session)
		if err != nil {
			return nil, listenFailure(err)
		}
		defer release()
		l = held
	}
	if err := l.Subscribe(uri); err != nil {
		return nil, listenFailure(err)
	}
	return &emptyResult{}, nil
}

// unsubscribe answers resources/unsubscribe of the older era.
func (s *Server) unsubscribe(_ context.Context, id *identity, req *sdk.UnsubscribeRequest) (sdk.Result, error) {
	l := id.listener
	if l == nil {
		if id.session.ID == "" {
			return nil, errNoSubscriptions
		}
		held, release, err := s.hub.Session(s.listening(id), id.session)
		if err != nil {
			return &emptyResult{}, nil // it has no subscriptions
		}
		defer release()
		l = held
	}
	l.Unsubscribe(req.Params.URI)
	return &emptyResult{}, nil
}

var errNoSubscriptions = &jsonrpc.Error{
	Code: jsonrpc.CodeMethodNotFound, Message: "Resources can be subscribed to with subscriptions/listen, in a session, or on a connection that is kept",
}

type emptyResult struct{ sdk.ResultBase }
