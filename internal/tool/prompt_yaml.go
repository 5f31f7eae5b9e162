package tool

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// readPrompt decodes an entry of "prompts:".
func (b *builder) readPrompt(e entry) {
	var a about
	var icons, complete, messages node
	s := &spec{name: e.key, at: e.name.at, n: e.name, word: "argument"}
	before := len(b.errs)
	s.found = e.value.into(map[string]any{
		"title": &a.title, "description": &a.description, "icons": &icons, "arguments": &s.input, "required": &s.required,
		"scopes": &a.scopes, "toolsets": &a.toolsets, "tags": &a.tags, "complete": &complete, "messages": &messages,
	})
	a.description = b.aboutText(e.name, s.found["description"], "prompt "+e.key, a.description)
	a.icons = icons.icons()
	b.readInput(s)
	for _, name := range slices.Sorted(maps.Keys(s.properties)) {
		p := s.properties[name]
		if kind, _ := p["type"].(string); kind != "string" && texts(p["enum"]) == nil {
			s.found["arguments"].errorf("argument %s: the arguments of a prompt are text; use type string", name)
		}
	}
	p := prompt{children: b.children(), name: e.key}
	if messages.ast == nil {
		if len(b.errs) == before {
			e.name.errorf("prompt %s has no messages", e.key)
		}
		return
	}
	items, ok := messages.items("messages")
	if ok && (len(items) == 0 || len(items) > maxMessages) {
		messages.errorf("messages: a prompt has 1 to %d, this one has %d", maxMessages, len(items))
	}
	var used []string
	for _, item := range items {
		if m, ok := b.readMessage(s, item); ok {
			p.messages = append(p.messages, m)
			used = append(used, m.text.refs()...)
			for _, t := range m.vars {
				used = append(used, t.refs()...)
			}
		}
	}
	if len(b.errs) == before {
		for _, name := range slices.Sorted(maps.Keys(s.properties)) {
			if !slices.Contains(used, name) {
				s.found["arguments"].errorf("argument %s is not used in messages; use it or take it out", name)
			}
		}
	}
	p.needed = s.needed
	read := reader{builder: b, name: e.key, kind: "prompt", refs: slices.Sorted(maps.Keys(s.properties))}
	completions := read.completion(complete, s.properties)
	if at, given := s.found["scopes"]; given {
		at.checkScopes(a.scopes)
	}
	if len(b.errs) > before {
		return
	}
	t := &atlas.Tool{
		Kind: atlas.KindPrompt, Name: e.key, Title: a.title, Description: a.description, Icons: a.icons,
		Level: atlas.Composed, Toolsets: a.toolsets, Tags: a.tags, Input: raw(object(asAny(s.properties), s.needed...)),
		ReadOnly: true, Idempotent: true, Reads: atlas.ReadsPrivate, Timeout: composedTimeout,
		Resource: fixedResource(promptSource, e.key), Run: p.run,
	}
	t.Scopes = []string{promptScope}
	for _, m := range p.messages {
		if m.resource == nil {
			continue
		}
		doc := b.defs[m.resource.name].tool
		t.Level = atlas.Workflow
		t.Scopes = append(t.Scopes, doc.Scopes...)
		t.Timeout = max(t.Timeout, doc.Timeout)
		if doc.Reads == atlas.ReadsUntrusted {
			t.Reads = doc.Reads
		}
		if doc.Effects != atlas.EffectsNone {
			t.Effects = doc.Effects
		}
	}
	slices.Sort(t.Scopes)
	t.Scopes = slices.Compact(t.Scopes)
	if a.scopes != nil {
		t.Scopes = a.scopes
	}
	if !completions.empty() {
		t.Complete = completions.run
	}
	b.add(&definition{tool: t, verb: "prompt", body: e.value.ast.String(), at: e.name.at, owner: e.name.at.String()})
}

func (b *builder) readMessage(s *spec, n node) (message, bool) {
	var m message
	var text, resource, image node
	before := len(b.errs)
	found := n.into(map[string]any{"role": &m.role, "text": &text, "resource": &resource, "image": &image})
	kinds := 0
	for _, part := range []node{text, resource, image} {
		if part.ast != nil {
			kinds++
		}
	}
	switch {
	case len(b.errs) > before:
		return m, false
	case kinds != 1:
		n.errorf("a message is one of text, resource and image; this one has %d of them", kinds)
		return m, false
	case m.role != "user" && m.role != "assistant":
		at, ok := found["role"]
		if !ok {
			at = n
		}
		at.errorf("role: %q is not known; use user or assistant", m.role)
		return m, false
	}
	var body string
	switch {
	case text.ast != nil:
		text.decode("text", &body)
		m.text = s.placeholders(text, "text", body)
		for _, p := range m.text.parts {
			if p.ref == "" || p.quote || s.properties[p.ref] == nil {
				continue
			}
			_, pattern := s.properties[p.ref]["pattern"]
			_, enum := s.properties[p.ref]["enum"]
			if !pattern && !enum {
				text.errorf("text: {{%s}} is free text of the caller's; write {{%s | quote}}, so that it cannot pass for the text round it, "+
					"or give the argument a pattern", p.ref, p.ref)
			}
		}
	case image.ast != nil:
		image.decode("image", &body)
		data, mime, err := dataURI(body, "image/", maxImage)
		if err != nil {
			image.errorf("image: %s", err)
		}
		m.image = &atlas.Content{Type: atlas.ContentImage, Role: m.role, Data: data, MIME: mime}
	default:
		resource.decode("resource", &body)
		uri := s.placeholders(resource, "resource", body)
		if len(b.errs) > before {
			return m, false
		}
		var err error
		if m.resource, m.vars, err = b.resolve(uri); err != nil {
			resource.errorf("resource: %s", err)
		}
	}
	return m, len(b.errs) == before
}

// placeholders reads text and checks the names in it.
func (s *spec) placeholders(n node, key, body string) placeholders {
	if body == "" || len(body) > maxPrompt {
		n.errorf("%s: has %d bytes; write 1 to %d", key, len(body), maxPrompt)
	}
	t, err := parsePlaceholders(body)
	if err != nil {
		n.errorf("%s: %s", key, err)
	}
	for _, ref := range t.refs() {
		if _, ok := s.properties[ref]; !ok {
			n.errorf("%s: {{%s}} is no argument of %s; add it to arguments", key, ref, s.name)
		}
	}
	return t
}

var marker = regexp.MustCompile(`zq([0-9]+)qz`)

// resolve finds the resource that a URI with arguments in it names, and what the arguments make of
// each of its variables. So arguments fill variables and nothing else, whatever they hold.
func (b *builder) resolve(uri placeholders) (*resource, map[string]placeholders, error) {
	refs := uri.refs()
	sample := uri.fill(func(ref string) string { return fmt.Sprintf("zq%dqz", slices.Index(refs, ref)) })
	if slices.ContainsFunc(uri.parts, func(p placeholder) bool { return p.quote }) {
		return nil, nil, fmt.Errorf("arguments in a URI are encoded as they must be; leave out | quote")
	}
	for _, r := range b.docs {
		vars, ok := r.uri.match(sample)
		if !ok {
			continue
		}
		out := map[string]placeholders{}
		for name, v := range vars {
			var t placeholders
			for last := 0; last < len(v); {
				at := marker.FindStringSubmatchIndex(v[last:])
				if at == nil {
					t.parts = append(t.parts, placeholder{text: v[last:]})
					break
				}
				if at[0] > 0 {
					t.parts = append(t.parts, placeholder{text: v[last : last+at[0]]})
				}
				i, err := strconv.Atoi(v[last+at[2] : last+at[3]])
				if err != nil || i >= len(refs) {
					return nil, nil, fmt.Errorf("%q stands for something else here; write the URI without it", v[last+at[0]:last+at[1]])
				}
				t.parts = append(t.parts, placeholder{ref: refs[i]})
				last += at[1]
			}
			out[name] = t
		}
		return r, out, nil
	}
	return nil, nil, fmt.Errorf("no resource has this URI; %s", b.uris())
}

func (b *builder) uris() string {
	if len(b.docs) == 0 {
		return "there are no resources"
	}
	list := make([]string, len(b.docs))
	for i, r := range b.docs {
		list[i] = r.uri.text
	}
	slices.Sort(list)
	return "there are " + strings.Join(list, ", ")
}
