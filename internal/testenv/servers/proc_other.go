//go:build unix && !linux

package servers

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// attributes are those of a server's process: a session of its own, so that a terminal's interrupt does
// not reach it. What Linux does for a server whose starter was killed does not exist here.
func attributes(bool, syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}

// identity tells a process from a later one with the same number: when it was started. It is empty if
// there is none, or only its entry is left.
func identity(pid int) string {
	out, err := exec.Command("ps", "-o", "state=,lstart=", "-p", strconv.Itoa(pid)).Output() //nolint:gosec,noctx // a number; short
	state, started, found := strings.Cut(strings.TrimSpace(string(out)), " ")
	if err != nil || !found || strings.HasPrefix(state, "Z") {
		return ""
	}
	return strings.TrimSpace(started)
}

// stopped reports whether the process is stopped by a signal.
func stopped(pid int) bool {
	out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output() //nolint:gosec,noctx // a number; short
	return err == nil && strings.HasPrefix(strings.TrimSpace(string(out)), "T")
}

// parents returns the parent of every process.
func parents() (map[int]int, error) {
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output() //nolint:noctx // short
	if err != nil {
		return nil, err
	}
	all := map[int]int{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) != 2 {
			continue
		}
		pid, err1 := strconv.Atoi(fields[0])
		parent, err2 := strconv.Atoi(fields[1])
		if err1 == nil && err2 == nil {
			all[pid] = parent
		}
	}
	return all, nil
}
