package tool

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// shape decodes a node into a value whose strings are templates.
func (n node) shape(key string) shape {
	var v any
	n.decode(key, &v)
	sh, err := parseShape(v)
	if err != nil {
		n.errorf("%s: %s", key, err)
	}
	return sh
}

// template decodes a node into a template.
func (n node) template(key string) template {
	var text string
	n.decode(key, &text)
	t, err := parseTemplate(text)
	if err != nil {
		n.errorf("%s: %s", key, err)
	}
	return t
}

// searchBody makes a tool that searches with a fixed form: words, filters and the fields returned.
func (b *builder) searchBody(s *spec) *definition {
	searcher, ok := capable[source.Searcher](s)
	var text, filter, size node
	var fields []string
	found := s.bodyValue.into(map[string]any{"text": &text, "filter": &filter, "size": &size, "fields": &fields})
	var used []string
	words, sizeShape := template{}, shape{kind: 'l', literal: int64(10)}
	filterShape := shape{kind: 'f'}
	if text.ast != nil {
		words = text.template("text")
		s.checkRefs(text, words.refs())
		used = append(used, words.refs()...)
	}
	if filter.ast != nil {
		if filterShape = filter.shape("filter"); filterShape.kind != 'f' {
			filter.errorf("filter: must be a mapping (attribute: value)")
		}
		s.checkRefs(filter, filterShape.refs())
		used = append(used, filterShape.refs()...)
	}
	if size.ast != nil {
		sizeShape = size.shape("size")
		s.checkRefs(size, sizeShape.refs())
		used = append(used, sizeShape.refs()...)
		if n, literal := sizeShape.literal.(int64); sizeShape.kind == 'l' && (!literal || n < 1 || n > maxHits) {
			size.errorf("size: must be between 1 and %d", maxHits)
		}
	}
	if text.ast == nil && filter.ast == nil {
		s.bodyValue.errorf("search: give it text, filter or both")
	}
	// A filter whose every argument may be left out would answer with everything.
	if text.ast == nil && s.single && !anyIn(filterShape.refs(), s.needed) {
		s.bodyValue.errorf("search: a tool with single needs a required input in its filter")
	}
	if at, given := found["fields"]; given && len(fields) == 0 {
		at.errorf("fields: is empty; leave it out for all fields")
	}
	s.checkUsed(used)
	if !ok {
		return nil
	}
	items := ""
	document := schema{"type": "object", "properties": schema{
		"id": schema{"type": "string"}, "score": schema{"type": "number"}, "snippet": schema{"type": "string"},
	}, "required": []string{"id"}}
	out := document
	if !s.single {
		if items = s.items; items == "" {
			items = defaultItems("search")
		}
		out = with(paged(schema{items: array(document), "total": schema{"type": "integer"}}, items, "total"), "type", "object")
	}
	single, withText := s.single, text.ast != nil
	t := &atlas.Tool{
		Output: raw(out), Items: items,
		Scopes: sourceScope(s, "read"), ReadOnly: true, Idempotent: true, Reads: reads(s.verb, true),
		CacheTTL: 30 * time.Second, Timeout: searchTimeout,
		Resource: fixedResource(s.source, s.name),
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			v, err := values(call)
			if err != nil {
				return atlas.Result{}, err
			}
			get := arguments(v)
			q := source.Search{Size: 10}
			if said, ok := words.value(get); ok {
				q.Text = inText(plain(said))
			}
			if f, ok := filterShape.value(get); ok {
				q.Filter = plainMap(f)
			}
			if n, ok := sizeShape.value(get); ok {
				if n, ok := plain(n).(int64); ok {
					q.Size = int(min(max(n, 1), maxHits))
				}
			}
			if single {
				q.Size = 1
			}
			hits, err := searcher.Search(ctx, call.Tenant, q)
			if err != nil {
				return atlas.Result{}, err
			}
			documents := make([]map[string]any, 0, len(hits.Hits))
			for _, h := range hits.Hits {
				documents = append(documents, flatten(h, fields, withText))
			}
			if single {
				if len(documents) == 0 {
					return atlas.Result{}, &atlas.Error{Code: atlas.CodeNotFound}
				}
				return answer(documents[0])
			}
			return answer(map[string]any{items: documents, "total": hits.Total})
		},
	}
	return &definition{tool: t, body: s.written()}
}

// flatten makes one object of a hit. What the index says of it (id, score) wins over its fields.
func flatten(h source.Hit, fields []string, ranked bool) map[string]any {
	out := make(map[string]any, len(h.Fields)+3)
	for k, v := range h.Fields {
		if len(fields) == 0 || slices.Contains(fields, k) {
			out[k] = v
		}
	}
	delete(out, "score")
	delete(out, "snippet")
	out["id"] = h.ID
	if ranked {
		out["score"] = h.Score
		if h.Snippet != "" {
			out["snippet"] = h.Snippet
		}
	}
	return out
}

func anyIn(refs, names []string) bool {
	return slices.ContainsFunc(refs, func(r string) bool { return slices.Contains(names, r) })
}

// written is the body as it stands in the file, for the tool's version.
func (s *spec) written() string { return s.bodyValue.ast.String() }

// objectBody makes a tool that reads the object of a key made from arguments.
func (b *builder) objectBody(s *spec) *definition {
	store, ok := capable[source.ObjectStore](s)
	var keyNode node
	limit := int64(defaultObject)
	found := s.bodyValue.into(map[string]any{"key": &keyNode, "max_bytes": &limit})
	if keyNode.ast == nil {
		s.bodyValue.errorf("object: key is missing")
		return nil
	}
	key := keyNode.template("key")
	s.checkRefs(keyNode, key.refs())
	s.checkUsed(key.refs())
	for _, ref := range key.refs() {
		if !slices.Contains(s.needed, ref) && s.properties[ref] != nil && s.properties[ref]["default"] == nil {
			keyNode.errorf("object: {%s} is part of the key and must be required", ref)
		}
	}
	// What the key is with plain arguments shows whether the fixed parts are sound.
	sample, err := fillPath(key, func(string) (any, bool) { return "x", true }, "key", func(s string) string { return s })
	if err == nil {
		err = source.CheckKey(sample)
	}
	if err != nil && len(key.parts) > 0 {
		keyNode.errorf("object: %q is not a key: %s", keyNode.ast.GetToken().Value, atlas.ErrorOf(err).Hint)
	}
	if limit < 1 || limit > maxObject {
		found["max_bytes"].errorf("max_bytes: must be between 1 and %d", maxObject)
	}
	if !ok {
		return nil
	}
	fill := func(call atlas.Call) (string, error) {
		v, err := values(call)
		if err != nil {
			return "", err
		}
		return fillPath(key, arguments(v), "key", func(s string) string { return s })
	}
	t := &atlas.Tool{
		Output: raw(objectSchema()),
		Scopes: sourceScope(s, "read"), ReadOnly: true, Idempotent: true, Reads: reads(s.verb, false),
		CacheTTL: 30 * time.Second, Timeout: objectTimeout,
		Resource: keyResource(s.source, func(call atlas.Call) string {
			k, err := fill(call)
			if err != nil {
				return ""
			}
			return k
		}),
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			k, err := fill(call)
			if err != nil {
				return atlas.Result{}, err
			}
			return readObject(ctx, store, call.Tenant, k, limit)
		},
	}
	return &definition{tool: t, body: s.written()}
}

// fillPath fills in a path, each argument within one segment. An argument that would reach another
// segment, in any of the ways that servers read paths (slash, backslash, dots, percent signs), is
// refused: escaping alone does not help against a server that decodes twice.
func fillPath(t template, get func(string) (any, bool), what string, escape func(string) string) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.ref == "" {
			b.WriteString(p.text)
			continue
		}
		v, _ := get(p.ref)
		text := inText(plain(v))
		bad := text == "" || strings.Contains(text, "..") || text == "." ||
			strings.ContainsFunc(text, func(r rune) bool {
				return strings.ContainsRune(`/\%?#;`, r) || unicode.IsControl(r) || r == unicode.ReplacementChar
			})
		if bad {
			return "", atlas.Errorf(atlas.CodeInvalidArguments, nil,
				fmt.Sprintf("%s is used in a %s and must be one plain name", p.ref, what)).With("argument", p.ref)
		}
		b.WriteString(escape(text))
	}
	return b.String(), nil
}

// A urlTemplate is a URL with a fixed host, and arguments in its path and query.
type urlTemplate struct {
	base  string     // scheme and host
	host  string     // for the resource
	path  template   // arguments are single segments
	query []urlParam // in the order written
}

type urlParam struct {
	name  string
	value template
}

func parseURLTemplate(text string) (urlTemplate, error) {
	var u urlTemplate
	rest, ok := strings.CutPrefix(text, "https://")
	if !ok {
		return u, fmt.Errorf("%q does not begin with https://", text)
	}
	if strings.ContainsAny(rest, "#\\ \t\r\n") {
		return u, fmt.Errorf("%q holds a fragment, a backslash or white space", text)
	}
	host, pathQuery := rest, ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host, pathQuery = rest[:i], rest[i:]
	}
	if strings.ContainsAny(host, "{}") {
		return u, fmt.Errorf("the host %q must be fixed: arguments may stand in the path and the query only", host)
	}
	if strings.Contains(host, "@") {
		return u, errors.New("the URL must not hold a user name or password")
	}
	parsed, err := url.Parse("https://" + host)
	if err != nil || parsed.Hostname() == "" {
		return u, fmt.Errorf("%q is not a host", host)
	}
	u.base, u.host = "https://"+host, hostOf("https://"+host)
	path, query, _ := strings.Cut(pathQuery, "?")
	if strings.Contains("/"+path+"/", "/../") {
		return u, errors.New(`the path must not hold ".." segments`)
	}
	if u.path, err = parseTemplate(path); err != nil {
		return u, err
	}
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		if strings.ContainsAny(name, "{}") {
			return u, fmt.Errorf("the name of the query parameter %q must be fixed", name)
		}
		t, err := parseTemplate(value)
		if err != nil {
			return u, err
		}
		u.query = append(u.query, urlParam{name, t})
	}
	return u, nil
}

func (u urlTemplate) refs() []string {
	out := u.path.refs()
	for _, p := range u.query {
		out = append(out, p.value.refs()...)
	}
	return out
}

// fill makes the URL of a call. A query parameter whose one argument was left out is left out.
func (u urlTemplate) fill(get func(string) (any, bool)) (string, error) {
	path, err := fillPath(u.path, get, "path", url.PathEscape)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(u.base + path)
	separator := byte('?')
	for _, p := range u.query {
		given := len(p.value.refs()) == 0
		var value strings.Builder
		for _, part := range p.value.parts {
			if part.ref == "" {
				value.WriteString(part.text)
				continue
			}
			if v, ok := get(part.ref); ok && v != nil {
				given = true
				value.WriteString(url.QueryEscape(inText(plain(v))))
			}
		}
		if given {
			b.WriteByte(separator)
			b.WriteString(p.name + "=" + value.String())
			separator = '&'
		}
	}
	return b.String(), nil
}

// httpBody makes a tool that makes one HTTP request with arguments in its path, query and body.
// Methods that write make the tool destructive.
func (b *builder) httpBody(s *spec) *definition {
	fetcher, ok := capable[source.Fetcher](s)
	method := "GET"
	var urlText string
	var urlNode, bodyNode node
	header := map[string]string{}
	found := s.bodyValue.into(map[string]any{"method": &method, "url": &urlNode, "headers": &header, "body": &bodyNode})
	writes := slices.Contains([]string{"POST", "PUT", "PATCH", "DELETE"}, method)
	if !writes && method != "GET" && method != "HEAD" {
		found["method"].errorf("method: %q is not supported; use GET, HEAD, POST, PUT, PATCH or DELETE", method)
	}
	if urlNode.ast == nil {
		s.bodyValue.errorf("http: url is missing")
		return nil
	}
	urlNode.decode("url", &urlText)
	u, err := parseURLTemplate(urlText)
	if err != nil {
		urlNode.errorf("url: %s", err)
		return nil
	}
	used := u.refs()
	s.checkRefs(urlNode, used)
	for _, ref := range u.path.refs() {
		if !slices.Contains(s.needed, ref) && s.properties[ref] != nil && s.properties[ref]["default"] == nil {
			urlNode.errorf("url: {%s} is part of the path and must be required", ref)
		}
	}
	var bodyShape shape
	if bodyNode.ast != nil {
		if !writes {
			bodyNode.errorf("body: a %s request has none", method)
		}
		bodyShape = bodyNode.shape("body")
		s.checkRefs(bodyNode, bodyShape.refs())
		used = append(used, bodyShape.refs()...)
	}
	s.checkUsed(used)
	if !ok {
		return nil
	}
	build := func(call atlas.Call) (source.Request, error) {
		v, err := values(call)
		if err != nil {
			return source.Request{}, err
		}
		r := source.Request{Method: method, Header: header}
		if r.URL, err = u.fill(arguments(v)); err != nil {
			return r, err
		}
		if bodyNode.ast != nil {
			body, _ := bodyShape.value(arguments(v))
			r.Body = encode(body)
		}
		return r, nil
	}
	action, effects := "fetch", atlas.EffectsEgress
	if writes {
		action = "write"
	}
	resource := s.source + "/" + u.host
	t := &atlas.Tool{
		Output: raw(responseSchema()),
		Scopes: sourceScope(s, action), ReadOnly: !writes, Idempotent: !writes, Destructive: writes,
		Effects: effects, Reads: reads(s.verb, true), Timeout: fetchTimeout,
		Resource: func(atlas.Call) string { return resource },
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			r, err := build(call)
			if err != nil {
				return atlas.Result{}, err
			}
			return fetch(ctx, fetcher, call.Tenant, r)
		},
	}
	if writes {
		t.Preview = func(_ context.Context, call atlas.Call) (string, error) {
			r, err := build(call)
			if err != nil {
				return "", err
			}
			return previewRequest(r.Method, r.URL, r.Body), nil
		}
	}
	return &definition{tool: t, body: s.written()}
}
