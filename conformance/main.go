// Command conformance runs the official MCP conformance suite against Atlas, in both eras, and fails
// on every result that the committed baseline does not name. See README.md beside this file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/atlas-mcp/atlas/interop/npm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
	}
	stop()
	os.Exit(code)
}

type options struct {
	suites  string
	only    string
	json    bool
	readme  string
	cache   string
	out     string
	timeout time.Duration
}

// run returns the exit code: 0 if everything is as the baseline says, 1 if not, 2 if it cannot be told.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) (int, error) {
	var o options
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.suites, "suite", "", "run these only, with commas between them: "+strings.Join(names(), ", "))
	flags.StringVar(&o.only, "scenario", "", "run this scenario only, and show what it said")
	flags.BoolVar(&o.json, "json", false, "print the results as JSON")
	readme := flags.Bool("update-readme", false, "write the table of results into README.md")
	flags.StringVar(&o.cache, "cache", ".cache", "folder for the npm packages")
	flags.StringVar(&o.out, "out", filepath.Join("conformance", "out"), "folder for what the suite found, check by check")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "for everything")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0, nil
		}
		return 2, nil // told by flags
	}
	if *readme {
		if o.suites != "" || o.only != "" {
			return 2, errors.New("-update-readme needs the results of everything; leave -suite and -scenario out")
		}
		o.readme = "README.md"
	}
	selected, err := choose(o.suites)
	if err != nil {
		return 2, err
	}
	known, err := loadBaseline()
	if err != nil {
		return 2, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	results, err := runAll(ctx, o, selected, env, stderr)
	if err != nil {
		return 2, err
	}
	verdict := judge(results, selected, known, o.only)
	if o.json {
		err = writeJSON(stdout, results, verdict)
	} else {
		err = writeTable(stdout, results, verdict, o.only != "")
	}
	if err == nil && o.readme != "" {
		err = updateReadme(o.readme, results)
	}
	if err != nil {
		return 2, err
	}
	if !verdict.ok() {
		return 1, nil
	}
	return 0, nil
}

func choose(list string) ([]suite, error) {
	if list == "" {
		return suites, nil
	}
	var out []suite
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(suites, func(s suite) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no suite %q; there are %s", name, strings.Join(names(), ", "))
		}
		out = append(out, suites[i])
	}
	return out, nil
}

// runAll runs the suites side by side, each against a server of its own, so that what one does to the
// lists of tools does not disturb another.
func runAll(ctx context.Context, o options, selected []suite, env []string, stderr io.Writer) ([]result, error) {
	dir, err := os.MkdirTemp("", "atlas-conformance-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	out, err := filepath.Abs(o.out)
	if err != nil {
		return nil, err
	}
	cache, err := npm.Open(ctx, o.cache, env)
	if err != nil {
		return nil, err
	}
	homes := map[string]string{}
	for _, s := range selected {
		if homes[s.version] == "" {
			if homes[s.version], err = installSuite(ctx, cache, s.version); err != nil {
				return nil, err
			}
		}
	}
	all := make([][]result, len(selected))
	group, ctx := errgroup.WithContext(ctx)
	for i, s := range selected {
		group.Go(func() error {
			if err := os.RemoveAll(filepath.Join(out, s.name)); err != nil {
				return err
			}
			srv, err := open(ctx, s.profile, filepath.Join(dir, s.name), filepath.Join(out, s.name+".log"))
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			all[i], err = s.run(ctx, runner{
				cache: cache, home: homes[s.version], url: srv.url, out: filepath.Join(out, s.name), only: o.only, say: stderr,
			})
			err = errors.Join(err, srv.close())
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			return nil
		})
	}
	err = group.Wait()
	return slices.Concat(all...), err
}
