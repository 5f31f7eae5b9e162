//go:build unix

// Command stack runs the real servers that Atlas's data plane stands on, natively and on loopback: for
// one command, as `make test` does it, or in the background for a person, as `make stack` does it. See
// README.md beside this file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

func main() {
	// Nothing is begun or ended halfway: the first signal ends what runs, in order.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Environ(), standard{os.Stdin, os.Stdout, os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, "stack:", err)
	}
	stop()
	os.Exit(code)
}

// standard are the standard streams.
type standard struct {
	in       io.Reader
	out, err io.Writer
}

// A word is a command of the program.
type word struct {
	name, args, about string
	run               func(context.Context, *program, []string) (int, error)
}

func words() []word {
	return []word{
		{"exec", "[-only NAMES] -- COMMAND…", "start the servers, run the command with ATLAS_TEST_* set, stop them; its exit code", execWord},
		{"up", "[-only NAMES]", "start the servers and Atlas on them in the background, or what of them does not run", upWord},
		{"down", "", "stop them and remove their data", downWord},
		{"status", "[-json]", "what runs; exit code 1 if something does not", statusWord},
		{"env", "", "print their variables for a shell", envWord},
		{"fetch", "[-only NAMES]", "get what the servers are made of into the cache, and nothing else", fetchWord},
		{"help", "", "this", helpWord},
	}
}

// A program is what all words need.
type program struct {
	standard
	env   []string
	cache string
	state string
	only  string
	json  bool

	atlas, config string
}

// run returns the exit code: 1 if something failed, 2 if it was asked wrongly, else the command's.
func run(ctx context.Context, args, env []string, std standard) (int, error) {
	name := "help"
	if len(args) > 0 && args[0] != "-h" && args[0] != "--help" {
		name, args = args[0], args[1:]
	} else {
		args = nil
	}
	all := words()
	i := slices.IndexFunc(all, func(w word) bool { return w.name == name })
	if i < 0 {
		return 2, fmt.Errorf("there is no word %q; go run ./stack help lists them", name)
	}
	p := &program{standard: std, env: env}
	flags := flag.NewFlagSet("stack "+all[i].name, flag.ContinueOnError)
	flags.SetOutput(std.err)
	flags.StringVar(&p.cache, "cache", ".cache", "folder for what is fetched")
	flags.StringVar(&p.state, "state", filepath.Join(".cache", "stack"), "folder for what up keeps: state and logs")
	flags.StringVar(&p.only, "only", "", "these servers only, with commas between them: "+strings.Join(names(servers.Table()), ", "))
	flags.StringVar(&p.atlas, "atlas", filepath.Join("bin", "atlas"), "the program that up starts on the servers")
	flags.StringVar(&p.config, "config", filepath.Join("config", "stack.yaml"), "its configuration")
	flags.BoolVar(&p.json, "json", false, "print JSON (status)")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0, nil
		}
		return 2, nil // told by flags
	}
	return all[i].run(ctx, p, flags.Args())
}

// chosen returns the kinds that were asked for, with those that they stand before.
func (p *program) chosen() ([]servers.Kind, error) {
	if p.only == "" {
		return servers.Table(), nil
	}
	wanted := map[string]bool{}
	for name := range strings.SplitSeq(p.only, ",") {
		for name != "" {
			k, err := servers.Lookup(name)
			if err != nil {
				return nil, err
			}
			wanted[k.Name] = true
			name = k.Before
		}
	}
	return slices.DeleteFunc(servers.Table(), func(k servers.Kind) bool { return !wanted[k.Name] }), nil
}

func names(kinds []servers.Kind) []string {
	var all []string
	for _, k := range kinds {
		all = append(all, k.Name)
	}
	return all
}

func fetchWord(ctx context.Context, p *program, _ []string) (int, error) {
	kinds, err := p.chosen()
	if err != nil {
		return 2, err
	}
	cache, err := servers.OpenCache(p.cache, p.env)
	if err != nil {
		return 1, err
	}
	if err := cache.Fetch(ctx, kinds, p.err); err != nil {
		return 1, err
	}
	return 0, nil
}

func helpWord(_ context.Context, p *program, _ []string) (int, error) {
	fmt.Fprintln(p.out, "Real servers on loopback for tests and for a person. go run ./stack WORD:")
	for _, w := range words() {
		fmt.Fprintf(p.out, "  %-28s %s\n", strings.TrimSpace(w.name+" "+w.args), w.about)
	}
	fmt.Fprintln(p.out, "Servers: "+strings.Join(names(servers.Table()), ", "))
	return 0, nil
}
