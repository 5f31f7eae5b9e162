package tool

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// maxDocument is how many bytes a document may have that is read as a resource.
const maxDocument = 1 << 20

// A resource reads a document by its URI. The reading is a call of a tool, as the caller, through the
// pipeline: policy, cache, limits, breaker and audit hold as they do for the tool itself.
type resource struct {
	children
	name  string
	uri   uriTemplate
	kid   *definition
	args  shape
	whole map[string]bool // variables that are whole numbers to the tool

	text, blob, encoding, mimeFrom []string // paths in the answer; nil for none
	mime                           string

	lists    []lookup
	complete completer
}

// match is atlas.Tool.Match.
func (r *resource) match(uri string) (json.RawMessage, bool) {
	vars, ok := r.uri.match(uri)
	if !ok {
		return nil, false
	}
	return r.encode(vars)
}

// A whole number has one spelling, so that its URI has one, too; and is below what a double would change.
var wholeNumber = regexp.MustCompile(`^(?:0|-?[1-9][0-9]{0,14})$`)

// encode returns the variables as arguments, or false if a URI cannot hold them.
func (r *resource) encode(vars map[string]string) (json.RawMessage, bool) {
	out := make(map[string]any, len(vars))
	for _, name := range r.uri.variables() {
		v := vars[name]
		switch {
		case !r.whole[name]:
			out[name] = v
		case wholeNumber.MatchString(v):
			out[name] = json.Number(v)
		default:
			return nil, false
		}
	}
	if _, ok := r.uri.expand(vars); !ok {
		return nil, false
	}
	return encode(out), true
}

// fill returns the URI and the arguments of the tool for a call of the resource.
func (r *resource) fill(call atlas.Call) (uri string, args map[string]any, err error) {
	v, err := values(call)
	if err != nil {
		return "", nil, err
	}
	vars := make(map[string]string, len(v))
	for name, value := range v {
		vars[name] = inText(value)
	}
	uri, ok := r.uri.expand(vars)
	if !ok {
		return "", nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "these values can stand in no URI of this resource").
			With("uri_template", r.uri.text)
	}
	filled, _ := r.args.value(arguments(v))
	args, _ = filled.(map[string]any)
	return uri, args, nil
}

// touches is what the tool would touch: the rules about a source's objects are those about its documents.
func (r *resource) touches(call atlas.Call) string {
	_, args, err := r.fill(call)
	if err != nil {
		return "resources//" // no name at all, so that no rule can match it; the run refuses it
	}
	kid := r.kid.tool
	call.Tool, call.Name, call.Kind = kid, kid.Name, atlas.KindTool
	call.Args = atlas.Args{Raw: encode(args)}
	return kid.Resource(call)
}

func (r *resource) run(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	uri, args, err := r.fill(call)
	if err != nil {
		return atlas.Result{}, err
	}
	res, err := r.children.run(ctx, call, r.kid.tool.Name, args)
	if err != nil {
		return atlas.Result{}, err
	}
	doc, err := r.document(res)
	if err != nil {
		return atlas.Result{}, err
	}
	doc.URI = uri
	return atlas.Result{Content: []atlas.Content{doc}, AsOf: res.AsOf, Partial: res.Partial}, nil
}

// document makes the document of the tool's answer.
func (r *resource) document(res atlas.Result) (atlas.Content, error) {
	c := atlas.Content{Type: atlas.ContentResource, MIME: cmp.Or(r.mime, "application/json")}
	if r.text == nil && r.blob == nil {
		c.Text = string(res.Structured)
		return c, tooLong(len(c.Text))
	}
	v, err := answered(res)
	if err != nil {
		return c, err
	}
	if cut, _ := find(v, []string{"truncated"}).(bool); cut || res.Truncated { // half a document would pass for all of it
		return c, tooLong(maxDocument + 1)
	}
	if m, _ := find(v, r.mimeFrom).(string); r.mimeFrom != nil && mediaType.MatchString(m) {
		c.MIME = m
	} else if r.mime == "" {
		c.MIME = "text/plain"
	}
	at, encoded := r.text, r.text == nil
	if how, _ := find(v, r.encoding).(string); r.encoding != nil && how == "base64" {
		encoded = true
	}
	if r.blob != nil && (at == nil || find(v, r.text) == nil) {
		at, encoded = r.blob, true
	}
	body, ok := find(v, at).(string)
	if !ok {
		return c, atlas.Errorf(atlas.CodeNotFound, fmt.Errorf("%s: the answer of %s has no text at %s", r.name, r.kid.tool.Name, strings.Join(at, ".")), "")
	}
	if encoded {
		if c.Data, err = base64.StdEncoding.DecodeString(body); err != nil {
			return c, atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("%s: %s: %w", r.name, strings.Join(at, "."), err), "")
		}
		return c, tooLong(len(c.Data))
	}
	c.Text = body
	return c, tooLong(len(c.Text))
}

func tooLong(bytes int) error {
	if bytes <= maxDocument {
		return nil
	}
	return atlas.Errorf(atlas.CodeTooLarge, nil, "the document is too long to be read as a resource; read it in parts with a tool").
		With("limit", "document_bytes").With("max", maxDocument)
}

// list is atlas.Tool.List.
func (r *resource) list(ctx context.Context, call atlas.Call) ([]atlas.Content, error) {
	call.Name = r.name
	ctx, cancel := context.WithTimeout(ctx, composedTimeout)
	defer cancel()
	var out []atlas.Content
	seen := map[string]bool{}
	for _, l := range r.lists {
		items, err := l.run(ctx, call, func(string) (any, bool) { return nil, false })
		if err != nil {
			if nothing(err, false) {
				continue
			}
			return nil, err
		}
		for _, item := range items {
			link, ok := r.link(l, item)
			if ok && !seen[link.URI] && len(out) < maxListed {
				seen[link.URI] = true
				out = append(out, link)
			}
		}
	}
	return out, nil
}

// link makes the entry of an item, unless its values can stand in no URI.
func (r *resource) link(l lookup, item any) (atlas.Content, bool) {
	vars := map[string]string{}
	for name, at := range l.values {
		vars[name] = inText(find(item, at))
	}
	if _, ok := r.encode(vars); !ok {
		return atlas.Content{}, false
	}
	uri, ok := r.uri.expand(vars)
	text := func(key string) string {
		if at := l.link[key]; at != nil {
			return visible(inText(find(item, at)))
		}
		return ""
	}
	c := atlas.Content{
		Type: atlas.ContentResourceLink, URI: uri, Name: text("name"), Title: text("title"), Description: text("description"), MIME: r.mime,
	}
	if m := text("mime"); mediaType.MatchString(m) {
		c.MIME = m
	}
	if n, isNumber := find(item, l.link["size"]).(json.Number); isNumber && l.link["size"] != nil {
		if size, err := n.Int64(); err == nil && size > 0 {
			c.Size = size
		}
	}
	if c.Name == "" {
		c.Name = path.Base(vars[r.uri.variables()[len(r.uri.variables())-1]])
	}
	return c, ok
}

// about is what a resource or a prompt says of itself.
type about struct {
	title, description string
	icons              []atlas.Icon
	scopes             []string
	toolsets, tags     []string
}

// addResource takes in a resource.
func (b *builder) addResource(r *resource, a about, d *definition) {
	for _, other := range b.docs {
		if r.uri.overlaps(other.uri) {
			b.errorf(d.at, "resource %s: a URI can be its %s and the %s of %s (%s); change one, or turn off the automatic one "+
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

// An auto is a resource that a source has by itself.
type auto struct {
	name  string // in Verbs.Resources
	verb  string // that it reads by
	make  func(b *builder, source string, kid *definition) (*resource, about)
	paths bool
}

func autoTable() []auto {
	return []auto{
		{name: "schema", verb: "schema", make: (*builder).schemaResource},
		{name: "objects", verb: "get", make: (*builder).objectsResource},
	}
}

func autoNames() []string {
	var out []string
	for _, a := range autoTable() {
		out = append(out, a.name)
	}
	return out
}

func (b *builder) autoResources() {
	taken := map[string]bool{}
	for _, r := range b.docs {
		taken[r.uri.text] = true
	}
	for _, name := range slices.Sorted(maps.Keys(b.sources)) {
		s := b.sources[name]
		for _, a := range autoTable() {
			wanted := slices.Contains(s.Tools.Resources, a.name)
			kid := b.defs[name+"_"+a.verb]
			if kid == nil || kid.owner != "source "+name {
				if wanted {
					b.errorf(place{}, "source %s: resources: %s needs the verb %s, which is not offered", name, a.name, a.verb)
				}
				continue
			}
			if !wanted && s.Tools.Resources != nil {
				continue
			}
			r, about := a.make(b, name, kid)
			if taken[r.uri.text] {
				continue
			}
			about.scopes, about.toolsets, about.tags = kid.tool.Scopes, kid.tool.Toolsets, kid.tool.Tags
			b.addResource(r, about, &definition{verb: "resource", body: a.name, owner: "source " + name})
		}
	}
}

func (b *builder) schemaResource(name string, kid *definition) (*resource, about) {
	return &resource{
			children: b.children(), name: name + "_schema_doc", uri: fixedURI("atlas://" + name + "/schema"), kid: kid,
			args: shape{kind: 'f'}, mime: "application/json",
		}, about{
			title: "Tables of " + name,
			description: "The tables of the " + name + " source that may be queried, with their columns and types, as JSON. " +
				"Read it before writing SQL.",
		}
}

func (b *builder) objectsResource(name string, kid *definition) (*resource, about) {
	key := shape{kind: 't', template: template{parts: []part{{ref: "key"}}}}
	r := &resource{
		children: b.children(), name: name + "_documents", kid: kid,
		uri:  uriTemplate{text: "atlas://" + name + "/{+key}", parts: []uriPart{{literal: "atlas://" + name + "/"}, {name: "key", path: true}}},
		args: shape{kind: 'f', fields: map[string]shape{"key": key, "max_bytes": {kind: 'l', literal: int64(maxObject)}}},
		text: []string{"content"}, encoding: []string{"encoding"}, mimeFrom: []string{"content_type"},
		complete: completer{name: name + "_documents"},
	}
	if lister := b.defs[name+"_list"]; lister != nil && lister.owner == kid.owner {
		l := lookup{
			children: b.children(), tool: lister.tool.Name, items: []string{"objects"}, value: []string{"key"},
			values: map[string][]string{"key": {"key"}}, link: map[string][]string{"name": {"key"}, "size": {"size_bytes"}},
		}
		l.args = shape{kind: 'f', fields: map[string]shape{"limit": {kind: 'l', literal: int64(maxListed)}}}
		r.lists = []lookup{l}
		typed := template{parts: []part{{ref: typedRef}}}
		l.args = shape{kind: 'f', fields: map[string]shape{
			"prefix": {kind: 't', template: typed}, "limit": {kind: 'l', literal: int64(maxCompleted)},
		}}
		r.complete.lookups = map[string][]lookup{"key": {l}}
	}
	return r, about{
		title:       "Documents of " + name,
		description: "The documents of the " + name + " source by their keys. Each is text, or bytes if it is not text.",
	}
}

func fixedURI(s string) uriTemplate { return uriTemplate{text: s, parts: []uriPart{{literal: s}}} }

var errNoResource = errors.New("names no resource")
