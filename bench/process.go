package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

// A server is a process that serves.
type server struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	hello hello
}

// hello is what a server process says first; stats is its answer to a line on its input.
type (
	hello struct {
		Addr  string `json:"addr"`
		Path  string `json:"path"`
		Token string `json:"token"`
		MCP   bool   `json:"mcp"` // it knows the protocol, not only this one call
	}
	stats struct {
		Mallocs uint64        `json:"mallocs"`
		Bytes   uint64        `json:"bytes"`
		CPU     time.Duration `json:"cpu_ns"`
	}
)

// start runs this program again as a server.
func start(ctx context.Context, name, profiles string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: exec.CommandContext(ctx, self, "-serve", name, "-profiles", profiles)}
	s.cmd.Stderr = os.Stderr
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := s.read(&s.hello); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *server) read(v any) error {
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("server process: %w", err)
	}
	return json.Unmarshal(line, v)
}

// stats asks the server process for its counters.
func (s *server) stats() (stats, error) {
	var st stats
	if _, err := io.WriteString(s.in, "stats\n"); err != nil {
		return st, err
	}
	err := s.read(&st)
	return st, err
}

// measure drives the server and adds what it used for each call.
func (l *lane) measure(ctx context.Context, conns int, d time.Duration) (sample, error) {
	before, err := l.server.stats()
	if err != nil {
		return sample{}, err
	}
	own := processorTime()
	one, err := drive(ctx, l.server.hello.Addr, l.requests[:conns], l.want, d)
	if err != nil {
		return one, err
	}
	own = processorTime() - own
	after, err := l.server.stats()
	if err != nil {
		return one, err
	}
	if one.failed > 0 {
		return one, fmt.Errorf("%d of %d answers were wrong, such as %s", one.failed, one.calls, one.firstBad)
	}
	calls := max(1, one.calls)
	one.allocs = float64(after.Mallocs-before.Mallocs) / float64(calls)
	one.bytes = float64(after.Bytes-before.Bytes) / float64(calls)
	one.cpu = (after.CPU - before.CPU) / time.Duration(calls)
	one.clientCPU = own / time.Duration(calls)
	return one, nil
}

func (s *server) stop() error {
	_ = s.in.Close() // the process ends at the end of its input
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("server process: %w", err)
	}
	return nil
}

// runServer serves in the named role until the end of in.
func runServer(ctx context.Context, name, profiles string, in io.Reader, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if profiles != "" {
		stop, err := profile(filepath.Join(profiles, name))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	ln, err := app.ListenLoopback(ctx)
	if err != nil {
		return err
	}
	h := hello{Addr: ln.Addr().String(), Path: "/mcp", Token: "none", MCP: name != "nethttp"}
	var serve func() error
	switch name {
	case "nethttp":
		serve = serveHTTP(ctx, ln, plainHTTP())
	case "gosdk":
		serve = serveHTTP(ctx, ln, bareSDK())
	case "mcpgo":
		serve = serveHTTP(ctx, ln, bareMCPGo())
	case "atlas", "atlas-none":
		dir, err := os.MkdirTemp("", "atlas-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
		a, token, err := openAtlas(ctx, ln, dir, name == "atlas-none")
		if err != nil {
			return err
		}
		defer a.Close() //nolint:errcheck // the process ends
		h.Token, serve = token, func() error { return a.Serve(ctx, ln) }
	default:
		return fmt.Errorf("no server %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(abouts)), ", "))
	}
	served := make(chan error, 1)
	go func() { served <- serve() }()
	enc := json.NewEncoder(out)
	if err := enc.Encode(h); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if err := enc.Encode(stats{m.Mallocs, m.TotalAlloc, processorTime()}); err != nil {
			return err
		}
	}
	cancel()
	return <-served
}

// profile records where this process spends time and memory until stop is called.
func profile(path string) (stop func() error, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	cpu, err := os.Create(path + ".cpu.pprof") //nolint:gosec // the operator's own path
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, errors.Join(err, cpu.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		heap, err := os.Create(path + ".heap.pprof") //nolint:gosec // the operator's own path
		if err != nil {
			return errors.Join(err, cpu.Close())
		}
		return errors.Join(pprof.Lookup("allocs").WriteTo(heap, 0), heap.Close(), cpu.Close())
	}, nil
}

func serveHTTP(ctx context.Context, ln net.Listener, h http.Handler) func() error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	return func() error {
		go func() { <-ctx.Done(); _ = srv.Close() }() // the process ends
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// benchConfig is the default configuration with limits that a benchmark does not run into. Cursor
// keys, audit log and state are real files in a temporary folder; the audit log is written.
const benchConfig = `
demo_data: false
sources: {}
tools: {files: []}
roles: {bench: ["tool:memory:read"]}
policy: {file: policy.yaml}
flood: {rate: 100000000, per: 1m, burst: 10000000}
ratelimit:
  caller: {rate: 100000000, per: 1m, burst: 10000000}
  tool: {rate: 100000000, per: 1m, burst: 10000000}
  tenant: {rate: 100000000, per: 1m, burst: 10000000}
`

const benchPolicy = `
rules:
  - id: bench
    subjects: ["role:bench"]
    actions: ["tool:memory:read"]
    resources: ["tenant:*/memory/*"]
  - id: no-such-order
    subjects: ["*"]
    actions: ["tool:memory:read"]
    resources: ["tenant:*/memory/*"]
    effect: deny
    when: context.args.order_id == "o_0"
`

func openAtlas(ctx context.Context, ln net.Listener, dir string, bare bool) (*app.App, string, error) {
	for name, data := range map[string]string{"atlas.yaml": benchConfig, "policy.yaml": benchPolicy} {
		if err := os.WriteFile(dir+"/"+name, []byte(data), 0o600); err != nil {
			return nil, "", err
		}
	}
	o := app.Options{
		ConfigFile: dir + "/atlas.yaml", DataDir: dir + "/data", PublicURL: "http://" + ln.Addr().String(), LogLevel: "error", LogTo: os.Stderr,
		ExtraTools: func(atlas.Handler) []*atlas.Tool { return memoryTools() },
	}
	if bare {
		keep := []string{"registry", "invoke"}
		o.EditStages = func(all []app.NamedStage) []app.NamedStage {
			var out []app.NamedStage
			for _, s := range all {
				for _, k := range keep {
					if s.Name == k {
						out = append(out, s)
					}
				}
			}
			return out
		}
	}
	a, err := app.Open(ctx, o)
	if err != nil {
		return nil, "", err
	}
	token, err := a.Token(app.TokenRequest{Tenant: "acme", Subject: "bench", Roles: []string{"bench"}})
	return a, token, err
}

// memoryTools are the same tools that the bare servers have, with what Atlas needs to know of them.
func memoryTools() []*atlas.Tool {
	tools := make([]*atlas.Tool, benchTools)
	for i := range tools {
		tools[i] = &atlas.Tool{
			Name: toolNameOf(i), Level: atlas.Atomic, Version: "1", Source: "memory", ReadOnly: true, Idempotent: true, Reads: atlas.ReadsPrivate,
			Description: toolDescription, Scopes: []string{"tool:memory:read"}, Timeout: 5 * time.Second,
			Input: json.RawMessage(inputSchema), Output: json.RawMessage(outputSchema),
			Resource: func(atlas.Call) string { return "memory/order" },
			Run: func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{Structured: json.RawMessage(answer)}, nil
			},
		}
	}
	return tools
}
