package copilot

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// usable returns the tools that the retriever may use at all: those that the server declares
// read-only and not destructive, in order of name.
func usable(tools []Tool) []Tool {
	out := slices.DeleteFunc(slices.Clone(tools), func(t Tool) bool { return !t.ReadOnly || t.Destructive })
	slices.SortFunc(out, func(a, b Tool) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// retrieve lets the model choose calls, round by round, makes them, and keeps what they answer.
func (r *run) retrieve(ctx context.Context, tools []Tool) string {
	var past []PastCall
	left := r.cfg.ToolCalls
	for round := 1; round <= r.cfg.Rounds; round++ {
		if !r.afford(ctx) || r.remaining() <= r.cfg.Reserve {
			r.res.Retrieval.ExceededBudget = true
			r.exceed("retrieval_time")
			break
		}
		step, u, err := r.model.Retrieve(ctx, RetrieveRequest{
			Question: r.question, Plan: r.res.Plan, Tools: tools, Past: past, Sources: r.ordered(r.question, r.res.Plan.IDs),
			Round: round, CallsLeft: left, MaxTokens: r.maxTokens(1000),
		})
		r.spend(u, err)
		if err != nil || len(step.Calls) == 0 {
			break
		}
		r.res.Retrieval.Iterations = round
		calls := step.Calls
		if len(calls) > left {
			calls = calls[:left]
			r.res.Retrieval.ExceededBudget = true
			r.exceed("tool_calls")
		}
		done := r.round(ctx, round, calls, tools)
		past = append(past, done...)
		for _, p := range done {
			if p.Failed != refused {
				left--
			}
		}
		if left <= 0 {
			r.res.Retrieval.ExceededBudget = true
			r.exceed("tool_calls")
			break
		}
		if round == r.cfg.Rounds {
			r.exceed("rounds")
		}
		if !slices.ContainsFunc(done, func(p PastCall) bool { return p.Failed != refused }) {
			break // nothing but calls that may not be made: the model is stuck
		}
	}
	return fmt.Sprintf("%d sources from %d calls", len(r.sources), r.res.ToolCalls)
}

func (r *run) remaining() time.Duration { return time.Until(r.deadline) }

// refused marks a call that was not made.
const refused = "not_made: unknown or not allowed tool, bad arguments, or a call made before"

// round makes calls in parallel and keeps their answers in the order asked for, so that the same
// answers give the same anchors.
func (r *run) round(ctx context.Context, round int, calls []ToolCall, tools []Tool) []PastCall {
	done := make([]PastCall, len(calls))
	answers := make([]Observation, len(calls))
	traces := make([]CallTrace, len(calls))
	chosen := make([]Tool, len(calls))
	var wg sync.WaitGroup
	slots := make(chan struct{}, r.cfg.Parallel)
	for i, call := range calls {
		done[i] = PastCall{Round: round, Call: call}
		tool, key, ok := r.admit(call, tools)
		if !ok {
			done[i].Failed, traces[i] = refused, CallTrace{Tool: clip(call.Tool, 64), Code: "not_made"}
			continue
		}
		r.failed[key] = true // from here on a repetition, whatever comes of it
		chosen[i] = tool
		var expected []string
		for _, later := range calls[i+1:] {
			expected = append(expected, later.Tool)
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			answers[i], traces[i] = r.call(ctx, call, expected)
		})
	}
	wg.Wait()
	for i := range done {
		r.res.Retrieval.Calls = append(r.res.Retrieval.Calls, traces[i])
		if !traces[i].Made {
			continue
		}
		r.res.ToolCalls++
		if f := answers[i].Failure; f != nil {
			done[i].Failed = string(f.Code) + ": " + f.Hint
			// What is not there is known; what could not be asked is not.
			r.retryable = r.retryable || f.Category == atlas.UpstreamFailure || f.Category == atlas.ResourceExhausted || f.Category == atlas.InternalError
			continue
		}
		before := len(r.sources)
		done[i].Found = r.add(chosen[i], done[i].Call.Args, answers[i], time.Now())
		r.retryable = r.retryable || answers[i].Partial
		done[i].Evidence = Fence(r.sources[before:])
		if done[i].Evidence == "" && len(done[i].Found) > 0 {
			done[i].Evidence = "(records known already: " + strings.Join(done[i].Found, ", ") + ")"
		}
	}
	return done
}

// admit reports whether a call may be made: a usable tool, an object of arguments, and not made
// before. key is the call in canonical form.
func (r *run) admit(call ToolCall, tools []Tool) (tool Tool, key string, ok bool) {
	i := slices.IndexFunc(tools, func(t Tool) bool { return t.Name == call.Tool })
	if i < 0 {
		return Tool{}, "", false
	}
	args := map[string]any{}
	if len(call.Args) > 0 {
		dec := json.NewDecoder(bytes.NewReader(call.Args))
		dec.UseNumber()
		if dec.Decode(&args) != nil || args == nil {
			return Tool{}, "", false
		}
	}
	canonical, err := json.Marshal(args) // sorted keys
	if err != nil {
		return Tool{}, "", false
	}
	key = call.Tool + " " + string(canonical)
	return tools[i], key, !r.failed[key]
}

// call makes one call, and once more if its failure says that waiting a little may mend it.
func (r *run) call(ctx context.Context, call ToolCall, expected []string) (Observation, CallTrace) {
	start := time.Now()
	var obs Observation
	for attempt := 1; ; attempt++ {
		meta := CallMeta{
			Budget:      atlas.Budget{Total: max(r.remaining(), 0), Reserve: r.cfg.Reserve, Expected: expected},
			TraceParent: "00-" + r.res.RunID + "-" + spanID() + "-01",
		}
		args := call.Args
		if len(args) == 0 {
			args = json.RawMessage("{}")
		}
		tctx, cancel := context.WithTimeout(ctx, max(r.remaining()-r.cfg.Reserve/2, time.Millisecond))
		var err error
		obs, err = r.tools.Call(tctx, call.Tool, args, meta)
		cancel()
		if err != nil {
			f := atlas.ErrorOf(err).Failure("")
			obs = Observation{Failure: &f}
		}
		f := obs.Failure
		if f == nil || !f.Retryable || attempt == 2 || ctx.Err() != nil {
			break
		}
		wait := time.Duration(max(f.RetryAfterMS, 50)) * time.Millisecond
		if wait > 5*time.Second || wait > r.remaining()-r.cfg.Reserve {
			break // the turn cannot wait that long
		}
		if t := time.NewTimer(wait); !sleep(ctx, t) {
			break
		}
	}
	trace := CallTrace{Tool: call.Tool, OK: obs.Failure == nil, RequestID: obs.RequestID, MS: time.Since(start).Milliseconds(), Made: true, Partial: obs.Partial}
	if f := obs.Failure; f != nil {
		trace.Code, trace.RequestID = string(f.Code), cmp.Or(f.RequestID, obs.RequestID)
	}
	r.emit(Event{Kind: EventTool, Agent: "retriever", Text: call.Tool, OK: trace.OK, Code: trace.Code, Took: time.Since(start)})
	return obs, trace
}

func sleep(ctx context.Context, t *time.Timer) bool {
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func spanID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Fence writes sources as data for a model's prompt, between delimiters that the data cannot know
// and so cannot forge. It returns "" for no source.
func Fence(sources []Source) string {
	if len(sources) == 0 {
		return ""
	}
	mark := "evidence-" + spanID()
	var b strings.Builder
	fmt.Fprintf(&b, "<%s>\n", mark)
	for _, s := range sources {
		fmt.Fprintf(&b, "%s\n", s.Describe())
	}
	fmt.Fprintf(&b, "</%s>\n", mark)
	return b.String()
}

// Describe writes the source as plain text for a model: head, fields, sentences. It holds no text
// that gives orders (see [Source.Text]).
func (s Source) Describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s (%s, as of %s)", s.Anchor, s.Kind, s.ID, s.Trust, s.AsOf.UTC().Format(time.RFC3339))
	if s.Title != "" {
		fmt.Fprintf(&b, "\ntitle: %s", s.Title)
	}
	for _, f := range s.Fields {
		fmt.Fprintf(&b, "\n%s: %s", f.Name, f.Value)
	}
	if minor, cur, ok := s.Amount(); ok {
		fmt.Fprintf(&b, "\namount: %s", Money(minor, cur))
	}
	if len(s.Text) > 0 {
		fmt.Fprintf(&b, "\ntext: %s", strings.Join(s.Text, " "))
	}
	if s.Withheld > 0 {
		fmt.Fprintf(&b, "\n(%d sentences withheld: they give orders to the reader)", s.Withheld)
	}
	return strings.TrimSpace(b.String())
}

// Money writes an amount of hundredths for people: $49.00, €5.10, 12.00 CHF.
func Money(minor int64, currency string) string {
	sign := ""
	if minor < 0 {
		sign, minor = "-", -minor
	}
	n := fmt.Sprintf("%d.%02d", minor/100, minor%100)
	if symbol, ok := map[string]string{"USD": "$", "EUR": "€", "GBP": "£"}[currency]; ok {
		return sign + symbol + n
	}
	return strings.TrimSpace(sign + n + " " + currency)
}
