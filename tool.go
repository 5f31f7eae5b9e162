package atlas

import (
	"context"
	"encoding/json"
	"time"
)

// Level is a tool's place in the hierarchy of the seed.
type Level string

// The three levels. A tool calls tools of lower levels only.
const (
	Atomic   Level = "atomic"   // one operation on one source
	Composed Level = "composed" // a fixed chain of atomic tools
	Workflow Level = "workflow" // a procedure of several steps
)

// Reads says how far a tool's answer can be trusted.
type Reads string

// What a tool reads.
const (
	ReadsPrivate   Reads = "private"   // the tenant's own records
	ReadsUntrusted Reads = "untrusted" // text that outsiders wrote: tickets, mail, web pages
)

// Effects says what a tool changes.
type Effects string

// What a tool changes.
const (
	EffectsNone   Effects = ""
	EffectsWrite  Effects = "write"  // changes data in a source
	EffectsEgress Effects = "egress" // sends data out of the company
)

// A Kind says by which feature of the protocol clients reach a tool.
type Kind uint8

// The kinds.
const (
	KindTool     Kind = iota // tools/list and tools/call
	KindPrompt               // prompts/list and prompts/get; the answer's Content are its messages
	KindResource             // resources/list and resources/read; the answer's Content are its contents
)

// String returns the kind's name in the protocol.
func (k Kind) String() string {
	switch k {
	case KindPrompt:
		return "prompt"
	case KindResource:
		return "resource"
	case KindTool:
	}
	return "tool"
}

// A TaskSpec says how a tool may outlast the request that calls it (SEP-2663). The zero TaskSpec
// means never.
type TaskSpec struct {
	After    time.Duration // a call that has not ended by then becomes a task, if the client can follow one
	Timeout  time.Duration // of the call as a task, in place of the tool's own; 0: no task
	Required bool          // the tool is only run as a task
}

// A Tool is one thing that a caller can ask for: a tool of the protocol, a prompt or a resource. All
// of them go through the same stages. Tools are made when the configuration is
// loaded, are shared, and are read-only from then on.
type Tool struct {
	Name        string // [A-Za-z0-9_-]{1,64}, unique among all kinds
	Kind        Kind
	Title       string // for people
	Description string // two to four sentences: what, when, what it returns, side effects
	Level       Level
	Version     string   // hash of the definition; part of cache keys and approvals
	Source      string   // name of the source it uses; empty for composed and workflow tools
	Toolsets    []string // named groups that it belongs to
	Tags        []string
	Icons       []Icon

	// Of a resource: its URI, or a template of URIs (RFC 6570) if it has a '{', and its media type.
	URI, MIME string
	// Match returns the arguments that URI takes for uri, and whether it fits. Of resources only.
	Match func(uri string) (args json.RawMessage, ok bool)
	// Changed returns the URI of the document whose contents a write has changed, by what the write
	// touched ([Tool.Resource] of the write). Of resources only; it may be nil.
	Changed func(touched string) (uri string, ok bool)
	// List returns what there is behind a template, as links, for call's caller. It may be nil.
	List func(ctx context.Context, call Call) ([]Content, error)
	// Complete returns values that the named argument of a prompt or a resource may take and that
	// begin with prefix, for call's caller; known are the arguments that are already filled in. It may
	// be nil.
	Complete func(ctx context.Context, call Call, argument, prefix string, known map[string]string) ([]string, error)

	Input  json.RawMessage // JSON Schema 2020-12 of the arguments, type object
	Output json.RawMessage // JSON Schema 2020-12 of Result.Structured
	Items  string          // top-level array of the answer that may be paged by whole items; or empty

	Scopes      []string // all are needed to see and call the tool
	ReadOnly    bool
	Destructive bool // needs approval
	Idempotent  bool // running twice equals running once
	Reads       Reads
	Effects     Effects

	CacheTTL time.Duration // 0: not cached
	Timeout  time.Duration // declared; the budget stage may give less
	Task     TaskSpec

	// Resource is what the call touches, below the tenant: "<source>/<tool>", or
	// "<source>/<key>" for objects. Policy matches "tenant:<tenant>/<resource>".
	Resource func(Call) string
	// Facts finds out what policy may ask about the arguments. It may be nil. An error counts as
	// an error in every deny rule.
	Facts func(context.Context, Call) (Facts, error)
	// Preview describes the effect of a destructive call to the person who approves it. It may be nil.
	Preview func(context.Context, Call) (string, error)
	// Ask completes the arguments with what the person at the client says, before they are validated
	// and before policy, approval and cache look at them: it returns the arguments as completed, or
	// what has to be asked first. Call.Args.Raw is what the client sent. Only the rounds stage calls
	// it, for a caller's own calls. It may be nil.
	Ask func(ctx context.Context, call Call) (args json.RawMessage, ask *Ask, err error)
	// Run does the work. Only the invoke stage calls it.
	Run Handler
}
