package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// maxRounds bounds how often a call of the older era is repeated with what its client answered.
const maxRounds = 8

// call answers tools/call. The pipeline sees every call, of unknown tools too; what it says is no tool
// for this caller is the same error whatever the reason.
func (x *exchange) call(ctx context.Context) {
	m := x.m
	call := x.newCall(atlas.OpCall)
	reads := atlas.ReadsUntrusted
	if listed := x.server.deps.Listing().ByName(m.Name); listed != nil {
		call.Name, reads = listed.Tool.Name, listed.Tool.Reads
		if x.modern && call.Fault == nil && len(listed.Headers) > 0 {
			if fault := message.CheckParamHeaders(x.r.Header, listed.Headers, m.Arguments); fault != nil {
				call.Fault = fault
			}
		}
	} else {
		call.Name = message.ToolName(string(m.Name))
	}
	var out *stream
	if x.stream {
		if progress, level := x.wants(); progress != nil || level != "" {
			out = newStream(x, progress, level)
			call.Peer = out
			// Also if the pipeline panics past what is caught here.
			defer out.close(nil)
		}
	}
	answer, err := x.server.run(ctx, call)
	if ask := answer.Result.Ask; err == nil && ask != nil && !x.modern {
		call, answer, err = x.converse(ctx, call, answer, out)
	}
	b := buffers.Get().(*buffer)
	var failure *message.Error
	b.data, failure = x.render(b.data, &call, &answer, reads, err)
	if out == nil || !out.close(b.data) { // from here on nobody else uses x.w
		status := http.StatusOK
		if failure != nil {
			status = failure.HTTPStatus(x.modern)
			x.challenge(err, status)
		}
		writeJSON(x.w, b.data, status)
	}
	b.free()
}

// wants returns what the client wants to hear of while its call runs: the token of its progress, and
// the least severe messages for its log. A client of the older era sets its level for a session; one
// that has none in memory is sent what is worth knowing, as the SDK does.
func (x *exchange) wants() (progress []byte, level atlas.LogLevel) {
	if x.modern {
		return x.m.Meta.Progress, x.m.Meta.LogLevel
	}
	return x.m.Meta.Progress, atlas.LogInfo
}

// run sends a call through the pipeline. It survives its panic.
func (s *Server) run(ctx context.Context, call atlas.Call) (answer tasks.Answer, err error) {
	defer s.survive(ctx, &call, &err)
	return s.deps.Call(ctx, call)
}

// survive makes an error of a panic.
func (s *Server) survive(ctx context.Context, call *atlas.Call, err *error) {
	if p := recover(); p != nil {
		s.deps.Log.ErrorContext(ctx, "panic while answering", "method", call.Op.String(), "request_id", call.ID, "panic", p, "stack", string(debug.Stack()))
		*err = errPanic
	}
}

var errPanic = errors.New("panic")

// render appends the whole response to a call. If that is an error of the protocol, it is returned.
func (x *exchange) render(dst []byte, call *atlas.Call, answer *tasks.Answer, reads atlas.Reads, err error) ([]byte, *message.Error) {
	d := x.dialect()
	if err == nil && answer.Result.Ask != nil {
		err = x.unanswerable(answer.Result.Ask, call)
	}
	var failure *message.Error
	if err != nil {
		e := atlas.ErrorOf(err)
		if failure = message.ErrorOf(e, call); failure == nil && !errors.Is(err, errPanic) {
			dst = message.AppendResponse(dst, x.m.ID)
			return message.AppendEnd(d.AppendFailedCall(dst, e, call.ID)), nil
		}
	}
	var task []byte
	if err == nil && answer.Task != nil {
		task, err = json.Marshal(answer.Task)
	}
	if err != nil && failure == nil {
		failure = message.ErrInternal
	}
	if failure != nil {
		return message.AppendError(dst, x.m.ID, failure), failure
	}
	dst = message.AppendResponse(dst, x.m.ID)
	switch {
	case task != nil:
		dst = d.AppendTask(dst, task, call.ID)
	case answer.Result.Ask != nil:
		dst = d.AppendAsk(dst, answer.Result.Ask, call.ID)
	default:
		dst = d.AppendCallResult(dst, &answer.Result, reads, call.ID)
	}
	return message.AppendEnd(dst), nil
}

// unanswerable is the failure of a call whose tool asks what its client cannot answer, or nil.
func (x *exchange) unanswerable(ask *atlas.Ask, call *atlas.Call) error {
	if !x.modern {
		return atlas.Errorf(atlas.CodeInternal, errors.New("a tool asks without end"), "")
	}
	if missing := message.Missing(ask, call.Client); missing != nil {
		return message.MissingCapability(missing)
	}
	return nil
}

// challenge adds to a refusal for want of scopes what a client has to ask for (RFC 6750 section 3.1).
func (x *exchange) challenge(err error, status int) {
	if status == http.StatusForbidden {
		x.w.Header().Set("WWW-Authenticate", x.server.deps.Challenge.Header(atlas.ErrorOf(err)))
	}
}

// converse asks the client of the older era what the tool asks, and repeats the call with what it
// answers, until the tool has enough.
func (x *exchange) converse(ctx context.Context, call atlas.Call, answer tasks.Answer, out *stream) (atlas.Call, tasks.Answer, error) {
	s := x.server
	leave, err := s.asks.enter(User(x.caller), s.cfg.MaxAsks)
	if err != nil {
		return call, answer, err
	}
	defer leave()
	for range maxRounds {
		ask := answer.Result.Ask
		if missing := message.Missing(ask, call.Client); missing != nil {
			return call, answer, message.MissingCapability(missing)
		}
		var answers map[string]json.RawMessage
		if len(ask.Requests) > 0 {
			if out == nil {
				return call, answer, message.MissingCapability([]string{message.CanElicit})
			}
			if answers, err = x.ask(ctx, ask.Requests, out); err != nil {
				return call, answer, err
			}
		}
		call.Reply = message.NewReply(answers, ask.State)
		call.ID, call.Received = edge.NewRequestID(), time.Now() // a call of its own, as it is in the newer era
		if answer, err = s.run(ctx, call); err != nil || answer.Result.Ask == nil {
			return call, answer, err
		}
	}
	return call, answer, atlas.Errorf(atlas.CodeInternal, errors.New("a tool asks without end"), "")
}

// ask sends requests to the client on the stream of its call, and waits for all answers.
func (x *exchange) ask(ctx context.Context, requests map[string]atlas.ClientRequest, out *stream) (map[string]json.RawMessage, error) {
	s := x.server
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.AskTimeout, errNotAnswered)
	defer cancel()
	if exp := x.caller.Principal.Expiry; !exp.IsZero() { // the call must not go on with rights that have ended
		ctx, cancel = context.WithDeadlineCause(ctx, exp, errExpired)
		defer cancel()
	}
	ctx, drained := context.WithCancelCause(ctx)
	defer drained(nil)
	defer context.AfterFunc(s.deps.Draining, func() { drained(errDraining) })()

	user := User(x.caller)
	waiters := make(map[string]*waiter, len(requests))
	for key, req := range requests {
		w := newWaiter(x.newAskID(user), x.session.id)
		waiters[key] = w
		defer s.asks.forget(user, w)
		s.asks.await(user, w)
		out.ask(message.AppendRequest(nil, w.id, req))
	}
	if s.deps.Mailbox != nil {
		var mail sync.WaitGroup
		collecting, stop := context.WithCancel(ctx)
		mail.Go(func() { s.collect(collecting, user, waiters) })
		defer mail.Wait()
		defer stop()
	}
	answers := make(map[string]json.RawMessage, len(requests))
	for key, w := range waiters {
		select {
		case a := <-w.answer:
			if a.failed {
				return nil, atlas.Errorf(atlas.CodeCanceled, fmt.Errorf("%s failed", requests[key].Method), "the client did not answer what the tool asked")
			}
			answers[key] = a.result
		case <-ctx.Done():
			switch cause := context.Cause(ctx); {
			case errors.Is(cause, errDraining):
				return nil, atlas.Errorf(atlas.CodeShuttingDown, cause, "")
			case errors.Is(cause, errNotAnswered):
				return nil, atlas.Errorf(atlas.CodeCanceled, cause, "the client did not answer what the tool asked")
			case errors.Is(cause, errExpired):
				return nil, atlas.Errorf(atlas.CodeTokenExpired, cause, "")
			}
			return nil, ctx.Err()
		}
	}
	return answers, nil
}

var (
	errNotAnswered = errors.New("the client took too long to answer")
	errDraining    = errors.New("the server is stopping")
	errExpired     = errors.New("the token expired while the client was asked")
)
