// Package message holds the words of the Model Context Protocol as Atlas speaks it: how a message is
// read into an [atlas.Call], and how an [atlas.Result] is written. It knows JSON and header fields;
// connections, sessions and the SDK are its users' business. Everything that is written on the hot
// path is appended to a buffer, without reflection.
package message

import "slices"

// FirstModern is the first revision without sessions. Revisions are dates and compare as text.
const FirstModern = "2026-07-28"

// NewestLegacy is the newest revision that begins with initialize.
const NewestLegacy = "2025-11-25"

// DefaultLegacy is the revision of a client over HTTP that names none (2025-06-18, transports).
const DefaultLegacy = "2025-03-26"

// Revisions returns the revisions that Atlas speaks, newest first.
func Revisions() []string {
	return []string{FirstModern, NewestLegacy, "2025-06-18", DefaultLegacy, "2024-11-05"}
}

// Known reports whether Atlas speaks the revision.
func Known(revision string) bool {
	switch revision {
	case FirstModern, NewestLegacy, "2025-06-18", DefaultLegacy, "2024-11-05":
		return true
	}
	return false
}

// Negotiate returns the revision for a client that asked for one by initialize: its own if that is
// one with sessions, else the newest of those.
func Negotiate(asked string) string {
	if asked < FirstModern && slices.Contains(Revisions(), asked) {
		return asked
	}
	return NewestLegacy
}

// Names of header fields, in their canonical form.
const (
	HeaderVersion = "Mcp-Protocol-Version"
	HeaderMethod  = "Mcp-Method"
	HeaderName    = "Mcp-Name"
	HeaderSession = "Mcp-Session-Id"
	headerParam   = "Mcp-Param-"
)

// Methods that Atlas itself has to know by name.
const (
	MethodInitialize = "initialize"
	MethodCall       = "tools/call"
	MethodList       = "tools/list"
	methodPrompt     = "prompts/get"
	methodRead       = "resources/read"
	methodGetTask    = "tasks/get"
	methodUpdateTask = "tasks/update"
	methodCancelTask = "tasks/cancel"
	MethodCancelled  = "notifications/cancelled"
	MethodProgress   = "notifications/progress"
	MethodLog        = "notifications/message"
	MethodElicit     = "elicitation/create"
	MethodSample     = "sampling/createMessage"
	MethodRoots      = "roots/list"
)

// Keys of _meta in requests.
const (
	metaVersion        = "io.modelcontextprotocol/protocolVersion"
	metaClient         = "io.modelcontextprotocol/clientInfo"
	metaCapabilities   = "io.modelcontextprotocol/clientCapabilities"
	metaLogLevel       = "io.modelcontextprotocol/logLevel"
	metaProgressToken  = "progressToken"
	metaTraceParent    = "traceparent" // SEP-414
	metaTraceState     = "tracestate"
	metaBudget         = "atlas/budget"
	metaIdempotencyKey = "atlas/idempotency_key"
)

// Keys of _meta in results and in listed tools.
const (
	metaServer    = "io.modelcontextprotocol/serverInfo"
	metaRequestID = "atlas/request_id"
	metaAsOf      = "atlas/as_of"   // when the answer was read from its source
	metaReads     = "atlas/reads"   // private or untrusted
	metaPartial   = "atlas/partial" // a part is missing
	metaTruncated = "atlas/truncated"
	metaLevel     = "atlas/level"
	metaEffects   = "atlas/effects"
)

// TasksExtension is the capability of a client that can follow tasks (SEP-2663).
const TasksExtension = "io.modelcontextprotocol/tasks"
