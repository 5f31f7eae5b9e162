package mcp

import (
	"fmt"
	"math"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Keys of _meta in calls.
const (
	metaBudget         = "atlas/budget"
	metaIdempotencyKey = "atlas/idempotency_key"
	metaTraceParent    = "traceparent" // SEP-414
	metaTraceState     = "tracestate"
)

const (
	maxBudget     = time.Hour
	maxExpected   = 64
	maxKey        = 255
	maxTraceState = 512 // W3C Trace Context section 3.3.1.5
)

// readMeta reads what a call's _meta says into call. What is wrong in Atlas's own keys is a failure
// that names the key. A trace context that is wrong is left out (W3C Trace Context section 4.3: the
// trace is started anew), because a caller's broken tracer must not cost it its calls.
func readMeta(meta map[string]any, call *atlas.Call) *atlas.Error {
	if len(meta) == 0 {
		return nil
	}
	if tp, ok := meta[metaTraceParent].(string); ok && validTraceParent(tp) {
		call.TraceParent = tp
		if ts, ok := meta[metaTraceState].(string); ok && len(ts) <= maxTraceState && printable(ts) {
			call.TraceState = ts
		}
	}
	if v, ok := meta[metaIdempotencyKey]; ok {
		key, isText := v.(string)
		if !isText || key == "" || len(key) > maxKey || !printable(key) {
			return badMeta(metaIdempotencyKey, "must be a string of 1 to 255 printable ASCII characters")
		}
		call.IdempotencyKey = key
	}
	if v, ok := meta[metaBudget]; ok {
		b, fault := readBudget(v)
		if fault != "" {
			return badMeta(metaBudget, fault)
		}
		call.Budget = b
	}
	return nil
}

func badMeta(key, fault string) *atlas.Error {
	return atlas.Errorf(atlas.CodeInvalidArguments, nil, fmt.Sprintf("_meta %q %s", key, fault)).With("meta_key", key)
}

// readBudget reads {total_ms, reserve_ms, expected}. The fault is empty if there is none.
func readBudget(v any) (b atlas.Budget, fault string) {
	m, ok := v.(map[string]any)
	if !ok {
		return b, "must be an object"
	}
	for k, v := range m {
		switch k {
		case "total_ms":
			b.Total, ok = millis(v)
		case "reserve_ms":
			b.Reserve, ok = millis(v)
		case "expected":
			b.Expected, ok = names(v)
		default:
			return b, "has a key other than total_ms, reserve_ms and expected"
		}
		if !ok {
			return b, k + " is not valid: total_ms and reserve_ms are whole milliseconds up to one hour, expected is a list of tool names"
		}
	}
	// A budget of nothing must not read as no budget.
	if b.Total <= 0 {
		return b, "total_ms must be at least 1"
	}
	return b, ""
}

func millis(v any) (time.Duration, bool) {
	f, ok := v.(float64)
	if !ok || f < 0 || f > float64(maxBudget/time.Millisecond) || f != math.Trunc(f) {
		return 0, false
	}
	return time.Duration(f) * time.Millisecond, true
}

func names(v any) ([]string, bool) {
	list, ok := v.([]any)
	if !ok || len(list) > maxExpected {
		return nil, false
	}
	out := make([]string, 0, len(list))
	for _, e := range list {
		s, ok := e.(string)
		if !ok || s == "" || len(s) > maxName {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// validTraceParent checks the form of version 00 (W3C Trace Context section 3.2): lower-case hex,
// and neither id all zeros. Longer forms belong to versions that do not exist yet.
func validTraceParent(s string) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i == 2 || i == 35 || i == 52 {
			continue
		}
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return s[3:35] != "00000000000000000000000000000000" && s[36:52] != "0000000000000000"
}
