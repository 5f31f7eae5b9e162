package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/stage/policy"
)

// manyRules makes n rules: one in ten denies, half have an expression, all roles and sources of a
// larger company; rules for everyone among them.
func manyRules(n int) string {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - id: r%04d\n    subjects: [\"role:role%d\"]\n", i, i%20)
		fmt.Fprintf(&b, "    actions: [\"tool:%s:*\"]\n", []string{"crm", "kb", "pay", "docs", "*"}[i%5])
		fmt.Fprintf(&b, "    resources: [\"tenant:acme/*\", \"tenant:globex/crm/x%d*\"]\n", i)
		if i%10 == 9 {
			fmt.Fprintf(&b, "    effect: deny\n    when: context.tool.name == \"no%d\" && principal.roles.contains(\"x\")\n", i)
		} else if i%2 == 0 {
			fmt.Fprintf(&b, "    when: principal.subject != \"u%d\" && context.tool.read_only\n", i+7)
		}
	}
	b.WriteString("  - {id: no-drop, subjects: [\"*\"], actions: [\"tool:*\"], resources: [\"tenant:*/*\"], effect: deny, conditions: {sql_contains_any: [DROP, GRANT]}}\n")
	return b.String()
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			ts := tools()
			e := load(b, manyRules(n), ts)
			call := callOf(b, ts["crm_query"], who("role0", "role5"), `{"sql":"SELECT id, status FROM orders WHERE customer_id = 'CUST-1001'"}`)
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				d, err := e.Decide(ctx, call)
				if err != nil || !d.Allowed {
					b.Fatal(d, err)
				}
			}
		})
	}
}

func BenchmarkDecideArgs(b *testing.B) {
	ts := tools()
	e := load(b, strings.Replace(rule(`when: context.args.amount.lessThan(decimal("100.0")) && context.args has tags && context.args.tags.contains("a")`), `["*"]`+"\n    res", `["tool:pay:*"]`+"\n    res", 1), ts)
	call := callOf(b, ts["refund"], who("x"), `{"amount":12.5,"count":3,"tags":["a","b"],"to":{"iban":"DE12"}}`)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if d, err := e.Decide(ctx, call); err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
	}
}

func BenchmarkDefaultPolicy(b *testing.B) {
	ts := tools()
	e := load(b, readDefault(b), ts)
	call := callOf(b, ts["crm_query"], who("support_copilot"), `{"sql":"SELECT id, status FROM orders WHERE customer_id = 'CUST-1001'"}`)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if d, err := e.Decide(ctx, call); err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
	}
}

func BenchmarkVisible(b *testing.B) {
	for _, n := range []int{100, 1000} {
		ts := tools()
		e := load(b, manyRules(n), ts)
		p := who("role0", "role5")
		b.Run(fmt.Sprintf("rules=%d/caller", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.Visible(p, "acme", ts["crm_query"])
			}
		})
	}
	ts := tools()
	e := load(b, readDefault(b), ts)
	p := who("support_copilot")
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e.Visible(p, "acme", ts["crm_query"])
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			text := []byte(manyRules(n))
			all := list(tools())
			for len(all) < 200 {
				t := *all[len(all)%8]
				t.Name = fmt.Sprintf("%s%d", t.Name, len(all))
				all = append(all, &t)
			}
			for b.Loop() {
				if _, err := policy.Load("f", text, policy.Deps{Tools: all}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
