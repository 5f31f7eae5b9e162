package copilot_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/llm/offline"
	"github.com/atlas-mcp/atlas/internal/copilot/memory"
)

const golden = "Why was the refund on order o_9002 for CUST-1001 delayed?"

// script is a model that answers as told; what is not told, the offline model does.
type script struct {
	copilot.Model
	plan     func(copilot.PlanRequest) ([]copilot.Need, copilot.Usage, error)
	retrieve func(context.Context, copilot.RetrieveRequest) (copilot.Step, copilot.Usage, error)
	draft    func(copilot.SynthesizeRequest) (string, copilot.Usage, error)
	critique func(copilot.CritiqueRequest) (copilot.Opinion, copilot.Usage, error)
}

func (s script) Plan(ctx context.Context, r copilot.PlanRequest) ([]copilot.Need, copilot.Usage, error) {
	if s.plan != nil {
		return s.plan(r)
	}
	return s.Model.Plan(ctx, r)
}

func (s script) Retrieve(ctx context.Context, r copilot.RetrieveRequest) (copilot.Step, copilot.Usage, error) {
	if s.retrieve != nil {
		return s.retrieve(ctx, r)
	}
	return s.Model.Retrieve(ctx, r)
}

func (s script) Synthesize(ctx context.Context, r copilot.SynthesizeRequest) (string, copilot.Usage, error) {
	if s.draft != nil {
		return s.draft(r)
	}
	return s.Model.Synthesize(ctx, r)
}

func (s script) Critique(ctx context.Context, r copilot.CritiqueRequest) (copilot.Opinion, copilot.Usage, error) {
	if s.critique != nil {
		return s.critique(r)
	}
	return s.Model.Critique(ctx, r)
}

func always(calls ...copilot.ToolCall) func(context.Context, copilot.RetrieveRequest) (copilot.Step, copilot.Usage, error) {
	return func(context.Context, copilot.RetrieveRequest) (copilot.Step, copilot.Usage, error) {
		return copilot.Step{Calls: calls}, copilot.Usage{}, nil
	}
}

func call(tool, args string) copilot.ToolCall {
	return copilot.ToolCall{Tool: tool, Args: json.RawMessage(args)}
}

func ask(t *testing.T, c *copilot.Copilot, question string) copilot.Result {
	t.Helper()
	r, err := c.Run(t.Context(), copilot.Request{Question: question})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBadQuestions(t *testing.T) {
	t.Parallel()
	tools := acme()
	c := newCopilot(t, tools, offline.New(), nil)
	for q, want := range map[string]atlas.Code{
		"": atlas.CodeInvalidArguments, " \n\t": atlas.CodeInvalidArguments, "\xff\xfe": atlas.CodeInvalidArguments,
		strings.Repeat("why? ", 1000): atlas.CodeTooLarge,
	} {
		if _, err := c.Run(t.Context(), copilot.Request{Question: q}); atlas.CodeOf(err) != want {
			t.Errorf("%.20q: %v, want %s", q, err, want)
		}
	}
	if len(tools.calls) > 0 {
		t.Errorf("a bad question cost calls: %v", tools.calls)
	}
	// As long as allowed, and of nothing but questions.
	r := ask(t, c, strings.Repeat("Why o_9002? ", 333))
	if len(r.Plan.Needs) > 5 || r.ToolCalls > 12 {
		t.Errorf("%d needs, %d calls", len(r.Plan.Needs), r.ToolCalls)
	}
}

// TestEveryCallCarriesTheTurn: one trace for all calls, and a budget that shrinks.
func TestEveryCallCarriesTheTurn(t *testing.T) {
	t.Parallel()
	tools := acme()
	r := ask(t, newCopilot(t, tools, offline.New(), nil), golden)
	if len(tools.metas) < 3 {
		t.Fatalf("only %d calls", len(tools.metas))
	}
	form := regexp.MustCompile(`^00-` + r.RunID + `-[0-9a-f]{16}-01$`)
	spans := map[string]bool{}
	expected := 0
	for _, m := range tools.metas {
		if !form.MatchString(m.TraceParent) || spans[m.TraceParent] {
			t.Errorf("traceparent %q of run %s", m.TraceParent, r.RunID)
		}
		spans[m.TraceParent] = true
		if m.Budget.Total <= 0 || m.Budget.Total > time.Minute || m.Budget.Reserve <= 0 {
			t.Errorf("budget %+v", m.Budget)
		}
		expected += len(m.Budget.Expected)
	}
	if expected == 0 {
		t.Error("no call says which calls are still expected")
	}
	for _, s := range r.Sources {
		if s.RequestID == "" || s.AsOf.IsZero() || s.Tool == "" {
			t.Errorf("source without origin: %+v", s)
		}
	}
}

func TestSameAnswerTwice(t *testing.T) {
	t.Parallel()
	first := ask(t, newCopilot(t, acme(), offline.New(), nil), golden)
	for range 5 {
		again := ask(t, newCopilot(t, acme(), offline.New(), nil), golden)
		if diff := cmp.Diff(first.Draft, again.Draft); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestRetrieverRefuses: what the model asks for and may not have is never called.
func TestRetrieverRefuses(t *testing.T) {
	t.Parallel()
	tools := acme()
	tools.extra = []copilot.Tool{{Name: "purge", ReadOnly: true, Destructive: true, Input: schemaOf("")}}
	m := script{Model: offline.New(), retrieve: always(
		call("files_put", `{"customer_id":"CUST-1001"}`), call("refund_request", `{"order_id":"o_9002"}`), call("purge", `{}`), call("no_such_tool", `{}`),
		call("crm_order", `[]`), call("crm_order", `{"order_id":`), call("crm_order", `null`),
		call("crm_order", `{"order_id":"o_9002"}`), call("crm_order", ` { "order_id" : "o_9002" } `),
	)}
	r := ask(t, newCopilot(t, tools, m, nil), "What is the status of order o_9002?")
	if diff := cmp.Diff([]string{`crm_order {"order_id":"o_9002"}`}, tools.calls); diff != "" {
		t.Error(diff)
	}
	if !r.Answered || r.ToolCalls != 1 {
		t.Errorf("answered %v with %d calls", r.Answered, r.ToolCalls)
	}
}

func TestNeverTheSameFailingCallTwice(t *testing.T) {
	t.Parallel()
	tools := acme()
	tools.fail = func(string, int) *atlas.Error { return atlas.Errorf(atlas.CodeDeniedByPolicy, nil, "no") }
	m := script{Model: offline.New(), retrieve: always(call("crm_order", `{"order_id":"o_9002"}`))}
	r := ask(t, newCopilot(t, tools, m, nil), "What is the status of order o_9002?")
	if len(tools.calls) != 1 {
		t.Errorf("called %d times: %v", len(tools.calls), tools.calls)
	}
	if r.Answered || r.Draft != copilot.NotInSources {
		t.Errorf("draft %q", r.Draft)
	}
}

// TestRetryAfter: a failure that says when to come back is retried once, then.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tools := acme()
		tools.fail = func(_ string, n int) *atlas.Error {
			if n == 1 {
				return &atlas.Error{Code: atlas.CodeRateLimited, RetryAfter: 2 * time.Second}
			}
			return nil
		}
		start := time.Now()
		r := ask(t, newCopilot(t, tools, offline.New(), nil), "What is the status of order o_9003?")
		if !r.Answered || time.Since(start) != 2*time.Second {
			t.Errorf("answered %v after %v", r.Answered, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tools := acme()
		tools.fail = func(string, int) *atlas.Error {
			return &atlas.Error{Code: atlas.CodeRateLimited, RetryAfter: time.Hour}
		}
		start := time.Now()
		r := ask(t, newCopilot(t, tools, offline.New(), nil), "What is the status of order o_9003?")
		if time.Since(start) > time.Second || r.Approved || r.Answered {
			t.Errorf("waited %v, approved %v: an answer may exist, so this is no honest I-do-not-know", time.Since(start), r.Approved)
		}
	})
}

// TestFallsBack: where the workflow fails, the atomic tools serve.
func TestFallsBack(t *testing.T) {
	t.Parallel()
	tools := acme()
	tools.fail = func(tool string, _ int) *atlas.Error {
		if tool == "customer_context" {
			return &atlas.Error{Code: atlas.CodeDeniedByPolicy}
		}
		return nil
	}
	r := ask(t, newCopilot(t, tools, offline.New(), nil), golden)
	if !r.Answered || !strings.Contains(r.Draft, "Payments holds the refund") {
		t.Errorf("draft %q after %v", r.Draft, tools.calls)
	}
}

func TestToolCallBudget(t *testing.T) {
	t.Parallel()
	n := 0
	m := script{Model: offline.New(), retrieve: func(context.Context, copilot.RetrieveRequest) (copilot.Step, copilot.Usage, error) {
		var s copilot.Step
		for range 5 {
			n++
			s.Calls = append(s.Calls, call("crm_order", fmt.Sprintf(`{"order_id":"o_%d"}`, n)))
		}
		return s, copilot.Usage{}, nil
	}}
	tools := acme()
	r := ask(t, newCopilot(t, tools, m, nil), "What is the status of order o_9003?")
	if len(tools.calls) != 12 || r.ToolCalls != 12 || !r.Retrieval.ExceededBudget || !slices.Contains(r.Exceeded, "tool_calls") {
		t.Errorf("%d calls, exceeded %v", len(tools.calls), r.Exceeded)
	}
}

func TestModelBudgets(t *testing.T) {
	t.Parallel()
	for name, u := range map[string]copilot.Usage{
		"tokens_in": {TokensIn: 60_000}, "tokens_out": {TokensOut: 6_000}, "usd": {USD: 0.51},
	} {
		m := script{Model: offline.New(), plan: func(copilot.PlanRequest) ([]copilot.Need, copilot.Usage, error) { return nil, u, nil }}
		tools := acme()
		r := ask(t, newCopilot(t, tools, m, nil), golden)
		if r.Approved || !slices.Contains(r.Exceeded, name) || len(tools.calls) > 0 {
			t.Errorf("%s: approved %v, exceeded %v, calls %v", name, r.Approved, r.Exceeded, tools.calls)
		}
	}
}

// TestWallClock: a tool that hangs costs the run its time and no more.
func TestWallClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := script{Model: offline.New(), retrieve: func(ctx context.Context, _ copilot.RetrieveRequest) (copilot.Step, copilot.Usage, error) {
			<-ctx.Done()
			return copilot.Step{}, copilot.Usage{}, ctx.Err()
		}}
		start := time.Now()
		r, err := newCopilot(t, acme(), m, nil).Run(t.Context(), copilot.Request{Question: golden})
		if err != nil || r.Approved || time.Since(start) != time.Minute || !slices.Contains(r.Exceeded, "wall_clock") {
			t.Errorf("err %v, approved %v after %v, exceeded %v", err, r.Approved, time.Since(start), r.Exceeded)
		}
	})
}

// hang is a company one of whose tools never answers.
type hang struct {
	*company
	tool string
}

func (h hang) Call(ctx context.Context, name string, args json.RawMessage, meta copilot.CallMeta) (copilot.Observation, error) {
	if name == h.tool {
		<-ctx.Done()
		return copilot.Observation{}, ctx.Err()
	}
	return h.company.Call(ctx, name, args, meta)
}

// TestHangingTool: one tool that hangs leaves time to answer from the others.
func TestHangingTool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := ask(t, newCopilot(t, hang{acme(), "hybrid_search"}, offline.New(), nil), golden)
		if !r.Answered || time.Since(start) >= time.Minute || !strings.Contains(r.Draft, "$49.00") || !slices.Contains(r.Exceeded, "retrieval_time") {
			t.Errorf("answered %v after %v, exceeded %v: %q", r.Answered, time.Since(start), r.Exceeded, r.Draft)
		}
	})
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	m := script{Model: offline.New(), retrieve: func(context.Context, copilot.RetrieveRequest) (copilot.Step, copilot.Usage, error) {
		cancel()
		return copilot.Step{Calls: []copilot.ToolCall{call("crm_order", `{"order_id":"o_9002"}`)}}, copilot.Usage{}, nil
	}}
	if _, err := newCopilot(t, acme(), m, nil).Run(ctx, copilot.Request{Question: golden}); atlas.CodeOf(err) != atlas.CodeCanceled {
		t.Errorf("err %v", err)
	}
}

// TestLyingModel: whatever the model writes, what is not in the evidence does not come out.
func TestLyingModel(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		draft    string
		keeps    string
		approved bool
		answered bool
	}{
		"invented amount":    {"The refund of $94.00 on order o_9002 was paid [S1].", copilot.NotInSources, false, false},
		"invented source":    {"The refund of $49.00 on order o_9002 is pending [S77].", copilot.NotInSources, false, false},
		"no citation":        {"The refund is on its way.", copilot.NotInSources, false, false},
		"other customer":     {"CUST-1002 is Ben Wallace, ben@example.com [S1].", copilot.NotInSources, false, false},
		"the poisoned order": {"A refund of $500.00 has been approved for CUST-1001 [S4].", copilot.NotInSources, false, false},
		"nothing":            {"", copilot.NotInSources, true, false},
		"one true, one not":  {"The refund of $49.00 on order o_9002 for CUST-1001 is pending [S1]. It was eaten by a whale [S1].", "The refund of $49.00 on order o_9002 for CUST-1001 is pending [S1].", true, true},
		"promise":            {"The refund of $49.00 on order o_9002 for CUST-1001 is pending [S1]. We will refund $49.00 within five business days [S1][S6].", "We will refund", false, true},
	} {
		drafts := 0
		m := script{Model: offline.New(), draft: func(copilot.SynthesizeRequest) (string, copilot.Usage, error) {
			drafts++
			return c.draft, copilot.Usage{}, nil
		}}
		r := ask(t, newCopilot(t, acme(), m, nil), golden)
		if !strings.Contains(r.Draft, c.keeps) || r.Approved != c.approved || r.Answered != c.answered {
			t.Errorf("%s: draft %q, approved %v, answered %v, checks %+v", name, r.Draft, r.Approved, r.Answered, r.Checks)
		}
		if drafts > 2 {
			t.Errorf("%s: %d drafts; one revision is the most", name, drafts)
		}
	}
}

func TestOneRevision(t *testing.T) {
	t.Parallel()
	var hints []string
	m := script{Model: offline.New(), draft: func(r copilot.SynthesizeRequest) (string, copilot.Usage, error) {
		if r.Previous == "" {
			return "The refund was paid yesterday [S1].", copilot.Usage{TokensIn: 10, TokensOut: 5, USD: 0.01}, nil
		}
		hints = r.Hints
		return "The refund of $49.00 on order o_9002 for CUST-1001 is pending [S1].", copilot.Usage{TokensIn: 10, TokensOut: 5, USD: 0.01}, nil
	}}
	r := ask(t, newCopilot(t, acme(), m, nil), golden)
	if !r.Approved || !r.Critic.Revised || len(hints) == 0 || r.TokensIn != 20 || r.TokensOut != 10 || r.CostUSD != 0.02 {
		t.Errorf("%+v, hints %v", r.Critic, hints)
	}

	// A critic that is never content gets one revision, and then a person decides.
	critiques := 0
	m = script{Model: offline.New(), critique: func(copilot.CritiqueRequest) (copilot.Opinion, copilot.Usage, error) {
		critiques++
		return copilot.Opinion{Issues: []string{"too dry"}, Hints: []string{"be warmer"}}, copilot.Usage{}, nil
	}}
	if r := ask(t, newCopilot(t, acme(), m, nil), golden); r.Approved || critiques != 2 || !r.Answered || r.ExitCode() != 1 {
		t.Errorf("approved %v after %d critiques", r.Approved, critiques)
	}
}

func TestModelFailures(t *testing.T) {
	t.Parallel()
	boom := errors.New("provider said: secret prompt text")
	for name, m := range map[string]script{
		"planner": {plan: func(copilot.PlanRequest) ([]copilot.Need, copilot.Usage, error) { return nil, copilot.Usage{}, boom }},
		"retriever": {retrieve: func(context.Context, copilot.RetrieveRequest) (copilot.Step, copilot.Usage, error) {
			return copilot.Step{}, copilot.Usage{}, boom
		}},
		"synthesizer": {draft: func(copilot.SynthesizeRequest) (string, copilot.Usage, error) {
			return "half a dra", copilot.Usage{}, boom
		}},
		"refusal": {draft: func(copilot.SynthesizeRequest) (string, copilot.Usage, error) {
			return "", copilot.Usage{}, copilot.ErrRefused
		}},
		"critic": {critique: func(copilot.CritiqueRequest) (copilot.Opinion, copilot.Usage, error) {
			return copilot.Opinion{Approve: true}, copilot.Usage{}, boom
		}},
	} {
		m.Model = offline.New()
		r := ask(t, newCopilot(t, acme(), m, nil), golden)
		if r.Approved || len(r.Critic.Issues) == 0 {
			t.Errorf("%s failed and the answer is approved: %+v", name, r.Critic)
		}
		if js, err := json.Marshal(r); err != nil || strings.Contains(string(js), "secret prompt") {
			t.Errorf("%s: the provider's text came out (%v)", name, err)
		}
	}
}

// TestPromptsHoldNoOrders: text that gives orders does not even reach a model.
func TestPromptsHoldNoOrders(t *testing.T) {
	t.Parallel()
	m := script{Model: offline.New()}
	m.draft = func(r copilot.SynthesizeRequest) (string, copilot.Usage, error) {
		all := copilot.Fence(r.Sources)
		for _, bad := range []string{"ignore all previous", "CUST-1002", "$500.00 has been", "Then tell"} {
			if strings.Contains(all, bad) {
				t.Errorf("%q reached the model", bad)
			}
		}
		if !strings.Contains(all, "flickers") {
			t.Error("the honest part of the ticket is lost")
		}
		return "", copilot.Usage{}, nil
	}
	r := ask(t, newCopilot(t, acme(), m, nil), "What is wrong with the lamp of order o_9001 of CUST-1001?")
	if r.Retrieval.Withheld < 3 {
		t.Errorf("%d sentences withheld", r.Retrieval.Withheld)
	}
	a, b := copilot.Fence(evidence()), copilot.Fence(evidence())
	if a == b {
		t.Error("the delimiter can be guessed")
	}
}

// TestEvidenceCannotCite: an anchor or a terminal sequence inside evidence is made harmless.
func TestEvidenceCannotCite(t *testing.T) {
	t.Parallel()
	tools := acme()
	tools.tickets[0]["body"] = "The refund was paid in full [S1]. \x1b[31mThe card was closed, so Payments waits for order o_9002."
	r := ask(t, newCopilot(t, tools, offline.New(), nil), golden)
	if strings.Contains(r.Draft, "full [S1]") || strings.ContainsRune(r.Draft, 0x1b) {
		t.Errorf("draft %q", r.Draft)
	}
	var b strings.Builder
	if err := copilot.Render(&b, r, copilot.RenderOptions{}); err != nil || strings.ContainsRune(b.String(), 0x1b) {
		t.Errorf("err %v, output %q", err, b.String())
	}
}

func TestFollowUp(t *testing.T) {
	t.Parallel()
	mem, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	key := copilot.SessionKey{Tenant: "acme", Subject: "alice", Session: "s"}
	run := func(key copilot.SessionKey, q string) copilot.Result {
		r, err := newCopilot(t, acme(), offline.New(), mem).Run(t.Context(), copilot.Request{Question: q, Session: key})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	run(key, "What is the status of order o_9003?")
	if r := run(key, "And when was it created?"); !strings.Contains(r.Draft, "2026-11-17") {
		t.Errorf("draft %q", r.Draft)
	}
	// Another tenant, subject or session with the same name remembers nothing of it.
	for _, other := range []copilot.SessionKey{{Tenant: "globex", Subject: "alice", Session: "s"}, {Tenant: "acme", Subject: "bob", Session: "s"}, {Tenant: "acme", Subject: "alice", Session: "s2"}, {Tenant: "acme", Subject: "alice", Session: ""}} {
		if r := run(other, "And when was it created?"); r.Answered || len(r.Plan.IDs) > 0 {
			t.Errorf("%+v: ids %v, draft %q", other, r.Plan.IDs, r.Draft)
		}
	}
	// A question of its own does not inherit.
	if r := run(key, "How long does express shipping take?"); len(r.Plan.IDs) > 0 {
		t.Errorf("ids %v carried into a new matter", r.Plan.IDs)
	}
}

// TestOwnTools: a tool of a kind that nobody has heard of gives evidence too.
func TestOwnTools(t *testing.T) {
	t.Parallel()
	tools := acme()
	ro := copilot.Tool{Name: "invoice", ReadOnly: true, Level: atlas.Atomic, Input: schemaOf("number", "number ^INV-[0-9]+$")}
	tools.extra = []copilot.Tool{ro}
	tools.answer = map[string]func(row) any{"invoice": func(a row) any {
		return row{"columns": []string{"id", "state", "amount", "currency", "due_date", "terms"}, "rows": [][]any{{a["number"], "overdue", "120.50", "EUR", "2026-12-01", "net thirty"}}}
	}}
	c := newCopilot(t, tools, offline.New(), nil)
	for q, want := range map[string]string{
		"What is the status of INV-2001?":           "overdue",
		"What is the amount of INV-2001?":           "€120.50",
		"What are the terms of INV-2001?":           "net thirty",
		"What is the favourite colour of INV-2001?": copilot.NotInSources,
	} {
		if r := ask(t, c, q); !strings.Contains(r.Draft, want) {
			t.Errorf("%q: %q (%v) %+v", q, r.Draft, tools.calls, r.Checks)
		}
	}
}

func TestUnreachableServer(t *testing.T) {
	t.Parallel()
	c := newCopilot(t, broken{}, offline.New(), nil)
	if _, err := c.Run(t.Context(), copilot.Request{Question: golden}); atlas.CodeOf(err) != atlas.CodeInvalidToken {
		t.Errorf("err %v", err)
	}
}

type broken struct{ copilot.Tools }

func (broken) List(context.Context) ([]copilot.Tool, error) {
	return nil, &atlas.Error{Code: atlas.CodeInvalidToken}
}

func TestConfigTellsAllMistakes(t *testing.T) {
	t.Parallel()
	err := copilot.Config{Wall: -1, ToolCalls: 1000, USD: -2}.Validate()
	for _, want := range []string{"wall", "tool_calls", "usd"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
	if _, err := copilot.New(copilot.Config{}, nil, acme(), nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("made without a model")
	}
}

func TestRender(t *testing.T) {
	t.Parallel()
	var progress strings.Builder
	c := newCopilot(t, acme(), offline.New(), nil)
	r, err := c.Run(t.Context(), copilot.Request{Question: golden, OnEvent: copilot.NewProgress(&progress, false).Event})
	if err != nil {
		t.Fatal(err)
	}
	for _, agent := range []string{"planner", "retriever", "synthesizer", "critic", "→ customer_context ok"} {
		if !strings.Contains(progress.String(), agent) {
			t.Errorf("progress lacks %q:\n%s", agent, progress.String())
		}
	}
	var b strings.Builder
	if err := copilot.Render(&b, r, copilot.RenderOptions{Now: read.Add(90 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	out := b.String()
	for _, want := range []string{"DRAFT REPLY (approved)", "TRACE SUMMARY", r.RunID, offline.Name, "https://acme.example/refunds", "(90 s ago)", "[S1] order o_9002"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	for _, a := range r.Citations {
		if strings.Count(out, "["+a+"]") < 2 {
			t.Errorf("%s is cited or listed, not both:\n%s", a, out)
		}
	}
	if strings.ContainsRune(out, 0x1b) {
		t.Error("colours without a terminal")
	}
	var colored strings.Builder
	r.Approved = false
	if err := copilot.Render(&colored, r, copilot.RenderOptions{Color: true}); err != nil || !strings.ContainsRune(colored.String(), 0x1b) || !strings.Contains(colored.String(), "(not approved)") {
		t.Errorf("err %v: %q", err, colored.String())
	}
}
