package copilot_test

import (
	"bufio"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/llm/offline"
)

func newCopilot(t *testing.T, tools copilot.Tools, model copilot.Model, mem copilot.Memory) *copilot.Copilot {
	t.Helper()
	c, err := copilot.New(copilot.Config{}, model, tools, mem, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type questionCase struct {
	line               int
	tenant, question   string
	want, not, cites   []string
	approved, answered bool
}

// readCases reads testdata/questions.txt: blocks of "key: value" lines.
func readCases(t *testing.T) []questionCase {
	t.Helper()
	f, err := os.Open("testdata/questions.txt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // read only
	var out []questionCase
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		key, value, ok := strings.Cut(sc.Text(), ": ")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		if key == "acme" || key == "globex" {
			out = append(out, questionCase{line: n, tenant: key, question: value, approved: true, answered: true})
			continue
		}
		c := &out[len(out)-1]
		switch key {
		case "want":
			c.want = append(c.want, value)
		case "not":
			c.not = append(c.not, value)
		case "cites":
			c.cites = strings.Fields(value)
		case "answered":
			c.answered = value == "yes"
		case "approved":
			c.approved = value == "yes"
		default:
			t.Fatalf("line %d: unknown key %q", n, key)
		}
	}
	return out
}

func TestOfflineQuestions(t *testing.T) {
	t.Parallel()
	cases := readCases(t)
	if len(cases) < 30 {
		t.Fatalf("%d cases read; the file must have lost some", len(cases))
	}
	for _, c := range cases {
		t.Run(c.question, func(t *testing.T) {
			t.Parallel()
			tools := map[string]*company{"acme": stocked(), "globex": globex()}[c.tenant]
			got, err := newCopilot(t, tools, offline.New(), nil).Run(t.Context(), copilot.Request{Question: c.question})
			if err != nil {
				t.Fatalf("line %d: %v", c.line, err)
			}
			if got.Approved != c.approved || got.Answered != c.answered {
				t.Errorf("line %d: approved %v, answered %v; want %v, %v", c.line, got.Approved, got.Answered, c.approved, c.answered)
			}
			for _, w := range c.want {
				if !strings.Contains(got.Draft, w) {
					t.Errorf("line %d: the draft lacks %q", c.line, w)
				}
			}
			for _, w := range c.not {
				if strings.Contains(strings.ToLower(got.Draft), strings.ToLower(w)) {
					t.Errorf("line %d: the draft has %q", c.line, w)
				}
			}
			var ids []string
			for _, s := range got.Sources {
				ids = append(ids, s.ID)
			}
			for _, id := range c.cites {
				if !slices.Contains(ids, id) {
					t.Errorf("line %d: %s is not cited", c.line, id)
				}
			}
			if !c.answered && (got.Draft != copilot.NotInSources || len(got.Citations) > 0) {
				t.Errorf("line %d: want exactly %q without citations", c.line, copilot.NotInSources)
			}
			if got.Model != offline.Name {
				t.Errorf("model %q", got.Model)
			}
			if t.Failed() {
				t.Logf("draft:\n%s\nneeds %v\ncalls %v\ncritic %+v", got.Draft, got.Plan.Needs, tools.calls, got.Critic)
				for _, s := range got.Checks {
					t.Logf("%+v", s)
				}
			}
		})
	}
}
