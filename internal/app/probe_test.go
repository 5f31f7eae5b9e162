package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// probes are tools whose behaviour scripts can count on. They are no fakes of parts of ours: they are
// tools as any other, beside the configured ones.
type probes struct {
	mu   sync.Mutex
	runs map[string]int
}

func newProbes() *probes { return &probes{runs: map[string]int{}} }

// ran counts a run of the tool and returns how many there were.
func (p *probes) ran(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs[name]++
	return p.runs[name]
}

func (p *probes) count(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs[name]
}

// question is what the probes ask their client.
var question = map[string]atlas.ClientRequest{"q": {Method: "elicitation/create", Params: json.RawMessage(`{"message":"Which text?"}`)}}

const probeInput = `{"type":"object","properties":{"text":{"type":"string","maxLength":100}},"additionalProperties":false}`

// asks are the probes that ask their client when they are run.
var asks = map[string]bool{"probe_confirm": true}

// tools returns the probes.
func (p *probes) tools(call atlas.Handler) []*atlas.Tool {
	down := &atlas.Error{Code: atlas.CodeSourceUnavailable}
	kinds := []struct {
		name string
		set  func(*atlas.Tool)
		run  func(ctx context.Context, c atlas.Call, n int) (string, error)
	}{
		{"probe_echo", nil, func(_ context.Context, c atlas.Call, _ int) (string, error) {
			text, _ := c.Args.Values["text"].(string)
			out, err := json.Marshal(map[string]string{"text": text, "tenant": string(c.Tenant)})
			return string(out), err
		}},
		{"probe_cached", func(t *atlas.Tool) { t.CacheTTL = time.Minute }, func(_ context.Context, _ atlas.Call, n int) (string, error) {
			return fmt.Sprintf(`{"run":%d}`, n), nil
		}},
		{"probe_secret", nil, func(context.Context, atlas.Call, int) (string, error) {
			return `{"card":"4111 1111 1111 1111","order":"o_9002"}`, nil
		}},
		{"probe_list", func(t *atlas.Tool) { t.Items = "items" }, func(context.Context, atlas.Call, int) (string, error) {
			var b strings.Builder
			for i := range 120 {
				if i > 0 {
					b.WriteByte(',')
				}
				fmt.Fprintf(&b, `{"n":%d}`, i)
			}
			return `{"items":[` + b.String() + `]}`, nil
		}},
		{"probe_panic", nil, func(context.Context, atlas.Call, int) (string, error) { panic("probe") }},
		{"probe_slow", func(t *atlas.Tool) { t.Timeout = 50 * time.Millisecond }, func(ctx context.Context, _ atlas.Call, _ int) (string, error) {
			wait := time.NewTimer(time.Second)
			defer wait.Stop()
			select {
			case <-ctx.Done():
				return "", ctx.Err()
			case <-wait.C:
				return `{"slow":true}`, nil
			}
		}},
		{"probe_down", nil, func(context.Context, atlas.Call, int) (string, error) { return "", down }},
		{"probe_flaky", nil, func(_ context.Context, _ atlas.Call, n int) (string, error) {
			if n == 1 {
				return "", down
			}
			return `{"up":true}`, nil
		}},
		{"probe_append", func(t *atlas.Tool) {
			t.ReadOnly, t.Idempotent, t.Effects, t.Scopes = false, false, atlas.EffectsWrite, []string{"tool:probe:write"}
		}, func(_ context.Context, _ atlas.Call, n int) (string, error) {
			return fmt.Sprintf(`{"run":%d}`, n), nil
		}},
		{"probe_confirm", func(t *atlas.Tool) {
			t.ReadOnly, t.Destructive, t.Effects, t.Scopes = false, true, atlas.EffectsWrite, []string{"tool:probe:write"}
		}, func(_ context.Context, _ atlas.Call, n int) (string, error) {
			return fmt.Sprintf(`{"run":%d}`, n), nil
		}},
		{"probe_delete", func(t *atlas.Tool) {
			t.ReadOnly, t.Destructive, t.Effects, t.Scopes = false, true, atlas.EffectsWrite, []string{"tool:probe:write"}
		}, func(_ context.Context, _ atlas.Call, n int) (string, error) {
			return fmt.Sprintf(`{"run":%d}`, n), nil
		}},
		{"probe_ask", func(t *atlas.Tool) {
			t.Resource = func(atlas.Call) string { return "probe/probe_echo" }
			t.Ask = func(_ context.Context, c atlas.Call) (json.RawMessage, *atlas.Ask, error) {
				if c.Reply == nil {
					return nil, &atlas.Ask{Requests: question}, nil
				}
				return c.Reply.Answers["q"], nil, nil
			}
		}, func(_ context.Context, c atlas.Call, _ int) (string, error) {
			return string(c.Args.Raw), nil
		}},
		{"probe_task", func(t *atlas.Tool) { t.Task = atlas.TaskSpec{Timeout: time.Minute, Required: true} }, func(ctx context.Context, _ atlas.Call, _ int) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}},
		{"probe_parent", func(t *atlas.Tool) { t.Level, t.Source = atlas.Composed, "" }, func(ctx context.Context, c atlas.Call, n int) (string, error) {
			res, err := call(ctx, c.Child(fmt.Sprintf("req_child%d", n), "probe_echo", json.RawMessage(`{"text":"child"}`)))
			return string(res.Structured), err
		}},
	}
	tools := make([]*atlas.Tool, len(kinds))
	for i, k := range kinds {
		t := &atlas.Tool{
			Name: k.name, Level: atlas.Atomic, Version: "1", Source: "probe", ReadOnly: true, Idempotent: true, Reads: atlas.ReadsPrivate,
			Description: "A probe for tests. It behaves as its name says.", Scopes: []string{"tool:probe:read"}, Timeout: 5 * time.Second,
			Input: json.RawMessage(probeInput), Output: json.RawMessage(`{"type":"object"}`),
			Resource: func(atlas.Call) string { return "probe/" + k.name },
		}
		if k.set != nil {
			k.set(t)
		}
		t.Run = func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			if asks[k.name] && c.Reply == nil {
				return atlas.Result{Ask: &atlas.Ask{Requests: question}}, nil
			}
			out, err := k.run(ctx, c, p.ran(k.name))
			if err != nil {
				return atlas.Result{}, err
			}
			return atlas.Result{Structured: json.RawMessage(out)}, nil
		}
		tools[i] = t
	}
	return tools
}
