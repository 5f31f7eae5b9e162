//go:build unix

package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// The test program is the servers that tests start, too: the variable says which.
const fakeEnv = "ATLAS_FAKE_SERVER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(fakeEnv); mode != "" {
		os.Exit(fake(mode))
	}
	goleak.VerifyTestMain(m)
}

// fake is a server: it answers with its uid, number of start, and pid.
func fake(mode string) int {
	switch mode {
	case "broken":
		fmt.Println("the first line\nthe disk is on fire")
		return 3
	case "parent":
		return parent()
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	}
	ln, err := net.Listen("tcp4", os.Args[len(os.Args)-1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	starts, err := os.OpenFile("starts", os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Fprintln(starts, "x")
	lines := 0
	_, _ = starts.Seek(0, 0)
	for s := bufio.NewScanner(starts); s.Scan(); {
		lines++
	}
	fmt.Println("ready")
	return report(http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if mode == "unready" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, `{"uid": %d, "starts": %d, "pid": %d, "dir": %q}`, os.Getuid(), lines, os.Getpid(), filepath.Dir(os.Args[0]))
	})))
}

// parent starts a server, tells its pid, and waits to be killed.
func parent() int {
	kind := fakeKind("serve")
	s, err := Start(context.Background(), &Cache{}, kind, Options{})
	if err != nil {
		return report(err)
	}
	fmt.Println(s.Record().PID, s.Record().ID, s.Dir())
	select {}
}

func report(err error) int {
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		fmt.Println(err)
	}
	return 1
}

// fakeKind is a kind whose servers are this program.
func fakeKind(mode string) Kind {
	return Kind{
		Name: "fake", Env: "ATLAS_TEST_FAKE",
		Command: func(p Place) Command {
			self, err := os.Executable()
			if err != nil {
				self = err.Error()
			}
			return Command{Path: self, Args: append([]string{address(p.Port)}, p.Args...), Env: []string{fakeEnv + "=" + mode}}
		},
		URL:   func(port int) string { return "fake://" + strconv.Itoa(port) },
		Ready: func(ctx context.Context, p Place) error { return get(ctx, p.Port, "/", nil) },
	}
}
