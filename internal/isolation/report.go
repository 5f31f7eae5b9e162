package isolation

import (
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Verdict says how an attempt ended.
type Verdict string

// The verdicts.
const (
	Held         Verdict = "held"         // nothing of the other side's came back
	Leaked       Verdict = "leak"         // something did
	Inconclusive Verdict = "inconclusive" // nothing can be said: see Got
	Planned      Verdict = "planned"      // it was listed, and not run
)

// An Attempt is one thing that was tried.
type Attempt struct {
	N       int     `json:"n"`
	Area    string  `json:"area"`             // kind of attack, such as ids, sql or cache
	Source  string  `json:"source,omitempty"` // empty if more than one, or none, is behind the tool
	Tool    string  `json:"tool,omitempty"`
	Tried   string  `json:"tried"` // a sentence
	Got     string  `json:"got"`   // what came back, shortened
	Verdict Verdict `json:"verdict"`

	Evidence []string `json:"evidence,omitempty"` // of a leak: what of the other side's came back, shortened
	Look     string   `json:"look,omitempty"`     // of a leak: where to look
}

// A Status says what is known of a tool before it is attacked.
type Status string

// The statuses of tools.
const (
	Proven   Status = "proven"     // B reached its own canary by it, so an attack could have
	NoData   Status = "no data"    // it answers both tenants alike
	Closed   Status = "closed"     // policy, allowlist or approval refuses it to both tenants
	Unproven Status = "not proven" // B did not reach its own canary by it: that A does not either means little
)

// A Control is what is known of one tool or resource.
type Control struct {
	Tool   string `json:"tool"`
	Kind   string `json:"kind"` // tool, prompt or resource
	Source string `json:"source,omitempty"`
	Status Status `json:"status"`
	Detail string `json:"detail"`           // how B reached its canary, or why it did not
	Role   string `json:"role,omitempty"`   // whose rights were enough
	Accept bool   `json:"accept,omitempty"` // the operator accepts that it is not proven
}

// A Timing compares how long a tool takes for an id of B and for one that nobody has. It is told, and decides nothing.
type Timing struct {
	Tool     string `json:"tool"`
	Foreign  int64  `json:"foreign_us"`   // median, microseconds
	Nowhere  int64  `json:"nowhere_us"`   // median, microseconds
	Measured int    `json:"measurements"` // of each
}

// A Summary counts.
type Summary struct {
	Attempts     int `json:"attempts"`
	Held         int `json:"held"`
	Leaks        int `json:"leaks"`
	Inconclusive int `json:"inconclusive"`
	Proven       int `json:"proven"` // tools
	NotProven    int `json:"not_proven"`
	Calls        int `json:"calls"`   // in all
	Refused      int `json:"refused"` // for quota or load; made again, unless an attempt says otherwise
}

// A Report is what a proof found. Its JSON is stable: fields are added, and neither renamed nor removed.
type Report struct {
	Version     int               `json:"version"` // 1
	Result      string            `json:"result"`  // held, leak, not proven or interrupted
	Target      string            `json:"target"`
	Tenants     [2]atlas.TenantID `json:"tenants"` // A, who attacks, and B
	Started     time.Time         `json:"started"`
	Seconds     float64           `json:"seconds"`
	Summary     Summary           `json:"summary"`
	Planted     []Planting        `json:"planted"`
	Controls    []Control         `json:"controls"`
	Attempts    []Attempt         `json:"attempts"`
	Timings     []Timing          `json:"timings,omitempty"`
	Notes       []string          `json:"notes,omitempty"` // what could not be tried, and why
	Interrupted bool              `json:"interrupted,omitempty"`
}

// The results of a report.
const (
	ResultHeld        = "held"
	ResultLeak        = "leak"
	ResultNotProven   = "not proven"
	ResultInterrupted = "interrupted"
)

// Leaks returns the attempts that found something.
func (r *Report) Leaks() []Attempt {
	var out []Attempt
	for _, a := range r.Attempts {
		if a.Verdict == Leaked {
			out = append(out, a)
		}
	}
	return out
}

// finish counts and decides.
func (r *Report) finish() {
	s := &r.Summary
	for _, a := range r.Attempts {
		s.Attempts++
		switch a.Verdict {
		case Held:
			s.Held++
		case Leaked:
			s.Leaks++
		case Inconclusive, Planned:
			s.Inconclusive++
		}
	}
	for _, c := range r.Controls {
		switch {
		case c.Status == Proven:
			s.Proven++
		case c.Status == Unproven && !c.Accept:
			s.NotProven++
		}
	}
	switch {
	case s.Leaks > 0:
		r.Result = ResultLeak
	case r.Interrupted:
		r.Result = ResultInterrupted
	case s.NotProven > 0 || s.Proven == 0:
		r.Result = ResultNotProven
	default:
		r.Result = ResultHeld
	}
}
