package tool

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// about is what a resource or a prompt says of itself.
type about struct {
	title, description string
	icons              []atlas.Icon
	scopes             []string
	toolsets, tags     []string
}

// readResource decodes an entry of "resources:".
func (b *builder) readResource(e entry) {
	var a about
	var uri, toolName, mime string
	var icons, args, text, blob, encoding, mimeFrom, list, complete node
	before := len(b.errs)
	found := e.value.into(map[string]any{
		"uri": &uri, "title": &a.title, "description": &a.description, "mime": &mime, "icons": &icons, "tool": &toolName,
		"arguments": &args, "text": &text, "blob": &blob, "encoding": &encoding, "mime_from": &mimeFrom, "scopes": &a.scopes,
		"toolsets": &a.toolsets, "tags": &a.tags, "list": &list, "complete": &complete,
	})
	n := e.name
	if uri == "" || toolName == "" {
		if len(b.errs) == before {
			n.errorf("resource %s: uri and tool are needed", e.key)
		}
		return
	}
	t, err := parseURI(uri)
	if err != nil {
		found["uri"].errorf("uri: %s", err)
		return
	}
	if mime != "" && !mediaType.MatchString(mime) {
		found["mime"].errorf("mime: %q is no media type; write text/markdown", mime)
	}
	a.description = b.aboutText(n, found["description"], "resource "+e.key, a.description)
	a.icons = icons.icons()
	read := reader{builder: b, name: e.key, kind: "resource", refs: t.variables()}
	kid, ok := read.backing(found["tool"], toolName)
	if !ok {
		return
	}
	r := &resource{children: b.children(), name: e.key, uri: t, kid: kid, mime: mime}
	r.args = read.arguments(n, args, kid, read.refs)
	for _, name := range read.refs {
		if !slices.Contains(r.args.refs(), name) {
			found["uri"].errorf("uri: {%s} is not used in arguments; use it or take it out", name)
		}
	}
	out := kid.tool.Output
	r.text, r.blob = read.path(text, "text", out, nil), read.path(blob, "blob", out, nil)
	r.encoding, r.mimeFrom = read.path(encoding, "encoding", out, nil), read.path(mimeFrom, "mime_from", out, nil)
	for key, at := range map[string]node{"encoding": encoding, "mime_from": mimeFrom} {
		if at.ast != nil && text.ast == nil && blob.ast == nil {
			at.errorf("%s: is for resources with text or blob; without them the whole answer is the document, as JSON", key)
		}
	}
	b.variableTypes(r, found["uri"])
	r.complete = read.completion(complete, r.properties())
	read.each(list, "list", func(n node) { read.list(n, r) })
	if list.ast != nil && len(read.refs) == 0 {
		list.errorf("list: a resource without variables is listed by itself; take it out")
	}
	if _, given := found["scopes"]; given {
		found["scopes"].checkScopes(a.scopes)
	} else {
		a.scopes = kid.tool.Scopes
	}
	if _, given := found["toolsets"]; !given {
		a.toolsets = kid.tool.Toolsets
	}
	if _, given := found["tags"]; !given {
		a.tags = kid.tool.Tags
	}
	if len(b.errs) > before {
		return
	}
	if r.mime == "" && r.text == nil && r.blob == nil {
		r.mime = "application/json"
	}
	b.addResource(r, a, &definition{verb: "resource", body: e.value.ast.String(), at: n.at, owner: n.at.String()})
}

// variableTypes finds the variables that are numbers, and refuses those that no text can be.
func (b *builder) variableTypes(r *resource, n node) {
	r.whole = map[string]bool{}
	for name, p := range r.properties() {
		switch kind, _ := p["type"].(string); kind {
		case "string":
		case "integer":
			r.whole[name] = true
		case "":
			if texts(p["enum"]) == nil {
				n.errorf("uri: {%s} is not text to %s", name, r.kid.tool.Name)
			}
		default:
			n.errorf("uri: {%s} is of type %s to %s; a variable is text or a whole number", name, kind, r.kid.tool.Name)
		}
	}
}

// list decodes one part of "list:".
func (r reader) list(n node, res *resource) {
	var valuesNode node
	keys := map[string]*node{"values": &valuesNode}
	for _, key := range []string{"name", "title", "description", "size", "mime"} {
		keys[key] = new(node)
	}
	l, d, ok := r.lookup(n, nil, keys)
	if !ok {
		return
	}
	item := append(slices.Clone(l.items), "0")
	l.values, l.link = map[string][]string{}, map[string][]string{}
	given := map[string]node{}
	for _, e := range valuesNode.below() {
		if !slices.Contains(r.refs, e.key) {
			e.name.errorf("values: there is no variable %q; use %s", e.key, orNone(r.refs))
			continue
		}
		given[e.key] = e.value
	}
	for _, name := range r.refs {
		if at, ok := given[name]; ok {
			l.values[name] = r.path(at, name, d.tool.Output, item)
			continue
		}
		l.values[name] = []string{name}
		if !schemaHas(d.tool.Output, append(slices.Clone(item), name)) {
			n.errorf("values: is missing; name the field of an item that is {%s}", name)
		}
	}
	for key, at := range keys {
		if key != "values" && at.ast != nil {
			l.link[key] = r.path(*at, key, d.tool.Output, item)
		}
	}
	res.lists = append(res.lists, l)
}

// aboutText checks the description of a resource or a prompt, which people choose by.
func (b *builder) aboutText(n, at node, what, text string) string {
	text = strings.Join(strings.Fields(text), " ")
	switch {
	case text == "":
		n.errorf("%s has no description; say in a sentence or two what it is", what)
	case utf8.RuneCountInString(text) > 1024:
		at.errorf("description has %d characters; the limit is 1024", utf8.RuneCountInString(text))
	}
	return text
}

// resourcesAndPrompts makes the resources and prompts of all files, and the resources that sources
// have by themselves. A resource of a file takes the place of an automatic one of the same URI.
func (b *builder) resourcesAndPrompts(resources, prompts []entry) {
	for _, e := range resources {
		b.readResource(e)
	}
	b.autoResources()
	for _, e := range prompts {
		b.readPrompt(e)
	}
}

// addResource takes in a resource.
func (b *builder) addResource(r *resource, a about, d *definition) {
	for _, other := range b.docs {
		if r.uri.overlaps(other.uri) {
			at := d.at
			if at.line == 0 { // an automatic one: the other is where something can be changed
				at = b.defs[other.name].at
			}
			b.errorf(at, "resource %s: a URI can be its %s and the %s of %s (%s); change one, or turn off the automatic one "+
				"with tools: {resources: []} at its source", r.name, r.uri.text, other.uri.text, other.name, b.defs[other.name].owner)
			return
		}
	}
	kid := r.kid.tool
	t := &atlas.Tool{
		Name: r.name, Kind: atlas.KindResource, Title: a.title, Description: a.description, Icons: a.icons,
		Level: atlas.Composed, Toolsets: a.toolsets, Tags: a.tags, URI: r.uri.text, MIME: r.mime,
		Match: r.match, Input: raw(r.input()), Scopes: a.scopes,
		ReadOnly: true, Idempotent: true, Reads: kid.Reads, Effects: kid.Effects,
		Timeout: kid.Timeout + time.Second, Resource: r.touches, Run: r.run,
	}
	if kid.Level != atlas.Atomic {
		t.Level = atlas.Workflow
	}
	if r.objects, r.key = r.documents(); r.key != "" {
		t.Changed = r.changed
	}
	if len(r.lists) > 0 {
		t.List = r.list
	}
	if !r.complete.empty() {
		t.Complete = r.complete.run
	}
	d.tool = t
	before := len(b.errs)
	b.add(d)
	if len(b.errs) == before {
		b.docs = append(b.docs, r)
	}
}

// properties returns the schemas of the variables: the tool's own where a variable is one argument.
func (r *resource) properties() map[string]schema {
	var input struct {
		Properties map[string]schema `json:"properties"`
	}
	if json.Unmarshal(r.kid.tool.Input, &input) != nil {
		input.Properties = nil
	}
	out := map[string]schema{}
	for _, name := range r.uri.variables() {
		out[name] = schema{"type": "string", "description": "variable of " + r.uri.text, "minLength": 1, "maxLength": maxVariable}
	}
	for arg, sh := range r.args.fields {
		if sh.kind != 't' || len(sh.template.parts) != 1 || sh.template.parts[0].ref == "" {
			continue
		}
		if p, ok := input.Properties[arg]; ok {
			p = maps.Clone(p)
			delete(p, "default")
			out[sh.template.parts[0].ref] = p
		}
	}
	return out
}

func (r *resource) input() schema {
	return object(asAny(r.properties()), r.uri.variables()...)
}
