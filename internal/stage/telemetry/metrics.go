package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/atlas-mcp/atlas"
)

const (
	statusOK     = "ok"
	statusError  = "error"
	statusDenied = "denied"

	unknownTool = "unknown"
	otherRule   = "other"
	maxRules    = 1000 // rules that become labels
)

// Metrics are the server's Prometheus metrics. Make one value and keep it across reloads. No metric
// has a label for the tenant, and none takes a text that a caller wrote. It is safe for concurrent use.
type Metrics struct {
	reg *prometheus.Registry

	calls    *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	hits     *prometheus.CounterVec
	misses   *prometheus.CounterVec
	limited  *prometheus.CounterVec
	circuit  *prometheus.GaugeVec
	retries  *prometheus.CounterVec
	errors   *prometheus.CounterVec
	denied   *prometheus.CounterVec
	lists    *prometheus.CounterVec
	refused  *prometheus.CounterVec
	sessions prometheus.Gauge
	running  prometheus.Gauge
	panics   prometheus.Counter

	mu    sync.Mutex          // guards rules
	rules map[string]struct{} // that became labels; at most maxRules
}

// NewMetrics registers the metrics, and those of the Go runtime and the process. On a registry that has
// them already it returns the same ones.
func NewMetrics(reg *prometheus.Registry) (*Metrics, error) {
	var errs []error
	m := &Metrics{
		reg:     reg,
		rules:   map[string]struct{}{},
		calls:   register(reg, &errs, counters("atlas_tool_calls_total", "Calls of tools, by outcome.", "tool", "status")),
		hits:    register(reg, &errs, counters("atlas_cache_hits_total", "Calls answered from the cache.", "tool")),
		misses:  register(reg, &errs, counters("atlas_cache_misses_total", "Calls that the cache could not answer.", "tool")),
		limited: register(reg, &errs, counters("atlas_rate_limited_total", "Calls refused by a rate limit.", "tool")),
		retries: register(reg, &errs, counters("atlas_tool_retries_total", "Further runs of a tool within one call.", "tool")),
		errors:  register(reg, &errs, counters("atlas_errors_total", "Failed calls and lists, by error code.", "code")),
		denied:  register(reg, &errs, counters("atlas_policy_denied_total", "Calls refused by policy, by rule; default is no matching rule.", "rule")),
		lists:   register(reg, &errs, counters("atlas_tool_lists_total", "Lists of tools, by outcome.", "status")),
		refused: register(reg, &errs, counters("atlas_edge_refused_total", "HTTP requests refused before the pipeline, by error code.", "code")),
		latency: register(reg, &errs, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "atlas_tool_latency_seconds", Help: "Time to answer calls of tools.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"tool"})),
		circuit: register(reg, &errs, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "atlas_circuit_state",
			Help: "State of the circuit that the tool's last call met: 0 closed, 1 half-open, 2 open.",
		}, []string{"tool"})),
		sessions: register(reg, &errs, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "atlas_active_sessions", Help: "Open sessions of MCP clients.",
		})),
		running: register(reg, &errs, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "atlas_calls_running", Help: "Calls and lists being answered, children too.",
		})),
		panics: register(reg, &errs, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "atlas_panics_total", Help: "Panics that were turned into internal errors.",
		})),
	}
	register(reg, &errs, collectors.NewGoCollector())
	register(reg, &errs, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	return m, nil
}

// Refused counts an HTTP request that was refused before the pipeline. The code must be one of the table.
func (m *Metrics) Refused(code atlas.Code) { m.refused.WithLabelValues(string(code)).Inc() }

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// register registers c and returns it, or what is registered in its place.
func register[C prometheus.Collector](reg *prometheus.Registry, errs *[]error, c C) C {
	err := reg.Register(c)
	if err == nil {
		return c
	}
	if have, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if old, ok := have.ExistingCollector.(C); ok {
			return old
		}
	}
	*errs = append(*errs, err)
	return c
}

// A Gauge is a number that goes up and down. It is safe for concurrent use.
type Gauge interface {
	Inc()
	Dec()
	Set(v float64)
}

// Sessions returns the gauge of open sessions, for the edge to move.
func (m *Metrics) Sessions() Gauge { return m.sessions }

// GaugeFunc registers a gauge whose value is asked for at every scrape, such as the health of a
// part. The name must be new.
func (m *Metrics) GaugeFunc(name, help string, value func() float64) error {
	return m.reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// Counter registers a counter with one label, and returns what counts one more. The name must be new,
// and the label's values few.
func (m *Metrics) Counter(name, help, label string) (count func(value string), err error) {
	c := counters(name, help, label)
	if err := m.reg.Register(c); err != nil {
		return nil, err
	}
	return func(value string) { c.WithLabelValues(value).Inc() }, nil
}

// CounterFunc registers a counter with one label, whose values are asked for at every scrape. The name
// must be new.
func (m *Metrics) CounterFunc(name, help, label string, values func() map[string]float64) error {
	return m.reg.Register(asked{prometheus.NewDesc(name, help, []string{label}, nil), values})
}

// asked is a counter that is asked for its values.
type asked struct {
	desc   *prometheus.Desc
	values func() map[string]float64
}

func (a asked) Describe(ch chan<- *prometheus.Desc) { ch <- a.desc }

func (a asked) Collect(ch chan<- prometheus.Metric) {
	for value, n := range a.values() {
		ch <- prometheus.MustNewConstMetric(a.desc, prometheus.CounterValue, n, value)
	}
}

// Handler serves the metrics, with exemplars to scrapers that understand OpenMetrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{
		EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 10 * time.Second,
	})
}

// failed counts a failure. A code that is in no table counts as an internal error.
func (m *Metrics) failed(code atlas.Code) {
	if _, ok := atlas.Codes[code]; !ok {
		code = atlas.CodeInternal
	}
	m.errors.WithLabelValues(string(code)).Inc()
}

// policyDenied counts a refusal by policy.
func (m *Metrics) policyDenied(rule string) {
	if rule == "" {
		rule = "default"
	}
	m.mu.Lock()
	if _, ok := m.rules[rule]; !ok {
		if len(m.rules) < maxRules {
			m.rules[rule] = struct{}{}
		} else {
			rule = otherRule
		}
	}
	m.mu.Unlock()
	m.denied.WithLabelValues(rule).Inc()
}

// A tool is what is prepared for one tool.
type tool struct {
	name     string // empty for what is no tool
	span     string // name of its spans
	attrs    trace.SpanStartEventOption
	prepared atomic.Pointer[handles]
}

func (t *tool) label() string {
	if t.name == "" {
		return unknownTool
	}
	return t.name
}

// handles are a tool's metrics, looked up once: finding them by label costs as much as ten of them.
type handles struct {
	ok, failed, denied    prometheus.Counter
	hits, misses, limited prometheus.Counter
	retries               prometheus.Counter
	latency               prometheus.Observer
	circuit               prometheus.Gauge
}

// handles returns the tool's metrics. They are made at its first call, so that tools that nobody
// calls take no memory.
func (t *tool) handles(m *Metrics) *handles {
	if h := t.prepared.Load(); h != nil {
		return h
	}
	l := t.label()
	h := &handles{
		ok:      m.calls.WithLabelValues(l, statusOK),
		failed:  m.calls.WithLabelValues(l, statusError),
		denied:  m.calls.WithLabelValues(l, statusDenied),
		hits:    m.hits.WithLabelValues(l),
		misses:  m.misses.WithLabelValues(l),
		limited: m.limited.WithLabelValues(l),
		retries: m.retries.WithLabelValues(l),
		latency: m.latency.WithLabelValues(l),
		circuit: m.circuit.WithLabelValues(l),
	}
	t.prepared.Store(h)
	return h
}

// observe adds a latency, with the trace it came from if that is kept.
func (h *handles) observe(ctx context.Context, took time.Duration) {
	if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() {
		if eo, ok := h.latency.(prometheus.ExemplarObserver); ok {
			eo.ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": sc.TraceID().String()})
			return
		}
	}
	h.latency.Observe(took.Seconds())
}
