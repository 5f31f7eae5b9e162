package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// The chart's measures, in SVG units.
const (
	chartWidth = 960
	labelWidth = 250
	rateWidth  = 360 // of the longest throughput bar
	latLeft    = 690
	latWidth   = 230
	rowHeight  = 26
	barHeight  = 14
	groupGap   = 62
	headHeight = 86
)

// chartStyle makes the chart readable on light and on dark pages.
const chartStyle = `
text{font:13px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#1f2328}
.title{font-size:18px;font-weight:600}.group{font-size:14px;font-weight:600}.soft{fill:#59636e;font-size:12px}.num{font-variant-numeric:tabular-nums}
.page{fill:#ffffff}.other{fill:#9aa4af}.atlas{fill:#0969da}.bare{fill:#7cb7f0}.grid{stroke:#d1d9e0;stroke-width:1}.range{stroke:#59636e;stroke-width:2}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9198a1}.page{fill:#0d1117}.other{fill:#656c76}.atlas{fill:#4493f8}.bare{fill:#1f4e8c}
.grid{stroke:#3d444d}.range{stroke:#9198a1}}
`

// chart draws the rows: throughput as bars, and latency as a line from p50 to p99 on a logarithmic
// scale.
func (r *report) chart() []byte {
	groups := r.groups()
	height := headHeight
	for _, g := range groups {
		height += groupGap + len(g)*rowHeight
	}
	height += 24
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="t d">`+"\n", chartWidth, height, chartWidth, height)
	fmt.Fprintf(&b, "<title id=\"t\">MCP over HTTP: throughput and latency side by side</title>\n<desc id=\"d\">%s</desc>\n", html.EscapeString(r.summary()))
	fmt.Fprintf(&b, "<style>%s</style>\n", chartStyle)
	fmt.Fprintf(&b, `<rect class="page" width="%d" height="%d" rx="6"/>`+"\n", chartWidth, height)
	write(&b, 24, 34, "title", "start", "MCP over HTTP, side by side")
	write(&b, 24, 56, "soft", "start", fmt.Sprintf("a tool in memory, and one that asks Postgres; %d connections, medians over %d × %s; %s, %s, %d CPUs shared with the client",
		r.Options.Conns, r.Options.Rounds, r.Options.Each, r.Go, r.Platform, r.CPUs))
	y := headHeight
	for _, g := range groups {
		y = drawGroup(&b, g, y)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// summary says in words what the chart shows.
func (r *report) summary() string {
	var b bytes.Buffer
	for _, one := range r.Rows {
		fmt.Fprintf(&b, "%s, MCP %s, %s: %.0f per second, p50 %.0f µs, p99 %.0f µs. ", one.Work, one.Era, one.About, one.CallsPerS, one.P50us, one.P99us)
	}
	return b.String()
}

// drawGroup draws the rows of one work below y and returns where the next group begins.
func drawGroup(b *bytes.Buffer, rows []row, y int) int {
	most, low, high := 1.0, math.Inf(1), 1.0
	for _, r := range rows {
		most, low, high = max(most, r.CallsPerS), min(low, max(1, r.P50us)), max(high, r.P99us)
	}
	low, high = decade(low), decade(high)+1 // powers of ten that hold all of it
	latency := func(us float64) float64 {
		return latLeft + latWidth*(math.Log10(max(1, us))-low)/(high-low)
	}
	write(b, 24, y+14, "group", "start", rows[0].Work+", MCP "+rows[0].Era)
	write(b, labelWidth, y+14, "soft", "start", "calls per second")
	write(b, latLeft, y+14, "soft", "start", "latency, p50 ● to p99 | (µs)")
	top := y + 24
	bottom := top + len(rows)*rowHeight
	for p := low; p <= high; p++ {
		x := latency(math.Pow(10, p))
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", x, top, x, bottom)
		write(b, int(x), bottom+14, "soft num", "middle", fmt.Sprintf("%.0f", math.Pow(10, p)))
	}
	for i, r := range rows {
		at := top + i*rowHeight
		mid := at + rowHeight/2
		write(b, labelWidth-10, mid+4, "", "end", shortNames[r.Server])
		width := rateWidth * r.CallsPerS / most
		fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`+"\n", barClass(r.Server), labelWidth, mid-barHeight/2, width, barHeight)
		write(b, labelWidth+int(width)+8, mid+4, "num", "start", fmt.Sprintf("%.0f", r.CallsPerS))
		from, to := latency(r.P50us), latency(r.P99us)
		fmt.Fprintf(b, `<line class="range" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/><line class="range" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+
			`<circle class="%s" cx="%.1f" cy="%d" r="5"/>`+"\n", from, mid, to, mid, to, mid-5, to, mid+5, barClass(r.Server), from, mid)
	}
	return y + groupGap + len(rows)*rowHeight
}

func decade(us float64) float64 { return math.Floor(math.Log10(us)) }

// shortNames fit beside a bar.
var shortNames = map[string]string{
	"nethttp": "plain net/http", "gosdk": "bare go-sdk", "mcpgo": "bare mcp-go",
	"atlas-none": "Atlas, no stages", "atlas": "Atlas, all stages on",
	"sql-pgx": "net/http and pgx, same batch", "sql-pgx-set": "net/http and pgx, SET LOCAL", "sql-toolbox": "MCP Toolbox, without RLS",
	"sql-atlas": "Atlas, all stages, no cache",
}

func barClass(server string) string {
	switch server {
	case "atlas", "sql-atlas":
		return "atlas"
	case "atlas-none":
		return "bare"
	}
	return "other"
}

func write(b *bytes.Buffer, x, y int, class, anchor, text string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, class, anchor, html.EscapeString(text))
}
