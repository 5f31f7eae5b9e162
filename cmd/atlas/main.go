// Command atlas is the whole program: server, copilot and operator's tools. See atlas --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/atlas-mcp/atlas/internal/cli"
)

var version = "dev" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Program{
		Name: "atlas", Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.LookupEnv,
		Exists:   func(path string) bool { _, err := os.Stat(path); return err == nil },
		ReadFile: os.ReadFile, Hangup: hangups(ctx), Version: version,
		Terminal: term.IsTerminal(int(os.Stdout.Fd())),
	}.Run(ctx, os.Args[1:])
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
