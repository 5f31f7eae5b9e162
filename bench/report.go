package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// A report is what a run found out.
type report struct {
	Go       string  `json:"go"`
	Platform string  `json:"platform"`
	CPUs     int     `json:"cpus"`
	Options  options `json:"options"`
	Rows     []row   `json:"rows"`
	Goals    []goal  `json:"goals"`
}

func newReport(o options) *report {
	return &report{Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Options: o}
}

// A row is what was measured of one contender: medians over the rounds.
type row struct {
	Server      string    `json:"server"`
	About       string    `json:"about"`
	Work        string    `json:"work"` // the method, and where its answer comes from
	Era         string    `json:"era"`
	CallsPerS   float64   `json:"calls_per_s"`
	P50us       float64   `json:"p50_us"`
	P99us       float64   `json:"p99_us"`
	IdleP50us   float64   `json:"one_connection_p50_us"`
	IdleP99us   float64   `json:"one_connection_p99_us"`
	AllocsPerOp float64   `json:"allocs_per_call"`
	BytesPerOp  float64   `json:"bytes_per_call"`
	CPUus       float64   `json:"server_cpu_us_per_call"`
	ClientCPUus float64   `json:"client_cpu_us_per_call"`
	RSSMB       float64   `json:"server_rss_mb"` // 0 where it cannot be told, as with the two before
	Calls       int64     `json:"calls"`
	Rates       []float64 `json:"rates"` // of each round
}

func summarize(l *lane) row {
	r := row{Server: l.contender.server, About: abouts[l.contender.server], Work: l.work.about(), Era: l.work.era}
	of := func(samples []sample, f func(*sample) float64) float64 {
		v := make([]float64, len(samples))
		for i := range samples {
			v[i] = f(&samples[i])
		}
		return median(v)
	}
	quantile := func(q float64) func(*sample) float64 {
		return func(s *sample) float64 { return float64(s.latency.ValueAtQuantile(q)) }
	}
	for i := range l.samples {
		r.Rates = append(r.Rates, l.samples[i].rate())
		r.Calls += l.samples[i].calls
	}
	r.CallsPerS = median(r.Rates)
	r.P50us, r.P99us = of(l.samples, quantile(50)), of(l.samples, quantile(99))
	r.IdleP50us, r.IdleP99us = of(l.quiet, quantile(50)), of(l.quiet, quantile(99))
	r.AllocsPerOp = of(l.samples, func(s *sample) float64 { return s.allocs })
	r.BytesPerOp = of(l.samples, func(s *sample) float64 { return s.bytes })
	r.CPUus = of(l.samples, func(s *sample) float64 { return float64(s.cpu) / float64(time.Microsecond) })
	r.RSSMB = of(l.samples, func(s *sample) float64 { return s.rss / (1 << 20) })
	r.ClientCPUus = of(l.samples, func(s *sample) float64 { return float64(s.clientCPU) / float64(time.Microsecond) })
	return r
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0
	}
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

// A goal is a figure that Atlas means to reach.
type goal struct {
	Name     string  `json:"name"`
	Measured float64 `json:"measured"`
	Limit    float64 `json:"limit"`
	AtMost   bool    `json:"at_most"` // else: at least
	Unit     string  `json:"unit"`
	Met      bool    `json:"met"`
}

// goals compares Atlas with all stages on with what it means to reach, for calls of the newer era. What
// was not measured is left out.
func goals(rows []row) []goal {
	find := func(server string, w work) (row, bool) {
		i := slices.IndexFunc(rows, func(r row) bool { return r.Server == server && r.Work == w.about() && r.Era == w.era })
		if i < 0 {
			return row{}, false
		}
		return rows[i], true
	}
	var list []goal
	add := func(server string, w work, against string, g goal, measured func(a, b row) float64) {
		a, foundA := find(server, w)
		b, foundB := find(against, w)
		if !foundA || !foundB {
			return
		}
		g.Measured = measured(a, b)
		g.Met = g.Measured >= g.Limit && !g.AtMost || g.Measured <= g.Limit && g.AtMost
		list = append(list, g)
	}
	ratio := func(a, b row) float64 { return a.CallsPerS / b.CallsPerS }
	add("atlas", callModern, "gosdk", goal{Name: "throughput against bare go-sdk", Limit: 10, Unit: "×"}, ratio)
	add("atlas", callModern, "mcpgo", goal{Name: "throughput against bare mcp-go", Limit: 1.5, Unit: "×"}, ratio)
	add("atlas", callModern, "nethttp", goal{Name: "throughput against net/http", Limit: 0.5, Unit: "×"}, ratio)
	add("atlas", callModern, "atlas", goal{Name: "allocations per call", Limit: 150, AtMost: true}, func(a, _ row) float64 { return a.AllocsPerOp })
	add("atlas", callModern, "atlas", goal{Name: "KB allocated per call", Limit: 16, AtMost: true, Unit: "KB"}, func(a, _ row) float64 { return a.BytesPerOp / 1024 })
	add("atlas", callModern, "atlas-none", goal{Name: "p50 added by the stages, one connection", Limit: 100, AtMost: true, Unit: "µs"},
		func(a, b row) float64 { return a.IdleP50us - b.IdleP50us })
	add("sql-atlas", sqlModern, "sql-pgx", goal{Name: "SQL through row-level security, throughput against net/http and pgx", Limit: 0.8, Unit: "×"}, ratio)
	add("sql-atlas", sqlModern, "sql-toolbox", goal{Name: "SQL, throughput against MCP Toolbox without row-level security", Limit: 1.5, Unit: "×"}, ratio)
	return list
}

func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "%d tools in memory to list, or one that asks Postgres through row-level security; %d connections, %d rounds of %s, medians; %s, %d CPUs shared with the client\n",
		benchTools, r.Options.Conns, r.Options.Rounds, r.Options.Each, r.Go, r.CPUs)
	for _, group := range r.groups() {
		fmt.Fprintf(w, "\n%s over HTTP, MCP %s\n\n", group[0].Work, group[0].Era)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(tw, "server\tcalls/s\tp50 µs\tp99 µs\t1 conn p50\tp99\tCPU µs/call\tallocs/call\tKB/call\tMB held\t")
		for _, one := range group {
			fmt.Fprintf(tw, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%s\t%s\t%s\t%s\t\n", one.About, one.CallsPerS, one.P50us, one.P99us,
				one.IdleP50us, one.IdleP99us, told("%.1f", one.CPUus), told("%.0f", one.AllocsPerOp), told("%.1f", one.BytesPerOp/1024), told("%.0f", one.RSSMB))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if len(r.Goals) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nAtlas with all stages on, %s, MCP %s\n\n", callModern.method, callModern.era)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "goal\t\tmeasured\tmet")
	for _, g := range r.Goals {
		sign, met := "≥", "no"
		if g.AtMost {
			sign = "≤"
		}
		if g.Met {
			met = "yes"
		}
		fmt.Fprintf(tw, "%s\t%s %g %s\t%.2f\t%s\n", g.Name, sign, g.Limit, g.Unit, g.Measured, met)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nthe client took %.1f µs of processor time for each call of %q; raw data and chart are in %s\n",
		r.Rows[0].ClientCPUus, r.Rows[0].About, r.Options.out)
	return err
}

// told writes a figure, or a dash for one that cannot be told: the allocations of other people's programs.
func told(format string, v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

// groups splits the rows by what was measured.
func (r *report) groups() [][]row {
	var groups [][]row
	for _, one := range r.Rows {
		if n := len(groups); n > 0 && groups[n-1][0].Work == one.Work && groups[n-1][0].Era == one.Era {
			groups[n-1] = append(groups[n-1], one)
			continue
		}
		groups = append(groups, []row{one})
	}
	return groups
}

// save writes the raw data and the chart.
func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "calls.json"), append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "calls.svg"), r.chart(), 0o600)
}
