package atlas

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"
)

// A Handler answers a call. The call is passed by value: a stage that changes it changes only
// what the stages inside see. A handler must be safe for concurrent use, must return soon after
// ctx ends, and returns failures as *[Error] where it knows the reason.
//
// [Result.Notes] is meaningful even beside a non-nil error: it is how an inner stage tells the
// outer ones (audit, telemetry) what it decided. Every other field of a Result that comes with
// an error is to be ignored.
type Handler func(ctx context.Context, call Call) (Result, error)

// A Stage wraps a Handler with one concern, such as policy or rate limiting.
type Stage func(Handler) Handler

// Chain runs stages in the order given: Chain(a, b)(h) is a(b(h)). With no stage it is the
// identity.
func Chain(stages ...Stage) Stage {
	return func(h Handler) Handler {
		for _, stage := range slices.Backward(stages) {
			h = stage(h)
		}
		return h
	}
}

// Op is what a call asks for.
type Op uint8

// The operations that enter the pipeline.
const (
	OpCall Op = iota // run one tool
	OpList           // list the tools that the caller may use
)

// String returns the MCP method of the operation on tools.
func (o Op) String() string {
	if o == OpList {
		return "tools/list"
	}
	return "tools/call"
}

// A Call is one request on its way through the pipeline. The edge fills in who asks for what;
// the registry stage sets Tool, the validation stage decodes and canonicalises Args.
type Call struct {
	ID        string     // request id, unique per call; also names the call in errors, logs and audit
	Op        Op         // what is asked for
	Kind      Kind       // of the tool that is asked for, or of the tools to list
	Name      string     // tool name as asked for; empty for OpList
	Tool      *Tool      // set by the registry stage; nil outside it. Shared, read-only
	Args      Args       // arguments
	Principal *Principal // who asks; never nil. Shared, read-only
	Tenant    TenantID   // for which tenant: Principal.Tenant unless impersonating
	Transport string     // "http", "stdio", "cli" or "internal"

	IdempotencyKey string // caller's key for a write, from _meta; may be empty
	Budget         Budget // what is left of the caller's turn, from _meta; may be zero
	TraceParent    string // W3C traceparent from _meta; may be empty
	TraceState     string // W3C tracestate from _meta; may be empty

	Client Client // what the client can do
	Reply  *Reply // the client's replies to what the tool asked for earlier; nil in the first round
	Peer   Peer   // the client while the call runs; nil if it wants to hear nothing
	Task   bool   // runs as a task: the budget stage gives it Tool.Task.Timeout

	Parent *Parent  // set when a composed or workflow tool makes this call; nil for a caller's own
	Facts  Facts    // what was found out about the arguments; set by the policy stage
	Page   PageSpec // which page of the result is wanted; set by the guard stage

	// Fault is a fault that the edge found in the request. The validation stage refuses the call (the
	// registry stage, a list) with it, so that the refusal is recorded like any other; nothing runs.
	Fault error

	Received time.Time // when the edge received the call
}

// Child returns a call of the named tool made by the tool that answers c. It carries c's
// principal, tenant, trace and budget, so that policy, cache, breaker and audit apply to it as
// they would to the caller; the caller's rate limit is charged for c alone, unless c is a list.
func (c Call) Child(id, name string, args json.RawMessage) Call {
	depth := 1
	if c.Parent != nil {
		depth = c.Parent.Depth + 1
	}
	child := Call{
		ID: id, Op: OpCall, Name: name, Args: Args{Raw: args},
		Principal: c.Principal, Tenant: c.Tenant, Transport: "internal",
		Budget: c.Budget, TraceParent: c.TraceParent, TraceState: c.TraceState,
		Parent: &Parent{ID: c.ID, Tool: c.Name, Depth: depth, List: c.Op == OpList}, Received: c.Received,
	}
	if c.IdempotencyKey != "" {
		// Its own key, also when one tool is called twice with different arguments; the same key when
		// the parent is repeated.
		digest := sha256.Sum256([]byte(c.IdempotencyKey + "\x00" + name + "\x00" + string(args)))
		child.IdempotencyKey = hex.EncodeToString(digest[:])
	}
	return child
}

// A Parent names the call in whose course a child call is made.
type Parent struct {
	ID    string // the parent's Call.ID
	Tool  string // the parent's tool
	Depth int    // 1 for a child of a caller's own call
	List  bool   // the parent is a list or a completion, which the rate limit has not charged for
}

// Args are a call's arguments.
type Args struct {
	// Raw is a JSON object: as received until the validation stage, and from there inward its
	// canonical form (RFC 8785) with defaults filled in. Empty means {}.
	Raw json.RawMessage
	// Values is Raw decoded, numbers as [json.Number]. Set by the validation stage; read-only.
	Values map[string]any
	// Digest is the SHA-256 of the canonical Raw. Set by the validation stage.
	Digest [32]byte
}

// A Budget is what a caller's turn has left when it makes a call. The zero Budget means that
// the caller sent none.
type Budget struct {
	Total    time.Duration // time left of the turn, at Call.Received
	Reserve  time.Duration // kept back for the model's own next step
	Expected []string      // names of the tools that the caller still means to call after this one
}

// Facts are what Atlas finds out about a call's arguments before policy decides.
type Facts struct {
	SQL     string   // the SQL text that would run, as written; empty if none
	Tables  []string // tables that the SQL reads, sorted, lower case
	Columns []string // columns that the SQL reads, sorted, lower case, without table
	PII     []string // kinds of personal data found in the arguments, sorted (as in the guard stage)
}

// A PageSpec asks for part of a long result.
type PageSpec struct {
	Offset int // items to skip
}

// A Result answers a call.
type Result struct {
	// Structured is the answer, one JSON object that fits the tool's output schema.
	Structured json.RawMessage
	// Content is an answer that is more than one JSON object. The edge renders it in place of the
	// JSON as text; Structured may be empty then.
	Content []Content
	// Ask says that the tool has not run to its end: the client must answer first. The other fields
	// but Notes are empty then.
	Ask *Ask
	// Tools is the answer to OpList, sorted by name.
	Tools []*Tool
	// Truncated says that items were left out; NextCursor, if not empty, fetches them.
	Truncated  bool
	NextCursor string
	// Partial marks a degraded answer (a workflow's branch failed); it is never cached.
	Partial bool
	// AsOf is when the answer was read from its source; zero means just now.
	AsOf time.Time
	// Notes tells the outer stages what the inner ones decided.
	Notes Notes
}

// Size returns how many bytes the answer has, as JSON, text and data.
func (r *Result) Size() int {
	n := len(r.Structured)
	for i := range r.Content {
		n += len(r.Content[i].Text) + len(r.Content[i].Data)
	}
	return n
}

// Notes are what the stages of one call decided, for audit and telemetry. A stage fills in its
// own fields on the Result that it returns, also when it returns an error beside it.
type Notes struct {
	Decision   string        // policy: "allow" or "deny"; empty when policy was not reached
	Rule       string        // policy: id of the rule that decided; empty for the default deny
	PolicyHash string        // policy: version of the rules that decided
	Cache      string        // cache: "hit", "miss" or "bypass"; empty when not reached
	Replayed   bool          // idempotency: answered from the first result
	ApprovalID string        // approval: the approval asked for or used
	Timeout    time.Duration // budget: deadline given to the call
	Attempts   int           // retry: how often the tool was run
	Breaker    string        // breaker: "closed", "half-open" or "open"; empty when not reached
	Redacted   int           // guard: values redacted from the result
	Asked      bool          // rounds: the answer is an Ask
}
