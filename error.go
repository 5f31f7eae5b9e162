package atlas

import (
	"context"
	"errors"
	"maps"
	"time"
)

// Category is the class of a failure, one of six (SERF, arXiv 2603.13417 section 7). Each calls for
// one kind of recovery.
type Category string

// The categories.
const (
	InvalidInput      Category = "INVALID_INPUT"
	ResourceNotFound  Category = "RESOURCE_NOT_FOUND"
	ResourceExhausted Category = "RESOURCE_EXHAUSTED"
	PermissionDenied  Category = "PERMISSION_DENIED"
	UpstreamFailure   Category = "UPSTREAM_FAILURE"
	InternalError     Category = "INTERNAL_ERROR"
)

// An Error is a failure that a caller can act on (SERF: structured error recovery framework).
// Everything but Err may be shown to the caller, so it never carries upstream text, SQL, host
// names or another tenant's names.
type Error struct {
	Code       Code           // a row of [Codes]
	Hint       string         // what to do, for the caller; empty means the code's own hint
	RetryAfter time.Duration  // when a retry may succeed; 0 means unknown
	Context    map[string]any // further fields for the caller: names of arguments, ids, limits
	Err        error          // the cause, for operators only
}

// Errorf returns an Error of the code with a hint for the caller and a cause for operators,
// which may be nil.
func Errorf(code Code, cause error, hint string) *Error {
	return &Error{Code: code, Hint: hint, Err: cause}
}

// Error returns code, hint and cause: for logs, never for callers.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an *Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := errors.AsType[*Error](target)
	return ok && t.Code == e.Code
}

// With returns a copy of e with one more field of context.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Context = make(map[string]any, len(e.Context)+1)
	maps.Copy(c.Context, e.Context)
	c.Context[key] = value
	return &c
}

// Info returns the code's row of the table. An unknown code has the row of [CodeInternal].
func (e *Error) Info() CodeInfo {
	if info, ok := Codes[e.Code]; ok {
		return info
	}
	return Codes[CodeInternal]
}

// Retryable reports whether the same call may succeed later.
func (e *Error) Retryable() bool { return e.Info().Retryable }

// ErrorOf returns err as an *Error: itself if it is or wraps one; timeout or canceled for the
// errors of a context; internal for everything else. It returns nil for nil.
func ErrorOf(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: CodeTimeout, Err: err}
	case errors.Is(err, context.Canceled):
		return &Error{Code: CodeCanceled, Err: err}
	}
	return &Error{Code: CodeInternal, Err: err}
}

// CodeOf returns the code of ErrorOf(err), or "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return ErrorOf(err).Code
}

// A Failure is an Error as callers see it.
type Failure struct {
	Code             Code           `json:"code"`
	Category         Category       `json:"category"`
	Retryable        bool           `json:"retryable"`
	RetryAfterMS     int64          `json:"retry_after_ms,omitempty"` // milliseconds
	Hint             string         `json:"hint"`
	SuggestedActions []string       `json:"suggested_actions,omitempty"`
	Context          map[string]any `json:"context,omitempty"`
	RequestID        string         `json:"request_id"`
}

// Failure returns e as the caller of the given request may see it.
func (e *Error) Failure(requestID string) Failure {
	info := e.Info()
	code, hint := e.Code, e.Hint
	if _, known := Codes[code]; !known {
		code, hint = CodeInternal, ""
	}
	if hint == "" {
		hint = info.Hint
	}
	// Round up: a client that comes back too early is refused again.
	ms := (e.RetryAfter + time.Millisecond - 1) / time.Millisecond
	return Failure{
		Code: code, Category: info.Category, Retryable: info.Retryable, RetryAfterMS: int64(ms),
		Hint: hint, SuggestedActions: info.Actions, Context: e.Context, RequestID: requestID,
	}
}
