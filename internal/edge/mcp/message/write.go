package message

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// AppendString appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func AppendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if plain[c] {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		if r == utf8.RuneError && n == 1 {
			dst = append(dst, s[start:i]...)
			dst = append(dst, "\uFFFD"...)
			start = i + 1
		}
		i += n
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// appendJSON appends one JSON value without the space between its parts, so that it fits on one line
// of a stream. It reports false, and leaves dst as it was, if raw is not exactly one value.
func appendJSON(dst, raw []byte) ([]byte, bool) {
	if !utf8.Valid(raw) {
		return dst, false
	}
	s := scanner{b: raw}
	if s.value(false) != nil {
		return dst, false
	}
	if s.space(); s.i < len(raw) {
		return dst, false
	}
	start, inString := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			inString = !inString
		case inString:
			if c == '\\' {
				i++
			}
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			dst = append(dst, raw[start:i]...)
			start = i + 1
		}
	}
	return append(dst, raw[start:]...), true
}

// appendMember appends a member whose value is a string that is not empty, behind a comma.
func appendMember(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(dst, ',', '"')
	dst = append(dst, key...)
	dst = append(dst, '"', ':')
	return AppendString(dst, value)
}

// AppendFailure appends a failure as its caller may see it.
func AppendFailure(dst []byte, e *atlas.Error, requestID string) []byte {
	f := e.Failure(requestID)
	return appendFailure(dst, &f)
}

func appendFailure(dst []byte, f *atlas.Failure) []byte {
	dst = append(dst, `{"code":`...)
	dst = AppendString(dst, string(f.Code))
	dst = append(dst, `,"category":`...)
	dst = AppendString(dst, string(f.Category))
	dst = append(dst, `,"retryable":`...)
	dst = strconv.AppendBool(dst, f.Retryable)
	if f.RetryAfterMS > 0 {
		dst = append(dst, `,"retry_after_ms":`...)
		dst = strconv.AppendInt(dst, f.RetryAfterMS, 10)
	}
	dst = append(dst, `,"hint":`...)
	dst = AppendString(dst, f.Hint)
	if len(f.SuggestedActions) > 0 {
		dst = append(dst, `,"suggested_actions":[`...)
		for i, a := range f.SuggestedActions {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendString(dst, a)
		}
		dst = append(dst, ']')
	}
	if len(f.Context) > 0 {
		if c, err := json.Marshal(f.Context); err == nil { // else a value that is no JSON
			dst = append(dst, `,"context":`...)
			dst = append(dst, c...)
		}
	}
	dst = append(dst, `,"request_id":`...)
	dst = AppendString(dst, f.RequestID)
	return append(dst, '}')
}

// appendLine appends a failure as one line to read.
func appendLine(dst []byte, f *atlas.Failure) []byte {
	dst = append(dst, f.Code...)
	dst = append(dst, ": "...)
	dst = append(dst, f.Hint...)
	if f.RetryAfterMS > 0 {
		dst = append(dst, " (retry after "...)
		dst = strconv.AppendInt(dst, f.RetryAfterMS, 10)
		dst = append(dst, " ms)"...)
	}
	return dst
}

// AppendResponse appends the beginning of a response to the request of the id; its result is to
// follow, and [AppendEnd].
func AppendResponse(dst, id []byte) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = append(dst, id...)
	return append(dst, `,"result":`...)
}

// AppendEnd ends what [AppendResponse] began.
func AppendEnd(dst []byte) []byte { return append(dst, '}') }

// AppendError appends a whole response to the request of the id, which may be nil.
func AppendError(dst, id []byte, e *Error) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	if id == nil {
		dst = append(dst, "null"...)
	}
	dst = append(dst, id...)
	dst = append(dst, `,"error":{"code":`...)
	dst = strconv.AppendInt(dst, int64(e.Code), 10)
	dst = append(dst, `,"message":`...)
	dst = AppendString(dst, e.Message)
	if e.Data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, e.Data...)
	}
	return append(dst, "}}"...)
}

// AppendNotification appends a notification with the parameters, which are JSON on one line.
func AppendNotification(dst []byte, method string, params []byte) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":`...)
	dst = AppendString(dst, method)
	dst = append(dst, `,"params":`...)
	dst = append(dst, params...)
	return append(dst, '}')
}
