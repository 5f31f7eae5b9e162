package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// errNotFound is one and the same for an id that nobody has, that somebody else has, and whose time
// has come.
var errNotFound = atlas.Errorf(atlas.CodeNotFound, nil, "Task not found")

const (
	maxConflicts = 8        // of one update with others
	maxAnswer    = 64 << 10 // bytes of one answer
)

// Get returns the task of that id, if it is call's caller's; else the code is not_found. Of the call,
// only who makes it matters, and that its client declared tasks: if not, the code is
// missing_client_capability.
func (m *Manager) Get(ctx context.Context, call atlas.Call, id string) (Task, error) {
	_, rec, _, err := m.find(ctx, call, id)
	if err != nil {
		return Task{}, err
	}
	return rec.task(id, m.cfg.PollInterval), nil
}

// find loads the task of that id for call's caller.
func (m *Manager) find(ctx context.Context, call atlas.Call, id string) (place, record, int64, error) {
	if !call.Client.Tasks {
		return place{}, record{}, 0, message.MissingCapability(capability)
	}
	if id == "" || len(id) > maxID {
		return place{}, record{}, 0, errNotFound
	}
	if m.deps.Admit != nil {
		if err := m.deps.Admit(ctx, call); err != nil {
			return place{}, record{}, 0, err
		}
	}
	at := placeOf(call, id)
	rec, version, err := m.loadSettled(ctx, at)
	if err != nil {
		return place{}, record{}, 0, err
	}
	// The token must be as good as the one that made the call: a narrower one of the same caller was
	// given to somebody who should see less.
	if version == 0 || !call.Principal.HasScopes(rec.Scopes) {
		return place{}, record{}, 0, errNotFound
	}
	return at, rec, version, nil
}

// loadSettled is load, and reports a task as failed whose process is gone.
func (m *Manager) loadSettled(ctx context.Context, at place) (record, int64, error) {
	for range maxConflicts {
		rec, version, err := m.load(ctx, at)
		if err != nil || version == 0 || rec.Status != Working || rec.Worker == m.worker {
			return rec, version, err
		}
		alive, err := m.alive(ctx, rec.Worker)
		if err != nil || alive {
			return rec, version, err
		}
		rec.end(time.Now(), Failed, "The server stopped.", rendering{err: errorInterrupted})
		v, err := m.save(ctx, at, version, &rec)
		if err != nil {
			return record{}, 0, err
		}
		if v != 0 {
			m.notify(at)
			return rec, v, nil
		}
	}
	return record{}, 0, errContended
}

var errContended = atlas.Errorf(atlas.CodeStateUnavailable, nil, "")

// Cancel ends the task of that id, if it is call's caller's and has not ended. What runs is told to
// stop; what it has done by then stays done. Errors are those of [Manager.Get].
func (m *Manager) Cancel(ctx context.Context, call atlas.Call, id string) error {
	for range maxConflicts {
		at, rec, version, err := m.find(ctx, call, id)
		if err != nil || rec.Status.Final() {
			return err
		}
		rec.end(time.Now(), Cancelled, "The caller cancelled the task.", rendering{})
		v, err := m.save(ctx, at, version, &rec)
		if err != nil {
			return err
		}
		if v == 0 {
			continue
		}
		m.places.grow(at, rec.size(), rec.Expires)
		m.notify(at)
		if m.deps.Cancelled != nil {
			m.deps.Cancelled(ctx, call, id)
		}
		m.mu.Lock()
		for r := range m.runs[at] {
			r.cancel(errCancelled) // a process elsewhere looks for itself
		}
		m.mu.Unlock()
		return nil
	}
	return errContended
}

// Update gives the task of that id, if it is call's caller's, answers to what it asked for, by the
// keys of its InputRequests. Answers to anything else are ignored. When nothing is left to be
// answered, the tool goes on, as call: with its principal, client and id, and the name and arguments
// of the call that made the task. Errors are those of [Manager.Get], invalid_arguments for an answer
// that is no object, and rate_limited when too much runs: then the answers were not taken.
func (m *Manager) Update(ctx context.Context, call atlas.Call, id string, answers map[string]json.RawMessage) error {
	for range maxConflicts {
		at, rec, version, err := m.find(ctx, call, id)
		if err != nil {
			return err
		}
		if rec.Status != InputRequired {
			return nil
		}
		changed, err := rec.take(answers)
		if err != nil || !changed {
			return err
		}
		done, err := m.advance(ctx, call, id, at, &rec, version)
		if err != nil || done {
			return err
		}
	}
	return errContended
}

// take moves the answers that were asked for into the record.
func (r *record) take(answers map[string]json.RawMessage) (changed bool, err error) {
	for key, answer := range answers {
		a, open := r.Asked[key]
		if !open {
			continue
		}
		answer = bytes.TrimSpace(answer)
		if len(answer) == 0 || answer[0] != '{' || len(answer) > maxAnswer || !json.Valid(answer) {
			return false, atlas.Errorf(atlas.CodeInvalidArguments, nil, "an input response must be an object of at most 65536 bytes")
		}
		if r.Answers == nil {
			r.Answers = make(map[string]json.RawMessage, len(r.Asked))
		}
		r.Answers[a.Key] = answer
		delete(r.Asked, key)
		changed = true
	}
	return changed, nil
}

// advance stores a record with new answers, and goes on with the call if that were the last. It
// reports false if somebody else was faster.
func (m *Manager) advance(ctx context.Context, call atlas.Call, id string, at place, rec *record, version int64) (bool, error) {
	rec.Updated = time.Now()
	if len(rec.Asked) > 0 {
		v, err := m.save(ctx, at, version, rec)
		if v != 0 {
			m.places.grow(at, rec.size(), rec.Expires)
			m.notify(at)
		}
		return v != 0, err
	}
	if err := m.renew(ctx, false); err != nil {
		return false, err
	}
	next := call
	next.Op, next.Kind, next.Name = atlas.OpCall, atlas.KindTool, rec.Tool
	next.Reply = &atlas.Reply{Answers: rec.Answers, State: rec.State}
	if rec.Resume != nil {
		next.Args.Raw, next.IdempotencyKey = rec.Resume.Args, rec.Resume.IdempotencyKey
		next.TraceParent, next.TraceState = rec.Resume.TraceParent, rec.Resume.TraceState
	}
	tool, ok := m.deps.Tool(next)
	if !ok {
		tool = &atlas.Tool{} // the pipeline says so
	}
	r, err := m.newRun(next, tool, rec.Timeout)
	if err != nil {
		return false, err
	}
	rec.Status, rec.Message, rec.Worker = Working, "", m.worker
	rec.Asked, rec.Answers, rec.State, rec.Resume = nil, nil, nil, nil
	rec.Expires = rec.Updated.Add(rec.Timeout + m.cfg.TTL)
	r.id, r.at, r.rec = id, at, *rec
	m.enlist(r) // before the save, so that whoever cancels it from then on finds it
	v, err := m.save(ctx, at, version, rec)
	if err != nil || v == 0 {
		m.remove(r)
		return false, err
	}
	r.mu.Lock()
	r.version = v
	r.mu.Unlock()
	m.places.grow(at, rec.size(), rec.Expires)
	m.notify(at)
	m.start(r)
	go m.follow(r)
	return true, nil
}
