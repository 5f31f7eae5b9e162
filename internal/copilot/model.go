package copilot

import (
	"context"
	"encoding/json"
	"errors"
)

// A Model plays the four roles. Implementations are safe for concurrent use, return soon after ctx
// ends, and do no tool calls themselves. An error leaves the other results without meaning, except
// Usage, which is always what was spent.
type Model interface {
	// Name is printed with every answer, so that nobody takes an extractive stand-in for a
	// language model.
	Name() string
	// Plan says what must be found out, in at most five needs.
	Plan(ctx context.Context, req PlanRequest) ([]Need, Usage, error)
	// Retrieve chooses the next tool calls, or none when enough is known. Calls that name an unknown
	// tool or repeat a failed call are refused by the caller.
	Retrieve(ctx context.Context, req RetrieveRequest) (Step, Usage, error)
	// Synthesize drafts the answer with an anchor [S1] after each claim, at most req.Words words.
	// It reports text as it comes through req.Token, if that is not nil.
	Synthesize(ctx context.Context, req SynthesizeRequest) (string, Usage, error)
	// Critique gives an opinion on a draft that passed the code check.
	Critique(ctx context.Context, req CritiqueRequest) (Opinion, Usage, error)
}

// ErrRefused is returned, wrapped, by a Model that declines to answer.
var ErrRefused = errors.New("the model declined to answer")

// Usage is what a model call cost.
type Usage struct {
	TokensIn, TokensOut   int // TokensIn counts cached tokens too
	CacheRead, CacheWrite int // the part of TokensIn read from and written to the prompt cache
	USD                   float64
}

func (u Usage) plus(v Usage) Usage {
	return Usage{
		TokensIn: u.TokensIn + v.TokensIn, TokensOut: u.TokensOut + v.TokensOut,
		CacheRead: u.CacheRead + v.CacheRead, CacheWrite: u.CacheWrite + v.CacheWrite, USD: u.USD + v.USD,
	}
}

// A Need is one thing to find out.
type Need struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	Priority    int    `json:"priority"` // 1 is the most important, 3 the least
}

// A Plan is what the planner decided. IDs come from the question by exact pattern, never from a model.
type Plan struct {
	IDs        []string `json:"ids"`
	CustomerID string   `json:"customer_id,omitempty"` // the only customer asked about, if there is one
	Needs      []Need   `json:"needs"`
	Notes      string   `json:"notes,omitempty"`
}

// A PlanRequest asks for needs.
type PlanRequest struct {
	Question  string
	IDs       []string
	History   []Turn // of this session, oldest first
	MaxTokens int
}

// A RetrieveRequest asks for the next calls.
type RetrieveRequest struct {
	Question  string
	Plan      Plan
	Tools     []Tool     // sorted by name, read-only ones alone
	Past      []PastCall // calls so far, in order
	Sources   []Source   // evidence so far
	Round     int        // 1 for the first
	CallsLeft int
	MaxTokens int
}

// A PastCall is a call of an earlier round.
type PastCall struct {
	Round    int
	Call     ToolCall
	Evidence string   // the records found, as fenced text for a model; empty if the call failed
	Found    []string // ids of the records found
	Failed   string   // code and hint of the failure
}

// A ToolCall is a call that a model asks for.
type ToolCall struct {
	Tool string
	Args json.RawMessage // a JSON object
	Need string          // id of the need it serves; may be empty
}

// A Step is the retriever's decision: no calls means done.
type Step struct {
	Calls []ToolCall
}

// A SynthesizeRequest asks for a draft.
type SynthesizeRequest struct {
	Question  string
	Plan      Plan
	Sources   []Source
	Previous  string   // the draft to revise; empty at first
	Hints     []string // what the critic wants changed
	Words     int
	MaxTokens int
	Token     func(text string)
}

// A CritiqueRequest asks for an opinion.
type CritiqueRequest struct {
	Question  string
	Plan      Plan
	Sources   []Source
	Draft     string
	MaxTokens int
}

// An Opinion is a critic's verdict.
type Opinion struct {
	Approve bool     `json:"approve"`
	Issues  []string `json:"issues"`
	Hints   []string `json:"hints"`
}
