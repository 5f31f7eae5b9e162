package copilot

import (
	"context"
	"encoding/json"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Tools is the way to the tools, as a client has it. List and Call are safe for concurrent use. A
// tool's own failure is an [Observation] with Failure set; an error means that the server could not
// be asked at all.
type Tools interface {
	List(ctx context.Context) ([]Tool, error)
	Call(ctx context.Context, name string, args json.RawMessage, meta CallMeta) (Observation, error)
}

// MemoryTool is the tool, if the server lists it, that answers with what was remembered of a customer in
// earlier conversations: whatever the question, it may have a bearing on it. What it answers is evidence
// like any other; the copilot itself has nothing remembered, since it calls no tool that writes.
const MemoryTool = "memory_find"

// A Tool is a tool as the server lists it.
type Tool struct {
	Name        string
	Title       string
	Description string
	Input       json.RawMessage // JSON Schema of the arguments
	Level       atlas.Level     // may be empty when the server does not say
	Reads       atlas.Reads     // may be empty
	ReadOnly    bool
	Destructive bool
}

// CallMeta travels with each call in _meta.
type CallMeta struct {
	Budget      atlas.Budget // "atlas/budget"
	TraceParent string       // W3C traceparent
}

// An Observation is what a tool answered.
type Observation struct {
	Structured json.RawMessage // structuredContent, or text content that is JSON
	Text       string          // text content, if there is no structured one
	RequestID  string
	AsOf       time.Time // when the answer was read from its source; zero if the server does not say
	Partial    bool      // a part is missing, for now
	Failure    *atlas.Failure
}

// A Turn is one exchange of a session. IDs are those the exchange was about.
type Turn struct {
	Question string    `json:"question"`
	Answer   string    `json:"answer"`
	IDs      []string  `json:"ids"`
	At       time.Time `json:"at"`
}

// A SessionKey names a conversation. Tenant and subject are part of it, so that a guessed session
// name opens nobody else's.
type SessionKey struct{ Tenant, Subject, Session string }

// Memory keeps the last turns of sessions for a short time. It is safe for concurrent use. Recall
// returns the turns that are still remembered, oldest first, as a slice the caller may keep.
type Memory interface {
	Recall(ctx context.Context, key SessionKey) ([]Turn, error)
	Remember(ctx context.Context, key SessionKey, turn Turn) error
}
