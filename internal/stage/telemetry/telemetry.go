// Package telemetry is the outermost stage: a span, metrics and a log line for every call, and the
// place where a panic becomes an error. It also sets up tracing and holds the metrics, which outlive a
// reload. What the stages inside decided it reads from the notes on the result.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Telemetry is the stage. It is safe for concurrent use.
type Telemetry struct {
	tracing *Tracing
	metrics *Metrics
	log     *slog.Logger
	tools   map[string]*tool // read-only
	unknown *tool            // for names that are no tool: they must not become labels
	list    *tool            // for OpList
}

// New returns the stage. tools are the names of all tools of the configuration: only they become
// labels of metrics and names of spans. Tracing and metrics outlive the stage.
func New(tracing *Tracing, metrics *Metrics, tools []string, log *slog.Logger) (*Telemetry, error) {
	if tracing == nil || metrics == nil {
		return nil, errors.New("telemetry: tracing and metrics are both required")
	}
	t := &Telemetry{
		tracing: tracing, metrics: metrics, log: log,
		tools:   make(map[string]*tool, len(tools)),
		unknown: newTool(atlas.OpCall, ""),
		list:    newTool(atlas.OpList, ""),
	}
	for _, name := range tools {
		t.tools[name] = newTool(atlas.OpCall, name)
	}
	return t, nil
}

// Stage observes each call.
func (t *Telemetry) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (res atlas.Result, err error) {
		start := time.Now()
		tl := t.tool(&call)
		ctx, span := t.tracing.start(ctx, &call, tl)
		t.metrics.running.Inc()
		defer func() {
			if v := recover(); v != nil {
				res, err = atlas.Result{}, t.panicked(ctx, &call, v)
			}
			t.metrics.running.Dec()
			o := outcomeOf(&res, err, time.Since(start))
			endSpan(span, &call, &o)
			t.count(ctx, tl, &o)
			t.write(ctx, &call, tl, &o)
		}()
		return next(ctx, call)
	}
}

// An outcome is what became of a call.
type outcome struct {
	err    *atlas.Error // nil if the call succeeded
	status string       // "ok", "error" or "denied"
	notes  atlas.Notes  // a copy: through a pointer every result would have to live on the heap
	took   time.Duration
	bytes  int
}

func outcomeOf(res *atlas.Result, err error, took time.Duration) outcome {
	o := outcome{err: atlas.ErrorOf(err), status: statusOK, notes: res.Notes, took: took}
	switch {
	case o.err == nil:
		o.bytes = res.Size()
	case o.err.Info().Category == atlas.PermissionDenied:
		o.status = statusDenied
	default:
		o.status = statusError
	}
	return o
}

// panicked logs a panic, with its stack, and returns what the caller gets instead.
func (t *Telemetry) panicked(ctx context.Context, call *atlas.Call, v any) error {
	t.metrics.panics.Inc()
	t.log.ErrorContext(ctx, "panic in a call", "request_id", call.ID, "tenant", string(call.Tenant),
		"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	return &atlas.Error{Code: atlas.CodeInternal, Err: fmt.Errorf("panic: %v", v)}
}

// tool returns what was prepared for the call's tool.
func (t *Telemetry) tool(call *atlas.Call) *tool {
	if call.Op == atlas.OpList {
		return t.list
	}
	if tl := t.tools[call.Name]; tl != nil {
		return tl
	}
	return t.unknown
}

func (t *Telemetry) count(ctx context.Context, tl *tool, o *outcome) {
	m := t.metrics
	if o.err != nil {
		m.failed(o.err.Code)
		if o.err.Code == atlas.CodeDeniedByPolicy || o.err.Code == atlas.CodeNotAuthorized {
			m.policyDenied(o.notes.Rule)
		}
	}
	if tl == t.list {
		m.lists.WithLabelValues(o.status).Inc()
		return
	}
	h := tl.handles(m)
	switch o.status {
	case statusOK:
		h.ok.Inc()
	case statusDenied:
		h.denied.Inc()
	default:
		h.failed.Inc()
	}
	h.observe(ctx, o.took)
	switch o.notes.Cache {
	case "hit":
		h.hits.Inc()
	case "miss":
		h.misses.Inc()
	}
	if o.err != nil && o.err.Code == atlas.CodeRateLimited {
		h.limited.Inc()
	}
	if o.notes.Attempts > 1 {
		h.retries.Add(float64(o.notes.Attempts - 1))
	}
	switch o.notes.Breaker {
	case "closed":
		h.circuit.Set(0)
	case "half-open":
		h.circuit.Set(1)
	case "open":
		h.circuit.Set(2)
	}
}

// write logs the call: at DEBUG, or at WARN where an operator has to know the cause. Refusals of an
// open circuit have none, so a source that is down does not fill the log.
func (t *Telemetry) write(ctx context.Context, call *atlas.Call, tl *tool, o *outcome) {
	level := slog.LevelDebug
	if o.err != nil && alarming(o.err) {
		level = slog.LevelWarn
	}
	if !t.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs,
		slog.String("request_id", call.ID),
		slog.String("method", call.Op.String()),
		slog.String("tool", tl.label()),
		slog.String("tenant", string(call.Tenant)),
		slog.String("status", o.status),
		slog.Duration("took", o.took),
	)
	if id := TraceID(ctx); id != "" {
		attrs = append(attrs, slog.String("trace_id", id))
	}
	if call.Parent != nil {
		attrs = append(attrs, slog.String("parent_id", call.Parent.ID))
	}
	if tl == t.unknown {
		attrs = append(attrs, slog.String("asked_for", clip(call.Name)))
	}
	if o.notes.Cache != "" {
		attrs = append(attrs, slog.String("cache", o.notes.Cache))
	}
	if o.err != nil {
		attrs = append(attrs, slog.String("code", string(o.err.Code)))
		if o.err.Err != nil {
			attrs = append(attrs, slog.Any("error", o.err.Err))
		}
	}
	t.log.LogAttrs(ctx, level, "call ended", attrs...)
}

// alarming reports whether an operator should see the failure.
func alarming(e *atlas.Error) bool {
	switch e.Code { //nolint:exhaustive // the others are judged by their category
	case atlas.CodeCanceled, atlas.CodeShuttingDown:
		return false
	case atlas.CodeSourceError, atlas.CodeSourceUnavailable:
		return e.Err != nil
	}
	return e.Info().Category == atlas.InternalError
}

// serverFault reports whether the failure is this side's, as spans see it: by the semantic
// conventions a request that was rightly refused is no error of the server.
func serverFault(e *atlas.Error) bool { return e.Info().HTTP >= http.StatusInternalServerError }

// clip shortens what a caller wrote.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most]
	}
	return s
}
