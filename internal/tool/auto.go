package tool

import (
	"maps"
	"slices"
)

// An auto is a resource that a source has by itself.
type auto struct {
	name string // in Verbs.Resources
	verb string // that it reads by
	make func(b *builder, source string, kid *definition) (*resource, about)
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
	r := &resource{
		children: b.children(), name: name + "_schema_doc", uri: fixedURI("atlas://" + name + "/schema"), kid: kid,
		args: shape{kind: 'f'}, mime: "application/json",
	}
	return r, about{
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
