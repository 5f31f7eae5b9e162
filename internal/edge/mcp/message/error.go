package message

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"github.com/atlas-mcp/atlas"
)

// Codes of JSON-RPC errors. Those of a failure that the protocol has no code for are its HTTP status:
// the protocol keeps -32768 to -32000 for itself.
const (
	CodeParse             = -32700
	CodeInvalidRequest    = -32600
	CodeMethodNotFound    = -32601
	CodeInvalidParams     = -32602
	CodeInternal          = -32603
	CodeHeaderMismatch    = -32020 // SEP-2243
	CodeMissingCapability = -32021 // SEP-2575
	CodeVersion           = -32022 // SEP-2575
)

// An Error is a JSON-RPC error. It is shared and read-only.
type Error struct {
	Code    int
	Message string
	Data    json.RawMessage // may be nil
	Status  int             // of the HTTP answer; 0 means by the code, see HTTPStatus
}

// Error returns code and message.
func (e *Error) Error() string { return strconv.Itoa(e.Code) + ": " + e.Message }

// HTTPStatus returns the status of an answer over HTTP that holds e. In the newer era the status says
// what the error says (2026-07-28, transports); in the older one only a fault of the transport has a
// status of its own.
func (e *Error) HTTPStatus(modern bool) int {
	if e.Status != 0 {
		return e.Status
	}
	if modern {
		switch e.Code {
		case CodeMethodNotFound:
			return http.StatusNotFound
		case CodeInvalidParams, CodeInvalidRequest, CodeParse, CodeHeaderMismatch, CodeMissingCapability, CodeVersion:
			return http.StatusBadRequest
		}
	}
	return http.StatusOK
}

// The faults of a message's form.
var (
	errSyntax    = &Error{Code: CodeParse, Message: "Parse error", Status: http.StatusBadRequest}
	errDepth     = &Error{Code: CodeParse, Message: "The message is nested too deeply", Status: http.StatusBadRequest}
	errDuplicate = &Error{Code: CodeInvalidRequest, Message: "A key appears twice in one object", Status: http.StatusBadRequest}
	errBatch     = &Error{Code: CodeInvalidRequest, Message: "Batches are not supported; send one message per request", Status: http.StatusBadRequest}
	errRequest   = &Error{Code: CodeInvalidRequest, Message: "Invalid request", Status: http.StatusBadRequest}
	errVersion   = &Error{Code: CodeInvalidRequest, Message: `"jsonrpc" must be "2.0"`, Status: http.StatusBadRequest}
	errParams    = &Error{Code: CodeInvalidParams, Message: `"params" is required`, Status: http.StatusBadRequest}
	errID        = &Error{Code: CodeInvalidRequest, Message: `"id" must be a string or an integer`, Status: http.StatusBadRequest}
)

// The answers that must not differ between one cause and another.
var (
	ErrUnknownTool     = &Error{Code: CodeInvalidParams, Message: "Unknown tool"}
	ErrUnknownPrompt   = &Error{Code: CodeInvalidParams, Message: "Unknown prompt"}
	ErrUnknownResource = &Error{Code: CodeInvalidParams, Message: "Resource not found"} // SEP-2164
	ErrInternal        = &Error{Code: CodeInternal, Message: "Internal error"}
	ErrCursor          = &Error{Code: CodeInvalidParams, Message: "Invalid cursor"}
)

// unknown is what there is not, by kind.
var unknown = [...]*Error{atlas.KindTool: ErrUnknownTool, atlas.KindPrompt: ErrUnknownPrompt, atlas.KindResource: ErrUnknownResource}

func invalidParams(text string) *Error { return &Error{Code: CodeInvalidParams, Message: text} }

// ErrorOf returns the JSON-RPC error that the protocol has for a failure of a call, or nil if it has
// none: then the failure of a tool is a result, which its model can read, and another's is
// [Failure]'s.
func ErrorOf(e *atlas.Error, call *atlas.Call) *Error {
	if e.Err == errParamHeader { //nolint:errorlint // a sentinel of this package, set by CheckParamHeaders alone
		return &Error{Code: CodeHeaderMismatch, Message: e.Hint, Status: http.StatusBadRequest}
	}
	if make := ofProtocol[e.Code]; make != nil {
		return make(e, call.Kind, call.ID)
	}
	return nil
}

// ofProtocol makes the errors that the protocol has for codes.
var ofProtocol = map[atlas.Code]func(e *atlas.Error, kind atlas.Kind, id string) *Error{
	atlas.CodeToolNotFound: func(_ *atlas.Error, kind atlas.Kind, _ string) *Error { return unknown[kind] },
	atlas.CodeMissingCapability: func(e *atlas.Error, _ atlas.Kind, id string) *Error {
		return &Error{Code: CodeMissingCapability, Message: line(e, id), Data: requiredData(e)}
	},
	atlas.CodeInvalidState: func(e *atlas.Error, _ atlas.Kind, id string) *Error {
		return &Error{Code: CodeInvalidParams, Message: line(e, id), Data: AppendFailure(nil, e, id)}
	},
	atlas.CodeInsufficientScope: func(e *atlas.Error, _ atlas.Kind, id string) *Error {
		return Failure(e, id, http.StatusForbidden)
	},
}

// Failure is a failure of a request that has no result to put it into. Status is that of the HTTP
// answer; 0 means by the code.
func Failure(e *atlas.Error, requestID string, status int) *Error {
	return &Error{Code: e.Info().HTTP, Message: line(e, requestID), Data: AppendFailure(nil, e, requestID), Status: status}
}

func line(e *atlas.Error, requestID string) string {
	f := e.Failure(requestID)
	return string(appendLine(nil, &f))
}

// Capabilities of clients, as missing_client_capability names them in context.required.
const (
	CanElicit    = "elicitation"
	CanElicitURL = "elicitation.url"
	CanSample    = "sampling"
	CanRoots     = "roots"
	CanTasks     = "tasks"
)

// Missing returns the capabilities that ask needs and the client has not declared, sorted.
func Missing(ask *atlas.Ask, c atlas.Client) []string {
	var out []string
	for _, r := range ask.Requests {
		need, has := CanElicit, c.Elicit
		switch r.Method {
		case MethodSample:
			need, has = CanSample, c.Sample
		case MethodRoots:
			need, has = CanRoots, c.Roots
		case MethodElicit:
			var p struct {
				Mode string `json:"mode"`
			}
			if json.Unmarshal(r.Params, &p) == nil && p.Mode == "url" {
				need, has = CanElicitURL, c.ElicitURL
			}
		}
		if !has && !slices.Contains(out, need) {
			out = append(out, need)
		}
	}
	slices.Sort(out)
	return out
}

// MissingCapability is the failure of a call whose tool needs capabilities that its client has not.
func MissingCapability(required []string) *atlas.Error {
	return atlas.Errorf(atlas.CodeMissingCapability, nil, "").With("required", required)
}

// requiredData returns the data of a missing capability's error: an object of the form of a client's
// capabilities.
func requiredData(e *atlas.Error) json.RawMessage {
	var names []string
	switch r := e.Context["required"].(type) {
	case string:
		names = []string{r}
	case []string:
		names = r
	}
	caps := map[string]any{}
	for _, n := range names {
		switch n {
		case CanElicitURL:
			modes := map[string]any{"url": struct{}{}}
			if caps[CanElicit] != nil {
				modes["form"] = struct{}{}
			}
			caps[CanElicit] = modes
		case CanElicit:
			if caps[n] == nil {
				caps[n] = struct{}{}
			}
		case CanTasks:
			caps["extensions"] = map[string]any{TasksExtension: struct{}{}}
		default:
			caps[n] = struct{}{}
		}
	}
	data, err := json.Marshal(map[string]any{"requiredCapabilities": caps})
	if err != nil {
		return nil // strings and empty objects only
	}
	return data
}

// UnsupportedVersion is the refusal of a revision that Atlas does not speak.
func UnsupportedVersion(requested string) *Error {
	data, err := json.Marshal(map[string]any{"supported": Revisions(), "requested": requested})
	if err != nil {
		data = nil // strings only
	}
	return &Error{Code: CodeVersion, Message: "Unsupported protocol version", Data: data, Status: http.StatusBadRequest}
}
