package tool

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

const (
	maxListed    = 1000 // resources of one template
	maxCompleted = 100  // values of one completion, as the protocol has it
	maxPrefix    = 256  // bytes of what a completion may begin with
	maxLookups   = 8    // of one list or completion
	maxItemDepth = 8    // names in a path
)

// A lookup finds out what there is, for a list or a completion: one call of a tool as the caller,
// through the pipeline, so that he finds what he may read and nothing else.
type lookup struct {
	children
	tool  string
	args  shape
	items []string // path of the list in the answer

	value  []string            // path in an item: the value of a completion
	values map[string][]string // paths in an item, by variable of the URI
	link   map[string][]string // paths in an item, by name, title, description, size and mime
}

// run returns the items of the answer.
func (l lookup) run(ctx context.Context, call atlas.Call, get func(string) (any, bool)) ([]any, error) {
	filled, _ := l.args.value(get)
	args, _ := filled.(map[string]any)
	res, err := l.children.run(ctx, call, l.tool, args)
	if err != nil {
		return nil, err
	}
	v, err := answered(res)
	if err != nil {
		return nil, err
	}
	list, _ := find(v, l.items).([]any)
	return list, nil
}

// answered decodes a child's answer, numbers as [json.Number].
func answered(res atlas.Result) (any, error) {
	d := json.NewDecoder(bytes.NewReader(res.Structured))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, atlas.Errorf(atlas.CodeInternal, err, "")
	}
	return v, nil
}

// find returns what stands at a path, or nil; numbers are places in lists.
func find(v any, path []string) any {
	for _, name := range path {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

// nothing reports whether a failed lookup means that there is nothing for this caller: he may not
// look, or what he typed finds nothing. What he may not see is answered like what is not there.
func nothing(err error, typed bool) bool {
	c := atlas.ErrorOf(err).Info().Category
	return c == atlas.PermissionDenied || c == atlas.ResourceNotFound || typed && c == atlas.InvalidInput
}

// A completer completes the arguments of a prompt, or the variables of a resource.
type completer struct {
	name    string // of the prompt or resource
	lookups map[string][]lookup
	choices map[string][]string // enumerations
}

func (c completer) empty() bool { return len(c.lookups) == 0 && len(c.choices) == 0 }

// typedRef stands for what was typed so far, in the arguments of a completion's tool.
const typedRef = "prefix"

func (c completer) run(ctx context.Context, call atlas.Call, argument, prefix string, known map[string]string) ([]string, error) {
	if len(prefix) > maxPrefix || !utf8.ValidString(prefix) || strings.ContainsFunc(prefix, unicode.IsControl) {
		return nil, nil
	}
	call.Name = c.name
	var out []string
	add := func(v string) {
		sound := v != "" && len(v) <= maxVariable && !strings.ContainsFunc(v, unicode.IsControl)
		if sound && strings.HasPrefix(v, prefix) && len(out) < maxCompleted && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	for _, v := range c.choices[argument] {
		add(v)
	}
	ctx, cancel := context.WithTimeout(ctx, composedTimeout)
	defer cancel()
	get := func(ref string) (any, bool) {
		if ref == typedRef {
			return prefix, true
		}
		v, ok := known[ref]
		return v, ok && v != ""
	}
	for _, l := range c.lookups[argument] {
		if !hasAll(l.args.refs(), get) { // it completes by what is not filled in yet
			continue
		}
		items, err := l.run(ctx, call, get)
		if err != nil {
			if nothing(err, true) {
				continue
			}
			return nil, err
		}
		for _, item := range items {
			add(inText(find(item, l.value)))
		}
	}
	return out, nil
}

func hasAll(refs []string, get func(string) (any, bool)) bool {
	return !slices.ContainsFunc(refs, func(ref string) bool { _, ok := get(ref); return !ok })
}
