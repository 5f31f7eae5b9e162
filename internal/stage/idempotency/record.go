package idempotency

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/atlas-mcp/atlas"
)

// The states of a record.
const (
	stateRunning = "running"
	stateDone    = "done"
)

// A record is what is kept for a key.
type record struct {
	State  string    `json:"state"`
	Digest string    `json:"digest"`          // of the first call's arguments
	Owner  string    `json:"owner,omitempty"` // names the run in the store, for operators; the version guards it
	Lease  time.Time `json:"lease,omitzero"`  // end of the run's right
	Result *result   `json:"result,omitempty"`
	Error  *failure  `json:"error,omitempty"`
}

type result struct {
	Structured json.RawMessage `json:"structured,omitempty"`
	Content    []atlas.Content `json:"content,omitempty"`
	Truncated  bool            `json:"truncated,omitempty"`
	NextCursor string          `json:"next_cursor,omitempty"`
	Partial    bool            `json:"partial,omitempty"`
	AsOf       time.Time       `json:"as_of,omitzero"`
}

// A failure is the part of an error that callers see; the cause is not kept.
type failure struct {
	Code    atlas.Code     `json:"code"`
	Hint    string         `json:"hint,omitempty"`
	Context map[string]any `json:"context,omitempty"`
}

func (r record) encode() ([]byte, error) { return json.Marshal(r) }

func decode(data []byte) (record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, err
	}
	if r.State != stateRunning && (r.State != stateDone || r.Result == nil && r.Error == nil) {
		return record{}, errors.New("neither running nor done")
	}
	return r, nil
}

// answer is what the record says to the call; ok is false if the call is to run.
func (r record) answer(call atlas.Call, now time.Time) (res atlas.Result, ok bool, err error) {
	switch {
	case r.State == "", r.State == stateRunning && !now.Before(r.Lease):
		return atlas.Result{}, false, nil
	case r.Digest != hex.EncodeToString(call.Args.Digest[:]):
		return atlas.Result{}, true, &atlas.Error{Code: atlas.CodeIdempotencyReused}
	case r.State == stateRunning:
		return atlas.Result{}, true, running(r.Lease.Sub(now))
	}
	notes := atlas.Notes{Replayed: true}
	if f := r.Error; f != nil {
		return atlas.Result{Notes: notes}, true, &atlas.Error{Code: f.Code, Hint: f.Hint, Context: f.Context}
	}
	return atlas.Result{
		Structured: r.Result.Structured, Content: r.Result.Content, Truncated: r.Result.Truncated, NextCursor: r.Result.NextCursor,
		Partial: r.Result.Partial, AsOf: r.Result.AsOf, Notes: notes,
	}, true, nil
}

// What becomes of a key.
type fate uint8

const (
	keptResult fate = iota
	keptFailure
	keptUnknown // a failure that may have taken effect
	released
)

// outcomeOf decides by the table of the package comment.
func outcomeOf(tool *atlas.Tool, res atlas.Result, err error) fate {
	if err == nil {
		if res.Ask != nil {
			return released // the tool has only asked
		}
		return keptResult
	}
	e := atlas.ErrorOf(err)
	unknown := e.Code == atlas.CodeTimeout || e.Code == atlas.CodeCanceled || e.Code == atlas.CodeInternal
	switch {
	case unknown && !tool.Idempotent:
		return keptUnknown
	case unknown, e.Retryable():
		return released
	case e.Code == atlas.CodeBudgetExhausted && res.Notes.Attempts == 0:
		return released // not retryable within its turn, but nothing was done
	}
	return keptFailure
}

const unknownHint = "the first call with this idempotency key may have taken effect; look before you repeat it, with a new key"

// outcome is the record of a call that has ended.
func (k *Keys) outcome(digest string, tool *atlas.Tool, res atlas.Result, err error) record {
	rec := record{State: stateDone, Digest: digest}
	switch fate := outcomeOf(tool, res, err); fate {
	case keptResult, released:
		if res.Size() > k.cfg.MaxResult || len(res.Structured) > 0 && !json.Valid(res.Structured) {
			rec.Error = &failure{Code: atlas.CodeTooLarge, Hint: "the first call with this idempotency key was done; its answer could not be kept"}
			return rec
		}
		rec.Result = &result{
			Structured: res.Structured, Content: res.Content, Truncated: res.Truncated, NextCursor: res.NextCursor,
			Partial: res.Partial, AsOf: res.AsOf,
		}
	case keptFailure, keptUnknown:
		e := atlas.ErrorOf(err)
		rec.Error = &failure{Code: e.Code, Hint: e.Hint, Context: e.Context}
		if fate == keptUnknown {
			rec.Error.Hint = unknownHint
		}
		if data, merr := json.Marshal(rec.Error); merr != nil || len(data) > k.cfg.MaxResult {
			rec.Error.Context = nil
		}
	}
	return rec
}
