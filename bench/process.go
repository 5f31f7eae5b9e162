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

// setup is the first line of a server process's input; hello is what it says then; stats is its answer to
// each further line.
type (
	setup struct {
		Database database `json:"database"` // of the SQL rows
		Toolbox  string   `json:"toolbox"`  // the program
	}
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
		RSS     int64         `json:"rss"` // bytes of memory that it holds; 0 where it cannot be told
	}
)

// start runs this program again as a server.
func start(ctx context.Context, name string, o options, l *lab) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: exec.CommandContext(ctx, self, "-serve", name, "-profiles", o.profiles)}
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
	given := setup{}
	if l != nil {
		given = setup{Database: l.db, Toolbox: l.toolbox}
	}
	if err := errors.Join(json.NewEncoder(s.in).Encode(given), s.read(&s.hello)); err != nil {
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
	one.rss = float64(after.RSS)
	return one, nil
}

func (s *server) stop() error {
	_ = s.in.Close() // the process ends at the end of its input
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("server process: %w", err)
	}
	return nil
}

// A serving is a server that is ready to serve.
type serving struct {
	hello    hello
	serve    func() error // until its context ends
	counters func() stats // nil: this process's
	close    func() error // nil: nothing is left
}

// servings are the servers by name.
var servings = map[string]func(context.Context, net.Listener, setup) (serving, error){
	"nethttp": func(ctx context.Context, ln net.Listener, _ setup) (serving, error) {
		return serving{hello: plainHello(ln), serve: serveHTTP(ctx, ln, plainHTTP())}, nil
	},
	"gosdk": func(ctx context.Context, ln net.Listener, _ setup) (serving, error) {
		return serving{hello: bareHello(ln), serve: serveHTTP(ctx, ln, bareSDK())}, nil
	},
	"mcpgo": func(ctx context.Context, ln net.Listener, _ setup) (serving, error) {
		return serving{hello: bareHello(ln), serve: serveHTTP(ctx, ln, bareMCPGo())}, nil
	},
	"atlas": func(ctx context.Context, ln net.Listener, _ setup) (serving, error) {
		return serveMemory(ctx, ln, false)
	},
	"atlas-none": func(ctx context.Context, ln net.Listener, _ setup) (serving, error) {
		return serveMemory(ctx, ln, true)
	},
	"sql-pgx": func(ctx context.Context, ln net.Listener, s setup) (serving, error) {
		return servePgx(ctx, ln, s.Database, sqlBatch)
	},
	"sql-pgx-set": func(ctx context.Context, ln net.Listener, s setup) (serving, error) {
		return servePgx(ctx, ln, s.Database, sqlRecipe)
	},
	"sql-toolbox": func(ctx context.Context, ln net.Listener, s setup) (serving, error) {
		return serveToolbox(ctx, ln, s.Database, s.Toolbox)
	},
	"sql-atlas": func(ctx context.Context, ln net.Listener, s setup) (serving, error) {
		return serveAtlasSQL(ctx, ln, s.Database)
	},
}

func bareHello(ln net.Listener) hello {
	return hello{Addr: ln.Addr().String(), Path: "/mcp", Token: "none", MCP: true}
}

func plainHello(ln net.Listener) hello {
	return hello{Addr: ln.Addr().String(), Path: "/mcp", Token: "none"}
}

// runServer serves in the named role until the end of in.
func runServer(ctx context.Context, name, profiles string, in io.Reader, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	open, known := servings[name]
	if !known {
		return fmt.Errorf("no server %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(servings)), ", "))
	}
	lines := bufio.NewScanner(in)
	var given setup
	if !lines.Scan() {
		return errors.Join(errors.New("there is no setup"), lines.Err())
	}
	if err := json.Unmarshal(lines.Bytes(), &given); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	ln, err := app.ListenLoopback(ctx)
	if err != nil {
		return err
	}
	s, err := open(ctx, ln, given)
	if err != nil {
		return err
	}
	if s.close != nil {
		defer func() { err = errors.Join(err, s.close()) }()
	}
	if s.counters == nil {
		s.counters = ownStats
	}
	served := make(chan error, 1)
	go func() { served <- s.serve() }()
	settle(ctx, s.counters)
	if profiles != "" {
		stop, err := profile(filepath.Join(profiles, name))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	enc := json.NewEncoder(out)
	if err := enc.Encode(s.hello); err != nil {
		return err
	}
	for lines.Scan() {
		if err := enc.Encode(s.counters()); err != nil {
			return err
		}
	}
	cancel()
	return <-served
}

// settle waits until a server that has started has nothing to do: Atlas, for one, makes ready in the
// background what the first SQL of an agent would wait for.
func settle(ctx context.Context, counters func() stats) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const look = 200 * time.Millisecond
	again := time.NewTicker(look)
	defer again.Stop()
	for before, quiet := counters().CPU, 0; quiet < 2; {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		now := counters().CPU
		if quiet++; now-before > look/10 {
			quiet = 0
		}
		before = now
	}
}

// ownStats are this process's counters.
func ownStats() stats {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return stats{m.Mallocs, m.TotalAlloc, processorTime(), processStats(os.Getpid()).RSS}
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

// benchLimits are limits that a benchmark does not run into; everything else is the default
// configuration. Cursor keys, audit log and state are real files in a temporary folder; the audit log
// is written.
const benchLimits = `
demo_data: false
policy: {file: policy.yaml}
flood: {rate: 100000000, per: 1m, burst: 10000000}
ratelimit:
  caller: {rate: 100000000, per: 1m, burst: 10000000}
  tool: {rate: 100000000, per: 1m, burst: 10000000}
  tenant: {rate: 100000000, per: 1m, burst: 10000000}
`

const benchConfig = benchLimits + `
sources: {}
tools: {files: []}
roles: {bench: ["tool:memory:read"]}
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

// serveMemory is Atlas with tools in memory, with all stages on or with as good as none.
func serveMemory(ctx context.Context, ln net.Listener, bare bool) (serving, error) {
	o := app.Options{ExtraTools: func(atlas.Handler) []*atlas.Tool { return memoryTools() }}
	if bare {
		keep := []string{"registry", "invoke"}
		o.EditStages = func(all []app.NamedStage) []app.NamedStage {
			return slices.DeleteFunc(slices.Clone(all), func(s app.NamedStage) bool { return !slices.Contains(keep, s.Name) })
		}
	}
	return serveAtlas(ctx, ln, map[string]string{"atlas.yaml": benchConfig, "policy.yaml": benchPolicy}, o)
}

// serveAtlas is Atlas with a configuration of these files.
func serveAtlas(ctx context.Context, ln net.Listener, files map[string]string, o app.Options) (_ serving, err error) {
	dir, err := os.MkdirTemp("", "atlas-bench-")
	if err != nil {
		return serving{}, err
	}
	clean := func() error { return os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			err = errors.Join(err, clean())
		}
	}()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			return serving{}, err
		}
	}
	o.ConfigFile, o.DataDir, o.PublicURL = filepath.Join(dir, "atlas.yaml"), filepath.Join(dir, "data"), "http://"+ln.Addr().String()
	o.LogLevel, o.LogTo = "error", os.Stderr
	a, err := app.Open(ctx, o)
	if err != nil {
		return serving{}, err
	}
	h := bareHello(ln)
	if h.Token, err = a.Token(app.TokenRequest{Tenant: sqlTenant, Subject: "bench", Roles: []string{"bench"}}); err != nil {
		return serving{}, errors.Join(err, a.Close())
	}
	return serving{
		hello: h,
		serve: func() error { return a.Serve(ctx, ln) },
		close: func() error { return errors.Join(a.Close(), clean()) },
	}, nil
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
