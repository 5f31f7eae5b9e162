//go:build unix

package servers

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// How long a process has to end, in order or by force, and how often what cannot be waited for is looked at.
const (
	grace = 20 * time.Second
	tick  = 20 * time.Millisecond
)

// A process is a program that runs, with what it has started.
type process struct {
	pid int
	id  string // see identity
	end syscall.Signal
	// grace is how long it may take to end in order.
	grace time.Duration
	// ended is closed when it has ended and was waited for; nil if it is not this process's child.
	ended chan struct{}
	err   error // of its end; read after ended
}

// launch starts the command. Linux sends the death signal when the thread that started the process
// ends, not the whole program, so one goroutine keeps its thread from the start to the process's end.
func launch(cmd *exec.Cmd, end syscall.Signal) (*process, error) {
	p := &process{end: end, grace: grace, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	p.id = identity(p.pid) // still its own: nobody has waited for it, or it has ended at once
	return p, nil
}

// alive reports whether it runs. A number that the system has given to another process since is not it.
func (p *process) alive() bool {
	if p == nil || p.pid <= 1 || p.id == "" {
		return false
	}
	if p.ended != nil {
		select {
		case <-p.ended:
			return false
		default:
		}
	}
	return identity(p.pid) == p.id
}

// signal sends the signal to the process alone, if it is alive.
func (p *process) signal(sig syscall.Signal) error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send signal %d to process %d: %w", sig, p.pid, err)
	}
	return nil
}

// wait waits until it has ended, or the context has.
func (p *process) wait(ctx context.Context) error {
	if p.ended != nil {
		select {
		case <-p.ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return until(ctx, func() bool { return !p.alive() })
}

// stop makes it end: in order, and by force with all that it has started if that takes too long.
func (p *process) stop() error {
	if !p.alive() {
		return nil
	}
	family := p.family()
	err := p.signal(p.end)
	err = errors.Join(err, p.signal(syscall.SIGCONT)) // one that is paused would never see it
	ctx, cancel := context.WithTimeout(context.Background(), p.grace)
	defer cancel()
	if p.wait(ctx) != nil {
		return errors.Join(err, p.kill())
	}
	for _, child := range family {
		err = errors.Join(err, child.kill())
	}
	return err
}

// kill ends it and all that it has started, at once, and waits until they are gone.
func (p *process) kill() error {
	// Stopped first, so that it starts nothing more while its children are looked for.
	err := p.signal(syscall.SIGSTOP)
	family := p.family()
	err = errors.Join(err, p.signal(syscall.SIGKILL))
	for _, child := range family {
		err = errors.Join(err, child.signal(syscall.SIGKILL))
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, q := range append(family, p) {
		if q.wait(ctx) != nil {
			err = errors.Join(err, fmt.Errorf("process %d does not end", q.pid))
		}
	}
	return err
}

// pause stops it and its children until resume, and returns when they stand still.
func (p *process) pause(ctx context.Context) error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	family := append(p.family(), p)
	for _, q := range family {
		if err := q.signal(syscall.SIGSTOP); err != nil {
			return err
		}
	}
	return until(ctx, func() bool {
		for _, q := range family {
			if q.alive() && !stopped(q.pid) {
				return false
			}
		}
		return true
	})
}

// resume lets it and its children go on.
func (p *process) resume() error {
	var err error
	for _, q := range append(p.family(), p) {
		err = errors.Join(err, q.signal(syscall.SIGCONT))
	}
	return err
}

// family returns the processes that descend from it.
func (p *process) family() []*process {
	if !p.alive() {
		return nil
	}
	all, err := parents()
	if err != nil {
		return nil
	}
	var found []*process
	for pid := range all {
		// The table was not read in one moment, so a number used twice could make a ring of it.
		for up, steps := all[pid], 0; up > 1 && steps < len(all); up, steps = all[up], steps+1 {
			if up == p.pid {
				if id := identity(pid); id != "" {
					found = append(found, &process{pid: pid, id: id})
				}
				break
			}
		}
	}
	return found
}

// until waits until ok returns true.
func until(ctx context.Context, ok func() bool) error {
	if ok() {
		return nil
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
			if ok() {
				return nil
			}
		}
	}
}
