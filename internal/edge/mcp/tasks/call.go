package tasks

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

const (
	maxRounds = 32 // of asking within one task
	// grace is how long a run may take beyond the time that the budget stage gives it, for the stages
	// around that one.
	grace = 30 * time.Second
	// plainTime is how long a call that could not become a task is waited for if its tool declares
	// nothing.
	plainTime = 10 * time.Second
)

// A run is one call on its way, apart from the request that made it.
type run struct {
	at     place
	id     string
	who    who
	ctx    context.Context
	cancel context.CancelCauseFunc
	call   atlas.Call
	reads  atlas.Reads
	done   chan outcome // has room for the one outcome

	mu      sync.Mutex // guards what follows, once the run is known to others
	rec     record
	version int64
}

type outcome struct {
	res atlas.Result
	err error
}

// Call answers a call: it sends it through the pipeline, and makes a task of it where the tool
// allows that, the client can follow it and it takes long enough. It returns soon after ctx ends;
// what had become a task by then goes on.
//
// A tool that is only run as a task refuses other clients with missing_client_capability. What it
// asks its client before it begins, and why it was refused, is answered directly if it comes within
// Tool.Task.After (SEP-2663 "Task Creation").
func (m *Manager) Call(ctx context.Context, call atlas.Call) (Answer, error) {
	plain := func() (Answer, error) {
		res, err := m.deps.Handler(ctx, call)
		return Answer{Result: res}, err
	}
	if call.Op != atlas.OpCall || call.Kind != atlas.KindTool || call.Fault != nil {
		return plain()
	}
	tool, ok := m.deps.Tool(call)
	if !ok || tool.Task.Timeout <= 0 {
		return plain()
	}
	// What is refused here goes the way of every call, so that it is recorded like any other.
	refuse := func(err error) (Answer, error) {
		if !tool.Task.Required {
			return plain()
		}
		call.Fault = err
		return plain()
	}
	if !call.Client.Tasks {
		return refuse(message.MissingCapability(capability))
	}
	r, err := m.newRun(call, tool, tool.Task.Timeout)
	if err != nil {
		return refuse(err)
	}
	after := tool.Task.After
	if left := call.Budget.Total - call.Budget.Reserve; call.Budget.Total > 0 {
		after = min(after, max(0, left/2)) // the handle must come before the turn ends
	}
	if after <= 0 {
		// Nothing runs before there is a record of it.
		if err := m.create(ctx, r); err != nil {
			m.release(r)
			return refuse(err)
		}
		m.start(r)
		go m.follow(r)
		return Answer{Task: r.handle(m)}, nil
	}
	p := &peer{to: call.Peer}
	if call.Peer != nil {
		r.call.Peer = p
	}
	defer p.close()
	unbind := context.AfterFunc(ctx, func() { r.cancel(context.Cause(ctx)) })
	m.start(r)
	return m.wait(ctx, r, tool, after, unbind)
}

// newRun takes a place and returns the run of a call.
func (m *Manager) newRun(call atlas.Call, tool *atlas.Tool, timeout time.Duration) (*run, error) {
	w := whoOf(call)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return nil, atlas.Errorf(atlas.CodeShuttingDown, nil, "")
	}
	if !m.places.enter(w) {
		// One text for all bounds: which one it was would tell of the others' tasks.
		return nil, errTooMany
	}
	m.running.Add(1)
	id := rand.Text()
	r := &run{id: id, at: placeOf(call, id), who: w, call: detach(call), reads: tool.Reads, done: make(chan outcome, 1)}
	r.call.Task = true
	r.call.Peer = nil // a task has no request to send notifications on
	ctx, stop := context.WithTimeout(m.base, timeout+grace)
	var cancel context.CancelCauseFunc
	r.ctx, cancel = context.WithCancelCause(ctx)
	r.cancel = func(err error) { cancel(err); stop() }
	now := time.Now()
	r.rec = record{Key: r.at.key, Status: Working, Created: now, Updated: now, Tool: tool.Name, Scopes: tool.Scopes, Timeout: timeout, Worker: m.worker, Expires: now.Add(timeout + m.cfg.TTL)}
	return r, nil
}

// detach returns a copy of call that shares no memory with the request that it came from, which may
// be used for another caller's request while the call still runs.
func detach(call atlas.Call) atlas.Call {
	call.Name, call.IdempotencyKey = strings.Clone(call.Name), strings.Clone(call.IdempotencyKey)
	call.TraceParent, call.TraceState = strings.Clone(call.TraceParent), strings.Clone(call.TraceState)
	call.Args.Raw = bytes.Clone(call.Args.Raw)
	call.Budget.Expected = slices.Clone(call.Budget.Expected)
	if call.Reply != nil {
		reply := &atlas.Reply{State: bytes.Clone(call.Reply.State)}
		if call.Reply.Answers != nil {
			reply.Answers = make(map[string]json.RawMessage, len(call.Reply.Answers))
			for key, answer := range call.Reply.Answers {
				reply.Answers[strings.Clone(key)] = bytes.Clone(answer)
			}
		}
		call.Reply = reply
	}
	return call
}

var errTooMany = atlas.Errorf(atlas.CodeRateLimited, nil, "too many tasks are running or kept; wait until some have ended")

// release gives back what newRun took. It is the last that is done for a run.
func (m *Manager) release(r *run) {
	r.cancel(nil)
	m.places.leave(r.who)
	m.running.Done()
}

// start runs the pipeline, apart.
func (m *Manager) start(r *run) {
	go func() {
		var out outcome
		defer func() {
			if p := recover(); p != nil { // the pipeline has its own; this goroutine is ours
				out = outcome{err: atlas.Errorf(atlas.CodeInternal, fmt.Errorf("panic: %v", p), "")}
			}
			r.done <- out
		}()
		out.res, out.err = m.deps.Handler(r.ctx, r.call)
	}()
}

// wait gives a call some time to end before it becomes a task.
func (m *Manager) wait(ctx context.Context, r *run, tool *atlas.Tool, after time.Duration, unbind func() bool) (Answer, error) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	begun := time.Now()
	tried := false // to make a task of it
	for {
		select {
		case out := <-r.done:
			unbind()
			if tool.Task.Required && out.err == nil && out.res.Ask == nil && !tried && m.create(ctx, r) == nil {
				m.finish(r, out)
				h := r.handle(m)
				m.remove(r)
				return Answer{Task: h}, nil
			}
			m.release(r)
			return Answer{Result: out.res}, out.err
		case <-ctx.Done():
			go func() { <-r.done; m.release(r) }()
			return Answer{}, atlas.ErrorOf(ctx.Err())
		case <-timer.C:
			if tried { // and as an ordinary call it has had its time
				r.cancel(context.DeadlineExceeded)
				unbind()
				go func() { <-r.done; m.release(r) }()
				return Answer{}, atlas.Errorf(atlas.CodeTimeout, nil, "")
			}
			if err := m.create(ctx, r); err != nil {
				m.deps.Log.DebugContext(ctx, "a call could not become a task", "call", r.call.ID, "err", err)
				tried = true
				timer.Reset(max(0, cmp.Or(tool.Timeout, plainTime)-time.Since(begun)))
				continue
			}
			gone := !unbind()
			h := r.handle(m)
			go m.follow(r)
			if gone { // nobody has the handle
				return Answer{}, atlas.ErrorOf(ctx.Err())
			}
			return Answer{Task: h}, nil
		}
	}
}

// create makes the task known, durably: from here on tasks/get finds it.
func (m *Manager) create(ctx context.Context, r *run) error {
	if err := m.renew(ctx, false); err != nil {
		return err
	}
	r.rec.Created = time.Now()
	r.rec.Updated, r.rec.Expires = r.rec.Created, r.rec.Created.Add(r.rec.Timeout+m.cfg.TTL)
	if !m.places.keep(r.at, r.who, r.rec.Expires) {
		return errTooMany
	}
	version, err := m.save(ctx, r.at, 0, &r.rec)
	if err == nil && version == 0 {
		err = atlas.Errorf(atlas.CodeInternal, errors.New("tasks: an id was given twice"), "")
	}
	if err != nil {
		m.places.forget(r.at)
		return err
	}
	r.version = version // nobody else knows the run yet
	m.enlist(r)
	return nil
}

// enlist lets whoever cancels the task find its run.
func (m *Manager) enlist(r *run) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.runs[r.at] == nil {
		m.runs[r.at] = make(map[*run]struct{}, 1)
	}
	m.runs[r.at][r] = struct{}{}
}

// handle returns the task as tools/call answers it.
func (r *run) handle(m *Manager) *Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.rec.task(r.id, m.cfg.PollInterval)
	t.InputRequests, t.Result, t.Error = nil, nil, nil
	return &t
}

// remove forgets a run that has ended.
func (m *Manager) remove(r *run) {
	m.mu.Lock()
	if delete(m.runs[r.at], r); len(m.runs[r.at]) == 0 {
		delete(m.runs, r.at)
	}
	m.mu.Unlock()
	m.release(r)
}

// follow waits for the end of a call that has become a task, and for the rounds that need nothing of
// the client.
func (m *Manager) follow(r *run) {
	defer m.remove(r)
	for {
		var out outcome
		select {
		case out = <-r.done:
		case <-m.base.Done():
			select {
			case out = <-r.done: // just in time
				m.finish(r, out)
			default:
				m.finish(r, outcome{err: errInterrupted})
				<-r.done // a handler returns soon after its context ends
			}
			return
		}
		if !m.again(r, out) {
			m.finish(r, out)
			return
		}
		m.start(r)
	}
}

// again prepares the next round of a tool that asks for nothing but to be called again later (SEP-2322
// "load shedding"), and waits a little.
func (m *Manager) again(r *run, out outcome) bool {
	if out.err != nil || out.res.Ask == nil || len(out.res.Ask.Requests) > 0 {
		return false
	}
	r.mu.Lock()
	r.rec.Round++
	enough := r.rec.Round > maxRounds
	r.mu.Unlock()
	if enough {
		return false // and finish says so
	}
	r.call.Reply = &atlas.Reply{State: out.res.Ask.State}
	t := time.NewTimer(m.cfg.PollInterval)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return true // the pipeline says what that means
	}
}

// finish writes down how a round ended. Where somebody else has ended the task meanwhile (tasks/cancel,
// or another process after this one's lease), that stands.
func (m *Manager) finish(r *run, out outcome) {
	r.mu.Lock()
	next := r.rec
	version := r.version
	r.mu.Unlock()
	if version == 0 {
		return
	}
	m.outcome(r, &next, out)
	if !m.places.grow(r.at, next.size(), next.Expires) {
		m.tooLarge(r, &next, atlas.CodeRateLimited, "the results kept for this caller are too many; the call ended, but its answer is lost")
		m.places.grow(r.at, next.size(), next.Expires)
	}
	for try := 0; time.Now().Before(next.Expires); try++ {
		v, err := m.save(m.base, r.at, version, &next)
		if err == nil {
			if v != 0 {
				r.mu.Lock()
				r.rec, r.version = next, v
				r.mu.Unlock()
				m.notify(r.at)
			}
			return
		}
		if code := atlas.CodeOf(err); (code == atlas.CodeRateLimited || code == atlas.CodeTooLarge) && next.size() > smallest {
			m.tooLarge(r, &next, code, "the answer could not be kept; the call ended, but its answer is lost")
			m.places.grow(r.at, next.size(), next.Expires)
			continue
		}
		if errors.Is(err, errEncode) { // a question that is no JSON
			m.deps.Log.Error("a round of a task cannot be kept", "call", r.call.ID, "tool", next.Tool, "err", err)
			next.end(time.Now(), Failed, "The call failed.", rendering{err: errorInternal})
			continue
		}
		m.deps.Log.Warn("the end of a task could not be stored", "call", r.call.ID, "err", err)
		if m.base.Err() != nil && try >= lastTries {
			return // the lease ends, and that says it
		}
		t := time.NewTimer(min(firstPause<<min(try, 10), longestPause))
		select {
		case <-t.C:
		case <-m.base.Done():
			t.Stop()
		}
	}
}

const (
	firstPause   = 50 * time.Millisecond // before storing is tried again
	longestPause = 5 * time.Second
	lastTries    = 2 // when the process stops
)

// smallest is above the size of an answer that only says that there is none.
const smallest = 4 << 10

// outcome puts the end of a round into the record.
func (m *Manager) outcome(r *run, next *record, out outcome) {
	now := time.Now()
	switch {
	case errors.Is(out.err, errInterrupted), out.err != nil && errors.Is(context.Cause(r.ctx), errInterrupted):
		next.end(now, Failed, "The server stopped.", rendering{err: errorInterrupted})
	case out.err == nil && out.res.Ask != nil:
		m.park(r, next, out.res.Ask, now)
	default:
		rendered := render(&r.call, r.reads, &out.res, out.err)
		if n := len(rendered.result) + len(rendered.err); n > m.cfg.MaxResult {
			m.tooLarge(r, next, atlas.CodeTooLarge, "the answer is too large to be kept; ask for less")
			return
		}
		if len(rendered.err) > 0 {
			next.end(now, Failed, "The call failed.", rendered)
			return
		}
		next.end(now, Completed, "", rendered)
	}
}

func (m *Manager) tooLarge(r *run, next *record, code atlas.Code, hint string) {
	next.end(time.Now(), Completed, "", tooLarge(&r.call, code, hint))
}

// park writes down what the tool asks and what is needed to go on.
func (m *Manager) park(r *run, next *record, ask *atlas.Ask, now time.Time) {
	if next.Round >= maxRounds {
		next.end(now, Failed, "The tool asked too often.", rendering{err: errorRounds})
		return
	}
	next.Round++
	next.Status, next.Message, next.Updated = InputRequired, "The tool waits for input.", now
	next.Worker, next.State = "", ask.State
	next.Asked, next.Answers = make(map[string]asked, len(ask.Requests)), nil
	for key, req := range ask.Requests {
		// A tool may use a key in every round; within a task it must not come twice.
		next.Asked[key+"."+strconv.Itoa(next.Round)] = asked{Key: key, Request: InputRequest(req)}
	}
	c := r.call
	next.Resume = &resumption{
		Args: c.Args.Raw, IdempotencyKey: c.IdempotencyKey, TraceParent: c.TraceParent, TraceState: c.TraceState,
	}
}

// A peer passes on what a call tells its client, until the call is answered, by a task too.
type peer struct {
	mu sync.Mutex // guards to
	to atlas.Peer
}

func (p *peer) close() {
	p.mu.Lock()
	p.to = nil
	p.mu.Unlock()
}

// Progress implements [atlas.Peer].
func (p *peer) Progress(done, total float64, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to != nil {
		p.to.Progress(done, total, text)
	}
}

// Log implements [atlas.Peer].
func (p *peer) Log(level atlas.LogLevel, logger string, data any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to != nil {
		p.to.Log(level, logger, data)
	}
}
