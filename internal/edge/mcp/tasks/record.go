package tasks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A place is where one task is kept. Its key is made of the caller and the id, so that a task of
// somebody else is not refused but not there: looking it up is the same as looking up an id that
// nobody has. The store never sees the id.
type place struct {
	space string // holds the acting tenant
	key   string
}

const maxID = 64

// placeOf returns the place of call's caller's task of that id. A caller is acting tenant, home
// tenant, issuer, subject and who acts for him: two issuers may give one subject to two people, and
// what one agent asked for on somebody's behalf is not another agent's to read.
func placeOf(call atlas.Call, id string) place {
	p := call.Principal
	h := sha256.New()
	for _, part := range []string{string(call.Tenant), string(p.Tenant), p.Issuer, p.Subject, p.Delegator, id} {
		h.Write([]byte(strconv.Itoa(len(part)) + ":" + part + ";"))
	}
	return place{space: "tasks/" + string(call.Tenant), key: hex.EncodeToString(h.Sum(nil))}
}

// A record is one task in the store. What is needed to go on with a call is only in there while it
// waits for its client; a call that is cut off in the middle is never run again.
type record struct {
	Key     string // of its place: a row that was moved is nobody's
	Status  Status
	Message string `json:",omitempty"`
	Created time.Time
	Updated time.Time
	Expires time.Time
	Tool    string
	Scopes  []string      `json:",omitempty"` // of the tool: a later token needs them as well
	Timeout time.Duration // of one round, for the lifetime of the next
	Worker  string        `json:",omitempty"` // of Working: who runs it

	Round   int                        `json:",omitempty"` // of asking, from 1
	Asked   map[string]asked           `json:",omitempty"` // of InputRequired, by the key that the client sees
	Answers map[string]json.RawMessage `json:",omitempty"` // of InputRequired, by the tool's key
	State   []byte                     `json:",omitempty"` // of InputRequired, as the pipeline sealed it
	Resume  *resumption                `json:",omitempty"` // of InputRequired

	Result json.RawMessage `json:",omitempty"`
	Error  json.RawMessage `json:",omitempty"`
}

// asked is one request to the client that is not answered yet.
type asked struct {
	Key     string // the tool's
	Request InputRequest
}

// A resumption is what the next round of a call takes from the first. Who calls, with which rights,
// comes from the token that brings the answers.
type resumption struct {
	Args           json.RawMessage `json:",omitempty"`
	IdempotencyKey string          `json:",omitempty"`
	TraceParent    string          `json:",omitempty"`
	TraceState     string          `json:",omitempty"`
}

// task returns the record as its caller sees it.
func (r *record) task(id string, poll time.Duration) Task {
	t := Task{
		ID: id, Status: r.Status, StatusMessage: r.Message,
		CreatedAt: r.Created, LastUpdatedAt: r.Updated,
		TTLMs: r.Expires.Sub(r.Created).Milliseconds(), PollIntervalMs: poll.Milliseconds(),
		Result: r.Result, Error: r.Error,
	}
	if len(r.Asked) > 0 {
		t.InputRequests = make(map[string]InputRequest, len(r.Asked))
		for k, a := range r.Asked {
			t.InputRequests[k] = a.Request
		}
	}
	return t
}

// end makes the record final and drops what was only needed on the way there.
func (r *record) end(now time.Time, status Status, message string, out rendering) {
	r.Status, r.Message, r.Updated = status, message, now
	r.Worker, r.Asked, r.Answers, r.State, r.Resume = "", nil, nil, nil, nil
	r.Result, r.Error = out.result, out.err
}

// size is what the record counts for against its caller's share of the store.
func (r *record) size() int64 {
	n := len(r.Result) + len(r.Error) + len(r.State)
	for _, a := range r.Asked {
		n += len(a.Request.Params)
	}
	for _, a := range r.Answers {
		n += len(a)
	}
	if r.Resume != nil {
		n += len(r.Resume.Args)
	}
	return int64(n)
}

var errEncode = errors.New("tasks: cannot be encoded")

const (
	storeTime = 5 * time.Second // for one read or write
	linger    = time.Minute     // how long the store keeps a task beyond its end, for the sweep to delete it
)

// load reads the record at p. Version 0 means that there is none.
func (m *Manager) load(ctx context.Context, p place) (record, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	raw, version, err := m.deps.Store.Get(ctx, p.space, p.key)
	if err != nil || version == 0 {
		return record{}, 0, err
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return record{}, 0, atlas.Errorf(atlas.CodeInternal, err, "")
	}
	if r.Key != p.key || !time.Now().Before(r.Expires) {
		return record{}, 0, nil
	}
	return r, version, nil
}

// save writes the record if the place still is at the version, and returns the new version: 0 if
// somebody else was faster.
func (m *Manager) save(ctx context.Context, p place, version int64, r *record) (int64, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return 0, atlas.Errorf(atlas.CodeInternal, errors.Join(errEncode, err), "")
	}
	// A client that has gone must not leave a task half written.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	return m.deps.Store.CompareAndSet(ctx, p.space, p.key, version, raw, r.Expires.Add(linger))
}

// The errors of JSON-RPC that end a task from outside. They say nothing of the call.
var (
	errorInterrupted = json.RawMessage(`{"code":-32603,"message":"Interrupted: the server stopped before the call ended; call again if that is safe"}`)
	errorInternal    = json.RawMessage(`{"code":-32603,"message":"Internal error"}`)
	errorRounds      = json.RawMessage(`{"code":-32603,"message":"The tool asked too often"}`)
)
