package mcp

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas/internal/edge"
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
		held, release := s.sessions.open(s, id)
		if held == nil {
			return nil, rpcFailure(errTooManyStreams(), edge.NewRequestID())
		}
		defer release()
		l = held.l
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, again := l.uris[uri]; !again {
		if len(l.uris) >= maxSubscribed {
			return nil, errTooManyURIs
		}
		l.uris[uri] = false
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
		held, release := s.sessions.open(s, id)
		if held == nil {
			return &emptyResult{}, nil // it has no subscriptions
		}
		defer release()
		l = held.l
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.uris, req.Params.URI)
	return &emptyResult{}, nil
}

var errNoSubscriptions = &jsonrpc.Error{
	Code: jsonrpc.CodeMethodNotFound, Message: "Resources can be subscribed to with subscriptions/listen, in a session, or on a connection that is kept",
}

type emptyResult struct{ sdk.ResultBase }
