package copilot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// A Copilot runs questions. It is immutable and safe for concurrent use.
type Copilot struct {
	cfg    Config
	model  Model
	tools  Tools
	memory Memory // may be nil: no follow-up questions
	log    *slog.Logger
}

// New returns a Copilot. memory may be nil.
func New(cfg Config, model Model, tools Tools, memory Memory, log *slog.Logger) (*Copilot, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if model == nil || tools == nil || log == nil {
		return nil, errors.New("copilot: a model, tools and a logger are needed")
	}
	return &Copilot{cfg: cfg.withDefaults(), model: model, tools: tools, memory: memory, log: log}, nil
}

// A Request is a question.
type Request struct {
	Question string
	Session  SessionKey  // with an empty Session nothing is remembered
	OnEvent  func(Event) // progress; may be nil. Called from the goroutine of Run and, one at a time, from its own
}

// Run answers one question. The error is an *[atlas.Error] when there is no answer at all: a bad
// question, or a server that cannot be asked. When a budget runs out or a model fails on the way,
// the Result says what is known, names the reason, and is not approved.
func (c *Copilot) Run(ctx context.Context, req Request) (Result, error) {
	question := strings.TrimSpace(strings.ToValidUTF8(req.Question, ""))
	switch n := utf8.RuneCountInString(question); {
	case n == 0:
		return Result{}, atlas.Errorf(atlas.CodeInvalidArguments, nil, "ask a question")
	case n > maxQuestion:
		return Result{}, atlas.Errorf(atlas.CodeTooLarge, nil, fmt.Sprintf("the question has %d characters; at most %d are read", n, maxQuestion))
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Wall, errWall)
	defer cancel()
	r := &run{
		Copilot: c, req: req, question: question, started: start, deadline: start.Add(c.cfg.Wall),
		collector: collector{max: c.cfg.Sources}, failed: map[string]bool{},
		res: Result{
			Question: question, RunID: hex.EncodeToString(id[:]), Model: c.model.Name(),
			Citations: []string{}, Sources: []SourceRef{}, Checks: []SentenceCheck{}, AgentsMS: map[string]int64{},
			Retrieval: Retrieval{Calls: []CallTrace{}}, Critic: Verdict{Issues: []string{}, RevisionHints: []string{}},
			Plan: Plan{IDs: []string{}, Needs: []Need{}},
		},
	}
	err := r.answer(ctx)
	r.res.DurationMS = time.Since(start).Milliseconds()
	r.res.TokensIn, r.res.TokensOut, r.res.CacheRead, r.res.CostUSD = r.usage.TokensIn, r.usage.TokensOut, r.usage.CacheRead, r.usage.USD
	if err != nil {
		return r.res, err
	}
	r.remember(ctx)
	return r.res, nil
}

var errWall = errors.New("wall clock budget")

// run is the state of one question.
type run struct {
	*Copilot
	collector
	req       Request
	question  string
	started   time.Time
	deadline  time.Time
	usage     Usage
	res       Result
	failed    map[string]bool // calls (tool and canonical arguments) not to be made again
	retryable bool            // a tool failed in a way that may have hidden evidence
	modelErr  error           // the first failure of a model
	events    sync.Mutex      // OnEvent is called by one goroutine at a time
}

func (r *run) emit(e Event) {
	if r.req.OnEvent == nil {
		return
	}
	r.events.Lock()
	defer r.events.Unlock()
	r.req.OnEvent(e)
}

// agent runs one agent and tells of it.
func (r *run) agent(name, what string, do func() string) {
	at := time.Now()
	r.emit(Event{Kind: EventStarted, Agent: name, Text: what})
	done := do()
	took := time.Since(at)
	r.res.AgentsMS[name] += took.Milliseconds()
	r.emit(Event{Kind: EventFinished, Agent: name, Text: done, Took: took})
}

// exceed names a budget that ran out, once.
func (r *run) exceed(budget string) {
	if !slices.Contains(r.res.Exceeded, budget) {
		r.res.Exceeded = append(r.res.Exceeded, budget)
	}
}

// spend books a model call. afford is asked before the next one.
func (r *run) spend(u Usage, err error) {
	r.usage = r.usage.plus(u)
	if err != nil && r.modelErr == nil {
		r.modelErr = err
	}
}

// afford reports whether the budgets allow another model call, and names the one that does not.
func (r *run) afford(ctx context.Context) bool {
	ok := true
	for _, b := range []struct {
		name string
		out  bool
	}{
		{"wall_clock", ctx.Err() != nil},
		{"tokens_in", r.usage.TokensIn >= r.cfg.TokensIn},
		{"tokens_out", r.usage.TokensOut >= r.cfg.TokensOut},
		{"usd", r.usage.USD >= r.cfg.USD},
	} {
		if b.out {
			r.exceed(b.name)
			ok = false
		}
	}
	return ok
}

func (r *run) maxTokens(role int) int { return max(1, min(role, r.cfg.TokensOut-r.usage.TokensOut)) }

func (r *run) answer(ctx context.Context) error {
	tools, err := r.tools.List(ctx)
	if err != nil {
		return atlas.ErrorOf(err)
	}
	r.agent("planner", "what must be found out", func() string { return r.plan(ctx) })
	r.agent("retriever", "looking for evidence", func() string { return r.retrieve(ctx, usable(tools)) })
	if ctx.Err() != nil && context.Cause(ctx) != errWall { //nolint:errorlint // the very value set by Run
		return atlas.ErrorOf(ctx.Err())
	}
	ids := slices.Clone(r.res.Plan.IDs)
	sources := r.ordered(r.question, ids)
	for _, s := range sources {
		r.res.Retrieval.Withheld += s.Withheld
	}
	scope := scopeOf(r.question, ids, sources)
	// Records of other customers are neither shown to the model nor citable.
	inScope := slices.DeleteFunc(slices.Clone(sources), func(s Source) bool { return !scope.Covers(s) })
	for i := range inScope {
		inScope[i].Anchor = fmt.Sprintf("S%d", i+1)
	}
	sources = inScope
	r.res.Retrieval.FindingsCount = len(sources)
	if r.full {
		r.exceed("sources")
	}

	draft, checked := r.synthesize(ctx, sources, scope, "", nil)
	verdict := r.critique(ctx, sources, scope, checked)
	if !verdict.Approved && len(verdict.RevisionHints) > 0 && r.afford(ctx) {
		// One revision. It counts only if it is better: more sentences standing, or approved.
		_, checked2 := r.synthesize(ctx, sources, scope, draft, verdict.RevisionHints)
		v2 := r.critique(ctx, sources, scope, checked2)
		if v2.Approved || checked2.Answered && !checked.Answered || dropped(checked2) < dropped(checked) && checked2.Answered {
			checked, verdict = checked2, v2
		}
		verdict.Revised = true
	}
	if ctx.Err() != nil {
		r.exceed("wall_clock")
	}
	r.finish(sources, checked, verdict)
	return nil
}

func dropped(c Checked) int {
	n := 0
	for _, s := range c.Sentences {
		if !s.Kept {
			n++
		}
	}
	return n
}

func (r *run) finish(sources []Source, checked Checked, v Verdict) {
	sources, checked = renumber(sources, checked)
	r.res.Draft, r.res.Answered, r.res.Checks = checked.Text, checked.Answered, checked.Sentences
	if r.res.Checks == nil {
		r.res.Checks = []SentenceCheck{}
	}
	if r.modelErr != nil {
		v.Approved = false
		v.Issues = append(v.Issues, "a model call failed: "+describe(r.modelErr))
	}
	for _, b := range r.res.Exceeded {
		if b == "wall_clock" || b == "tokens_in" || b == "tokens_out" || b == "usd" {
			v.Approved = false
			v.Issues = append(v.Issues, "the budget "+b+" ran out")
		}
	}
	r.res.Critic, r.res.Approved = v, v.Approved
	for _, a := range checked.Citations {
		i := slices.IndexFunc(sources, func(s Source) bool { return s.Anchor == a })
		s := sources[i]
		r.res.Citations = append(r.res.Citations, a)
		r.res.Sources = append(r.res.Sources, SourceRef{
			Anchor: s.Anchor, ID: s.ID, Kind: s.Kind, Title: s.Title, URL: s.URL, Tool: s.Tool, RequestID: s.RequestID,
			AsOf: s.AsOf.UTC(), Trust: string(s.Trust), Excerpt: s.Excerpt(),
		})
	}
}

// describe names a model's failure without the provider's text, which may quote the prompt.
func describe(err error) string {
	if errors.Is(err, ErrRefused) {
		return ErrRefused.Error()
	}
	return string(atlas.CodeOf(err))
}

func (r *run) plan(ctx context.Context) string {
	var history []Turn
	if r.memory != nil && r.req.Session.Session != "" {
		h, err := r.memory.Recall(ctx, r.req.Session)
		if err != nil {
			r.log.WarnContext(ctx, "copilot memory not read", "err", err)
		}
		history = h
	}
	p := Plan{IDs: []string{}}
	for _, id := range fact.IDs(r.question) {
		if !slices.Contains(p.IDs, id.Value) && len(p.IDs) < 10 {
			p.IDs = append(p.IDs, id.Value)
		}
	}
	if len(p.IDs) == 0 && len(history) > 0 && refersBack(r.question) {
		p.IDs = slices.Clone(history[len(history)-1].IDs)
		p.Notes = "ids carried over from the turn before"
	}
	for _, id := range p.IDs {
		if kind, _, _ := fact.KindOfID(id); kind == fact.Customer {
			if p.CustomerID != "" {
				p.CustomerID = ""
				break
			}
			p.CustomerID = id
		}
	}
	if r.afford(ctx) {
		needs, u, err := r.model.Plan(ctx, PlanRequest{Question: r.question, IDs: p.IDs, History: history, MaxTokens: r.maxTokens(600)})
		r.spend(u, err)
		for _, n := range needs {
			if n.Description = strings.TrimSpace(n.Description); err == nil && n.Description != "" && len(p.Needs) < maxNeeds {
				n.ID, n.Priority = fmt.Sprintf("N%d", len(p.Needs)+1), min(max(n.Priority, 1), 3)
				n.Description = clip(n.Description, 300)
				p.Needs = append(p.Needs, n)
			}
		}
	}
	if len(p.Needs) == 0 {
		p.Needs = []Need{{ID: "N1", Description: clip(r.question, 300), Priority: 1}}
	}
	r.res.Plan = p
	return fmt.Sprintf("%d needs, ids %s", len(p.Needs), strings.Join(p.IDs, " "))
}

// refersBack reports whether a question speaks of something said before.
func refersBack(question string) bool {
	w := fact.Words(question)
	if len(w) > 0 && (w[0] == "and" || w[0] == "but" || w[0] == "so") {
		return true
	}
	return slices.ContainsFunc(w, func(x string) bool {
		return slices.Contains([]string{"it", "its", "it's", "that", "this", "they", "them", "their", "these", "those", "he", "she", "his", "her", "him"}, x)
	}) || strings.Contains(" "+strings.Join(w, " ")+" ", " the order ") || strings.Contains(" "+strings.Join(w, " ")+" ", " the customer ")
}

func (r *run) synthesize(ctx context.Context, sources []Source, scope Scope, previous string, hints []string) (string, Checked) {
	draft := ""
	r.agent("synthesizer", "drafting with citations", func() string {
		if len(sources) == 0 || !r.afford(ctx) {
			draft = NotInSources
			return "nothing to draft from"
		}
		d, u, err := r.model.Synthesize(ctx, SynthesizeRequest{
			Question: r.question, Plan: r.res.Plan, Sources: sources, Previous: previous, Hints: hints,
			Words: r.cfg.Words, MaxTokens: r.maxTokens(800),
			Token: func(t string) { r.emit(Event{Kind: EventToken, Agent: "synthesizer", Text: t}) },
		})
		r.spend(u, err)
		draft = d
		if err != nil {
			draft = NotInSources
		}
		return fmt.Sprintf("%d words", len(strings.Fields(draft)))
	})
	return draft, Check(draft, sources, scope)
}

func (r *run) remember(ctx context.Context) {
	if r.memory == nil || r.req.Session.Session == "" {
		return
	}
	turn := Turn{Question: r.question, Answer: r.res.Draft, IDs: r.res.Plan.IDs, At: r.started}
	if err := r.memory.Remember(context.WithoutCancel(ctx), r.req.Session, turn); err != nil {
		r.log.WarnContext(ctx, "copilot memory not written", "err", err)
	}
}
