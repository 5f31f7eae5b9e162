package atlas

import "encoding/json"

// A Client is what the program at the other end of a call can do, as it declared itself.
type Client struct {
	Elicit    bool // ask its person to fill in a form (elicitation, form mode)
	ElicitURL bool // ask its person to open a page (elicitation, URL mode)
	Sample    bool // ask its model (sampling; deprecated since 2026-07-28)
	Roots     bool // tell its folders (roots; deprecated since 2026-07-28)
	Tasks     bool // follow a call as a task (SEP-2663)
}

// An Ask is what a tool needs from the client before it can answer: a multi round-trip request
// (SEP-2322). Nothing has been done yet when a tool asks; the client sends the call again, with
// the replies.
type Ask struct {
	Requests map[string]ClientRequest // by a key of the tool's choice; may be empty to say "call again"
	// State is the tool's own memory between two rounds; it comes back in [Reply.State]. The rounds
	// stage seals it, so the client can neither read nor change it, nor use it for another call.
	State []byte
}

// A ClientRequest is one thing asked of a client.
type ClientRequest struct {
	Method string          // elicitation/create, sampling/createMessage or roots/list
	Params json.RawMessage // as the protocol defines them for the method; may be nil
}

// A Reply is what a client sends back to an [Ask].
type Reply struct {
	Answers map[string]json.RawMessage // results of the requests by key; some may be missing
	// State is sealed as the client received it until the rounds stage, and what the tool gave from
	// there inward. The tool must not trust anything else of the Reply.
	State []byte
}

// A Peer is the client while its call runs. It drops what the client did not ask for. Its methods
// do not wait for the client, and are safe for concurrent use; after the call has returned they do
// nothing.
type Peer interface {
	// Progress reports how far the call is. Done must grow; total is 0 if it is unknown.
	Progress(done, total float64, message string)
	// Log sends a message for the client's log. Data is encoded as JSON, and must hold nothing that
	// the caller may not see.
	Log(level LogLevel, logger string, data any)
}

// A LogLevel is a severity (RFC 5424 section 6.2.1), by the protocol's names.
type LogLevel string

// The log levels, least severe first.
const (
	LogDebug     LogLevel = "debug"
	LogInfo      LogLevel = "info"
	LogNotice    LogLevel = "notice"
	LogWarning   LogLevel = "warning"
	LogError     LogLevel = "error"
	LogCritical  LogLevel = "critical"
	LogAlert     LogLevel = "alert"
	LogEmergency LogLevel = "emergency"
)
