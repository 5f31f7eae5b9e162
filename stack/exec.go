//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// cacheEnv tells tests that own a server where its files are; see package testenv.
const cacheEnv = "ATLAS_TEST_CACHE"

// execWord starts the servers, runs the command, and stops them. A server whose variable is set already is
// somebody else's: it is used as it is.
func execWord(ctx context.Context, p *program, args []string) (int, error) {
	if len(args) == 0 {
		return 2, errors.New("exec needs a command: go run ./stack exec -- go test ./…")
	}
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
	var own []servers.Kind
	given := map[string]string{}
	for _, k := range kinds {
		addr, err := p.given(k)
		switch {
		case err != nil:
			return 1, err
		case addr != "":
			given[k.Name] = addr
			fmt.Fprintf(p.err, "%s is not started: %s is set\n", k.Name, k.Env)
		default:
			own = append(own, k)
		}
	}
	if err := servers.Sweep(); err != nil {
		fmt.Fprintln(p.err, "what earlier runs have left cannot be removed:", err) // and does no harm
	}
	all, err := servers.StartAll(ctx, cache, own, given, func(servers.Kind) servers.Options { return servers.Options{} }, p.err)
	if err != nil {
		return 1, err
	}
	env := append([]string{}, p.env...)
	env = append(env, cacheEnv+"="+cache.Dir())
	for i, k := range own {
		env = append(env, k.Env+"="+all[i].URL())
	}
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.keep(watching, all)
	}()
	code, err := p.command(ctx, env, args)
	stop()
	<-watched
	return code, errors.Join(err, servers.CloseAll(all))
}

// keep starts servers again that end by themselves, with their data and on their port, and says so: one that
// crashes must not take all tests that come after with it.
func (p *program) keep(ctx context.Context, all []*servers.Server) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, s := range all {
			if s.Alive() || ctx.Err() != nil {
				continue
			}
			fmt.Fprintf(p.err, "%s has ended by itself, and is started again; its log: %s\n", s.Record().Name, s.LogFile())
			if err := s.Restart(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintf(p.err, "%s: %v\n", s.Record().Name, err)
			}
		}
	}
}

// given returns host and port of the server that the kind's variable tells of, if it is set.
func (p *program) given(k servers.Kind) (string, error) {
	value := lookup(p.env, k.Env)
	if value == "" {
		return "", nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("%s is not a URL", k.Env)
	}
	return u.Host, nil
}

// lookup returns the value of the variable; the last one counts.
func lookup(env []string, name string) string {
	value := ""
	for _, e := range env {
		if v, found := strings.CutPrefix(e, name+"="); found {
			value = v
		}
	}
	return value
}

// command runs the command to its end and returns its exit code, by the shell's convention if a signal ended
// it. It gets the terminal's interrupt by itself, as it is in our group; when ctx ends it is asked to
// end, once more and for the case that only we were signalled, and made to after a while.
func (p *program) command(ctx context.Context, env, args []string) (int, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // what we were asked to run
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, p.out, p.err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return 127, err // it could not be started
	}
	if status, known := cmd.ProcessState.Sys().(syscall.WaitStatus); known && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
