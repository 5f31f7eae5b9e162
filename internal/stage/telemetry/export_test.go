package telemetry

import (
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Recording returns a Tracing whose spans go to the exporter at once.
func Recording(cfg Config, e sdktrace.SpanExporter) *Tracing {
	return newTracing(cfg.withDefaults(), "test", sdktrace.WithSyncer(e))
}

// ParseTraceContext reads a traceparent and a tracestate.
func ParseTraceContext(parent, state string) trace.SpanContext {
	return parseTraceContext(parent, state)
}
