// Package process runs the command line in the real process: its arguments, streams, environment and
// signals. It is the only place that touches them.
package process

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/atlas-mcp/atlas/internal/cli"
)

// Main runs the program of the given name with the process's arguments, behind those given here, and
// exits. An interrupt or SIGTERM ends the command, SIGHUP has the configuration read anew.
func Main(name, version string, args ...string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Program{
		Name: name, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.LookupEnv,
		Exists:   func(path string) bool { _, err := os.Stat(path); return err == nil },
		ReadFile: os.ReadFile, Hangup: hangups(ctx), Version: version,
		Terminal: term.IsTerminal(int(os.Stdout.Fd())),
	}.Run(ctx, append(args, os.Args[1:]...))
	stop()
	os.Exit(code)
}

// hangups passes SIGHUP on.
func hangups(ctx context.Context) <-chan struct{} {
	signals, out := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				select {
				case out <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}
