package copilot

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"charm.land/lipgloss/v2"

	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// RenderOptions say how to write for people.
type RenderOptions struct {
	Color bool      // the writer is a terminal
	Width int       // columns; 0 means 80
	Now   time.Time // to tell how old sources are; the zero Time leaves that out
}

const ruleWidth = 72

// Render writes a result for people: the draft under a banner, its sources with how fresh they are,
// and the trace summary as JSON.
func Render(w io.Writer, r Result, o RenderOptions) error {
	st := styles(o.Color)
	width := max(40, cmp.Or(o.Width, 80))
	var b strings.Builder
	rule := strings.Repeat("=", ruleWidth)
	banner := st.good("DRAFT REPLY (approved)")
	if !r.Approved {
		banner = st.bad("DRAFT REPLY (not approved)")
	}
	fmt.Fprintf(&b, "%s\n%s\n%s\n\n", rule, banner, rule)
	for line := range strings.Lines(clean(r.Draft) + "\n") {
		b.WriteString(st.anchors(wrap(strings.TrimRight(line, "\n"), width, "")) + "\n")
	}
	if len(r.Sources) > 0 {
		b.WriteString("\n" + st.strong("SOURCES") + "\n")
	}
	for _, s := range r.Sources {
		head := strings.TrimSpace(clean(s.Kind + " " + s.ID))
		if s.Title != "" {
			head += " · " + clean(s.Title)
		}
		fmt.Fprintf(&b, "%s %s\n", st.anchors("["+s.Anchor+"]"), wrap(head, width-5, "     "))
		detail := "via " + clean(s.Tool) + ", read " + freshness(s.AsOf, o.Now)
		if s.Trust == "untrusted" {
			detail += ", untrusted text"
		}
		fmt.Fprintf(&b, "     %s\n", st.faint(detail))
		if s.URL != "" {
			fmt.Fprintf(&b, "     %s\n", st.faint(clean(s.URL)))
		}
	}
	if len(r.Critic.Issues) > 0 && !r.Approved {
		b.WriteString("\n" + st.strong("WHY NOT APPROVED") + "\n")
		for _, i := range r.Critic.Issues {
			fmt.Fprintf(&b, "- %s\n", wrap(clean(i), width-2, "  "))
		}
	}
	kept := 0
	for _, c := range r.Checks {
		if c.Kept {
			kept++
		}
	}
	trace := struct {
		RunID      string           `json:"run_id"`
		Model      string           `json:"model"`
		TokensIn   int              `json:"tokens_in"`
		TokensOut  int              `json:"tokens_out"`
		CostUSD    float64          `json:"cost_usd"`
		ToolCalls  int              `json:"tool_calls"`
		Rounds     int              `json:"iterations"`
		Findings   int              `json:"findings"`
		Withheld   int              `json:"withheld_sentences"`
		Kept       string           `json:"sentences_supported"`
		Revised    bool             `json:"revised"`
		Exceeded   []string         `json:"exceeded_budgets,omitempty"`
		DurationMS int64            `json:"duration_ms"`
		AgentsMS   map[string]int64 `json:"agents_ms"`
	}{
		r.RunID, r.Model, r.TokensIn, r.TokensOut, r.CostUSD, r.ToolCalls, r.Retrieval.Iterations, r.Retrieval.FindingsCount, r.Retrieval.Withheld,
		fmt.Sprintf("%d of %d", kept, len(r.Checks)), r.Critic.Revised, r.Exceeded, r.DurationMS, r.AgentsMS,
	}
	js, err := json.MarshalIndent(trace, "", "  ")
	if err != nil {
		return fmt.Errorf("render trace: %w", err)
	}
	fmt.Fprintf(&b, "\n%s\n%s\n%s\n%s\n", rule, st.strong("TRACE SUMMARY"), rule, js)
	_, err = io.WriteString(w, b.String())
	return err
}

// freshness says when a source was read, and how long ago.
func freshness(at, now time.Time) string {
	if at.IsZero() {
		return "at an unknown time"
	}
	s := at.UTC().Format("2006-01-02 15:04:05 MST")
	if now.IsZero() {
		return s
	}
	switch age := now.Sub(at); {
	case age < 2*time.Second:
		return s + " (just now)"
	case age < 2*time.Minute:
		return fmt.Sprintf("%s (%d s ago)", s, int(age.Seconds()))
	case age < 2*time.Hour:
		return fmt.Sprintf("%s (%d min ago)", s, int(age.Minutes()))
	default:
		return fmt.Sprintf("%s (%d h ago)", s, int(age.Hours()))
	}
}

// clean keeps control sequences, and characters that turn the writing direction or hide, away from
// the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			return -1
		}
		return r
	}, s)
}

func wrap(s string, width int, indent string) string {
	var b strings.Builder
	n := 0
	for i, word := range strings.Fields(s) {
		l := len([]rune(word))
		switch {
		case i == 0:
		case n+1+l > width:
			b.WriteString("\n" + indent)
			n = 0
		default:
			b.WriteByte(' ')
			n++
		}
		b.WriteString(word)
		n += l
	}
	return b.String()
}

type style struct{ color bool }

func styles(color bool) style { return style{color} }

func (s style) paint(st lipgloss.Style, text string) string {
	if !s.color {
		return text
	}
	return st.Render(text)
}

func (s style) good(t string) string {
	return s.paint(lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("2")), t)
}

func (s style) bad(t string) string {
	return s.paint(lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("3")), t)
}
func (s style) strong(t string) string { return s.paint(lipgloss.NewStyle().Bold(true), t) }
func (s style) faint(t string) string  { return s.paint(lipgloss.NewStyle().Faint(true), t) }

func (s style) anchors(t string) string {
	return fact.Anchors.ReplaceAllStringFunc(t, func(a string) string {
		return s.paint(lipgloss.NewStyle().Foreground(lipgloss.Color("6")), a)
	})
}

// Progress writes the four agents at work, a line for each step. Its Event method is made for
// [Request.OnEvent].
type Progress struct {
	w  io.Writer
	st style

	mu   sync.Mutex // guards seen and w
	seen []string
}

// NewProgress returns a Progress that writes to w, with colours if w is a terminal.
func NewProgress(w io.Writer, color bool) *Progress { return &Progress{w: w, st: styles(color)} }

// Event writes what an event tells.
func (p *Progress) Event(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := ""
	switch e.Kind {
	case EventStarted:
		again := ""
		if slices.Contains(p.seen, e.Agent) {
			again = " (revision)"
		}
		p.seen = append(p.seen, e.Agent)
		line = fmt.Sprintf("%s %s%s", p.st.strong(fmt.Sprintf("%-11s", e.Agent)), e.Text, again)
	case EventFinished:
		line = p.st.faint(fmt.Sprintf("%-11s %s, %d ms", "", clean(e.Text), e.Took.Milliseconds()))
	case EventTool:
		mark := p.st.good("ok")
		if !e.OK {
			mark = p.st.bad(clean(cmp.Or(e.Code, "failed")))
		}
		line = fmt.Sprintf("%-11s → %s %s, %d ms", "", clean(e.Text), mark, e.Took.Milliseconds())
	case EventToken: // the draft is shown once it has been checked
		return
	}
	_, _ = fmt.Fprintln(p.w, line) // progress is not worth failing for
}
