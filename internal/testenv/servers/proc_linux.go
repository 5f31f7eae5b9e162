package servers

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// attributes are those of a server's process: a session of its own, so that a terminal's interrupt does
// not reach it, and, unless it is to stay, the signal that it gets when the thread that started it ends.
func attributes(stay bool, end syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if !stay {
		attr.Pdeathsig = end
	}
	return attr
}

// identity tells a process from a later one with the same number: when it was started, and since which
// boot that is counted. It is empty if there is none, or only its entry is left.
func identity(pid int) string {
	fields := stat(pid)
	if len(fields) < 20 {
		return ""
	}
	// While its other threads end, the entry of the first one says already that it is dead, and what the
	// process holds, ports for example, is held still.
	if threads := fields[17]; fields[0] == "X" || (fields[0] == "Z" && (threads == "0" || threads == "1")) {
		return ""
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fields[19]
	}
	return fields[19] + "@" + string(bytes.TrimSpace(boot))
}

// stopped reports whether the process is stopped by a signal.
func stopped(pid int) bool {
	fields := stat(pid)
	return len(fields) > 0 && fields[0] == "T"
}

// stat returns the fields of /proc/PID/stat from the third, the state, on; see proc_pid_stat(5).
func stat(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	after := bytes.LastIndexByte(data, ')') // the second is a name, which may have anything in it
	if after < 0 {
		return nil
	}
	return strings.Fields(string(data[after+1:]))
}

// parents returns the parent of every process.
func parents() (map[int]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := map[int]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if fields := stat(pid); len(fields) > 1 {
			if parent, err := strconv.Atoi(fields[1]); err == nil {
				all[pid] = parent
			}
		}
	}
	return all, nil
}
