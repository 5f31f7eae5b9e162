package telemetry

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/atlas-mcp/atlas"
)

// Config is the settings of tracing.
type Config struct {
	ServiceName   string            `yaml:"service_name"`   // default atlas-mcp
	OTLPEndpoint  string            `yaml:"otlp_endpoint"`  // URL of an OTLP/HTTP collector; empty: spans are not recorded
	OTLPHeaders   map[string]string `yaml:"otlp_headers"`   // such as an API key
	SampleRatio   float64           `yaml:"sample_ratio"`   // part of the traces begun here that is recorded; default 1
	ExportTimeout time.Duration     `yaml:"export_timeout"` // default 10s
}

func (c Config) withDefaults() Config {
	c.ServiceName = cmp.Or(c.ServiceName, "atlas-mcp")
	c.SampleRatio = cmp.Or(c.SampleRatio, 1)
	c.ExportTimeout = cmp.Or(c.ExportTimeout, 10*time.Second)
	return c
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if c.OTLPEndpoint != "" {
		// The URL is not repeated: it may hold a password.
		if u, err := url.Parse(c.OTLPEndpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, errors.New("otlp_endpoint must be a URL such as http://localhost:4318"))
		}
	}
	if !(c.SampleRatio >= 0 && c.SampleRatio <= 1) { // also refuses NaN
		errs = append(errs, fmt.Errorf("sample_ratio is %v; must be between 0 and 1", c.SampleRatio))
	}
	if c.ExportTimeout < 0 {
		errs = append(errs, fmt.Errorf("export_timeout is %v; must not be negative", c.ExportTimeout))
	}
	return errors.Join(errs...)
}

// Tracing makes spans. It outlives a reload and is safe for concurrent use.
type Tracing struct {
	provider *sdktrace.TracerProvider // nil when spans are not recorded
	tracer   trace.Tracer             // of provider
}

// Open sets up tracing: with an endpoint, spans are exported in the background; without, every call
// still gets ids, so that logs, audit and sources share them. Nothing global is touched.
func Open(ctx context.Context, cfg Config, version string, log *slog.Logger) (*Tracing, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	cfg = cfg.withDefaults()
	if cfg.OTLPEndpoint == "" {
		return &Tracing{}, nil
	}
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(tracesURL(cfg.OTLPEndpoint)),
		otlptracehttp.WithHeaders(cfg.OTLPHeaders),
		otlptracehttp.WithTimeout(cfg.ExportTimeout),
	)
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	return newTracing(cfg, version, sdktrace.WithBatcher(&reporting{SpanExporter: exporter, log: log})), nil
}

// tracesURL adds the path of traces to a collector's URL that has none, as OpenTelemetry's own
// variables do (OTEL_EXPORTER_OTLP_ENDPOINT).
func tracesURL(endpoint string) string {
	u, err := url.Parse(endpoint) // validated
	if err == nil && (u.Path == "" || u.Path == "/") {
		u.Path = "/v1/traces"
		return u.String()
	}
	return endpoint
}

func newTracing(cfg Config, version string, spans sdktrace.TracerProviderOption) *Tracing {
	p := sdktrace.NewTracerProvider(spans,
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.SampleRatio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", cfg.ServiceName),
			attribute.String("service.version", version),
		)),
	)
	return &Tracing{provider: p, tracer: p.Tracer("github.com/atlas-mcp/atlas", trace.WithInstrumentationVersion(version))}
}

// Shutdown exports what is left and ends the background work.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// A reporting exporter says in the log that exports fail, once a minute at most. The library would
// call a global handler, which writes to standard error for every batch.
type reporting struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	last atomic.Int64 // Unix seconds of the last line
}

func (r *reporting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	now, last := time.Now().Unix(), r.last.Load()
	if now-last >= 60 && r.last.CompareAndSwap(last, now) {
		r.log.WarnContext(ctx, "spans cannot be exported and are dropped", "spans", len(spans), "error", err)
	}
	return nil
}

// start begins the span of a call and puts it into the context. The parent of a caller's own call is
// the span that the caller names in _meta (SEP-414), and the span around, such as that of the HTTP
// request, becomes a link; a child call's parent is the call that makes it.
func (t *Tracing) start(ctx context.Context, call *atlas.Call, tl *tool) (context.Context, trace.Span) {
	around := trace.SpanContextFromContext(ctx)
	var remote trace.SpanContext
	if call.Parent == nil && call.TraceParent != "" {
		remote = parseTraceContext(call.TraceParent, call.TraceState)
	}
	if t.provider == nil {
		parent := around
		if remote.IsValid() {
			parent = remote
		}
		return trace.ContextWithSpanContext(ctx, unrecorded(parent)), nil
	}
	opts := make([]trace.SpanStartOption, 0, 3)
	opts = append(opts, trace.WithSpanKind(trace.SpanKindServer), tl.attrs)
	if call.Parent != nil {
		opts[0] = trace.WithSpanKind(trace.SpanKindInternal)
	}
	if remote.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, remote)
		if around.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: around}))
		}
	}
	return t.tracer.Start(ctx, tl.span, opts...)
}

// unrecorded returns ids for a call whose span nobody keeps here: a new span in the parent's trace,
// or in a new one.
func unrecorded(parent trace.SpanContext) trace.SpanContext {
	cfg := trace.SpanContextConfig{
		TraceID: parent.TraceID(), TraceFlags: parent.TraceFlags(), TraceState: parent.TraceState(),
	}
	if !parent.IsValid() {
		binary.NativeEndian.PutUint64(cfg.TraceID[:8], rand.Uint64())   //nolint:gosec // an id, not a secret
		binary.NativeEndian.PutUint64(cfg.TraceID[8:], rand.Uint64()|1) //nolint:gosec // an id, not a secret
	}
	binary.NativeEndian.PutUint64(cfg.SpanID[:], rand.Uint64()|1) //nolint:gosec // an id, not a secret
	return trace.NewSpanContext(cfg)
}
