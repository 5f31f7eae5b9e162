package main

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/atlas-mcp/atlas/interop/npm"
)

// Versions of the suite. Each has a folder in suites with the lock file that pins it.
const (
	stable = "0.1.16"
	next   = "0.2.0-alpha.12"
)

//go:embed suites
var suiteFiles embed.FS

func installSuite(ctx context.Context, cache *npm.Cache, version string) (string, error) {
	files, err := fs.Sub(suiteFiles, "suites/"+version)
	if err != nil {
		return "", err
	}
	return cache.Install(ctx, "conformance-"+version, files)
}

// A suite is one run of the program of the suite, or one for each of its scenarios.
type suite struct {
	name    string
	version string
	profile string
	args    []string // of the one run
	each    []string // scenarios to run one by one in place of it, with args
	atLeast int      // scenarios: fewer means that the run is broken
}

// suites are what the gate runs. The requirement sets are the suite's own; they hold the scenarios of
// extensions, such as tasks, too, which the suite does not score but the gate does.
var suites = []suite{
	{name: "2026-07-28", version: next, profile: fixture, args: []string{"--requirements", "2026-07-28"}, atLeast: 50},
	{name: "2025-11-25", version: next, profile: fixture, args: []string{"--requirements", "2025-11-25"}, atLeast: 30},
	{name: "0.1.16", version: stable, profile: fixture, args: []string{"--suite", "all"}, atLeast: 30},
	{name: "product-2026-07-28", version: next, profile: product, args: []string{"--spec-version", "2026-07-28"}, each: []string{
		"server-stateless", "tools-list", "resources-list", "prompts-list", "server-sse-multiple-streams", "sep-2164-resource-not-found",
		"dns-rebinding-protection", "caching", "http-header-validation", "input-required-result-missing-input-response",
		"input-required-result-unsupported-methods", "input-required-result-ignore-extra-params", "input-required-result-validate-input",
	}, atLeast: 13},
	{name: "product-2025-11-25", version: next, profile: product, args: []string{"--spec-version", "2025-11-25"}, each: []string{
		"server-initialize", "logging-set-level", "ping", "tools-list", "server-sse-multiple-streams", "resources-list", "prompts-list",
		"dns-rebinding-protection", "server-session-lifecycle", "server-sse-polling",
	}, atLeast: 10},
}

func names() []string {
	var out []string
	for _, s := range suites {
		out = append(out, s.name)
	}
	return out
}

// A check is one line of what a scenario found.
type check struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Status  string `json:"status"` // SUCCESS, FAILURE, WARNING, SKIPPED or INFO
	Error   string `json:"errorMessage,omitempty"`
	Details struct {
		// Untestable marks a check that needs a test tool of the suite, which the product does not have.
		Untestable bool `json:"untestable"`
	} `json:"details"`
}

// A result is what one scenario found.
type result struct {
	Suite    string        `json:"suite"`
	Scenario string        `json:"scenario"`
	Passed   int           `json:"passed"`
	Failed   int           `json:"failed"`
	Warnings int           `json:"warnings"`
	Skipped  int           `json:"skipped"` // by the suite, or for want of a fixture on the product profile
	Seconds  float64       `json:"seconds"`
	Problems []problem     `json:"problems,omitempty"`
	took     time.Duration // as Seconds
}

// A problem is a check that did not pass.
type problem struct {
	Check   string `json:"check"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

// A runner is where a suite finds what it needs.
type runner struct {
	cache     *npm.Cache
	home, url string
	out       string // folder for what the suite writes
	only      string // scenario; empty for all
	say       io.Writer
	verbose   bool
}

func (s suite) run(ctx context.Context, r runner) ([]result, error) {
	if r.only != "" {
		return s.runEach(ctx, r, []string{r.only})
	}
	if s.each != nil {
		return s.runEach(ctx, r, s.each)
	}
	times, said, err := s.start(ctx, r, r.out, s.args)
	if err != nil {
		return nil, err
	}
	results, err := s.collect(r.out, times)
	if err == nil && len(results) < s.atLeast {
		err = fmt.Errorf("ran %d scenarios, which should be %d or more; it said:\n%s", len(results), s.atLeast, tail(said, 2000))
	}
	return results, err
}

// runEach runs scenarios in processes of their own, a few at a time.
func (s suite) runEach(ctx context.Context, r runner, scenarios []string) ([]result, error) {
	args := slices.Clone(s.args)
	if i := slices.Index(args, "--requirements"); i >= 0 {
		args[i] = "--spec-version" // a requirement set is all or nothing
		args = append(args, "--force")
	}
	if i := slices.Index(args, "--suite"); i >= 0 {
		args = nil
	}
	all := make([][]result, len(scenarios))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for i, name := range scenarios {
		group.Go(func() error {
			out := filepath.Join(r.out, name)
			times, said, err := s.start(ctx, r, out, append(slices.Clone(args), "--scenario", name))
			if err != nil {
				return err
			}
			if r.verbose {
				fmt.Fprintf(r.say, "%s\n", said)
			}
			if all[i], err = s.collect(out, times); err != nil {
				return err
			}
			if len(all[i]) == 0 && !bytes.Contains(said, []byte("SKIPPED")) && !bytes.Contains(said, []byte("Unknown")) {
				return fmt.Errorf("scenario %s left no result; it said:\n%s", name, tail(said, 2000))
			}
			return nil
		})
	}
	err := group.Wait()
	return slices.Concat(all...), err
}

// start runs the suite's program to its end and returns how long each scenario took.
func (s suite) start(ctx context.Context, r runner, out string, args []string) (map[string]time.Duration, []byte, error) {
	script := filepath.Join(r.home, "node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js")
	cmd := r.cache.Node(ctx, r.home, script, append([]string{"server", "--url", r.url, "-o", out}, args...)...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	times := map[string]time.Duration{}
	var said bytes.Buffer
	var current string
	var began time.Time
	next := func(name string) {
		if current != "" {
			times[current] = time.Since(began)
		}
		current, began = name, time.Now()
	}
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		said.Write(lines.Bytes())
		said.WriteByte('\n')
		if rest, ok := strings.CutPrefix(lines.Text(), "Running client scenario '"); ok {
			name, _, _ := strings.Cut(rest, "'")
			next(name)
		}
	}
	next("")
	err = errors.Join(lines.Err(), cmd.Wait())
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 && ctx.Err() == nil {
		err = nil // a scenario failed: its checks say which
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("stopped: %w", context.Cause(ctx))
	}
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, tail(said.Bytes(), 2000))
	}
	return times, said.Bytes(), err
}

// collect reads the checks of each scenario, which the suite writes into a folder named by scenario
// and time.
func (s suite) collect(out string, times map[string]time.Duration) ([]result, error) {
	files, err := filepath.Glob(filepath.Join(out, "server-*", "checks.json"))
	if err != nil {
		return nil, err
	}
	var results []result
	for _, file := range files {
		data, err := os.ReadFile(file) //nolint:gosec // written by the suite
		if err != nil {
			return nil, err
		}
		var checks []check
		if err := json.Unmarshal(data, &checks); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		name := strings.TrimPrefix(filepath.Base(filepath.Dir(file)), "server-")
		for scenario := range times { // the folder's name ends in the time, which has dashes too
			if rest, ok := strings.CutPrefix(name, scenario+"-"); ok && strings.HasPrefix(rest, "20") && strings.Contains(rest, "T") {
				name = scenario
				break
			}
		}
		results = append(results, s.count(name, checks, times[name]))
	}
	slices.SortFunc(results, func(a, b result) int { return strings.Compare(a.Scenario, b.Scenario) })
	return results, nil
}

func (s suite) count(scenario string, checks []check, took time.Duration) result {
	r := result{Suite: s.name, Scenario: scenario, took: took, Seconds: took.Seconds()}
	for _, c := range checks {
		switch c.Status {
		case "SUCCESS":
			r.Passed++
			continue
		case "FAILURE":
			if s.profile == product && c.Details.Untestable {
				r.Skipped++
				continue
			}
			r.Failed++
		case "WARNING":
			if s.profile == product && c.Details.Untestable {
				r.Skipped++
				continue
			}
			r.Warnings++
		case "SKIPPED":
			r.Skipped++
			continue
		default: // INFO says something and decides nothing
			continue
		}
		r.Problems = append(r.Problems, problem{Check: c.ID, Status: c.Status, Message: c.Error})
	}
	return r
}

func tail(b []byte, n int) string {
	return string(b[max(0, len(b)-n):])
}
