// Command atlas-copilot is `atlas copilot` under the seed's name.
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
		Name: "atlas-copilot", Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.LookupEnv,
		Exists:   func(path string) bool { _, err := os.Stat(path); return err == nil },
		ReadFile: os.ReadFile, Version: version, Terminal: term.IsTerminal(int(os.Stdout.Fd())),
	}.Run(ctx, append([]string{"copilot"}, os.Args[1:]...))
	stop()
	os.Exit(code)
}
