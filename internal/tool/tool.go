// Package tool turns open sources and YAML files into tools. A source's capabilities become its
// verbs (crm_query, kb_search, …); YAML adds parameterised SQL, searches, objects and HTTP requests
// as tools of their own, and composes them: semantic and hybrid search, and workflows of steps.
// Whether a caller may use a tool, and with which limits, is decided by the stages around it.
package tool

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A Source is an open source and what is offered of it.
type Source struct {
	Kind    string        // kind of driver, such as "sqlite"; part of the tools' versions
	Version string        // of the source's settings; part of the tools' versions
	Source  source.Source // must not be nil
	Tools   Verbs         // which verbs to offer, and how
}

// Deps are what tools need to run.
type Deps struct {
	// Call is the pipeline's entry: composed and workflow tools make their children's calls by it,
	// so that policy, cache, breaker and audit apply to them.
	Call atlas.Handler
	// NewID returns a new unique call id.
	NewID func() string
	// CheckSchema reports what is wrong with a JSON Schema that was written in YAML. It may be nil:
	// then only the form that tools need is checked.
	CheckSchema func(schema json.RawMessage) error
	// Memories are where the tools of memories keep what they keep. If it is nil there are no such tools.
	Memories Memories
	// Log is told of tools that a source names and that cannot be offered. It may be nil.
	Log *slog.Logger
}

// A File is one YAML file of tools.
type File struct {
	Name string // for messages
	Data []byte
}

// Build makes the tools of all sources and files, sorted by name. It reports every mistake that it
// finds, joined, each in a file as "file:line:column: message".
func Build(sources map[string]Source, files []File, deps Deps) ([]*atlas.Tool, error) {
	if deps.Call == nil || deps.NewID == nil {
		return nil, errors.New("tools need Call and NewID")
	}
	b := &builder{sources: sources, deps: deps, defs: map[string]*definition{}}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		b.verbs(name, sources[name])
	}
	b.families()
	b.memories()
	b.files(files)
	if len(b.errs) > 0 {
		slices.SortStableFunc(b.errs, byPlace)
		return nil, errors.Join(b.errs...)
	}
	tools := make([]*atlas.Tool, 0, len(b.defs))
	all := b.fingerprint()
	for _, d := range b.defs {
		d.tool.Version = d.version(b.sources[d.tool.Source].Version)
		if d.tool.Level != atlas.Atomic { // its answer depends on its children, too
			d.tool.Version = d.version(all)
		}
		tools = append(tools, d.tool)
	}
	slices.SortFunc(tools, func(a, b *atlas.Tool) int { return cmp.Compare(a.Name, b.Name) })
	return tools, nil
}

// A builder collects definitions and mistakes.
type builder struct {
	sources map[string]Source
	deps    Deps
	defs    map[string]*definition
	docs    []*resource
	errs    []error
}

func (b *builder) errorf(at place, format string, args ...any) {
	b.errs = append(b.errs, at.errorf(format, args...))
}

// A definition is a tool and what else is known of it while tools are built.
type definition struct {
	tool  *atlas.Tool
	verb  string // what it does: a verb of a source ("query", "search", …) or a body of YAML ("sql", …)
	kind  string // kind of its source
	body  string // what it runs, as written; part of its version
	at    place  // where it is defined
	ids   string // name of its argument that takes a list of ids; for hydration
	owner string // the source or file that defines it, for messages

	asked    []string // inputs that a person is asked for if they are missing; others must give them
	confirms bool     // runs only after a person's yes; others cannot give that
}

// add takes in a definition, unless its name is taken or wrong.
func (b *builder) add(d *definition) {
	if !toolName.MatchString(d.tool.Name) {
		b.errorf(d.at, "tool name %q is not allowed; use 1 to 64 of a-z, 0-9 and _, beginning with a letter", d.tool.Name)
		return
	}
	if from, claimed := b.claimed(d.tool.Name); claimed && d.owner != "source "+from {
		b.errorf(d.at, "tool %s: names beginning with %s belong to the tools of source %s", d.tool.Name, from+familySeparator, from)
		return
	}
	if first, taken := b.defs[d.tool.Name]; taken {
		b.errorf(d.at, "tool %s is already defined by %s; give one of them another name", d.tool.Name, first.owner)
		return
	}
	b.defs[d.tool.Name] = d
}

// Names are narrower than MCP's (A-Z and - are kept out) so that no two names differ by case only
// and each can be written as it is in policies, scopes and metrics.
var toolName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// fingerprint is a hash over all definitions and sources.
func (b *builder) fingerprint() string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(b.defs)) {
		d := b.defs[name]
		fmt.Fprintln(h, d.version(b.sources[d.tool.Source].Version))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// version is a hash over all that a caller or an approver relies on, and over what stands behind the
// tool: the version of its source, or of all tools where it calls others.
func (d *definition) version(behind string) string {
	t := d.tool
	data, err := json.Marshal([]any{
		behind,
		t.Name, t.Title, t.Description, t.Level, t.Source, d.kind, d.verb, d.body, t.Input, t.Output, t.Items,
		t.Scopes, t.ReadOnly, t.Destructive, t.Idempotent, t.Reads, t.Effects, t.CacheTTL, t.Timeout,
		t.Kind, t.URI, t.MIME, t.Icons, t.Task,
	})
	if err != nil { // the schemas were made by Marshal
		data = []byte(fmt.Sprint(t.Name, err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// Defaults of what a definition leaves out.
const (
	queryTimeout    = 5 * time.Second
	searchTimeout   = 3 * time.Second
	objectTimeout   = 5 * time.Second
	fetchTimeout    = 15 * time.Second
	composedTimeout = 10 * time.Second
	workflowTimeout = 15 * time.Second
)
