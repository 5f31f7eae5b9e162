package isolation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Side is one of the two tenants of a proof.
type Side uint8

// The sides. A attacks; B owns what A must not see.
const (
	A Side = iota
	B
)

// Other returns the other side.
func (s Side) Other() Side { return 1 - s }

// String returns the side's letter.
func (s Side) String() string { return [...]string{"A", "B"}[s] }

// A Caller is who asks: a side, with the rights of the role of that number in [Target.Roles]. The same
// number means the same rights on both sides.
type Caller struct {
	Side Side
	Role int
}

// An Op is what is asked for, by its method in the protocol.
type Op string

// The operations.
const (
	OpCall      Op = "tools/call"
	OpRead      Op = "resources/read"
	OpGet       Op = "prompts/get"
	OpComplete  Op = "completion/complete"
	OpTools     Op = "tools/list"
	OpResources Op = "resources/list"
	OpTask      Op = "tasks/get"
	OpCancel    Op = "tasks/cancel"
)

// An Ask is one request.
type Ask struct {
	Op   Op
	Name string          // of the tool or the prompt; of the resource's template with OpComplete
	URI  string          // of OpRead, and of the template with OpComplete
	Args json.RawMessage // of OpCall and OpGet; nil means {}

	Argument, Prefix string // of OpComplete

	Key    string            // idempotency key
	State  string            // request state of an earlier round, with the replies
	Reply  json.RawMessage   // answers to what was asked, an object
	Task   string            // id of a task
	Follow bool              // the client can follow a task
	Elicit bool              // the client can ask its person
	Repeat string            // request id of an earlier call, used again; empty: a new one
	Cancel time.Duration     // the caller goes away after so long; 0: never
	Header map[string]string // further header fields, over HTTP
	Query  string            // of the URL, over HTTP
}

// An Answer is what came back, whatever it is.
type Answer struct {
	// Text is all that the caller got: content, failure, notes and header fields.
	Text       string
	Structured json.RawMessage // the answer as JSON, if it is one
	Failure    *atlas.Failure  // nil if it is no failure
	Status     int             // over HTTP
	RequestID  string
	Cursor     string // fetches the next page
	State      string // of a question; the request state to send back
	Asked      bool   // the client has been asked something
	Task       string // the call goes on under this id
	Approval   string // the approval that a person must give
	Took       time.Duration

	body []byte // over HTTP: the message
}

// Code returns the failure's code; empty for none.
func (a *Answer) Code() atlas.Code {
	if a.Failure == nil {
		return ""
	}
	return a.Failure.Code
}

// A Tool is a tool, a prompt or a resource as a caller sees it listed.
type Tool struct {
	Name        string
	Kind        atlas.Kind
	Source      string // empty if it is made of others, or not known
	URI         string // of a resource or a template
	Description string
	Input       json.RawMessage
	ReadOnly    bool
	Destructive bool
}

// A Target is what is attacked. It is safe for concurrent use.
type Target interface {
	// Roles names the rights under which both sides can call.
	Roles() []string
	// Tools lists what the caller may use, of all kinds.
	Tools(ctx context.Context, who Caller) ([]Tool, error)
	// Do asks. A refusal is an answer; an error means that nothing is known: [ErrUnsupported] if the
	// target does not have the operation, else what kept the request from being answered.
	Do(ctx context.Context, who Caller, ask Ask) (Answer, error)
}

// A Doorway is a Target that is reached over HTTP, with what can be tried there only.
type Doorway interface {
	Target
	// Raw sends a request with the caller's token to a path below the server's URL. A header field
	// given here takes the place of the usual one; one with an empty value is left out.
	Raw(ctx context.Context, who Caller, method, path string, header http.Header, body []byte) (Answer, http.Header, error)
	// Token returns the caller's token.
	Token(who Caller) string
}

// ErrUnsupported means that a target does not have an operation.
var ErrUnsupported = errors.New("the target does not have this operation")
