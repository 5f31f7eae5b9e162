package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

const (
	// maxAsks bounds how often a call of the older era is repeated with what its client answered.
	maxAsks = 8
	// askTimeout is how long a client may take to answer while it holds a call open.
	askTimeout = 10 * time.Minute
)

// An exchange is what the pipeline may know and use of the client behind one request.
type exchange struct {
	session *sdk.ServerSession
	modern  bool
	client  atlas.Client
	token   any // names the call in progress notifications; nil if the client wants none
	reply   *atlas.Reply
}

func exchangeOf[P sdk.Params](req *sdk.ServerRequest[P], meta map[string]any, answers sdk.InputResponseMap, state string) exchange {
	x := exchange{
		session: req.Session, modern: req.ProtocolVersion() >= message.FirstModern,
		client: clientOf(req.ClientCapabilities()), token: meta["progressToken"],
	}
	if x.modern && (len(answers) > 0 || state != "") {
		replies := make(map[string]json.RawMessage, len(answers))
		for key, answer := range answers {
			if raw, err := json.Marshal(answer); err == nil { // it came from JSON
				replies[key] = raw
			}
		}
		x.reply = message.NewReply(replies, []byte(state))
	}
	return x
}

// clientOf returns what a client declared that it can do.
func clientOf(caps *sdk.ClientCapabilities) atlas.Client {
	if caps == nil {
		return atlas.Client{}
	}
	raw, err := json.Marshal(caps)
	if err != nil {
		return atlas.Client{}
	}
	c, _ := message.ReadCapabilities(raw)
	// The SDK writes roots even if there are none; what was declared is in RootsV2 (its issue 607).
	c.Roots = caps.RootsV2 != nil //nolint:staticcheck // deprecated, and still declared
	return c
}

// run sends call through the pipeline. What a tool asks of a client of the older era, which has no
// way to send a call again with replies, is asked while the call waits, if there is a connection to
// ask it on. It returns the call as it was answered.
func (s *Server) run(ctx context.Context, id *identity, x exchange, call atlas.Call) (atlas.Call, atlas.Result, error) {
	call, answer, err := s.runTool(ctx, id, x, call)
	return call, answer.Result, err
}

// runTool is run for tools, whose calls may become tasks. Clients of the older era cannot follow one.
func (s *Server) runTool(ctx context.Context, id *identity, x exchange, call atlas.Call) (atlas.Call, tasks.Answer, error) {
	ctx, cancel := id.bind(ctx)
	defer cancel()
	stdio := id.transport == transportStdio
	call.Client, call.Reply = x.client, x.reply
	if !x.modern && !stdio {
		call.Client = atlas.Client{} // a stateless request knows nothing of the client
	}
	call.Client.Tasks = call.Client.Tasks && x.modern
	for round := 0; ; round++ {
		answer, err := s.once(ctx, x, stdio, call)
		id.note(err)
		res := answer.Result
		if err != nil || res.Ask == nil || x.modern {
			return call, answer, err
		}
		if round == maxAsks {
			return call, answer, atlas.Errorf(atlas.CodeInternal, errors.New("a tool asks without end"), "")
		}
		var answers map[string]json.RawMessage
		if len(res.Ask.Requests) > 0 {
			if !stdio {
				return call, answer, message.MissingCapability(message.Missing(res.Ask, atlas.Client{}))
			}
			if answers, err = ask(ctx, x.session, res.Ask.Requests); err != nil {
				return call, tasks.Answer{Result: atlas.Result{Notes: res.Notes}}, err
			}
		}
		call.Reply = &atlas.Reply{Answers: answers, State: res.Ask.State}
		call.ID, call.Received = edge.NewRequestID(), time.Now() // a call of its own, as it is in the newer era
	}
}

func (s *Server) once(ctx context.Context, x exchange, stdio bool, call atlas.Call) (tasks.Answer, error) {
	if stdio {
		p := newPeer(ctx, x)
		defer p.close()
		call.Peer = p
	}
	return s.answer(ctx, call)
}

// ask has the client of a live session answer requests, one after the other.
func ask(ctx context.Context, session *sdk.ServerSession, requests map[string]atlas.ClientRequest) (map[string]json.RawMessage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errNotAnswered)
	defer cancel()
	answers := make(map[string]json.RawMessage, len(requests))
	for _, key := range slices.Sorted(maps.Keys(requests)) {
		req := requests[key]
		do := asks[req.Method]
		if do == nil {
			return nil, atlas.Errorf(atlas.CodeInternal, errors.New("a tool asks its client for "+req.Method), "")
		}
		params := req.Params
		if len(params) == 0 {
			params = json.RawMessage("{}")
		}
		answer, err := do(ctx, session, params)
		if err != nil {
			if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errNotAnswered) {
				return nil, ctx.Err()
			}
			return nil, atlas.Errorf(atlas.CodeCanceled, err, "the client did not answer what the tool asked")
		}
		if answers[key], err = json.Marshal(answer); err != nil {
			return nil, atlas.Errorf(atlas.CodeCanceled, err, "the client did not answer what the tool asked")
		}
	}
	return answers, nil
}

var errNotAnswered = errors.New("the client took too long to answer")

// asks are the requests that a client can be sent. All but elicitation are deprecated since
// 2026-07-28, and what clients of the older era have.
var asks = map[string]func(context.Context, *sdk.ServerSession, json.RawMessage) (any, error){
	message.MethodElicit: func(ctx context.Context, session *sdk.ServerSession, raw json.RawMessage) (any, error) {
		var p sdk.ElicitParams
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, err
		}
		return session.Elicit(ctx, &p)
	},
	message.MethodSample: func(ctx context.Context, session *sdk.ServerSession, raw json.RawMessage) (any, error) {
		var p sdk.CreateMessageWithToolsParams //nolint:staticcheck // see asks
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, err
		}
		return session.CreateMessageWithTools(ctx, &p) //nolint:staticcheck // see asks
	},
	message.MethodRoots: func(ctx context.Context, session *sdk.ServerSession, _ json.RawMessage) (any, error) {
		return session.ListRoots(ctx, nil) //nolint:staticcheck // see asks
	},
}
