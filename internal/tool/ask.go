package tool

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// An ask is what a tool asks the person at the client before it runs (SEP-2322, elicitation in form
// mode): arguments that the caller left out, and a yes. It completes the arguments before anything
// else looks at them, so that policy, approval and cache see those that run.
type ask struct {
	message string
	fields  []field        // of arguments that are asked for if they are missing
	confirm placeholders   // the question that needs a yes; empty for none
	presets map[string]any // defaults of the input, for the text of the question
}

// The keys of the two requests.
const (
	askFields  = "fields"
	askConfirm = "confirm"
)

// askState is what the client carries from one round to the next, sealed.
type askState struct {
	Asked  string                     `json:"asked"` // key of the request
	Values map[string]json.RawMessage `json:"values,omitempty"`
}

// run completes the arguments, or says what to ask.
func (a ask) run(_ context.Context, call atlas.Call) (json.RawMessage, *atlas.Ask, error) {
	var sent map[string]json.RawMessage
	if raw := bytes.TrimSpace(call.Args.Raw); len(raw) > 0 {
		if err := json.Unmarshal(raw, &sent); err != nil {
			return nil, nil, atlas.Errorf(atlas.CodeInvalidArguments, err, "the arguments are not a JSON object")
		}
	}
	var missing []field
	for _, f := range a.fields {
		if _, given := sent[f.name]; !given {
			missing = append(missing, f)
		}
	}
	state, reply, err := readReply(call.Reply)
	if err != nil {
		return nil, nil, err
	}
	filled := state.Values
	if len(missing) > 0 && state.Asked != askConfirm {
		switch {
		case !call.Client.Elicit:
			return nil, nil, missingError(missing)
		case state.Asked != askFields || reply == nil:
			question, err := a.form(missing)
			return nil, question, err
		}
		if filled, err = accept(missing, reply); err != nil {
			return nil, nil, err
		}
	}
	if err := complete(missing, filled); err != nil {
		return nil, nil, err
	}
	if a.confirm.parts != nil {
		switch {
		case !call.Client.Elicit:
			return nil, nil, atlas.Errorf(atlas.CodeMissingCapability, nil, "").With("required", []string{"elicitation"})
		case state.Asked != askConfirm || reply == nil:
			question, err := a.question(sent, filled)
			return nil, question, err
		}
		if err := agreed(reply); err != nil {
			return nil, nil, err
		}
	}
	return insert(call.Args.Raw, filled), nil, nil
}

// readReply returns the state of the round before and the reply to its request, nil if it is missing.
// A reply without a state, or with another tool's, is none.
func readReply(r *atlas.Reply) (askState, *elicited, error) {
	var s askState
	if r == nil || len(r.State) == 0 {
		return s, nil, nil
	}
	if err := json.Unmarshal(r.State, &s); err != nil || s.Asked != askFields && s.Asked != askConfirm {
		return askState{}, nil, atlas.Errorf(atlas.CodeInvalidState, err, "")
	}
	raw, ok := r.Answers[s.Asked]
	if !ok {
		return s, nil, nil
	}
	var e elicited
	if err := json.Unmarshal(raw, &e); err != nil || !slices.Contains([]string{"accept", "decline", "cancel"}, e.Action) {
		return s, nil, atlas.Errorf(atlas.CodeInvalidArguments, err,
			"the reply to "+s.Asked+" is no result of elicitation/create: it needs an action: accept, decline or cancel")
	}
	return s, &e, nil
}

// elicited is the result of elicitation/create.
type elicited struct {
	Action  string                     `json:"action"`
	Content map[string]json.RawMessage `json:"content"`
}

// accept takes the answers to the fields out of a reply, and nothing else.
func accept(fields []field, reply *elicited) (map[string]json.RawMessage, error) {
	if reply.Action != "accept" {
		e := missingError(fields)
		e.Hint = "the person at the client was asked for " + names(fields) + " and did not say; do not ask again by yourself"
		return nil, e
	}
	values := map[string]json.RawMessage{}
	for _, f := range fields {
		if v, ok := reply.Content[f.name]; ok {
			values[f.name] = v
		} else if f.preset != nil {
			values[f.name] = f.preset
		}
	}
	return values, nil
}

// complete checks that all fields have values, and good ones.
func complete(fields []field, values map[string]json.RawMessage) error {
	var wrong []map[string]string
	for _, f := range fields {
		v, ok := values[f.name]
		if !ok {
			wrong = append(wrong, map[string]string{"path": "/" + f.name, "message": "was not answered"})
			continue
		}
		if err := f.check(v); err != nil {
			wrong = append(wrong, map[string]string{"path": "/" + f.name, "message": err.Error()})
		}
	}
	if wrong == nil {
		return nil
	}
	return atlas.Errorf(atlas.CodeInvalidArguments, nil, "what the person at the client answered does not fit; call again to ask once more").
		With("errors", wrong)
}

func agreed(reply *elicited) error {
	var yes bool
	if reply.Action == "accept" && json.Unmarshal(reply.Content[askConfirm], &yes) == nil && yes {
		return nil
	}
	return atlas.Errorf(atlas.CodeApprovalDenied, nil, "the person at the client was asked to confirm the call and did not; nothing was done")
}

func missingError(fields []field) *atlas.Error {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = f.name
	}
	return atlas.Errorf(atlas.CodeInvalidArguments, nil, "the call needs "+names(fields)+"; ask the user if you do not know").With("missing", list)
}

func names(fields []field) string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = f.name
	}
	return strings.Join(list, ", ")
}

// form asks for the missing arguments.
func (a ask) form(missing []field) (*atlas.Ask, error) {
	properties := schema{}
	required := []string{}
	for _, f := range missing {
		properties[f.name] = f.shown
		if f.preset == nil {
			required = append(required, f.name)
		}
	}
	return request(askFields, askState{Asked: askFields}, a.message, properties, required)
}

// question asks for a yes to the call with its arguments as completed.
func (a ask) question(sent, filled map[string]json.RawMessage) (*atlas.Ask, error) {
	get := func(name string) string {
		raw, ok := filled[name]
		if !ok {
			raw, ok = sent[name]
		}
		if ok {
			return shownValue(raw)
		}
		if v, ok := a.presets[name]; ok {
			return shownValue(encode(v))
		}
		return "(none)"
	}
	yes := schema{"type": "boolean", "title": "Yes", "description": "Go ahead", "default": false}
	return request(askConfirm, askState{Asked: askConfirm, Values: filled}, a.confirm.fill(get), schema{askConfirm: yes}, []string{askConfirm})
}

func request(key string, state askState, message string, properties schema, required []string) (*atlas.Ask, error) {
	params := encode(schema{
		"mode": "form", "message": message,
		"requestedSchema": schema{"type": "object", "properties": properties, "required": required},
	})
	sealed := encode(state)
	if params == nil || sealed == nil {
		return nil, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("ask: %s cannot be written as JSON", key), "")
	}
	return &atlas.Ask{
		Requests: map[string]atlas.ClientRequest{key: {Method: "elicitation/create", Params: params}}, State: sealed,
	}, nil
}

// insert adds members to a JSON object as text, so that what the client sent stays as it is and the
// validation stage finds its mistakes.
func insert(raw json.RawMessage, members map[string]json.RawMessage) json.RawMessage {
	if len(members) == 0 {
		return raw
	}
	rest := bytes.TrimSpace(raw)
	if len(rest) == 0 || string(rest) == "null" {
		rest = []byte("{}")
	}
	rest = bytes.TrimSpace(rest[1:])
	b := []byte{'{'}
	for i, name := range slices.Sorted(maps.Keys(members)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(appendString(b, name), ':'), members[name]...)
	}
	if len(rest) > 0 && rest[0] != '}' {
		b = append(b, ',')
	}
	return append(b, rest...)
}

// maxShown is how many characters of an argument a person is shown.
const maxShown = 300

// shownValue is an argument in a question: text in quotation marks, so that it cannot pass for the
// question, without hidden characters, and with its true length if it is cut.
func shownValue(raw json.RawMessage) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return "(unreadable)"
	}
	cut := func(s string) string {
		if n := utf8.RuneCountInString(s); n > maxShown {
			return string([]rune(s)[:maxShown]) + fmt.Sprintf("… (%d characters)", n)
		}
		return s
	}
	switch v := v.(type) {
	case string:
		return string(encode(cut(visible(v))))
	case nil:
		return "(none)"
	case json.Number, bool:
		return cut(inText(v))
	}
	return cut(visible(string(encode(v))))
}

// visible takes out characters that are there and cannot be seen: controls but line breaks and tabs,
// and format characters such as those that turn the direction of writing or carry hidden tags. The two
// joiners stay, which some scripts need.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\u200c' || r == '\u200d':
			return r
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029':
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// guardMissing keeps a tool from running without an argument that a person was to be asked for, as
// a call by another tool could.
func guardMissing(fields []field, run atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		v, err := values(call)
		if err != nil {
			return atlas.Result{}, err
		}
		var missing []field
		for _, f := range fields {
			if v[f.name] == nil {
				missing = append(missing, f)
			}
		}
		if len(missing) > 0 {
			return atlas.Result{}, missingError(missing)
		}
		return run(ctx, call)
	}
}
