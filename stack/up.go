//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// upWord starts what does not run yet. A server that has ended is started again, with its data and on its
// port, so that whoever knows its URL need not be told.
func upWord(ctx context.Context, p *program, _ []string) (_ int, err error) {
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
	s, err := openStanding(ctx, p)
	if err != nil {
		return 1, err
	}
	defer s.unlock()
	if err := s.revive(ctx, p.err); err != nil {
		return 1, err
	}
	if err := s.add(ctx, cache, kinds, p.err); err != nil {
		return 1, err
	}
	if err := s.addAtlas(ctx, p, cache); err != nil {
		return 1, err
	}
	if err := p.show(ctx, s); err != nil {
		return 1, err
	}
	fmt.Fprint(p.out, next)
	return 0, nil
}

// next is what a person may do then.
const next = `
In this shell:   eval "$(go run ./stack env)"
Ask a question:  bin/atlas copilot "Why was the refund on order o_9002 for CUST-1001 delayed?"
Look at it all:  bin/atlas --config config/stack.yaml doctor
Attack it:       bin/atlas --config config/stack.yaml verify isolation
Stop it:         make stack-down
`

// revive starts the servers again that should run and do not.
func (s *standing) revive(ctx context.Context, say io.Writer) error {
	all, err := s.adopt()
	if err != nil {
		return err
	}
	for _, own := range all {
		if own.Alive() {
			continue
		}
		name := own.Record().Name
		fmt.Fprintf(say, "%s has ended; it is started again\n", name)
		err := own.Restart(ctx)
		if err := errors.Join(err, s.note(own.Record())); err != nil {
			return err
		}
	}
	return nil
}

// add starts the servers that are not there.
func (s *standing) add(ctx context.Context, cache *servers.Cache, kinds []servers.Kind, say io.Writer) error {
	given := map[string]string{}
	for _, r := range s.records {
		given[r.Name] = r.Addr()
		kinds = slices.DeleteFunc(slices.Clone(kinds), func(k servers.Kind) bool { return k.Name == r.Name })
	}
	if len(kinds) == 0 {
		return nil
	}
	options := func(k servers.Kind) servers.Options {
		return servers.Options{Stay: true, Log: s.log(k.Name), Note: s.note}
	}
	for _, k := range kinds {
		if err := os.Remove(s.log(k.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err // what an earlier one said would only mislead
		}
	}
	_, err := servers.StartAll(ctx, cache, kinds, given, options, say)
	if err != nil {
		for _, k := range kinds { // none of them is left
			err = errors.Join(err, s.forget(k.Name))
		}
	}
	return err
}

// downWord stops everything and removes its data.
func downWord(ctx context.Context, p *program, _ []string) (int, error) {
	s, err := openStanding(ctx, p)
	if err != nil {
		return 1, err
	}
	defer s.unlock()
	all, err := s.adopt()
	if err != nil {
		return 1, err
	}
	if len(all) == 0 {
		fmt.Fprintln(p.out, "nothing runs")
		return 0, nil
	}
	for _, own := range slices.Backward(all) { // PgBouncer before what it stands before
		name := own.Record().Name
		if err := own.Close(); err != nil {
			return 1, fmt.Errorf("%s: %w", name, err)
		}
		if err := s.forget(name); err != nil {
			return 1, err
		}
		fmt.Fprintf(p.out, "stopped %s\n", name)
	}
	return 0, os.RemoveAll(filepath.Join(s.dir, "data")) // Atlas's
}

// A condition is how one server of the stack is.
type condition struct {
	servers.Record
	Ready bool   `json:"ready"`
	Error string `json:"error,omitempty"`
}

// statusWord tells how the stack is: 0 if all of it serves, 1 if something does not or nothing runs.
func statusWord(ctx context.Context, p *program, _ []string) (int, error) {
	s, err := readStanding(p)
	if err != nil {
		return 1, err
	}
	all, err := conditions(ctx, s)
	if err != nil {
		return 1, err
	}
	if p.json {
		err = json.NewEncoder(p.out).Encode(all)
	} else {
		err = table(p.out, all)
	}
	if err != nil || len(all) == 0 || slices.ContainsFunc(all, func(c condition) bool { return !c.Ready }) {
		return 1, err
	}
	return 0, nil
}

// show prints the table.
func (p *program) show(ctx context.Context, s *standing) error {
	all, err := conditions(ctx, s)
	if err != nil {
		return err
	}
	return table(p.out, all)
}

func conditions(ctx context.Context, s *standing) ([]condition, error) {
	all, err := s.adopt()
	if err != nil {
		return nil, err
	}
	found := []condition{}
	for _, own := range all {
		c := condition{Record: own.Record(), Ready: true}
		if err := own.Ready(ctx); err != nil {
			c.Ready, c.Error = false, err.Error()
		}
		found = append(found, c)
	}
	return found, nil
}

func table(w io.Writer, all []condition) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "nothing runs; make stack starts it")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "server\tready\tpid\turl\twhat")
	for _, c := range all {
		ready := "yes"
		if !c.Ready {
			ready = "NO"
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%s\n", c.Name, ready, c.PID, c.URL, c.About)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, c := range all {
		if c.Error != "" {
			fmt.Fprintf(w, "%s: %s (%s)\n", c.Name, c.Error, c.Log)
		}
	}
	return nil
}

// envWord prints the variables of the stack for a shell.
func envWord(_ context.Context, p *program, _ []string) (int, error) {
	s, err := readStanding(p)
	if err != nil {
		return 1, err
	}
	all, err := s.adopt()
	if err != nil {
		return 1, err
	}
	if len(all) == 0 {
		return 1, errors.New("nothing runs; make stack starts it")
	}
	cache, err := servers.OpenCache(p.cache, p.env)
	if err != nil {
		return 1, err
	}
	fmt.Fprintf(p.out, "export %s=%s\n", cacheEnv, quote(cache.Dir()))
	for _, own := range all {
		r := own.Record()
		if r.Name != atlasName {
			fmt.Fprintf(p.out, "export %s=%s\n", r.Env, quote(r.URL))
		}
	}
	for _, v := range s.variables() {
		fmt.Fprintf(p.out, "export %s=%s\n", v.name, quote(v.value))
	}
	return 0, nil
}

// quote quotes a value for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
