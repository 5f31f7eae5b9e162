package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

// What one call costs from the edge inward: every stage as in production, a tool in memory. The
// audit log is written to a real file; its writer runs beside the calls and is counted.

const (
	benchTools   = 100
	benchTenants = 4
	benchCallers = 40
	benchSources = 10
)

const benchAnswer = `{"order":{"id":"o_9002","customer_id":"CUST-1001","status":"refund_pending","total_cents":4900,"currency":"USD"}}`

const benchConfig = `
demo_data: false
sources: {}
tools: {files: []}
policy: {file: policy.yaml}
flood: {rate: 1000000000, per: 1m, burst: 100000000}
ratelimit:
  caller: {rate: 1000000000, per: 1m, burst: 100000000}
  tool: {rate: 1000000000, per: 1m, burst: 100000000}
  tenant: {rate: 1000000000, per: 1m, burst: 100000000}
`

// benchPolicy returns that many rules and one more: each of the many is about one role and one source,
// every tenth denies by a look at the arguments, as policies that have grown do.
func benchPolicy(rules int) string {
	var b strings.Builder
	b.WriteString("rules:\n  - {id: bench, subjects: [\"role:bench\"], actions: [\"tool:*:read\"], resources: [\"tenant:*/*\"]}\n")
	for i := range rules {
		source := fmt.Sprintf("s%d", i%benchSources)
		role := fmt.Sprintf("role:team%d", i)
		if i%10 == 0 {
			fmt.Fprintf(&b, "  - {id: r%d, subjects: [\"%s\"], actions: [\"tool:%s:read\"], resources: [\"tenant:*/%s/*\"], effect: deny, when: 'context.args.order_id == \"o_0\"'}\n",
				i, role, source, source)
			continue
		}
		fmt.Fprintf(&b, "  - {id: r%d, subjects: [\"%s\"], actions: [\"tool:%s:read\"], resources: [\"tenant:t%d/%s/*\"]}\n", i, role, source, i%benchTenants, source)
	}
	return b.String()
}

func benchToolset(ttl time.Duration) []*atlas.Tool {
	tools := make([]*atlas.Tool, benchTools)
	for i := range tools {
		source := fmt.Sprintf("s%d", i%benchSources)
		name := fmt.Sprintf("%s_order%d", source, i)
		resource := source + "/" + name
		tools[i] = &atlas.Tool{
			Name: name, Level: atlas.Atomic, Version: "1", Source: source, ReadOnly: true, Idempotent: true, Reads: atlas.ReadsPrivate,
			Description: "One order. It is kept in memory.", Scopes: []string{"tool:" + source + ":read"}, Timeout: 5 * time.Second, CacheTTL: ttl,
			Input: json.RawMessage(`{"type":"object","properties":{"order_id":{"type":"string","pattern":"^o_[0-9]+$"},` +
				`"lines":{"type":"boolean","default":false}},"required":["order_id"],"additionalProperties":false}`),
			Output:   json.RawMessage(`{"type":"object","properties":{"order":{"type":"object"}},"required":["order"]}`),
			Resource: func(atlas.Call) string { return resource },
			Run: func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{Structured: json.RawMessage(benchAnswer)}, nil
			},
		}
	}
	return tools
}

// A pipelineBench is an open app and calls of many callers and tools.
type pipelineBench struct {
	app   *app.App
	calls []atlas.Call
	next  atomic.Uint64
}

func openBench(b *testing.B, rules int, ttl time.Duration, off ...string) *pipelineBench {
	b.Helper()
	dir := b.TempDir()
	for name, data := range map[string]string{"atlas.yaml": benchConfig, "policy.yaml": benchPolicy(rules)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	tools := benchToolset(ttl)
	a, err := app.Open(b.Context(), app.Options{
		ConfigFile: filepath.Join(dir, "atlas.yaml"), DataDir: filepath.Join(dir, "data"), LogLevel: "error", LogTo: b.Output(),
		ExtraTools: func(atlas.Handler) []*atlas.Tool { return tools }, EditStages: app.Without(off...),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Close(); err != nil {
			b.Error(err)
		}
	})
	p := &pipelineBench{app: a}
	callers := make([]*atlas.Principal, benchCallers)
	for i := range callers {
		who := &atlas.Principal{
			Subject: fmt.Sprintf("user%d", i), Tenant: atlas.TenantID(fmt.Sprintf("t%d", i%benchTenants)), Issuer: "https://issuer.example",
			Roles: []string{"bench", fmt.Sprintf("team%d", i)}, TokenID: fmt.Sprintf("jti%d", i), Expiry: time.Now().Add(time.Hour),
		}
		for s := range benchSources {
			who.Scopes = append(who.Scopes, fmt.Sprintf("tool:s%d:read", s))
		}
		callers[i] = who
	}
	for i := range benchTools * benchCallers {
		who := callers[i%benchCallers]
		call := a.NewCall(who, tools[i/benchCallers].Name, []byte(`{"order_id":"o_9002"}`))
		call.Transport = "http"
		p.calls = append(p.calls, call)
	}
	return p
}

// one makes the next call.
func (p *pipelineBench) one(ctx context.Context) error {
	call := p.calls[p.next.Add(1)%uint64(len(p.calls))]
	call.Received = time.Now()
	res, err := p.app.Handle(ctx, call)
	if err == nil && len(res.Structured) != len(benchAnswer) {
		err = fmt.Errorf("answer %s", res.Structured)
	}
	return err
}

// loop makes the calls of the benchmark, and counts the writing of their records.
func (p *pipelineBench) loop(b *testing.B) {
	for range p.calls { // every tool and caller once: caches of decisions and metrics are warm
		if err := p.one(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.one(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	// What is still to be written belongs to the calls.
	if err := p.app.FlushAudit(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkPipeline(b *testing.B) {
	for _, rules := range []int{10, 1000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) { openBench(b, rules, 0).loop(b) })
		b.Run(fmt.Sprintf("rules=%d/cached", rules), func(b *testing.B) { openBench(b, rules, time.Minute).loop(b) })
	}
}

func BenchmarkPipelineParallel(b *testing.B) {
	for _, rules := range []int{10, 1000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			p := openBench(b, rules, 0)
			for range p.calls {
				if err := p.one(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := p.one(b.Context()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// What each stage adds is what the whole costs more than the whole without it.
func BenchmarkPipelineWithout(b *testing.B) {
	for _, name := range app.StageNames() {
		if slices.Contains([]string{"registry", "invoke"}, name) {
			continue // nothing runs without them
		}
		b.Run(name, func(b *testing.B) { openBench(b, 10, 0, name).loop(b) })
	}
	b.Run("all", func(b *testing.B) {
		openBench(b, 10, 0, slices.DeleteFunc(app.StageNames(), func(s string) bool { return s == "registry" || s == "invoke" })...).loop(b)
	})
}
