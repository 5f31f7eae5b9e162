package telemetry

import (
	"context"
	"encoding/hex"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/atlas-mcp/atlas"
)

// The attributes of spans. Those without the atlas prefix are of the MCP and GenAI semantic
// conventions (open-telemetry/semantic-conventions-genai, docs/gen-ai/mcp.md); the Go module has
// dropped its constants for them.
const (
	keyMethod     = attribute.Key("mcp.method.name")
	keyTool       = attribute.Key("gen_ai.tool.name")
	keyOperation  = attribute.Key("gen_ai.operation.name")
	keyErrorType  = attribute.Key("error.type")
	keyTransport  = attribute.Key("network.transport")
	keyAtlasTool  = attribute.Key("atlas.tool")
	keyTenant     = attribute.Key("atlas.tenant")
	keyRequest    = attribute.Key("atlas.request_id")
	keyCache      = attribute.Key("atlas.cache")
	keyRetryable  = attribute.Key("atlas.retryable_error")
	keyCircuit    = attribute.Key("atlas.circuit_state")
	keyCode       = attribute.Key("atlas.error_code")
	keyDecision   = attribute.Key("atlas.policy_decision")
	keyRule       = attribute.Key("atlas.policy_rule")
	keyAttempts   = attribute.Key("atlas.attempts")
	keyTimeoutMS  = attribute.Key("atlas.timeout_ms")
	keyReplayed   = attribute.Key("atlas.replayed")
	keyApprovalID = attribute.Key("atlas.approval_id")
)

// newTool prepares the spans of a tool; the empty name stands for what is no tool.
func newTool(op atlas.Op, name string) *tool {
	t := &tool{name: name, span: op.String()}
	attrs := []attribute.KeyValue{keyMethod.String(op.String())}
	if op == atlas.OpCall {
		attrs = append(attrs, keyOperation.String("execute_tool"))
	}
	if name != "" {
		t.span += " " + name
		attrs = append(attrs, keyTool.String(name), keyAtlasTool.String(name))
	}
	t.attrs = trace.WithAttributes(attrs...)
	return t
}

// endSpan says what became of the call and ends its span. Causes stay in the log: they may hold SQL
// or upstream text, and a tracing backend is not where such things are guarded.
func endSpan(span trace.Span, call *atlas.Call, o *outcome) {
	if span == nil {
		return
	}
	defer span.End()
	if !span.IsRecording() {
		return
	}
	n := &o.notes
	attrs := make([]attribute.KeyValue, 0, 12)
	attrs = append(attrs, keyTenant.String(string(call.Tenant)), keyRequest.String(call.ID))
	switch call.Transport {
	case "http":
		attrs = append(attrs, keyTransport.String("tcp"))
	case "stdio":
		attrs = append(attrs, keyTransport.String("pipe"))
	}
	text := func(k attribute.Key, v string) {
		if v != "" {
			attrs = append(attrs, k.String(v))
		}
	}
	text(keyCache, n.Cache)
	text(keyCircuit, n.Breaker)
	text(keyDecision, n.Decision)
	text(keyRule, n.Rule)
	text(keyApprovalID, n.ApprovalID)
	if n.Attempts > 0 {
		attrs = append(attrs, keyAttempts.Int(n.Attempts))
	}
	if n.Timeout > 0 {
		attrs = append(attrs, keyTimeoutMS.Int64(n.Timeout.Milliseconds()))
	}
	if n.Replayed {
		attrs = append(attrs, keyReplayed.Bool(true))
	}
	if e := o.err; e != nil {
		// The conventions' value for a result with isError, which is what the caller gets.
		attrs = append(attrs, keyErrorType.String("tool_error"), keyCode.String(string(e.Code)), keyRetryable.Bool(e.Retryable()))
		if serverFault(e) {
			span.SetStatus(codes.Error, string(e.Code))
		}
	}
	span.SetAttributes(attrs...)
}

// TraceID returns the trace id of the context in hex, or "" if it has none.
func TraceID(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.HasTraceID() {
		return ""
	}
	return sc.TraceID().String()
}

// TraceParent returns the context's span as a W3C traceparent, for calls to other servers, or "" if
// there is none.
func TraceParent(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return ""
	}
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + (sc.TraceFlags() & trace.FlagsSampled).String()
}

// maxTraceState bounds the tracestate that is passed on (W3C Trace Context asks for 512 at least).
const maxTraceState = 512

// parseTraceContext reads a W3C traceparent and tracestate. What is malformed counts as absent, as the
// standard asks; a malformed tracestate does not void the traceparent.
func parseTraceContext(parent, state string) trace.SpanContext {
	// version "-" trace id "-" span id "-" flags; later versions may add more behind another "-".
	if len(parent) < 55 || len(parent) > 255 || parent[2] != '-' || parent[35] != '-' || parent[52] != '-' {
		return trace.SpanContext{}
	}
	version, flags := unhex(parent[:2]), unhex(parent[53:55])
	if version == nil || flags == nil || version[0] == 0xff || version[0] == 0 && len(parent) > 55 ||
		len(parent) > 55 && parent[55] != '-' {
		return trace.SpanContext{}
	}
	traceID, err := trace.TraceIDFromHex(parent[3:35]) // refuses upper case and zero
	if err != nil {
		return trace.SpanContext{}
	}
	spanID, err := trace.SpanIDFromHex(parent[36:52])
	if err != nil {
		return trace.SpanContext{}
	}
	cfg := trace.SpanContextConfig{
		TraceID: traceID, SpanID: spanID, TraceFlags: trace.TraceFlags(flags[0]) & trace.FlagsSampled, Remote: true,
	}
	if state != "" && len(state) <= maxTraceState {
		if ts, err := trace.ParseTraceState(state); err == nil {
			cfg.TraceState = ts
		}
	}
	return trace.NewSpanContext(cfg)
}

// unhex decodes two lower-case hex digits, or returns nil.
func unhex(s string) []byte {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'F' {
			return nil
		}
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}
