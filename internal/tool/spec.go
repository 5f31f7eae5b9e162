package tool

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// A spec is one entry of a file's "tools:", decoded but for its body.
type spec struct {
	name string
	at   place
	n    node

	level       atlas.Level
	title       string
	description string
	source      string
	scopes      []string
	cache       time.Duration
	timeout     time.Duration
	toolsets    []string
	tags        []string
	reads       atlas.Reads
	required    []string
	items       string
	single      bool
	maxRows     int
	output      node
	input       node
	echo        []string
	icons       node
	task        node
	ask         node

	asks  *ask     // what it asks; nil for nothing
	asked []string // inputs that it asks for if they are missing

	body      string // which of the bodies it has
	bodyValue node
	found     map[string]node

	word       string            // what an input is called in messages; empty for input
	properties map[string]schema // of the input
	needed     []string          // required properties, sorted
	verb       Source            // the source it uses; zero for composed tools and workflows
}

// A body is one way to say what a tool does. To add one, add a line.
type body struct {
	level atlas.Level
	make  func(*builder, *spec) *definition
}

func bodies() map[string]body {
	return map[string]body{
		"sql":      {atlas.Atomic, (*builder).sqlBody},
		"search":   {atlas.Atomic, (*builder).searchBody},
		"object":   {atlas.Atomic, (*builder).objectBody},
		"http":     {atlas.Atomic, (*builder).httpBody},
		"semantic": {atlas.Composed, (*builder).semanticBody},
		"hybrid":   {atlas.Composed, (*builder).hybridBody},
		"steps":    {atlas.Workflow, (*builder).stepsBody},
	}
}

var rank = map[atlas.Level]int{atlas.Atomic: 0, atlas.Composed: 1, atlas.Workflow: 2}

// files makes the tools of all files: atomic ones first, because composed tools and workflows are
// built on the definitions of the tools below them.
func (b *builder) files(files []File) {
	var specs []*spec
	var resources, prompts []entry
	for _, f := range files {
		top, ok := parse(f, &b.errs)
		if !ok {
			continue
		}
		var tools, resourcesNode, promptsNode node
		top.into(map[string]any{"tools": &tools, "resources": &resourcesNode, "prompts": &promptsNode})
		for _, e := range tools.below() {
			if s := b.readSpec(e); s != nil {
				specs = append(specs, s)
			}
		}
		resources = append(resources, resourcesNode.below()...)
		prompts = append(prompts, promptsNode.below()...)
	}
	slices.SortStableFunc(specs, func(x, y *spec) int { return cmp.Compare(rank[x.level], rank[y.level]) })
	table := bodies()
	for _, s := range specs {
		if d := table[s.body].make(b, s); d != nil {
			b.finish(s, d)
		}
	}
	b.resourcesAndPrompts(resources, prompts)
}

// readSpec decodes an entry and checks what does not depend on its body.
func (b *builder) readSpec(e entry) *spec {
	s := &spec{name: e.key, at: e.name.at, n: e.name}
	var level, reads string
	vars := map[string]any{
		"level": &level, "title": &s.title, "description": &s.description, "source": &s.source, "scopes": &s.scopes,
		"cache": &s.cache, "timeout": &s.timeout, "toolsets": &s.toolsets, "tags": &s.tags, "reads": &reads,
		"input": &s.input, "required": &s.required, "items": &s.items, "single": &s.single, "max_rows": &s.maxRows,
		"output": &s.output, "echo": &s.echo, "icons": &s.icons, "task": &s.task, "ask": &s.ask,
	}
	values := map[string]*node{}
	table := bodies()
	for name := range table {
		values[name] = new(node)
		vars[name] = values[name]
	}
	before := len(b.errs)
	s.found = e.value.into(vars)
	names := slices.Sorted(maps.Keys(table))
	for _, name := range names {
		if _, ok := s.found[name]; !ok {
			continue
		}
		if s.body != "" {
			s.found[name].errorf("tool %s has two bodies, %s and %s; keep one", s.name, s.body, name)
			return nil
		}
		s.body, s.bodyValue = name, *values[name]
	}
	if s.body == "" {
		if len(b.errs) == before { // a misspelt body was reported already
			s.n.errorf("tool %s does nothing; give it one of %s", s.name, strings.Join(names, ", "))
		}
		return nil
	}
	s.level = table[s.body].level
	if level != "" && atlas.Level(level) != s.level {
		s.found["level"].errorf("level: a tool with %s is %s, not %q", s.body, s.level, level)
	}
	s.reads = atlas.Reads(reads)
	if s.reads != "" && s.reads != atlas.ReadsPrivate && s.reads != atlas.ReadsUntrusted {
		s.found["reads"].errorf("reads: %q is not known; use private or untrusted", reads)
	}
	if s.description == "" {
		s.n.errorf("tool %s has no description; say in two to four sentences what it returns and when to use it", s.name)
	} else if err := checkDescription(s.description); err != nil {
		s.found["description"].errorf("description %s", err)
	}
	s.description = strings.Join(strings.Fields(s.description), " ")
	for _, scope := range s.scopes {
		if !scopeForm.MatchString(scope) {
			s.found["scopes"].errorf("scopes: %q is not a scope; write tool:<name>:<action>", scope)
		}
	}
	b.findSource(s)
	b.readInput(s)
	if s.ask.ast != nil {
		b.readAsk(s)
	}
	for _, name := range s.echo {
		if _, ok := s.properties[name]; !ok {
			s.found["echo"].errorf("echo: there is no input %q", name)
		}
	}
	if s.body != "steps" && len(s.echo) > 0 {
		s.found["echo"].errorf("echo: only tools with steps have it")
	}
	if s.body != "sql" && s.maxRows != 0 {
		s.found["max_rows"].errorf("max_rows: only tools with sql have it")
	}
	if s.items != "" && !regexp.MustCompile(attributePattern).MatchString(s.items) {
		s.found["items"].errorf("items: %q is not a name", s.items)
	}
	if (s.items != "" || s.single) && s.body != "sql" && s.body != "search" {
		s.n.errorf("tool %s: items and single are for tools with sql or search", s.name)
	}
	if s.items != "" && s.single {
		s.found["items"].errorf("items: a tool with single answers one object, not a list")
	}
	return s
}

var scopeForm = regexp.MustCompile(`^tool:[A-Za-z0-9_-]+:[a-z]+$`)

// checkDescription asks for two sentences at least: what a tool does without when to use it is the
// commonest fault of tool descriptions, and models choose by them (arXiv 2602.14878).
func checkDescription(s string) error {
	if n := utf8.RuneCountInString(s); n > 1024 {
		return fmt.Errorf("has %d characters; the limit is 1024", n)
	}
	sentences := 0
	for word := range strings.FieldsSeq(s) {
		if strings.ContainsAny(word[len(word)-1:], ".!?") {
			sentences++
		}
	}
	if sentences < 2 {
		return errors.New("is too short; say in two to four sentences what the tool returns and when to use it")
	}
	return nil
}

func (b *builder) findSource(s *spec) {
	if s.level != atlas.Atomic {
		if s.source != "" {
			s.found["source"].errorf("source: a %s tool has none; its children have", s.level)
		}
		return
	}
	if s.source == "" {
		s.n.errorf("tool %s names no source; add source: with one of %s", s.name, b.sourceNames())
		return
	}
	src, ok := b.sources[s.source]
	if !ok {
		s.found["source"].errorf("source: there is no source %q; use one of %s", s.source, b.sourceNames())
		return
	}
	s.verb = src
}

func (b *builder) sourceNames() string {
	if len(b.sources) == 0 {
		return "(none is configured)"
	}
	return strings.Join(slices.Sorted(maps.Keys(b.sources)), ", ")
}

// capable returns the source of s as C, or reports that it cannot.
func capable[C any](s *spec) (C, bool) {
	c, ok := s.verb.Source.(C)
	if !ok && s.verb.Source != nil {
		s.found["source"].errorf("source: a %s source cannot answer %s", s.verb.Kind, s.body)
	}
	return c, ok
}

// readInput turns the shorthand of input, properties by name, into the parts of a JSON Schema.
func (b *builder) readInput(s *spec) {
	s.properties = map[string]schema{}
	word := cmp.Or(s.word, "input")
	if s.input.ast == nil {
		return
	}
	entries, _ := s.input.entries()
	var optional []string
	for _, e := range entries {
		var p schema
		before := len(b.errs)
		e.value.decode(e.key, &p)
		if len(b.errs) > before {
			continue
		}
		if !toolName.MatchString(e.key) {
			e.name.errorf("%s %q: use a-z, 0-9 and _, beginning with a letter", word, e.key)
			continue
		}
		if err := bounded(p); err != nil {
			e.name.errorf("%s %s: %s", word, e.key, err)
			continue
		}
		if b.deps.CheckSchema != nil {
			if err := b.deps.CheckSchema(encode(object(schema{e.key: p}))); err != nil {
				e.name.errorf("%s %s: not a JSON Schema: %s", word, e.key, err)
				continue
			}
		}
		s.properties[e.key] = p
		if _, ok := p["default"]; ok {
			optional = append(optional, e.key)
		}
	}
	if at, given := s.found["required"]; given {
		for _, name := range s.required {
			if _, ok := s.properties[name]; !ok {
				at.errorf("required: there is no %s %q", word, name)
			}
		}
		s.needed = slices.Clone(s.required)
	} else {
		for name := range s.properties {
			if !slices.Contains(optional, name) {
				s.needed = append(s.needed, name)
			}
		}
	}
	slices.Sort(s.needed)
}

// bounded checks that a property has a type and a description, and gives text and lists a bound.
func bounded(p schema) error {
	if d, _ := p["description"].(string); strings.TrimSpace(d) == "" {
		return errors.New("has no description; say what it is, with an example")
	}
	kind, _ := p["type"].(string)
	_, enum := p["enum"]
	_, constant := p["const"]
	switch kind {
	case "string":
		if _, ok := p["maxLength"]; !ok && !enum && !constant {
			p["maxLength"] = 1000
		}
	case "array":
		if _, ok := p["maxItems"]; !ok {
			p["maxItems"] = 100
		}
	case "integer", "number", "boolean":
	case "object":
		return errors.New("an input of type object is not supported; give each of its fields a name of its own")
	case "":
		if !enum && !constant {
			return errors.New("has no type; use string, integer, number, boolean or array")
		}
	default:
		return fmt.Errorf("type %q is not known; use string, integer, number, boolean or array", kind)
	}
	return nil
}

// finish fills in what all tools from files have in common and takes the definition in.
func (b *builder) finish(s *spec, d *definition) {
	t := d.tool
	t.Name, t.Level, t.Description = s.name, s.level, s.description
	t.Title = cmp.Or(s.title, t.Title)
	t.Source = s.source
	t.Toolsets, t.Tags = s.toolsets, s.tags
	t.Reads = cmp.Or(s.reads, t.Reads)
	if t.Input == nil {
		required := slices.DeleteFunc(slices.Clone(s.needed), func(name string) bool { return slices.Contains(s.asked, name) })
		t.Input = raw(object(asAny(s.properties), required...))
	}
	if _, given := s.found["scopes"]; given {
		t.Scopes = s.scopes
	}
	if _, given := s.found["timeout"]; given && s.timeout > 0 {
		t.Timeout = s.timeout
	}
	if _, given := s.found["cache"]; given {
		t.CacheTTL = s.cache
		if !t.ReadOnly && s.cache > 0 {
			s.found["cache"].errorf("cache: a tool that writes is not cached")
		}
	}
	if out := b.output(s); out != nil {
		t.Output = out
	}
	t.Icons = s.icons.icons()
	t.Task = s.task.task(t.Timeout)
	if s.asks != nil {
		t.Ask = s.asks.run
		d.asked, d.confirms = s.asked, len(s.asks.confirm.parts) > 0
		d.body += s.ask.ast.String()
		if len(s.asks.fields) > 0 {
			t.Run = guardMissing(s.asks.fields, t.Run)
		}
	}
	d.kind, d.verb, d.at, d.owner = s.verb.Kind, s.body, s.at, s.at.String()
	b.add(d)
}

func asAny(properties map[string]schema) schema {
	out := make(schema, len(properties))
	for k, p := range properties {
		out[k] = p
	}
	return out
}

// output returns the schema of the answer if the file tells it, for each row or for the one object.
func (b *builder) output(s *spec) json.RawMessage {
	if s.output.ast == nil {
		return nil
	}
	if s.body != "sql" && s.body != "search" {
		s.found["output"].errorf("output: only tools with sql or search have it")
		return nil
	}
	entries, _ := s.output.entries()
	properties := schema{}
	for _, e := range entries {
		var p schema
		before := len(b.errs)
		e.value.decode(e.key, &p)
		if len(b.errs) == before {
			properties[e.key] = p
		}
	}
	one := schema{"type": "object", "properties": properties}
	out := one
	if !s.single {
		out = listSchema(cmp.Or(s.items, defaultItems(s.body)), one)
	}
	encoded := encode(out)
	if b.deps.CheckSchema != nil {
		if err := b.deps.CheckSchema(encoded); err != nil {
			s.found["output"].errorf("output: not a JSON Schema: %s", err)
		}
	}
	return encoded
}

func defaultItems(body string) string {
	if body == "search" {
		return "documents"
	}
	return "rows"
}

// listSchema is the answer of a tool from YAML that returns a list.
func listSchema(items string, one schema) schema {
	return paged(schema{items: array(one), "row_count": schema{"type": "integer", "minimum": 0}}, items, "row_count")
}

// sourceScope is the scope of a tool that uses a source.
func sourceScope(s *spec, action string) []string { return []string{"tool:" + s.source + ":" + action} }

// checkRefs reports references to inputs that there are not.
func (s *spec) checkRefs(n node, refs []string) {
	for _, ref := range refs {
		if _, ok := s.properties[ref]; !ok {
			n.errorf("{%s} is no input of %s; add it to input", ref, s.name)
		}
	}
}

// checkUsed reports inputs that nothing uses: they would promise the caller an effect.
func (s *spec) checkUsed(used []string) {
	for _, name := range slices.Sorted(maps.Keys(s.properties)) {
		if !slices.Contains(used, name) {
			s.found["input"].errorf("input %s is not used by %s; use it or take it out", name, s.body)
		}
	}
}
