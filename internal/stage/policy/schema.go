package policy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/atlas-mcp/atlas"
)

// A kind is what a tool's input schema says about a value.
type kind uint8

const (
	kindAny kind = iota // nothing that Cedar can express
	kindString
	kindBool
	kindLong
	kindDecimal
	kindSet
	kindRecord
)

// A shape is the part of a JSON Schema that Cedar can express.
type shape struct {
	kind   kind
	items  *shape            // of a set
	fields map[string]*field // of a record
}

// A field is one property of a record.
type field struct {
	shape
	optional bool
}

// maxShape bounds how deep schemas and arguments are followed.
const maxShape = 16

type jsonSchema struct {
	Type       json.RawMessage            `json:"type"`
	Properties map[string]json.RawMessage `json:"properties"`
	Required   []string                   `json:"required"`
	Items      json.RawMessage            `json:"items"`
	Default    json.RawMessage            `json:"default"`
	Ref        json.RawMessage            `json:"$ref"`
	AllOf      json.RawMessage            `json:"allOf"`
	AnyOf      json.RawMessage            `json:"anyOf"`
	OneOf      json.RawMessage            `json:"oneOf"`
}

// shapeOf reads a JSON Schema. What it does not understand is kindAny: never a mistake here, for
// the validation stage is the judge of schemas.
func shapeOf(raw json.RawMessage, depth int) (s shape, nullable, defaulted bool) {
	var js jsonSchema
	if depth > maxShape || json.Unmarshal(raw, &js) != nil {
		return shape{}, true, false
	}
	defaulted = len(js.Default) > 0 && string(js.Default) != "null"
	if js.Ref != nil || js.AllOf != nil || js.AnyOf != nil || js.OneOf != nil {
		return shape{}, true, defaulted
	}
	var names []string
	var one string
	if json.Unmarshal(js.Type, &one) == nil {
		names = []string{one}
	} else if json.Unmarshal(js.Type, &names) != nil {
		return shape{}, true, defaulted
	}
	if i := slices.Index(names, "null"); i >= 0 {
		nullable = true
		names = slices.Delete(names, i, i+1)
	}
	if len(names) != 1 {
		return shape{}, true, defaulted
	}
	switch names[0] {
	case "string":
		s.kind = kindString
	case "boolean":
		s.kind = kindBool
	case "integer":
		s.kind = kindLong
	case "number":
		s.kind = kindDecimal
	case "array":
		item, itemNull, _ := shapeOf(js.Items, depth+1)
		if len(js.Items) > 0 && !itemNull {
			s.kind, s.items = kindSet, &item
		}
	case "object":
		if len(js.Properties) == 0 {
			break
		}
		s.kind, s.fields = kindRecord, map[string]*field{}
		for name, property := range js.Properties {
			f, null, def := shapeOf(property, depth+1)
			s.fields[name] = &field{shape: f, optional: null || !def && !slices.Contains(js.Required, name)}
		}
	}
	return s, nullable, defaulted
}

// A toolInfo is what the engine knows about a tool ahead of its calls.
type toolInfo struct {
	tool *atlas.Tool
	args shape // kindRecord if the input schema names its properties
	open bool  // the schema says too little to know which arguments there are

	record types.Record // context.tool
}

func inform(t *atlas.Tool) *toolInfo {
	info := &toolInfo{tool: t, record: toolRecord(t)}
	info.args, _, _ = shapeOf(t.Input, 0)
	if info.args.kind != kindRecord {
		// {"type":"object"} without properties has no arguments only if it says so.
		var closed struct {
			Type       string          `json:"type"`
			Additional json.RawMessage `json:"additionalProperties"`
		}
		if json.Unmarshal(t.Input, &closed) == nil && closed.Type == "object" && string(closed.Additional) == "false" {
			info.args = shape{kind: kindRecord, fields: map[string]*field{}}
		} else {
			info.open = true
		}
	}
	return info
}

// follow returns the shape at a path below the arguments, and false if the schema does not say.
func (s *shape) follow(path argPath) bool {
	for _, name := range path {
		if s.kind == kindAny {
			return false
		}
		if s.kind != kindRecord {
			return true // a mistake that the type checker reports
		}
		f, ok := s.fields[name]
		if !ok {
			return true // as well
		}
		s = &f.shape
	}
	return s.known()
}

// known reports whether Cedar can express all of the shape.
func (s *shape) known() bool {
	switch s.kind {
	case kindAny:
		return false
	case kindSet:
		return s.items.known()
	case kindRecord:
		for _, f := range s.fields {
			if !f.known() {
				return false
			}
		}
	case kindString, kindBool, kindLong, kindDecimal:
	}
	return true
}

// signature writes the shape so that equal shapes have equal texts.
func (s *shape) signature(b *strings.Builder) {
	b.WriteByte("?sbldS{"[s.kind])
	switch s.kind {
	case kindSet:
		s.items.signature(b)
	case kindRecord:
		names := make([]string, 0, len(s.fields))
		for name := range s.fields {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			f := s.fields[name]
			fmt.Fprintf(b, "%q", name)
			if f.optional {
				b.WriteByte('?')
			}
			f.signature(b)
		}
		b.WriteByte('}')
	default: // scalars are their letter
	}
}

func (s *shape) cedarType() resolved.IsType {
	switch s.kind {
	case kindString:
		return resolved.StringType{}
	case kindBool:
		return resolved.BoolType{}
	case kindLong:
		return resolved.LongType{}
	case kindDecimal:
		return resolved.ExtensionType("decimal")
	case kindSet:
		return resolved.SetType{Element: s.items.cedarType()}
	case kindRecord:
		return s.recordType()
	case kindAny: // not reached: callers ask known first
	}
	return resolved.StringType{}
}

func (s *shape) recordType() resolved.RecordType {
	r := resolved.RecordType{}
	for name, f := range s.fields {
		r[types.String(name)] = resolved.Attribute{Type: f.cedarType(), Optional: f.optional}
	}
	return r
}

// Entity types of a decision.
const (
	typePrincipal = "User"
	typeAction    = "Action"
	typeResource  = "Resource"
)

// checkWhen checks the expression's arguments and types against every tool that the rule's actions
// match. Tools whose schemas say too little about what the expression reads are left out.
func checkWhen(w *when, actions []glob, tools []*toolInfo, names []string, rule string, r *report) {
	var matched []*toolInfo
	for _, info := range tools {
		if slices.ContainsFunc(info.tool.Scopes, func(s string) bool {
			return slices.ContainsFunc(actions, func(g glob) bool { return g.match(s) })
		}) {
			matched = append(matched, info)
		}
	}
	if !checkArgNames(w, matched, rule, r) {
		return
	}
	if len(w.reads.args) == 0 && !w.reads.allArgs {
		checkTypes(w, &shape{kind: kindRecord}, names, "", rule, r)
		return
	}
	done := map[string]bool{}
	for _, info := range matched {
		args := project(&info.args, w)
		if args == nil {
			continue
		}
		var b strings.Builder
		args.signature(&b)
		if done[b.String()] {
			continue
		}
		done[b.String()] = true
		if !checkTypes(w, args, names, info.tool.Name, rule, r) {
			return // the same mistake for the next tool would say nothing new
		}
	}
}

// checkArgNames reports arguments that no matching tool has.
func checkArgNames(w *when, matched []*toolInfo, rule string, r *report) bool {
	ok := true
	if len(matched) == 0 || slices.ContainsFunc(matched, func(i *toolInfo) bool { return i.open }) {
		return true
	}
	var names []string
	for _, info := range matched {
		for name := range info.args.fields {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for _, arg := range w.reads.argNames() {
		if !slices.Contains(names, arg) {
			ok = false
			r.fail(locateWord(r.lines, w.text, arg), rule, suggest(arg, names), "when: no tool of these actions has an argument %q", arg)
		}
	}
	return ok
}

// project keeps the arguments that the expression names. It returns nil if Cedar cannot express
// what is read of them.
func project(args *shape, w *when) *shape {
	if args.kind != kindRecord {
		return nil
	}
	if w.reads.allArgs {
		if !args.known() {
			return nil
		}
		return args
	}
	for _, path := range w.reads.paths {
		if !args.follow(path) && !onlyHas(w.node, path) {
			return nil
		}
	}
	out := &shape{kind: kindRecord, fields: map[string]*field{}}
	for name := range w.reads.args {
		if f, ok := args.fields[name]; ok {
			out.fields[name] = f
			if !f.known() { // named, but only asked for with has
				out.fields[name] = &field{shape: shape{kind: kindString}, optional: f.optional}
			}
		}
	}
	return out
}

// onlyHas reports whether the expression does no more with the path than ask whether it is there.
func onlyHas(node ast.IsNode, path argPath) bool {
	only := len(path) == 1
	ast.Inspect(ast.NewNode(node), func(n ast.IsNode) bool {
		if access, ok := n.(ast.NodeTypeAccess); ok {
			if root, p, ok := pathOf(access); ok && root == "context" && len(p) >= 2 && p[0] == "args" && p[1] == path[0] {
				only = false
			}
		}
		return only
	})
	return only
}

func actionNames(tools []*toolInfo) []string {
	var names []string
	for _, info := range tools {
		names = append(names, info.tool.Scopes...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var (
	quotedName = regexp.MustCompile("`([^`]*)`")
	forAction  = regexp.MustCompile(` in context for Action::"[^"]*"`)
)

// checkTypes runs Cedar's type checker with the given arguments and the scopes of all tools, sorted. It reports at most one mistake
// for each message of the checker, and whether there was none.
func checkTypes(w *when, args *shape, scopes []string, tool, rule string, r *report) bool {
	text, set, boolean := resolved.StringType{}, resolved.SetType{Element: resolved.StringType{}}, resolved.BoolType{}
	record := func(typ resolved.IsType, names ...string) resolved.RecordType {
		out := resolved.RecordType{}
		for _, n := range names {
			out[types.String(n)] = resolved.Attribute{Type: typ}
		}
		return out
	}
	toolType := record(text, "name", "level", "source", "reads", "effects")
	toolType["read_only"] = resolved.Attribute{Type: boolean}
	toolType["destructive"] = resolved.Attribute{Type: boolean}
	facts := record(set, "tables", "columns", "pii")
	facts["sql"] = resolved.Attribute{Type: text}
	caller := record(text, "subject", "tenant", "delegator")
	caller["roles"] = resolved.Attribute{Type: set}
	caller["scopes"] = resolved.Attribute{Type: set}

	schema := &resolved.Schema{
		Entities: map[types.EntityType]resolved.Entity{
			typePrincipal: {Name: typePrincipal, Shape: caller},
			typeResource:  {Name: typeResource, Shape: resolved.RecordType{}},
		},
		Actions: map[types.EntityUID]resolved.Action{},
	}
	applies := &resolved.AppliesTo{
		Principals: []types.EntityType{typePrincipal}, Resources: []types.EntityType{typeResource},
		Context: resolved.RecordType{
			"tenant": {Type: text}, "tool": {Type: toolType}, "facts": {Type: facts}, "args": {Type: args.recordType()},
		},
	}
	// Only the actions that the expression names are declared, and one for all others: whatever it
	// says about an action is then checked both ways, at a cost that does not grow with the tools.
	declare := func(uid types.EntityUID) {
		schema.Actions[uid] = resolved.Action{Entity: types.Entity{UID: uid}, AppliesTo: applies}
	}
	ast.Inspect(ast.NewNode(w.node), func(n ast.IsNode) bool {
		if v, ok := n.(ast.NodeValue); ok {
			if uid, ok := v.Value.(types.EntityUID); ok && uid.Type == typeAction {
				if _, known := slices.BinarySearch(scopes, string(uid.ID)); known || len(scopes) == 0 { // without tools any may be meant
					declare(uid)
				}
			}
		}
		return true
	})
	declare(types.NewEntityUID(typeAction, "*"))
	policy := ast.Permit().When(ast.NewNode(w.node))
	err := validate.New(schema).Policy("", policy)
	if err == nil {
		return true
	}
	var messages []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !slices.Contains(messages, line) {
			messages = append(messages, line)
		}
	}
	for _, message := range messages {
		at := locate(r.lines, w.text, 0)
		remedy := ""
		if m := quotedName.FindStringSubmatch(message); m != nil {
			names := strings.Split(m[1], ".")
			name := names[len(names)-1]
			at = locateWord(r.lines, w.text, name)
			switch {
			case strings.HasPrefix(message, "attribute ") && strings.HasSuffix(message, " not found") && len(names) == 1:
				remedy = fmt.Sprintf("name fewer actions, or ask first: context.args has %s && …", name)
			case strings.Contains(message, "optional attribute"):
				remedy = fmt.Sprintf("ask first: context.%s has %s && …", strings.Join(names[:len(names)-1], "."), name)
			}
		}
		if strings.Contains(message, "saw decimal") {
			remedy = `a number is a decimal: x.greaterThan(decimal("100.0")), also lessThan, greaterThanOrEqual, lessThanOrEqual`
		}
		message = forAction.ReplaceAllString(message, "")
		if tool != "" {
			message += " (for the tool " + tool + ")"
		}
		r.fail(at, rule, remedy, "when: %s", message)
	}
	return false
}
