//go:build unix

package servers

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long a server may take until it serves; a machine may be busy.
const patience = 2 * time.Minute

// Options are what is special about one server. The zero value is a server for a test.
type Options struct {
	// Behind is host and port of the server that it stands before; see [Kind.Before].
	Behind string
	// Args are further arguments for the program.
	Args []string
	// Log is the file that takes what the server says; default: one in its folder.
	Log string
	// Stay lets it run on when this program ends.
	Stay bool
	// Note is called as soon as the server's process runs, before it is ready; its error stops the server.
	Note func(Record) error
}

// A Server is a running server of one's own. Its methods may be called by several goroutines.
type Server struct {
	kind  Kind
	opts  Options
	place Place
	user  *syscall.Credential // nil: the same

	mu   sync.Mutex
	proc *process // nil before the first start
}

// A Record is what finds a server again that stays: see [Server.Record] and [Adopt].
type Record struct {
	Name   string   `json:"name"`
	About  string   `json:"about"`
	Env    string   `json:"env"`
	URL    string   `json:"url"`
	Port   int      `json:"port"`
	PID    int      `json:"pid"`
	ID     string   `json:"id"` // tells the process from a later one with the same number
	Dir    string   `json:"dir"`
	Files  string   `json:"files"`
	Log    string   `json:"log"`
	Behind string   `json:"behind,omitempty"`
	Args   []string `json:"args,omitempty"`
}

// Start starts a server of the kind, whose files are in the cache, and returns when it serves.
// [Server.Close] ends it and removes its data.
func Start(ctx context.Context, cache *Cache, kind Kind, opts Options) (_ *Server, err error) {
	if (kind.Before == "") != (opts.Behind == "") {
		return nil, fmt.Errorf("%s: it needs to be told of the %q that it stands before, and nothing else", kind.Name, kind.Before)
	}
	s := &Server{kind: kind, opts: opts}
	s.place = Place{Behind: opts.Behind, Args: opts.Args, Run: s.run, Write: s.write}
	if s.place.Files, err = cache.Find(kind); err != nil {
		return nil, err
	}
	if s.place.Dir, err = os.MkdirTemp("", prefix(kind)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if !opts.Stay {
		if err := claim(s.place.Dir); err != nil {
			return nil, err
		}
	}
	s.opts.Log = cmp.Or(opts.Log, filepath.Join(s.place.Dir, "log"))
	if err := s.prepare(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", kind.Name, err)
	}
	// Somebody else may take the port before the server does; then it gets another.
	const attempts = 3
	for attempt := 1; ; attempt++ {
		if s.place.Port, err = freePort(ctx); err != nil {
			return nil, err
		}
		if err = s.Restart(ctx); err == nil {
			return s, nil
		}
		if attempt == attempts || ctx.Err() != nil || s.Alive() || portFree(ctx, s.place.Port) {
			return nil, err
		}
	}
}

// Adopt returns the server that the record, which another program has kept, tells of. It may have ended;
// [Server.Alive] tells, and [Server.Restart] starts it again with its data.
func Adopt(kind Kind, r Record) (*Server, error) {
	if !filepath.IsAbs(r.Dir) || !strings.HasPrefix(filepath.Base(r.Dir), prefix(kind)) {
		return nil, fmt.Errorf("%q is not the folder of a server that was started here", r.Dir) // Close removes it
	}
	s := &Server{kind: kind, opts: Options{Behind: r.Behind, Args: r.Args, Log: r.Log, Stay: true}}
	s.place = Place{Dir: r.Dir, Files: r.Files, Port: r.Port, Behind: r.Behind, Args: r.Args, Run: s.run, Write: s.write}
	s.proc = &process{pid: r.PID, id: r.ID, end: s.end(), grace: grace}
	return s, nil
}

// prefix begins the name of a server's folder.
func prefix(kind Kind) string { return "atlas-" + kind.Name + "-" }

// Addr returns host and port.
func (r Record) Addr() string { return address(r.Port) }

// Record returns what finds the server again.
func (s *Server) Record() Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record()
}

func (s *Server) record() Record {
	r := Record{
		Name: s.kind.Name, About: s.kind.About, Env: s.kind.Env, URL: s.URL(), Port: s.place.Port,
		Dir: s.place.Dir, Files: s.place.Files, Log: s.opts.Log, Behind: s.opts.Behind, Args: s.opts.Args,
	}
	if s.proc != nil {
		r.PID, r.ID = s.proc.pid, s.proc.id
	}
	return r
}

// URL returns where the server is; it stays the same over [Server.Restart].
func (s *Server) URL() string { return s.kind.URL(s.place.Port) }

// Addr returns host and port.
func (s *Server) Addr() string { return address(s.place.Port) }

// Dir returns the server's folder.
func (s *Server) Dir() string { return s.place.Dir }

// LogFile returns the file with what the server has said.
func (s *Server) LogFile() string { return s.opts.Log }

// Alive reports whether its process runs; it may be paused.
func (s *Server) Alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc.alive()
}

// Ready asks the server once whether it serves.
func (s *Server) Ready(ctx context.Context) error {
	if !s.Alive() {
		return errors.New("it has ended")
	}
	return s.kind.Ready(ctx, s.place)
}

// Stop ends the server in order; its data and its port remain for [Server.Restart].
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	return s.proc.stop()
}

// Kill ends the server and its children at once, as a crash would, and returns when they are gone.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	return s.proc.kill()
}

// Pause stops the server where it stands: its connections stay open, and nobody answers. It returns when
// all of its processes stand still.
func (s *Server) Pause(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.proc.alive() {
		return fmt.Errorf("%s: it has ended", s.kind.Name)
	}
	return s.proc.pause(ctx)
}

// Resume lets a paused server go on.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	return s.proc.resume()
}

// Restart starts the server again with its data on its port, after stopping it in order if it runs, and
// returns when it serves. The port is below those that the system gives to outgoing connections, so
// only another server could have taken it.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		if err := s.proc.stop(); err != nil {
			return err
		}
	}
	if !portFree(ctx, s.place.Port) {
		return fmt.Errorf("%s: another program listens on %s", s.kind.Name, s.Addr())
	}
	if err := s.become(); err != nil {
		return err
	}
	if s.kind.Configure != nil {
		if err := s.kind.Configure(s.place); err != nil {
			return fmt.Errorf("%s: %w", s.kind.Name, err)
		}
	}
	c := s.kind.Command(s.place)
	log, err := os.OpenFile(s.opts.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(c.Path, c.Args...) //nolint:gosec,noctx // from the table of kinds; ended by its owner, not by a context
	cmd.Dir, cmd.Env = s.place.Dir, s.environment(c.Env)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes(s.opts.Stay, s.end())
	cmd.SysProcAttr.Credential = s.user
	proc, err := launch(cmd, s.end())
	if err = errors.Join(err, log.Close()); err != nil {
		return fmt.Errorf("%s: start it: %w", s.kind.Name, err)
	}
	s.proc = proc
	if s.opts.Note != nil {
		if err := s.opts.Note(s.record()); err != nil {
			return errors.Join(err, proc.stop())
		}
	}
	return s.ready(ctx)
}

// ready waits until the server serves.
func (s *Server) ready(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	err := until(limited, func() bool {
		once, cancel := context.WithTimeout(limited, 5*time.Second)
		defer cancel()
		if last = s.kind.Ready(once, s.place); last == nil {
			return true
		}
		return !s.proc.alive()
	})
	switch {
	case err == nil && s.proc.alive():
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		return fmt.Errorf("%s ended before it was ready:%s", s.kind.Name, tail(s.opts.Log))
	default:
		return fmt.Errorf("%s is not ready after %s: %w; it said:%s", s.kind.Name, patience, last, tail(s.opts.Log))
	}
}

// Close ends the server in order and removes its folder.
func (s *Server) Close() error {
	if err := s.Stop(); err != nil {
		return err // its files stay for whoever looks into it
	}
	return os.RemoveAll(s.place.Dir)
}

// prepare makes the folder ready.
func (s *Server) prepare(ctx context.Context) error {
	if err := s.become(); err != nil {
		return err
	}
	if s.user != nil {
		if !reachable(s.place.Dir) {
			return fmt.Errorf("it runs as user %d, who cannot enter %s; set TMPDIR to a folder that is open to all", s.user.Uid, s.place.Dir)
		}
		if err := os.Chown(s.place.Dir, int(s.user.Uid), int(s.user.Gid)); err != nil {
			return err
		}
		if s.place.Files != "" && !reachable(filepath.Join(s.place.Files, "file")) {
			closer := filepath.Join(s.place.Dir, "files")
			if err := copyFor(s.user, s.place.Files, closer); err != nil {
				return err
			}
			s.place.Files = closer
		}
	}
	if s.kind.Prepare == nil {
		return nil
	}
	return s.kind.Prepare(ctx, s.place)
}

// become finds whom the server runs as.
func (s *Server) become() (err error) {
	if s.kind.Unprivileged && s.user == nil {
		s.user, err = unprivileged()
	}
	return err
}

// run runs a program to its end, as the server's user; see [Place.Run].
func (s *Server) run(ctx context.Context, c Command) error {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...) //nolint:gosec // from the table of kinds
	cmd.Dir, cmd.Env = s.place.Dir, s.environment(c.Env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.user}
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(c.Path), cmp.Or(context.Cause(ctx), err), bytes.TrimSpace(out))
	}
	return nil
}

// write writes a file for the server's user; see [Place.Write].
func (s *Server) write(name, text string) error {
	file := filepath.Join(s.place.Dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil || s.user == nil {
		return err
	}
	return os.Chown(file, int(s.user.Uid), int(s.user.Gid))
}

// environment returns the server's environment; see [Command].
func (s *Server) environment(more []string) []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + s.place.Dir, "TMPDIR=" + s.place.Dir, "LANG=C", "LC_ALL=C", "TZ=UTC",
	}, more...)
}

func (s *Server) end() syscall.Signal { return cmp.Or(s.kind.Stop, syscall.SIGTERM) }

// tail returns the last lines of the file, for an error.
func tail(file string) string {
	const most = 20
	data, err := os.ReadFile(file) //nolint:gosec // our own
	if err != nil {
		return " " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "\n  " + strings.Join(lines[max(0, len(lines)-most):], "\n  ")
}
