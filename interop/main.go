// Command interop drives Atlas with other people's programs: MCP clients in both eras, a browser that
// goes through login and consent, and identity providers that issue the tokens. It prints what each saw
// and fails on everything that is not as it should be. See README.md beside this file.
package main

import (
	"context"
	"encoding/json"
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
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
	}
	stop()
	os.Exit(code)
}

// A trial is one thing to try: a client, a browser flow or an identity provider.
type trial struct {
	name  string
	group string // client, browser or provider
	run   func(context.Context, *lab) row
}

// A row is what a trial showed. A cell is "ok", "-" if the client has no such thing, or what was wrong.
type row struct {
	Name    string            `json:"name"`
	Group   string            `json:"group"`
	Version string            `json:"version"` // of the protocol, or of the provider
	Cells   map[string]string `json:"cells"`
	Seconds float64           `json:"seconds"`
	Error   string            `json:"error,omitempty"`
}

const (
	ok   = "ok"
	none = "-"
)

func (r row) ok() bool {
	for _, c := range r.Cells {
		if c != ok && c != none {
			return false
		}
	}
	return r.Error == "" && len(r.Cells) > 0
}

// columns of each group, in order.
var columns = map[string][]string{
	"client":   {"list", "call", "denied", "expired"},
	"browser":  {"login", "consent", "list", "call", "denied", "cancel", "refresh", "document"},
	"provider": {"accepted", "tenant", "roles", "audience", "rotation"},
}

var groups = []string{"client", "browser", "provider"}

// run returns the exit code: 0 if everything is as it should be, 1 if not, 2 if it cannot be told.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) (int, error) {
	flags := flag.NewFlagSet("interop", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("only", "", "run these only, with commas between them: names, or client, browser, provider")
	asJSON := flags.Bool("json", false, "print JSON")
	cache := flags.String("cache", ".cache", "folder for the packages")
	out := flags.String("out", filepath.Join("interop", "out"), "folder for logs and screenshots")
	timeout := flags.Duration("timeout", 15*time.Minute, "for everything")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0, nil
		}
		return 2, nil // told by flags
	}
	selected, err := choose(*only)
	if err != nil {
		return 2, err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	l, err := openLab(ctx, *cache, *out, env, stderr)
	if err != nil {
		return 2, err
	}
	rows, err := tryAll(ctx, l, selected)
	if err := errors.Join(err, l.close()); err != nil {
		return 2, err
	}
	if *asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(rows)
	} else {
		err = table(stdout, rows)
	}
	if err != nil {
		return 2, err
	}
	if slices.ContainsFunc(rows, func(r row) bool { return !r.ok() }) {
		fmt.Fprintf(stderr, "what each program said is in %s\n", l.out)
		return 1, nil
	}
	return 0, nil
}

func choose(list string) ([]trial, error) {
	all := trials()
	if list == "" {
		return all, nil
	}
	var picked []trial
	for name := range strings.SplitSeq(list, ",") {
		before := len(picked)
		for _, t := range all {
			if t.name == name || t.group == name {
				picked = append(picked, t)
			}
		}
		if len(picked) == before {
			var names []string
			for _, t := range all {
				names = append(names, t.name)
			}
			return nil, fmt.Errorf("there is nothing named %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	return picked, nil
}

// tryAll runs the trials, two at a time, and returns their rows in order.
func tryAll(ctx context.Context, l *lab, selected []trial) ([]row, error) {
	rows := make([]row, len(selected))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for i, t := range selected {
		group.Go(func() error {
			start := time.Now()
			r := t.run(ctx, l)
			r.Name, r.Group, r.Seconds = t.name, t.group, time.Since(start).Seconds()
			rows[i] = r
			return context.Cause(ctx)
		})
	}
	return rows, group.Wait()
}

func table(w io.Writer, rows []row) error {
	for _, g := range groups {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.Group == g }) {
			continue
		}
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(tw, "%s\tversion\t%s\ts\n", g, strings.Join(columns[g], "\t"))
		for _, r := range rows {
			if r.Group != g {
				continue
			}
			cells := make([]string, len(columns[g]))
			for i, c := range columns[g] {
				switch cell := r.Cells[c]; cell {
				case ok, none:
					cells[i] = cell
				case "":
					cells[i] = "?"
				default:
					cells[i] = "FAILED"
				}
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%.1f\n", r.Name, r.Version, strings.Join(cells, "\t"), r.Seconds)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	failed := 0
	for _, r := range rows {
		if r.ok() {
			continue
		}
		failed++
		if r.Error != "" {
			fmt.Fprintf(w, "%s: %s\n", r.Name, r.Error)
		}
		for _, c := range columns[r.Group] {
			if cell := r.Cells[c]; cell != ok && cell != none && cell != "" {
				fmt.Fprintf(w, "%s, %s: %s\n", r.Name, c, cell)
			}
		}
	}
	if failed == 0 {
		fmt.Fprintf(w, "ok: %d of %d as they should be\n", len(rows), len(rows))
	} else {
		fmt.Fprintf(w, "\nFAILED: %d of %d not as they should be\n", failed, len(rows))
	}
	return nil
}
