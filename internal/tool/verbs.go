package tool

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Verbs says which verbs of a source are offered as tools, and how. The zero Verbs offers all that
// the source can do, except "send" and "query_dsl", which must be asked for.
type Verbs struct {
	Expose   []string    `yaml:"expose"`   // verbs: query, schema, search, query_dsl, get, list, put, link, fetch, send; [] for none
	Reads    atlas.Reads `yaml:"reads"`    // default: untrusted for search and HTTP sources, private for others
	Toolsets []string    `yaml:"toolsets"` // named groups that the tools belong to
	Tags     []string    `yaml:"tags"`

	// Resources are what is offered as resources of the protocol: schema (the tables) and objects (the
	// documents). Default: what the verbs offered allow; [] for none.
	Resources []string `yaml:"resources"`

	Override map[string]Override `yaml:"override"` // by verb
}

// An Override replaces what is usual for one verb. What it leaves out stays as it is.
type Override struct {
	Title       string         `yaml:"title"`
	Description string         `yaml:"description"`
	Cache       *time.Duration `yaml:"cache"` // 0s: not cached
	Timeout     time.Duration  `yaml:"timeout"`
	Reads       atlas.Reads    `yaml:"reads"`
}

// Validate reports all mistakes, joined.
func (v Verbs) Validate() error {
	var errs []error
	for _, name := range v.Expose {
		if !slices.Contains(verbNames, name) {
			errs = append(errs, fmt.Errorf("expose: %q is not a verb; use %s", name, strings.Join(verbNames, ", ")))
		}
	}
	for _, name := range v.Resources {
		if !slices.Contains(autoNames(), name) {
			errs = append(errs, fmt.Errorf("resources: %q is not known; use %s", name, strings.Join(autoNames(), ", ")))
		}
	}
	checkReads := func(where string, r atlas.Reads) {
		if r != "" && r != atlas.ReadsPrivate && r != atlas.ReadsUntrusted {
			errs = append(errs, fmt.Errorf("%sreads: %q is not known; use private or untrusted", where, r))
		}
	}
	checkReads("", v.Reads)
	for _, name := range slices.Sorted(maps.Keys(v.Override)) {
		o := v.Override[name]
		if !slices.Contains(verbNames, name) {
			errs = append(errs, fmt.Errorf("override: %q is not a verb; use %s", name, strings.Join(verbNames, ", ")))
		}
		checkReads("override."+name+".", o.Reads)
		if o.Description != "" {
			if err := checkDescription(o.Description); err != nil {
				errs = append(errs, fmt.Errorf("override.%s.description %w", name, err))
			}
		}
		if o.Timeout < 0 || o.Cache != nil && *o.Cache < 0 {
			errs = append(errs, fmt.Errorf("override.%s: durations must not be negative", name))
		}
	}
	return errors.Join(errs...)
}

var verbNames = []string{"query", "schema", "search", "query_dsl", "get", "list", "put", "link", "fetch", "send"}

// A verb is one thing that a source with a capability can do. The make functions stand beside the
// code that runs them: query.go, search.go, object.go, fetch.go.
type verb struct {
	name   string
	able   func(source.Source) bool
	make   func(name string, s source.Source) *atlas.Tool
	optIn  bool // offered only when named in expose
	scope  string
	public bool // reads what outsiders wrote, unless configured otherwise
}

func can[C any](s source.Source) bool { _, ok := s.(C); return ok }

// verbTable lists what each capability gives. To add a capability, add its verbs here.
func verbTable() []verb {
	return []verb{
		{name: "query", able: can[source.Querier], make: queryTool, scope: "read"},
		{name: "schema", able: can[source.Querier], make: schemaTool, scope: "read"},
		{name: "search", able: can[source.Searcher], make: searchTool, scope: "read", public: true},
		{name: "query_dsl", able: can[source.BodySearcher], make: dslTool, scope: "read", public: true, optIn: true},
		{name: "search", able: can[source.VectorIndex], make: nearestTool, scope: "read"},
		{name: "get", able: can[source.ObjectStore], make: getTool, scope: "read"},
		{name: "list", able: can[source.ObjectStore], make: listTool, scope: "read"},
		{name: "put", able: can[source.ObjectStore], make: putTool, scope: "write"},
		{name: "link", able: links, make: linkTool, scope: "read"},
		{name: "fetch", able: can[source.Fetcher], make: fetchTool, scope: "fetch", public: true},
		{name: "send", able: can[source.Fetcher], make: sendTool, scope: "write", public: true, optIn: true},
	}
}

// verbs makes the tools of one source.
func (b *builder) verbs(name string, s Source) {
	at := place{}
	if !toolName.MatchString(name) {
		b.errorf(at, "source %q: the name is not allowed; use a-z, 0-9 and _, beginning with a letter", name)
		return
	}
	if name == string(atlas.Composed) || name == string(atlas.Workflow) || name == promptSource { // see fixedResource
		b.errorf(at, "source %q: the name is taken by Atlas; choose another", name)
		return
	}
	if err := s.Tools.Validate(); err != nil {
		b.errorf(at, "source %s: tools: %v", name, err)
		return
	}
	if s.Source == nil {
		b.errorf(at, "source %s is not open", name)
		return
	}
	made := map[string]bool{}
	for _, v := range verbTable() {
		if !v.able(s.Source) {
			continue
		}
		if made[v.name] { // a source that searches both ways: words first
			continue
		}
		made[v.name] = true
		if wanted := slices.Contains(s.Tools.Expose, v.name); !wanted && (s.Tools.Expose != nil || v.optIn) {
			continue
		}
		t := v.make(name, s.Source)
		t.Name, t.Source, t.Level = name+"_"+v.name, name, atlas.Atomic
		t.Scopes = []string{"tool:" + name + ":" + v.scope}
		t.Reads = reads(s, v.public)
		t.Toolsets, t.Tags = slices.Clone(s.Tools.Toolsets), slices.Clone(s.Tools.Tags)
		o := s.Tools.Override[v.name]
		t.Title = cmp.Or(o.Title, t.Title)
		t.Description = cmp.Or(o.Description, t.Description)
		t.Timeout = cmp.Or(o.Timeout, t.Timeout)
		t.Reads = cmp.Or(o.Reads, t.Reads)
		if o.Cache != nil {
			t.CacheTTL = *o.Cache
		}
		if !t.ReadOnly {
			t.CacheTTL = 0
		}
		kind := v.name
		if can[source.VectorIndex](s.Source) && !can[source.Searcher](s.Source) && v.name == "search" {
			kind = "nearest"
		}
		b.add(&definition{tool: t, verb: kind, kind: s.Kind, body: v.name, owner: "source " + name})
	}
	for _, wanted := range s.Tools.Expose {
		if !made[wanted] {
			b.errorf(at, "source %s: expose: a %s source cannot %s", name, s.Kind, wanted)
		}
	}
	for _, wanted := range slices.Sorted(maps.Keys(s.Tools.Override)) {
		if !made[wanted] {
			b.errorf(at, "source %s: override: a %s source cannot %s", name, s.Kind, wanted)
		}
	}
}

// reads is how far what comes from a source can be trusted. A search source is untrusted unless the
// operator says otherwise: most hold text that outsiders wrote.
func reads(s Source, public bool) atlas.Reads {
	if s.Tools.Reads != "" {
		return s.Tools.Reads
	}
	if public {
		return atlas.ReadsUntrusted
	}
	return atlas.ReadsPrivate
}
