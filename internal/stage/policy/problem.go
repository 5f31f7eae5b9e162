package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Problem is one mistake in a policy file.
type Problem struct {
	Line    int    `json:"line"`   // from 1; 0 if it concerns the whole file
	Column  int    `json:"column"` // in characters, from 1
	Rule    string `json:"rule,omitempty"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
	Source  string `json:"source,omitempty"` // the line as it stands in the file
}

// Snippet returns the source line with a caret under the place, or "" if there is none.
func (p Problem) Snippet() string {
	if p.Line == 0 || p.Source == "" {
		return ""
	}
	number := fmt.Sprintf("%5d | ", p.Line)
	var pad strings.Builder
	for i, r := range []rune(p.Source) {
		if i >= p.Column-1 {
			break
		}
		if r != '\t' { // a tab stays a tab, so that the caret stands right
			r = ' '
		}
		pad.WriteRune(r)
	}
	return number + p.Source + "\n" + strings.Repeat(" ", len(number)-2) + "| " + pad.String() + "^"
}

// A LoadError reports all mistakes of a policy file.
type LoadError struct {
	File     string    `json:"file"`
	Problems []Problem `json:"problems"` // in the order of the file; never empty
}

// Error returns one line for each mistake: file:line:column: message; remedy.
func (e *LoadError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.line(e.File)
	}
	return strings.Join(lines, "\n")
}

// Detail returns what Error does, with the source line and a caret under each mistake: for people
// at a terminal.
func (e *LoadError) Detail() string { return detail(e.File, e.Problems) }

// Detail returns problems of a file, such as [Engine.Warnings], with the source line and a caret
// under each.
func Detail(file string, problems []Problem) string { return detail(file, problems) }

func detail(file string, problems []Problem) string {
	var b strings.Builder
	for _, p := range problems {
		b.WriteString(p.line(file))
		b.WriteByte('\n')
		if s := p.Snippet(); s != "" {
			b.WriteString(s)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (p Problem) line(file string) string {
	s := file + ": "
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d:%d: ", file, p.Line, p.Column)
	}
	if p.Rule != "" {
		s += "rule " + p.Rule + ": "
	}
	s += p.Message
	if p.Remedy != "" {
		s += "; " + p.Remedy
	}
	return s
}

// A place is a position in a file.
type place struct{ line, column int }

// A report collects what is wrong with one file.
type report struct {
	lines    []string
	problems []Problem
	warnings []Problem
}

func newReport(data []byte) *report {
	// YAML ends a line with any of the three.
	return &report{lines: strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data)), "\n")}
}

func (r *report) problem(at place, rule, remedy, format string, args ...any) Problem {
	// The YAML library places what stands at the very end a line too far.
	at.line = min(at.line, len(r.lines))
	p := Problem{Line: at.line, Column: max(at.column, 1), Rule: rule, Message: fmt.Sprintf(format, args...), Remedy: remedy}
	if at.line >= 1 && at.line <= len(r.lines) {
		p.Source = r.lines[at.line-1]
		if !utf8.ValidString(p.Source) {
			p.Source = strings.ToValidUTF8(p.Source, "\uFFFD")
		}
		// A mistake at the end of the file is reported just behind the last character.
		p.Column = min(p.Column, utf8.RuneCountInString(p.Source)+1)
		// One very long line would drown the message.
		if utf8.RuneCountInString(p.Source) > 300 {
			p.Source = ""
		}
	}
	return p
}

func (r *report) fail(at place, rule, remedy, format string, args ...any) {
	r.problems = append(r.problems, r.problem(at, rule, remedy, format, args...))
}

func (r *report) warn(at place, rule, remedy, format string, args ...any) {
	r.warnings = append(r.warnings, r.problem(at, rule, remedy, format, args...))
}

func sortProblems(list []Problem) []Problem {
	slices.SortStableFunc(list, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return slices.Compact(list)
}

// nearest returns "; did you mean x?" material: the candidate closest to name, or "".
func nearest(name string, candidates []string) string {
	best, bestDistance := "", 3
	for _, c := range candidates {
		if d := editDistance(name, c, bestDistance); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance of a and b, or limit if it is not below limit.
func editDistance(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= limit || len(a) > 64 {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return min(row[len(b)], limit)
}

// suggest is the remedy for a wrong name: the nearest right one, or all of them.
func suggest(name string, candidates []string) string {
	if best := nearest(name, candidates); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	if len(candidates) == 0 || len(candidates) > 20 {
		return ""
	}
	sorted := slices.Clone(candidates)
	slices.Sort(sorted)
	return "use one of " + strings.Join(sorted, ", ")
}
