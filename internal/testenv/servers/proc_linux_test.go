package servers

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Whoever is killed stops nothing himself.
func TestServerEndsWithAKilledStarter(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fakeEnv+"=parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var server process
	var dir string
	_, err = fmt.Fscan(bufio.NewReader(out), &server.pid, &server.id, &dir)
	if killErr := cmd.Process.Kill(); err != nil || killErr != nil {
		t.Fatal(err, killErr)
	}
	_ = cmd.Wait() // it was killed
	if err := server.wait(t.Context()); err != nil {
		t.Fatalf("the server lives: %v", err)
	}
	if !abandoned(dir) {
		t.Errorf("%s is not abandoned", dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

func TestPortsAreNotThoseOfOutgoingConnections(t *testing.T) {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Fatal(err)
	}
	var low, high int
	if _, err := fmt.Sscan(string(data), &low, &high); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		port, err := freePort(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if port < firstPort || port > lastPort || (port >= low && port <= high) {
			t.Fatalf("%d could be given to a connection (%d to %d)", port, low, high)
		}
	}
}
