//go:build unix

package servers

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// answer is what a fake server says of itself.
type answer struct {
	UID    int    `json:"uid"`
	Starts int    `json:"starts"`
	PID    int    `json:"pid"`
	Dir    string `json:"dir"` // of its program
}

func ask(t *testing.T, s *Server) (a answer) {
	t.Helper()
	if err := get(t.Context(), s.place.Port, "/", &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func start(t *testing.T, kind Kind, opts Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), &Cache{dir: t.TempDir()}, kind, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.Dir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its folder is left: %v", err)
		}
	})
	return s
}

func TestServerComesBackOnItsPort(t *testing.T) {
	s := start(t, fakeKind("serve"), Options{})
	url := s.URL()
	end := map[string]func() error{"stop": s.Stop, "kill": s.Kill, "restart alone": func() error { return nil }}
	starts := 1
	for name, end := range end {
		before := ask(t, s)
		if err := end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name != "restart alone" {
			if s.Alive() || s.Ready(t.Context()) == nil {
				t.Errorf("%s: it lives", name)
			}
			if !portFree(t.Context(), s.place.Port) {
				t.Errorf("%s: somebody listens", name)
			}
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		starts++
		if after := ask(t, s); after.PID == before.PID || after.Starts != starts || s.URL() != url {
			t.Errorf("%s: after %+v came %+v on %s, not a %d. start on %s", name, before, after, s.URL(), starts, url)
		}
	}
}

func TestPausedServerAnswersLater(t *testing.T) {
	s := start(t, fakeKind("serve"), Options{})
	if err := s.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !s.Alive() || !stopped(s.proc.pid) {
		t.Fatal("it is not stopped")
	}
	answered := make(chan error, 1)
	go func() { answered <- get(t.Context(), s.place.Port, "/", nil) }()
	select {
	case err := <-answered:
		t.Fatalf("it answered: %v", err)
	default: // nor can it, for the process stands still
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
}

func TestPausedServerCanBeStopped(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(*Server) error
		want syscall.Signal
	}{"stop": {(*Server).Stop, syscall.SIGTERM}, "kill": {(*Server).Kill, syscall.SIGKILL}} {
		s := start(t, fakeKind("serve"), Options{})
		if err := s.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := tc.end(s); err != nil {
			t.Fatal(err)
		}
		if s.Alive() {
			t.Errorf("%s: it lives", name)
		}
		var how *exec.ExitError
		if !errors.As(s.proc.err, &how) {
			t.Fatalf("%s: it ended with %v", name, s.proc.err)
		}
		if status, ok := how.Sys().(syscall.WaitStatus); !ok || status.Signal() != tc.want {
			t.Errorf("%s: it ended with %v", name, how)
		}
	}
}

func TestServerThatHearsNoSignalIsKilled(t *testing.T) {
	s := start(t, fakeKind("deaf"), Options{})
	s.proc.grace = 50 * time.Millisecond
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if s.Alive() {
		t.Error("it lives")
	}
}

func TestServerThatEndsSaysWhy(t *testing.T) {
	var dir string
	kind := fakeKind("broken")
	kind.Prepare = func(_ context.Context, p Place) error { dir = p.Dir; return nil }
	_, err := Start(t.Context(), &Cache{}, kind, Options{})
	if err == nil || !strings.Contains(err.Error(), "fake ended before it was ready") || !strings.Contains(err.Error(), "the disk is on fire") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(dir); dir == "" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder %q is left", dir)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var record Record
	_, err := Start(ctx, &Cache{}, fakeKind("unready"), Options{Note: func(r Record) error { record = r; cancel(); return nil }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if record.PID == 0 || identity(record.PID) == record.ID {
		t.Errorf("process %d is left", record.PID)
	}
}

func TestStartEndsWithTheErrorOfNote(t *testing.T) {
	full := errors.New("disk full")
	var record Record
	_, err := Start(t.Context(), &Cache{}, fakeKind("serve"), Options{Note: func(r Record) error { record = r; return full }})
	if !errors.Is(err, full) || identity(record.PID) == record.ID {
		t.Errorf("the error is %v, and process %d may be left", err, record.PID)
	}
}

// Between the choice of a port and the server's listening on it somebody else may take it.
func TestStartTakesAnotherPort(t *testing.T) {
	var thief net.Listener
	kind := fakeKind("serve")
	kind.Command = func(p Place) Command {
		if thief == nil {
			var err error
			if thief, err = net.Listen("tcp4", address(p.Port)); err != nil {
				t.Fatal(err)
			}
			go func() { // it takes connections, and says nothing
				for {
					c, err := thief.Accept()
					if err != nil {
						return
					}
					_ = c.Close()
				}
			}()
		}
		return fakeKind("serve").Command(p)
	}
	s := start(t, kind, Options{})
	defer thief.Close() //nolint:errcheck // nothing is left unsaid
	if s.Addr() == thief.Addr().String() {
		t.Errorf("it listens on %s", s.Addr())
	}
	ask(t, s)
}

func TestRestartNamesWhoTookThePort(t *testing.T) {
	s := start(t, fakeKind("serve"), Options{})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // nothing is left unsaid
	if err := s.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "another program listens on "+s.Addr()) {
		t.Errorf("the error is %v", err)
	}
}

func TestUnprivilegedServer(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cache := &Cache{dir: t.TempDir()} // nobody else may enter it
	kind := fakeKind("serve")
	kind.Unprivileged = true
	kind.Files = Package{
		name: "fake", version: "1", pins: func() string { return "" },
		fetch: func(_ context.Context, f *fetcher) error {
			data, err := os.ReadFile(self)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(f.files, "program"), data, 0o700)
		},
	}
	kind.Command = func(p Place) Command {
		c := fakeKind("serve").Command(p)
		c.Path = filepath.Join(p.Files, "program")
		return c
	}
	if err := cache.Fetch(t.Context(), []Kind{kind}, t.Output()); err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), cache, kind, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	a := ask(t, s)
	if os.Getuid() == 0 {
		if a.UID == 0 || !strings.HasPrefix(a.Dir, s.Dir()) {
			t.Errorf("it runs as %d from %s", a.UID, a.Dir)
		}
	} else if a.UID != os.Getuid() || !strings.HasPrefix(a.Dir, cache.Dir()) {
		t.Errorf("it runs as %d from %s, for user %d", a.UID, a.Dir, os.Getuid())
	}
}

func TestAdoptedServer(t *testing.T) {
	s := start(t, fakeKind("serve"), Options{Stay: true})
	first, err := Adopt(s.kind, s.Record())
	if err != nil {
		t.Fatal(err)
	}
	if !first.Alive() || first.URL() != s.URL() {
		t.Fatal("it is not found again")
	}
	if err := first.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Alive() || ask(t, first).Starts != 2 {
		t.Error("it was not started again with its data")
	}
	again, err := Adopt(s.kind, first.Record())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if first.Alive() {
		t.Error("it lives")
	}
}

// A number may be another process's by now, which is none of our business.
func TestAdoptedServerIsNotAnotherProcess(t *testing.T) {
	other := start(t, fakeKind("serve"), Options{})
	s := start(t, fakeKind("serve"), Options{})
	stale := s.Record()
	stale.PID = other.Record().PID
	adopted, err := Adopt(s.kind, stale)
	if err != nil {
		t.Fatal(err)
	}
	if adopted.Alive() {
		t.Error("it takes another process for its own")
	}
	for name, end := range map[string]func() error{"stop": adopted.Stop, "kill": adopted.Kill, "resume": adopted.Resume} {
		if err := end(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := adopted.Pause(t.Context()); err == nil {
		t.Error("it pauses another process")
	}
	if !other.Alive() || stopped(other.proc.pid) || ask(t, other).Starts != 1 {
		t.Error("the other process was signalled")
	}
}

func TestAdoptRefusesAFolderThatIsNotOurs(t *testing.T) {
	for _, dir := range []string{"", "/", "/home", "atlas-fake-1", "/tmp/atlas-other-1"} {
		if _, err := Adopt(fakeKind("serve"), Record{Dir: dir}); err == nil {
			t.Errorf("%q was taken", dir)
		}
	}
}

func TestStartAllLeavesNothingWhenOneFails(t *testing.T) {
	good, bad := fakeKind("serve"), fakeKind("broken")
	good.Name, bad.Name, bad.Before = "good", "bad", "good" // so that there is something to leave
	var left Record
	_, err := StartAll(t.Context(), &Cache{}, []Kind{good, bad}, nil, func(k Kind) Options {
		if k.Name == "bad" {
			return Options{}
		}
		return Options{Note: func(r Record) error { left = r; return nil }}
	}, t.Output())
	if err == nil || !strings.Contains(err.Error(), "bad ended") {
		t.Errorf("the error is %v", err)
	}
	if identity(left.PID) == left.ID {
		t.Error("the good one is left")
	}
	if _, err := os.Stat(left.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the good one is left: %v", err)
	}
}

func TestStartAllTellsWhatItStandsBefore(t *testing.T) {
	back, front := fakeKind("serve"), fakeKind("serve")
	back.Name, front.Name, front.Before = "back", "front", "back"
	all, err := StartAll(t.Context(), &Cache{}, []Kind{back, front}, nil, func(Kind) Options { return Options{} }, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if all[1].place.Behind != all[0].Addr() {
		t.Errorf("front stands before %q, not %q", all[1].place.Behind, all[0].Addr())
	}
	given, err := StartAll(t.Context(), &Cache{}, []Kind{front}, map[string]string{"back": "127.0.0.1:5"}, func(Kind) Options { return Options{} }, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if given[0].place.Behind != "127.0.0.1:5" {
		t.Errorf("front stands before %q", given[0].place.Behind)
	}
	if err := errors.Join(CloseAll(all), CloseAll(given)); err != nil {
		t.Fatal(err)
	}
	if _, err := StartAll(t.Context(), &Cache{}, []Kind{front}, nil, func(Kind) Options { return Options{} }, t.Output()); err == nil {
		t.Error("front starts before nobody")
	}
}

func TestFamilyEndsWithItsHead(t *testing.T) {
	kind := fakeKind("serve")
	kind.Command = func(p Place) Command {
		c := fakeKind("serve").Command(p)
		// Children that hear no signal, and a grandchild.
		script := `trap "" TERM INT; sleep 1000 & (sleep 1000 & wait) & exec "$0" "$@"`
		return Command{Path: "/bin/sh", Args: append([]string{"-c", script, c.Path}, c.Args...), Env: c.Env}
	}
	for name, end := range map[string]func(*Server) error{"stop": (*Server).Stop, "kill": (*Server).Kill} {
		s := start(t, kind, Options{})
		if err := until(t.Context(), func() bool { return len(s.proc.family()) == 3 }); err != nil {
			t.Fatal(err)
		}
		family := s.proc.family()
		if err := s.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, q := range family {
			if !stopped(q.pid) {
				t.Errorf("%s: child %d is not paused", name, q.pid)
			}
		}
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := end(s); err != nil {
			t.Fatal(err)
		}
		for _, q := range family {
			if q.alive() {
				t.Errorf("%s: child %d lives", name, q.pid)
				_ = syscall.Kill(q.pid, syscall.SIGKILL)
			}
		}
	}
}
