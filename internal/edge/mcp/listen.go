package mcp

import (
	"context"
	"errors"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/listen"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// listening returns who listens when id does.
func (s *Server) listening(id *identity) *listen.Caller {
	return &listen.Caller{
		Holder: id.holder(), Tenant: id.caller.Tenant, Expiry: id.caller.Principal.Expiry,
		Sees: func(ctx context.Context, meta map[string]any) (func(uri string) bool, error) {
			return s.visibleURIs(ctx, id, meta)
		},
	}
}

// listenFailure is why somebody cannot listen, for the SDK.
func listenFailure(err error) error {
	if e, ok := errors.AsType[*message.Error](err); ok {
		return rpcError(e)
	}
	if e, ok := errors.AsType[*atlas.Error](err); ok {
		return rpcFailure(e, edge.NewRequestID())
	}
	return err // of visibleURIs
}

// listen answers subscriptions/listen: it lets a subscription live until the client ends it, its
// token expires, its connection ends or the server stops.
//
// The SDK is told of a subscription to nothing: it acknowledges that, as acknowledge corrects, and
// returns the result, which is held back until the end. What the client is told in between is ours
// to send, to this caller alone.
func (s *Server) listen(ctx context.Context, id *identity, req *sdk.SubscriptionsListenRequest, next sdk.MethodHandler) (sdk.Result, error) {
	want := req.Params.Notifications
	if want == nil {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: `"notifications" is missing`}
	}
	if id.ended != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(id.ended, cancel)()
	}
	// It listens before the client is told that it does.
	ctx, sub, err := s.hub.Subscribe(ctx, s.listening(id), listen.Request{
		Lists: listen.Lists{
			atlas.KindTool: want.ToolsListChanged, atlas.KindPrompt: want.PromptsListChanged, atlas.KindResource: want.ResourcesListChanged,
		},
		URIs: want.ResourceSubscriptions, Meta: req.Params.Meta,
	})
	if err != nil {
		return nil, listenFailure(err)
	}
	defer sub.Close()
	ack := &acknowledgement{agreed: agreed{
		Tools: want.ToolsListChanged, Prompts: want.PromptsListChanged, Resources: want.ResourcesListChanged,
		URIs: sub.URIs(),
	}}
	var followed *tasks.Subscription
	ack.complete = func() (err error) {
		followed, ack.agreed.TaskIDs, err = s.followTasks(ctx, id, exchangeOf(req, nil, nil, ""), ack.subscription)
		return err
	}
	toNothing := *req
	toNothing.Params = &sdk.SubscriptionsListenParams{Meta: req.Params.Meta, Notifications: &sdk.NotificationSubscriptions{}}
	res, err := next(context.WithValue(ctx, acknowledgementKey{}, ack), "subscriptions/listen", &toNothing)
	if followed != nil {
		defer followed.Close()
	}
	if ack.err != nil {
		return nil, ack.err
	}
	if err != nil || ack.agreed.nothing() {
		return res, err
	}
	sub.Serve(ctx, id.tell, ack.subscription, followed)
	return res, nil
}

// visibleURIs asks the pipeline which resources the caller may see.
func (s *Server) visibleURIs(ctx context.Context, id *identity, meta map[string]any) (func(uri string) bool, error) {
	_, tools, _, err := s.visible(ctx, id, listRequest{kind: atlas.KindResource, meta: meta})
	if err != nil {
		return nil, err
	}
	return func(uri string) bool {
		return len(uri) <= maxURI && slices.ContainsFunc(tools, func(t *atlas.Tool) bool {
			if t.Match == nil {
				return false
			}
			_, ok := t.Match(uri)
			return ok
		})
	}, nil
}

// agreed is what of a subscription was granted.
type agreed struct {
	Tools     bool     `json:"toolsListChanged,omitempty"`
	Prompts   bool     `json:"promptsListChanged,omitempty"`
	Resources bool     `json:"resourcesListChanged,omitempty"`
	URIs      []string `json:"resourceSubscriptions,omitempty"`
	TaskIDs   []string `json:"taskIds,omitempty"` // SEP-2663
}

func (a *agreed) nothing() bool {
	return !a.Tools && !a.Prompts && !a.Resources && len(a.URIs) == 0 && len(a.TaskIDs) == 0
}

// An acknowledgement is what was granted, on its way through the SDK.
type acknowledgement struct {
	agreed       agreed
	subscription any          // the id that the SDK gave it: the request's
	complete     func() error // grants what takes that id to find out
	err          error        // of complete
}

type acknowledgementKey struct{}

type acknowledgeParams struct {
	sdk.ParamsBase
	Notifications agreed `json:"notifications"`
}

// acknowledge puts what was granted into the message with which the SDK acknowledges a subscription,
// and learns the subscription's id from it.
func acknowledge(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		ack, _ := ctx.Value(acknowledgementKey{}).(*acknowledgement)
		was, isAck := req.GetParams().(*sdk.SubscriptionsAcknowledgedParams)
		session, isServer := req.GetSession().(*sdk.ServerSession)
		if !isAck || !isServer || ack == nil {
			return next(ctx, method, req)
		}
		ack.subscription = was.Meta[sdk.MetaKeySubscriptionID]
		if ack.err = ack.complete(); ack.err != nil {
			return nil, ack.err
		}
		params := &acknowledgeParams{Notifications: ack.agreed}
		params.Meta = was.Meta
		return next(ctx, method, &sdk.ServerRequest[*acknowledgeParams]{Session: session, Params: params})
	}
}
