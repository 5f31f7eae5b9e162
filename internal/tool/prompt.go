package tool

import (
	"context"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
)

const (
	promptSource = "prompts"          // in place of a source, for policy: "prompts/<name>"
	promptScope  = "tool:prompts:get" // of a prompt that names none
	notGiven     = "(not given)"      // in place of an argument that may be left out and was
	maxMessages  = 32                 // of one prompt
	maxImage     = 256 << 10          // bytes of an image's data: URI
	maxPrompt    = 64 << 10           // bytes of a prompt's text in the file
)

// A prompt is a list of messages with places for the caller's arguments. Its resources are read as
// the caller, through the pipeline.
type prompt struct {
	children
	name     string
	messages []message
	needed   []string // arguments that must be given
}

// A message is one of text, a resource and an image.
type message struct {
	role  string
	text  placeholders
	image *atlas.Content

	resource *resource
	vars     map[string]placeholders // of the resource's URI
}

func (p prompt) run(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	v, err := values(call)
	if err != nil {
		return atlas.Result{}, err
	}
	var out atlas.Result
	for _, m := range p.messages {
		c := atlas.Content{Type: atlas.ContentText, Role: m.role}
		switch {
		case m.image != nil:
			c = *m.image
			out.Content = append(out.Content, c)
			continue
		case m.resource == nil:
			c.Text = m.fill(v)
			out.Content = append(out.Content, c)
			continue
		}
		res, ok, err := p.read(ctx, call, m, v)
		if err != nil {
			return atlas.Result{}, err
		}
		if !ok {
			continue
		}
		out.AsOf, out.Partial = older(out.AsOf, res.AsOf), out.Partial || res.Partial
		for _, c := range res.Content {
			c.Role = m.role
			out.Content = append(out.Content, c)
		}
	}
	return out, nil
}

// fill inserts arguments. Text of theirs is not looked at again; what cannot be seen is taken out.
func (m message) fill(v map[string]any) string {
	var b strings.Builder
	for _, p := range m.text.parts {
		if p.ref == "" {
			b.WriteString(p.text)
			continue
		}
		s, given := v[p.ref].(string)
		switch {
		case !given:
			b.WriteString(notGiven)
		case p.quote:
			b.Write(encode(visible(s)))
		default:
			b.WriteString(visible(s))
		}
	}
	return b.String()
}

// read reads the resource of a message, unless an argument of its URI was left out, or is empty, as
// forms have it.
func (p prompt) read(ctx context.Context, call atlas.Call, m message, v map[string]any) (atlas.Result, bool, error) {
	vars := map[string]string{}
	for name, t := range m.vars {
		for _, ref := range t.refs() {
			if s, _ := v[ref].(string); s == "" && !slices.Contains(p.needed, ref) {
				return atlas.Result{}, false, nil
			}
		}
		vars[name] = t.fill(func(ref string) string { return str(v, ref) })
	}
	args, ok := m.resource.encode(vars)
	if !ok {
		return atlas.Result{}, false, atlas.Errorf(atlas.CodeInvalidArguments, nil, "the arguments can stand in no URI of the resource that the prompt reads").
			With("uri_template", m.resource.uri.text)
	}
	child := call.Child(p.newID(), m.resource.name, args)
	child.Kind = atlas.KindResource
	res, err := p.call(ctx, child)
	return res, err == nil, err
}
