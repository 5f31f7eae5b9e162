package tool

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const maxFile = 1 << 20 // bytes of a file of tools

// A node is a part of a YAML file with its place. Files are walked by hand, not decoded in one go,
// so that every mistake is reported and each with its place.
type node struct {
	ast  ast.Node
	at   place
	errs *[]error
}

func (n node) errorf(format string, args ...any) {
	*n.errs = append(*n.errs, n.at.errorf(format, args...))
}

func placeOf(file string, t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{file: file}
	}
	return place{file: file, line: t.Position.Line, column: t.Position.Column}
}

// parse returns the top of a file, or false if there is nothing to read.
func parse(f File, errs *[]error) (node, bool) {
	n := node{at: place{file: f.Name}, errs: errs}
	if len(f.Data) > maxFile {
		n.errorf("has %d bytes; the limit is %d", len(f.Data), maxFile)
		return n, false
	}
	parsed, err := parser.ParseBytes(f.Data, 0, parser.AllowDuplicateMapKey()) // entries reports them, with the rest
	if err != nil {
		if e, ok := errors.AsType[yaml.Error](err); ok {
			n.at = placeOf(f.Name, e.GetToken())
			n.errorf("%s", e.GetMessage())
		} else {
			n.errorf("%s", err)
		}
		return n, false
	}
	if len(parsed.Docs) > 1 {
		n.errorf("holds more than one YAML document; keep one")
		return n, false
	}
	if len(parsed.Docs) == 0 || parsed.Docs[0].Body == nil {
		return n, false
	}
	if _, comment := parsed.Docs[0].Body.(*ast.CommentGroupNode); comment {
		return n, false
	}
	return n.sub(parsed.Docs[0].Body), true
}

func (n node) sub(a ast.Node) node {
	return node{ast: a, at: placeOf(n.at.file, a.GetToken()), errs: n.errs}
}

// An entry is a key of a mapping and its value.
type entry struct {
	key   string
	name  node // the key, for messages
	value node
}

// entries returns what a mapping holds, in order. Anchors, aliases and merge keys are refused: they
// hide what a tool is from the reader of its definition.
func (n node) entries() ([]entry, bool) {
	var pairs []*ast.MappingValueNode
	switch a := n.ast.(type) {
	case *ast.MappingNode:
		pairs = a.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{a}
	case *ast.NullNode:
		return nil, true
	case *ast.AnchorNode, *ast.AliasNode:
		n.errorf("anchors and aliases are not supported here; write the value out")
		return nil, false
	default:
		n.errorf("must be a mapping (key: value)")
		return nil, false
	}
	first := map[string]place{}
	entries := make([]entry, 0, len(pairs))
	for _, p := range pairs {
		name := n.sub(p.Key)
		if p.Key.IsMergeKey() {
			name.errorf("merge keys are not supported here; write the values out")
			continue
		}
		key := p.Key.GetToken().Value
		if at, twice := first[key]; twice {
			name.errorf("%q is already given in line %d; keep one", key, at.line)
			continue
		}
		first[key] = name.at
		entries = append(entries, entry{key, name, n.sub(p.Value)})
	}
	return entries, true
}

// below returns what a mapping that may be missing holds.
func (n node) below() []entry {
	if n.ast == nil {
		return nil
	}
	entries, _ := n.entries()
	return entries
}

// into decodes a mapping into variables by key and returns where each key that was found stands. A
// variable of type *node takes the value as it is.
func (n node) into(vars map[string]any) map[string]node {
	found := map[string]node{}
	entries, ok := n.entries()
	if !ok {
		return found
	}
	for _, e := range entries {
		v, known := vars[e.key]
		if !known {
			e.name.errorf("unknown field %q; use %s", e.key, oneOf(e.key, vars))
			continue
		}
		found[e.key] = e.value
		e.value.decode(e.key, v)
	}
	return found
}

// oneOf names the field that was probably meant, or all.
func oneOf(key string, vars map[string]any) string {
	names := slices.Sorted(maps.Keys(vars))
	for _, name := range names {
		if distance(key, name) <= 2 {
			return fmt.Sprintf("%q", name)
		}
	}
	return strings.Join(names, ", ")
}

func (n node) decode(key string, v any) {
	switch v := v.(type) {
	case *node:
		*v = n
		return
	case *time.Duration:
		text := n.ast.GetToken().Value
		d, err := time.ParseDuration(text)
		switch {
		case err != nil:
			n.errorf("%s: %q is not a duration; write 500ms, 30s, 5m or 1h", key, text)
		case d < 0:
			n.errorf("%s: must not be negative", key)
		default:
			*v = d
		}
		return
	}
	if len(ast.Filter(ast.AliasType, n.ast))+len(ast.Filter(ast.AnchorType, n.ast)) > 0 {
		n.errorf("%s: anchors and aliases are not supported here; write the value out", key)
		return
	}
	if err := yaml.NodeToValue(n.ast, v, yaml.Strict()); err != nil {
		if e, ok := errors.AsType[yaml.Error](err); ok {
			n.at = placeOf(n.at.file, e.GetToken())
			n.errorf("%s: %s", key, plainWords(e.GetMessage()))
			return
		}
		n.errorf("%s: %s", key, plainWords(err.Error()))
	}
}

// plainWords takes the names of Go's types out of the library's messages.
func plainWords(message string) string {
	return strings.NewReplacer(
		"cannot unmarshal ", "found ", " into Go value of type ", ", want ", "[]string", "a list of strings",
		"map[string]interface {}", "a mapping", "[]interface {}", "a list",
	).Replace(message)
}

// distance is the Levenshtein distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// literalLines reports whether n is a text in the literal style (|), and how many lines below its
// indicator the text begins, once blank lines at its head are trimmed.
func literalLines(a ast.Node) (int, bool) {
	l, ok := a.(*ast.LiteralNode)
	if !ok || l.Start == nil || !strings.HasPrefix(l.Start.Value, "|") {
		return 0, false
	}
	lines := 1
	for line := range strings.Lines(l.Value.Value) {
		if strings.TrimSpace(line) != "" {
			break
		}
		lines++
	}
	return lines, true
}

func sequence(a ast.Node) ([]ast.Node, bool) {
	s, ok := a.(*ast.SequenceNode)
	if !ok {
		return nil, false
	}
	return s.Values, true
}
