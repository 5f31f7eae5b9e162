package egress

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/atlas-mcp/atlas"
)

const maxFile = 1 << 20 // bytes of an allowlist

// ParseAllowlist reads an allowlist: a mapping of tenant or "*" to a list of hosts, each a text or
// {host, methods, paths}. It reports every mistake, joined, as "file:line:column: message".
func ParseAllowlist(file string, data []byte) (Allowlist, error) {
	var errs []error
	fail := func(n ast.Node, format string, args ...any) {
		where := file
		if n != nil && n.GetToken() != nil {
			p := n.GetToken().Position
			where = fmt.Sprintf("%s:%d:%d", file, p.Line, p.Column)
		}
		errs = append(errs, fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...)))
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: has %d bytes; the limit is %d", file, len(data), maxFile)
	}
	parsed, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // they are reported below, with the rest
	if err != nil {
		if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil {
			p := e.GetToken().Position
			return nil, fmt.Errorf("%s:%d:%d: %s", file, p.Line, p.Column, e.GetMessage())
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	list := Allowlist{}
	if len(parsed.Docs) > 1 {
		return nil, fmt.Errorf("%s: holds more than one YAML document; keep one", file)
	}
	if len(parsed.Docs) == 0 || parsed.Docs[0].Body == nil {
		return list, nil
	}
	var tenants []*ast.MappingValueNode
	switch top := parsed.Docs[0].Body.(type) {
	case *ast.MappingNode:
		tenants = top.Values
	case *ast.MappingValueNode:
		tenants = []*ast.MappingValueNode{top}
	case *ast.CommentGroupNode, *ast.NullNode:
		return list, nil
	default:
		fail(top, "must be a mapping of tenants to lists of hosts")
		return nil, errors.Join(errs...)
	}
	for _, t := range tenants {
		tenant := t.Key.GetToken().Value
		if _, twice := list[tenant]; twice {
			fail(t.Key, "tenant %q is there twice; keep one", tenant)
			continue
		}
		if _, err := atlas.ParseTenantID(tenant); err != nil && tenant != Everyone {
			fail(t.Key, "%q is not a tenant: %s", tenant, err)
			continue
		}
		list[tenant] = []Entry{}
		var hosts []ast.Node
		switch v := t.Value.(type) {
		case *ast.SequenceNode:
			hosts = v.Values
		case *ast.NullNode:
		default:
			fail(t.Value, "must be a list of hosts")
		}
		for _, n := range hosts {
			if e, err := parseEntry(n); err != nil {
				fail(n, "%s", err)
			} else {
				list[tenant] = append(list[tenant], e)
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return list, nil
}

func parseEntry(n ast.Node) (Entry, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return NewEntry(n.Value, nil, nil)
	case *ast.MappingNode, *ast.MappingValueNode:
		var long struct {
			Host    string   `yaml:"host"`
			Methods []string `yaml:"methods"`
			Paths   []string `yaml:"paths"`
		}
		if err := yaml.NodeToValue(n, &long, yaml.Strict()); err != nil {
			if e, ok := errors.AsType[yaml.Error](err); ok {
				return Entry{}, errors.New(e.GetMessage())
			}
			return Entry{}, err
		}
		return NewEntry(long.Host, long.Methods, long.Paths)
	}
	return Entry{}, fmt.Errorf("%q is not a host; write one such as api.example.com", n.GetToken().Value)
}
