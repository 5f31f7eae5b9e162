package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	traceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
)

// A rig is a stage with everything that it tells.
type rig struct {
	*telemetry.Telemetry
	reg   *prometheus.Registry
	m     *telemetry.Metrics
	spans *tracetest.InMemoryExporter
	log   *bytes.Buffer
}

func newRig(t *testing.T) rig {
	t.Helper()
	r := rig{reg: prometheus.NewRegistry(), spans: tracetest.NewInMemoryExporter(), log: new(bytes.Buffer)}
	var err error
	if r.m, err = telemetry.NewMetrics(r.reg); err != nil {
		t.Fatal(err)
	}
	tracing := telemetry.Recording(telemetry.Config{}, r.spans)
	t.Cleanup(func() { _ = tracing.Shutdown(context.Background()) })
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if r.Telemetry, err = telemetry.New(tracing, r.m, []string{"crm_query", "files_put"}, log); err != nil {
		t.Fatal(err)
	}
	return r
}

func call(name string) atlas.Call {
	return atlas.Call{ID: "req-1", Name: name, Tenant: "acme", Transport: "http"}
}

func answer(n atlas.Notes, err error) atlas.Handler {
	return func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{Notes: n}, err }
}

func code(c atlas.Code) error { return &atlas.Error{Code: c, Err: errors.New("cause")} }

// scrape returns the metrics whose names begin with atlas_tool, atlas_cache and so on, without histograms.
func scrape(t *testing.T, m *telemetry.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	var out []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "atlas_") && !strings.Contains(line, "_bucket") && !strings.Contains(line, "_sum") {
			out = append(out, strings.TrimSuffix(line, "\n"))
		}
	}
	return strings.Join(out, "\n")
}

// The seed's metrics, by name and label.
func TestMetrics(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name  string
		notes atlas.Notes
		err   error
	}{
		{"crm_query", atlas.Notes{Cache: "miss", Breaker: "closed", Attempts: 3}, nil},
		{"crm_query", atlas.Notes{Cache: "hit"}, nil},
		{"crm_query", atlas.Notes{Breaker: "open"}, code(atlas.CodeCircuitOpen)},
		{"crm_query", atlas.Notes{}, code(atlas.CodeRateLimited)},
		{"crm_query", atlas.Notes{Rule: "no-pii"}, code(atlas.CodeDeniedByPolicy)},
		{"crm_query", atlas.Notes{}, code(atlas.CodeNotAuthorized)},
		{"files_put", atlas.Notes{Breaker: "half-open"}, code("made_up")},
		{"no\nsuch\ntool", atlas.Notes{}, code(atlas.CodeToolNotFound)},
		{"drop table", atlas.Notes{}, code(atlas.CodeToolNotFound)},
	} {
		_, _ = r.Stage(answer(c.notes, c.err))(t.Context(), call(c.name))
	}
	list := call("")
	list.Op = atlas.OpList
	_, _ = r.Stage(answer(atlas.Notes{}, nil))(t.Context(), list)
	r.m.Sessions().Inc()
	want := strings.TrimSpace(`
atlas_active_sessions 1
atlas_cache_hits_total{tool="crm_query"} 1
atlas_cache_hits_total{tool="files_put"} 0
atlas_cache_hits_total{tool="unknown"} 0
atlas_cache_misses_total{tool="crm_query"} 1
atlas_cache_misses_total{tool="files_put"} 0
atlas_cache_misses_total{tool="unknown"} 0
atlas_calls_running 0
atlas_circuit_state{tool="crm_query"} 2
atlas_circuit_state{tool="files_put"} 1
atlas_circuit_state{tool="unknown"} 0
atlas_errors_total{code="circuit_open"} 1
atlas_errors_total{code="denied_by_policy"} 1
atlas_errors_total{code="internal_error"} 1
atlas_errors_total{code="not_authorized"} 1
atlas_errors_total{code="rate_limited"} 1
atlas_errors_total{code="tool_not_found"} 2
atlas_panics_total 0
atlas_policy_denied_total{rule="default"} 1
atlas_policy_denied_total{rule="no-pii"} 1
atlas_rate_limited_total{tool="crm_query"} 1
atlas_rate_limited_total{tool="files_put"} 0
atlas_rate_limited_total{tool="unknown"} 0
atlas_tool_calls_total{status="denied",tool="crm_query"} 2
atlas_tool_calls_total{status="denied",tool="files_put"} 0
atlas_tool_calls_total{status="denied",tool="unknown"} 0
atlas_tool_calls_total{status="error",tool="crm_query"} 2
atlas_tool_calls_total{status="error",tool="files_put"} 1
atlas_tool_calls_total{status="error",tool="unknown"} 2
atlas_tool_calls_total{status="ok",tool="crm_query"} 2
atlas_tool_calls_total{status="ok",tool="files_put"} 0
atlas_tool_calls_total{status="ok",tool="unknown"} 0
atlas_tool_latency_seconds_count{tool="crm_query"} 6
atlas_tool_latency_seconds_count{tool="files_put"} 1
atlas_tool_latency_seconds_count{tool="unknown"} 2
atlas_tool_lists_total{status="ok"} 1
atlas_tool_retries_total{tool="crm_query"} 2
atlas_tool_retries_total{tool="files_put"} 0
atlas_tool_retries_total{tool="unknown"} 0`)
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(scrape(t, r.m), "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if problems, err := testutil.GatherAndLint(r.reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// No metric tells tenants apart, and nothing that a caller writes becomes a label.
func TestLabelsAreBounded(t *testing.T) {
	r := newRig(t)
	for i := range 3000 {
		c := call(fmt.Sprintf("tool-%d", i))
		c.Tenant = atlas.TenantID(fmt.Sprintf("tenant-%d", i))
		_, _ = r.Stage(answer(atlas.Notes{Rule: fmt.Sprintf("rule-%d", i)}, code(atlas.CodeDeniedByPolicy)))(t.Context(), c)
	}
	got := scrape(t, r.m)
	if strings.Contains(got, "tenant-") || strings.Contains(got, "tool-") {
		t.Error("a label holds what a caller wrote")
	}
	if n := strings.Count(got, "atlas_policy_denied_total{"); n != 1001 {
		t.Errorf("%d rules became labels, want 1000 and \"other\"", n)
	}
}

func TestReloadKeepsMetrics(t *testing.T) {
	r := newRig(t)
	_, _ = r.Stage(answer(atlas.Notes{}, nil))(t.Context(), call("crm_query"))
	again, err := telemetry.NewMetrics(r.reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*telemetry.Metrics{r.m, again} {
		tel, err := telemetry.New(telemetry.Recording(telemetry.Config{}, r.spans), m, []string{"crm_query"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = tel.Stage(answer(atlas.Notes{}, nil))(t.Context(), call("crm_query"))
	}
	if got := scrape(t, again); !strings.Contains(got, `atlas_tool_calls_total{status="ok",tool="crm_query"} 3`) {
		t.Errorf("after two reloads:\n%s", got)
	}
	if err := again.GaugeFunc("atlas_test", "A test.", func() float64 { return 7 }); err != nil {
		t.Error(err)
	}
	if err := again.GaugeFunc("atlas_test", "A test.", func() float64 { return 8 }); err == nil {
		t.Error("a name is registered twice")
	}
}

func attrs(s tracetest.SpanStub) map[string]any {
	out := map[string]any{}
	for _, kv := range s.Attributes {
		out[string(kv.Key)] = kv.Value.AsInterface()
	}
	return out
}

func TestSpan(t *testing.T) {
	for name, tc := range map[string]struct {
		call   atlas.Call
		notes  atlas.Notes
		err    error
		span   string
		status codes.Code
		want   map[string]any
	}{
		"success": {
			call("crm_query"),
			atlas.Notes{Cache: "miss", Breaker: "closed", Attempts: 1, Timeout: time.Second, Decision: "allow", Rule: "r"},
			nil,
			"tools/call crm_query", codes.Unset,
			map[string]any{
				"atlas.cache": "miss", "atlas.circuit_state": "closed", "atlas.attempts": int64(1), "atlas.timeout_ms": int64(1000),
				"atlas.policy_decision": "allow", "atlas.policy_rule": "r",
			},
		},
		"refused": {
			call("crm_query"),
			atlas.Notes{},
			code(atlas.CodeInvalidArguments), "tools/call crm_query", codes.Unset,
			map[string]any{"error.type": "tool_error", "atlas.error_code": "invalid_arguments", "atlas.retryable_error": false},
		},
		"failed": {
			call("crm_query"),
			atlas.Notes{},
			code(atlas.CodeSourceUnavailable), "tools/call crm_query", codes.Error,
			map[string]any{"error.type": "tool_error", "atlas.error_code": "source_unavailable", "atlas.retryable_error": true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			_, _ = r.Stage(answer(tc.notes, tc.err))(t.Context(), tc.call)
			got := r.spans.GetSpans()
			if len(got) != 1 || got[0].Name != tc.span || got[0].SpanKind != trace.SpanKindServer || got[0].Status.Code != tc.status {
				t.Fatalf("%+v", got)
			}
			want := map[string]any{
				"mcp.method.name": "tools/call", "gen_ai.tool.name": "crm_query", "gen_ai.operation.name": "execute_tool",
				"atlas.tool": "crm_query", "atlas.tenant": "acme", "atlas.request_id": "req-1", "network.transport": "tcp",
			}
			maps.Copy(want, tc.want)
			if diff := cmp.Diff(want, attrs(got[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if strings.Contains(fmt.Sprint(got), "cause") {
				t.Error("the cause of an error is in the span")
			}
		})
	}
}

func TestUnknownToolsAndLists(t *testing.T) {
	r := newRig(t)
	_, _ = r.Stage(answer(atlas.Notes{}, code(atlas.CodeToolNotFound)))(t.Context(), call("whatever I like"))
	list := call("")
	list.Op = atlas.OpList
	_, _ = r.Stage(answer(atlas.Notes{}, nil))(t.Context(), list)
	got := r.spans.GetSpans()
	if got[0].Name != "tools/call" || got[1].Name != "tools/list" || strings.Contains(fmt.Sprint(got), "whatever") {
		t.Errorf("%v", got)
	}
	if !strings.Contains(r.log.String(), `tool=unknown`) || !strings.Contains(r.log.String(), `asked_for="whatever I like"`) {
		t.Errorf("log %s", r.log)
	}
}

// The caller's span is the parent, the span around becomes a link, children nest in their parent, and
// what is inside can find the ids.
func TestTraceContext(t *testing.T) {
	r := newRig(t)
	var inside, parentOut string
	inner := r.Stage(func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
		inside, parentOut = telemetry.TraceID(ctx), telemetry.TraceParent(ctx)
		return atlas.Result{}, nil
	})
	outer := r.Stage(func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		return inner(ctx, c.Child("req-2", "files_put", nil))
	})
	around := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	c := call("crm_query")
	c.TraceParent, c.TraceState = traceParent, "vendor=x"
	if _, err := outer(trace.ContextWithSpanContext(t.Context(), around), c); err != nil {
		t.Fatal(err)
	}
	got := r.spans.GetSpans() // the child ends first
	child, parent := got[0], got[1]
	if parent.SpanContext.TraceID().String() != traceID || parent.Parent.SpanID().String() != "00f067aa0ba902b7" || !parent.Parent.IsRemote() ||
		parent.SpanContext.TraceState().String() != "vendor=x" {
		t.Errorf("parent span %+v", parent)
	}
	if len(parent.Links) != 1 || !parent.Links[0].SpanContext.Equal(around) {
		t.Errorf("links %+v", parent.Links)
	}
	if child.Parent.SpanID() != parent.SpanContext.SpanID() || child.SpanKind != trace.SpanKindInternal || len(child.Links) != 0 {
		t.Errorf("child span %+v", child)
	}
	if inside != traceID || parentOut != "00-"+traceID+"-"+child.SpanContext.SpanID().String()+"-01" {
		t.Errorf("inside: %q, %q", inside, parentOut)
	}
	// Without a traceparent, the span around is the parent.
	r.spans.Reset()
	_, _ = inner(trace.ContextWithSpanContext(t.Context(), around), call("crm_query"))
	if got := r.spans.GetSpans(); got[0].Parent.SpanID() != around.SpanID() || len(got[0].Links) != 0 {
		t.Errorf("%+v", got)
	}
	if telemetry.TraceID(t.Context()) != "" || telemetry.TraceParent(t.Context()) != "" {
		t.Error("ids out of nothing")
	}
}

// With no endpoint nothing is recorded, but every call has ids, in its caller's trace if it names one.
func TestIDsWithoutExport(t *testing.T) {
	tracing, err := telemetry.Open(t.Context(), telemetry.Config{}, "v", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m, err := telemetry.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.New(tracing, m, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	h := tel.Stage(func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		ids = append(ids, telemetry.TraceParent(ctx))
		return atlas.Result{}, nil
	})
	for range 2 {
		_, _ = h(t.Context(), call("x"))
	}
	c := call("x")
	c.TraceParent = traceParent
	_, _ = h(t.Context(), c)
	if len(ids[0]) != 55 || ids[0][:35] == ids[1][:35] || !strings.HasPrefix(ids[2], "00-"+traceID) || ids[2] == traceParent {
		t.Errorf("%q", ids)
	}
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPanic(t *testing.T) {
	r := newRig(t)
	_, err := r.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { panic("secret of globex") })(t.Context(), call("crm_query"))
	e := atlas.ErrorOf(err)
	if e == nil || e.Code != atlas.CodeInternal || strings.Contains(fmt.Sprint(e.Failure("req-1")), "secret") {
		t.Errorf("%v, as the caller sees it %v", err, e.Failure("req-1"))
	}
	log := r.log.String()
	if !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "TestPanic.func1") || !strings.Contains(log, "request_id=req-1") {
		t.Errorf("log %s", log)
	}
	if strings.Contains(fmt.Sprint(r.spans.GetSpans()), "secret") {
		t.Error("the span tells the panic's value")
	}
	if got := scrape(t, r.m); !strings.Contains(got, "atlas_panics_total 1") || !strings.Contains(got, "atlas_calls_running 0") {
		t.Error(got)
	}
}

func TestLog(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		level string
	}{
		"success":              {nil, "DEBUG"},
		"refused":              {code(atlas.CodeDeniedByPolicy), "DEBUG"},
		"cancelled":            {context.Canceled, "DEBUG"},
		"stopping":             {code(atlas.CodeShuttingDown), "DEBUG"},
		"circuit open":         {&atlas.Error{Code: atlas.CodeCircuitOpen}, "DEBUG"},
		"timeout":              {code(atlas.CodeTimeout), "DEBUG"},
		"source down":          {code(atlas.CodeSourceUnavailable), "WARN"},
		"internal":             {errors.New("cause"), "WARN"},
		"audit unavailable":    {code(atlas.CodeAuditUnavailable), "WARN"},
		"source misconfigured": {code(atlas.CodeSourceMisused), "WARN"},
	} {
		r := newRig(t)
		_, _ = r.Stage(answer(atlas.Notes{}, tc.err))(t.Context(), call("crm_query"))
		got := r.log.String()
		if strings.Count(got, "\n") != 1 || !strings.Contains(got, "level="+tc.level) || !strings.Contains(got, "request_id=req-1") {
			t.Errorf("%s: %s", name, got)
		}
		if tc.level == "WARN" && !strings.Contains(got, "cause") {
			t.Errorf("%s: the cause is missing: %s", name, got)
		}
	}
}

func TestExemplar(t *testing.T) {
	r := newRig(t)
	c := call("crm_query")
	c.TraceParent = traceParent
	_, _ = r.Stage(answer(atlas.Notes{}, nil))(t.Context(), c)
	w := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody)
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	r.m.Handler().ServeHTTP(w, req)
	if !strings.Contains(w.Body.String(), `# {trace_id="`+traceID+`"}`) {
		t.Error("no exemplar")
	}
}

// The exporter speaks OTLP over HTTP to the endpoint, with the headers, and a failing collector is
// named in the log and nowhere else.
func TestExport(t *testing.T) {
	var mu sync.Mutex
	var path, auth string
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		mu.Lock()
		defer mu.Unlock()
		path, auth = req.URL.Path, req.Header.Get("Authorization")
		w.WriteHeader(status)
	}))
	defer srv.Close()
	var buf bytes.Buffer
	run := func(at string) {
		tracing, err := telemetry.Open(t.Context(), telemetry.Config{
			OTLPEndpoint: srv.URL + at, OTLPHeaders: map[string]string{"Authorization": "Bearer k"},
		}, "v", slog.New(slog.NewTextHandler(&buf, nil)))
		if err != nil {
			t.Fatal(err)
		}
		m, err := telemetry.NewMetrics(prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		tel, err := telemetry.New(tracing, m, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = tel.Stage(answer(atlas.Notes{}, nil))(t.Context(), call("x"))
		if err := tracing.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for at, want := range map[string]string{"": "/v1/traces", "/": "/v1/traces", "/v1/traces": "/v1/traces", "/otel/v1/traces": "/otel/v1/traces"} {
		run(at)
		if path != want || auth != "Bearer k" || buf.Len() != 0 {
			t.Errorf("%q: path %q, authorization %q, log %s", at, path, auth, &buf)
		}
	}
	mu.Lock()
	status = http.StatusBadRequest
	mu.Unlock()
	run("")
	if !strings.Contains(buf.String(), "spans cannot be exported") {
		t.Errorf("log %s", &buf)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestSampling(t *testing.T) {
	e := tracetest.NewInMemoryExporter()
	tracing := telemetry.Recording(telemetry.Config{SampleRatio: 1e-9}, e)
	m, err := telemetry.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.New(tracing, m, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		_, _ = tel.Stage(answer(atlas.Notes{}, nil))(t.Context(), call("x"))
	}
	if n := len(e.GetSpans()); n != 0 {
		t.Errorf("%d of 100 sampled", n)
	}
	c := call("x")
	c.TraceParent = traceParent // the caller's trace is recorded, so its part here is
	_, _ = tel.Stage(answer(atlas.Notes{}, nil))(t.Context(), c)
	if n := len(e.GetSpans()); n != 1 {
		t.Errorf("%d spans of a sampled trace", n)
	}
}

func TestConfig(t *testing.T) {
	err := telemetry.Config{OTLPEndpoint: "user:hunter2@host", SampleRatio: 2, ExportTimeout: -1}.Validate()
	for _, want := range []string{"otlp_endpoint", "sample_ratio", "export_timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v tells a password", err)
	}
}

// A traceparent from a caller is read as the standard's own propagator of OpenTelemetry reads it.
func FuzzTraceContext(f *testing.F) {
	f.Add(traceParent, "a=1,b=2")
	f.Add("00-00000000000000000000000000000001-0000000000000001-10", "0")
	f.Add("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "")
	f.Add("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", "")
	f.Add("00-00000000000000000000000000000000-00f067aa0ba902b7-01", "=")
	f.Add("00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", strings.Repeat("x", 600))
	f.Fuzz(func(t *testing.T, parent, state string) {
		got := telemetry.ParseTraceContext(parent, state)
		if len(parent) > 255 || len(state) > 512 {
			return // bounds of our own
		}
		carrier := propagation.MapCarrier{"traceparent": parent, "tracestate": state}
		want := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(t.Context(), carrier))
		// Where they differ, OpenTelemetry refuses flags that version 00 does not name; the standard
		// asks to ignore them.
		if want.IsValid() && got.IsValid() && (got.TraceID() != want.TraceID() || got.SpanID() != want.SpanID() ||
			got.IsSampled() != want.IsSampled() || got.TraceState().String() != want.TraceState().String()) {
			t.Fatalf("%q, %q: got %+v, want %+v", parent, state, got, want)
		}
		if want.IsValid() && strings.HasPrefix(parent, "00-") && !got.IsValid() {
			t.Fatalf("%q is refused", parent)
		}
		if got.IsValid() && (parent[3:35] != got.TraceID().String() || parent[36:52] != got.SpanID().String()) {
			t.Fatalf("%q was read as %+v", parent, got)
		}
	})
}

func BenchmarkStage(b *testing.B) {
	for name, tracing := range map[string]*telemetry.Tracing{
		"unrecorded": {},
		"recorded":   telemetry.Recording(telemetry.Config{}, discard{}),
		"unsampled":  telemetry.Recording(telemetry.Config{SampleRatio: 1e-12}, discard{}),
	} {
		b.Run(name, func(b *testing.B) {
			m, err := telemetry.NewMetrics(prometheus.NewRegistry())
			if err != nil {
				b.Fatal(err)
			}
			tel, err := telemetry.New(tracing, m, []string{"crm_query"}, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			h := tel.Stage(answer(atlas.Notes{Cache: "miss", Breaker: "closed", Attempts: 1, Decision: "allow"}, nil))
			c := call("crm_query")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h(b.Context(), c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type discard struct{}

func (discard) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                             { return nil }
