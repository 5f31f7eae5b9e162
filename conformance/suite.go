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

	authorization bool // tries the authorization server
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
	{name: "authorization", version: next, profile: product, authorization: true, args: []string{"--spec-version", "2026-07-28"}, atLeast: 2},
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
}

func (s suite) run(ctx context.Context, r runner) (results []result, err error) {
	switch {
	case s.authorization:
		results, err = s.runAuthorization(ctx, r)
	case r.only != "":
		return s.runEach(ctx, r, []string{r.only})
	case s.each != nil:
		results, err = s.runEach(ctx, r, s.each)
	default:
		results, err = s.runOnce(ctx, r, r.out, s.args)
	}
	if err == nil && len(results) < s.atLeast {
		err = fmt.Errorf("it ran %d scenarios, which should be %d or more", len(results), s.atLeast)
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
		group.Go(func() (err error) {
			all[i], err = s.runOnce(ctx, r, filepath.Join(r.out, name), append(slices.Clone(args), "--scenario", name))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	err := group.Wait()
	return slices.Concat(all...), err
}

// runOnce runs the suite's program against the server.
func (s suite) runOnce(ctx context.Context, r runner, out string, args []string) ([]result, error) {
	times, said, err := s.execute(ctx, r, append([]string{"server", "--url", r.url, "-o", out}, args...), "Running client scenario '", nil)
	if err != nil {
		return nil, err
	}
	return s.collect(out, "server-", times, said)
}

// execute runs the suite's program to its end. It returns what it said and how long each scenario took,
// of which it says that it begins by a line with the mark and the name. Each line is shown to hear.
func (s suite) execute(ctx context.Context, r runner, args []string, mark string, hear func(string)) (map[string]time.Duration, []byte, error) {
	script := filepath.Join(r.home, "node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js")
	cmd := r.cache.Node(ctx, r.home, script, args...)
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
		if rest, ok := strings.CutPrefix(lines.Text(), mark); ok {
			name, _, _ := strings.Cut(rest, "'")
			next(name)
		}
		if hear != nil {
			hear(lines.Text())
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
	if r.only != "" {
		fmt.Fprintf(r.say, "%s\n", said.Bytes())
	}
	return times, said.Bytes(), err
}

// collect reads the checks of each scenario, which the suite writes into a folder named by scenario
// and time.
func (s suite) collect(out, prefix string, times map[string]time.Duration, said []byte) ([]result, error) {
	files, err := filepath.Glob(filepath.Join(out, prefix+"*", "checks.json"))
	if err != nil {
		return nil, err
	}
	if len(files) < len(times) || len(files) == 0 {
		return nil, fmt.Errorf("it left %d results of %d scenarios and said:\n%s", len(files), len(times), tail(said, 2000))
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
		name := strings.TrimPrefix(filepath.Base(filepath.Dir(file)), prefix)
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
