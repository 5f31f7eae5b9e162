package message

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// A Request is one message of a client, read in one pass. Its byte slices are parts of the message.
type Request struct {
	ID       []byte // as written; nil if it has none: a notification
	Method   string // empty for a response
	Response bool   // the message answers a request of Atlas's
	Result   []byte // of a response
	Failed   []byte // of a response: its error

	Params []byte // an object, as written; nil if there are none
	// What stands in Params, as far as it has the right type; Fault names the first that has not.
	Name      []byte
	HasName   bool
	Arguments []byte // as written; nil if there are none, or null
	uri, task []byte
	Cursor    []byte
	Meta      Meta
	Fault     *Error

	ofCall, ofList *Error // faults that are one only for that method

	inputs map[string]json.RawMessage
	state  []byte

	scan scanner
}

// Reset makes r ready for another message; it keeps r's stack.
func (r *Request) Reset() {
	keys := r.scan.keys[:cap(r.scan.keys)]
	clear(keys) // keep no message alive
	if cap(keys) > maxKeptKeys {
		keys = nil
	}
	*r = Request{scan: scanner{keys: keys[:0]}}
}

const maxKeptKeys = 1024

// Parse reads body, which must hold exactly one message, into r, and reports what is wrong with its
// form (JSON-RPC 2.0, without batches). It is strict where readers differ: UTF-8, numbers, depth, and
// keys that are there twice; only in the arguments of a tool that last check is left to the stage
// that knows the tool. What is wrong with the parameters is r.Fault, so that faults in header fields,
// which come first, can be told first.
func (r *Request) Parse(body []byte) *Error {
	if !utf8.Valid(body) {
		return errSyntax
	}
	s := &r.scan
	s.b, s.i, s.depth, s.keys = body, 0, 0, s.keys[:0]
	if c := s.next(); c != '{' {
		if err := s.value(true); err != nil {
			return err
		}
		if s.next() != 0 || s.i < len(body) {
			return errSyntax
		}
		if c == '[' {
			return errBatch // removed in 2025-06-18: many calls under one request's limits
		}
		return errRequest
	}
	var e envelope
	if err := s.members(true, func(key []byte) *Error { return r.member(&e, key) }); err != nil {
		return err
	}
	if s.space(); s.i < len(body) {
		return errSyntax
	}
	return r.take(&e)
}

// An envelope is a message's members as they are written; nil for those that it has not.
type envelope struct{ version, id, method, params, result, failed []byte }

func (r *Request) member(e *envelope, key []byte) *Error {
	s := &r.scan
	var to *[]byte
	switch string(key) {
	case "jsonrpc":
		to = &e.version
	case "id":
		to = &e.id
	case "method":
		to = &e.method
	case "params":
		if s.next() == '{' {
			start := s.i
			err := s.members(true, r.param)
			e.params = s.b[start:s.i:s.i]
			return err
		}
		to = &e.params
	case "result":
		to = &e.result
	case "error":
		to = &e.failed
	default:
		return s.value(true)
	}
	var err *Error
	*to, err = s.raw(true)
	return err
}

// take makes a request of the envelope.
func (r *Request) take(e *envelope) *Error {
	if e.version == nil || e.version[0] != '"' || string(unquote(e.version)) != "2.0" {
		return errVersion
	}
	if e.id != nil && !isID(e.id) {
		return errID
	}
	r.ID = e.id
	if e.method == nil {
		if r.ID == nil || (e.result == nil) == (e.failed == nil) {
			return errRequest
		}
		r.Response, r.Result, r.Failed = true, e.result, e.failed
		return nil
	}
	if e.method[0] != '"' || e.result != nil || e.failed != nil {
		return errRequest
	}
	r.Method = intern(unquote(e.method))
	switch r.Params = e.params; {
	case r.Params == nil:
		return nil
	case r.Params[0] != '{':
		if string(r.Params) != "null" { // positions have no meaning in MCP
			r.Fault = invalidParams(`"params" must be an object`)
		}
		r.Params = nil
		return nil
	case r.Fault != nil:
	case r.Method == MethodCall:
		r.Fault = r.ofCall
	case r.Method == MethodList:
		r.Fault = r.ofList
	}
	if r.Arguments != nil && r.Method != MethodCall { // no stage checks these
		s := scanner{b: r.Arguments, keys: r.scan.keys[:0]}
		return s.value(true)
	}
	return nil
}

// isID reports whether a JSON value can be an id: a string, or an integer written as one.
func isID(raw []byte) bool {
	if raw[0] == '"' {
		return true
	}
	raw = bytes.TrimPrefix(raw, []byte("-"))
	for _, c := range raw {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// intern spares the copy of the methods that come most.
func intern(method []byte) string {
	switch string(method) {
	case MethodCall:
		return MethodCall
	case MethodList:
		return MethodList
	}
	return string(method)
}

// unquote returns what the text of a string that was scanned before means.
func unquote(raw []byte) []byte {
	body := raw[1 : len(raw)-1]
	if bytes.IndexByte(body, '\\') >= 0 {
		return unescape(body)
	}
	return body
}

func (r *Request) param(key []byte) *Error {
	s := &r.scan
	switch string(key) {
	case "name":
		raw, err := s.raw(true)
		if err == nil && string(raw) != "null" {
			r.Name, r.HasName = text(raw, &r.ofCall, `params "name" must be a string`)
		}
		return err
	case "uri":
		return r.word(&r.uri)
	case "taskId":
		return r.word(&r.task)
	case "arguments":
		raw, err := s.raw(false)
		if err == nil && string(raw) != "null" {
			r.Arguments = raw
		}
		return err
	case "cursor":
		raw, err := s.raw(true)
		if err == nil && string(raw) != "null" {
			r.Cursor, _ = text(raw, &r.ofList, `params "cursor" must be a string`)
		}
		return err
	case "requestState":
		raw, err := s.raw(true)
		if err == nil && string(raw) != "null" {
			r.state, _ = text(raw, &r.ofCall, `params "requestState" must be a string`)
		}
		return err
	case "inputResponses":
		if s.next() != '{' {
			return s.other(&r.ofCall, `params "inputResponses" must be an object`)
		}
		return s.members(true, r.input)
	case "_meta":
		if s.next() != '{' {
			return s.other(&r.Fault, `params "_meta" must be an object`)
		}
		r.Meta.Present = true
		return s.members(true, func(key []byte) *Error { return r.Meta.member(s, key) })
	}
	return s.value(true)
}

// set names a fault, if it is the first.
func set(fault **Error, what string) {
	if *fault == nil {
		*fault = invalidParams(what)
	}
}

// text returns what raw means if it is a string, which else is a fault.
func text(raw []byte, fault **Error, what string) ([]byte, bool) {
	if raw[0] != '"' {
		set(fault, what)
		return nil, false
	}
	return unquote(raw), true
}

// word reads a value if it is a string; whoever asks for it finds out if it is not.
func (r *Request) word(to *[]byte) *Error {
	raw, err := r.scan.raw(true)
	if err == nil && raw[0] == '"' {
		*to = unquote(raw)
	}
	return err
}

// other skips a value that is of another type than it should; null counts as none.
func (s *scanner) other(fault **Error, what string) *Error {
	raw, err := s.raw(true)
	if err == nil && string(raw) != "null" {
		set(fault, what)
	}
	return err
}

// maxInputs bounds how many things can be asked of a client at once.
const maxInputs = 64

func (r *Request) input(key []byte) *Error {
	raw, err := r.scan.raw(true)
	switch {
	case err != nil:
		return err
	case raw[0] != '{':
		set(&r.ofCall, `params "inputResponses" must hold objects`)
	case len(r.inputs) == maxInputs:
		set(&r.ofCall, `params "inputResponses" holds too many`)
	default:
		if r.inputs == nil {
			r.inputs = make(map[string]json.RawMessage)
		}
		r.inputs[string(key)] = raw
	}
	return nil
}

// Target returns what the request is about, which the Mcp-Name field repeats (SEP-2243, SEP-2663). It
// reports false for a method without such a thing.
func (r *Request) Target() (target []byte, ok bool) {
	switch r.Method {
	case MethodCall, methodPrompt:
		return r.Name, true
	case methodRead:
		return r.uri, true
	case methodGetTask, methodUpdateTask, methodCancelTask:
		return r.task, true
	}
	return nil, false
}

// ReadInitialize reads the parameters of initialize: the revision that the client asks for, and what
// it can do. It reports false if they are not of the right form.
func (r *Request) ReadInitialize() (revision string, c atlas.Client, ok bool) {
	if r.Params == nil {
		return "", c, false
	}
	s := scanner{b: r.Params}
	err := s.members(false, func(key []byte) *Error { // scanned before
		what := string(key)
		raw, err := s.raw(false)
		switch {
		case err != nil:
		case what == "protocolVersion" && raw[0] == '"':
			revision = string(unquote(raw))
		case what == "capabilities":
			c, ok = ReadCapabilities(raw)
		}
		return err
	})
	return revision, c, ok && err == nil && revision != ""
}

// ReadCancelled reads the parameters of notifications/cancelled: the id of the request that is meant,
// as [Request.Key] has it.
func (r *Request) ReadCancelled() (key string, ok bool) {
	if r.Params == nil {
		return "", false
	}
	s := scanner{b: r.Params}
	err := s.members(false, func(k []byte) *Error { // scanned before
		is := string(k) == "requestId"
		raw, err := s.raw(false)
		if is && err == nil && isID(raw) {
			key, ok = idKey(raw), true
		}
		return err
	})
	return key, ok && err == nil
}

// Key returns the canonical form of the message's id.
func (r *Request) Key() string { return idKey(r.ID) }

func idKey(raw []byte) string {
	if raw[0] == '"' {
		return string(AppendString(nil, unquote(raw)))
	}
	return string(raw)
}

// maxName bounds what a caller can write into logs as a tool's name. It is longer than any tool's
// name, so a name that is cut short stays unknown.
const maxName = 128

// ToolName returns the name, cut to a length at which no tool has it.
func ToolName(name string) string {
	if len(name) <= maxName {
		return name
	}
	name = name[:maxName]
	for len(name) > 0 && !utf8.ValidString(name) {
		name = name[:len(name)-1]
	}
	return name
}

// Fill puts into call what the parameters say: arguments, reply and _meta. The error is a fault of
// _meta that the pipeline has to refuse the call with. The name is the caller's to put, because it
// may have the string already.
func (r *Request) Fill(call *atlas.Call) *atlas.Error {
	call.Args.Raw = r.Arguments
	if len(r.inputs) > 0 || len(r.state) > 0 {
		call.Reply = NewReply(r.inputs, r.state)
	}
	call.Client = r.Meta.Client
	return r.Meta.Fill(call)
}

// NewReply returns the reply of a client that sends a call again.
func NewReply(answers map[string]json.RawMessage, state []byte) *atlas.Reply {
	return &atlas.Reply{Answers: answers, State: state}
}
