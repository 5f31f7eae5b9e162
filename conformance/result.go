package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/atlas-mcp/atlas/internal/config"
)

//go:embed baseline.yml
var baselineFile []byte

// A baseline names the failures that are expected, by suite: "scenario" or "scenario:check".
type baseline map[string][]string

func loadBaseline() (baseline, error) {
	var file struct {
		Expected baseline `yaml:"expected"`
	}
	if err := config.Decode("conformance/baseline.yml", baselineFile, config.Resolver{}, &file); err != nil {
		return nil, err
	}
	for name := range file.Expected {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("conformance/baseline.yml: there is no suite %q; there are %s", name, strings.Join(names(), ", "))
		}
	}
	return file.Expected, nil
}

// A verdict compares what was found with what was expected.
type verdict struct {
	Unexpected []string `json:"unexpected"` // failures that the baseline does not name
	Stale      []string `json:"stale"`      // names of the baseline that did not fail
	Expected   int      `json:"expected"`   // failures that the baseline names
}

func (v verdict) ok() bool { return len(v.Unexpected) == 0 && len(v.Stale) == 0 }

// judge compares. A scenario none of whose checks passed or was skipped proves nothing and fails, too.
func judge(results []result, ran []suite, known baseline, only string) verdict {
	v := verdict{Unexpected: []string{}, Stale: []string{}}
	used := map[string]bool{}
	for _, r := range results {
		expected := func(check string) bool {
			for _, name := range known[r.Suite] {
				if name == r.Scenario || name == r.Scenario+":"+check {
					used[r.Suite+" "+name] = true
					return true
				}
			}
			return false
		}
		for _, p := range r.Problems {
			switch {
			case p.Status != "FAILURE":
			case expected(p.Check):
				v.Expected++
			default:
				v.Unexpected = append(v.Unexpected, r.Suite+" "+r.Scenario+":"+p.Check)
			}
		}
		if r.Passed+r.Failed+r.Warnings+r.Skipped == 0 && !quiet[r.Scenario] {
			v.Unexpected = append(v.Unexpected, r.Suite+" "+r.Scenario+": checked nothing")
		}
	}
	for _, s := range ran {
		for _, name := range known[s.name] {
			if only == "" && !used[s.name+" "+name] {
				v.Stale = append(v.Stale, s.name+" "+name)
			}
		}
	}
	return v
}

// quiet scenarios may only inform: this one looks at what becomes of a stream that the server closes
// before it has answered, which Atlas never does.
var quiet = map[string]bool{"server-sse-polling": true}

// A total sums up a suite.
type total struct {
	scenarios, passed, failed, warnings, skipped int
	seconds                                      float64
	failing                                      int // scenarios with failures
}

func totals(results []result) (map[string]total, []string) {
	sums := map[string]total{}
	for _, r := range results {
		t := sums[r.Suite]
		t.scenarios++
		t.passed += r.Passed
		t.failed += r.Failed
		t.warnings += r.Warnings
		t.skipped += r.Skipped
		t.seconds += r.Seconds
		if r.Failed > 0 {
			t.failing++
		}
		sums[r.Suite] = t
	}
	order := slices.DeleteFunc(names(), func(n string) bool { _, ok := sums[n]; return !ok })
	return sums, order
}

func writeTable(w io.Writer, results []result, v verdict, all bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "suite\tscenario\tpassed\tfailed\twarnings\tskipped\ts")
	for _, r := range results {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%d\t%d\t%.1f\n", r.Suite, r.Scenario, r.Passed, r.Failed, r.Warnings, r.Skipped, r.Seconds)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		for _, p := range r.Problems {
			if p.Status == "FAILURE" || all {
				fmt.Fprintf(w, "\n%s %s:%s %s\n  %s\n", r.Suite, r.Scenario, p.Check, strings.ToLower(p.Status), p.Message)
			}
		}
	}
	fmt.Fprintln(w)
	sums, order := totals(results)
	tw = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "suite\tscenarios\tpassed\tfailed\twarnings\tskipped\ts")
	for _, name := range order {
		t := sums[name]
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\t%.1f\n", name, t.scenarios, t.passed, t.failed, t.warnings, t.skipped, t.seconds)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, name := range v.Unexpected {
		fmt.Fprintf(w, "\nunexpected: %s\n", name)
	}
	for _, name := range v.Stale {
		fmt.Fprintf(w, "\nin the baseline but no longer failing: %s\n", name)
	}
	if v.ok() {
		fmt.Fprintf(w, "\nok: nothing but the %d expected failures\n", v.Expected)
	} else {
		fmt.Fprintf(w, "\nFAILED: %d unexpected, %d expected, %d stale in the baseline\n", len(v.Unexpected), v.Expected, len(v.Stale))
	}
	return nil
}

func writeJSON(w io.Writer, results []result, v verdict) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(map[string]any{"ok": v.ok(), "verdict": v, "results": results})
}

// markdown is the table of the README: a row for each suite, and the failures if there are any.
func markdown(results []result) string {
	var b strings.Builder
	sums, order := totals(results)
	b.WriteString("| Run | Suite | Against | Scenarios | Checks passed | failed |\n|---|---|---|---:|---:|---:|\n")
	for _, s := range suites {
		t, ok := sums[s.name]
		if !ok || !slices.Contains(order, s.name) {
			continue
		}
		against := "the demo company"
		switch {
		case s.authorization:
			against = "the authorization server"
		case s.profile == fixture:
			against = "the suite's fixtures"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d | %d |\n", s.name, s.version, against, t.scenarios, t.passed, t.failed)
	}
	failing := map[string][]string{}
	for _, r := range results {
		if r.Failed > 0 {
			failing[r.Suite] = append(failing[r.Suite], r.Scenario)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(failing)) {
		fmt.Fprintf(&b, "\nFailing in %s: %s.\n", name, strings.Join(failing[name], ", "))
	}
	return b.String()
}
