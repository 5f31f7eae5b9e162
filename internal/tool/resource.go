package tool

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"

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

	// Where the documents are the objects of a source: its name, and the variable that is their key.
	objects, key string

	lists    []lookup
	complete completer
}

// changed is atlas.Tool.Changed: writes touch "<source>/<key>".
func (r *resource) changed(touched string) (string, bool) {
	key, ours := strings.CutPrefix(touched, r.objects+"/")
	if !ours {
		return "", false
	}
	return r.uri.expand(map[string]string{r.key: key})
}

// documents returns source and variable if the documents are a source's objects by their keys, and
// nothing else of the URI matters.
func (r *resource) documents() (source, variable string) {
	source, ours := strings.CutPrefix(r.kid.owner, "source ")
	key := r.args.fields["key"]
	if !ours || r.kid.verb != "get" || key.kind != 't' || len(key.template.parts) != 1 {
		return "", ""
	}
	vars := r.uri.variables()
	if ref := key.template.parts[0].ref; len(vars) == 1 && vars[0] == ref {
		return source, ref
	}
	return "", ""
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
