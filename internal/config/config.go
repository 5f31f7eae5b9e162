// Package config reads YAML strictly: unknown fields are errors, every error names file, line and
// column, ${env:NAME} and ${file:PATH} are filled in, and settings from the environment are laid
// over the file. What the settings mean is known to the parts that declare them; which files there
// are is known to the app.
package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxBytes is the largest file that is read.
const MaxBytes = 1 << 20

// A Node is a part of a parsed file that is decoded later, with its position kept.
type Node = ast.Node

// An Error is a mistake in a file. It names the place and does not show it: the lines round it may hold
// secrets, and those of ${…} already filled in.
type Error struct {
	File         string
	Line, Column int // from 1; 0 where the place is not known
	Message      string
}

// Error returns "file:line:column: message".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	b.WriteString(e.Message)
	return b.String()
}

// A Resolver looks up what ${…} stands for.
type Resolver struct {
	Env  func(name string) (string, bool)  // for ${env:NAME}
	File func(path string) ([]byte, error) // for ${file:PATH}
}

// Decode parses data, fills in ${…} and decodes it into v, a pointer to a struct. Fields that the
// file does not name keep their value. A file that says nothing is an error.
func Decode(name string, data []byte, r Resolver, v any) error {
	if err := CheckShape(name, data); err != nil {
		return err
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return positioned(name, err)
	}
	if len(file.Docs) > 1 {
		return &Error{File: name, Message: "holds more than one YAML document; keep one"}
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil || file.Docs[0].Body.Type() == ast.NullType || file.Docs[0].Body.Type() == ast.CommentType {
		return &Error{File: name, Message: "says nothing; a file that is being written, or one of comments only, is no configuration"}
	}
	body := file.Docs[0].Body
	if err := resolve(name, body, r); err != nil {
		return err
	}
	return decodeNode(name, body, v)
}

// DecodeNode decodes a node that Decode left as it is, with the same strictness.
func DecodeNode(name string, n Node, v any) error {
	if n == nil {
		return nil
	}
	return decodeNode(name, n, v)
}

func decodeNode(name string, n Node, v any) error {
	// The library gives no position for a duration that does not parse: remember its text and look
	// for it in the tree.
	var badText string
	duration := yaml.CustomUnmarshaler(func(d *time.Duration, b []byte) error {
		text := strings.Trim(strings.TrimSpace(string(b)), `"'`)
		parsed, err := time.ParseDuration(text)
		if err != nil {
			badText = text
			return fmt.Errorf("%q is not a duration; write 500ms, 30s, 5m or 1h", text)
		}
		*d = parsed
		return nil
	})
	err := yaml.NodeToValue(n, v, yaml.Strict(), duration)
	if err == nil {
		return nil
	}
	e := positioned(name, err)
	if e.Line == 0 && badText != "" {
		for _, s := range ast.Filter(ast.StringType, n) {
			if t := s.GetToken(); t.Value == badText {
				e.Line, e.Column = t.Position.Line, t.Position.Column
				break
			}
		}
		for _, s := range ast.Filter(ast.IntegerType, n) {
			if t := s.GetToken(); e.Line == 0 && t.Value == badText {
				e.Line, e.Column = t.Position.Line, t.Position.Column
			}
		}
	}
	return e
}

var placePrefix = regexp.MustCompile(`^\[(\d+):(\d+)\] ([^\n]*)`)

// positioned turns an error of the library, "[line:column] message" and the lines round it, into an Error.
func positioned(name string, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	m := placePrefix.FindStringSubmatch(err.Error())
	if m == nil {
		return &Error{File: name, Message: err.Error()}
	}
	line, _ := strconv.Atoi(m[1])   // digits by the expression
	column, _ := strconv.Atoi(m[2]) // digits by the expression
	return &Error{File: name, Line: line, Column: column, Message: m[3]}
}

var reference = regexp.MustCompile(`\$\{([a-z]+):([^}:]*)(?::-([^}]*))?\}`)

// resolve fills in the references of every string under n.
func resolve(name string, n Node, r Resolver) error {
	var errs []error
	for _, found := range ast.Filter(ast.StringType, n) {
		s, ok := found.(*ast.StringNode)
		if !ok || !strings.Contains(s.Value, "${") {
			continue
		}
		value, err := expand(s.Value, r)
		if err != nil {
			at := s.GetToken().Position
			errs = append(errs, &Error{File: name, Line: at.Line, Column: at.Column, Message: err.Error()})
			continue
		}
		s.Value = value
		s.Token = token.New(value, value, s.Token.Position)
		s.Token.Type = token.StringType
	}
	return errors.Join(errs...)
}

// expand fills in ${env:NAME}, ${env:NAME:-default} and ${file:PATH}.
func expand(s string, r Resolver) (string, error) {
	var errs []error
	out := reference.ReplaceAllStringFunc(s, func(ref string) string {
		m := reference.FindStringSubmatch(ref)
		kind, arg, fallback := m[1], m[2], m[3]
		switch {
		case kind == "env" && r.Env != nil:
			if v, ok := r.Env(arg); ok {
				return v
			}
			if strings.Contains(ref, ":-") {
				return fallback
			}
			errs = append(errs, fmt.Errorf("environment variable %s is not set; set it or write ${env:%s:-default}", arg, arg))
		case kind == "file" && r.File != nil:
			data, err := r.File(arg)
			if err == nil {
				return strings.TrimRight(string(data), "\r\n")
			}
			errs = append(errs, fmt.Errorf("read ${file:%s}: %w", arg, err))
		default:
			errs = append(errs, fmt.Errorf("%s is not known; use ${env:NAME} or ${file:PATH}", ref))
		}
		return ref
	})
	return out, errors.Join(errs...)
}
