package mcp

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// maxSubscribed bounds the resources of one subscription.
const maxSubscribed = 64

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
	if len(want.ResourceSubscriptions) > maxSubscribed {
		return nil, errTooManyURIs
	}
	if !s.streams.enter(id, s.cfg.streamBound()) {
		return nil, rpcFailure(errTooManyStreams(), edge.NewRequestID())
	}
	defer s.streams.leave(id)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if exp := id.caller.Principal.Expiry; !exp.IsZero() {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, exp)
		defer stop()
	}
	defer context.AfterFunc(s.draining, cancel)()
	if id.ended != nil {
		defer context.AfterFunc(id.ended, cancel)()
	}

	l := newListener(id)
	l.lists = [kinds]bool{
		atlas.KindTool: want.ToolsListChanged, atlas.KindPrompt: want.PromptsListChanged, atlas.KindResource: want.ResourcesListChanged,
	}
	if err := s.subscribeAll(ctx, l, want.ResourceSubscriptions, req.Params.Meta); err != nil {
		return nil, err
	}
	ack := &acknowledgement{agreed: agreed{
		Tools: want.ToolsListChanged, Prompts: want.PromptsListChanged, Resources: want.ResourcesListChanged,
		URIs: slices.Sorted(maps.Keys(l.uris)),
	}}
	var followed *tasks.Subscription
	ack.complete = func() (err error) {
		followed, ack.agreed.TaskIDs, err = s.followTasks(ctx, id, exchangeOf(req, nil, nil, ""), ack.subscription)
		return err
	}
	s.hub.add(l) // before the client is told that it is listening
	defer s.hub.remove(l)
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
	var wg sync.WaitGroup
	defer wg.Wait()
	if followed != nil {
		wg.Go(func() { tellTasks(ctx, followed, id.tell, ack.subscription) })
	}
	s.serve(ctx, l, id.tell, ack.subscription)
	<-ctx.Done() // if it could not be told, the client has gone or will
	return res, nil
}

// errTooManyStreams is one and the same for all three bounds: which one it was would tell of the
// others' subscriptions.
func errTooManyStreams() *atlas.Error {
	return atlas.Errorf(atlas.CodeRateLimited, nil, "too many subscriptions are open; close one, or try again later")
}

var errTooManyURIs = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "A subscription may have 64 resources"}

// subscribeAll subscribes l to those of the URIs that its caller may see a resource for. Whether there
// is something at a URI is not looked up: the answer would tell.
func (s *Server) subscribeAll(ctx context.Context, l *listener, uris []string, meta map[string]any) error {
	if len(uris) == 0 {
		return nil
	}
	now, err := s.sightOf(ctx, l.id, meta)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sight = now
	for _, uri := range uris {
		if now.match(uri) {
			l.uris[uri] = false
		}
	}
	return nil
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
