package tool

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// A reader decodes the parts that resources and prompts have in common.
type reader struct {
	*builder
	name string   // of the resource or prompt
	kind string   // resource or prompt
	refs []string // names that may stand in arguments: variables of the URI, or arguments of the prompt
}

// backing finds a tool that a resource or a prompt calls: any that only reads.
func (r reader) backing(n node, name string) (*definition, bool) {
	d, ok := r.defs[name]
	switch {
	case !ok:
		n.errorf("there is no tool %q, or its definition has a mistake", name)
	case d.tool.Kind != atlas.KindTool:
		n.errorf("%s is a %s, not a tool", name, d.tool.Kind)
	case !d.tool.ReadOnly:
		n.errorf("%s changes data; a %s calls tools that only read", name, r.kind)
	case d.confirms:
		n.errorf("%s asks a person to confirm each call, and a %s has nobody to ask", name, r.kind)
	default:
		return d, true
	}
	return nil, false
}

// arguments decodes the arguments of a call of the tool.
func (r reader) arguments(at, n node, d *definition, refs []string) shape {
	sh := shape{kind: 'f'}
	place := at
	if n.ast != nil {
		place = n
		if sh = n.shape("arguments"); sh.kind != 'f' {
			n.errorf("arguments: must be a mapping (argument: value)")
			return shape{kind: 'f'}
		}
	}
	checkArgs(d, sh, at, place)
	for _, ref := range sh.refs() {
		if !slices.Contains(refs, ref) {
			place.errorf("arguments: {%s} is not known here; use %s", ref, orNone(refs))
		}
	}
	return sh
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "fixed values"
	}
	return strings.Join(names, ", ")
}

// path decodes the path of a field of the tool's answer.
func (r reader) path(n node, key string, output json.RawMessage, below []string) []string {
	if n.ast == nil {
		return nil
	}
	var text string
	before := len(r.errs)
	n.decode(key, &text)
	if len(r.errs) > before {
		return nil
	}
	path := strings.Split(text, ".")
	if slices.Contains(path, "") || len(path) > maxItemDepth {
		n.errorf("%s: %q is not the path of a field; write a.b", key, text)
		return nil
	}
	if !schemaHas(output, append(slices.Clone(below), path...)) {
		n.errorf("%s: the answer has no field %s", key, text)
	}
	return path
}

// schemaHas reports whether an answer of the schema may have something at the path.
func schemaHas(output json.RawMessage, path []string) bool {
	var s map[string]any
	if json.Unmarshal(output, &s) != nil {
		return true
	}
	for _, name := range path {
		if items, ok := s["items"].(map[string]any); ok {
			if _, err := strconv.Atoi(name); err != nil {
				return false
			}
			s = items
			continue
		}
		properties, _ := s["properties"].(map[string]any)
		next, ok := properties[name].(map[string]any)
		if !ok {
			return s["additionalProperties"] != false
		}
		s = next
	}
	return true
}

// each calls f for each mapping of a node that is one, or a list of some.
func (r reader) each(n node, key string, f func(node)) {
	if n.ast == nil {
		return
	}
	if _, list := sequence(n.ast); !list {
		f(n)
		return
	}
	items, _ := n.items(key)
	if len(items) > maxLookups {
		n.errorf("%s: %d are too many; keep at most %d", key, len(items), maxLookups)
		return
	}
	for _, item := range items {
		f(item)
	}
}

// lookup decodes one lookup. Fields are decoded by the caller, from the nodes in extra.
func (r reader) lookup(n node, refs []string, extra map[string]*node) (lookup, *definition, bool) {
	var name string
	var args, items node
	vars := map[string]any{"tool": &name, "arguments": &args, "items": &items}
	for key, v := range extra {
		vars[key] = v
	}
	before := len(r.errs)
	found := n.into(vars)
	l := lookup{children: r.children(), tool: name}
	if name == "" {
		if len(r.errs) == before {
			n.errorf("tool: is missing; name the tool to call")
		}
		return l, nil, false
	}
	d, ok := r.backing(found["tool"], name)
	if !ok {
		return l, nil, false
	}
	l.args = r.arguments(n, args, d, refs)
	switch {
	case items.ast != nil:
		l.items = r.path(items, "items", d.tool.Output, nil)
	case d.tool.Items != "":
		l.items = []string{d.tool.Items}
	default:
		n.errorf("items: is missing; name the list in the answer of %s", name)
	}
	return l, d, len(r.errs) == before
}

// completion decodes "complete:", by argument.
func (r reader) completion(n node, enums map[string]schema) completer {
	c := completer{name: r.name, lookups: map[string][]lookup{}, choices: map[string][]string{}}
	for name, p := range enums {
		if list := texts(p["enum"]); list != nil {
			c.choices[name] = list
		}
	}
	for _, e := range n.below() {
		if !slices.Contains(r.refs, e.key) {
			e.name.errorf("complete: there is no argument %q; use %s", e.key, orNone(r.refs))
			continue
		}
		refs := append(slices.DeleteFunc(slices.Clone(r.refs), func(s string) bool { return s == e.key }), typedRef)
		r.each(e.value, e.key, func(n node) {
			var field node
			l, d, ok := r.lookup(n, refs, map[string]*node{"field": &field})
			if field.ast == nil {
				n.errorf("field: is missing; name the field of an item that is the value")
				return
			}
			if ok {
				l.value = r.path(field, "field", d.tool.Output, append(slices.Clone(l.items), "0"))
				c.lookups[e.key] = append(c.lookups[e.key], l)
			}
		})
	}
	if n.ast != nil && slices.Contains(r.refs, typedRef) {
		n.errorf("complete: %q stands for what was typed; give the argument of this name another one", typedRef)
	}
	return c
}

// texts returns a list of texts, or nil if it is something else.
func texts(v any) []string {
	list, ok := v.([]any)
	if !ok {
		return nil
	}
	out := make([]string, 0, len(list))
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return nil
		}
		out = append(out, s)
	}
	return out
}
