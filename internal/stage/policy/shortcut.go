package policy

import (
	"cmp"
	"encoding/json"
	"strconv"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Most expressions compare an argument with a literal. To ask Cedar means to make records of the
// arguments, the tool and the facts first, which takes ten times as long as all else in a decision. A
// shortcut answers such an expression from the arguments as they are, where the answer is certain, and
// says so where it is not: then Cedar is asked.

// A verdict is what a shortcut knows.
type verdict uint8

const (
	unsure verdict = iota
	isFalse
	isTrue
)

func verdictOf(b bool) verdict {
	if b {
		return isTrue
	}
	return isFalse
}

// A shortcut looks at decoded arguments, of which every one that the expression reads is plain.
type shortcut func(args map[string]any) verdict

// newShortcut returns nil for an expression that takes more than a shortcut.
func newShortcut(n ast.IsNode) shortcut {
	switch n := n.(type) {
	case ast.NodeTypeAnd:
		return both(newShortcut(n.Left), newShortcut(n.Right), isFalse)
	case ast.NodeTypeOr:
		return both(newShortcut(n.Left), newShortcut(n.Right), isTrue)
	case ast.NodeTypeNot:
		return not(newShortcut(n.Arg))
	case ast.NodeTypeHas:
		if !isArgs(n.Arg) {
			return nil
		}
		name := string(n.Value)
		return func(args map[string]any) verdict {
			_, ok := args[name]
			return verdictOf(ok)
		}
	case ast.NodeTypeEquals:
		return equals(n.BinaryNode)
	case ast.NodeTypeNotEquals:
		return not(equals(n.BinaryNode))
	case ast.NodeTypeLessThan:
		return compareLong(n.BinaryNode, func(order int) bool { return order < 0 })
	case ast.NodeTypeLessThanOrEqual:
		return compareLong(n.BinaryNode, func(order int) bool { return order <= 0 })
	case ast.NodeTypeGreaterThan:
		return compareLong(n.BinaryNode, func(order int) bool { return order > 0 })
	case ast.NodeTypeGreaterThanOrEqual:
		return compareLong(n.BinaryNode, func(order int) bool { return order >= 0 })
	}
	return nil
}

// both is && or ||: decides is the verdict of the left side that is the answer whatever the right one is.
func both(left, right shortcut, decides verdict) shortcut {
	if left == nil || right == nil {
		return nil
	}
	return func(args map[string]any) verdict {
		if v := left(args); v == decides || v == unsure {
			return v
		}
		return right(args)
	}
}

func not(of shortcut) shortcut {
	if of == nil {
		return nil
	}
	return func(args map[string]any) verdict {
		switch of(args) {
		case isTrue:
			return isFalse
		case isFalse:
			return isTrue
		case unsure:
		}
		return unsure
	}
}

func isArgs(n ast.IsNode) bool {
	access, ok := n.(ast.NodeTypeAccess)
	if !ok || access.Value != "args" {
		return false
	}
	variable, ok := access.Arg.(ast.NodeTypeVariable)
	return ok && variable.Name == "context"
}

// argumentOf returns the name in context.args.name.
func argumentOf(n ast.IsNode) (string, bool) {
	access, ok := n.(ast.NodeTypeAccess)
	if !ok || !isArgs(access.Arg) {
		return "", false
	}
	return string(access.Value), true
}

// equals compares an argument with a literal of its own type; values of two types it leaves to Cedar.
func equals(n ast.BinaryNode) shortcut {
	name, ok := argumentOf(n.Left)
	literal, isValue := n.Right.(ast.NodeValue)
	if !ok || !isValue {
		return nil
	}
	switch want := literal.Value.(type) {
	case types.String:
		return func(args map[string]any) verdict {
			have, ok := args[name].(string)
			if !ok {
				return unsure
			}
			return verdictOf(have == string(want))
		}
	case types.Boolean:
		return func(args map[string]any) verdict {
			have, ok := args[name].(bool)
			if !ok {
				return unsure
			}
			return verdictOf(have == bool(want))
		}
	case types.Long:
		return compareLong(n, func(order int) bool { return order == 0 })
	}
	return nil
}

// compareLong compares an argument with a whole number. test is given how they are ordered, as by
// [cmp.Compare].
func compareLong(n ast.BinaryNode, test func(order int) bool) shortcut {
	name, ok := argumentOf(n.Left)
	literal, isValue := n.Right.(ast.NodeValue)
	if !ok || !isValue {
		return nil
	}
	want, ok := literal.Value.(types.Long)
	if !ok {
		return nil
	}
	return func(args map[string]any) verdict {
		have, ok := wholeNumber(args[name])
		if !ok {
			return unsure
		}
		return verdictOf(test(cmp.Compare(have, int64(want))))
	}
}

func wholeNumber(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseInt(string(n), 10, 64)
	return i, err == nil
}

// quickly answers the expression from the arguments, if it can. Every argument that the expression
// names must be plain, also one that it does not come to: else Cedar is not asked at all (see ready).
func (w *when) quickly(info *toolInfo, args map[string]any) verdict {
	if w.shortcut == nil {
		return unsure
	}
	for name := range w.reads.args {
		v, given := args[name]
		if !given {
			continue
		}
		switch v.(type) {
		case string, bool:
		default:
			// Where the schema says number, a whole one is a decimal to Cedar.
			if f := info.args.fields[name]; f != nil && f.kind == kindDecimal {
				return unsure
			}
			if _, ok := wholeNumber(v); !ok {
				return unsure
			}
		}
	}
	return w.shortcut(args)
}
