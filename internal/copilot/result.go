package copilot

import "time"

// NotInSources is the answer when the evidence does not hold one.
const NotInSources = "That is not in the sources."

// A Result is the answer to one question, in the shape of --json.
type Result struct {
	Question   string           `json:"question"`
	Draft      string           `json:"draft"`
	Approved   bool             `json:"approved"` // the critic let it pass
	Answered   bool             `json:"answered"` // it says more than that it does not know
	Citations  []string         `json:"citations"`
	Sources    []SourceRef      `json:"sources"`
	RunID      string           `json:"run_id"` // also the trace id of every call
	Model      string           `json:"model"`
	TokensIn   int              `json:"tokens_in"`
	TokensOut  int              `json:"tokens_out"`
	CacheRead  int              `json:"tokens_cache_read"`
	CostUSD    float64          `json:"cost_usd"`
	ToolCalls  int              `json:"tool_calls"`
	DurationMS int64            `json:"duration_ms"`
	Plan       Plan             `json:"plan"`
	Retrieval  Retrieval        `json:"retrieval"`
	Critic     Verdict          `json:"critic"`
	Checks     []SentenceCheck  `json:"checks"`
	Exceeded   []string         `json:"exceeded_budgets,omitempty"`
	AgentsMS   map[string]int64 `json:"agents_ms"` // milliseconds in each agent
}

// A SourceRef is a cited source.
type SourceRef struct {
	Anchor    string    `json:"anchor"` // "S1"
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Title     string    `json:"title,omitempty"`
	URL       string    `json:"url,omitempty"`
	Tool      string    `json:"tool"`
	RequestID string    `json:"request_id,omitempty"`
	AsOf      time.Time `json:"as_of"`
	Trust     string    `json:"trust"`
	Excerpt   string    `json:"excerpt"`
}

// Retrieval says what the retriever did.
type Retrieval struct {
	Iterations     int         `json:"iterations"`
	Calls          []CallTrace `json:"calls"`
	ExceededBudget bool        `json:"exceeded_budget"`
	FindingsCount  int         `json:"findings_count"`
	Withheld       int         `json:"withheld_sentences"` // text that gave orders to its reader
}

// A CallTrace is one tool call, or one that was refused before it was made.
type CallTrace struct {
	Tool      string `json:"tool"`
	OK        bool   `json:"ok"`
	Code      string `json:"code,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	MS        int64  `json:"ms"`
	Made      bool   `json:"made"`              // false: refused by the retriever itself
	Partial   bool   `json:"partial,omitempty"` // a part of the answer is missing
}

// Verdict is the critic's.
type Verdict struct {
	Approved      bool     `json:"approved"`
	Issues        []string `json:"issues"`
	RevisionHints []string `json:"revision_hints"`
	Revised       bool     `json:"revised"`
}

// ExitCode is 0 for an approved result and 1 for another; 2, for wrong usage, is the command's own.
func (r Result) ExitCode() int {
	if r.Approved {
		return 0
	}
	return 1
}

// An Event tells of progress, for live rendering. Events of one run come one at a time.
type Event struct {
	Kind  EventKind
	Agent string        // planner, retriever, synthesizer, critic
	Text  string        // started, finished: a few words; token: the text; tool: the tool's name
	OK    bool          // tool: whether the call succeeded
	Code  string        // tool: code of its failure
	Took  time.Duration // finished, tool
}

// EventKind is what happened.
type EventKind string

// The kinds of Event.
const (
	EventStarted  EventKind = "started"
	EventFinished EventKind = "finished"
	EventTool     EventKind = "tool"
	EventToken    EventKind = "token"
)
