// Command bench measures the same work on several servers in one run: Atlas with all stages on, Atlas
// with none, bare servers of the two Go libraries for MCP, and plain net/http; and, for one query out of a
// real Postgres, Atlas through row-level security, net/http and pgx doing the same, and Google's MCP
// Toolbox. Each server runs in a process of its own, so that its time and allocations can be told from the client's; they take turns
// in short rounds, so that a noisy machine is noisy for all of them. Ratios are what counts.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

func main() {
	serve := flag.String("serve", "", "serve as this server (used by the program itself)")
	var o options
	flag.IntVar(&o.Rounds, "rounds", 7, "rounds; the figures are medians over them")
	flag.DurationVar(&o.Each, "each", time.Second, "time for each row in each round")
	flag.IntVar(&o.Conns, "conns", 16, "connections, each with one request at a time")
	flag.StringVar(&o.out, "out", "out", "folder for the raw data and the chart")
	flag.StringVar(&o.profiles, "profiles", "", "folder for processor and heap profiles of the servers")
	flag.StringVar(&o.cache, "cache", filepath.Join("..", ".cache"), "folder with what is fetched for the SQL rows: Postgres and MCP Toolbox")
	flag.BoolVar(&o.pooler, "pgbouncer", false, "put PgBouncer between the servers and Postgres, for the SQL rows; MCP Toolbox, which does not work with it, is left out")
	only := flag.String("only", "", "measure only the rows that match this regular expression, such as '^atlas tools/call 2026' or sql")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *serve != "" {
		err = runServer(ctx, *serve, o.profiles, os.Stdin, os.Stdout)
	} else if o.only, err = regexp.Compile(*only); err == nil {
		err = run(ctx, o, *asJSON)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are how long and how hard is measured.
type options struct {
	Rounds int           `json:"rounds"`
	Each   time.Duration `json:"each_ns"`
	Conns  int           `json:"connections"`
	out    string

	profiles string // folder; empty: none
	cache    string
	pooler   bool
	only     *regexp.Regexp
}

func (o options) validate() error {
	if o.Rounds < 1 || o.Conns < 1 || o.Each < 10*time.Millisecond {
		return errors.New("rounds and conns must be at least 1, each at least 10ms")
	}
	return nil
}

func run(ctx context.Context, o options, asJSON bool) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	chosen := slices.DeleteFunc(slices.Clone(contenders), func(c contender) bool { return !o.only.MatchString(c.server + " " + c.work.String()) })
	if o.pooler { // MCP Toolbox prepares its statements by name, which the pooler's next server does not know
		chosen = slices.DeleteFunc(chosen, func(c contender) bool { return c.server == "sql-toolbox" })
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no row matches %q", o.only)
	}
	var l *lab
	isSQL := func(c contender) bool { return c.work.sql }
	if slices.ContainsFunc(chosen, isSQL) {
		if l, err = openLab(ctx, o); err != nil {
			chosen = slices.DeleteFunc(chosen, isSQL)
			if len(chosen) == 0 || ctx.Err() != nil || os.Getenv("CI") != "" {
				return fmt.Errorf("the SQL rows cannot be measured: %w", err)
			}
			fmt.Fprintln(os.Stderr, "the SQL rows are left out:", err)
			l = nil
		}
	}
	if l != nil {
		defer func() { err = errors.Join(err, l.close()) }()
	}
	servers := map[string]*server{}
	defer func() {
		for _, s := range servers {
			err = errors.Join(err, s.stop())
		}
	}()
	var lanes []*lane
	for _, c := range chosen {
		if servers[c.server] == nil {
			s, err := start(ctx, c.server, o, l)
			if err != nil {
				return fmt.Errorf("%s: %w", c.server, err)
			}
			servers[c.server] = s
		}
		l, err := openLane(ctx, c, servers[c.server], o.Conns)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", c.server, c.work, err)
		}
		lanes = append(lanes, l)
		if _, err := l.measure(ctx, o.Conns, min(o.Each, 300*time.Millisecond)); err != nil { // warm up
			return fmt.Errorf("%s, %s: %w", c.server, c.work, err)
		}
	}
	report := newReport(o)
	for round := range o.Rounds {
		for _, l := range lanes {
			progress("round %d of %d: %s, %s", round+1, o.Rounds, l.work, l.contender.server)
			if err := l.round(ctx, o); err != nil {
				return fmt.Errorf("%s, %s: %w", l.contender.server, l.work, err)
			}
		}
	}
	progress("")
	for _, l := range lanes {
		report.Rows = append(report.Rows, summarize(l))
	}
	report.Goals = goals(report.Rows)
	if err := report.save(o.out); err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	return report.print(os.Stdout)
}

// progress tells a person at a terminal how far the run is.
func progress(format string, args ...any) {
	if info, err := os.Stderr.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "\r%-70s\r"+format, append([]any{""}, args...)...)
}
