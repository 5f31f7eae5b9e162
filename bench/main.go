// Command bench measures the same tool call on four servers in one run: Atlas with all stages on,
// Atlas with none, a bare official SDK server, and plain net/http. Each server runs in a process of
// its own, so that its allocations can be told from the client's; the servers take turns in short
// rounds, so that a noisy machine is noisy for all of them. Ratios are what counts.
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
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A contender is one row of the table.
type contender struct {
	name  string // also of the server process's role
	about string
}

var contenders = []contender{
	{"nethttp", "plain net/http and encoding/json"},
	{"gosdk", "bare go-sdk, stateless"},
	{"atlas-none", "Atlas, no stages but registry and invoke"},
	{"atlas", "Atlas, all stages on"},
}

func main() {
	serve := flag.String("serve", "", "serve as this contender (used by the program itself)")
	rounds := flag.Int("rounds", 5, "rounds; the figures are medians over them")
	each := flag.Duration("each", 2*time.Second, "time for each contender in each round")
	conns := flag.Int("conns", 16, "connections, each with one call at a time")
	out := flag.String("out", "out", "folder for the raw data")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *serve != "" {
		err = runServer(ctx, *serve, os.Stdin, os.Stdout)
	} else {
		err = run(ctx, *rounds, *each, *conns, *out, *asJSON)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A row is what was measured of one contender: medians over the rounds.
type row struct {
	Name        string    `json:"name"`
	About       string    `json:"about"`
	CallsPerS   float64   `json:"calls_per_s"`
	P50us       float64   `json:"p50_us"`
	P99us       float64   `json:"p99_us"`
	AllocsPerOp float64   `json:"allocs_per_call"`
	BytesPerOp  float64   `json:"bytes_per_call"`
	Rates       []float64 `json:"rates"`
	Calls       int64     `json:"calls"`
	Failed      int64     `json:"failed"`
	IdleP50us   float64   `json:"one_connection_p50_us"`
	IdleP99us   float64   `json:"one_connection_p99_us"`
}

func run(ctx context.Context, rounds int, each time.Duration, conns int, out string, asJSON bool) (err error) {
	servers := make([]*server, 0, len(contenders))
	defer func() {
		for _, s := range servers {
			err = errors.Join(err, s.stop())
		}
	}()
	for _, c := range contenders {
		s, err := start(ctx, c.name)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		servers = append(servers, s)
		if _, err := drive(ctx, s.addr, s.request, s.want, conns, 500*time.Millisecond); err != nil { // warm up
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	info, err := os.Stderr.Stat()
	progress := err == nil && info.Mode()&os.ModeCharDevice != 0
	samples, quiet := make([][]sample, len(servers)), make([][]sample, len(servers))
	for round := range rounds {
		for i, s := range servers {
			if progress {
				fmt.Fprintf(os.Stderr, "\rround %d of %d: %-12s", round+1, rounds, contenders[i].name)
			}
			one, err := s.measure(ctx, conns, each)
			if err != nil {
				return fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			if one.failed > 0 {
				return fmt.Errorf("%s: %d of %d answers were wrong, such as %s", contenders[i].name, one.failed, one.calls, one.firstBad)
			}
			samples[i] = append(samples[i], one)
			single, err := s.measure(ctx, 1, each/4)
			if err != nil {
				return fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			quiet[i] = append(quiet[i], single)
		}
	}
	if progress {
		fmt.Fprintf(os.Stderr, "\r%40s\r", "")
	}
	rows := make([]row, len(servers))
	for i, c := range contenders {
		rows[i] = summarize(c, samples[i], quiet[i])
	}
	if err := save(out, rows); err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	}
	return print(os.Stdout, rows, conns, rounds, each)
}

func summarize(c contender, samples, quiet []sample) row {
	r := row{Name: c.name, About: c.about}
	for _, s := range samples {
		r.Rates = append(r.Rates, s.rate())
		r.Calls += s.calls
		r.Failed += s.failed
	}
	r.CallsPerS = median(r.Rates)
	r.P50us = median(each(samples, func(s sample) float64 { return float64(s.latency.ValueAtQuantile(50)) }))
	r.P99us = median(each(samples, func(s sample) float64 { return float64(s.latency.ValueAtQuantile(99)) }))
	r.AllocsPerOp = median(each(samples, func(s sample) float64 { return s.allocs }))
	r.BytesPerOp = median(each(samples, func(s sample) float64 { return s.bytes }))
	r.IdleP50us = median(each(quiet, func(s sample) float64 { return float64(s.latency.ValueAtQuantile(50)) }))
	r.IdleP99us = median(each(quiet, func(s sample) float64 { return float64(s.latency.ValueAtQuantile(99)) }))
	return r
}

func each(samples []sample, f func(sample) float64) []float64 {
	out := make([]float64, len(samples))
	for i, s := range samples {
		out[i] = f(s)
	}
	return out
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

func print(w io.Writer, rows []row, conns, rounds int, each time.Duration) error {
	fmt.Fprintf(w, "tools/call over HTTP, MCP 2026-07-28, an in-memory tool; %d connections, %d rounds of %s, medians; %s, %d CPUs shared with the client\n\n",
		conns, rounds, each, runtime.Version(), runtime.NumCPU())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "server\tcalls/s\tp50 µs\tp99 µs\t1 conn p50\tp99\tallocs/call\tKB/call\t")
	byName := map[string]row{}
	for _, r := range rows {
		byName[r.Name] = r
		fmt.Fprintf(tw, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t\n", r.About, r.CallsPerS, r.P50us, r.P99us, r.IdleP50us, r.IdleP99us, r.AllocsPerOp, r.BytesPerOp/1024)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	a := byName["atlas"]
	_, err := fmt.Fprintf(w, "\nAtlas with all stages: %.2f × go-sdk, %.2f × net/http, %.2f × Atlas without stages; the stages add %.0f µs at p50 on one connection\n",
		a.CallsPerS/byName["gosdk"].CallsPerS, a.CallsPerS/byName["nethttp"].CallsPerS, a.CallsPerS/byName["atlas-none"].CallsPerS,
		a.IdleP50us-byName["atlas-none"].IdleP50us)
	return err
}

func save(dir string, rows []row) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	data, err := json.MarshalIndent(map[string]any{
		"go": runtime.Version(), "cpus": runtime.NumCPU(), "os": runtime.GOOS + "/" + runtime.GOARCH, "rows": rows,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "calls.json"), append(data, '\n'), 0o600)
}

func names() string {
	var out []string
	for _, c := range contenders {
		out = append(out, c.name)
	}
	return strings.Join(out, ", ")
}
