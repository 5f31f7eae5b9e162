package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/interop/npm"
)

//go:embed clients
var clientFiles embed.FS

// persona is who all clients act as: the demo company's support copilot.
const persona = "copilot@acme"

// A lab is a running Atlas and what the trials need to reach it.
type lab struct {
	*atlasServer
	cache *npm.Cache
	env   []string
	dir   string // temporary
	out   string // logs and screenshots
	say   io.Writer

	good, expired string   // tokens of the persona
	tools         []string // what the persona may see

	// Each installs something and returns its folder.
	js       func() (string, error)
	python   func(version string) (string, error)
	keycloak func() (string, error)

	installing sync.Mutex // one at a time
}

// An atlasServer is Atlas in this process, with the default configuration, on a free port.
type atlasServer struct {
	app  *app.App
	url  string // of the endpoint
	base string // without path
	log  *os.File
	stop context.CancelFunc
	done chan error
}

// startAtlas starts Atlas on a free port.
func startAtlas(ctx context.Context, dir, logFile, overlay string) (*atlasServer, error) {
	ln, err := app.ListenLoopback(ctx)
	if err != nil {
		return nil, err
	}
	return startAtlasOn(ctx, ln, dir, logFile, overlay)
}

// startAtlasOn starts Atlas on the listener, with overlay laid over the default configuration.
func startAtlasOn(ctx context.Context, ln net.Listener, dir, logFile, overlay string) (_ *atlasServer, err error) {
	ctx, stop := context.WithCancel(ctx)
	s := &atlasServer{stop: stop, done: make(chan error, 1)}
	s.base = "http://" + ln.Addr().String()
	s.url = s.base + "/mcp"
	if s.log, err = os.Create(logFile); err != nil { //nolint:gosec // the folder is the user's choice
		stop()
		return nil, errors.Join(err, ln.Close())
	}
	s.app, err = app.Open(ctx, app.Options{
		DataDir: dir, PublicURL: s.base, LogLevel: "info", LogTo: s.log, Overlay: []byte(overlay),
	})
	if err != nil {
		stop()
		return nil, errors.Join(err, ln.Close(), s.log.Close())
	}
	go func() { s.done <- s.app.Serve(ctx, ln) }()
	return s, nil
}

func (s *atlasServer) close() error {
	s.stop()
	return errors.Join(<-s.done, s.app.Close(), s.log.Close())
}

func openLab(ctx context.Context, cache, out string, env []string, say io.Writer) (_ *lab, err error) {
	l := &lab{env: env, say: say}
	if l.out, err = filepath.Abs(out); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.out, 0o750); err != nil {
		return nil, err
	}
	if l.dir, err = os.MkdirTemp("", "atlas-interop-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(l.dir))
		}
	}()
	if l.cache, err = npm.Open(ctx, cache, env); err != nil {
		return nil, err
	}
	l.js = sync.OnceValues(func() (string, error) { return l.installJS(ctx) })
	l.keycloak = sync.OnceValues(func() (string, error) { return l.installKeycloak(ctx, l.cache.Dir()) })
	l.python = func(version string) (string, error) {
		l.installing.Lock() // two at once would write into one folder
		defer l.installing.Unlock()
		return l.installPython(ctx, version)
	}
	// No allowance for clocks that differ: there is one clock, and tokens here expire soon.
	l.atlasServer, err = startAtlas(ctx, filepath.Join(l.dir, "data"), filepath.Join(l.out, "atlas.log"), "auth: {clock_skew: 1ms}\n")
	if err != nil {
		return nil, err
	}
	if err := l.prepare(ctx); err != nil {
		return nil, errors.Join(err, l.atlasServer.close())
	}
	return l, nil
}

// prepare signs the tokens, waits until one of them has expired, and asks what the persona may see.
func (l *lab) prepare(ctx context.Context) error {
	p, found := l.app.Persona(persona)
	if !found {
		return fmt.Errorf("there is no persona %s", persona)
	}
	sign := func(ttl time.Duration) (string, error) {
		return l.app.Token(app.TokenRequest{Tenant: string(p.Tenant), Subject: p.Subject, Roles: p.Roles, TTL: ttl})
	}
	var err error
	if l.expired, err = sign(time.Second); err != nil {
		return err
	}
	expiry := time.After(2100 * time.Millisecond) // tokens count whole seconds
	if l.good, err = sign(time.Hour); err != nil {
		return err
	}
	res, err := l.app.List(ctx, p)
	if err != nil {
		return err
	}
	for _, t := range res.Tools {
		l.tools = append(l.tools, t.Name)
	}
	select {
	case <-expiry:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *lab) close() error {
	return errors.Join(l.atlasServer.close(), os.RemoveAll(l.dir))
}

// installJS installs the JavaScript clients and puts the drivers beside them, where they find them.
func (l *lab) installJS(ctx context.Context) (string, error) {
	files, err := fs.Sub(clientFiles, "clients/js")
	if err != nil {
		return "", err
	}
	home, err := l.cache.Install(ctx, "interop", files)
	if err != nil {
		return "", err
	}
	return home, copyFiles(files, filepath.Join(home, "drivers"))
}

// installPython makes a virtual environment with the pinned packages, and returns its folder.
func (l *lab) installPython(ctx context.Context, version string) (string, error) {
	files, err := fs.Sub(clientFiles, "clients/python")
	if err != nil {
		return "", err
	}
	pins, err := fs.ReadFile(files, "requirements-"+version+".txt")
	if err != nil {
		return "", err
	}
	home := filepath.Join(l.cache.Dir(), "python-"+version+"-"+npm.Hash(pins))
	done := filepath.Join(home, "installed")
	if _, err := os.Stat(done); err != nil {
		python, err := exec.LookPath("python3")
		if err != nil {
			return "", errors.New("python3 is not on the PATH; install Python 3.10 or newer with venv")
		}
		if err := os.MkdirAll(home, 0o750); err != nil {
			return "", err
		}
		list := filepath.Join(home, "requirements.txt")
		if err := os.WriteFile(list, pins, 0o600); err != nil {
			return "", err
		}
		for _, args := range [][]string{
			{python, "-m", "venv", filepath.Join(home, "venv")},
			{filepath.Join(home, "venv", "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", list},
		} {
			cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // found on the PATH
			cmd.Env = l.env
			if said, err := cmd.CombinedOutput(); err != nil {
				return "", fmt.Errorf("install the Python packages: %w\n%s", err, said)
			}
		}
		if err := os.WriteFile(done, nil, 0o600); err != nil {
			return "", err
		}
	}
	return home, copyFiles(files, filepath.Join(home, "drivers"))
}

func copyFiles(files fs.FS, dir string) error {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for _, e := range entries {
		data, err := fs.ReadFile(files, e.Name())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// drive runs a driver with the job on its input and decodes its answer. What it says beside that goes to
// a log file of the trial's name.
func (l *lab) drive(ctx context.Context, name string, cmd *exec.Cmd, job, answer any) error {
	in, err := json.Marshal(job)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(l.out, name+".log")) //nolint:gosec // a trial's name
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // written by others
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, log
	err = cmd.Run()
	_, _ = fmt.Fprintf(log, "\nanswer: %s\n", out.Bytes())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w; see %s", err, log.Name())
	}
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		return fmt.Errorf("the driver's answer: %w; see %s", err, log.Name())
	}
	return nil
}
