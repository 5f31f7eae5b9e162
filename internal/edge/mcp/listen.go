package mcp

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// maxSubscribed bounds the resources of one subscription.
const maxSubscribed = 64

// A hub knows who listens. It holds what they have not been told yet, which is bounded because a
// change that is told twice is told once, and so never waits for a client.
type hub struct {
	mu        sync.Mutex // guards listeners
	listeners map[*listener]struct{}
}

// A listener is one client that listens: a subscription, or a connection of the older era.
type listener struct {
	tenant atlas.TenantID // that the caller acts for
	wake   chan struct{}  // holds one token when there is something to tell

	mu      sync.Mutex // guards the rest
	id      *identity  // as it was proved last
	lists   [kinds]bool
	uris    map[string]bool // subscribed; true if there is an update to tell
	changed [kinds]bool     // lists to tell of
	seen    time.Time       // when it was last looked up what the caller may see
	match   func(uri string) bool
}

func newListener(id *identity) *listener {
	return &listener{tenant: id.caller.Tenant, id: id, wake: make(chan struct{}, 1), uris: make(map[string]bool)}
}

func (h *hub) add(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners[l] = struct{}{}
}

func (h *hub) remove(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listeners, l)
}

func (h *hub) changed(kind atlas.Kind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		l.note(func() bool {
			l.seen = time.Time{}
			l.changed[kind] = l.lists[kind]
			return l.changed[kind]
		})
	}
}

func (h *hub) updated(tenant atlas.TenantID, uri string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		if l.tenant != tenant {
			continue
		}
		l.note(func() bool {
			_, subscribed := l.uris[uri]
			if subscribed {
				l.uris[uri] = true
			}
			return subscribed
		})
	}
}

// note changes what is to be told, and wakes the listener if there is something.
func (l *listener) note(change func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if change() {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// wantLists makes the listener hear of all changed lists. It does nothing on nil.
func (l *listener) wantLists() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind := range l.lists {
		l.lists[kind] = true
	}
}

// take returns what is to be told, and forgets it.
func (l *listener) take() (lists [kinds]bool, uris []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lists, l.changed = l.changed, [kinds]bool{}
	for uri, updated := range l.uris {
		if updated {
			uris = append(uris, uri)
			l.uris[uri] = false
		}
	}
	slices.Sort(uris)
	return lists, uris
}

// A teller writes one JSON-RPC message to a client, at a moment when nothing else is being written.
//
// Notifications go past the SDK. It can send only those that it knows, to whom it thinks listens.
type teller func(message []byte) error

// notify tells of method. Subscription is the id of the subscription that the notification belongs to,
// or nil; params may be nil.
func (tell teller) notify(method string, subscription any, params map[string]any) error {
	if subscription != nil {
		if params == nil {
			params = make(map[string]any, 1)
		}
		params["_meta"] = map[string]any{sdk.MetaKeySubscriptionID: subscription}
	}
	raw := []byte("{}")
	if params != nil {
		var err error
		if raw, err = json.Marshal(params); err != nil {
			return err
		}
	}
	return tell(message.AppendNotification(nil, method, raw))
}

// listChanged are the notifications of the lists, by kind.
var listChanged = [kinds]string{
	atlas.KindTool:     "notifications/tools/list_changed",
	atlas.KindPrompt:   "notifications/prompts/list_changed",
	atlas.KindResource: "notifications/resources/list_changed",
}

const resourceUpdated = "notifications/resources/updated"

// serve tells l, which is in the hub, what there is to tell, until ctx ends or the client cannot be
// told any more.
func (s *Server) serve(ctx context.Context, l *listener, tell teller, subscription any) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		lists, uris := l.take()
		for kind, changed := range lists {
			if changed && tell.notify(listChanged[kind], subscription, nil) != nil {
				return
			}
		}
		if len(uris) == 0 {
			continue
		}
		sees := s.sees(ctx, l)
		for _, uri := range uris {
			if sees(uri) && tell.notify(resourceUpdated, subscription, map[string]any{"uri": uri}) != nil {
				return
			}
		}
	}
}

// sees returns whether the listener's caller may see the resource at a URI. The pipeline is asked
// again when the answer is older than a client may keep a list, and after every change of the
// configuration: who may see something when he subscribes may not later.
func (s *Server) sees(ctx context.Context, l *listener) func(uri string) bool {
	l.mu.Lock()
	id, match, fresh := l.id, l.match, !l.seen.IsZero() && time.Since(l.seen) < s.cfg.ListTTL
	l.mu.Unlock()
	if match != nil && fresh {
		return match
	}
	now := time.Now()
	match, err := s.visibleURIs(ctx, id, nil)
	if err != nil {
		return func(string) bool { return false }
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.match, l.seen = match, now
	return match
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
	if !s.streams.enter(id, &s.cfg) {
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
	now := time.Now()
	match, err := s.visibleURIs(ctx, l.id, meta)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.match, l.seen = match, now
	for _, uri := range uris {
		if match(uri) {
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

// streams counts the open subscriptions: of each caller, of each tenant, and of all.
type streams struct {
	mu     sync.Mutex
	user   map[string]int
	tenant map[atlas.TenantID]int
	total  int
}

// enter takes a place if caller, tenant and server have one left. The tenant is the caller's own, not
// the one acted for: who may act for others must not use up their places, nor multiply his own.
func (s *streams) enter(id *identity, cfg *Config) bool {
	tenant := id.caller.Principal.Tenant
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.user[id.user] >= cfg.MaxStreams || s.tenant[tenant] >= cfg.MaxStreamsTenant || s.total >= cfg.MaxStreamsTotal {
		return false
	}
	s.user[id.user]++
	s.tenant[tenant]++
	s.total++
	return true
}

func (s *streams) leave(id *identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	release(s.user, id.user)
	release(s.tenant, id.caller.Principal.Tenant)
	s.total--
}

func release[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
