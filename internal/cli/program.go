// Package cli holds the commands of the atlas binary, one file each. It parses flags, opens the app,
// and prints for people or, with --json, for programs; what the commands do is done by the parts
// behind internal/app. It touches the process only through a Program.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

// Exit codes of every command.
const (
	exitOK    = 0
	exitNo    = 1 // the command ran, and the answer is no: not approved, not verified, refused
	exitUsage = 2 // wrong flags, arguments or configuration
)

// A Program is the process that a command runs in.
type Program struct {
	Name     string // of the binary, for help texts
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	Env      func(name string) (string, bool)
	Exists   func(path string) bool // whether a file is there
	ReadFile func(path string) ([]byte, error)
	Hangup   <-chan struct{} // gets a value when the configuration is to be read anew; may be nil
	Terminal bool            // Stdout is a terminal: colours and live progress
	Version  string
}

// globals are the flags of every command.
type globals struct {
	Config   string           `help:"Configuration file (default: config/atlas.yaml if it is there, else the one built in)." placeholder:"FILE" type:"path"`
	DataDir  string           `help:"Where Atlas keeps its data and state (default: data_dir of the configuration)." placeholder:"DIR" type:"path"`
	LogLevel string           `help:"Least level that is logged: debug, info, warn or error." enum:"debug,info,warn,error," default:"" placeholder:"LEVEL"`
	JSON     bool             `help:"Print JSON for programs instead of text for people."`
	Version  kong.VersionFlag `help:"Print the version and exit."`
}

// commands is the command line.
type commands struct {
	globals

	Demo       demoCmd       `cmd:"" help:"Serve the demo company, or answer one question on it with --ask."`
	Serve      serveCmd      `cmd:"" help:"Serve MCP over HTTP, or over stdio with --stdio."`
	Copilot    copilotCmd    `cmd:"" help:"Answer a support question with checked citations."`
	Tools      toolsCmd      `cmd:"" help:"List, call and weigh tools."`
	Prompts    promptsCmd    `cmd:"" help:"List prompts and fill them in."`
	Resources  resourcesCmd  `cmd:"" help:"List resources and read them."`
	Policy     policyCmd     `cmd:"" help:"Check the policy and explain its decisions."`
	Approvals  approvalsCmd  `cmd:"" help:"See and decide what waits for a person."`
	Memory     memoryCmd     `cmd:"" help:"See and forget what is remembered of customers."`
	Cache      cacheCmd      `cmd:"" help:"Forget cached answers."`
	Upstream   upstreamCmd   `cmd:"" help:"See and approve what upstream MCP servers define."`
	Audit      auditCmd      `cmd:"" help:"Verify and search the audit log."`
	Token      tokenCmd      `cmd:"" help:"Sign a token with the development issuer, or say why one is refused."`
	Issuer     issuerCmd     `cmd:"" help:"Look after the embedded authorization server: its keys, passwords of its users."`
	Migrate    migrateCmd    `cmd:"" help:"Prepare the stores: schema, roles, indexes."`
	Seed       seedCmd       `cmd:"" help:"Prepare the stores and load the demo company into them."`
	Doctor     doctorCmd     `cmd:"" help:"Look at everything that Atlas depends on, and say what mends what is wrong."`
	Health     healthCmd     `cmd:"" help:"Ask a running server whether it is ready, for health checks of containers."`
	Verify     verifyCmd     `cmd:"" help:"Prove on this deployment what Atlas promises."`
	Configure  configCmd     `cmd:"" name:"config" help:"Check the configuration and list the settings."`
	Completion completionCmd `cmd:"" help:"Print a completion script for bash, zsh or fish."`
	Version    versionCmd    `cmd:"" name:"version" help:"Print the version."`
}

// An exitError ends a command with a code. Its message, if any, goes to the standard error.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func no() error { return &exitError{exitNo, nil} }

// Run runs one command and returns its exit code.
func (p Program) Run(ctx context.Context, args []string) int {
	var cmds commands
	exited, code := false, exitOK
	parser, err := kong.New(&cmds,
		kong.Name(p.Name),
		kong.Description("Atlas puts a company's data before AI agents as one governed tool surface (MCP)."),
		kong.Writers(p.Stdout, p.Stderr),
		kong.Exit(func(c int) { exited, code = true, c }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Vars{"version": p.Version},
		kong.Bind(&p, &cmds.globals),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		return p.fail(&exitError{exitUsage, err})
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(args)
	if exited { // --help and --version
		return code
	}
	if err != nil {
		return p.fail(&exitError{exitUsage, fmt.Errorf("%w; see %s --help", err, p.Name)})
	}
	if err := kctx.Run(parser); err != nil {
		return p.fail(err)
	}
	return exitOK
}

// fail prints an error once and returns its exit code.
func (p Program) fail(err error) int {
	code := exitNo
	if e, ok := errors.AsType[*exitError](err); ok {
		code = e.code
		if e.err == nil {
			return code
		}
	}
	if e, ok := errors.AsType[*app.ConfigError](err); ok {
		fmt.Fprintf(p.Stderr, "%s: the configuration has mistakes:\n%s\n", p.Name, indent(e.Error()))
		return exitUsage
	}
	fmt.Fprintf(p.Stderr, "%s: %s\n", p.Name, describe(err))
	return code
}

// describe returns an error for the person at the terminal. The operator's own command line may show
// causes: nothing of this crosses to an agent.
func describe(err error) string {
	e, ok := errors.AsType[*atlas.Error](err)
	if !ok {
		return err.Error()
	}
	f := e.Failure("")
	var s strings.Builder
	fmt.Fprintf(&s, "%s: %s", f.Code, f.Hint)
	if f.Code == atlas.CodeInternal && e.Err != nil {
		fmt.Fprintf(&s, ": %v", e.Err) // the operator's own terminal
	}
	for _, key := range []string{"approval_id", "rule", "argument"} {
		if v, ok := f.Context[key]; ok {
			fmt.Fprintf(&s, "\n  %s: %v", key, v)
		}
	}
	return s.String() + expected(f.Context["errors"])
}

// expected tells what the tool's schema wants where the arguments are wrong.
func expected(faults any) string {
	data, err := json.Marshal(faults)
	if err != nil {
		return ""
	}
	var list []struct {
		Path     string `json:"path"`
		Expected any    `json:"expected"`
	}
	if json.Unmarshal(data, &list) != nil { // a hint only
		return ""
	}
	var b strings.Builder
	for _, f := range list {
		if name := strings.TrimPrefix(f.Path, "/"); name != "" && f.Expected != nil {
			fmt.Fprintf(&b, "\n  %s: expected %v", name, f.Expected)
		}
	}
	return b.String()
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

// options returns what the app is opened with.
func (p *Program) options(g *globals) app.Options {
	file := g.Config
	if file == "" {
		file, _ = p.Env("ATLAS_CONFIG")
	}
	if file == "" && p.Exists("config/atlas.yaml") {
		file = "config/atlas.yaml"
	}
	return app.Options{
		ConfigFile: file, DataDir: g.DataDir, Env: p.Env, Version: p.Version, LogLevel: g.LogLevel, LogTo: p.Stderr,
	}
}

// quietly returns options that log only what is wrong, for commands that answer and end.
func (p *Program) quietly(g *globals) app.Options {
	o := p.options(g)
	if o.LogLevel == "" {
		o.LogLevel = slog.LevelWarn.String()
	}
	return o
}

// open opens the app for one command: quiet unless something is wrong.
func (p *Program) open(ctx context.Context, g *globals) (*app.App, error) {
	return app.Open(ctx, p.quietly(g))
}

// openWithoutPolicy opens the app with a policy that allows nothing, for looking at a policy file that
// may be the configured one.
func (p *Program) openWithoutPolicy(ctx context.Context, g *globals) (*app.App, error) {
	o := p.quietly(g)
	o.NoPolicy = true
	return app.Open(ctx, o)
}

// reloadOnHangup reloads the app's configuration whenever the process is told to, until the returned
// function is called.
func (p *Program) reloadOnHangup(ctx context.Context, a *app.App) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-p.Hangup:
				_ = a.Reload(ctx) // logged and audited there; the old one keeps serving
			}
		}
	}()
	return func() { cancel(); <-done }
}

// printJSON prints v as indented JSON.
func (p *Program) printJSON(v any) error {
	enc := json.NewEncoder(p.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (p *Program) printf(format string, args ...any) { fmt.Fprintf(p.Stdout, format, args...) }

func (p *Program) notef(format string, args ...any) { fmt.Fprintf(p.Stderr, format, args...) }

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(p *Program, g *globals) error {
	if g.JSON {
		return p.printJSON(map[string]string{"version": p.Version})
	}
	p.printf("atlas %s\n", p.Version)
	return nil
}
